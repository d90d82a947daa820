"""A hand-written training loop that can be interrupted anywhere and resumed, whatever the library is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from reprobox.runtime.checkpoint import load_checkpoint, save_checkpoint
from reprobox.runtime.errors import StateError, StateMismatch
from reprobox.runtime.rng import restore_rng_state, rng_state


class Loop:
    """Counts epochs and batches, and keeps and restores everything between them.

    An interrupted program is simply started again: the loop goes on after the last checkpoint. Within an epoch, the
    batches that were done are drawn once more from the data and thrown away, so their order must depend on random
    generators alone, as that of a PyTorch `DataLoader` does.

    Example:
        loop = Loop("checkpoint", objects={"model": model, "optimizer": optimizer}, every=100)
        for epoch in loop.epochs(10):
            for images, labels in loop.batches(loader):
                ...

    Args:
        path: The file of the checkpoint.
        objects: As for `save_checkpoint`.
        generators: Likewise; that of a `DataLoader` or sampler is one of them.
        values: What else the program counts, in place: a dictionary whose entries are kept and restored.
        every: Batches from one checkpoint to the next, or None for one at the end of each epoch only. There is always
            one there.
        keep: Whether the file stays when all epochs are done; then the same loop only restores it.
    """

    def __init__(
        self,
        path: Any,
        *,
        objects: Mapping[str, Any] | None = None,
        generators: Mapping[str, Any] | None = None,
        values: dict[str, Any] | None = None,
        every: int | None = None,
        keep: bool = False,
    ) -> None:
        if every is not None and every < 1:
            raise ValueError(f"every: 1 batch or more, not {every!r}")
        self._path = path
        self._objects = dict(objects or {})
        self._generators = dict(generators or {})
        self.values = {} if values is None else values
        self._every = every
        self._keep = keep
        self._epoch = 0
        self._batch = 0
        self._epoch_rng: dict[str, Any] | None = None
        self._skip: dict[str, Any] | None = None

    def epochs(self, count: int) -> Iterator[int]:
        """Count the epochs that are left, after restoring the last checkpoint if there is one.

        Args:
            count: How many there are in all.

        Raises:
            StateUnreadable: The checkpoint is cut or altered.
            StateMismatch: It does not fit.
        """
        if os.path.exists(self._path):
            self._restore()
        while self._epoch < count:
            if self._skip is None:
                self._batch = 0
                self._epoch_rng = rng_state(self._generators)
            yield self._epoch
            if self._skip is not None:
                raise StateError(
                    "the checkpoint was written within an epoch, and the loop of this program has no batches",
                    hint="go through the data with loop.batches(…), as the interrupted program did",
                )
            self._epoch += 1
            self._batch = 0
            self._save()
        if not self._keep and os.path.exists(self._path):
            os.remove(self._path)

    def batches(self, data: Iterable[Any]) -> Iterator[Any]:
        """Go through the data of one epoch; of a resumed one, through what is left of it.

        Args:
            data: What gives batches, anew in every epoch.

        Raises:
            StateMismatch: The data end before the batch that the checkpoint was written at.
        """
        iterator = iter(data)
        if self._skip is not None:
            for done in range(self._batch):
                if next(iterator, self) is self:
                    raise StateMismatch(
                        f"the checkpoint was written after batch {self._batch}, and the data end after {done}"
                    )
            restore_rng_state(self._skip, self._generators)
            self._skip = None
        for batch in iterator:
            yield batch
            self._batch += 1
            if self._every is not None and self._batch % self._every == 0:
                self._save()

    def _save(self) -> None:
        values = {"epoch": self._epoch, "batch": self._batch, "values": dict(self.values), "epoch_rng": None}
        if self._batch:
            values["epoch_rng"] = self._epoch_rng
        save_checkpoint(self._path, objects=self._objects, generators=self._generators, values=values)

    def _restore(self) -> None:
        values = load_checkpoint(self._path, objects=self._objects, generators=self._generators)
        self._epoch, self._batch = values["epoch"], values["batch"]
        self.values.clear()
        self.values.update(values["values"])
        if self._batch:
            # First the order of the epoch's data is drawn again, then the generators go to where they were.
            self._skip = rng_state(self._generators)
            self._epoch_rng = values["epoch_rng"]
            restore_rng_state(values["epoch_rng"], self._generators)
