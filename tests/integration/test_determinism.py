"""Small trainings in the image: the same bits in another folder, with other hashes, under load and on fewer processors.

Two of each here; `bench/determinism.py` does as many as one likes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Tool

# Processors are narrowed before the training's Python starts, as a cpuset does it.
LAUNCH = (
    "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    "os.execvp('python', ['python', *sys.argv[1:]])"
)


def _content(done: dict[str, object]) -> object:
    return {output["path"]: output["content"] for output in done["outputs"]}["out.npz"]  # type: ignore[index,attr-defined]


@pytest.mark.parametrize("name", ["cnn", "forest", "hgb", "kmeans", "linear"])
def test_one_processor_or_all(trainings: Tool, name: str) -> None:
    """What was learned is the same to the bit on all processors, and on one of them with another hash seed beside a
    busy process, with the number of threads that the run says."""
    command = ["run", "--json", "--threads", "2"]
    whole = trainings(*command, "train.py", name, "out.npz").document
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        launched = ["--env", "PYTHONHASHSEED=77", "--", "python", "-c", LAUNCH, "train.py", name, "out.npz"]
        narrow = trainings(*command, *launched).document
    finally:
        busy.kill()
        busy.wait()
    assert _content(whole) == _content(narrow)
    assert whole["tainted"] == narrow["tainted"] == []


def test_what_is_not_promised_is_said(trainings: Tool) -> None:
    """A generator without a seed and a thread of the user's are in the trail, with their lines; a training that draws
    all from seeded generators leaves no such note."""
    (trainings.folder / "loose.py").write_text(
        "import threading\nimport numpy as np\n\nrng = np.random.default_rng()\n"
        "worker = threading.Thread(target=rng.random)\nworker.start()\nworker.join()\n"
    )
    document = trainings("run", "--json", "loose.py").document
    events = [json.loads(line) for line in (Path(document["record"]) / "trail.jsonl").read_text().splitlines()]
    assert [event for event in events if event["event"] == "unpromised"] == [
        {"event": "unpromised", "what": "numpy.random without a seed", "file": "loose.py", "line": 4},
        {"event": "unpromised", "what": "threading.Thread", "file": "loose.py", "line": 5},
    ]
    document = trainings("run", "--json", "--threads", "2", "train.py", "cnn", "out.npz").document
    events = [json.loads(line) for line in (Path(document["record"]) / "trail.jsonl").read_text().splitlines()]
    assert [event for event in events if event["event"] in ("unpromised", "fault")] == []


def test_processors_are_those_of_the_run(trainings: Tool) -> None:
    """What a program counts as processors is the recorded number of threads, whatever the machine has."""
    threads = (os.cpu_count() or 1) + 3
    (trainings.folder / "count.py").write_text(
        "import json, os, multiprocessing, joblib, threadpoolctl, numpy, scipy.linalg, sklearn.cluster\n"
        "pools = {pool['internal_api']: pool['num_threads'] for pool in threadpoolctl.threadpool_info()}\n"
        "print(json.dumps([os.cpu_count(), multiprocessing.cpu_count(), pools]))\n"
    )
    document = trainings("run", "--json", "--threads", str(threads), "count.py").document
    seen = json.loads((Path(document["record"]) / "stdout").read_text())
    assert seen[:2] == [threads, threads]
    assert seen[2] == dict.fromkeys(seen[2], threads)
    assert {"openblas", "openmp"} <= set(seen[2])
    assert document["run"]
