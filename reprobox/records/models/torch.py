"""The tensors of what `torch.save` wrote, without torch and without unpickling.

A torch zip file has a pickle, `<root>/data.pkl`, and the bytes of each storage in `<root>/data/<key>`. The pickle is
read as inert values (`pickle`); the few calls by which torch rebuilds a tensor are known here, and nothing else
needs to be: dictionaries, lists and the attributes of any object are searched for tensors.

Source: `torch/serialization.py` and `torch/_utils.py` of PyTorch 2; docs/source/notes/serialization.rst.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from reprobox.errors import ContentRefused, RecordError
from reprobox.records.models.pickle import (
    MAX_PICKLE_BYTES,
    Call,
    Dictionary,
    Global,
    Persistent,
    Value,
    parse_pickle,
)
from reprobox.records.models.storages import Element, Storages, View
from reprobox.records.models.tensors import MAX_DIMENSIONS, MAX_NAME_BYTES, MAX_TENSORS, Tensor, reading
from reprobox.records.models.zip import open_member, open_zip

if TYPE_CHECKING:
    from zipfile import ZipFile

NAME_OF_ONE_TENSOR: Final = "arr_0"
"""A tensor that was saved alone has no name; this is what NumPy calls such an array."""

_MAX_DEPTH: Final = 100
_TRANSIENT: Final = "_non_persistent_buffers_set"
_MAX_VISITS: Final = 8_000_000
_REBUILD: Final = "torch._utils._rebuild_"
_REBUILD_FROM_TYPE: Final = frozenset(
    {"torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type", "torch.tensor._rebuild_from_type"}
)
_PARAMETERS: Final = frozenset({_REBUILD + "parameter", _REBUILD + "parameter_with_state"})
_PLAIN_TENSORS: Final = frozenset({_REBUILD + "tensor", _REBUILD + "tensor_v2", _REBUILD + "tensor_v3"})

# Bytes of one number, in how many numbers an element lies, and the name that the recipe has for it.
_DTYPES: Final = {
    "uint8": Element(name="uint8", width=1),
    "int8": Element(name="int8", width=1),
    "int16": Element(name="int16", width=2),
    "int32": Element(name="int32", width=4),
    "int64": Element(name="int64", width=8),
    "uint16": Element(name="uint16", width=2),
    "uint32": Element(name="uint32", width=4),
    "uint64": Element(name="uint64", width=8),
    "bool": Element(name="bool", width=1),
    "float16": Element(name="float16", width=2),
    "bfloat16": Element(name="bfloat16", width=2),
    "float32": Element(name="float32", width=4),
    "float64": Element(name="float64", width=8),
    "complex64": Element(name="complex64", width=4, count=2),
    "complex128": Element(name="complex128", width=8, count=2),
    "float8_e4m3fn": Element(name="float8_e4m3fn", width=1),
    "float8_e5m2": Element(name="float8_e5m2", width=1),
    "float8_e4m3fnuz": Element(name="float8_e4m3fnuz", width=1),
    "float8_e5m2fnuz": Element(name="float8_e5m2fnuz", width=1),
    "float8_e8m0fnu": Element(name="float8_e8m0fnu", width=1),
}
_STORAGES: Final = {
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "BoolStorage": "bool",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A tensor that the pickle holds."""

    name: str
    element: Element
    storage: str
    view: View


@contextmanager
def open_torch(path: Path) -> Iterator[list[Tensor]]:
    """Open a torch zip file and list its tensors.

    Args:
        path: The file.

    Returns:
        A context manager that gives the tensors, named by the dotted path of keys that leads to them.

    Raises:
        RecordError: The file is truncated or damaged, or contradicts itself.
        ContentRefused: It holds a tensor that is not read (sparse, quantised, of an unknown class), none at all, two
            of one name, or more than the limits allow.
    """
    with open_zip(path) as archive:
        with reading(path, "a torch file"):
            root = _find_root(path, archive)
            big_endian = _is_big_endian(path, archive, root)
            search = Search(path)
            search.run(_parse(path, archive, f"{root}data.pkl"))
            names = {info.filename.removeprefix(f"{root}data/") for info in archive.infolist()
                     if info.filename.startswith(f"{root}data/") and not info.is_dir()}  # fmt: skip
            _require_all_reached(path, names, search.storages)
        with Storages(path, archive, prefix=f"{root}data/", big_endian=big_endian) as storages:
            yield [storages.tensor(item.name, item.storage, item.element, item.view) for item in search.found]


