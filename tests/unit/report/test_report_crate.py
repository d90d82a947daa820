"""The description of a bundle for other tools: laws of ours, and what the validators of RO-Crate say."""

from __future__ import annotations

import hashlib
import io
import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reprobox.records.record import Output, Record, render_record
from reprobox.report.crate import CrateFile, render_crate
from tests.unit.records.test_record_format import make_record

TRAIN, EVALUATION = "20260102T030405-abc123", "20260102T040506-def456"
ODD = ("a b.npy", "50 %.txt", "a#b?c.bin", "ü/é ☃.txt", "a%20b.npy", "x&y=z+~'()!*,;:@.csv", "C:\\d.bin", '"<>^`{|}.md')
PLACE = "/home/alice/secret place"
DATA = b"1\n"

# The terms of both contexts that crates of ours may use; any other is refused by the validators' check of compaction.
# The specification (appendix "RO-Crate JSON-LD") allows such a copy by value of the keys in use.
SCHEMA_TERMS = [
    "ComputerLanguage", "CreateAction", "CreativeWork", "Dataset", "OrganizeAction", "PropertyValue",
    "SoftwareApplication", "SoftwareSourceCode", "about", "actionStatus", "additionalType", "alternateName",
    "contentSize", "datePublished", "description", "encodingFormat", "endTime", "error", "hasPart", "identifier",
    "instrument", "license", "mentions", "name", "object", "programmingLanguage", "result", "softwareVersion",
    "startTime", "url", "value", "version",
]  # fmt: skip
RUN_TERMS = ["ContainerImage", "containerImage", "environment", "sha256"]
CONTEXTS: dict[str, dict[str, str]] = {
    "https://w3id.org/ro/crate/1.1/context": {term: f"http://schema.org/{term}" for term in SCHEMA_TERMS}
    | {"File": "http://schema.org/MediaObject", "conformsTo": "http://purl.org/dc/terms/conformsTo"},
    "https://w3id.org/ro/terms/workflow-run/context": {
        term: f"https://w3id.org/ro/terms/workflow-run#{term}" for term in RUN_TERMS
    },
}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def row(path: str, data: bytes) -> dict[str, Any]:
    return {"path": path, "sha256": sha(data), "size_bytes": len(data)}


def make_output(path: str, data: bytes) -> Output:
    content = ("tensors-v1/sha256", "5" * 64) if path.endswith(".npy") else None
    return Output(path=path, sha256=sha(data), size_bytes=len(data), format=None, content=content)


class Bundle:
    """A run and its evaluation, with the bytes of all files."""

    def __init__(self, *, image: bool = True, inputs: bool = True, **more: Any) -> None:
        self.contents: dict[str, bytes] = {}
        self.blobs = {word: word.encode() for word in ("manifest", "configuration", "layer 1", "layer 2")}
        lock = b"version: 1\n"
        taken = {"data/a.csv": DATA, f"{PLACE}/b c.csv": b"2\n", "data/same.csv": DATA}
        made = {path: f"made {path}".encode() for path in ODD}
        train = self.make(TRAIN, taken, made, lock, **more)
        evaluation = self.make(EVALUATION, taken, {"metrics.json": b"{}"}, lock, of=TRAIN, given=made)
        self.records: list[Record] = [train, evaluation]
        self.contents[f"objects/{sha(lock)}"] = lock
        if inputs:
            self.contents |= {f"objects/{sha(data)}": data for data in taken.values()}
        if image:
            self.contents |= {f"image/blobs/sha256/{sha(data)}": data for data in self.blobs.values()}
            self.contents |= {"image/oci-layout": b"{}", "image/index.json": b"{}"}
        self.contents["bundle.json"] = b"{}\n"

    def make(
        self, run: str, taken: Mapping[str, bytes], made: Mapping[str, bytes], lock: bytes, *, of: str | None = None,
        given: Mapping[str, bytes] | None = None, **more: Any,
    ) -> Record:  # fmt: skip
        code = {"train.py": b"1", "evaluate.py": b"2", "src/ü x.py": b"3"}
        script = "evaluate.py" if of else "train.py"
        record = make_record(run, outputs=tuple(make_output(path, data) for path, data in made.items()), **more)
        digest = {word: f"sha256:{sha(data)}" for word, data in self.blobs.items()}
        draft = record.draft | {
            "kind": "eval" if of else "run",
            "of": of,
            "started_utc": "2026-01-02T03:04:05.123456Z",
            "command": {
                "argv": ["python", script], "script": script, "working_directory": ".",
                "arguments": [script, "--epochs", "3", f"--data={PLACE}/b c.csv", "file:///home/alice/x", "data/a.csv"],
            },
            "environment": record.draft["environment"] | {
                "manifest_digest": digest["manifest"], "config_digest": digest["configuration"],
                "diff_ids": [digest["layer 1"], digest["layer 2"]], "lock_sha256": sha(lock),
            },
            "code": {
                "files": [*(row(path, data) for path, data in code.items()), row("link", b"") | {"link": "train.py"}],
                "git": {"commit": "c" * 40, "dirty": True}, "left_out": [],
            },
            "inputs": [row(path, data) for path, data in taken.items()],
            "given": [row(path, data) for path, data in (given or {}).items()],
            "settings": record.draft["settings"] | {"environment": {"TOKEN": "hunter2", "HOME": "/home/alice"}},
        }  # fmt: skip
        record = replace(record, draft=draft)
        folder = f"runs/{run}"
        self.contents |= {f"{folder}/outputs/{path}": data for path, data in made.items()}
        self.contents |= {f"{folder}/code/{path}": data for path, data in code.items()}
        self.contents |= {f"{folder}/{name}": b"" for name in ("stdout", "stderr", "trail.jsonl", "SHA256SUMS")}
        self.contents[f"{folder}/record.json"] = render_record(record)
        return record

    @property
    def files(self) -> dict[str, CrateFile]:
        return {path: CrateFile(sha256=sha(data), size_bytes=len(data)) for path, data in self.contents.items()}

    def render(self) -> bytes:
        return render_crate(self.records, self.files, version="0.1.0")

    def write(self, folder: Path) -> Path:
        for path, data in (self.contents | {"SHA256SUMS": b"", "ro-crate-metadata.json": self.render()}).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        return folder


