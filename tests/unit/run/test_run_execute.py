"""One run, with the fake engine: what is handed over, what is collected, what is recorded."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox.engines.base import ContainerRequest, Sink
from reprobox.engines.fake import FakeContainer, FakeEngine
from reprobox.env.project import RunDefaults
from reprobox.errors import EngineRefused, UsageError
from reprobox.records.check import check_run
from reprobox.run.recover import recover_runs
from tests.unit.run.worlds import make_clock, make_world, run_in, work_of


def _script(world_folder: Path, name: str = "train.py", text: str = "x = 1\n") -> None:
    (world_folder / "project").mkdir(exist_ok=True)
    (world_folder / "project" / name).write_text(text)


def test_a_run_is_recorded_whole(tmp_path: Path) -> None:
    """Outputs, metrics, streams and code are in the record's folder, and everything hashes to what is said of it."""

    def play(request: ContainerRequest, out: Sink, err: Sink) -> int:
        work = work_of(request)
        (work / "sub").mkdir()
        (work / "sub/metrics.json").write_text('{"a": {"b": 0.5}, "ok": true}')
        (work / "weights.bin").write_bytes(b"\x00\x01")
        out(b"hello\n")
        err(b"careful\n")
        return 0

    _script(tmp_path)
    world = make_world(tmp_path, play=play)
    record = run_in(world, "train.py")
    folder = world.store.run_folder(record.run)
    assert record.status == "completed"
    assert [output.path for output in record.outputs] == ["sub/metrics.json", "weights.bin"]
    assert record.metrics == {"a.b": 0.5}
    assert (folder / "stdout").read_bytes() == b"hello\n"
    assert (folder / "code/train.py").read_text() == "x = 1\n"
    assert check_run(world.store, record.run) == []
    assert world.store.load_record(record.run) == record
    assert (tmp_path / "project/weights.bin").read_bytes() == b"\x00\x01"
    assert not list((world.project.state / "active").iterdir())
    assert isinstance(world.engine, FakeEngine)
    assert world.engine.containers == {}


def test_the_request_says_all_and_no_more(tmp_path: Path) -> None:
    """A container gets three mounts of ours and the inputs, no network, and only variables that are listed."""
    _script(tmp_path)
    (tmp_path / "project/data").mkdir()
    (tmp_path / "project/data/rows.csv").write_text("1")
    (tmp_path / "project/data").chmod(0o755)
    world = make_world(tmp_path, play=lambda *_: 0, run=RunDefaults(inputs=("data/",)))
    record = run_in(world, "train.py")
    assert isinstance(world.engine, FakeEngine)
    (request,) = world.engine.requests
    targets = {mount.target: mount.writable for mount in request.mounts}
    assert targets == {
        "/work": True, "/run/reprobox/guest": False, "/run/reprobox/trail": True, "/work/data": False,
    }  # fmt: skip
    assert request.network is False
    assert request.user == f"{os.geteuid() or 1000}:{os.geteuid() or 1000}"
    assert "PATH" not in dict(request.environment)
    assert [row["path"] for row in record.draft["inputs"]] == ["data/rows.csv"]
    assert [row["path"] for row in record.draft["code"]["files"]] == ["train.py"]


def test_unchanged_files_are_no_outputs_but_rewritten_ones_are(tmp_path: Path) -> None:
    """What the command did not write is no output; what it wrote again with equal bytes is one."""

    def play(request: ContainerRequest, out: Sink, err: Sink) -> int:
        (work_of(request) / "metrics.json").write_text('{"a": 1}')
        return 0

    _script(tmp_path)
    (tmp_path / "project/metrics.json").write_text('{"a": 1}')
    (tmp_path / "project/notes.txt").write_text("mine")
    record = run_in(make_world(tmp_path, play=play), "train.py")
    assert [output.path for output in record.outputs] == ["metrics.json"]
    assert record.metrics == {"a": 1}


