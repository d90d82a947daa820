"""Tensors that lie in a file in one piece, as the recipe wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from reprobox.records.models.tensors import SLAB_BYTES, reading


def read_span(
    path: Path, file: BinaryIO, offset: int, count: int, what: str
) -> Callable[[], Iterator[bytes | memoryview]]:
    """Give a part of a file in pieces of at most 16 MiB.

    Args:
        path: The file, for messages.
        file: The same, open; its position is free to change.
        offset: The first byte.
        count: How many.
        what: The file's format, for messages.

    Returns:
        What `Tensor.chunks` has to be.
    """

    def chunks() -> Iterator[bytes]:
        for start in range(0, count, SLAB_BYTES):
            with reading(path, what):
                file.seek(offset + start)
                chunk = read_exactly(file, min(SLAB_BYTES, count - start))
            yield chunk

    return chunks


def read_exactly(file: BinaryIO, count: int) -> bytes:
    """Read bytes, all of them.

    Args:
        file: From where it stands.
        count: How many.

    Returns:
        The bytes.

    Raises:
        EOFError: There are fewer.
    """
    data = file.read(count)
    if len(data) != count:
        raise EOFError(f"the file ends {count - len(data)} bytes too early")
    return data
