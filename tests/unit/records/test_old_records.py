"""Records of every earlier version are read: what was recorded once stays checkable."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from reprobox.diff.compare import compare_records
from reprobox.records.check import check_run
from reprobox.records.record import RunId
from reprobox.records.store import RunStore
from reprobox.report.documents import render_run
from reprobox.report.text import Style, render_details

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "records"
VERSIONS = sorted(folder.name for folder in GOLDEN.iterdir())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_record_of_an_earlier_version_is_read(tmp_path: Path, version: str) -> None:
    """A training and its evaluation, as written by that version: intact, shown, compared.

    The folders were copied as they were written; never write them anew.
    """
    store = RunStore(tmp_path)
    shutil.copytree(GOLDEN / version, tmp_path / "runs")
    for run in store.list_runs():
        for output in store.load_record(run).outputs:
            store.keep_bytes((store.run_folder(run) / "outputs" / output.path).read_bytes())
    training, evaluation = (store.load_record(run) for run in store.list_runs())
    for record in (training, evaluation):
        assert check_run(store, record.run) == []
        assert record.metrics == {"accuracy": 0.5, "loss": "NaN"}
        assert [output.path for output in record.outputs] == ["metrics.json", "sub/weights.bin"]
        assert [row["path"] for row in record.draft["inputs"]] == ["data/a.csv"]
        assert render_run(record, "folder")["run"] == record.run
        assert any("accuracy" in line for line in render_details(record, "folder", Style(on=False)))
    assert (evaluation.draft["kind"], evaluation.draft["of"]) == ("eval", training.run)
    assert all(row["equal"] for row in evaluation.comparison)
    found = [leaf.factor for group in compare_records(training, evaluation) for leaf in group.children]
    assert found == ["command:script", "command:arguments", "artefact:metrics.json", "artefact:sub/weights.bin"]


def test_they_are_all_there() -> None:
    """A folder of records that is lost would let a broken reader pass."""
    assert len(VERSIONS) >= 6
    assert all(RunId(run.name) for version in VERSIONS for run in (GOLDEN / version).iterdir())
