"""Read one line as pip takes it, in a pip section or a requirements file. Pure.

A line is a requirement of the index, a reference (an address, a commit, a path), the project's own code (`-e .`), or an
option. What only says how pip should work on a machine is passed over with a note; what would change the outcome and is
not supported is refused by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from packaging.markers import InvalidMarker, Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from reprobox.env.channels import hide_credentials
from reprobox.errors import EnvironmentInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something that a person should know of a file, and that stops nothing.

    Attributes:
        line: 1-based line.
        message: A sentence.
    """

    line: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelRequirement:
    """One requirement that the index answers.

    Attributes:
        text: The requirement as PEP 508 text, without comments.
        name: Its normalised project name.
        line: 1-based line in the file that it came from.
        sha256s: Digests that the line itself gives, in hex; any of them will do. Empty for none.
    """

    text: str
    name: str
    line: int
    sha256s: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One requirement that is given by where it is.

    Attributes:
        kind: "git" (a commit or branch), "wheel" or "source" (a file by address or path), "folder" (of the project).
        name: Normalised project name, or None where only its metadata tell.
        address: URL, or path relative to the file that names it.
        revision: Of git: what follows the @, or None.
        subdirectory: Folder in it that holds the project.
        extras: Sorted.
        editable: Whether `-e` stands before it.
        sha256: Digest that the line itself gives, or None.
        line: 1-based line.
    """

    kind: Literal["git", "wheel", "source", "folder"]
    name: str | None
    address: str
    revision: str | None = None
    subdirectory: str | None = None
    extras: tuple[str, ...] = ()
    editable: bool = False
    sha256: str | None = None
    line: int

    @property
    def text(self) -> str:
        """What it asks for, in one line; an address that is not the project's own may name a host."""
        return " ".join(filter(None, [self.name and f"{self.name} @", hide_credentials(self.address), self.revision]))


@dataclass(frozen=True, slots=True, kw_only=True)
class PipOption:
    """An option that shapes what is found.

    Attributes:
        kind: What it sets; of "constraint" and "include" the value names a file first, and later its lines.
        value: Its value; "" where there is none.
        line: 1-based line.
    """

    kind: Literal["index", "extra-index", "find-links", "pre", "constraint", "include", "no-index"]
    value: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PipLine:
    """What one line says.

    Attributes:
        items: Requirements and references; one at most, but for options that carry none.
        options: Options of the whole file.
        notes: What was passed over.
    """

    items: tuple[WheelRequirement | Reference, ...] = ()
    options: tuple[PipOption, ...] = ()
    notes: tuple[Note, ...] = ()


@dataclass(slots=True)
class _Draft:
    items: list[WheelRequirement | Reference] = field(default_factory=list)
    options: list[PipOption] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    editable: str | None = None
    hashes: list[str] = field(default_factory=list)


_VALUED: dict[str, Literal["index", "extra-index", "find-links", "constraint", "include"]] = {
    "-i": "index", "--index-url": "index", "--pypi-url": "index", "--extra-index-url": "extra-index",
    "-f": "find-links", "--find-links": "find-links", "-c": "constraint", "--constraint": "constraint",
    "-r": "include", "--requirement": "include",
}  # fmt: skip
_BARE: dict[str, Literal["pre", "no-index"]] = {"--pre": "pre", "--no-index": "no-index"}
# How pip works, not what it finds; with the number of values each takes.
_PASSED_OVER = {
    **dict.fromkeys(
        [
            "--trusted-host", "--timeout", "--default-timeout", "--retries", "--proxy", "--cert", "--client-cert",
            "--use-feature", "--use-deprecated", "--progress-bar", "--cache-dir", "--src", "--exists-action",
            "--root-user-action", "--upgrade-strategy",
        ],
        1,
    ),
    **dict.fromkeys(
        [
            "--no-cache-dir", "--upgrade", "-U", "--user", "--quiet", "-q", "-v", "--verbose", "--prefer-binary",
            "--no-build-isolation", "--force-reinstall", "--ignore-installed", "-I", "--use-pep517", "--no-compile",
            "--no-warn-script-location", "--disable-pip-version-check", "--break-system-packages", "--compile",
            "--no-warn-conflicts", "--require-hashes", "--no-input",
        ],
        0,
    ),
}  # fmt: skip
_REFUSED = {
    "--no-binary": "builds from source; leave it out where the index has a wheel",
    "--no-deps": "leave it out, or name each version",
    "--global-option": "leave it out",
    "--install-option": "leave it out",
    "--config-settings": "leave it out",
    "--platform": "leave it out: the target is the image's",
    "--target": "leave it out: the place is the image's",
    "--prefix": "leave it out: the place is the image's",
    "--root": "leave it out: the place is the image's",
}
_COMMENT = re.compile(r"(^|\s)#.*$")
_VCS = re.compile(r"(?:(?P<vcs>git|hg|svn|bzr)\+)(?P<address>\S+)")
_ADDRESS = re.compile(r"(?:https?|file|ssh|git|s3|ftp)://\S+")
_REPOSITORY = re.compile(r"(?P<address>(?:[\w+]+://)?[^/]*/[^@]*)(?:@(?P<revision>[^@]+))?")
# Projects that have wheels for Windows or macOS alone and stand in exports of environments made there.
_WINDOWS = re.compile(r"pywin32|pypiwin32|pywinpty|windows-curses|win-unicode-console|pywin32-ctypes-.+|torch-directml")
_MACOS = re.compile(r"pyobjc|pyobjc-.+|tensorflow-macos|tensorflow-metal|mlx-metal")
_PLATFORM_MARKERS = {"sys_platform", "platform_system", "os_name", "and", "not"}
_SOURCES = (".tar.gz", ".tar.bz2", ".tar.xz", ".zip", ".tgz")


