"""A layer is a deterministic tar: the same entries give the same bytes on every machine, and they can be read back."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from image_makers import NOON_S, Layer

from reprobox.errors import BuildError
from reprobox.image.layers import GENERATED_MTIME, LayerWriter, check_path

LONG = "d" * 60 + "/" + "e" * 60 + "/" + "f" * 60
NAMES = (
    "a/b/plain.txt",
    "short/" + "n" * 99,
    "over-100/" + "n" * 120,
    LONG + "/over-256/" + "m" * 200,
    "größe/日本語/\U0001f600.txt",
    "größe/" + "ü" * 120,
    "a b/with 'quotes' and \"more\"\t",
    "a/=b/c=d",
)


def write(fill: Callable[[LayerWriter], None]) -> Layer:
    stream = io.BytesIO()
    writer = LayerWriter(stream)
    fill(writer)
    digest = writer.finish()
    return Layer(stream.getvalue(), digest)


def fill(writer: LayerWriter) -> None:
    """Entries of every kind."""
    writer.add_directory("opt/env", mtime=NOON_S)
    for name in NAMES:
        writer.add_file(name, name.encode(), size=len(name.encode()), mtime=NOON_S)
    writer.add_file("bin/tool", io.BytesIO(b"#!/bin/sh\n"), size=10, executable=True, mtime=NOON_S)
    writer.add_file("empty", b"", size=0)
    writer.add_file("block", b"x" * 512, size=512)
    writer.add_symlink("bin/link", "tool", mtime=NOON_S)
    writer.add_symlink("bin/far", "/" + LONG + "/" + "t" * 120)
    writer.add_hardlink("bin/same", "a/b/plain.txt", mtime=NOON_S)
    writer.add_directory("tmp", mode=0o1777)


@pytest.fixture
def restless() -> Iterator[None]:
    """Puts time zone, umask and folder back."""
    zone, mask, folder = os.environ.get("TZ"), os.umask(0o022), Path.cwd()
    yield
    os.umask(mask)
    os.chdir(folder)
    if zone is None:
        os.environ.pop("TZ", None)
    else:
        os.environ["TZ"] = zone
    time.tzset()


@pytest.mark.usefixtures("restless")
def test_bytes_follow_the_entries_alone(tmp_path: Path) -> None:
    """Time zone, umask, current folder and user change no byte of a layer."""
    layers = set()
    for zone, mask, folder in (("UTC", 0o022, "/"), ("Pacific/Kiritimati", 0o077, tmp_path), ("XYZ+12", 0o000, "/usr")):
        os.environ["TZ"] = zone
        time.tzset()
        os.umask(mask)
        os.chdir(folder)
        layers.add(write(fill).data)
    assert len(layers) == 1
    if os.geteuid() == 0:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.setgid(65534)
            os.setuid(65534)
            os.write(writer, write(fill).digest.diff_id.encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reader, 100).decode() == write(fill).digest.diff_id


def test_the_bytes_of_format_1_are_pinned() -> None:
    """These entries have this digest for ever: it is part of the identity of every image that was built."""
    assert write(fill).digest.diff_id == PINNED


def test_the_digest_is_of_the_bytes() -> None:
    """The diff_id is sha256 of what went to the stream; size and number of files are true."""
    layer = write(fill)
    assert layer.digest.diff_id == "sha256:" + hashlib.sha256(layer.data).hexdigest()
    assert layer.digest.size_bytes == len(layer.data)
    assert layer.digest.files == sum(not entry.isdir() for entry in layer.entries())
    assert len(layer.data) % 512 == 0
    assert layer.data.endswith(bytes(1024))


def test_names_of_any_length_are_read_back() -> None:
    """Names over 100 and 256 characters, not of ASCII, and with blanks and signs come back as they were."""
    layer = write(fill)
    files = layer.files()
    assert {name: files[name] for name in NAMES} == {name: name.encode() for name in NAMES}
    assert layer.get("bin/far").linkname == "/" + LONG + "/" + "t" * 120


def test_names_that_are_not_utf8_are_read_back() -> None:
    """A name with bytes that are no UTF-8 (a surrogate on this side) comes back as the same bytes."""
    layer = write(lambda writer: writer.add_file("a/\udcff\udcfe.txt", b"x", size=1))
    assert "a/\udcff\udcfe.txt" in layer.names()


def test_folders_come_once_and_before_what_is_in_them() -> None:
    """Every folder stands once and before all that lies in it, whether it was added or only needed."""

    def nest(writer: LayerWriter) -> None:
        writer.add_file("a/b/c/d", b"", size=0)
        writer.add_directory("a/b")
        writer.add_symlink("a/b/x/link", "y")
        writer.add_directory("a/b/x")
        writer.add_hardlink("a/z/hard", "a/b/c/d")
        writer.add_directory("a/b/c/e/f")
        writer.add_directory("")
        writer.add_file("top", b"", size=0)

    for layer in (write(nest), write(fill)):
        seen: list[str] = []
        for entry in layer.entries():
            parents = entry.name.split("/")[:-1]
            assert all("/".join(parents[: count + 1]) in seen for count in range(len(parents)))
            seen.append(entry.name)
        assert len(seen) == len(set(seen))
    assert write(nest).names().count("a/b") == 1


def test_what_a_package_does_not_decide_is_normal() -> None:
    """Owner 0:0 without names, modes 0755 and 0644 by the executable bit, folders 0755 unless said otherwise."""
    layer = write(fill)
    for entry in layer.entries():
        assert (entry.uid, entry.gid, entry.uname, entry.gname) == (0, 0, "", "")
        assert entry.mtime in (NOON_S, GENERATED_MTIME)
        assert isinstance(entry.mtime, int) or entry.mtime.is_integer()
    modes = {entry.name: entry.mode for entry in layer.entries()}
    assert (modes["bin/tool"], modes["a/b/plain.txt"], modes["a/b"], modes["tmp"]) == (0o755, 0o644, 0o755, 0o1777)
    assert (layer.get("a/b/plain.txt").mtime, layer.get("a/b").mtime) == (NOON_S, GENERATED_MTIME)


def test_links_are_read_back() -> None:
    """A symbolic link keeps its target; a hard link is another name of a file before it."""
    layer = write(fill)
    assert (layer.get("bin/link").issym(), layer.get("bin/link").linkname) == (True, "tool")
    assert (layer.get("bin/same").islnk(), layer.get("bin/same").linkname) == (True, "a/b/plain.txt")
    assert layer.files()["bin/same"] == b"a/b/plain.txt"


@pytest.mark.parametrize("mtime", [-1, 0, 1, 2**31, 2**33, 2**36])
def test_any_time_can_be_written(mtime: int) -> None:
    """Times after 2038 and 2242 are kept; one before the epoch becomes the epoch."""
    layer = write(lambda writer: writer.add_file("f", b"", size=0, mtime=mtime))
    assert layer.get("f").mtime == max(0, mtime)


@pytest.mark.parametrize("size", [0, 3, 6, 511, 513])
@pytest.mark.parametrize("kind", ["bytes", "stream"])
def test_a_wrong_size_is_refused(kind: str, size: int) -> None:
    """Content that is shorter or longer than its size is refused, by the file's name: the tar would be nonsense."""
    content = b"12345" if size < 100 else b"x" * 512
    with pytest.raises(BuildError, match="a/f"):
        write(lambda w: w.add_file("a/f", content if kind == "bytes" else io.BytesIO(content), size=size))


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_bytes_and_streams_are_the_same(size: int) -> None:
    """A file given as bytes, as a stream, or as a stream that gives little at a time is the same entry."""

    class Dripping(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 1, 70_001))

    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    given: list[object] = [content, io.BytesIO(content), Dripping(content)]
    layers = {write(lambda w, c=c: w.add_file("f", c, size=size)).data for c in given}
    assert len(layers) == 1
    assert Layer(layers.pop(), write(fill).digest).files()["f"] == content


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("a", "a"),
        ("a/b", "a/b"),
        ("./a/b", "a/b"),
        ("a//b", "a/b"),
        ("a/./b", "a/b"),
        ("a/", "a"),
        ("..a/b..", "..a/b.."),
    ],
)
def test_a_path_is_cleaned(path: str, clean: str) -> None:
    """A path inside the image is given back without dots and doubled slashes."""
    assert check_path(path, package="p.whl") == clean


