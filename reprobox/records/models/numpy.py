"""The arrays of `.npy` and `.npz` files, read without `numpy.load`, so that nothing is ever unpickled.

Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import ast
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from reprobox.errors import ContentRefused
from reprobox.records.models.arrays import ElementType, describe_dtype, encode_array, plan_slabs
from reprobox.records.models.tensors import SLAB_BYTES, Tensor, reading
from reprobox.records.models.zip import open_zip, require_spoolable

if TYPE_CHECKING:
    import numpy as np

MAGIC: Final = b"\x93NUMPY"

# NumPy's own limit: `ast.literal_eval` is not safe for longer texts.
_HEADER_BYTES: Final = 10_000
_NAME_OF_ONE_ARRAY: Final = "arr_0"
"""What `numpy.savez` calls an array that was given no name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """The header of one array.

    Attributes:
        dtype: Element type as stored.
        element: Element type as hashed.
        shape: Shape as the user sees it.
        fortran_order: True if the first index varies fastest in the file.
        data_offset: Number of bytes before the first element.
    """

    dtype: np.dtype[Any]
    element: ElementType
    shape: tuple[int, ...]
    fortran_order: bool
    data_offset: int

    @property
    def data_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@contextmanager
def open_npy(path: Path) -> Iterator[list[Tensor]]:
    """Open a `.npy` file and list its one array.

    Args:
        path: The file.

    Returns:
        A context manager that gives one tensor, named `arr_0`.

    Raises:
        RecordError: The file is truncated or its header is damaged.
        ContentRefused: It holds Python objects, or bytes after the array.
    """
    with reading(path, "npy"):
        size = path.stat().st_size

    def opened() -> BinaryIO:
        return path.open("rb")

    yield [_describe(path, _NAME_OF_ONE_ARRAY, path.name, (size, size), opened)]


@contextmanager
def open_npz(path: Path) -> Iterator[list[Tensor]]:
    """Open a `.npz` file and list its arrays.

    Args:
        path: The file.

    Returns:
        A context manager that gives the arrays by their names, without `.npy`; they can be read inside it.

    Raises:
        RecordError: The archive or one of its arrays is damaged.
        ContentRefused: A member is no array, or holds Python objects.
    """
    with open_zip(path) as archive:
        tensors = []
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                raise ContentRefused(path, f"its member {info.filename!r} is no array")

            def opened(name: str = info.filename) -> BinaryIO:
                return archive.open(name)  # type: ignore[return-value]

            name = info.filename.removesuffix(".npy")
            sizes = (info.file_size, info.compress_size)
            tensors.append(_describe(path, name, info.filename, sizes, opened))
        yield tensors


def _describe(path: Path, name: str, origin: str, sizes: tuple[int, int], opened: Callable[[], BinaryIO]) -> Tensor:
    size, stored = sizes
    with _array_reading(path, origin), opened() as stream:
        header = _read_header(path, stream)
        if size < header.data_offset + header.data_bytes:
            raise EOFError(f"{size} bytes are too few for shape {header.shape} of {header.dtype}")
        if size > header.data_offset + header.data_bytes:
            raise ContentRefused(path, f"more bytes follow after the array {name!r}")
        transposed = header.fortran_order and len(header.shape) > 1
        if transposed:
            require_spoolable(path, origin, size, stored)

    def chunks() -> Iterator[bytes | memoryview]:
        with _array_reading(path, origin), opened() as stream:
            pieces = _read_transposed if transposed else _read_in_order
            yield from pieces(stream, header)

    nbytes = header.element.count_bytes(header.shape)
    return Tensor(name=name, dtype=header.element.name, shape=header.shape, nbytes=nbytes, chunks=chunks, origin=origin)


def _read_header(path: Path, stream: BinaryIO) -> _Header:
    import numpy as np

    magic = _read_exactly(stream, 8)
    version = tuple(magic[6:])
    if magic[:6] != MAGIC or version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError("this is no array of a known format version")
    length_bytes = 2 if version == (1, 0) else 4
    header_bytes = int.from_bytes(_read_exactly(stream, length_bytes), "little")
    if header_bytes > _HEADER_BYTES:
        raise ContentRefused(path, f"an array's header has {header_bytes} bytes")
    text = _read_exactly(stream, header_bytes).decode("utf-8" if version == (3, 0) else "latin1")
    header = ast.literal_eval(text)
    if not isinstance(header, dict) or header.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("the array's header has not the three keys that it must have")
    shape = header["shape"]
    if not isinstance(shape, tuple) or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError("the array's shape is no tuple of sizes")
    dtype = np.lib.format.descr_to_dtype(header["descr"])
    return _Header(
        dtype=dtype,
        element=describe_dtype(path, dtype),
        shape=shape,
        fortran_order=bool(header["fortran_order"]),
        data_offset=8 + length_bytes + header_bytes,
    )


def _read_in_order(stream: BinaryIO, header: _Header) -> Iterator[bytes | memoryview]:
    import numpy as np

    _read_exactly(stream, header.data_offset)
    item_bytes = max(1, header.dtype.itemsize)
    count = math.prod(header.shape)
    # Strings grow when they become Python objects, so they go in smaller steps.
    step = max(1, (SLAB_BYTES if header.element.stored is not None else SLAB_BYTES >> 4) // item_bytes)
    for start in range(0, count, step):
        items = min(step, count - start)
        data = _read_exactly(stream, items * header.dtype.itemsize)
        yield encode_array(np.frombuffer(data, dtype=header.dtype, count=items), header.element)
    if stream.read(1):  # also lets zipfile check the CRC
        raise ValueError("more bytes follow after the array")


def _read_transposed(stream: BinaryIO, header: _Header) -> Iterator[bytes | memoryview]:
    """Read an array in Fortran order through a temporary file that is mapped into memory."""
    import numpy as np

    if 0 in header.shape:
        return
    with tempfile.TemporaryFile() as spool:
        _read_exactly(stream, header.data_offset)
        shutil.copyfileobj(stream, spool, SLAB_BYTES)
        spool.flush()
        if os.fstat(spool.fileno()).st_size != header.data_bytes:
            raise EOFError("the array ends too early")
        array = np.memmap(spool, dtype=header.dtype, mode="r", shape=header.shape, order="F")
        for index in plan_slabs(header.shape, header.element):
            yield encode_array(np.asarray(array[index]), header.element)


@contextmanager
def _array_reading(path: Path, origin: str) -> Iterator[None]:
    import zipfile

    with reading(path, f"the array {origin!r}"):
        try:
            yield
        except zipfile.BadZipFile as error:
            raise ValueError(str(error)) from error


def _read_exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError(f"it ends {count - len(data)} bytes too early")
    return data
