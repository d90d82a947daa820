"""What can go wrong with a saved state.

StateError              something cannot be kept, for example an object of a type that nobody knows
├── StateUnreadable     a file is cut, altered, or no checkpoint at all
└── StateMismatch       a state does not fit the program that it should be restored in
"""

from __future__ import annotations


class StateError(Exception):
    """Base of all errors that this room raises on purpose.

    Args:
        message: What happened and where, naming the offending object.
        hint: One edit that helps, or None.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message if hint is None else message + "\n\nhint: " + hint)
        self.message = message
        self.hint = hint


class StateUnreadable(StateError):
    """A file is cut, altered, of an unknown version, or no checkpoint at all."""


class StateMismatch(StateError):
    """A state does not fit the program that it should be restored in."""