def parse_pip_line(text: str, *, source: str, line: int) -> PipLine:
    """Parse one line.

    Args:
        text: The line; a comment at its end is left out.
        source: The file's name, for messages.
        line: 1-based line, for messages.

    Returns:
        What it says; nothing for an empty line.

    Raises:
        EnvironmentInvalid: It is not a requirement, or asks for what is not supported.
    """
    where = f"{source}:{line}"
    plain = _COMMENT.sub("", text).strip()
    if "{{" in plain or "{%" in plain:
        raise EnvironmentInvalid(f"{where}: {plain[:200]!r} is a template", hint="write what it stands for")
    draft = _Draft()
    _take_options(plain, draft, where, line)
    rest = " ".join(draft.words).strip()
    rest, marker = _split_marker(rest, where)
    if marker is False:
        draft.notes.append(Note(line=line, message=f"{hide_credentials(rest)[:200]} is left out: it is not for Linux"))
        rest = ""
    if draft.editable is not None:
        draft.items.append(_reference(draft.editable, draft, where, line, editable=True))
    if rest:
        draft.items.append(_requirement(rest, draft, where, line))
    return PipLine(items=tuple(draft.items), options=tuple(draft.options), notes=tuple(draft.notes))


def parse_wheel_requirement(text: str, *, source: str, line: int) -> WheelRequirement:
    """Parse a line that must be a requirement of the index.

    Raises:
        EnvironmentInvalid: It is something else.
    """
    items = parse_pip_line(text, source=source, line=line).items
    if len(items) != 1 or not isinstance(items[0], WheelRequirement):
        raise EnvironmentInvalid(
            f"{source}:{line}: {text[:200]!r} is no requirement of the index", hint="write it as name==1.2 or name"
        )
    return items[0]


def _take_options(text: str, draft: _Draft, where: str, line: int) -> None:
    """Take options out of a line; what is left are the words of a requirement."""
    words = text.split()
    while words:
        word = words.pop(0)
        if not word.startswith("-") or (draft.words and not word.startswith(("--", "-f", "-i", "-c"))):
            draft.words.append(word)
            continue
        name, separator, value = word.partition("=")
        if not separator and name not in _VALUED and name[:2] in ("-f", "-i", "-r", "-c", "-e") and name[1] != "-":
            name, value, separator = name[:2], name[2:], "=" if name[2:] else ""
        if name in ("-e", "--editable"):
            draft.editable = _value(value, separator, words, name, where)
        elif name in _VALUED:
            value = _value(value, separator, words, name, where)
            draft.options.append(PipOption(kind=_VALUED[name], value=value, line=line))
        elif name in _BARE:
            draft.options.append(PipOption(kind=_BARE[name], value="", line=line))
        elif name == "--hash":
            draft.hashes.append(_value(value, separator, words, name, where))
        elif name == "--only-binary" or (name == "--no-binary" and draft.words):
            # Behind a requirement pip itself passes them over; wheels come first here anyhow.
            _value(value, separator, words, name, where)
            draft.notes.append(Note(line=line, message=f"pip option {name} is passed over: it decides nothing here"))
        elif name in _PASSED_OVER:
            if _PASSED_OVER[name]:
                _value(value, separator, words, name, where)
            draft.notes.append(Note(line=line, message=f"pip option {name} is passed over: it decides nothing here"))
        else:
            raise EnvironmentInvalid(
                f"{where}: pip option {name!r} is not supported: {text[:200]!r}",
                hint=_REFUSED.get(name, "leave it out"),
            )


