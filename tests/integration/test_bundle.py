"""A run in one file: made here, read where there is no network and nothing cached; hostile ones are refused whole."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Tool

ENVIRONMENT = "dependencies:\n  - python=3.11\n  - pip:\n      - numpy==2.4.6\n"
TRAIN = """\
import json, numpy, os
data = numpy.loadtxt("data/numbers.csv")
numpy.save("model.npy", data * 2)
json.dump({"sum": float(data.sum())}, open("metrics.json", "w"))
"""
EVALUATE = """\
import json, numpy
data = numpy.loadtxt("data/numbers.csv")
model = numpy.load("model.npy")
json.dump({"sum": float((model / 2).sum())}, open("metrics.json", "w"))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tool:
    """A project with a run and its evaluation."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "data").mkdir()
    (folder / "data/numbers.csv").write_text("1\n2.5\n4\n")
    for name, text in (("environment.yml", ENVIRONMENT), ("train.py", TRAIN), ("evaluate.py", EVALUATE)):
        (folder / name).write_text(text)
    (folder / "reprobox.toml").write_text('[run]\ninputs = ["data/"]\n')
    tool = Tool(folder)
    tool("run", "train.py")
    tool("export", "-o", "run.tar")
    tool("eval", "evaluate.py")
    tool("export", "-o", "eval.tar")
    return tool


def offline(folder: Path) -> list[str]:
    """The start of a command line without any network, where the machine lets us."""
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0:
        return ["unshare", "--net"]
    return []


def elsewhere(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A command in an empty folder, with an empty cache and home, and no network."""
    (tmp_path / "there").mkdir()
    there = Tool(tmp_path / "there", {"REPROBOX_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)})
    environment = there.environment()

    def tool(*words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*offline(there.folder), *there.command(*words)], cwd=there.folder, env=environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done

    return tool


def test_a_bundle_is_verified_without_a_network(made: Tool, tmp_path: Path) -> None:
    """Nothing but the bundle: training and evaluation are made again from it, and come out identical."""
    tool = elsewhere(tmp_path)
    evaluation, training = (json.loads(made("runs", "--json").out)[index]["run"] for index in (1, 0))
    tool("import", str(made.folder / "eval.tar"))
    assert list((tmp_path / "there").iterdir()) == [tmp_path / "there/.reprobox"]
    for run in (training, evaluation):
        tool("check", run)
        verified = json.loads(tool("verify", run, "--json").stdout)
        assert verified["verdict"] == "identical"
        assert {row["grade"] for row in verified["outputs"]} == {"identical"}


def test_a_bundle_is_checked_and_evaluated_without_a_network(made: Tool, tmp_path: Path) -> None:
    """In an empty folder, with an empty cache and no network: check 0, and an evaluation with equal metrics."""
    tool = elsewhere(tmp_path)
    document = json.loads(tool("import", str(made.folder / "run.tar"), "--files", "--json").stdout)
    assert set(document["written"]) >= {"train.py", "evaluate.py", "data/numbers.csv", "environment.yml"}
    assert document["manifest_digest"]
    tool("check")
    shown = json.loads(tool("show", "--json").stdout)
    assert shown["metrics"] == {"sum": 7.5}
    evaluated = json.loads(tool("eval", "--input", "data/", "--json", "evaluate.py").stdout)
    assert evaluated["comparison"][0]["equal"] is True
    # And again: everything is here already.
    again = json.loads(tool("import", str(made.folder / "run.tar"), "--json").stdout)
    assert again["new"] == []


def test_common_tools_can_check_it(made: Tool, tmp_path: Path) -> None:
    """tar unpacks it, sha256sum checks it, and skopeo reads the image in it."""
    subprocess.run(["tar", "-xf", made.folder / "eval.tar", "-C", tmp_path], check=True)
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)
    crate = json.loads((tmp_path / "ro-crate-metadata.json").read_text())
    assert crate["@context"]
    index = json.loads((tmp_path / "image/index.json").read_text())
    record = json.loads(next((tmp_path / "runs").glob("*/record.json")).read_text())
    assert index["manifests"][0]["digest"] == record["environment"]["manifest_digest"]
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_bundle_is_the_same_bytes_again(made: Tool, tmp_path: Path) -> None:
    """Exported twice, a run is one file; without image and inputs it is small."""
    run = json.loads(made("runs", "--json").out)[0]["run"]
    made("export", run, "-o", str(tmp_path / "a.tar"))
    made("export", run, "-o", str(tmp_path / "b.tar"))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    made("export", run, "--no-image", "--no-inputs", "-o", str(tmp_path / "c.tar"))
    assert (tmp_path / "c.tar").stat().st_size < 1 << 20
    other = Tool(tmp_path)
    other("import", "c.tar")
    other("check")


def test_what_cannot_be_exported_is_told(made: Tool, tmp_path: Path) -> None:
    """A changed input, an altered output: said by name, and no file is left."""
    folder = tmp_path / "copy"
    shutil.copytree(made.folder, folder, symlinks=True)
    tool = Tool(folder)
    (folder / "data/numbers.csv").write_text("9\n")
    assert "is not what it was" in tool("export", "-o", "x.tar", code=11).err
    (folder / "data/numbers.csv").unlink()
    assert "--no-inputs" in tool("export", "-o", "x.tar", code=11).err
    model = next((folder / ".reprobox/runs").glob("*/outputs/model.npy"))
    model.chmod(0o644)
    model.write_bytes(b"other")
    assert "model.npy" in tool("export", "--no-inputs", "-o", "x.tar", code=11).err
    assert not [name for name in os.listdir(folder) if "x.tar" in name]


Rows = list[tuple[tarfile.TarInfo, bytes]]


def rewrite(source: Path, target: Path, change: Callable[[Rows], Rows], *, sums: bool = True) -> None:
    """Write a bundle with changed members; with sums that agree, as somebody who means harm would."""
    rows: Rows = []
    with tarfile.open(source) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            rows.append((member, stream.read() if stream else b""))
    rows = change([row for row in rows if row[0].name != "SHA256SUMS"])
    lines = [f"{hashlib.sha256(data).hexdigest()}  {member.name}\n" for member, data in rows if member.isreg()]
    first = tarfile.TarInfo("SHA256SUMS")
    text = "".join(sorted(lines)).encode()
    first.size = len(text)
    if not sums:
        with tarfile.open(source) as archive:
            stream = archive.extractfile("SHA256SUMS")
            assert stream is not None
            text = stream.read()
            first.size = len(text)
    with tarfile.open(target, "w") as archive:
        for member, data in [(first, text), *rows]:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data) if member.isreg() else None)