def test_output_globs(tmp_path: Path) -> None:
    """With globs, only what they name is an output, at any depth."""

    def play(request: ContainerRequest, out: Sink, err: Sink) -> int:
        work = work_of(request)
        for name in ("a.keras", "deep/b.keras", "log.txt", "runs/x/y.txt"):
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_text(name)
        return 0

    _script(tmp_path)
    record = run_in(make_world(tmp_path, play=play), "train.py", outputs=("*.keras", "runs/"))
    assert [output.path for output in record.outputs] == ["a.keras", "deep/b.keras", "runs/x/y.txt"]


def test_links_in_outputs(tmp_path: Path) -> None:
    """A link to a file of the run counts as that file; one that leads out of the folder is never followed."""

    def play(request: ContainerRequest, out: Sink, err: Sink) -> int:
        work = work_of(request)
        (work / "ckpt-3").write_text("weights")
        (work / "latest").symlink_to("ckpt-3")
        (work / "passwd").symlink_to("/etc/passwd")
        (work / "up").symlink_to("../../../../..")
        os.mkfifo(work / "pipe")
        return 0

    _script(tmp_path)
    world = make_world(tmp_path, play=play)
    record = run_in(world, "train.py")
    assert {output.path: output.size_bytes for output in record.outputs} == {"ckpt-3": 7, "latest": 7}
    assert check_run(world.store, record.run) == []


