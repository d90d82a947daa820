"""A child process that reads HDF5 files, because the HDF5 library can crash, hang or eat memory on a damaged one.

The child is started when first needed, serves one request at a time, and ends with its parent. If a signal ends it or
it takes too long, the file in hand is damaged as far as anybody can tell, and the next request gets a new child. In the
child, memory is limited and HDF5 loads no plugins.

Requests and answers are one line of JSON each. A request has `task` (`detect`, `compare`, or what is to be hashed),
`path` and `format`, and for `compare` also `other_path` and `other_format`. An answer has `format`, or `recipe` and
`digest`, or `differences`, or `refused` and the `path` that it is about, or `error`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn

from reprobox.errors import ContentRefused, RecordError, ReproboxError
from reprobox.records.models.tensors import ContentDigest

if TYPE_CHECKING:
    from reprobox.records.models.difference import TensorDifference
    from reprobox.records.models.parts import Part

_MEMORY_BYTES: Final = 4 << 30
_GRACE_S: Final = 60.0
_SLOWEST_BYTES_PER_S: Final = 1 << 20
"""Slower than any honest file is read: 60 s, and one more for each MiB, is when the child is given up."""

# The child finds reprobox and its libraries where this process did, whatever that process changed since its start.
_PROGRAM: Final = (
    "import os, sys; os.environ.update(HDF5_PLUGIN_PRELOAD='::', OPENBLAS_NUM_THREADS='1'); sys.path[:] = {path!r}; "
    "from reprobox.records.models.reader import serve; serve()"
)


def detect_in_child(path: Path) -> str:
    """Tell which kind of HDF5 file this is.

    Args:
        path: An HDF5 file.

    Returns:
        The format, as `formats.detect_hdf5` gives it.

    Raises:
        RecordError: The file crashed the library, or held it for too long.
    """
    return str(_ask("detect", path, "")["format"])


def examine_in_child(path: Path, format: str, part: Part = "content") -> ContentDigest:
    """Hash what a file holds, or another part of it, in the child.

    Args:
        path: The file.
        format: A format that HDF5 is part of.
        part: Which part.

    Returns:
        The digest with its recipe.

    Raises:
        ContentRefused: It holds something that is not read.
        RecordError: It is damaged, crashed the library, or held it for too long.
    """
    answer = _ask(part, path, format)
    return ContentDigest(recipe=answer["recipe"], digest=answer["digest"])


def compare_in_child(path_a: Path, format_a: str, path_b: Path, format_b: str) -> tuple[TensorDifference, ...]:
    """Compare the tensors of two files, by `difference.compare_in_process` in the child.

    Args:
        path_a: A file.
        format_a: Its format.
        path_b: Another one.
        format_b: Its format.

    Returns:
        What differs.

    Raises:
        ContentRefused: One holds something that is not read.
        RecordError: One is damaged, crashed the library, or held it for too long.
    """
    from reprobox.records.models.difference import TensorDifference

    answer = _ask("compare", path_a, format_a, other=(path_b, format_b))
    rows = answer["differences"]
    for row in rows:
        for shape in ("shape_a", "shape_b"):
            row[shape] = None if row[shape] is None else tuple(row[shape])
    return tuple(TensorDifference(**row) for row in rows)


def serve() -> None:
    """Answer requests until the parent is gone. The child's main function."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    memory_bytes = _MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(_MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Nothing but answers may go to the parent, whatever a library prints.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(2, sys.stdout.fileno())
    for line in sys.stdin:
        request = json.loads(line)
        answers.write(json.dumps(_answer(request)) + "\n")
        answers.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    from reprobox.records.models.difference import compare_in_process
    from reprobox.records.models.formats import detect_hdf5
    from reprobox.records.models.parts import digest_part

    path, format = Path(request["path"]), request["format"]
    try:
        if request["task"] == "detect":
            return {"format": detect_hdf5(path)}
        if request["task"] == "compare":
            differences = compare_in_process(path, format, Path(request["other_path"]), request["other_format"])
            return {"differences": [asdict(difference) for difference in differences]}
        content = digest_part(path, format, request["task"])
        return {"recipe": content.recipe, "digest": content.digest}
    except ContentRefused as refused:
        return {"refused": refused.reason, "path": refused.path}
    except RecordError as error:
        return {"error": error.message}


def _ask(task: str, path: Path, format: str, other: tuple[Path, str] | None = None) -> dict[str, Any]:
    paths = {str(path.absolute()): path}
    request = {"task": task, "path": str(path.absolute()), "format": format}
    if other is not None:
        paths[str(other[0].absolute())] = other[0]
        request |= {"other_path": str(other[0].absolute()), "other_format": other[1]}
    try:
        timeout_s = _GRACE_S + sum(found.stat().st_size for found in paths.values()) / _SLOWEST_BYTES_PER_S
    except OSError as error:
        raise RecordError(f"{error.filename}: cannot be read: {error.strerror or error}") from error
    try:
        answer = _CHILD.ask(json.dumps(request), timeout_s)
    except _Gone as gone:
        raise RecordError(f"{' or '.join(map(str, paths.values()))}: cannot be read as HDF5: {gone}") from gone
    if "refused" in answer:
        raise ContentRefused(paths.get(answer["path"], answer["path"]), answer["refused"])
    if "error" in answer:
        message = str(answer["error"])
        for absolute, given in paths.items():
            message = message.replace(absolute, str(given), 1)
        raise RecordError(message)
    return answer


class _Gone(Exception):
    """The child did not answer; the reason is a clause."""


class _Child:
    """The one child of this process. Callers in several threads wait for each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._errors: IO[bytes] | None = None

    def ask(self, request: str, timeout_s: float) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Args:
            request: One line of JSON.
            timeout_s: When to give up.

        Returns:
            The answer.

        Raises:
            _Gone: A signal ended the child, or it took too long. It is gone now in any case.
            ReproboxError: The child failed by itself, which is a bug of ours or a broken installation.
        """
        with self._lock:
            process = self._start()
            try:
                return self._exchange(process, request, timeout_s)
            except BaseException:
                # An interrupted exchange would leave its answer for the next caller.
                self.stop(now=True)
                raise

    def stop(self, *, now: bool = False) -> None:
        """End the child.

        Args:
            now: Kill it; otherwise it ends because nobody will ask again.
        """
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        if now:
            process.kill()
        with contextlib.suppress(OSError):
            process.communicate()
        if self._errors is not None:
            self._errors.close()

    def _start(self) -> subprocess.Popen[bytes]:
        # A process that was forked from this one has the pipes of a child that is not its own.
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        self.stop()
        self._owner = os.getpid()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C is for the parent alone
        )
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], request: str, timeout_s: float) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(BrokenPipeError):  # it is gone already, as the empty answer will tell
            process.stdin.write(request.encode("utf-8") + b"\n")
            process.stdin.flush()
        received = b""
        while not received.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise _Gone(f"reading it takes longer than {timeout_s:.0f} s")
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                self._explain(process.wait())
            received += piece
        answer: dict[str, Any] = json.loads(received)
        return answer

    def _explain(self, returncode: int) -> NoReturn:
        if returncode < 0:
            raise _Gone(f"it makes the HDF5 library crash with signal {-returncode}")
        assert self._errors is not None
        self._errors.seek(0)
        raise ReproboxError(f"the reader of HDF5 files failed: {self._errors.read().decode(errors='replace')[-2000:]}")


_CHILD: Final = _Child()
atexit.register(_CHILD.stop)
