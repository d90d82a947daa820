"""The tree of what differs between two runs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.diff.compare import Difference, compare_records
from reprobox.records.record import Record
from tests.unit.diff.records import make_output, make_record

CHANGES: dict[str, dict[str, Any]] = {
    "command:arguments": {"command": {"arguments": ["train.py", "--epochs", "3"]}},
    "package:numpy": {"environment": {"packages": {"numpy": "2.3.0", "keras": "3.15.0"}, "manifest_digest": "sha256:" + "1" * 64}},
    "package:torch": {
        "environment": {
            "packages": {"numpy": "2.4.0", "keras": "3.15.0", "torch": "3"}, "manifest_digest": "sha256:" + "1" * 64,
        }
    },
    "environment:manifest_digest": {"environment": {"manifest_digest": "sha256:" + "1" * 64}},
    "code:train.py": {"code": {"files": [{"path": "train.py", "sha256": "9" * 64, "size_bytes": 1}]}},
    "code:prep.py": {
        "code": {"files": [{"path": name, "sha256": "1" * 64, "size_bytes": 1} for name in ("prep.py", "train.py")]}
    },
    "input:data/a.csv": {"inputs": [{"path": "data/a.csv", "sha256": "9" * 64, "size_bytes": 1}]},
    "artefact:scaler.joblib": {"given": [{"path": "scaler.joblib", "sha256": "9" * 64, "size_bytes": 1}]},
    "seed": {"settings": {"seed": 1}},
    "setting:PYTHONHASHSEED": {"settings": {"hash_seed": 1}},
    "setting:threads": {"settings": {"threads": 1}},
    "variable:LR": {"settings": {"environment": {"LR": "1"}}},
    "engine:name": {"engine": {"name": "podman"}},
    "hardware:cpu-isa": {"hardware": {"cpu": {"model": "EPYC", "flags": "avx avx2 avx512f"}}},
    "hardware:cpu-model": {"hardware": {"cpu": {"model": "Xeon", "flags": "avx avx2"}}},
    "hardware:gpu": {"hardware": {"gpus": [{"model": "H200"}]}},
    "output:model.keras": {"outputs": (make_output(sha256="9" * 64, content="9" * 64),)},
    "output:new.txt": {"outputs": (make_output(), make_output("new.txt"))},
    "metric:accuracy": {"metrics": {"accuracy": 0.6}},
    "metric:f1": {"metrics": {"accuracy": 0.5, "f1": 1.0}},
    "outcome:status": {"status": "failed"},
}  # fmt: skip


def _leaves(found: tuple[Difference, ...]) -> list[Difference]:
    return [child for group in found for child in group.children]


def _reverse(found: Difference) -> Difference:
    kinds: dict[str, Any] = {"added": "removed", "removed": "added"}
    return Difference(
        factor=found.factor, kind=kinds.get(found.kind, found.kind), a=found.b, b=found.a,
        children=tuple(map(_reverse, found.children)),
    )  # fmt: skip


def _make(names: list[str]) -> Record:
    """A record with several changes; of two for one part the last one counts."""
    changes: dict[str, Any] = {}
    for name in names:
        for key, value in CHANGES[name].items():
            changes[key] = (
                {**changes[key], **value} if isinstance(value, dict) and key != "metrics" and key in changes else value
            )
    return make_record(**changes)


@pytest.mark.parametrize("factor", CHANGES)
def test_one_change_is_one_difference_and_bears_its_name(factor: str) -> None:
    """Nothing else is called different: a person looks at what is listed, and at nothing that is not."""
    assert [leaf.factor for leaf in _leaves(compare_records(make_record(), _make([factor])))] == [factor]


@given(st.lists(st.sampled_from(sorted(CHANGES))), st.lists(st.sampled_from(sorted(CHANGES))))
def test_the_other_way_round_is_the_reverse(a: list[str], b: list[str]) -> None:
    first, second = _make(a), _make(b)
    assert compare_records(first, first) == ()
    assert compare_records(second, first) == tuple(map(_reverse, compare_records(first, second)))


def test_ids_and_times_are_no_differences() -> None:
    later = make_record(run="20260203T000000-bbbbbb", started_utc="2026-02-03T00:00:00.000000Z")
    assert compare_records(make_record(), later) == ()


def test_two_files_of_one_content_are_no_difference() -> None:
    assert compare_records(make_record(), make_record(outputs=(make_output(sha256="9" * 64),))) == ()


def test_zeros_of_two_signs_differ_and_nan_does_not() -> None:
    assert _leaves(compare_records(make_record(metrics={"a": 0.0}), make_record(metrics={"a": -0.0})))
    assert compare_records(make_record(metrics={"a": "NaN"}), make_record(metrics={"a": "NaN"})) == ()
