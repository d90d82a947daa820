"""Metrics: the numbers in a run's `*metrics*.json`, and whether two runs agree on them. Pure.

Two metrics are equal if they are the same IEEE double, bit for bit: 0.0 is not -0.0, NaN is NaN, 1 is 1.0.
"""

from __future__ import annotations

import fnmatch
import json
import math
import os
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from reprobox.errors import RecordError

Metric = float | int
"""A metric's value. Never a bool; NaN and the infinities are allowed."""

METRICS_PATTERN: Final = "*metrics*.json"
"""Files of this name are metrics files unless `reprobox.toml` names others."""

_NAMELESS: Final = "value"
_NON_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricComparison:
    """One metric, as trained and as evaluated.

    Attributes:
        metric: Its name.
        trained: Its value after training.
        evaluated: Its value at evaluation.
        equal: True if both are the same double, or the same integer.
        difference: `evaluated - trained`, in the metric's own unit; 0 where both are equal, NaN where one is.
    """

    metric: str
    trained: Metric
    evaluated: Metric
    equal: bool
    difference: Metric


def is_metrics_file(path: str | os.PathLike[str]) -> bool:
    """Tell by its name whether a file holds metrics.

    Args:
        path: Any path; only the last part counts.

    Returns:
        True for `*metrics*.json`, in lower case.
    """
    return fnmatch.fnmatchcase(PurePath(path).name, METRICS_PATTERN)


def parse_metrics(text: str, source: str) -> dict[str, Metric]:
    """Find the numbers in a JSON document.

    Args:
        text: The document. `NaN`, `Infinity` and `-Infinity` are numbers, as Python's `json` writes them.
        source: Where it comes from, for messages.

    Returns:
        Name → number, in the order of the document. A nested key is joined with dots, an item of a list has
        its index as its name (`history.0.loss`), and a document that is one number is called `value`.
        Booleans, strings and null are left out.

    Raises:
        RecordError: The text is no JSON, or gives one name to two numbers that differ.
    """
    try:
        document = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_Members)
    except RecursionError as error:
        raise RecordError(f"{source}: nested too deeply") from error
    except ValueError as error:
        raise RecordError(f"{source}: is no JSON document: {error}") from error
    metrics: dict[str, Metric] = {}
    for name, value in _walk(document):
        if name in metrics and not _is_equal(metrics[name], value):
            raise RecordError(f"{source}: has two values for the metric {name!r}: {metrics[name]} and {value}")
        metrics.setdefault(name, value)
    return metrics


def merge_metrics(metrics_by_path: Mapping[str, Mapping[str, Metric]]) -> dict[str, Metric]:
    """Join the metrics of several files.

    Args:
        metrics_by_path: Path → metrics, as `parse_metrics` gives them.

    Returns:
        Name → number, by name. A name to which several files give different values becomes `path:name` for
        each of them.
    """
    holders: defaultdict[str, dict[str, Metric]] = defaultdict(dict)
    for path in sorted(metrics_by_path):
        for name, value in metrics_by_path[path].items():
            holders[name][path] = value
    merged: dict[str, Metric] = {}
    for name, values in holders.items():
        first, *others = values.values()
        if all(_is_equal(first, other) for other in others):
            labelled = {name: first}
        else:
            labelled = {f"{path}:{name}": value for path, value in values.items()}
        for label, value in labelled.items():
            merged[_find_free(label, merged)] = value
    return dict(sorted(merged.items()))


def compare_metrics(trained: Mapping[str, Metric], evaluated: Mapping[str, Metric]) -> tuple[MetricComparison, ...]:
    """Compare the metrics that two runs have in common.

    Args:
        trained: Name → number, after training.
        evaluated: Name → number, at evaluation.

    Returns:
        One comparison for each name that both have, by name.
    """
    return tuple(_compare(name, trained[name], evaluated[name]) for name in sorted(trained.keys() & evaluated.keys()))


def format_metric(value: Metric) -> str:
    """Spell a metric so that it reads back to the same double.

    Args:
        value: The number.

    Returns:
        The shortest such text: `0.93`, `1e-07`, `42`, `NaN`, `-Infinity`.
    """
    encoded = encode_metric(value)
    return encoded if isinstance(encoded, str) else repr(encoded)


def encode_metric(value: Metric) -> Metric | str:
    """Make a metric a JSON value.

    Args:
        value: The number.

    Returns:
        The number itself, or `"NaN"`, `"Infinity"` or `"-Infinity"`, for which JSON has no number.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def decode_metric(value: object) -> Metric:
    """Read a metric from a JSON value, undoing `encode_metric`.

    Args:
        value: A number, or one of the three strings.

    Returns:
        The number.

    Raises:
        RecordError: It is anything else.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value in _NON_FINITE:
        return _NON_FINITE[value]
    raise RecordError(f"not a metric: {value!r}")


class _Members(list[tuple[str, object]]):
    """The members of a JSON object, those with one name too."""


def _walk(document: object) -> Iterator[tuple[str, Metric]]:
    pending: list[tuple[str, object]] = [("", document)]
    while pending:
        name, value = pending.pop()
        if isinstance(value, list):
            members = value if isinstance(value, _Members) else [(str(i), item) for i, item in enumerate(value)]
            pending.extend((f"{name}.{key}" if name else key, item) for key, item in reversed(members))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name or _NAMELESS, value


def _find_free(label: str, taken: Mapping[str, Metric]) -> str:
    """A metric may itself be called `path:name`; the later one then gets a number."""
    free, number = label, 1
    while free in taken:
        number += 1
        free = f"{label}#{number}"
    return free


def _compare(name: str, trained: Metric, evaluated: Metric) -> MetricComparison:
    equal = _is_equal(trained, evaluated)
    if isinstance(trained, int) and isinstance(evaluated, int):
        difference: Metric = evaluated - trained
    else:
        difference = 0.0 if equal else _to_double(evaluated) - _to_double(trained)
    return MetricComparison(metric=name, trained=trained, evaluated=evaluated, equal=equal, difference=difference)


def _is_equal(a: Metric, b: Metric) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    a, b = _to_double(a), _to_double(b)
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return struct.pack("<d", a) == struct.pack("<d", b)


def _to_double(value: Metric) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
