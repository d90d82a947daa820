"""One run, from a prepared image to a written record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from reprobox import __version__
from reprobox.diff.findings import find_mistakes, find_unpromised
from reprobox.diff.trail import Event, find_contents
from reprobox.engines.base import (
    PROMISES,
    RUN_LABEL,
    SENTENCES,
    STATE_LABEL,
    Container,
    ContainerRequest,
    EngineInfo,
    Mount,
)
from reprobox.env.lockfile import Lock, render_lock
from reprobox.errors import EngineError, RecordError, ReproboxError
from reprobox.image.oci import render_cuda_labels
from reprobox.records.digests import digest_bytes
from reprobox.records.notes import write_note
from reprobox.records.record import Draft, Record, RecordedFile, RunId, Status
from reprobox.records.store import RunStore, make_run_id
from reprobox.run.collect import Baseline, Collected, collect_outputs, place_outputs, read_baseline, seal
from reprobox.run.hardware import Gpus, load_hardware
from reprobox.run.identity import choose_identity
from reprobox.run.materials import Materials
from reprobox.run.prepare import Prepared
from reprobox.run.settings import GUEST, TRAIL, WORK, Settings, render_variables
from reprobox.run.snapshot import SnapshotPlan, hand_over, hash_inputs, make_mount_points, require_readable
from reprobox.run.trails import find_trail
from reprobox.run.world import Command, Sink, World

GRACE_S = 10
"""How long a container that is asked to end may take."""


def execute(
    world: World,
    prepared: Prepared,
    command: Command,
    gather: Callable[[], Materials],
    settings: Settings,
    gpus: Gpus,
    *,
    place: bool,
    durations: dict[str, float],
) -> Record:
    """Run a command in a prepared image and record it.

    Args:
        world: What is needed from outside.
        prepared: The image, in the engine.
        command: What to run.
        gather: Gives what the run is made from.
        settings: How it is made repeatable.
        gpus: What the driver says of this machine's GPUs.
        place: Whether outputs are shown in the user's folder.
        durations: Seconds of the phases before.

    Raises:
        ReproboxError: It could not be started, or the engine was lost. A command that fails is not an error here.
    """
    store, clock = world.store, world.clock
    started = clock.monotonic_s()
    materials = gather()
    plan, inputs = materials.plan, materials.inputs
    info = world.engine.describe()
    identity = choose_identity(info)
    if not identity.is_caller:
        require_readable(plan, user_id=identity.number)
    if prepared.source is not None:
        world.say(f"note: the image of this lock came from {prepared.source} and was not built here")
    for promise in sorted(set(PROMISES) - set(info.keeps)):
        world.say(f"note: {info.name} cannot {SENTENCES[promise]} here; the record says so")
    for note in plan.notes:
        world.say(f"note: {note}")
    run = make_run_id(clock.now())
    active = store.begin(run)
    try:
        draft = _draft(world, prepared, command, settings, gpus, materials, run=run, info=info, active=active)
        request = _request(prepared, command, settings, materials, active, draft, user=identity.user)
        if not identity.is_caller:
            hand_over(active / "work", user_id=identity.number)
            hand_over(active / "trail", user_id=identity.number)
        baseline = read_baseline(active / "work")
        rest = {
            "baseline": baseline,
            "inputs": [name for name, _ in plan.inputs],
            "outputs": list(materials.outputs),
            "metrics": list(materials.metrics),
            "trained": materials.compared,
            "script": command.script,
        }
        write_note(active / "draft.json", {"draft": draft.to_json(), **rest})
    except BaseException:
        store.discard(run)
        raise
    ready = clock.monotonic_s()
    status, exit_code, notes = _watch(world, request, active)
    ended = clock.monotonic_s()
    tainted = [*notes, *_changed_inputs(plan, inputs, world)]
    # From here on a killed tool loses nothing: what is left to do can be done from these notes.
    write_note(active / "ended.json", {"status": status, "exit_code": exit_code, "tainted": tainted})
    durations = {**durations, "prepare": ready - started, "command": ended - ready}
    record = finish_run(
        store,
        json.loads((active / "draft.json").read_bytes()),
        status=status,
        exit_code=exit_code,
        now=clock.now(),
        durations=lambda: {**durations, "collect": clock.monotonic_s() - ended},
        tainted=tuple(tainted),
        workers=world.workers,
    )
    if place and status == "completed":
        place_outputs(record, store, world.project.root, script=command.script, say=world.say)
    return record


def finish_run(
    store: RunStore,
    note: Mapping[str, Any],
    *,
    status: Status,
    exit_code: int | None,
    now: datetime,
    durations: Callable[[], dict[str, float]],
    tainted: tuple[str, ...],
    workers: int,
) -> Record:
    """Collect what a run made and write its record; also for a run whose tool was killed.

    Args:
        store: Where.
        note: What `draft.json` holds.
        status: How it ended.
        exit_code: Of the command, if known.
        now: The time.
        durations: Gives seconds by phase.
        tainted: Why it is not what it should be.
        workers: Files hashed at once.
    """
    active = store.active_folder(note["draft"]["run"])
    trail = active / "trail" / "trail.jsonl"
    if trail.is_file() and not trail.is_symlink():
        shutil.copyfile(trail, active / "trail.jsonl")
    events = find_trail(active)
    baseline: Baseline = note["baseline"]
    collected = collect_outputs(
        active / "work",
        baseline=baseline,
        store=store,
        not_outputs=note["inputs"],
        patterns=tuple(note["outputs"]),
        metric_patterns=tuple(note["metrics"]),
        workers=workers,
        contents=find_contents(events),
    )
    return seal(
        store,
        note["draft"],
        status=status,
        exit_code=exit_code,
        finished_utc=_iso(now),
        durations_s={name: round(value, 3) for name, value in durations().items()},
        collected=collected,
        trained=note["trained"],
        tainted=tainted,
        findings=_find_mistakes(store, note["draft"], events, collected) if status == "completed" else (),
    )


def _find_mistakes(
    store: RunStore, draft: Mapping[str, Any], trail: Sequence[Event], collected: Collected
) -> tuple[dict[str, Any], ...]:
    """Look at what a run did; at what an evaluation did beside its training, where both left a trail."""
    unpromised = tuple(finding.to_json() for finding in find_unpromised(trail))
    if draft["kind"] != "eval":
        return unpromised
    trained = find_trail(store.run_folder(RunId(draft["of"])))
    if not trained or not trail:
        return unpromised
    files = [*draft["code"]["files"], *draft["inputs"]]
    found = find_mistakes(
        trained,
        trail,
        run=draft["of"],
        outputs={row["path"]: row["sha256"] for row in draft["given"]},
        code={row["path"]: row["sha256"] for row in files},
        made={output.path: output.sha256 for output in collected.outputs},
    )
    return tuple(finding.to_json() for finding in found) + unpromised


def _watch(world: World, request: ContainerRequest, active: Path) -> tuple[Status, int | None, list[str]]:
    """Run the container to its end, or to the user's Ctrl-C.

    Returns:
        Status, exit code, and what should be said of it in the record.
    """
    container: Container | None = None
    notes: list[str] = []
    with (active / "stdout").open("wb") as out, (active / "stderr").open("wb") as err:
        try:
            container = world.engine.start(request, stdout=_tee(out, world.stdout), stderr=_tee(err, world.stderr))
            ended = container.wait()
        except KeyboardInterrupt:
            world.say("stopping the container …")
            if container is None:
                return "interrupted", None, ["interrupted before the command began"]
            _stop(container)
            code = container.wait().exit_code
            container.remove()
            return "interrupted", code, []
        except ReproboxError as error:
            if container is None:
                world.store.discard(RunId(active.name))
            elif isinstance(error, EngineError):
                error.hint = "when the engine is back, `reprobox doctor` records what the run made until then"
            raise
        container.remove()
    if ended.out_of_memory:
        notes.append("the memory limit ended the command")
    return ("completed" if ended.exit_code == 0 else "failed"), ended.exit_code, notes


def _stop(container: Container) -> None:
    try:
        container.stop(grace_s=GRACE_S)
    except KeyboardInterrupt:
        # Asked twice: no more grace.
        container.stop(grace_s=0)


def _tee(file: BinaryIO, sink: Sink) -> Sink:
    def both(chunk: bytes) -> None:
        file.write(chunk)
        file.flush()
        sink(chunk)

    return both


def _draft(
    world: World,
    prepared: Prepared,
    command: Command,
    settings: Settings,
    gpus: Gpus,
    materials: Materials,
    *,
    run: RunId,
    info: EngineInfo,
    active: Path,
) -> Draft:
    """Fill the run's folder and note what is known before the start."""
    store, root, plan = world.store, world.project.root, materials.plan
    work = active / "work"
    for folder in (work, active / "trail"):
        folder.mkdir()
    code = materials.fill(work)
    make_mount_points(plan, work)
    _give_outputs(materials.given, work, store)
    (work / materials.working_directory).mkdir(parents=True, exist_ok=True)
    guest = _copy_guest(active / "guest")
    return Draft(
        run=run,
        kind=materials.kind,
        of=materials.of,
        started_utc=_iso(world.clock.now()),
        command={
            "argv": list(command.argv),
            "script": command.script,
            "arguments": list(command.arguments),
            "working_directory": materials.working_directory,
            "inputs": [name for name, _ in plan.inputs],
            "outputs": list(materials.outputs),
            "metrics": list(materials.metrics),
        },
        environment={
            "name": prepared.entry.name,
            "file": _file_in_project(prepared.entry.environment, root),
            "lock_digest": prepared.lock.digest,
            "lock_sha256": store.keep_bytes(render_lock(prepared.lock).encode()),
            "manifest_digest": prepared.image.manifest_digest,
            "config_digest": prepared.image.config_digest,
            "diff_ids": list(prepared.image.diff_ids),
            "python": prepared.lock.python,
            "platform": prepared.lock.platform,
            "packages": {wheel.name: wheel.version for wheel in prepared.lock.wheels},
            "conda": {package.name: f"{package.version} {package.build}" for package in prepared.lock.conda},
            "cuda": render_cuda_labels(prepared.lock),
        },
        code=code,
        git=materials.git,
        left_out=tuple({"path": path, "reason": reason} for path, reason in plan.left_out),
        inputs=materials.inputs,
        given=materials.given,
        settings=settings.to_json(),
        engine={key: value for key, value in asdict(info).items() if key not in ("cpus", "memory_bytes")}
        | {"keeps": list(info.keeps)},
        hardware={
            **load_hardware(gpus, settings.gpus),
            "cpus": info.cpus,
            "memory_bytes": info.memory_bytes,
        },
        reprobox={"version": __version__, "guest": guest},
    )


