"""Capture what activating a conda environment would set, without running its scripts.

An image has no moment of activation, so what packages' `activate.d` scripts export becomes the image's environment.
Only what can be told from the text alone is captured: assignments of plain words and known variables, and conditions
on whether a variable is set. Anything else is named, so that a person can decide; where something is, nothing of that
script counts, because the rest may hang on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_ASSIGNMENT = re.compile(rf"(?P<export>export[ \t]+)?(?P<name>{_NAME})=(?P<value>.*)", re.DOTALL)
_NAMES = re.compile(rf"(?P<verb>export|unset(?:[ \t]+-v)?)(?P<names>(?:[ \t]+{_NAME})+)")
_TEST = re.compile(
    r"""(?P<open>\[\[?|test)[ \t]+(?P<not>![ \t]+)?-(?P<sign>[zn])[ \t]+"""
    r"""(?P<word>"[^"]*"|'[^']*'|[^\s"'\]]+)(?:[ \t]+(?P<close>\]\]?))?"""
)
_GUARD = re.compile(r"(?P<test>(?:\[|test[ \t])[^&|]*)(?P<sign>&&|\|\|)(?P<rest>[^&|]*)")
_VARIABLE = re.compile(rf"\$\{{(?P<braced>{_NAME})(?:(?P<sign>:?[-+])(?P<other>[^}}]*))?\}}|\$(?P<plain>{_NAME})")
_KEYWORDS = re.compile(r"(then|else|do)(?=[ \t]|$)")
_TOKEN = re.compile(r"""'[^']*'|"[^"]*"|\\.|[^'"\\;\n#]+|.""", re.DOTALL)
# What a shell or conda itself sets, so that it is not empty where nobody else has set it.
_OF_SHELL = re.compile(
    r"(BASH|ZSH)(_.*)?|PATH|PWD|OLDPWD|S?RANDOM|SECONDS|E?UID|GROUPS|PPID|HOME|HOSTNAME|HOSTTYPE|MACHTYPE|OSTYPE|SHELL"
    r"|SHELLOPTS|SHLVL|IFS|LINENO|OPT(ARG|ERR|IND)|PIPESTATUS|FUNCNAME|DIRSTACK|EPOCH.*|TERM|USER|LOGNAME|TMPDIR|PS\d|_"
    r"|CONDA_(SHLVL|EXE|PYTHON_EXE|DEFAULT_ENV|PROMPT_MODIFIER|PREFIX(_\d+)?)"
)


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


@dataclass(slots=True)
class _Shell:
    """What a script has done so far.

    Attributes:
        values: Variables.
        exported: Names of those that programs see.
        branches: One entry for each open `if`: whether its lines count now, and whether one of its branches did.
    """

    values: dict[str, str]
    exported: set[str]
    branches: list[tuple[bool, bool]] = field(default_factory=list)


def capture_activation(text: str, *, environment: Mapping[str, str]) -> Activation:
    """Capture what one script sets.

    Args:
        text: The script.
        environment: What is set before, CONDA_PREFIX among it.

    Returns:
        What it sets, and the lines that are not understood; where there are such lines, nothing counts as set.
    """
    shell = _Shell(values=dict(environment), exported=set(environment))
    unknown: list[str] = []
    for line in _split(text):
        try:
            _run_line(line, shell)
        except _Unknown:
            unknown.append(line)
    if shell.branches:
        unknown.append("an `if` without its `fi`")
    unknown += [f"unset {name}" for name in environment if name not in shell.exported]
    changed = {
        name: value for name, value in shell.values.items() if name in shell.exported and environment.get(name) != value
    }
    return Activation(variables={} if unknown else changed, unknown=tuple(unknown))


def _split(text: str) -> Iterator[str]:
    """Split a script into commands: at ends of lines and semicolons outside of quotes, without comments."""
    words: list[str] = []
    at = 0
    while found := _TOKEN.match(text, at):
        token, at = found[0], found.end()
        if token == "#" and (not words or words[-1][-1:] in " \t"):
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
        elif token in ("\n", ";"):
            yield from _take_keywords("".join(words))
            words = []
        elif token != "\\\n":
            # A line that ends in a backslash goes on in the next one.
            words.append(token if token[0] == "'" else token.replace("\\\n", ""))
    yield from _take_keywords("".join(words))


def _take_keywords(command: str) -> Iterator[str]:
    """Give a command apart from the `then` or `else` that stands before it."""
    rest = command.strip(" \t\r")
    while found := _KEYWORDS.match(rest):
        if found[1] != "then":
            yield found[1]
        rest = rest[found.end() :].strip(" \t")
    if rest not in ("", ":", "true"):
        yield rest


def _run_line(line: str, shell: _Shell) -> None:
    branches = shell.branches
    active = all(now for now, _ in branches)
    word = re.split(r"[ \t]", line, maxsplit=1)[0]
    if "<<" in line or "\\" in line:
        # Whatever follows may be no command.
        raise _Unknown
    if word == "if":
        branches.append((False, True))
        if active:
            outcome = _check(line[2:], shell.values)
            branches[-1] = (outcome, outcome)
    elif word == "elif" and branches:
        _, done = branches.pop()
        branches.append((False, True))
        if not done and all(now for now, _ in branches[:-1]):
            outcome = _check(line[4:], shell.values)
            branches[-1] = (outcome, outcome)
    elif line == "else" and branches:
        _, done = branches.pop()
        branches.append((not done, True))
    elif line == "fi" and branches:
        branches.pop()
    elif active:
        _run_command(line, shell)


def _run_command(line: str, shell: _Shell) -> None:
    guarded = _GUARD.fullmatch(line)
    if guarded:
        if _check(guarded["test"], shell.values) == (guarded["sign"] == "&&"):
            _run_plain(guarded["rest"].strip(" \t"), shell)
        return
    _run_plain(line, shell)


def _run_plain(line: str, shell: _Shell) -> None:
    found = _ASSIGNMENT.fullmatch(line)
    names = _NAMES.fullmatch(line)
    if found:
        shell.values[found["name"]] = _expand(found["value"], shell.values)
        if found["export"]:
            shell.exported.add(found["name"])
    elif names and names["verb"] == "export":
        shell.exported.update(names["names"].split())
    elif names:
        for name in names["names"].split():
            shell.values.pop(name, None)
            shell.exported.discard(name)
    else:
        raise _Unknown


def _check(test: str, values: Mapping[str, str]) -> bool:
    found = _TEST.fullmatch(test.strip(" \t"))
    if not found or {"[": "]", "[[": "]]", "test": None}[found["open"]] != found["close"]:
        # What is on disk, among others, is not known here.
        raise _Unknown
    value = _expand(found["word"], values)
    if found["open"] != "[[" and found["word"][0] not in "\"'":
        if re.search(r"[\s*?\[]", value):
            # The shell would split it into words.
            raise _Unknown
        if not value:
            # Nothing is left of the word, and a test of the sign alone is true.
            return not found["not"]
    return ((value == "") == (found["sign"] == "z")) != bool(found["not"])


def _expand(word: str, values: Mapping[str, str]) -> str:
    word = word.strip(" \t")
    if re.fullmatch(r"'[^']*'", word):
        return word[1:-1]
    quoted = re.fullmatch(r'"[^"]*"', word) is not None
    inner = word[1:-1] if quoted else word
    if re.search(r"[`\\]|\$\(|\$[^A-Za-z_{]|\$$", inner) or (not quoted and re.search(r"[\s|&<>()*?'\"~\[\]]", inner)):
        raise _Unknown
    if inner.count("${") != len(re.findall(rf"\$\{{{_NAME}(?::?[-+][^}}]*)?\}}", inner)):
        raise _Unknown

    def value_of(found: re.Match[str]) -> str:
        name, sign = found["braced"] or found["plain"], found["sign"] or ""
        known = values.get(name)
        if known is None and _OF_SHELL.fullmatch(name):
            raise _Unknown
        present = known is not None and not (known == "" and sign.startswith(":"))
        match sign[-1:]:
            case "-":
                return known if known is not None and present else _expand(f'"{found["other"]}"', values)
            case "+":
                return _expand(f'"{found["other"]}"', values) if present else ""
            case _:
                return known or ""

    return _VARIABLE.sub(value_of, inner)
