"""Load the trails of finished runs, and of those that are being recorded."""

from __future__ import annotations

from pathlib import Path

from reprobox.diff.trail import Event, parse_trail
from reprobox.errors import RecordError
from reprobox.records.record import RunId
from reprobox.records.store import RunStore

_NAME = "trail.jsonl"


def load_trail(store: RunStore, run: str) -> tuple[Event, ...]:
    """Load the trail of a finished run.

    Raises:
        RecordError: It is not there, or cannot be read.
    """
    file = store.run_folder(RunId(run)) / _NAME
    try:
        return parse_trail(file.read_bytes())
    except OSError as error:
        raise RecordError(f"{file}: {error.strerror}", hint=f"see reprobox check {run}") from None


def find_trail(folder: Path) -> tuple[Event, ...]:
    """Find the events of a trail in a folder; none where it has no trail."""
    try:
        return parse_trail((folder / _NAME).read_bytes())
    except OSError:
        return ()
