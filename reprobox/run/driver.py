"""Run a script in a pinned image and record it; evaluate a recorded run in that run's image.

resolve environment → build or reuse image → (see `execute`) snapshot code → hash inputs → start container → watch →
collect outputs → hash → write record → show outputs in the user's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reprobox.env.cuda import find_cuda_of
from reprobox.env.cuda_driver import check_architecture, require_driver
from reprobox.env.lockfile import Lock, parse_lock
from reprobox.env.project import LOCK_NAME, EnvironmentEntry, lock_platform
from reprobox.errors import RecordError, UsageError
from reprobox.records.record import Record, RunId
from reprobox.records.store import RunStore
from reprobox.run.execute import execute
from reprobox.run.hardware import Gpus, choose_gpus, describe_host, load_gpus
from reprobox.run.locking import load_fresh_lock, make_lock
from reprobox.run.materials import gather_from_folder
from reprobox.run.prepare import Prepared, make_tools, prepare_image
from reprobox.run.resolve import LockOptions
from reprobox.run.settings import Settings
from reprobox.run.world import Options, World, plan_command


def run_script(world: World, entry: EnvironmentEntry, words: tuple[str, ...], options: Options) -> Record:
    """Run a command in an environment, and record it.

    Raises:
        ReproboxError: It could not be started. A command that fails is not an error here; see the record's status.
    """
    began = world.clock.monotonic_s()
    command = plan_command(words, project=world.project, cwd=world.cwd)
    lock = load_fresh_lock(entry, world.project)
    if lock is None:
        world.say(f"no lock yet: resolving {entry.environment.name}")
        tools = make_tools(
            entry,
            connect=lambda: world.engine,
            client=world.client,
            progress=lambda: world.progress,
            workers=world.workers,
            say=world.say,
        )
        lock_options = LockOptions(platform=lock_platform(entry.lock.name))
        lock = make_lock(entry, world.project, world.client, lock_options, tools=tools)
        world.say(f"wrote {entry.lock}; commit it with {entry.environment.name}")
    settings, gpus = _settings(world, options, {})
    require_gpu_fit(world, lock, options.gpus, settings.gpus, gpus)
    prepared = prepare_image(
        entry,
        lock,
        engine=world.engine,
        client=world.client,
        cache=world.cache,
        progress=world.progress,
        workers=world.workers,
    )
    built = world.clock.monotonic_s()
    return execute(
        world,
        prepared,
        command,
        lambda: gather_from_folder(world, command, options, of=None),
        settings,
        gpus,
        place=options.place,
        durations={"image": built - began},
    )


def evaluate_run(world: World, run: RunId, words: tuple[str, ...], options: Options) -> Record:
    """Evaluate a recorded run's outputs in that run's image, after checking them.

    Raises:
        ArtefactAltered: An output of the run does not hash to what was recorded; nothing was started.
        RecordError: The record is unreadable, or the run's image can be had no more.
        ReproboxError: It could not be started.
    """
    began = world.clock.monotonic_s()
    store = world.store
    command = plan_command(words, project=world.project, cwd=world.cwd)
    trained = store.load_record(run)
    if trained.status != "completed":
        raise RecordError(f"run {run} is {trained.status}, not completed", hint="name another: reprobox runs")
    for output in trained.outputs:
        store.require_object(output.sha256, name=f"{run}: {output.path}")
        store.require_output(run, output)
    checked = world.clock.monotonic_s()
    lock = load_lock_of(store, trained)
    settings, gpus = _settings(world, options, trained.draft["settings"])
    require_gpu_fit(world, lock, options.gpus, settings.gpus, gpus)
    prepared = load_image_of(world, trained, lock)
    built = world.clock.monotonic_s()
    durations = {"check": checked - began, "image": built - checked}
    return execute(
        world,
        prepared,
        command,
        lambda: gather_from_folder(world, command, options, of=trained),
        settings,
        gpus,
        place=options.place,
        durations=durations,
    )


def require_gpu_fit(world: World, lock: Lock, asked: str, chosen: tuple[str, ...], found: Gpus) -> None:
    """Require that this host's driver runs the CUDA of a lock, before anything is built or started.

    Args:
        world: Told what will work only in part.
        lock: The environment.
        asked: As `choose_gpus` takes it.
        chosen: UUIDs of the GPUs that the run gets; without any, nothing needs to fit.
        found: What the driver says.

    Raises:
        AcceleratorError: It does not; names the driver that is needed and the CUDA that would fit.
    """
    if not chosen:
        return
    content = find_cuda_of(lock)
    if not content.cuda and not content.gpu_packages:
        if asked != "auto":
            world.say("note: GPUs were asked for, but this environment brings no CUDA that is known here")
        return
    host = describe_host(found, chosen)
    verdict = require_driver(content, host, gpus_asked=True)
    if verdict.verdict in ("minor-version", "forward"):
        world.say(f"note: {verdict.message}")
    for finding in check_architecture(content, host.gpus if host else ()):
        world.say(f"warning: {finding.message}")


def load_lock_of(store: RunStore, trained: Record) -> Lock:
    """Load the lock that a recorded run kept.

    Raises:
        RecordError: It is not the one that the run had.
    """
    recorded = trained.draft["environment"]
    text = store.require_object(recorded["lock_sha256"], name=f"{trained.run}: its lock").read_text("utf-8")
    lock = parse_lock(text, source=f"the lock of run {trained.run}")
    if lock.digest != trained.lock_digest:
        raise RecordError(f"the lock of run {trained.run} is not the one that it ran with")
    return lock


def find_entry_of(root: Path, trained: Record) -> EnvironmentEntry:
    """Find the environment that a run had, whose folder and file say where some packages are; it may have changed."""
    recorded = trained.draft["environment"]
    name, file = recorded["name"], recorded.get("file")
    if file is not None and (root / file).is_file():
        path = root / file
        return EnvironmentEntry(name=name, environment=path, lock=path.parent / LOCK_NAME)
    return EnvironmentEntry(name=name, environment=root / name, lock=root / LOCK_NAME)


def load_image_of(world: World, trained: Record, lock: Lock) -> Prepared:
    """Have a recorded run's own image in the engine, from the lock that the run kept."""
    entry = find_entry_of(world.project.root, trained)
    prepared = prepare_image(
        entry,
        lock,
        engine=world.engine,
        client=world.client,
        cache=world.cache,
        progress=world.progress,
        workers=world.workers,
    )
    if prepared.image.manifest_digest != trained.manifest_digest:
        raise RecordError(
            f"run {trained.run} ran in image {trained.manifest_digest}; its lock now builds "
            f"{prepared.image.manifest_digest}",
            hint="use the version of reprobox that the run was made with (see `reprobox show`)",
        )
    return prepared


