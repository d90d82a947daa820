"""Engines without a daemon: images are unpacked folders, containers are processes of ours.

What charliecloud and apptainer have in common is here. Each container has a folder with its output, its exit code and
a note of its process, so that what a killed tool left can be found and ended as with any other engine. Where the
kernel lets an ordinary user have namespaces, a container has a network, processes and names of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

from reprobox.engines.base import (
    RUN_LABEL,
    STATE_LABEL,
    ContainerExit,
    ContainerRequest,
    EngineInfo,
    FoundContainer,
    HeldImage,
    LoadableImage,
    Mount,
    Sink,
)
from reprobox.engines.mounts import list_mounts_below
from reprobox.errors import AcceleratorError, EngineRefused
from reprobox.records.notes import read_note, write_note
from reprobox.records.processes import find_process

_LOOK_S = 0.03
_ISOLATE = (
    "unshare", "--user", "--map-root-user", "--mount", "--ipc", "--uts", "--pid", "--fork", "--kill-child",
    "--mount-proc",
)  # fmt: skip
# The first process of a process namespace: it hands signals on by letting them pass, reaps, and notes how it ended.
_INIT = """\
exit_file=$1; shift
: > "${exit_file%/*}/ready"
trap : TERM INT
"$@" &
child=$!
while :; do wait "$child"; code=$?; kill -0 "$child" 2>/dev/null || break; done
echo "$code" > "$exit_file.new"; mv "$exit_file.new" "$exit_file"
"""
_KEPT_FLAGS = {"ST_NOSUID": "nosuid", "ST_NODEV": "nodev", "ST_NOEXEC": "noexec", "ST_NOATIME": "noatime"}


class RootfsEngine(ABC):
    """An engine that runs unpacked images.

    Args:
        environ: The process environment.
        store: Folder for images and containers.
    """

    name: ClassVar[str]

    def __init__(self, environ: Mapping[str, str], store: Path) -> None:
        self._environ = environ
        self._store = store
        self._program = self.find_program()
        self._isolates = self._can_isolate()

    @abstractmethod
    def find_program(self) -> str:
        """Find the engine's program.

        Raises:
            EngineMissing: It is not installed.
        """

    @abstractmethod
    def load_version(self) -> str:
        """Ask the program for its version."""

    @abstractmethod
    def plan_argv(
        self, request: ContainerRequest, *, rootfs: Path, folder: Path, variables: Mapping[str, str]
    ) -> list[str]:
        """Plan the command line that runs a container.

        Args:
            request: The container.
            rootfs: The unpacked image.
            folder: The container's own folder, with `variables` in it and a folder for each path of `scratch`.
            variables: The image's own variables and those of the request.
        """

    @property
    @abstractmethod
    def promises(self) -> tuple[str, ...]:
        """What the engine itself keeps of the run contract, by name."""

    def _can_isolate(self) -> bool:
        """Whether this kernel lets this user have namespaces of his own."""
        try:
            done = subprocess.run(
                [*_ISOLATE, "--net", "true"], capture_output=True, check=False, env={"PATH": self._path()}
            )
        except OSError:
            return False
        return done.returncode == 0

    def _path(self) -> str:
        return f"{self._environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin"

    def describe(self) -> EngineInfo:
        """Say what it is."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        keeps = (*self.promises, *(("network-none", "read-only-inputs") if self._isolates else ()))
        return EngineInfo(
            name=self.name,
            version=self.load_version(),
            api="",
            storage="rootfs",
            cpus=len(os.sched_getaffinity(0)),
            memory_bytes=memory,
            rootless=True,
            keeps=tuple(sorted(keeps)),
            caller="any",
        )

    def _image(self, image_id: str) -> Path:
        return self._store / "images" / image_id.removeprefix("sha256:")

    def find_image(self, image_id: str, diff_ids: Sequence[str]) -> bool:
        """Whether it holds the image of this id with exactly these layers."""
        note = read_note(self._image(image_id) / "image.json")
        return note is not None and note.get("diff_ids") == list(diff_ids)

    def list_layers(self) -> list[tuple[str, ...]]:
        """None: an unpacked image shares nothing with another one."""
        return []

    def list_images(self) -> list[HeldImage]:
        """List the images that it holds."""
        found = []
        for file in sorted((self._store / "images").glob("*/image.json")):
            note = read_note(file) or {}
            found.append(HeldImage(id=f"sha256:{file.parent.name}", lock=note.get("lock", ""), partial=False))
        return found

    @property
    def takes_parts(self) -> bool:
        """An image is unpacked whole."""
        return False

    def load_image(self, image: LoadableImage, *, held: int) -> None:
        """Unpack an image."""
        del held
        target = self._image(image.id)
        aside = self._store / "unfinished" / f"{os.getpid()}-{secrets.token_hex(4)}"
        try:
            (aside / "rootfs").mkdir(parents=True)
            _sweep(aside)
            image.unpack(aside / "rootfs")
            settings = json.loads(image.config).get("config", {})
            lock = settings.get("Labels", {}).get("org.reprobox.lock", "")
            note = {"diff_ids": list(image.diff_ids), "variables": settings.get("Env", []), "tags": [], "lock": lock}
            (aside / "image.json").write_text(json.dumps(note), encoding="utf-8")
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                aside.rename(target)
            except OSError:
                # Somebody else was faster; equal images are equal.
                if not self.find_image(image.id, image.diff_ids):
                    raise
        except OSError as error:
            raise EngineRefused(
                f"{self.name}: the image cannot be unpacked to {target}: {error}", hint="see `reprobox doctor`"
            ) from None
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def tag_image(self, image_id: str, name: str, tag: str) -> None:
        """Give an image a name for people."""
        file = self._image(image_id) / "image.json"
        note = read_note(file)
        if note is not None and f"{name}:{tag}" not in note["tags"]:
            # A store that is read-only has images all the same, without new names.
            with contextlib.suppress(OSError):
                write_note(file, {**note, "tags": [*note["tags"], f"{name}:{tag}"]})

    def remove_image(self, image_id: str) -> None:
        """Remove an image. No error if it is gone, or used by a container that runs: then it stays."""
        folder = self._image(image_id)
        for file in (self._store / "containers").glob("*/container.json"):
            note = read_note(file) or {}
            if note.get("image") == image_id and RootfsContainer(file.parent, note["pid"], None).is_running():
                return
        gone = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
        with contextlib.suppress(FileNotFoundError):
            # Renamed first: an image that is half removed is not found any more.
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def find_reference(self, reference: str) -> str:
        """Refuse: nothing is pulled here."""
        raise EngineRefused(f"{self.name} cannot pull {reference}", hint="take Docker or Podman for that")

    def build_dockerfile(self, folder: Path, dockerfile: str) -> str:
        """Refuse: nothing is built here."""
        raise EngineRefused(
            f"{self.name} cannot build the Dockerfile in {folder}", hint="take Docker or Podman for that"
        )

    def export_image(self, image_id: str) -> Iterator[bytes]:
        """Refuse: bases are made by engines that pull or build them."""
        raise EngineRefused(f"{self.name} cannot export {image_id}", hint="take Docker or Podman for that")

    def start(self, request: ContainerRequest, *, stdout: Sink, stderr: Sink) -> RootfsContainer:
        """Start a container; its output goes to the sinks from threads, as it comes."""
        image = self._image(request.image)
        note = read_note(image / "image.json")
        if note is None:
            raise EngineRefused(f"{self.name} has no image {request.image}", hint="build it again: reprobox build")
        if request.gpus:
            raise AcceleratorError(
                f"{self.name} does not hand over GPUs yet", hint="take Docker, or run with --gpus none"
            )
        folder = self._store / "containers" / request.name
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise EngineRefused(f"{self.name}: a container called {request.name} is there already") from None
        except OSError as error:
            raise EngineRefused(f"{self.name}: its store cannot be written: {error}") from None
        try:
            targets = {PurePosixPath(mount.target) for mount in request.mounts}
            for mount in request.mounts:
                # Below another mount there is nothing of the image; whoever made that mount's source has a place there.
                if not targets & set(PurePosixPath(mount.target).parents):
                    make_mount_point(image / "rootfs", mount)
            for path in request.scratch:
                (folder / "scratch" / path.strip("/").replace("/", "-")).mkdir(parents=True)
            variables = dict(row.split("=", 1) for row in note["variables"]) | dict(request.environment)
            argv = self.plan_argv(request, rootfs=image / "rootfs", folder=folder, variables=variables)
            process = self._launch(request, folder, argv)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        container = RootfsContainer(folder, process.pid, process)
        container.follow(stdout, stderr)
        return container

    def _launch(self, request: ContainerRequest, folder: Path, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        isolate = [*_ISOLATE, *(() if request.network else ("--net",))] if self._isolates else []
        pin = ["taskset", "--cpu-list", request.cpus] if request.cpus is not None else []
        script = render_isolation(request) + _INIT if self._isolates else _INIT
        command = [*pin, *isolate, "sh", "-c", script, "init", str(folder / "exit"), *argv]
        (folder / "stdout").touch()
        (folder / "stderr").touch()
        # To files, not pipes: a container whose tool was killed goes on, and what it prints can still be read.
        with (folder / "stdout").open("ab") as out, (folder / "stderr").open("ab") as err:
            try:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd="/", start_new_session=True,
                    env={"PATH": self._path(), "USER": "reprobox", "HOME": "/"},
                )  # fmt: skip
            except OSError as error:
                raise EngineRefused(f"{self.name} cannot be started: {error}", hint="see `reprobox doctor`") from None
        labels = dict(request.labels)
        write_note(
            folder / "container.json",
            {
                "pid": process.pid,
                "image": request.image,
                "born": _born(process.pid),
                "run": labels.get(RUN_LABEL, ""),
                "state": labels.get(STATE_LABEL, ""),
            },
        )
        return process

    def find_containers(self, state: Path) -> list[FoundContainer]:
        """Containers that work, or worked, for a `.reprobox` folder."""
        found = []
        for file in sorted((self._store / "containers").glob("*/container.json")):
            note = read_note(file)
            if note is not None and note["state"] == str(state):
                container = RootfsContainer(file.parent, note["pid"], None)
                found.append(
                    FoundContainer(
                        id=str(file.parent), run=note["run"], state=note["state"], running=container.is_running()
                    )
                )
        return found

    def adopt(self, found: FoundContainer) -> RootfsContainer:
        """Take over a container that another process started."""
        folder = Path(found.id)
        note = read_note(folder / "container.json") or {"pid": 0}
        return RootfsContainer(folder, note["pid"], None)

    def read_logs(self, found: FoundContainer) -> tuple[bytes, bytes]:
        """Read what a container printed so far: stdout and stderr."""
        folder = Path(found.id)
        return (folder / "stdout").read_bytes(), (folder / "stderr").read_bytes()


