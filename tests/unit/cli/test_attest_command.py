"""`attest` and `check --key` on real records, as a user types them; the runs were made with the fake engine."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reprobox.cli.main import _run
from reprobox.engines.base import ContainerRequest, Sink
from reprobox.errors import ArtefactAltered
from reprobox.image.cache import Cache
from reprobox.records.store import RunStore
from reprobox.run.bundle import import_bundle, list_chain, plan_bundle, write_bundle
from tests.unit.run.worlds import make_world, run_in, work_of


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@dataclass
class Place:
    """A project with runs, and keys outside of it."""

    root: Path
    keys: Path
    training: str
    evaluation: str

    def __call__(self, *words: str, code: int = 0) -> Done:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            found = _run(["-C", str(self.root), *words])
        done = Done(found, out.getvalue(), err.getvalue())
        assert found == code, done
        assert "Traceback" not in done.err
        if code == 2:
            assert "\n\nhint: " in done.err
        return done

    def key(self, name: str = "key.pem", *words: str) -> str:
        self("attest", "--new-key", str(self.keys / name), *words)
        return str(self.keys / name)

    def attestations(self, run: str) -> list[Path]:
        return sorted((self.root / ".reprobox/attestations" / run).iterdir())


def _play(request: ContainerRequest, out: Sink, err: Sink) -> int:
    work = work_of(request)
    (work / "metrics.json").write_text('{"accuracy": 0.5}')
    if not (work / "model.bin").exists():
        (work / "model.bin").write_bytes(b"weights")
    out(b"hello\n")
    return 0


@pytest.fixture
def place(tmp_path: Path) -> Place:
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    (root / "data/x.csv").write_text("1\n")
    for name in ("train.py", "evaluate.py"):
        (root / name).write_text(f"print({name!r})\n")
    world = make_world(tmp_path, play=_play)
    trained = run_in(world, "train.py", inputs=("data/",))
    evaluated = run_in(world, "evaluate.py", of=trained, inputs=("data/",))
    return Place(root=root, keys=tmp_path / "keys", training=trained.run, evaluation=evaluated.run)


def test_from_nothing_to_a_verified_run(place: Place) -> None:
    """Make a key, attest a training and an evaluation, check both by the public half."""
    key = place.key()
    assert stat.S_IMODE(os.stat(key).st_mode) == 0o600
    for run, predicate in (
        (place.training, "https://slsa.dev/provenance/v1"),
        (place.evaluation, "https://in-toto.io/attestation/test-result/v0.1"),
    ):
        made = place("attest", run, "--key", key, "--json").document
        assert (made["run"], made["predicate"], made["new"], made["model_signing"]) == (run, predicate, True, None)
        assert place("attest", run, "--key", key, "--json").document == made | {"new": False}
        checked = place("check", run, "--key", f"{key}.pub", "--json").document
        assert checked["intact"] is True
        assert checked["attestations"] == [
            {"file": Path(made["file"]).name, "predicate": predicate, "keyid": made["keyid"], "signature": "verified"}
        ]
        assert "signature verified" in place("check", run, "--key", f"{key}.pub").err
        plain = place("check", run)
        assert "signature not checked: no key given" in plain.err
        assert place("check", run, "--json").document["attestations"][0]["signature"] == "unchecked"
        assert f"by key {made['keyid'][:16]}" in place("show", run).out


def test_a_run_that_nobody_attested(place: Place) -> None:
    """Without a key there is nothing to say; with one, its attestation is missing: 11."""
    key = place.key()
    assert place("check", "--json").document["attestations"] == []
    done = place("check", "--key", f"{key}.pub", code=11)
    assert "holds none by key" in done.err
    assert "attested" not in place("show").out


def test_each_key_that_is_given_must_have_signed(place: Place) -> None:
    """One of two is not both; both are."""
    one, two = place.key("one.pem"), place.key("two.pem", "--key-type", "ed25519")
    place("attest", "--key", one)
    place("check", "--key", f"{one}.pub")
    assert two in place("check", "--key", f"{one}.pub", "--key", f"{two}.pub", code=11).err
    place("attest", "--key", two)
    place("check", "--key", f"{one}.pub", "--key", f"{two}.pub")
    done = place("check", "--key", f"{two}.pub")
    assert "by none of the keys given" in done.err


def test_keys_of_the_project(place: Place) -> None:
    """[trust] in reprobox.toml: of what attests a run, one must be by one of these; a run without any passes."""
    mine, team = place.key("mine.pem"), place.key("team.pem")
    shutil.copy(f"{team}.pub", place.root / "team.pub")
    (place.root / "reprobox.toml").write_text('[trust]\nkeys = ["team.pub"]\n')
    place("check")
    place("attest", "--key", mine)
    assert "by a key of [trust]" in place("check", code=11).err
    place("attest", "--key", team)
    assert sorted(row["signature"] for row in place("check", "--json").document["attestations"]) == [
        "unchecked",
        "verified",
    ]
    (place.root / "reprobox.toml").write_text('[trust]\nkeys = ["gone.pub"]\n')
    place("check", code=2)
    (place.root / "reprobox.toml").write_text('[trust]\nkeys = "team.pub"\n')
    place("check", code=3)


def test_mistakes_with_keys(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong half, kind, passphrase or path: exit code 2 with a hint, and nothing is signed."""
    monkeypatch.setattr("sys.stdin", io.StringIO())
    key = place.key()
    place("attest", code=2)
    assert "is a public key" in place("attest", "--key", f"{key}.pub", code=2).err
    assert "is a private key" in place("check", "--key", key, code=2).err
    assert "no key" in place("attest", "--key", "nowhere.pem", code=2).err
    place("attest", "--key", str(place.keys), code=2)
    place("attest", "--key", str(place.root / "train.py"), code=2)
    place("check", "--key", str(place.root / "train.py"), code=2)
    place("attest", "--key", key, "--model", "model.bin", code=2)
    place("attest", "--new-key", str(place.keys / "x.pem"), "--key-type", "rsa", code=2)
    place("attest", "--new-key", str(place.keys / "x.pem"), "--key", key, code=2)
    monkeypatch.setenv("SECRET", "open sesame")
    locked = place.key("locked.pem", "--passphrase-env", "SECRET")
    assert b"ENCRYPTED" in Path(locked).read_bytes()
    assert "is encrypted" in place("attest", "--key", locked, code=2).err
    monkeypatch.setenv("WRONG", "open barley")
    assert "does not open" in place("attest", "--key", locked, "--passphrase-env", "WRONG", code=2).err
    assert "not set" in place("attest", "--key", locked, "--passphrase-env", "NOWHERE", code=2).err
    assert not (place.root / ".reprobox/attestations").exists()
    place("attest", "--key", locked, "--passphrase-env", "SECRET")


