"""`reprobox gc`."""

from __future__ import annotations

from typing import Annotated

import typer

from reprobox.cli.environment_commands import JsonOption
from reprobox.cli.session import Session, print_document, say

_SHOWN = 8


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("gc")(gc)


def gc(
    context: typer.Context,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it; without this, it is only listed.")] = False,
    older: Annotated[int, typer.Option("--older", metavar="DAYS", min=0, help="Keep what was used since (30).")] = 30,
    images: Annotated[
        bool, typer.Option("--images", help="Also images in engines that no record or lock of this project needs.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List what is no longer needed, with the reason, and remove it if told; never what a record needs."""
    from reprobox.engines.choose import find_engines
    from reprobox.errors import EngineMissing
    from reprobox.image.cache import Cache
    from reprobox.report.text import render_size
    from reprobox.run.gc import load_needs, perform, plan_gc, plan_images, require_readable_records
    from reprobox.run.locking import list_lock_digests

    session: Session = context.obj
    cache = Cache(session.client.cache)
    require_readable_records(session.store)
    found = find_engines(session.client.environ, store=session.engine_store)
    engines = {name: engine for name, engine in found.items() if not isinstance(engine, EngineMissing)}
    needs = load_needs(session.store, cache, list_lock_digests(session.project))
    now_s = session.clock.now().timestamp()
    plan = [
        *plan_gc(cache, session.store, needs, now_s=now_s, older_days=older),
        *plan_images(engines, needs, cache, unneeded=images),
    ]
    if delete:
        if session.store.list_active():
            # A run began meanwhile: it may have found an object to be there already.
            plan = [removal for removal in plan if removal.kind != "object"]
        perform(plan, engines)
    total = sum(removal.size_bytes for removal in plan)
    if as_json:
        rows = [
            {"kind": r.kind, "name": r.name, "size_bytes": r.size_bytes, "reason": r.reason, "engine": r.engine}
            for r in plan
        ]
        print_document({"removals": rows, "size_bytes": total, "deleted": delete})
        return
    groups: dict[tuple[str, str], list[int]] = {}
    for removal in plan:
        groups.setdefault((removal.kind, removal.reason), []).append(removal.size_bytes)
    for (kind, reason), sizes in groups.items():
        amount = render_size(sum(sizes)) if sum(sizes) else ""
        say(f"  {len(sizes):>5} {kind + ('s' if len(sizes) != 1 else ''):<13} {amount:>9}  {reason}")
    if not plan:
        say("nothing is left that is not needed")
    elif delete:
        say(f"removed: {render_size(total)}")
    else:
        say(f"would free {render_size(total)}; remove it with: reprobox gc --delete")
