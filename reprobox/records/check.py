"""Hash what was recorded again, and say what is not as it was. Executes nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from reprobox.errors import ArtefactAltered, RecordError
from reprobox.records.digests import digest_bytes, digest_file
from reprobox.records.record import STREAMS, Record, RunId, parse_sums


class Checkable(Protocol):
    """What of a store is needed to check a run in it."""

    def object_path(self, sha256: str) -> Path:
        """Where the object with this digest lies, or would."""

    def run_folder(self, run: RunId) -> Path:
        """Where a finished run lies."""

    def load_record(self, run: RunId) -> Record:
        """Load a finished run's record."""


def find_problem(path: Path, sha256: str) -> str | None:
    """Say what is wrong with a file that should hash to something, or None."""
    try:
        found = digest_file(path).sha256
    except RecordError as error:
        return "missing" if not path.exists() else f"cannot be read: {error.message}"
    return None if found == sha256 else f"altered (recorded sha256:{sha256}, found sha256:{found})"


def find_problems(expected: Mapping[Path, str], *, workers: int) -> dict[Path, str]:
    """Say what is wrong with files that should hash to something.

    Several are hashed at once, and one that has several names is hashed once.

    Args:
        expected: File → sha256 in hex.
        workers: Files hashed at once.

    Returns:
        Those files with which something is wrong, in the order given, and what it is.
    """
    groups: dict[tuple[object, str], list[Path]] = {}
    for path, sha256 in expected.items():
        groups.setdefault((_identify(path), sha256), []).append(path)
    found: dict[Path, str] = {}
    with ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="check") as pool:
        problems = pool.map(lambda key: find_problem(groups[key][0], key[1]), groups)
        for paths, problem in zip(groups.values(), problems, strict=True):
            if problem is not None:
                found.update(dict.fromkeys(paths, problem))
    return {path: found[path] for path in expected if path in found}


def _identify(path: Path) -> object:
    """What tells a file from all others: device and inode, or its path where there is none."""
    try:
        state = os.stat(path)  # noqa: PTH116 - the call that follows links, as the digest does
    except OSError:
        return path
    return state.st_dev, state.st_ino


def check_run(store: Checkable, run: RunId, *, workers: int = 1) -> list[tuple[str, str]]:
    """Hash everything that a run's folder and record hold; execute nothing.

    Args:
        store: Where it is.
        run: The run.
        workers: Files hashed at once.

    Returns:
        Pairs of path and problem, by path; empty for an unaltered run.

    Raises:
        RecordError: The record itself is unreadable or altered.
    """
    record = store.load_record(run)
    folder = store.run_folder(run)
    expected = {name: str(record.streams[name]["sha256"]) for name in STREAMS}
    expected |= {f"outputs/{output.path}": output.sha256 for output in record.outputs}
    expected |= {f"code/{row['path']}": row["sha256"] for row in record.draft["code"]["files"] if "link" not in row}
    objects = {f"outputs/{output.path}": store.object_path(output.sha256) for output in record.outputs}
    places = {folder / name: sha256 for name, sha256 in expected.items()}
    places |= {path: expected[name] for name, path in objects.items()}
    wrong = find_problems(places, workers=workers)
    problems = {name: wrong[folder / name] for name in expected if folder / name in wrong}
    try:
        sums = parse_sums(
            (folder / "SHA256SUMS").read_text(encoding="utf-8", errors="surrogateescape"), source="SHA256SUMS"
        )
    except OSError as error:
        problems["SHA256SUMS"] = f"cannot be read: {error.strerror}"
    except RecordError as error:
        problems["SHA256SUMS"] = error.message
    else:
        own = digest_bytes((folder / "record.json").read_bytes())
        if sums != {**expected, "record.json": own}:
            problems.setdefault("SHA256SUMS", "does not say what the record says")
    for name, path in objects.items():
        if path in wrong:
            problems.setdefault(name, f"its object in the store is {wrong[path]}")
    known = {*expected, "record.json", "SHA256SUMS"}
    for entry in folder.rglob("*"):
        name = entry.relative_to(folder).as_posix()
        if name not in known and not entry.is_dir():
            problems[name] = "is not in the record"
    return sorted(problems.items())


def require_intact(store: Checkable, run: RunId, *, workers: int = 1, consequence: str = "") -> None:
    """Require that everything of a run is as it was recorded.

    Args:
        store: Where it is.
        run: The run.
        workers: Files hashed at once.
        consequence: What follows if it is not, for the end of the message.

    Raises:
        ArtefactAltered: Something is not; names the first.
        RecordError: The record itself is unreadable or altered.
    """
    problems = check_run(store, run, workers=workers)
    if problems:
        path, problem = problems[0]
        raise ArtefactAltered(f"run {run}: {path}: {problem}{consequence}", hint=f"see reprobox check {run}")
