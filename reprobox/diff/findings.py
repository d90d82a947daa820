"""What an evaluation did that makes its metric another than the training's, told from both trails. Pure.

A finding is evidence, not proof: it says what was done, by which line, and what follows from it. `error` is for what is
wrong whatever the metric says, `note` for what only may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, Literal

from reprobox.diff.trail import Event

Severity = Literal["error", "note"]

_MODELS: Final = frozenset({
    ".keras", ".h5", ".hdf5", ".pkl", ".pickle", ".joblib", ".npz", ".pt", ".pth", ".ckpt", ".safetensors", ".onnx",
    ".gguf", ".index", ".pb", ".model", ".ubj", ".cbm",
})  # fmt: skip
_THREADS: Final = ("threading.", "concurrent.futures.", "multiprocessing")
"""How the trail calls threads and processes of the user's own; all else that is not promised is entropy."""

_LEAK_ROWS: Final = 4
"""Fewer rows in common may be there by chance, or be rows that are twice in the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that an evaluation did.

    Attributes:
        factor: What it is called, such as `refit:StandardScaler`.
        severity: How sure it is that it is wrong.
        sentence: What was done and what follows, for people.
        where: File and line of the user's code, or None.
    """

    factor: str
    severity: Severity
    sentence: str
    where: str | None

    def to_json(self) -> dict[str, Any]:
        """Render it for a record."""
        return {"factor": self.factor, "severity": self.severity, "sentence": self.sentence, "where": self.where}


def find_mistakes(
    trained: Sequence[Event],
    evaluated: Sequence[Event],
    *,
    run: str,
    outputs: Mapping[str, str],
    code: Mapping[str, str],
    made: Mapping[str, str],
) -> tuple[Finding, ...]:
    """Find what an evaluation did that it should not have.

    Args:
        trained: The training's trail.
        evaluated: The evaluation's.
        run: The training's id.
        outputs: Path → sha256 of what the training made, which the evaluation was given.
        code: Path → sha256 of the files that the evaluation had of the project, inputs among them.
        made: Path → sha256 of what the evaluation itself made.

    Returns:
        Findings, errors first, each in the order of the evaluation.
    """
    found = [
        *_find_refits(trained, evaluated),
        *_find_artefacts(evaluated, run, outputs, code, made),
        *_find_states(trained, evaluated, run),
        *_find_weights(trained, evaluated, run),
        *_find_modes(evaluated),
        *_find_label_order(trained, evaluated),
        *_find_leaks(trained, evaluated),
    ]
    unique = {(finding.factor, finding.where): finding for finding in reversed(found)}
    kept = [finding for finding in found if unique[finding.factor, finding.where] is finding]
    return tuple(sorted(kept, key=lambda finding: finding.severity != "error"))


def find_unpromised(trail: Sequence[Event], *, threads: bool = False) -> tuple[Finding, ...]:
    """Find what a run asked for that no determinism level can make the same again.

    Args:
        trail: Its trail.
        threads: Whether threads of the user's own count, too; most of them do no harm.

    Returns:
        A note for each, in the order of the run.
    """
    found = []
    for event in trail:
        if event["event"] != "unpromised":
            continue
        what = str(event.get("what"))
        is_thread = what.startswith(_THREADS)
        if is_thread and not threads:
            continue
        does = "works in threads or processes of its own" if is_thread else "draws from the system's entropy"
        found.append(
            Finding(
                factor=f"unpromised:{what}",
                severity="note",
                sentence=f"{does} ({what}), which no determinism level can make the same again",
                where=f"{event.get('file')}:{event.get('line')}",
            )
        )
    return tuple(found)


def _find_refits(trained: Sequence[Event], evaluated: Sequence[Event]) -> Iterator[Finding]:
    """An estimator that the training fitted is fitted again: it then knows other numbers than the model expects."""
    before = {event["of"]: event for event in trained if event["event"] == "fit" and "of" in event}
    for event in evaluated:
        if event["event"] != "fit" or "of" not in event:
            continue
        of = event["of"]
        rows = _count_rows(event)
        if of in before:
            then = before[of]
            if "state" in then and then.get("state") == event.get("state"):
                yield Finding(
                    factor=f"refit:{of}",
                    severity="note",
                    sentence=f"fits {of} again, and it comes out as in the training",
                    where=event.get("where"),
                )
                continue
            on = f" on {_count_rows(then)} rows" if _count_rows(then) else ""
            now = f" on {rows} rows" if rows else ""
            yield Finding(
                factor=f"refit:{of}",
                severity="error",
                sentence=f"fits {of} again{now}; the training fitted it{on} at {then.get('where')}. What it learned "
                "then is what the model expects: save it there and load it here",
                where=event.get("where"),
            )
        else:
            yield Finding(
                factor=f"refit:{of}",
                severity="note",
                sentence=f"fits {of}, which the training did not",
                where=event.get("where"),
            )


