"""What locking is asked for, before any solver is."""

from __future__ import annotations

import pytest

from reprobox.errors import UsageError
from reprobox.run.resolve import LockOptions


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31", "2026-01-31T00:00:00Z"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00Z"),
        ("2026-W05-1", "2026-01-26T00:00:00Z"),
    ],
)
def test_a_day_is_the_same_moment_everywhere(text: str, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A date is one moment in UTC, whatever time zone the machine has, and the same for every solver."""
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    options = LockOptions(exclude_newer=text)
    options.require_sense()
    assert options.cutoff == moment


@pytest.mark.parametrize(
    "options",
    [LockOptions(exclude_newer="yesterday"), LockOptions(cuda="twelve"), LockOptions(platform="mars")],
)
def test_what_makes_no_sense_is_usage(options: LockOptions) -> None:
    """Each is refused before anything is asked of an index."""
    with pytest.raises(UsageError):
        options.require_sense()
