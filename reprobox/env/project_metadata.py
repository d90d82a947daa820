"""Read what a Python project's own files say that it needs, without running any of them. Pure.

A project that an environment file takes in as a folder (`-e .`) is put on the path of runs, not installed; what it
needs must still be in the image. Its requirements are read where they stand as plain data: `[project]` in
pyproject.toml, Poetry's tables, setup.cfg, and literal lists in setup.py. What a setup.py computes is told as unknown.

Source: PEP 621 (project metadata), Poetry's documentation of version constraints, setuptools' of setup.cfg.
"""

from __future__ import annotations

import ast
import configparser
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Read = Callable[[str], str | None]
"""Gives the text of a file of the project, or None."""

_COMPILING = re.compile(r"maturin|scikit[_-]build|mesonpy|setuptools[_-]rust|pybind11|nanobind|cmake", re.IGNORECASE)
_EXTENSIONS = re.compile(r"\bext_modules\b|\bCUDAExtension\b|\bCppExtension\b|\bcythonize\b|\brust_extensions\b")


@dataclass(slots=True)
class ProjectMetadata:
    """What a project says of itself.

    Attributes:
        requirements: PEP 508 texts, in file order; those of the extras behind the others.
        notes: What could not be told, in clauses.
        compiled: Whether it has parts that must be compiled.
        commands: Names of the commands that an installation would make.
    """

    requirements: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    compiled: bool = False
    commands: list[str] = field(default_factory=list)


def parse_project_metadata(read: Read, *, extras: Sequence[str] = ()) -> ProjectMetadata:
    """Parse a project's own files.

    Args:
        read: Gives their texts.
        extras: Extras that are asked for.

    Returns:
        What they say; a file that is broken is a note.
    """
    found = ProjectMetadata()
    document = _load_toml(read("pyproject.toml"), found)
    setup_py = read("setup.py")
    table = document.get("project")
    poetry = _table(_table(document, "tool"), "poetry")
    if isinstance(table, dict) and "dependencies" not in _list(table.get("dynamic")):
        _take(found, _list(table.get("dependencies")), _table(table, "optional-dependencies"), extras)
        found.commands += sorted(_table(table, "scripts"))
    elif poetry:
        _read_poetry(poetry, extras, found)
    elif not _read_setup_cfg(read("setup.cfg"), extras, found):
        _read_setup_py(setup_py, extras, found)
    system = _table(document, "build-system")
    built_by = " ".join([*_list(system.get("requires")), str(system.get("build-backend", ""))])
    found.compiled = bool(_COMPILING.search(built_by) or (setup_py and _EXTENSIONS.search(setup_py)))
    return found


def _load_toml(text: str | None, found: ProjectMetadata) -> dict[str, Any]:
    try:
        return tomllib.loads(text or "")
    except (ValueError, RecursionError) as error:
        found.notes.append(f"its pyproject.toml is broken ({str(error)[:200]})")
        return {}


def _table(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key)
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def _take(found: ProjectMetadata, plain: Iterable[str], optional: Mapping[str, Any], extras: Sequence[str]) -> None:
    found.requirements += plain
    known = {_plain(name): _list(value) for name, value in optional.items()}
    for extra in extras:
        if _plain(extra) in known:
            found.requirements += known[_plain(extra)]
        else:
            found.notes.append(f"it has no extra {extra!r}")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _read_poetry(poetry: Mapping[str, Any], extras: Sequence[str], found: ProjectMetadata) -> None:
    optional: dict[str, str] = {}
    for name, value in _table(poetry, "dependencies").items():
        if name == "python":
            continue
        text = _poetry_requirement(name, value)
        if text is None:
            found.notes.append(f"its requirement {name} is not written in a way that is known here")
        elif isinstance(value, dict) and value.get("optional") is True:
            optional[_plain(name)] = text
        else:
            found.requirements.append(text)
    table = {
        extra: [optional[_plain(name)] for name in _list(names) if _plain(name) in optional]
        for extra, names in _table(poetry, "extras").items()
    }
    _take(found, (), table, extras)
    found.commands += sorted(_table(poetry, "scripts"))


