"""Where in a model the variables of a SavedModel are used: the scopes of the operations that read them.

Keras opens a scope of a layer's name around all that the layer does, so the name of the operation that first reads a
variable is the path of layer names that leads to it, even where the variable's own name has lost a part of that path.

Source: tensorflow/core/protobuf/saved_model.proto, meta_graph.proto, saved_object_graph.proto; core/framework/
graph.proto, function.proto, node_def.proto, op_def.proto.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reprobox.records.models.protobuf import ProtobufReader, Span
from reprobox.records.models.tensors import MAX_NAME_BYTES

_MAX_BYTES: Final = 2 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedUse:
    """What a SavedModel says of its variables.

    Attributes:
        scopes: Number of the object → the parts of the name of the operation that first reads it, but for the last.
        trainable: Number of the object → whether it is trained.
    """

    scopes: Mapping[int, tuple[str, ...]]
    trainable: Mapping[int, bool]


def read_saved_use(path: Path) -> SavedUse:
    """Read from a `saved_model.pb` where its variables are used.

    Args:
        path: The file.

    Returns:
        The scopes in the function that reads the most variables, which is the call of the whole model.

    Raises:
        ValueError, EOFError: It is damaged, or absurdly large.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_BYTES:
            raise ValueError(f"a graph of {size} bytes")
        return _Walk(ProtobufReader(file, size)).run()


def _reach(scopes: Mapping[int, tuple[str, ...]]) -> tuple[int, int]:
    """How much a function reads and how deep: a model's call goes deeper than that of a model inside it."""
    return len(scopes), sum(map(len, scopes.values()))


class _Walk:
    def __init__(self, reader: ProtobufReader) -> None:
        self._reader = reader
        self._bound: dict[str, list[int]] = {}
        self._trainable: dict[int, bool] = {}
        self._functions: dict[str, tuple[list[str], Span]] = {}

    def run(self) -> SavedUse:
        graphs = self._find(self._reader.whole, 2)
        if len(graphs) != 1:
            raise ValueError(f"{len(graphs)} graphs where one is saved")
        for span in self._find(graphs[0], 7):
            self._read_objects(span)
        for definition in self._find(graphs[0], 2):
            for library in self._find(definition, 2):
                for function in self._find(library, 1):
                    self._read_signature(function)
        best: dict[int, tuple[str, ...]] = {}
        for name, (arguments, function) in self._functions.items():
            bound = self._bound.get(name, [])
            if len(best) <= len(bound) <= len(arguments):
                # What a function has captured comes after what it is called with.
                captured = dict(zip(arguments[len(arguments) - len(bound) :], bound, strict=True))
                scopes = self._read_scopes(function, captured)
                if _reach(scopes) > _reach(best):
                    best = scopes
        return SavedUse(scopes=best, trainable=self._trainable)

    def _read_objects(self, span: Span) -> None:
        """SavedObjectGraph: which variables are trained, and what functions have captured."""
        number = -1
        for item in self._reader.read_fields(span):
            if item.number == 1 and item.is_bytes:
                number += 1
                for variable in self._find(item.span, 7):
                    fields = {entry.number: entry.value for entry in self._reader.read_fields(variable)}
                    self._trainable[number] = bool(fields.get(3, 0))
            elif item.number == 2 and item.is_bytes:
                name = ""
                captured: list[int] = []
                for entry in self._reader.read_fields(item.span):
                    if entry.number == 1:
                        name = self._reader.read_text(entry.span, MAX_NAME_BYTES)
                    elif entry.number == 2:
                        for part in self._reader.read_fields(entry.span):
                            if part.number == 2 and part.is_bytes:
                                captured += self._reader.read_varints(part.span)
                            elif part.number == 2:
                                captured.append(part.value)
                self._bound[name] = captured

    def _read_signature(self, function: Span) -> None:
        """FunctionDef: its name and the names of its arguments."""
        for signature in self._find(function, 1):
            name, arguments = "", []
            for item in self._reader.read_fields(signature):
                if item.number == 1:
                    name = self._reader.read_text(item.span, MAX_NAME_BYTES)
                elif item.number == 2 and item.is_bytes:
                    arguments += [self._text(entry) for entry in self._find(item.span, 1)]
            self._functions[name] = (arguments, function)

    def _read_scopes(self, function: Span, captured: dict[str, int]) -> dict[int, tuple[str, ...]]:
        scopes: dict[int, tuple[str, ...]] = {}
        for node in self._find(function, 3):
            name, inputs = "", []
            for item in self._reader.read_fields(node):
                if item.number == 1:
                    name = self._reader.read_text(item.span, MAX_NAME_BYTES)
                elif item.number == 3:
                    inputs.append(self._reader.read_text(item.span, MAX_NAME_BYTES))
            for text in inputs:
                if text in captured and "/" in name:
                    scopes.setdefault(captured[text], tuple(name.split("/")[:-1]))
        return scopes

    def _find(self, span: Span, number: int) -> list[Span]:
        return [item.span for item in self._reader.read_fields(span) if item.number == number and item.is_bytes]

    def _text(self, span: Span) -> str:
        return self._reader.read_text(span, MAX_NAME_BYTES)