def test_a_link_in_the_users_folder_is_not_followed(tmp_path: Path) -> None:
    """Outputs are never placed through a link that leads out of the project."""

    def play(request: ContainerRequest, out: Sink, err: Sink) -> int:
        work = work_of(request)
        (work / "out").mkdir(exist_ok=True)
        (work / "out/x.txt").write_text("x")
        return 0

    _script(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "project/out").symlink_to(tmp_path / "elsewhere")
    record = run_in(make_world(tmp_path, play=play), "train.py")
    assert [output.path for output in record.outputs] == ["out/x.txt"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_broken_model_taints(tmp_path: Path) -> None:
    """A file that looks like a model but is cut makes the record tainted, and is kept all the same."""

    def play(request: ContainerRequest, out: Sink, err: Sink) -> int:
        (work_of(request) / "model.npz").write_bytes(b"PK\x03\x04 cut")
        (work_of(request) / "metrics.json").write_text("{not json")
        return 0

    _script(tmp_path)
    record = run_in(make_world(tmp_path, play=play), "train.py")
    assert {output.path for output in record.outputs} == {"model.npz", "metrics.json"}
    assert any("metrics.json" in reason for reason in record.tainted)


def test_evaluation_gets_the_recorded_outputs(tmp_path: Path) -> None:
    """An evaluation sees the training's outputs as recorded, whatever lies in the user's folder by then."""
    seen: dict[str, str] = {}

    def play(request: ContainerRequest, out: Sink, err: Sink) -> int:
        work = work_of(request)
        if request.argv[1] == "train.py":
            (work / "model.bin").write_text("first")
            (work / "metrics.json").write_text('{"a": 0.1, "only_here": 1}')
        else:
            seen.update({path.name: path.read_text() for path in work.iterdir() if path.suffix != ".py"})
            (work / "eval_metrics.json").write_text('{"a": 0.1}')
        return 0

    _script(tmp_path)
    _script(tmp_path, "evaluate.py")
    world = make_world(tmp_path, play=play)
    trained = run_in(world, "train.py")
    (tmp_path / "project/model.bin").write_text("changed since")
    evaluated = run_in(world, "evaluate.py", of=trained)
    assert seen["model.bin"] == "first"
    assert [output.path for output in evaluated.outputs] == ["eval_metrics.json"]
    assert [(row["metric"], row["equal"]) for row in evaluated.comparison] == [("a", True)]
    assert evaluated.draft["of"] == trained.run
    assert (tmp_path / "project/model.bin").read_text() == "changed since"


def test_an_engine_that_refuses_leaves_nothing(tmp_path: Path) -> None:
    """Where the container cannot be started there is no record and no folder under way."""
    _script(tmp_path)

    class Refusing(FakeEngine):
        def start(self, request: ContainerRequest, *, stdout: Sink, stderr: Sink) -> FakeContainer:
            raise EngineRefused("no")

    world = replace(make_world(tmp_path), engine=Refusing())
    with pytest.raises(EngineRefused):
        run_in(world, "train.py")
    assert world.store.list_runs() == []
    assert not list((world.project.state / "active").iterdir())


@pytest.mark.parametrize("ended", [False, True])
def test_what_a_killed_tool_left_becomes_a_record(tmp_path: Path, ended: bool) -> None:
    """A run without its tool is recorded from its notes: interrupted, or as it ended where that was noted."""

    class Killed(BaseException):
        pass

    def play(request: ContainerRequest, out: Sink, err: Sink) -> int:
        (work_of(request) / "kept.txt").write_text("kept")
        return 0

    _script(tmp_path)
    world = make_world(tmp_path, play=play)
    import reprobox.run.execute as execute

    original = execute.finish_run

    def die(*_: object, **__: object) -> None:
        raise Killed

    execute.finish_run = die  # type: ignore[assignment]
    try:
        with pytest.raises(Killed):
            run_in(world, "train.py")
    finally:
        execute.finish_run = original
    ((run, owner),) = world.store.list_active()
    assert owner is not None
    active = world.store.active_folder(run)
    assert (
        recover_runs(world.store, {"fake": world.engine}, now=make_clock().now(), workers=1, act=True)[0].state
        == "running"
    )
    note = json.loads((active / "owner.json").read_text())
    (active / "owner.json").write_text(json.dumps(note | {"started_ticks": 1}))
    if not ended:
        (active / "ended.json").unlink()
    (left,) = recover_runs(world.store, {"fake": world.engine}, now=make_clock().now(), workers=1, act=False)
    assert (left.state, left.action) == ("dead", "recorded")
    assert world.store.list_runs() == []
    recover_runs(world.store, {"fake": world.engine}, now=make_clock().now(), workers=1, act=True)
    record = world.store.load_record(run)
    assert record.status == ("completed" if ended else "interrupted")
    assert [output.path for output in record.outputs] == ["kept.txt"]
    assert check_run(world.store, run) == []
    assert recover_runs(world.store, {"fake": world.engine}, now=make_clock().now(), workers=1, act=True) == []


def test_runs_of_another_machine_are_left_alone(tmp_path: Path) -> None:
    """On a shared file system, what another host has under way is named and not touched."""
    world = make_world(tmp_path)
    from reprobox.records.record import RunId

    folder = world.store.begin(RunId("20260101T000000-abcdef"))
    note = json.loads((folder / "owner.json").read_text())
    (folder / "owner.json").write_text(json.dumps(note | {"host": "elsewhere.example"}))
    (left,) = recover_runs(world.store, {"fake": world.engine}, now=make_clock().now(), workers=1, act=True)
    assert (left.state, left.action) == ("elsewhere", "none")
    assert folder.is_dir()


def test_inputs_that_make_no_sense(tmp_path: Path) -> None:
    """A missing input, the project itself, and a system folder are refused by name."""
    _script(tmp_path)
    world = make_world(tmp_path, play=lambda *_: 0)
    for name in ("missing", ".", "/etc"):
        with pytest.raises(UsageError, match="input"):
            run_in(world, "train.py", inputs=(name,))


def test_big_files_are_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file over the limit is not copied but mounted read-only, hashed, and said to be."""
    import reprobox.run.snapshot as snapshot

    monkeypatch.setattr(snapshot, "BIG_FILE_BYTES", 10)
    _script(tmp_path)
    (tmp_path / "project/big.bin").write_bytes(b"x" * 11)
    (tmp_path / "project/big.bin").chmod(0o644)
    world = make_world(tmp_path, play=lambda *_: 0)
    record = run_in(world, "train.py")
    assert isinstance(world.engine, FakeEngine)
    assert "/work/big.bin" in {mount.target for mount in world.engine.requests[0].mounts}
    assert [row["path"] for row in record.draft["inputs"]] == ["big.bin"]
    assert record.outputs == ()