def read(data: bytes) -> dict[str, dict[str, Any]]:
    """The entities of a crate by their ids, each of which is there once."""
    graph = json.loads(data)["@graph"]
    entities = {entity["@id"]: entity for entity in graph}
    assert len(entities) == len(graph)
    return entities


def refer(value: Any) -> list[str]:
    """Ids in a property."""
    items = value if isinstance(value, list) else [value]
    return [item["@id"] for item in items if isinstance(item, dict)]


def kinds(entity: dict[str, Any]) -> list[str]:
    return [entity["@type"]] if isinstance(entity["@type"], str) else entity["@type"]


def list_texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from list_texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from list_texts(item)
    elif isinstance(value, str):
        yield value


# Laws -------------------------------------------------------------------------------------------------


def test_equal_bundles_give_equal_bytes() -> None:
    """Neither a clock nor the order of the files is in it; it is indented, and ends with a line feed."""
    bundle = Bundle()
    turned = dict(reversed(bundle.files.items()))
    assert bundle.render() == Bundle().render() == render_crate(bundle.records, turned, version="0.1.0")
    assert bundle.render().startswith(b'{\n  "@context"')
    assert bundle.render().endswith(b"}\n")
    assert read(bundle.render())["./"]["datePublished"] == "2026-01-02T03:04:06.000+00:00"


def test_every_file_is_described_once_and_reached_from_the_root() -> None:
    """With digest and size, by following hasPart; `SHA256SUMS`, which covers the crate, without; itself not at all."""
    bundle = Bundle()
    bundle.contents["ro-crate-metadata.json"] = b""
    entities = read(bundle.render())
    described = {unquote(name): entity for name, entity in entities.items() if "File" in kinds(entity)}
    assert set(described) == (set(bundle.files) - {"ro-crate-metadata.json"}) | {"SHA256SUMS"}
    for path, entity in described.items():
        file = bundle.files.get(path)
        if file is not None:
            assert (entity["sha256"], entity["contentSize"]) == (file.sha256, str(file.size_bytes))
    reached, waiting = set(), refer(entities["./"]["hasPart"])
    while waiting:
        name = waiting.pop()
        assert name not in reached
        reached.add(name)
        waiting += refer(entities[name].get("hasPart"))
    assert {unquote(name) for name in reached} == set(described) | {
        "image/",
        *(f"runs/{r}/" for r in (TRAIN, EVALUATION)),
    }


def test_every_reference_leads_somewhere() -> None:
    """What is referred to is described, but for terms of vocabularies."""
    for bundle in (Bundle(), Bundle(image=False, inputs=False)):
        entities = read(bundle.render())
        for entity in entities.values():
            for key, value in entity.items():
                for name in refer(value):
                    assert name in entities or key in ("additionalType", "conformsTo"), (entity["@id"], key)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
