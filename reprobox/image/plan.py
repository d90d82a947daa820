"""Decide which package goes into which layer, and why. Pure: a lock in, plans out.

A layer's key digests everything that its bytes follow from, so equal keys mean equal bytes, on every machine. Layers
that change seldom lie below those that change often; big packages lie alone, so that a changed one moves nothing else;
small ones are grouped by a hash of their name, so that a new one moves one group. Conda packages lie below wheels, as
pip puts wheels on top of an environment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NewType, Protocol, TypeVar

from reprobox.env.bases import DebianPackage, FlattenedBase, find_debian_python
from reprobox.env.lockfile import CondaPackage, LinkedFiles, Lock, Wheel

LayerKey = NewType("LayerKey", str)
"""sha256, in hex, over everything that a layer is made from."""

Package = DebianPackage | FlattenedBase | CondaPackage | LinkedFiles | Wheel
Kind = Literal["debian", "base", "skeleton", "conda", "linked", "wheels"]

BIG_WHEEL_BYTES = 4_000_000
MAX_ALONE = 60
"""Packages of one manager that get a layer of their own."""

MAX_LAYERS = 125
"""What engines hold."""

SMALL_GROUPS = 8
INTERPRETER_PREFIXES = ("python3", "libpython3")
"""Debian packages that hold the interpreter and its library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """One layer to be.

    Attributes:
        kind: "debian" (packages of the base), "base" (what follows from all of these together, or a flattened base as
            it is), "skeleton" (the environment's empty prefix), "conda", "linked" (what scripts of conda packages
            wrote at link time) or "wheels".
        key: What it is made from, digested.
        reason: Why these packages are together, for people.
        debian: Its Debian packages, by name.
        conda: Its conda packages, by name.
        wheels: Its wheels, by name.
        ready: What is locked as a whole layer: a flattened base, or what link scripts wrote.
    """

    kind: Kind
    key: LayerKey
    reason: str
    debian: tuple[DebianPackage, ...] = ()
    conda: tuple[CondaPackage, ...] = ()
    wheels: tuple[Wheel, ...] = ()
    ready: FlattenedBase | LinkedFiles | None = None

    @property
    def packages(self) -> tuple[Package, ...]:
        """All its packages, of whatever manager."""
        return (*self.debian, *((self.ready,) if self.ready else ()), *self.conda, *self.wheels)

    @property
    def title(self) -> str:
        """A few words for progress and listings."""
        if len(self.packages) == 1:
            return self.packages[0].name
        return f"{self.kind} ({len(self.packages)} packages)" if self.packages else self.kind

    @property
    def compiles(self) -> bool:
        """Whether the locked interpreter is needed to make it."""
        return (
            (self.kind == "base" and self.ready is None)
            or any(package.name.startswith(INTERPRETER_PREFIXES) for package in self.debian)
            or self.kind == "wheels"
            or any(package.subdir == "noarch" for package in self.conda)
        )