@pytest.mark.parametrize(
    "path",
    ["..", "../x", "a/../x", "a/..", "./../x", "/", "/x", "//x", "", ".", "./", "a\\b", "..\\x", "a\0b", "a\nb", "\n"],
)
def test_a_path_that_leaves_the_image_is_refused(path: str) -> None:
    """A path that is absolute, goes up, or holds a backslash, a NUL or a line feed is refused, naming its package."""
    with pytest.raises(BuildError) as caught:
        check_path(path, package="p.whl")
    assert "p.whl" in caught.value.message
    assert repr(path) in caught.value.message
    assert caught.value.hint


def test_giving_up_is_asked_before_every_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer is given up at its next write once its check says so; the error is the check's own."""

    class GivenUp(Exception):
        pass

    monkeypatch.setattr("reprobox.image.layers._TOGETHER", 512)
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise GivenUp

    stream = io.BytesIO()
    writer = LayerWriter(stream, check=check)
    with pytest.raises(GivenUp):
        fill(writer)
    before = stream.tell()
    assert before > 0
    with pytest.raises(GivenUp):
        writer.finish()
    assert stream.tell() == before


def test_a_layer_can_be_read_by_tar(tmp_path: Path) -> None:
    """A layer unpacks with what it says: content, executable bit, links."""
    with tarfile.open(fileobj=io.BytesIO(write(fill).data)) as archive:
        archive.extractall(tmp_path, filter="tar")
    assert (tmp_path / NAMES[4]).read_bytes() == NAMES[4].encode()
    assert (tmp_path / "bin/link").readlink() == Path("tool")


PINNED = "sha256:1adfc39584bef1b19874fa3ae76b3f70431119e1870a81f395624c9dc9710de7"
