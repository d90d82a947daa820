"""The recipe `tensors-v1/sha256`: named tensors in, one digest out. Pure; knows no file format.

A source (`numpy`, `safetensors`, `hdf5`) lists a file's tensors, `sort_tensors` checks
and orders the list, `digest_tensors` asks each tensor for its bytes in turn. Memory stays within a few slabs.

`docs/formats/digest-v1.md` is the specification; change it first.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from reprobox.errors import ContentRefused, RecordError

TENSORS_RECIPE: Final = "tensors-v1/sha256"

MAX_TENSORS: Final = 1_000_000
MAX_NAME_BYTES: Final = 4096
MAX_DIMENSIONS: Final = 64
SLAB_BYTES: Final = 16 << 20
"""How many bytes of a tensor are in memory at once, at most (strings and HDF5 chunks apart)."""

# What HDF5, NumPy and zip readers raise on a broken file, besides their own exception classes.
_BROKEN_FILE = (
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentDigest:
    """A digest of what a file means, whatever container it lies in.

    Attributes:
        recipe: How it was made, such as `tensors-v1/sha256`. Two digests compare only under one recipe.
        digest: 64 lower-case hexadecimal digits.
    """

    recipe: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One named tensor of a file.

    Attributes:
        name: The name that is hashed: canonical for Keras files, the file's own otherwise.
        dtype: The name of the element type that is hashed, such as `float32`, `bfloat16` or `string`.
        shape: Dimensions, outermost first; empty for a scalar.
        nbytes: Length of the encoded elements; None where only reading them tells (strings).
        chunks: Gives the encoded elements, little-endian and in C order, in pieces. May be called again while
            the file is open.
        origin: Where in the file it lies.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int | None
    chunks: Callable[[], Iterator[bytes | memoryview]]
    origin: str


@contextmanager
def reading(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Turn whatever a parser raises on a broken file into a `RecordError`.

    Args:
        path: The file, for the message.
        what: Its format, for the message.

    Raises:
        RecordError: The block raised one of the exceptions that parsers raise on broken input.
    """
    try:
        yield
    except _BROKEN_FILE as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RecordError(f"{os.fspath(path)}: cannot be read as {what}: {reason}") from error


def sort_tensors(path: str | os.PathLike[str], tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Check a file's list of tensors and put it in the order of the recipe.

    Args:
        path: The file, for messages.
        tensors: Its tensors in any order.

    Returns:
        The tensors by the UTF-8 bytes of their names.

    Raises:
        ContentRefused: More than `MAX_TENSORS` tensors, a name over `MAX_NAME_BYTES`, more than
            `MAX_DIMENSIONS` dimensions, or a name that is no Unicode text.
        RecordError: Two tensors have one name, or a dimension is no size.
    """
    named: list[tuple[bytes, Tensor]] = []
    for tensor in tensors:
        if len(named) == MAX_TENSORS:
            raise ContentRefused(path, f"it holds more than {MAX_TENSORS} tensors")
        try:
            name = tensor.name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ContentRefused(path, f"the name {tensor.name!r} is no Unicode text") from error
        if len(name) > MAX_NAME_BYTES:
            raise ContentRefused(path, f"the name {tensor.name[:40]!r}… is longer than {MAX_NAME_BYTES} bytes")
        if len(tensor.shape) > MAX_DIMENSIONS:
            raise ContentRefused(path, f"{tensor.name!r} has more than {MAX_DIMENSIONS} dimensions")
        if not all(0 <= size < 1 << 63 for size in tensor.shape):
            raise RecordError(f"{os.fspath(path)}: {tensor.name!r} has a dimension that is no size")
        named.append((name, tensor))
    named.sort(key=lambda pair: pair[0])
    for (first, _), (second, tensor) in pairwise(named):
        if first == second:
            raise RecordError(f"{os.fspath(path)}: two tensors have the name {tensor.name!r}")
    return tuple(tensor for _, tensor in named)


def digest_tensors(tensors: Iterable[Tensor], recipe: str = TENSORS_RECIPE) -> ContentDigest:
    """Hash named tensors, each with its length before it, so that no two lists share an encoding.

    Args:
        tensors: In the order that `sort_tensors` gives. Each is read before the next one is asked for.
        recipe: Of what they are; its name without `/sha256` is hashed first.

    Returns:
        The digest under the recipe.

    Raises:
        RecordError: A tensor gave another number of bytes than it announced, or the names do not rise.
    """
    state = hashlib.sha256(f"reprobox {recipe.removesuffix('/sha256')}\n".encode())
    last = None
    for tensor in tensors:
        name = tensor.name.encode("utf-8")
        if last is not None and name <= last:
            raise RecordError(f"tensor names are out of order at {tensor.name!r}")
        last = name
        dtype = tensor.dtype.encode("utf-8")
        announced = tensor.nbytes
        if announced is None:
            announced = sum(len(chunk) for chunk in tensor.chunks())
        state.update(_u64(len(name)) + name + _u64(len(dtype)) + dtype)
        state.update(_u64(len(tensor.shape)) + b"".join(_u64(size) for size in tensor.shape))
        state.update(_u64(announced))
        count = 0
        for chunk in tensor.chunks():
            state.update(chunk)
            count += len(chunk)
        if count != announced:
            raise RecordError(f"tensor {tensor.origin!r} announced {announced} bytes and gave {count}")
    return ContentDigest(recipe=recipe, digest=state.hexdigest())


def _u64(value: int) -> bytes:
    return value.to_bytes(8, "little")