def _file_in_project(file: Path, root: Path) -> str | None:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else None


def _give_outputs(given: tuple[RecordedFile, ...], work: Path, store: RunStore) -> None:
    for file in given:
        target = work / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(store.object_path(file.sha256), target)
        target.chmod(0o755 if file.executable else 0o644)


def _copy_guest(target: Path) -> str:
    """Copy the guest shim, and `reprobox.runtime`, where any user of a container can read them, and digest both."""
    from importlib.resources import as_file, files

    parts = []
    with as_file(files("reprobox")) as package:
        shim = [file for file in package.glob("guest/*.py") if file.name not in ("__init__.py", "pyc.py")]
        # In a folder of its own, which the shim offers to programs that have no package of this name.
        copies = {file.name: file for file in shim}
        for file in (package / "__init__.py", *package.glob("runtime/*.py")):
            copies[f"package/reprobox/{file.relative_to(package).as_posix()}"] = file
        for name, file in sorted(copies.items()):
            data = file.read_bytes()
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data)
            copy.chmod(0o644)
            parts.append(f"{name}:{digest_bytes(data)}")
    for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    return digest_bytes("\n".join(parts).encode())


def _request(
    prepared: Prepared,
    command: Command,
    settings: Settings,
    materials: Materials,
    active: Path,
    draft: Draft,
    *,
    user: str,
) -> ContainerRequest:
    mounts = [
        Mount(source=active / "work", target=WORK, writable=True),
        Mount(source=active / "guest", target=GUEST),
        Mount(source=active / "trail", target=TRAIL, writable=True),
    ]
    for name, source in materials.plan.inputs:
        mounts.append(Mount(source=source, target=name if name.startswith("/") else f"{WORK}/{name}"))
    return ContainerRequest(
        name=f"reprobox-{draft.run}",
        image=prepared.image.config_digest,
        argv=command.argv,
        environment=tuple(sorted(render_variables(settings, _project_paths(prepared.lock, active / "work")).items())),
        working_directory=str(PurePosixPath(WORK, materials.working_directory)),
        user=user,
        mounts=tuple(mounts),
        network=settings.network,
        memory_bytes=settings.memory_bytes,
        pids=settings.pids,
        gpus=settings.gpus,
        labels=((RUN_LABEL, draft.run), (STATE_LABEL, str(active.parent.parent))),
    )


def _project_paths(lock: Lock, work: Path) -> tuple[str, ...]:
    """Folders of the project's own code (`-e .`), in the container: each, and its `src` where it has one."""
    folders = [place for folder in lock.requested.project for place in (folder, f"{folder}/src")]
    return tuple(str(PurePosixPath(WORK, folder)) for folder in folders if (work / folder).is_dir())


def _changed_inputs(plan: SnapshotPlan, before: tuple[RecordedFile, ...], world: World) -> list[str]:
    try:
        after = {file.path: file.sha256 for file in hash_inputs(plan, workers=world.workers)}
    except RecordError as error:
        return [f"an input could not be read again after the run: {error.message}"]
    then = {file.path: file.sha256 for file in before}
    changed = [path for path in then if path in after and after[path] != then[path]]
    gone = [path for path in then if path not in after]
    new = [path for path in after if path not in then]
    return [
        f"input {word} during the run: {path}"
        for word, paths in (("changed", changed), ("removed", gone), ("added", new))
        for path in sorted(paths)
    ]


def _iso(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
