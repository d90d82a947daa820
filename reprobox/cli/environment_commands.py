"""`reprobox lock` and `reprobox build`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reprobox.cli.session import Session, print_document, say

if TYPE_CHECKING:
    from reprobox.env.lockfile import Lock
    from reprobox.env.project import EnvironmentEntry
    from reprobox.run.base import Tools

EnvironmentArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[ENV]", help="A name from reprobox.toml, a folder of envs/, or a file.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("lock")(lock)
    app.command("build")(build)
    app.command("mirror")(mirror)


def lock(
    context: typer.Context,
    environment: EnvironmentArgument = None,
    check: Annotated[bool, typer.Option("--check", help="Only check that the lock matches; write nothing.")] = False,
    upgrade: Annotated[
        list[str] | None, typer.Option("--upgrade", metavar="PKG", help="Let this package's version move.")
    ] = None,
    upgrade_all: Annotated[bool, typer.Option("--upgrade-all", help="Let every version move.")] = False,
    upgrade_base: Annotated[bool, typer.Option("--upgrade-base", help="Resolve the base anew, too.")] = False,
    exclude_newer: Annotated[
        str | None, typer.Option("--exclude-newer", metavar="DATE", help="Ignore what was published after DATE.")
    ] = None,
    cuda: Annotated[
        str | None,
        typer.Option("--cuda", metavar="X.Y", help="Highest CUDA version that the drivers of your machines take."),
    ] = None,
    platform: Annotated[
        str,
        typer.Option("--platform", metavar="NAME", help="The target: linux-64, or linux-aarch64 (a lock of its own)."),
    ] = "linux-64",
    link_scripts: Annotated[
        bool | None,
        typer.Option(
            "--allow-link-scripts/--no-link-scripts",
            help="Run what conda packages want to run at link time: once, in a container, and keep what it writes.",
            show_default=False,
        ),
    ] = None,
    export: Annotated[
        str | None,
        typer.Option(
            "--export", metavar="KIND", help="Print the lock as conda-lock, explicit or requirements; change nothing."
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", metavar="NAME", help="Where sources are built and scripts run.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Pin an environment: environment.yml -> reprobox.lock."""
    from reprobox.env.bases import DEFAULT_PLATFORM
    from reprobox.env.cuda import check_cuda, find_cuda_of
    from reprobox.env.export import EXPORT_KINDS, render_export
    from reprobox.env.project import lock_name
    from reprobox.errors import AcceleratorError, UsageError
    from reprobox.run.locking import load_addresses, make_lock
    from reprobox.run.resolve import LockOptions

    session: Session = context.obj
    session.engine_name = engine
    entry = session.find_environment(environment)
    if platform != DEFAULT_PLATFORM:
        entry = replace(entry, lock=entry.lock.with_name(lock_name(platform)))
    if export is not None and export not in EXPORT_KINDS:
        raise UsageError(f"--export {export!r} is not known", hint=f"one of {', '.join(EXPORT_KINDS)}")
    if check or export:
        found = require_lock(session, entry)
    else:
        found = make_lock(
            entry,
            session.project,
            session.client,
            LockOptions(
                upgrade=tuple(upgrade or ()),
                upgrade_all=upgrade_all,
                upgrade_base=upgrade_base,
                exclude_newer=exclude_newer,
                cuda=cuda,
                platform=platform,
                link_scripts=link_scripts,
            ),
            tools=_tools(session, entry),
        )
    if export in EXPORT_KINDS:
        addresses = {} if export == "requirements" else load_addresses(found, entry, session.client)
        sys.stdout.write(render_export(found, export, addresses))
        if export == "requirements" and found.conda:
            say(f"note: {len(found.conda)} conda packages are not in it: a requirements file holds wheels alone")
        return
    for finding in check_cuda(find_cuda_of(found)):
        if finding.level == "error":
            raise AcceleratorError(finding.message, hint=finding.hint)
        say(f"warning: {finding.message}\n  {finding.hint}")
    if as_json:
        print_document(_lock_document(entry, found))
        return
    if check:
        say(f"{entry.lock} matches {entry.environment.name}")
    else:
        conda = f"{len(found.conda)} conda packages, " if found.conda else ""
        say(f"locked in {entry.lock}: {conda}{len(found.wheels)} wheels, {len(found.debian)} Debian packages")
    say(f"  lock  {found.digest}")


