"""The record's bytes, its digest, SHA256SUMS, and run names."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reprobox.errors import RecordError, RecordNotFound
from reprobox.records.record import (
    Output,
    Record,
    RunId,
    parse_record,
    parse_sums,
    render_record,
    render_sums,
)
from reprobox.records.store import RunStore, make_run_id


def make_record(run: str = "20260102T030405-abc123", **more: Any) -> Record:
    draft = {
        "schema": "reprobox-record/1", "run": run, "kind": "run", "of": None, "started_utc": "2026-01-02T03:04:05Z",
        "command": {"argv": ["python", "train.py"], "script": "train.py", "arguments": ["train.py"], "working_directory": "."},
        "environment": {"name": "e", "lock_digest": f"sha256:{1:064}", "manifest_digest": f"sha256:{2:064}", "python": "3.11.2"},
        "code": {"files": [], "git": None, "left_out": []}, "inputs": [], "given": [],
        "settings": {"determinism": "strict", "seed": 0, "threads": 2}, "engine": {"name": "fake", "version": "1"},
        "hardware": {"cpu": {"model": "m"}, "cpus": 2, "gpus": []}, "reprobox": {"version": "0"},
    }  # fmt: skip
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    values: dict[str, Any] = {
        "draft": draft, "status": "completed", "exit_code": 0, "finished_utc": "2026-01-02T03:04:06Z",
        "durations_s": {"command": 1.25}, "outputs": (), "metrics": {"a": 0.1, "n": 3, "x": "NaN"}, "comparison": (),
        "streams": {name: {"sha256": empty, "size_bytes": 0} for name in ("stdout", "stderr", "trail.jsonl")},
        "tainted": (),
    }  # fmt: skip
    return Record(**(values | more))


OUTPUT = Output(path="m é.bin", sha256="0" * 64, size_bytes=3, format=None, content=("r/sha256", "1" * 64))


def test_render_and_parse() -> None:
    """Parsing what was rendered gives the same record, and rendering that the same bytes."""
    record = make_record(outputs=(OUTPUT,), tainted=("why",))
    data = render_record(record)
    assert parse_record(data, source="r") == record
    assert render_record(parse_record(data, source="r")) == data


@given(st.data())
def test_any_flipped_bit_is_noticed(data: st.DataObject) -> None:
    """A record with one bit changed anywhere is never accepted."""
    rendered = bytearray(render_record(make_record(outputs=(OUTPUT,))))
    at = data.draw(st.integers(0, len(rendered) * 8 - 1))
    rendered[at // 8] ^= 1 << at % 8
    with pytest.raises(RecordError):
        parse_record(bytes(rendered), source="r")


def test_other_spellings_of_the_same_value_are_noticed() -> None:
    """Blanks, another order of keys, or a number spelled otherwise are an altered file, though the value is equal."""
    rendered = render_record(make_record())
    value = json.loads(rendered)
    for text in (json.dumps(value), json.dumps(dict(reversed(value.items())), separators=(",", ":"))):
        with pytest.raises(RecordError):
            parse_record(text.encode(), source="r")


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"schema": "reprobox-record/9"}', b"\xff", b"null", b"[" * 10**5]
)
def test_what_is_no_record(data: bytes) -> None:
    """Anything else is refused in words that name the file."""
    with pytest.raises(RecordError, match="some-file"):
        parse_record(data, source="some-file")


@given(
    st.dictionaries(
        st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1), st.just("0" * 64)
    )
)
@example(files={"\\n": "0" * 64, "a\\\\r\n": "0" * 64})
def test_sums_round_trip(files: dict[str, str]) -> None:
    """What SHA256SUMS says is read back as it was written, whatever the names."""
    assert parse_sums(render_sums(files), source="s") == files


def test_coreutils_reads_our_sums(tmp_path: Path) -> None:
    """`sha256sum -c` understands names with blanks, backslashes and line breaks as we write them."""
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    names = ["a", "b c", "d\\e", "f\ng", "*star", "-dash"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "SHA256SUMS").write_text(render_sums(dict.fromkeys(names, empty)))
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_run_names_mean(tmp_path: Path) -> None:
    """An id, a unique prefix of it or of its hex digits, latest, latest~N; the rest is refused with what there is."""
    store = RunStore(tmp_path)
    runs = ["20260101T000000-aaa111", "20260102T000000-aab222", "20260103T000000-ccc333"]
    for run in runs:
        (tmp_path / "runs" / run).mkdir(parents=True)
    assert store.find_run("latest") == runs[2]
    assert store.find_run("latest~0") == runs[2]
    assert store.find_run("latest~2") == runs[0]
    assert store.find_run("20260102") == runs[1]
    assert store.find_run("ccc") == runs[2]
    assert store.find_run(runs[0]) == runs[0]
    for name in ("latest~3", "aa", "zzz", "latest~x", "2026"):
        with pytest.raises(RecordNotFound):
            store.find_run(name)


def test_run_ids_sort_by_time() -> None:
    """Ids begin with the time, so a listing is a history."""
    early = make_run_id(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    late = make_run_id(datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC))
    assert early < late
    assert early.startswith("20260102T030405-")


def test_a_record_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """`finish` leaves one new folder under runs/ and nothing under active/; done again after a half one, too."""
    store = RunStore(tmp_path)
    record = make_record()
    active = store.begin(record.run)
    (active / "record").mkdir()
    (active / "record/half").write_text("x")
    final = store.finish(record)
    assert final == tmp_path / "runs" / record.run
    assert not (final / "half").exists()
    assert store.list_active() == []
    assert store.load_record(RunId(record.run)) == record


def test_altered_tail_is_not_read(tmp_path: Path) -> None:
    """Another status under the old digest is refused."""
    good = render_record(make_record())
    bad = render_record(replace(make_record(), status="failed"))
    claim = json.loads(good)["digest"]["digest"].encode()
    mixed = bad.replace(json.loads(bad)["digest"]["digest"].encode(), claim)
    assert claim in mixed
    with pytest.raises(RecordError):
        parse_record(mixed, source="r")
