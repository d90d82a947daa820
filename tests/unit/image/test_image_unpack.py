"""Unpacking layers: what an engine would show, and nothing written through a link or outside of the folder."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from reprobox.errors import BuildError
from reprobox.image.layers import LayerWriter
from reprobox.image.unpack import unpack_layers

Row = tuple[str, str]
"""A path, and what it is: bytes as text, `-> target`, `= other name`, or `/` for a folder; `!` before an executable."""


def write_layer(path: Path, rows: list[Row]) -> Path:
    """Write a layer as reprobox does, but for paths that no writer of ours would take."""
    stream = io.BytesIO()
    writer = LayerWriter(stream)
    for place, what in rows:
        if what == "/":
            writer.add_directory(place)
        elif what.startswith("-> "):
            writer.add_symlink(place, what[3:])
        elif what.startswith("= "):
            writer.add_hardlink(place, what[2:])
        else:
            text = what.removeprefix("!").encode()
            writer.add_file(place, text, size=len(text), executable=what.startswith("!"), mtime=1_700_000_000)
    writer.finish()
    path.write_bytes(stream.getvalue())
    return path


def unpack(tmp_path: Path, *layers: list[Row], below: str = "") -> dict[str, str]:
    """Unpack layers, and list what is there, as rows are written."""
    files = [write_layer(tmp_path / f"{number}.tar", rows) for number, rows in enumerate(layers)]
    folder = tmp_path / "root"
    folder.mkdir()
    unpack_layers(files, folder, below=below)
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = ("!" if path.stat().st_mode & 0o111 else "") + path.read_text()
    return found


def test_upper_layers_win(tmp_path: Path) -> None:
    """A path of an upper layer replaces a lower one of whatever kind."""
    found = unpack(
        tmp_path,
        [("a", "one"), ("b/c", "low"), ("l", "-> a"), ("d/e/f", "deep"), ("keep", "!yes")],
        [("a", "two"), ("b", "now a file"), ("l", "not a link"), ("d/e", "-> ../a"), ("new/x", "x")],
    )
    assert found == {"a": "two", "b": "now a file", "d/e": "-> ../a", "keep": "!yes", "l": "not a link", "new/x": "x"}


def test_a_folder_in_the_place_of_a_link_is_a_folder(tmp_path: Path) -> None:
    """As in an overlay: what an upper layer puts below a lower one's link does not go through it."""
    found = unpack(tmp_path, [("real/x", "x"), ("link", "-> real")], [("link/y", "y")])
    assert found == {"real/x": "x", "link/y": "y"}


def test_whiteouts_hide_lower_layers_alone(tmp_path: Path) -> None:
    """A whiteout hides what lower layers have, whatever stands before it in its own."""
    found = unpack(
        tmp_path,
        [("a", "1"), ("d/x", "1"), ("d/y", "1"), ("e/z", "1")],
        [("d/x", "2"), (".wh.a", ""), ("d/.wh..wh..opq", ""), (".wh.e", ""), ("b/.wh.none", "")],
    )
    assert found == {"d/x": "2"}


def test_names_of_one_file(tmp_path: Path) -> None:
    """Hard links share a file, one to a link is that link, and one to nothing is refused."""
    found = unpack(tmp_path, [("a", "x"), ("b", "= a"), ("l", "-> a"), ("m", "= l")])
    assert found == {"a": "x", "b": "x", "l": "-> a", "m": "-> a"}
    assert os.path.samefile(tmp_path / "root/a", tmp_path / "root/b")
    write_layer(tmp_path / "bad.tar", [("b", "= a")])
    (tmp_path / "other").mkdir()
    with pytest.raises(BuildError, match="is no file"):
        unpack_layers([tmp_path / "bad.tar"], tmp_path / "other")


def test_only_what_lies_below(tmp_path: Path) -> None:
    """Only what lies below a path is unpacked, times and modes kept whatever the umask."""
    before = os.umask(0o077)
    try:
        found = unpack(tmp_path, [("opt/env/a", "!x"), ("opt/environment", "y"), ("etc/z", "z")], below="opt/env")
    finally:
        os.umask(before)
    assert found == {"opt/env/a": "!x"}
    assert (tmp_path / "root/opt/env/a").stat().st_mtime == 1_700_000_000
    assert (tmp_path / "root/opt/env").stat().st_mode & 0o777 == 0o755


def test_nothing_is_written_outside(tmp_path: Path) -> None:
    """Links of a lower layer, chains of links and paths with dots lead nowhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    up = "../" * 12
    unpack(
        tmp_path,
        [("a", f"-> {outside}"), ("b", "-> c/.."), ("c", f"-> {up}{str(outside).lstrip('/')}")],
        [("a/evil", "1"), ("b/evil", "2"), ("c/evil", "3")],
    )
    assert list(outside.iterdir()) == []
    for name in ("../evil", "/evil", "x/../../evil"):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            archive.addfile(tarfile.TarInfo(name))
        (tmp_path / "bad.tar").write_bytes(stream.getvalue())
        (tmp_path / "other").mkdir(exist_ok=True)
        with pytest.raises(BuildError, match="not a place inside"):
            unpack_layers([tmp_path / "bad.tar"], tmp_path / "other")


def test_what_is_no_layer_is_refused(tmp_path: Path) -> None:
    """Devices, and what is no tar, are refused by name."""
    folder = tmp_path / "root"
    folder.mkdir()
    (tmp_path / "none.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(BuildError, match=r"none\.tar cannot be read"):
        unpack_layers([tmp_path / "none.tar"], folder)
    member = tarfile.TarInfo("dev/null")
    member.type = tarfile.CHRTYPE
    with tarfile.open(tmp_path / "device.tar", "w") as archive:
        archive.addfile(member)
    with pytest.raises(BuildError, match="device, pipe or"):
        unpack_layers([tmp_path / "device.tar"], folder)
