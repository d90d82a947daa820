"""Find what is no longer needed, and say why; remove it when told.

Needed is what a record or a lock of this project names, and what anybody used lately: the cache is shared, and other
projects' records are not known here. What can be had again (packages, layers, unpacked interpreters) goes by age; what
cannot (outputs and code of records, flattened bases) never goes while something may need it.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reprobox.engines.base import Engine
from reprobox.errors import RecordError
from reprobox.image.cache import Cache, place_of_pids
from reprobox.image.layers import DiffId
from reprobox.records.digests import is_digest
from reprobox.records.notes import read_note
from reprobox.records.store import RunStore

_DAY_S = 86_400
_GRACE_S = 3_600
"""Younger than this, a file may be part of what goes on right now."""

Kind = Literal["unfinished", "layer", "note", "package", "interpreter", "object", "image"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """Something that is not needed.

    Attributes:
        kind: What it is.
        name: Path, or the engine's id of an image.
        size_bytes: What its removal frees; 0 where that is not known.
        reason: Why it is not needed.
        engine: Name of the engine that holds it, or None for a file.
    """

    kind: Kind
    name: str
    size_bytes: int
    reason: str
    engine: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What may not go.

    Attributes:
        locks: Digests of locks.
        diff_ids: Layers.
        objects: sha256 of objects of the project's store.
        under_way: Whether runs of this project are under way, or were left behind: they may need any object.
        unknown: Whether one of them has not written down yet what it needs.
    """

    locks: frozenset[str]
    diff_ids: frozenset[str]
    objects: frozenset[str]
    under_way: bool = False
    unknown: bool = False


def load_needs(store: RunStore, cache: Cache, locks: Iterable[str]) -> Needs:
    """Load what a project's records and locks need.

    Raises:
        RecordError: A record is unreadable, so that what it needs is not known.
    """
    wanted = set(locks)
    diff_ids: set[str] = set()
    objects: set[str] = set()
    for run in store.list_runs():
        record = store.load_record(run)
        environment = record.draft["environment"]
        wanted.add(environment["lock_digest"])
        diff_ids.update(environment["diff_ids"])
        objects.add(environment["lock_sha256"])
        objects.update(output.sha256 for output in record.outputs)
        rows = [*record.draft["code"]["files"], *record.draft["inputs"], *record.draft.get("given", ())]
        objects.update(row["sha256"] for row in rows if "link" not in row)
    active, unknown = store.list_active(), False
    for run, _ in active:
        try:
            environment = (read_note(store.active_folder(run) / "draft.json") or {})["draft"]["environment"]
            wanted.add(environment["lock_digest"])
            diff_ids.update(environment["diff_ids"])
        except (KeyError, TypeError):
            unknown = True
    for digest in wanted:
        diff_ids.update((cache.find_image(digest) or {}).get("diff_ids", ()))
    return Needs(
        locks=frozenset(wanted), diff_ids=frozenset(diff_ids), objects=frozenset(objects),
        under_way=bool(active), unknown=unknown,
    )  # fmt: skip


def plan_gc(cache: Cache, store: RunStore, needs: Needs, *, now_s: float, older_days: int) -> list[Removal]:
    """Plan what goes from the cache and the project's store; removes nothing.

    Args:
        cache: The user's cache.
        store: The project's records.
        needs: What may not go.
        now_s: The time, in seconds since the epoch.
        older_days: What was used within so many days stays.
    """
    limit_s = now_s - max(older_days * _DAY_S, _GRACE_S)
    kept, notes = set(needs.diff_ids), []
    for file in _files(cache.root / "images"):
        row = read_note(file) or {}
        if f"sha256:{file.stem}" in needs.locks or _mtime(file) > limit_s:
            kept.update(row.get("diff_ids", ()))
        else:
            notes.append(Removal(kind="note", name=str(file), size_bytes=_size(file), reason=_unused(older_days)))
    plan = [
        *_plan_unfinished(cache, now_s),
        *_plan_imports(store, now_s),
        *notes,
        *_plan_layers(cache, kept, limit_s, older_days),
    ]
    for folder, kind in (("packages", "package"), ("trees", "interpreter")):
        plan += _plan_old(cache.root / folder, kind, limit_s, older_days)  # type: ignore[arg-type]
    for file in [] if needs.under_way else _files(store.state / "objects"):
        sha256 = file.parent.name + file.name
        if sha256 not in needs.objects and _mtime(file) < now_s - _DAY_S:
            reason = "no record of this project names it"
            plan.append(Removal(kind="object", name=str(file), size_bytes=_size(file), reason=reason))
    return plan


