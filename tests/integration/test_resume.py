"""A Keras training that is killed at random and resumed, in its image, ends with the bits of one that ran through.

REPROBOX_RESUME_REPETITIONS sets how often; three take about a minute.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import REPO, Tool

TRAININGS = REPO / "tests" / "trainings"


@pytest.fixture
def trainings(digits: Tool) -> Tool:
    """The digits example with the trainings of tests/trainings beside it."""
    for name in ("train.py", "resume.py", "drive.py"):
        shutil.copy(TRAININGS / name, digits.folder / name)
    shutil.copy(digits.folder / "data" / "digits.csv", digits.folder / "digits.csv")
    return digits


def test_killed_and_resumed(trainings: Tool) -> None:
    """Weights, optimizer, seed generators, the history and what is drawn afterwards are the same bits, wherever it is
    killed, with checkpoints at every batch, at some, or at the ends of epochs; the image holds no reprobox."""
    repetitions = os.environ.get("REPROBOX_RESUME_REPETITIONS", "3")
    record = Path(trainings("run", "--json", "--", "python", "drive.py", repetitions).document["record"])
    result = json.loads((record / "stdout").read_text().splitlines()[-1])
    print(result)
    assert result["different"] == []
    assert result["repetitions"] == int(repetitions)
    assert result["kills"] >= int(repetitions)
