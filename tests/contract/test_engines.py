"""What every engine must do, the shipped fake among them: one suite over all that are here."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pwd
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reprobox.engines.base import (
    PROMISES,
    RUN_LABEL,
    STATE_LABEL,
    Collected,
    ContainerRequest,
    Engine,
    LoadableImage,
    Mount,
    Sink,
)
from reprobox.engines.charliecloud import CharliecloudEngine
from reprobox.engines.docker import DockerEngine, render_request
from reprobox.engines.fake import FakeEngine
from reprobox.engines.podman import PodmanEngine, plan_runtime, render_podman_request
from reprobox.env.lockfile import parse_lock
from reprobox.errors import EngineMissing, EngineRefused
from reprobox.image.cache import Cache
from reprobox.image.oci import render_image
from reprobox.image.plan import plan_layers
from reprobox.run.prepare import make_loadable
from tests.conftest import Tool, require_program

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


@line("echo begun; trap 'exit 5' TERM; sleep 60 & wait")
def SLEEP(request: ContainerRequest, out: Sink, err: Sink) -> int:
    out(b"begun\n")
    time.sleep(3)
    return 0


def _shell(request: ContainerRequest, out: Sink, err: Sink) -> int:
    return FAKE_LINES[request.argv[-1]](request, out, err)


def _build(folder: Path, environment: str = ENVIRONMENT) -> LoadableImage:
    """The smallest image: a base without any wheel, from its lock."""
    (folder / "environment.yml").write_text(environment)
    Tool(folder)("build", "--no-load")
    lock = parse_lock((folder / "reprobox.lock").read_text(), source="lock")
    cache = Cache(Path(os.environ.get("REPROBOX_CACHE") or Path.home() / ".cache/reprobox"))
    plans = plan_layers(lock)
    layers = [cache.find_layer(plan.key) for plan in plans]
    assert None not in layers
    found = [layer for layer in layers if layer is not None]
    return make_loadable(render_image(lock, plans, found), {layer.digest.diff_id: layer.path for layer in found})


@pytest.fixture(scope="module")
def loadable(tmp_path_factory: pytest.TempPathFactory) -> LoadableImage:
    return _build(tmp_path_factory.mktemp("bare"))


@pytest.fixture
def unheld(tmp_path: Path) -> Iterator[LoadableImage]:
    """An image that Docker has never had, as its environment says something new; gone from there after the test."""
    import docker

    image = _build(tmp_path, f"{ENVIRONMENT}variables:\n  MARK: '{os.getpid()}-{time.monotonic_ns()}'\n")
    yield image
    with contextlib.suppress(docker.errors.ImageNotFound):
        docker.from_env().api.remove_image(image.id, force=True)


ENGINES = ["fake", "docker", "podman", "podman-rootless", "charliecloud"]
ARCHIVE_ENGINES = ["fake", "docker", "podman"]


@pytest.fixture(scope="session")
def rootless() -> Iterator[str]:
    """The socket of a Podman of another user, which runs without root."""
    podman = require_program("podman")
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    user = "reprobox-tests"
    if subprocess.run(["id", user], capture_output=True, check=False).returncode != 0:
        subprocess.run(["useradd", "--create-home", user], check=True)
    number = pwd.getpwnam(user).pw_uid
    folder = Path(tempfile.mkdtemp(prefix="reprobox-rootless-", dir="/var/tmp"))
    os.chown(folder, number, number)
    socket = folder / "podman.sock"
    runtime = plan_runtime(os.environ)
    environment = {"PATH": os.environ["PATH"] + ":/usr/sbin", "HOME": f"/home/{user}", "XDG_RUNTIME_DIR": str(folder)}
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(
            ["setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups", podman, *runtime, "system",
             "service", "--time=0", f"unix://{socket}"],
            env=environment, stdout=log, stderr=log, cwd=folder,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 20
            while not socket.exists():
                assert running.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield f"unix://{socket}"
        finally:
            running.terminate()
            running.wait()
            shutil.rmtree(folder, ignore_errors=True)


def make_engine(name: str, request: pytest.FixtureRequest) -> Engine:
    match name:
        case "fake":
            return FakeEngine(programs={"sh": _shell})
        case "docker":
            return DockerEngine(os.environ)
        case "podman":
            require_program("podman")
            return PodmanEngine({**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"})
        case "podman-rootless":
            return PodmanEngine({**os.environ, "CONTAINER_HOST": request.getfixturevalue("rootless")})
        case _:
            require_program("ch-run")
            return CharliecloudEngine(os.environ, request.getfixturevalue("store"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return make_engine(request.param, request)


@pytest.fixture(params=ARCHIVE_ENGINES)
def archive_engine(request: pytest.FixtureRequest) -> Any:
    return make_engine(request.param, request)


@pytest.fixture
def image(engine: Engine, request: pytest.FixtureRequest) -> str:
    if isinstance(engine, FakeEngine):
        engine.images["sha256:" + "0" * 64] = ("sha256:" + "1" * 64,)
        return "sha256:" + "0" * 64
    found: LoadableImage = request.getfixturevalue("loadable")
    if not engine.find_image(found.id, found.diff_ids):
        engine.load_image(found, held=0)
    assert engine.find_image(found.id, found.diff_ids)
    assert not engine.find_image(found.id, found.diff_ids[:1])
    return found.id


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user of this machine may enter; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="reprobox-contract-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def make(engine: Engine, image: str, place: Path) -> Callable[..., ContainerRequest]:
    """Makes requests for the image with a working folder that the container's user may write to."""
    work = place / "work"
    work.mkdir()
    work.chmod(0o777)
    user = {"root": "0:0"}.get(engine.describe().caller, "1000:1000")
    name = f"reprobox-test-{os.getpid()}-{time.monotonic_ns()}"

    def request(text: str, **more: Any) -> ContainerRequest:
        values: dict[str, Any] = {
            "name": name,
            "image": image,
            "argv": ("sh", "-c", text),
            "environment": (("WORD", "let in"),),
            "working_directory": "/work",
            "user": user,
            "mounts": (Mount(source=work, target="/work", writable=True),),
            "labels": ((RUN_LABEL, "a-run"), (STATE_LABEL, str(place))),
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


def test_mounts_and_variables(engine: Engine, make: Callable[..., ContainerRequest], place: Path) -> None:
    """A variable that was let in is there; what the container writes into a writable mount is on the host."""
    out = Collected()
    container = engine.start(make(WRITE), stdout=out, stderr=Collected())
    assert container.wait().exit_code == 0
    container.remove()
    assert bytes(out.data) == b"let in\n"
    assert (place / "work/made.txt").read_text() == "made\n"


@line("echo x > /input/file; echo x > /input/below/file; cat /input/below/there")
def HARM(request: ContainerRequest, out: Sink, err: Sink) -> int:
    out(b"there\n")
    return 0


def test_what_is_mounted_below_an_input_is_read_only_too(
    engine: Engine, make: Callable[..., ContainerRequest], place: Path
) -> None:
    """A container can read all of an input, and write to none of it, on whatever file systems it lies."""
    below = place / "input/below"
    below.mkdir(parents=True)
    (place / "input").chmod(0o777)
    mounted = os.geteuid() == 0
    if mounted:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0777,noexec", "tmpfs", str(below)], check=True)
    try:
        (below / "there").write_text("there\n")
        request = make(HARM)
        inputs = Mount(source=place / "input", target="/input")
        out, err = Collected(), Collected()
        container = engine.start(dataclasses.replace(request, mounts=(*request.mounts, inputs)), stdout=out, stderr=err)
        ended = container.wait()
        container.remove()
        # Podman without root looks at mounts from a namespace of its own, which may be older than this mount.
        if not (isinstance(engine, PodmanEngine) and engine.describe().rootless):
            assert (bytes(out.data), ended.exit_code) == (b"there\n", 0), bytes(err.data)
        assert sorted(os.listdir(place / "input")) == ["below"]
        assert os.listdir(below) == ["there"]
    finally:
        if mounted:
            subprocess.run(["umount", str(below)], check=True)


def test_stop_ends_it_and_remove_leaves_nothing(
    engine: Engine, make: Callable[..., ContainerRequest], place: Path
) -> None:
    """A stopped container ends within its grace; after `remove` no trace of it is found; both may be asked twice."""
    out = Collected()
    container = engine.start(make(SLEEP), stdout=out, stderr=Collected())
    while b"begun" not in out.data:
        time.sleep(0.02)
    (found,) = engine.find_containers(place)
    assert (found.run, found.running) == ("a-run", True)
    began = time.monotonic()
    container.stop(grace_s=5)
    assert container.wait().exit_code != 0
    assert time.monotonic() - began < 5
    for _ in range(2):
        container.remove()
    assert engine.find_containers(place) == []


def test_a_container_can_be_adopted(engine: Engine, make: Callable[..., ContainerRequest], place: Path) -> None:
    """Another process can find a container by its label, read what it printed, and end it."""
    out = Collected()
    engine.start(make(SLEEP), stdout=out, stderr=Collected())
    while b"begun" not in out.data:
        time.sleep(0.02)
    (found,) = engine.find_containers(place)
    adopted = engine.adopt(found)
    adopted.stop(grace_s=1)
    adopted.wait()
    assert engine.read_logs(found) == (b"begun\n", b"")
    adopted.remove()
    assert engine.find_containers(place) == []


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


def test_layers_that_are_there_need_not_be_sent(archive_engine: Any) -> None:
    """An archive may leave out layers that the engine holds; one that it does not hold is refused; layers are told."""
    if not archive_engine.takes_parts:
        pytest.skip("Podman opens every layer of an archive")
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    layers = [_layer(f"{mark}-{number}") for number in range(3)]
    lower, lower_ids, data = _archive(layers[:2], send=[0, 1])
    whole, whole_ids, rest = _archive(layers, send=[2])
    with pytest.raises(EngineRefused):
        archive_engine.load_archive(iter([rest]))
    assert not archive_engine.find_image(whole, whole_ids)
    try:
        archive_engine.load_archive(data[at : at + 700] for at in range(0, len(data), 700))
        assert archive_engine.find_image(lower, lower_ids)
        assert not archive_engine.find_image(lower, lower_ids[:1])
        archive_engine.load_archive(iter([rest]))
        assert archive_engine.find_image(whole, whole_ids)
        assert tuple(whole_ids) in archive_engine.list_layers()
        archive_engine.tag_image(whole, "reprobox/test", mark)
    finally:
        for image_id in (whole, lower):
            archive_engine.remove_image(image_id)
    archive_engine.remove_image(lower)


def test_a_layer_with_other_bytes_is_refused(archive_engine: Any) -> None:
    """Bytes that do not hash to the layer's name never become an image."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}-bad"
    image_id, diff_ids, data = _archive([_layer(mark)], send=[0])
    at = data.index(mark.encode() + b"\0")
    broken = data[:at] + b"X" + data[at + 1 :]
    with pytest.raises(EngineRefused):
        archive_engine.load_archive(iter([broken]))
    assert not archive_engine.find_image(image_id, diff_ids)


def test_it_says_what_it_is(engine: Engine) -> None:
    """An engine describes itself: name, processors, memory, and which promises it keeps."""
    info = engine.describe()
    assert info.name in ("fake", "docker", "podman", "charliecloud")
    assert set(info.keeps) <= set(PROMISES)
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


def test_the_request_to_podman_is_golden(update_golden: bool) -> None:
    """What Podman is sent for a run is exactly this: Docker's, with limits that it may give."""
    from tests.conftest import read_golden

    request = ContainerRequest(
        name="reprobox-x", image="sha256:0", argv=("python", "train.py"), environment=(("HOME", "/home/reprobox"),),
        working_directory="/work", user="1000:1000", memory_bytes=8 << 30,
        mounts=(Mount(source=Path("/p/work"), target="/work", writable=True),), labels=((RUN_LABEL, "x"),),
    )  # fmt: skip
    body = {
        "limits": render_podman_request(request, files=20_000, processes=96_365, limits=True)["HostConfig"],
        "none": render_podman_request(request, files=-1, processes=-1, limits=False)["HostConfig"],
    }
    assert body == read_golden("podman-request.json", body, update_golden)


# The run contract: each promise that an engine says it keeps is tried ----------------------------------

LOOK = """\
touch /opt/env/written 2>/dev/null && echo broke:read-only-root
touch /in/file 2>/dev/null && echo broke:read-only-inputs
grep -q '^CapEff:.*[1-9a-f]' /proc/self/status && echo broke:capabilities-dropped
grep -q '^NoNewPrivs:.*1' /proc/self/status || echo broke:no-new-privileges
test "$(grep -c : /proc/net/dev)" = 1 || echo broke:network-none
env | grep -q '^LEAKED=' && echo broke:clean-environment
touch /tmp/a /home/reprobox/b || echo broke:scratch
echo "uid:$(id -u)"
echo "host:$(cat /proc/sys/kernel/hostname)"
echo "shm:$(df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2)"
"""


@pytest.fixture(params=[name for name in ENGINES if name != "fake"])
def real_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setenv("LEAKED", "from the host")
    return make_engine(request.param, request)


def test_promises_that_are_given_are_kept(real_engine: Engine, loadable: LoadableImage, place: Path) -> None:
    """What an engine says it keeps of the run contract holds inside a container."""
    if not real_engine.find_image(loadable.id, loadable.diff_ids):
        real_engine.load_image(loadable, held=0)
    for name in ("work", "in"):
        (place / name).mkdir()
        (place / name).chmod(0o777)
    info = real_engine.describe()
    user = "0" if info.caller == "root" else "1000"
    out = Collected()
    container = real_engine.start(
        ContainerRequest(
            name=f"reprobox-promises-{os.getpid()}-{time.monotonic_ns()}", image=loadable.id, argv=("sh", "-c", LOOK),
            environment=(("HOME", "/home/reprobox"),), working_directory="/work", user=f"{user}:{user}",
            mounts=(Mount(source=place / "work", target="/work", writable=True), Mount(source=place / "in", target="/in")),
            memory_bytes=1 << 30, shared_memory_bytes=64 << 20, labels=((RUN_LABEL, "p"), (STATE_LABEL, str(place))),
        ),
        stdout=out, stderr=Collected(),
    )  # fmt: skip
    ended = container.wait()
    container.remove()
    lines = bytes(out.data).decode().split()
    assert ended.exit_code == 0
    broken = {line.partition(":")[2] for line in lines if line.startswith("broke:")}
    assert not broken & {*info.keeps, "scratch"}, broken
    # And nothing is given away: what could be kept is said to be kept.
    assert set(PROMISES) - set(info.keeps) <= broken | {"memory-limit", "pids-limit"}
    assert f"uid:{user}" in lines
    assert "host:reprobox" in lines
    assert f"shm:{64 << 10}" in lines


def test_limits_that_are_promised_hold(real_engine: Engine, loadable: LoadableImage, place: Path) -> None:
    """A container that takes more memory than it may is ended, where the engine promises that."""
    if "memory-limit" not in real_engine.describe().keeps:
        pytest.skip("this engine says that it cannot limit memory")
    if not real_engine.find_image(loadable.id, loadable.diff_ids):
        real_engine.load_image(loadable, held=0)
    (place / "work").mkdir()
    container = real_engine.start(
        ContainerRequest(
            name=f"reprobox-limits-{os.getpid()}-{time.monotonic_ns()}", image=loadable.id,
            argv=("python", "-c", "x = bytearray(400 << 20)"), environment=(), working_directory="/work",
            user="1000:1000", mounts=(Mount(source=place / "work", target="/work", writable=True),),
            memory_bytes=128 << 20, labels=((RUN_LABEL, "p"), (STATE_LABEL, str(place))),
        ),
        stdout=Collected(), stderr=Collected(),
    )  # fmt: skip
    ended = container.wait()
    container.remove()
    assert ended.exit_code == 137
    assert ended.out_of_memory


def test_docker_pulls_from_us_and_keeps_no_other_name(unheld: LoadableImage) -> None:
    """What Docker has nothing of it pulls from this process; the image has the name for people alone, or none."""
    import docker

    engine = DockerEngine(os.environ)
    assert not engine.find_image(unheld.id, unheld.diff_ids)
    asked = []
    counting = dataclasses.replace(unheld, render_archive=lambda wanted: asked.append(wanted) or iter(()))
    engine.load_image(counting, held=0)
    assert asked == []
    assert engine.find_image(unheld.id, unheld.diff_ids)
    engine.tag_image(unheld.id, "reprobox/test", unheld.id[7:23])
    found = docker.from_env().api.inspect_image(unheld.id)
    assert found["RepoDigests"] == []
    assert found["RepoTags"] == [f"reprobox/test:{unheld.id[7:23]}"]


def test_an_engine_that_does_not_reach_us_is_sent_an_archive(unheld: LoadableImage) -> None:
    """Where the pull fails, everything goes as an archive, as it does to an engine in a machine of its own."""
    asked = []

    def render(wanted: Any) -> Any:
        asked.append(tuple(wanted))
        return unheld.render_archive(wanted)

    engine = DockerEngine(os.environ)
    engine.load_image(dataclasses.replace(unheld, manifest=b"{}", render_archive=render), held=0)
    assert asked == [unheld.diff_ids]
    assert engine.find_image(unheld.id, unheld.diff_ids)