def _value(value: str, separator: str, words: list[str], name: str, where: str) -> str:
    if separator:
        return value.strip("\"'")
    if not words:
        raise EnvironmentInvalid(f"{where}: pip option {name!r} has no value", hint=f"write {name} VALUE")
    return words.pop(0).strip("\"'")


def _requirement(text: str, draft: _Draft, where: str, line: int) -> WheelRequirement | Reference:
    if _VCS.match(text) or _ADDRESS.match(text) or re.match(r"\.{0,2}/|\.\.?(\[|$)|~|[A-Za-z]:\\|\\\\", text):
        return _reference(text, draft, where, line)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?(\[[^\]]*\])?", text):
        return _reference(text, draft, where, line)
    if text.split("[", maxsplit=1)[0].endswith((".whl", *_SOURCES)) and " " not in text and "@" not in text:
        return _reference(text, draft, where, line)
    try:
        requirement = Requirement(text)
    except (InvalidRequirement, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise EnvironmentInvalid(
            f"{where}: cannot read the requirement {text[:200]!r}: {reason}", hint=_hint_of(text)
        ) from None
    if requirement.url and requirement.marker:
        raise _behind(where, text)
    if requirement.url:
        draft.words.clear()
        found = _reference(requirement.url, draft, where, line)
        extras = tuple(sorted(requirement.extras))
        return Reference(
            kind=found.kind, name=canonicalize_name(requirement.name), address=found.address, revision=found.revision,
            subdirectory=found.subdirectory, extras=extras, sha256=found.sha256, line=line,
        )  # fmt: skip
    name = canonicalize_name(requirement.name)
    for kind, names in (("Windows", _WINDOWS), ("macOS", _MACOS)):
        if requirement.marker is None and names.fullmatch(name):
            raise EnvironmentInvalid(
                f"{where}: {text[:200]!r} is published for {kind} alone; images are Linux",
                hint=f"delete that line, or add ; sys_platform == '{'win32' if kind == 'Windows' else 'darwin'}'",
            )
    return WheelRequirement(text=str(requirement), name=name, line=line, sha256s=_sha256s(draft, where))


def _split_marker(text: str, where: str) -> tuple[str, bool | None]:
    """Split the marker off an address, and tell whether it holds on Linux; None where there is none.

    Raises:
        EnvironmentInvalid: The marker asks for something else than the platform, which is not known yet.
    """
    found = re.fullmatch(
        r"(?P<what>(?:[\w.-]+(?:\[[^\]]*\])?\s*@\s*)?(?:[a-z]+\+)?[a-z]+://\S+?)(?:\s+;\s*|;\s+)(?P<marker>.+)", text
    )
    if not found:
        return text, None
    try:
        marker = Marker(found["marker"])
    except (InvalidMarker, RecursionError):
        raise _behind(where, text) from None
    if set(re.findall(r"[a-z_]{3,}", re.sub(r"'[^']*'|\"[^\"]*\"", "", str(marker)))) - _PLATFORM_MARKERS:
        raise _behind(where, text)
    environment = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "extra": ""}
    return found["what"], marker.evaluate(environment)


def _hint_of(text: str) -> str:
    """Give the one edit that most likely helps."""
    name = r"^([A-Za-z0-9_.-]+(?:\[[^\]]*\])?)\s*"
    for pattern, edit in (
        (name + r"=\s*([^=<>!~;\s][^;\s]*)", "{0}=={1}"),
        (name + r"=>\s*([^;\s]+)", "{0}>={1}"),
        (name + r"=<\s*([^;\s]+)", "{0}<={1}"),
        (name + r"([<>]=?\s*[\w.]+)\s+([<>!]=?\s*[\w.]+)$", "{0}{1},{2}"),
        (name + r"([<>]=?\s*\d[\w.]*?)\.\*$", "{0}{1}"),
        (name + r"\s(\d[\w.]*)$", "{0}=={1}"),
    ):
        found = re.match(pattern, text[:500])
        if found:
            return "write it as " + edit.format(*found.groups())
    return "write it as name==1.2, name>=1.2 or name"


def _behind(where: str, text: str) -> EnvironmentInvalid:
    return EnvironmentInvalid(
        f"{where}: what stands behind the address cannot be told: {hide_credentials(text)[:200]!r}",
        hint="leave out what stands behind the address, or the whole line, as the environment's Python has it",
    )


