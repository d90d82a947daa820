"""Arrays of any library as bytes and back, without a change of one bit.

Libraries are used only where the program has imported them, or where a file holds an array of theirs.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, NamedTuple

from reprobox.runtime.errors import StateError, StateMismatch

_TYPES = (
    ("float64", "F64", 8), ("float32", "F32", 4), ("float16", "F16", 2), ("bfloat16", "BF16", 2),
    ("float8_e4m3fn", "F8_E4M3", 1), ("float8_e5m2", "F8_E5M2", 1), ("int64", "I64", 8), ("int32", "I32", 4),
    ("int16", "I16", 2), ("int8", "I8", 1), ("uint64", "U64", 8), ("uint32", "U32", 4), ("uint16", "U16", 2),
    ("uint8", "U8", 1), ("bool", "BOOL", 1), ("complex64", "C64", 8),
)  # fmt: skip
DTYPES = {name: short for name, short, _ in _TYPES}
"""What NumPy, PyTorch, TensorFlow and JAX all call a type → what a safetensors file calls it."""

ITEM_BYTES = {short: size for _, short, size in _TYPES}
"""Bytes of one number, by the name that a safetensors file has for its type."""

_NAMES = {short: name for name, short, _ in _TYPES}
_OUTSIDE_NUMPY = ("bfloat16", "float8_e4m3fn", "float8_e5m2")


class Array(NamedTuple):
    """An array of some library, as bytes.

    Attributes:
        kind: Whose: "numpy", "numpy-scalar", "torch", "tensorflow", "jax" or "jax-key".
        detail: What else is needed to make it again: of a JAX key, its implementation.
        dtype: As a safetensors file calls it.
        shape: Its extents.
        data: Little-endian, in C order.
    """

    kind: str
    detail: str | None
    dtype: str
    shape: tuple[int, ...]
    data: Any


def take_array(value: Any, where: str) -> Array | None:
    """Turn an array into bytes.

    Args:
        value: Anything.
        where: Its place, for errors.

    Returns:
        None where the value is no array that is known.

    Raises:
        StateError: It is an array of a type that cannot be kept.
    """
    numpy: Any = sys.modules.get("numpy")
    torch: Any = sys.modules.get("torch")
    jax: Any = sys.modules.get("jax")
    if torch is not None and isinstance(value, torch.Tensor):
        return _take_torch(torch, value, where)
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        return _take_numpy(numpy, value, where, "numpy" if isinstance(value, numpy.ndarray) else "numpy-scalar")
    # JAX and TensorFlow have imported NumPy themselves.
    if jax is not None and isinstance(value, jax.Array):
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            array = _take_numpy(numpy, jax.random.key_data(value), where, "jax-key")
            return array._replace(detail=str(jax.random.key_impl(value)))
        return _take_numpy(numpy, value, where, "jax")
    tensorflow: Any = sys.modules.get("tensorflow")
    if tensorflow is not None and isinstance(value, getattr(tensorflow, "Tensor", ())) and hasattr(value, "numpy"):
        return _take_numpy(numpy, value.numpy(), where, "tensorflow")
    return None


def _take_numpy(numpy: Any, value: Any, where: str, kind: str) -> Array:
    array = numpy.asarray(value)
    name = DTYPES.get(array.dtype.name)
    if name is None:
        raise StateError(
            f"{where}: an array of type {array.dtype} cannot be kept",
            hint="keep numbers or booleans: " + ", ".join(DTYPES),
        )
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and sys.byteorder == "big"):
        array = array.astype(array.dtype.newbyteorder("<"))
    shape = tuple(int(extent) for extent in array.shape)
    return Array(kind, None, name, shape, numpy.ascontiguousarray(array).tobytes())


def _take_torch(torch: Any, value: Any, where: str) -> Array:
    name = DTYPES.get(str(value.dtype).replace("torch.", ""))
    if name is None or value.layout is not torch.strided or value.is_meta:
        raise StateError(f"{where}: a tensor of type {value.dtype}, {value.layout} cannot be kept")
    flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8) if value.numel() else None
    data = b"" if flat is None else flat.numpy().tobytes() if "numpy" in sys.modules else bytes(flat.tolist())
    return Array("torch", None, name, tuple(int(extent) for extent in value.shape), data)


def give_array(array: Array, where: str) -> Any:
    """Make the array again that `take_array` took.

    Args:
        array: As it was returned.
        where: Its place, for errors.

    Returns:
        An array of the same library, on the CPU; never one that shares memory with anything else.

    Raises:
        StateMismatch: The library is not there, or cannot make such an array.
    """
    kind = array.kind
    library = kind.partition("-")[0]
    try:
        if kind == "torch":
            return _give_torch(importlib.import_module("torch"), array)
        value = _give_numpy(importlib.import_module("numpy"), array)
        if library == "numpy":
            return value[()] if kind == "numpy-scalar" else value
        if kind == "tensorflow":
            made = importlib.import_module("tensorflow").constant(value)
        elif kind == "jax-key":
            return importlib.import_module("jax").random.wrap_key_data(value, impl=array.detail)
        elif kind == "jax":
            made = importlib.import_module("jax").numpy.asarray(value)
        else:
            raise StateMismatch(f"{where}: an array of {kind!r}, which this version does not know")
    except ImportError as error:
        raise StateMismatch(f"{where}: an array of {library}, which cannot be imported: {error}") from error
    if _NAMES[array.dtype] not in str(made.dtype):
        raise StateMismatch(
            f"{where}: {library} makes {made.dtype} of what was {_NAMES[array.dtype]}",
            hint="with JAX, set jax_enable_x64 as it was when the file was written",
        )
    return made


def _give_numpy(numpy: Any, array: Array) -> Any:
    name = _NAMES[array.dtype]
    dtype = numpy.dtype(getattr(importlib.import_module("ml_dtypes"), name) if name in _OUTSIDE_NUMPY else name)
    return numpy.frombuffer(array.data, dtype=dtype.newbyteorder("<")).reshape(array.shape).astype(dtype, copy=True)


def _give_torch(torch: Any, array: Array) -> Any:
    dtype = getattr(torch, _NAMES[array.dtype])
    if not len(array.data):
        return torch.empty(array.shape, dtype=dtype)
    return torch.frombuffer(bytearray(array.data), dtype=torch.uint8).view(dtype).reshape(array.shape)
