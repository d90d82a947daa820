"""`reprobox run`, `eval`, `check`, `runs` and `show`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reprobox.cli.environment_commands import JsonOption
from reprobox.cli.session import Session, print_document, say

if TYPE_CHECKING:
    from reprobox.records.record import Kind, Record, RunId
    from reprobox.run.world import Options

_PASS_ON = {"allow_interspersed_args": False}

RunArgument = Annotated[
    str, typer.Argument(metavar="[RUN]", help="An id, a unique prefix, latest, or latest~N.", show_default=False)
]
CommandArgument = Annotated[
    list[str], typer.Argument(metavar="SCRIPT.py [ARGS]… | -- COMMAND [ARGS]…", help="What to run.", show_default=False)
]
InputOption = Annotated[
    list[str] | None, typer.Option("--input", "-i", metavar="PATH", help="Mount it read-only; hashed before and after.")
]
OutputOption = Annotated[
    list[str] | None,
    typer.Option("--output", "-o", metavar="GLOB", help="Only these are outputs (default: all new files)."),
]
MetricsOption = Annotated[
    list[str] | None, typer.Option("--metrics", metavar="GLOB", help="Files with metrics (default: *metrics*.json).")
]
DeterminismOption = Annotated[
    str | None, typer.Option("--determinism", metavar="LEVEL", help="strict (default), seeded, portable or off.")
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of every generator (default 0).")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads of every pool (default: the engine's CPUs).")
]
GpusOption = Annotated[
    str | None, typer.Option("--gpus", metavar="GPUS", help="auto (default), none, all, a number, or indices: 0,2")
]
EnvOption = Annotated[
    list[str] | None, typer.Option("--env", metavar="NAME[=VALUE]", help="Let this variable in; nothing else gets in.")
]
NetworkOption = Annotated[bool, typer.Option("--network", help="Give the container a network.")]
MemoryOption = Annotated[
    str | None, typer.Option("--memory", metavar="SIZE", help="Limit, such as 8g (default: 90 % of the engine's).")
]
EngineOption = Annotated[
    str | None,
    typer.Option("--engine", metavar="NAME", help="docker, podman or charliecloud (default: the first that answers)."),
]
NoPlaceOption = Annotated[
    bool, typer.Option("--no-place", help="Do not copy outputs into this folder; only record them.")
]
NoTrailOption = Annotated[bool, typer.Option("--no-trail", help="Do not note stages: data read, fits, predictions.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("run", context_settings=_PASS_ON)(run)
    app.command("eval", context_settings=_PASS_ON)(evaluate)
    app.command("check")(check)
    app.command("runs")(runs)
    app.command("show")(show)


def run(
    context: typer.Context,
    command: CommandArgument,
    environment: Annotated[
        str | None, typer.Option("--environment", "-e", metavar="ENV", help="Which environment.")
    ] = None,
    inputs: InputOption = None,
    outputs: OutputOption = None,
    metrics: MetricsOption = None,
    determinism: DeterminismOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    gpus: GpusOption = None,
    env: EnvOption = None,
    network: NetworkOption = False,
    memory: MemoryOption = None,
    no_place: NoPlaceOption = False,
    no_trail: NoTrailOption = False,
    engine: EngineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a script, or any command, in the pinned image, and record it."""
    from reprobox.run.driver import run_script

    session: Session = context.obj
    session.engine_name = engine
    options = _options(
        session, inputs, outputs, metrics, determinism, seed, threads, gpus, env, network, memory, no_place, no_trail
    )
    entry = session.find_environment_for_here(environment)
    world = session.world(output_to_stderr=as_json)
    _conclude(session, run_script(world, entry, tuple(command), options), as_json=as_json, gate=False)


