"""The same run on every engine: the same outputs, and a record that says which engine ran it and what that kept."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from tests.conftest import Tool, require_program
from tests.integration.conftest import SMALL

ENGINES = {"docker": "docker", "podman": "podman", "charliecloud": "ch-run"}
TRAIN = """\
import hashlib, json, os, sys
import numpy
data = numpy.loadtxt("data/in.csv")
numpy.save("model.npy", numpy.random.default_rng(3).normal(size=(64, 64)) @ numpy.random.normal(size=(64, 64)) + data.sum())
order = hashlib.sha256("".join({"a", "b", "c", "d", "e"}).encode()).hexdigest()
json.dump({"order": int(order[:8], 16), "files": len(os.listdir("."))}, open("metrics.json", "w"))
assert os.environ["HOME"] == "/home/reprobox" and "SECRET" not in os.environ
open(os.path.expanduser("~/scratch"), "w").write("x"); open("/tmp/scratch", "w").write("x")
try:
    open("data/in.csv", "a")
    sys.exit("inputs can be written")
except OSError:
    pass
"""


@pytest.fixture
def project(tmp_path: Path, small_lock: str) -> Tool:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/in.csv").write_text("1\n2\n")
    for name, text in (("environment.yml", SMALL), ("reprobox.lock", small_lock), ("train.py", TRAIN)):
        (tmp_path / name).write_text(text)
    (tmp_path / "reprobox.toml").write_text('[run]\ninputs = ["data/"]\n')
    return Tool(tmp_path, {"SECRET": "x"})


def test_one_run_on_every_engine(project: Tool) -> None:
    """Docker, Podman and charliecloud give the same bytes; what one of them cannot do is said and recorded."""
    found = {}
    for engine, program in ENGINES.items():
        if engine != "docker":
            require_program(program)
        done = project("run", "--engine", engine, "--json", "train.py")
        record = json.loads((Path(done.document["record"]) / "record.json").read_bytes())
        assert record["engine"]["name"] == engine
        found[engine] = {output["path"]: output["sha256"] for output in done.document["outputs"]}
        lacking = {"memory-limit", "pids-limit"} - set(record["engine"]["keeps"])
        assert ("cannot limit memory" in done.err) == bool(lacking)
        assert "read-only-inputs" in record["engine"]["keeps"]
    assert found["docker"] == found["podman"] == found["charliecloud"]
    assert set(found["docker"]) == {"model.npy", "metrics.json"}
    # An evaluation may run on another engine than its training.
    (project.folder / "evaluate.py").write_text(TRAIN.replace("model.npy", "again.npy"))
    evaluated = project("eval", "--engine", "charliecloud", "--json", "evaluate.py").document
    assert [row["metric"] for row in evaluated["comparison"]] == ["files", "order"]


def test_how_an_engine_is_chosen(project: Tool) -> None:
    """The command line wins over the environment, that over reprobox.toml; an unknown name is told."""
    require_program("ch-run")
    toml = project.folder / "reprobox.toml"
    toml.write_text('engine = "charliecloud"\n' + toml.read_text())

    def engine(*words: str) -> str:
        record = Path(project("run", "--json", *words, "train.py").document["record"]) / "record.json"
        return str(json.loads(record.read_bytes())["engine"]["name"])

    assert engine() == "charliecloud"
    project.environ["REPROBOX_ENGINE"] = "docker"
    assert engine() == "docker"
    assert engine("--engine", "charliecloud") == "charliecloud"
    assert "one of docker, podman, charliecloud" in project("run", "--engine", "lxc", "train.py", code=2).err


def test_without_a_daemon_a_failing_script_and_ctrl_c(project: Tool) -> None:
    """charliecloud: the script's exit code, its output in order, and an interruption that is recorded."""
    require_program("ch-run")
    project.environ["REPROBOX_ENGINE"] = "charliecloud"
    (project.folder / "fail.py").write_text("import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)\n")
    done = project("run", "--json", "fail.py", code=8)
    assert done.document["exit_code"] == 7
    (project.folder / "long.py").write_text(
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit(3)))\n"
        "open('part.txt', 'w').write('x'); print('begun', flush=True)\ntime.sleep(60)\n"
    )
    running = project.start("run", "long.py")
    assert running.stdout is not None
    assert running.stdout.readline() == "begun\n"
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=30)
    assert "bye" in out
    shown = project("show", "--json").document
    assert (shown["status"], shown["exit_code"]) == ("interrupted", 3)
    assert [output["path"] for output in shown["outputs"]] == ["part.txt"]


def test_a_killed_tool_loses_nothing_without_a_daemon(project: Tool) -> None:
    """kill -9 of the tool: the container goes on, doctor ends it and records what it printed and made."""
    require_program("ch-run")
    project.environ["REPROBOX_ENGINE"] = "charliecloud"
    (project.folder / "long.py").write_text(
        "import time\nopen('part.txt', 'w').write('x'); print('begun', flush=True)\n"
        "time.sleep(1); print('still here', flush=True)\ntime.sleep(60)\n"
    )
    running = project.start("run", "long.py")
    assert running.stdout is not None
    assert running.stdout.readline() == "begun\n"
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    time.sleep(1.5)
    assert "now recorded" in project("doctor").err
    shown = project("show", "--json").document
    assert shown["status"] == "interrupted"
    assert [output["path"] for output in shown["outputs"]] == ["part.txt"]
    assert (Path(shown["record"]) / "stdout").read_text() == "begun\nstill here\n"
    assert "nothing was left behind" in project("doctor").err


def test_doctor_tells_of_all_engines(project: Tool) -> None:
    """Each engine with its version and what it cannot do."""
    document = project("doctor", "--json").document
    rows = {row["name"]: row for row in document["engines"]}
    assert set(rows) == {"docker", "podman", "charliecloud"}
    assert rows["docker"]["lacks"] == []
    assert "memory-limit" in rows["charliecloud"].get("lacks", ["memory-limit"])


def test_podmans_service_outlives_the_folder_it_was_started_in(project: Tool, tmp_path: Path) -> None:
    """The first command's folder is removed; the service that it started still runs containers."""
    require_program("podman")
    with tempfile.TemporaryDirectory(prefix="rb-") as runtime:
        gone = Tool(tmp_path / "gone", {"XDG_RUNTIME_DIR": runtime})
        gone.folder.mkdir()
        assert gone("doctor", "--json", code=None).out
        assert (Path(runtime) / f"reprobox-podman-{os.geteuid()}/podman.sock").is_socket()
        gone.folder.rmdir()
        project.environ["XDG_RUNTIME_DIR"] = runtime
        project("run", "--engine", "podman", "train.py")
