"""`import reprobox.runtime` in a container whose image does not hold reprobox."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reprobox.records.digests import digest_bytes
from reprobox.run.execute import _copy_guest

# An interpreter that has nothing installed: the one that this environment was made from.
PYTHON = os.environ.get("REPROBOX_GUEST_PYTHON", sys._base_executable)


@pytest.fixture
def guest(tmp_path):
    """The shim as the runner hands it over."""
    _copy_guest(tmp_path / "guest")
    return tmp_path / "guest"


def run(guest, code, *, level="strict", cwd, **more):
    environ = {
        "PYTHONPATH": os.pathsep.join([str(guest), *more.pop("path", [])]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "REPROBOX_DETERMINISM": level,
        "REPROBOX_TRAIL": str(cwd / "trail"),
    }
    return subprocess.run([PYTHON, "-c", code], cwd=cwd, env=environ, capture_output=True, text=True)


@pytest.mark.parametrize("level", ["strict", "seeded", "portable", "off"])
def test_a_program_can_keep_and_restore_its_state(guest, tmp_path, level):
    """At every level the room is there, works without anything installed, and no folder of ours is on sys.path."""
    code = """
import random, sys
from reprobox import runtime
runtime.save_checkpoint("c", values={"step": 7})
drawn = random.random()
assert (runtime.load_checkpoint("c"), random.random()) == ({"step": 7}, drawn)
import reprobox
print(reprobox.__version__, reprobox.__file__, [entry for entry in sys.path if "guest" in entry])
"""
    done = run(guest, code, level=level, cwd=tmp_path)
    from reprobox import __version__

    expected = f"{__version__} {guest}/package/reprobox/__init__.py []\n"
    assert (done.stdout, done.stderr) == (expected, "")
    events = [json.loads(line)["event"] for line in (tmp_path / "trail").read_text().splitlines()]
    assert "fault" not in events


def test_only_that_room(guest, tmp_path):
    """No other room of reprobox is offered, and nothing of the shim."""
    code = """
for name in ("reprobox.errors", "reprobox.guest", "reprobox.cli", "package"):
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        print(error)
"""
    assert run(guest, code, cwd=tmp_path).stdout.count("No module named") == 4


def test_one_that_is_there_wins(guest, tmp_path):
    """A package of this name in the project, or installed, is what a program gets."""
    (tmp_path / "own" / "reprobox").mkdir(parents=True)
    (tmp_path / "own" / "reprobox" / "__init__.py").write_text("mine = True\n")
    done = run(guest, "import reprobox; print(reprobox.mine)", cwd=tmp_path, path=[str(tmp_path / "own")])
    assert done.stdout == "True\n"


def test_the_digest_covers_every_file(guest, tmp_path):
    """The digest of the shim in a record is over the names and bytes of all that is handed over."""
    files = sorted(file for file in guest.rglob("*") if file.is_file())
    names = [file.relative_to(guest).as_posix() for file in files]
    assert {"package/reprobox/__init__.py", "package/reprobox/runtime/keras.py", "sitecustomize.py"} <= set(names)
    parts = [f"{name}:{digest_bytes(file.read_bytes())}" for name, file in sorted(zip(names, files, strict=True))]
    assert _copy_guest(tmp_path / "again") == digest_bytes("\n".join(parts).encode())
    assert all(Path(folder).stat().st_mode & 0o777 == 0o755 for folder, _, _ in os.walk(guest))
