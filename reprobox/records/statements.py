"""What an attestation states of a run: an in-toto Statement that is a pure function of the run's record.

A training, and whatever else makes files, gets SLSA Provenance v1; an evaluation gets Test Result v0.1. Since a
statement follows from the record alone, it is checked by making it again: `find_claim_problem` says where the two part.
Format: docs/formats/attestation-v1.md.

Source: in-toto Attestation Framework v1.1 (https://github.com/in-toto/attestation, spec/v1), SLSA Provenance v1
(https://slsa.dev/provenance/v1), Test Result v0.1 (spec/predicates/test-result.md of the former).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from reprobox.errors import RecordError
from reprobox.records.digests import Sha256, canonical_json
from reprobox.records.record import Record

Json = dict[str, Any]

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
PROVENANCE: Final = "https://slsa.dev/provenance/v1"
TEST_RESULT: Final = "https://in-toto.io/attestation/test-result/v0.1"
BUILD_TYPE: Final = "https://reprobox.org/attestation/run/v1"
BUILDER: Final = "https://reprobox.org/attestation/builder/v1"

PREDICATE_NAMES: Final = {PROVENANCE: "provenance", TEST_RESULT: "test-result"}
"""Predicate type → what its files are called by: the name of its specification."""

_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"

# Of these, a field more than expected changes what is stated; of all others, specifications say to ignore it.
_CLOSED: Final = frozenset({"externalParameters", "digest"})


def predicate_of(record: Record) -> str:
    """Which predicate a run is attested with."""
    return TEST_RESULT if record.draft["kind"] == "eval" else PROVENANCE


def require_attestable(record: Record) -> None:
    """Require that what would be stated of a run is true.

    An evaluation that failed is stated as such. Provenance has no such word: that files came from these inputs cannot
    be said where the run did not end, or an input changed meanwhile.

    Raises:
        RecordError: It is a run that failed, was interrupted, or is tainted.
    """
    if predicate_of(record) != PROVENANCE:
        return
    if record.status != "completed":
        raise RecordError(
            f"run {record.run} is {record.status}, and provenance cannot say so", hint="name another: reprobox runs"
        )
    if record.tainted:
        raise RecordError(
            f"run {record.run} is tainted, and provenance cannot say so: {record.tainted[0]}", hint="run it again"
        )


def render_statement(record: Record, sha256: Sha256) -> Json:
    """Render what is stated of a run.

    Args:
        record: Its record.
        sha256: Of the bytes of its `record.json`.

    Returns:
        An in-toto Statement, with lists in the record's order.

    Raises:
        RecordError: The record lacks something that a statement names.
    """
    predicate = predicate_of(record)
    try:
        if predicate == TEST_RESULT:
            made = _test_result(record)
            subjects = [_file(f"given/{row['path']}", row) for row in record.draft.get("given", ())]
        else:
            made = _provenance(record)
            subjects = [_file(f"outputs/{output.path}", output.to_json()) for output in record.outputs]
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"the record of {record.run} is not complete ({type(error).__name__}: {error})") from None
    return {
        "_type": STATEMENT_TYPE,
        "subject": [_file("record.json", {"sha256": sha256}), *subjects],
        "predicateType": predicate,
        "predicate": _without_nulls(made),
    }


def _without_nulls(value: Any) -> Any:
    """Leave out fields that are null: specifications call that the same as fields that are not there."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


# Provenance -------------------------------------------------------------------------------------------


def _provenance(record: Record) -> Json:
    draft = record.draft
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": _parameters(draft),
            "internalParameters": {
                "argv": draft["command"]["argv"],
                "engine": draft["engine"],
                "guest": draft["reprobox"].get("guest"),
                "hardware": draft["hardware"],
            },
            "resolvedDependencies": [*_surroundings(record), *_code_and_inputs(record)],
        },
        "runDetails": {
            "builder": {"id": BUILDER, "version": {"reprobox": str(draft["reprobox"]["version"])}},
            "metadata": {
                "invocationId": record.run,
                "startedOn": draft["started_utc"],
                "finishedOn": record.finished_utc,
            },
            "byproducts": [_file(name, row) for name, row in sorted(record.streams.items())],
        },
    }


def _parameters(draft: Mapping[str, Any]) -> Json:
    """What the user chose: every setting of the record, in the spelling that in-toto uses."""
    settings = {_camel(key): value for key, value in draft["settings"].items() if key != "environment"}
    return {
        **settings,
        "command": draft["command"]["arguments"],
        "workingDirectory": draft["command"]["working_directory"],
        "environment": draft["environment"]["name"],
        # Names alone: a value may be a secret, and attestations are made to be shown around. The record has it.
        "variables": sorted(draft["settings"].get("environment", {})),
    }


def _camel(name: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), name)


# Test result ------------------------------------------------------------------------------------------


