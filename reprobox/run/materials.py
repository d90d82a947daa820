"""What goes into a run's working folder: from the project's folder, or from what a record kept.

Both give the same value, so that a run made again from its record alone goes the very way that the first one went.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reprobox.errors import RecordError
from reprobox.records.record import Kind, Record, RecordedFile, RunId
from reprobox.records.store import RunStore
from reprobox.run.snapshot import SnapshotPlan, copy_snapshot, hash_inputs, load_git, plan_snapshot, restore_snapshot
from reprobox.run.world import Command, Options, World


@dataclass(frozen=True, slots=True, kw_only=True)
class Materials:
    """What a run is made from, beside its image.

    Attributes:
        kind: What the run is.
        of: The run that it evaluates or makes again.
        plan: What goes where.
        inputs: Every input file, hashed.
        fill: Fills the empty working folder with code, and gives its files.
        given: Outputs of another run that are put over it; each is an object of the store.
        git: Commit of the code, or None.
        working_directory: Where the command starts, relative to the project.
        outputs: Globs of outputs; empty for all.
        metrics: Globs of metrics files; empty for the usual name.
        compared: Metrics that the run's own are compared with, or None.
    """

    kind: Kind
    of: RunId | None
    plan: SnapshotPlan
    inputs: tuple[RecordedFile, ...]
    fill: Callable[[Path], tuple[RecordedFile, ...]]
    given: tuple[RecordedFile, ...]
    git: dict[str, Any] | None
    working_directory: str
    outputs: tuple[str, ...]
    metrics: tuple[str, ...]
    compared: Mapping[str, Any] | None


def gather_from_folder(world: World, command: Command, options: Options, *, of: Record | None) -> Materials:
    """Gather what the project's folder holds now.

    Args:
        world: What is needed from outside.
        command: What is to run.
        options: What the user wants of it.
        of: The run that is evaluated, whose outputs replace what lies in the folder of that run; or None.

    Raises:
        UsageError: An input does not exist, or the folder holds too much.
        RecordError: An input cannot be read.
    """
    store, root = world.store, world.project.root
    plan = plan_snapshot(root, inputs=(*world.project.run.inputs, *options.inputs), script=command.script, store=store)
    given: tuple[RecordedFile, ...] = ()
    if of is not None:
        plan = _without_outputs_of(of, plan, store, root)
        given = tuple(
            RecordedFile(
                path=output.path, sha256=output.sha256, size_bytes=output.size_bytes, executable=output.executable
            )
            for output in of.outputs
        )
    return Materials(
        kind="run" if of is None else "eval",
        of=of.run if of else None,
        plan=plan,
        inputs=hash_inputs(plan, workers=world.workers),
        fill=lambda work: copy_snapshot(root, plan, work, store),
        given=given,
        git=load_git(root, world.client.environ),
        working_directory=world.cwd.relative_to(root).as_posix(),
        outputs=tuple(options.outputs or world.project.run.outputs),
        metrics=tuple(options.metrics or world.project.run.metrics),
        compared=dict(of.metrics) if of else None,
    )


def _without_outputs_of(of: Record, plan: SnapshotPlan, store: RunStore, root: Path) -> SnapshotPlan:
    """Leave out what lies in the folder from the evaluated run's script: its recorded outputs are put there instead."""
    script = of.draft["command"]["script"]
    given = {output.path for output in of.outputs}
    copied, left_out = [], list(plan.left_out)
    for path in plan.copied:
        if path in given:
            left_out.append((path, f"replaced by the output of run {of.run}"))
            continue
        placed = store.find_placed(path, root / path)
        if placed is not None and placed["script"] == script:
            left_out.append((path, f"made by run {placed['run']}, not by the one that is evaluated"))
            continue
        copied.append(path)
    inputs = tuple((name, source) for name, source in plan.inputs if name not in given)
    return replace(plan, copied=tuple(copied), left_out=tuple(sorted(left_out)), inputs=inputs)


