"""An engine without containers, for tests of what uses one. It passes the same contract suite as the real ones.

Commands are looked up by their first word in `programs`, which are called with the request and may write into the
mounts' sources, as a container would.
"""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
from reprobox.errors import EngineRefused

Program = Callable[[ContainerRequest, Sink, Sink], int]


@dataclass(slots=True)
class FakeEngine:
    """Keeps images and containers in memory.

    Attributes:
        programs: What commands do, by their first word.
        images: Image id → layers, lowest first.
        requests: Every request that was started.
    """

    programs: dict[str, Program] = field(default_factory=dict)
    images: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    requests: list[ContainerRequest] = field(default_factory=list)
    containers: dict[str, FakeContainer] = field(default_factory=dict)
    file_systems: dict[str, bytes] = field(default_factory=dict)

    def describe(self) -> EngineInfo:
        """Say what it is."""
        return EngineInfo(
            name="fake",
            version="1",
            api="",
            storage="memory",
            cpus=2,
            memory_bytes=1 << 34,
            rootless=False,
            keeps=PROMISES,
        )

    def find_image(self, image_id: str, diff_ids: Sequence[str]) -> bool:
        """Whether it holds the image of this id with exactly these layers."""
        return self.images.get(image_id) == tuple(diff_ids)

    def list_layers(self) -> list[tuple[str, ...]]:
        """Layer chains that it holds."""
        return list(self.images.values())

    def list_images(self) -> list[HeldImage]:
        """List the images that it holds."""
        return [HeldImage(id=image, lock="", partial=False) for image in self.images]

    @property
    def takes_parts(self) -> bool:
        """Whether layers that it holds need not be given again."""
        return True

    def load_image(self, image: LoadableImage, *, held: int) -> None:
        """Load an image."""
        self.load_archive(image.render_archive(image.diff_ids[held:]))

    def load_archive(self, chunks: Iterator[bytes]) -> None:
        """Load a docker-archive, given in chunks."""
        import hashlib

        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            members = {member.name: member for member in archive.getmembers()}

            def read(name: str) -> bytes:
                stream = archive.extractfile(members[name])
                assert stream is not None
                return stream.read()

            for row in json.loads(read("manifest.json")):
                config = read(row["Config"])
                chain = tuple(json.loads(config)["rootfs"]["diff_ids"])
                for index, (name, diff_id) in enumerate(zip(row["Layers"], chain, strict=True)):
                    if any(known[: index + 1] == chain[: index + 1] for known in self.images.values()):
                        continue
                    if name not in members:
                        raise EngineRefused(f"layer {diff_id} is not in the archive")
                    if "sha256:" + hashlib.sha256(read(name)).hexdigest() != diff_id:
                        raise EngineRefused(f"layer {diff_id} does not hash to its name")
                image_id = "sha256:" + hashlib.sha256(config).hexdigest()
                self.images[image_id] = chain
                for tag in row["RepoTags"]:
                    self.tags[tag] = image_id

    def tag_image(self, image_id: str, name: str, tag: str) -> None:
        """Give an image a name for people."""
        self.tags[f"{name}:{tag}"] = image_id

    def remove_image(self, image_id: str) -> None:
        """Remove an image."""
        self.images.pop(image_id, None)

    def find_reference(self, reference: str) -> str:
        """Find an image by its reference."""
        if reference not in self.file_systems:
            raise EngineRefused(f"no such image: {reference}")
        return reference

    def build_dockerfile(self, folder: Path, dockerfile: str) -> str:
        """Build a Dockerfile: its first line names the file system that comes out."""
        del folder
        return self.find_reference(dockerfile.splitlines()[0].removeprefix("FROM ") if dockerfile else "")

    def export_image(self, image_id: str) -> Iterator[bytes]:
        """Export an image's file system."""
        yield self.file_systems[image_id]

    def start(self, request: ContainerRequest, *, stdout: Sink, stderr: Sink) -> FakeContainer:
        """Start a container."""
        if request.image not in self.images:
            raise EngineRefused(f"no such image: {request.image}")
        if request.name in self.containers:
            raise EngineRefused(f"the name {request.name} is in use")
        self.requests.append(request)
        container = FakeContainer(self, request)
        self.containers[request.name] = container
        container.begin(self.programs.get(request.argv[0], _unknown), stdout, stderr)
        return container

    def find_containers(self, state: Path) -> list[FoundContainer]:
        """Containers that work, or worked, for a `.reprobox` folder."""
        return [
            FoundContainer(
                id=name,
                run=dict(container.request.labels).get(RUN_LABEL, ""),
                state=str(state),
                running=container.running,
            )
            for name, container in self.containers.items()
            if dict(container.request.labels).get(STATE_LABEL) == str(state)
        ]

    def adopt(self, found: FoundContainer) -> FakeContainer:
        """Take over a container."""
        return self.containers[found.id]

    def read_logs(self, found: FoundContainer) -> tuple[bytes, bytes]:
        """Read what a container printed so far."""
        container = self.containers[found.id]
        return bytes(container.out), bytes(container.err)


class FakeContainer:
    """A thread that plays a container."""

    def __init__(self, engine: FakeEngine, request: ContainerRequest) -> None:
        self.request = request
        self.out = bytearray()
        self.err = bytearray()
        self.stopped = threading.Event()
        self._engine = engine
        self._code = 0
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether its program still runs."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, program: Program, stdout: Sink, stderr: Sink) -> None:
        """Run the program in a thread."""

        def out(chunk: bytes) -> None:
            self.out.extend(chunk)
            stdout(chunk)

        def err(chunk: bytes) -> None:
            self.err.extend(chunk)
            stderr(chunk)

        def play() -> None:
            self._code = program(self.request, out, err)

        self._thread = threading.Thread(target=play, daemon=True)
        self._thread.start()

    def wait(self) -> ContainerExit:
        """Wait for its end."""
        while self.running and not self.stopped.wait(0.01):
            pass
        return ContainerExit(exit_code=143 if self.stopped.is_set() else self._code, out_of_memory=False)

    def stop(self, *, grace_s: int) -> None:
        """End it."""
        del grace_s
        self.stopped.set()

    def remove(self) -> None:
        """Forget it."""
        self._engine.containers.pop(self.request.name, None)


def _unknown(request: ContainerRequest, stdout: Sink, stderr: Sink) -> int:
    del stdout
    stderr(f"{request.argv[0]}: not found\n".encode())
    return 127
