"""What a person sees of a record. Pure: values in, lines out; the same words with and without colour."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reprobox.records.metrics import format_metric
from reprobox.records.record import Record

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Colours, or none.

    Attributes:
        on: Whether the words go to a terminal that shows them.
    """

    on: bool

    def __call__(self, text: str, name: str) -> str:
        """Give a text a colour."""
        return f"\x1b[{_CODES[name]}m{text}\x1b[0m" if self.on else text


def render_size(size_bytes: int) -> str:
    """Render a size for people: "12 B", "3.4 kB", "1.78 GB" (powers of 1000)."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def render_seconds(seconds: float) -> str:
    """Render a duration for people: "0.31 s", "42 s", "3 min 5 s"."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def render_table(rows: Sequence[Sequence[str]], *, indent: str = "  ") -> list[str]:
    """Render rows with their columns aligned; widths ignore colour."""
    if not rows:
        return []
    widths = [max(_width(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        lines.append((indent + "  ".join(cells)).rstrip())
    return lines


def _width(text: str) -> int:
    import re

    return len(re.sub(r"\x1b\[[0-9;]*m", "", text))


def render_summary(record: Record, folder: str, style: Style) -> list[str]:
    """Render what a person is shown at the end of a run or evaluation."""
    colour = {"completed": "green", "failed": "red", "interrupted": "yellow"}[record.status]
    total = sum(record.durations_s.values())
    ended = record.status if record.exit_code in (0, None) else f"{record.status} (exit code {record.exit_code})"
    of = f" of {record.draft['of']}" if record.draft["of"] else ""
    lines = [
        f"{style(ended, colour)}  {record.draft['kind']} {style(record.run, 'bold')}{of}  in {render_seconds(total)}"
    ]
    if record.comparison:
        words = ("recorded", "again") if record.draft["kind"] == "verify" else ("trained", "evaluated")
        lines += ["", *render_comparison(record.comparison, style, words)]
    elif record.metrics:
        lines += ["", *render_table([(name, format_metric(_number(value))) for name, value in record.metrics.items()])]
    if record.outputs:
        lines += ["", *render_outputs(record, style)]
    if record.findings:
        lines += ["", *render_findings(record.findings, style)]
    lines += [f"  {style('tainted', 'yellow')}: {reason}" for reason in record.tainted]
    lines += [
        "",
        f"  image   {record.manifest_digest}",
        f"  record  {folder}",
    ]
    return lines


def render_findings(rows: Iterable[dict[str, Any]], style: Style) -> list[str]:
    """Render what an evaluation was seen to do."""
    lines = []
    for row in rows:
        word = style("wrong", "red") if row["severity"] == "error" else style("note", "yellow")
        where = f"{row['where']} " if row["where"] else "the evaluation "
        lines.append(f"  {word}: {where}{row['sentence']}")
    return lines


def render_comparison(
    rows: Iterable[dict[str, Any]], style: Style, words: tuple[str, str] = ("trained", "evaluated")
) -> list[str]:
    """Render the comparison of an evaluation with its training, or of a run made again with the recorded one."""
    table = [(style("metric", "dim"), style(words[0], "dim"), style(words[1], "dim"), "")]
    for row in rows:
        if row["equal"]:
            verdict = style("equal", "green")
        else:
            verdict = style(f"differs by {format_metric(_number(row['difference']))}", "red")
        trained, evaluated = (format_metric(_number(row[key])) for key in ("trained", "evaluated"))
        table.append((row["metric"], trained, evaluated, verdict))
    return render_table(table)


def render_outputs(record: Record, style: Style) -> list[str]:
    """Render a run's outputs, one a line."""
    table = []
    for output in record.outputs:
        content = f"{output.content[0]}:{output.content[1][:16]}" if output.content else ""
        table.append(
            (output.path, render_size(output.size_bytes), f"sha256:{output.sha256[:16]}", style(content, "dim"))
        )
    return render_table(table)


def render_runs(records: Sequence[Record], style: Style) -> list[str]:
    """Render a list of runs, oldest first."""
    if not records:
        return ["no runs yet"]
    table = [tuple(style(word, "dim") for word in ("run", "kind", "status", "command", "metrics"))]
    for record in records:
        metrics = "  ".join(f"{k}={format_metric(_number(v))}" for k, v in list(record.metrics.items())[:3])
        of = record.draft["of"]
        kind = f"{record.draft['kind']} of {of.partition('-')[2]}" if of else "run"
        status = record.status + (" (tainted)" if record.tainted else "")
        table.append((record.run, kind, status, " ".join(record.draft["command"]["arguments"])[:40], metrics))
    return render_table(table, indent="")


def render_details(record: Record, folder: str, style: Style) -> list[str]:
    """Render all of a record that a person asks for with `show`."""
    draft = record.draft
    settings = draft["settings"]
    hardware = draft["hardware"]
    git = draft["code"]["git"]
    commit = f", commit {git['commit'][:12]}{' (changed)' if git['dirty'] else ''}" if git else ""
    rows = [
        ("command", " ".join(draft["command"]["arguments"])),
        ("started", draft["started_utc"]),
        ("environment", f"{draft['environment']['name']}, Python {draft['environment']['python']}"),
        *_cuda_rows(draft),
        ("lock", record.lock_digest),
        ("code", f"{len(draft['code']['files'])} files{commit}"),
        ("inputs", f"{len(draft['inputs'])} files, {render_size(sum(row['size_bytes'] for row in draft['inputs']))}"),
        ("settings", f"{settings['determinism']}, seed {settings['seed']}, {settings['threads']} threads"),
        ("engine", f"{draft['engine']['name']} {draft['engine']['version']}"),
        ("machine", f"{hardware['cpu']['model']}, {hardware['cpus']} CPUs"),
        ("GPUs", ", ".join(gpu["model"] for gpu in hardware["gpus"]) or "none"),
    ]  # fmt: skip
    return [*render_summary(record, folder, style), "", *render_table(rows)]


def _number(value: float | int | str) -> float | int:
    return float(value) if isinstance(value, str) else value


def _cuda_rows(draft: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What CUDA an environment brought, and the driver that it met."""
    labels = draft["environment"].get("cuda") or {}
    words = [
        f"{word} {labels[name]}"
        for name, word in (("org.reprobox.cuda", "CUDA"), ("org.reprobox.cudnn", "cuDNN"))
        if name in labels
    ]
    if not words:
        return []
    driver = draft["hardware"].get("gpu_driver")
    return [("accelerator", ", ".join([*words, f"driver {driver}" if driver else "no NVIDIA driver here"]))]