class _Named(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...


_Package = TypeVar("_Package", bound=_Named)


def plan_layers(lock: Lock) -> tuple[LayerPlan, ...]:
    """Plan an image's layers, lowest first.

    Args:
        lock: The environment.

    Returns:
        Layers in their order in the image; every package is in exactly one.
    """
    debian = [_debian_plan(lock, packages, reason) for packages, reason in _group(lock.debian, MAX_ALONE)]
    together = LayerPlan(
        kind="base",
        key=base_key(lock),
        reason="what follows from all packages of the base together" if debian else "the system below the environment",
        ready=lock.flattened,
    )
    skeleton = LayerPlan(kind="skeleton", key=_skeleton_key(lock), reason="the environment's empty prefix")
    plans = [*debian, together, skeleton]
    native = [package for package in lock.conda if package.subdir != "noarch"]
    noarch = [package for package in lock.conda if package.subdir == "noarch"]
    left = MAX_LAYERS - len(plans) - (lock.linked is not None) - 3 * SMALL_GROUPS
    plans += [_conda_plan(lock, packages, reason) for packages, reason in _group(native, left)]
    left -= min(MAX_ALONE, _count_big(native))
    plans += [_conda_plan(lock, packages, reason) for packages, reason in _group(noarch, left)]
    left -= min(MAX_ALONE, left, _count_big(noarch))
    if lock.linked is not None:
        key = _digest({"kind": "linked", "sha256": lock.linked.sha256})
        reason = "what link scripts of conda packages wrote, when they were run"
        plans.append(LayerPlan(kind="linked", key=key, reason=reason, ready=lock.linked))
    plans += [_wheels_plan(lock, packages, reason) for packages, reason in _group(lock.wheels, left)]
    return tuple(plans)


def _count_big(packages: Sequence[_Package]) -> int:
    return sum(package.size_bytes >= BIG_WHEEL_BYTES for package in packages)


def _group(packages: Sequence[_Package], left: int) -> list[tuple[tuple[_Package, ...], str]]:
    """Group packages into layers, each with the reason: big ones first, the largest lowest, then small ones by name.

    Args:
        packages: All of one kind.
        left: How many of them may have a layer of their own.
    """
    big = sorted((p for p in packages if p.size_bytes >= BIG_WHEEL_BYTES), key=lambda p: (-p.size_bytes, p.name))
    alone = big[: min(MAX_ALONE, left)]
    names = {package.name for package in alone}
    groups: dict[int, list[_Package]] = {}
    for package in packages:
        if package.name not in names:
            groups.setdefault(_group_of(package.name), []).append(package)
    layers: list[tuple[tuple[_Package, ...], str]] = [
        ((package,), "big: alone, so that nothing else moves it") for package in alone
    ]
    for group in sorted(groups):
        together = tuple(sorted(groups[group], key=lambda package: package.name))
        layers.append((together, f"small: group {group + 1} of {SMALL_GROUPS}, by name"))
    return layers


def base_key(lock: Lock) -> LayerKey:
    """Key of the layer that follows from the whole base, and of the base unpacked."""
    if lock.flattened is not None:
        return _digest({"kind": "flattened", "sha256": lock.flattened.sha256})
    parts = [package.sha256 for package in sorted(lock.debian, key=lambda package: package.name)]
    base = {"format": lock.layer_format, "kind": "base", "python": base_python(lock), "parts": parts}
    return _digest({**base, "omit": lock.omit, "keep": lock.keep})


def base_python(lock: Lock) -> str | None:
    """Exact version of the base's own interpreter, such as "3.11.2"; None where it has none."""
    if lock.flattened is not None:
        return lock.flattened.python
    return find_debian_python(lock.debian)


def interpreter_digest(lock: Lock) -> str:
    """Digest of the packages that shape compiled bytecode, in hex."""
    if lock.python_from == "conda":
        parts = [package.sha256 for package in lock.conda if package.name == "python"]
    else:
        parts = [lock.flattened.sha256] if lock.flattened else []
    return hashlib.sha256(",".join(parts).encode()).hexdigest() if parts else _debian_interpreter(lock)


def _debian_interpreter(lock: Lock) -> str:
    debian = sorted(lock.debian, key=lambda package: package.name)
    parts = [package.sha256 for package in debian if package.name.startswith(INTERPRETER_PREFIXES)]
    return hashlib.sha256(",".join(parts).encode()).hexdigest()


def _skeleton_key(lock: Lock) -> LayerKey:
    return _key(lock, "skeleton", [], {} if lock.python_from == "base" else {"python_from": lock.python_from})


def _debian_plan(lock: Lock, packages: tuple[DebianPackage, ...], reason: str) -> LayerPlan:
    made_from: dict[str, object] = {
        "format": lock.layer_format,
        "kind": "debian",
        "parts": [package.sha256 for package in packages],
        "omit": lock.omit,
        "keep": lock.keep,
    }
    if any(package.name.startswith(INTERPRETER_PREFIXES) for package in packages):
        made_from |= {"python": base_python(lock), "interpreter": _debian_interpreter(lock)}
    return LayerPlan(kind="debian", key=_digest(made_from), reason=reason, debian=packages)


def _conda_plan(lock: Lock, packages: tuple[CondaPackage, ...], reason: str) -> LayerPlan:
    # A package's names are part of what its layer is made from: they stand in its note below conda-meta.
    parts = [f"{p.channel}/{p.subdir}/{p.file}:{p.sha256}:{p.size_bytes}" for p in packages]
    noarch = packages[0].subdir == "noarch"
    made_from = {"format": lock.layer_format, "kind": "conda", "parts": parts}
    if noarch:
        made_from |= {"python": lock.python, "interpreter": interpreter_digest(lock)}
    return LayerPlan(kind="conda", key=_digest(made_from), reason=reason, conda=packages)


def _wheels_plan(lock: Lock, wheels: tuple[Wheel, ...], reason: str) -> LayerPlan:
    # A wheel's file name is part of what its layer is made from: it names the project and tags that unpacking checks.
    parts = [f"{wheel.file}:{wheel.sha256}" for wheel in wheels]
    return LayerPlan(
        kind="wheels",
        key=_key(lock, "wheels", parts, {"interpreter": interpreter_digest(lock)}),
        reason=reason,
        wheels=wheels,
    )


def _group_of(name: str) -> int:
    return hashlib.sha256(name.encode()).digest()[0] % SMALL_GROUPS


def _key(lock: Lock, kind: str, parts: list[str], extra: dict[str, object]) -> LayerKey:
    return _digest({"format": lock.layer_format, "kind": kind, "python": lock.python, "parts": parts, **extra})


def _digest(made_from: dict[str, object]) -> LayerKey:
    return LayerKey(hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest())
