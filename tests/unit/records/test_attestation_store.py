"""Attestations on disk: written once, side by side, and all that lies there must hold."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox.errors import ArtefactAltered, UsageError
from reprobox.records.attestation import (
    attest_run,
    attestations_folder,
    check_attestations,
    name_of,
    take_attestations,
)
from reprobox.records.record import Record, render_record
from reprobox.records.statements import PROVENANCE
from reprobox.records.store import RunStore
from tests.unit.records.test_attestation import KEY, OTHER, make_training


def keep(store: RunStore, record: Record) -> Record:
    """A store with this record; what it names is not there, which these tests do not look at."""
    folder = store.run_folder(record.run)
    folder.mkdir(parents=True)
    (folder / "record.json").write_bytes(render_record(record))
    return record


def test_attesting_twice_changes_nothing(tmp_path: Path) -> None:
    """The first attestation stays, byte for byte, also by ECDSA whose signatures differ each time; keys stand side by side."""
    store = RunStore(tmp_path)
    record = keep(store, make_training())
    folder = attestations_folder(store, record.run)
    for key in (KEY, OTHER):
        found, new = attest_run(store, record.run, key)
        assert new
        data = (folder / found.file).read_bytes()
        assert attest_run(store, record.run, key) == (found, False)
        assert (folder / found.file).read_bytes() == data
    assert sorted(entry.name for entry in folder.iterdir()) == sorted(
        name_of(PROVENANCE, key.public.keyid) for key in (KEY, OTHER)
    )
    checked = check_attestations(store, record.run, (OTHER.public,))
    assert checked.problems == ()
    assert {one.keyid: one.signature for one in checked.attestations} == {
        KEY.public.keyid: "unchecked", OTHER.public.keyid: "verified",
    }  # fmt: skip
    assert checked.find_by(OTHER.public)
    assert checked.find_by(KEY.public) is None


def test_what_is_there_and_broken_is_left(tmp_path: Path) -> None:
    """`attest` neither replaces nor passes over a file that does not hold."""
    store = RunStore(tmp_path)
    record = keep(store, make_training())
    path = attestations_folder(store, record.run) / name_of(PROVENANCE, KEY.public.keyid)
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(ArtefactAltered, match="does not hold"):
        attest_run(store, record.run, KEY)
    assert path.read_text() == "mine"
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(ArtefactAltered, match="no plain file"):
        attest_run(store, record.run, KEY)


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A place that is taken or closed is the user's to mend, and said so."""
    store = RunStore(tmp_path)
    record = keep(store, make_training())
    attestations_folder(store, record.run).parent.write_text("in the way")
    with pytest.raises(UsageError, match="cannot be written"):
        attest_run(store, record.run, KEY)


def test_all_that_lies_there_must_hold(tmp_path: Path) -> None:
    """Folders, pipes, links, files by other names: each is a problem of its own, and none blocks."""
    store = RunStore(tmp_path)
    record = keep(store, make_training())
    folder = attestations_folder(store, record.run)
    found, _ = attest_run(store, record.run, KEY)
    (folder / "notes.txt").write_text("hello")
    (folder / "provenance.00000000.json").write_bytes((folder / found.file).read_bytes())
    (folder / "sub").mkdir()
    (folder / "link.json").symlink_to(found.file)
    os.mkfifo(folder / "pipe")
    (folder / ".provenance.json.0123").write_text("being written")
    checked = check_attestations(store, record.run)
    assert checked.attestations == (replace(found, signature="unchecked"),)
    assert [path.rpartition("/")[2] for path, _ in checked.problems] == [
        "link.json", "notes.txt", "pipe", "provenance.00000000.json", "sub",
    ]  # fmt: skip
    assert check_attestations(RunStore(tmp_path / "x"), keep(RunStore(tmp_path / "x"), record).run).attestations == ()
    attestations_folder(RunStore(tmp_path / "x"), record.run).parent.mkdir()
    attestations_folder(RunStore(tmp_path / "x"), record.run).write_text("")
    assert len(check_attestations(RunStore(tmp_path / "x"), record.run).problems) == 1


def test_taking_attestations_replaces_nothing(tmp_path: Path) -> None:
    """What a store has already stays; the rest comes."""
    here, there = RunStore(tmp_path / "here"), RunStore(tmp_path / "there")
    record = keep(here, make_training())
    keep(there, record)
    first, _ = attest_run(here, record.run, OTHER)
    attest_run(there, record.run, OTHER)
    second, _ = attest_run(there, record.run, KEY)
    before = (attestations_folder(here, record.run) / first.file).read_bytes()
    assert take_attestations(there, record.run, here) == (second.file,)
    assert (attestations_folder(here, record.run) / first.file).read_bytes() == before
    assert len(check_attestations(here, record.run).attestations) == 2
