"""The tensors of a GGUF file: metadata, a list of tensors, their bytes.

Quantised tensors are blocks that only the programs of one family can compute with: they are hashed as the file has
them, under the name of their quantisation.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; sizes of blocks from ggml-common.h.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from reprobox.errors import ContentRefused
from reprobox.records.models.spans import read_exactly, read_span
from reprobox.records.models.tensors import MAX_TENSORS, Tensor, reading

MAGIC: Final = b"GGUF"

_MAX_PAIRS: Final = 1_000_000
_MAX_ITEMS: Final = 20_000_000
_MAX_DEPTH: Final = 4
_MAX_DIMENSIONS: Final = 4
_DEFAULT_ALIGNMENT: Final = 32
_MAX_NAME_BYTES: Final = 1 << 16

# Types of metadata values of a fixed size → bytes.
_FIXED: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32: Final = 4
_STRING: Final = 8
_ARRAY: Final = 9

# ggml_type → name in the recipe, elements of a block, bytes of a block.
_TYPES: Final[dict[int, tuple[str, int, int]]] = {
    0: ("float32", 1, 4),
    1: ("float16", 1, 2),
    2: ("ggml_q4_0", 32, 18),
    3: ("ggml_q4_1", 32, 20),
    6: ("ggml_q5_0", 32, 22),
    7: ("ggml_q5_1", 32, 24),
    8: ("ggml_q8_0", 32, 34),
    9: ("ggml_q8_1", 32, 36),
    10: ("ggml_q2_k", 256, 84),
    11: ("ggml_q3_k", 256, 110),
    12: ("ggml_q4_k", 256, 144),
    13: ("ggml_q5_k", 256, 176),
    14: ("ggml_q6_k", 256, 210),
    15: ("ggml_q8_k", 256, 292),
    16: ("ggml_iq2_xxs", 256, 66),
    17: ("ggml_iq2_xs", 256, 74),
    18: ("ggml_iq3_xxs", 256, 98),
    19: ("ggml_iq1_s", 256, 50),
    20: ("ggml_iq4_nl", 32, 18),
    21: ("ggml_iq3_s", 256, 110),
    22: ("ggml_iq2_s", 256, 82),
    23: ("ggml_iq4_xs", 256, 136),
    24: ("int8", 1, 1),
    25: ("int16", 1, 2),
    26: ("int32", 1, 4),
    27: ("int64", 1, 8),
    28: ("float64", 1, 8),
    29: ("ggml_iq1_m", 256, 56),
    30: ("bfloat16", 1, 2),
    34: ("ggml_tq1_0", 256, 54),
    35: ("ggml_tq2_0", 256, 66),
    39: ("ggml_mxfp4", 32, 17),
}


@contextmanager
def open_gguf(path: Path) -> Iterator[list[Tensor]]:
    """Open a GGUF file and list its tensors. Metadata (tokens, parameters of the model) are not tensors.

    Args:
        path: The file.

    Returns:
        A context manager that gives the tensors; they can be read inside it.

    Raises:
        RecordError: The file is truncated or contradicts itself.
        ContentRefused: It is of another version than 2 and 3, big-endian, one of several parts, or has a tensor of
            an unknown type.
    """
    with reading(path, "GGUF"):
        file = path.open("rb")
    with file:
        with reading(path, "GGUF"):
            tensors = _Header(path, file).list_tensors()
        yield tensors


class _Header:
    """A walk through what stands before the bytes of the tensors."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._items = 0
        self._alignment = _DEFAULT_ALIGNMENT

    def list_tensors(self) -> list[Tensor]:
        if self._read(4) != MAGIC:
            raise ValueError("this is no GGUF file")
        version = self._number(4)
        if version >= 1 << 16 and version & 0xFFFF == 0:
            raise ContentRefused(self._path, "it is a big-endian GGUF file")
        if version not in (2, 3):
            raise ContentRefused(self._path, f"it is a GGUF file of version {version}")
        tensor_count, pair_count = self._number(8), self._number(8)
        if tensor_count > MAX_TENSORS or pair_count > _MAX_PAIRS:
            raise ContentRefused(self._path, f"it holds {tensor_count} tensors and {pair_count} metadata values")
        for _ in range(pair_count):
            self._read_pair()
        declared = [self._read_tensor() for _ in range(tensor_count)]
        start = self._file.tell()
        start += -start % self._alignment
        return self._describe(declared, start)

    def _describe(self, declared: list[tuple[str, tuple[int, ...], int, int]], start: int) -> list[Tensor]:
        tensors = []
        spans: list[tuple[int, int, str]] = []
        for name, shape, kind, offset in declared:
            if kind not in _TYPES:
                raise ContentRefused(self._path, f"{name!r} has elements of the unknown type {kind}")
            dtype, block_items, block_bytes = _TYPES[kind]
            elements = math.prod(shape)
            if (shape[-1] if shape else 1) % block_items:
                raise ValueError(f"the rows of {name!r} are no multiple of {block_items}")
            nbytes = elements // block_items * block_bytes
            if start + offset + nbytes > self._size:
                raise EOFError(f"{name!r} reaches over the end of the file")
            if offset % self._alignment:
                raise ValueError(f"{name!r} is not aligned")
            spans.append((offset, offset + nbytes, name))
            chunks = read_span(self._path, self._file, start + offset, nbytes, "GGUF")
            tensors.append(Tensor(name=name, dtype=dtype, shape=shape, nbytes=nbytes, chunks=chunks, origin=name))
        last = 0
        for begin, end, name in sorted(spans):
            if begin < last:
                raise ValueError(f"{name!r} overlaps another tensor")
            last = end
        return tensors

    def _read_pair(self) -> None:
        key = self._text(_MAX_NAME_BYTES)
        kind = self._number(4)
        if key == "general.alignment":
            if kind != _UINT32:
                raise ValueError("the alignment is no number")
            self._alignment = self._number(4)
            if self._alignment < 8 or self._alignment & (self._alignment - 1) or self._alignment > 1 << 20:
                raise ValueError(f"an alignment of {self._alignment} bytes")
        elif key == "split.count" and kind == 2:
            if self._number(2) > 1:
                raise ContentRefused(self._path, "it is one of several parts of a model")
        else:
            self._skip(kind, 0)

    def _read_tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text(_MAX_NAME_BYTES)
        dimensions = self._number(4)
        if dimensions > _MAX_DIMENSIONS:
            raise ValueError(f"{name!r} has {dimensions} dimensions")
        # The file has the innermost dimension first.
        shape = tuple(reversed([self._number(8) for _ in range(dimensions)]))
        if any(size >= 1 << 62 for size in shape):
            raise ValueError(f"{name!r} has a dimension that is no size")
        return name, shape, self._number(4), self._number(8)

    def _skip(self, kind: int, depth: int) -> None:
        if kind in _FIXED:
            self._pass(_FIXED[kind])
        elif kind == _STRING:
            self._pass(self._number(8))
        elif kind == _ARRAY and depth < _MAX_DEPTH:
            inner, count = self._number(4), self._number(8)
            if inner in _FIXED:
                self._pass(_FIXED[inner] * count)
                return
            self._items += count
            if self._items > _MAX_ITEMS:
                raise ContentRefused(self._path, f"its metadata has more than {_MAX_ITEMS} values")
            for _ in range(count):
                self._skip(inner, depth + 1)
        else:
            raise ValueError(f"a metadata value of the unknown type {kind}")

    def _pass(self, count: int) -> None:
        if count > self._size - self._file.tell():
            raise EOFError("the metadata reach over the end of the file")
        self._file.seek(count, os.SEEK_CUR)

    def _number(self, width: int) -> int:
        return int.from_bytes(self._read(width), "little")

    def _text(self, limit_bytes: int) -> str:
        length = self._number(8)
        if length > limit_bytes:
            raise ValueError(f"a name of {length} bytes")
        return self._read(length).decode("utf-8")

    def _read(self, count: int) -> bytes:
        return read_exactly(self._file, count)
