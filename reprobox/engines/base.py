"""What every container engine does for a run, as a Protocol, and the values that go through it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

RUN_LABEL = "org.reprobox.run"
"""Label with the run's id, on every container."""

STATE_LABEL = "org.reprobox.state"
"""Label with the absolute path of the `.reprobox` folder that the container works for."""

Sink = Callable[[bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine says of itself.

    Attributes:
        name: "docker", "podman", …
        version: Its version.
        api: Version of the interface spoken, or "".
        storage: Storage driver, or "".
        cpus: Processors that containers may use.
        memory_bytes: Memory of its machine.
        rootless: Whether it runs without root of its machine.
        keeps: Promises of the run contract that it keeps, by name.
        caller: Who in a container is the caller outside: "same" (numbers are those of the machine), "root", or "any"
            (whatever number is asked for).
    """

    name: str
    version: str
    api: str
    storage: str
    cpus: int
    memory_bytes: int
    rootless: bool
    keeps: tuple[str, ...]
    caller: Literal["same", "root", "any"] = "same"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadableImage:
    """An image on its way into an engine.

    Attributes:
        id: Digest of its configuration.
        diff_ids: Its layers, lowest first.
        config: Bytes of its configuration.
        manifest: Bytes of its manifest.
        manifest_digest: Their digest.
        layers: diff_id → where the layer lies, uncompressed.
        render_archive: Renders a docker-archive that holds the layers named, and only those.
        unpack: Unpacks it into an empty folder, as its file system is.
    """

    id: str
    diff_ids: tuple[str, ...]
    config: bytes
    manifest: bytes
    manifest_digest: str
    layers: Mapping[str, Path]
    render_archive: Callable[[Collection[str]], Iterator[bytes]]
    unpack: Callable[[Path], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldImage:
    """An image of reprobox's that an engine holds.

    Attributes:
        id: The engine's id of it.
        lock: Digest of the lock that it was built from, or "".
        partial: Whether it is a part that was only handed over early.
    """

    id: str
    lock: str
    partial: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A folder or file of the host in a container.

    Attributes:
        source: Absolute path on the host.
        target: Absolute path in the container.
        writable: Whether the container may write to it.
    """

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRequest:
    """One container to be. Nothing that is not said here reaches it.

    Attributes:
        name: Its name, unique on the engine.
        image: Id of the image (digest of its configuration).
        argv: Command, without a shell.
        environment: All variables that are added to the image's own.
        working_directory: Absolute path in the container.
        user: Numeric "uid:gid".
        hostname: Its host name.
        mounts: What of the host it sees.
        scratch: Paths that are empty and writable, in memory.
        network: Whether it has any.
        memory_bytes: Limit, or None.
        pids: Limit of processes.
        shared_memory_bytes: Size of /dev/shm.
        cpus: Processors it is pinned to ("0-3"), or None for all.
        gpus: Device indices or UUIDs, ("all",), or () for none.
        labels: Labels, `RUN_LABEL` among them.
        stop_signal: Name of the signal that asks it to end.
    """

    name: str
    image: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    working_directory: str
    user: str
    hostname: str = "reprobox"
    mounts: tuple[Mount, ...] = ()
    scratch: tuple[str, ...] = ("/tmp", "/home/reprobox")
    network: bool = False
    memory_bytes: int | None = None
    pids: int = 4096
    shared_memory_bytes: int = 1 << 30
    cpus: str | None = None
    gpus: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    stop_signal: str = "SIGTERM"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerExit:
    """How a container ended.

    Attributes:
        exit_code: Of its command.
        out_of_memory: Whether the memory limit ended it.
    """

    exit_code: int
    out_of_memory: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundContainer:
    """A container that carries our labels.

    Attributes:
        id: The engine's id.
        run: The run it belongs to.
        state: The `.reprobox` folder it works for.
        running: Whether it runs.
    """

    id: str
    run: str
    state: str
    running: bool


class Container(Protocol):
    """A started container."""

    def wait(self) -> ContainerExit:
        """Wait for its end; all output was handed over by then.

        Raises:
            EngineRefused: The engine lost it.
            KeyboardInterrupt: As it comes; the container still runs.
        """

    def stop(self, *, grace_s: int) -> None:
        """Ask it to end, and end it after `grace_s` seconds. No error if it ended already."""

    def remove(self) -> None:
        """Remove it and what it wrote outside of mounts. No error if it is gone."""


class Engine(Protocol):
    """A container engine. Errors are `EngineMissing` and `EngineRefused`, never the library's own."""

    def describe(self) -> EngineInfo:
        """Say what it is."""

    def find_image(self, image_id: str, diff_ids: Sequence[str]) -> bool:
        """Whether it holds the image of this id with exactly these layers."""

    def list_layers(self) -> list[tuple[str, ...]]:
        """Layer chains that it holds, of images that reprobox made, lowest layer first."""

    def list_images(self) -> list[HeldImage]:
        """List the images of reprobox's that it holds."""

    @property
    def takes_parts(self) -> bool:
        """Whether layers that it holds need not be given again, so that handing over lower ones early helps."""

    def load_image(self, image: LoadableImage, *, held: int) -> None:
        """Load an image.

        Args:
            image: The image.
            held: How many of its lowest layers the engine holds already, as `list_layers` says.

        Raises:
            EngineRefused: It cannot.
        """

    def tag_image(self, image_id: str, name: str, tag: str) -> None:
        """Give an image a name for people."""

    def remove_image(self, image_id: str) -> None:
        """Remove an image without those below it. No error if it is gone or used."""

    def find_reference(self, reference: str) -> str:
        """Find an image by its reference with a digest, pulling it where it is not here; gives the engine's id of it.

        Raises:
            EngineRefused: It cannot be had.
        """

    def build_dockerfile(self, folder: Path, dockerfile: str) -> str:
        """Build a Dockerfile in a folder; gives the engine's id of the image.

        Raises:
            EngineRefused: It failed; the last lines that it printed are in the text.
        """

    def export_image(self, image_id: str) -> Iterator[bytes]:
        """Export an image's whole file system as a tar, in chunks.

        Raises:
            EngineRefused: It cannot be exported.
        """

    def start(self, request: ContainerRequest, *, stdout: Sink, stderr: Sink) -> Container:
        """Start a container; its output goes to the sinks from a thread, as it comes.

        Raises:
            EngineRefused: It cannot be started as asked.
            AcceleratorError: The GPUs cannot be handed over.
        """

    def find_containers(self, state: Path) -> list[FoundContainer]:
        """Containers that work, or worked, for a `.reprobox` folder."""

    def adopt(self, found: FoundContainer) -> Container:
        """Take over a container that another process started."""

    def read_logs(self, found: FoundContainer) -> tuple[bytes, bytes]:
        """Read what a container printed so far: stdout and stderr."""


PROMISES = (
    "network-none",
    "read-only-root",
    "read-only-inputs",
    "capabilities-dropped",
    "no-new-privileges",
    "user",
    "memory-limit",
    "pids-limit",
    "clean-environment",
)
"""The run contract, by name."""

SENTENCES = {
    "network-none": "keep a container off the network",
    "read-only-root": "make the image read-only",
    "read-only-inputs": "make inputs read-only",
    "capabilities-dropped": "drop capabilities",
    "no-new-privileges": "keep programs from gaining privileges",
    "user": "run as another user than root",
    "memory-limit": "limit memory",
    "pids-limit": "limit the number of processes",
    "clean-environment": "keep the host's variables out",
}
"""What an engine does that keeps a promise, for people."""


@dataclass(slots=True)
class Collected:
    """A sink that keeps what it is given."""

    data: bytearray = field(default_factory=bytearray)

    def __call__(self, chunk: bytes) -> None:
        """Keep a chunk."""
        self.data += chunk
