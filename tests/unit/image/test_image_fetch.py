"""What is fetched hashes to what the lock says, or it is not there."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from image_makers import make_lock

from reprobox.env.bases import DebianPackage
from reprobox.env.client import Client
from reprobox.env.lockfile import Wheel
from reprobox.errors import ArtefactAltered, IndexUnreachable
from reprobox.image.cache import Cache
from reprobox.image.fetch import Fetcher

CONTENT = bytes(range(256)) * 9000


def package(content: bytes = CONTENT, name: str = "a") -> DebianPackage:
    return DebianPackage(
        name=name,
        version="1.0",
        file=f"pool/main/{name[0]}/{name}/{name}_1.0_amd64.deb",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


class Place:
    """Mirrors that are folders, and a cache."""

    def __init__(self, root: Path, mirrors: int) -> None:
        self.mirrors = [root / f"mirror {number}" for number in range(mirrors)]
        self.cache = Cache(root / "cache")
        templates = []
        for number, mirror in enumerate(self.mirrors):
            mirror.mkdir()
            template = root / f"template{number}"
            template.write_text(f"default_mirror {mirror.as_uri()}\n")
            templates.append(template)
        self.client = Client(environ={"PATH": ""}, cache=self.cache.root, apt_templates=tuple(templates))
        self.arrived = 0

    def put(self, number: int, row: DebianPackage, content: bytes) -> None:
        file = self.mirrors[number] / row.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def fetcher(self) -> Fetcher:
        def advance(size: int) -> None:
            self.arrived += size

        return Fetcher(make_lock(debian=(package(),)), client=self.client, cache=self.cache, advance=advance)

    def files(self) -> list[str]:
        return [
            str(f.relative_to(self.cache.root))
            for f in self.cache.root.rglob("*")
            if f.is_file() and f.name != "CACHEDIR.TAG"
        ]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, 2)


def test_a_package_is_fetched_and_kept(place: Place) -> None:
    """What a mirror gives is kept under its digest, and is fetched once; every byte is told."""
    place.put(0, package(), CONTENT)
    found = place.fetcher().fetch(package())
    assert found.read_bytes() == CONTENT
    assert found == place.cache.package_path(package().sha256)
    assert place.arrived == len(CONTENT)
    place.put(0, package(), b"other by now")
    assert place.fetcher().fetch(package()) == found
    assert place.files() == [str(found.relative_to(place.cache.root))]


def test_the_next_mirror_is_asked(place: Place) -> None:
    """A mirror that lacks a package, or gives other bytes, is followed by the next one."""
    place.put(1, package(), CONTENT)
    assert place.fetcher().fetch(package()).read_bytes() == CONTENT
    other = package(b"second", "b")
    place.put(0, other, b"altered")
    place.put(1, other, b"second")
    assert place.fetcher().fetch(other).read_bytes() == b"second"


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"x", b"x" + CONTENT[1:]])
def test_what_does_not_hash_to_the_lock_is_not_kept(place: Place, content: bytes) -> None:
    """Bytes that are not the locked ones are refused with both digests, and nothing of them stays."""
    place.put(0, package(), content)
    with pytest.raises(ArtefactAltered) as caught:
        place.fetcher().fetch(package())
    assert package().sha256 in caught.value.message
    assert hashlib.sha256(content).hexdigest() in caught.value.message
    assert "a_1.0_amd64.deb" in caught.value.message
    assert caught.value.exit_code == 11
    assert place.files() == []


def test_what_is_nowhere_is_told(place: Place) -> None:
    """A package that no mirror has is unreachable, by its name; nothing is left of the tries."""
    with pytest.raises(IndexUnreachable, match=r"a_1\.0_amd64\.deb cannot be fetched") as caught:
        place.fetcher().fetch(package())
    assert caught.value.hint
    assert place.files() == []


def test_an_altered_package_in_the_cache_is_fetched_again(place: Place) -> None:
    """A cached package that no longer hashes to its name is not used."""
    place.put(0, package(), CONTENT)
    found = place.fetcher().fetch(package())
    found.write_bytes(b"altered")
    assert place.fetcher().fetch(package()).read_bytes() == CONTENT


def test_a_cached_wheel_asks_no_index(place: Place) -> None:
    """A wheel that is in the cache is taken from there: no resolver is started, no index asked."""
    wheel = Wheel(
        name="a", version="1", file="a-1-py3-none-any.whl", size_bytes=3, sha256=hashlib.sha256(b"abc").hexdigest()
    )
    path = place.cache.package_path(wheel.sha256)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"abc")
    assert place.fetcher().fetch(wheel) == path
    assert place.arrived == 3


def test_several_threads_may_fetch_one_package(place: Place) -> None:
    """Threads that fetch the same package at once all get it, whole."""
    place.put(0, package(), CONTENT)
    fetcher = place.fetcher()
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(fetcher.fetch(package()).read_bytes())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 8


def test_giving_up_leaves_nothing(place: Place) -> None:
    """What `advance` raises ends the fetch as it is, and nothing of it stays."""

    class GivenUp(Exception):
        pass

    def give_up(size: int) -> None:
        raise GivenUp

    place.put(0, package(), CONTENT)
    fetcher = Fetcher(make_lock(), client=place.client, cache=place.cache, advance=give_up)
    with pytest.raises(GivenUp):
        fetcher.fetch(package())
    assert place.files() == []