class RootfsContainer:
    """A container that is a process on this machine.

    Args:
        folder: Its own folder.
        pid: Its first process, which leads a session of its own.
        process: The same, where it is a child of this process.
    """

    def __init__(self, folder: Path, pid: int, process: subprocess.Popen[bytes] | None) -> None:
        self._folder = folder
        self._pid = pid
        self._process = process
        self._followers: list[threading.Thread] = []
        self._ended = threading.Event()
        self._stopped = False

    def is_running(self) -> bool:
        """Whether its first process lives; a number that was given to another process does not count."""
        if self._process is not None:
            return self._process.poll() is None
        note = read_note(self._folder / "container.json")
        return note is not None and note["born"] is not None and _born(self._pid) == note["born"]

    def follow(self, stdout: Sink, stderr: Sink) -> None:
        """Hand its output over as it comes."""
        for name, sink in (("stdout", stdout), ("stderr", stderr)):
            thread = threading.Thread(target=self._pump, args=(name, sink), name=f"container-{name}", daemon=True)
            thread.start()
            self._followers.append(thread)

    def _pump(self, name: str, sink: Sink) -> None:
        with (self._folder / name).open("rb") as stream:
            while True:
                ended = self._ended.is_set()
                while chunk := stream.read(1 << 16):
                    sink(chunk)
                # One more look after the end: what was written last comes before it.
                if ended:
                    return
                self._ended.wait(_LOOK_S)

    def wait(self) -> ContainerExit:
        """Wait for its end.

        Raises:
            EngineRefused: It could not be set up, so that the command never began.
        """
        if self._process is not None:
            self._process.wait()
        while self.is_running():
            time.sleep(_LOOK_S)
        self._ended.set()
        for thread in self._followers:
            thread.join()
        if self._process is not None and not self._stopped and not (self._folder / "ready").exists():
            said = (self._folder / "stderr").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            raise EngineRefused(
                "the container could not be set up: " + " ".join(said),
                hint="an input that lies on, or holds, a mount of its own can be handed over with another engine",
            )
        try:
            code = int((self._folder / "exit").read_text())
        except (OSError, ValueError):
            # It was killed before it could note how it ended.
            code = 128 + signal.SIGKILL
        return ContainerExit(exit_code=code, out_of_memory=False)

    def stop(self, *, grace_s: int) -> None:
        """Ask it to end, and end it after `grace_s` seconds."""
        self._stopped = True
        for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10)):
            if not self.is_running():
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, number)
            deadline = time.monotonic() + patience_s
            while self.is_running() and time.monotonic() < deadline:
                time.sleep(_LOOK_S)

    def remove(self) -> None:
        """Remove it and what it wrote outside of mounts."""
        self.stop(grace_s=0)
        self._ended.set()
        for thread in self._followers:
            thread.join(1)
        shutil.rmtree(self._folder, ignore_errors=True)


