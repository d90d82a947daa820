"""Content digests of what real frameworks wrote, in a real image."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.conftest import REPO, Tool

FORMATS = {"keras", "keras-weights-h5", "keras-h5", "savedmodel", "tf-checkpoint"}


def contents(document: dict[str, Any], model: str) -> dict[str, str]:
    """What a record says of the files that stand for a model; the index inside a SavedModel stands for nothing."""
    return {
        output["path"]: output["content"]["digest"]
        for output in document["outputs"]
        if output["path"].startswith(f"models/{model}/")
        and output["format"] in FORMATS
        and not output["path"].endswith("/variables/variables.index")
    }


def test_one_model_has_one_digest_in_all_formats(digits: Tool) -> None:
    """Saved in six formats, twice, in two processes with other layer numbers, loaded and saved again: one digest.

    One exception is documented: a checkpoint of a nested model does not say what the inner model is called.
    """
    shutil.copy(REPO / "tests/integration/models/save_models.py", digits.folder)
    runs = [
        digits("run", "--json", "--no-place", "save_models.py", str(numbered_from)).document for numbered_from in (0, 2)
    ]
    for model in ("convolutional", "attention", "recurrent", "nested"):
        found = [contents(document, model) for document in runs]
        assert [len(rows) for rows in found] == [18, 18]
        if model == "nested":
            kept = [{path: row for path, row in rows.items() if not path.endswith(".index")} for rows in found]
            left = {row for rows in found for path, row in rows.items() if path.endswith(".index")}
            assert len(left) == 1
            found = kept
        assert len({row for rows in found for row in rows.values()}) == 1, found
    _digest_what_was_recorded(digits, runs[0])


def _digest_what_was_recorded(digits: Tool, document: dict[str, Any]) -> None:
    """The command finds the same in the record's folder, of folders too; another model differs, tensor by tensor."""
    folder = Path(document["record"]) / "outputs/models/convolutional"
    expected = contents(document, "convolutional")["models/convolutional/first.keras"]
    rows = digits("digest", "--json", str(folder / "first-export"), str(folder / "first.keras")).document
    assert [row["content"]["digest"] for row in rows] == [expected, expected]
    assert rows[0]["sha256"] is None
    assert rows[1]["architecture"]["recipe"] == "architecture-v1/sha256"
    assert rows[1]["optimizer"] is None
    digits("digest", "--diff", str(folder / "first-saved"), str(folder / "loaded.h5"))
    other = folder.parent / "recurrent" / "first.h5"
    found = digits("digest", "--diff", "--json", str(folder / "first-saved"), str(other), code=10).document
    assert found["identical"] is False
    assert {row["change"] for row in found["tensors"]} <= {"only-a", "only-b", "shape", "values"}
