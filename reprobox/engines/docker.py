"""Docker, through its SDK. What it says in errors is turned into ours here and nowhere else."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from reprobox.engines.base import (
    PROMISES,
    RUN_LABEL,
    STATE_LABEL,
    ContainerExit,
    ContainerRequest,
    EngineInfo,
    FoundContainer,
    HeldImage,
    LoadableImage,
    Sink,
)
from reprobox.engines.mounts import with_mounts_below
from reprobox.errors import AcceleratorError, EngineMissing, EngineRefused

_MIN_API = (1, 40)
_TIMEOUT_S = 120
_HELD = "reprobox/loaded"
"""Name that keeps a pulled image until it has one for people."""


def _is_mostly_missing(image: LoadableImage, held: int) -> bool:
    """Whether what an engine holds of an image is small beside what it lacks."""
    try:
        sizes = [image.layers[diff_id].stat().st_size for diff_id in image.diff_ids]
    except (KeyError, OSError):
        return False
    return 4 * sum(sizes[:held]) < sum(sizes[held:])


@contextmanager
def translate_errors(doing: str, *, name: str = "Docker") -> Iterator[None]:
    """Turn the SDK's errors into ours.

    Args:
        doing: What the engine was asked to do.
        name: What people call the engine.

    Raises:
        EngineMissing: The engine does not answer.
        EngineRefused: It answered with an error.
    """
    import docker.errors
    import requests

    try:
        yield
    except docker.errors.APIError as error:
        reason = error.explanation or str(error)
        raise EngineRefused(f"{name} refused to {doing}: {reason}", hint="see `reprobox doctor`") from None
    except (docker.errors.DockerException, requests.RequestException, ConnectionError) as error:
        raise EngineMissing(
            f"{name} stopped answering while asked to {doing}: {error}", hint="see `reprobox doctor`"
        ) from None


class DockerEngine:
    """The Docker engine that `DOCKER_HOST` names, else the one whose socket is there.

    Args:
        environ: The process environment.

    Raises:
        EngineMissing: No engine answers there, or it is too old.
    """

    name: ClassVar[str] = "docker"
    title: ClassVar[str] = "Docker"

    def __init__(self, environ: Mapping[str, str]) -> None:
        import docker
        import docker.errors
        import docker.utils
        import requests

        where = environ.get("DOCKER_HOST") or find_socket(environ)
        try:
            settings = docker.utils.kwargs_from_env(environment=dict(environ))
            settings.setdefault("base_url", where)
            # The version is asked for once, here: it is also the proof that somebody answers.
            self._api: Any = docker.APIClient(timeout=_TIMEOUT_S, version="auto", **settings)
        except (docker.errors.DockerException, requests.RequestException, OSError, ValueError) as error:
            raise EngineMissing(f"no Docker engine answers at {where}{_why(error)}", hint=_start_hint(error)) from None
        # Only an engine of this machine reaches its loopback.
        self._pulls = where.startswith("unix:")
        self._pulled: set[str] = set()
        if _version(self._api.api_version) < _MIN_API:
            raise EngineMissing(
                f"Docker at {where} speaks API {self._api.api_version}; the oldest usable one is 1.40",
                hint="upgrade Docker to 19.03 or later",
            )

    def _ours(self, doing: str) -> AbstractContextManager[None]:
        return translate_errors(doing, name=self.title)

    def render(self, request: ContainerRequest) -> dict[str, Any]:
        """Render a request as the body of the create call."""
        return render_request(request)

    def describe(self) -> EngineInfo:
        """Say what it is."""
        with self._ours("describe itself"):
            info = self._api.info()
        # Docker says it among its security options, Podman under a key of its own.
        rootless = any("rootless" in option for option in info.get("SecurityOptions") or []) or bool(
            info.get("Rootless")
        )
        return EngineInfo(
            name=self.name,
            version=info.get("ServerVersion", ""),
            api=self._api.api_version,
            storage=info.get("Driver", ""),
            cpus=int(info.get("NCPU", 1)),
            memory_bytes=int(info.get("MemTotal", 0)),
            rootless=rootless,
            caller="root" if rootless else "same",
            keeps=tuple(
                promise
                for promise in PROMISES
                if not (promise == "memory-limit" and not info.get("MemoryLimit", True))
                and not (promise == "pids-limit" and not info.get("PidsLimit", True))
            ),
        )

    def find_image(self, image_id: str, diff_ids: Sequence[str]) -> bool:
        """Whether it holds the image of this id with exactly these layers."""
        import docker.errors

        with self._ours("look for an image"):
            try:
                found = self._api.inspect_image(image_id)
            except docker.errors.ImageNotFound:
                return False
        return list(found.get("RootFS", {}).get("Layers") or []) == list(diff_ids)

    def list_layers(self) -> list[tuple[str, ...]]:
        """Layer chains that it holds, of images that reprobox made, lowest layer first."""
        with self._ours("list images"):
            images = self._api.images(filters={"label": "org.reprobox.lock"}, all=True)
            chains = [self._api.inspect_image(image["Id"])["RootFS"].get("Layers") or [] for image in images]
        return [tuple(chain) for chain in chains]

    def list_images(self) -> list[HeldImage]:
        """List the images of reprobox's that it holds."""
        with self._ours("list images"):
            rows = self._api.images(filters={"label": "org.reprobox.lock"}, all=True)
        return [
            HeldImage(
                id=row["Id"],
                lock=(row.get("Labels") or {}).get("org.reprobox.lock", ""),
                partial="org.reprobox.partial" in (row.get("Labels") or {}),
            )
            for row in rows
        ]

    @property
    def takes_parts(self) -> bool:
        """Whether layers that it holds need not be given again."""
        return True

    def load_image(self, image: LoadableImage, *, held: int) -> None:
        """Load an image; an engine hashes what it is given and refuses layers that are not what they are called.

        What it has little of it pulls from us, which is faster. It knows layers again by their digest only where it
        pulled them, and else pulls them once more; where much is held, what is missing goes as an archive.
        """
        if self._pulls and (self._pulled.issuperset(image.diff_ids[:held]) or _is_mostly_missing(image, held)):
            try:
                self._pull(image)
                self._pulled.update(image.diff_ids)
                return
            except (EngineRefused, EngineMissing):
                # An engine in a machine of its own, or behind a proxy, does not reach our loopback.
                self._pulls = False
        try:
            self.load_archive(image.render_archive(image.diff_ids[held:]))
        except EngineRefused:
            # An engine may hold layers in a way that does not let them be named without their bytes; then it gets all.
            if held == 0:
                raise
            self.load_archive(image.render_archive(image.diff_ids))

    def _pull(self, image: LoadableImage) -> None:
        """Let the engine pull an image from this process.

        Raises:
            EngineRefused: It cannot.
        """
        from reprobox.engines.loopback import serve_image

        with serve_image(image) as served, self._ours("pull the image"):
            for line in self._api.pull(f"{served.repository}@{served.digest}", stream=True, decode=True):
                if "error" in line:
                    raise EngineRefused(f"{self.title} refused to pull the image: {line['error']}")
            # A name of ours first: without one, taking away that of the loopback takes the image along.
            self._api.tag(image.id, _HELD, image.id.removeprefix("sha256:"), force=True)
            self._api.remove_image(f"{served.repository}@{served.digest}", noprune=True)

    def load_archive(self, chunks: Iterator[bytes]) -> None:
        """Load a docker-archive, given in chunks.

        Raises:
            EngineRefused: It cannot, for example because a layer left out is not there.
        """
        with self._ours("load the image"):
            # With progress lines the engine is never silent for long, so the ordinary limit of time holds.
            for line in self._api.load_image(chunks, quiet=False):
                if "error" in line:
                    raise EngineRefused(
                        f"{self.title} refused to load the image: {line['error']}", hint="see `reprobox doctor`"
                    )

    def tag_image(self, image_id: str, name: str, tag: str) -> None:
        """Give an image a name for people."""
        with self._ours("name the image"):
            self._api.tag(image_id, name, tag, force=True)
        self._drop_held(image_id)

    def remove_image(self, image_id: str) -> None:
        """Remove an image without those below it."""
        self._drop_held(image_id)
        try:
            with self._ours("remove an image"):
                self._api.remove_image(image_id, noprune=True)
        except EngineRefused:
            # Gone, or in use: either way it is not ours to force.
            return

    def _drop_held(self, image_id: str) -> None:
        """Take away the name that kept an image since it was pulled."""
        with contextlib.suppress(EngineRefused), self._ours("remove a name"):
            self._api.remove_image(f"{_HELD}:{image_id.removeprefix('sha256:')}", noprune=True)

    def find_reference(self, reference: str) -> str:
        """Find an image by its reference with a digest, pulling it where it is not here."""
        import docker.errors

        with self._ours(f"find the image {reference}"):
            try:
                return str(self._api.inspect_image(reference)["Id"])
            except docker.errors.ImageNotFound:
                for _ in self._api.pull(reference, stream=True):
                    pass
                return str(self._api.inspect_image(reference)["Id"])

    def build_dockerfile(self, folder: Path, dockerfile: str) -> str:
        """Build a Dockerfile in a folder."""
        said: list[str] = []
        with self._ours("build the base"), tempfile.TemporaryDirectory(prefix="reprobox-base-") as scratch:
            file = Path(scratch) / "Dockerfile"
            file.write_text(dockerfile, encoding="utf-8")
            for line in self._api.build(path=str(folder), dockerfile=str(file), rm=True, forcerm=True, decode=True):
                if "error" in line:
                    last = "\n  ".join([*said[-8:], str(line["error"]).strip()])
                    raise EngineRefused(f"the base's Dockerfile failed:\n  {last}", hint="correct it, and lock again")
                said += [text for text in [str(line.get("stream", "")).strip()] if text]
                if "ID" in line.get("aux", {}):
                    return str(line["aux"]["ID"])
        raise EngineRefused("the engine built the base's Dockerfile but named no image", hint="see `reprobox doctor`")

    def export_image(self, image_id: str) -> Iterator[bytes]:
        """Export an image's whole file system as a tar, in chunks."""
        with self._ours("export the base"):
            # Never started; an image without a command of its own could not even be created without one.
            container = self._api.create_container(image_id, command=["true"])["Id"]
            try:
                yield from self._api.export(container)
            finally:
                self._api.remove_container(container, force=True)

    def start(self, request: ContainerRequest, *, stdout: Sink, stderr: Sink) -> DockerContainer:
        """Start a container; its output goes to the sinks from a thread, as it comes."""
        request = replace(request, mounts=with_mounts_below(request.mounts))
        with self._ours("create the container"):
            created = self._api.create_container_from_config(self.render(request), name=request.name)
        container = DockerContainer(self._api, created["Id"], engine=self.title)
        try:
            container.follow(stdout, stderr)
            with self._ours("start the container"):
                self._api.start(created["Id"])
        except EngineRefused as error:
            container.remove()
            if request.gpus and ("device driver" in error.message or "nvidia" in error.message.lower()):
                raise AcceleratorError(
                    f"the engine cannot hand over GPUs: {error.message}",
                    hint="install the NVIDIA container toolkit, or run with --gpus none",
                ) from None
            raise
        except BaseException:
            container.remove()
            raise
        return container

    def find_containers(self, state: Path) -> list[FoundContainer]:
        """Containers that work, or worked, for a `.reprobox` folder."""
        with self._ours("list containers"):
            rows = self._api.containers(all=True, filters={"label": f"{STATE_LABEL}={state}"})
        return [
            FoundContainer(
                id=row["Id"],
                run=row["Labels"].get(RUN_LABEL, ""),
                state=str(state),
                running=row.get("State") in ("running", "paused", "restarting"),
            )
            for row in rows
        ]

    def adopt(self, found: FoundContainer) -> DockerContainer:
        """Take over a container that another process started."""
        return DockerContainer(self._api, found.id, engine=self.title)

    def read_logs(self, found: FoundContainer) -> tuple[bytes, bytes]:
        """Read what a container printed so far: stdout and stderr."""
        with self._ours("read a container's output"):
            return (
                bytes(self._api.logs(found.id, stdout=True, stderr=False)),
                bytes(self._api.logs(found.id, stdout=False, stderr=True)),
            )


