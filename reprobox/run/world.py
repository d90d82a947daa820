"""What a run needs from outside, and what the user wants of it: values, passed in by whoever calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from reprobox.engines.base import Engine
from reprobox.env.client import Client
from reprobox.env.project import Project
from reprobox.errors import UsageError
from reprobox.image.build import Progress
from reprobox.image.cache import Cache
from reprobox.records.store import RunStore
from reprobox.run.settings import WORK

Say = Callable[[str], None]
Sink = Callable[[bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Time, as the command line gives it.

    Attributes:
        now: The time of day, in UTC.
        monotonic_s: Seconds that never go back.
    """

    now: Callable[[], datetime]
    monotonic_s: Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All that a run needs from outside.

    Attributes:
        project: Where.
        cwd: Folder that the user stands in, inside the project.
        client: Where packages come from.
        engine: Where containers run.
        clock: Time.
        progress: Told how a build goes.
        say: Told what a person should know.
        stdout: Gets the command's output.
        stderr: Gets the command's errors.
        workers: Processors to use.
    """

    project: Project
    cwd: Path
    client: Client
    engine: Engine
    clock: Clock
    progress: Progress
    say: Say
    stdout: Sink
    stderr: Sink
    workers: int

    @property
    def store(self) -> RunStore:
        """The project's records."""
        return RunStore(self.project.state)

    @property
    def cache(self) -> Cache:
        """The user's cache."""
        return Cache(self.client.cache)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What the user wants to run.

    Attributes:
        argv: As it is started in the container.
        script: The script's path relative to the project; the command's first word where it is none.
        arguments: What the user typed.
    """

    argv: tuple[str, ...]
    script: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line and reprobox.toml say of a run; None where neither does.

    Attributes:
        inputs: Paths, mounted read-only.
        outputs: Globs.
        metrics: Globs.
        determinism: Level.
        seed: Of every generator.
        threads: Of every pool.
        gpus: As `choose_gpus` takes it.
        env: NAME or NAME=VALUE.
        network: Whether the container has any.
        memory_bytes: Limit.
        place: Whether outputs are shown in the user's folder.
        trail: Whether stages are noted.
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    determinism: Any = None
    seed: int | None = None
    threads: int | None = None
    gpus: str = "auto"
    env: tuple[str, ...] = ()
    network: bool = False
    memory_bytes: int | None = None
    place: bool = True
    trail: bool = True


def plan_command(words: tuple[str, ...], *, project: Project, cwd: Path) -> Command:
    """Plan how a command is started: a .py file by Python, anything else as it is. Pure but for a look at the folder.

    Raises:
        UsageError: There is nothing to run, or the script is not in the project.
    """
    if not words:
        raise UsageError("nothing to run", hint="name a script: reprobox run train.py")
    first = words[0]
    if not first.endswith(".py"):
        return Command(argv=words, script=first, arguments=words)
    path = (cwd / first).resolve()
    if not path.is_file():
        raise UsageError(f"no script {first!r} in {cwd}", hint="check the name, or go to its folder")
    if not path.is_relative_to(project.root):
        raise UsageError(f"{first} is not in the project {project.root}", hint="run it from its own folder")
    script = path.relative_to(project.root).as_posix()
    # Named from the working folder, so that sys.argv[0] and __file__ are what they are without reprobox.
    local = path.relative_to(cwd).as_posix() if path.is_relative_to(cwd) else f"{WORK}/{script}"
    return Command(argv=("python", local, *words[1:]), script=script, arguments=words)
