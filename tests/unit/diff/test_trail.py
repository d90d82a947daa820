"""Where two trails part."""

from __future__ import annotations

import json
from typing import Any

from reprobox.diff.trail import compare_trails, find_divergence, parse_trail

READ = {
    "event": "read",
    "of": "a.csv",
    "where": "train.py:3",
    "data": {"result": {"shape": [3, 2], "digest": "d", "rows": "r"}},
}
FIT = {
    "event": "fit",
    "of": "Ridge",
    "where": "train.py:5",
    "data": {"X": {"shape": [3, 1], "digest": "x"}, "y": {"digest": "y"}},
    "state": "s",
}
SCORE = {"event": "score", "of": "r2_score", "where": "train.py:6", "data": {}, "value": 0.5}
TRAIL = [READ, FIT, SCORE]


def _with(event: dict[str, Any], **changes: Any) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(event))
    for path, value in changes.items():
        place: Any = changed
        *way, last = path.split("__")
        for key in way:
            place = place[key]
        place[last] = value
    return changed


def test_equal_trails_do_not_part() -> None:
    assert find_divergence(TRAIL, TRAIL) is None
    assert compare_trails(TRAIL, TRAIL) == ()


def test_the_first_stage_is_named_not_the_last() -> None:
    """What follows from the first difference is no news."""
    other = [READ, _with(FIT, state="t"), _with(SCORE, value=0.4)]
    found = find_divergence(TRAIL, other)
    assert found is not None
    assert (found.stage, found.of, found.where) == ("fit", "Ridge", "train.py:5")


def test_rows_in_another_order_are_called_that() -> None:
    found = find_divergence(TRAIL, [_with(READ, data__result__digest="e")])
    assert found is not None
    assert "same rows in another order" in found.sentence


def test_classes_under_other_numbers_are_called_that() -> None:
    old, new = (_with(FIT, data__y={"shape": [3], "digest": digest, "pattern": "p"}) for digest in "ab")
    found = find_divergence([old], [new])
    assert found is not None
    assert "same classes under other numbers" in found.sentence


def test_another_shape_is_said_in_numbers() -> None:
    found = find_divergence(TRAIL, [_with(READ, data__result__shape=[2, 2])])
    assert found is not None
    assert "3×2 and 2×2" in found.sentence


def test_what_only_one_run_does_is_said() -> None:
    found = find_divergence(TRAIL, TRAIL[:2])
    assert found is not None
    assert "only the first run does this" in found.sentence


def test_a_trail_without_stages_tells_nothing() -> None:
    """It was not asked for, or is of a version that noted none."""
    for a, b in ((TRAIL, []), ([], TRAIL), ([], [])):
        assert find_divergence(a, b) is None
        assert compare_trails(a, b) == ()


def test_what_one_side_did_not_look_at_is_no_difference() -> None:
    """A cap keeps a digest away; that is no evidence."""
    capped = _with(FIT)
    del capped["data"]["X"]["digest"], capped["state"]
    assert find_divergence([FIT], [capped]) is None


def test_events_that_are_no_stages_do_not_matter() -> None:
    """Seeds, faults and files opened are not what a result is made of."""
    noise = [{"event": "seeded", "module": "numpy"}, {"event": "open", "of": "a", "mode": "read"}]
    assert find_divergence(TRAIL, [*noise, *TRAIL]) is None


def test_a_line_that_is_cut_counts_for_nothing() -> None:
    data = b"\n".join(json.dumps(event).encode() for event in TRAIL) + b'\n{"event": "fi'
    assert list(parse_trail(data)) == TRAIL
    assert parse_trail(b"[1]\nnull\n\xff\n" + b"[" * 100_000) == ()


def test_stages_of_two_programs_are_matched_by_name() -> None:
    found = compare_trails(TRAIL, [READ, SCORE])
    assert [(row.factor, row.kind) for row in found] == [("stage:fit Ridge", "removed")]
