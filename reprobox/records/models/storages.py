"""Blocks of numbers in the members of a zip file, and tensors that are views of them.

A tensor that is its whole storage in order is streamed from the archive, its checksum verified on the way. Of any
other, the storage's checksum is verified once and the tensor is gathered through a temporary file without a name.
"""

from __future__ import annotations

import math
import mmap
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, Self

from reprobox.errors import ContentRefused
from reprobox.records.models.arrays import ElementType, plan_slabs
from reprobox.records.models.tensors import SLAB_BYTES, Tensor, reading
from reprobox.records.models.zip import require_spoolable

if TYPE_CHECKING:
    import numpy as np

_COPY_BYTES: Final = 1 << 20
_FREE_BYTES: Final = 1 << 30
_SPOOLS: Final = 32
_COPIES: Final = 4
_TOUCHED_BYTES: Final = 32 << 20
_EXPANSION: Final = 16
"""All tensors together may have this many times the file's bytes, and 1 GiB: views may overlap or repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """How one element lies in a storage.

    Attributes:
        name: The type's name in the recipe.
        width: Bytes of one number, which byte order turns around.
        count: Numbers in one element: 2 where it is complex.
    """

    name: str
    width: int
    count: int = 1

    @property
    def size_bytes(self) -> int:
        """Bytes of one element."""
        return self.width * self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A tensor as a view of a storage.

    Attributes:
        offset: Elements before the first one.
        shape: Dimensions, outermost first.
        strides: Elements from one index to the next, for each dimension.
        storage_items: How many elements the storage has, or bytes.
        counts_bytes: Whether `storage_items` are bytes.
    """

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    storage_items: int
    counts_bytes: bool

    @property
    def is_in_order(self) -> bool:
        """Whether its elements lie one after the other, last index fastest."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True

    @property
    def last(self) -> int:
        """The number of elements in the storage up to the view's last one; 0 for a view without elements."""
        if 0 in self.shape:
            return 0
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return self.offset + reach + 1


class Member(Protocol):
    """What an archive says of a member."""

    @property
    def filename(self) -> str:
        """Its name, for messages."""

    @property
    def file_size(self) -> int:
        """Its size in bytes."""

    @property
    def compress_size(self) -> int:
        """How many bytes it takes in the archive."""


class Archive(Protocol):
    """Where storages lie by their names: a zip file, or something like it."""

    def getinfo(self, name: str) -> Member:
        """Give what is known of a member; KeyError if there is none."""

    def open(self, name: str) -> IO[bytes]:
        """Open a member for reading."""


