"""Turn what a container left behind into outputs, metrics and a record."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from reprobox.errors import ContentRefused, RecordError, ReproboxError
from reprobox.records.digests import digest_file, digest_files
from reprobox.records.metrics import (
    compare_metrics,
    encode_metric,
    is_metrics_file,
    merge_metrics,
    parse_metrics,
)
from reprobox.records.models.content import ContentDigest, detect_format, digest_content, list_companions
from reprobox.records.record import STREAMS, Output, Record, Status
from reprobox.records.store import RunStore

Baseline = dict[str, list[int]]
"""Path → what tells whether a file was written since: inode, size, times of modification and of change in ns."""

_IGNORED = frozenset({"__pycache__", ".ipynb_checkpoints"})


def read_baseline(work: Path) -> Baseline:
    """Note the state of every file of a working folder."""
    return {path: _state(found) for path, found in _files(work)}


def _state(found: os.stat_result) -> list[int]:
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _files(work: Path) -> Iterable[tuple[str, os.stat_result]]:
    for folder, folders, names in os.walk(work):
        folders[:] = sorted(name for name in folders if name not in _IGNORED)
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in sorted([*names, *links]):
            path = Path(folder, name)
            yield path.relative_to(work).as_posix(), path.lstat()


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a run made.

    Attributes:
        outputs: Files, by path.
        metrics: Name → number.
        tainted: What is wrong with some of it.
    """

    outputs: tuple[Output, ...]
    metrics: dict[str, float | int]
    tainted: tuple[str, ...]


def collect_outputs(
    work: Path,
    *,
    baseline: Baseline,
    store: RunStore,
    not_outputs: Iterable[str],
    patterns: tuple[str, ...],
    metric_patterns: tuple[str, ...],
    workers: int,
    contents: Mapping[str, tuple[str, str]] | None = None,
) -> Collected:
    """Take every file that was made, changed or written again into the store.

    Args:
        work: The working folder; nobody writes to it any more.
        baseline: Its state before the start.
        store: Where the files go.
        not_outputs: Paths that are inputs.
        patterns: Globs of outputs; empty for all.
        metric_patterns: Globs of metrics files; empty for `*metrics*.json`.
        workers: Files hashed at once.
        contents: Path → recipe and digest of what only the program itself could look into.

    Returns:
        Outputs, metrics, and what was wrong.
    """
    inputs = tuple(not_outputs)
    tainted: list[str] = []
    found: dict[str, Path] = {}
    for path, state in _files(work):
        if any(path == name or path.startswith(name + "/") for name in inputs) or baseline.get(path) == _state(state):
            continue
        if patterns and not _matches(path, (*patterns, *metric_patterns)):
            continue
        try:
            path.encode("utf-8")
        except UnicodeEncodeError:
            tainted.append(f"an output was left out, its name is not UTF-8: {os.fsencode(path)!r}")
            continue
        place = _real_file(work, work / path, state)
        if place is not None:
            found[path] = place
    digests = digest_files(found.values(), workers)
    recorded = set(found.values())
    outputs: list[Output] = []
    by_file: dict[str, dict[str, float | int]] = {}
    for path, place in sorted(found.items()):
        digest = digests[place]
        try:
            format_ = detect_format(place)
            content = _digest_recorded(place, format_, recorded)
        except ReproboxError as error:
            # Whatever is the matter with one file, the run is recorded.
            format_, content = None, None
            tainted.append(f"{path} looks like a model but cannot be read: {error.message}")
        if _matches(path, metric_patterns) if metric_patterns else is_metrics_file(path):
            try:
                by_file[path] = dict(parse_metrics(place.read_text(encoding="utf-8"), path))
            except (RecordError, UnicodeDecodeError) as error:
                tainted.append(f"{path} holds no readable metrics: {error}")
        outputs.append(
            Output(
                path=path,
                sha256=digest.sha256,
                size_bytes=digest.size_bytes,
                format=format_,
                content=(contents or {}).get(path) if content is None else (content.recipe, content.digest),
                executable=bool(place.stat().st_mode & 0o111),
            )
        )
    for place in found.values():
        store.keep_file(place, digests[place].sha256)
    return Collected(outputs=tuple(outputs), metrics=dict(merge_metrics(by_file)), tainted=tuple(tainted))


