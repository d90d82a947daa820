"""`BackupAndRestore`: a training by `fit` of Keras 3 that was interrupted goes on, and ends with the same bits.

The callback of that name in Keras restores weights and optimizer. This one also restores what else the result depends
on: seed generators (which no format of Keras holds), every other random generator, the place in the shuffled data,
metrics within an epoch, and what the other callbacks have counted, `History` among them.

Source: Keras 3.15, `fit` in keras/src/backend/*/trainer.py, `EpochIterator` in keras/src/trainers/epoch_iterator.py.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from reprobox.runtime.checkpoint import load_checkpoint, save_checkpoint
from reprobox.runtime.errors import StateError, StateMismatch
from reprobox.runtime.rng import restore_rng_state, rng_state
from reprobox.runtime.tree import encode


class BackupAndRestore(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the state of a training, and restores it when `fit` begins.

    The script of an interrupted training is started again as it is: the same model, the same data, the same call of
    `fit`. What was trained is not trained again, but the data that it was trained on are drawn again and thrown away,
    since the order of the rest depends on them.

    Example:
        model.fit(x, y, epochs=10, callbacks=[EarlyStopping(), BackupAndRestore("training.checkpoint")])

    Args:
        path: The file of the checkpoint; of one call of `fit` only.
        every: Batches from one checkpoint to the next, or "epoch". There is one at the end of each epoch in any case.
        generators: Random generators of the program's own, by name; see `reprobox.runtime.rng_state`.
        keep: Whether the file stays when the training has ended; then the same call of `fit` only restores it.

    Raises:
        StateMismatch: When `fit` begins: the checkpoint is of another model, or of other data.
        StateUnreadable: Likewise: the checkpoint is cut or altered.
    """

    def __init__(
        self,
        path: Any,
        *,
        every: int | str = "epoch",
        generators: Mapping[str, Any] | None = None,
        keep: bool = False,
    ) -> None:
        super().__init__()
        if every != "epoch" and (not isinstance(every, int) or every < 1):
            raise ValueError(f"every: 'epoch', or 1 batch or more, not {every!r}")
        self._path = os.path.abspath(os.fspath(path))
        self._every = every
        self._generators = dict(generators or {})
        self._keep = keep
        self._others: list[Any] = []
        self._at_start: list[dict[str, Any]] = []
        self._saved: dict[str, Any] | None = None
        self._first_epoch: int | None = None
        self._train_rng: dict[str, Any] = {}
        self._epoch_rng: dict[str, Any] = {}
        self._epoch = 0
        self._since = 0
        if every != "epoch":
            # Only then: Keras waits for each batch where a callback wants to hear of its end.
            self.on_train_batch_end = self._end_batch

    def on_train_begin(self, logs: Any = None) -> None:
        """Restore the checkpoint, if there is one."""
        fit = _find_fit()
        data, running = fit["epoch_iterator"], fit["callbacks"]
        self._others = [callback for callback in running.callbacks if callback is not self]
        # First where an epoch begins, last where it ends. The list that is gone through now stays as it is.
        running.callbacks = [_Beginning(self), *self._others, self]
        self._at_start = []
        self._saved, self._first_epoch, self._since = None, None, 0
        self._train_rng = rng_state(self._generators)
        if not os.path.exists(self._path):
            return
        model = self.model
        saved = self._load()
        rng = rng_state(self._generators)
        self._saved, self._first_epoch, self._since = saved, saved["first_epoch"], saved["since"]
        self._train_rng = saved["train_rng"]
        restore_rng_state(self._train_rng, self._generators)
        _draw_epochs(data, saved["epoch"] - saved["first_epoch"])
        if saved["batch"]:
            restore_rng_state(saved["epoch_rng"], self._generators)
            _begin_within(data, saved["batch"], self._restore_within)
        else:
            restore_rng_state(rng, self._generators)
        # What Keras's own callback of this name sets.
        model._initial_epoch = fit["epochs"] if saved["stopped"] else saved["epoch"]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write a checkpoint."""
        self._save(epoch + 1, 0)

    def on_train_end(self, logs: Any = None) -> None:
        """Remove the checkpoint, unless it is to be kept."""
        self.model._initial_epoch = None
        if not self._keep and os.path.exists(self._path):
            os.remove(self._path)

    def _begin_epoch(self, epoch: int) -> None:
        if self._first_epoch is None:
            self._first_epoch = epoch
        self._epoch = epoch
        self._restore_others()
        self._epoch_rng = rng_state(self._generators)

    def _end_batch(self, batch: int, logs: Any = None) -> None:
        # With several batches in one step, this hears of the last of them.
        self._since += int(getattr(self.model, "steps_per_execution", 1))
        if self._since >= int(self._every):
            self._since = 0
            self._save(self._epoch, batch + 1)

    def _save(self, epoch: int, batch: int) -> None:
        model = self.model
        values = {
            "epoch": epoch,
            "batch": batch,
            "first_epoch": self._first_epoch,
            "stopped": bool(model.stop_training),
            "since": self._since,
            "train_rng": self._train_rng,
            "epoch_rng": self._epoch_rng if batch else None,
            "metrics": [keras.ops.convert_to_numpy(variable.value) for variable in model.metrics_variables if batch],
            "callbacks": [_take_callback(*pair) for pair in zip(self._others, self._at_start)],
        }
        save_checkpoint(self._path, objects={"model": model}, generators=self._generators, values=values)

    def _load(self) -> dict[str, Any]:
        values = load_checkpoint(self._path, objects={"model": self.model}, generators=self._generators)
        if not isinstance(values, dict) or "train_rng" not in values:
            raise StateMismatch(f"{self._path}: this checkpoint was not written by BackupAndRestore")
        return values

    def _restore_others(self) -> None:
        """Put the other callbacks where they were, once: they start anew when training begins."""
        if self._saved is None:
            if not self._at_start:
                self._at_start = [_attributes(callback) for callback in self._others]
            return
        self._at_start = [_attributes(callback) for callback in self._others]
        saved, self._saved = self._saved["callbacks"], None
        names = [type(callback).__name__ for callback in self._others]
        if names != [one["type"] for one in saved]:
            raise StateMismatch(
                "the callbacks were {} and are {}".format(", ".join(one["type"] for one in saved), ", ".join(names)),
                hint="call fit with the same callbacks in the same order",
            )
        for callback, one in zip(self._others, saved):
            _give_callback(callback, one)

    def _restore_within(self, batch: Any) -> None:
        """Put everything where it was within the epoch, after what its beginning has done.

        Args:
            batch: One of the data.
        """
        model = self.model
        if not all(metric.variables for metric in model.metrics):
            # What a model is compiled with is made by its first step otherwise, which is too late here.
            model._symbolic_build(data_batch=batch)
        saved = self._load()
        variables = model.metrics_variables
        if len(variables) != len(saved["metrics"]):
            raise StateMismatch(
                f"the metrics had {len(saved['metrics'])} variables within an epoch, and have {len(variables)}",
                hint='write checkpoints at the ends of epochs only: every="epoch"',
            )
        for variable, value in zip(variables, saved["metrics"]):
            variable.assign(value)
        for callback, one in zip(self._others, saved["callbacks"]):
            _give_callback(callback, one)


class _Beginning(keras.callbacks.Callback):  # type: ignore[misc]
    """Hears of beginnings before all other callbacks do."""

    def __init__(self, backup: BackupAndRestore) -> None:
        super().__init__()
        self._backup = backup

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._backup._begin_epoch(epoch)

    def on_train_end(self, logs: Any = None) -> None:
        # Where nothing was left to train, no epoch has begun.
        self._backup._restore_others()


def _find_fit() -> Mapping[str, Any]:
    """The variables of the `fit` that runs: a callback is given neither its data nor the other callbacks."""
    frame = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals
        known = frame.f_code.co_name == "fit" and {"epoch_iterator", "callbacks", "epochs"} <= set(found)
        if known and hasattr(found["epoch_iterator"], "_enumerate_iterator"):
            return found
        frame = frame.f_back  # type: ignore[assignment]
    raise StateError(
        f"this version of Keras, {keras.__version__}, goes through its data in a way that nobody knows here",
        hint="use Keras 3.8 or newer, or a loop of your own with reprobox.runtime.Loop",
    )


def _draw_epochs(data: Any, count: int) -> None:
    """Go through the data as `fit` does, without training."""
    for _ in range(count):
        with data.catch_stop_iteration():
            for _, _, iterator in data._enumerate_iterator():
                for _ in range(data.steps_per_execution):
                    next(iterator)


def _begin_within(data: Any, batches: int, restore: Any) -> None:
    """Have the next epoch begin after some of its batches, and `restore` called between them and the rest."""
    original = data._enumerate_iterator

    def rest() -> Iterator[Any]:
        del data._enumerate_iterator
        steps = original()
        batch = None
        for done in range(0, batches, data.steps_per_execution):
            step = next(steps, None)
            for _ in range(data.steps_per_execution):
                batch = None if step is None else next(step[2], None)
                if batch is None:
                    raise StateMismatch(f"the checkpoint is of batch {batches}, and the data end after {done}")
        restore(batch)
        yield from steps

    data._enumerate_iterator = rest


_NO_STATE = ("_model", "model", "params", "monitor_op")


def _attributes(callback: Any) -> dict[str, Any]:
    """The attributes of a callback: encoded, so that a later change can be seen, or None for what cannot be kept."""
    found: dict[str, Any] = {}
    for name, value in vars(callback).items():
        if name not in _NO_STATE:
            try:
                found[name] = encode(value, name)
            except StateError:
                found[name] = None
    return found


def _take_callback(callback: Any, before: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes that are not what they were when training began; the others are what the program has set."""
    now = _attributes(callback)
    lost = [name for name in now if now[name] is None and (name not in before or before[name] is not None)]
    if lost and not type(callback).__module__.startswith("keras."):
        warnings.warn(
            "{}: what it holds in {} cannot be kept, and will start anew".format(
                type(callback).__name__, ", ".join(lost)
            ),
            stacklevel=2,
        )
    changed = [name for name in now if now[name] is not None and now[name] != before.get(name)]
    return {
        "type": type(callback).__name__,
        "monitors": _monitors(callback),
        "state": {name: vars(callback)[name] for name in changed},
    }


def _give_callback(callback: Any, saved: Mapping[str, Any]) -> None:
    if saved["monitors"] and not _monitors(callback):
        # Chooses how to compare, which is no value, and turns the sign of `min_delta` by that, which is one.
        callback._set_monitor_op()
    vars(callback).update(saved["state"])


def _monitors(callback: Any) -> bool:
    return hasattr(callback, "_set_monitor_op") and callback.monitor_op is not None
