"""Run, record, check, evaluate: with real containers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from reprobox.engines.docker import DockerEngine
from tests.conftest import Done, Tool

TRAIN = """\
import json, random
import numpy as np
weights = np.random.normal(size=(4, 3))
np.savez("model.npz", weights=weights, names=np.array(sorted({"b", "a"})))
json.dump({"accuracy": float(weights.mean()), "deep": {"draw": random.random()}, "hash": hash("x") % 1000}, open("metrics.json", "w"))
print("trained")
"""
EVALUATE = """\
import json
import numpy as np
weights = np.load("model.npz")["weights"]
json.dump({"accuracy": float(weights.mean())}, open("eval_metrics.json", "w"))
"""


def _write(tool: Tool, **files: str) -> None:
    for name, text in files.items():
        (tool.folder / f"{name}.py").write_text(text)


def _records(tool: Tool) -> list[Path]:
    return sorted((tool.folder / ".reprobox/runs").iterdir())


def _containers(tool: Tool) -> list[Any]:
    return list(DockerEngine(os.environ).find_containers(tool.folder / ".reprobox"))


def _wait_for(condition: Any, *, timeout_s: float = 30) -> None:
    limit = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.05)


def test_nothing_but_an_environment_file_and_a_script(tmp_path: Path) -> None:
    """A new folder with environment.yml and train.py works; outputs appear there; two runs have identical content."""
    tool = Tool(tmp_path)
    (tmp_path / "environment.yml").write_text(
        "name: mine\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n      - numpy\n"
    )
    _write(tool, train=TRAIN)
    first = tool("run", "train.py")
    assert "trained" in first.out
    assert (tmp_path / "reprobox.lock").is_file()
    assert (tmp_path / "model.npz").is_file()
    one = json.loads((tmp_path / "metrics.json").read_text())
    second = tool("run", "--json", "train.py").document
    assert json.loads((tmp_path / "metrics.json").read_text()) == one
    shown = tool("show", "latest~1", "--json").document
    assert [output["content"] for output in shown["outputs"]] == [output["content"] for output in second["outputs"]]
    assert all(output["content"] for output in second["outputs"])
    assert set(second["metrics"]) == {"accuracy", "deep.draw", "hash"}
    assert (tmp_path / "model.npz").stat().st_uid == os.getuid()


def test_the_record_can_be_checked_with_common_tools(project: Tool) -> None:
    """`sha256sum -c SHA256SUMS` passes in the run's folder, and covers every file there but itself."""
    _write(project, train=TRAIN)
    record = Path(project("run", "--json", "train.py").document["record"])
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=record, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    covered = {line.rsplit(": ", 1)[0] for line in done.stdout.splitlines()}
    present = {p.relative_to(record).as_posix() for p in record.rglob("*") if p.is_file()}
    assert covered == present - {"SHA256SUMS"}


def test_evaluation_in_the_same_image(project: Tool) -> None:
    """`eval` finds the training's outputs, compares what both produced, and says so in its document."""
    _write(project, train=TRAIN, evaluate=EVALUATE)
    trained = project("run", "--json", "train.py").document
    (project.folder / "model.npz").write_bytes(b"not what was recorded")
    evaluated = project("eval", "--gate", "--json", "evaluate.py").document
    assert evaluated["of"] == trained["run"]
    assert evaluated["manifest_digest"] == trained["manifest_digest"]
    (row,) = evaluated["comparison"]
    assert (row["metric"], row["equal"], row["difference"]) == ("accuracy", True, 0)
    assert row["trained"] == row["evaluated"] == trained["metrics"]["accuracy"]


def test_a_metric_that_moved_is_told(project: Tool) -> None:
    """A metric that differs ends `--gate` with 10, and without it with 0, shown either way."""
    _write(project, train=TRAIN, evaluate=EVALUATE.replace("weights.mean()", "weights.mean() + 1"))
    project("run", "train.py")
    assert "differs by" in project("eval", "evaluate.py").err
    done = project("eval", "--gate", "evaluate.py", code=10)
    assert "not reproduced: accuracy differ" in done.err


@pytest.mark.parametrize("where", ["object", "run"])
def test_one_byte_of_the_model(project: Tool, where: str) -> None:
    """One changed byte of the stored model: `check` exits with 11 and names it; `eval` refuses before anything starts."""
    _write(project, train=TRAIN, evaluate=EVALUATE)
    record = Path(project("run", "--json", "train.py").document["record"])
    model = record / "outputs/model.npz"
    target = model
    if where == "object":
        digest = next(
            o for o in json.loads((record / "record.json").read_text())["outputs"] if o["path"] == "model.npz"
        )
        target = project.folder / ".reprobox/objects/sha256" / digest["sha256"][:2] / digest["sha256"][2:]
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.chmod(0o644)
    target.write_bytes(bytes(data))
    done = project("check", code=11)
    assert "outputs/model.npz: altered" in done.err
    refused = project("eval", "evaluate.py", code=11)
    assert "model.npz" in refused.err
    assert len(_records(project)) == 1
    assert not list((project.folder / ".reprobox/active").iterdir())