def _test_result(record: Record) -> Json:
    equal = [str(row["metric"]) for row in record.comparison if row["equal"]]
    failed = [str(row["metric"]) for row in record.comparison if not row["equal"]]
    failed += [str(row["factor"]) for row in record.findings if row["severity"] == "error"]
    # As `eval --gate` decides: without a metric that both have, nothing was shown to be equal.
    if record.status != "completed" or failed or not equal:
        result = "FAILED"
    else:
        result = "WARNED" if record.tainted else "PASSED"
    given = [_file(f"given/{row['path']}", row) for row in record.draft.get("given", ())]
    run: Json = {"name": "run", "uri": f"reprobox:run/{record.draft['of']}"}
    return {
        "result": result,
        "configuration": [run, *_surroundings(record), *given, *_code_and_inputs(record)],
        "passedTests": [] if record.tainted else equal,
        "warnedTests": equal if record.tainted else [],
        "failedTests": failed,
    }


# What a run had ---------------------------------------------------------------------------------------


def _surroundings(record: Record) -> Iterator[Json]:
    """The image, and the lock that it was built from."""
    environment = record.draft["environment"]
    image = _file("image", {"sha256": record.manifest_digest.removeprefix("sha256:")})
    yield {**image, "mediaType": _MANIFEST, "annotations": {"lockDigest": record.lock_digest}}
    if environment.get("lock_sha256") is not None:
        yield _file("reprobox.lock", {"sha256": environment["lock_sha256"]})


def _code_and_inputs(record: Record) -> Iterator[Json]:
    draft = record.draft
    git = draft["code"]["git"]
    if git is not None:
        yield {
            "name": "source",
            "digest": {"gitCommit": git["commit"]},
            "annotations": {"dirty": git["dirty"]},
        }
    for row in draft["code"]["files"]:
        yield _file(f"code/{row['path']}", row)
    for row in draft["inputs"]:
        yield _file(f"inputs/{row['path']}", row)


def _file(name: str, row: Mapping[str, Any]) -> Json:
    """Describe a file, or a symbolic link by what it points to."""
    if "link" in row:
        target = base64.b64encode(str(row["link"]).encode("utf-8")).decode("ascii")
        return {"name": name, "content": target, "mediaType": "inode/symlink"}
    return {"name": name, "digest": {"sha256": row["sha256"]}}


# Checking ---------------------------------------------------------------------------------------------


def find_claim_problem(claimed: object, record: Record, sha256: Sha256) -> str | None:
    """Find where a statement says something else than a record.

    Fields that are not known here are ignored, as the specifications want it, except where one would state more: among
    external parameters and digests. A field that is empty is one that is not there.

    Args:
        claimed: The statement, as JSON.
        record: The record.
        sha256: Of the bytes of its `record.json`.

    Returns:
        The first such place with what stands there and what should, or None where it is a statement of this record.
    """
    expected = render_statement(record, sha256)
    if not isinstance(claimed, dict):
        return "it holds no statement"
    if claimed.get("_type") != STATEMENT_TYPE:
        return f"it is no in-toto statement of version 1, but {_show(claimed.get('_type'))}"
    if claimed.get("predicateType") not in PREDICATE_NAMES:
        return f"its predicate {_show(claimed.get('predicateType'))} is not known here"
    return _find_difference(expected, claimed, "", closed=False)


def _find_difference(expected: object, claimed: object, place: str, *, closed: bool) -> str | None:
    if isinstance(expected, dict) and isinstance(claimed, dict):
        for key, value in expected.items():
            inner = f"{place}.{key}" if place else key
            if key not in claimed:
                if value in ([], {}, ""):
                    continue
                return f"it says nothing of {inner}"
            problem = _find_difference(value, claimed[key], inner, closed=key in _CLOSED)
            if problem:
                return problem
        more = sorted(set(claimed) - set(expected))
        return f"it says more than the record: {place}.{_show(more[0])}" if closed and more else None
    if isinstance(expected, list) and isinstance(claimed, list):
        for index, (one, other) in enumerate(zip(expected, claimed, strict=False)):
            problem = _find_difference(one, other, f"{place}[{_index(one, index)}]", closed=False)
            if problem:
                return problem
        if len(expected) != len(claimed):
            return f"{place} has {len(claimed)} entries, by the record {len(expected)}"
        return None
    if _same(expected, claimed):
        return None
    return f"{place} is {_show(claimed)}, by the record {_show(expected)}"


def _same(one: object, other: object) -> bool:
    try:
        return canonical_json(one) == canonical_json(other)
    except RecordError:
        return False


def _index(entry: object, index: int) -> str:
    return str(entry["name"]) if isinstance(entry, dict) and "name" in entry else str(index)


def _show(value: object) -> str:
    # Somebody else may have written it: what would steer a terminal is spelled out.
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
