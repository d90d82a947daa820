"""Trails, findings, verify and diff with the real libraries, in the pinned image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Tool


def _trail(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(document["record"]) / "trail.jsonl").read_text().splitlines()]


def _stages(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    names = ("read", "fit", "transform", "predict", "evaluate", "score", "save", "load")
    return [(row["event"], row["of"], row["where"]) for row in _trail(document) if row["event"] in names]


def test_the_stages_of_the_example_are_noted(digits: Tool) -> None:
    """From the table that is read to the predictions, in order, each with the line of the script."""
    trained = digits("run", "--json", "train.py").document
    assert [row for row in _trail(trained) if row["event"] == "fault"] == []
    assert [row[:2] for row in _stages(trained)] == [
        ("read", "data/digits.csv"), ("fit", "StandardScaler"), ("save", "scaler.joblib"), ("transform", "StandardScaler"),
        ("transform", "StandardScaler"), ("fit", "Sequential"), ("save", "model.keras"), ("predict", "Sequential"),
    ]  # fmt: skip
    assert all(where.startswith("train.py:") for _, _, where in _stages(trained))
    evaluated = digits("eval", "--json", "evaluate.py").document
    assert [row for row in _trail(evaluated) if row["event"] == "fault"] == []
    assert evaluated["findings"] == []
    weights = {row["event"]: row["weights"] for row in _trail(trained) if row.get("weights")}
    assert len(set(weights.values())) == 1
    assert {row["weights"] for row in _trail(evaluated) if "weights" in row} == set(weights.values())


def test_a_run_is_made_again_from_its_record(digits: Tool) -> None:
    """`verify` says identical with the project's code gone; an input that is not the recorded one is refused."""
    digits("run", "--json", "train.py")
    evaluated = digits("eval", "--json", "evaluate.py").document
    for name in ("train.py", "evaluate.py", "model.keras", "scaler.joblib", "metrics.json"):
        (digits.folder / name).unlink()
    verified = digits("verify", "--json", "--times", "2", "latest~1").document
    assert verified["verdict"] == "identical"
    assert len(verified["reruns"]) == 2
    assert {row["path"]: row["grade"] for row in verified["outputs"]}["model.keras"] == "content"
    again = digits("verify", "--json", evaluated["run"]).document
    assert again["verdict"] == "identical"
    assert not (digits.folder / "model.keras").exists()
    table = digits.folder / "data/digits.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], lines[2], lines[1], *lines[3:]]) + "\n")
    refused = digits("verify", evaluated["run"], code=11)
    assert "data/digits.csv is not what that run read" in refused.err


def test_a_run_that_comes_out_otherwise_is_told_from_one_that_does_not(tmp_path: Path, digits: Tool) -> None:
    """A script that draws from the system's entropy: each time another way, and the first stage that differs is named."""
    (digits.folder / "odd.py").write_text(
        "import json, numpy as np\n"
        "from sklearn.linear_model import Ridge\n"
        "X = np.arange(20.0).reshape(10, 2)\n"
        "y = np.random.default_rng().normal(size=10)\n"
        "json.dump({'score': Ridge().fit(X, y).score(X, y)}, open('metrics.json', 'w'))\n"
        "np.savez('y.npz', y=y, x=X)\n"
    )
    digits("run", "odd.py")
    once = digits("verify", "--json", code=10).document
    assert once["verdict"] == "different"
    assert (once["first_divergence"]["stage"], once["first_divergence"]["where"]) == ("fit", "odd.py:5")
    assert "y has other values" in once["first_divergence"]["sentence"]
    (moved,) = (row["tensors"] for row in once["outputs"] if row["path"] == "y.npz")
    assert [(row["name"], row["differing"]) for row in moved] == [("y", 10)]
    assert digits("verify", "--json", "--times", "2", code=10).document["verdict"] == "unstable"
    assert digits("verify", "--json", "--tolerance", "score=5").document["verdict"] == "equivalent"
    assert "not reproduced" in digits("verify", code=10).err
    assert "no such metric" in digits("verify", "--tolerance", "scor=1", code=2).err


