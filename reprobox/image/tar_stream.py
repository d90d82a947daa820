"""Stream the members of a tar that somebody else made, with a cap on what a reader takes into memory."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import IO

_HEADERS_LIMIT = 8 << 20
"""Bytes between two members of an archive; a path of a few thousand characters needs a few thousand."""

_READ_AHEAD = 1 << 18


class _Metered(io.RawIOBase):
    """A stream that gives up once it was read further than it may."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.left = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes.

        Raises:
            ValueError: More than `left` bytes were read since that was last set.
        """
        data = self._stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise ValueError("its headers are larger than any real ones")
        return data


def stream_members(stream: IO[bytes]) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Stream the members of a tar, each with what it is read from; only the current one can be read.

    Raises:
        ValueError: What stands before a member, which a reader takes into memory whole, is larger than any real header.
        tarfile.TarError: It is no tar.
    """
    metered = _Metered(stream)
    metered.left = _HEADERS_LIMIT
    with tarfile.open(fileobj=metered, mode="r|", encoding="utf-8", bufsize=_READ_AHEAD) as tar:
        for member in tar:
            metered.left = _HEADERS_LIMIT + max(0, member.size)
            if member.issparse():
                # A kilobyte of headers can claim a terabyte of zeros; no packer writes these.
                raise tarfile.ReadError(f"{member.name!r} is a sparse file")
            yield tar, member
