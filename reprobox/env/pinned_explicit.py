"""Read `@EXPLICIT` lists: one URL a line, as conda, mamba, pixi and conda-lock write them. Pure.

conda-lock adds its wheels in comments, as `# pip name @ url --hash=sha256:…` or `# pip name @ url#sha256=…`.
"""

from __future__ import annotations

import hashlib
import re

from packaging.utils import canonicalize_name

from reprobox.env.pinned import PinnedConda, PinnedEnvironment, PinnedWheel, merge_conda, merge_wheels
from reprobox.env.pinned_addresses import (
    parse_checksum,
    parse_conda_address,
    parse_wheel_address,
    refuse_unchecked,
    require_commit,
    strip_credentials,
)
from reprobox.env.pip_lines import Note
from reprobox.errors import EnvironmentInvalid

_PIP = re.compile(
    r"#\s*pip\s+(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*@\s*(?P<address>\S+)(?P<options>.*)"
)
_HINT = "write such lists with: conda list --explicit --sha256"


def parse_explicit(text: str, *, source: str, platform: str = "linux-64") -> PinnedEnvironment:
    """Parse the text of an `@EXPLICIT` list.

    Args:
        text: The file's content.
        source: Its name, for messages.
        platform: Platform that it must be for.

    Raises:
        EnvironmentInvalid: A line is no URL of a package, has no checksum, is for another platform, or contradicts
            another line; or the text is no such list.
    """
    conda: list[PinnedConda] = []
    wheels: list[PinnedWheel] = []
    notes: list[Note] = []
    platforms: set[str] = set()
    began = False
    for number, raw in enumerate(re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff")), start=1):
        line, where = raw.strip(), f"{source}:{number}"
        if line == "@EXPLICIT":
            began = True
        elif line.startswith("#"):
            if found := re.fullmatch(r"#\s*platform:\s*(\S+)", line):
                _require_platform(found[1], platform, where)
                platforms.add(found[1])
            elif found := _PIP.fullmatch(line):
                wheels.extend(_read_wheel(found, where, number, notes))
        elif line:
            conda.append(_read_conda(line, where, number, platform))
    if not began:
        raise EnvironmentInvalid(f"{source}: no list of packages: it has no line `@EXPLICIT`", hint=_HINT)
    if not conda and not wheels:
        notes.append(Note(line=1, message=f"{source} pins no package at all"))
    platforms |= {row.subdir for row in conda} - {"", "noarch"}
    return PinnedEnvironment(
        source=source,
        sha256=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        kind="explicit",
        platforms=tuple(sorted(platforms)) or (platform,),
        conda=merge_conda(conda, source=source),
        wheels=merge_wheels(wheels, source=source),
        notes=tuple(notes),
    )


def _require_platform(found: str, platform: str, where: str) -> None:
    if found != platform:
        raise EnvironmentInvalid(
            f"{where}: this is a list for {found[:80]}, not for {platform}",
            hint=f"write the list on {platform}: conda list --explicit --sha256",
        )


def _read_conda(line: str, where: str, number: int, platform: str) -> PinnedConda:
    address, _, fragment = line.partition("#")
    if "://" not in address:
        raise EnvironmentInvalid(
            f"{where}: {strip_credentials(line)[:200]!r} is no URL of a package",
            hint="a list of `name=version=build` is no explicit one; " + _HINT,
        )
    place = parse_conda_address(address, where=where, platform=platform)
    digits = fragment.strip().lower()
    is_md5 = digits.startswith("md5:") or len(digits) == 32
    md5 = parse_checksum(digits, algorithm="md5", where=where) if is_md5 else None
    sha256 = None if is_md5 else parse_checksum(digits, algorithm="sha256", where=where)
    if not md5 and not sha256:
        raise refuse_unchecked(place.name, where=where)
    return PinnedConda(
        name=place.name,
        version=place.version,
        build=place.build,
        channel=place.channel,
        subdir=place.subdir,
        file=place.file,
        address=place.address,
        size_bytes=None,
        sha256=sha256,
        md5=md5,
        line=number,
    )


def _read_wheel(found: re.Match[str], where: str, number: int, notes: list[Note]) -> list[PinnedWheel]:
    place = parse_wheel_address(found["address"], where=where)
    hashes = re.findall(r"--hash[=\s]\s*sha256:(\S*)", found["options"])
    sha256s = [parse_checksum(value, algorithm="sha256", where=where) for value in (*hashes, place.sha256)]
    known = tuple(dict.fromkeys(value for value in sha256s if value))
    if place.kind == "folder":
        message = f"{found['name']} is a folder of the machine that made the list: {place.address}; left out"
        notes.append(Note(line=number, message=message))
        return []
    if place.kind == "git":
        require_commit(place, name=found["name"], where=where)
        known = ()
    elif not known:
        raise refuse_unchecked(found["name"], where=where)
    return [
        PinnedWheel(
            name=canonicalize_name(found["name"]),
            version=place.version,
            file=place.file,
            address=place.address,
            sha256s=known,
            size_bytes=None,
            line=number,
        )
    ]