def test_a_new_key_overwrites_nothing_and_stays_out_of_the_project(place: Place) -> None:
    """Neither half is ever replaced, and no run gets a key by lying where runs are copied from."""
    key = Path(place.key())
    before = key.read_bytes()
    assert "never overwritten" in place("attest", "--new-key", str(key), code=2).err
    assert key.read_bytes() == before
    (place.keys / "b.pem.pub").write_text("mine")
    place("attest", "--new-key", str(place.keys / "b.pem"), code=2)
    assert (place.keys / "b.pem.pub").read_text() == "mine"
    assert not (place.keys / "b.pem").exists()
    (place.keys / "c.pem").write_text("mine")
    place("attest", "--new-key", str(place.keys / "c.pem"), code=2)
    assert not (place.keys / "c.pem.pub").exists()
    assert "every run would get the key" in place("attest", "--new-key", "sub/d.pem", code=2).err
    assert not (place.root / "sub").exists()


def test_a_key_that_is_in_the_record_signs_nothing(place: Place, tmp_path: Path) -> None:
    """Whoever has the record of a run that was handed the key has the key."""
    key = place.key()
    shutil.copy(key, place.root / "key.pem")
    record = run_in(make_world(tmp_path, play=_play), "train.py")
    assert "is in the record" in place("attest", record.run, "--key", key, code=2).err
    place("attest", place.training, "--key", key)


