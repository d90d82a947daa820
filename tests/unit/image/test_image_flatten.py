"""Flattening: one layer out of a file system, whatever order and owner it comes with."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest

from reprobox.errors import BuildError
from reprobox.image.flatten import flatten_tar


def member(name: str, content: bytes | None = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644,
           mtime: int = 1_600_000_000) -> tuple[tarfile.TarInfo, bytes]:  # fmt: skip
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.mtime = kind, link, mode, mtime
    info.uid, info.gname = 7, "whoever"
    info.size = len(content or b"")
    return info, content or b""


FILES = [
    member("usr/", kind=tarfile.DIRTYPE, mode=0o700),
    member("usr/b", b"shared", mode=0o755),
    member("usr/a", kind=tarfile.LNKTYPE, link="usr/b", mode=0o755),
    member("usr/link", kind=tarfile.SYMTYPE, link="/usr/b"),
    member("etc/passwd", b"root:x:0:0:root:/root:/bin/sh"),
    member("etc/secret", b"s", mode=0o600),
    member("bin/suid", b"x", mode=0o4755),
    member("dev/console", kind=tarfile.CHRTYPE),
    member("run/pipe", kind=tarfile.FIFOTYPE),
    member(".dockerenv", b""),
    member("etc/hostname", b"abc"),
]


def flatten(files: list[tuple[tarfile.TarInfo, bytes]], folder: Path) -> bytes:
    source = folder / "whole.tar"
    with tarfile.open(source, "w") as archive:
        for info, content in files:
            archive.addfile(info, io.BytesIO(content))
    target = io.BytesIO()
    digest = flatten_tar(source, target)
    assert digest.size_bytes == len(target.getvalue())
    return target.getvalue()


def read(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {info.name: info for info in archive}


def test_a_file_system_becomes_one_normalised_layer(tmp_path: Path) -> None:
    """Owners, set-user bits and modes are normalised; devices and what engines add are left out; accounts are added."""
    data = flatten(FILES, tmp_path)
    found = read(data)
    assert {"usr/a", "usr/b", "usr/link", "etc/secret", "bin/suid", "work", "opt/env", "tmp"} <= set(found)
    assert not {"dev/console", ".dockerenv", "etc/hostname", "run/pipe"} & set(found)
    assert {info.uid for info in found.values()} == {0}
    assert found["bin/suid"].mode == 0o755
    assert found["tmp"].mode == 0o1777
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        stream = archive.extractfile("etc/passwd")
        assert stream is not None
        assert stream.read().decode().splitlines()[1].startswith("reprobox:x:1000:1000:")


def test_the_first_of_several_names_holds_the_bytes(tmp_path: Path) -> None:
    """Of hard links the first by name is the file, whichever the archive had first."""
    found = read(flatten(FILES, tmp_path))
    assert found["usr/a"].isreg()
    assert (found["usr/b"].islnk(), found["usr/b"].linkname) == (True, "usr/a")
    assert found["usr/a"].size == 6


def test_order_does_not_matter(tmp_path: Path) -> None:
    """The same paths in another order (a hard link still behind its file) give the same bytes."""
    expected = flatten(FILES, tmp_path)
    for seed in range(5):
        files = list(FILES)
        random.Random(seed).shuffle(files)
        files.sort(key=lambda row: row[0].islnk())
        assert flatten(files, tmp_path) == expected


def test_a_path_that_escapes_is_refused(tmp_path: Path) -> None:
    """A path with dots is refused, and so is what is no tar."""
    with pytest.raises(BuildError, match="not a place inside"):
        flatten([member("../evil", b"x")], tmp_path)
    (tmp_path / "none.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(BuildError, match="cannot be read"):
        flatten_tar(tmp_path / "none.tar", io.BytesIO())
