"""A Keras training that is killed at random and resumed, in its image, ends with the bits of one that ran through.

REPROBOX_RESUME_REPETITIONS sets how often; three take about a minute.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.conftest import Tool


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
