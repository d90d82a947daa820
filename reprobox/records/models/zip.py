"""Members of a zip file, read as streams, with limits against archives made to do harm.

Nothing is extracted to a path: a stored member is read in place, a compressed one through a temporary file
without a name. `zipfile` checks each member's CRC when its last byte has been read.

Source: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

from __future__ import annotations

import io
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from reprobox.errors import ContentRefused, RecordError
from reprobox.records.models.tensors import MAX_TENSORS, reading

if TYPE_CHECKING:
    from zipfile import ZipFile, ZipInfo

    from _typeshed import WriteableBuffer

DEFLATE_EXPANSION: Final = 1032
"""The most bytes that one byte of deflate can give. Who claims more lies, or has overlapping members."""

_COPY_BYTES: Final = 1 << 20
_DIRECTORY_BYTES: Final = 512 << 20
_END_RECORD: Final = struct.Struct("<4s4H2LH")
_END_MAGIC: Final = b"PK\x05\x06"
_END_MAGIC_64: Final = b"PK\x06\x06"
_SPOOL_BYTES: Final = 1 << 30
_SPOOL_EXPANSION: Final = 100


@contextmanager
def open_zip(path: Path) -> Iterator[ZipFile]:
    """Open a zip file for reading, after a look at how much it claims to hold.

    Args:
        path: The file.

    Returns:
        A context manager that gives the archive.

    Raises:
        RecordError: It is no zip file, two members have one name, or it claims more than deflate can hold.
        ContentRefused: It has more members than `MAX_TENSORS`, or one that is encrypted, or compressed other
            than by deflate.
    """
    import zipfile

    with _zip_reading(path):
        _require_small_directory(path)
        archive = zipfile.ZipFile(path)
    with archive:
        _check_members(path, archive)
        yield archive


@contextmanager
def open_member(path: Path, archive: ZipFile, name: str) -> Iterator[BinaryIO]:
    """Open a member as a stream that can seek, its CRC checked beforehand.

    Args:
        path: The archive's path.
        archive: The archive.
        name: The member's name.

    Returns:
        A context manager that gives the stream, at its start.

    Raises:
        RecordError: There is no such member, or its bytes are damaged.
    """
    import zipfile

    with _zip_reading(path):
        info = archive.getinfo(name)
        if info.compress_type == zipfile.ZIP_STORED:
            with archive.open(info) as stream:
                while stream.read(_COPY_BYTES):
                    pass
            member: BinaryIO = Window(path, _find_data(path, info), info.file_size)  # type: ignore[assignment]
        else:
            member = _spool(path, archive, info)
    with member:
        yield member


def require_spoolable(path: Path, name: str, size: int, stored: int) -> None:
    """Refuse to unpack a member to disk that is large and was compressed beyond what weights ever are.

    Args:
        path: The archive's path.
        name: The member's name.
        size: Its size in bytes.
        stored: Its compressed size in bytes.

    Raises:
        ContentRefused: It is larger than 1 GiB and than 100 times its compressed size.
    """
    if size > max(_SPOOL_BYTES, _SPOOL_EXPANSION * stored):
        raise ContentRefused(path, f"its member {name!r} would unpack from {stored} bytes to {size}")


def _spool(path: Path, archive: ZipFile, info: ZipInfo) -> BinaryIO:
    require_spoolable(path, info.filename, info.file_size, info.compress_size)
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - handed to the caller, who closes it
    with archive.open(info) as stream:
        shutil.copyfileobj(stream, spool, _COPY_BYTES)
    spool.seek(0)
    return spool


@contextmanager
def _zip_reading(path: Path) -> Iterator[None]:
    import zipfile

    with reading(path, "zip"):
        try:
            yield
        except zipfile.BadZipFile as error:
            raise ValueError(str(error)) from error


def _require_small_directory(path: Path) -> None:
    """Refuse a huge directory before `zipfile` makes an object of each of its entries."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - (1 << 16) - _END_RECORD.size))
        tail = file.read()
    position = tail.rfind(_END_MAGIC)
    if position < 0 or len(tail) - position < _END_RECORD.size:
        return
    directory_bytes = _END_RECORD.unpack_from(tail, position)[5]
    zip64 = tail.rfind(_END_MAGIC_64, 0, position)
    if directory_bytes == 0xFFFFFFFF and zip64 >= 0:
        directory_bytes = int.from_bytes(tail[zip64 + 40 : zip64 + 48], "little")
    if directory_bytes > _DIRECTORY_BYTES:
        raise ContentRefused(path, f"its zip directory has {directory_bytes} bytes")


def _check_members(path: Path, archive: ZipFile) -> None:
    import zipfile

    members = archive.infolist()
    if len(members) > MAX_TENSORS:
        raise ContentRefused(path, f"it has more than {MAX_TENSORS} members")
    if len({info.filename for info in members}) != len(members):
        raise RecordError(f"{path}: two members of the zip file have one name")
    for info in members:
        if info.flag_bits & 0x1:
            raise ContentRefused(path, f"its member {info.filename!r} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ContentRefused(path, f"its member {info.filename!r} is not compressed by deflate")
    claimed = sum(info.file_size for info in members)
    if claimed > DEFLATE_EXPANSION * path.stat().st_size:
        raise RecordError(f"{path}: claims to hold {claimed} bytes, more than a zip file of its size can")


def _find_data(path: Path, info: ZipInfo) -> int:
    """Find where a stored member's bytes start: behind its local header, which has a length of its own."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
    name_bytes, extra_bytes = struct.unpack_from("<2H", header, 26)
    return info.header_offset + 30 + int(name_bytes) + int(extra_bytes)


class Window(io.RawIOBase):
    """A part of a file, seen as a file of its own.

    Args:
        path: The file.
        offset: Where the part begins.
        size: How many bytes it has.
    """

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._offset = offset
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def seekable(self) -> bool:
        """Whether it can seek: yes."""
        return True

    def tell(self) -> int:
        """Position from the beginning of the part."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position, counted within the part."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer as far as the part reaches."""
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._position))
        got = os.preadv(self._file.fileno(), [view[:count]], self._offset + self._position) if count else 0
        self._position += got
        return got

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
