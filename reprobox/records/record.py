"""The record of one run: values, and their canonical JSON with a digest of its own. Pure.

Format: docs/formats/record-v1.md. What is noted before the start is a `Draft`, kept on disk while the run goes on, so
that a run whose tool was killed can still be recorded; a `Record` is a draft and how it ended.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal, NewType

from reprobox.errors import RecordError
from reprobox.records.digests import canonical_json, digest_bytes, is_digest, is_plain_path

RunId = NewType("RunId", str)
"""UTC time and random hex digits: `20261124T031512-7f3a9c`."""

SCHEMA = "reprobox-record/1"
STREAMS = ("stdout", "stderr", "trail.jsonl")
"""Files of a run's folder that hold what the command printed and what the shim noted."""

Status = Literal["completed", "failed", "interrupted"]
Kind = Literal["run", "eval", "verify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFile:
    """A file of the code snapshot, or an input.

    Attributes:
        path: Relative to the project, with "/" between parts; absolute for an input from elsewhere.
        sha256: Digest of its bytes, in hex; empty for a symbolic link.
        size_bytes: Its size.
        executable: Whether it may be executed.
        link: Target of a symbolic link, or None for a file.
    """

    path: str
    sha256: str
    size_bytes: int
    executable: bool = False
    link: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Render it for a record."""
        value: dict[str, Any] = {"path": self.path, "sha256": self.sha256, "size_bytes": self.size_bytes}
        if self.executable:
            value["executable"] = True
        if self.link is not None:
            value["link"] = self.link
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A file that the run made or changed.

    Attributes:
        path: Relative to the project.
        sha256: Digest of its bytes, in hex.
        size_bytes: Its size.
        format: What it was recognised as, or None.
        content: Recipe and digest of its content, or None.
        executable: Whether it may be executed.
    """

    path: str
    sha256: str
    size_bytes: int
    format: str | None
    content: tuple[str, str] | None
    executable: bool = False

    def to_json(self) -> dict[str, Any]:
        """Render it for a record."""
        value: dict[str, Any] = {
            "path": self.path,
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "format": self.format,
            "content": None if self.content is None else {"recipe": self.content[0], "digest": self.content[1]},
        }
        if self.executable:
            value["executable"] = True
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What is known of a run before it starts.

    Attributes:
        run: Its id.
        kind: "run", "eval", or "verify" for a run made again.
        of: The run that is evaluated or made again.
        started_utc: When, in ISO 8601.
        command: "argv", "script" (or None), "working_directory" (relative to the project), and what was asked for:
            "inputs" (what was mounted), "outputs" and "metrics" (globs).
        environment: "name", "lock_digest", "manifest_digest", "config_digest", "diff_ids".
        code: Every file of the snapshot.
        git: "commit" and "dirty", or None outside of a repository.
        left_out: Paths that were not handed over, and why.
        inputs: Every input file as it was before the start.
        given: Outputs of the evaluated run that were put in place.
        settings: Seeds, determinism, threads, variables, limits, network, GPUs.
        engine: What ran it.
        hardware: What it ran on.
        reprobox: Version, and digest of the guest shim.
    """

    run: RunId
    kind: Kind
    of: RunId | None
    started_utc: str
    command: dict[str, Any]
    environment: dict[str, Any]
    code: tuple[RecordedFile, ...]
    git: dict[str, Any] | None
    left_out: tuple[dict[str, str], ...]
    inputs: tuple[RecordedFile, ...]
    given: tuple[RecordedFile, ...]
    settings: dict[str, Any]
    engine: dict[str, Any]
    hardware: dict[str, Any]
    reprobox: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Render it as the first part of a record."""
        return {
            "schema": SCHEMA,
            "run": self.run,
            "kind": self.kind,
            "of": self.of,
            "started_utc": self.started_utc,
            "command": self.command,
            "environment": self.environment,
            "code": {
                "files": [file.to_json() for file in self.code],
                "git": self.git,
                "left_out": list(self.left_out),
            },
            "inputs": [file.to_json() for file in self.inputs],
            "given": [file.to_json() for file in self.given],
            "settings": self.settings,
            "engine": self.engine,
            "hardware": self.hardware,
            "reprobox": self.reprobox,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A draft and how it ended; what `record.json` holds.

    Attributes:
        draft: What was known before the start, as JSON.
        status: How it ended.
        exit_code: Of the user's command; None where it is not known.
        finished_utc: When, in ISO 8601.
        durations_s: Seconds by phase.
        outputs: What it made, by path.
        metrics: Name → number, or the text "NaN", "Infinity", "-Infinity".
        comparison: Of an evaluation, or of a run made again: rows of metric, trained, evaluated, equal, difference.
        streams: "stdout", "stderr", "trail.jsonl" → sha256 and size.
        tainted: Why the run is not what it should be; empty for a clean one.
        findings: What an evaluation was seen to do that it should not; see `reprobox.diff.findings`.
    """

    draft: dict[str, Any]
    status: Status
    exit_code: int | None
    finished_utc: str
    durations_s: dict[str, float]
    outputs: tuple[Output, ...]
    metrics: dict[str, float | int | str]
    comparison: tuple[dict[str, Any], ...]
    streams: dict[str, dict[str, Any]]
    tainted: tuple[str, ...] = field(default=())
    findings: tuple[dict[str, Any], ...] = field(default=())

    @property
    def run(self) -> RunId:
        """Its id."""
        return RunId(self.draft["run"])

    @property
    def manifest_digest(self) -> str:
        """The image it ran in."""
        return str(self.draft["environment"]["manifest_digest"])

    @property
    def lock_digest(self) -> str:
        """The environment it ran in."""
        return str(self.draft["environment"]["lock_digest"])


def render_record(record: Record) -> bytes:
    """Render a record as the bytes of `record.json`: canonical JSON with its own digest, and a line break."""
    body = _body(record)
    return canonical_json({**body, "digest": {"recipe": "record-v1/sha256", "digest": _digest(body)}}) + b"\n"


def _body(record: Record) -> dict[str, Any]:
    return {
        **record.draft,
        "status": record.status,
        "exit_code": record.exit_code,
        "finished_utc": record.finished_utc,
        "durations_s": record.durations_s,
        "outputs": [output.to_json() for output in record.outputs],
        "metrics": record.metrics,
        "comparison": list(record.comparison),
        "streams": record.streams,
        "tainted": list(record.tainted),
        # Records of a time before findings have no such key, and stay what they were.
        **({"findings": list(record.findings)} if record.findings else {}),
    }


def _digest(body: dict[str, Any]) -> str:
    return digest_bytes(b"reprobox record-v1\n" + canonical_json(body))


def parse_record(data: bytes, *, source: str) -> Record:
    """Parse the bytes of a `record.json` and check its own digest.

    Args:
        data: The file's content.
        source: Its name, for messages.

    Raises:
        RecordError: Not a record, of an unknown schema, or altered.
    """
    try:
        document = json.loads(data)
        schema = document["schema"]
        if schema != SCHEMA:
            raise RecordError(
                f"{source}: schema {schema!r} is not known here", hint="upgrade reprobox to one that knows it"
            )
        claimed = document.pop("digest")["digest"]
        if claimed != _digest(document):
            raise RecordError(
                f"{source} was altered: it does not hash to the digest that it holds",
                hint="restore it from where it was copied; nothing in it can be relied on",
            )
        if render_again(document, claimed) != data:
            raise RecordError(f"{source} was altered: it is not in canonical form", hint="restore it")
        _require_places(document, source)
        ending = {
            "status", "exit_code", "finished_utc", "durations_s", "outputs", "metrics", "comparison", "streams",
            "tainted", "findings",
        }  # fmt: skip
        return Record(
            draft={key: value for key, value in document.items() if key not in ending},
            status=document["status"],
            exit_code=document["exit_code"],
            finished_utc=document["finished_utc"],
            durations_s=document["durations_s"],
            outputs=tuple(_output(row) for row in document["outputs"]),
            metrics=document["metrics"],
            comparison=tuple(document["comparison"]),
            streams=document["streams"],
            tainted=tuple(document["tainted"]),
            findings=tuple(document.get("findings", ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(
            f"{source} is not a readable record ({type(error).__name__}: {error})",
            hint="restore it, or remove that run's folder",
        ) from None


def _require_places(document: dict[str, Any], source: str) -> None:
    """Require that what a record names stays where it may be: somebody else may have written it.

    Raises:
        RecordError: A run's id, a path or a digest is none.
    """
    if not re.fullmatch(r"[0-9A-Za-z]+(-[0-9A-Za-z]+)*", str(document["run"])):
        raise RecordError(f"{source}: {document['run']!r} is no run's id", hint="do not trust that record")
    rows = [*document["outputs"], *document["code"]["files"], *document.get("given", ())]
    for row in rows:
        path = str(row["path"])
        if not is_plain_path(path):
            raise RecordError(f"{source}: {path!r} is no place in a project", hint="do not trust that record")
    digests = [row["sha256"] for row in [*rows, *document["inputs"]] if "link" not in row]
    environment = document["environment"]
    if environment.get("lock_sha256") is not None:
        digests.append(environment["lock_sha256"])
    named = [environment[key] for key in ("lock_digest", "config_digest", "manifest_digest") if key in environment]
    for digest in (*[f"sha256:{digest}" for digest in digests], *named, *environment.get("diff_ids", ())):
        if not is_digest(digest):
            raise RecordError(f"{source}: {str(digest)[:80]!r} is no digest", hint="do not trust that record")


def render_again(body: dict[str, Any], digest: str) -> bytes:
    """Render a parsed record's body and digest as the bytes they must have come from."""
    return canonical_json({**body, "digest": {"recipe": "record-v1/sha256", "digest": digest}}) + b"\n"


def _output(row: dict[str, Any]) -> Output:
    content = row["content"]
    return Output(
        path=row["path"],
        sha256=row["sha256"],
        size_bytes=row["size_bytes"],
        format=row["format"],
        content=None if content is None else (content["recipe"], content["digest"]),
        executable=row.get("executable", False),
    )


def render_sums(files: dict[str, str]) -> str:
    """Render `SHA256SUMS` as coreutils reads it.

    Args:
        files: Path relative to the run's folder → sha256 in hex.
    """
    lines = []
    for path, digest in sorted(files.items()):
        if any(character in path for character in "\\\n\r"):
            escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
            lines.append(f"\\{digest}  {escaped}\n")
        else:
            lines.append(f"{digest}  {path}\n")
    return "".join(lines)


def parse_sums(text: str, *, source: str) -> dict[str, str]:
    """Parse `SHA256SUMS`: path → sha256 in hex.

    Raises:
        RecordError: A line is not of that form.
    """
    files = {}
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        escaped = line.startswith("\\")
        digest, separator, path = line.removeprefix("\\").partition("  ")
        if not separator or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise RecordError(f"{source}:{number}: not a line of sha256sum")
        if escaped:
            # In one pass: a name may hold a backslash before an n.
            path = re.sub(r"\\([nr\\])", lambda found: {"n": "\n", "r": "\r"}.get(found[1], "\\"), path)
        files[path] = digest
    return files
