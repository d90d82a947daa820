"""What an evaluation did that it should not."""

from __future__ import annotations

from typing import Any

from reprobox.diff.findings import Finding, count_common, find_mistakes, find_unpromised

SAMPLE = {"shift": 0, "rows": [f"{number:016x}" for number in range(10)]}
OTHER = {"shift": 0, "rows": [f"{number:016x}" for number in range(100, 110)]}

TRAINED: list[dict[str, Any]] = [
    {"event": "fit", "of": "StandardScaler", "where": "train.py:9", "data": {"X": {"shape": [10, 2], "sample": SAMPLE}}, "state": "s1"},
    {"event": "save", "of": "scaler.joblib", "where": "train.py:10", "state": "s1"},
    {"event": "fit", "of": "Sequential", "where": "train.py:12", "data": {"x": {"shape": [10, 2], "sample": SAMPLE}}, "weights": "w1"},
    {"event": "save", "of": "model.keras", "where": "train.py:13", "weights": "w1"},
    {"event": "evaluate", "of": "Sequential", "where": "train.py:14", "weights": "w1",
     "data": {"x": {"digest": "tx"}, "y": {"digest": "ty", "pattern": "p", "labels": {"0": 1}}}},
]  # fmt: skip
EVALUATED: list[dict[str, Any]] = [
    {"event": "load", "of": "scaler.joblib", "where": "eval.py:3", "state": "s1"},
    {"event": "transform", "of": "StandardScaler", "where": "eval.py:4", "state": "s1", "data": {}},
    {"event": "load", "of": "model.keras", "where": "eval.py:5", "weights": "w1"},
    {"event": "evaluate", "of": "Sequential", "where": "eval.py:6", "weights": "w1",
     "data": {"x": {"digest": "tx", "sample": OTHER}, "y": {"digest": "ty", "pattern": "p", "labels": {"0": 1}}}},
]  # fmt: skip
OUTPUTS = {"model.keras": "a", "scaler.joblib": "b"}


def _find(evaluated: list[dict[str, Any]], trained: list[dict[str, Any]] = TRAINED, **code: str) -> list[Finding]:
    return list(find_mistakes(trained, evaluated, run="R", outputs=OUTPUTS, code=code, made={}))


def test_an_evaluation_as_it_should_be_has_no_findings() -> None:
    assert _find(EVALUATED) == []


def test_a_scaler_fitted_again_is_named_with_both_lines() -> None:
    refit = {
        "event": "fit",
        "of": "StandardScaler",
        "where": "eval.py:4",
        "data": {"X": {"shape": [4, 2]}},
        "state": "s2",
    }
    (found,) = _find([refit, *EVALUATED[2:]])
    assert (found.factor, found.severity, found.where) == ("refit:StandardScaler", "error", "eval.py:4")
    assert "4 rows" in found.sentence
    assert "10 rows at train.py:9" in found.sentence


def test_a_fit_that_comes_out_as_before_is_only_mentioned() -> None:
    refit = {"event": "fit", "of": "StandardScaler", "where": "eval.py:4", "data": {}, "state": "s1"}
    (found,) = _find([refit, *EVALUATED[2:]])
    assert found.severity == "note"


def test_a_fit_of_something_else_is_only_mentioned() -> None:
    probe = {"event": "fit", "of": "KNeighborsClassifier", "where": "eval.py:9", "data": {}, "state": "k"}
    (found,) = _find([*EVALUATED, probe])
    assert (found.factor, found.severity) == ("refit:KNeighborsClassifier", "note")


def test_a_stale_model_is_named() -> None:
    stale = {"event": "load", "of": "old.keras", "where": "eval.py:5", "weights": "w0"}
    found = _find([*EVALUATED[:2], stale, {**EVALUATED[3], "weights": "w0"}], **{"old.keras": "c"})
    assert [(row.factor, row.severity) for row in found] == [("artefact:old.keras", "error")]
    assert "it made model.keras, scaler.joblib" in found[0].sentence


def test_a_copy_of_the_model_under_another_name_is_the_model() -> None:
    copy = {"event": "load", "of": "copy.keras", "where": "eval.py:5", "weights": "w1"}
    assert _find([*EVALUATED[:2], copy, EVALUATED[3]], **{"copy.keras": "a"}) == []


def test_data_that_is_no_model_may_be_read() -> None:
    assert (
        _find(
            [{"event": "open", "of": "rows.csv", "mode": "read", "where": "eval.py:1"}, *EVALUATED], **{"rows.csv": "c"}
        )
        == []
    )


