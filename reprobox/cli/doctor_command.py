"""`reprobox doctor`."""

from __future__ import annotations

import shutil
from typing import Annotated, Any

import typer

from reprobox.cli.environment_commands import JsonOption
from reprobox.cli.session import Session, print_document, say


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    context: typer.Context,
    only_look: Annotated[bool, typer.Option("--only-look", help="Say what was left behind, but mend nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look at engine, GPUs, space and cache; mend what a killed run left behind."""
    from reprobox.engines.choose import find_engines
    from reprobox.errors import EngineMissing
    from reprobox.run.hardware import load_gpus
    from reprobox.run.recover import recover_runs

    session: Session = context.obj
    engine, problem = None, None
    try:
        engine = session.engine
    except EngineMissing as error:
        problem = error
    info = engine.describe() if engine else None
    gpus = load_gpus()
    everyone = find_engines(session.client.environ, store=session.engine_store)
    answering = {name: found for name, found in everyone.items() if not isinstance(found, EngineMissing)}
    leftovers = recover_runs(
        session.store, answering, now=session.clock.now(), workers=session.workers, act=not only_look
    )
    cache = session.client.cache
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    document: dict[str, Any] = {
        "engine": None
        if info is None
        else {"name": info.name, "version": info.version, "storage": info.storage, "keeps": list(info.keeps)},
        "engines": [_describe(name, found) for name, found in everyone.items()],
        "gpu_driver": gpus.driver,
        "gpus": [{"index": gpu.index, "uuid": gpu.uuid, "model": gpu.model} for gpu in gpus.devices],
        "gpu_problem": gpus.problem,
        "cache": str(cache),
        "free_bytes": free,
        "left_behind": [
            {"run": left.run, "state": left.state, "action": left.action, "container": left.container}
            for left in leftovers
        ],
    }
    if as_json:
        print_document(document)
    else:
        _tell(document, only_look=only_look)
    if problem is not None:
        problem.reported = as_json  # type: ignore[attr-defined]
        raise problem


def _describe(name: str, found: Any) -> dict[str, Any]:
    from reprobox.engines.base import PROMISES
    from reprobox.errors import EngineMissing

    if isinstance(found, EngineMissing):
        return {"name": name, "problem": found.message, "hint": found.hint}
    info = found.describe()
    missing = [promise for promise in PROMISES if promise not in info.keeps]
    return {
        "name": name,
        "version": info.version,
        "storage": info.storage,
        "rootless": info.rootless,
        "keeps": list(info.keeps),
        "lacks": missing,
    }


def _tell(document: dict[str, Any], *, only_look: bool) -> None:
    engine = document["engine"]
    say(f"engine   {engine['name']} {engine['version']} ({engine['storage']})" if engine else "engine   none answers")
    for other in document["engines"]:
        if "problem" in other:
            say(f"  {other['name']:<13} {other['problem']}")
            continue
        lacks = f"; cannot: {', '.join(other['lacks'])}" if other["lacks"] else ""
        say(f"  {other['name']:<13} {other['version']}{' without root' if other['rootless'] else ''}{lacks}")
    if document["gpu_problem"]:
        say(f"GPUs     the NVIDIA driver cannot be asked: {document['gpu_problem']}")
    elif document["gpus"]:
        models = ", ".join(gpu["model"] for gpu in document["gpus"])
        say(f"GPUs     {models} (driver {document['gpu_driver']})")
    else:
        say("GPUs     none; runs use the CPU")
    say(f"cache    {document['cache']} ({document['free_bytes'] / 1e9:.0f} GB free)")
    words = {
        ("running", "none"): "is under way",
        ("elsewhere", "none"): "belongs to another machine; nothing was done",
        ("dead", "none"): "was left by a killed tool; start the engine to have it mended",
        ("dead", "recorded"): "was left by a killed tool"
        + ("" if only_look else "; now recorded, see `reprobox show`"),
        ("dead", "removed"): "was left by a killed tool before it began" + ("" if only_look else "; now removed"),
    }
    for left in document["left_behind"]:
        say(f"run      {left['run']} {words[left['state'], left['action']]}")
    if not document["left_behind"]:
        say("runs     nothing was left behind")
