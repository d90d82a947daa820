"""Whether a metric is worse than the spread of reference runs makes likely. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Final

LEVEL: Final = 0.05
"""A value that would come out as bad as this, or worse, in fewer than so many of like runs is called worse."""

LEAST_RUNS: Final = 3
"""Reference runs, the recorded one among them; two tell of no spread that could be relied on."""

_LOWER_IS_BETTER: Final = re.compile(
    r"(?:^|[._\-/:])(?:loss|error|err|mae|mse|rmse|mape|nll|perplexity|ppl|wer|cer|fid|brier|deviance|regret)"
    r"(?:$|[._\-/:])",
    re.IGNORECASE,
)


def is_lower_better(metric: str) -> bool:
    """Whether less of a metric is better, as its name tells: a loss or an error, whatever stands around the word."""
    return _LOWER_IS_BETTER.search(metric) is not None


def is_worse(found: float, references: Sequence[float], *, lower_is_better: bool) -> bool:
    """Test whether a value is worse than one more run like the references would give.

    A one-sided test at `LEVEL`: the value's distance from the references' mean, in units of what one more value would
    be off by, against Student's t distribution.

    Args:
        found: The value.
        references: At least `LEAST_RUNS` finite values, taken to be drawn from one normal distribution.
        lower_is_better: Which side is the worse one.

    Source: prediction interval of a normal sample; Abramowitz and Stegun, 26.7.3 and 26.7.4, for the distribution.
    """
    if not math.isfinite(found):
        return True
    off = fmean(references) - found
    if lower_is_better:
        off = -off
    if off <= 0:
        return False
    count = len(references)
    scale = stdev(references) * math.sqrt(1 + 1 / count)
    return scale == 0 or student_tail(off / scale, count - 1) < LEVEL


def student_tail(t: float, degrees: int) -> float:
    """The share of Student's t distribution above `t`, which is 0 or more; degrees of freedom are a whole number."""
    theta = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = degrees % 2 == 1
    total, term = 0.0, cosine if odd else 1.0
    for step in range(degrees // 2):
        total += term
        above, below = (2 * step + 2, 2 * step + 3) if odd else (2 * step + 1, 2 * step + 2)
        term *= cosine * cosine * above / below
    inside = 2 / math.pi * (theta + sine * total) if odd else sine * total
    return (1 - inside) / 2
