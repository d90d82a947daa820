"""Whether a run made again came out as recorded."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.diff.judge import Tolerance, judge_reruns, parse_tolerance, require_known
from reprobox.errors import UsageError
from tests.unit.diff.records import make_output, make_record


def test_the_same_bytes_are_identical() -> None:
    judged = judge_reruns(make_record(), [make_record()])
    assert judged.verdict == "identical"
    assert [row.grade for row in judged.reruns[0].outputs] == ["identical"]


def test_other_bytes_of_one_content_are_identical() -> None:
    """Keras writes the time into its files: the tensors are what counts."""
    judged = judge_reruns(make_record(), [make_record(outputs=(make_output(sha256="9" * 64),))])
    assert judged.verdict == "identical"
    assert judged.reruns[0].outputs[0].grade == "content"


def test_contents_under_two_recipes_say_nothing_of_each_other() -> None:
    other = make_output(sha256="9" * 64)
    other = type(other)(
        path=other.path, sha256=other.sha256, size_bytes=1, format="keras", content=("other-v1/sha256", "4" * 64)
    )
    assert judge_reruns(make_record(), [make_record(outputs=(other,))]).reruns[0].outputs[0].grade == "different"


def test_equal_metrics_and_another_file_are_equivalent() -> None:
    """A log with the time in it does not make a run irreproducible, but it is said."""
    outputs = (make_output(), make_output("log.txt", "7" * 64, None))
    changed = (make_output(), make_output("log.txt", "8" * 64, None))
    judged = judge_reruns(make_record(outputs=outputs), [make_record(outputs=changed)])
    assert judged.verdict == "equivalent"
    assert [row.grade for row in judged.reruns[0].outputs] == ["different", "identical"]


def test_without_a_metric_another_output_is_different() -> None:
    """Nothing vouches for a run without metrics but its outputs."""
    judged = judge_reruns(
        make_record(metrics={}), [make_record(metrics={}, outputs=(make_output(sha256="9" * 64, content="8" * 64),))]
    )
    assert judged.verdict == "different"


@pytest.mark.parametrize(
    ("text", "found", "verdict"),
    [
        ("0.01", 0.505, "equivalent"), ("0.001", 0.505, "different"), ("2%", 0.505, "equivalent"), ("0.5%", 0.505, "different"),
        ("accuracy=0.01", 0.505, "equivalent"), ("0", 0.5, "identical"), ("0.1", math.nan, "different"),
        ("0.1", math.inf, "different"),
    ],
)  # fmt: skip
def test_a_metric_may_be_off_by_what_was_asked_for(text: str, found: float, verdict: str) -> None:
    """And by no bit more: what is off at all is never identical."""
    value: float | str = "NaN" if math.isnan(found) else "Infinity" if math.isinf(found) else found
    judged = judge_reruns(make_record(), [make_record(metrics={"accuracy": value})], [parse_tolerance(text)])
    assert judged.verdict == verdict


def test_a_metrics_own_tolerance_goes_before_that_of_all() -> None:
    rerun = make_record(metrics={"accuracy": 0.6})
    tolerances = [parse_tolerance("accuracy=0.01"), parse_tolerance("1")]
    assert judge_reruns(make_record(), [rerun], tolerances).verdict == "different"
    assert judge_reruns(make_record(), [rerun], tolerances[::-1]).verdict == "different"


def test_a_metric_that_is_gone_or_new_is_a_difference() -> None:
    assert judge_reruns(make_record(), [make_record(metrics={})]).verdict == "different"
    assert judge_reruns(make_record(), [make_record(metrics={"accuracy": 0.5, "f1": 1})]).verdict == "different"


def test_runs_that_differ_among_themselves_are_unstable() -> None:
    """Then the record cannot be blamed; two that agree with each other and not with it can."""
    apart = [make_record(metrics={"accuracy": value}) for value in (0.6, 0.7)]
    for rerun in apart:
        assert judge_reruns(make_record(), [rerun]).verdict == "different"
    assert judge_reruns(make_record(), apart).verdict == "unstable"
    assert judge_reruns(make_record(), [apart[0], apart[0]]).verdict == "different"


def test_one_that_came_out_and_one_that_did_not_are_unstable() -> None:
    assert judge_reruns(make_record(), [make_record(), make_record(metrics={"accuracy": 0.7})]).verdict == "unstable"


def test_the_run_to_look_at_is_the_first_of_the_worst() -> None:
    """What is shown of several runs is one that bears the verdict out, not one that came out well."""
    other = (make_output(), make_output("log.txt", "8" * 64, None))
    good, log, bad = make_record(), make_record(outputs=other), make_record(metrics={"accuracy": 0.7})
    for reruns, verdict, shown in (
        ([good, good], "identical", 0), ([good, log, log], "equivalent", 1), ([good, log, bad, bad], "unstable", 2),
        ([bad, bad], "different", 0),
    ):  # fmt: skip
        judged = judge_reruns(make_record(), reruns)
        assert (judged.verdict, judged.shown) == (verdict, shown)


@pytest.mark.parametrize("text", ["", "x", "accuracy=", "-1", "1%%", "=0.1", "accuracy=1 %"])
def test_what_is_no_tolerance_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="tolerance"):
        parse_tolerance(text)


def test_a_tolerance_of_a_metric_that_is_not_there_is_refused() -> None:
    """A misspelled name must not pass for a wide tolerance."""
    with pytest.raises(UsageError, match="acuracy"):
        require_known([Tolerance(metric="acuracy", absolute=1)], {"accuracy": 1})


@given(st.floats(allow_nan=True), st.floats(allow_nan=True), st.floats(0, 1e300), st.floats(0, 1))
def test_whoever_is_allowed_more_allows_no_less(a: float, b: float, absolute: float, relative: float) -> None:
    small = Tolerance(metric=None, absolute=absolute / 2, relative=relative / 2)
    large = Tolerance(metric=None, absolute=absolute, relative=relative)
    assert not small.allows(a, b) or large.allows(a, b)
    assert large.allows(a, a)
