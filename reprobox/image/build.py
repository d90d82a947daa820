"""Do what `plan` decided: fetch, unpack, compile, write. Layers are made at once, as cores allow, lowest first."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from reprobox.env.bases import DebianPackage
from reprobox.env.client import Client
from reprobox.env.lockfile import Lock
from reprobox.errors import BuildError, Interrupted
from reprobox.image.cache import Cache, CachedLayer
from reprobox.image.debian import Entry, extract_tree, load_tree, write_tree
from reprobox.image.interpreter import Interpreter, render_library_cache
from reprobox.image.layers import LayerWriter
from reprobox.image.places import PREFIX, site_packages
from reprobox.image.plan import LayerPlan, plan_layers

_DOWNLOADS = 8


class Progress(Protocol):
    """Who is told how a build goes. Called from several threads."""

    def start(self, task: str, total_bytes: int) -> None:
        """A task of a known size begins."""

    def advance(self, task: str, size_bytes: int) -> None:
        """Some of it is done."""

    def finish(self, task: str) -> None:
        """It is done."""


@dataclass(slots=True)
class Build:
    """A build under way.

    Attributes:
        plans: The layers, lowest first.
        layers: Each layer's result, in the same order; ready at different times.
        packages: Each package's file, in the cache and hashed; ready at different times.
        built: Titles of the layers that were not in the cache.
    """

    plans: tuple[LayerPlan, ...]
    layers: tuple[Future[CachedLayer], ...] = ()
    packages: tuple[Future[Path], ...] = ()
    built: list[str] = field(default_factory=list)
    _pools: tuple[ThreadPoolExecutor, ...] = ()
    _stopped: threading.Event = field(default_factory=threading.Event)

    def require_packages(self) -> None:
        """Wait until every package is here and hashes to the lock; nothing should leave this machine's cache before.

        Raises:
            ArtefactAltered: One does not hash to the lock.
            IndexUnreachable: One cannot be fetched.
        """
        for future in as_completed(self.packages):
            future.result()

    def wait(self) -> tuple[CachedLayer, ...]:
        """Wait for all layers.

        Raises:
            ReproboxError: The first failure.
        """
        self.require_packages()
        return tuple(future.result() for future in self.layers)

    def check(self) -> None:
        """Give up, in a thread of the build that asks, once the build is cancelled.

        Raises:
            Interrupted: It is.
        """
        if self._stopped.is_set():
            raise Interrupted("the build was given up")

    def close(self) -> None:
        """End the build: what has not begun is dropped, what has is given up at its next write."""
        self._stopped.set()
        for pool in self._pools:
            pool.shutdown(wait=True, cancel_futures=True)


def start_build(lock: Lock, *, client: Client, cache: Cache, progress: Progress, workers: int) -> Build:
    """Begin to make a lock's layers.

    Args:
        lock: The environment.
        client: Where packages come from.
        cache: Where packages and layers are kept.
        progress: Told how it goes.
        workers: Layers, and compilers, at once.

    Returns:
        The build; layers that are cached are ready at once.

    Raises:
        BuildError: This machine cannot compile for the lock's platform.
    """
    if lock.platform != "linux-64" or os.uname().machine != "x86_64":
        raise BuildError(
            f"an image for {lock.platform} cannot be built on {os.uname().sysname} {os.uname().machine}",
            hint="build it on a Linux machine of that kind",
        )
    from reprobox.image.fetch import Fetcher

    plans = plan_layers(lock)
    cached = [cache.find_layer(plan.key) for plan in plans]
    missing = [plan for plan, layer in zip(plans, cached, strict=True) if layer is None]
    needs_tree = any(plan.kind != "skeleton" for plan in missing)
    # With the base unpacked and its layer written, nothing asks for its packages again.
    needs_debian = cached[0] is None or (needs_tree and cache.find_tree(plans[0].key) is None)
    debian = plans[0].debian if needs_debian else ()
    wheels = [wheel for plan in missing for wheel in plan.wheels]
    download_task, layer_task = "packages", "layers"
    total = sum(p.size_bytes for p in debian) + sum(w.size_bytes for w in wheels)
    if missing:
        progress.start(download_task, total)
        progress.start(layer_task, len(missing))
    build = Build(plans=plans)

    def advance(size: int) -> None:
        build.check()
        progress.advance(download_task, size)

    fetcher = Fetcher(lock, client=client, cache=cache, advance=advance)
    downloads = ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="fetch")
    makers = ThreadPoolExecutor(workers, thread_name_prefix="layer")
    base = ThreadPoolExecutor(1, thread_name_prefix="base")
    fetched_debian = {package: downloads.submit(fetcher.fetch_debian, package) for package in debian}
    # Largest first: the longest download decides when the build can end.
    order = sorted(wheels, key=lambda wheel: -wheel.size_bytes)
    fetched_wheels = {wheel: downloads.submit(fetcher.fetch_wheel, wheel) for wheel in order}
    build.packages = (*fetched_debian.values(), *fetched_wheels.values())
    build._pools = (downloads, makers, base)

    def tree() -> Interpreter:
        files = [(package, future.result()) for package, future in fetched_debian.items()]
        folder = _unpacked_base(plans[0], files, lock, cache)
        return Interpreter(tree=folder, python=lock.python, platform=lock.platform, workers=workers)

    interpreter = base.submit(tree) if needs_tree else None

    def make(plan: LayerPlan) -> CachedLayer:
        from reprobox.image.wheels import write_wheel

        archives = [fetched_wheels[wheel].result() for wheel in plan.wheels]
        with cache.aside() as folder:
            part = folder / "layer.tar"
            with part.open("wb") as stream:
                writer = LayerWriter(stream, check=build.check)
                if plan.kind == "skeleton":
                    _write_skeleton(writer, lock)
                elif interpreter is not None:
                    python = interpreter.result()
                    if plan.kind == "base":
                        _write_base(writer, plan, fetched_debian, lock, python)
                    for wheel, archive in zip(plan.wheels, archives, strict=True):
                        write_wheel(
                            wheel, archive, writer=writer, python=lock.python, compile_sources=python.compile_sources
                        )
                digest = writer.finish()
            layer = cache.keep_layer(plan.key, digest, part)
        build.built.append(plan.title)
        progress.advance(layer_task, 1)
        return layer

    futures: list[Future[CachedLayer]] = []
    for plan, layer in zip(plans, cached, strict=True):
        if layer is not None:
            ready: Future[CachedLayer] = Future()
            ready.set_result(layer)
            futures.append(ready)
        else:
            futures.append(makers.submit(make, plan))
    build.layers = tuple(futures)
    return build


def _unpacked_base(plan: LayerPlan, files: Sequence[tuple[DebianPackage, Path]], lock: Lock, cache: Cache) -> Path:
    found = cache.find_tree(plan.key)
    if found:
        return found
    with cache.aside() as folder:
        tree = folder / "tree"
        tree.mkdir()
        extract_tree(load_tree(files, omit=lock.omit, keep=lock.keep), tree)
        render_library_cache(tree)
        return cache.keep_tree(plan.key, tree)


def _write_base(
    writer: LayerWriter, plan: LayerPlan, fetched: dict[DebianPackage, Future[Path]], lock: Lock, python: Interpreter
) -> None:
    files = [(package, fetched[package].result()) for package in plan.debian]
    tree = load_tree(files, omit=lock.omit, keep=lock.keep)
    tree["etc/ld.so.cache"] = Entry(kind="file", content=(python.tree / "etc/ld.so.cache").read_bytes())
    short = ".".join(lock.python.split(".")[:2])
    library = f"usr/lib/python{short}/"
    sources = [
        path for path in sorted(tree) if path.startswith(library) and path.endswith(".py") and tree[path].kind == "file"
    ]
    tag = "cpython-" + short.replace(".", "")
    for path, code in zip(sources, python.compile_sources(python.tree, [(p, "/" + p) for p in sources]), strict=True):
        if code is not None:
            parent, _, name = path.rpartition("/")
            tree[f"{parent}/__pycache__/{name[:-3]}.{tag}.pyc"] = Entry(kind="file", content=code)
    write_tree(tree, writer)


def _write_skeleton(writer: LayerWriter, lock: Lock) -> None:
    short = ".".join(lock.python.split(".")[:2])
    text = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {lock.python}\n".encode()
    writer.add_file(f"{PREFIX}/pyvenv.cfg", text, size=len(text))
    writer.add_symlink(f"{PREFIX}/bin/python", f"/usr/bin/python{short}")
    for name in ("python3", f"python{short}"):
        writer.add_symlink(f"{PREFIX}/bin/{name}", "python")
    writer.add_directory(site_packages(lock.python))
