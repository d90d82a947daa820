"""What is mounted below an input: a bind mount brings it along, and makes only its own top read-only.

Docker before 25 and Podman take "read-only" for the top of what they bind; what is mounted further down stays as it is,
and could be written to. So each such mount is made one of the container's own, read-only as well.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from reprobox.engines.base import Mount


def list_mounts_below(folder: str) -> list[str]:
    """List what is mounted below a folder of this machine, each once, upper ones first.

    Source: proc(5), /proc/pid/mountinfo, field 5, in which blanks and backslashes are octal.
    """
    try:
        rows = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return []
    places = (re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), row.split(b" ")[4]) for row in rows)
    return sorted({place for place in map(os.fsdecode, places) if place.startswith(folder.rstrip("/") + "/")})


def with_mounts_below(mounts: Sequence[Mount]) -> tuple[Mount, ...]:
    """Add to read-only mounts what is mounted below them, read-only too; writable ones stay as they are."""
    added = []
    for mount in mounts:
        if mount.writable:
            continue
        source = os.path.realpath(mount.source)
        for place in list_mounts_below(source):
            added.append(Mount(source=Path(place), target=mount.target + place[len(source) :]))
    return (*mounts, *added)
