"""What people and programs are shown."""

from __future__ import annotations

import pytest

from reprobox.errors import CommandFailed
from reprobox.report.documents import render_error, render_run
from reprobox.report.text import (
    Style,
    render_comparison,
    render_details,
    render_runs,
    render_seconds,
    render_size,
    render_summary,
    render_table,
)
from tests.unit.records.test_record_format import OUTPUT, make_record

PLAIN, COLOUR = Style(on=False), Style(on=True)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (2119, "2.12 kB"), (1_780_000_000, "1.78 GB"), (10**13, "10 TB")],
)
def test_sizes(size: int, text: str) -> None:
    """Sizes are in powers of 1000 with three digits."""
    assert render_size(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.31, "0.31 s"), (1.26, "1.3 s"), (42.4, "42 s"), (185, "3 min 5 s")])
def test_seconds(seconds: float, text: str) -> None:
    """Durations are as exact as a person needs."""
    assert render_seconds(seconds) == text


def test_colour_changes_no_word() -> None:
    """A text says the same with and without colour, and columns stay aligned."""
    import re

    row = {"metric": "accuracy", "trained": 0.5, "evaluated": 0.25, "equal": False, "difference": -0.25}
    record = make_record(outputs=(OUTPUT,), comparison=(row,), tainted=("input changed",))
    for render in (render_summary, render_details):
        plain = render(record, "/folder", PLAIN)
        assert [re.sub(r"\x1b\[[0-9;]*m", "", text) for text in render(record, "/folder", COLOUR)] == plain
    assert render_runs([record], PLAIN)[1].startswith(record.run)


def test_a_summary_holds_what_counts() -> None:
    """Status, metrics in their shortest exact form, outputs with digests, image and record are there."""
    text = "\n".join(render_summary(make_record(outputs=(OUTPUT,)), "/folder", PLAIN))
    for word in (
        "completed",
        "20260102T030405-abc123",
        "0.1",
        "NaN",
        "m é.bin",
        "sha256:0000",
        f"sha256:{2:064}",
        "/folder",
    ):
        assert word in text


def test_a_comparison_says_equal_or_by_how_much() -> None:
    """Equal metrics are called so; others show the difference, sign included."""
    rows = [
        {"metric": "a", "trained": 0.1, "evaluated": 0.1, "equal": True, "difference": 0.0},
        {"metric": "b", "trained": 0.973, "evaluated": 0.627, "equal": False, "difference": -0.346},
    ]
    text = render_comparison(rows, PLAIN)
    assert text[1].endswith("equal")
    assert text[2].endswith("differs by -0.346")


def test_tables_align() -> None:
    """Columns start at one place in every row."""
    assert render_table([("a", "bb"), ("ccc", "d")]) == ["  a    bb", "  ccc  d"]
    assert render_table([]) == []


def test_documents_keep_their_keys() -> None:
    """The keys that programs rely on are there."""
    document = render_run(make_record(outputs=(OUTPUT,)), "/folder")
    assert {
        "run", "status", "exit_code", "manifest_digest", "lock_digest", "outputs", "metrics", "tainted", "record",
    } <= set(document)  # fmt: skip
    assert set(document["outputs"][0]) >= {"path", "sha256", "size_bytes", "format", "content"}
    assert render_error(CommandFailed("x", hint="y")) == {"error": {"exit_code": 8, "message": "x", "hint": "y"}}
