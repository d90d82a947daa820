"""The cache gives out what is whole and true, or nothing; and everything in it appears whole."""

from __future__ import annotations

import errno
import hashlib
import json
import threading
from pathlib import Path

import pytest

from reprobox.errors import ArtefactAltered, BuildError
from reprobox.image.cache import Cache, CachedLayer
from reprobox.image.layers import DiffId, LayerDigest, LayerWriter
from reprobox.image.plan import LayerKey
from reprobox.records.notes import write_note

KEY = LayerKey("k" * 64)
OTHER = LayerKey("o" * 64)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def put_package(cache: Cache, data: bytes) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    path = cache.package_path(sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return sha256


def put_layer(cache: Cache, key: LayerKey = KEY, content: bytes = b"content") -> tuple[CachedLayer, LayerDigest]:
    with cache.aside() as folder:
        part = folder / "layer.tar"
        with part.open("wb") as stream:
            writer = LayerWriter(stream)
            writer.add_file("file", content, size=len(content))
            digest = writer.finish()
        return cache.keep_layer(key, digest, part), digest


def files(cache: Cache) -> list[str]:
    """Everything in it, but for the mark that it is a cache."""
    found = [str(path.relative_to(cache.root)) for path in cache.root.rglob("*") if path.is_file()]
    return sorted(path for path in found if path != "CACHEDIR.TAG")


def test_a_package_is_found_by_its_digest(cache: Cache) -> None:
    """A package is found by what it hashes to; one that is not there is None; looking makes nothing."""
    assert cache.find_package("0" * 64) is None
    assert not cache.root.exists()
    sha256 = put_package(cache, b"package")
    found = cache.find_package(sha256)
    assert found is not None
    assert found.read_bytes() == b"package"


@pytest.mark.parametrize("change", [b"packagf", b"packag", b"package ", b""])
def test_a_package_whose_bytes_changed_is_not_given_out(cache: Cache, change: bytes) -> None:
    """A package that no longer hashes to its name is not found, and is removed so that it is fetched again."""
    sha256 = put_package(cache, b"package")
    cache.package_path(sha256).write_bytes(change)
    assert cache.find_package(sha256) is None
    assert not cache.package_path(sha256).exists()


def test_a_layer_is_found_by_what_it_is_made_from(cache: Cache) -> None:
    """A kept layer is found by its key with its digest and its bytes, and by no other key."""
    kept, digest = put_layer(cache)
    found = cache.find_layer(KEY)
    assert found == kept == CachedLayer(digest=digest, path=cache.blob_path(digest.diff_id))
    assert "sha256:" + hashlib.sha256(found.path.read_bytes()).hexdigest() == digest.diff_id
    assert cache.find_layer(OTHER) is None
    assert cache.find_layer(LayerKey("n" * 64)) is None


@pytest.mark.parametrize("change", ["cut", "grown", "empty", "gone"])
def test_a_cut_layer_is_not_given_out(cache: Cache, change: str) -> None:
    """A layer whose bytes are gone, or are fewer or more than they were, is not found, and can be made again."""
    kept, _ = put_layer(cache)
    data = kept.path.read_bytes()
    if change == "gone":
        kept.path.unlink()
    else:
        kept.path.write_bytes({"cut": data[:-512], "grown": data + b"x", "empty": b""}[change])
    assert cache.find_layer(KEY) is None
    put_layer(cache)
    assert cache.find_layer(KEY) == kept
    assert kept.path.read_bytes() == data


def test_a_damaged_layer_of_the_same_size_is_told_and_removed(cache: Cache) -> None:
    """A whole layer checks; one with a flipped bit does not, is removed, and does not check a second time either."""
    kept, _ = put_layer(cache)
    data = kept.path.read_bytes()
    assert cache.check_blob(kept.digest.diff_id)
    kept.path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert not cache.check_blob(kept.digest.diff_id)
    assert not cache.check_blob(kept.digest.diff_id)
    assert cache.find_layer(KEY) is None


def test_two_keys_may_lead_to_one_layer(cache: Cache) -> None:
    """Equal bytes from other packages are kept once and found by both keys."""
    first, _ = put_layer(cache, KEY)
    second, _ = put_layer(cache, OTHER)
    assert first == second
    assert cache.find_layer(KEY) == cache.find_layer(OTHER)
    assert len([name for name in files(cache) if name.startswith("blobs/")]) == 1


@pytest.mark.parametrize(
    "note", ["", "{", "[]", "5", "{}", '{"diff_id": "sha256:0"}', '{"diff_id": "x", "size_bytes": "1", "files": 1}']
)
def test_a_broken_note_is_no_layer(cache: Cache, note: str) -> None:
    """A note that cannot be read counts as none: the layer is made again."""
    put_layer(cache)
    (cache.root / "layers" / f"{KEY}.json").write_text(note)
    assert cache.find_layer(KEY) is None


@pytest.mark.parametrize("value", ["5", "null", "[]"])
def test_a_note_of_another_shape_is_no_layer(cache: Cache, value: str) -> None:
    """A note whose digest is no text counts as none."""
    put_layer(cache)
    (cache.root / "layers" / f"{KEY}.json").write_text(f'{{"diff_id": {value}, "size_bytes": 1, "files": 1}}')
    assert cache.find_layer(KEY) is None


def test_two_writers_of_one_layer_agree(tmp_path: Path) -> None:
    """Builds that write one layer at once all succeed, what they give out is whole at every moment, and one is left."""
    caches = [Cache(tmp_path / "cache") for _ in range(2)]
    expected, _ = put_layer(caches[0], content=b"x" * 70_000)
    problems: list[object] = []
    gate = threading.Barrier(8)

    def build(cache: Cache) -> None:
        gate.wait()
        for _ in range(15):
            kept, _ = put_layer(cache, content=b"x" * 70_000)
            found = cache.find_layer(KEY)
            if kept != expected or found != expected:
                problems.append((kept, found))
            digest = hashlib.sha256(expected.path.read_bytes()).hexdigest()
            if expected.digest.diff_id != f"sha256:{digest}":
                problems.append(digest)

    threads = [threading.Thread(target=build, args=(caches[number % 2],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert files(caches[0]) == [f"blobs/{expected.path.name}", f"layers/{KEY}.json"]


def make_tree(cache: Cache, name: str, content: str) -> Path:
    folder = cache.root / name
    (folder / "usr").mkdir(parents=True)
    (folder / "usr/file").write_text(content)
    return folder


def test_the_first_tree_stays(cache: Cache) -> None:
    """Of two builds that unpack one base, the first tree stays (it may be in use), and the second is removed."""
    assert cache.find_tree("key") is None
    first = cache.keep_tree("key", make_tree(cache, "one", "first"))
    second = cache.keep_tree("key", make_tree(cache, "two", "second"))
    assert first == second == cache.find_tree("key")
    assert (first / "usr/file").read_text() == "first"
    assert not (cache.root / "one").exists()
    assert not (cache.root / "two").exists()


def test_a_tree_that_cannot_be_kept_is_an_error(cache: Cache) -> None:
    """Where there is no tree to keep, nothing is given out."""
    with pytest.raises(OSError):
        cache.keep_tree("key", cache.root / "missing")
    assert cache.find_tree("key") is None


def test_what_is_unfinished_is_removed(cache: Cache) -> None:
    """A folder for something unfinished is new for everybody and is gone afterwards, also after an error."""
    with cache.aside() as one, cache.aside() as two:
        assert one != two
        (one / "part").write_bytes(b"x")

    def fail() -> None:
        with cache.aside() as three:
            (three / "part").write_bytes(b"x")
            raise KeyError("anything")

    with pytest.raises(KeyError):
        fail()
    assert files(cache) == []
    assert not list((cache.root / "unfinished").iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told(cache: Cache, number: int) -> None:
    """No space, or no more quota, is a build that failed for that reason; the hint names the setting that helps."""
    with pytest.raises(BuildError, match="no space is left") as caught, cache.aside() as folder:
        raise OSError(number, "full", str(folder))
    assert "REPROBOX_CACHE" in (caught.value.hint or "")


def test_a_cache_that_is_not_ours_is_told(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that cannot be written is told with the setting that helps; any other error is left as it is."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(BuildError, match="cannot be written") as caught, cache.aside():
            pass
    assert "REPROBOX_CACHE" in (caught.value.hint or "")
    with pytest.raises(PermissionError), cache.aside():
        raise PermissionError(errno.EACCES, "of something else")
    with pytest.raises(IsADirectoryError), cache.aside():
        raise IsADirectoryError(errno.EISDIR, "a folder")


def test_an_image_is_found_by_its_lock(cache: Cache) -> None:
    """What a lock was built to is found by the lock's digest; a broken note counts as none."""
    assert cache.find_image(f"sha256:{'ab' * 32}") is None
    cache.keep_image(f"sha256:{'ab' * 32}", {"config": "x"})
    assert cache.find_image(f"sha256:{'ab' * 32}") == {"config": "x"}
    (cache.root / f"images/{'ab' * 32}.json").write_text("[")
    assert cache.find_image(f"sha256:{'ab' * 32}") is None


def test_a_note_is_written_whole(cache: Cache) -> None:
    """A note replaces an older one, has sorted keys, and nothing is left beside it, also after an error."""
    file = cache.root / "layers/x.json"
    write_note(file, {"b": 1, "a": 2})
    write_note(file, {"b": 3, "a": 4})
    assert file.read_text() == '{"a": 4, "b": 3}'
    with pytest.raises(TypeError):
        write_note(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 4, "b": 3}
    assert files(cache) == ["layers/x.json"]


@pytest.mark.parametrize(
    "name", ["sha256:/./././etc/passwd".ljust(71, "/"), "sha256:" + "../" * 21 + "x", "sha256:AB", ""]
)
def test_what_is_no_digest_names_no_file(cache: Cache, tmp_path: Path, name: str) -> None:
    """A digest that somebody else wrote becomes the name of a file only if it is one."""
    with pytest.raises(ArtefactAltered, match="is no digest"):
        cache.check_blob(DiffId(name))
    with pytest.raises(ArtefactAltered, match="is no digest"):
        cache.keep_image(name, {})
    with pytest.raises(ArtefactAltered, match="is no digest"):
        cache.find_image(name)
    with pytest.raises(ArtefactAltered, match="is no digest"):
        cache.find_package(name.removeprefix("sha256:"))