def _find_artefacts(
    evaluated: Sequence[Event],
    run: str,
    outputs: Mapping[str, str],
    code: Mapping[str, str],
    made: Mapping[str, str],
) -> Iterator[Finding]:
    """A model or the like is read that the training did not make."""
    models = [path for path in outputs if PurePosixPath(path).suffix.lower() in _MODELS]
    read: set[str] = set()
    for event in evaluated:
        path = event.get("of")
        if not isinstance(path, str) or not _reads(event):
            continue
        read.add(path)
        stale = path in code and path not in outputs and path not in made
        if stale and PurePosixPath(path).suffix.lower() in _MODELS:
            twin = [name for name, sha256 in outputs.items() if sha256 == code[path]]
            if twin:
                continue
            yield Finding(
                factor=f"artefact:{path}",
                severity="error",
                sentence=f"loads {path}, which run {run} did not make"
                + (f"; it made {', '.join(models[:4])}" if models else ""),
                where=event.get("where"),
            )
    unread = [path for path in models if not any(name == path or name.startswith(path) for name in read)]
    if models and len(unread) == len(models) and evaluated:
        yield Finding(
            factor=f"artefact:{models[0]}",
            severity="note",
            sentence=f"was not seen to load anything that run {run} made ({', '.join(models[:4])})",
            where=None,
        )


def _reads(event: Event) -> bool:
    return event["event"] == "load" or (event["event"] == "open" and event.get("mode") == "read")


def _find_states(trained: Sequence[Event], evaluated: Sequence[Event], run: str) -> Iterator[Finding]:
    """An estimator transforms or predicts that knows other numbers than the training's of that class."""
    states: dict[str, set[str]] = {}
    for event in trained:
        if "state" in event and isinstance(event.get("of"), str):
            states.setdefault(event["of"], set()).add(event["state"])
    refitted = {event.get("of") for event in evaluated if event["event"] == "fit"}
    for event in evaluated:
        of = event.get("of")
        if event["event"] not in ("transform", "predict", "evaluate") or "state" not in event or of in refitted:
            continue
        known = states.get(str(of))
        if known and event["state"] not in known:
            yield Finding(
                factor=f"artefact:{of}",
                severity="error",
                sentence=f"uses a {of} that knows other numbers than the one that run {run} fitted",
                where=event.get("where"),
            )


def _find_weights(trained: Sequence[Event], evaluated: Sequence[Event], run: str) -> Iterator[Finding]:
    """Weights come back as others than those saved, or were never loaded at all."""
    if any(event.get("more") for event in (*trained, *evaluated)):
        return  # Not all that was saved was noted.
    saved: dict[str, set[str]] = {}
    for event in trained:
        if event["event"] == "save" and "weights" in event:
            saved.setdefault(str(event.get("of")), set()).add(event["weights"])
    for event in evaluated:
        path = str(event.get("of"))
        if event["event"] == "load" and "weights" in event and path in saved and event["weights"] not in saved[path]:
            yield Finding(
                factor=f"artefact:{path}",
                severity="error",
                sentence=f"has other weights after loading {path} than run {run} saved there",
                where=event.get("where"),
            )
    if not any(event["event"] == "fit" and "weights" in event for event in trained):
        return  # A loop of the user's own: what it ended with was not seen.
    known = {event["weights"] for event in trained if "weights" in event}
    known |= {event["weights"] for event in evaluated if event["event"] in ("load", "fit") and "weights" in event}
    for event in evaluated:
        if event["event"] in ("evaluate", "predict") and "weights" in event and event["weights"] not in known:
            yield Finding(
                factor="artefact:weights",
                severity="error",
                sentence=f"evaluates weights that were neither loaded here nor seen in run {run}",
                where=event.get("where"),
            )


