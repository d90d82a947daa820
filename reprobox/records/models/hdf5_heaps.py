"""A look at an HDF5 file's global heaps, in which strings lie, before the HDF5 library reads them.

The library walks such a heap from object to object by their sizes. In a damaged heap an object of size zero keeps it
there for ever, and no exception can end that; so this walk comes first.

Source: https://docs.hdfgroup.org/documentation/hdf5/latest/_f_m_t4.html#subsec_fmt4_infra_globalheap
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Final

_BLOCK_BYTES: Final = 4 << 20
_HEAP_MAGIC: Final = b"GCOL\x01\x00\x00\x00"
_HEAP_HEADER_BYTES: Final = 16
_SMALLEST_HEAP: Final = 4096
# Index, reference count, reserved, size; the size's width is the common one, which h5py always writes.
_OBJECT: Final = struct.Struct("<HHIQ")


def require_sound_heaps(file: BinaryIO) -> None:
    """Walk through all global heaps of a file.

    Args:
        file: The file, open for reading. Its position changes.

    Raises:
        ValueError: A heap has an object that does not lead on to the next one.
        OSError: The file cannot be read.
    """
    size_bytes = file.seek(0, 2)
    for offset in _find_heaps(file):
        file.seek(offset + len(_HEAP_MAGIC))
        heap_bytes = int.from_bytes(file.read(8), "little")
        # Four letters among the weights can look like a heap, but not one that would be walked.
        if _SMALLEST_HEAP <= heap_bytes <= size_bytes - offset:
            _walk(file, offset, heap_bytes)


def _find_heaps(file: BinaryIO) -> list[int]:
    found = []
    file.seek(0)
    base = 0
    kept = b""
    while block := file.read(_BLOCK_BYTES):
        data = kept + block
        start = base - len(kept)
        position = data.find(_HEAP_MAGIC)
        while position >= 0:
            found.append(start + position)
            position = data.find(_HEAP_MAGIC, position + 1)
        kept = data[-(len(_HEAP_MAGIC) - 1) :]
        base += len(block)
    return found


def _walk(file: BinaryIO, offset: int, heap_bytes: int) -> None:
    position = _HEAP_HEADER_BYTES
    while heap_bytes - position >= _OBJECT.size:
        file.seek(offset + position)
        index, _, _, object_bytes = _OBJECT.unpack(file.read(_OBJECT.size))
        # Object 0 is the free space at the end; its size counts its own header, and it is padded to nothing.
        step = object_bytes if index == 0 else _OBJECT.size + (object_bytes + 7 & ~7)
        if step < _OBJECT.size or step > heap_bytes - position:
            raise ValueError(f"its heap at byte {offset} is damaged")
        position += step
