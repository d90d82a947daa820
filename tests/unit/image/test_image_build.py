"""Lock → layers, whole: a little base with a loader that starts this Python, a folder as its mirror, two wheels."""

from __future__ import annotations

import dataclasses
import os
import sys
import tarfile
import threading
from pathlib import Path

import pytest
from image_makers import Layer, make_deb, make_lock, make_wheel, tar_file, tar_link

from reprobox.env.bases import DebianPackage
from reprobox.env.client import Client
from reprobox.env.lockfile import Lock, Wheel
from reprobox.errors import ArtefactAltered, BuildError, IndexUnreachable
from reprobox.image.build import Build, start_build
from reprobox.image.cache import Cache, CachedLayer
from reprobox.image.oci import render_image
from reprobox.image.plan import plan_layers

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="images are built on x86_64 alone")

LOADER = f"#!/bin/sh\nshift 4\nunset PYTHONHOME\nexec '{sys.executable}' \"$@\"\n".encode()
LDCONFIG = b'#!/bin/sh\nmkdir -p "$2/etc"\nprintf "libraries" > "$2/etc/ld.so.cache"\n'


class Told:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.started: dict[str, int] = {}
        self.done: dict[str, int] = {}
        self._mutex = threading.Lock()

    def start(self, task: str, total_bytes: int) -> None:
        self.started[task] = total_bytes

    def advance(self, task: str, size_bytes: int) -> None:
        with self._mutex:
            self.done[task] = self.done.get(task, 0) + size_bytes

    def finish(self, task: str) -> None:
        pass