def test_a_forest_pickled_with_other_bytes_is_the_same_forest(digits: Tool) -> None:
    """What pickle writes follows from how an object came to be; the content digest does not."""
    (digits.folder / "forest.py").write_text(
        "import joblib, pickle, numpy as np, os\n"
        "from sklearn.ensemble import RandomForestClassifier\n"
        "X = np.arange(200.0).reshape(100, 2)\n"
        "forest = RandomForestClassifier(5).fit(X, X[:, 0] > 50)\n"
        "if os.path.exists('resave'):\n"
        "    forest = pickle.loads(pickle.dumps(forest))\n"
        "joblib.dump(forest, 'forest.joblib')\n"
    )
    rows = []
    for again in (False, True):
        if again:
            (digits.folder / "resave").touch()
        document = digits("run", "--json", "forest.py").document
        rows.append(next(row for row in document["outputs"] if row["path"] == "forest.joblib"))
    assert rows[0]["sha256"] != rows[1]["sha256"]
    assert rows[0]["content"] == rows[1]["content"]
    assert rows[0]["content"]["recipe"] == "objects-v1/sha256"


def test_diff_names_what_differs_and_nothing_else(digits: Tool) -> None:
    first = digits("run", "--json", "train.py").document
    same = digits("run", "--json", "train.py").document
    assert digits("diff", first["run"], same["run"], "--json").document == {
        "a": first["run"], "b": same["run"], "identical": True, "differences": [],
    }  # fmt: skip
    assert "differ in nothing" in digits("diff", "latest~1", "latest").out
    script = digits.folder / "train.py"
    script.write_text(script.read_text().replace("Dropout(0.4)", "Dropout(0.3)"))
    digits("run", "--seed", "7", "train.py")
    found = digits("diff", first["run"], "latest", "--json", code=10).document
    groups = {group["factor"]: [row["factor"] for row in group["children"]] for group in found["differences"]}
    assert groups["code"] == ["code:examples/digits/train.py"] or groups["code"] == ["code:train.py"]
    assert groups["settings"] == ["seed", "setting:PYTHONHASHSEED"]
    assert groups["stages"] == ["stage:fit Sequential", "stage:save model.keras", "stage:predict Sequential"]
    assert not {"environment", "inputs", "hardware", "engine"} & groups.keys()


TRAIN = """\
import json, joblib, numpy as np, pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
table = pd.read_csv("data/digits.csv")
X, y = table.drop(columns="label").to_numpy(float), table["label"].to_numpy()
test = np.arange(len(y)) % 5 == 0
scaler = StandardScaler().fit(X[~test])
model = LogisticRegression(max_iter=200).fit(scaler.transform(X[~test]), y[~test])
joblib.dump((scaler, model), "model.joblib")
json.dump({"accuracy": model.score(scaler.transform(X[test]), y[test])}, open("metrics.json", "w"))
"""

EVALUATE = """\
import json, joblib, numpy as np, pandas as pd
from sklearn.preprocessing import StandardScaler
table = pd.read_csv("data/digits.csv")
X, y = table.drop(columns="label").to_numpy(float), table["label"].to_numpy()
test = np.arange(len(y)) % 5 == 0
{body}
json.dump({{"accuracy": accuracy}}, open("eval_metrics.json", "w"))
"""