def _sha256s(draft: _Draft, where: str) -> tuple[str, ...]:
    """Give the digests that a line names.

    Raises:
        EnvironmentInvalid: It names some, and none is a sha256; a lock could not keep to them.
    """
    found = tuple(value.removeprefix("sha256:") for value in draft.hashes if value.startswith("sha256:"))
    broken = next((value for value in found if not re.fullmatch(r"[0-9a-f]{64}", value)), None)
    if broken is not None or (draft.hashes and not found):
        raise EnvironmentInvalid(
            f"{where}: {(broken or draft.hashes[0])[:200]!r} is no sha256",
            hint="write --hash=sha256: and 64 hex digits",
        )
    return found


def _reference(text: str, draft: _Draft, where: str, line: int, *, editable: bool = False) -> Reference:
    """Read an address, a commit or a path.

    Raises:
        EnvironmentInvalid: It is in a version control system other than git, or of another platform.
    """
    text = text.strip()
    if re.search(r"\s", text):
        raise _behind(where, text)
    vcs = _VCS.match(text)
    if vcs and vcs["vcs"] != "git":
        raise EnvironmentInvalid(f"{where}: {vcs['vcs']} is not supported: {text[:200]!r}", hint="name a git address")
    body, _, fragment = (vcs["address"] if vcs else text).partition("#")
    parts = dict(part.partition("=")[::2] for part in fragment.split("&"))
    egg = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[([^\]]*)\])?", parts.get("egg", ""))
    extras = tuple(sorted(filter(None, map(str.strip, (egg[2] or "").split(","))))) if egg else ()
    name = canonicalize_name(egg[1]) if egg else None
    hashes = _sha256s(draft, where)
    sha256 = parts.get("sha256") or (hashes[0] if len(hashes) == 1 else None)
    if vcs:
        # An @ before the first / of the path belongs to the host; a branch may have a / of its own.
        at = _REPOSITORY.fullmatch(body)
        address, revision = (at["address"], at["revision"]) if at else (body, None)
        return Reference(
            kind="git", name=name, address=address, revision=revision, extras=extras, editable=editable,
            subdirectory=parts.get("subdirectory"), line=line,
        )  # fmt: skip
    if re.match(r"[A-Za-z]:\\|\\\\", body) or "\\" in body:
        raise EnvironmentInvalid(f"{where}: {body[:200]!r} is a path of Windows", hint="write it with /")
    path = re.fullmatch(r"(.+?)(?:\[([^\]]*)\])?", body)
    if path and path[2] is not None:
        body, extras = path[1], tuple(sorted(filter(None, map(str.strip, path[2].split(",")))))
    file = body.partition("?")[0].rsplit("/", 1)[-1]
    if file.endswith(".whl"):
        return _wheel_reference(file, body, where, line, extras, sha256)
    if _ADDRESS.match(body) and body.endswith(".git"):
        return Reference(kind="git", name=name, address=body, extras=extras, editable=editable, line=line)
    kind: Literal["source", "folder"] = "source" if file.endswith(_SOURCES) or _ADDRESS.match(body) else "folder"
    return Reference(
        kind=kind, name=name, address=body, extras=extras, editable=editable, sha256=sha256,
        subdirectory=parts.get("subdirectory"), line=line,
    )  # fmt: skip


def _wheel_reference(
    file: str, address: str, where: str, line: int, extras: tuple[str, ...], sha256: str | None
) -> Reference:
    from urllib.parse import unquote

    try:
        name, _, _, tags = parse_wheel_filename(unquote(file))
    except (InvalidWheelFilename, InvalidSdistFilename) as error:
        raise EnvironmentInvalid(
            f"{where}: {file!r} is not the name of a wheel: {error}",
            hint="give the file the name that it had on the index",
        ) from None
    platforms = {tag.platform for tag in tags}
    if not any(platform == "any" or "linux" in platform for platform in platforms):
        raise EnvironmentInvalid(
            f"{where}: {file} is a wheel for {', '.join(sorted(platforms))}; images are Linux",
            hint="name the wheel for Linux, or its version",
        )
    return Reference(kind="wheel", name=str(name), address=address, extras=extras, sha256=sha256, line=line)


def split_requirements(text: str) -> list[tuple[int, str]]:
    """Split the text of a requirements file into logical lines: continuations joined, comments and blanks left out.

    Returns:
        Pairs of 1-based line number and text.
    """
    rows: list[tuple[int, str]] = []
    pending, began = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not pending:
            began = number
        stripped = line if not line.lstrip().startswith("#") else ""
        if stripped.endswith("\\") and not _COMMENT.search(stripped):
            pending += stripped[:-1] + " "
            continue
        joined = _COMMENT.sub("", pending + stripped).strip()
        pending = ""
        if joined:
            rows.append((began, joined))
    if pending.strip():
        rows.append((began, pending.strip()))
    return rows