def gather_from_record(world: World, record: Record, staging: Path) -> Materials:
    """Gather what a recorded run was made from: code and outputs given to it from the store, inputs by their hashes.

    An input is taken from where it lies now if it is what it was; else from the store, if a bundle brought it.

    Args:
        world: What is needed from outside.
        record: The run; its folder was checked.
        staging: A folder for inputs that are taken from the store; made when needed, the caller removes it.

    Raises:
        RecordError: An input is not to be had as it was; nothing was started.
    """
    store, root = world.store, world.project.root
    draft = record.draft
    code = tuple(_recorded(row) for row in draft["code"]["files"])
    given = tuple(_recorded(row) for row in draft["given"])
    for file in (*code, *given):
        if file.link is None:
            store.require_object(file.sha256, name=f"{record.run}: {file.path}")
    inputs = tuple(_recorded(row) for row in draft["inputs"])
    places = {name: Path(name) if name.startswith("/") else root / name for name in _find_roots(draft, inputs)}
    plan = SnapshotPlan(
        copied=tuple(file.path for file in code if file.link is None),
        links=tuple((file.path, file.link) for file in code if file.link is not None),
        inputs=tuple(
            (name, _find_input(name, place, inputs, world, staging, run=record.run)) for name, place in places.items()
        ),
        left_out=tuple((row["path"], row["reason"]) for row in draft["code"]["left_out"]),
        notes=(),
    )
    command = draft["command"]
    return Materials(
        kind="verify",
        of=record.run,
        plan=plan,
        inputs=inputs,
        fill=lambda work: restore_snapshot(code, work, store),
        given=given,
        git=draft["code"]["git"],
        working_directory=command["working_directory"],
        outputs=tuple(command.get("outputs", ())),
        metrics=tuple(command.get("metrics", ())),
        compared=dict(record.metrics),
    )


def _recorded(row: Mapping[str, Any]) -> RecordedFile:
    return RecordedFile(
        path=row["path"],
        sha256=row["sha256"],
        size_bytes=row["size_bytes"],
        executable=row.get("executable", False),
        link=row.get("link"),
    )


def _find_roots(draft: Mapping[str, Any], inputs: tuple[RecordedFile, ...]) -> tuple[str, ...]:
    """What was mounted: as the record names it, or each file by itself in a record of a time that did not note it."""
    named = draft["command"].get("inputs")
    return tuple(named) if named is not None else tuple(file.path for file in inputs)


def _find_input(
    name: str, place: Path, inputs: tuple[RecordedFile, ...], world: World, staging: Path, *, run: RunId
) -> Path:
    """Find one input with exactly the recorded content."""
    expected = {file.path: file for file in inputs if file.path == name or file.path.startswith(name + "/")}
    problem = _compare_input(name, place, expected, world.workers)
    if problem is None:
        return place
    store = world.store
    if all(store.object_path(file.sha256).is_file() for file in expected.values()) and expected:
        world.say(f"note: {problem}; what it read is in the store, and is taken from there")
        return _stage(name, expected, store, staging, run=run)
    raise RecordError(
        f"input {problem}, so run {run} cannot be made again",
        hint="put the input back as it was (`reprobox show` lists its digest), or import a bundle that holds it: "
        "reprobox export --inputs",
    )


def _compare_input(name: str, place: Path, expected: Mapping[str, RecordedFile], workers: int) -> str | None:
    """Say how an input differs from what was recorded, or None."""
    if not place.exists():
        return f"{name} is not there"
    plan = SnapshotPlan(copied=(), links=(), inputs=((name, place.resolve()),), left_out=(), notes=())
    found = {file.path: file.sha256 for file in hash_inputs(plan, workers=workers)}
    for path, file in sorted(expected.items()):
        if path not in found:
            return f"{path} is not there"
        if found[path] != file.sha256:
            return f"{path} is not what that run read (recorded sha256:{file.sha256[:16]}…, found {found[path][:16]}…)"
    more = sorted(found.keys() - expected.keys())
    return f"{name} holds {more[0]}, which that run did not read" if more else None


def _stage(name: str, expected: Mapping[str, RecordedFile], store: RunStore, staging: Path, *, run: RunId) -> Path:
    """Lay an input out from objects, under links where the file system has them."""
    top = staging / "inputs" / name.lstrip("/")
    for path, file in expected.items():
        source = store.require_object(file.sha256, name=f"{run}: input {path}")
        target = top if path == name else top / path.removeprefix(name + "/")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
    return top
