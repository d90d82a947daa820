"""No bit of a finished run can change without `check` saying so."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

from reprobox.engines.base import ContainerRequest, Sink
from reprobox.errors import RecordError
from reprobox.records.check import check_run
from reprobox.records.store import RunStore
from tests.unit.run.worlds import make_world, run_in, work_of

FLIPS = int(os.environ.get("REPROBOX_TEST_FLIPS", "400"))


def play(request: ContainerRequest, out: Sink, err: Sink) -> int:
    """Make outputs, a trail and something on both streams."""
    work = work_of(request)
    (work / "metrics.json").write_text('{"accuracy": 0.5}')
    (work / "model.bin").write_bytes(bytes(range(64)))
    trail = next(mount.source for mount in request.mounts if mount.target.endswith("/trail"))
    (trail / "trail.jsonl").write_text('{"event": "fit", "of": "Ridge"}\n')
    out(b"hello\n")
    err(b"careful\n")
    return 0


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path: Path) -> None:
    """Record, sums, streams, trail, code and outputs: one random bit at a time, never "intact".

    REPROBOX_TEST_FLIPS says how many are tried.
    """
    (tmp_path / "project").mkdir()
    (tmp_path / "project/train.py").write_text("x = 1\n")
    world = make_world(tmp_path, play=play)
    record = run_in(world, "train.py")
    shutil.copytree(world.project.state, tmp_path / "copy")
    store = RunStore(tmp_path / "copy")
    folder = store.run_folder(record.run)
    assert check_run(store, record.run) == []
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert {file.name for file in files} >= {
        "record.json",
        "SHA256SUMS",
        "stdout",
        "stderr",
        "trail.jsonl",
        "train.py",
        "model.bin",
    }
    draw = random.Random(1)
    for _ in range(FLIPS):
        file = draw.choice(files)
        whole = file.read_bytes()
        bit = draw.randrange(len(whole) * 8)
        altered = bytearray(whole)
        altered[bit // 8] ^= 1 << bit % 8
        file.chmod(0o644)
        file.write_bytes(altered)
        try:
            found = check_run(store, record.run)
        except RecordError:
            found = [("record.json", "refused")]
        assert found, f"bit {bit} of {file.relative_to(folder)}"
        file.write_bytes(whole)
    assert check_run(store, record.run) == []