BODIES = {
    "as it should be": (
        "scaler, model = joblib.load('model.joblib')\naccuracy = model.score(scaler.transform(X[test]), y[test])",
        [],
    ),
    "refit": (
        "_, model = joblib.load('model.joblib')\n"
        "accuracy = model.score(StandardScaler().fit_transform(X[test]), y[test])",
        ["refit:StandardScaler"],
    ),
    "stale model": (
        "scaler, model = joblib.load('old.joblib')\naccuracy = model.score(scaler.transform(X[test]), y[test])",
        ["artefact:old.joblib", "artefact:StandardScaler", "artefact:LogisticRegression"],
    ),
    "label order": (
        "scaler, model = joblib.load('model.joblib')\n"
        "order = np.array([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])\n"
        "accuracy = model.score(scaler.transform(X[test]), order[y[test]])",
        ["order:labels"],
    ),
    "split leak": (
        "scaler, model = joblib.load('model.joblib')\n"
        "test = np.random.default_rng(1).random(len(y)) < 0.2\n"
        "accuracy = model.score(scaler.transform(X[test]), y[test])",
        ["leak:rows"],
    ),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Tool:
    """A small project with one training, and an older model lying about."""
    import shutil

    from tests.conftest import REPO

    folder = tmp_path_factory.mktemp("gate")
    shutil.copytree(REPO / "envs/digits-cpu", folder / "envs/digits-cpu")
    shutil.copytree(REPO / "examples/digits/data", folder / "data")
    # What a script left is not handed to its own next run or evaluation; what another script left is.
    (folder / "older.py").write_text(TRAIN.replace("% 5", "% 4").replace('"model.joblib"', '"old.joblib"'))
    (folder / "train.py").write_text(TRAIN)
    tool = Tool(folder)
    tool("run", "older.py")
    tool("run", "train.py")
    return tool


@pytest.mark.parametrize("name", BODIES)
def test_an_evaluation_is_told_what_it_does_wrong(project: Tool, name: str) -> None:
    """Refit, stale model, label order, split leak: found from the trail, named with the line, an error for `--gate`."""
    body, expected = BODIES[name]
    (project.folder / "evaluate.py").write_text(EVALUATE.format(body=body))
    trained = project("runs", "--json").document
    run = next(row["run"] for row in reversed(trained) if row["kind"] == "run")
    done = project("eval", "--of", run, "--json", "evaluate.py").document
    errors = [row for row in done["findings"] if row["severity"] == "error"]
    assert [row["factor"] for row in errors] == expected
    assert all(row["where"].startswith("evaluate.py:") for row in errors)
    gated = project("eval", "--of", run, "--gate", "evaluate.py", code=10 if expected else 0)
    for factor in expected:
        assert factor in gated.err


NET = """\
import keras
def build():
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dropout(0.2),
                              keras.layers.Dense(10, activation="softmax")])
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
def load():
    import numpy as np, pandas as pd
    table = pd.read_csv("data/digits.csv")
    return table.drop(columns="label").to_numpy("float32") / 16, table["label"].to_numpy(), np.arange(len(table)) % 5 == 0
"""
FIT = """\
import json, keras
from net import build, load
X, y, test = load()
model = build()
keep = keras.callbacks.ModelCheckpoint("best.weights.h5", save_weights_only=True, save_best_only=True, monitor="loss")
model.fit(X[~test], y[~test], epochs=3, verbose=0, callbacks=[keep])
json.dump({"accuracy": model.evaluate(X[test], y[test], verbose=0)[1]}, open("metrics.json", "w"))
"""
MEASURE = """\
import json
from net import build, load
X, y, test = load()
model = build()
{body}
json.dump({{"accuracy": model.evaluate(X[test], y[test], verbose=0)[1]}}, open("eval_metrics.json", "w"))
"""


def test_weights_that_were_never_loaded_are_found(digits: Tool) -> None:
    """A Keras model built anew and not filled; filled from what a callback saved while fitting, it is in order."""
    (digits.folder / "net.py").write_text(NET)
    (digits.folder / "fit.py").write_text(FIT)
    digits("run", "fit.py")
    (digits.folder / "measure.py").write_text(MEASURE.format(body=""))
    found = digits("eval", "--json", "measure.py").document["findings"]
    assert [(row["factor"], row["severity"], row["where"]) for row in found][:1] == [
        ("artefact:weights", "error", "measure.py:6")
    ]
    assert (
        "something is wrong with the evaluation: artefact:weights"
        in digits("eval", "--gate", "measure.py", code=10).err
    )
    (digits.folder / "measure.py").write_text(MEASURE.format(body='model.load_weights("best.weights.h5")'))
    assert digits("eval", "--gate", "--json", "measure.py").document["findings"] == []