class Storages:
    """The storages of one archive. Close it before the archive.

    Args:
        path: The archive's path, for messages.
        archive: The archive.
        prefix: What the names of the storages' members begin with.
        big_endian: The byte order of all of them.
    """

    def __init__(self, path: Path, archive: Archive, *, prefix: str, big_endian: bool) -> None:
        self._path = path
        self._archive = archive
        self._prefix = prefix
        self._big_endian = big_endian
        self._spools: dict[str, IO[bytes]] = {}
        self._claimed = 0
        self._spooled = 0
        self._limit = _FREE_BYTES + _EXPANSION * path.stat().st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop_spools(keep=0)

    def tensor(self, name: str, storage: str, element: Element, view: View) -> Tensor:
        """Describe a view.

        Args:
            name: The tensor's name.
            storage: The storage's name.
            element: Its elements.
            view: Which of them, in which order.

        Returns:
            The tensor, to be read as long as this is open.

        Raises:
            RecordError: There is no such storage, it has another size than the view says, or ends before the view.
            ContentRefused: The views are far larger than the file.
        """
        with reading(self._path, "a torch file"):
            info = self._archive.getinfo(self._prefix + storage)
            stored = view.storage_items * (1 if view.counts_bytes else element.size_bytes)
            if info.file_size != stored:
                raise ValueError(f"the storage {storage!r} has {info.file_size} bytes where {stored} are declared")
            if view.last * element.size_bytes > stored:
                raise ValueError(f"the tensor {name!r} reaches over the end of its storage")
        nbytes = math.prod(view.shape) * element.size_bytes
        self._claimed += nbytes
        if self._claimed > self._limit:
            raise ContentRefused(self._path, f"its tensors would have over {self._limit} bytes, many times the file's")
        whole = view.is_in_order and view.offset == 0 and nbytes == stored
        return Tensor(
            name=name,
            dtype=element.name,
            shape=view.shape,
            nbytes=nbytes,
            chunks=self._stream(storage, element) if whole else self._gather(storage, element, view),
            origin=name,
        )

    def _stream(self, storage: str, element: Element) -> Callable[[], Iterator[bytes | memoryview]]:
        def chunks() -> Iterator[bytes | memoryview]:
            with _storage_reading(self._path, storage), self._archive.open(self._prefix + storage) as stream:
                while chunk := stream.read(SLAB_BYTES):
                    yield self._to_little_endian(chunk, element)

        return chunks

    def _gather(self, storage: str, element: Element, view: View) -> Callable[[], Iterator[bytes | memoryview]]:
        def chunks() -> Iterator[bytes | memoryview]:
            if 0 in view.shape:
                return
            with _storage_reading(self._path, storage):
                yield from self._read_view(self._open_spool(storage), element, view)

        return chunks

    def _read_view(self, spool: IO[bytes], element: Element, view: View) -> Iterator[bytes | memoryview]:
        import numpy as np

        item = np.dtype((np.void, element.size_bytes))
        plan = ElementType(name=element.name, stored=item)
        with mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            count = view.last - view.offset
            base = np.frombuffer(mapped, dtype=item, offset=view.offset * element.size_bytes, count=count)
            strides = tuple(stride * element.size_bytes for stride in view.strides)
            array = np.lib.stride_tricks.as_strided(base, shape=view.shape, strides=strides, writeable=False)
            try:
                for index in plan_slabs(view.shape, plan):
                    yield self._to_little_endian(_copy(array[index], mapped), element)
            finally:
                del base, array

    def _to_little_endian(self, chunk: bytes, element: Element) -> bytes | memoryview:
        if not self._big_endian or element.width == 1:
            return chunk
        import numpy as np

        swapped: np.ndarray[Any, Any] = np.frombuffer(chunk, dtype=f">u{element.width}").astype(f"<u{element.width}")
        return swapped.tobytes()

    def _open_spool(self, storage: str) -> IO[bytes]:
        """Copy a storage out of the archive, which verifies its checksum; the last ones are kept for further views."""
        spool = self._spools.pop(storage, None)
        if spool is None:
            self._drop_spools(keep=_SPOOLS - 1)
            info = self._archive.getinfo(self._prefix + storage)
            require_spoolable(self._path, info.filename, info.file_size, info.compress_size)
            # Views of many storages in turn would have each copied again and again.
            self._spooled += info.file_size
            if self._spooled > _COPIES * self._limit:
                raise ContentRefused(self._path, "its tensors are views of many storages in turn")
            spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _drop_spools
            self._spools[storage] = spool
            with self._archive.open(self._prefix + storage) as stream:
                shutil.copyfileobj(stream, spool, _COPY_BYTES)
            spool.flush()
        self._spools[storage] = spool
        return spool

    def _drop_spools(self, *, keep: int) -> None:
        """Close all but the last used."""
        for storage in list(self._spools)[: max(0, len(self._spools) - keep)]:
            self._spools.pop(storage).close()


def _copy(view: np.ndarray[Any, Any], mapped: mmap.mmap) -> bytes:
    """Put the elements of a view in order, with little of the mapping in memory at once.

    What was read is in the file still; the mapping would keep all that a view touches, which may be the whole storage.
    """
    import numpy as np

    if view.ndim == 0:
        return view.tobytes()
    out = np.empty(view.shape, dtype=view.dtype)
    axis = int(np.argmax(view.strides))
    step = max(1, _TOUCHED_BYTES // max(1, view.strides[axis]))
    for start in range(0, view.shape[axis], step):
        part = (slice(None),) * axis + (slice(start, start + step),)
        out[part] = view[part]
        mapped.madvise(mmap.MADV_DONTNEED)
    return out.tobytes()


@contextmanager
def _storage_reading(path: Path, storage: str) -> Iterator[None]:
    import zipfile

    with reading(path, f"the storage {storage!r}"):
        try:
            yield
        except zipfile.BadZipFile as error:
            raise ValueError(str(error)) from error