def test_check_notices_everything_else(project: Tool) -> None:
    """A changed record, stream, sum, a missing file and a file too many are each named with exit code 11."""
    _write(project, train=TRAIN)
    record = Path(project("run", "--json", "train.py").document["record"])
    project("check")
    for name in ("stdout", "SHA256SUMS", "record.json", "code/train.py"):
        file = record / name
        kept = file.read_bytes()
        file.chmod(0o644)
        file.unlink()
        file.write_bytes(kept.replace(b"a", b"b", 1))
        assert name in project("check", code=11).err
        file.write_bytes(kept)
        project("check")
    (record / "extra").write_text("")
    assert "extra: is not in the record" in project("check", code=11).err
    (record / "extra").unlink()
    (record / "outputs/model.npz").unlink()
    assert "outputs/model.npz: missing" in project("check", code=11).err


def test_a_script_that_raises(project: Tool) -> None:
    """Exit code 8; the record holds stderr, the command's own code, and what was made until then."""
    _write(project, train='open("half.txt", "w").write("half")\nraise ValueError("no such luck")\n')
    done = project("run", "--json", "train.py", code=8)
    document = done.document
    assert (document["status"], document["exit_code"]) == ("failed", 1)
    assert "no such luck" in (Path(document["record"]) / "stderr").read_text()
    assert [output["path"] for output in document["outputs"]] == ["half.txt"]
    assert not (project.folder / "half.txt").exists()
    assert "hint: reprobox show" in done.err
    project("check")


def test_ctrl_c(project: Tool) -> None:
    """Ctrl-C stops the container and records the run as interrupted, with what was made until then."""
    _write(project, train='import time\nopen("kept.txt", "w").write("x")\nprint("begun", flush=True)\ntime.sleep(60)\n')
    process = project.start("run", "train.py")
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert time.monotonic() - began < 10
    assert "Traceback" not in err.split("stopping the container")[0]
    assert _containers(project) == []
    document = project("show", "--json").document
    assert document["status"] == "interrupted"
    assert [output["path"] for output in document["outputs"]] == ["kept.txt"]
    project("check")


@pytest.mark.parametrize("moment", ["container", "later", "command-ended"])
def test_killed_without_a_word(project: Tool, moment: str) -> None:
    """After kill -9 of the tool, `doctor` ends and removes the container and records what was made; others are intact."""
    _write(project, train=TRAIN)
    project("run", "train.py")
    before = {path: path.stat().st_mtime_ns for path in _records(project)[0].rglob("*")}
    sleep = 0 if moment == "command-ended" else 60
    _write(
        project,
        slow=f'import time\nopen("kept.txt", "w").write("x")\nprint("begun", flush=True)\ntime.sleep({sleep})\n',
    )
    process = project.start("run", "slow.py")
    if moment == "container":
        _wait_for(lambda: _containers(project))
    else:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    looked = project("doctor", "--only-look", "--json").document
    mended = project("doctor", "--json").document
    if len(_records(project)) == 1:
        assert looked["left_behind"]
    for left in mended["left_behind"]:
        assert left["state"] == "dead"
    assert _containers(project) == []
    assert not list((project.folder / ".reprobox/active").iterdir())
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert project("doctor", "--json").document["left_behind"] == []
    if moment == "later":
        document = project("show", "--json").document
        assert document["status"] == "interrupted"
        assert [output["path"] for output in document["outputs"]] == ["kept.txt"]
        assert any("killed" in reason for reason in document["tainted"])
        assert (Path(document["record"]) / "stdout").read_text() == "begun\n"
    for run in _records(project):
        project("check", run.name)


def test_killed_at_many_moments(project: Tool) -> None:
    """Whenever the tool is killed, what is left is the old state or the new one, and the next run works."""
    _write(project, train=TRAIN)
    project("run", "train.py")
    for step in range(12):
        process = project.start("run", "train.py")
        time.sleep(0.25 + 0.12 * step)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    project("doctor")
    assert _containers(project) == []
    assert not list((project.folder / ".reprobox/active").iterdir())
    for run in _records(project):
        project("check", run.name)
    assert project("run", "--json", "train.py").document["status"] == "completed"