def _find_root(path: Path, archive: ZipFile) -> str:
    roots = [name[: -len("data.pkl")] for name in archive.namelist() if name.endswith("/data.pkl")]
    roots = [root for root in roots if root.count("/") == 1]
    if len(roots) != 1:
        raise RecordError(f"{path}: has {len(roots)} members that could be the pickle of a torch file")
    if any(name.startswith(f"{roots[0]}constants/") for name in archive.namelist()):
        raise ContentRefused(path, "it is a TorchScript file with tensors among its constants")
    return roots[0]


def _is_big_endian(path: Path, archive: ZipFile, root: str) -> bool:
    if f"{root}byteorder" not in archive.namelist():
        return False
    with open_member(path, archive, f"{root}byteorder") as stream:
        order = stream.read(7)
    if order not in (b"little", b"big"):
        raise RecordError(f"{path}: has the unknown byte order {order!r}")
    return order == b"big"


def _parse(path: Path, archive: ZipFile, name: str) -> Value:
    if archive.getinfo(name).file_size > MAX_PICKLE_BYTES:
        raise ContentRefused(path, f"its pickle has more than {MAX_PICKLE_BYTES} bytes")
    with open_member(path, archive, name) as member:
        stream = io.BytesIO(member.read())
    value = parse_pickle(str(path), stream)
    if stream.read(1):
        raise ValueError("more bytes follow after the pickle")
    return value


def _require_all_reached(path: Path, present: set[str], reached: set[str]) -> None:
    """A storage that no tensor uses would be content that the digest does not cover."""
    for key in sorted(present - reached):
        raise ContentRefused(path, f"the tensors of its storage {key!r} are not found without unpickling")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """A value on the way of a search.

    Attributes:
        name: What a tensor is called that it is, or that is in it.
        depth: How many values lead to it.
        value: The value.
        is_aside: Whether it is in a plain attribute of a module, which its `state_dict` does not have.
    """

    name: str
    depth: int
    value: Value
    is_aside: bool


