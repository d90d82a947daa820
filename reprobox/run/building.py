"""Resolve an environment some of whose projects have no wheel: build those first, then resolve with what came out."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from reprobox.env.client import WHEELHOUSE, Client
from reprobox.env.freshness import Ground, list_others, render_requested
from reprobox.env.lockfile import Lock, Wheel
from reprobox.env.pip_lines import PipOption, WheelRequirement
from reprobox.env.project import EnvironmentEntry
from reprobox.env.sources import SourceOrder, plan_sources, without_references
from reprobox.env.spec import EnvironmentSpec
from reprobox.errors import EnvironmentInvalid, NoSolution, NoWheel
from reprobox.image.cache import Cache
from reprobox.run.base import LockedBase, Tools
from reprobox.run.resolve import LockOptions, resolve
from reprobox.run.sources import Workshop, build_source

_ROUNDS = 40
"""Projects without a wheel that one environment may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolver:
    """All that resolving needs, but for what is asked.

    Attributes:
        entry: Which environment.
        base: What stands below it.
        client: How indexes are reached.
        options: What the command line says.
        old: The lock that is there, or None.
        ground: What the environment stands on.
    """

    entry: EnvironmentEntry
    base: LockedBase
    client: Client
    options: LockOptions
    old: Lock | None
    ground: Ground

    @property
    def wheelhouse(self) -> Path:
        """Where wheels that were built lie."""
        return self.entry.lock.parent / WHEELHOUSE

    def resolve(self, spec: EnvironmentSpec, built: Mapping[str, Wheel]) -> Lock:
        """Resolve, with wheels that were built in the place of what the index has."""
        options = [
            PipOption(kind="constraint", value=f"{wheel.name}=={wheel.version}", line=1) for wheel in built.values()
        ]
        with tempfile.TemporaryDirectory(prefix="reprobox-built-") as folder:
            # Only what was built for this lock is offered: the folder beside it may hold what older ones had.
            for wheel in built.values():
                shutil.copyfile(self.wheelhouse / wheel.file, Path(folder, wheel.file))
            if built:
                options.append(PipOption(kind="find-links", value=folder, line=1))
            client = replace(self.client, pip_options=(*self.client.pip_options, *options))
            lock = resolve(spec, self.entry, self.base, client, self.options, self.old, self.ground)
        before = {wheel.sha256: wheel for wheel in self.old.wheels if wheel.built_from} if self.old else {}
        return replace(lock, wheels=tuple(built.get(w.name) or before.get(w.sha256) or w for w in lock.wheels))


def resolve_building(spec: EnvironmentSpec, resolver: Resolver, *, tools: Tools, root: Path) -> Lock:
    """Resolve a specification, building what has no wheel.

    Args:
        spec: The environment file, parsed.
        resolver: With what.
        tools: Gives engine and images, where something must be built.
        root: The project's folder.

    Raises:
        BuildError: Something cannot be built.
        NoSolution: It cannot be resolved.
        EnvironmentInvalid: A folder of `-e` is not in the project.
    """
    plan = plan_sources(spec)
    for note in plan.notes:
        tools.say(f"note: {spec.source}:{note.line}: {note.message}")
    project = tuple(_place_in_project(path, resolver.entry, root) for path in plan.project)
    building = _Building(spec, resolver, tools)
    for order in plan.orders:
        building.add(order)
    for _ in range(_ROUNDS):
        try:
            lock = resolver.resolve(building.specification(), building.built)
            break
        except NoWheel as error:
            building.add_lacking(error)
    else:
        raise NoSolution(f"{spec.source}: over {_ROUNDS} of its projects have no wheel", hint="name newer versions")
    requested = replace(render_requested(spec, ground=resolver.ground), project=project)
    return replace(lock, requested=requested)


def build_pinned(
    lock: Lock,
    orders: Iterable[SourceOrder],
    entry: EnvironmentEntry,
    client: Client,
    *,
    tools: Tools,
    old: Lock | None,
) -> Lock:
    """Build what another tool pinned to a source, and add it to a lock.

    Args:
        lock: All else that is pinned.
        orders: What is pinned to a commit, or to a source archive by its hash.
        entry: Which environment.
        client: How places are reached.
        tools: Give engine and images.
        old: The lock that is there; what was built for it from the same bytes is kept.

    Raises:
        BuildError: Something cannot be built.
    """
    wheelhouse = entry.lock.parent / WHEELHOUSE
    built = []
    for order in orders:
        before = (w for w in (old.wheels if old else ()) if w.built_from and w.name == order.name)
        kept = next((w for w in before if order.is_exactly(w.built_from or "") and _is_kept(w, wheelhouse)), None)
        if kept is None:
            tools.say(f"building {order.shown} from source, in a container of the environment")
            workshop = Workshop(
                client=client,
                cache=Cache(client.cache),
                engine=tools.connect(),
                image=tools.image,
                wheelhouse=wheelhouse,
            )
            kept = build_source(order, lock, workshop, folder=entry.environment.parent)
        built.append(kept)
    names = {wheel.name for wheel in built}
    wheels = [*(wheel for wheel in lock.wheels if wheel.name not in names), *built]
    return replace(lock, wheels=tuple(sorted(wheels, key=lambda wheel: wheel.name)))


