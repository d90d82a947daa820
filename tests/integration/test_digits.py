"""The main job: a real Keras model, trained, saved, loaded and evaluated in one pinned image."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import REPO, Tool


def test_train_save_load_evaluate(digits: Tool) -> None:
    """The metric after loading is the metric after training, to the last bit; two trainings give identical content."""
    first = digits("run", "--json", "train.py").document
    assert first["metrics"]["accuracy"] > 0.97
    assert first["tainted"] == []
    evaluated = digits("eval", "--gate", "--json", "evaluate.py").document
    assert {row["metric"] for row in evaluated["comparison"]} >= {"accuracy", "loss"}
    assert all(row["equal"] and row["difference"] == 0 for row in evaluated["comparison"])
    second = digits("run", "--json", "train.py").document
    assert second["metrics"] == first["metrics"]
    model = {output["path"]: output for output in first["outputs"]}["model.keras"]
    again = {output["path"]: output for output in second["outputs"]}["model.keras"]
    assert model["content"]["recipe"] == "tensors-v1/sha256"
    assert model["content"] == again["content"]
    trails = [(Path(document["record"]) / "trail.jsonl").read_text() for document in (first, second)]
    assert trails[0] == trails[1]
    assert '"keras"' in trails[0]


def test_the_committed_lock_is_fresh() -> None:
    """The lock of envs/digits-cpu matches its environment.yml, and names no host."""
    Tool(REPO)("lock", "--check", "digits-cpu")
    assert "://" not in (REPO / "envs/digits-cpu/reprobox.lock").read_text()


def test_the_digits_are_whole() -> None:
    """The example's data are the 1,797 rows that scikit-learn ships."""
    lines = (REPO / "examples/digits/data/digits.csv").read_text().splitlines()
    assert len(lines) == 1798
    assert json.dumps(lines[0].split(",")[-1]) == '"label"'
