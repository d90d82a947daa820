"""A sorted table of keys and values in a file, as LevelDB stores it and TensorFlow's checkpoint index is.

Blocks of prefix-compressed entries, each with a checksum; a last block that says where the others are; a footer that
says where that one is.

Source: https://github.com/google/leveldb/blob/main/doc/table_format.md, tensorflow/core/lib/io/format.cc.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from reprobox.errors import ContentRefused
from reprobox.records.models.protobuf import parse_varint

FOOTER_BYTES: Final = 48
MAGIC: Final = bytes.fromhex("57fb808b247547db")

_MAX_BLOCK_BYTES: Final = 32 << 20
_MAX_KEY_BYTES: Final = 1 << 16
_MASK_DELTA: Final = 0xA282EAD8


def checksum(data: bytes, previous: int = 0) -> int:
    """Compute the CRC-32C of a buffer.

    Args:
        data: The bytes.
        previous: The CRC-32C of the bytes before them.

    Returns:
        That of all.
    """
    import google_crc32c

    return int(google_crc32c.extend(previous, data))


def mask_checksum(crc: int) -> int:
    """Change a checksum as it is changed where it is stored beside what it covers.

    Args:
        crc: 32 bits.

    Returns:
        32 bits.
    """
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def read_table(path: Path, file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """List the entries of a table.

    Args:
        path: The file, for messages.
        file: The same, open. Its position changes between two entries, and may be changed.

    Returns:
        An iterator over keys and values, keys rising.

    Raises:
        ValueError: A checksum fails, or something points outside of the file or is out of order.
        ContentRefused: It is compressed, or a block or key is larger than any that is written.
    """
    size = os.fstat(file.fileno()).st_size
    if size < FOOTER_BYTES:
        raise EOFError(f"{size} bytes are too few for a table")
    file.seek(size - FOOTER_BYTES)
    footer = file.read(FOOTER_BYTES)
    if footer[-len(MAGIC) :] != MAGIC:
        raise ValueError("the footer is none of a table")
    _, position = _parse_handle(footer, 0)  # of filters, which nobody needs who reads everything
    index, _ = _parse_handle(footer, position)
    last = None
    covered = 0
    for _, handle in _read_block(path, file, index, size):
        block, _ = _parse_handle(handle, 0)
        # Blocks follow each other; an index that names one again and again would never end.
        if block[0] < covered:
            raise ValueError(f"the block at byte {block[0]} overlaps the one before")
        covered = block[0] + block[1]
        for key, value in _read_block(path, file, block, size):
            if last is not None and key <= last:
                raise ValueError(f"the key {key[:60]!r} is out of order")
            last = key
            yield key, value


def _parse_handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    offset, position = parse_varint(data, position, len(data))
    length, position = parse_varint(data, position, len(data))
    return (offset, length), position


def _read_block(path: Path, file: BinaryIO, handle: tuple[int, int], file_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    offset, length = handle
    if offset + length + 5 > file_bytes - FOOTER_BYTES:
        raise ValueError(f"a block of {length} bytes at byte {offset} reaches over the end")
    if length > _MAX_BLOCK_BYTES:
        raise ContentRefused(path, f"its table has a block of {length} bytes")
    file.seek(offset)
    data = file.read(length + 5)
    stored = int.from_bytes(data[length + 1 :], "little")
    if mask_checksum(checksum(data[: length + 1])) != stored:
        raise ValueError(f"the block at byte {offset} does not have its checksum")
    if data[length] != 0:
        raise ContentRefused(path, "its table is compressed")
    yield from _parse_block(path, data[:length])


def _parse_block(path: Path, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if len(data) < 4:
        raise ValueError("a block without an end")
    end = len(data) - 4 - 4 * int.from_bytes(data[-4:], "little")
    if end < 0:
        raise ValueError("a block with more restarts than bytes")
    position = 0
    key = b""
    while position < end:
        shared, position = parse_varint(data, position, end)
        fresh, position = parse_varint(data, position, end)
        length, position = parse_varint(data, position, end)
        if shared > len(key) or position + fresh + length > end:
            raise ValueError("an entry reaches over the end of its block")
        if shared + fresh > _MAX_KEY_BYTES:
            raise ContentRefused(path, f"its table has a key of {shared + fresh} bytes")
        key = key[:shared] + data[position : position + fresh]
        position += fresh
        yield key, data[position : position + length]
        position += length
