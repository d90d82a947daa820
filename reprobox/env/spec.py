"""Read `environment.yml` as people and `conda env export` write it: YAML text in, an `EnvironmentSpec` out. Pure.

Nothing is dropped in silence: what is not supported is refused with its line, what decides nothing becomes a note.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import yaml

from reprobox.env.conda_specs import (
    DEFAULTS,
    CondaRequirement,
    check_selector,
    find_platform,
    has_platform_build,
    parse_channel,
    parse_conda_requirement,
    strip_comment,
)
from reprobox.env.documents import compose_yaml
from reprobox.env.pip_lines import Note, PipOption, Reference, WheelRequirement
from reprobox.env.pip_section import Include, PipLines
from reprobox.errors import EnvironmentInvalid

_SECTIONS = ("name", "channels", "dependencies", "variables", "prefix", "platforms", "category")
_COMPLETE = frozenset([DEFAULTS, "conda-forge", "main", "anaconda"])
"""Names of channels that have Python and what it needs, also as part of a label or a mirror's path."""

_FOREIGN_HOMES = (("macOS", r"/Users/|/opt/homebrew/"), ("Windows", r"[A-Za-z]:[\\/]"))
"""Where environments lie on other platforms, as the `prefix:` of an export tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSpec:
    """What a person asked for.

    Attributes:
        name: The file's `name:`, or None.
        source: The file's name as messages show it.
        sha256: Digest of the text, and of the files that it draws in, in hex.
        channels: Names and URLs, in their order, without `nodefaults`, with a `defaults` that goes without saying.
        conda: What conda would install, python included, in file order.
        wheels: What the package index answers, in file order.
        references: What is given by address, commit or path.
        options: Options of pip that shape what is found.
        variables: Environment variables to set in the image, in file order.
        notes: What was passed over, for people.
    """

    name: str | None
    source: str
    sha256: str
    channels: tuple[str, ...] = (DEFAULTS,)
    conda: tuple[CondaRequirement, ...] = ()
    wheels: tuple[WheelRequirement, ...] = ()
    references: tuple[Reference, ...] = ()
    options: tuple[PipOption, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def pythons(self) -> tuple[CondaRequirement, ...]:
        """What is asked of the interpreter."""
        return tuple(requirement for requirement in self.conda if requirement.name == "python")

    @property
    def base_suffices(self) -> bool:
        """Whether conda is asked for nothing but an interpreter and its installer, of any build and channel."""
        return all(
            requirement.name in ("python", "pip") and requirement.channel is None and requirement.is_version_only
            for requirement in self.conda
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """The file that is read, for messages and for what YAML drops."""

    source: str
    lines: tuple[str, ...]
    platform: str
    include: Include

    def where(self, node: yaml.Node) -> str:
        return f"{self.source}:{node.start_mark.line + 1}"

    def fail(self, node: yaml.Node, message: str, hint: str) -> EnvironmentInvalid:
        if "{{" in self.line(node):
            hint = "this is a template: write what it stands for"
        return EnvironmentInvalid(f"{self.where(node)}: {message}", hint=hint)

    def line(self, node: yaml.Node) -> str:
        number = node.start_mark.line
        return self.lines[number] if number < len(self.lines) else ""

    def selected(self, node: yaml.Node) -> bool:
        return check_selector(self.line(node), platform=self.platform, where=self.where(node))


def parse_environment(
    text: str, *, source: str, platform: str = "linux-64", include: Include = lambda name: None
) -> EnvironmentSpec:
    """Parse the text of an environment.yml.

    Args:
        text: The file's content.
        source: The file's name, for messages.
        platform: Conda's name of the target, for selectors.
        include: Gives the text of a file that the pip section draws in with -r or -c.

    Returns:
        What it asks for.

    Raises:
        EnvironmentInvalid: Broken YAML (with line and column), a key of the wrong shape, a requirement that cannot be
            parsed, or one of another platform (each with file and line).
    """
    hint = f"look at the indentation and quotes around that place in {source}"
    if "{%" in text or "{{" in text:
        hint = f"{source} is a template: write what it stands for"
    root = compose_yaml(text, source=source, hint=hint)
    if root is None:
        raise EnvironmentInvalid(f"{source}: the file is empty", hint="write `dependencies:` with `- python=3.11`")
    listed = re.search(r"^# platform: (\S+)", text, re.MULTILINE)
    if listed and isinstance(root, yaml.ScalarNode):
        raise EnvironmentInvalid(
            f"{source}: this is what `conda list --export` prints (for {listed[1][:100]}), which names no channels",
            hint="make it anew: conda env export, or conda list --explicit --sha256",
        )
    file = _File(source=source, lines=tuple(text.splitlines()), platform=platform, include=include)
    sections = dict(_mapping(root, file, "the file"))
    conda: list[CondaRequirement] = []
    draft = PipLines()
    draft.notes.extend(_check_keys(sections, file))
    plain: list[tuple[yaml.Node, str]] = []
    nested: list[yaml.MappingNode] = []
    for item in _sequence(sections.get("dependencies"), file, "dependencies"):
        if isinstance(item, yaml.MappingNode):
            selector = _read_selector(item, file)
            if selector is None:
                nested.append(item)
            elif check_selector(f"# [{selector[0]}]", platform=platform, where=file.where(item)):
                plain.append((item, selector[1]))
        elif file.selected(item):
            plain.append((item, _scalar(item, file, "a dependency")))
        else:
            number = item.start_mark.line + 1
            draft.notes.append(Note(line=number, message=f"{item.value[:200]} is left out: it is not for {platform}"))
    prefix = sections["prefix"][1] if "prefix" in sections else None
    _require_linux(plain, prefix.value if isinstance(prefix, yaml.ScalarNode) else "", file)
    for node, words in plain:
        if strip_comment(words):
            conda.append(parse_conda_requirement(words, source=source, line=node.start_mark.line + 1))
    for section in nested:
        _read_pip_section(section, file, draft)
    name = _scalar(sections["name"][1], file, "name") if "name" in sections else ""
    return EnvironmentSpec(
        name=name.strip() or None,
        source=source,
        sha256=_digest([text, *draft.included]),
        channels=_channels(sections.get("channels"), file, draft),
        conda=tuple(conda),
        wheels=tuple(draft.wheels),
        references=tuple(draft.references),
        options=tuple(draft.options),
        variables=tuple(_variables(sections.get("variables"), file)),
        notes=tuple(draft.notes),
    )


def _digest(texts: Sequence[str]) -> str:
    """Digest a text as it is, and texts that draw others in by the digests of all."""
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in texts]
    return digests[0] if len(digests) == 1 else hashlib.sha256(",".join(digests).encode()).hexdigest()


def _check_keys(sections: dict[str, tuple[yaml.Node, yaml.Node]], file: _File) -> Iterator[Note]:
    """Note keys that conda passes over, too.

    Raises:
        EnvironmentInvalid: One is a slip of the pen, and what stands below it would be lost.
    """
    for key, (node, _) in sections.items():
        if key in _SECTIONS:
            continue
        if key == "pip":
            raise file.fail(node, "'pip' is no section of its own", "write `- pip:` as the last line of dependencies")
        meant = difflib.get_close_matches(key, ("dependencies", "channels", "variables"), n=1, cutoff=0.8)
        if meant:
            raise file.fail(node, f"unknown key {key[:200]!r}", f"did you mean {meant[0]}?")
        if "dependencies" not in sections and "channels" not in sections:
            raise file.fail(
                node,
                f"unknown key {key[:200]!r}, and there is no `dependencies:`: this is no environment file",
                "name the environment file, or write `dependencies:` with `- python=3.11`",
            )
        yield Note(line=node.start_mark.line + 1, message=f"unknown key {key[:200]!r} is passed over, as conda does")


def _require_linux(items: Sequence[tuple[yaml.Node, str]], prefix: str, file: _File) -> None:
    """Require that a file was not made on another platform: an export of builds from there can be met nowhere else.

    Raises:
        EnvironmentInvalid: It was; names the lines, or what else tells.
    """
    foreign = [(item, words.strip(), kind) for item, words in items if (kind := find_platform(words))]
    built = [(item, words.strip()) for item, words in items if has_platform_build(words)]
    export = "make the file anew where it comes from: conda env export --from-history (or --no-builds)"
    home = next((kind for kind, form in _FOREIGN_HOMES if re.match(form, prefix.strip())), None)
    if home and built:
        node, words = built[0]
        raise file.fail(
            node,
            f"this is an export from {home} (its prefix is {prefix.strip()[:200]!r}): {words[:200]!r} and "
            f"{len(built) - 1} other lines name builds from there; images are Linux",
            export,
        )
    if len(foreign) < 2:
        # One alone is told by what reads it.
        return
    node, words, kind = foreign[0]
    lines = ", ".join(str(line) for line in sorted({item.start_mark.line + 1 for item, _, _ in foreign}))
    raise file.fail(
        node,
        f"{words[:200]!r} is {kind}; images are Linux, and {len(foreign)} lines of this file are not for it",
        export if len(built) > 1 else f"make the file with `conda env export --from-history`, or delete lines {lines}",
    )


def _read_selector(node: yaml.MappingNode, file: _File) -> tuple[str, str] | None:
    """Read `sel(linux): package`, as micromamba takes it; None where it is something else.

    Source: CEP 24, dictionary-based selectors.
    """
    if len(node.value) != 1 or not all(isinstance(part, yaml.ScalarNode) for part in node.value[0]):
        return None
    key, value = node.value[0]
    found = re.fullmatch(r"sel\(\s*(unix|linux|osx|win)\s*\)", key.value.strip())
    return (found[1], _scalar(value, file, "a dependency")) if found else None


def _channels(entry: tuple[yaml.Node, yaml.Node] | None, file: _File, draft: PipLines) -> tuple[str, ...]:
    """Read channels; `defaults` is searched last where none of them is known to have a Python, as conda does it.

    Source: CEP 24, which appends the default channels without `nodefaults`.
    """
    names: dict[str, None] = {}
    bare = False
    for item in _sequence(entry, file, "channels"):
        if not file.selected(item):
            continue
        name = _scalar(item, file, "a channel").strip()
        if name == "nodefaults":
            bare = True
            continue
        names.setdefault(parse_channel(name, where=file.where(item)))
    if bare:
        names.pop(DEFAULTS, None)
    if not names and bare:
        raise file.fail(
            entry[1] if entry else yaml.ScalarNode("", ""),
            "no channel is left beside nodefaults",
            "name one, such as conda-forge",
        )
    if not bare and not any(_COMPLETE.intersection(name.split("/")) for name in names):
        if names and entry:
            draft.notes.append(
                Note(
                    line=entry[0].start_mark.line + 1,
                    message="defaults is searched after these channels, as conda does; to leave it out: - nodefaults",
                )
            )
        names[DEFAULTS] = None
    return tuple(names)


def _variables(entry: tuple[yaml.Node, yaml.Node] | None, file: _File) -> Iterator[tuple[str, str]]:
    if entry is None or _is_null(entry[1]):
        return
    for key, (key_node, value) in _mapping(entry[1], file, "variables"):
        if not key or "=" in key or re.search(r"[\s\x00-\x1f]", key):
            raise file.fail(key_node, f"{key!r} is no name of a variable", "write NAME: value")
        yield key, _scalar(value, file, f"variables.{key}")


def _mapping(node: yaml.Node, file: _File, what: str) -> Iterator[tuple[str, tuple[yaml.Node, yaml.Node]]]:
    if not isinstance(node, yaml.MappingNode):
        raise file.fail(node, f"{what} must be a mapping of keys to values", "see the README for an example")
    seen: set[str] = set()
    for key, value in node.value:
        name = _scalar(key, file, "a key").strip()
        if name in seen:
            raise file.fail(key, f"key {name!r} stands twice", "merge the two sections")
        seen.add(name)
        yield name, (key, value)


def _sequence(entry: tuple[yaml.Node, yaml.Node] | None, file: _File, what: str) -> list[yaml.Node]:
    if entry is None or _is_null(entry[1]):
        return []
    if not isinstance(entry[1], yaml.SequenceNode):
        raise file.fail(entry[1], f"{what} must be a list", f"write `{what}:` and below it lines that begin with `- `")
    # A null item is what a bare "-" leaves behind; conda ignores it too.
    return [item for item in entry[1].value if not _is_null(item)]


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")


def _scalar(node: yaml.Node, file: _File, what: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
        raise file.fail(
            node, f"{what} must be a plain value, not {kind}", "write it as one word, in quotes where it holds a `:`"
        )
    value = "" if _is_null(node) else str(node.value)
    if "\0" in value:
        raise file.fail(node, f"{what} holds a character of code 0", "delete it")
    return value


def _read_pip_section(node: yaml.MappingNode, file: _File, draft: PipLines) -> None:
    for key, (key_node, value) in _mapping(node, file, "this entry of dependencies"):
        if key != "pip":
            version = value.value if isinstance(value, yaml.ScalarNode) else ""
            raise file.fail(
                key_node,
                f"unknown section {key!r} in dependencies",
                f"write - {key}={version}" if version else "the only nested section is `pip:`",
            )
        for item in _sequence((key_node, value), file, "pip"):
            if file.selected(item):
                text = _scalar(item, file, "a pip requirement")
                draft.read(text, source=file.source, line=item.start_mark.line + 1, include=file.include)
