"""Decide what an environment is pinned to: where its interpreter comes from, what each solver is asked, and of what.

Nothing is written here; `locking` keeps what comes out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reprobox.env.bases import DEFAULT_PLATFORM, BaseSpec
from reprobox.env.client import Client, load_channel_places
from reprobox.env.freshness import Ground, render_requested
from reprobox.env.lockfile import LAYER_FORMAT, PLATFORMS, CondaPackage, Lock, Requested, Wheel
from reprobox.env.pip_lines import PipOption
from reprobox.env.project import EnvironmentEntry
from reprobox.errors import EnvironmentInvalid, UsageError
from reprobox.run.base import LockedBase

if TYPE_CHECKING:
    from reprobox.env.conda_specs import CondaRequirement
    from reprobox.env.pinned import PinnedEnvironment
    from reprobox.env.pip_lines import WheelRequirement
    from reprobox.env.sources import SourceOrder
    from reprobox.env.spec import EnvironmentSpec

_ARCHSPECS = {"linux-64": "1=x86_64", "linux-aarch64": "1=aarch64"}
_KERNEL = "5.10"
"""What packages may take for granted of a kernel: that of the oldest Debian that is still kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LockOptions:
    """What the command line says of locking.

    Attributes:
        upgrade: Projects and packages whose version may move.
        upgrade_all: Let every version move.
        upgrade_base: Resolve the base anew, too.
        exclude_newer: Ignore what was published after this date (ISO 8601).
        cuda: Highest CUDA version that the hosts' drivers take, such as "12.4"; None to keep what the old lock has.
        platform: Conda's name of the target.
        link_scripts: Whether scripts of conda packages may run at link time; None to keep what the old lock says.
    """

    upgrade: tuple[str, ...] = ()
    upgrade_all: bool = False
    upgrade_base: bool = False
    exclude_newer: str | None = None
    cuda: str | None = None
    platform: str = DEFAULT_PLATFORM
    link_scripts: bool | None = None

    @property
    def cutoff(self) -> str | None:
        """The moment of `exclude_newer` in UTC, as every solver reads it; a bare day begins at midnight UTC."""
        if self.exclude_newer is None:
            return None
        moment = datetime.fromisoformat(self.exclude_newer)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

    def require_sense(self) -> None:
        """Require that dates and versions are some.

        Raises:
            UsageError: One is not.
        """
        if self.exclude_newer is not None:
            try:
                datetime.fromisoformat(self.exclude_newer)
            except ValueError:
                raise UsageError(
                    f"--exclude-newer {self.exclude_newer!r} is no date",
                    hint="write 2026-01-31, or 2026-01-31T12:00:00Z",
                ) from None
        if self.platform not in PLATFORMS:
            raise UsageError(f"--platform {self.platform!r} is not known", hint=f"one of {', '.join(PLATFORMS)}")
        if self.cuda is not None and not re.fullmatch(r"\d{1,2}\.\d{1,2}", self.cuda):
            raise UsageError(f"--cuda {self.cuda!r} is no CUDA version", hint="write 12.4")


def resolve(
    spec: EnvironmentSpec,
    entry: EnvironmentEntry,
    base: LockedBase,
    client: Client,
    options: LockOptions,
    old: Lock | None,
    ground: Ground,
) -> Lock:
    """Resolve a specification into a lock; see `make_lock`."""
    from reprobox.env.solve_wheels import solve_wheels

    base_version = base.python
    python_from = choose_python(spec, entry.python, base.spec, base_version)
    virtual_packages = {"__glibc": base.spec.glibc}
    wheels = spec.wheels
    conda = None
    if python_from == "conda":
        from reprobox.env.conda_specs import CondaRequirement
        from reprobox.env.solve_conda import solve_conda

        virtual_packages |= plan_virtual_packages(spec.conda, options, old)
        python = () if spec.pythons else (CondaRequirement(text="python", name="python", channel=None, line=1),)
        conda = solve_conda(
            (*spec.conda, *python),
            channels=spec.channels,
            places=load_channel_places(client),
            platform=options.platform,
            virtual_packages=virtual_packages,
            source=spec.source,
            # A target with another CUDA wants other builds, which the old ones would keep out.
            kept=old.conda if old and dict(old.virtual_packages) == virtual_packages else (),
            upgrade=options.upgrade,
            exclude_newer=options.cutoff,
            client=client,
        )
    else:
        wheels = (*_pip_of_base(spec), *wheels)
    exact = next((p.version for p in conda.packages if p.name == "python"), "") if conda else base_version
    solved = solve_wheels(
        wheels,
        python=exact or "",
        glibc=base.spec.glibc,
        platform=options.platform,
        client=client,
        kept=tuple((wheel.name, wheel.version) for wheel in old.wheels) if old else (),
        upgrade=options.upgrade,
        exclude_newer=options.cutoff,
        provided=conda.projects if conda else (),
        source=spec.source,
    )
    return _assemble(
        base,
        options,
        virtual_packages,
        python=exact or "",
        python_from=python_from,
        conda=conda.packages if conda else (),
        wheels=solved,
        variables=tuple(sorted(spec.variables)),
        requested=render_requested(spec, ground=ground),
    )


