"""A child process that reads HDF5 files, because the HDF5 library can crash, hang or eat memory on a damaged one.

The child is started when first needed, serves one request at a time, and ends with its parent. If a signal ends it or
it takes too long, the file in hand is damaged as far as anybody can tell, and the next request gets a new child. In the
child, memory is limited and HDF5 loads no plugins.

Requests and answers are one line of JSON each. A request has `task` (`detect` or `examine`), `path` and `format`; an
answer has `format`, or `recipe` and `digest`, or `refused`, or `error`.
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
from pathlib import Path
from typing import IO, Any, Final, NoReturn

from reprobox.errors import ContentRefused, RecordError, ReproboxError
from reprobox.records.models_tensors import ContentDigest

_MEMORY_BYTES: Final = 4 << 30
_GRACE_S: Final = 60.0
_SLOWEST_BYTES_PER_S: Final = 1 << 20
"""Slower than any honest file is read: 60 s, and one more for each MiB, is when the child is given up."""

# The child finds reprobox and its libraries where this process did, whatever that process changed since its start.
_PROGRAM: Final = (
    "import os, sys; os.environ.update(HDF5_PLUGIN_PRELOAD='::', OPENBLAS_NUM_THREADS='1'); sys.path[:] = {path!r}; "
    "from reprobox.records.models_reader import serve; serve()"
)


def detect_in_child(path: Path) -> str:
    """Tell which kind of HDF5 file this is.

    Args:
        path: An HDF5 file.

    Returns:
        The format, as `models_formats.detect_hdf5` gives it.

    Raises:
        RecordError: The file crashed the library, or held it for too long.
    """
    return str(_ask("detect", path, "")["format"])


def examine_in_child(path: Path, format: str) -> ContentDigest:
    """Hash what a file holds, by `models.digest_tensors_of` in the child.

    Args:
        path: The file.
        format: A format that HDF5 is part of.

    Returns:
        The digest with its recipe.

    Raises:
        ContentRefused: It holds something that is not read.
        RecordError: It is damaged, crashed the library, or held it for too long.
    """
    answer = _ask("examine", path, format)
    return ContentDigest(recipe=answer["recipe"], digest=answer["digest"])


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
        answers.write(json.dumps(_answer(request["task"], Path(request["path"]), request["format"])) + "\n")
        answers.flush()


def _answer(task: str, path: Path, format: str) -> dict[str, str]:
    from reprobox.records.models import digest_tensors_of
    from reprobox.records.models_formats import detect_hdf5

    try:
        if task == "detect":
            return {"format": detect_hdf5(path)}
        content = digest_tensors_of(path, format)
        return {"recipe": content.recipe, "digest": content.digest}
    except ContentRefused as refused:
        return {"refused": refused.reason}
    except RecordError as error:
        return {"error": error.message}


def _ask(task: str, path: Path, format: str) -> dict[str, Any]:
    absolute = path.absolute()
    try:
        timeout_s = _GRACE_S + absolute.stat().st_size / _SLOWEST_BYTES_PER_S
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror or error}") from error
    request = json.dumps({"task": task, "path": str(absolute), "format": format})
    try:
        answer = _CHILD.ask(request, timeout_s)
    except _Gone as gone:
        raise RecordError(f"{path}: cannot be read as HDF5: {gone}") from gone
    if "refused" in answer:
        raise ContentRefused(path, answer["refused"])
    if "error" in answer:
        raise RecordError(str(answer["error"]).replace(str(absolute), str(path), 1))
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
