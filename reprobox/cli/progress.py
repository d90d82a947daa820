"""Progress of builds: bars on a terminal, a line at each end elsewhere. Called from several threads."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from reprobox.image.build import Progress

_DOING = {
    "packages": "fetching packages", "layers": "making layers", "engine": "loading into the engine", "push": "pushing",
    "pull": "pulling", "export": "writing the bundle", "import": "reading the bundle",
}  # fmt: skip
_IN_BYTES = ("packages", "push", "pull", "export", "import")
_OPEN_ENDED = ("push", "pull", "export", "import")
"""What may move less than was thought, because it is there already."""


_bars: list[Bars] = []


def make_progress(environ: Mapping[str, str]) -> Progress:
    """Make what fits where stderr goes."""
    if sys.stderr.isatty() and environ.get("TERM", "dumb") != "dumb":
        _bars.append(Bars())
        return _bars[-1]
    return Lines()


def close_progress() -> None:
    """Leave the terminal to others: bars that are still drawn would paint over an error."""
    for bars in _bars:
        bars.close()


class Lines:
    """Says when a task begins and when it is done."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._total: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._began: dict[str, float] = {}

    def start(self, task: str, total_bytes: int) -> None:
        """A task begins."""
        with self._mutex:
            self._total[task], self._done[task], self._began[task] = total_bytes, 0, time.monotonic()

    def advance(self, task: str, size_bytes: int) -> None:
        """Some of it is done."""
        with self._mutex:
            if task not in self._total:
                return
            self._done[task] += size_bytes
            if self._done[task] >= self._total[task] and task not in _OPEN_ENDED:
                self._say(task)

    def finish(self, task: str) -> None:
        """It is done."""
        with self._mutex:
            if task in self._total:
                self._say(task)

    def _say(self, task: str) -> None:
        total = self._total.pop(task)
        seconds = time.monotonic() - self._began[task]
        if task in _OPEN_ENDED:
            total = self._done[task]
        amount = f"{total / 1e6:.0f} MB" if task in _IN_BYTES else f"{total} layers"
        sys.stderr.write(f"{_DOING.get(task, task)}: {amount} in {seconds:.1f} s\n")
        sys.stderr.flush()


class Bars:
    """Bars with bytes and time left, by rich."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._progress: Any = None
        self._tasks: dict[str, Any] = {}

    def start(self, task: str, total_bytes: int) -> None:
        """A task begins."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        with self._mutex:
            if self._progress is None:
                self._progress = Progress(
                    TextColumn("{task.description:24}"),
                    BarColumn(),
                    TextColumn("{task.fields[amount]:>16}"),
                    TimeElapsedColumn(),
                    TimeRemainingColumn(),
                    console=Console(stderr=True),
                )
                self._progress.start()
            self._tasks[task] = self._progress.add_task(_DOING.get(task, task), total=total_bytes or None, amount="")

    def advance(self, task: str, size_bytes: int) -> None:
        """Some of it is done."""
        with self._mutex:
            if task not in self._tasks:
                return
            number = self._tasks[task]
            self._progress.update(number, advance=size_bytes)
            row = self._progress.tasks[self._progress.task_ids.index(number)]
            done, total = int(row.completed), int(row.total or 0)
            whole = f"/{total / 1e6:.0f}" if total else ""
            amount = f"{done / 1e6:.0f}{whole} MB" if task in _IN_BYTES else f"{done}/{total}"
            self._progress.update(number, amount=amount)
            if all(row.finished for row in self._progress.tasks):
                self._stop()

    def finish(self, task: str) -> None:
        """It is done."""
        with self._mutex:
            if task in self._tasks and task in _OPEN_ENDED:
                number = self._tasks[task]
                row = self._progress.tasks[self._progress.task_ids.index(number)]
                self._progress.update(number, total=max(1, row.completed), completed=max(1, row.completed))
            if self._progress is not None and all(row.finished for row in self._progress.tasks):
                self._stop()

    def close(self) -> None:
        """Stop drawing, whatever is left to do."""
        with self._mutex:
            if self._progress is not None:
                self._stop()

    def _stop(self) -> None:
        self._progress.stop()
        self._progress = None
        self._tasks.clear()
