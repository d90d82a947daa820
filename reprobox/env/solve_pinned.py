"""Complete what another tool pinned: find the sizes and digests that its lockfile leaves out, check those it gives."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

from reprobox.env.channels import ChannelPlaces, hide_credentials
from reprobox.env.client import Client, make_conda_client
from reprobox.env.lockfile import CondaPackage
from reprobox.env.pinned import PinnedConda, PinnedEnvironment
from reprobox.env.pip_lines import WheelRequirement
from reprobox.env.solve_conda import read_record
from reprobox.env.sources import SourceOrder
from reprobox.errors import ArtefactAltered, NoSolution

Measure = Callable[[str], tuple[str, str, int]]
"""Fetches a file: URL → its sha256 and md5, in hex, and its size in bytes."""


def complete_conda(
    rows: Sequence[PinnedConda],
    *,
    source: str,
    places: ChannelPlaces,
    platform: str,
    client: Client,
    measure: Measure,
) -> tuple[CondaPackage, ...]:
    """Complete pinned conda packages from what their channels say, and by fetching those that no channel lists.

    Args:
        rows: As another tool pinned them.
        source: Its file, for messages.
        places: Where channels are.
        platform: Conda's name of the target.
        client: How channels are reached.
        measure: Fetches a file that no channel lists.

    Returns:
        Packages, by name.

    Raises:
        ArtefactAltered: A channel has the file with other bytes.
        IndexUnreachable: A file cannot be fetched.
        NoSolution: A file is gone.
    """
    if not rows:
        return ()
    listed = asyncio.run(_list_records(rows, places, platform, client))
    packages = []
    for row in rows:
        found = _find_listed(row, listed.get(row.name, []), source)
        packages.append(found or _measure_row(row, places, platform, source, measure))
    return tuple(sorted(packages, key=lambda package: package.name))


async def _list_records(
    rows: Sequence[PinnedConda], places: ChannelPlaces, platform: str, client: Client
) -> dict[str, list[CondaPackage]]:
    from rattler import Channel, Gateway, MatchSpec
    from rattler.exceptions import GatewayError

    gateway = Gateway(cache_dir=client.cache / "repodata", client=make_conda_client(client), show_progress=False)
    channels: dict[str, list[PinnedConda]] = {}
    for row in rows:
        channels.setdefault(places.find_url(row.channel), []).append(row)
    found: dict[str, list[CondaPackage]] = {}
    for url, wanted in channels.items():
        specs = [MatchSpec(f"{row.name} =={row.version} {row.build}", strict=False) for row in wanted]
        platforms: list[Any] = [platform, "noarch"]
        try:
            answers = await gateway.query([Channel(url)], platforms, specs, recursive=False)
        except (GatewayError, OSError):
            # Each file is asked for on its own then, and told if it is missing.
            continue
        for record in (record for records in answers for record in records):
            if record.sha256 is not None and record.size is not None:
                package = read_record(record, places)
                found.setdefault(package.name, []).append(package)
    return found


def _find_listed(row: PinnedConda, listed: Sequence[CondaPackage], source: str) -> CondaPackage | None:
    """Find a row's package among those that a channel lists.

    Raises:
        ArtefactAltered: It is listed, with other digests than the row gives.
    """
    same = [package for package in listed if _stem(package.file) == _stem(row.file)]
    # A lockfile may name one archive format with the digest of the other.
    for package in sorted(same, key=lambda package: package.file != row.file):
        if _agrees(row, package.sha256, package.md5):
            return package
    for package in same:
        if package.file == row.file:
            raise ArtefactAltered(
                f"{source}:{row.line}: {row.file} is not what its channel has now\n"
                f"  pinned   {row.sha256 or row.md5}\n  channel  {package.sha256 if row.sha256 else package.md5}",
                hint="nothing was locked; the channel or the lockfile was changed since: find out which",
            )
    return None


def _agrees(row: PinnedConda, sha256: str, md5: str | None) -> bool:
    if row.sha256 is not None:
        return row.sha256 == sha256
    return row.md5 is not None and row.md5 == md5


def _measure_row(row: PinnedConda, places: ChannelPlaces, platform: str, source: str, measure: Measure) -> CondaPackage:
    subdir = row.subdir or platform
    address = f"{places.find_url(row.channel)}/{subdir}/{row.file}" if row.channel else row.address
    sha256, md5, size = measure(address)
    if not _agrees(row, sha256, md5):
        raise ArtefactAltered(
            f"{source}:{row.line}: {row.file} does not hash to what is pinned\n  pinned   {row.sha256 or row.md5}\n"
            f"  fetched  {sha256 if row.sha256 else md5} from {hide_credentials(address)}",
            hint="nothing was locked; do not trust that channel",
        )
    return CondaPackage(
        name=row.name,
        version=row.version,
        build=row.build,
        channel=places.name_of(places.find_url(row.channel)),
        subdir=subdir,
        file=row.file,
        size_bytes=size,
        sha256=sha256,
        md5=md5,
    )


def _stem(file: str) -> str:
    return re.sub(r"\.(conda|tar\.bz2)$", "", file)


def plan_wheels(pinned: PinnedEnvironment) -> tuple[tuple[WheelRequirement, ...], tuple[SourceOrder, ...]]:
    """Plan how pinned wheels are had: what the index answers, and what must be built from a pinned source.

    Returns:
        Requirements that stand for wheels: exact versions, with the digests that are given. And sources to build.

    Raises:
        NoSolution: A row names neither a version nor an address.
    """
    found: list[WheelRequirement] = []
    orders: list[SourceOrder] = []
    for wheel in pinned.wheels:
        where = f"{wheel.source or pinned.source}:{wheel.line}"
        commit = re.fullmatch(r"git\+(\S+)@([0-9a-f]{40,64})(?:#subdirectory=(\S+))?", wheel.address or "")
        if commit:
            orders.append(
                SourceOrder(
                    kind="git",
                    name=wheel.name,
                    address=commit[1],
                    revision=commit[2],
                    subdirectory=commit[3],
                    where=where,
                )
            )
        elif wheel.address and wheel.file and not wheel.file.endswith(".whl") and len(wheel.sha256s) == 1:
            (sha256,) = wheel.sha256s
            orders.append(
                SourceOrder(kind="archive", name=wheel.name, address=wheel.address, sha256=sha256, where=where)
            )
        elif not wheel.version or not wheel.sha256s or (wheel.file is not None and not wheel.file.endswith(".whl")):
            raise NoSolution(
                f"{where}: {wheel.name} is pinned to {wheel.file or hide_credentials(wheel.address or 'a commit')}, "
                "which has no address that it can be fetched from to be built",
                hint=f"pin a release of {wheel.name} that has a wheel",
            )
        else:
            marker = f" ; {wheel.markers}" if wheel.markers else ""
            found.append(
                WheelRequirement(
                    text=f"{wheel.name}=={wheel.version}{marker}",
                    name=wheel.name,
                    line=wheel.line,
                    sha256s=wheel.sha256s,
                )
            )
    return tuple(found), tuple(orders)
