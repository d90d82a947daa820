"""One HDF5 dataset as a tensor: what it declares is checked before anything of it is read.

Source: https://docs.hdfgroup.org/documentation/hdf5/latest/_f_m_t4.html
"""

from __future__ import annotations

import math
import posixpath
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from reprobox.errors import ContentRefused
from reprobox.records.models.arrays import ElementType, describe_dtype, encode_array, plan_slabs
from reprobox.records.models.tensors import Tensor, reading

_DEFLATE: Final = 1
_FLETCHER32: Final = 3
# Besides these two: shuffle, szip, nbit, scaleoffset. LZF comes with h5py.
_BUILT_IN_FILTERS: Final = frozenset({1, 2, 3, 4, 5, 6, 32000})
_MAX_CHUNK_BYTES: Final = 256 << 20
_SMALL_CHUNK_BYTES: Final = 1 << 18
_STRING_BATCH_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Hdf5:
    """An open HDF5 file.

    Attributes:
        path: The file, or the archive that it lies in; for messages.
        file: The `h5py.File`.
        raw: The same bytes as a plain stream. Its position is free to change.
        size_bytes: Their number, against which the sizes that the file declares are held.
    """

    path: Path
    file: Any
    raw: BinaryIO
    size_bytes: int


def describe_dataset(hdf5: Hdf5, name: str, item: Any) -> tuple[Tensor, int]:
    """Describe one dataset.

    Args:
        hdf5: The open file, through which the tensor is read.
        name: The dataset's path in the file, without a leading slash, reached by hard links.
        item: The open `h5py.h5d.DatasetID`.

    Returns:
        The tensor, named by its path, and how many bytes of data the dataset declares.

    Raises:
        ContentRefused: It is virtual, stored elsewhere, filtered by a plugin, in huge chunks, or of a type
            without portable bytes.
    """
    import h5py

    path = hdf5.path
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
        chunks=_chunk_reader(hdf5, name, element),
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
    if dataset.chunks and len(dataset.chunks) != len(dataset.shape):
        raise ValueError(f"{name!r} has {len(dataset.shape)} dimensions, its chunks {len(dataset.chunks)}")
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


def _chunk_reader(hdf5: Hdf5, name: str, element: ElementType) -> Callable[[], Iterator[bytes | memoryview]]:
    def chunks() -> Iterator[bytes | memoryview]:
        import numpy as np

        with reading(hdf5.path, "HDF5"):
            dataset = hdf5.file[posixpath.join("/", name)]
            if dataset.shape is None:
                return
            if dataset.dtype.hasobject:
                yield from _read_strings(dataset, element, hdf5.size_bytes)
                return
            _require_honest_chunks(dataset, hdf5.size_bytes)
            for index in plan_slabs(dataset.shape, element, dataset.chunks):
                yield encode_array(np.asarray(dataset[index]), element)

    return chunks


def _read_strings(dataset: Any, element: ElementType, size_bytes: int) -> Iterator[bytes | memoryview]:
    """Read strings of any length.

    Each element may point at one and the same long string, so a few elements are read at a time, and all
    together may not be longer than the file, in which honest strings stand once each.
    """
    import numpy as np

    batch = max(1, min(1 << 16, _STRING_BATCH_BYTES // max(1, size_bytes)))
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
