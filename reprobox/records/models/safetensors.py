"""The tensors of a safetensors file: 8 bytes of length, a JSON header, the bytes of all tensors.

Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from reprobox.errors import ContentRefused
from reprobox.records.models.spans import read_exactly, read_span
from reprobox.records.models.tensors import MAX_TENSORS, Tensor, reading

MAX_HEADER_BYTES: Final = 100_000_000
"""The format's own limit."""

# Bits per element, and the name that the recipe has for it.
_DTYPES: Final = {
    "BOOL": (8, "bool"),
    "U8": (8, "uint8"),
    "I8": (8, "int8"),
    "U16": (16, "uint16"),
    "I16": (16, "int16"),
    "U32": (32, "uint32"),
    "I32": (32, "int32"),
    "U64": (64, "uint64"),
    "I64": (64, "int64"),
    "F16": (16, "float16"),
    "BF16": (16, "bfloat16"),
    "F32": (32, "float32"),
    "F64": (64, "float64"),
    "C64": (64, "complex64"),
    "F8_E4M3": (8, "float8_e4m3fn"),
    "F8_E5M2": (8, "float8_e5m2"),
    "F8_E4M3FNUZ": (8, "float8_e4m3fnuz"),
    "F8_E5M2FNUZ": (8, "float8_e5m2fnuz"),
    "F8_E8M0": (8, "float8_e8m0fnu"),
    "F6_E2M3": (6, "float6_e2m3fn"),
    "F6_E3M2": (6, "float6_e3m2fn"),
    "F4": (4, "float4_e2m1fn"),
}


@contextmanager
def open_safetensors(path: Path) -> Iterator[list[Tensor]]:
    """Open a safetensors file and list its tensors.

    The header's `__metadata__` is not a tensor and is left out.

    Args:
        path: The file.

    Returns:
        A context manager that gives the tensors in the order of the header; they can be read inside it.

    Raises:
        RecordError: The file is truncated, or its header contradicts itself or the file's size.
        ContentRefused: A dtype is unknown, or there are too many tensors.
    """
    with reading(path, "safetensors"):
        file = path.open("rb")
    with file:
        with reading(path, "safetensors"):
            tensors = _list_tensors(path, file)
        yield tensors


def _list_tensors(path: Path, file: BinaryIO) -> list[Tensor]:
    size = os.fstat(file.fileno()).st_size
    header_bytes = int.from_bytes(read_exactly(file, 8), "little")
    if header_bytes > min(MAX_HEADER_BYTES, size - 8):
        raise ValueError(f"a header of {header_bytes} bytes does not fit")
    header = json.loads(read_exactly(file, header_bytes).decode("utf-8"), object_pairs_hook=_require_unique)
    if not isinstance(header, dict):
        raise ValueError("the header is no JSON object")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise ContentRefused(path, f"it holds more than {MAX_TENSORS} tensors")
    tensors: list[Tensor] = []
    spans: list[tuple[int, int]] = []
    for name, entry in header.items():
        dtype, shape, begin, end = _parse_entry(path, name, entry)
        spans.append((begin, end))
        chunks = read_span(path, file, 8 + header_bytes + begin, end - begin, "safetensors")
        tensors.append(Tensor(name=name, dtype=dtype, shape=shape, nbytes=end - begin, chunks=chunks, origin=name))
    _require_seamless(spans, size - 8 - header_bytes)
    return tensors


def _parse_entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"the entry of {name!r} is incomplete")
    numbers = [*entry["shape"], *entry["data_offsets"]]
    if len(entry["data_offsets"]) != 2 or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError(f"the entry of {name!r} has a shape or offset that is no size")
    if entry["dtype"] not in _DTYPES:
        raise ContentRefused(path, f"{name!r} has the unknown dtype {str(entry['dtype'])[:40]!r}")
    bits, dtype = _DTYPES[entry["dtype"]]
    begin, end = entry["data_offsets"]
    if math.prod(entry["shape"]) * bits != (end - begin) * 8:
        raise ValueError(f"shape and offsets of {name!r} disagree")
    return dtype, tuple(entry["shape"]), begin, end


def _require_seamless(spans: list[tuple[int, int]], data_bytes: int) -> None:
    """The format allows no holes and no overlaps: a byte that no tensor owns would escape the digest."""
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise ValueError(f"the tensors leave a hole or overlap at byte {position}")
        position = end
    if position != data_bytes:
        raise ValueError(f"the tensors cover {position} of {data_bytes} bytes")


def _require_unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice in the header")
    return found
