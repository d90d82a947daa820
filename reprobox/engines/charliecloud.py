"""charliecloud: `ch-run` on an unpacked image, without root and without a daemon.

Source: charliecloud's documentation of ch-run, 0.31: the image is mounted read-only, the number of the user is free to
choose, programs run without capabilities and cannot gain any.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from reprobox.engines.base import ContainerRequest
from reprobox.engines.rootfs import RootfsEngine, render_variables
from reprobox.errors import EngineMissing, EngineRefused


class CharliecloudEngine(RootfsEngine):
    """charliecloud."""

    name: ClassVar[str] = "charliecloud"

    def find_program(self) -> str:
        """Find `ch-run`."""
        found = shutil.which("ch-run", path=self._path())
        if found is None:
            raise EngineMissing(
                "charliecloud is not installed: there is no ch-run", hint="sudo apt-get install charliecloud"
            )
        return found

    def load_version(self) -> str:
        """Ask `ch-run` for its version."""
        done = subprocess.run(
            [self._program, "--version"], capture_output=True, text=True, check=False, env={"USER": "reprobox"}
        )
        return (done.stdout + done.stderr).strip().splitlines()[0] if done.stdout + done.stderr else ""

    @property
    def promises(self) -> tuple[str, ...]:
        """What charliecloud itself keeps."""
        return ("read-only-root", "capabilities-dropped", "no-new-privileges", "user", "clean-environment")

    def plan_argv(
        self, request: ContainerRequest, *, rootfs: Path, folder: Path, variables: Mapping[str, str]
    ) -> list[str]:
        """Plan the command line; variables go through a file, which other users cannot read."""
        file = folder / "variables"
        file.touch(mode=0o600)
        file.write_text(render_variables(variables, engine=self.name), encoding="utf-8")
        return [
            self._program,
            *plan_charliecloud(request, folder=folder, variables=file),
            str(rootfs),
            "--",
            *request.argv,
        ]


def plan_charliecloud(request: ContainerRequest, *, folder: Path, variables: Path) -> list[str]:
    """Plan the options of `ch-run`. Pure.

    Args:
        request: The container.
        folder: The container's own folder.
        variables: File with its variables.

    Raises:
        EngineRefused: A path holds a colon, which parts source and target there.
    """
    user, _, group = request.user.partition(":")
    options = [
        "--no-passwd",
        "--unset-env=*",
        "--env-no-expand",
        f"--set-env={variables}",
        f"--uid={user}",
        f"--gid={group}",
    ]
    for mount in request.mounts:
        if ":" in f"{mount.source}{mount.target}":
            raise EngineRefused(f"charliecloud cannot mount {mount.source}: a colon stands in its path")
    for path in request.scratch:
        options.append(f"--bind={folder / 'scratch' / path.strip('/').replace('/', '-')}:{path}")
    # In their order: what lies in another mount comes after it.
    for mount in sorted(request.mounts, key=lambda mount: mount.target):
        options.append(f"--bind={mount.source}:{mount.target}")
    return [*options, f"--cd={request.working_directory}"]
