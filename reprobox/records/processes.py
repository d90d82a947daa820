"""Processes of this machine, told apart though their numbers are used again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that the kernel knows.

    Attributes:
        started_ticks: When it began, in ticks since the machine did; with its number it names it until the next start.
        is_zombie: Whether it has ended and only was not waited for yet.
    """

    started_ticks: int
    is_zombie: bool


def boot_id() -> str:
    """Id of this machine's current start, or ""."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def find_process(pid: int) -> Process | None:
    """Find a process by its number.

    Source: proc(5), /proc/pid/stat, fields 3 and 22.
    """
    try:
        # The command's name may hold blanks and parentheses; what follows the last one does not.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return Process(started_ticks=int(fields[19]), is_zombie=fields[0] == "Z")