class Search:
    """A search for tensors in whatever a pickle holds.

    A module is searched as its `state_dict` would be: parameters, persistent buffers, and those of its children.

    Args:
        path: The file, for messages.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: list[_Found] = []
        self._aside: list[_Found] = []
        self._transient: set[str] = set()

    @property
    def found(self) -> list[_Found]:
        """What was found, but for what stands aside as another name of a tensor of some module's state."""
        state = {item.storage for item in self._found}
        return self._found + [item for item in self._aside if item.storage not in state]

    @property
    def widths(self) -> dict[str, int]:
        """Bytes of an element of each storage that a tensor uses."""
        return {item.storage: item.element.size_bytes for item in (*self._found, *self._aside)}

    @property
    def storages(self) -> set[str]:
        """All storages that are accounted for."""
        return {item.storage for item in (*self._found, *self._aside)} | self._transient

    def run(self, value: Value) -> None:
        """Find all tensors.

        Args:
            value: What the pickle holds.

        Raises:
            ContentRefused: It holds a tensor that is not read, none at all, two of one name, or more than the limits
                allow.
            ValueError: A tensor is damaged.
        """
        visits = 0
        pending = [_Held(name="", depth=0, value=value, is_aside=False)]
        while pending:
            held = pending.pop()
            visits += 1
            if visits > _MAX_VISITS or len(self._found) + len(self._aside) > MAX_TENSORS:
                raise ContentRefused(self._path, f"it holds more than {_MAX_VISITS} values, by the ways to them")
            name = held.name if held.depth else NAME_OF_ONE_TENSOR
            rebuilt = _find_rebuild(self._path, name, held.value)
            if rebuilt is not None:
                (self._aside if held.is_aside else self._found).append(_describe(self._path, name, rebuilt))
            elif isinstance(held.value, Persistent):
                raise ContentRefused(self._path, f"{name!r} is a storage without a tensor")
            else:
                pending += [self._step(held, *child) for child in self._children(name, held.value)]
        if not self._found and not self._aside:
            raise ContentRefused(self._path, "it holds no tensors")
        self._require_own_names()

    def _require_own_names(self) -> None:
        names: set[str] = set()
        for item in self.found:
            if item.name in names:
                raise ContentRefused(self._path, f"two of its tensors have the name {item.name!r}")
            names.add(item.name)

    def _step(self, held: _Held, key: str, child: Value, is_aside: bool) -> _Held:
        name = f"{held.name}.{key}" if held.depth else key
        if held.depth == _MAX_DEPTH:
            raise ContentRefused(self._path, f"it is nested more than {_MAX_DEPTH} levels deep, or holds itself")
        if len(name) > MAX_NAME_BYTES:
            raise ContentRefused(self._path, f"the name {name[:40]!r}… is longer than {MAX_NAME_BYTES} bytes")
        return _Held(name=name, depth=held.depth + 1, value=child, is_aside=held.is_aside or is_aside)

    def _children(self, name: str, item: Value) -> list[tuple[str, Value, bool]]:
        """List what a value holds, what each adds to the name, and whether it stands aside from a module's state."""
        if isinstance(item, list | tuple):
            return [(str(index), child, False) for index, child in enumerate(item) if _may_hold(child)]
        if isinstance(item, Dictionary):
            return self._items(name, item.pairs)
        if not isinstance(item, Call):
            return []
        state = _join_slots(item.state)
        held: list[tuple[str, Value, bool]] = []
        if isinstance(state, Dictionary):
            held = self._items(name, state.pairs)
            if any(key in ("_parameters", "_modules") for key, _, _ in held):
                held = self._module_items(name, held, state)
        elif _may_hold(state):
            held = [("state", state, False)]
        held += self._children(name, item.elements)
        held += self._items(name, item.pairs)
        return [*held, ("args", item.arguments, False)] if _may_hold(item.arguments) else held

    def _items(self, name: str, pairs: list[tuple[Value, Value]]) -> list[tuple[str, Value, bool]]:
        last: dict[str, Value] = {}
        for key, child in pairs:
            if isinstance(key, str) or type(key) is int:
                last[str(key)] = child
            elif _may_hold(child) or _may_hold(key):
                raise ContentRefused(self._path, f"{name!r} has a key that is neither text nor a number")
        return [(key, child, False) for key, child in last.items() if _may_hold(child)]

    def _module_items(
        self, name: str, held: list[tuple[str, Value, bool]], state: Dictionary
    ) -> list[tuple[str, Value, bool]]:
        """What a module's `state_dict` has: its own tensors and its children by their own names. The rest is aside."""
        transient = next((value for key, value in state.pairs if key == _TRANSIENT), None)
        left_out = {text for text in transient if isinstance(text, str)} if isinstance(transient, list) else set()
        items: list[tuple[str, Value, bool]] = []
        for key, child, _ in held:
            if key not in ("_parameters", "_buffers", "_modules") or not isinstance(child, Dictionary):
                items += [(key, child, True)] if key != _TRANSIENT else []
                continue
            for inner, value, _ in self._items(name, child.pairs):
                if key == "_buffers" and inner in left_out:
                    rebuilt = _find_rebuild(self._path, inner, value)
                    self._transient |= {_describe(self._path, inner, rebuilt).storage} if rebuilt else set()
                else:
                    items.append((inner, value, False))
        return items


def _join_slots(state: Value) -> Value:
    """The attributes of an object with slots: a pair of dictionaries, of which the first may be missing."""
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], Dictionary):
        parts = [part for part in state if isinstance(part, Dictionary)]
        if len(parts) == 2 or state[0] is None:
            return Dictionary(pairs=[pair for part in parts for pair in part.pairs])
    return state


def _may_hold(value: Value) -> bool:
    return isinstance(value, list | tuple | Dictionary | Call | Persistent) and value not in ((), [])


