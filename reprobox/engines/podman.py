"""Podman, over the same interface as Docker: its own socket where one listens, else a service of ours for this session.

Source: Podman's documentation of `podman system service` and of its Docker-compatible API; what differs was seen with
Podman 4.3.
"""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from reprobox.engines.base import ContainerRequest, EngineInfo, LoadableImage
from reprobox.engines.docker import DockerEngine, render_request
from reprobox.errors import EngineMissing

_START_S = 15
_IDLE_S = 300
_PODMANS_OWN_PROCESSES = 32_768
"""Podman lowers its own limit of processes to this, and may give a container no more."""


class PodmanEngine(DockerEngine):
    """Podman, with or without root.

    Args:
        environ: The process environment; `CONTAINER_HOST` names a socket.

    Raises:
        EngineMissing: There is no Podman, or its service does not answer.
    """

    name: ClassVar[str] = "podman"
    title: ClassVar[str] = "Podman"

    def __init__(self, environ: Mapping[str, str]) -> None:
        where = environ.get("CONTAINER_HOST") or find_podman_socket(environ)
        if where is None:
            where = self._start_service(environ)
        super().__init__({**environ, "DOCKER_HOST": where})

    def _start_service(self, environ: Mapping[str, str]) -> str:
        """Start a service of our own, which ends once nobody asks it any more; until then the next call finds it."""
        podman = shutil.which("podman", path=environ.get("PATH"))
        if podman is None:
            raise EngineMissing("Podman is not installed", hint="sudo apt-get install podman")
        folder = _own_folder(environ)
        place = folder / "podman.sock"
        command = [podman, *plan_runtime(environ), "system", "service", f"--time={_IDLE_S}", f"unix://{place}"]
        with (folder / "lock").open("wb") as lock, (folder / "log").open("ab") as log:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _listens(place):
                return f"unix://{place}"
            place.unlink(missing_ok=True)
            log.truncate(0)
            service = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(environ), start_new_session=True,
                close_fds=True, cwd="/",  # it may outlive the folder, without which it starts nothing
            )  # fmt: skip
            deadline = time.monotonic() + _START_S
            while not _listens(place):
                if service.poll() is not None or time.monotonic() > deadline:
                    said = (folder / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
                    raise EngineMissing("Podman's service did not start: " + " ".join(said), hint="try: podman info")
                time.sleep(0.02)
        return f"unix://{place}"

    def describe(self) -> EngineInfo:
        """Say what it is."""
        info = super().describe()
        with self._ours("describe itself"):
            limits = self._api.info()
        if info.rootless and str(limits.get("CgroupVersion", "")) == "1":
            # Without root, the older kind of control groups cannot be used at all.
            limited = ("memory-limit", "pids-limit")
            return EngineInfo(
                name=info.name, version=info.version, api=info.api, storage=info.storage, cpus=info.cpus,
                memory_bytes=info.memory_bytes, rootless=True, caller="root",
                keeps=tuple(promise for promise in info.keeps if promise not in limited),
            )  # fmt: skip
        return info

    @property
    def takes_parts(self) -> bool:
        """Podman opens every layer of an archive."""
        return False

    def load_image(self, image: LoadableImage, *, held: int) -> None:
        """Load an image, whole."""
        del held
        self.load_archive(image.render_archive(image.diff_ids))

    def render(self, request: ContainerRequest) -> dict[str, Any]:
        """Render a request as the body of the create call."""
        info = self.describe()
        return render_podman_request(
            request,
            files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
            processes=resource.getrlimit(resource.RLIMIT_NPROC)[1],
            limits="memory-limit" in info.keeps,
        )


def render_podman_request(request: ContainerRequest, *, files: int, processes: int, limits: bool) -> dict[str, Any]:
    """Render a request as the body that Podman's create call takes. Pure.

    Args:
        request: The container.
        files: This process's hard limit of open files, or -1: Podman's own defaults may be higher than it may give.
        processes: This process's hard limit of processes, or -1.
        limits: Whether memory and processes can be limited by control groups.
    """
    body = render_request(request)
    host = body["HostConfig"]
    most = min(value for value in (processes if processes > 0 else request.pids, request.pids, _PODMANS_OWN_PROCESSES))
    host["Ulimits"] = [{"Name": "nproc", "Soft": most, "Hard": most}]
    if files > 0:
        host["Ulimits"].append({"Name": "nofile", "Soft": files, "Hard": files})
    # Podman's own kind of log, which can be read back.
    host["LogConfig"] = {"Type": "k8s-file", "Config": {}}
    if not limits:
        for key in ("Memory", "MemorySwap", "PidsLimit"):
            host.pop(key, None)
    return body


def _own_folder(environ: Mapping[str, str]) -> Path:
    """Give a folder for a socket that nobody else can reach.

    Raises:
        EngineMissing: Somebody else holds its place.
    """
    runtime = environ.get("XDG_RUNTIME_DIR")
    parent = Path(runtime) if runtime and os.access(runtime, os.W_OK) else Path(tempfile.gettempdir())
    folder = parent / f"reprobox-podman-{os.geteuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise EngineMissing(
            f"{folder} cannot be made: {error}", hint="set XDG_RUNTIME_DIR to a folder of yours"
        ) from None
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise EngineMissing(f"{folder} is not a private folder of this user", hint="remove it, or set XDG_RUNTIME_DIR")
    return folder


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def find_podman_socket(environ: Mapping[str, str]) -> str | None:
    """Find where Podman listens already; None where it does not."""
    places = [Path("/run/podman/podman.sock")] if os.geteuid() == 0 else []
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        places.append(Path(runtime, "podman/podman.sock"))
    return next((f"unix://{place}" for place in places if place.is_socket()), None)


def plan_runtime(environ: Mapping[str, str], *, groups: Path = Path("/sys/fs/cgroup")) -> list[str]:
    """Plan which runtime Podman's service takes: crun, its own choice, refuses control groups of both kinds at once."""
    is_unified = (groups / "cgroup.controllers").exists()
    runc = shutil.which("runc", path=f"{environ.get('PATH', '')}:/usr/sbin:/sbin")
    return ["--runtime", runc] if not is_unified and runc else []
