"""`Loop`: wherever a training is interrupted, the resumed one ends with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reprobox.runtime import Loop, StateError, StateMismatch, load_checkpoint, save_checkpoint

EPOCHS, ROWS, SIZE = 3, 20, 4
BATCHES = ROWS // SIZE
X = np.random.default_rng(0).normal(size=(ROWS, 3))
Y = X @ np.array([1.0, -2.0, 0.5])


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the program's own runs after it."""


class Momentum:
    """An optimizer, and its model, with the two methods that PyTorch's have."""

    def __init__(self) -> None:
        self.weights, self.velocity, self.steps = np.zeros(3), np.zeros(3), 0

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "velocity": self.velocity, "state": {0: {"steps": self.steps}}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights, self.velocity = state["weights"], state["velocity"]
        self.steps = state["state"][0]["steps"]

    def step(self, rows: Any, drop: Any) -> None:
        gradient = ((X[rows] * drop) @ self.weights - Y[rows]) @ X[rows]
        self.velocity = 0.9 * self.velocity - 0.01 * gradient
        self.weights = self.weights + self.velocity
        self.steps += 1


def _batches(generator: Any) -> Any:
    order = generator.permutation(ROWS)  # Drawn when the first batch is asked for, as a DataLoader does.
    for start in range(0, ROWS, SIZE):
        yield order[start : start + SIZE]


def _train(path: Path, every: int | None, kill_after: int | None, keep: bool = False) -> tuple[bytes, dict[str, Any]]:
    np.random.seed(7)  # What every start of the program does.
    order, learner, history = np.random.default_rng(7), Momentum(), {"losses": []}
    loop = Loop(path, objects={"learner": learner}, generators={"order": order}, values=history, every=every, keep=keep)
    done = 0
    for _epoch in loop.epochs(EPOCHS):
        for rows in loop.batches(_batches(order)):
            learner.step(rows, np.random.random((SIZE, 3)) > 0.3)
            done += 1
            if done == kill_after:
                raise Killed
        history["losses"] = [*history["losses"], float(np.random.random() + learner.weights.sum())]
    assert learner.steps == EPOCHS * BATCHES
    return learner.weights.tobytes() + learner.velocity.tobytes(), history


@pytest.mark.parametrize("every", [None, 1, 2, 3, BATCHES, 7])
def test_killed_anywhere(tmp_path: Path, every: int | None) -> None:
    """Killed after each step in turn, and again while it is resumed, it ends with the bits of the uninterrupted one."""
    expected = _train(tmp_path / "whole", every, None)
    assert not (tmp_path / "whole").exists()
    for first in range(1, EPOCHS * BATCHES + 1):
        path = tmp_path / f"c{first}"
        for kill in (first, 2, 6):
            try:
                result = _train(path, every, kill)
            except Killed:
                continue
            break
        else:
            result = _train(path, every, None)
        assert result == expected, first


def test_a_loop_that_is_done(tmp_path: Path) -> None:
    """A checkpoint that is kept restores the end without training; it is removed otherwise."""
    expected = _train(tmp_path / "c", 2, None, keep=True)
    assert _train(tmp_path / "c", 2, 1, keep=True) == expected


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    """Data that end before the batch of the checkpoint, or a loop without batches, are told."""
    with pytest.raises(Killed):
        _train(tmp_path / "c", 3, 4)
    objects, generators = {"learner": Momentum()}, {"order": np.random.default_rng(7)}
    loop = Loop(tmp_path / "c", objects=objects, generators=generators)
    next(loop.epochs(2))
    with pytest.raises(StateMismatch, match="written after batch 3, and the data end after 2"):
        list(loop.batches([1, 2]))
    loop = Loop(tmp_path / "c", objects=objects, generators=generators)
    with pytest.raises(StateError, match=r"loop\.batches"):
        list(loop.epochs(2))
    with pytest.raises(ValueError, match="1 batch or more"):
        Loop(tmp_path / "c", every=0)


class Variable:
    """What TensorFlow's modules list: a name, a value, and a way to set it."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self._value = name, np.asarray(value)

    def numpy(self) -> Any:
        return self._value

    def assign(self, value: Any) -> None:
        self._value = value


class Module:
    def __init__(self, *variables: Variable) -> None:
        self.variables = variables


def test_objects_that_list_their_variables(tmp_path: Path) -> None:
    """Variables are restored bit for bit; another count, name, shape or type is named before any is changed."""
    bits = np.array([0x7FC00001, 0x80000000], dtype=np.uint32).view(np.float32)
    save_checkpoint(tmp_path / "c", objects={"m": Module(Variable("a_1/kernel", bits), Variable("b", [1]))})
    fits = Module(Variable("a_2/kernel", np.zeros(2, np.float32)), Variable("b", [0]))
    load_checkpoint(tmp_path / "c", objects={"m": fits})
    assert fits.variables[0].numpy().tobytes() == bits.tobytes()
    for module, words in (
        (Module(Variable("a/kernel", bits)), "there were 2 variables, and there are 1"),
        (Module(Variable("b", bits), Variable("a", [1])), "has the place that"),
        (Module(Variable("a/kernel", bits[:1]), Variable("b", [1])), "was float32"),
        (Module(Variable("a/kernel", bits), Variable("b", [1.0])), "was int64"),
    ):
        before = [variable.numpy() for variable in module.variables]
        with pytest.raises(StateMismatch, match=words):
            load_checkpoint(tmp_path / "c", objects={"m": module})
        assert all(a is b.numpy() for a, b in zip(before, module.variables, strict=True))
