"""Lockfiles that other tools wrote, as values: which kind a text is, and what it pins. Pure.

One file per format: pinned_conda_lock.py, pinned_explicit.py, pinned_pixi.py, pinned_requirements.py. For all of them:
addresses lose their credentials, what has no checksum is refused, and a package stands once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, TypeAlias

from reprobox.env.pip_lines import Note
from reprobox.errors import EnvironmentInvalid

PinnedKind: TypeAlias = Literal["conda-lock", "explicit", "requirements", "pixi"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedConda:
    """One conda package, as another tool pinned it.

    Attributes:
        name: Name.
        version: Version, with its epoch.
        build: Build string.
        channel: URL without the platform's folder, without credentials; or a name, where the file has no URL.
        subdir: Folder of the platform; "" where the address has none.
        file: File name, with .conda or .tar.bz2.
        address: Where it was, without credentials; "" if the file does not say.
        size_bytes: Size, or None.
        sha256: Hex digits, or None. Of sha256 and md5 one is there at least.
        md5: Hex digits, or None.
        line: 1-based line.
    """

    name: str
    version: str
    build: str
    channel: str
    subdir: str
    file: str
    address: str
    size_bytes: int | None
    sha256: str | None
    md5: str | None
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedWheel:
    """One wheel or source archive, as another tool pinned it.

    Attributes:
        name: Normalised project name.
        version: Version; "" where neither the file nor the archive's name says one.
        file: File name; None for what an index chooses by checksum, and for a git commit.
        address: Where it was, without credentials: a file, or `git+…@` and 40 hex digits; None for an index.
        sha256s: Digests of which one must match, in file order; empty only for a git commit.
        size_bytes: Size, or None.
        line: 1-based line.
        markers: Environment markers that it stands under, or "".
        source: The included file that it stands in; "" for the file itself.
    """

    name: str
    version: str
    file: str | None
    address: str | None
    sha256s: tuple[str, ...]
    size_bytes: int | None
    line: int
    markers: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedEnvironment:
    """What another tool pinned, for one platform.

    Attributes:
        source: The file's name.
        sha256: Digest of its text, in hex.
        kind: Its format.
        platforms: Platforms that the file holds; of a list without any, the one that was asked for.
        conda: Conda packages, in file order.
        wheels: Wheels and source archives, in file order.
        indexes: URLs of Python indexes that the file names, in order, without credentials.
        notes: What a person should know.
        find_links: Pages and folders with wheels that the file names, in order, without credentials.
        included: Name and sha256 of each file that it includes, in order.
    """

    source: str
    sha256: str
    kind: PinnedKind
    platforms: tuple[str, ...]
    conda: tuple[PinnedConda, ...]
    wheels: tuple[PinnedWheel, ...]
    indexes: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    find_links: tuple[str, ...] = ()
    included: tuple[tuple[str, str], ...] = ()


def find_pinned_kind(name: str, text: str) -> PinnedKind | None:
    """Find which format a file is in: by what is in it, and else by its name.

    Args:
        name: The file's name or path.
        text: Its content.

    Returns:
        The format, or None for what is no lockfile known here.
    """
    text = text.removeprefix("\ufeff")
    path = PurePosixPath(name)
    keys = set(re.findall(r"""^["']?(metadata|package|version|environments)["']?[ \t]*:""", text, re.MULTILINE))
    if re.search(r"^[ \t]*@EXPLICIT[ \t]*\r?$", text, re.MULTILINE):
        return "explicit"
    if {"metadata", "package"} <= keys or re.search(r"conda-lock\.ya?ml$", path.name):
        return "conda-lock"
    if {"version", "environments"} <= keys or path.name == "pixi.lock":
        return "pixi"
    named = "requirements" in path.name or path.parent.name == "requirements"
    if (named and path.suffix in (".txt", ".in")) or re.search(r"^[^#\n]*\s--hash[= ]\s*sha256:", text, re.MULTILINE):
        return "requirements"
    return None


def parse_pinned(
    text: str,
    *,
    source: str,
    platform: str = "linux-64",
    categories: Collection[str] = ("main",),
    environment: str = "default",
    include: Callable[[str], str | None] | None = None,
) -> PinnedEnvironment:
    """Parse a lockfile of any known format.

    Args:
        text: The file's content.
        source: Its name or path, for messages and to tell the format.
        platform: Conda's name of the platform to take packages for.
        categories: conda-lock only: categories to take.
        environment: pixi only: environment to take.
        include: requirements only: gives the text of a file named by `-r`, relative to this file's folder, or None.

    Raises:
        EnvironmentInvalid: No known format, not in order, or without what was asked for; with file and line.
    """
    match find_pinned_kind(source, text):
        case "conda-lock":
            from reprobox.env.pinned_conda_lock import parse_conda_lock

            return parse_conda_lock(text, source=source, platform=platform, categories=categories)
        case "explicit":
            from reprobox.env.pinned_explicit import parse_explicit

            return parse_explicit(text, source=source, platform=platform)
        case "pixi":
            from reprobox.env.pinned_pixi import parse_pixi_lock

            return parse_pixi_lock(text, source=source, platform=platform, environment=environment)
        case "requirements":
            from reprobox.env.pinned_requirements import parse_requirements

            return parse_requirements(text, source=source, platform=platform, include=include)
        case None:
            raise EnvironmentInvalid(
                f"{source}: no lockfile that is known here",
                hint="give a conda-lock.yml, a pixi.lock, an @EXPLICIT list or a requirements.txt with hashes",
            )


def digest_pinned(pinned: PinnedEnvironment) -> str:
    """Digest a lockfile's text, and where it includes others theirs too, in hex."""
    if not pinned.included:
        return pinned.sha256
    parts = [pinned.sha256, *(f"{name}:{sha256}" for name, sha256 in sorted(pinned.included))]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def merge_conda(rows: Iterable[PinnedConda], *, source: str) -> tuple[PinnedConda, ...]:
    """Merge rows that pin the same file.

    Returns:
        One row a package, in the order of the first ones.

    Raises:
        EnvironmentInvalid: One name stands with two files, or one file with two checksums.
    """
    merged: dict[str, PinnedConda] = {}
    for row in rows:
        first = merged.setdefault(row.name.lower(), row)
        differing = any(a and b and a != b for a, b in ((first.sha256, row.sha256), (first.md5, row.md5)))
        if first.file != row.file or first.subdir != row.subdir or differing:
            raise _refuse_twice(source, row.line, row.name, first.line, (first.file, row.file))
    return tuple(merged.values())


def merge_wheels(rows: Iterable[PinnedWheel], *, source: str) -> tuple[PinnedWheel, ...]:
    """Merge rows that pin the same archive under the same markers.

    Returns:
        One row for each package and its markers, in the order of the first ones.

    Raises:
        EnvironmentInvalid: One name stands twice with different archives.
    """
    merged: dict[tuple[str, str], PinnedWheel] = {}
    for row in rows:
        first = merged.setdefault((row.name, row.markers), row)
        if (first.version, first.file, first.address) != (row.version, row.file, row.address) or set(
            first.sha256s
        ) != set(row.sha256s):
            shown = (first.file or first.version, row.file or row.version)
            raise _refuse_twice(row.source or source, row.line, row.name, first.line, shown)
    return tuple(merged.values())


def _refuse_twice(source: str, line: int, name: str, other: int, shown: tuple[str, str]) -> EnvironmentInvalid:
    what = f"{shown[0]} and {shown[1]}" if shown[0] != shown[1] else f"{shown[0]} with different checksums"
    return EnvironmentInvalid(
        f"{source}:{line}: {name} stands twice, also in line {other}: {what}",
        hint="leave one of them out, or lock again",
    )
