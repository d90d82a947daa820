"""Metrics: reading, joining, comparing."""

from __future__ import annotations

import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.errors import RecordError
from reprobox.records.metrics import (
    MetricComparison,
    compare_metrics,
    decode_metric,
    encode_metric,
    format_metric,
    is_metrics_file,
    merge_metrics,
    parse_metrics,
)

numbers = st.integers() | st.floats()
named_numbers = st.dictionaries(st.text(max_size=6), numbers, max_size=6)


def test_numbers_are_found_by_their_place() -> None:
    """Nested keys are joined with dots, lists count from zero, and nothing but numbers is a metric."""
    text = '{"acc": 0.5, "n": 3, "ok": true, "who": "me", "no": null, "val": {"loss": 1e-7, "h": [1, {"x": 2}, "y"]}}'
    assert parse_metrics(text, "metrics.json") == {
        "acc": 0.5,
        "n": 3,
        "val.loss": 1e-7,
        "val.h.0": 1,
        "val.h.1.x": 2,
    }


def test_numbers_that_json_does_not_have_are_read() -> None:
    """NaN and the infinities are numbers here, as Python writes them; a lone number is called value."""
    found = parse_metrics('{"a": NaN, "b": [Infinity, -Infinity], "c": 1e999}', "m")
    assert math.isnan(found["a"])
    assert (found["b.0"], found["b.1"], found["c"]) == (math.inf, -math.inf, math.inf)
    assert parse_metrics("\ufeff0.25", "m") == {"value": 0.25}
    assert parse_metrics("[]", "m") == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON"),
        ('{"a": 1', "no JSON"),
        ("{'a': 1}", "no JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("1" * 5000, "no JSON"),
        ('{"a": 1, "a": 2}', "two values for the metric 'a'"),
        ('{"a.b": 1, "a": {"b": 2}}', "two values for the metric 'a.b'"),
    ],
)
def test_a_document_that_cannot_be_read_names_its_source(text: str, reason: str) -> None:
    """Whatever is wrong is a RecordError with the source and the reason."""
    with pytest.raises(RecordError, match=f"^runs/metrics.json: .*{reason}"):
        parse_metrics(text, "runs/metrics.json")


@given(st.dictionaries(st.text(st.characters(exclude_characters="."), min_size=1), numbers, max_size=8))
def test_parsing_undoes_writing(values: dict[str, float | int]) -> None:
    """What Python's json writes is read back, each number to the bit."""
    found = parse_metrics(json.dumps(values), "m")
    assert found.keys() == values.keys()
    assert all(row.equal for row in compare_metrics(values, found))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metrics.json", True),
        ("out/val_metrics-1.json", True),
        ("metrics/loss.json", False),
        ("Metrics.json", False),
        ("metrics.JSON", False),
        ("metrics.jsonl", False),
        ("metric.json", False),
    ],
)
def test_the_name_makes_a_metrics_file(path: str, expected: bool) -> None:
    """Only the last part of the path counts, and case matters."""
    assert is_metrics_file(path) is expected


def test_files_that_disagree_keep_their_paths() -> None:
    """A name with one value everywhere stays; with several values it becomes path:name in each file that has it."""
    merged = merge_metrics(
        {
            "b/metrics.json": {"acc": 0.5, "n": 3, "z": math.nan},
            "a/metrics.json": {"acc": 0.25, "n": 3.0, "z": math.nan, "only": 1},
            "c/metrics.json": {"acc": 0.25},
        }
    )
    assert list(merged) == ["a/metrics.json:acc", "b/metrics.json:acc", "c/metrics.json:acc", "n", "only", "z"]
    assert merged["b/metrics.json:acc"] == 0.5


def test_no_metric_is_lost_to_a_name_that_is_taken() -> None:
    """A metric that is itself called path:name does not hide another one."""
    merged = merge_metrics({"a": {"x": 1, "a:x": 7}, "b": {"x": 2}})
    assert sorted(merged.values()) == [1, 2, 7]


