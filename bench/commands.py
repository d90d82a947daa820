"""Run one command and tell what it cost: time, processor time, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_STOP_WAIT_S = 60
_SHOWN_LINES = 15
# A process starts with the memory of the one that it was forked from, which counts as its own peak. So each command is
# started by a small process, not by this one, and what it cost is told over a pipe.
_LAUNCH = """\
import json, os, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
usual = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
process = subprocess.Popen(sys.argv[2:], preexec_fn=usual)
signal.signal(signal.SIGTERM, lambda *_: process.terminate())
_, status, usage = os.wait4(process.pid, 0)
with open(int(sys.argv[1]), "w") as pipe:
    json.dump([os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss], pipe)
"""


class BenchError(Exception):
    """Something could not be measured; the text says what and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a finished command cost.

    Attributes:
        wall_s: Time from its start to its end.
        cpu_s: Processor time of the command and its children, user and system.
        machine_cpu_s: Processor time of the whole machine meanwhile; the engine's work is in it, and everybody else's.
        peak_bytes: Resident memory of the largest process among the command and its children.
        stdout: What it printed.
    """

    wall_s: float
    cpu_s: float
    machine_cpu_s: float
    peak_bytes: int
    stdout: str


def run_command(argv: Sequence[str], *, environ: Mapping[str, str], folder: Path | None = None) -> Cost:
    """Run a command to its end.

    Args:
        argv: The command.
        environ: Its whole environment.
        folder: Its working folder.

    Raises:
        BenchError: It is not there, or failed; the last lines that it printed are in the text.
        KeyboardInterrupt: Interrupted; the command was stopped first.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        reading, writing = os.pipe()
        with os.fdopen(reading) as pipe:
            busy_s, began_s = load_busy_s(), time.perf_counter()
            try:
                process = subprocess.Popen(
                    [sys.executable, "-S", "-E", "-c", _LAUNCH, str(writing), *argv],
                    stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=dict(environ), cwd=folder, pass_fds=[writing],
                )  # fmt: skip
            finally:
                os.close(writing)
            try:
                told = pipe.read()
                process.wait()
            except KeyboardInterrupt:
                _stop(process)
                raise
            wall_s, busy_s = time.perf_counter() - began_s, load_busy_s() - busy_s
        code, cpu_s, peak_kib = json.loads(told) if told else (1, 0.0, 0)
        out.seek(0)
        stdout = out.read().decode("utf-8", "replace")
        if code != 0:
            err.seek(0)
            said = (stdout + err.read().decode("utf-8", "replace")).strip().splitlines()[-_SHOWN_LINES:]
            shown = " ".join(argv)[:200]
            raise BenchError(f"`{shown}` ended with {code}:\n  " + "\n  ".join(said))
    return Cost(
        wall_s=wall_s,
        cpu_s=cpu_s,
        machine_cpu_s=busy_s,
        peak_bytes=peak_kib * 1024,
        stdout=stdout,
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let a command that was interrupted clean up after itself; end it if that takes too long."""
    process.terminate()
    try:
        process.wait(_STOP_WAIT_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()


def load_busy_s() -> float:
    """Seconds that all processors together were busy since the start of the machine; 0 where the kernel does not say.

    Source: proc(5), /proc/stat: user, nice, system, idle, iowait, irq, softirq, …
    """
    try:
        fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    except (OSError, ValueError, IndexError):
        return 0.0
    busy = sum(fields[:3]) + sum(fields[5:7])
    return busy / os.sysconf("SC_CLK_TCK")