def test_another_scaler_than_the_trainings_is_named() -> None:
    (found,) = _find([EVALUATED[0], {**EVALUATED[1], "state": "s9"}, *EVALUATED[2:]])
    assert (found.factor, found.severity) == ("artefact:StandardScaler", "error")


def test_weights_that_were_never_loaded_are_named() -> None:
    found = _find(
        [
            *EVALUATED[:2],
            {"event": "open", "of": "model.keras", "mode": "read", "where": "e:1"},
            {**EVALUATED[3], "weights": "w7"},
        ]
    )
    assert [row.factor for row in found] == ["artefact:weights"]


def test_weights_that_loading_changed_are_named() -> None:
    found = _find([*EVALUATED[:2], {**EVALUATED[2], "weights": "w8"}, {**EVALUATED[3], "weights": "w8"}])
    assert [row.factor for row in found] == ["artefact:model.keras"]


def test_labels_under_other_numbers_are_named() -> None:
    turned = {
        **EVALUATED[3],
        "data": {"x": {"digest": "tx"}, "y": {"digest": "tz", "pattern": "p", "labels": {"1": 1}}},
    }
    (found,) = _find([*EVALUATED[:3], turned])
    assert (found.factor, found.severity) == ("order:labels", "error")
    assert "{1: 1} here and {0: 1} there" in found.sentence


def test_rows_that_were_trained_on_are_counted() -> None:
    leaked = {**EVALUATED[3], "data": {"x": {"digest": "q", "sample": SAMPLE}}}
    (found,) = _find([*EVALUATED[:3], leaked])
    assert found.factor == "leak:rows"
    assert "100%" in found.sentence


def test_a_module_left_in_training_mode_is_named() -> None:
    """Dropout goes on dropping; a call of eval() afterwards is what it takes."""
    load = {"event": "load", "of": "Net", "where": "eval.py:5", "weights": "w1", "noisy": ["Dropout"]}
    opened = {"event": "open", "of": "model.keras", "mode": "read", "where": "eval.py:4"}
    (found,) = _find([opened, load])
    assert (found.factor, found.severity, found.where) == ("mode:Dropout", "error", "eval.py:5")
    assert _find([opened, load, {"event": "mode", "of": "Net", "training": False}]) == []
    assert len(_find([opened, {"event": "mode", "of": "Net", "training": False}, load])) == 1


def test_the_training_rows_themselves_are_only_mentioned() -> None:
    """Whoever reports the training's accuracy too does nothing wrong; a test set that overlaps is another matter."""
    fit = {**TRAINED[2], "data": {"x": {"sample": SAMPLE, "rows": "r"}}}
    same = {**EVALUATED[3], "data": {"x": {"digest": "q", "sample": SAMPLE, "rows": "r"}}}
    (found,) = _find([*EVALUATED[:3], same], [*TRAINED[:2], fit, *TRAINED[3:]])
    assert (found.factor, found.severity) == ("leak:rows", "note")


def test_an_evaluation_that_reads_nothing_of_the_training_is_mentioned() -> None:
    (found,) = _find([{"event": "score", "of": "accuracy_score", "value": 1.0}])
    assert (found.factor, found.severity) == ("artefact:model.keras", "note")


def test_samples_of_two_sizes_are_compared_where_both_look() -> None:
    """The rarer one decides: what it would not have named tells nothing."""
    all_rows = [f"{number:016x}" for number in range(64)]
    rare = {"shift": 4, "rows": [row for row in all_rows if not int(row, 16) & 15]}
    assert count_common({"shift": 0, "rows": all_rows}, rare) == (4, 4)
    assert count_common(rare, {"shift": 0, "rows": all_rows}) == (4, 4)


def test_entropy_is_a_note_and_threads_are_kept_for_who_asks() -> None:
    trail = [
        {"event": "unpromised", "what": "numpy.random without a seed", "file": "train.py", "line": 3},
        {"event": "unpromised", "what": "threading.Thread", "file": "train.py", "line": 5},
    ]
    (found,) = find_unpromised(trail)
    assert (found.factor, found.severity, found.where) == (
        "unpromised:numpy.random without a seed", "note", "train.py:3",
    )  # fmt: skip
    assert [row.where for row in find_unpromised(trail, threads=True)] == ["train.py:3", "train.py:5"]