@example("a b#c%d?é/ü%20")
@example("//x:y@z")
def test_ids_are_relative_references_that_decode_to_paths(name: str) -> None:
    """Whatever a file is called: only characters of RFC 3986, no scheme, host, query or fragment; it decodes back."""
    path = f"runs/{TRAIN}/outputs/{name}"
    file = CrateFile(sha256="1" * 64, size_bytes=1)
    output = Output(path=name, sha256="1" * 64, size_bytes=1, format=None, content=None)
    data = render_crate([make_record(TRAIN, outputs=(output,))], {path: file}, version="0")
    entities = read(data)
    (found,) = (key for key, entity in entities.items() if entity.get("sha256") == "1" * 64)
    assert re.fullmatch(r"(?:[A-Za-z0-9._~/-]|%[0-9A-F]{2})+", found)
    assert urlsplit(urljoin("https://example.org/x/", found)).path.startswith("/x/runs/")
    assert unquote(found) == path
    assert found in refer(entities[f"#run/{TRAIN}"]["result"])


def test_nothing_names_a_place_on_the_machine() -> None:
    """Inputs from elsewhere go by their last name, and arguments are cut; values of variables stay in the record."""
    for bundle in (Bundle(), Bundle(inputs=False)):
        texts = list(list_texts(json.loads(bundle.render())))
        assert not [text for text in texts if "alice" in text or text.startswith("/") or "hunter2" in text]
        assert [text for text in texts if "--epochs 3" in text and "data/a.csv" in text and "file://…/x" in text]
        assert "b c.csv" in texts


def test_a_run_is_told_whole() -> None:
    """Instrument, objects, results, image, metrics and reprobox are what they were."""
    bundle = Bundle()
    entities = read(bundle.render())
    trained, evaluated = entities[f"#run/{TRAIN}"], entities[f"#run/{EVALUATION}"]
    assert trained["startTime"] == "2026-01-02T03:04:05.123+00:00"
    assert trained["actionStatus"] == "http://schema.org/CompletedActionStatus"
    assert "error" not in trained
    script = entities[trained["instrument"]["@id"]]
    assert script["@id"] == f"runs/{TRAIN}/code/train.py"
    assert kinds(script) == ["File", "SoftwareSourceCode"]
    assert entities[script["programmingLanguage"]["@id"]]["version"] == "3.11.2"
    made = {name for name in refer(trained["result"]) if not name.startswith("#")}
    assert {unquote(name) for name in made} == {f"runs/{TRAIN}/outputs/{path}" for path in ODD}
    assert made < set(refer(evaluated["object"]))
    values = [entities[name] for name in refer(trained["result"]) if name.startswith("#metric/")]
    assert {entity["name"]: entity["value"] for entity in values} == {"a": 0.1, "n": 3, "x": "NaN"}
    taken = entities[f"objects/{sha(DATA)}"]
    assert taken["alternateName"] == ["data/a.csv", "data/same.csv"]
    assert {e["encodingFormat"] for e in entities.values() if e.get("name") == "reprobox.lock"} == {"application/yaml"}
    manifest = sha(b"manifest")
    image = entities[trained["containerImage"]["@id"]]
    assert (image["name"], image["sha256"]) == (f"sha256:{manifest}", manifest)
    assert refer(entities["image/"]["about"]) == [image["@id"]]
    assert entities[f"image/blobs/sha256/{manifest}"]["encodingFormat"] == "application/vnd.oci.image.manifest.v1+json"
    runner = next(entity for entity in entities.values() if refer(entity.get("result")) == [f"#run/{TRAIN}"])
    assert entities[runner["instrument"]["@id"]]["name"] == "reprobox"
    assert refer(entities["ro-crate-metadata.json"]["mentions"]) == ["#reprobox/0.1.0"]


def test_what_is_not_carried_is_no_file() -> None:
    """Inputs that were left out are told by name and digest; a run without a script has its command as instrument."""
    entities = read(Bundle(inputs=False).render())
    absent = [entities[name] for name in refer(entities[f"#run/{TRAIN}"]["object"]) if name.startswith("#file/")]
    assert {(entity["@type"], entity["name"], entity["sha256"], entity["contentSize"]) for entity in absent} == {
        ("CreativeWork", "b c.csv", sha(b"2\n"), "2"), ("CreativeWork", "data/a.csv", sha(DATA), "2"),
        ("CreativeWork", "data/same.csv", sha(DATA), "2"),
    }  # fmt: skip
    record = make_record()
    record.draft["command"]["script"] = "/usr/bin/env"
    entities = read(render_crate([record], {}, version="0"))
    assert entities["#tool/env"]["name"] == "env"
    assert refer(entities[f"#run/{record.run}"]["instrument"]) == ["#tool/env"]


@pytest.mark.parametrize(
    ("status", "code", "words"), [("failed", 3, "failed, exit code 3"), ("interrupted", None, "interrupted")]
)
def test_a_run_that_failed_says_so(status: str, code: int | None, words: str) -> None:
    """Its action failed, with the reason."""
    action = read(Bundle(status=status, exit_code=code).render())[f"#run/{TRAIN}"]
    assert action["actionStatus"] == "http://schema.org/FailedActionStatus"
    assert action["error"] == words