def test_two_at_once(project: Tool) -> None:
    """Two runs in one folder are both recorded, each with its own outputs."""
    _write(project, train="import sys, time\ntime.sleep(1)\nopen('out.txt', 'w').write(sys.argv[1])\n")
    processes = [project.start("run", "--json", "train.py", word) for word in ("one", "two")]
    documents = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert {document["status"] for document in documents} == {"completed"}
    for word, document in zip(("one", "two"), documents, strict=True):
        assert (Path(document["record"]) / "outputs/out.txt").read_text() == word
        project("check", document["run"])
    assert (project.folder / "out.txt").read_text() in ("one", "two")


INSIDE = """\
import json, os, socket, pathlib
found = {"environment": dict(os.environ), "uid": os.getuid(), "groups": os.getgroups(), "user": __import__("getpass").getuser()}
found["home"] = str(pathlib.Path.home())
found["interfaces"] = [name for _, name in socket.if_nameindex()]
for name, place in {"root": "/new", "usr": "/usr/new", "env": "/opt/env/new", "guest": "/run/reprobox/guest/new"}.items():
    try:
        open(place, "w")
        found[name] = "written"
    except OSError as error:
        found[name] = error.strerror
try:
    socket.create_connection(("192.0.2.1", 80), timeout=2)
    found["network"] = "connected"
except OSError as error:
    found["network"] = str(error)
found["capabilities"] = [line for line in open("/proc/self/status") if line.startswith(("CapEff", "NoNewPrivs"))]
found["hostname"] = socket.gethostname()
open(os.path.expanduser("~/x"), "w").write("x")
open("/tmp/x", "w").write("x")
found["cwd"] = os.getcwd()
found["data"] = open("data/rows.txt").read()
try:
    open("data/rows.txt", "w")
    found["input"] = "written"
except OSError as error:
    found["input"] = error.strerror
json.dump(found, open("found.json", "w"))
"""


def test_inside_the_container(project: Tool) -> None:
    """No network, a read-only root file system, not root, no capability, and no variable of the host."""
    (project.folder / "data").mkdir()
    (project.folder / "data/rows.txt").write_text("rows")
    _write(project, inside=INSIDE)
    tool = Tool(project.folder, {"SECRET_OF_THE_HOST": "leaked", "LET_IN": "yes", "DOCKER_CONFIG": "/nonexistent"})
    tool("run", "--input", "data", "--env", "LET_IN", "--env", "GIVEN=here", "inside.py")
    found = json.loads((project.folder / "found.json").read_text())
    assert found["uid"] == (os.getuid() or 1000)
    assert 0 not in found["groups"] or (os.getuid() == 0 and found["groups"] == [1000])
    assert (found["root"], found["usr"], found["env"]) == ("Read-only file system",) * 3
    assert (found["guest"], found["input"]) == ("Read-only file system",) * 2
    assert found["interfaces"] == ["lo"]
    assert "nreachable" in found["network"]
    assert [row.split()[1] for row in found["capabilities"]] == ["0000000000000000", "1"]
    assert (found["hostname"], found["home"], found["user"]) == ("reprobox", "/home/reprobox", "reprobox")
    assert (found["cwd"], found["data"]) == ("/work", "rows")
    environment = found["environment"]
    assert "leaked" not in json.dumps(environment)
    assert (environment["LET_IN"], environment["GIVEN"]) == ("yes", "here")
    ours = {
        "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "PATH", "HOSTNAME", "SSL_CERT_FILE", "VIRTUAL_ENV", "PYTHONUTF8",
        "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE", "PYTHONHASHSEED", "PYTHONPATH",
        "LOKY_MAX_CPU_COUNT", "MKL_DYNAMIC", "NPROC", "OMP_DYNAMIC", "POLARS_MAX_THREADS", "PYTHON_CPU_COUNT",
        "CUDA_DEVICE_ORDER", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "LET_IN", "GIVEN", "PWD",
    }  # fmt: skip
    unknown = {name for name in environment if name not in ours and not name.startswith(("REPROBOX_", "TF_"))}
    assert not {name for name in unknown if not name.endswith("_NUM_THREADS")}, unknown


def test_an_input_that_changes_meanwhile_taints(project: Tool) -> None:
    """An input that somebody changes during the run is noticed, named, and makes the record tainted."""
    (project.folder / "data").mkdir()
    (project.folder / "data/rows.txt").write_text("before")
    _write(project, train='import time\nprint("begun", flush=True)\ntime.sleep(2)\n')
    process = project.start("run", "--input", "data/", "train.py")
    assert process.stdout is not None
    process.stdout.readline()
    (project.folder / "data/rows.txt").write_text("after!")
    process.communicate()
    document = project("show", "--json").document
    assert document["tainted"] == ["input changed during the run: data/rows.txt"]


