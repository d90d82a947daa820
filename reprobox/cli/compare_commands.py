"""`reprobox verify` and `diff`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from reprobox.cli.environment_commands import JsonOption
from reprobox.cli.run_commands import EngineOption, RunArgument, find_latest
from reprobox.cli.session import Session, print_document, say

if TYPE_CHECKING:
    from reprobox.env.lockfile import Lock
    from reprobox.records.record import Record


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("verify")(verify)
    app.command("diff")(diff)


def verify(
    context: typer.Context,
    run: RunArgument = "latest",
    times: Annotated[int, typer.Option("--times", min=1, metavar="N", help="Make it again so often.")] = 1,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            "--tolerance", metavar="[METRIC=]NUMBER[%]", help="How far a metric may be off (default: not at all)."
        ),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference", metavar="RUN", help="A run like it (two or more): a metric may be as far off as these are."
        ),
    ] = None,
    engine: EngineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a recorded run again from its record alone, and compare: bytes, content, metrics."""
    from reprobox.diff.judge import parse_tolerance
    from reprobox.diff.spread import LEAST_RUNS
    from reprobox.errors import NotReproduced, UsageError
    from reprobox.report.difference import describe_verification, explain_verdict, render_verification
    from reprobox.run.verify import verify_run

    session: Session = context.obj
    session.engine_name = engine
    tolerances = [parse_tolerance(text) for text in tolerance or ()]
    run_id = session.store.find_run(run) if run != "latest" else find_latest(session, ("run", "eval"), "make again")
    references = [session.store.load_record(session.store.find_run(name)) for name in reference or ()]
    if 0 < len(references) < LEAST_RUNS - 1:
        raise UsageError(
            f"--reference: {len(references)} run tells of no spread", hint=f"name at least {LEAST_RUNS - 1}"
        )
    found = verify_run(
        session.world(output_to_stderr=as_json), run_id, times=times, tolerances=tolerances, references=references
    )
    if as_json:
        print_document(describe_verification(found))
    else:
        say("")
        for line in render_verification(found, session.style):
            say(line)
        say("")
    if found.judgement.verdict in ("different", "unstable"):
        error = NotReproduced(
            f"not reproduced: {explain_verdict(found.judgement)}",
            hint=f"reprobox diff {run_id} {found.reruns[0].run}",
        )
        error.reported = as_json  # type: ignore[attr-defined]
        raise error


def diff(
    context: typer.Context,
    a: Annotated[str, typer.Argument(metavar="A", help="A run: an id, a unique prefix, latest, or latest~N.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    as_json: JsonOption = False,
) -> None:
    """Show what differs between two runs: environment, code, inputs, settings, hardware, outputs, metrics."""
    from reprobox.diff.compare import compare_records
    from reprobox.diff.trail import compare_trails
    from reprobox.report.difference import list_differences, render_differences
    from reprobox.report.text import Style
    from reprobox.run.trails import load_trail

    session: Session = context.obj
    runs = [session.store.find_run(name) for name in (a, b)]
    records = [session.store.load_record(run) for run in runs]
    found = compare_records(
        *records,
        locks=_load_locks(session, records),
        stages=compare_trails(*(load_trail(session.store, run) for run in runs)),
    )
    if as_json:
        print_document({"a": runs[0], "b": runs[1], "identical": not found, "differences": list_differences(found)})
    else:
        for line in render_differences(found, (runs[0], runs[1]), Style(on=session.style.on)):
            typer.echo(line)
    if found:
        raise typer.Exit(10)


def _load_locks(session: Session, records: list[Record]) -> tuple[Lock, Lock] | None:
    """What both environments were pinned to; None where a lock is not kept, as in records from elsewhere."""
    from reprobox.errors import ReproboxError
    from reprobox.run.driver import load_lock_of

    try:
        first, second = (load_lock_of(session.store, record) for record in records)
    except ReproboxError as error:
        say(f"note: packages are compared by what the records list alone: {error.message}")
        return None
    return first, second
