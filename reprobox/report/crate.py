"""A bundle's description for other tools: an RO-Crate 1.1 of the profile Process Run Crate 0.5. Pure.

Equal runs and files give equal bytes: there is no clock and no random name in it. Nothing in it names a place on the
machine that ran: an input from outside of the project goes by its last name, and so do places in what was typed.

Sources: RO-Crate 1.1 (https://w3id.org/ro/crate/1.1), Process Run Crate 0.5 (https://w3id.org/ro/wfrun/process/0.5),
the terms of https://w3id.org/ro/terms/workflow-run#.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import quote

from reprobox.records.record import Record

Entity = dict[str, Any]

_ITSELF: Final = "ro-crate-metadata.json"
_SUMS: Final = "SHA256SUMS"
_LOCK: Final = "reprobox.lock"
_SPECIFICATION: Final = "https://w3id.org/ro/crate/1.1"
_PROFILE: Final = "https://w3id.org/ro/wfrun/process/0.5"
_TERMS: Final = "https://w3id.org/ro/terms/workflow-run"
_TEXT: Final = "text/plain"

# Not mimetypes: its answers depend on files of the machine.
_FORMATS: Final = {
    ".csv": "text/csv", ".gz": "application/gzip", ".h5": "application/x-hdf5", ".html": "text/html",
    ".jpg": "image/jpeg", ".json": "application/json", ".jsonl": "application/jsonl", ".keras": "application/zip",
    _LOCK: "application/yaml", ".md": "text/markdown", ".npz": "application/zip", ".pdf": "application/pdf",
    ".png": "image/png", ".py": "text/x-python", ".svg": "image/svg+xml", ".toml": "application/toml",
    ".txt": _TEXT, ".yaml": "application/yaml", ".yml": "application/yaml", ".zip": "application/zip",
}  # fmt: skip
_NO_LICENCE: Final = "What is in this bundle came without one; ask who made it what you may do with it."
_OCI: Final = "application/vnd.oci.image."
_PLAIN: Final = re.compile(rf"(?:runs/[^/]+/)?{_SUMS}|runs/[^/]+/std(?:out|err)")

# A slash that begins a path, not one inside of it or of an address, and what follows up to the last name.
_PLACE: Final = re.compile(r"(?:(?<![\w.~/-])|(?<=file://))/(?!/)(?:[^/\s'\"]+/)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class CrateFile:
    """A file of a bundle.

    Attributes:
        sha256: Digest of its bytes, in hex.
        size_bytes: Its size.
    """

    sha256: str
    size_bytes: int


def render_crate(records: Sequence[Record], files: Mapping[str, CrateFile], *, version: str) -> bytes:
    """Render `ro-crate-metadata.json` of a bundle.

    Args:
        records: Its runs, oldest first; at least one.
        files: Path in the bundle → file. `ro-crate-metadata.json` is left out if it is there, and `SHA256SUMS`
            described if it is not: it covers this document, so its digest is known only afterwards.
        version: Of the reprobox that writes the bundle.

    Returns:
        JSON, indented, with a line feed at the end.
    """
    members = {path: file for path, file in sorted(files.items()) if path != _ITSELF}
    entities = [
        *_describe_files(records, members),
        *_describe_folders(records, members),
        *(entity for record in records for entity in _describe_run(record, members)),
        _describe_reprobox(version),
        _entity(_PROFILE, "CreativeWork", name="Process Run Crate", version=_PROFILE.rpartition("/")[2]),
        _entity("#license", "CreativeWork", name="No licence is stated", description=_NO_LICENCE),
    ]
    descriptor = _entity(
        _ITSELF,
        "CreativeWork",
        conformsTo={"@id": _SPECIFICATION},
        about={"@id": "./"},
        description=f"Written by reprobox {version}.",
        mentions={"@id": _local("reprobox", version)},
    )
    found = {entity["@id"]: entity for entity in entities}
    graph = [descriptor, _describe_root(records, members), *(found[name] for name in sorted(found))]
    document = {"@context": [f"{_SPECIFICATION}/context", f"{_TERMS}/context"], "@graph": graph}
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def _describe_root(records: Sequence[Record], files: Mapping[str, CrateFile]) -> Entity:
    words = "Runs in pinned container images, each with its record, code, outputs and what it printed."
    return _entity(
        "./",
        "Dataset",
        conformsTo={"@id": _PROFILE},
        name=f"{_title(records[-1])} (a reprobox bundle)",
        description=f"{words} {_SUMS} covers every other file.",
        datePublished=_time(records[-1].finished_utc),
        license={"@id": "#license"},
        hasPart=_refer(_folder_of(path) or _quote(path) for path in (*files, _SUMS)),
        mentions=_refer(_local(kind, record.run) for record in records for kind in ("run", "reprobox-run")),
    )


# Files ------------------------------------------------------------------------------------------------


def _describe_files(records: Sequence[Record], files: Mapping[str, CrateFile]) -> Iterable[Entity]:
    known = _know_objects(records)
    known["image/oci-layout"] = {"encodingFormat": "application/vnd.oci.layout.header.v1+json"}
    known["image/index.json"] = {"encodingFormat": f"{_OCI}index.v1+json"}
    for record in records:
        known |= _know_blobs(record) | _know_run(record)
    for path, file in files.items():
        digest: Entity = {"sha256": file.sha256, "contentSize": str(file.size_bytes)}
        properties = {"name": _name_of(path)} | digest | known.get(path, {})
        name = PurePosixPath(properties["name"]).name
        guess = (
            _TEXT if _PLAIN.fullmatch(path) else _FORMATS.get(name) or _FORMATS.get(PurePosixPath(name).suffix.lower())
        )
        yield _entity(_quote(path), "File", **{"encodingFormat": guess} | properties)
    if _SUMS not in files:
        words = "`sha256sum -c` accepts it. It covers this description, which therefore cannot hold its digest."
        yield _entity(_SUMS, "File", name=_SUMS, encodingFormat=_TEXT, description=words)


def _know_objects(records: Sequence[Record]) -> dict[str, Entity]:
    """What files that are named by their digest were called where they were used."""
    names: dict[str, set[str]] = {}
    for record in records:
        rows = [(row["sha256"], _last_name(row["path"])) for row in record.draft["inputs"]]
        for sha256, name in (*rows, (record.draft["environment"].get("lock_sha256"), _LOCK)):
            names.setdefault(f"objects/{sha256}", set()).add(name)
    return {path: {"name": min(called), "alternateName": sorted(called)} for path, called in names.items()}


def _know_blobs(record: Record) -> dict[str, Entity]:
    environment = record.draft["environment"]
    blobs = [
        (record.manifest_digest, "manifest", "manifest.v1+json"),
        (environment.get("config_digest"), "configuration", "config.v1+json"),
        *((diff_id, "layer", "layer.v1.tar") for diff_id in environment.get("diff_ids", ())),
    ]
    return {
        _blob(str(digest)): {"name": f"{name} {digest}", "encodingFormat": _OCI + kind} for digest, name, kind in blobs
    }


def _know_run(record: Record) -> dict[str, Entity]:
    """What a record says of the files in its folder, beside their digests."""
    folder = f"runs/{record.run}"
    known: dict[str, Entity] = {f"{folder}/record.json": {"about": {"@id": _local("run", record.run)}}}
    for output in record.outputs:
        if output.content is not None:
            known[f"{folder}/outputs/{output.path}"] = {"identifier": ":".join(output.content)}
    for row in record.draft["code"]["files"]:
        if row["path"] == _script(record):
            known[_script_path(record)] = {
                "@type": ["File", "SoftwareSourceCode"],
                "version": f"sha256:{row['sha256']}",
                "programmingLanguage": {"@id": _python_id(record)} if _is_python(record) else None,
            }
    return known


def _describe_folders(records: Sequence[Record], files: Mapping[str, CrateFile]) -> Iterable[Entity]:
    parts: dict[str, list[str]] = {}
    for path in files:
        if folder := _folder_of(path):
            parts.setdefault(folder, []).append(_quote(path))
    about = {f"runs/{record.run}/": [_local("run", record.run)] for record in records}
    images = {record.manifest_digest for record in records if _blob(record.manifest_digest) in files}
    about["image/"] = [_image_id(digest) for digest in images]
    for folder, members in parts.items():
        name = "OCI image layout" if folder == "image/" else f"Record of run {folder.split('/')[1]}"
        yield _entity(folder, "Dataset", name=name, about=_refer(about.get(folder, ())), hasPart=_refer(members))


def _find_file(path: str, name: str, row: Mapping[str, Any], files: Mapping[str, CrateFile]) -> Entity:
    """Refer to a file of the bundle, or describe it where it is not there: that would be no `File`, which must be."""
    if path in files and files[path].sha256 == row["sha256"]:
        return {"@id": _quote(path)}
    return _entity(
        _local("file", row["sha256"], name),
        "CreativeWork",
        name=name,
        sha256=row["sha256"],
        contentSize=str(row["size_bytes"]) if "size_bytes" in row else None,
        description="A file that is not in this bundle; its digest says which one it was.",
    )


# Runs -------------------------------------------------------------------------------------------------


def _describe_run(record: Record, files: Mapping[str, CrateFile]) -> Iterable[Entity]:
    """Describe a run, what it took and made, what ran it, and what it ran in."""
    draft, digest = record.draft, record.manifest_digest
    times = {"startTime": _time(draft["started_utc"]), "endTime": _time(record.finished_utc)}
    taken, made, variables = _list_taken(record, files), _list_made(record, files), _list_variables(record)
    yield from (entity for entity in (*taken, *made, *variables) if "@type" in entity)
    failure = record.status if record.exit_code is None else f"{record.status}, exit code {record.exit_code}"
    script = _script_path(record)
    instrument = _quote(script) if script in files else _local("tool", _last_name(_script(record)))
    yield _entity(
        _local("run", record.run),
        "CreateAction",
        name=_title(record),
        description=_tell(record),
        # A text, not a reference: so the profile's validator wants it.
        actionStatus=f"http://schema.org/{'Completed' if record.status == 'completed' else 'Failed'}ActionStatus",
        error=None if record.status == "completed" else failure,
        instrument={"@id": instrument},
        object=_refer(entity["@id"] for entity in taken),
        result=_refer(entity["@id"] for entity in made),
        environment=_refer(entity["@id"] for entity in variables),
        containerImage={"@id": _image_id(digest)},
        **times,
    )
    if script not in files:
        yield _entity(instrument, "SoftwareApplication", name=_last_name(_script(record)))
    elif _is_python(record):
        python, address = draft["environment"]["python"], "https://www.python.org/"
        yield _entity(_python_id(record), "ComputerLanguage", name=f"Python {python}", version=python, url=address)
    # The profile has no word for what starts a tool; this is the one of Provenance Run Crate, which builds on it.
    yield _entity(
        _local("reprobox-run", record.run),
        "OrganizeAction",
        name=f"reprobox made and recorded run {record.run}",
        instrument={"@id": _local("reprobox", draft["reprobox"]["version"])},
        result={"@id": _local("run", record.run)},
        **times,
    )
    yield _describe_reprobox(draft["reprobox"]["version"])
    yield _describe_image(digest)


def _list_taken(record: Record, files: Mapping[str, CrateFile]) -> list[Entity]:
    draft = record.draft
    taken = [
        _find_file(f"objects/{row['sha256']}", _last_name(row["path"]), row, files)
        for row in draft["inputs"]
        if "link" not in row
    ]
    for row in draft.get("given", ()):
        taken.append(_find_file(f"runs/{draft['of']}/outputs/{row['path']}", row["path"], row, files))
    # The profile counts what an application is configured by among its objects.
    if lock := draft["environment"].get("lock_sha256"):
        taken.append(_find_file(f"objects/{lock}", _LOCK, {"sha256": lock}, files))
    return taken


def _list_made(record: Record, files: Mapping[str, CrateFile]) -> list[Entity]:
    rows = [output.to_json() for output in record.outputs]
    made = [_find_file(f"runs/{record.run}/outputs/{row['path']}", row["path"], row, files) for row in rows]
    for name, value in record.metrics.items():
        made.append(_entity(_local("metric", record.run, name), "PropertyValue", name=name, value=value))
    return made


def _list_variables(record: Record) -> list[Entity]:
    # Names, but no values, which may be secrets: crates are put into indexes, records are not.
    words = "An environment variable; its value is in the run's record.json."
    return [
        _entity(_local("variable", record.run, name), "PropertyValue", name=name, description=words)
        for name in record.draft["settings"].get("environment", {})
    ]


def _describe_image(digest: str) -> Entity:
    # Without a registry: whoever has the lock assembles the same image, so it need not be in any.
    return _entity(
        _image_id(digest),
        "ContainerImage",
        additionalType={"@id": f"{_TERMS}#DockerImage"},
        name=digest,
        sha256=digest.removeprefix("sha256:"),
        description="An OCI image that reprobox assembled from a lock; the digest is that of its manifest.",
    )


def _describe_reprobox(version: str) -> Entity:
    words = "Runs scripts in container images that are the same bits on every machine, and records them."
    name = _local("reprobox", version)
    return _entity(name, "SoftwareApplication", name="reprobox", softwareVersion=version, description=words)


def _title(record: Record) -> str:
    words = {"eval": "Evaluation of run", "verify": "Repetition of run"}.get(record.draft["kind"], "Run")
    kind = f"{words} {record.draft['of']}" if record.draft["of"] else words
    return f"{kind}: {_last_name(_script(record))}, {record.run}"


def _tell(record: Record) -> str:
    draft = record.draft
    settings, environment, git = draft["settings"], draft["environment"], draft["code"]["git"]
    parts = [
        shlex.join(str(word) for word in draft["command"]["arguments"]),
        f"environment {environment['name']}, Python {environment['python']}, lock {record.lock_digest}",
        f"determinism {settings['determinism']}, seed {settings['seed']}, {settings['threads']} threads",
    ]
    if git:
        parts.append(f"code at commit {git['commit']}{', changed' if git['dirty'] else ''}")
    return _shorten("; ".join([*parts, *(f"tainted: {reason}" for reason in record.tainted)]))


# Names ------------------------------------------------------------------------------------------------


def _local(kind: str, *names: str) -> str:
    return "/".join((f"#{kind}", *(quote(name, safe="", errors="surrogateescape") for name in names)))


def _image_id(digest: str) -> str:
    return _local("image", digest.removeprefix("sha256:"))


def _python_id(record: Record) -> str:
    return _local("python", record.draft["environment"]["python"])


def _script(record: Record) -> str:
    return str(record.draft["command"]["script"] or record.draft["command"]["argv"][0])


def _script_path(record: Record) -> str:
    return f"runs/{record.run}/code/{_script(record)}"


def _is_python(record: Record) -> bool:
    return _script(record).endswith(".py")


def _blob(digest: str) -> str:
    return f"image/blobs/sha256/{digest.removeprefix('sha256:')}"


def _folder_of(path: str) -> str | None:
    """The folder that a file is described in, as an id; None for the bundle itself."""
    match path.split("/"):
        case ["runs", run, _, *_]:
            return f"runs/{_quote(run)}/"
        case ["image", _, *_]:
            return "image/"
    return None


def _name_of(path: str) -> str:
    name = re.sub(r"^(?:runs/[^/]+/(?:(?:outputs|code)/)?|image/|objects/)", "", path)
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _last_name(path: str) -> str:
    """What a path is called without saying where on a machine it is."""
    return PurePosixPath(path).name if path.startswith("/") else path


def _quote(path: str) -> str:
    return quote(path, safe="/", errors="surrogateescape")


def _shorten(text: str) -> str:
    """Leave out where on a machine something was: of an absolute path without blanks, the last name stays."""
    return _PLACE.sub("…/", text)


def _time(text: str) -> str:
    """Spell a time as both specifications want it: with an offset, and not finer than a millisecond."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC).isoformat(timespec="milliseconds")


def _entity(identifier: str, kind: str, /, **properties: Any) -> Entity:
    """Make an entity. Compacted JSON-LD has no lists of one."""
    entity: Entity = {"@id": identifier, "@type": kind}
    for key, value in properties.items():
        if value is not None:
            entity[key] = value[0] if isinstance(value, list) and len(value) == 1 else value
    return entity


def _refer(identifiers: Iterable[str]) -> list[Entity] | None:
    return [{"@id": identifier} for identifier in sorted(set(identifiers))] or None
