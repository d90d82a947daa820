"""Nodes of YAML lockfiles, as text and with their lines. Pure.

Lockfiles are read as nodes, not as values: a version `1.10` stays what it says, a checksum of digits keeps its zeros.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from reprobox.env.documents import compose_yaml
from reprobox.errors import EnvironmentInvalid

Fields = dict[str, yaml.Node]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReader:
    """Reads nodes of one file; each method raises EnvironmentInvalid where a node is not what it should be.

    Attributes:
        source: The file's name, for messages.
        hint: What to do where it is broken.
    """

    source: str
    hint: str

    def document(self, text: str) -> Fields:
        """Read the top level of a text, which must be a mapping."""
        root = compose_yaml(text, source=self.source, hint=self.hint)
        if root is None:
            raise EnvironmentInvalid(f"{self.source}: the file is empty", hint=self.hint)
        return self.mapping(root, "the file")

    def mapping(self, node: yaml.Node | None, what: str) -> Fields:
        """Read a mapping in which no key stands twice; nothing and null are an empty one."""
        if node is None or is_null(node):
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise self.refuse(node, f"{what} must be a mapping")
        fields: Fields = {}
        for key, value in node.value:
            name = self.text(key, f"a key of {what}")
            if name in fields:
                raise self.refuse(key, f"key {name!r} stands twice in {what}")
            fields[name] = value
        return fields

    def items(self, node: yaml.Node | None, what: str) -> Iterator[yaml.Node]:
        """Read a list, without its nulls; nothing and null are an empty one."""
        if node is None or is_null(node):
            return
        if not isinstance(node, yaml.SequenceNode):
            raise self.refuse(node, f"{what} must be a list")
        yield from (item for item in node.value if not is_null(item))

    def text(self, node: yaml.Node | None, what: str) -> str:
        """Read a plain value as the text that it is written as; nothing and null are ""."""
        if node is None or is_null(node):
            return ""
        if not isinstance(node, yaml.ScalarNode):
            raise self.refuse(node, f"{what} must be a plain value")
        return str(node.value).strip()

    def size_bytes(self, node: yaml.Node | None, what: str) -> int | None:
        """Read a number of bytes; nothing and null are None."""
        text = self.text(node, what)
        if node is None or not text:
            return None
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise self.refuse(node, f"{what} {text[:80]!r} is no number of bytes")
        return int(text)

    def where(self, node: yaml.Node) -> str:
        """Give file and line of a node."""
        return f"{self.source}:{line_of(node)}"

    def refuse(self, node: yaml.Node, message: str) -> EnvironmentInvalid:
        """Give the refusal of a node."""
        return EnvironmentInvalid(f"{self.where(node)}: {message}", hint=self.hint)


def line_of(node: yaml.Node) -> int:
    """Give the 1-based line where a node begins."""
    return int(node.start_mark.line) + 1


def is_null(node: yaml.Node) -> bool:
    """Whether a node says that there is nothing."""
    return isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")
