"""A run made again from its record, with the fake engine: what it is given, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox.diff.judge import judge_reruns
from reprobox.engines.base import ContainerRequest, Sink
from reprobox.engines.fake import FakeEngine
from reprobox.env.project import RunDefaults
from reprobox.errors import CommandFailed, RecordError
from reprobox.records.record import Record
from reprobox.run.execute import execute
from reprobox.run.hardware import Gpus
from reprobox.run.materials import gather_from_record
from reprobox.run.settings import Settings
from reprobox.run.verify import verify_run
from reprobox.run.world import Command, World
from tests.unit.run.worlds import make_prepared, make_world, run_in, work_of

SETTINGS = Settings(
    determinism="strict", seed=0, threads=2, network=False, memory_bytes=None, pids=10, gpus=(), environment=()
)


def play(request: ContainerRequest, out: Sink, err: Sink) -> int:
    """Sum up what the working folder and the input hold."""
    work = work_of(request)
    data = next(mount.source for mount in request.mounts if mount.target == "/work/data")
    names = sorted(path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file())
    (work / "made.txt").write_text(repr(names) + (data / "rows.csv").read_text() + (work / "train.py").read_text())
    (work / "metrics.json").write_text('{"n": 1}')
    return 0


@pytest.fixture
def world(tmp_path: Path) -> World:
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "data").chmod(0o755)
    (folder / "data/rows.csv").write_text("1\n")
    (folder / "train.py").write_text("x = 1\n")
    (folder / "helper.py").symlink_to("train.py")
    return make_world(tmp_path, play=play, run=RunDefaults(inputs=("data",)))


def make_again(world: World, recorded: Record) -> Record:
    """Make a run again as `verify_run` does, but in the fake's image."""
    assert isinstance(world.engine, FakeEngine)
    command = recorded.draft["command"]
    return execute(
        world,
        make_prepared(world.engine),
        Command(argv=tuple(command["argv"]), script=command["script"], arguments=tuple(command["arguments"])),
        lambda: gather_from_record(world, recorded, world.project.state / ".verify-test"),
        SETTINGS,
        Gpus(),
        place=False,
        durations={},
    )


def test_it_is_given_what_the_record_holds_and_not_what_lies_there(world: World) -> None:
    """Code changed, removed and added since makes no difference; links come back as links."""
    recorded = run_in(world, "train.py")
    root = world.project.root
    (root / "train.py").write_text("x = 2\n")
    (root / "helper.py").unlink()
    (root / "new.py").write_text("y = 1\n")
    again = make_again(world, recorded)
    assert judge_reruns(recorded, [again]).verdict == "identical"
    assert again.draft["kind"] == "verify"
    assert again.draft["of"] == recorded.run
    assert again.draft["code"] == recorded.draft["code"]
    assert again.draft["inputs"] == recorded.draft["inputs"]
    assert again.draft["command"] == recorded.draft["command"]
    assert [row["equal"] for row in again.comparison] == [True]
    assert (root / "train.py").read_text() == "x = 2\n"


def test_an_evaluation_is_given_its_artefacts_again(world: World) -> None:
    recorded = run_in(world, "train.py")
    shutil.copyfile(world.project.root / "train.py", world.project.root / "evaluate.py")
    evaluated = run_in(world, "evaluate.py", of=recorded)
    (world.project.root / "made.txt").write_text("something else")
    again = make_again(world, evaluated)
    assert again.draft["given"] == evaluated.draft["given"]
    assert judge_reruns(evaluated, [again]).verdict == "identical"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: (data / "rows.csv").write_text("2\n"), "data/rows.csv is not what that run read"),
        (lambda data: (data / "rows.csv").unlink(), "data/rows.csv is not there"),
        (lambda data: (data / "more.csv").write_text("2\n"), "data holds data/more.csv, which that run did not read"),
        (lambda data: shutil.rmtree(data), "data is not there"),
    ],
)
def test_an_input_that_is_another_is_refused_before_the_start(world: World, change: object, said: str) -> None:
    recorded = run_in(world, "train.py")
    assert callable(change)
    change(world.project.root / "data")
    with pytest.raises(RecordError, match=said):
        make_again(world, recorded)
    assert len(world.store.list_runs()) == 1
    assert world.store.list_active() == []


def test_an_input_that_the_store_holds_is_taken_from_there(world: World) -> None:
    """As after an import of a bundle with inputs: what lies in the folder now does not matter."""
    recorded = run_in(world, "train.py")
    world.store.keep_bytes(b"1\n")
    (world.project.root / "data/rows.csv").write_text("2\n")
    assert judge_reruns(recorded, [make_again(world, recorded)]).verdict == "identical"


def test_code_that_was_altered_in_the_store_is_refused(world: World) -> None:
    recorded = run_in(world, "train.py")
    sha256 = next(row["sha256"] for row in recorded.draft["code"]["files"] if row["path"] == "train.py")
    path = world.store.object_path(sha256)
    path.chmod(0o644)
    path.write_text("x = 3\n")
    with pytest.raises(RecordError, match=r"train\.py"):
        make_again(world, recorded)


def test_a_run_that_has_no_result_cannot_be_verified(world: World) -> None:
    assert isinstance(world.engine, FakeEngine)
    world.engine.programs["python"] = lambda request, out, err: 3
    failed = run_in(world, "train.py")
    with pytest.raises(RecordError, match="is failed"):
        verify_run(world, failed.run, times=1, tolerances=())


def test_an_executor_of_ones_own_may_make_the_runs(world: World) -> None:
    """A scheduler, say; a command that fails this time is no verdict."""
    recorded = run_in(world, "train.py")
    found = verify_run(world, recorded.run, times=3, tolerances=(), executor=lambda: make_again(world, recorded))
    assert found.judgement.verdict == "identical"
    assert len({rerun.run for rerun in found.reruns}) == 3
    assert found.divergence is None
    assert found.hardware == ()
    with pytest.raises(CommandFailed, match="exit code 3"):
        verify_run(
            world, recorded.run, times=1, tolerances=(),
            executor=lambda: replace(make_again(world, recorded), status="failed", exit_code=3),
        )  # fmt: skip
