"""Read requirements files with hashes, pip's hash-checking mode: every entry exact, every entry hashed. Pure."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from reprobox.env.pinned import PinnedEnvironment, PinnedWheel, merge_wheels
from reprobox.env.pinned_addresses import parse_checksum, parse_wheel_address, require_commit, strip_credentials
from reprobox.env.pip_lines import Note, parse_pip_line, split_requirements
from reprobox.errors import EnvironmentInvalid

Include = Callable[[str], str | None]
"""Gives the text of a file by its path relative to the first file's folder; None where there is none."""

_HINT = "write such files with: uv pip compile --generate-hashes, or pip-compile --generate-hashes"
# Choices that a solver had before it wrote the pins; after that they decide nothing.
_SPENT = {
    "--no-binary": 1, "--only-binary": 1, "--prefer-binary": 0, "--no-deps": 0, "--require-hashes": 0, "--pre": 0,
    "--no-index": 0,
}  # fmt: skip
_BUILD_OPTIONS = ("--global-option", "--config-settings", "--config-setting", "--install-option")
_HASH = re.compile(r"(?:^|\s)--hash(?:=|\s+)")
_MAX_DEPTH = 20
"""Levels of `-r`; people have two or three."""


@dataclass(slots=True)
class _Draft:
    include: Include | None
    wheels: list[PinnedWheel] = field(default_factory=list)
    indexes: list[str] = field(default_factory=list)
    find_links: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    included: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a line stands: the first file's name for messages, and the included file's own name or ""."""

    source: str
    inner: str
    line: int
    depth: int

    @property
    def file(self) -> str:
        return posixpath.join(posixpath.dirname(self.source), self.inner) if self.inner else self.source

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


def is_hashed_requirements(text: str) -> bool:
    """Whether a requirements file is in pip's hash-checking mode: one hash in it, or `--require-hashes`, is enough.

    Such a file is for `parse_requirements`, which names the entry that lacks one. Files that it includes are not looked
    at.
    """
    rows = [row for _, row in split_requirements(text.removeprefix("\ufeff"))]
    return any(_HASH.search(row) or re.search(r"(?:^|\s)--require-hashes(?:\s|$)", row) for row in rows)


def parse_requirements(
    text: str, *, source: str, platform: str = "linux-64", include: Include | None = None
) -> PinnedEnvironment:
    """Parse the text of a requirements file whose every entry is exact and hashed.

    Args:
        text: The file's content.
        source: Its name, for messages.
        platform: Platform that was asked for; such a file names none.
        include: Gives the text of the files that `-r` names, or None where there is none.

    Returns:
        What it pins; entries under markers are all there, whatever platform they are for.

    Raises:
        EnvironmentInvalid: An entry is not exact, has no sha256, or cannot be read; or an included file is not there.
    """
    draft = _Draft(include=include)
    _read_text(text, draft, _Place(source=source, inner="", line=1, depth=0))
    if not draft.wheels:
        draft.notes.append(Note(line=1, message=f"{source} pins no package at all"))
    return PinnedEnvironment(
        source=source,
        sha256=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        kind="requirements",
        platforms=(platform,),
        conda=(),
        wheels=merge_wheels(draft.wheels, source=source),
        indexes=tuple(dict.fromkeys(draft.indexes)),
        notes=tuple(draft.notes),
        find_links=tuple(dict.fromkeys(draft.find_links)),
        included=tuple(draft.included.items()),
    )


def _read_text(text: str, draft: _Draft, outer: _Place) -> None:
    for line, row in split_requirements(text.removeprefix("\ufeff")):
        place = _Place(source=outer.source, inner=outer.inner, line=line, depth=outer.depth)
        if row.startswith("-"):
            _read_options(row, draft, place)
        else:
            draft.wheels.append(_read_requirement(row, draft, place))


def _read_options(row: str, draft: _Draft, place: _Place) -> None:
    words = row.split()
    name = words[0].partition("=")[0]
    if name in _SPENT and len(words) == 1 + (_SPENT[name] and "=" not in words[0]):
        _note(draft, place, f"{name} is passed over: everything is pinned already")
        return
    line = parse_pip_line(row, source=place.file, line=place.line)
    for item in line.items:
        what = "the project's own code" if getattr(item, "editable", False) else item.text
        raise EnvironmentInvalid(
            f"{place.where}: {strip_credentials(what)} has no hash, so its bytes could not be checked",
            hint="leave it out of this file: the project's own code is always in the working folder",
        )
    for note in line.notes:
        _note(draft, place, note.message)
    for option in line.options:
        match option.kind:
            case "index" | "extra-index":
                draft.indexes.append(_read_url(option.value, place))
            case "find-links":
                draft.find_links.append(_read_url(option.value, place))
            case "include":
                _read_included(option.value, draft, place)
            case "constraint":
                _note(draft, place, f"{option.value} is not read: everything is pinned already")
            case "pre" | "no-index":
                _note(draft, place, f"--{option.kind} is passed over: everything is pinned already")


def _note(draft: _Draft, place: _Place, message: str) -> None:
    # A note has a line of the first file; of an included one its name and line are in the message.
    text = f"{place.where}: {message}" if place.inner else message
    draft.notes.append(Note(line=1 if place.inner else place.line, message=text))


def _read_url(value: str, place: _Place) -> str:
    url = strip_credentials(value)
    if "${" in url or not url:
        raise EnvironmentInvalid(
            f"{place.where}: {url!r} depends on environment variables of a machine",
            hint="write the address itself; variables may stand for user and password only",
        )
    return url


def _read_included(name: str, draft: _Draft, place: _Place) -> None:
    inner = posixpath.normpath(posixpath.join(posixpath.dirname(place.inner), name))
    if "://" in name or posixpath.isabs(name) or place.depth >= _MAX_DEPTH or "\x00" in name:
        raise EnvironmentInvalid(
            f"{place.where}: {strip_credentials(name)[:200]!r} cannot be included from here",
            hint="include files of the project, by paths relative to this one, and not in circles",
        )
    if inner in draft.included:
        return
    text = draft.include(inner) if draft.include else None
    if text is None:
        raise EnvironmentInvalid(
            f"{place.where}: {inner[:200]!r} is not there", hint="add that file, or write its lines in this one"
        )
    draft.included[inner] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    _read_text(text, draft, _Place(source=place.source, inner=inner, line=1, depth=place.depth + 1))


def _read_requirement(row: str, draft: _Draft, place: _Place) -> PinnedWheel:
    found = re.search(r"\s--?[A-Za-z]", row)
    wanted = (row[: found.start()] if found else row).strip()
    hashes = _read_hashes(row[len(wanted) :] if found else "", wanted, draft, place)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", wanted):
        return _read_address("", wanted, "", hashes, place)
    try:
        requirement = Requirement(wanted)
    except (InvalidRequirement, RecursionError) as error:
        if not hashes:
            raise _refuse_unhashed(wanted, place) from None
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise EnvironmentInvalid(
            f"{place.where}: cannot read the requirement {strip_credentials(wanted)[:200]!r}: {reason}",
            hint="write it as name==1.2 with a --hash",
        ) from None
    marker = str(requirement.marker) if requirement.marker else ""
    if requirement.url:
        return _read_address(canonicalize_name(requirement.name), requirement.url, marker, hashes, place)
    if not hashes:
        raise _refuse_unhashed(wanted, place)
    specifiers = list(requirement.specifier)
    if len(specifiers) != 1 or specifiers[0].operator not in ("==", "===") or specifiers[0].version.endswith(".*"):
        raise EnvironmentInvalid(
            f"{place.where}: {wanted[:200]!r} is not exact; with hashes every entry must be name==version", hint=_HINT
        )
    return PinnedWheel(
        name=canonicalize_name(requirement.name),
        version=specifiers[0].version,
        file=None,
        address=None,
        sha256s=hashes,
        size_bytes=None,
        line=place.line,
        markers=marker,
        source=place.inner,
    )


def _read_address(name: str, address: str, marker: str, hashes: tuple[str, ...], place: _Place) -> PinnedWheel:
    found = parse_wheel_address(address, where=place.where)
    known = hashes or ((found.sha256,) if found.sha256 else ())
    if found.kind == "git" and name:
        # A whole commit is a checksum of what it holds.
        require_commit(found, name=name, where=place.where)
        known = ()
    elif found.kind != "file" or not known:
        raise _refuse_unhashed(strip_credentials(address), place)
    if not (name or found.name):
        raise EnvironmentInvalid(
            f"{place.where}: {found.address[:200]!r} does not say which project it is",
            hint="write it as name @ address",
        )
    return PinnedWheel(
        name=name or found.name,
        version=found.version,
        file=found.file,
        address=found.address,
        sha256s=known,
        size_bytes=None,
        line=place.line,
        markers=marker,
        source=place.inner,
    )


def _read_hashes(options: str, wanted: str, draft: _Draft, place: _Place) -> tuple[str, ...]:
    """Read the options of one requirement: its sha256 digests, each once."""
    found: dict[str, None] = {}
    words = options.split()
    while words:
        name, separator, value = words.pop(0).partition("=")
        value = (value if separator else words.pop(0) if words else "").strip("\"'")
        if name == "--hash":
            algorithm, _, digits = value.partition(":")
            if algorithm == "sha256" and (digest := parse_checksum(digits, algorithm="sha256", where=place.where)):
                found[digest] = None
            elif algorithm not in ("sha384", "sha512") or not digits:
                raise EnvironmentInvalid(f"{place.where}: {value[:80]!r} is no hash that pip checks", hint=_HINT)
        elif name in _BUILD_OPTIONS:
            _note(draft, place, f"{name} of {wanted[:80]} is passed over: it would matter only to a build from source")
        else:
            raise EnvironmentInvalid(f"{place.where}: option {name[:80]!r} cannot follow a requirement", hint=_HINT)
    return tuple(found)


def _refuse_unhashed(wanted: str, place: _Place) -> EnvironmentInvalid:
    return EnvironmentInvalid(
        f"{place.where}: {wanted[:200]!r} has no sha256 hash, so its bytes could not be checked", hint=_HINT
    )