# Validators -------------------------------------------------------------------------------------------

Validate = Callable[[Path, str], list[str]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The validator's cache of what is on the web, filled with both contexts: offline it reads nothing else."""
    from requests import PreparedRequest, Response
    from requests.adapters import HTTPAdapter
    from requests_cache import CachedSession
    from urllib3 import HTTPResponse

    class Canned(HTTPAdapter):
        def send(self, request: PreparedRequest, *_: Any, **__: Any) -> Response:
            body = io.BytesIO(json.dumps({"@context": CONTEXTS[str(request.url)]}).encode())
            headers = {"Content-Type": "application/ld+json"}
            raw = HTTPResponse(body, headers, 200, request_url=request.url, preload_content=False)
            return self.build_response(request, raw)

    path = tmp_path_factory.mktemp("contexts") / "http"
    with CachedSession(cache_name=str(path), backend="sqlite", expire_after=-1) as session:
        session.mount("https://", Canned())
        for address in CONTEXTS:
            session.get(address)
    return path


@pytest.fixture
def validate(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Validate:
    """The reference validator, which may not use a network: gives what it finds against a profile's requirements."""
    from rocrate_validator import services
    from rocrate_validator.models import Severity, ValidationSettings

    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)

    def run(folder: Path, profile: str) -> list[str]:
        settings = ValidationSettings(
            rocrate_uri=folder, profile_identifier=profile, requirement_severity=Severity.REQUIRED, offline=True,
            cache_path=cache,
        )  # fmt: skip
        result = services.validate(settings)
        # Offline, a check that needs what the cache lacks is passed over.
        assert not result.skipped_checks
        found = [f"{issue.check.identifier}: {issue.message}" for issue in result.get_issues(Severity.REQUIRED)]
        assert result.passed() == (not found)
        return found

    return run


BUNDLES: dict[str, Callable[[], Bundle]] = {
    "whole": Bundle,
    "without image and inputs": lambda: Bundle(image=False, inputs=False),
    "failed": lambda: Bundle(status="failed", exit_code=3),
}


@pytest.mark.parametrize(
    ("kind", "profile"), [("whole", "ro-crate-1.1"), *((kind, "process-run-crate") for kind in BUNDLES)]
)
def test_the_validator_finds_nothing(kind: str, profile: str, validate: Validate, tmp_path: Path) -> None:
    """Every requirement of RO-Crate 1.1, and of Process Run Crate with it, is met; all files are in their places."""
    assert validate(BUNDLES[kind]().write(tmp_path), profile) == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("instrument", "MUST have an instrument"),
        ("license", "MUST have a `license`"),
        ("file", "does not include the Data Entity"),
        ("term", '"unheard" is not allowed'),
    ],
)
def test_the_validator_would_find_something(damage: str, words: str, validate: Validate, tmp_path: Path) -> None:
    """The same validator, without a network too, does notice what is missing: its silence means something."""
    folder = Bundle().write(tmp_path)
    path = folder / "ro-crate-metadata.json"
    document = json.loads(path.read_bytes())
    entities = {entity["@id"]: entity for entity in document["@graph"]}
    match damage:
        case "instrument":
            del entities[f"#run/{TRAIN}"]["instrument"]
        case "license":
            del entities["./"]["license"]
        case "file":
            (folder / f"runs/{TRAIN}/outputs/{ODD[2]}").unlink()
        case "term":
            entities["./"]["unheard"] = "x"
    path.write_text(json.dumps(document))
    found = validate(folder, "process-run-crate")
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize("kind", BUNDLES)
def test_ro_crate_py_loads_it(kind: str, tmp_path: Path) -> None:
    """The reference library reads the crate, finds every file in its place, and follows references."""
    from rocrate.rocrate import ROCrate

    bundle = BUNDLES[kind]()
    crate = ROCrate(bundle.write(tmp_path))
    files = [entity for entity in crate.data_entities if "File" in kinds({"@type": entity.type})]
    assert {unquote(entity.id) for entity in files} == {*bundle.files, "SHA256SUMS"}
    assert all(Path(entity.source).is_file() for entity in files)
    action = crate.dereference(f"#run/{TRAIN}")
    assert action["instrument"].id == f"runs/{TRAIN}/code/train.py"
    assert {unquote(entity.id) for entity in action["result"] if entity in files} >= {f"runs/{TRAIN}/outputs/{ODD[3]}"}
    assert action["containerImage"]["name"] == f"sha256:{sha(b'manifest')}"