class DockerContainer:
    """A container of Docker."""

    def __init__(self, api: Any, container_id: str, *, engine: str = "Docker") -> None:
        self._api = api
        self._id = container_id
        self._engine = engine
        self._follower: threading.Thread | None = None
        self._stopped = False

    def follow(self, stdout: Sink, stderr: Sink) -> None:
        """Attach to it before it starts, so that no output is missed."""
        with translate_errors("attach to the container", name=self._engine):
            stream = self._api.attach(self._id, stdout=True, stderr=True, stream=True, logs=False, demux=True)

        def pump() -> None:
            for out, err in stream:
                if out:
                    stdout(out)
                if err:
                    stderr(err)

        self._follower = threading.Thread(target=pump, name="container-output", daemon=True)
        self._follower.start()

    def wait(self) -> ContainerExit:
        """Wait for its end."""
        with translate_errors("wait for the container", name=self._engine):
            # No limit in time: a training may take days.
            code = int(self._api.wait(self._id, timeout=None)["StatusCode"])
            if self._follower is not None:
                self._follower.join()
            found = self._api.inspect_container(self._id)
            state = found["State"]
        # Podman 4.3 does not tell with the older control groups: killed by nobody here, it was the limit.
        older = not Path("/sys/fs/cgroup/cgroup.controllers").exists()
        limited = older and bool(found.get("HostConfig", {}).get("Memory"))
        killed = self._engine == "Podman" and code == 137 and limited and not self._stopped
        return ContainerExit(exit_code=code, out_of_memory=bool(state.get("OOMKilled")) or killed)

    def stop(self, *, grace_s: int) -> None:
        """Ask it to end, and end it after `grace_s` seconds."""
        self._stopped = True
        try:
            with translate_errors("stop the container", name=self._engine):
                self._api.stop(self._id, timeout=grace_s)
        except EngineRefused:
            return

    def remove(self) -> None:
        """Remove it."""
        try:
            with translate_errors("remove the container", name=self._engine):
                self._api.remove_container(self._id, force=True, v=True)
        except EngineRefused:
            return


