"""The tensors of a TensorFlow checkpoint: an index, which is a table, and the files of data that it points into.

Source: tensorflow/core/util/tensor_bundle/tensor_bundle.cc, tensorflow/core/protobuf/tensor_bundle.proto.
"""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from reprobox.errors import ContentRefused
from reprobox.records.models.protobuf import ProtobufReader, Span, parse_varint, to_signed
from reprobox.records.models.table import checksum, mask_checksum, read_table
from reprobox.records.models.tensors import MAX_DIMENSIONS, MAX_NAME_BYTES, MAX_TENSORS, SLAB_BYTES, Tensor, reading

_MAX_SHARDS: Final = 10_000
_MAX_STRING_BYTES: Final = 64 << 20
_MAX_STRINGS: Final = 1_000_000

# DataType of tensorflow/core/framework/types.proto → name in the recipe, bytes of one number, numbers in an element.
_STRING: Final = 7
_DTYPES: Final[dict[int, tuple[str, int, int]]] = {
    1: ("float32", 4, 1),
    2: ("float64", 8, 1),
    3: ("int32", 4, 1),
    4: ("uint8", 1, 1),
    5: ("int16", 2, 1),
    6: ("int8", 1, 1),
    _STRING: ("string", 1, 1),
    8: ("complex64", 4, 2),
    9: ("int64", 8, 1),
    10: ("bool", 1, 1),
    14: ("bfloat16", 2, 1),
    17: ("uint16", 2, 1),
    18: ("complex128", 8, 2),
    19: ("float16", 2, 1),
    22: ("uint32", 4, 1),
    23: ("uint64", 8, 1),
    24: ("float8_e5m2", 1, 1),
    25: ("float8_e4m3fn", 1, 1),
    26: ("float8_e4m3fnuz", 1, 1),
    28: ("float8_e5m2fnuz", 1, 1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the index says of one tensor.

    Attributes:
        dtype: Number of its type.
        shape: Its dimensions.
        shard: Number of the data file.
        offset: Its first byte there.
        size_bytes: How many.
        crc: Their checksum, masked.
        is_sliced: Whether it is stored in slices, under keys of their own.
    """

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size_bytes: int
    crc: int
    is_sliced: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An open checkpoint.

    Attributes:
        path: Its index.
        entries: Key → what the index says.
        big_endian: Byte order of its data.
        shards: The open data files.
    """

    path: Path
    entries: dict[str, Entry]
    big_endian: bool
    shards: tuple[BinaryIO, ...]


def list_shards(index: Path, count: int) -> tuple[Path, ...]:
    """Name the data files of a checkpoint.

    Args:
        index: Its index, called `<prefix>.index`.
        count: Their number.

    Returns:
        Paths beside the index.
    """
    prefix = index.name.removesuffix(".index")
    return tuple(index.with_name(f"{prefix}.data-{shard:05d}-of-{count:05d}") for shard in range(count))


def count_shards(index: Path) -> int:
    """Read from an index how many data files belong to it.

    Args:
        index: Its path.

    Returns:
        Their number.

    Raises:
        RecordError: It is damaged.
    """
    with reading(index, "a TensorFlow checkpoint"), index.open("rb") as file:
        for key, value in read_table(index, file):
            if key == b"":
                return _parse_header(index, value)[0]
            break
        raise ValueError("the index has no header")


@contextmanager
def open_bundle(index: Path) -> Iterator[Bundle]:
    """Open a checkpoint.

    Args:
        index: Its index, called `<prefix>.index`. The data files lie beside it.

    Returns:
        A context manager that gives the checkpoint.

    Raises:
        RecordError: The index is damaged, or a data file is missing.
        ContentRefused: It has more tensors or data files than the limits allow.
    """
    with ExitStack() as stack:
        with reading(index, "a TensorFlow checkpoint"):
            if not index.name.endswith(".index"):
                raise ValueError("the name of an index ends with .index")
            count, big_endian, entries = _read_index(index)
            shards = tuple(stack.enter_context(_open_regular(path)) for path in list_shards(index, count))
            sizes = [os.fstat(file.fileno()).st_size for file in shards]
            for key, entry in entries.items():
                _require_inside(key, entry, sizes)
        yield Bundle(path=index, entries=entries, big_endian=big_endian, shards=shards)


def describe_entry(bundle: Bundle, key: str, name: str) -> Tensor:
    """Describe one tensor of a checkpoint.

    Args:
        bundle: The checkpoint.
        key: The tensor's key.
        name: What it shall be called.

    Returns:
        The tensor, to be read as long as the checkpoint is open. Its checksum is verified as its last bytes are read.

    Raises:
        ContentRefused: It is stored in slices, or of a type that is not read.
        RecordError: Its size does not fit its shape.
    """
    entry = bundle.entries[key]
    if entry.is_sliced:
        raise ContentRefused(bundle.path, f"{key!r} is stored in slices")
    if entry.dtype not in _DTYPES:
        raise ContentRefused(bundle.path, f"{key!r} has elements of the unknown type {entry.dtype}")
    dtype, width, numbers = _DTYPES[entry.dtype]
    elements = math.prod(entry.shape)
    nbytes: int | None = elements * width * numbers
    chunks = _chunk_reader(bundle, key, entry, width)
    if entry.dtype == _STRING:
        nbytes = None

        def chunks() -> Iterator[bytes]:
            for text in read_strings(bundle, key):
                yield len(text).to_bytes(8, "little") + text

    elif nbytes != entry.size_bytes:
        with reading(bundle.path, "a TensorFlow checkpoint"):
            raise ValueError(f"{key!r} of shape {entry.shape} has {entry.size_bytes} bytes")
    return Tensor(name=name, dtype=dtype, shape=entry.shape, nbytes=nbytes, chunks=chunks, origin=key)


def read_strings(bundle: Bundle, key: str) -> list[bytes]:
    """Read a tensor of strings.

    Args:
        bundle: The checkpoint.
        key: The tensor's key.

    Returns:
        Its strings in C order.

    Raises:
        RecordError: They are damaged.
        ContentRefused: They are larger than the limits allow.
    """
    entry = bundle.entries[key]
    count = math.prod(entry.shape)
    if entry.size_bytes > _MAX_STRING_BYTES or count > min(_MAX_STRINGS, entry.size_bytes):
        raise ContentRefused(bundle.path, f"{key!r} has {count} strings in {entry.size_bytes} bytes")
    with reading(bundle.path, "a TensorFlow checkpoint"):
        file = bundle.shards[entry.shard]
        file.seek(entry.offset)
        data = file.read(entry.size_bytes)
        lengths: list[int] = []
        position = 0
        for _ in range(count):
            length, position = parse_varint(data, position, len(data))
            lengths.append(length)
        # The checksum is over the lengths as fixed numbers, its own masked value, and the strings.
        crc = checksum(b"".join(length.to_bytes(4 if length < 1 << 32 else 8, "little") for length in lengths))
        stored = data[position : position + 4]
        position += 4
        if stored != mask_checksum(crc).to_bytes(4, "little") or position + sum(lengths) != len(data):
            raise ValueError(f"the lengths of the strings of {key!r} are damaged")
        if mask_checksum(checksum(data[position:], checksum(stored, crc))) != entry.crc:
            raise ValueError(f"{key!r} does not have its checksum")
        strings = []
        for length in lengths:
            strings.append(data[position : position + length])
            position += length
        return strings


def _read_index(index: Path) -> tuple[int, bool, dict[str, Entry]]:
    entries: dict[str, Entry] = {}
    header: tuple[int, bool] | None = None
    with index.open("rb") as file:
        for key, value in read_table(index, file):
            if header is None:
                if key != b"":
                    raise ValueError("the index has no header")
                header = _parse_header(index, value)
                continue
            if len(entries) == MAX_TENSORS:
                raise ContentRefused(index, f"it holds more than {MAX_TENSORS} tensors")
            if key.startswith(b"\0"):
                # The key of a slice, in an encoding of its own; the tensor that it belongs to says that it is sliced.
                continue
            if len(key) > MAX_NAME_BYTES:
                raise ContentRefused(index, f"the name {key[:40]!r}… is longer than {MAX_NAME_BYTES} bytes")
            entries[key.decode("utf-8")] = _parse_entry(index, value)
    if header is None:
        raise ValueError("the index has no header")
    return (*header, entries)


def _parse_header(index: Path, data: bytes) -> tuple[int, bool]:
    """BundleHeaderProto: the number of data files, and whether they are big-endian."""
    shards, order = 0, 0
    reader = ProtobufReader(io.BytesIO(data), len(data))
    for field in reader.read_fields(reader.whole):
        if field.number == 1:
            shards = field.value
        elif field.number == 2:
            order = field.value
    if not 1 <= shards <= _MAX_SHARDS:
        raise ContentRefused(index, f"it has {shards} data files")
    if order not in (0, 1):
        raise ValueError(f"the unknown byte order {order}")
    return shards, order == 1


def _parse_entry(index: Path, data: bytes) -> Entry:
    """BundleEntryProto."""
    numbers = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}
    shape: tuple[int, ...] = ()
    is_sliced = False
    reader = ProtobufReader(io.BytesIO(data), len(data))
    for field in reader.read_fields(reader.whole):
        if field.number == 2 and field.is_bytes:
            shape = _parse_shape(index, reader, field.span)
        elif field.number == 7:
            is_sliced = True
        elif field.number in numbers:
            numbers[field.number] = to_signed(field.value)
    if any(value < 0 for value in numbers.values()) or math.prod(shape) >= 1 << 62:
        raise ValueError("an entry has a size that is none")
    return Entry(
        dtype=numbers[1],
        shape=shape,
        shard=numbers[3],
        offset=numbers[4],
        size_bytes=numbers[5],
        crc=numbers[6],
        is_sliced=is_sliced,
    )


def _parse_shape(index: Path, reader: ProtobufReader, span: Span) -> tuple[int, ...]:
    """TensorShapeProto."""
    sizes: list[int] = []
    for field in reader.read_fields(span):
        if field.number == 3 and field.value:
            raise ValueError("a tensor of unknown shape")
        if field.number == 2 and field.is_bytes:
            if len(sizes) == MAX_DIMENSIONS:
                raise ContentRefused(index, f"a tensor has more than {MAX_DIMENSIONS} dimensions")
            size = next((to_signed(item.value) for item in reader.read_fields(field.span) if item.number == 1), 0)
            if size < 0:
                raise ValueError("a tensor has a size that is none")
            sizes.append(size)
    return tuple(sizes)


def _require_inside(key: str, entry: Entry, sizes: list[int]) -> None:
    if entry.is_sliced:
        return
    if entry.shard >= len(sizes):
        raise ValueError(f"{key!r} lies in the data file {entry.shard}, and there are {len(sizes)}")
    if entry.offset + entry.size_bytes > sizes[entry.shard]:
        raise EOFError(f"{key!r} reaches over the end of its data file")


def _open_regular(path: Path) -> BinaryIO:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{path.name} is no file")
        return path.open("rb")
    except FileNotFoundError as error:
        raise ValueError(f"{path.name}, which it needs, is not there") from error


def _chunk_reader(bundle: Bundle, key: str, entry: Entry, width: int) -> Callable[[], Iterator[bytes]]:
    def chunks() -> Iterator[bytes]:
        with reading(bundle.path, "a TensorFlow checkpoint"):
            file = bundle.shards[entry.shard]
            crc = 0
            for start in range(0, entry.size_bytes, SLAB_BYTES):
                file.seek(entry.offset + start)
                chunk = file.read(min(SLAB_BYTES, entry.size_bytes - start))
                crc = checksum(chunk, crc)
                yield _to_little_endian(chunk, width) if bundle.big_endian else chunk
            if mask_checksum(crc) != entry.crc:
                raise ValueError(f"{key!r} does not have its checksum")

    return chunks


def _to_little_endian(chunk: bytes, width: int) -> bytes:
    if width == 1:
        return chunk
    import numpy as np

    swapped: np.ndarray[Any, Any] = np.frombuffer(chunk, dtype=f">u{width}").astype(f"<u{width}")
    return swapped.tobytes()