def _is_kept(wheel: Wheel, wheelhouse: Path) -> bool:
    """Whether what was built still lies beside the lock, as it was."""
    file = wheelhouse / wheel.file
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == wheel.sha256


def _place_in_project(path: str, entry: EnvironmentEntry, root: Path) -> str:
    """Give a folder that an environment file names, relative to the project.

    Raises:
        EnvironmentInvalid: It is not in the project.
    """
    place = (entry.environment.parent / path).resolve()
    if not place.is_relative_to(root.resolve()):
        raise EnvironmentInvalid(
            f"{entry.environment.name}: the folder {path!r} is not in the project",
            hint="write a reprobox.toml in a folder that holds both",
        )
    return place.relative_to(root.resolve()).as_posix()


class _Building:
    """The projects of one environment that were built so far."""

    def __init__(self, spec: EnvironmentSpec, resolver: Resolver, tools: Tools) -> None:
        self._spec = spec
        self._resolver = resolver
        self._tools = tools
        self._wanted: list[WheelRequirement] = []
        self._lacking: set[str] = set()
        self.built: dict[str, Wheel] = {}

    def specification(self) -> EnvironmentSpec:
        """What is asked for, with references turned into exact versions of what was built."""
        return replace(without_references(self._spec), wheels=(*self._spec.wheels, *self._wanted))

    def add(self, order: SourceOrder) -> Wheel:
        """Build one project, or take what was built of it before."""
        wheel = self._find_kept(order)
        if wheel is None:
            self._tools.say(f"building {order.shown} from source, in a container of the environment")
            client = self._resolver.client
            workshop = Workshop(
                client=client,
                cache=Cache(client.cache),
                engine=self._tools.connect(),
                image=self._tools.image,
                wheelhouse=self._resolver.wheelhouse,
            )
            folder = self._resolver.entry.environment.parent
            wheel = build_source(order, self._environment(), workshop, folder=folder)
        self.built[wheel.name] = wheel
        if order.kind != "index":
            extras = f"[{','.join(order.extras)}]" if order.extras else ""
            text = f"{wheel.name}{extras}=={wheel.version}"
            self._wanted.append(WheelRequirement(text=text, name=wheel.name, line=1))
        return wheel

    def add_lacking(self, error: NoWheel) -> None:
        """Build what the resolver found to be published as source alone.

        Raises:
            NoWheel: It was built before, and another version of it is asked for.
        """
        if error.project in self._lacking:
            raise error
        self._lacking.add(error.project)
        line = next((wheel.line for wheel in self._spec.wheels if wheel.name == error.project), None)
        where = f"{self._spec.source}:{line}" if line else self._spec.source
        self.add(SourceOrder(kind="index", name=error.project, address="", revision=error.version, where=where))

    def _find_kept(self, order: SourceOrder) -> Wheel | None:
        """Find what was built for the old lock, where the same is asked for and nobody wants it to move."""
        old = self._resolver.old
        if old is None or order.name in self._resolver.options.upgrade:
            return None
        unchanged = list_others(self._spec) == old.requested.others
        found = []
        for wheel in old.wheels:
            if wheel.built_from is None or order.name not in (None, wheel.name):
                continue
            if order.kind == "index":
                same = order.revision in (None, wheel.version)
            else:
                same = (unchanged and order.matches(wheel.built_from)) or order.is_exactly(wheel.built_from)
            if same and _is_kept(wheel, self._resolver.wheelhouse):
                found.append(wheel)
        # Two projects of one repository, neither of them named: which is which cannot be told.
        return found[0] if len(found) == 1 else None

    def _environment(self) -> Lock:
        """The environment to build in: all of it that has wheels, or else what conda brings."""
        spec = without_references(self._spec, but={*self._lacking, *self.built})
        try:
            return self._resolver.resolve(spec, {})
        except NoSolution:
            return self._resolver.resolve(replace(spec, wheels=()), {})
