"""A figure: what was measured, beside what, and how it is judged. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Literal

Numbers = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table, with all its numbers.

    Attributes:
        name: As `--only` takes it.
        what: What was measured of reprobox.
        beside: What was measured beside it; empty if nothing was.
        unit: "s", or "bytes".
        ours: Every measurement, in order.
        theirs: Those beside it.
        rule: What is held against the aim: ours as a share of theirs, ours minus theirs, or ours alone.
        aim: At most this; None where the line only tells.
        also: Other numbers of the same measurement; the name ends with the unit, `_s` or `_bytes`.
    """

    name: str
    what: str
    beside: str
    ours: Numbers
    theirs: Numbers = ()
    unit: Literal["s", "bytes"] = "s"
    rule: Literal["share", "difference", "alone"] = "alone"
    aim: float | None = None
    also: dict[str, Numbers] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The medians, as the rule takes them."""
        mine = statistics.median(self.ours)
        match self.rule:
            case "share":
                return mine / statistics.median(self.theirs)
            case "difference":
                return mine - statistics.median(self.theirs)
            case "alone":
                return mine

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None where there is none."""
        return None if self.aim is None else self.score <= self.aim
