"""Gather what pip's lines ask for, with all that they draw in: further files, and the project itself. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from reprobox.env.pip_lines import (
    Note,
    PipOption,
    Reference,
    WheelRequirement,
    parse_pip_line,
    parse_wheel_requirement,
    split_requirements,
)
from reprobox.env.project_metadata import parse_project_metadata
from reprobox.errors import EnvironmentInvalid

_INCLUDES = 20
"""Requirements files that one environment file may draw in; more are a circle."""

Include = Callable[[str], str | None]
"""Gives the text of a file named relative to the environment file, or None where there is none."""


@dataclass(slots=True)
class PipLines:
    """What was asked for so far.

    Attributes:
        wheels: What the package index answers, in file order.
        references: What is given by address, commit or path.
        options: Options of pip that shape what is found.
        notes: What was passed over, for people.
        included: Texts of the files that were drawn in.
    """

    wheels: list[WheelRequirement] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    options: list[PipOption] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    included: list[str] = field(default_factory=list)

    def read(self, text: str, *, source: str, line: int, include: Include, folder: str = ".") -> None:
        """Read one line, and all that it draws in.

        Args:
            text: The line.
            source: The file's name, for messages.
            line: 1-based line, for messages.
            include: Gives the text of a file.
            folder: Where that file is, relative to the environment file; its own -r and -c start there.

        Raises:
            EnvironmentInvalid: It cannot be read, or draws in what cannot.
        """
        _read_pip_line(text, source, line, folder, include, self)


def _read_pip_line(text: str, source: str, line: int, folder: str, include: Include, draft: PipLines) -> None:
    """Read one line of pip's; where it draws in a file, all of that file's lines count as this one."""
    found = parse_pip_line(text, source=source, line=line)
    draft.notes.extend(found.notes)
    for item in found.items:
        if isinstance(item, WheelRequirement):
            draft.wheels.append(item)
        else:
            draft.references.append(item)
            if item.kind == "folder":
                _read_project(item, source, include, draft)
    for option in found.options:
        if option.kind in ("include", "constraint"):
            _draw_in(option, source, folder, include, draft)
        else:
            draft.options.append(option)


def _read_project(reference: Reference, source: str, include: Include, draft: PipLines) -> None:
    """Read what a folder of the project needs: it is not installed, and so nothing else would bring that."""
    # As with pip, a folder is looked for where the environment file is, whatever file names it.
    place = posixpath.normpath(reference.address)

    def read(name: str) -> str | None:
        text = include(posixpath.normpath(posixpath.join(place, name)))
        if text is not None:
            draft.included.append(text)
        return text

    found = parse_project_metadata(read, extras=reference.extras)
    shown = reference.address
    inner = PipLines(included=draft.included)
    for text in found.requirements:
        # What it includes in turn would be its own affair.
        _read_pip_line(text, f"{source}:{reference.line}: of {shown}", reference.line, ".", lambda name: None, inner)
    draft.wheels.extend(replace(item, line=reference.line) for item in inner.wheels)
    draft.references.extend(replace(item, line=reference.line) for item in inner.references if item.kind != "folder")
    told = [
        f"{shown} is on the path of runs, not installed; "
        + (
            f"{len(found.requirements)} requirements are read from its own files"
            if found.requirements
            else "its own files name no requirements"
        )
    ]
    if found.compiled:
        told.append(
            f"{shown} has parts that must be compiled, which are not: name its git address or a release instead"
        )
    if found.commands:
        told.append(f"the commands of {shown} ({', '.join(found.commands[:5])}) are not on PATH")
    told += [f"{shown}: {note}" for note in found.notes]
    draft.notes.extend(Note(line=reference.line, message=message) for message in told)


def _draw_in(option: PipOption, source: str, folder: str, include: Include, draft: PipLines) -> None:
    """Read the requirements or constraints of another file.

    Raises:
        EnvironmentInvalid: It cannot be read, or such files draw each other in without an end.
    """
    where = f"{source}:{option.line}"
    # Older versions of pip took a URL without slashes for a path.
    name = posixpath.normpath(posixpath.join(folder, re.sub(r"^file:(?!//)", "", option.value)))
    content = include(name)
    if content is None:
        raise EnvironmentInvalid(f"{where}: {option.value!r} cannot be read", hint="write the file, or its lines here")
    draft.included.append(content)
    if len(draft.included) > _INCLUDES:
        raise EnvironmentInvalid(
            f"{where}: requirements files draw each other in without an end", hint=f"take {option.value!r} out"
        )
    inner = PipLines(included=draft.included)
    for number, row in split_requirements(content):
        if option.kind == "constraint":
            limit = parse_wheel_requirement(row, source=name, line=number)
            inner.options.append(PipOption(kind="constraint", value=limit.text, line=option.line))
        else:
            _read_pip_line(row, name, number, posixpath.dirname(name) or ".", include, inner)
    draft.wheels.extend(replace(item, line=option.line) for item in inner.wheels)
    draft.references.extend(replace(item, line=option.line) for item in inner.references)
    draft.options.extend(replace(item, line=option.line) for item in inner.options)
    draft.notes.extend(Note(line=option.line, message=f"{name}:{note.line}: {note.message}") for note in inner.notes)