def require_lock(session: Session, entry: EnvironmentEntry) -> Lock:
    """Load a lock that is there and matches its environment file.

    Raises:
        LockStale: It is not, or does not.
    """
    from reprobox.errors import LockStale
    from reprobox.run.locking import load_fresh_lock, lock_command

    found = load_fresh_lock(entry, session.project)
    if found is None:
        raise LockStale(f"{entry.lock} does not exist", hint=lock_command(entry))
    return found


def _tools(session: Session, entry: EnvironmentEntry) -> Tools:
    from reprobox.cli.progress import make_progress
    from reprobox.run.prepare import make_tools

    return make_tools(
        entry,
        connect=lambda: session.engine,
        client=session.client,
        progress=lambda: make_progress(session.environ),
        workers=session.workers,
        say=say,
    )


def _lock_document(entry: EnvironmentEntry, found: Lock) -> dict[str, Any]:
    return {
        "environment": entry.name,
        "lock": str(entry.lock),
        "lock_digest": found.digest,
        "python": found.python,
        "platform": found.platform,
        "packages": len(found.wheels) + len(found.conda) + len(found.debian),
    }


def build(
    context: typer.Context,
    environment: EnvironmentArgument = None,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="KIND:PATH", help="Also write it: oci:DIR or docker-archive:FILE."),
    ] = None,
    push: Annotated[
        str | None, typer.Option("--push", metavar="REF", help="Also push it to a registry: HOST/NAME:TAG.")
    ] = None,
    compress: Annotated[
        str, typer.Option("--compress", metavar="HOW", help="Of what is pushed: none or zstd.")
    ] = "none",
    sbom: Annotated[
        Path | None, typer.Option("--sbom", metavar="FILE", help="Also write its bill of materials (SPDX, JSON).")
    ] = None,
    no_load: Annotated[bool, typer.Option("--no-load", help="Do not load it into the engine.")] = False,
    engine: Annotated[
        str | None, typer.Option("--engine", metavar="NAME", help="The engine to load it into.", show_default=False)
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print each layer with its reason.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a lock into an image, and load it into the engine."""
    from reprobox import __version__
    from reprobox.cli.progress import make_progress
    from reprobox.cli.registry_commands import parse_compression, render_pushed, tell_pushed
    from reprobox.env.project import lock_platform
    from reprobox.image.cache import Cache
    from reprobox.image.oci import write_archive, write_oci_layout
    from reprobox.image.plan import plan_layers
    from reprobox.image.sbom import render_sbom
    from reprobox.report.documents import render_build
    from reprobox.report.text import render_size, render_table
    from reprobox.run.locking import load_fresh_lock, make_lock
    from reprobox.run.prepare import Prepared, build_layers, prepare_image, render_tag
    from reprobox.run.push import push_environment
    from reprobox.run.resolve import LockOptions

    session: Session = context.obj
    session.engine_name = engine
    compression = parse_compression(compress)
    target = _parse_output(output, session.cwd)
    entry = session.find_environment_for_here(environment)
    found = load_fresh_lock(entry, session.project)
    if found is None:
        say(f"no lock yet: resolving {entry.environment.name}")
        options = LockOptions(platform=lock_platform(entry.lock.name))
        found = make_lock(entry, session.project, session.client, options, tools=_tools(session, entry))
    cache = Cache(session.client.cache)
    prepared: Prepared | None = None
    if not no_load:
        prepared = prepare_image(
            entry,
            found,
            engine=session.engine,
            client=session.client,
            cache=cache,
            progress=make_progress(session.environ),
            workers=session.workers,
        )
    pushed = None
    if prepared is None or target is not None or push is not None:
        progress = make_progress(session.environ)
        written, blobs = build_layers(
            entry, found, client=session.client, cache=cache, progress=progress, workers=session.workers
        )
        prepared = prepared or written
        image = written.image
        if target is not None and target[0] == "oci":
            write_oci_layout(image, blobs, target[1])
        elif target is not None:
            write_archive(image, blobs, target[1], tags=[":".join(render_tag(entry, found))])
        if push is not None:
            pushed = push_environment(
                found, image, blobs, push, compression=compression, client=session.client, progress=progress
            )
    plans = plan_layers(found)
    if sbom is not None:
        _write_sbom(session.cwd / sbom, render_sbom(found, prepared.image, plans, version=__version__))
    if as_json:
        more = {"pushed": render_pushed(pushed)} if pushed else {}
        print_document(render_build(prepared, tuple(plan.title for plan in plans)) | more)
        return
    for note in prepared.notes:
        say(f"note: {note}")
    if prepared.source is not None:
        say(f"note: the image of this lock came from {prepared.source} and was not built here")
    image = prepared.image
    word = "unchanged" if prepared.reused else "built"
    say(f"{word} {entry.name}: {render_size(image.size_bytes)}, {len(plans)} layers")
    if explain:
        rows = [
            (diff_id.removeprefix("sha256:")[:12], render_size(size), plan.title, plan.reason)
            for plan, diff_id, size in zip(plans, image.diff_ids, image.sizes_bytes, strict=True)
        ]
        for line in render_table(rows):
            say(line)
    say(f"  lock      {found.digest}\n  manifest  {image.manifest_digest}\n  image id  {image.config_digest}")
    if pushed is not None:
        tell_pushed(pushed)


def _write_sbom(file: Path, data: bytes) -> None:
    from reprobox.errors import BuildError

    try:
        file.write_bytes(data)
    except OSError as error:
        raise BuildError(f"{file} cannot be written: {error}", hint="name a file in a folder of yours") from None


def mirror(
    context: typer.Context,
    environment: Annotated[str, typer.Argument(metavar="LOCK", help="An environment or its lock.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put packages; may hold those of others.")],
    as_json: JsonOption = False,
) -> None:
    """Put all packages of a lock into a folder, to build from without a network."""
    from reprobox.cli.progress import make_progress
    from reprobox.image.cache import Cache
    from reprobox.image.mirror import list_all, write_mirror
    from reprobox.report.text import render_size
    from reprobox.run.locking import find_addresses

    session: Session = context.obj
    entry = session.find_environment(environment)
    found = require_lock(session, entry)
    target = session.cwd / folder
    progress = make_progress(session.environ)
    progress.start("packages", sum(package.size_bytes for package in list_all(found)))
    count, size = write_mirror(
        found,
        target,
        client=find_addresses(entry, session.client),
        cache=Cache(session.client.cache),
        advance=lambda size: progress.advance("packages", size),
    )
    progress.finish("packages")
    if as_json:
        print_document({"folder": str(target), "packages": count, "size_bytes": size, "lock_digest": found.digest})
        return
    say(f"{count} packages, {render_size(size)}, in {target}")
    say(f"  build from it with REPROBOX_MIRROR={folder}, or `folder` under [mirrors] in reprobox.toml")


def _parse_output(text: str | None, cwd: Path) -> tuple[str, Path] | None:
    from reprobox.errors import UsageError

    if text is None:
        return None
    kind, separator, path = text.partition(":")
    if kind not in ("oci", "docker-archive") or not separator or not path:
        raise UsageError(f"--output {text!r} is not KIND:PATH", hint="write oci:DIR or docker-archive:FILE")
    return kind, cwd / path
