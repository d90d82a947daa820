"""What a person sees of a difference, a verification or an evaluation's findings. Pure: values in, lines out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from reprobox.diff.compare import Difference
from reprobox.diff.judge import Judgement, OutputJudged, RerunJudged
from reprobox.diff.trail import STAGES, Divergence
from reprobox.records.metrics import encode_metric, format_metric
from reprobox.report import tensors
from reprobox.report.text import Style, render_table
from reprobox.run.verify import Verification

_SIGNS = {"added": "+", "removed": "−", "changed": "≠"}
_COLOURS = {"identical": "green", "equivalent": "green", "different": "red", "unstable": "red"}
_GRADES = {
    "identical": "the same bytes",
    "content": "the same content",
    "different": "differs",
    "missing": "was not made this time",
    "new": "is new",
}
_WIDTH = 44
_SHOWN = 4
"""Tensors that are shown of one output; `reprobox digest --diff` shows all."""


def render_differences(found: Sequence[Difference], names: tuple[str, str], style: Style) -> list[str]:
    """Render the tree of what differs between two runs; one line says so where nothing does."""
    if not found:
        return [f"{style('identical', 'green')}  {names[0]} and {names[1]} differ in nothing that is recorded"]
    lines = [f"{style('−', 'red')} {names[0]}", f"{style('+', 'green')} {names[1]}"]
    for group in found:
        lines += ["", style(group.factor, "bold")]
        lines += render_table([_row(child, style) for child in group.children])
    return lines


def _row(difference: Difference, style: Style) -> tuple[str, str, str]:
    values = {
        "added": style(_show(difference.b), "green"),
        "removed": style(_show(difference.a), "red"),
        "changed": f"{style(_show(difference.a), 'red')} → {style(_show(difference.b), 'green')}",
    }
    return (_SIGNS.get(difference.kind, " "), difference.factor, values.get(difference.kind, ""))


def _show(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("content") or value.get("sha256") or value
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    text = "none" if value is None else "yes" if value is True else "no" if value is False else str(value)
    if text.startswith("sha256:") or (len(text) == 64 and set(text) <= set("0123456789abcdef")):
        return text.removeprefix("sha256:")[:12]
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def list_differences(found: Iterable[Difference]) -> list[dict[str, Any]]:
    """Render differences for JSON."""
    return [
        {
            "factor": row.factor,
            "kind": row.kind,
            "a": row.a,
            "b": row.b,
            "children": list_differences(row.children),
        }
        for row in found
    ]


def render_verification(found: Verification, style: Style) -> list[str]:
    """Render what came of making a run again."""
    judgement = found.judgement
    count = len(found.reruns)
    times = "once" if count == 1 else f"{count} times"
    lines = [
        f"{style(judgement.verdict, _COLOURS[judgement.verdict])}  run {style(found.recorded.run, 'bold')}, "
        f"made again {times}: {explain_verdict(judgement)}"
    ]
    shown = judgement.reruns[judgement.shown]
    if shown.outputs:
        lines += ["", *_render_outputs(shown, found, style)]
    if shown.metrics:
        lines += ["", *_render_metrics(shown, style)]
    if found.divergence is not None:
        lines += ["", *render_divergence(found.divergence)]
    if found.hardware:
        lines += ["", "  made again on another class of hardware than it was recorded on:"]
        lines += render_table([_row(row, style) for row in found.hardware], indent="    ")
    lines += [f"  {style('note', 'yellow')}: {note}" for note in found.notes]
    return [*lines, "", *(f"  record  {record.run}" for record in found.reruns)]


def explain_verdict(judgement: Judgement) -> str:
    """Say in a clause what a verdict means."""
    if judgement.verdict == "identical":
        by_content = any(row.grade == "content" for rerun in judgement.reruns for row in rerun.outputs)
        return "every output has the recorded content" if by_content else "every output has the recorded bytes"
    if judgement.verdict == "equivalent":
        return "the metrics are equal, or as near as was asked for; some outputs are others"
    if judgement.verdict == "unstable":
        return "it comes out otherwise each time, so the record cannot be blamed"
    return "it did not come out as recorded"


def _render_outputs(rerun: RerunJudged, found: Verification, style: Style) -> list[str]:
    rows = []
    for output in rerun.outputs:
        good = output.grade in ("identical", "content")
        rows.append((output.path, style(_GRADES[output.grade], "green" if good else "red")))
    lines = []
    for line, output in zip(render_table(rows), rerun.outputs, strict=True):
        lines.append(line)
        moved = tensors.render_differences(found.moved.get(output.path, ()), "the record", "the run made again")
        if output.path in found.moved:
            lines += [f"    {text}" for text in moved[:_SHOWN]]
            lines += [f"    and {len(moved) - _SHOWN} more tensors"] if len(moved) > _SHOWN else []
    return lines


def _render_metrics(rerun: RerunJudged, style: Style) -> list[str]:
    rows = [tuple(style(word, "dim") for word in ("metric", "recorded", "again", ""))]
    for metric in rerun.metrics:
        recorded, found = (
            "none" if value is None else format_metric(value) for value in (metric.recorded, metric.found)
        )
        word = "equal" if metric.equal else "within the tolerance" if metric.within else "differs"
        rows.append((metric.metric, recorded, found, style(word, "green" if metric.within else "red")))
    return render_table(rows)


def render_divergence(found: Divergence) -> list[str]:
    """Render the first stage at which two runs parted."""
    where = f" at {found.where}" if found.where else ""
    return [f"  parted first at: {STAGES[found.stage]}, {found.of}{where}: {found.sentence}"]


def describe_verification(found: Verification) -> dict[str, Any]:
    """Render what `verify --json` prints."""
    judgement = found.judgement
    shown = judgement.reruns[judgement.shown]
    divergence = found.divergence
    return {
        "run": found.recorded.run,
        "reruns": [
            {
                "run": row.run,
                "verdict": row.verdict,
                "outputs": [
                    {
                        "path": output.path,
                        "grade": output.grade,
                        "recorded": output.recorded.sha256 if output.recorded else None,
                        "found": output.found.sha256 if output.found else None,
                    }
                    for output in row.outputs
                ],
                "metrics": [
                    {
                        "metric": metric.metric,
                        "recorded": None if metric.recorded is None else encode_metric(metric.recorded),
                        "found": None if metric.found is None else encode_metric(metric.found),
                        "equal": metric.equal,
                        "within": metric.within,
                    }
                    for metric in row.metrics
                ],
            }
            for row in judgement.reruns
        ],
        "verdict": judgement.verdict,
        "outputs": [_describe_output(row, found) for row in shown.outputs],
        "first_divergence": None
        if divergence is None
        else {
            "stage": divergence.stage,
            "of": divergence.of,
            "where": divergence.where,
            "sentence": divergence.sentence,
        },
        "hardware": list_differences(found.hardware),
        "notes": list(found.notes),
    }


def _describe_output(row: OutputJudged, found: Verification) -> dict[str, Any]:
    described: dict[str, Any] = {"path": row.path, "grade": row.grade}
    if row.path in found.moved:
        document = tensors.render_difference_document(found.moved[row.path], "recorded", "found")
        described["tensors"] = document["tensors"]
    return described