def _poetry_requirement(name: str, value: Any) -> str | None:
    if isinstance(value, str):
        value = {"version": value}
    if not isinstance(value, dict) or {"git", "path", "url", "file"} & value.keys():
        return None
    limits = _poetry_version(str(value.get("version", "*")))
    if limits is None:
        return None
    extras = f"[{','.join(_list(value['extras']))}]" if _list(value.get("extras")) else ""
    marker = f" ; {value['markers']}" if isinstance(value.get("markers"), str) else ""
    return f"{name}{extras}{limits}{marker}"


def _poetry_version(text: str) -> str | None:
    """Translate a constraint of Poetry's into one of PEP 440; None where it has alternatives."""
    if "||" in text or "|" in text:
        return None
    limits = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        caret = re.fullmatch(r"\^\s*(\d+(?:\.\d+)*)", part)
        tilde = re.fullmatch(r"~\s*(\d+(?:\.\d+)*)", part)
        if part == "*":
            continue
        if caret:
            numbers = [int(number) for number in caret[1].split(".")]
            # The first number that is not zero may not move, nor any before it.
            at = next((index for index, number in enumerate(numbers) if number), len(numbers) - 1)
            limits.append(f">={caret[1]},<{'.'.join(map(str, [*numbers[:at], numbers[at] + 1]))}")
        elif tilde:
            numbers = [int(number) for number in tilde[1].split(".")][:2]
            limits.append(f">={tilde[1]},<{'.'.join(map(str, [*numbers[:-1], numbers[-1] + 1]))}")
        elif re.fullmatch(r"\d[\w.]*(\.\*)?", part):
            limits.append(f"=={part}")
        elif re.fullmatch(r"[<>=!~]=?\s*\d[\w.+-]*(\.\*)?", part):
            limits.append(part.replace(" ", "") if part[1:2] == "=" or part[0] in "<>" else f"=={part.lstrip('= ')}")
        else:
            return None
    return ",".join(limits)


def _read_setup_cfg(text: str | None, extras: Sequence[str], found: ProjectMetadata) -> bool:
    """Read a setup.cfg; gives whether it names requirements."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(text or "")
    except configparser.Error as error:
        found.notes.append(f"its setup.cfg is broken ({str(error).splitlines()[0][:200]})")
        return False
    wanted = parser.get("options", "install_requires", fallback=None)
    if wanted is None:
        return False
    optional = dict(parser.items("options.extras_require")) if parser.has_section("options.extras_require") else {}
    if "file:" in wanted:
        found.notes.append("its setup.cfg takes requirements from another file; name that file with -r")
        wanted = ""
    _take(found, _split_lines(wanted), {name: _split_lines(value) for name, value in optional.items()}, extras)
    return True


def _split_lines(text: str) -> list[str]:
    lines = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line]


def _read_setup_py(text: str | None, extras: Sequence[str], found: ProjectMetadata) -> None:
    """Read the literal lists of a setup.py, which is never run."""
    if text is None:
        return
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        found.notes.append("its setup.py cannot be read")
        return
    names = {
        target.id: node.value
        for node in module.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(module):
        if not isinstance(node, ast.Call) or _called(node) != "setup":
            continue
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        plain, known = _literal(given.get("install_requires"), names)
        optional, known_extras = _literal(given.get("extras_require"), names)
        if not known or (extras and not known_extras):
            found.notes.append("its setup.py computes what it needs, and is not run: write that below `- pip:`")
        tables = optional if isinstance(optional, dict) else {}
        wanted = [plain] if isinstance(plain, str) else _list(plain)
        _take(found, wanted, tables, extras if known_extras else ())
        return


def _called(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _literal(node: ast.expr | None, names: Mapping[str, ast.expr]) -> tuple[Any, bool]:
    """Give a literal value, or one that a name stands for, and whether it is one."""
    if node is None:
        return None, True
    if isinstance(node, ast.Name) and node.id in names:
        node = names[node.id]
    try:
        return ast.literal_eval(node), True
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None, False