def _find_rebuild(path: Path, name: str, item: Value) -> tuple[Global, tuple[Value, ...]] | None:
    """Give the call that makes a tensor, behind what wraps it; None if the value is no tensor."""
    for _ in range(_MAX_DEPTH):
        if not isinstance(item, Call) or not isinstance(item.function, Global):
            return None
        function, arguments = item.function.name, item.arguments
        if not isinstance(arguments, tuple):
            return None
        if function in _PLAIN_TENSORS:
            return item.function, arguments
        if (function in _PARAMETERS and arguments) or (function == "torch.nn.parameter.Buffer" and arguments):
            item = arguments[0]
        elif function in _REBUILD_FROM_TYPE and len(arguments) >= 3:
            # A subclass of Tensor: the call that makes the tensor itself is the first argument.
            item = Call(function=arguments[0], arguments=arguments[2])
            if not isinstance(arguments[0], Global) or arguments[0].name not in (*_PLAIN_TENSORS, *_PARAMETERS):
                raise ContentRefused(path, f"{name!r} is a tensor of a class that is not known")
        elif function.startswith(_REBUILD):
            kind = function.removeprefix(_REBUILD)
            raise ContentRefused(path, f"{name!r} is a tensor of a kind that is not read ({kind[:40]})")
        else:
            return None
    raise ContentRefused(path, f"{name!r} is a tensor inside more than {_MAX_DEPTH} others")


def _describe(path: Path, name: str, rebuilt: tuple[Global, tuple[Value, ...]]) -> _Found:
    function, arguments = rebuilt
    if len(arguments) < 4:
        raise ValueError(f"the tensor {name!r} lacks its shape")
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Persistent) or not isinstance(storage.id, tuple) or len(storage.id) < 5:
        raise ValueError(f"the tensor {name!r} has no storage")
    kind, storage_type, key, _, count = storage.id[:5]
    if any(part is not None for part in storage.id[5:]):
        raise ContentRefused(path, f"{name!r} is in a storage that is a view of another one")
    if kind != "storage" or not isinstance(storage_type, Global) or not isinstance(key, str):
        raise ValueError(f"the storage of {name!r} is none of torch")
    if "/" in key or key in (".", ".."):
        raise ValueError(f"the storage of {name!r} has the name {key[:40]!r}")
    for metadata in arguments[6:]:
        # A tensor may be marked to be conjugated or negated when it is used.
        if isinstance(metadata, Dictionary) and any(value is True for _, value in metadata.pairs):
            raise ContentRefused(path, f"{name!r} is a tensor that is conjugated or negated as it is read")
    dtype = _STORAGES.get(storage_type.name.removeprefix("torch."))
    if function.name.endswith("_v3"):
        declared = arguments[6] if len(arguments) > 6 else None
        dtype = declared.name.removeprefix("torch.") if isinstance(declared, Global) else None
    if dtype not in _DTYPES:
        raise ContentRefused(path, f"{name!r} has elements of the unknown type {(dtype or storage_type.name)[:40]!r}")
    view = View(
        offset=_size(name, offset),
        shape=_sizes(name, shape),
        strides=_sizes(name, strides),
        storage_items=_size(name, count),
        counts_bytes=storage_type.name.endswith("UntypedStorage"),
    )
    if len(view.shape) != len(view.strides):
        raise ValueError(f"the tensor {name!r} has {len(view.shape)} dimensions and {len(view.strides)} strides")
    if any(size >= 1 << 62 for size in (*view.shape, *view.strides)) or math.prod(view.shape) >= 1 << 62:
        raise ValueError(f"the tensor {name!r} has a size that no tensor has")
    return _Found(name=name, element=_DTYPES[dtype], storage=key, view=view)


def _sizes(name: str, value: Value) -> tuple[int, ...]:
    if isinstance(value, Call) and isinstance(value.function, Global) and value.function.name == "torch.Size":
        value = value.arguments[0] if isinstance(value.arguments, tuple) and value.arguments else None
    if not isinstance(value, tuple | list) or len(value) > MAX_DIMENSIONS:
        raise ValueError(f"the tensor {name!r} has a shape that is no list of sizes")
    return tuple(_size(name, size) for size in value)


def _size(name: str, value: Value) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"the tensor {name!r} has a size that is no number")
    return value