def member(
    name: str, data: bytes = b"evil", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, data


def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Rows], Rows]:
    def apply(rows: Rows) -> Rows:
        return [(info, change(data) if info.name.endswith(name) else data) for info, data in rows]

    return apply


def edit_record(change: Callable[[dict], None]) -> Callable[[bytes], bytes]:
    """Edit a record and give it a digest that agrees, as its format says."""

    def apply(data: bytes) -> bytes:
        from reprobox.records.digests import canonical_json

        document = json.loads(data)
        document.pop("digest")
        change(document)
        digest = hashlib.sha256(b"reprobox record-v1\n" + canonical_json(document)).hexdigest()
        return canonical_json({**document, "digest": {"recipe": "record-v1/sha256", "digest": digest}}) + b"\n"

    return apply


HOSTILE: dict[str, Callable[[Rows], Rows]] = {
    "dots": lambda rows: [*rows, member("runs/../../evil")],
    "absolute": lambda rows: [*rows, member("/tmp/reprobox-evil")],
    "elsewhere": lambda rows: [*rows, member(".bashrc")],
    "link": lambda rows: [*rows, member("runs/x", kind=tarfile.SYMTYPE, link="/etc"), member("runs/x/evil")],
    "device": lambda rows: [*rows, member("runs/null", kind=tarfile.CHRTYPE)],
    "twice": lambda rows: [*rows, rows[-1]],
    "object of another name": lambda rows: [*rows, member("objects/" + "0" * 64)],
    "blob of another name": lambda rows: [*rows, member("image/blobs/sha256/" + "0" * 64)],
    "altered output": edit("outputs/model.npy", lambda data: data[:-1] + b"x"),
    "altered record": edit("record.json", lambda data: data.replace(b"7.5", b"9.5")),
    "record of another place": edit("record.json", edit_record(lambda d: d["outputs"][0].update(path="../../../evil"))),
    "record of another run": edit("record.json", edit_record(lambda d: d.update(run="../../evil"))),
    "another image": edit(
        "record.json", edit_record(lambda d: d["environment"].update(manifest_digest="sha256:" + "0" * 64))
    ),
    "a file for an image": edit(
        "record.json", edit_record(lambda d: d["environment"].update(config_digest="sha256:/dev/zero"))
    ),
    "a file for a lock": edit(
        "record.json",
        edit_record(lambda d: d["environment"].update(lock_digest="sha256:" + "/var/tmp/evil".rjust(64, "/"))),
    ),
    "a run twice": edit(
        "bundle.json", lambda data: json.dumps({**json.loads(data), "runs": json.loads(data)["runs"] * 2}).encode()
    ),
    "no record": lambda rows: [row for row in rows if not row[0].name.endswith("record.json")],
    "no bundle": lambda rows: [row for row in rows if row[0].name != "bundle.json"],
    "no layer": lambda rows: [row for row in rows if len(row[1]) < 50_000_000],
    "other runs": edit("bundle.json", lambda data: json.dumps({**json.loads(data), "runs": ["../.."]}).encode()),
    "not json": edit("bundle.json", lambda data: b"{"),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_bundle_is_refused(made: Tool, tmp_path: Path, attack: str) -> None:
    """Whatever is wrong in it: 11, and nothing is written but for an empty state folder."""
    (tmp_path / "there").mkdir()
    rewrite(made.folder / "run.tar", tmp_path / "bad.tar", HOSTILE[attack])
    tool = Tool(tmp_path / "there", {"REPROBOX_CACHE": str(tmp_path / "cache")})
    tool("import", str(tmp_path / "bad.tar"), "--files", code=11)
    assert [path for path in (tmp_path / "there").rglob("*") if path.is_file()] == []
    assert not (tmp_path / "evil").exists()
    assert not Path("/tmp/reprobox-evil").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) in (["bad.tar", "there"], ["bad.tar", "cache", "there"])


