"""Settings and GPU choice: pure functions."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprobox.engines.fake import FakeEngine
from reprobox.env.client import Client
from reprobox.env.project import Project, RunDefaults
from reprobox.errors import AcceleratorError, UsageError
from reprobox.run.driver import _let_in, _settings
from reprobox.run.hardware import Gpu, Gpus, choose_gpus
from reprobox.run.settings import Settings, render_variables
from reprobox.run.world import Options, World, plan_command
from tests.unit.run.worlds import make_world

TWO = Gpus(
    driver="580.1",
    devices=tuple(Gpu(index=i, uuid=f"GPU-{i}", model="NVIDIA H200", memory_bytes=1 << 37) for i in range(2)),
)


def _make(level: str = "strict", **more: object) -> Settings:
    values = {
        "determinism": level, "seed": 7, "threads": 3, "network": False, "memory_bytes": None, "pids": 10, "gpus": (),
        "environment": (),
    }  # fmt: skip
    return Settings(**(values | more))  # type: ignore[arg-type]


def test_each_level_sets_what_it_promises() -> None:
    """off leaves hashes and threads alone; seeded fixes both; strict adds deterministic ops; portable caps the processor."""
    off, seeded, strict, portable = (
        render_variables(_make(level)) for level in ("off", "seeded", "strict", "portable")
    )
    assert "PYTHONHASHSEED" not in off
    assert "OMP_NUM_THREADS" not in off
    assert (seeded["PYTHONHASHSEED"], seeded["OMP_NUM_THREADS"]) == ("7", "3")
    assert "TF_DETERMINISTIC_OPS" not in seeded
    assert strict["TF_DETERMINISTIC_OPS"] == "1"
    assert "ONEDNN_MAX_CPU_ISA" not in strict
    assert portable["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert strict.items() <= {**portable, "REPROBOX_DETERMINISM": "strict"}.items()


def test_what_is_let_in_wins_but_not_over_the_shim() -> None:
    """A variable of the user replaces ours, except those that make the shim work."""
    variables = render_variables(_make(environment=(("OMP_NUM_THREADS", "9"), ("PYTHONPATH", "/x"))))
    assert variables["OMP_NUM_THREADS"] == "9"
    assert variables["PYTHONPATH"] == "/run/reprobox/guest"


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("none", ()), ("0", ()), ("auto", ("GPU-0", "GPU-1")), ("all", ("GPU-0", "GPU-1")), ("1", ("GPU-0",)),
        ("2", ("GPU-0", "GPU-1")), ("1,", ("GPU-1",)), ("1,0", ("GPU-1", "GPU-0")), ("GPU-1", ("GPU-1",)),
    ],
)  # fmt: skip
def test_gpus_that_are_there(asked: str, chosen: tuple[str, ...]) -> None:
    """A number counts, a list names, auto and all take every one."""
    assert choose_gpus(asked, TWO) == chosen


@pytest.mark.parametrize(
    ("asked", "found", "words"),
    [
        ("1", Gpus(), "this machine has none"),
        ("all", Gpus(), "this machine has none"),
        ("3", TWO, "there are 2"),
        ("5,", TWO, "no GPU '5'"),
        ("1", Gpus(problem="Driver/library version mismatch"), "version mismatch"),
    ],
)
def test_gpus_that_are_not(asked: str, found: Gpus, words: str) -> None:
    """What is not there is refused with what is, before anything starts."""
    with pytest.raises(AcceleratorError, match=words) as caught:
        choose_gpus(asked, found)
    assert caught.value.hint


def test_auto_without_a_gpu_is_the_cpu() -> None:
    """`auto` is never an error: no driver, no device and a broken driver all mean the CPU."""
    assert choose_gpus("auto", Gpus()) == ()
    assert choose_gpus("auto", Gpus(problem="lost")) == ()


def test_who_decides(tmp_path: Path) -> None:
    """The command line wins over the evaluated run, that over the project, that over the machine."""
    world = make_world(tmp_path, run=RunDefaults(seed=5, determinism="seeded"))
    assert _settings(world, Options(), {})[0].seed == 5
    assert _settings(world, Options(), {})[0].threads == FakeEngine().describe().cpus
    recorded = {"determinism": "off", "seed": 6, "threads": 4}
    chosen = _settings(world, Options(), recorded)[0]
    assert (chosen.determinism, chosen.seed, chosen.threads) == ("off", 6, 4)
    assert _settings(world, Options(seed=0), recorded)[0].seed == 0


def test_letting_variables_in() -> None:
    """NAME takes the host's value and must be set; NAME=VALUE brings its own; a name is needed."""
    assert _let_in(("A", "B=x=y"), {"A": "1"}) == (("A", "1"), ("B", "x=y"))
    for bad in ("MISSING", "=x"):
        with pytest.raises(UsageError):
            _let_in((bad,), {})


def test_how_a_command_is_started(tmp_path: Path) -> None:
    """A script is run by Python under its own local name; anything else is started as it is."""
    below = tmp_path / "src"
    below.mkdir()
    (below / "train.py").write_text("")
    (tmp_path / "top.py").write_text("")
    project = Project(root=tmp_path)
    found = plan_command(("train.py", "-x"), project=project, cwd=below)
    assert (found.argv, found.script) == (("python", "train.py", "-x"), "src/train.py")
    assert plan_command(("../top.py",), project=project, cwd=below).argv == ("python", "/work/top.py")
    assert plan_command(("sh", "-c", "x"), project=project, cwd=below).argv == ("sh", "-c", "x")
    for words in ((), ("none.py",), ("/etc/../usr/x.py",)):
        with pytest.raises(UsageError):
            plan_command(words, project=project, cwd=below)


def test_the_world_knows_its_places(tmp_path: Path) -> None:
    """Records lie in the project, packages in the user's cache."""
    world: World = make_world(tmp_path)
    assert world.store.state == tmp_path / "project/.reprobox"
    assert isinstance(world.client, Client)
    assert world.cache.root == tmp_path / "cache"