def test_what_is_altered_is_not_signed(place: Place) -> None:
    """Outputs, code and streams are hashed before; a run that is none is 11 as everywhere."""
    key = place.key()
    place("attest", "nonsense", "--key", key, code=11)
    folder = place.root / ".reprobox/runs" / place.training
    (folder / "stdout").write_bytes(b"other\n")
    assert "nothing was signed" in place("attest", place.training, "--key", key, code=11).err
    record = folder / "record.json"
    record.chmod(0o644)
    record.write_bytes(record.read_bytes().replace(b'"seed":0', b'"seed":1'))
    place("attest", place.training, "--key", key, code=11)
    assert not (place.root / ".reprobox/attestations").exists()


def test_a_record_that_was_made_again_is_not_the_one_attested(place: Place) -> None:
    """A forger who alters a record, its digest and its sums in one go is caught by the attestation alone."""
    from dataclasses import replace

    from reprobox.records.digests import digest_bytes
    from reprobox.records.record import RunId, parse_sums, render_record, render_sums

    key = place.key()
    place("attest", place.training, "--key", key)
    store = RunStore(place.root / ".reprobox")
    run = RunId(place.training)
    record = store.load_record(run)
    forged = render_record(replace(record, metrics={"accuracy": 0.99}))
    folder = store.run_folder(run)
    (folder / "record.json").write_bytes(forged)
    sums = parse_sums((folder / "SHA256SUMS").read_text(), source="s")
    (folder / "SHA256SUMS").write_text(render_sums(sums | {"record.json": digest_bytes(forged)}))
    done = place("check", place.training, "--json", code=11)
    assert [row["path"] for row in done.document["problems"]] == [
        f"attestations/{place.training}/{place.attestations(place.training)[0].name}"
    ]
    assert "subject[record.json].digest.sha256" in done.document["problems"][0]["problem"]