def _assemble(
    base: LockedBase,
    options: LockOptions,
    virtual_packages: dict[str, str],
    *,
    python: str,
    python_from: Literal["base", "conda"],
    conda: tuple[CondaPackage, ...],
    wheels: tuple[Wheel, ...],
    variables: tuple[tuple[str, str], ...],
    requested: Requested,
) -> Lock:
    """Put together what was resolved, with the base below it and the tools that resolved it."""
    from importlib.metadata import version

    from reprobox.env.cuda import Package, find_cuda
    from reprobox.env.cuda_driver import render_pins
    from reprobox.env.solve_wheels import uv_version

    packages = (
        *(Package(name=p.name, version=p.version, build=p.build, manager="conda") for p in conda),
        *(Package(name=w.name, version=w.version, manager="wheel") for w in wheels),
    )
    tools = {"uv": uv_version()} | ({"py-rattler": version("py-rattler")} if python_from == "conda" else {})
    return Lock(
        platform=options.platform,
        layer_format=LAYER_FORMAT,
        virtual_packages=tuple(sorted(virtual_packages.items())),
        python=python,
        python_from=python_from,
        omit=base.spec.omit,
        keep=base.spec.keep,
        debian=base.debian,
        flattened=base.flattened,
        conda=conda,
        wheels=wheels,
        cuda=tuple(sorted(render_pins(find_cuda(packages, python=python)).items())),
        variables=variables,
        requested=requested,
        tools=tuple(sorted(tools.items())),
    )


def resolve_pinned(
    text: str,
    source: str,
    base: LockedBase,
    client: Client,
    options: LockOptions,
    ground: Ground,
    include: Callable[[str], str | None],
    say: Callable[[str], None],
) -> tuple[Lock, tuple[SourceOrder, ...]]:
    """Lock what another tool pinned: nothing is chosen anew, what its file leaves out is found.

    Returns:
        The lock, and what is pinned to a source and must still be built for it.
    """
    from reprobox.env.conda_specs import CondaRequirement
    from reprobox.env.pinned import digest_pinned, parse_pinned
    from reprobox.env.solve_pinned import complete_conda, plan_wheels
    from reprobox.env.solve_wheels import solve_wheels
    from reprobox.image.cache import Cache
    from reprobox.image.fetch import measure_package

    pinned = parse_pinned(text, source=source, platform=options.platform, include=include)
    for note in pinned.notes:
        say(f"note: {source}:{note.line}: {note.message}")
    virtual_packages = {"__glibc": base.spec.glibc}
    client = client_of_pinned(pinned, client)
    cache = Cache(client.cache)
    conda = complete_conda(
        pinned.conda,
        source=source,
        places=load_channel_places(client),
        platform=options.platform,
        client=client,
        measure=lambda address: measure_package(address, client=client, cache=cache, conda=True),
    )
    python = next((package.version for package in conda if package.name == "python"), None)
    if conda:
        if python is None:
            raise EnvironmentInvalid(f"{source}: pins no python", hint="pin one: scripts are run by it")
        virtual_packages |= plan_virtual_packages(
            [
                CondaRequirement(text=f"{row.name}={row.version}", name=row.name, channel=None, line=row.line)
                for row in pinned.conda
                if row.name in ("cuda-version", "pytorch-cuda")
            ],
            options,
            None,
        )
    else:
        python = base.python
    requirements, orders = plan_wheels(pinned)
    wheels = solve_wheels(
        requirements,
        python=python or "",
        glibc=base.spec.glibc,
        platform=options.platform,
        client=client,
        source=source,
        dependencies=False,
    )
    lock = _assemble(
        base,
        options,
        virtual_packages,
        python=python or "",
        python_from="conda" if conda else "base",
        conda=conda,
        wheels=wheels,
        variables=(),
        requested=Requested(
            sha256=digest_pinned(pinned),
            base=ground.base,
            base_sha256=ground.base_sha256,
            python=ground.python,
            others=(f"pinned by {pinned.kind}",),
        ),
    )
    return lock, orders


