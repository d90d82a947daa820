"""What differs between two runs, as a tree of factors. Pure.

A factor is named `kind:name`, as everywhere in reprobox: `package:numpy`, `code:prep.py`, `input:data/test.csv`,
`artefact:scaler.joblib`, `setting:threads`, `hardware:cpu-isa`, `output:model.keras`, `metric:accuracy`. What is equal
is not in the tree. Run ids, times, durations and what was printed, which tells of them, are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from reprobox.diff.judge import grade_outputs
from reprobox.env.lockfile import Lock
from reprobox.records.metrics import compare_metrics, decode_metric
from reprobox.records.record import Record

Kind = Literal["added", "removed", "changed", "group"]
"""Of a difference: only in the second run, only in the first, in both and different, or what is below it differs."""

_SETTINGS: Final = ("determinism", "threads", "network", "pids")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that differs.

    Attributes:
        factor: Its name.
        kind: How it differs.
        a: What the first run has, as JSON; None where it has none.
        b: What the second run has.
        children: What differs below it.
    """

    factor: str
    kind: Kind
    a: Any = None
    b: Any = None
    children: tuple[Difference, ...] = ()


def compare_records(
    a: Record, b: Record, *, locks: tuple[Lock, Lock] | None = None, stages: tuple[Difference, ...] = ()
) -> tuple[Difference, ...]:
    """Compare two runs.

    Args:
        a: The first.
        b: The second.
        locks: What their environments were pinned to, for packages that records do not list.
        stages: What their trails differ in.

    Returns:
        What differs: what was run, what went in, what it ran on, what was seen on the way, and what came out.
    """
    first, second = a.draft, b.draft
    groups = (
        ("command", _compare_command(first["command"], second["command"])),
        ("environment", _compare_environments(first["environment"], second["environment"], locks)),
        ("code", _compare_files("code", first["code"]["files"], second["code"]["files"])),
        ("inputs", _compare_files("input", first["inputs"], second["inputs"])),
        ("artefacts", _compare_files("artefact", first["given"], second["given"])),
        ("settings", _compare_settings(first["settings"], second["settings"])),
        ("engine", _compare_values("engine", first["engine"], second["engine"], ("name", "version", "rootless"))),
        ("hardware", compare_hardware(first["hardware"], second["hardware"])),
        ("stages", stages),
        ("outputs", _compare_outputs(a, b)),
        ("metrics", _compare_metrics(a, b)),
        ("outcome", _compare_outcome(a, b)),
    )
    return tuple(Difference(factor=name, kind="group", children=found) for name, found in groups if found)