def test_a_run_is_no_function_of_history(project: Tool) -> None:
    """What a script left in the folder is not handed to its next run; what another script left there is."""
    _write(
        project,
        prepare='open("features.txt", "w").write("1 2 3")\n',
        train='import os\nfound = os.listdir()\nopen("seen.txt", "w").write(str(found))\n',
    )
    project("run", "prepare.py")
    project("run", "train.py")
    first = (project.folder / "seen.txt").read_text()
    project("run", "train.py")
    assert (project.folder / "seen.txt").read_text() == first
    assert "features.txt" in first
    assert "seen.txt" not in first


def test_a_file_of_the_user_is_not_lost(project: Tool) -> None:
    """An output never replaces bytes that could not be had back: what the user wrote meanwhile stays, and is named."""
    _write(
        project,
        train='import time\nprint("begun", flush=True)\ntime.sleep(2)\nopen("notes.txt", "w").write("from the run")\n',
    )
    process = project.start("run", "train.py")
    assert process.stdout is not None
    process.stdout.readline()
    (project.folder / "notes.txt").write_text("typed by the user")
    _, err = process.communicate()
    assert process.returncode == 0
    assert (project.folder / "notes.txt").read_text() == "typed by the user"
    assert "notes.txt was changed by someone during the run and is kept" in err


def test_any_command(project: Tool) -> None:
    """After `--`, any command of the image runs; its arguments are passed on as they are."""
    done = project("run", "--", "sh", "-c", 'echo "$0 $1" > said.txt; cat said.txt', "a b", "--json")
    assert done.out == "a b --json\n"
    assert (project.folder / "said.txt").read_text() == "a b --json\n"


def test_from_a_folder_below(project: Tool) -> None:
    """A script of a folder below the project runs in that folder, and finds what lies beside it."""
    (project.folder / "reprobox.toml").write_text("")
    below = project.folder / "src"
    below.mkdir()
    (below / "beside.py").write_text("VALUE = 7\n")
    (below / "train.py").write_text('import beside, sys\nopen("out.txt", "w").write(f"{beside.VALUE} {sys.argv}")\n')
    Tool(below)("run", "train.py", "--epochs", "3")
    assert (below / "out.txt").read_text() == "7 ['train.py', '--epochs', '3']"


def _refused(done: Done, *words: str) -> None:
    for word in words:
        assert word in done.err
    assert "\n\nhint: " in done.err


def test_mistakes_are_told(project: Tool, tmp_path: Path) -> None:
    """Each mistake of a user gives its exit code, a message that names it, and a hint; never a traceback."""
    _write(project, train="pass\n")
    away = Tool(project.folder, {"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
    _refused(away("run", "train.py", code=7), "no Docker engine answers at")
    _refused(away("build", code=7), "none.sock")
    _refused(project("run", "trian.py", code=2), "no script 'trian.py'")
    _refused(project("run", "-e", "nowhere", "train.py", code=2), "no environment 'nowhere'")
    _refused(project("run", "--gpus", "1", "train.py", code=5), "GPUs were asked for (1)")
    _refused(project("run", "--input", "missing", "train.py", code=2), "input 'missing' does not exist")
    _refused(project("eval", "train.py", code=11), "no runs in")
    _refused(project("show", "abc", code=11), "no runs in")
    _refused(project("run", code=2), "Missing argument")
    environment = project.folder / "environment.yml"
    text = environment.read_text()
    environment.write_text(text.replace("idna==3.10", "idna==3.9"))
    _refused(
        project("run", "train.py", code=3), "environment.yml:7: idna==3.9 is not in the lock", "hint: reprobox lock"
    )
    _refused(project("lock", "--check", code=3), "does not match")
    environment.write_text(text.replace("idna==3.10", "no-such-package-of-anybody"))
    _refused(project("lock", code=4), "no-such-package-of-anybody is not on the package index")
    environment.write_text(text + "\n   - broken: [")
    _refused(project("lock", code=3), "environment.yml:9:4:", "not valid YAML")
    environment.write_text(text)
    (project.folder / "reprobox.lock").write_text("version: 1\nplatform: [")
    _refused(project("build", code=3), "reprobox.lock:3:1:", "not valid YAML")


def test_index_that_does_not_answer(project: Tool) -> None:
    """An index that cannot be reached is exit code 4, not a bug."""
    (project.folder / "reprobox.toml").write_text('[mirrors]\npypi = "http://127.0.0.1:9/simple"\n')
    (project.folder / "reprobox.lock").unlink()
    tool = Tool(project.folder, {"UV_HTTP_RETRIES": "0", "UV_CACHE_DIR": str(project.folder / "uv")})
    _refused(tool("lock", code=4), "the package index did not answer")
