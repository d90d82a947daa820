"""The trail of a run, and where two of them part. Pure.

The guest shim notes what happened at each stage: data read, estimators fitted, weights saved and loaded, predictions
made, metrics computed. Two runs of one program on the same bits leave equal trails; the first event that differs is
where they parted. Format: docs/formats/trail-v1.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from reprobox.diff.compare import Difference, Kind

Event = Mapping[str, Any]

STAGES: Final[dict[str, str]] = {
    "read": "data read",
    "fit": "fitted",
    "transform": "features",
    "save": "saved",
    "load": "loaded",
    "predict": "predictions",
    "evaluate": "evaluated",
    "score": "metric",
}
"""Kinds of events that are stages, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """The first stage at which two trails part.

    Attributes:
        stage: Its kind, one of `STAGES`.
        of: What it was done with: a class, a file, a metric.
        where: File and line of the user's code in the first trail, or None where only the second has the event.
        sentence: What differs there, for people.
    """

    stage: str
    of: str
    where: str | None
    sentence: str


def parse_trail(data: bytes) -> tuple[Event, ...]:
    """Parse a trail; a line that is none, as a killed process leaves it, is passed over."""
    events = []
    for line in data.splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            events.append(event)
    return tuple(events)


def find_contents(trail: Sequence[Event]) -> dict[str, tuple[str, str]]:
    """Find what files hold that only the program itself could look into, such as pickles.

    Returns:
        Path → recipe and digest, for files that were written once after they were last opened for writing, and whose
        content the shim knew whole.
    """
    saves: dict[str, list[Event]] = {}
    for event in trail:
        path = str(event.get("of"))
        if event["event"] == "open" and event.get("mode") == "write":
            saves[path] = []
        elif event["event"] == "save":
            saves.setdefault(path, []).append(event)
    found = {}
    for path, events in saves.items():
        content = events[0].get("content") if len(events) == 1 else None
        if isinstance(content, dict) and not events[0].get("more"):
            found[path] = (str(content.get("recipe")), str(content.get("digest")))
    return found


def list_stages(trail: Sequence[Event]) -> tuple[Event, ...]:
    """Those events of a trail that are stages, in order."""
    return tuple(event for event in trail if event["event"] in STAGES)


def find_divergence(a: Sequence[Event], b: Sequence[Event]) -> Divergence | None:
    """Find the first stage at which two runs of one program part.

    Args:
        a: The first run's trail.
        b: The second's.

    Returns:
        The stage, or None where all stages are equal, or one of the trails has none: it was not asked for, or was left
        by a version that noted none.
    """
    first, second = list_stages(a), list_stages(b)
    if not first or not second:
        return None
    for old, new in zip(first, second, strict=False):
        if (old["event"], old.get("of")) != (new["event"], new.get("of")):
            return _describe(
                old, f"the runs do different things here: {_name(old)}, and {_name(new)} at {new.get('where')}"
            )
        parts = compare_events(old, new)
        if parts:
            return _describe(old, "; ".join(parts))
    if len(first) != len(second):
        longer = first if len(first) > len(second) else second
        extra = longer[min(len(first), len(second))]
        whose = "the first" if longer is first else "the second"
        return _describe(extra, f"only {whose} run does this: {_name(extra)}")
    return None


def compare_trails(a: Sequence[Event], b: Sequence[Event]) -> tuple[Difference, ...]:
    """Compare two trails stage by stage, for a tree of differences.

    Of two programs that do different things, the stages are matched by kind, name and number. Where one of the trails
    has none, nothing can be said.
    """
    first, second = _number_stages(a), _number_stages(b)
    if not first or not second:
        return ()
    found = []
    for key in [*first, *(key for key in second if key not in first)]:
        old, new = first.get(key), second.get(key)
        kind, of, number = key
        factor = f"stage:{kind} {of}" + (f" #{number}" if number > 1 else "")
        if old is None or new is None:
            one = old or new or {}
            where = str(one.get("where"))
            how: Kind = "removed" if new is None else "added"
            found.append(Difference(factor=factor, kind=how, a=where if old else None, b=where if new else None))
            continue
        parts = compare_events(old, new)
        reverse = compare_events(new, old)
        if parts:
            found.append(Difference(factor=factor, kind="changed", a="; ".join(parts), b="; ".join(reverse)))
    return tuple(found)


def _number_stages(trail: Sequence[Event]) -> dict[tuple[str, str, int], Event]:
    numbered: dict[tuple[str, str, int], Event] = {}
    counts: dict[tuple[str, str], int] = {}
    for event in list_stages(trail):
        key = (event["event"], str(event.get("of", "")))
        counts[key] = counts.get(key, 0) + 1
        numbered[*key, counts[key]] = event
    return numbered


def compare_events(a: Event, b: Event) -> list[str]:
    """Say in what two events of one kind differ, a clause for each part; empty where they are equal.

    What one of the two does not know, because a cap kept it from looking, is no difference.
    """
    found = []
    for part in sorted({*a.get("data", {}), *b.get("data", {})}):
        old, new = a.get("data", {}).get(part), b.get("data", {}).get(part)
        if old is None or new is None:
            found.append(f"{part} is given in one of the runs alone")
            continue
        difference = compare_data(old, new)
        if difference:
            found.append(f"{part} {difference}")
    for key, words in (("state", "what it learned"), ("weights", "the weights"), ("file", "the file's bytes")):
        if key in a and key in b and a[key] != b[key]:
            found.append(f"{words} differ")
    if "value" in a and "value" in b and a["value"] != b["value"]:
        found.append(f"the value is {a['value']} and {b['value']}")
    return found


def compare_data(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """Say how one piece of data differs from another, as a clause; None where they cannot be told apart."""
    if a.get("shape") != b.get("shape"):
        return f"has the shape {_shape(a)} and {_shape(b)}"
    if a.get("dtype") != b.get("dtype"):
        return f"has the type {a.get('dtype')} and {b.get('dtype')}"
    if a.get("columns") != b.get("columns"):
        return "has other columns"
    if "digest" not in a or "digest" not in b or a["digest"] == b["digest"]:
        return None
    if a.get("rows") is not None and a.get("rows") == b.get("rows"):
        return "has the same rows in another order"
    if a.get("pattern") is not None and a.get("pattern") == b.get("pattern"):
        return "has the same classes under other numbers"
    return f"has other values{_show_summary(a, b)}"


def _show_summary(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Means side by side where both sides have them and they tell the two apart."""
    means = [data.get("summary", {}).get("mean") for data in (a, b)]
    if None in means or means[0] == means[1]:
        return ""
    old, new = (_first_different(means[0], means[1], side) for side in (0, 1))
    return f" (mean {old} and {new})"


def _first_different(old: Any, new: Any, side: int) -> str:
    if not isinstance(old, list) or not isinstance(new, list):
        return str((old, new)[side])
    for column, pair in enumerate(zip(old, new, strict=False)):
        if pair[0] != pair[1]:
            return f"{pair[side]} in column {column}"
    return str((old, new)[side])


def _describe(event: Event, sentence: str) -> Divergence:
    return Divergence(stage=event["event"], of=str(event.get("of", "")), where=event.get("where"), sentence=sentence)


def _name(event: Event) -> str:
    return f"{event['event']} {event.get('of', '')}".strip()


def _shape(data: Mapping[str, Any]) -> str:
    shape = data.get("shape")
    return "×".join(map(str, shape)) if isinstance(shape, list) and shape else str(shape)
