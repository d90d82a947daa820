"""What has no wheel and must be built from source: which, and what each needs to be built. Pure."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import unquote

from packaging.requirements import InvalidRequirement, Requirement

from reprobox.env.channels import hide_credentials
from reprobox.env.pip_lines import Note, Reference, WheelRequirement
from reprobox.env.spec import EnvironmentSpec
from reprobox.errors import EnvironmentInvalid

# Source: PEP 517 and PEP 518, what a project without pyproject.toml is built with.
_LEGACY = ("setuptools>=40.8.0", "wheel")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOrder:
    """One project to build.

    Attributes:
        kind: "git", "archive" (a file by address or path), "wheel" (a wheel by address or path) or "index" (the index's
            own source archive).
        name: Normalised project name, or None where only its metadata tell.
        address: URL or path; "" for the index.
        revision: Of git, as the environment file has it; of the index the version asked for, or None.
        subdirectory: Folder in it that holds the project.
        extras: Of the requirement, sorted.
        sha256: Digest that the file must have, or None.
        where: File and line, for messages.
    """

    kind: Literal["git", "archive", "wheel", "index"]
    name: str | None
    address: str
    revision: str | None = None
    subdirectory: str | None = None
    extras: tuple[str, ...] = ()
    sha256: str | None = None
    where: str

    @property
    def shown(self) -> str:
        """A few words for messages."""
        return self.name or self.address.rstrip("/").rsplit("/", 1)[-1]

    def note_git(self, commit: str) -> str:
        """Note what a wheel was built from, for a lock: of an address its digest alone."""
        return f"git {hashlib.sha256(self.address.encode()).hexdigest()[:16]} {commit}"

    def matches(self, note: str) -> bool:
        """Whether a wheel with this note was built from the same place, at some time."""
        if self.kind == "git":
            return note.startswith(self.note_git(""))
        return note.split(" ")[0] == _file_of(self.address)

    def is_exactly(self, note: str) -> bool:
        """Whether a wheel with this note was built from the same bytes: a whole commit, or a file with its digest."""
        if self.subdirectory is not None:
            return False
        if self.kind == "git":
            return bool(re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", self.revision or "")) and (
                note == self.note_git(self.revision or "")
            )
        return self.sha256 is not None and note == f"{_file_of(self.address)} sha256:{self.sha256}"


def _file_of(address: str) -> str:
    return unquote(address.partition("?")[0].partition("#")[0].rsplit("/", 1)[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePlan:
    """References of an environment file, sorted by what is to be done with them.

    Attributes:
        orders: What must be fetched and built.
        project: Folders of the project whose code is put on the path of every run, relative to the environment file.
        notes: What a person should know.
    """

    orders: tuple[SourceOrder, ...] = ()
    project: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()


def plan_sources(spec: EnvironmentSpec) -> SourcePlan:
    """Plan what is done with the references of an environment file.

    Raises:
        EnvironmentInvalid: A folder lies outside of the project, or a protocol is none that is known.
    """
    orders: list[SourceOrder] = []
    project: list[str] = []
    notes: list[Note] = []
    for reference in spec.references:
        where = f"{spec.source}:{reference.line}"
        if reference.kind == "folder":
            if reference.address.startswith(("/", "~")):
                raise EnvironmentInvalid(
                    f"{where}: {reference.address!r} lies outside of the project",
                    hint="copy it into the project, or write a release of it",
                )
            project.append(reference.address)
            continue
        if re.match(r"git://github\.com/", reference.address):
            message = f"{reference.address} cannot be fetched any more: GitHub ended git://; write git+https://"
            notes.append(Note(line=reference.line, message=message))
        orders.append(_order(reference, where))
    return SourcePlan(orders=tuple(orders), project=tuple(dict.fromkeys(project)), notes=tuple(notes))


def _order(reference: Reference, where: str) -> SourceOrder:
    kind: Literal["git", "archive", "wheel"] = "archive" if reference.kind == "source" else reference.kind  # type: ignore[assignment]
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", reference.address)
    known = ("https", "http", "file", "ssh", "git") if kind == "git" else ("https", "http", "file")
    if (scheme and scheme[1] not in known) or reference.address.startswith("-"):
        raise EnvironmentInvalid(
            f"{where}: {hide_credentials(reference.address)[:200]!r} cannot be fetched", hint="use https"
        )
    if kind == "git" and (reference.revision or "").startswith("-"):
        raise EnvironmentInvalid(f"{where}: {reference.revision!r} is no revision", hint="write a commit or a branch")
    return SourceOrder(
        kind=kind,
        name=reference.name,
        address=reference.address,
        revision=reference.revision,
        subdirectory=reference.subdirectory,
        extras=reference.extras,
        sha256=reference.sha256,
        where=where,
    )


def parse_build_requirements(pyproject: str | None, *, where: str) -> tuple[WheelRequirement, ...]:
    """Parse what a project needs to be built.

    Args:
        pyproject: Text of its pyproject.toml, or None.
        where: File and line, for messages.

    Returns:
        Requirements of its build; those of a legacy setup.py where it names none.

    Raises:
        EnvironmentInvalid: Its pyproject.toml is broken.
    """
    texts: Iterable[str] = _LEGACY
    if pyproject is not None:
        try:
            system = tomllib.loads(pyproject).get("build-system")
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise EnvironmentInvalid(f"{where}: its pyproject.toml is broken: {error}") from None
        if isinstance(system, dict) and isinstance(system.get("requires"), list):
            texts = [str(text) for text in system["requires"]]
    found = []
    for text in texts:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise EnvironmentInvalid(f"{where}: cannot read its build requirement {text!r}: {error}") from None
        found.append(WheelRequirement(text=text, name=requirement.name.lower().replace("_", "-"), line=1))
    return tuple(found)


def without_references(spec: EnvironmentSpec, *, but: Iterable[str] = ()) -> EnvironmentSpec:
    """Give a specification without its references, and without the wheels of some names."""
    names = set(but)
    return replace(spec, references=(), wheels=tuple(wheel for wheel in spec.wheels if wheel.name not in names))
