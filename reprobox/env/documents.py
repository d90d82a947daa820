"""Read YAML text that somebody else wrote: whatever is in it, the answer is a value or a message with a place. Pure."""

from __future__ import annotations

import codecs
import re
from typing import Any

import yaml

from reprobox.errors import EnvironmentInvalid

_MAX_DEPTH = 40
"""Levels of nesting. The C library composes recursively, and a deep text would end the process."""


def parse_yaml(text: str, *, source: str, hint: str, aliases: bool = True) -> Any:
    """Parse a YAML document into plain values.

    Args:
        text: The document.
        source: Its name, for messages.
        hint: What to do where it is broken.
        aliases: Whether a value may stand for another one. A few lines of those can stand for more than memory holds.

    Raises:
        EnvironmentInvalid: It is not valid YAML, with line and column where there are some.
    """

    def parse() -> Any:
        if not aliases:
            _require_no_aliases(text, source, hint)
        return yaml.load(text, Loader=yaml.CSafeLoader)

    return _guard(parse, text, source, hint)


def _require_no_aliases(text: str, source: str, hint: str) -> None:
    if not re.search(r"(^|[\s\[{,:?-])\*", text):
        return
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            where = f"{source}:{event.start_mark.line + 1}" if event.start_mark else source
            raise EnvironmentInvalid(f"{where}: a value stands for another one, which has no place here", hint=hint)


def decode_text(data: bytes, *, source: str) -> str:
    """Decode a text that a person or a shell saved: UTF-8, or UTF-16 as PowerShell's `>` writes it.

    Raises:
        EnvironmentInvalid: It is neither.
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise EnvironmentInvalid(f"{source}: cannot be read: {error}", hint="save it as UTF-8 text") from None


def compose_yaml(text: str, *, source: str, hint: str) -> yaml.Node | None:
    """Parse a YAML document into nodes, which know their lines; None for an empty one.

    Args:
        text: The document.
        source: Its name, for messages.
        hint: What to do where it is broken.

    Raises:
        EnvironmentInvalid: It is not valid YAML, with line and column where there are some.
    """
    node: yaml.Node | None = _guard(lambda: yaml.compose(text, Loader=yaml.CSafeLoader), text, source, hint)
    return node


def _guard(parse: Any, text: str, source: str, hint: str) -> Any:
    try:
        _require_shallow(text, source, hint)
        return parse()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        reason = error.problem or error.context
        if "nesting depth" in (reason or "") and mark:
            # Newer releases of the C library count for themselves.
            raise EnvironmentInvalid(
                f"{source}:{mark.line + 1}: nested over {_MAX_DEPTH} levels deep", hint=hint
            ) from None
        raise EnvironmentInvalid(f"{where}: not valid YAML: {reason}", hint=hint) from None
    except yaml.YAMLError as error:
        reason = getattr(error, "reason", None) or (str(error).splitlines() or [""])[0]
        raise EnvironmentInvalid(f"{source}: not valid YAML: {reason}", hint="save the file as UTF-8 text") from None
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError) as error:
        # What the library raises while it makes dates and numbers of what only looks like some.
        raise EnvironmentInvalid(f"{source}: holds a value that YAML cannot make: {error}", hint=hint) from None


def _require_shallow(text: str, source: str, hint: str) -> None:
    # Nesting needs brackets, blanks at the start of a line, or "- " or "? " again and again; most texts have few.
    lines = text.splitlines()
    deepest = max((line.count("- ") + line.count("? ") + len(line) - len(line.lstrip()) for line in lines), default=0)
    if text.count("[") + text.count("{") < _MAX_DEPTH and deepest < _MAX_DEPTH:
        return
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                where = f"{source}:{event.start_mark.line + 1}" if event.start_mark else source
                raise EnvironmentInvalid(f"{where}: nested over {_MAX_DEPTH} levels deep", hint=hint)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