@given(st.dictionaries(st.text(max_size=4), named_numbers, max_size=4))
def test_merging_ignores_the_order_of_files(files: dict[str, dict[str, float | int]]) -> None:
    """Which file was read first does not show in names or values."""
    merged, reverse = merge_metrics(files), merge_metrics(dict(reversed(files.items())))
    assert list(merged) == list(reverse) == sorted(merged)
    assert all(row.equal for row in compare_metrics(merged, reverse))


@pytest.mark.parametrize(
    ("trained", "evaluated", "equal", "difference"),
    [
        (0.5, 0.25, False, -0.25),
        (1, 1.0, True, 0.0),
        (0.0, -0.0, False, 0.0),
        (math.nan, math.nan, True, 0.0),
        (math.inf, math.inf, True, 0.0),
        (math.inf, 1.0, False, -math.inf),
        (2**53, 2**53 + 1, False, 1),
        (10**400, 1.0, False, -math.inf),
        (0.1 + 0.2, 0.3, False, 0.3 - (0.1 + 0.2)),
    ],
)
def test_equality_is_that_of_bits(trained: float, evaluated: float, equal: bool, difference: float) -> None:
    """Two metrics are equal if they are one double; the difference is what evaluation gave more."""
    assert compare_metrics({"m": trained}, {"m": evaluated}) == (
        MetricComparison(metric="m", trained=trained, evaluated=evaluated, equal=equal, difference=difference),
    )


def test_a_number_against_nan_differs_by_nan() -> None:
    """NaN equals only NaN, and no difference to it is a number."""
    (row,) = compare_metrics({"m": 1.0}, {"m": math.nan})
    assert not row.equal
    assert math.isnan(row.difference)


@given(named_numbers)
def test_comparing_with_itself_finds_all_equal(values: dict[str, float | int]) -> None:
    """compare(a, a) has one row for each metric, by name, equal and without a difference."""
    rows = compare_metrics(values, values)
    assert [row.metric for row in rows] == sorted(values)
    assert all(row.equal and row.difference == 0 for row in rows)


@given(named_numbers, named_numbers)
def test_comparing_the_other_way_is_the_reverse(a: dict[str, float | int], b: dict[str, float | int]) -> None:
    """compare(b, a) has the rows of compare(a, b), with the sides and the sign of the difference exchanged."""
    forth, back = compare_metrics(a, b), compare_metrics(b, a)
    assert [(row.metric, row.equal) for row in forth] == [(row.metric, row.equal) for row in back]
    for row, reverse in zip(forth, back, strict=True):
        assert row.difference == -reverse.difference or math.isnan(row.difference)


@given(st.floats())
def test_equal_doubles_are_equal_bits(value: float) -> None:
    """A double equals itself and differs from its neighbour."""
    assert compare_metrics({"m": value}, {"m": value})[0].equal
    neighbour = math.nextafter(value, math.inf)
    same = struct.pack("<d", value) == struct.pack("<d", neighbour) or math.isnan(value)
    assert compare_metrics({"m": value}, {"m": neighbour})[0].equal is same


@given(numbers)
def test_the_spelling_of_a_metric_reads_back(value: float | int) -> None:
    """Text and JSON forms both lead back to the same number."""
    (row,) = compare_metrics({"m": value}, {"m": json.loads(format_metric(value))})
    assert row.equal
    stored = json.loads(json.dumps(encode_metric(value), allow_nan=False))
    assert compare_metrics({"m": value}, {"m": decode_metric(stored)})[0].equal


def test_metrics_are_spelled_shortly() -> None:
    """The shortest text that means the number, and JSON's own words for what is none."""
    spelled = [format_metric(value) for value in (0.93, 1e-7, 42, math.nan, math.inf, -math.inf, -0.0)]
    assert spelled == ["0.93", "1e-07", "42", "NaN", "Infinity", "-Infinity", "-0.0"]


@pytest.mark.parametrize("value", [True, None, "nan", [], "0.5"])
def test_what_is_no_metric_is_refused(value: object) -> None:
    """Only numbers and the three strings are metrics in a record."""
    with pytest.raises(RecordError, match="not a metric"):
        decode_metric(value)