def render_request(request: ContainerRequest) -> dict[str, Any]:
    """Render a request as the body that Docker's create call takes. Pure.

    Source: Docker Engine API 1.40, POST /containers/create.
    """
    host: dict[str, Any] = {
        "NetworkMode": "bridge" if request.network else "none",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "PidsLimit": request.pids,
        "ShmSize": request.shared_memory_bytes,
        "Init": True,
        "IpcMode": "private",
        "LogConfig": {"Type": "json-file", "Config": {}},
        "Tmpfs": dict.fromkeys(request.scratch, "rw,nosuid,nodev,exec,mode=1777"),
        "Mounts": [
            {
                "Type": "bind",
                "Source": str(mount.source),
                "Target": mount.target,
                "ReadOnly": not mount.writable,
                "BindOptions": {"Propagation": "rprivate"},
            }
            for mount in request.mounts
        ],
    }
    if request.memory_bytes is not None:
        # The same limit for memory and swap together: a run that swaps is a run that times out elsewhere.
        host["Memory"] = host["MemorySwap"] = request.memory_bytes
    if request.cpus is not None:
        host["CpusetCpus"] = request.cpus
    if request.gpus:
        device: dict[str, Any] = {"Driver": "nvidia", "Capabilities": [["gpu", "compute", "utility"]]}
        device |= {"Count": -1} if request.gpus == ("all",) else {"DeviceIDs": list(request.gpus)}
        host["DeviceRequests"] = [device]
    return {
        "Image": request.image,
        "Cmd": list(request.argv),
        "Entrypoint": [],
        "Env": [f"{key}={value}" for key, value in request.environment],
        "WorkingDir": request.working_directory,
        "User": request.user,
        "Hostname": request.hostname,
        "Labels": dict(request.labels),
        "StopSignal": request.stop_signal,
        "AttachStdin": False,
        "OpenStdin": False,
        "Tty": False,
        "NetworkDisabled": not request.network,
        "HostConfig": host,
    }


def find_socket(environ: Mapping[str, str]) -> str:
    """Find where Docker listens when nobody says so: the system's socket, else that of a rootless engine."""
    places = [Path("/var/run/docker.sock")]
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        places.append(Path(runtime, "docker.sock"))
    if home := environ.get("HOME"):
        places.append(Path(home, ".docker/run/docker.sock"))
    return f"unix://{next((place for place in places if place.exists()), places[0])}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _why(error: Exception) -> str:
    text = str(error)
    if "FileNotFoundError" in text or "No such file" in text:
        return " (nothing listens there)"
    if "ConnectionRefused" in text or "Connection refused" in text:
        return " (the engine is not running)"
    if "PermissionError" in text or "Permission denied" in text:
        return " (this user may not use it)"
    return f" ({text.splitlines()[0] if text else type(error).__name__})"


def _start_hint(error: Exception) -> str:
    if "ermission" in str(error):
        return "add yourself to its group: sudo usermod -aG docker $USER, then log in again"
    return "start it (sudo systemctl start docker), or install it: sudo apt-get install docker.io"
