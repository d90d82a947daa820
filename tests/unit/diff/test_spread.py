"""Whether a metric is worse than its references make likely."""

from __future__ import annotations

import math
import random

import pytest

from reprobox.diff.spread import LEVEL, is_lower_better, is_worse, student_tail


@pytest.mark.parametrize(
    ("degrees", "t"),
    [(1, 6.313752), (2, 2.919986), (3, 2.353363), (4, 2.131847), (5, 2.015048), (10, 1.812461), (29, 1.699127)],
)
def test_the_tail_is_that_of_the_tables(degrees: int, t: float) -> None:
    """The critical values for one side at 5 %, as every table of Student's t has them."""
    assert student_tail(t, degrees) == pytest.approx(0.05, abs=1e-6)
    assert student_tail(0, degrees) == pytest.approx(0.5)


def test_better_is_never_worse() -> None:
    values = [0.90, 0.91, 0.92]
    assert not is_worse(1.0, values, lower_is_better=False)
    assert is_worse(0.5, values, lower_is_better=False)
    assert is_worse(1.0, values, lower_is_better=True)
    assert not is_worse(0.5, values, lower_is_better=True)
    assert is_worse(math.nan, values, lower_is_better=False)


def test_references_that_agree_leave_no_room() -> None:
    assert is_worse(0.8999, [0.9] * 3, lower_is_better=False)
    assert not is_worse(0.9, [0.9] * 3, lower_is_better=False)


def test_it_calls_as_many_worse_as_it_says() -> None:
    """Of values drawn like the references, one in twenty."""
    draw = random.Random(1)
    called = sum(
        is_worse(draw.gauss(0, 1), [draw.gauss(0, 1) for _ in range(4)], lower_is_better=False) for _ in range(20_000)
    )
    assert called / 20_000 == pytest.approx(LEVEL, abs=0.006)


@pytest.mark.parametrize("name", ["loss", "val_loss", "test.rmse", "model/error", "MAE", "metrics.json:loss"])
def test_less_of_a_loss_is_better(name: str) -> None:
    assert is_lower_better(name)


@pytest.mark.parametrize("name", ["accuracy", "lossless", "auc", "r2", "terror_score"])
def test_more_of_all_else_is_better(name: str) -> None:
    assert not is_lower_better(name)
