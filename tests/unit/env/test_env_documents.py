"""YAML of other people: a value, or a refusal with a place; deep nesting is refused before the C library sees it."""

from __future__ import annotations

import pytest
import yaml

from reprobox.env.documents import compose_yaml, parse_yaml
from reprobox.errors import EnvironmentInvalid

LEVELS = 2000
NESTED = {
    "brackets": "[" * LEVELS + "]" * LEVELS,
    "open brackets": "[" * LEVELS,
    "braces": "{a: " * LEVELS + "}" * LEVELS,
    "both": "[{a: " * LEVELS + "}]" * LEVELS,
    "dashes": "- " * LEVELS + "x\n",
    "question marks": "? " * LEVELS + "x\n",
    "dashes and question marks": "- ? " * LEVELS + "x\n",
    "indented keys": "".join(" " * level + "a:\n" for level in range(LEVELS)),
    "indented dashes": "".join(" " * level + "-\n" for level in range(LEVELS)),
    "brackets in lines": "[\n" * LEVELS,
    "after a long flat text": "- [a]\n" * 500 + "-" + " [" * LEVELS,
}


def nested(levels: int) -> object:
    value: object = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("how", NESTED)
def test_deep_nesting_is_refused(how: str) -> None:
    """In whatever way a text is nested, thousands of levels are refused with the line, and not composed."""
    for parse in (parse_yaml, compose_yaml):
        with pytest.raises(EnvironmentInvalid, match=r"^file\.yml:\d+: nested over 40 levels") as caught:
            parse(NESTED[how], source="file.yml", hint="edit it")
        assert caught.value.hint == "edit it"


@pytest.mark.parametrize("flow", [True, False])
def test_what_people_nest_is_read(flow: bool) -> None:
    """Forty levels are read in both styles, and so is a long text that is not deep, whatever signs are in it."""
    text = yaml.safe_dump(nested(40), default_flow_style=flow)
    assert parse_yaml(text, source="file.yml", hint="") == nested(40)
    with pytest.raises(EnvironmentInvalid, match="nested"):
        parse_yaml(yaml.safe_dump(nested(41), default_flow_style=flow), source="file.yml", hint="")
    flat: dict[str, object] = {f"key {number}": [{"a": "[[[[ - - - ? ?"}] for number in range(200)}
    flat["long"] = " " * 100 + "[{" * 100
    assert parse_yaml(yaml.safe_dump(flat, default_flow_style=flow), source="file.yml", hint="") == flat


@pytest.mark.parametrize(
    "text", ["2024-13-01", "a: 0b_", "!!bool x", "!!int x", "!!timestamp x", "1" * 5000, "? [a]\n: b", "!!binary ü"]
)
def test_a_value_that_cannot_be_made_is_refused(text: str) -> None:
    """What only looks like a date, a number or a key is refused, by the file's name."""
    with pytest.raises(EnvironmentInvalid, match=r"^file\.yml") as caught:
        parse_yaml(text, source="file.yml", hint="edit it")
    assert caught.value.hint == "edit it"


def test_a_text_that_is_none_is_refused() -> None:
    """Characters that YAML has no place for, and halves of others, are refused, and the advice is to save as UTF-8."""
    for text in ("a: \x00", "a: \x07", "a: \ud800"):
        with pytest.raises(EnvironmentInvalid, match=r"^file\.yml"):
            parse_yaml(text, source="file.yml", hint="edit it")


def test_an_empty_document_is_nothing() -> None:
    """An empty text is None, as a value and as a node."""
    for text in ("", "# nothing\n", "---\n"):
        assert parse_yaml(text, source="file.yml", hint="") is None
    assert compose_yaml("", source="file.yml", hint="") is None
