"""The object graph of a TensorFlow checkpoint: which object owns which tensor. Pure: bytes in, values out.

Source: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

from reprobox.records.models.protobuf import Field, ProtobufReader, Span
from reprobox.records.models.tensors import MAX_NAME_BYTES

OBJECT_GRAPH_KEY: Final = "_CHECKPOINTABLE_OBJECT_GRAPH"

_MAX_NODES: Final = 500_000
_MAX_EDGES: Final = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """A tensor of an object.

    Attributes:
        name: What the object calls it: `VARIABLE_VALUE` for a variable.
        full_name: The variable's own name where it was made, such as `dense/kernel`; may be empty.
        key: The tensor's key in the checkpoint.
    """

    name: str
    full_name: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """An object.

    Attributes:
        children: Name of an attribute, or index in a list → number of the object.
        attributes: Its own tensors.
        slots: Numbers of the optimizer's variables that belong to variables of others.
    """

    children: tuple[tuple[str, int], ...]
    attributes: tuple[Attribute, ...]
    slots: tuple[int, ...]


def parse_object_graph(data: bytes) -> tuple[Node, ...]:
    """Read the object graph of a checkpoint.

    Args:
        data: The one string under `OBJECT_GRAPH_KEY`.

    Returns:
        The objects by their numbers; 0 is the root.

    Raises:
        ValueError, EOFError: It is damaged, or larger than the limits allow.
    """
    reader = ProtobufReader(io.BytesIO(data), len(data))
    nodes: list[Node] = []
    edges = 0
    for item in reader.read_fields(reader.whole):
        if item.number == 1 and item.is_bytes:
            nodes.append(_parse_node(reader, item.span))
            edges += len(nodes[-1].children) + len(nodes[-1].slots)
            if len(nodes) > _MAX_NODES or edges > _MAX_EDGES:
                raise ValueError("its graph of objects is too large")
    for node in nodes:
        for number in (*(child for _, child in node.children), *node.slots):
            if number >= len(nodes):
                raise ValueError(f"its graph has {len(nodes)} objects, and names the object {number}")
    return tuple(nodes)


def _parse_node(reader: ProtobufReader, span: Span) -> Node:
    children: list[tuple[str, int]] = []
    attributes: list[Attribute] = []
    slots: list[int] = []
    for item in reader.read_fields(span):
        if item.number not in (1, 2, 3) or not item.is_bytes:
            continue
        fields = {entry.number: entry for entry in reader.read_fields(item.span)}
        if item.number == 1:
            children.append((_text(reader, fields.get(2)), _number(fields.get(1))))
        elif item.number == 2:
            name, full_name, key = (_text(reader, fields.get(number)) for number in (1, 2, 3))
            attributes.append(Attribute(name=name, full_name=full_name, key=key))
        else:
            slots.append(_number(fields.get(3)))
    return Node(children=tuple(children), attributes=tuple(attributes), slots=tuple(slots))


def _text(reader: ProtobufReader, field: Field | None) -> str:
    return reader.read_text(field.span, MAX_NAME_BYTES) if field is not None and field.is_bytes else ""


def _number(field: Field | None) -> int:
    return field.value if field is not None else 0
