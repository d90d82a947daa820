"""Values of a program as JSON and arrays, and back. Pure, and exact: what comes back is equal, type by type.

JSON has fewer types than Python has, so what it lacks is written as an object with one key that begins with "$".
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

from reprobox.runtime.arrays import Array, give_array, take_array
from reprobox.runtime.errors import StateError, StateUnreadable


def encode(value: Any, where: str) -> tuple[Any, dict[str, Array]]:
    """Turn a value into JSON and arrays.

    Args:
        value: None, bool, int, float, str, bytes, lists, tuples and dictionaries of these, and arrays of NumPy,
            PyTorch, TensorFlow and JAX (keys of JAX among them).
        where: What to call it, in names of arrays and in errors.

    Returns:
        What `json` can write, and the arrays by the names that it holds.

    Raises:
        StateError: There is something of another type in it.
    """
    arrays: dict[str, Array] = {}
    return _encode(value, where, arrays), arrays


def _encode(value: Any, where: str, arrays: dict[str, Array]) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if type(value) is list:
        return [_encode(item, f"{where}/{index}", arrays) for index, item in enumerate(value)]
    if type(value) is tuple:
        return {"$tuple": _encode(list(value), where, arrays)}
    if isinstance(value, Mapping):
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: _encode(item, f"{where}/{key}", arrays) for key, item in value.items()}
        pairs = [[_encode(key, where, arrays), _encode(item, f"{where}/{key}", arrays)] for key, item in value.items()]
        return {"$pairs": pairs}
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    array = take_array(value, where)
    if array is not None:
        name = where
        while name in arrays:
            name += "'"
        arrays[name] = array
        leaf = {"$array": name, "kind": array.kind}
        return dict(leaf, detail=array.detail) if array.detail is not None else leaf
    raise StateError(
        f"{where}: {type(value).__module__}.{type(value).__qualname__} cannot be kept",
        hint="keep numbers, text, arrays, and lists, tuples and dictionaries of these",
    )


def decode(value: Any, arrays: Mapping[str, Array]) -> Any:
    """Make the value again that `encode` was given.

    Args:
        value: What `json` has read.
        arrays: Arrays by name; their kinds are in the value.

    Raises:
        StateUnreadable: It is not what `encode` writes.
        StateMismatch: An array cannot be made here.
    """
    if isinstance(value, list):
        return [decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    mark = next((key for key in value if key.startswith("$")), None)
    try:
        if mark is None:
            return {key: decode(item, arrays) for key, item in value.items()}
        inner = value[mark]
        if mark == "$float":
            return float(inner)
        if mark == "$tuple":
            return tuple(decode(inner, arrays))
        if mark == "$pairs":
            return {decode(key, arrays): decode(item, arrays) for key, item in inner}
        if mark == "$bytes":
            return base64.b64decode(inner, validate=True)
        if mark == "$array":
            return give_array(arrays[inner]._replace(kind=value["kind"], detail=value.get("detail")), inner)
    except (KeyError, TypeError, ValueError) as error:
        raise StateUnreadable(f"a value that cannot be read: {mark}: {error}") from error
    raise StateUnreadable(f"a value of a kind that this version does not know: {mark}")
