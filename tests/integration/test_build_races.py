"""Builds at once and builds that are killed: one cache, and always the right image."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import Tool

ENVIRONMENT = (
    "dependencies:\n  - python=3.11\n  - pip:\n      - idna==3.10\n      - numpy==2.4.6\n      - rich==14.0.0\n"
)
KILLS = 50


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tool, dict[str, str], Path]:
    """A project, what it builds to, and a mirror of its packages."""
    folder = tmp_path_factory.mktemp("races")
    (folder / "environment.yml").write_text(ENVIRONMENT)
    tool = Tool(folder)
    tool("lock")
    document = tool("build", "--no-load", "--json").document
    tool("mirror", "reprobox.lock", "mirror")
    return tool, document, folder / "mirror"


def test_eight_builds_at_once(made: tuple[Tool, dict[str, str], Path], tmp_path: Path) -> None:
    """Eight builds into one empty cache: one digest, and nothing half done is left."""
    tool, expected, mirror = made
    cache = tmp_path / "cache"
    racing = Tool(tool.folder, {"REPROBOX_CACHE": str(cache), "REPROBOX_MIRROR": str(mirror)})
    processes = [racing.start("build", "--no-load", "--json") for _ in range(8)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, outputs
    assert {json.loads(out)["manifest_digest"] for out, _ in outputs} == {expected["manifest_digest"]}
    assert list((cache / "unfinished").iterdir()) == []
    subprocess.run(
        ["sh", "-c", 'for f in blobs/*; do echo "$(basename $f)  $f"; done | sha256sum -c --quiet'],
        cwd=cache,
        check=True,
    )


def test_builds_killed_at_any_moment(made: tuple[Tool, dict[str, str], Path], tmp_path: Path) -> None:
    """After each of fifty kills the cache is as good as before, and the next build gives the right image."""
    tool, expected, mirror = made
    cache = tmp_path / "cache"
    killed = Tool(tool.folder, {"REPROBOX_CACHE": str(cache), "REPROBOX_MIRROR": str(mirror)})
    began = time.monotonic()
    killed("build", "--no-load", "--json")
    whole_s = time.monotonic() - began
    chance = random.Random(7)
    for number in range(KILLS):
        # From nothing, from packages, or from everything but layers: all moments of a build come up.
        for name in (
            "layers",
            "blobs",
            "images",
            *(("packages",) if number % 3 == 0 else ()),
            *(("trees",) if number % 2 else ()),
        ):
            shutil.rmtree(cache / name, ignore_errors=True)
        running = subprocess.Popen(
            killed.command("build", "--no-load", "--json"), cwd=killed.folder, env=killed.environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        time.sleep(chance.uniform(0.05, whole_s))
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        if number % 10 == 9:
            assert killed("build", "--no-load", "--json").document["manifest_digest"] == expected["manifest_digest"]
    assert killed("build", "--no-load", "--json").document["manifest_digest"] == expected["manifest_digest"]
    for file in (cache / "blobs").iterdir():
        assert subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout.startswith(
            file.name
        )
    left = killed("gc", "--json").document["removals"]
    assert {row["kind"] for row in left if row["engine"] is None} <= {"unfinished"}
    killed("gc", "--delete")
    assert list((cache / "unfinished").iterdir()) == []
