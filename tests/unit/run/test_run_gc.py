"""What goes is what nobody needs: nothing of a record, a lock, a build under way, or of late."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reprobox.engines.base import HeldImage
from reprobox.engines.fake import FakeEngine
from reprobox.errors import RecordError
from reprobox.image.cache import Cache, place_of_pids
from reprobox.records.store import RunStore, make_run_id
from reprobox.run.gc import Needs, load_needs, perform, plan_gc, plan_images, require_readable_records

NOW = 2_000_000_000.0
NOTHING = Needs(locks=frozenset(), diff_ids=frozenset(), objects=frozenset())


def put(path: Path, content: str = "x", *, days: float = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (NOW - days * 86_400, NOW - days * 86_400))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "project/.reprobox")


def names(cache: Cache, store: RunStore, needs: Needs = NOTHING, days: int = 30) -> set[str]:
    plan = plan_gc(cache, store, needs, now_s=NOW, older_days=days)
    assert all(removal.reason for removal in plan)
    return {f"{removal.kind}:{Path(removal.name).name}" for removal in plan}


def test_what_is_old_and_unneeded_goes(cache: Cache, store: RunStore) -> None:
    """Packages, layers with their notes, images' notes, interpreters and objects, each by its own rule."""
    put(cache.root / "packages/aa/aa1")
    put(cache.root / "packages/aa/aa2", days=1)
    put(cache.root / "packages/bb/bb1")
    put(cache.root / "packages/bb/bb1.base")
    put(cache.root / "blobs/dd1")
    put(cache.root / "layers/key.json", json.dumps({"diff_id": "sha256:dd1"}))
    put(cache.root / "images/ll.json", json.dumps({"diff_ids": ["sha256:dd1"]}))
    put(store.state / "objects/sha256/cc/dd")
    assert names(cache, store) == {"package:aa1", "layer:dd1", "note:key.json", "note:ll.json", "object:dd"}


def test_what_a_record_or_lock_needs_stays(cache: Cache, store: RunStore) -> None:
    """However old it is, and with `--older 0`."""
    put(cache.root / "blobs/dd1")
    put(cache.root / "blobs/dd2")
    put(cache.root / "images/ll.json", json.dumps({"diff_ids": ["sha256:dd1"]}))
    put(store.state / "objects/sha256/cc/dd")
    needs = Needs(locks=frozenset(["sha256:ll"]), diff_ids=frozenset(["sha256:dd2"]), objects=frozenset(["ccdd"]))
    assert names(cache, store, needs) == set()
    assert names(cache, store, needs, days=0) == set()


def test_what_was_used_of_late_stays(cache: Cache, store: RunStore) -> None:
    """A layer of an image that any project used lately; and what is younger than an hour, whatever is said."""
    put(cache.root / "blobs/dd1")
    put(cache.root / "images/ll.json", json.dumps({"diff_ids": ["sha256:dd1"]}), days=2)
    put(cache.root / "blobs/dd2", days=0)
    assert names(cache, store) == set()
    assert names(cache, store, days=0) == {"layer:dd1", "note:ll.json"}


def test_what_a_killed_build_left_goes(cache: Cache, store: RunStore) -> None:
    """Folders of processes that are gone; not those of one that lives."""
    put(cache.root / f"unfinished/999999999-{place_of_pids()}-ab/part")
    put(cache.root / f"unfinished/{os.getpid()}-{place_of_pids()}-cd/part")
    assert names(cache, store) == {f"unfinished:999999999-{place_of_pids()}-ab"}


def test_what_a_run_under_way_needs_stays(cache: Cache, store: RunStore) -> None:
    """A training of days: its code is an object that no record names yet, and its image's layers are in use."""
    lock, layer = f"sha256:{'1' * 64}", "d" * 64
    put(store.state / "objects/sha256/cc/dd")
    put(cache.root / f"blobs/{layer}")
    put(cache.root / f"blobs/{'e' * 64}")
    run = make_run_id(datetime(2026, 1, 1, tzinfo=UTC))
    folder = store.begin(run)
    needs = load_needs(store, cache, [])
    assert needs.unknown
    assert [r.name for r in plan_images({"fake": Holding()}, needs, cache, unneeded=True)] == ["part"]
    (folder / "draft.json").write_text(
        json.dumps({"draft": {"environment": {"lock_digest": lock, "diff_ids": [f"sha256:{layer}"]}}})
    )
    needs = load_needs(store, cache, [])
    assert (needs.unknown, needs.locks) == (False, {lock})
    assert names(cache, store, needs) == {f"layer:{'e' * 64}"}
    store.discard(run)
    assert names(cache, store, load_needs(store, cache, [])) == {f"layer:{layer}", f"layer:{'e' * 64}", "object:dd"}


def test_what_cannot_be_known_is_judged_by_age(cache: Cache, store: RunStore) -> None:
    """A build on another machine that shares the cache, and an import: theirs only once they are a day old."""
    put(cache.root / "unfinished/1-00000000-ab/part", days=0.5)
    put(cache.root / "unfinished/2-00000000-cd/part")
    put(store.state / ".import-1/part")
    for folder in ("unfinished/1-00000000-ab", "unfinished/2-00000000-cd"):
        os.utime(cache.root / folder, (NOW - 9e6, NOW - 9e6))
    os.utime(store.state / ".import-1", (NOW - 9e6, NOW - 9e6))
    assert names(cache, store) == {"unfinished:2-00000000-cd", "unfinished:.import-1"}


def test_what_is_being_written_is_no_file_yet(cache: Cache, store: RunStore) -> None:
    """A note that is half written, and a file that goes while it is looked at."""
    put(cache.root / "layers/.key.json.ab", "")
    put(cache.root / "blobs/.part")
    assert names(cache, store) == set()


class Holding(FakeEngine):
    def list_images(self) -> list[HeldImage]:
        return [
            HeldImage(id="part", lock="sha256:ll", partial=True),
            HeldImage(id="mine", lock="sha256:ll", partial=False),
            HeldImage(id="other", lock="sha256:oo", partial=False),
        ]


def test_images_in_engines(cache: Cache) -> None:
    """Parts go, unless a build is under way; whole images only when told, and not those of this project's locks."""
    needs = Needs(locks=frozenset(["sha256:ll"]), diff_ids=frozenset(), objects=frozenset())
    engines = {"fake": Holding()}
    assert [r.name for r in plan_images(engines, needs, cache, unneeded=False)] == ["part"]
    assert [r.name for r in plan_images(engines, needs, cache, unneeded=True)] == ["part", "other"]
    put(cache.root / f"unfinished/{os.getpid()}-{place_of_pids()}-cd/part")
    assert plan_images(engines, needs, cache, unneeded=False) == []


def test_only_what_was_planned_is_removed(cache: Cache, store: RunStore) -> None:
    """And the bytes that were freed are told."""
    old = put(cache.root / "packages/aa/aa1", "12345")
    new = put(cache.root / "packages/aa/aa2", days=0)
    folder = put(cache.root / "unfinished/999999999-ab/deep/part", "123").parent.parent
    plan = plan_gc(cache, store, NOTHING, now_s=NOW, older_days=30)
    assert perform(plan, {}) >= 8
    assert not old.exists()
    assert not folder.exists()
    assert new.exists()


def test_nothing_goes_where_a_record_cannot_be_read(store: RunStore) -> None:
    """What an unreadable record needs is not known."""
    put(store.state / "runs/20260101T000000-abcdef/record.json", "{")
    with pytest.raises(RecordError, match="nothing was removed"):
        require_readable_records(store)
