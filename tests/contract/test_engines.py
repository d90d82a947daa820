"""What every engine must do, the shipped fake among them: one suite over all that are here."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reprobox.engines.base import RUN_LABEL, STATE_LABEL, Collected, ContainerRequest, Engine, Mount, Sink
from reprobox.engines.docker import DockerEngine, render_request
from reprobox.engines.fake import FakeEngine
from reprobox.errors import EngineMissing, EngineRefused
from tests.conftest import Tool

ENVIRONMENT = "name: bare\ndependencies:\n  - python=3.11\n"

# What the fake plays for the shell lines that real containers run.
FAKE_LINES: dict[str, Callable[[ContainerRequest, Sink, Sink], int]] = {}


def line(text: str) -> Callable[[Callable[[ContainerRequest, Sink, Sink], int]], str]:
    def register(play: Callable[[ContainerRequest, Sink, Sink], int]) -> str:
        FAKE_LINES[text] = play
        return text

    return register


@line("echo out; echo err >&2; exit 3")
def SPEAK(request: ContainerRequest, out: Sink, err: Sink) -> int:
    out(b"out\n")
    err(b"err\n")
    return 3


@line("echo $WORD; echo made > made.txt")
def WRITE(request: ContainerRequest, out: Sink, err: Sink) -> int:
    out(dict(request.environment)["WORD"].encode() + b"\n")
    folder = next(mount.source for mount in request.mounts if mount.target == request.working_directory)
    (folder / "made.txt").write_text("made\n")
    return 0


@line("echo begun; exec sleep 60")
def SLEEP(request: ContainerRequest, out: Sink, err: Sink) -> int:
    out(b"begun\n")
    time.sleep(3)
    return 0


def _shell(request: ContainerRequest, out: Sink, err: Sink) -> int:
    return FAKE_LINES[request.argv[-1]](request, out, err)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The smallest image, in the engine: a base without any wheel."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "environment.yml").write_text(ENVIRONMENT)
    return dict(Tool(folder)("build", "--json").document)


@pytest.fixture(params=["fake", "docker"])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "fake":
        return FakeEngine(programs={"sh": _shell})
    return DockerEngine(os.environ)


@pytest.fixture
def image(engine: Engine, request: pytest.FixtureRequest) -> str:
    if isinstance(engine, FakeEngine):
        engine.images["sha256:" + "0" * 64] = ("sha256:" + "1" * 64,)
        return "sha256:" + "0" * 64
    return str(request.getfixturevalue("bare")["config_digest"])


@pytest.fixture
def make(image: str, tmp_path: Path) -> Callable[..., ContainerRequest]:
    """Makes requests for the image with a working folder that the container's user may write to."""
    work = tmp_path / "work"
    work.mkdir()
    work.chmod(0o777)
    name = f"reprobox-test-{os.getpid()}-{time.monotonic_ns()}"

    def request(text: str, **more: Any) -> ContainerRequest:
        values: dict[str, Any] = {
            "name": name,
            "image": image,
            "argv": ("sh", "-c", text),
            "environment": (("WORD", "let in"),),
            "working_directory": "/work",
            "user": "1000:1000",
            "mounts": (Mount(source=work, target="/work", writable=True),),
            "labels": ((RUN_LABEL, "a-run"), (STATE_LABEL, str(tmp_path))),
        }
        return ContainerRequest(**(values | more))

    return request


def test_output_and_exit_code_come_back(engine: Engine, make: Callable[..., ContainerRequest]) -> None:
    """Both streams arrive apart and whole before `wait` returns, with the command's own exit code."""
    out, err = Collected(), Collected()
    container = engine.start(make(SPEAK), stdout=out, stderr=err)
    ended = container.wait()
    container.remove()
    assert (bytes(out.data), bytes(err.data), ended.exit_code) == (b"out\n", b"err\n", 3)
    assert ended.out_of_memory is False


def test_mounts_and_variables(engine: Engine, make: Callable[..., ContainerRequest], tmp_path: Path) -> None:
    """A variable that was let in is there; what the container writes into a writable mount is on the host."""
    out = Collected()
    container = engine.start(make(WRITE), stdout=out, stderr=Collected())
    assert container.wait().exit_code == 0
    container.remove()
    assert bytes(out.data) == b"let in\n"
    assert (tmp_path / "work/made.txt").read_text() == "made\n"


def test_stop_ends_it_and_remove_leaves_nothing(
    engine: Engine, make: Callable[..., ContainerRequest], tmp_path: Path
) -> None:
    """A stopped container ends within its grace; after `remove` no trace of it is found; both may be asked twice."""
    out = Collected()
    container = engine.start(make(SLEEP), stdout=out, stderr=Collected())
    while b"begun" not in out.data:
        time.sleep(0.02)
    (found,) = engine.find_containers(tmp_path)
    assert (found.run, found.running) == ("a-run", True)
    began = time.monotonic()
    container.stop(grace_s=5)
    assert container.wait().exit_code != 0
    assert time.monotonic() - began < 5
    for _ in range(2):
        container.remove()
    assert engine.find_containers(tmp_path) == []