def _settings(world: World, options: Options, recorded: Mapping[str, Any]) -> tuple[Settings, Gpus]:
    """Settle what was left open: by the command line, the evaluated run, the project, this machine, in this order."""
    info = world.engine.describe()
    gpus = load_gpus()
    chosen = choose_gpus(options.gpus, gpus)
    defaults = world.project.run
    return Settings(
        determinism=options.determinism or recorded.get("determinism") or defaults.determinism,
        seed=_first(options.seed, recorded.get("seed"), defaults.seed),
        threads=_first(options.threads, recorded.get("threads"), info.cpus),
        network=options.network,
        memory_bytes=options.memory_bytes or (int(info.memory_bytes * 0.9) or None),
        pids=4096,
        gpus=chosen,
        environment=_let_in((*defaults.env, *options.env), world.client.environ),
        trail=options.trail,
    ), gpus


def settle_recorded(world: World, recorded: Mapping[str, Any]) -> tuple[Settings, Gpus]:
    """Settle a recorded run's settings on this machine: what shapes numbers as recorded, limits as they are here.

    Raises:
        AcceleratorError: It had GPUs, and there are not as many here.
    """
    info = world.engine.describe()
    gpus = load_gpus()
    wanted = tuple(recorded["gpus"])
    here = {gpu.uuid for gpu in gpus.devices}
    asked = ",".join(str(gpu.index) for gpu in gpus.devices if gpu.uuid in wanted)
    return Settings(
        determinism=recorded["determinism"],
        seed=recorded["seed"],
        threads=recorded["threads"],
        network=recorded["network"],
        memory_bytes=int(info.memory_bytes * 0.9) or None,
        pids=recorded["pids"],
        # The same devices where they are; else as many others.
        gpus=choose_gpus((asked if here.issuperset(wanted) else str(len(wanted))) if wanted else "none", gpus),
        environment=tuple(sorted(recorded["environment"].items())),
        trail=recorded.get("trail", True),
    ), gpus


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)


def _let_in(names: tuple[str, ...], environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    values = {}
    for name in names:
        key, separator, value = name.partition("=")
        if not key:
            raise UsageError(f"--env {name!r} names no variable", hint="write --env NAME or --env NAME=VALUE")
        if not separator and key not in environ:
            raise UsageError(f"--env {key}: it is not set here", hint=f"write --env {key}=VALUE")
        values[key] = value if separator else environ[key]
    return tuple(sorted(values.items()))
