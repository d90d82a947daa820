"""`reprobox export` and `reprobox import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reprobox.cli.environment_commands import JsonOption
from reprobox.cli.run_commands import RunArgument
from reprobox.cli.session import Session, print_document, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reprobox.image.layers import DiffId
    from reprobox.image.oci import Image
    from reprobox.records.record import Record


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("export")(export)
    app.command("import")(import_)


def export(
    context: typer.Context,
    run: RunArgument = "latest",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to (default: RUN.reprobox.tar).")
    ] = None,
    no_image: Annotated[bool, typer.Option("--no-image", help="Leave the image out; its lock is in it.")] = False,
    no_inputs: Annotated[
        bool, typer.Option("--no-inputs", help="Leave input files out; their digests are in it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a run into one file that can be checked, evaluated and run again elsewhere, without a network."""
    from reprobox import __version__
    from reprobox.cli.progress import make_progress
    from reprobox.report.crate import CrateFile, render_crate
    from reprobox.report.text import render_size
    from reprobox.run.bundle import list_chain, plan_bundle, write_bundle

    session: Session = context.obj
    name = session.store.find_run(run)
    records = list_chain(session.store, name)
    progress = make_progress(session.environ)
    members = plan_bundle(
        session.store,
        records,
        image=None if no_image else _image_of(session, records[-1]),
        inputs={} if no_inputs else _inputs_of(session, records[-1]),
        crate=lambda runs, files: render_crate(
            runs, {path: CrateFile(sha256=sha256, size_bytes=size) for path, (sha256, size) in files.items()},
            version=__version__,
        ),
    )  # fmt: skip
    target = session.cwd / (output or f"{name}.reprobox.tar")
    progress.start("export", sum(member.size_bytes for member in members.values()))
    size = write_bundle(members, target, advance=lambda count: progress.advance("export", count))
    progress.finish("export")
    if as_json:
        runs = [record.run for record in records]
        print_document(
            {"file": str(target), "size_bytes": size, "runs": runs, "files": len(members), "image": not no_image}
        )
        return
    say(f"wrote {target}: {render_size(size)}, {len(records)} run{'s' if len(records) != 1 else ''}")
    say("  read it with: reprobox import FILE; or unpack it and check it with: sha256sum -c SHA256SUMS")


def _image_of(session: Session, record: Record) -> tuple[Image, Mapping[DiffId, Path]]:
    from reprobox.cli.progress import make_progress
    from reprobox.errors import RecordError
    from reprobox.image.cache import Cache
    from reprobox.run.driver import find_entry_of, load_lock_of
    from reprobox.run.prepare import have_layers

    image, blobs = have_layers(
        find_entry_of(session.project.root, record),
        load_lock_of(session.store, record),
        client=session.client,
        cache=Cache(session.client.cache),
        progress=make_progress(session.environ),
        workers=session.workers,
    )
    if image.manifest_digest != record.manifest_digest:
        raise RecordError(
            f"run {record.run} ran in image {record.manifest_digest}; its lock now builds {image.manifest_digest}",
            hint="leave the image out: --no-image",
        )
    return image, blobs


def _inputs_of(session: Session, record: Record) -> dict[str, Path]:
    """Find the inputs of a run where they were.

    Raises:
        RecordError: One is not there any more.
    """
    from reprobox.errors import RecordError

    found = {}
    for row in record.draft["inputs"]:
        file = session.project.root / row["path"]
        if not file.is_file():
            raise RecordError(f"the input {row['path']} is not there any more", hint="leave inputs out: --no-inputs")
        found[row["sha256"]] = file
    return found


def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `reprobox export` wrote.")],
    files: Annotated[
        bool, typer.Option("--files", help="Also put the run's code and inputs into this folder; overwrites nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Take the runs of a bundle into this project, after checking all of it."""
    from reprobox.cli.progress import make_progress
    from reprobox.image.cache import Cache
    from reprobox.run.bundle import import_bundle, place_files

    session: Session = context.obj
    progress = make_progress(session.environ)
    progress.start("import", 0)
    found = import_bundle(
        session.cwd / file,
        session.store,
        Cache(session.client.cache),
        advance=lambda count: progress.advance("import", count),
    )
    progress.finish("import")
    written: list[str] = []
    left: list[str] = []
    if files:
        written, left = place_files(session.store.load_record(found.runs[-1]), session.store, session.project.root)
    if as_json:
        print_document(
            {
                "runs": list(found.runs),
                "new": list(found.new),
                "manifest_digest": found.image.manifest_digest if found.image else None,
                "inputs": {path: str(place) for path, place in found.inputs.items()},
                "written": written,
                "left": left,
            }
        )
        return
    for run in found.runs:
        say(f"imported {run}" if run in found.new else f"{run} was here already")
    if found.image:
        say(f"  image  {found.image.manifest_digest}, in the cache")
    if files:
        say(f"  {len(written)} files of its code and inputs are in {session.project.root}")
        for path in left:
            say(f"  note: {path} is here with another content, and was left")
    elif found.inputs or found.new:
        say("  its code and inputs can be put here with: --files")