def make_mount_point(rootfs: Path, mount: Mount) -> None:
    """Make the place of a mount in an unpacked image, never through a link.

    Raises:
        EngineRefused: Something else is there.
    """
    place = rootfs
    parts = mount.target.strip("/").split("/")
    for index, part in enumerate(parts):
        place = place / part
        is_last = index == len(parts) - 1
        if place.is_symlink() or (place.exists() and not is_last and not place.is_dir()):
            raise EngineRefused(f"{mount.target} cannot be mounted: the image has something else at that place")
        if place.exists():
            continue
        if is_last and not mount.source.is_dir():
            place.touch()
        else:
            place.mkdir(exist_ok=True)


def render_isolation(request: ContainerRequest) -> str:
    """Render what a container's first process does in its own namespaces before the engine's program starts.

    Inputs become read-only, shared memory its own, the host name that of the request. Pure but for the flags of the
    file systems that inputs lie on: a mount may become stricter there, never laxer.
    """
    lines = [
        "set -e",
        f"echo {shlex.quote(request.hostname)} > /proc/sys/kernel/hostname",
        f"mount -t tmpfs -o mode=1777,size={request.shared_memory_bytes} tmpfs /dev/shm",
    ]
    for mount in request.mounts:
        if mount.writable:
            continue
        source = os.path.realpath(mount.source)
        lines.append(f"mount --rbind {shlex.quote(source)} {shlex.quote(source)}")
        for place in [source, *list_mounts_below(source)]:
            found = os.statvfs(place).f_flag
            kept = (word for name, word in _KEPT_FLAGS.items() if found & getattr(os, name))
            lines.append(f"mount -o {','.join(['remount', 'bind', 'ro', *kept])} {shlex.quote(place)}")
    return "\n".join([*lines, "set +e", ""])


def _sweep(new: Path) -> None:
    """Remove what killed processes left beside a new folder, once nothing in it can be of use: a day later.

    The folder's own time says what is now to the file system that they lie on.
    """
    for entry in new.parent.iterdir():
        with contextlib.suppress(OSError):
            if entry.stat().st_mtime < new.stat().st_mtime - 86_400:
                shutil.rmtree(entry, ignore_errors=True)


def render_variables(variables: Mapping[str, str], *, engine: str) -> str:
    """Render variables as a file of lines.

    Raises:
        EngineRefused: A value has a line feed, for which such a file has no place.
    """
    broken = next((name for name, value in variables.items() if "\n" in value or "\0" in value), None)
    if broken is not None:
        raise EngineRefused(f"{engine} cannot take the variable {broken}: its value has several lines")
    return "".join(f"{name}='{value}'\n" for name, value in sorted(variables.items()))


def _born(pid: int) -> int | None:
    """When a process that lives began; one that ended and was not waited for is none any more."""
    process = find_process(pid)
    return None if process is None or process.is_zombie else process.started_ticks
