"""NumPy element types and arrays, in the spelling of the recipe `tensors-v1`.

Shared by the sources whose files NumPy can describe (`numpy`, `hdf5`). Pure: arrays in, bytes
out. NumPy is imported inside the functions, so that importing this module costs nothing.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from reprobox.errors import ContentRefused
from reprobox.records.models.tensors import SLAB_BYTES

if TYPE_CHECKING:
    import numpy as np

_PLAIN_NAMES: Final = frozenset(
    {
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    }
)
# A string costs far more in memory as a Python object than in its file.
_STRING_SLAB_ELEMENTS: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementType:
    """How the elements of an array are spelled.

    Attributes:
        name: The dtype name that is hashed.
        stored: The NumPy dtype of the encoded elements, little-endian and packed; None for strings, each of
            which is its length as u64le and its UTF-8 bytes.
    """

    name: str
    stored: np.dtype[Any] | None

    def count_bytes(self, shape: tuple[int, ...]) -> int | None:
        """Compute the length of the encoded elements.

        Args:
            shape: Shape of the whole array.

        Returns:
            The number of bytes, or None for strings.
        """
        return None if self.stored is None else math.prod(shape) * self.stored.itemsize


def describe_dtype(path: str | os.PathLike[str], dtype: np.dtype[Any]) -> ElementType:
    """Find the canonical name and encoding of a NumPy element type.

    Byte order, alignment and padding do not show in the result.

    Args:
        path: The file, for messages.
        dtype: The element type as the file has it.

    Returns:
        Its spelling: a plain name (`float32`), `datetime64[ns]`, `string` for NumPy's bytes and text,
        `opaque<n>` for n bytes without a meaning, `record[["field",type,[shape]],…]` for a structured type.

    Raises:
        ContentRefused: The type holds Python objects, depends on the platform (`float128`), or is unknown.
    """
    if dtype.hasobject:
        raise ContentRefused(path, "it holds Python objects, which only unpickling could read")
    if dtype.itemsize == 0:
        raise ContentRefused(path, f"elements of type {dtype} have no bytes")
    if dtype.kind in "SU":
        return ElementType(name="string", stored=None)
    return ElementType(name=_spell(path, dtype), stored=_pack(dtype))


def encode_array(array: np.ndarray[Any, Any], element: ElementType) -> bytes | memoryview:
    """Encode an array's elements in C order.

    Args:
        array: Any shape, byte order and memory layout; strings as NumPy's `S` or `U`, or as objects that are
            bytes or str.
        element: As `describe_dtype` found it for the file's element type.

    Returns:
        The bytes; a view of the array where it was in order already.
    """
    import numpy as np

    if element.stored is None:
        encoded = bytearray()
        for item in array.ravel(order="C").tolist():
            text = item if isinstance(item, bytes) else str(item).encode("utf-8", "surrogatepass")
            encoded += len(text).to_bytes(8, "little")
            encoded += text
        return bytes(encoded)
    packed = np.ascontiguousarray(array, dtype=element.stored)
    return packed.reshape(-1).view(np.uint8).data


def plan_slabs(
    shape: tuple[int, ...], element: ElementType, chunk: tuple[int, ...] | None = None
) -> Iterator[tuple[int | slice, ...]]:
    """Cut an array into pieces of at most 16 MiB which, one after the other, are the array in C order.

    Args:
        shape: Shape of the array.
        element: Its elements.
        chunk: Shape of the chunks in which the file stores it; cuts fall between chunks where that fits.

    Returns:
        Index tuples, each for the outermost axes; `()` where the array fits whole. None at all
        for an array without elements.
    """
    if 0 in shape:
        return
    item_bytes = SLAB_BYTES // _STRING_SLAB_ELEMENTS if element.stored is None else element.stored.itemsize
    yield from _cut(shape, max(1, item_bytes), chunk)


def _cut(shape: tuple[int, ...], item_bytes: int, chunk: tuple[int, ...] | None) -> Iterator[tuple[int | slice, ...]]:
    row_bytes = item_bytes * math.prod(shape[1:])
    if not shape or row_bytes * shape[0] <= SLAB_BYTES:
        yield ()
        return
    if row_bytes > SLAB_BYTES:
        for index in range(shape[0]):
            for rest in _cut(shape[1:], item_bytes, chunk[1:] if chunk else None):
                yield (index, *rest)
        return
    rows = SLAB_BYTES // row_bytes
    if chunk and rows > chunk[0]:
        rows -= rows % chunk[0]
    for start in range(0, shape[0], rows):
        yield (slice(start, min(start + rows, shape[0])),)


def _spell(path: str | os.PathLike[str], dtype: np.dtype[Any]) -> str:
    if dtype.names is not None:
        fields = []
        for name in dtype.names:
            field = dtype.fields[name][0] if dtype.fields is not None else dtype
            base, shape = field.subdtype if field.subdtype is not None else (field, ())
            fields.append([name, _spell(path, base), list(shape)])
        return "record" + json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    if dtype.kind in "SU":
        return f"{'bytes' if dtype.kind == 'S' else 'text'}{dtype.itemsize}"
    if dtype.kind == "V" and dtype.subdtype is None and dtype.itemsize > 0:
        return f"opaque{dtype.itemsize}"
    if dtype.kind in "mM" or dtype.name in _PLAIN_NAMES:
        return dtype.name
    raise ContentRefused(path, f"elements of type {dtype} have no portable bytes")


def _pack(dtype: np.dtype[Any]) -> np.dtype[Any]:
    import numpy as np

    if dtype.names is not None and dtype.fields is not None:
        return np.dtype([(name, _pack(dtype.fields[name][0])) for name in dtype.names])
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return np.dtype((_pack(base), shape))
    return dtype.newbyteorder("<")
