"""Differences of tensors, as text for people and as a document for programs. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from reprobox.records.metrics import encode_metric
from reprobox.records.models.difference import TensorDifference

_ORDER: Final = {"only-a": 0, "only-b": 1, "dtype": 2, "shape": 3, "values": 4}


def render_differences(differences: Sequence[TensorDifference], name_a: str, name_b: str) -> list[str]:
    """Render what differs, what is missing first, then what moved, the largest distance first.

    Args:
        differences: What differs.
        name_a: What the first file is called.
        name_b: What the second file is called.

    Returns:
        Lines.
    """
    if not differences:
        return [f"equal: {name_a} and {name_b} hold the same tensors, bit for bit"]
    lines = []
    for item in sorted(differences, key=_rank):
        a, b = _type_of(item.dtype_a, item.shape_a), _type_of(item.dtype_b, item.shape_b)
        if item.change == "only-a":
            lines.append(f"{item.name}  only in {name_a}: {a}")
        elif item.change == "only-b":
            lines.append(f"{item.name}  only in {name_b}: {b}")
        elif item.change in ("dtype", "shape"):
            lines.append(f"{item.name}  {a} -> {b}")
        else:
            lines.append(f"{item.name}  {a}  {_figures(item)}")
    return lines


def render_difference_document(differences: Sequence[TensorDifference], name_a: str, name_b: str) -> dict[str, Any]:
    """Render what differs for `--json`.

    Args:
        differences: What differs.
        name_a: What the first file is called.
        name_b: What the second file is called.

    Returns:
        `identical`, `a`, `b`, and `tensors`: by name, with the attributes of `TensorDifference` as keys. NaN and the
        infinities are strings.
    """
    rows = [
        {
            "name": item.name,
            "change": item.change,
            "dtype_a": item.dtype_a,
            "dtype_b": item.dtype_b,
            "shape_a": None if item.shape_a is None else list(item.shape_a),
            "shape_b": None if item.shape_b is None else list(item.shape_b),
            "elements": item.elements,
            "differing": item.differing,
            "nan": item.nan,
            "max_absolute": _number(item.max_absolute),
            "mean_absolute": _number(item.mean_absolute),
            "max_ulp": item.max_ulp,
            "cosine": _number(item.cosine),
        }
        for item in differences
    ]
    return {"identical": not differences, "a": name_a, "b": name_b, "tensors": rows}


def _rank(item: TensorDifference) -> tuple[int, float, str]:
    # Where NaN came or went there is no distance, and nothing is further off.
    distance = math.inf if item.nan else float(item.max_absolute or 0)
    return (_ORDER[item.change], -distance, item.name)


def _type_of(dtype: str | None, shape: tuple[int, ...] | None) -> str:
    return f"{dtype}[{', '.join(map(str, shape or ()))}]"


def _figures(item: TensorDifference) -> str:
    if item.differing is None:
        return "differs"
    parts = [f"{item.differing} of {item.elements} differ"]
    if item.nan:
        parts.append(f"{item.nan} with NaN")
    if item.max_absolute is not None:
        parts.append(f"max {item.max_absolute:.6g}")
    if item.mean_absolute is not None:
        parts.append(f"mean {item.mean_absolute:.6g}")
    if item.max_ulp is not None:
        parts.append(f"max {item.max_ulp} ulp")
    if item.cosine is not None:
        parts.append(f"cosine {item.cosine:.9g}")
    return ", ".join(parts)


def _number(value: float | int | None) -> Any:
    return None if value is None else encode_metric(value)