def _digest_recorded(place: Path, format_: str | None, recorded: Set[Path]) -> ContentDigest | None:
    """Hash a file's content, unless it lies in other files, too, of which the record has not all."""
    if format_ is None:
        return None
    try:
        companions = list_companions(place, format_)
    except ContentRefused:
        return None
    if any(companion not in recorded for companion in companions):
        return None
    return digest_content(place, format_)


def _real_file(work: Path, path: Path, state: os.stat_result) -> Path | None:
    """Give the regular file that a path stands for; a link counts as what it points to inside the working folder."""
    if stat.S_ISREG(state.st_mode):
        return path
    if stat.S_ISLNK(state.st_mode):
        target = Path(os.path.realpath(path))
        if target.is_relative_to(work.resolve()) and target.is_file():
            return target
    return None


def _matches(path: str, patterns: Iterable[str]) -> bool:
    pure = PurePosixPath(path)
    for pattern in patterns:
        if pure.match(pattern) or path == pattern or path.startswith(pattern.rstrip("/") + "/"):
            return True
    return False


def seal(
    store: RunStore,
    draft: Mapping[str, Any],
    *,
    status: Status,
    exit_code: int | None,
    finished_utc: str,
    durations_s: dict[str, float],
    collected: Collected,
    trained: Mapping[str, Any] | None,
    tainted: tuple[str, ...],
    findings: tuple[dict[str, Any], ...] = (),
) -> Record:
    """Write the record of a run that has ended.

    Args:
        store: Where.
        draft: What was known before the start.
        status: How it ended.
        exit_code: Of the command.
        finished_utc: When.
        durations_s: Seconds by phase.
        collected: What it made.
        trained: Metrics of the evaluated run, or None.
        tainted: Why it is not what it should be, beside what `collected` says.
        findings: What an evaluation was seen to do that it should not.
    """
    active = store.active_folder(draft["run"])
    streams: dict[str, dict[str, Any]] = {}
    for name in STREAMS:
        (active / name).touch()
        digest = digest_file(active / name)
        streams[name] = {"sha256": digest.sha256, "size_bytes": digest.size_bytes}
    comparison: list[dict[str, Any]] = []
    if trained is not None:
        for row in compare_metrics(trained, collected.metrics):
            comparison.append({
                "metric": row.metric,
                "trained": encode_metric(row.trained),
                "evaluated": encode_metric(row.evaluated),
                "equal": row.equal,
                "difference": encode_metric(row.difference),
            })  # fmt: skip
    record = Record(
        draft=dict(draft),
        status=status,
        exit_code=exit_code,
        finished_utc=finished_utc,
        durations_s=durations_s,
        outputs=collected.outputs,
        metrics={name: encode_metric(value) for name, value in collected.metrics.items()},
        comparison=tuple(comparison),
        streams=streams,
        tainted=(*tainted, *collected.tainted),
        findings=findings,
    )
    store.finish(record)
    return replace(record)


def place_outputs(record: Record, store: RunStore, root: Path, *, script: str, say: Callable[[str], None]) -> None:
    """Copy a run's outputs into the user's folder, overwriting nothing that could not be had back.

    Args:
        record: The run.
        store: Holds the outputs.
        root: The project.
        script: What was run.
        say: Told what was kept as it was.
    """
    code = {row["path"]: row["sha256"] for row in record.draft["code"]["files"]}
    for output in record.outputs:
        target = root / output.path
        if not Path(os.path.realpath(target.parent)).is_relative_to(root.resolve()):
            say(f"{output.path} is not placed: its folder leads out of the project")
            continue
        if target.is_symlink() or (target.exists() and not target.is_file()):
            say(f"{output.path} is not placed: something else is there")
            continue
        if target.exists():
            there = digest_file(target).sha256
            if there == output.sha256:
                store.note_placed(output.path, sha256=there, run=record.run, script=script, file=target)
                continue
            if there != code.get(output.path) and not store.object_path(there).exists():
                say(
                    f"{output.path} was changed by someone during the run and is kept; the run's own is in "
                    f"{store.run_folder(record.run) / 'outputs' / output.path}"
                )
                continue
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{record.run}")
        shutil.copyfile(store.object_path(output.sha256), aside)
        aside.chmod(0o755 if output.executable else 0o644)
        aside.replace(target)
        store.note_placed(output.path, sha256=output.sha256, run=record.run, script=script, file=target)