@pytest.mark.parametrize("with_key", [False, True])
def test_no_flipped_bit_ends_with_0(place: Place, with_key: bool) -> None:
    """A random bit of any attestation, the file cut, or empty: `check` ends with 11, each time; whole again, with 0."""
    key = place.key()
    words = ["--key", f"{key}.pub"] if with_key else []
    chance = random.Random(3)
    for run in (place.training, place.evaluation):
        place("attest", run, "--key", key)
        (path,) = place.attestations(run)
        data = path.read_bytes()
        path.chmod(0o644)
        altered = [b"", data[:-1], data[: len(data) // 2]]
        for at in chance.sample(range(len(data) * 8), 25):
            flipped = bytearray(data)
            flipped[at // 8] ^= 1 << at % 8
            altered.append(bytes(flipped))
        for one in altered:
            path.write_bytes(one)
            place("check", run, *words, code=11)
        path.write_bytes(data)
        place("check", run, *words)


def test_signing_for_the_openssf_tool(place: Place) -> None:
    """Its file is written, replaced by a new one of its kind, and never put over anything else."""
    key = place.key()
    made = place("attest", place.training, "--key", key, "--model-signing", "model.sig", "--json").document
    assert made["model_signing"] == str(place.root / "model.sig")
    assert json.loads((place.root / "model.sig").read_bytes())["dsseEnvelope"]
    place("attest", place.training, "--key", key, "--model-signing", "model.sig", "--model", "model.bin")
    place("attest", place.training, "--key", key, "--model-signing", "train.py", code=2)
    assert (place.root / "train.py").read_text().startswith("print")
    place("attest", place.training, "--key", key, "--model-signing", "a.sig", "--model", "nothing", code=2)
    place("attest", place.training, "--key", key, "--model-signing", "nowhere/a.sig", code=2)
    other = place.key("other.pem", "--key-type", "ed25519")
    place("attest", place.training, "--key", other, "--model-signing", "b.sig", code=2)
    assert len(place.attestations(place.training)) == 1
    assert not (place.root / "b.sig").exists()


# Bundles ----------------------------------------------------------------------------------------------


def _export(store: RunStore, run: Any, target: Path) -> None:
    records = list_chain(store, run)
    members = plan_bundle(store, records, image=None, inputs={}, crate=lambda runs, files: b"{}")
    write_bundle(members, target, advance=lambda count: None)


def test_bundles_carry_attestations(place: Place, tmp_path: Path) -> None:
    """Of every run in it; import checks them as `check` does, and a later import brings those that are new."""
    key = place.key()
    store, there = RunStore(place.root / ".reprobox"), RunStore(tmp_path / "there/.reprobox")
    cache = Cache(tmp_path / "cache")
    place("attest", place.training, "--key", key)
    _export(store, place.evaluation, tmp_path / "one.tar")
    place("attest", place.evaluation, "--key", key)
    _export(store, place.evaluation, tmp_path / "two.tar")
    import_bundle(tmp_path / "one.tar", there, cache, advance=lambda count: None)
    elsewhere = Place(root=tmp_path / "there", keys=place.keys, training=place.training, evaluation=place.evaluation)
    elsewhere("check", place.training, "--key", f"{key}.pub")
    elsewhere("check", place.evaluation, "--key", f"{key}.pub", code=11)
    imported = import_bundle(tmp_path / "two.tar", there, cache, advance=lambda count: None)
    assert imported.new == ()
    elsewhere("check", place.evaluation, "--key", f"{key}.pub")


def test_what_does_not_hold_is_neither_exported_nor_imported(place: Place, tmp_path: Path) -> None:
    """A bundle with an altered attestation, or one of a run that is not in it, is refused whole."""
    from reprobox.run.bundle import Member

    key = place.key()
    store = RunStore(place.root / ".reprobox")
    place("attest", place.training, "--key", key)
    (path,) = place.attestations(place.training)
    records = list_chain(store, place.training)  # type: ignore[arg-type]
    members = plan_bundle(store, records, image=None, inputs={}, crate=lambda runs, files: b"{}")
    name = f"attestations/{place.training}/{path.name}"
    data = path.read_bytes()

    def refuse(extra: dict[str, bytes], words: str) -> None:
        from reprobox.records.digests import digest_bytes

        more = {
            key: Member(sha256=digest_bytes(value), size_bytes=len(value), content=value)
            for key, value in extra.items()
        }
        write_bundle(members | more, tmp_path / "bad.tar", advance=lambda count: None)
        there = RunStore(tmp_path / "there/.reprobox")
        with pytest.raises(ArtefactAltered, match=words):
            import_bundle(tmp_path / "bad.tar", there, Cache(tmp_path / "cache"), advance=lambda count: None)
        assert there.list_runs() == []
        assert not (there.state / "attestations").exists()

    refuse({name: data[:-2]}, "no signed envelope")
    refuse({name: data.replace(b"A", b"B", 1)}, "does not verify|no statement|no signed envelope")
    refuse({f"attestations/{place.evaluation}/{path.name}": data}, "which is not in it")
    refuse({f"attestations/{place.training}/notes.txt": b"x"}, "has no place in it")
    refuse({f"attestations/{place.training}/sub/{path.name}": data}, "has no place in it")
    path.chmod(0o644)
    path.write_bytes(data[:-2])
    with pytest.raises(ArtefactAltered, match="no signed envelope"):
        _export(store, place.training, tmp_path / "x.tar")
