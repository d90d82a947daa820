"""Make a recorded run again from its record alone, and hold what comes out against what was recorded."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reprobox.diff.compare import Difference, compare_hardware
from reprobox.diff.findings import find_unpromised
from reprobox.diff.judge import Judgement, RerunJudged, Tolerance, judge_reruns, require_known
from reprobox.diff.trail import Divergence, find_divergence
from reprobox.errors import CommandFailed, Interrupted, RecordError
from reprobox.records.check import require_intact
from reprobox.records.models.difference import TensorDifference, compare_tensors
from reprobox.records.record import Record, RunId
from reprobox.records.store import RunStore
from reprobox.run.driver import load_image_of, load_lock_of, require_gpu_fit, settle_recorded
from reprobox.run.execute import execute
from reprobox.run.materials import gather_from_record
from reprobox.run.trails import load_trail
from reprobox.run.world import Command, World

Rerun = Callable[[], Record]
"""Makes the run again, once; whoever has a scheduler may send it there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What came of making a run again.

    Attributes:
        recorded: The run.
        reruns: The runs made again, each with a record of its own.
        judgement: How they came out.
        hardware: How the machine that ran them differs from the recorded one, of the first of them.
        divergence: The first stage at which the run that is shown parted from the record; None where it did not, or
            where the trails do not tell.
        moved: Path of an output of that run that differs → what its tensors differ in, where they can be read.
        notes: What else a person should know.
    """

    recorded: Record
    reruns: tuple[Record, ...]
    judgement: Judgement
    hardware: tuple[Difference, ...]
    divergence: Divergence | None
    moved: Mapping[str, tuple[TensorDifference, ...]]
    notes: tuple[str, ...]


def verify_run(
    world: World,
    run: RunId,
    *,
    times: int,
    tolerances: Sequence[Tolerance],
    references: Sequence[Record] = (),
    executor: Rerun | None = None,
) -> Verification:
    """Make a run again and judge what comes out.

    Args:
        world: What is needed from outside.
        run: The run.
        times: How often, at least once.
        tolerances: Of its metrics.
        references: Runs whose spread says how far a metric may be off; see `judge_reruns`.
        executor: Makes the run again; None does it here.

    Raises:
        RecordError: There is nothing that can be made again, or not from this record.
        ArtefactAltered: Something of the record is not as it was written; nothing was started.
        CommandFailed: The command, which had ended well, failed this time.
        Interrupted: The user stopped it.
    """
    store = world.store
    recorded = store.load_record(run)
    if recorded.status != "completed":
        raise RecordError(
            f"run {run} is {recorded.status}, so there is no result to come to again",
            hint="name another: reprobox runs",
        )
    require_intact(store, run, workers=world.workers)
    require_known(tolerances, recorded.metrics)
    staging = store.state / f".verify-{secrets.token_hex(6)}"
    try:
        rerun = executor or _plan_rerun(world, recorded, staging)
        reruns = []
        for number in range(times):
            record = rerun()
            if record.status == "interrupted":
                raise Interrupted(f"interrupted; {number} of {times} runs had been made")
            if record.status == "failed":
                raise CommandFailed(
                    f"the command of run {run} ended well when it was recorded and failed now with exit code "
                    f"{record.exit_code}",
                    hint=f"reprobox show {record.run}; what it printed is in {store.run_folder(record.run)}/stderr",
                )
            reruns.append(record)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    judgement = judge_reruns(recorded, reruns, tolerances, references)
    judged = judgement.reruns[judgement.shown]
    divergence: Divergence | None = None
    seen: tuple[str, ...] = ()
    if judgement.verdict != "identical":
        trail = load_trail(store, judged.run)
        divergence = find_divergence(load_trail(store, run), trail)
        # What was seen that may be why it did not come out as recorded.
        seen = tuple(f"{found.where} {found.sentence}" for found in find_unpromised(trail, threads=True))
    return Verification(
        recorded=recorded,
        reruns=tuple(reruns),
        judgement=judgement,
        hardware=compare_hardware(recorded.draft["hardware"], reruns[0].draft["hardware"]),
        divergence=divergence,
        moved=_compare_outputs(store, judged),
        notes=(*_notes(recorded, reruns), *seen),
    )


def _plan_rerun(world: World, recorded: Record, staging: Path) -> Rerun:
    """Prepare all that does not change from one time to the next: image, settings, and a look at every input."""
    began = world.clock.monotonic_s()
    gather_from_record(world, recorded, staging / "probe")
    lock = load_lock_of(world.store, recorded)
    settings, gpus = settle_recorded(world, recorded.draft["settings"])
    require_gpu_fit(world, lock, "auto", settings.gpus, gpus)
    prepared = load_image_of(world, recorded, lock)
    built = world.clock.monotonic_s()
    command = recorded.draft["command"]
    quiet = replace(world, stdout=lambda chunk: None, stderr=lambda chunk: None)
    count = 0

    def rerun() -> Record:
        nonlocal count
        count += 1
        folder = staging / str(count)
        return execute(
            quiet,
            prepared,
            Command(argv=tuple(command["argv"]), script=command["script"], arguments=tuple(command["arguments"])),
            # What there is to say of inputs was said before the first time.
            lambda: gather_from_record(replace(world, say=lambda text: None), recorded, folder),
            settings,
            gpus,
            place=False,
            durations={"image": built - began} if count == 1 else {},
        )

    return rerun


def _compare_outputs(store: RunStore, judged: RerunJudged) -> dict[str, tuple[TensorDifference, ...]]:
    """Compare the tensors of outputs that differ."""
    moved: dict[str, tuple[TensorDifference, ...]] = {}
    for row in judged.outputs:
        if row.grade == "different" and row.recorded is not None and row.found is not None:
            with contextlib.suppress(RecordError):
                moved[row.path] = compare_tensors(
                    store.object_path(row.recorded.sha256),
                    store.object_path(row.found.sha256),
                    format_a=row.recorded.format,
                    format_b=row.found.format,
                )
    return moved


def _notes(recorded: Record, reruns: Sequence[Record]) -> list[str]:
    notes = [f"run {recorded.run} itself is tainted: {reason}" for reason in recorded.tainted]
    notes += [f"run {rerun.run} is tainted: {reason}" for rerun in reruns for reason in rerun.tainted]
    ours, theirs = reruns[0].draft, recorded.draft
    if ours["reprobox"]["guest"] != theirs["reprobox"]["guest"]:
        notes.append("this version of reprobox brings another guest shim than the recorded run had")
    if ours["engine"]["name"] != theirs["engine"]["name"]:
        notes.append(f"made again on {ours['engine']['name']}; recorded on {theirs['engine']['name']}")
    return notes
