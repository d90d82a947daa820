"""A world with a fake engine, a clock that is told what to say, and an image that needs no packages."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from reprobox.engines.base import ContainerRequest, Sink
from reprobox.engines.fake import FakeEngine
from reprobox.env.client import Client
from reprobox.env.lockfile import Lock, Requested
from reprobox.env.project import EnvironmentEntry, Project, RunDefaults
from reprobox.image.cache import CachedLayer
from reprobox.image.layers import DiffId, LayerDigest
from reprobox.image.oci import render_image
from reprobox.image.plan import LayerKey, LayerPlan
from reprobox.records.record import Record
from reprobox.run.execute import execute
from reprobox.run.hardware import Gpus
from reprobox.run.materials import gather_from_folder
from reprobox.run.prepare import Prepared
from reprobox.run.settings import Settings
from reprobox.run.world import Clock, Options, World, plan_command

Program = Callable[[ContainerRequest, Sink, Sink], int]

LOCK = Lock(
    platform="linux-64", layer_format=1, virtual_packages=(("__glibc", "2.36"),), python="3.11.2", omit=(), keep=(),
    debian=(), wheels=(), variables=(), requested=Requested(sha256="", base="debian-12"), tools=(),
)  # fmt: skip


class Silent:
    """A progress that nobody watches."""

    def start(self, task: str, total_bytes: int) -> None: ...

    def advance(self, task: str, size_bytes: int) -> None: ...

    def finish(self, task: str) -> None: ...


def make_clock() -> Clock:
    """A clock of which every look is a second later."""
    moments = iter(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC) + timedelta(seconds=n) for n in range(10**6))
    seconds = iter(range(10**6))
    return Clock(now=lambda: next(moments), monotonic_s=lambda: float(next(seconds)))


def make_world(folder: Path, *, run: RunDefaults | None = None, play: Program | None = None) -> World:
    """A world around `folder`/project; `play` is what a script does."""
    root = folder / "project"
    root.mkdir(exist_ok=True)
    said: list[str] = []
    return World(
        project=Project(root=root, run=run or RunDefaults()),
        cwd=root,
        client=Client(environ={"PATH": "/usr/bin:/bin"}, cache=folder / "cache", apt_templates=()),
        engine=FakeEngine(programs={"python": play} if play else {}),
        clock=make_clock(),
        progress=Silent(),
        say=said.append,
        stdout=lambda chunk: None,
        stderr=lambda chunk: None,
        workers=2,
    )


def make_prepared(engine: FakeEngine) -> Prepared:
    """An image of one layer, in the engine."""
    plan = LayerPlan(kind="skeleton", key=LayerKey("k"), reason="")
    layer = CachedLayer(digest=LayerDigest(diff_id=DiffId("sha256:" + "1" * 64), size_bytes=1, files=0), path=Path("/"))
    image = render_image(LOCK, [plan], [layer])
    engine.images[image.config_digest] = tuple(image.diff_ids)
    entry = EnvironmentEntry(name="fake", environment=Path("environment.yml"), lock=Path("reprobox.lock"))
    return Prepared(entry=entry, lock=LOCK, image=image, reused=True)


def run_in(world: World, *words: str, of: Record | None = None, **options: Any) -> Record:
    """Run a script with the fake engine."""
    assert isinstance(world.engine, FakeEngine)
    settings = Settings(
        determinism="strict", seed=0, threads=2, network=False, memory_bytes=None, pids=10, gpus=(), environment=()
    )
    command = plan_command(words, project=world.project, cwd=world.cwd)
    asked = Options(**options)
    return execute(
        world,
        make_prepared(world.engine),
        command,
        lambda: gather_from_folder(world, command, asked, of=of),
        settings,
        Gpus(),
        place=asked.place,
        durations={},
    )


def work_of(request: ContainerRequest) -> Path:
    """The working folder on the host."""
    return next(mount.source for mount in request.mounts if mount.target == "/work")