def _find_modes(evaluated: Sequence[Event]) -> Iterator[Finding]:
    """A PyTorch module whose layers behave otherwise in training is filled and never put into evaluation mode."""
    for index, event in enumerate(evaluated):
        noisy = event.get("noisy")
        later = (other for other in evaluated[index + 1 :] if other["event"] == "mode")
        if event["event"] == "load" and noisy and not any(other.get("training") is False for other in later):
            yield Finding(
                factor=f"mode:{noisy[0]}",
                severity="error",
                sentence=f"loads {event.get('of')} and never calls eval() on it: {', '.join(noisy)} still behave as in "
                "training",
                where=event.get("where"),
            )


def _find_label_order(trained: Sequence[Event], evaluated: Sequence[Event]) -> Iterator[Finding]:
    """The same rows come with the same classes under other numbers, or in another order."""
    pairs = list(_list_labelled(trained))
    for event, features, labels in _list_labelled(evaluated):
        for _, old_features, old_labels in pairs:
            if old_labels.get("digest") == labels.get("digest") or not labels.get("pattern"):
                continue
            same_rows = features.get("digest") is not None and features.get("digest") == old_features.get("digest")
            if same_rows and old_labels.get("pattern") == labels["pattern"]:
                yield Finding(
                    factor="order:labels",
                    severity="error",
                    sentence="has the classes under other numbers than the training, for the very same rows: they are "
                    f"numbered {_show_labels(labels)} here and {_show_labels(old_labels)} there",
                    where=event.get("where"),
                )
                break
            if same_rows:
                yield Finding(
                    factor="order:labels",
                    severity="error",
                    sentence="has other labels than the training for the very same rows",
                    where=event.get("where"),
                )
                break


def _list_labelled(trail: Sequence[Event]) -> Iterator[tuple[Event, Mapping[str, Any], Mapping[str, Any]]]:
    for event in trail:
        data = event.get("data")
        if not isinstance(data, dict):
            continue
        for features, labels in (("X", "y"), ("x", "y"), ("validation_x", "validation_y")):
            if isinstance(data.get(features), dict) and isinstance(data.get(labels), dict):
                yield event, data[features], data[labels]


def _show_labels(labels: Mapping[str, Any]) -> str:
    counts = labels.get("labels") or {}
    shown = ", ".join(f"{name}: {count}" for name, count in list(counts.items())[:4])
    return "{" + shown + (", …" if len(counts) > 4 else "") + "}"


def _find_leaks(trained: Sequence[Event], evaluated: Sequence[Event]) -> Iterator[Finding]:
    """Rows are evaluated that were trained on."""
    fits = [
        data
        for event in trained
        if event["event"] == "fit"
        for name, data in (event.get("data") or {}).items()
        if name in ("X", "x") and isinstance(data, dict) and "sample" in data
    ]
    for event in evaluated:
        if event["event"] not in ("evaluate", "predict"):
            continue
        for name, data in (event.get("data") or {}).items():
            if name not in ("X", "x") or not isinstance(data, dict) or "sample" not in data:
                continue
            yield from _compare_rows(event, data, fits)


def _compare_rows(event: Event, data: Mapping[str, Any], fits: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    if data.get("rows") is not None and any(data["rows"] == fitted.get("rows") for fitted in fits):
        # All of them and no other: most likely on purpose, beside the test rows.
        yield Finding(
            factor="leak:rows",
            severity="note",
            sentence="evaluates the very rows that were trained on",
            where=event.get("where"),
        )
        return
    for fitted in fits:
        common, looked_at = count_common(fitted["sample"], data["sample"])
        if common >= _LEAK_ROWS:
            yield Finding(
                factor="leak:rows",
                severity="error",
                sentence=f"evaluates rows that were trained on: about {common / looked_at:.0%} of them "
                f"({common} of the {looked_at} that were compared)",
                where=event.get("where"),
            )
            return


def count_common(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[int, int]:
    """Count rows that two samples have in common.

    Args:
        a: A sample, as the trail has it: "shift" and "rows".
        b: Another.

    Returns:
        How many named rows of `b` are among those of `a`, and of how many that could have been told.
    """
    mask = (1 << max(a["shift"], b["shift"])) - 1
    wanted = {row for row in a["rows"] if not int(row, 16) & mask}
    looked_at = [row for row in b["rows"] if not int(row, 16) & mask]
    return sum(row in wanted for row in looked_at), len(looked_at)


def _count_rows(event: Event) -> int | None:
    for name in ("X", "x"):
        data = (event.get("data") or {}).get(name)
        if isinstance(data, dict) and data.get("shape"):
            return int(data["shape"][0])
    return None
