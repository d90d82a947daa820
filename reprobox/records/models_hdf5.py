"""The datasets of an HDF5 file, read with what an untrusted file could misuse turned away.

Only hard links are followed, so nothing outside the file is ever opened; virtual datasets, external storage
and filters that would have to be loaded are refused. Attributes are metadata and belong to no content digest.

Source: https://docs.hdfgroup.org/documentation/hdf5/latest/_f_m_t4.html
"""

from __future__ import annotations

import math
import posixpath
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from reprobox.errors import RecordError
from reprobox.records.models_arrays import ElementType, describe_dtype, encode_array, plan_slabs
from reprobox.records.models_tensors import MAX_NAME_BYTES, MAX_TENSORS, ContentRefused, Tensor, reading

MAX_DEPTH: Final = 100

_DEFLATE: Final = 1
_FLETCHER32: Final = 3
# Besides these two: shuffle, szip, nbit, scaleoffset. LZF comes with h5py.
_BUILT_IN_FILTERS: Final = frozenset({1, 2, 3, 4, 5, 6, 32000})
_CHUNK_CACHE_BYTES: Final = 64 << 20
_MAX_CHUNK_BYTES: Final = 256 << 20
_SMALL_CHUNK_BYTES: Final = 1 << 20
_MAX_EXPANSION: Final = 1032
_FREE_BYTES: Final = 1 << 30
"""A file may declare this much more than its size explains: fill values take no room in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hdf5Listing:
    """What a walk through an HDF5 file found.

    Attributes:
        tensors: One per dataset, its name and origin the path without a leading slash. In any order.
        groups: Paths of all groups, likewise; the root is the empty path.
    """

    tensors: tuple[Tensor, ...]
    groups: frozenset[str]


@contextmanager
def open_hdf5(path: Path, stream: BinaryIO | None = None) -> Iterator[Any]:
    """Open an HDF5 file for reading.

    Args:
        path: The file, or the archive that it lies in.
        stream: Where its bytes come from, if not from `path`.

    Returns:
        A context manager that gives an `h5py.File`.

    Raises:
        RecordError: It is no HDF5 file, or truncated.
    """
    import h5py

    with reading(path, "HDF5"):
        options = {"rdcc_nbytes": _CHUNK_CACHE_BYTES}
        if stream is None:
            file = h5py.File(path, "r", driver="sec2", locking=False, **options)
        else:
            file = h5py.File(stream, "r", **options)
    try:
        yield file
    finally:
        with reading(path, "HDF5"):
            file.close()


def list_datasets(path: Path, file: Any, size_bytes: int) -> Hdf5Listing:
    """Walk through an HDF5 file.

    Args:
        path: The file, for messages.
        file: The open `h5py.File`.
        size_bytes: Its size, against which declared sizes are held.

    Returns:
        All datasets and groups.

    Raises:
        ContentRefused: It has a link other than a hard one, a dataset that is virtual, stored elsewhere,
            filtered by a plugin or of a type without portable bytes, or more than the limits allow.
        RecordError: It is damaged.
    """
    with reading(path, "HDF5"):
        return _walk(path, file, size_bytes)


def list_child_groups(path: Path, file: Any, group: str) -> frozenset[str]:
    """List the groups directly in a group that hard links lead to.

    Args:
        path: The file, for messages.
        file: The open `h5py.File`.
        group: A group's path, reached by hard links; empty for the root.

    Returns:
        Their names.

    Raises:
        RecordError: The file is damaged.
    """
    from h5py import h5g, h5l, h5o

    with reading(path, "HDF5"):
        parent = h5o.open(file.id, group.encode("utf-8") or b"/")
        return frozenset(
            link.decode("utf-8")
            for link in parent
            if parent.links.get_info(link).type == h5l.TYPE_HARD
            and isinstance(h5o.open(parent, link), h5g.GroupID)
        )


def list_root_attributes(path: Path, file: Any) -> frozenset[str]:
    """List the names of the root's attributes.

    Args:
        path: The file, for messages.
        file: The open `h5py.File`.

    Returns:
        Their names.

    Raises:
        RecordError: The file is damaged.
    """
    with reading(path, "HDF5"):
        return frozenset(file.attrs)


def find_text_attribute(path: Path, file: Any, group: str, name: str) -> str | None:
    """Read an attribute that holds one string.

    Args:
        path: The file, for messages.
        file: The open `h5py.File`.
        group: A group's path; empty for the root.
        name: The attribute's name.

    Returns:
        Its text; None where it is missing or no single string.

    Raises:
        RecordError: It is damaged.
    """
    with reading(path, "HDF5"):
        attributes = file[group or "/"].attrs
        if name not in attributes or attributes.get_id(name).shape != ():
            return None
        return _text(attributes[name])


def list_text_attribute(path: Path, file: Any, group: str, name: str) -> list[str] | None:
    """Read an attribute that holds a list of strings, as Keras writes it.

    Args:
        path: The file, for messages.
        file: The open `h5py.File`.
        group: A group's path; empty for the root.
        name: The attribute's name. Where it is missing, `name0`, `name1`, … are joined: one attribute has at
            most 64 KiB.

    Returns:
        The strings in the order of the file; None where there is neither.

    Raises:
        RecordError: It is damaged, or holds something else.
    """
    with reading(path, "HDF5"):
        attributes = file[group or "/"].attrs
        if name in attributes:
            return _texts(attributes, name)
        if f"{name}0" not in attributes:
            return None
        joined: list[str] = []
        part = 0
        while f"{name}{part}" in attributes:
            joined += _texts(attributes, f"{name}{part}")
            part += 1
        return joined


def _texts(attributes: Any, name: str) -> list[str]:
    shape = attributes.get_id(name).shape
    if shape is None or len(shape) != 1 or shape[0] > MAX_TENSORS:
        raise ValueError(f"the attribute {name!r} is no list of names")
    texts = [_text(item) for item in attributes[name].tolist()]
    if None in texts:
        raise ValueError(f"the attribute {name!r} is no list of names")
    return [text for text in texts if text is not None]


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return str(value) if isinstance(value, str) else None


def _walk(path: Path, file: Any, size_bytes: int) -> Hdf5Listing:
    from h5py import h5d, h5g, h5l, h5o

    tensors: list[Tensor] = []
    groups = {""}
    pending: list[tuple[bytes, int]] = [(b"", 0)]
    entries = 0
    declared = 0
    while pending:
        parent, depth = pending.pop()
        group = h5o.open(file.id, parent or b"/")
        for link in group:
            entries += 1
            if entries > MAX_TENSORS or depth >= MAX_DEPTH:
                raise ContentRefused(
                    path, f"it has over {MAX_TENSORS} entries or {MAX_DEPTH} levels of groups"
                )
            child = parent + b"/" + link if parent else link
            name = _decode(path, link, child)
            if group.links.get_info(link).type != h5l.TYPE_HARD:
                raise ContentRefused(
                    path, f"{name!r} is a soft, external or user-defined link, which is not followed"
                )
            item = h5o.open(group, link)
            if isinstance(item, h5g.GroupID):
                groups.add(name)
                pending.append((child, depth + 1))
            elif isinstance(item, h5d.DatasetID):
                tensor, claimed = _describe(path, file, name, item, size_bytes)
                tensors.append(tensor)
                declared += claimed
    if declared > _FREE_BYTES + _MAX_EXPANSION * size_bytes:
        raise ContentRefused(path, f"it declares {declared} bytes of data in {size_bytes} bytes of file")
    return Hdf5Listing(tensors=tuple(tensors), groups=frozenset(groups))


def _decode(path: Path, link: bytes, child: bytes) -> str:
    if len(child) > MAX_NAME_BYTES:
        raise ContentRefused(path, f"the name {child[:40]!r}… is longer than {MAX_NAME_BYTES} bytes")
    if b"/" in link or link in (b"", b".", b".."):
        raise RecordError(f"{path}: {link!r} cannot be the name of a link")
    try:
        return child.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ContentRefused(path, f"the name {child[:40]!r} is no Unicode text") from error


def _describe(path: Path, file: Any, name: str, item: Any, size_bytes: int) -> tuple[Tensor, int]:
    """Describe one dataset; also how many bytes it declares."""
    import h5py

    dataset = h5py.Dataset(item)
    if dataset.is_virtual or dataset.external:
        raise ContentRefused(path, f"{name!r} keeps its data outside of its dataset, which is not followed")
    try:
        dtype = dataset.dtype
    except TypeError as error:
        raise ContentRefused(path, f"{name!r} has elements that NumPy does not know") from error
    _require_plain_storage(path, name, dataset)
    _require_ieee(path, name, item, dtype)
    if h5py.check_string_dtype(dtype) is not None:
        element = ElementType(name="string", stored=None)
    else:
        element = describe_dtype(path, dtype)
    # A dataset with a null dataspace has a type and no elements.
    shape: tuple[int, ...] = (0,) if dataset.shape is None else tuple(int(size) for size in dataset.shape)
    tensor = Tensor(
        name=name,
        dtype=element.name,
        shape=shape,
        nbytes=element.count_bytes(shape),
        chunks=_chunk_reader(path, file, name, element, size_bytes),
        origin=name,
    )
    return tensor, math.prod(shape) * int(dtype.itemsize)


def _require_plain_storage(path: Path, name: str, dataset: Any) -> None:
    filters = _list_filters(dataset)
    for code in filters:
        if code not in _BUILT_IN_FILTERS:
            raise ContentRefused(path, f"{name!r} needs the HDF5 filter {code}, which is not loaded")
    if _DEFLATE in filters and set(filters[filters.index(_DEFLATE) + 1 :]) - {_FLETCHER32}:
        raise ContentRefused(path, f"{name!r} is filtered again after deflate")
    if dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > _MAX_CHUNK_BYTES:
        raise ContentRefused(path, f"{name!r} is stored in chunks of more than {_MAX_CHUNK_BYTES} bytes")


def _list_filters(dataset: Any) -> list[int]:
    created = dataset.id.get_create_plist()
    return [int(created.get_filter(index)[0]) for index in range(created.get_nfilters())]


def _require_honest_chunks(dataset: Any, size_bytes: int) -> None:
    """Look before HDF5 does, which inflates a chunk until its stream ends, whatever its shape says."""
    if _DEFLATE not in _list_filters(dataset):
        return
    chunk_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
    large: list[Any] = []
    dataset.id.chunk_iter(lambda info: large.append(info) if info.size > _SMALL_CHUNK_BYTES else None)
    for info in large:
        if info.size > size_bytes:
            raise ValueError("a chunk is longer than the file")
        mask, data = dataset.id.read_direct_chunk(info.chunk_offset)
        if mask == 0 and len(zlib.decompressobj().decompress(data, chunk_bytes + 1)) > chunk_bytes:
            raise ValueError("a chunk inflates to more than its shape has room for")


def _require_ieee(path: Path, name: str, item: Any, dtype: Any) -> None:
    """HDF5 knows any floating-point layout and would convert it; only those that NumPy has are kept."""
    import numpy as np

    if dtype.kind != "f":
        return
    stored = item.get_type()
    _, _, exponent_bits, _, mantissa_bits = stored.get_fields()
    expected = np.finfo(dtype)
    if (stored.get_size(), exponent_bits, mantissa_bits) != (dtype.itemsize, expected.iexp, expected.nmant):
        raise ContentRefused(path, f"{name!r} has floating-point numbers of an unusual layout")


def _chunk_reader(
    path: Path, file: Any, name: str, element: ElementType, size_bytes: int
) -> Callable[[], Iterator[bytes | memoryview]]:
    def chunks() -> Iterator[bytes | memoryview]:
        import numpy as np

        with reading(path, "HDF5"):
            dataset = file[posixpath.join("/", name)]
            if dataset.shape is None:
                return
            if dataset.dtype.hasobject:
                yield from _read_strings(dataset, element, size_bytes)
                return
            _require_honest_chunks(dataset, size_bytes)
            for index in plan_slabs(dataset.shape, element, dataset.chunks):
                yield encode_array(np.asarray(dataset[index]), element)

    return chunks


def _read_strings(dataset: Any, element: ElementType, size_bytes: int) -> Iterator[bytes | memoryview]:
    """Read strings of any length.

    Each element may point at one and the same long string, so a few elements are read at a time, and all
    together may not be longer than the file, in which honest strings stand once each.
    """
    import numpy as np

    batch = max(1, min(1 << 16, (1 << 28) // max(1, size_bytes)))
    limit = size_bytes + 8 * math.prod(dataset.shape) + (1 << 20)
    total = 0
    for index in _cut_strings(tuple(dataset.shape), batch):
        encoded = encode_array(np.asarray(dataset[index], dtype=object), element)
        total += len(encoded)
        if total > limit:
            raise ValueError("its strings are longer than the file")
        yield encoded


def _cut_strings(shape: tuple[int, ...], batch: int) -> Iterator[tuple[int | slice, ...]]:
    if not shape:
        yield ()
        return
    row = math.prod(shape[1:])
    if row > batch:
        for index in range(shape[0]):
            for rest in _cut_strings(shape[1:], batch):
                yield (index, *rest)
        return
    step = batch // max(1, row)
    for start in range(0, shape[0], step):
        yield (slice(start, start + step),)
