"""Records made up for comparisons."""

from __future__ import annotations

import copy
from typing import Any

from reprobox.records.record import Output, Record

DIGEST = "sha256:" + "0" * 64

DRAFT: dict[str, Any] = {
    "schema": "reprobox-record/1",
    "run": "20260102T030405-aaaaaa",
    "kind": "run",
    "of": None,
    "started_utc": "2026-01-02T03:04:05.000000Z",
    "command": {"argv": ["python", "train.py"], "script": "train.py", "arguments": ["train.py"], "working_directory": "."},
    "environment": {
        "name": "e", "lock_digest": DIGEST, "manifest_digest": DIGEST, "python": "3.11.2", "platform": "linux-64",
        "packages": {"numpy": "2.4.0", "keras": "3.15.0"}, "conda": {},
    },
    "code": {"files": [{"path": "train.py", "sha256": "1" * 64, "size_bytes": 1}], "git": None, "left_out": []},
    "inputs": [{"path": "data/a.csv", "sha256": "2" * 64, "size_bytes": 1}],
    "given": [],
    "settings": {
        "determinism": "strict", "seed": 0, "hash_seed": 0, "threads": 2, "network": False, "memory_bytes": None,
        "pids": 4096, "gpus": [], "environment": {},
    },
    "engine": {"name": "docker", "version": "20.10", "rootless": False},
    "hardware": {"machine": "x86_64", "cpus": 2, "cpu": {"model": "EPYC", "flags": "avx avx2"}, "gpus": [], "gpu_driver": None},
    "reprobox": {"version": "0", "guest": "g"},
}  # fmt: skip


def make_output(path: str = "model.keras", sha256: str = "3" * 64, content: str | None = "4" * 64) -> Output:
    """An output."""
    return Output(
        path=path,
        sha256=sha256,
        size_bytes=1,
        format="keras",
        content=None if content is None else ("tensors-v1/sha256", content),
    )


def make_record(
    *,
    outputs: tuple[Output, ...] | None = None,
    metrics: dict[str, float | int | str] | None = None,
    status: Any = "completed",
    **draft: Any,
) -> Record:
    """A record; `draft` replaces parts of it, a dictionary those keys of a part that it names."""
    whole = copy.deepcopy(DRAFT)
    for key, value in draft.items():
        whole[key] = {**whole[key], **value} if isinstance(value, dict) and isinstance(whole[key], dict) else value
    return Record(
        draft=whole,
        status=status,
        exit_code=0,
        finished_utc="2026-01-02T03:04:06.000000Z",
        durations_s={},
        outputs=(make_output(),) if outputs is None else outputs,
        metrics={"accuracy": 0.5} if metrics is None else metrics,
        comparison=(),
        streams={"stdout": {"sha256": "5" * 64}, "stderr": {"sha256": "6" * 64}},
        tainted=(),
    )