def compare_hardware(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Compare two machines by what can shape numbers: processor, its instruction sets, GPUs and their driver."""
    cpu_a, cpu_b = a.get("cpu") or {}, b.get("cpu") or {}
    found = _compare_values("hardware", _prefix(cpu_a, "cpu-model", "model"), _prefix(cpu_b, "cpu-model", "model"))
    flags_a, flags_b = set((cpu_a.get("flags") or "").split()), set((cpu_b.get("flags") or "").split())
    if flags_a != flags_b:
        only_a, only_b = " ".join(sorted(flags_a - flags_b)), " ".join(sorted(flags_b - flags_a))
        found += (Difference(factor="hardware:cpu-isa", kind="changed", a=only_a, b=only_b),)
    models_a = [str(gpu.get("model")) for gpu in a.get("gpus") or ()]
    models_b = [str(gpu.get("model")) for gpu in b.get("gpus") or ()]
    if models_a != models_b:
        found += (Difference(factor="hardware:gpu", kind="changed", a=models_a, b=models_b),)
    names = ("machine", "cpus", "gpu_driver")
    return found + _compare_values("hardware", a, b, names)


def _prefix(values: Mapping[str, Any], name: str, key: str) -> dict[str, Any]:
    return {name: values[key]} if key in values else {}


def _compare_command(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Difference, ...]:
    return _compare_values("command", a, b, ("script", "arguments", "working_directory"))


def _compare_environments(
    a: Mapping[str, Any], b: Mapping[str, Any], locks: tuple[Lock, Lock] | None
) -> tuple[Difference, ...]:
    if a["manifest_digest"] == b["manifest_digest"]:
        return ()
    found = _compare_values("environment", a, b, ("python", "platform"))
    if locks is None:
        found += _compare_values("package", _list_packages(a), _list_packages(b))
    else:
        found += _compare_locked(*locks)
        layer_a, layer_b = ({"layer-format": lock.layer_format} for lock in locks)
        found += _compare_values("environment", layer_a, layer_b)
        variables_a, variables_b = (dict(lock.variables) for lock in locks)
        found += _compare_values("variable", variables_a, variables_b)
    if not found:
        # Other bytes under one set of versions: a rebuilt package, another base, another way to build.
        found = _compare_values("environment", a, b, ("lock_digest", "manifest_digest"))
    return found


def _list_packages(environment: Mapping[str, Any]) -> dict[str, str]:
    return {**environment.get("conda", {}), **environment.get("packages", {})}


def _compare_locked(a: Lock, b: Lock) -> tuple[Difference, ...]:
    """Compare all packages of two locks; of one version twice, the digests say that the bytes are others."""
    packages_a, packages_b = _list_locked(a), _list_locked(b)
    found = []
    for name in sorted(packages_a.keys() | packages_b.keys()):
        old, new = packages_a.get(name), packages_b.get(name)
        if old == new:
            continue
        if old and new and old[0] == new[0]:
            old, new = ((f"{version} ({sha256[:12]})", sha256) for version, sha256 in (old, new))
        kind: Kind = "added" if old is None else "removed" if new is None else "changed"
        found.append(
            Difference(factor=f"package:{name}", kind=kind, a=old[0] if old else None, b=new[0] if new else None)
        )
    return tuple(found)


def _list_locked(lock: Lock) -> dict[str, tuple[str, str]]:
    packages = {package.name: (package.version, package.sha256) for package in lock.debian}
    packages |= {package.name: (f"{package.version} {package.build}", package.sha256) for package in lock.conda}
    return packages | {wheel.name: (wheel.version, wheel.sha256) for wheel in lock.wheels}


def _compare_settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Difference, ...]:
    found: tuple[Difference, ...] = ()
    if a.get("seed") != b.get("seed"):
        found = (Difference(factor="seed", kind="changed", a=a.get("seed"), b=b.get("seed")),)
    if a.get("hash_seed") != b.get("hash_seed"):
        found += (
            Difference(factor="setting:PYTHONHASHSEED", kind="changed", a=a.get("hash_seed"), b=b.get("hash_seed")),
        )
    found += _compare_values("setting", a, b, _SETTINGS)
    found += _compare_values("variable", a.get("environment") or {}, b.get("environment") or {})
    gpus_a, gpus_b = len(a.get("gpus") or ()), len(b.get("gpus") or ())
    return found + _compare_values("setting", {"gpus": gpus_a}, {"gpus": gpus_b})


def _compare_files(kind: str, a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> tuple[Difference, ...]:
    def describe(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        return {row["path"]: f"link to {row['link']}" if row.get("link") else f"sha256:{row['sha256']}" for row in rows}

    return _compare_values(kind, describe(a), describe(b))


def _compare_outputs(a: Record, b: Record) -> tuple[Difference, ...]:
    before = {output.path: output for output in a.outputs}
    after = {output.path: output for output in b.outputs}
    found = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        grade = grade_outputs(old, new)
        if grade in ("identical", "content"):
            # Other bytes with one content are how Keras writes a file twice: nothing that a person should look at.
            continue
        kinds: dict[str, Kind] = {"missing": "removed", "new": "added"}
        row_a, row_b = (
            None if row is None else {"sha256": row.sha256, "content": None if row.content is None else row.content[1]}
            for row in (old, new)
        )
        found.append(Difference(factor=f"output:{path}", kind=kinds.get(grade, "changed"), a=row_a, b=row_b))
    return tuple(found)


def _compare_metrics(a: Record, b: Record) -> tuple[Difference, ...]:
    before = {name: decode_metric(value) for name, value in a.metrics.items()}
    after = {name: decode_metric(value) for name, value in b.metrics.items()}
    equal = {row.metric for row in compare_metrics(before, after) if row.equal}
    values_a = {name: value for name, value in a.metrics.items() if name not in equal}
    values_b = {name: value for name, value in b.metrics.items() if name not in equal}
    found = []
    for name in sorted(values_a.keys() | values_b.keys()):
        # Not by `==`: 0.0 and -0.0 are two values, NaN is one.
        kind: Kind = "added" if name not in values_a else "removed" if name not in values_b else "changed"
        found.append(Difference(factor=f"metric:{name}", kind=kind, a=values_a.get(name), b=values_b.get(name)))
    return tuple(found)


def _compare_outcome(a: Record, b: Record) -> tuple[Difference, ...]:
    values_a = {"status": a.status, "exit_code": a.exit_code, "tainted": list(a.tainted)}
    values_b = {"status": b.status, "exit_code": b.exit_code, "tainted": list(b.tainted)}
    return _compare_values("outcome", values_a, values_b)


def _compare_values(
    kind: str, a: Mapping[str, Any], b: Mapping[str, Any], names: Sequence[str] | None = None
) -> tuple[Difference, ...]:
    """Compare two mappings of JSON values, in the order of `names`, or of all names sorted."""
    found = []
    for name in sorted(a.keys() | b.keys()) if names is None else names:
        old, new = a.get(name), b.get(name)
        if old == new and (name in a) == (name in b):
            continue
        how: Kind = "added" if name not in a else "removed" if name not in b else "changed"
        found.append(Difference(factor=f"{kind}:{name}", kind=how, a=old, b=new))
    return tuple(found)
