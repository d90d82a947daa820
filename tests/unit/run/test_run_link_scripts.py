"""What link scripts change becomes a layer: the order of scripts, and the changes of a folder."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from reprobox.errors import BuildError
from reprobox.run.link_scripts import _order_scripts, _scan, _write_changes


def note(prefix: Path, name: str, *depends: str) -> None:
    (prefix / "conda-meta").mkdir(exist_ok=True)
    row = {"name": name, "version": "1", "build_number": 3, "depends": list(depends)}
    (prefix / f"conda-meta/{name}-1-0.json").write_text(json.dumps(row))


def test_scripts_follow_what_packages_depend_on(tmp_path: Path) -> None:
    """As conda links: a package after those that it needs, circles cut, and packages without a script passed over."""
    note(tmp_path, "a", "m >=1", "python")
    note(tmp_path, "m", "z=2", "a")
    note(tmp_path, "z")
    note(tmp_path, "b")
    paths = {f"bin/.{name}-post-link.sh" for name in ("a", "z", "b")}
    assert [script.name for script in _order_scripts(tmp_path, paths)] == ["z", "a", "b"]
    assert {script.build_number for script in _order_scripts(tmp_path, paths)} == {"3"}


def changes(prefix: Path, change: Any) -> dict[str, tuple[bytes, Any]]:
    """Path → kind and content or target of what a change writes as a layer."""
    before = dict(_scan(prefix))
    change()
    stream = io.BytesIO()
    if _write_changes(prefix, before, stream) is None:
        return {}
    stream.seek(0)
    found: dict[str, tuple[bytes, Any]] = {}
    with tarfile.open(fileobj=stream) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            found[member.name] = (member.type, content.read() if content else member.linkname)
    return found


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    folder = tmp_path / "env"
    (folder / "lib/deep").mkdir(parents=True)
    (folder / "lib/a").write_text("a")
    (folder / "lib/deep/b").write_text("b")
    (folder / "lib/deep/c").write_text("c")
    return folder


def test_nothing_changed_is_no_layer(prefix: Path) -> None:
    """Scripts that only read leave nothing."""
    assert changes(prefix, lambda: (prefix / "lib/a").read_text()) == {}


def test_what_is_written_and_removed(prefix: Path) -> None:
    """New files, links and folders, changed files, and whiteouts for what is gone, each once."""

    def change() -> None:
        (prefix / "etc").mkdir()
        (prefix / "etc/new").write_text("new")
        (prefix / "lib/a").write_text("A")
        (prefix / "lib/link").symlink_to("a")
        (prefix / "lib/deep/b").unlink()
        (prefix / "lib/deep/c").unlink()
        (prefix / "lib/deep").rmdir()

    found = changes(prefix, change)
    assert found["opt/env/etc"][0] == tarfile.DIRTYPE
    assert found["opt/env/etc/new"] == (tarfile.REGTYPE, b"new")
    assert found["opt/env/lib/a"] == (tarfile.REGTYPE, b"A")
    assert found["opt/env/lib/link"] == (tarfile.SYMTYPE, "a")
    assert found["opt/env/lib/.wh.deep"] == (tarfile.REGTYPE, b"")
    assert not [name for name in found if "/b" in name or "/c" in name]


def test_a_time_that_is_set_back_hides_nothing(prefix: Path) -> None:
    """A file of the same size and time is seen to be changed."""

    def change() -> None:
        status = (prefix / "lib/a").stat()
        (prefix / "lib/a").write_text("X")
        os.utime(prefix / "lib/a", ns=(status.st_atime_ns, status.st_mtime_ns))

    assert changes(prefix, change)["opt/env/lib/a"] == (tarfile.REGTYPE, b"X")


def test_a_folder_that_becomes_a_link(prefix: Path) -> None:
    """It replaces the folder, and needs no whiteouts below it."""

    def change() -> None:
        for file in (prefix / "lib/deep").iterdir():
            file.unlink()
        (prefix / "lib/deep").rmdir()
        (prefix / "lib/deep").symlink_to("/etc")

    assert {name for name, (kind, _) in changes(prefix, change).items() if kind != tarfile.DIRTYPE} == {
        "opt/env/lib/deep"
    }


def test_a_pipe_is_refused(prefix: Path) -> None:
    """What is neither file nor link has no place in an image."""
    with pytest.raises(BuildError, match="lib/pipe"):
        changes(prefix, lambda: os.mkfifo(prefix / "lib/pipe"))
