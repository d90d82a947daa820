"""Find and mend what a killed tool left: containers still running, runs without a record, folders half made.

A run whose draft was written is not thrown away: what it made until then becomes a record with status "interrupted".
Nothing is touched whose owner may still live.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from reprobox.engines.base import Engine, FoundContainer
from reprobox.records.notes import read_note
from reprobox.records.record import RunId
from reprobox.records.store import RunStore
from reprobox.run.execute import finish_run


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something that a killed tool left.

    Attributes:
        run: The run.
        state: "running" (its owner lives), "elsewhere" (its owner is on another machine), "dead".
        action: What was done, or would be: "none", "recorded", "removed".
        container: Whether a container was found for it.
    """

    run: RunId
    state: Literal["running", "elsewhere", "dead"]
    action: Literal["none", "recorded", "removed"]
    container: bool


def recover_runs(
    store: RunStore, engines: Mapping[str, Engine], *, now: datetime, workers: int, act: bool
) -> list[Leftover]:
    """Find what was left, and mend it.

    Args:
        store: The project's records.
        engines: The engines that answer, by name; a run whose own does not is left alone, as it may have a container.
        now: The time.
        workers: Files hashed at once.
        act: Whether to mend, or only to say.

    Returns:
        What was found, by run.
    """
    containers: dict[str, list[tuple[Engine, FoundContainer]]] = {}
    for engine in engines.values():
        for found in engine.find_containers(store.state):
            containers.setdefault(found.run, []).append((engine, found))
    active = {run: owner for run, owner in store.list_active() if not run.startswith(".")}
    finished = set(store.list_runs())
    report = []
    for run, owner in active.items():
        gone = owner.is_gone if owner else True
        if gone is None:
            report.append(Leftover(run=run, state="elsewhere", action="none", container=run in containers))
            continue
        if not gone:
            report.append(Leftover(run=run, state="running", action="none", container=run in containers))
            continue
        action: Literal["none", "recorded", "removed"] = "none"
        note = read_note(store.active_folder(run) / "draft.json")
        its = note["draft"].get("engine", {}).get("name", "docker") if note else None
        if its in engines or (its is None and engines):
            action = "removed" if note is None or run in finished else "recorded"
            if act:
                _mend(store, run, containers.get(run, []), note if action == "recorded" else None, now, workers)
        report.append(Leftover(run=run, state="dead", action=action, container=run in containers))
    for name, found_here in containers.items():
        # A container whose run has ended or never got a folder: its tool was killed between two steps.
        if name not in active:
            for engine, found in found_here if act else ():
                engine.adopt(found).remove()
            report.append(Leftover(run=RunId(name), state="dead", action="removed", container=True))
    if act:
        for run, owner in store.list_active():
            # A folder whose owner was not noted yet may be a moment old, or left by a kill in that moment.
            if run.startswith(".") and owner is not None and owner.is_gone:
                store.discard(run)
    return sorted(report, key=lambda leftover: leftover.run)


def _mend(
    store: RunStore,
    run: RunId,
    containers: list[tuple[Engine, FoundContainer]],
    note: dict[str, Any] | None,
    now: datetime,
    workers: int,
) -> None:
    exit_code: int | None = None
    active = store.active_folder(run)
    for engine, found in containers:
        container = engine.adopt(found)
        container.stop(grace_s=10)
        exit_code = container.wait().exit_code
        if note is not None:
            out, err = engine.read_logs(found)
            (active / "stdout").write_bytes(out)
            (active / "stderr").write_bytes(err)
        container.remove()
    if note is None:
        store.discard(run)
        return
    ended = read_note(active / "ended.json") or {"status": "interrupted", "exit_code": exit_code, "tainted": []}
    finish_run(
        store,
        note,
        status=ended["status"],
        exit_code=ended["exit_code"],
        now=now,
        durations=dict,
        tainted=(*ended["tainted"], "the tool was killed; this record was made afterwards by `reprobox doctor`"),
        workers=workers,
    )
