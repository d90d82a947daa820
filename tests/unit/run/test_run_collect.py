"""What a run left behind: models that are several files."""

from __future__ import annotations

import shutil
from pathlib import Path

from reprobox.records.store import RunStore
from reprobox.run.collect import Collected, collect_outputs

MODELS = Path(__file__).parents[1] / "records" / "fixtures"


def collect(work: Path, *patterns: str) -> Collected:
    return collect_outputs(
        work,
        baseline={},
        store=RunStore(work.parent / "store"),
        not_outputs=(),
        patterns=patterns,
        metric_patterns=(),
        workers=1,
    )


def contents(collected: Collected) -> dict[str, str | None]:
    return {output.path: None if output.content is None else output.content[1] for output in collected.outputs}


def test_a_model_of_several_files_has_its_content_with_one_of_them(tmp_path: Path) -> None:
    """The content digest of a SavedModel stands with saved_model.pb, a checkpoint's with its index, ONNX's with .onnx."""
    work = tmp_path / "work"
    shutil.copytree(MODELS / "keras", work)
    shutil.copytree(MODELS / "onnx", work / "onnx")
    found = collect(work)
    digests = contents(found)
    same = ["m.keras", "m.h5", "checkpoint/m.index", "export/saved_model.pb", "saved/saved_model.pb"]
    assert len({digests[path] for path in same} - {None}) == 1
    assert digests["onnx/external.onnx"] == digests["onnx/raw.onnx"] is not None
    assert digests["saved/variables/variables.data-00000-of-00001"] is None
    assert digests["onnx/weights.bin"] is None
    assert found.tainted == ()


def test_no_content_where_the_record_has_not_all_of_it(tmp_path: Path) -> None:
    """A record never claims content that lies in files that are no outputs, or outside of the working folder."""
    work = tmp_path / "work"
    shutil.copytree(MODELS / "keras", work)
    shutil.copytree(MODELS / "onnx", work / "onnx")
    some = contents(collect(work, "saved/saved_model.pb", "checkpoint/*.index", "onnx/*.onnx"))
    assert some["saved/saved_model.pb"] is None
    assert some["checkpoint/m.index"] is None
    assert some["onnx/external.onnx"] is None
    assert some["onnx/raw.onnx"] is not None
    shutil.move(work / "saved" / "variables", tmp_path / "outside")
    (work / "saved" / "variables").symlink_to(tmp_path / "outside")
    (work / "onnx" / "weights.bin").rename(tmp_path / "weights.bin")
    (work / "onnx" / "weights.bin").symlink_to(tmp_path / "weights.bin")
    led_out = contents(collect(work))
    assert led_out["saved/saved_model.pb"] is None
    assert led_out["onnx/external.onnx"] is None
