"""Read `environment.yml` as people write it: YAML text in, an `EnvironmentSpec` out.

This first kind of environment is `python` plus a `pip:` section, with the interpreter taken from the base. Anything
else that conda would install is named and refused; nothing is dropped in silence.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from reprobox.env.documents import compose_yaml
from reprobox.errors import EnvironmentInvalid

_CONDA_NAME = re.compile(
    r"^\s*(?:(?P<channel>[\w./:-]+)::)?(?P<name>[A-Za-z0-9_.-]+?)\s*(?P<constraint>[=<>!~\[ ].*)?$"
)
_PYTHON_FUZZY = re.compile(r"^={1,2}\s*(?P<version>\d+(?:\.\d+)*)(?:\.\*)?(?:=[^=]*)?$")
# What a base can stand in for: conda's own way of saying "an interpreter with an installer".
_FROM_BASE = ("python", "pip")
_SECTIONS = ("name", "channels", "dependencies", "variables", "prefix", "platforms", "category")


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelRequirement:
    """One entry of the `pip:` section.

    Attributes:
        text: The requirement as PEP 508 text, without comments.
        name: Its normalised project name.
        line: 1-based line in the file that it came from.
    """

    text: str
    name: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSpec:
    """What a person asked for.

    Attributes:
        name: The file's `name:`, or None.
        source: The file's name as messages show it.
        sha256: Digest of the text, in hex.
        python: Version prefix of the interpreter (such as "3.11"), or None for the base's own.
        python_line: Where it stands, or None.
        wheels: Requirements of the pip section, in file order.
        variables: Environment variables to set in the image, in file order.
    """

    name: str | None
    source: str
    sha256: str
    python: str | None
    python_line: int | None
    wheels: tuple[WheelRequirement, ...]
    variables: tuple[tuple[str, str], ...]


def _fail(source: str, node: yaml.Node, message: str, hint: str | None = None) -> EnvironmentInvalid:
    return EnvironmentInvalid(f"{source}:{node.start_mark.line + 1}: {message}", hint=hint)


def parse_environment(text: str, *, source: str) -> EnvironmentSpec:
    """Parse the text of an environment.yml.

    Args:
        text: The file's content.
        source: The file's name, for messages.

    Returns:
        What it asks for.

    Raises:
        EnvironmentInvalid: Broken YAML (with line and column), a key of the wrong shape, a requirement that cannot be
            parsed, or one that this version cannot provide (each with file and line).
    """
    root = compose_yaml(text, source=source, hint=f"look at the indentation and quotes around that place in {source}")
    if root is None:
        raise EnvironmentInvalid(f"{source}: the file is empty", hint="write `dependencies:` with `- python=3.11`")
    sections = dict(_mapping(root, source, "the file"))
    for key, (key_node, _) in sections.items():
        if key not in _SECTIONS:
            raise _fail(
                source, key_node, f"unknown key {key!r}", f"keys of an environment file: {', '.join(_SECTIONS)}"
            )
    name = _scalar(sections["name"][1], source, "name") if "name" in sections else ""
    python: tuple[str | None, int | None] = (None, None)
    wheels: list[WheelRequirement] = []
    for item in _sequence(sections.get("dependencies"), source, "dependencies"):
        if isinstance(item, yaml.MappingNode):
            wheels.extend(_pip_section(item, source))
            continue
        name_, constraint = _conda_requirement(item, source)
        if name_ == "python":
            asked = _python_prefix(item, constraint, source)
            if python[1] is not None and asked != python[0]:
                raise _fail(source, item, f"python stands twice, also in line {python[1]}", "leave one of them out")
            python = (asked, python[1] or item.start_mark.line + 1)
    variables = tuple(
        (key, _scalar(value, source, f"variables.{key}"))
        for key, (_, value) in (
            _mapping(sections["variables"][1], source, "variables") if "variables" in sections else []
        )
    )
    return EnvironmentSpec(
        name=name.strip() or None,
        source=source,
        sha256=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        python=python[0],
        python_line=python[1],
        wheels=tuple(wheels),
        variables=variables,
    )


def _mapping(node: yaml.Node, source: str, what: str) -> Iterator[tuple[str, tuple[yaml.Node, yaml.Node]]]:
    if not isinstance(node, yaml.MappingNode):
        raise _fail(source, node, f"{what} must be a mapping of keys to values", "see the README for an example")
    seen: set[str] = set()
    for key, value in node.value:
        name = _scalar(key, source, "a key")
        if name in seen:
            raise _fail(source, key, f"key {name!r} stands twice", "merge the two sections")
        seen.add(name)
        yield name, (key, value)


def _sequence(entry: tuple[yaml.Node, yaml.Node] | None, source: str, what: str) -> list[yaml.Node]:
    if entry is None or _is_null(entry[1]):
        return []
    if not isinstance(entry[1], yaml.SequenceNode):
        raise _fail(
            source, entry[1], f"{what} must be a list", f"write `{what}:` and below it lines that begin with `- `"
        )
    # A null item is what a bare "-" leaves behind; conda ignores it too.
    return [item for item in entry[1].value if not _is_null(item)]


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")


def _scalar(node: yaml.Node, source: str, what: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
        raise _fail(source, node, f"{what} must be a plain value, not {kind}", "write it as one word on that line")
    return "" if _is_null(node) else str(node.value)


def _conda_requirement(node: yaml.Node, source: str) -> tuple[str, str]:
    text = _scalar(node, source, "a dependency").strip()
    found = _CONDA_NAME.match(text)
    if not found:
        raise _fail(source, node, f"cannot read the requirement {text!r}", "write it as name, name=1.2 or name>=1.2")
    name = found["name"].lower()
    if name not in _FROM_BASE:
        raise _fail(
            source,
            node,
            f"{text!r} is a conda package; this version takes only python and pip from the conda section",
            f"move it below `- pip:` (as `- {found['name']}…`) if it is on the Python package index",
        )
    return name, (found["constraint"] or "").strip()


def _python_prefix(node: yaml.Node, constraint: str, source: str) -> str | None:
    if not constraint:
        return None
    found = _PYTHON_FUZZY.match(constraint)
    if not found:
        raise _fail(source, node, f"cannot read the python version {constraint!r}", "write it as python=3.11")
    return found["version"]


def _pip_section(node: yaml.MappingNode, source: str) -> Iterator[WheelRequirement]:
    for key, (key_node, value) in _mapping(node, source, "this entry of dependencies"):
        if key != "pip":
            raise _fail(
                source, key_node, f"unknown section {key!r} in dependencies", "the only nested section is `pip:`"
            )
        for item in _sequence((key_node, value), source, "pip"):
            text = re.sub(r"(^|\s)#.*$", "", _scalar(item, source, "a pip requirement")).strip()
            if text:
                yield parse_wheel_requirement(text, source=source, line=item.start_mark.line + 1)


def parse_wheel_requirement(text: str, *, source: str, line: int) -> WheelRequirement:
    """Parse one requirement of a pip section.

    Args:
        text: PEP 508 text.
        source: The file's name, for messages.
        line: 1-based line, for messages.

    Raises:
        EnvironmentInvalid: It is an option, a path, a URL, or not PEP 508.
    """
    where = f"{source}:{line}"
    if text.startswith("-"):
        option = text.split()[0].split("=")[0]
        raise EnvironmentInvalid(
            f"{where}: pip option {option!r} is not supported in the pip section: {text!r}",
            hint="name another index under [mirrors] in reprobox.toml; the project's own code needs no -e: it is "
            "always in the working folder",
        )
    try:
        requirement = Requirement(text)
    except (InvalidRequirement, RecursionError) as error:
        single = re.match(r"^([A-Za-z0-9_.-]+)\s*=\s*([^=].*)$", text)
        hint = f"write it as {single[1]}=={single[2]}" if single else "write it as name==1.2, name>=1.2 or name"
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise EnvironmentInvalid(f"{where}: cannot read the requirement {text[:200]!r}: {reason}", hint=hint) from None
    if requirement.url:
        raise EnvironmentInvalid(
            f"{where}: {requirement.name} is given by address; this version takes wheels from the index only",
            hint=f"write {requirement.name}==VERSION, if a release of it is on the index",
        )
    return WheelRequirement(text=str(requirement), name=canonicalize_name(requirement.name), line=line)
