"""What all commands share: where they are, what they reach, and how they talk."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobox.errors import UsageError

if TYPE_CHECKING:
    from reprobox.engines.base import Engine
    from reprobox.env.client import Client
    from reprobox.env.project import EnvironmentEntry, Project
    from reprobox.records.store import RunStore
    from reprobox.report.text import Style
    from reprobox.run.world import Clock, World


@dataclass
class Session:
    """One call of the command line.

    Attributes:
        directory: Where it acts, as the user named it.
        environ: The process environment.
        engine_name: Name of the container engine that the command line asks for, or None.
    """

    directory: str
    environ: Mapping[str, str]
    engine_name: str | None = None

    @cached_property
    def cwd(self) -> Path:
        """The folder to act in.

        Raises:
            UsageError: There is no such folder.
        """
        path = Path(self.directory).resolve()
        if not path.is_dir():
            raise UsageError(f"no folder {self.directory!r}", hint="name an existing one with -C")
        return path

    @cached_property
    def project(self) -> Project:
        """The project that it is in."""
        from reprobox.env.project import load_project

        return load_project(self.cwd)

    @cached_property
    def store(self) -> RunStore:
        """The project's records."""
        from reprobox.records.store import RunStore

        return RunStore(self.project.state)

    @cached_property
    def client(self) -> Client:
        """How packages are reached."""
        from reprobox.env.client import Client, find_certificates

        cache = self.environ.get("REPROBOX_CACHE")
        if not cache:
            home = self.environ.get("XDG_CACHE_HOME") or os.path.join(self.environ.get("HOME") or "/tmp", ".cache")  # noqa: PTH118
            cache = str(Path(home) / "reprobox")
        mirror = self.environ.get("REPROBOX_MIRROR") or self.project.mirrors.get("folder")
        client = Client(
            environ=self.environ,
            cache=Path(cache),
            mirrors=self.project.mirrors,
            mirror=self.project.root / mirror if mirror else None,
        )
        bundle = find_certificates(client)
        if bundle is None:
            return client
        # One bundle for all: uv and py-rattler read one of these names, requests the other.
        names = [name for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE") if name not in self.environ]
        os.environ.update(dict.fromkeys(names, bundle))
        return replace(client, environ={**self.environ, **dict.fromkeys(names, bundle)})

    @cached_property
    def engine(self) -> Engine:
        """The container engine.

        Raises:
            EngineMissing: None answers.
        """
        from reprobox.engines.choose import connect_engine

        asked = self.engine_name or self.environ.get("REPROBOX_ENGINE") or self.project.engine
        return connect_engine(self.client.environ, asked=asked, store=self.engine_store)

    @property
    def engine_store(self) -> Path:
        """Folder for images and containers of engines that have no daemon."""
        return self.client.cache / "engines"

    @cached_property
    def workers(self) -> int:
        """Processors that this process may use."""
        return max(1, len(os.sched_getaffinity(0)))

    @cached_property
    def clock(self) -> Clock:
        """The time."""
        from reprobox.run.world import Clock

        return Clock(now=lambda: datetime.now(UTC), monotonic_s=time.monotonic)

    @cached_property
    def style(self) -> Style:
        """Colours for talk."""
        from reprobox.report.text import Style

        return Style(on=sys.stderr.isatty() and "NO_COLOR" not in self.environ)

    def find_environment(self, name: str | None) -> EnvironmentEntry:
        """Find what ENV means."""
        from reprobox.env.project import find_environment

        return find_environment(self.project, name, cwd=self.cwd)

    def find_environment_for_here(self, name: str | None) -> EnvironmentEntry:
        """Find what ENV means, with the lock for this kind of machine."""
        from reprobox.env.project import choose_lock

        return choose_lock(self.find_environment(name), machine=os.uname().machine)

    def world(self, *, output_to_stderr: bool) -> World:
        """All that a run needs.

        Args:
            output_to_stderr: Send the command's own output there, because stdout carries a document.
        """
        from reprobox.cli.progress import make_progress
        from reprobox.run.world import World

        return World(
            project=self.project,
            cwd=self.cwd,
            client=self.client,
            engine=self.engine,
            clock=self.clock,
            progress=make_progress(self.environ),
            say=say,
            stdout=_sink(2 if output_to_stderr else 1),
            stderr=_sink(2),
            workers=self.workers,
        )


def say(text: str) -> None:
    """Tell a person something."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_document(value: Any) -> None:
    """Print the one JSON document of a command."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def _sink(descriptor: int) -> Any:
    def write(chunk: bytes) -> None:
        view = memoryview(chunk)
        try:
            while view:
                try:
                    view = view[os.write(descriptor, view) :]
                except BlockingIOError:
                    select.select([], [descriptor], [])
        except OSError:
            # Nobody reads any more, or the terminal is gone; the record still gets all of it.
            return

    return write
