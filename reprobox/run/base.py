"""What stands below an environment: a base's own lock, made where there is none.

A base that is an image or a Dockerfile is built or pulled by the engine once, flattened, and from then on is the digest
of that one layer; its bytes are kept in the cache, and in the folders that `reprobox mirror` makes.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reprobox.engines.base import Engine
from reprobox.env.base_files import find_base_folder, load_base, load_base_lock, write_base_lock
from reprobox.env.bases import DEFAULT_PLATFORM, BaseSpec, DebianPackage, FlattenedBase, find_debian_python
from reprobox.env.client import Client
from reprobox.env.lockfile import Lock
from reprobox.env.project import Project
from reprobox.errors import EnvironmentInvalid
from reprobox.image.cache import Cache, CachedLayer
from reprobox.image.flatten import flatten_tar

Connect = Callable[[], Engine]
"""Gives the container engine; only called where one is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What locking may need beside indexes: a base that must be built, or a project that has no wheel.

    Attributes:
        connect: Gives the engine.
        image: Gives the engine's id of a lock's image, making it where it is missing.
        layers: Gives a lock's layers, lowest first, making those that are missing.
        say: Told what takes long.
    """

    connect: Connect
    image: Callable[[Lock], str]
    layers: Callable[[Lock], tuple[CachedLayer, ...]]
    say: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedBase:
    """A base and what it is locked to.

    Attributes:
        spec: What a person wrote.
        debian: Its Debian packages; none where it is flattened.
        flattened: Its one layer, where it is an image or a Dockerfile.
    """

    spec: BaseSpec
    debian: tuple[DebianPackage, ...] = ()
    flattened: FlattenedBase | None = None

    @property
    def python(self) -> str | None:
        """Exact version of its interpreter, such as "3.11.2"; None where it has none."""
        if self.flattened is not None:
            return self.flattened.python
        return find_debian_python(self.debian, self.spec.python)


def load_locked_base(
    name: str, project: Project, client: Client, *, connect: Connect, platform: str, anew: bool = False
) -> LockedBase:
    """Load a base and what it is locked to; make its lock where there is none, or its layer is gone from the cache.

    Raises:
        EnvironmentInvalid: There is no such base, or it is broken.
        IndexUnreachable: It must be resolved and no mirror answers.
        EngineError: It must be built or pulled, and that failed.
    """
    folder = find_base_folder(name, project.root)
    spec = load_base(folder)
    locked = None if anew else load_base_lock(folder, spec, platform)
    if locked is None:
        if spec.image or spec.dockerfile:
            if platform != DEFAULT_PLATFORM:
                raise EnvironmentInvalid(
                    f"base {name} is an image or a Dockerfile, which is had for {DEFAULT_PLATFORM} alone here",
                    hint=f"lock for {platform} on a machine of that kind, or take a base that lists packages",
                )
            locked = flatten_base(spec, folder, engine=connect(), cache=Cache(client.cache))
        else:
            from reprobox.env.solve_debian import solve_base

            locked = solve_base(spec, platform=platform, client=client)
        write_base_lock(folder, spec, locked, platform)
    if isinstance(locked, FlattenedBase):
        return LockedBase(spec=spec, flattened=locked)
    return LockedBase(spec=spec, debian=locked)


def flatten_base(spec: BaseSpec, folder: Path, *, engine: Engine, cache: Cache) -> FlattenedBase:
    """Have a base's file system as one layer in the cache.

    Args:
        spec: The base; an image or a Dockerfile.
        folder: Where its files are.
        engine: Builds or pulls it.
        cache: Keeps the layer.

    Raises:
        EnvironmentInvalid: It has no interpreter of the version that it promises.
        EngineError: It cannot be built, pulled or exported.
    """
    if spec.image is not None:
        image = engine.find_reference(spec.image)
    else:
        image = engine.build_dockerfile(folder, spec.dockerfile or "")
    with cache.aside() as scratch:
        whole, layer = scratch / "whole.tar", scratch / "layer.tar"
        with whole.open("wb") as stream:
            for chunk in engine.export_image(image):
                stream.write(chunk)
        with layer.open("wb") as stream:
            digest = flatten_tar(whole, stream)
        python = _find_python(layer, spec) if spec.python else None
        sha256 = digest.diff_id.removeprefix("sha256:")
        place = cache.package_path(sha256)
        place.parent.mkdir(parents=True, exist_ok=True)
        layer.replace(place)
        cache.mark_base(sha256)
    return FlattenedBase(name=spec.name, sha256=sha256, size_bytes=digest.size_bytes, files=digest.files, python=python)


def _find_python(layer: Path, spec: BaseSpec) -> str:
    """Find the exact version of a base's interpreter in its package database."""
    name = f"python{spec.python}-minimal"
    with tarfile.open(layer) as archive:
        try:
            stream = archive.extractfile("var/lib/dpkg/status")
            text = stream.read().decode("utf-8", "replace") if stream else ""
        except KeyError:
            text = ""
    for stanza in text.split("\n\n"):
        if re.search(rf"^Package: {re.escape(name)}$", stanza, re.MULTILINE):
            version = re.search(r"^Version: (?:\d+:)?(\d+\.\d+\.\d+)", stanza, re.MULTILINE)
            if version:
                return version[1]
    raise EnvironmentInvalid(
        f"base {spec.name}: promises python {spec.python}, but its packages have no {name}",
        hint="leave `python:` out of base.yml: the interpreter then comes from conda",
    )