def client_for(spec: EnvironmentSpec, client: Client, *, folder: Path) -> Client:
    """Give a client that also knows the addresses which an environment file itself names.

    Args:
        spec: The environment file, parsed.
        client: The client.
        folder: The environment file's, which paths in it start from.
    """

    def place(option: PipOption) -> PipOption:
        if option.kind not in ("find-links", "index", "extra-index") or "://" in option.value:
            return option
        return replace(option, value=str((folder / Path(option.value).expanduser()).absolute()))

    return replace(
        client,
        named_channels=tuple(
            channel for channel in (*spec.channels, *(r.channel for r in spec.conda)) if channel and "://" in channel
        ),
        pip_options=tuple(map(place, spec.options)),
    )


def client_of_pinned(pinned: PinnedEnvironment, client: Client) -> Client:
    """Give a client that also knows the addresses which another tool's lockfile names."""
    options = [PipOption(kind="extra-index", value=url, line=1) for url in pinned.indexes]
    options += [PipOption(kind="find-links", value=url, line=1) for url in pinned.find_links]
    return replace(
        client,
        named_channels=tuple(dict.fromkeys(row.channel for row in pinned.conda if "://" in row.channel)),
        pip_options=tuple(options),
    )


def plan_virtual_packages(
    requirements: Iterable[CondaRequirement], options: LockOptions, old: Lock | None
) -> dict[str, str]:
    """Plan what conda may take for granted of the target, beside the C library: never what this machine has.

    CUDA is what the command line says, else what the environment file itself names, else what the old lock has.
    """
    planned = {"__archspec": _ARCHSPECS[options.platform], "__linux": _KERNEL, "__unix": "0"}
    named = [
        found[1]
        for requirement in requirements
        if requirement.name in ("cuda-version", "pytorch-cuda", "cudatoolkit", "cuda-toolkit", "cuda-runtime", "cuda")
        and (found := re.match(r"[=~>]*\s*(\d{1,2}\.\d{1,2})", requirement.constraint))
    ]
    kept = dict(old.virtual_packages).get("__cuda") if old else None
    cuda = options.cuda or max(named, key=lambda text: tuple(map(int, text.split("."))), default=None) or kept
    return planned | ({"__cuda": cuda} if cuda else {})


def choose_python(
    spec: EnvironmentSpec, asked: Literal["auto", "base", "conda"], base: BaseSpec, version: str | None
) -> Literal["base", "conda"]:
    """Choose where the interpreter comes from: the base where that is enough, else conda. Pure.

    Args:
        spec: The environment file, parsed.
        asked: What reprobox.toml says of it.
        base: The base.
        version: Exact version of the base's interpreter, or None.

    Raises:
        EnvironmentInvalid: The base is asked for, and is not enough.
    """
    if asked == "conda":
        return "conda"
    from rattler import Version, VersionSpec

    problem: str | None = None
    if not spec.base_suffices:
        other = next(r for r in spec.conda if r.name not in ("python", "pip") or r.channel or not r.is_version_only)
        problem = f"{spec.source}:{other.line}: {other.shown} is a conda package"
    elif version is None:
        problem = f"base {base.name} has no interpreter of its own"
    else:
        for requirement in spec.pythons:
            constraint = requirement.constraint
            prefix = requirement.version_prefix
            if prefix:
                constraint = f"{prefix}.*"
            if constraint and not VersionSpec(constraint).matches(Version(version)):
                where = f"{spec.source}:{requirement.line}"
                problem = f"{where}: {requirement.text} is asked for; base {base.name} has {version}"
    if problem is None:
        return "base"
    if asked == "base":
        raise EnvironmentInvalid(
            f'{problem}; reprobox.toml says python = "base"',
            hint=f'write python={base.python}, or python = "conda" in reprobox.toml',
        )
    return "conda"


def _pip_of_base(spec: EnvironmentSpec) -> tuple[WheelRequirement, ...]:
    """Give what a version of pip in the conda section asks for, where conda takes no part: the same of the index."""
    from reprobox.env.pip_lines import WheelRequirement

    found = []
    for requirement in spec.conda:
        if requirement.name == "pip" and requirement.constraint:
            prefix = requirement.version_prefix
            exact = requirement.constraint.startswith("==")
            constraint = f"=={prefix}" + ("" if exact else ".*") if prefix else requirement.constraint
            if "|" in constraint:
                # Conda's "or" has no like in PEP 440; any pip will do then.
                continue
            found.append(WheelRequirement(text=f"pip{constraint}", name="pip", line=requirement.line))
    return tuple(found)
