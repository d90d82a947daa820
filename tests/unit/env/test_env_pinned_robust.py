"""Whatever is in a lockfile, the answer is a value, or a refusal with a place and advice."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pinned_samples import CONDA_LOCK, EXPLICIT, PIXI_4, PIXI_6, REQUIREMENTS, count_refused, damage, reshape

from reprobox.env.pinned import find_pinned_kind, parse_pinned
from reprobox.env.pinned_conda_lock import parse_conda_lock
from reprobox.env.pinned_explicit import parse_explicit
from reprobox.env.pinned_pixi import parse_pixi_lock
from reprobox.env.pinned_requirements import is_hashed_requirements, parse_requirements
from reprobox.errors import EnvironmentInvalid

FORMATS: dict[str, tuple[Any, str]] = {
    "conda-lock": (parse_conda_lock, CONDA_LOCK),
    "explicit": (parse_explicit, EXPLICIT),
    "pixi 6": (parse_pixi_lock, PIXI_6),
    "pixi 4": (parse_pixi_lock, PIXI_4),
    "requirements": (partial(parse_requirements, include={"a.txt": "x\n"}.get), REQUIREMENTS),
}


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_texts_are_read_or_refused(name: str) -> None:
    """Of 400 texts with spoilt bytes and lines, each is a value or an EnvironmentInvalid; there are some of both."""
    parse, text = FORMATS[name]
    parsed, refused = count_refused(partial(parse, source="envs/lock"), damage(text, count=200, seed=7))
    assert parsed > 20
    assert refused > 20


@pytest.mark.parametrize("name", ["conda-lock", "pixi 6", "pixi 4"])
def test_trees_of_another_shape_are_read_or_refused(name: str) -> None:
    """Of 300 documents with deleted keys and swapped types, each is a value or an EnvironmentInvalid; some of both."""
    parse, text = FORMATS[name]
    parsed, refused = count_refused(partial(parse, source="envs/lock"), reshape(text, count=300, seed=11))
    assert parsed > 20
    assert refused > 20


@given(st.text(max_size=60), st.sampled_from(sorted(FORMATS)))
@settings(max_examples=200, deadline=None, database=None)
def test_any_text_is_read_or_refused(text: str, name: str) -> None:
    """Any text at all, alone and after the first half of a good one."""
    parse, sample = FORMATS[name]
    count_refused(partial(parse, source="envs/lock"), iter((text, sample[: len(sample) // 2] + text)))
    find_pinned_kind(text, text)
    is_hashed_requirements(text)


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("conda-lock.yml", CONDA_LOCK, "conda-lock"),
        ("whatever", CONDA_LOCK.replace("version: 1\n", ""), "conda-lock"),
        ("envs/cuda.conda-lock.yml", "", "conda-lock"),
        ("spec.txt", EXPLICIT, "explicit"),
        ("requirements.txt", EXPLICIT.replace("\n", "\r\n"), "explicit"),
        ("x", PIXI_6, "pixi"),
        ("x", "\ufeff" + PIXI_4, "pixi"),
        ("a/pixi.lock", "", "pixi"),
        ("requirements.txt", "numpy", "requirements"),
        ("dev-requirements.in", "numpy", "requirements"),
        ("requirements/base.txt", "numpy", "requirements"),
        ("pins.txt", REQUIREMENTS, "requirements"),
        ("notes.txt", "numpy", None),
        ("environment.yml", "name: x\ndependencies: [python]\n", None),
        ("poetry.lock", "[metadata]\npackage = 1\n", None),
    ],
)
def test_a_format_is_told_by_content_and_then_by_name(name: str, text: str, kind: str | None) -> None:
    """Content decides before the name, and a file of no known format is none."""
    assert find_pinned_kind(name, text) == kind


def test_every_format_is_dispatched() -> None:
    """parse_pinned gives what the format's own function gives, and passes on what concerns it."""
    for parse, text in FORMATS.values():
        assert parse_pinned(text, source="x.txt") == parse(text, source="x.txt")
    assert len(parse_pinned(CONDA_LOCK, source="x", categories=("dev",)).conda) == 1
    assert len(parse_pinned(PIXI_6, source="x", environment="cuda").conda) == 1
    with pytest.raises(EnvironmentInvalid, match=r"^notes\.txt: no lockfile that is known here"):
        parse_pinned("numpy\n", source="notes.txt")
