"""The tensors of what torch wrote before version 1.6: five pickles, and behind them the bytes of each storage.

The pickles are read as inert values, as those of a torch zip file are.

Source: `_legacy_save` and `_legacy_load` in `torch/serialization.py` of PyTorch 2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

from reprobox.errors import ContentRefused
from reprobox.records.models.pickle import MAX_PICKLE_BYTES, Dictionary, Value, parse_pickle
from reprobox.records.models.storages import Storages
from reprobox.records.models.tensors import Tensor, reading
from reprobox.records.models.torch import Search
from reprobox.records.models.zip import Window

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_VERSION: Final = 1001


@contextmanager
def open_torch_legacy(path: Path) -> Iterator[list[Tensor]]:
    """Open a torch file of the old format and list its tensors.

    Args:
        path: The file.

    Returns:
        A context manager that gives the tensors, named as in a torch zip file.

    Raises:
        RecordError: The file is truncated or damaged, or contradicts itself.
        ContentRefused: It holds something that is not read, or more than the limits allow.
    """
    with reading(path, "a torch file"), path.open("rb") as file:
        big_endian, search, members = _read(path, file)
    with Storages(path, _Members(path, members), prefix="", big_endian=big_endian) as storages:
        yield [storages.tensor(item.name, item.storage, item.element, item.view) for item in search.found]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """Where a storage lies, described as a member of an archive is."""

    filename: str
    offset: int
    file_size: int

    @property
    def compress_size(self) -> int:
        return self.file_size


class _Members:
    """The storages of a file, opened as the members of an archive are."""

    def __init__(self, path: Path, members: dict[str, _Member]) -> None:
        self._path = path
        self._members = members

    def getinfo(self, name: str) -> _Member:
        return self._members[name]

    def open(self, name: str) -> BinaryIO:
        member = self._members[name]
        return cast(BinaryIO, Window(self._path, member.offset, member.file_size))


def _read(path: Path, file: BinaryIO) -> tuple[bool, Search, dict[str, _Member]]:
    limited = cast(BinaryIO, _Limited(path, file))
    if parse_pickle(str(path), limited) != _MAGIC or parse_pickle(str(path), limited) != _VERSION:
        raise ValueError("this is no torch file of a known version")
    system = parse_pickle(str(path), limited)
    search = Search(path)
    search.run(parse_pickle(str(path), limited))
    keys = parse_pickle(str(path), limited)
    if not isinstance(system, Dictionary) or not isinstance(keys, list):
        raise ValueError("it lacks what is written about its storages")
    order = next((value for key, value in system.pairs if key == "little_endian"), None)
    if not isinstance(order, bool):
        raise ValueError("it does not say its byte order")
    return not order, search, _find_storages(path, file, keys, search)


def _find_storages(path: Path, file: BinaryIO, keys: list[Value], search: Search) -> dict[str, _Member]:
    """Walk over the storages: of each, the number of elements and their bytes."""
    size_bytes = os.fstat(file.fileno()).st_size
    members: dict[str, _Member] = {}
    for key in keys:
        if not isinstance(key, str) or key in members:
            raise ValueError("a storage has no name of its own")
        width = search.widths.get(key)
        if width is None:
            raise ContentRefused(path, f"the tensors of its storage {key!r} are not found without unpickling")
        head = file.read(8)
        member = _Member(filename=key, offset=file.tell(), file_size=int.from_bytes(head, "little") * width)
        if len(head) < 8 or member.offset + member.file_size > size_bytes:
            raise EOFError(f"the storage {key!r} reaches over the end of the file")
        members[key] = member
        file.seek(member.file_size, os.SEEK_CUR)
    if file.read(1):
        raise ValueError("more bytes follow after the last storage")
    return members


class _Limited:
    """A file of which a pickle may read only so much."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._left = MAX_PICKLE_BYTES

    def read(self, count: int) -> bytes:
        self._take(count)
        return self._file.read(count)

    def readline(self) -> bytes:
        line = self._file.readline(self._left + 1)
        self._take(len(line))
        return line

    def tell(self) -> int:
        return self._file.tell()

    def _take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise ContentRefused(self._path, f"its pickles have more than {MAX_PICKLE_BYTES} bytes")
