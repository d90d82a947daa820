"""Decide which package goes into which layer. Pure.

Order and grouping follow size and rate of change. An engine identifies a layer by all that lies below it, so what
changes rarely and costs most to move lies lowest: the base, the environment's skeleton, each big wheel alone (largest
first), then the small wheels in a fixed number of groups. A small wheel's group is chosen by its name alone, so that a
new version, or a new neighbour, moves one group and not all.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal, NewType

from reprobox.env.bases import DebianPackage
from reprobox.env.lockfile import Lock, Wheel

LayerKey = NewType("LayerKey", str)
"""sha256, in hex, over everything that a layer is made from."""

BIG_WHEEL_BYTES = 4_000_000
SMALL_GROUPS = 8
_INTERPRETER_PREFIXES = ("python3", "libpython3")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """One layer to be.

    Attributes:
        kind: "base" (Debian packages), "skeleton" (the environment's empty prefix) or "wheels".
        key: What it is made from, digested.
        reason: Why these packages are together, for people.
        debian: Its Debian packages, by name.
        wheels: Its wheels, by name.
    """

    kind: Literal["base", "skeleton", "wheels"]
    key: LayerKey
    reason: str
    debian: tuple[DebianPackage, ...] = ()
    wheels: tuple[Wheel, ...] = ()

    @property
    def title(self) -> str:
        """A few words for progress and listings."""
        names = [p.name for p in self.debian] or [w.name for w in self.wheels]
        if len(names) == 1:
            return names[0]
        return f"{self.kind} ({len(names)} packages)" if names else self.kind


def plan_layers(lock: Lock) -> tuple[LayerPlan, ...]:
    """Plan an image's layers, lowest first.

    Args:
        lock: The environment.

    Returns:
        Layers in their order in the image; every package is in exactly one.
    """
    big = sorted((w for w in lock.wheels if w.size_bytes >= BIG_WHEEL_BYTES), key=lambda w: (-w.size_bytes, w.name))
    groups: dict[int, list[Wheel]] = {}
    for wheel in lock.wheels:
        if wheel.size_bytes < BIG_WHEEL_BYTES:
            groups.setdefault(_group_of(wheel.name), []).append(wheel)
    debian = tuple(sorted(lock.debian, key=lambda package: package.name))
    plans = [
        LayerPlan(
            kind="base",
            key=_key(lock, "base", [p.sha256 for p in debian], {"omit": lock.omit, "keep": lock.keep}),
            reason="the system below the environment; changes with the base's lock alone",
            debian=debian,
        ),
        LayerPlan(kind="skeleton", key=_key(lock, "skeleton", [], {}), reason="the environment's empty prefix"),
    ]
    for wheel in big:
        plans.append(_wheels_plan(lock, (wheel,), "big: alone, so that nothing else moves it"))
    for group in sorted(groups):
        wheels = tuple(sorted(groups[group], key=lambda w: w.name))
        plans.append(_wheels_plan(lock, wheels, f"small: group {group + 1} of {SMALL_GROUPS}, by name"))
    return tuple(plans)


def interpreter_digest(lock: Lock) -> str:
    """Digest of the packages that shape compiled bytecode, in hex."""
    parts = [p.sha256 for p in sorted(lock.debian, key=lambda p: p.name) if p.name.startswith(_INTERPRETER_PREFIXES)]
    return hashlib.sha256(",".join(parts).encode()).hexdigest()


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
    made_from = {"format": lock.layer_format, "kind": kind, "python": lock.python, "parts": parts, **extra}
    return LayerKey(hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest())