def plan_images(engines: Mapping[str, Engine], needs: Needs, cache: Cache, *, unneeded: bool) -> list[Removal]:
    """Plan which images go from engines: parts that a killed build left, and if told those that nothing here needs."""
    plan = []
    builds = any(is_alive(folder) is not False for folder in _entries(cache.root / "unfinished"))
    for name, engine in engines.items():
        for image in engine.list_images():
            if image.partial and not builds:
                plan.append(_image(name, image.id, "part of an image whose build was killed"))
            elif unneeded and not needs.unknown and not image.partial and image.lock not in needs.locks:
                plan.append(_image(name, image.id, "no record or lock of this project needs it"))
    return plan


def _image(engine: str, image: str, reason: str) -> Removal:
    return Removal(kind="image", name=image, size_bytes=0, reason=reason, engine=engine)


def perform(plan: Iterable[Removal], engines: Mapping[str, Engine]) -> int:
    """Remove what is planned; gives the number of bytes that were freed."""
    freed = 0
    for removal in plan:
        if removal.engine is not None:
            engines[removal.engine].remove_image(removal.name)
            continue
        path = Path(removal.name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        freed += removal.size_bytes
    return freed


def _plan_imports(store: RunStore, now_s: float) -> Iterator[Removal]:
    for folder in _entries(store.state):
        what = {".import": "an import", ".verify": "a verification"}.get(folder.name.partition("-")[0])
        if what is not None and _newest(folder) < now_s - _DAY_S:
            reason = f"left by {what} that was killed"
            yield Removal(kind="unfinished", name=str(folder), size_bytes=_size(folder), reason=reason)


def _plan_unfinished(cache: Cache, now_s: float) -> Iterator[Removal]:
    for folder in _entries(cache.root / "unfinished"):
        alive = is_alive(folder)
        if alive is False or (alive is None and _newest(folder) < now_s - _DAY_S):
            reason = "left by a build that was killed"
            yield Removal(kind="unfinished", name=str(folder), size_bytes=_size(folder), reason=reason)


def _plan_layers(cache: Cache, kept: set[str], limit_s: float, older_days: int) -> Iterator[Removal]:
    gone: set[str] = set()
    for file in _files(cache.root / "blobs"):
        if f"sha256:{file.name}" not in kept and _mtime(file) < limit_s:
            gone.add(f"sha256:{file.name}")
            yield Removal(kind="layer", name=str(file), size_bytes=_size(file), reason=_unused(older_days))
    for file in _files(cache.root / "layers"):
        diff_id = (read_note(file) or {}).get("diff_id")
        if diff_id in gone or not is_digest(diff_id) or not cache.blob_path(DiffId(diff_id)).exists():
            yield Removal(kind="note", name=str(file), size_bytes=_size(file), reason="its layer is gone or goes")


def _plan_old(folder: Path, kind: Kind, limit_s: float, older_days: int) -> Iterator[Removal]:
    for entry in _files(folder) if kind == "package" else _entries(folder):
        # A flattened base cannot be fetched again, only made again.
        if entry.name.endswith(".base") or entry.with_name(f"{entry.name}.base").exists():
            continue
        if _mtime(entry) < limit_s:
            yield Removal(kind=kind, name=str(entry), size_bytes=_size(entry), reason=_unused(older_days))


def _unused(days: int) -> str:
    return f"not used for {days} days" if days else "not needed by this project"


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _files(folder: Path) -> list[Path]:
    """Files below a folder, without those that are being written."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.rglob("*") if not path.name.startswith(".") and path.is_file())


def _mtime(path: Path) -> float:
    """Seconds since the epoch; of what is gone by now, the far future."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return math.inf


def _newest(folder: Path) -> float:
    return max((_mtime(path) for path in [folder, *folder.rglob("*")]), default=math.inf)


def _size(path: Path) -> int:
    size = 0
    for entry in path.rglob("*") if path.is_dir() else [path]:
        with contextlib.suppress(FileNotFoundError):
            size += entry.lstat().st_size
    return size


def is_alive(folder: Path) -> bool | None:
    """Whether the process lives that an unfinished folder is named after; None where that cannot be known here."""
    number, _, rest = folder.name.partition("-")
    if not number.isdigit():
        return False
    if rest.partition("-")[0] != place_of_pids():
        return None
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def require_readable_records(store: RunStore) -> None:
    """Require that all records can be read, before anything goes that one of them may need.

    Raises:
        RecordError: One cannot.
    """
    for run in store.list_runs():
        try:
            store.load_record(run)
        except RecordError as error:
            raise RecordError(
                f"nothing was removed, because what run {run} needs is not known: {error.message}", hint=error.hint
            ) from None
