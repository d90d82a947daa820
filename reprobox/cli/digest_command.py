"""`reprobox digest`: what files hold, and how two of them differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reprobox.cli.environment_commands import JsonOption
from reprobox.cli.session import Session, print_document

if TYPE_CHECKING:
    from reprobox.records.models.content import ContentDigest


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("digest")(digest)


def digest(
    context: typer.Context,
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH…", help="Files, or SavedModel folders.", show_default=False)
    ],
    diff: Annotated[
        bool, typer.Option("--diff", help="Compare the tensors of two files; exit 10 if they differ.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print file digest and content digest of models, arrays and metrics."""
    session: Session = context.obj
    if diff:
        _print_differences(session, paths, as_json)
        return
    rows = []
    for name in paths:
        row = _describe(session.cwd / name, name)
        rows.append(row)
        if not as_json:
            for line in _render(row):
                typer.echo(line)
    if as_json:
        print_document(rows)


def _describe(path: Path, name: str) -> dict[str, Any]:
    from reprobox.records.digests import digest_file
    from reprobox.records.models.content import detect_format, digest_architecture, digest_content, digest_optimizer

    format_ = detect_format(path)
    # A folder has no bytes of its own, so only a model that is one has something to say.
    is_model_folder = format_ == "savedmodel" and path.is_dir()
    return {
        "path": name,
        "sha256": None if is_model_folder else digest_file(path).sha256,
        "format": format_,
        "content": _as_row(digest_content(path, format_) if format_ else None),
        "architecture": _as_row(digest_architecture(path, format_) if format_ else None),
        "optimizer": _as_row(digest_optimizer(path, format_) if format_ else None),
    }


def _as_row(content: ContentDigest | None) -> dict[str, str] | None:
    return None if content is None else {"recipe": content.recipe, "digest": content.digest}


def _render(row: dict[str, Any]) -> list[str]:
    lines = [] if row["sha256"] is None else [f"sha256:{row['sha256']}  {row['path']}"]
    if row["content"] is not None:
        lines.append(f"{row['content']['recipe']}:{row['content']['digest']}  {row['path']} ({row['format']})")
    lines += [
        f"{row[part]['recipe']}:{row[part]['digest']}  {row['path']} ({row['format']})"
        for part in ("architecture", "optimizer")
        if row[part] is not None
    ]
    return lines or [f"no content digest  {row['path']} ({row['format']})"]


def _print_differences(session: Session, paths: list[str], as_json: bool) -> None:
    from reprobox.errors import NotReproduced, UsageError
    from reprobox.records.models.difference import compare_tensors
    from reprobox.report.tensors import render_difference_document, render_differences

    if len(paths) != 2:
        raise UsageError(f"--diff compares two files, not {len(paths)}", hint="reprobox digest --diff A B")
    first, second = (session.cwd / name for name in paths)
    differences = compare_tensors(first, second)
    if as_json:
        print_document(render_difference_document(differences, paths[0], paths[1]))
    else:
        for line in render_differences(differences, paths[0], paths[1]):
            typer.echo(line)
    if differences:
        error = NotReproduced(f"{paths[0]} and {paths[1]} differ in {_count(len(differences))}")
        error.reported = as_json  # type: ignore[attr-defined]
        raise error


def _count(tensors: int) -> str:
    return "1 tensor" if tensors == 1 else f"{tensors} tensors"