class Shop:
    """A mirror that is a folder, wheels, and caches to build into."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mirror = root / "mirror"
        self.wheels: dict[str, bytes] = {}
        self.told = Told()

    def deb(self, name: str, *members: tuple[tarfile.TarInfo, bytes], version: str = "1.0") -> DebianPackage:
        package, file = make_deb(self.root, name, members, version=version)
        place = self.mirror / package.file
        place.parent.mkdir(parents=True, exist_ok=True)
        file.rename(place)
        return package

    def wheel(self, name: str, source: bytes, *, version: str = "1.0") -> Wheel:
        wheel, file = make_wheel(self.root, {f"{name}.py": source}, name=name, version=version)
        self.wheels[wheel.sha256] = file.read_bytes()
        return wheel

    def cache(self, name: str) -> Cache:
        """A cache that has the wheels, so that no index is asked."""
        cache = Cache(self.root / name)
        for sha256, data in self.wheels.items():
            path = cache.package_path(sha256)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return cache

    def start(self, lock: Lock, cache: Cache, *, workers: int = 2) -> Build:
        client = Client(environ={"REPROBOX_DEBIAN_MIRROR": self.mirror.as_uri()}, cache=cache.root)
        self.told = Told()
        return start_build(lock, client=client, cache=cache, progress=self.told, workers=workers)

    def build(self, lock: Lock, cache: Cache, *, workers: int = 2) -> tuple[tuple[CachedLayer, ...], list[str]]:
        build = self.start(lock, cache, workers=workers)
        try:
            return build.wait(), sorted(build.built)
        finally:
            build.close()


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def lock(shop: Shop) -> Lock:
    """A base of two packages and an environment of two wheels."""
    interpreter = shop.deb(
        "python3.11-minimal",
        tar_file("./lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", LOADER, mode=0o755),
        tar_file("./usr/bin/python3.11", b"never started", mode=0o755),
        tar_file("./usr/lib/python3.11/os.py", b"x = 1\n"),
        tar_file("./usr/lib/python3.11/bad.py", b"x = (\n"),
        tar_file("./usr/lib/python3.12/other.py", b"x = 1\n"),
        version="3.11.2-6",
    )
    system = shop.deb(
        "libc-bin", tar_file("./sbin/ldconfig", LDCONFIG, mode=0o755), tar_link("./usr/lib/link", "python3.11")
    )
    return make_lock(
        debian=(system, interpreter), wheels=(shop.wheel("one", b"x = 1\n"), shop.wheel("two", b"y = 2\n"))
    )


def read(layers: tuple[CachedLayer, ...]) -> list[Layer]:
    return [Layer(layer.path.read_bytes(), layer.digest) for layer in layers]


def test_a_lock_becomes_layers(shop: Shop, lock: Lock) -> None:
    """The base has its packages, their bytecode and a library cache; the skeleton a prefix; wheels lie in it."""
    layers, built = shop.build(lock, shop.cache("cache"))
    plans = plan_layers(lock)
    assert len(layers) == len(plans) == len(built)
    count = [plan.kind for plan in plans].index("skeleton")
    *base, skeleton = read(layers)[: count + 1]
    wheels = read(layers)[count + 1 :]
    files = {name: content for layer in base for name, content in layer.files().items()}
    assert files["etc/ld.so.cache"] == b"libraries"
    assert files["usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"] == LOADER
    assert b"reprobox" in files["etc/passwd"]
    assert [name for name in files if name.endswith(".pyc")] == ["usr/lib/python3.11/__pycache__/os.cpython-311.pyc"]
    assert skeleton.get("opt/env/bin/python").linkname == "/usr/bin/python3.11"
    assert b"version = 3.11.2" in skeleton.files()["opt/env/pyvenv.cfg"]
    names = [name for layer in wheels for name in layer.names()]
    for name in ("one", "two"):
        assert f"opt/env/lib/python3.11/site-packages/{name}.py" in names
        assert f"opt/env/lib/python3.11/site-packages/__pycache__/{name}.cpython-311.pyc" in names
    assert shop.told.started["packages"] == shop.told.done["packages"]
    assert shop.told.started["layers"] == shop.told.done["layers"] == len(plans)


def test_one_lock_is_one_image(shop: Shop, lock: Lock) -> None:
    """Built from nothing in another place and with another number of workers, the layers are the same bytes."""
    first, _ = shop.build(lock, shop.cache("first"), workers=1)
    second, _ = shop.build(lock, shop.cache("second/deep er"), workers=7)
    assert [layer.digest for layer in first] == [layer.digest for layer in second]
    assert [layer.path.read_bytes() for layer in first] == [layer.path.read_bytes() for layer in second]
    images = [render_image(lock, plan_layers(lock), layers) for layers in (first, second)]
    assert images[0] == images[1]


def test_what_is_cached_is_not_built(shop: Shop, lock: Lock) -> None:
    """A second build starts nothing, fetches nothing, tells nothing, and gives the same."""
    cache = shop.cache("cache")
    first, _ = shop.build(lock, cache)
    for file in list(shop.mirror.rglob("*.deb")) + list((cache.root / "packages").rglob("*")):
        if file.is_file():
            file.unlink()
    assert shop.build(lock, cache) == (first, [])
    assert shop.told.started == {}


def test_a_new_version_builds_one_layer(shop: Shop, lock: Lock) -> None:
    """Another version of one wheel makes its layer anew and no other."""
    cache = shop.cache("cache")
    first, _ = shop.build(lock, cache)
    newer = shop.wheel("one", b"x = 11\n", version="1.1")
    cache = shop.cache("cache")
    second, built = shop.build(dataclasses.replace(lock, wheels=(newer, lock.wheels[1])), cache)
    assert len(built) == 1
    assert sum(a.digest != b.digest for a, b in zip(first, second, strict=True)) == 1


@pytest.mark.parametrize("change", ["altered", "gone"])
def test_a_package_that_is_not_the_locked_one_builds_nothing(shop: Shop, lock: Lock, change: str) -> None:
    """Where a package of the base is altered or gone, the build fails for that reason and keeps no layer that needs it."""
    file = shop.mirror / lock.debian[0].file
    if change == "altered":
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    else:
        file.unlink()
    cache = shop.cache("cache")
    with pytest.raises(ArtefactAltered if change == "altered" else IndexUnreachable, match="libc-bin"):
        shop.build(lock, cache)
    plans = plan_layers(lock)
    assert [cache.find_layer(plan.key) for plan in plans if plan.kind != "skeleton"] == [None] * (len(plans) - 1)
    assert not list((cache.root / "unfinished").iterdir())


def test_a_wheel_that_is_none_fails_its_build(shop: Shop, lock: Lock) -> None:
    """A broken wheel fails the build by its name; the layers without it are kept for the next time."""
    bad, file = make_wheel(shop.root, {"x": b""}, name="bad", metadata=False)
    shop.wheels[bad.sha256] = file.read_bytes()
    cache = shop.cache("cache")
    wheels = (bad, *lock.wheels)
    with pytest.raises(BuildError, match=r"bad-1\.0-py3-none-any\.whl"):
        shop.build(dataclasses.replace(lock, wheels=wheels), cache)
    assert not list((cache.root / "unfinished").iterdir())
    again, _ = shop.build(lock, cache)
    assert [layer.digest for layer in again] == [layer.digest for layer in shop.build(lock, shop.cache("new"))[0]]


def test_an_image_for_another_machine_is_refused(shop: Shop, lock: Lock) -> None:
    """A lock for another platform is refused at once, with the platform."""
    with pytest.raises(BuildError, match="linux-aarch64"):
        shop.start(dataclasses.replace(lock, platform="linux-aarch64"), shop.cache("cache"))


def test_an_ended_build_leaves_no_thread_and_nothing_unfinished(shop: Shop, lock: Lock) -> None:
    """A build that is closed early has no thread left, and nothing unfinished in the cache."""
    before = threading.active_count()
    cache = shop.cache("cache")
    build = shop.start(lock, cache)
    build.close()
    assert threading.active_count() == before
    unfinished = cache.root / "unfinished"
    assert not unfinished.exists() or not list(unfinished.iterdir())
    whole, _ = shop.build(lock, cache)
    assert [layer.digest for layer in whole] == [layer.digest for layer in shop.build(lock, shop.cache("new"))[0]]
