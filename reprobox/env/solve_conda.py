"""Solve conda packages with py-rattler, against the target's virtual packages and never this machine's."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reprobox.env.channels import ChannelPlaces, hide_credentials
from reprobox.env.client import Client, make_conda_client
from reprobox.env.conda_specs import CondaRequirement
from reprobox.env.lockfile import CondaPackage
from reprobox.errors import IndexUnreachable, NoSolution

if TYPE_CHECKING:
    from rattler import Channel, Gateway, RepoDataRecord

_OTHER_PLATFORMS = ("win-64", "osx-64", "osx-arm64")
_PLATFORM_NAMES = {"win-64": "Windows", "osx-64": "macOS", "osx-arm64": "macOS"}
_TIMEOUT_S = 600

# Conda packages whose Python project has another name on the package index.
_PROJECTS = {
    "pytorch": "torch", "pytorch-cpu": "torch", "pytorch-gpu": "torch", "matplotlib-base": "matplotlib",
    "opencv": "opencv-python", "py-opencv": "opencv-python", "tensorflow-base": "tensorflow", "pytables": "tables",
    "python-graphviz": "graphviz", "msgpack-python": "msgpack", "py-xgboost": "xgboost", "py-lightgbm": "lightgbm",
    "importlib_metadata": "importlib-metadata", "pyqt": "pyqt5", "cudf": "cudf-cu12", "sentence-transformers":
    "sentence-transformers", "psycopg2": "psycopg2", "ruamel.yaml": "ruamel-yaml", "python-dateutil": "python-dateutil",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CondaSolution:
    """What conda packages an environment has.

    Attributes:
        packages: By name.
        projects: Normalised names of Python projects that they bring, with versions.
    """

    packages: tuple[CondaPackage, ...]
    projects: tuple[tuple[str, str], ...]


def solve_conda(
    requirements: Sequence[CondaRequirement],
    *,
    channels: Sequence[str],
    places: ChannelPlaces,
    platform: str,
    virtual_packages: Mapping[str, str],
    source: str,
    kept: Iterable[CondaPackage] = (),
    upgrade: Iterable[str] = (),
    exclude_newer: str | None = None,
    client: Client,
) -> CondaSolution:
    """Solve match specifications into packages of a target.

    Args:
        requirements: What is asked for.
        channels: Names or URLs, the strongest first (a package is taken from the first channel that has its name).
        places: Where channels are.
        platform: Conda's name of the target.
        virtual_packages: What the target provides: name → "version" or "version=build".
        source: The environment file's name, for messages.
        kept: Packages of an older lock, kept where they still fit; with `upgrade`, kept whatever it costs.
        upgrade: Names whose version may move all the same.
        exclude_newer: Ignore what was published after this date (ISO 8601).
        client: How channels are reached.

    Returns:
        Packages and what they bring.

    Raises:
        NoSolution: They cannot be met together, or a name is unknown; says why.
        IndexUnreachable: A channel did not answer.
    """
    solver = _Solver(
        requirements=requirements,
        channels=places.expand(channels),
        places=places,
        platform=platform,
        source=source,
        client=client,
    )
    moving = {name.lower() for name in upgrade}
    records = asyncio.run(
        solver.solve(
            virtual_packages,
            [package for package in kept if package.name not in moving],
            pin=bool(moving),
            exclude_newer=exclude_newer,
        )
    )
    packages = tuple(sorted((read_record(record, places) for record in records), key=lambda package: package.name))
    return CondaSolution(packages=packages, projects=tuple(sorted(_list_projects(records))))


def read_record(record: RepoDataRecord, places: ChannelPlaces) -> CondaPackage:
    """Read what a lock keeps of a channel's record.

    Raises:
        NoSolution: The channel gives no checksum or size of it.
    """
    if record.sha256 is None or record.size is None:
        raise NoSolution(
            f"the channel gives no {'sha256' if record.sha256 is None else 'size'} of {record.file_name}, so its "
            "bytes could not be checked",
            hint="use another channel, or index this one anew with a current tool",
        )
    return CondaPackage(
        name=record.name.normalized,
        version=str(record.version),
        build=str(record.build),
        channel=places.name_of(_channel_of(record.url, record.subdir)),
        subdir=record.subdir,
        file=record.file_name,
        size_bytes=record.size,
        sha256=record.sha256.hex(),
        md5=record.md5.hex() if record.md5 is not None else None,
    )


def _list_projects(records: Iterable[RepoDataRecord]) -> Iterable[tuple[str, str]]:
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version

    for record in records:
        name = record.name.normalized
        needs_python = any(re.match(r"python(_abi)?(\s|$)", text) for text in record.depends)
        if not needs_python and name != "pip":
            continue
        try:
            version = Version(str(record.version))
        except InvalidVersion:
            continue
        yield canonicalize_name(_PROJECTS.get(name, name)), str(version)


class _Solver:
    """One request, with the channels that answer it."""

    def __init__(
        self,
        *,
        requirements: Sequence[CondaRequirement],
        channels: Sequence[str],
        places: ChannelPlaces,
        platform: str,
        source: str,
        client: Client,
    ) -> None:
        from rattler import Channel, Gateway
        from rattler.exceptions import InvalidChannelError

        self._requirements = requirements
        self._places = places
        self._platform = platform
        self._source = source
        self._names = channels
        try:
            self._channels: list[Channel] = [Channel(places.find_url(channel)) for channel in channels]
        except InvalidChannelError as error:
            raise IndexUnreachable(
                f"{source}: a channel has no address that can be asked: {hide_credentials(str(error))}",
                hint="correct it",
            ) from None
        self._gateway: Gateway = Gateway(
            cache_dir=client.cache / "repodata", client=make_conda_client(client), show_progress=False
        )

    async def solve(
        self,
        virtual_packages: Mapping[str, str],
        kept: Sequence[CondaPackage],
        *,
        pin: bool,
        exclude_newer: str | None,
    ) -> list[RepoDataRecord]:
        """Solve; see `solve_conda`."""
        from datetime import timedelta

        from rattler import solve
        from rattler.exceptions import GatewayError, InvalidMatchSpecError, SolverError

        try:
            old = await self._find_records(kept)
            return await solve(
                sources=self._channels,
                specs=[self._specification(requirement) for requirement in self._requirements],
                constraints=_limit_cuda(virtual_packages.get("__cuda")),
                gateway=self._gateway,
                platforms=[self._platform, "noarch"],  # type: ignore[list-item]
                locked_packages=[] if pin else old,
                pinned_packages=old if pin else [],
                virtual_packages=[_virtual(name, value) for name, value in sorted(virtual_packages.items())],
                exclude_newer=None if exclude_newer is None else _moment(exclude_newer),
                timestamp_policy="allow-missing",
                timeout=timedelta(seconds=_TIMEOUT_S),
            )
        except SolverError as error:
            raise await self._explain(str(error), pin=pin) from None
        except (GatewayError, InvalidMatchSpecError, OSError) as error:
            raise IndexUnreachable(
                f"a conda channel did not answer: {hide_credentials(str(error))}",
                hint="check the channel's name and the network, or name a mirror under [mirrors] in reprobox.toml",
            ) from None

    def _specification(self, requirement: CondaRequirement) -> Any:
        from rattler import MatchSpec

        if requirement.channel is None:
            return MatchSpec(requirement.text, strict=False)
        url = self._places.find_url(requirement.channel)
        if url not in {channel.base_url.rstrip("/") for channel in self._channels}:
            from rattler import Channel

            self._channels.append(Channel(url))
        return MatchSpec(f"{url}::{requirement.text}", strict=False)

    async def _find_records(self, kept: Sequence[CondaPackage]) -> list[RepoDataRecord]:
        """Find an older lock's packages in the channels; those that are gone are not kept."""
        if not kept:
            return []
        from rattler import MatchSpec

        wanted = {package.file: package.sha256 for package in kept}
        specs = [MatchSpec(f"{p.name} =={p.version} {p.build}", strict=False) for p in kept]
        found = await self._gateway.query(
            sources=self._channels,
            platforms=[self._platform, "noarch"],  # type: ignore[list-item]
            specs=specs,
            recursive=False,
        )
        return [
            record
            for records in found
            for record in records
            if record.sha256 is not None and wanted.get(record.file_name) == record.sha256.hex()
        ]

    async def _explain(self, text: str, *, pin: bool) -> NoSolution:
        """Turn the solver's words into an error that names lines, and the one edit."""
        reason = re.sub(r"[├└│─]+", " ", text).replace("Cannot solve the request because of:", "")
        lines = [re.sub(r"\s+", " ", line).strip() for line in reason.splitlines()]
        plain = "\n  ".join(filter(None, lines))
        named = [r for r in self._requirements if re.search(rf"(^|[\s,:]){re.escape(r.name)}\b", plain)]
        where = f"{self._source}:{named[0].line}: " if len(named) == 1 else f"{self._source}: "
        missing = re.search(r"No candidates were found for (\S+)([^\n]*)", plain)
        if missing:
            told = await self._explain_missing(missing[1].rsplit("::", 1)[-1], missing[2])
            if told:
                return told
        if pin:
            return NoSolution(
                f"{where}that package cannot move while all others stay:\n  {plain}",
                hint="name the others with further --upgrade, or let all move: reprobox lock --upgrade-all",
            )
        also = f" ({', '.join(f'line {r.line}: {r.shown}' for r in named)})" if len(named) > 1 else ""
        return NoSolution(
            f"{where}the conda packages cannot be met together{also}:\n  {plain}",
            hint="relax one of the versions named there",
        )

    async def _explain_missing(self, name: str, constraint: str) -> NoSolution | None:
        from rattler import MatchSpec
        from rattler.exceptions import GatewayError

        asked = next((r for r in self._requirements if r.name == name), None)
        where = f"{self._source}:{asked.line}: " if asked else f"{self._source}: "
        shown = asked.shown if asked else f"{name}{constraint.rstrip('. ')}"
        channels = ", ".join(self._names)
        try:
            here = await self._query(MatchSpec(name), (self._platform, "noarch"))
            if here:
                return _explain_version(where, shown, name, here, channels)
            for platform in _OTHER_PLATFORMS:
                if await self._query(MatchSpec(name), (platform,)):
                    return NoSolution(
                        f"{where}{shown} is published for {_PLATFORM_NAMES[platform]} alone, in {channels}",
                        hint="leave it out; an export for all platforms: conda env export --from-history",
                    )
        except (GatewayError, OSError):
            return None
        return NoSolution(
            f"{where}{name} is in none of the channels {channels}",
            hint=f"check the spelling of {name}, or add the channel that has it",
        )

    async def _query(self, spec: Any, platforms: Sequence[str]) -> list[RepoDataRecord]:
        found = await self._gateway.query(
            sources=self._channels,
            platforms=list(platforms),  # type: ignore[arg-type]
            specs=[spec],
            recursive=False,
        )
        return [record for records in found for record in records]