def test_a_container_can_be_adopted(engine: Engine, make: Callable[..., ContainerRequest], tmp_path: Path) -> None:
    """Another process can find a container by its label, read what it printed, and end it."""
    out = Collected()
    engine.start(make(SLEEP), stdout=out, stderr=Collected())
    while b"begun" not in out.data:
        time.sleep(0.02)
    (found,) = engine.find_containers(tmp_path)
    adopted = engine.adopt(found)
    adopted.stop(grace_s=1)
    adopted.wait()
    assert engine.read_logs(found) == (b"begun\n", b"")
    adopted.remove()
    assert engine.find_containers(tmp_path) == []


def test_a_name_is_used_once(engine: Engine, make: Callable[..., ContainerRequest]) -> None:
    """A second container of the same name is refused, in words that name it."""
    request = make(SLEEP)
    first = engine.start(request, stdout=Collected(), stderr=Collected())
    try:
        with pytest.raises(EngineRefused, match=request.name):
            engine.start(request, stdout=Collected(), stderr=Collected())
    finally:
        first.stop(grace_s=0)
        first.wait()
        first.remove()


def test_an_unknown_image_is_refused(engine: Engine, make: Callable[..., ContainerRequest]) -> None:
    """An image that is not there is an error of the engine, not a crash, and is not found either."""
    missing = "sha256:" + "f" * 64
    assert engine.find_image(missing, []) is False
    with pytest.raises(EngineRefused):
        engine.start(make(SPEAK, image=missing), stdout=Collected(), stderr=Collected())


def _archive(layers: list[bytes], *, send: list[int]) -> tuple[str, list[str], bytes]:
    """A docker-archive of these layers of which only some are sent; image id, diff_ids, bytes."""
    diff_ids = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": {"org.reprobox.lock": "test"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    ).encode()
    image_id = "sha256:" + hashlib.sha256(config).hexdigest()
    names = [f"{diff_id[7:]}/layer.tar" for diff_id in diff_ids]
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [], "Layers": names}]).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        members = [("manifest.json", manifest), ("config.json", config), *((names[i], layers[i]) for i in send)]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return image_id, diff_ids, buffer.getvalue()


def _layer(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    return buffer.getvalue()


def test_layers_that_are_there_need_not_be_sent(engine: Engine) -> None:
    """An archive may leave out layers that the engine holds; one that it does not hold is refused; layers are told."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    layers = [_layer(f"{mark}-{number}") for number in range(3)]
    lower, lower_ids, data = _archive(layers[:2], send=[0, 1])
    whole, whole_ids, rest = _archive(layers, send=[2])
    with pytest.raises(EngineRefused):
        engine.load_archive(iter([rest]))
    assert not engine.find_image(whole, whole_ids)
    try:
        engine.load_archive(data[at : at + 700] for at in range(0, len(data), 700))
        assert engine.find_image(lower, lower_ids)
        assert not engine.find_image(lower, lower_ids[:1])
        engine.load_archive(iter([rest]))
        assert engine.find_image(whole, whole_ids)
        assert tuple(whole_ids) in engine.list_layers()
        engine.tag_image(whole, "reprobox/test", mark)
    finally:
        for image_id in (whole, lower):
            engine.remove_image(image_id)
    engine.remove_image(lower)


def test_a_layer_with_other_bytes_is_refused(engine: Engine) -> None:
    """Bytes that do not hash to the layer's name never become an image."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}-bad"
    image_id, diff_ids, data = _archive([_layer(mark)], send=[0])
    at = data.index(mark.encode() + b"\0")
    broken = data[:at] + b"X" + data[at + 1 :]
    with pytest.raises(EngineRefused):
        engine.load_archive(iter([broken]))
    assert not engine.find_image(image_id, diff_ids)


def test_it_says_what_it_is(engine: Engine) -> None:
    """An engine describes itself: name, processors, memory, and which promises it keeps."""
    info = engine.describe()
    assert info.name in ("fake", "docker")
    assert info.cpus >= 1
    assert info.memory_bytes > 0
    assert "network-none" in info.keeps


@pytest.mark.parametrize("where", ["unix:///nonexistent/docker.sock", "tcp://127.0.0.1:1", "nonsense://"])
def test_no_engine_is_said_so(where: str) -> None:
    """Where nothing listens, the error names the place and a command that helps."""
    with pytest.raises(EngineMissing) as caught:
        DockerEngine({"DOCKER_HOST": where})
    assert where in caught.value.message
    assert caught.value.hint


def test_the_request_to_docker_is_golden(update_golden: bool, tmp_path: Path) -> None:
    """What is sent to Docker for a run is exactly this; a change of it is a decision."""
    from tests.conftest import read_golden

    request = ContainerRequest(
        name="reprobox-x", image="sha256:0", argv=("python", "train.py"), environment=(("HOME", "/home/reprobox"),),
        working_directory="/work", user="1000:1000",
        mounts=(Mount(source=Path("/p/work"), target="/work", writable=True), Mount(source=Path("/p/data"), target="/work/data")),
        memory_bytes=8 << 30, gpus=("GPU-1", "GPU-2"), labels=((RUN_LABEL, "x"),),
    )  # fmt: skip
    assert render_request(request) == read_golden("docker-request.json", render_request(request), update_golden)
