"""Do what `plan` decided: fetch, unpack, compile, write. Layers are made at once, as cores allow, lowest first."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from reprobox.env.bases import DebianPackage
from reprobox.env.client import Client
from reprobox.env.lockfile import Lock
from reprobox.env.uv_resolver import MACHINES
from reprobox.errors import BuildError, Interrupted
from reprobox.image.cache import Cache, CachedLayer
from reprobox.image.make import LayerMaker, list_packages
from reprobox.image.plan import LayerPlan, plan_layers

_DOWNLOADS = 8
_DOWNLOAD_TASK, _LAYER_TASK = "packages", "layers"


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
    _give_up: Callable[[], None] = lambda: None

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
        """End the build: what has not begun is dropped, what has is given up at its next read or write."""
        self._stopped.set()
        self._give_up()
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
    if MACHINES[lock.platform] != os.uname().machine:
        raise BuildError(
            f"an image for {lock.platform} cannot be built on {os.uname().sysname} {os.uname().machine}",
            hint="build it on a Linux machine of that kind",
        )
    plans = plan_layers(lock)
    cached = [cache.find_layer(plan.key) for plan in plans]
    missing = [plan for plan, layer in zip(plans, cached, strict=True) if layer is None]
    build = Build(plans=plans)
    makers = ThreadPoolExecutor(workers, thread_name_prefix="layer")
    downloads = ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="fetch")
    trees = ThreadPoolExecutor(1, thread_name_prefix="tree")
    build._pools = (downloads, makers, trees)
    packages = _start_downloads(lock, missing, build, downloads, client=client, cache=cache, progress=progress)
    build.packages = tuple(packages.values())
    unpacking = LayerMaker(lock=lock, cache=cache, packages=packages, workers=workers, check=build.check, pool=trees)
    if missing:
        progress.start(_LAYER_TASK, len(missing))

    def make(plan: LayerPlan) -> CachedLayer:
        layer = unpacking.make_layer(plan)
        build.built.append(plan.title)
        progress.advance(_LAYER_TASK, 1)
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


def _start_downloads(
    lock: Lock, missing: list[LayerPlan], build: Build, pool: ThreadPoolExecutor, *, client: Client, cache: Cache,
    progress: Progress,
) -> dict[str, Future[Path]]:  # fmt: skip
    """Begin to fetch what the missing layers are made from.

    Returns:
        sha256 of each package → its file, ready at different times.
    """
    from reprobox.image.fetch import Fetcher

    wanted = list_packages(lock, missing, cache)
    if missing:
        progress.start(_DOWNLOAD_TASK, sum(package.size_bytes for package in wanted))

    def advance(size: int) -> None:
        build.check()
        progress.advance(_DOWNLOAD_TASK, size)

    fetcher = Fetcher(lock, client=client, cache=cache, advance=advance)
    build._give_up = fetcher.close
    # The base first, because everything waits for it; then the largest, which decides when the build can end.
    order = sorted(wanted, key=lambda package: (not isinstance(package, DebianPackage), -package.size_bytes))
    return {package.sha256: pool.submit(fetcher.fetch, package) for package in order}
