"""The tensors of an ONNX model: initializers, tensors among the attributes of nodes, and files of data beside it.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, docs/ExternalData.md.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from reprobox.errors import ContentRefused
from reprobox.records.digests import is_plain_path
from reprobox.records.models.protobuf import Field, ProtobufReader, Span, to_signed
from reprobox.records.models.spans import read_span
from reprobox.records.models.tensors import MAX_DIMENSIONS, MAX_NAME_BYTES, MAX_TENSORS, SLAB_BYTES, Tensor, reading

_MAX_DEPTH: Final = 32
_MAX_STRING_BYTES: Final = 64 << 20
_BATCH: Final = 1 << 16

# TensorProto.DataType → name in the recipe, bits of an element, the field that has it where there is no raw_data,
# and bytes of a number there (None: a varint).
_FLOATS, _INT32S, _STRINGS, _INT64S, _RAW, _DOUBLES, _UINT64S = 4, 5, 6, 7, 9, 10, 11
_DTYPES: Final[dict[int, tuple[str, int, int]]] = {
    1: ("float32", 32, _FLOATS),
    2: ("uint8", 8, _INT32S),
    3: ("int8", 8, _INT32S),
    4: ("uint16", 16, _INT32S),
    5: ("int16", 16, _INT32S),
    6: ("int32", 32, _INT32S),
    7: ("int64", 64, _INT64S),
    8: ("string", 0, _STRINGS),
    9: ("bool", 8, _INT32S),
    10: ("float16", 16, _INT32S),
    11: ("float64", 64, _DOUBLES),
    12: ("uint32", 32, _UINT64S),
    13: ("uint64", 64, _UINT64S),
    14: ("complex64", 64, _FLOATS),
    15: ("complex128", 128, _DOUBLES),
    16: ("bfloat16", 16, _INT32S),
    17: ("float8_e4m3fn", 8, _INT32S),
    18: ("float8_e4m3fnuz", 8, _INT32S),
    19: ("float8_e5m2", 8, _INT32S),
    20: ("float8_e5m2fnuz", 8, _INT32S),
    21: ("uint4", 4, _INT32S),
    22: ("int4", 4, _INT32S),
    23: ("float4_e2m1fn", 4, _INT32S),
    24: ("float8_e8m0fnu", 8, _INT32S),
}


@dataclass(slots=True, kw_only=True)
class _Proto:
    """A TensorProto as its fields say.

    Attributes:
        parts: Field number → where its data are, in order.
        external: Keys and values of `external_data`.
    """

    name: str = ""
    shape: list[int] = field(default_factory=list)
    dtype: int = 0
    is_external: bool = False
    parts: dict[int, list[Field]] = field(default_factory=dict)
    external: dict[str, str] = field(default_factory=dict)


@contextmanager
def open_onnx(path: Path) -> Iterator[list[Tensor]]:
    """Open an ONNX model and list its tensors.

    Args:
        path: The file. Files that it names lie in the same folder or below.

    Returns:
        A context manager that gives the tensors; they can be read inside it.

    Raises:
        RecordError: The file is damaged, or one that it names is missing or too short.
        ContentRefused: It has a sparse tensor, one of an unknown type, names a file that is not below its folder, holds
            no tensors, or more than the limits allow.
    """
    with ExitStack() as stack:
        with reading(path, "ONNX"):
            file = stack.enter_context(path.open("rb"))
            tensors = _Model(path, file, stack).list_tensors()
            if not tensors:
                raise ContentRefused(path, "it holds no tensors")
        yield tensors


def list_external_files(path: Path) -> tuple[str, ...]:
    """Name the files of data that belong to a model.

    Args:
        path: The model.

    Returns:
        Paths relative to its folder, sorted.

    Raises:
        RecordError: It is damaged, or names a file that is not there.
        ContentRefused: It names one that is not below its folder, or holds something that is not read.
    """
    with ExitStack() as stack, reading(path, "ONNX"):
        model = _Model(path, stack.enter_context(path.open("rb")), stack)
        model.list_tensors()
        return tuple(sorted(model.opened))


class _Model:
    """A walk through a ModelProto."""

    def __init__(self, path: Path, file: BinaryIO, stack: ExitStack) -> None:
        self._path = path
        self._file = file
        self._stack = stack
        self._reader = ProtobufReader(file, os.fstat(file.fileno()).st_size)
        self._tensors: list[Tensor] = []
        self._names: set[str] = set()
        self.opened: dict[str, tuple[BinaryIO, int]] = {}

    def list_tensors(self) -> list[Tensor]:
        for item in self._reader.read_fields(self._reader.whole):
            if item.number == 7 and item.is_bytes:
                self._walk_graph(item.span, "", 0)
            elif item.number == 25 and item.is_bytes:
                self._walk_function(item.span)
        return self._tensors

    def _walk_graph(self, graph: Span, prefix: str, depth: int) -> None:
        """GraphProto: nodes, initializers, sparse initializers."""
        if depth > _MAX_DEPTH:
            raise ContentRefused(self._path, f"its graphs are nested more than {_MAX_DEPTH} levels deep")
        for item in self._reader.read_fields(graph):
            if not item.is_bytes:
                continue
            if item.number == 1:
                self._walk_node(item.span, prefix, depth)
            elif item.number == 5:
                proto = self._parse_tensor(item.span)
                self._add(f"{prefix}{proto.name}", proto)
            elif item.number == 15:
                raise ContentRefused(self._path, "it has sparse tensors")

    def _walk_function(self, function: Span) -> None:
        """FunctionProto, whose nodes may have tensors, too."""
        fields = list(self._reader.read_fields(function))
        texts = {item.number: self._text(item) for item in fields if item.number in (1, 10) and item.is_bytes}
        prefix = f"{texts.get(10, '')}.{texts.get(1, '')}/"
        for item in fields:
            if item.number == 7 and item.is_bytes:
                self._walk_node(item.span, prefix, 0)

    def _walk_node(self, node: Span, prefix: str, depth: int) -> None:
        """NodeProto. A node is known by its first output; its own name may be missing."""
        output, operator = "", ""
        attributes: list[Span] = []
        for item in self._reader.read_fields(node):
            if item.number == 2 and not output:
                output = self._text(item)
            elif item.number == 4:
                operator = self._text(item)
            elif item.number == 5 and item.is_bytes:
                attributes.append(item.span)
        for attribute in attributes:
            self._walk_attribute(attribute, f"{prefix}{output}", operator == "Constant", depth)

    def _walk_attribute(self, attribute: Span, node: str, is_constant: bool, depth: int) -> None:
        """AttributeProto: only tensors and graphs are looked at, and the numbers of a Constant."""
        fields = list(self._reader.read_fields(attribute))
        name = next((self._text(item) for item in fields if item.number == 1), "")
        graphs = 0
        for index, item in enumerate(fields):
            if item.number == 5 and item.is_bytes:
                self._add(node if is_constant and name == "value" else f"{node}/{name}", self._parse_tensor(item.span))
            elif item.number == 10 and item.is_bytes:
                self._add(f"{node}/{name}/{index}", self._parse_tensor(item.span))
            elif item.number in (6, 11) and item.is_bytes:
                part = f"/{graphs}" if item.number == 11 else ""
                graphs += 1
                self._walk_graph(item.span, f"{node}/{name}{part}/", depth + 1)
            elif item.number in (22, 23):
                raise ContentRefused(self._path, "it has sparse tensors")
        if is_constant and name in ("value_float", "value_floats", "value_int", "value_ints"):
            self._add(node, self._as_proto(name, fields))

    def _parse_tensor(self, span: Span) -> _Proto:
        proto = _Proto()
        for item in self._reader.read_fields(span):
            if item.number == 1:
                sizes = self._reader.read_varints(item.span) if item.is_bytes else iter((item.value,))
                for size in sizes:
                    if len(proto.shape) == MAX_DIMENSIONS or size >= 1 << 62:
                        raise ContentRefused(
                            self._path, f"a tensor has over {MAX_DIMENSIONS} dimensions, or absurd ones"
                        )
                    proto.shape.append(size)
            elif item.number == 2:
                proto.dtype = item.value
            elif item.number == 3:
                raise ContentRefused(self._path, "it has a tensor in segments")
            elif item.number == 8:
                proto.name = self._text(item)
            elif item.number == 13 and item.is_bytes:
                pair = {entry.number: self._text(entry) for entry in self._reader.read_fields(item.span)}
                proto.external[pair.get(1, "")] = pair.get(2, "")
            elif item.number == 14:
                proto.is_external = item.value == 1
            elif item.number in (_FLOATS, _INT32S, _STRINGS, _INT64S, _RAW, _DOUBLES, _UINT64S):
                proto.parts.setdefault(item.number, []).append(item)
        return proto

    def _as_proto(self, name: str, fields: list[Field]) -> _Proto:
        """A Constant's number or list of numbers, as the tensor that it stands for."""
        is_float, is_list = name.startswith("value_float"), name.endswith("s")
        number = (7 if is_float else 8) if is_list else (2 if is_float else 3)
        items = [item for item in fields if item.number == number]
        if is_float:
            count = sum(item.span.size_bytes for item in items) // 4
        else:
            count = sum(sum(1 for _ in self._reader.read_varints(item.span)) for item in items)
        shape = [count] if is_list else []
        return _Proto(shape=shape, dtype=1 if is_float else 7, parts={_FLOATS if is_float else _INT64S: items})

    def _add(self, name: str, proto: _Proto) -> None:
        if len(self._tensors) == MAX_TENSORS:
            raise ContentRefused(self._path, f"it holds more than {MAX_TENSORS} tensors")
        if name in self._names:
            raise ContentRefused(self._path, f"two of its tensors have the name {name!r}")
        self._names.add(name)
        if proto.dtype not in _DTYPES:
            raise ContentRefused(self._path, f"{name!r} has elements of the unknown type {proto.dtype}")
        dtype, bits, number = _DTYPES[proto.dtype]
        elements = math.prod(proto.shape)
        nbytes = (elements * bits + 7) // 8
        filled = {key for key, items in proto.parts.items() if any(item.span.size_bytes for item in items)}
        chunks: Callable[[], Iterator[bytes | memoryview]]
        if number == _STRINGS:
            chunks = self._string_reader(name, proto, elements)
        elif proto.is_external:
            if filled:
                raise ValueError(f"{name!r} lies both in this file and in another")
            chunks = self._external_reader(name, proto, nbytes)
        elif not filled - {_RAW} and _RAW in proto.parts:
            (part, *more) = proto.parts[_RAW]
            if more or part.span.size_bytes != nbytes:
                raise ValueError(f"{name!r} of shape {tuple(proto.shape)} has {part.span.size_bytes} bytes")
            chunks = read_span(self._path, self._file, part.span.start, nbytes, "ONNX")
        elif not filled - {number}:
            items = proto.parts.get(number, [])
            count = (elements + 1) // 2 if bits == 4 else elements * (2 if dtype.startswith("complex") else 1)
            chunks = self._typed_reader(name, items, count, nbytes // max(1, count), number)
        else:
            raise ValueError(f"{name!r} has its data in fields that its type does not use")
        size = None if number == _STRINGS else nbytes
        shape = tuple(proto.shape)
        self._tensors.append(Tensor(name=name, dtype=dtype, shape=shape, nbytes=size, chunks=chunks, origin=name))

    def _typed_reader(
        self, name: str, items: list[Field], count: int, width: int, number: int
    ) -> Callable[[], Iterator[bytes | memoryview]]:
        """Numbers in a field of their type: fixed ones as they lie there, variable ones one by one."""

        def fixed() -> Iterator[bytes]:
            with reading(self._path, "ONNX"):
                if sum(item.span.size_bytes for item in items) != count * width:
                    raise ValueError(f"{name!r} has another number of elements than its shape")
                for item in items:
                    for start in range(item.span.start, item.span.end, SLAB_BYTES):
                        yield self._reader.read_bytes(Span(start=start, end=min(item.span.end, start + SLAB_BYTES)))

        def variable() -> Iterator[bytes]:
            mask = (1 << 8 * width) - 1
            with reading(self._path, "ONNX"):
                found = 0
                batch = bytearray()
                for item in items:
                    values = self._reader.read_varints(item.span) if item.is_bytes else iter((item.value,))
                    for value in values:
                        found += 1
                        if mask < value < (1 << 64) - (1 << 8 * width - 1):
                            raise ValueError(f"{name!r} has the element {to_signed(value)}, which its type has not")
                        batch += (value & mask).to_bytes(width, "little")
                        if len(batch) >= _BATCH:
                            yield bytes(batch)
                            batch.clear()
                if found != count:
                    raise ValueError(f"{name!r} has {found} elements where its shape has {count}")
                yield bytes(batch)

        return fixed if number in (_FLOATS, _DOUBLES) else variable

    def _string_reader(self, name: str, proto: _Proto, elements: int) -> Callable[[], Iterator[bytes | memoryview]]:
        items = proto.parts.get(_STRINGS, [])
        if len(items) != elements or set(proto.parts) - {_STRINGS} or proto.is_external:
            raise ValueError(f"{name!r} has {len(items)} strings where its shape has {elements}")
        if sum(item.span.size_bytes for item in items) > _MAX_STRING_BYTES:
            raise ContentRefused(self._path, f"the strings of {name!r} have more than {_MAX_STRING_BYTES} bytes")

        def chunks() -> Iterator[bytes]:
            with reading(self._path, "ONNX"):
                for item in items:
                    yield item.span.size_bytes.to_bytes(8, "little") + self._reader.read_bytes(item.span)

        return chunks

    def _external_reader(self, name: str, proto: _Proto, nbytes: int) -> Callable[[], Iterator[bytes | memoryview]]:
        location = proto.external.get("location", "")
        if not is_plain_path(location) or "\\" in location or ":" in location:
            raise ContentRefused(self._path, f"{name!r} lies in {location[:80]!r}, which is no path below its folder")
        if location not in self.opened:
            beside = self._path.parent / location
            if not beside.exists():
                raise ValueError(f"{location!r}, in which {name!r} lies, is not there")
            if not stat.S_ISREG(beside.stat().st_mode):
                raise ContentRefused(self._path, f"{location!r}, in which {name!r} lies, is no file")
            opened = self._stack.enter_context(beside.open("rb"))
            self.opened[location] = (opened, os.fstat(opened.fileno()).st_size)
        file, size = self.opened[location]
        offset, length = (_number(proto.external.get(key, "")) for key in ("offset", "length"))
        offset = offset or 0
        if length is not None and length != nbytes:
            raise ValueError(f"{name!r} of shape {tuple(proto.shape)} has {length} bytes")
        if offset + nbytes > size:
            raise EOFError(f"{name!r} reaches over the end of {location!r}")
        return read_span(self._path, file, offset, nbytes, "ONNX")

    def _text(self, item: Field) -> str:
        return self._reader.read_text(item.span, MAX_NAME_BYTES)


def _number(text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ValueError(f"{text[:40]!r} is no position in a file")
    return int(text)