def _explain_version(
    where: str, shown: str, name: str, here: Sequence[RepoDataRecord], channels: str
) -> NoSolution | None:
    """Explain that a name is known but not in that version or build; None where that is not the reason."""
    from rattler import MatchSpec

    text = shown.rsplit("::", 1)[-1]
    if any(MatchSpec(text, strict=False).matches(record) for record in here):
        return None
    versions = sorted({record.version for record in here}, reverse=True)
    newest = ", ".join(str(version) for version in versions[:3])
    loose = re.match(r"[^=<>!~\s\[]+[=<>!~\s]+([0-9][^=\s,|]*)[=\s]\S+$", text)
    if loose and any(MatchSpec(f"{name}={loose[1]}", strict=False).matches(record) for record in here):
        return NoSolution(
            f"{where}{shown}: that build is not in {channels} for this platform",
            hint=f"relax it to {name}={loose[1]} (an export from another platform holds builds of that platform)",
        )
    return NoSolution(
        f"{where}{shown} is no longer published in {channels}; there is {newest}", hint=f"write {name}={versions[0]}"
    )


def _limit_cuda(version: str | None) -> list[str]:
    """Limit CUDA's libraries to what a driver runs in full: packages themselves ask for the major version alone."""
    if version is None:
        return []
    major, _, minor = version.partition(".")
    least = int(minor.partition(".")[0] or 99) + 1
    return [f"{name} <{major}.{least}.0a0" for name in ("cuda-version", "cudatoolkit")]


def _channel_of(url: str, subdir: str) -> str:
    return url.rsplit(f"/{subdir}/", 1)[0]


def _virtual(name: str, value: str) -> Any:
    from rattler import GenericVirtualPackage, PackageName, Version
    from rattler.package import BuildString

    version, _, build = value.partition("=")
    return GenericVirtualPackage(PackageName(name), Version(version), BuildString(build or "0"))


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
