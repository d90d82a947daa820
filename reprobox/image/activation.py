"""Capture what activating a conda environment would set, without running its scripts.

An image has no moment of activation, so what packages' `activate.d` scripts export becomes the image's environment.
Only what can be told from the text alone is captured: assignments of plain words and known variables, and conditions
on whether a variable is set. Anything else is named, so that a person can decide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_ASSIGNMENT = re.compile(rf"(?:export\s+)?(?P<name>{_NAME})=(?P<value>.*)")
_EXPORT = re.compile(rf"export(?:\s+{_NAME})+")
_TEST = re.compile(
    r"""(?:\[\[?|test)\s+(?P<not>!\s+)?(?P<sign>-[znfde])\s+(?P<word>"[^"]*"|'[^']*'|\S+)\s*(?:\]\]?)?"""
)
_VARIABLE = re.compile(rf"\$\{{(?P<braced>{_NAME})(?:(?P<sign>:?[-+])(?P<other>[^}}]*))?\}}|\$(?P<plain>{_NAME})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """What a script does.

    Attributes:
        variables: What is set afterwards, and was not before or otherwise.
        unknown: Lines that cannot be told from the text alone.
    """

    variables: Mapping[str, str]
    unknown: tuple[str, ...]


class _Unknown(Exception):
    """A line that is not understood."""


def capture_activation(text: str, *, environment: Mapping[str, str]) -> Activation:
    """Capture what one script sets.

    Args:
        text: The script.
        environment: What is set before, CONDA_PREFIX among it.

    Returns:
        What it sets, and the lines that are not understood; where there are such lines, nothing counts as set.
    """
    values = dict(environment)
    exported: set[str] = set(environment)
    unknown: list[str] = []
    # One entry for each open `if`: whether its lines count now, and whether one of its branches did.
    branches: list[tuple[bool, bool]] = []
    for raw in re.sub(r"\\\n", " ", text).splitlines():
        for line in _split(re.sub(r"(^|\s)#.*$", "", raw).strip()):
            try:
                _run_line(line, values, exported, branches)
            except _Unknown:
                unknown.append(line)
    if branches:
        unknown.append("an `if` without its `fi`")
    changed = {name: value for name, value in values.items() if name in exported and environment.get(name) != value}
    return Activation(variables={} if unknown else changed, unknown=tuple(unknown))


def _split(line: str) -> list[str]:
    """Split a line at semicolons outside of quotes, and take `then` and `do` off."""
    parts = re.findall(r"""(?:[^;"']|"[^"]*"|'[^']*')+""", line)
    lines = [re.sub(r"^then\s+", "", part.strip()) for part in parts]
    return [part for part in lines if part and part not in ("then", ":", "true")]


def _run_line(line: str, values: dict[str, str], exported: set[str], branches: list[tuple[bool, bool]]) -> None:
    active = all(now for now, _ in branches)
    if line.startswith("if "):
        outcome = _check(line[3:].strip(), values) if active else False
        branches.append((outcome, outcome))
    elif line.startswith("elif ") and branches:
        _, done = branches.pop()
        outcome = not done and all(now for now, _ in branches) and _check(line[5:].strip(), values)
        branches.append((outcome, done or outcome))
    elif line == "else" and branches:
        _, done = branches.pop()
        branches.append((not done, True))
    elif line == "fi" and branches:
        branches.pop()
    elif active:
        _run_command(line, values, exported)


def _run_command(line: str, values: dict[str, str], exported: set[str]) -> None:
    guarded = re.fullmatch(r"(\[.*?\]\]?|test\s.*?)\s*(&&|\|\|)\s*(.+)", line)
    if guarded:
        if _check(guarded[1], values) == (guarded[2] == "&&"):
            _run_command(guarded[3], values, exported)
        return
    if line.startswith("unset "):
        for name in line.split()[1:]:
            values.pop(name, None)
            exported.discard(name)
        return
    found = _ASSIGNMENT.fullmatch(line)
    if found:
        values[found["name"]] = _expand(found["value"], values)
        if line.startswith("export"):
            exported.add(found["name"])
        return
    if _EXPORT.fullmatch(line):
        exported.update(line.split()[1:])
        return
    raise _Unknown


def _check(test: str, values: Mapping[str, str]) -> bool:
    found = _TEST.fullmatch(test)
    if not found or found["sign"] not in ("-z", "-n"):
        # What is on disk is not known here.
        raise _Unknown
    empty = _expand(found["word"], values) == ""
    return (empty if found["sign"] == "-z" else not empty) != bool(found["not"])


def _expand(word: str, values: Mapping[str, str]) -> str:
    word = word.strip()
    if re.fullmatch(r"'[^']*'", word):
        return word[1:-1]
    inner = word[1:-1] if re.fullmatch(r'"[^"]*"', word) else word
    if re.search(r"[`\\]|\$\(|\$[^A-Za-z_{]|\$$", inner) or (inner == word and re.search(r"[\s|&<>()*?'\"]", inner)):
        raise _Unknown
    if inner.count("${") != len(re.findall(rf"\$\{{{_NAME}(?::?[-+][^}}]*)?\}}", inner)):
        raise _Unknown

    def value_of(found: re.Match[str]) -> str:
        name = found["braced"] or found["plain"]
        known = values.get(name)
        present = known is not None and not (known == "" and (found["sign"] or "").startswith(":"))
        match (found["sign"] or "")[-1:]:
            case "-":
                return known if known is not None and present else _expand(f'"{found["other"]}"', values)
            case "+":
                return _expand(f'"{found["other"]}"', values) if present else ""
            case _:
                return known or ""

    return _VARIABLE.sub(value_of, inner)
