"""`reprobox push` and `reprobox pull`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from reprobox.cli.environment_commands import JsonOption, require_lock
from reprobox.cli.session import Session, print_document, say

if TYPE_CHECKING:
    from reprobox.image.publish import Pushed

ReferenceArgument = Annotated[str, typer.Argument(metavar="REF", help="HOST/NAME[:TAG][@DIGEST]")]
CompressOption = Annotated[
    str,
    typer.Option(
        "--compress",
        metavar="HOW",
        help="none (default: the registry's digest is that of the build) or zstd (moves less).",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("push")(push)
    app.command("pull")(pull)


def push(
    context: typer.Context,
    reference: ReferenceArgument,
    environment: Annotated[
        str | None, typer.Option("--environment", "-e", metavar="ENV", help="Which environment.")
    ] = None,
    compress: CompressOption = "none",
    as_json: JsonOption = False,
) -> None:
    """Push an environment's image to a registry, building what is missing; blobs that are there do not move."""
    from reprobox.cli.progress import make_progress
    from reprobox.image.cache import Cache
    from reprobox.run.prepare import build_layers
    from reprobox.run.push import push_environment

    session: Session = context.obj
    compression = parse_compression(compress)
    entry = session.find_environment_for_here(environment)
    lock = require_lock(session, entry)
    progress = make_progress(session.environ)
    prepared, blobs = build_layers(
        entry,
        lock,
        client=session.client,
        cache=Cache(session.client.cache),
        progress=progress,
        workers=session.workers,
    )
    pushed = push_environment(
        lock, prepared.image, blobs, reference, compression=compression, client=session.client, progress=progress
    )
    if as_json:
        print_document(render_pushed(pushed))
    else:
        tell_pushed(pushed)


def parse_compression(text: str) -> Any:
    """Parse `--compress`.

    Raises:
        UsageError: It is nothing known.
    """
    from reprobox.errors import UsageError

    if text not in ("none", "zstd"):
        raise UsageError(f"--compress {text!r} is not known", hint="none or zstd")
    return text


def render_pushed(pushed: Pushed) -> dict[str, Any]:
    """Render what a push did as the values of a document."""
    return {
        "reference": str(pushed.reference),
        "digest": pushed.digest,
        "pinned": f"{pushed.reference.repository}@{pushed.digest}",
        "moved_bytes": pushed.moved_bytes,
        "skipped_bytes": pushed.skipped_bytes,
    }


def tell_pushed(pushed: Pushed) -> None:
    """Tell a person what a push did."""
    from reprobox.report.text import render_size

    there = f", {render_size(pushed.skipped_bytes)} were there" if pushed.skipped_bytes else ""
    say(f"pushed {pushed.reference}: {render_size(pushed.moved_bytes)} moved{there}")
    say(f"  by digest  {pushed.reference.repository}@{pushed.digest}")


def pull(
    context: typer.Context,
    reference: ReferenceArgument,
    no_load: Annotated[bool, typer.Option("--no-load", help="Into the cache alone, not into the engine.")] = False,
    engine: Annotated[
        str | None, typer.Option("--engine", metavar="NAME", help="The engine to load it into.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Pull an image that reprobox pushed; every byte is checked, and what is there does not move."""
    from reprobox.cli.progress import make_progress
    from reprobox.report.text import render_size
    from reprobox.run.push import pull_reference

    session: Session = context.obj
    session.engine_name = engine
    pulled = pull_reference(
        reference,
        client=session.client,
        progress=make_progress(session.environ),
        engine=None if no_load else session.engine,
    )
    image = pulled.image
    if as_json:
        print_document(
            {
                "reference": reference,
                "manifest_digest": image.manifest_digest,
                "config_digest": image.config_digest,
                "lock_digest": image.lock_digest,
                "diff_ids": list(image.diff_ids),
                "size_bytes": image.size_bytes,
                "moved_bytes": pulled.moved_bytes,
                "loaded": pulled.loaded,
            }
        )
        return
    say(f"pulled {reference}: {render_size(pulled.moved_bytes)} moved, {render_size(image.size_bytes)} in all")
    say(f"  lock      {image.lock_digest}\n  manifest  {image.manifest_digest}")