@pytest.mark.parametrize("at", [0, 100, 600, 5000, -20000, -5000])
def test_a_bundle_that_was_cut_is_refused(made: Tool, tmp_path: Path, at: int) -> None:
    """Cut anywhere: 11, and nothing is taken in."""
    (tmp_path / "there").mkdir()
    data = (made.folder / "run.tar").read_bytes()
    (tmp_path / "bad.tar").write_bytes(data[:at])
    tool = Tool(tmp_path / "there", {"REPROBOX_CACHE": str(tmp_path / "cache")})
    tool("import", str(tmp_path / "bad.tar"), code=11)
    assert [path for path in (tmp_path / "there").rglob("*") if path.is_file()] == []


def test_a_flipped_bit_is_noticed(made: Tool, tmp_path: Path) -> None:
    """One bit anywhere in what a member holds: 11."""
    import random

    chance = random.Random(5)
    made("export", "--no-image", "-o", str(tmp_path / "small.tar"))
    data = (tmp_path / "small.tar").read_bytes()
    spans = []
    with tarfile.open(tmp_path / "small.tar") as archive:
        spans = [(info.offset_data, info.size) for info in archive if info.size]
    (tmp_path / "there").mkdir()
    tool = Tool(tmp_path / "there")
    for _ in range(12):
        begin, size = chance.choice(spans)
        broken = bytearray(data)
        broken[begin + chance.randrange(size)] ^= 1 << chance.randrange(8)
        (tmp_path / "bad.tar").write_bytes(broken)
        tool("import", str(tmp_path / "bad.tar"), code=11)