def evaluate(
    context: typer.Context,
    command: CommandArgument,
    of: Annotated[str, typer.Option("--of", metavar="RUN", help="The run to evaluate.")] = "latest",
    gate: Annotated[
        bool, typer.Option("--gate", help="Exit with 10 if a metric differs or something is wrong.")
    ] = False,
    inputs: InputOption = None,
    outputs: OutputOption = None,
    metrics: MetricsOption = None,
    determinism: DeterminismOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    gpus: GpusOption = None,
    env: EnvOption = None,
    network: NetworkOption = False,
    memory: MemoryOption = None,
    no_place: NoPlaceOption = False,
    no_trail: NoTrailOption = False,
    engine: EngineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a recorded run's outputs in that run's own image, after checking them."""
    from reprobox.run.driver import evaluate_run

    session: Session = context.obj
    session.engine_name = engine
    options = _options(
        session, inputs, outputs, metrics, determinism, seed, threads, gpus, env, network, memory, no_place, no_trail
    )
    run_id = session.store.find_run(of) if of != "latest" else find_latest(session, ("run",), "evaluate")
    world = session.world(output_to_stderr=as_json)
    _conclude(session, evaluate_run(world, run_id, tuple(command), options), as_json=as_json, gate=gate)


def find_latest(session: Session, kinds: tuple[Kind, ...], purpose: str) -> RunId:
    """Find the latest completed run of some kinds.

    Args:
        session: The call.
        kinds: Which runs count.
        purpose: What it is wanted for, for the message.

    Raises:
        RecordNotFound: There is no run at all.
        RecordError: There is none of these that was completed.
    """
    from reprobox.errors import RecordError

    names = session.store.list_runs()
    for name in reversed(names):
        record = session.store.load_record(name)
        if record.draft["kind"] in kinds and record.status == "completed":
            return name
    if names:
        raise RecordError(f"no completed run to {purpose}", hint="list them: reprobox runs")
    return session.store.find_run("latest")


def _options(
    session: Session,
    inputs: list[str] | None,
    outputs: list[str] | None,
    metrics: list[str] | None,
    determinism: str | None,
    seed: int | None,
    threads: int | None,
    gpus: str | None,
    env: list[str] | None,
    network: bool,
    memory: str | None,
    no_place: bool,
    no_trail: bool,
) -> Options:
    import os
    from typing import get_args

    from reprobox.env.project import Determinism
    from reprobox.errors import UsageError
    from reprobox.run.world import Options

    if determinism is not None and determinism not in get_args(Determinism):
        raise UsageError(
            f"--determinism {determinism!r} is no level", hint=f"one of {', '.join(get_args(Determinism))}"
        )
    root, cwd = session.project.root, session.cwd
    # Paths on the command line start where the user stands; those in reprobox.toml start at the project.
    relative = tuple(os.path.relpath(cwd / name, root) if not name.startswith("/") else name for name in inputs or ())
    return Options(
        inputs=relative,
        outputs=tuple(outputs or ()),
        metrics=tuple(metrics or ()),
        determinism=determinism,
        seed=seed,
        threads=threads,
        gpus=gpus or session.project.run.gpus,
        env=tuple(env or ()),
        network=network,
        memory_bytes=_parse_size(memory),
        place=not no_place,
        trail=not no_trail,
    )


def _parse_size(text: str | None) -> int | None:
    import re

    from reprobox.errors import UsageError

    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.strip().lower())
    if not found:
        raise UsageError(f"--memory {text!r} is no size", hint="write 512m or 8g")
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2] or " "))


def _conclude(session: Session, record: Record, *, as_json: bool, gate: bool) -> None:
    """Print what became of a run, and raise what its exit code calls for."""
    from reprobox.errors import CommandFailed, Interrupted, NotReproduced, ReproboxError
    from reprobox.report.documents import render_run
    from reprobox.report.text import render_summary

    folder = str(session.store.run_folder(record.run))
    if as_json:
        print_document(render_run(record, folder))
    else:
        say("")
        for line in render_summary(record, folder, session.style):
            say(line)
        say("")
    error: ReproboxError | None = None
    if record.status == "failed":
        reason = "; the memory limit ended it" if any("memory limit" in note for note in record.tainted) else ""
        error = CommandFailed(
            f"the command failed with exit code {record.exit_code}{reason}", hint=f"reprobox show {record.run}"
        )
    elif record.status == "interrupted":
        error = Interrupted(f"interrupted; what was made until then is recorded as {record.run}")
    elif gate and any(row["severity"] == "error" for row in record.findings):
        named = ", ".join(dict.fromkeys(row["factor"] for row in record.findings if row["severity"] == "error"))
        error = NotReproduced(f"something is wrong with the evaluation: {named}", hint=f"reprobox show {record.run}")
    elif gate and not record.comparison:
        error = NotReproduced(
            "no metric to compare: training and evaluation have none in common",
            hint="write both to files called *metrics*.json, under the same names",
        )
    elif gate and not all(row["equal"] for row in record.comparison):
        names = ", ".join(row["metric"] for row in record.comparison if not row["equal"])
        error = NotReproduced(f"not reproduced: {names} differ", hint=f"reprobox show {record.run}")
    if error is not None:
        error.reported = as_json  # type: ignore[attr-defined]
        raise error


def check(
    context: typer.Context,
    run: RunArgument = "latest",
    key: Annotated[
        list[Path] | None,
        typer.Option("--key", metavar="FILE", help="Public key that must have attested the run; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Hash everything that a run recorded again, and check what attests it; execute nothing."""
    from reprobox.cli.attest_command import check_signed, describe_signed, render_failure, render_signed
    from reprobox.errors import ArtefactAltered
    from reprobox.records.check import check_run

    session: Session = context.obj
    run_id = session.store.find_run(run)
    signed, unsigned = check_signed(session, run_id, key or ())
    altered = check_run(session.store, run_id, workers=session.workers)
    problems = [*altered, *unsigned]
    changed = _changed_inputs(session, run_id)
    if as_json:
        print_document(
            {
                "run": run_id,
                "intact": not problems,
                "problems": [{"path": path, "problem": problem} for path, problem in problems],
                "inputs_changed": changed,
                "attestations": describe_signed(signed),
            }
        )
    if problems:
        message, hint = render_failure(run_id, altered, unsigned)
        error = ArtefactAltered(message, hint=hint)
        error.reported = as_json  # type: ignore[attr-defined]
        raise error
    if not as_json:
        for path in changed:
            say(f"note: input {path} is no longer what the run read")
        for line in render_signed(signed, keys_given=bool(key or session.project.trusted_keys)):
            say(line)
        say(f"{session.style('intact', 'green')}  run {run_id}: everything hashes to what was recorded")


def _changed_inputs(session: Session, run_id: Any) -> list[str]:
    """Inputs that are not, here and now, what the run read. They are not kept, so this is no fault of the record."""
    from reprobox.records.check import find_problem

    root = session.project.root
    rows = session.store.load_record(run_id).draft["inputs"]
    return [row["path"] for row in rows if find_problem(root / row["path"], row["sha256"])]


def runs(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the runs of this project, oldest first."""
    from reprobox.errors import RecordError
    from reprobox.report.documents import render_run
    from reprobox.report.text import Style, render_runs

    session: Session = context.obj
    records = []
    for run_id in session.store.list_runs():
        try:
            records.append(session.store.load_record(run_id))
        except RecordError as error:
            say(f"note: {error.message}")
    if as_json:
        print_document([render_run(record, str(session.store.run_folder(record.run))) for record in records])
        return
    for line in render_runs(records, Style(on=session.style.on)):
        typer.echo(line)


def show(context: typer.Context, run: RunArgument = "latest", as_json: JsonOption = False) -> None:
    """Show what is recorded of a run."""
    from reprobox.cli.attest_command import list_signed
    from reprobox.report.documents import render_run
    from reprobox.report.text import Style, render_details

    session: Session = context.obj
    run_id = session.store.find_run(run)
    record = session.store.load_record(run_id)
    folder = str(session.store.run_folder(run_id))
    if as_json:
        print_document(render_run(record, folder))
        return
    for line in render_details(record, folder, Style(on=session.style.on)):
        typer.echo(line)
    for line in list_signed(session, run_id):
        typer.echo(line)
