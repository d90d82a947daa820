"""The JSON documents that other programs may rely on. More keys may come; these stay. Pure."""

from __future__ import annotations

from typing import Any

from reprobox.errors import ReproboxError
from reprobox.records.record import Record
from reprobox.run.prepare import Prepared


def render_build(prepared: Prepared, titles: tuple[str, ...]) -> dict[str, Any]:
    """Render what `build --json` prints.

    Args:
        prepared: What was built.
        titles: Names of its layers, lowest first.
    """
    image = prepared.image
    return {
        "environment": prepared.entry.name,
        "lock_digest": prepared.lock.digest,
        "manifest_digest": image.manifest_digest,
        "config_digest": image.config_digest,
        "diff_ids": list(image.diff_ids),
        "size_bytes": image.size_bytes,
        "layers": [
            {"title": title, "diff_id": diff_id, "size_bytes": size}
            for title, diff_id, size in zip(titles, image.diff_ids, image.sizes_bytes, strict=True)
        ],
        "reused": prepared.reused,
    }


def render_run(record: Record, folder: str) -> dict[str, Any]:
    """Render what `run --json`, `eval --json` and `show --json` print.

    Args:
        record: The run.
        folder: Where it lies.
    """
    document: dict[str, Any] = {
        "run": record.run,
        "kind": record.draft["kind"],
        "status": record.status,
        "exit_code": record.exit_code,
        "environment": record.draft["environment"]["name"],
        "manifest_digest": record.manifest_digest,
        "lock_digest": record.lock_digest,
        "started_utc": record.draft["started_utc"],
        "finished_utc": record.finished_utc,
        "durations_s": record.durations_s,
        "command": record.draft["command"]["arguments"],
        "settings": record.draft["settings"],
        "outputs": [output.to_json() for output in record.outputs],
        "metrics": record.metrics,
        "tainted": list(record.tainted),
        "findings": list(record.findings),
        "record": folder,
    }
    if record.draft["kind"] != "run":
        document |= {"of": record.draft["of"], "comparison": list(record.comparison)}
    return document


def render_error(error: ReproboxError) -> dict[str, Any]:
    """Render what `--json` prints for an error."""
    return {"error": {"exit_code": error.exit_code, "message": error.message, "hint": error.hint}}