def test_code_goes_to_no_place_that_something_else_runs(made: Tool, tmp_path: Path) -> None:
    """A forged record whose code is a hook of git, or a record of another run: left, and said."""
    (tmp_path / "there/.git/hooks").mkdir(parents=True)
    script = next(
        iter(json.loads(next((made.folder / ".reprobox/runs").glob("*/record.json")).read_bytes())["code"]["files"])
    )
    path = str(script["path"])

    def forge(rows: Rows) -> Rows:
        changed = edit(
            "record.json",
            edit_record(lambda d: d["code"]["files"][0].update(path=".git/hooks/pre-commit", executable=True)),
        )(rows)
        for info, data in changed:
            if info.name.endswith(f"/code/{path}"):
                info.name = info.name.replace(f"/code/{path}", "/code/.git/hooks/pre-commit")
            if info.name.endswith("/SHA256SUMS"):
                text = data.decode().replace(f"code/{path}", "code/.git/hooks/pre-commit")
                record = next(row for row in changed if row[0].name.endswith("record.json"))[1]
                lines = [
                    f"{hashlib.sha256(record).hexdigest()}  record.json" if line.endswith("  record.json") else line
                    for line in text.splitlines()
                ]
                changed[changed.index((info, data))] = (
                    info,
                    ("\n".join(sorted(lines, key=lambda row: row[66:])) + "\n").encode(),
                )
        return changed

    rewrite(made.folder / "run.tar", tmp_path / "bad.tar", forge)
    tool = Tool(tmp_path / "there", {"REPROBOX_CACHE": str(tmp_path / "cache")})
    done = tool("import", str(tmp_path / "bad.tar"), "--files")
    assert ".git/hooks/pre-commit" in done.err
    assert list((tmp_path / "there/.git/hooks").iterdir()) == []


def test_another_run_of_that_name_is_not_replaced(made: Tool, tmp_path: Path) -> None:
    """A run that is here with another record stays as it is."""
    tool = Tool(tmp_path)
    shutil.copyfile(made.folder / "run.tar", tmp_path / "run.tar")
    run = tool("import", "run.tar", "--json").document["runs"][0]
    record = tmp_path / ".reprobox/runs" / run / "record.json"
    record.chmod(0o644)
    record.write_bytes(b"{}")
    assert "is another one" in tool("import", "run.tar", code=11).err
    assert record.read_bytes() == b"{}"


def test_what_is_attested_here_is_verified_there(made: Tool, tmp_path: Path) -> None:
    """A real run and its evaluation, signed, taken elsewhere in a bundle, and verified there by the public key alone."""
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.predicates.test_result.v0 import test_result_pb2

    from reprobox.records.dsse import parse_envelope
    from tests.integration.test_model_signing import find_tool

    here, there = Tool(tmp_path / "here"), Tool(tmp_path / "there")
    shutil.copytree(made.folder, here.folder, symlinks=True)
    there.folder.mkdir()
    key = str(tmp_path / "keys/signing.pem")
    here("attest", "--new-key", key)
    trained, evaluated = (row["run"] for row in here("runs", "--json").document[:2])
    for run, schema in ((trained, provenance_pb2.Provenance()), (evaluated, test_result_pb2.TestResult())):
        written = here("attest", run, "--key", key, "--json").document["file"]
        statement = json.loads(parse_envelope(Path(written).read_bytes()).payload)
        json_format.ParseDict(statement["predicate"], schema)
    assert statement["predicate"]["result"] == "PASSED"
    assert statement["predicate"]["passedTests"] == ["sum"]
    here("export", evaluated, "--no-image", "-o", "../signed.tar")
    there("import", "../signed.tar")
    for run in (trained, evaluated):
        assert (
            there("check", run, "--key", f"{key}.pub", "--json").document["attestations"][0]["signature"] == "verified"
        )
    # And the model, for those who have no more than that.
    here("attest", trained, "--key", key, "--model-signing", "../model.sig", "--model", "model.npy")
    for content, good in (((made.folder / "model.npy").read_bytes(), True), (b"other", False)):
        (tmp_path / "downloaded.npy").write_bytes(content)
        command = [
            find_tool(),
            "verify",
            "key",
            "downloaded.npy",
            "--signature",
            "model.sig",
            "--public_key",
            f"{key}.pub",
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        assert (done.returncode == 0) is good, done.stderr
