"""Linking conda packages into layers: what py-rattler would put on disk, and nothing that escapes."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reprobox.env.lockfile import CondaPackage
from reprobox.errors import BuildError
from reprobox.image.conda import Linked, write_conda
from reprobox.image.conda_archive import replace_prefix
from reprobox.image.layers import LayerWriter
from tests.channel import hostile
from tests.channel.conda_package import File, Package, write_package

PYTHON = "3.11.2"
PREFIX = "opt/env"


def pack(folder: Path, package: Package, files: list[File], kind: Any = "conda", **options: Any) -> Path:
    """Write a package, and give its file."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_package(package, files, folder, kind=kind, **options)


def locked(package: Package, file: Path) -> CondaPackage:
    return CondaPackage(
        name=package.name, version=package.version, build=package.build_string, channel="test", subdir=package.subdir,
        file=file.name, size_bytes=file.stat().st_size, sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
    )  # fmt: skip


def link(file: Path, package: Package, scratch: Path) -> tuple[tarfile.TarFile, Linked]:
    """Link a package into a layer, and read the layer."""
    stream, linked = io.BytesIO(), Linked()
    writer = LayerWriter(stream)
    scratch.mkdir(exist_ok=True)
    write_conda(
        [(locked(package, file), file)],
        writer=writer,
        python=PYTHON,
        scratch=scratch,
        compile_sources=None,
        linked=linked,
    )
    writer.finish()
    return tarfile.open(fileobj=io.BytesIO(stream.getvalue())), linked


def read_layer(layer: tarfile.TarFile) -> dict[str, tuple[str, Any, bool]]:
    """Path → kind, content or target, and whether it is executable; without conda's own notes."""
    found: dict[str, tuple[str, Any, bool]] = {}
    for member in layer.getmembers():
        path = member.name.removeprefix(PREFIX + "/")
        if member.isdir() or path.startswith("conda-meta/"):
            continue
        if member.issym():
            found[path] = ("symlink", member.linkname, False)
        else:
            stream = layer.extractfile(member)
            assert stream is not None
            found[path] = ("file", stream.read(), bool(member.mode & 0o111))
    return found


def read_folder(folder: Path) -> dict[str, tuple[str, Any, bool]]:
    found: dict[str, tuple[str, Any, bool]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.startswith("conda-meta/") or name == "CACHEDIR.TAG":
            continue
        if path.is_symlink():
            found[name] = ("symlink", os.readlink(path), False)
        elif path.is_file():
            found[name] = ("file", path.read_bytes(), bool(path.stat().st_mode & 0o111))
    return found


def rattle(files: list[Path], folder: Path) -> dict[str, tuple[str, Any, bool]]:
    """What py-rattler makes of packages, with our prefix baked in."""
    from rattler import RepoDataRecord, install

    async def run() -> None:
        records = [await RepoDataRecord.from_package_archive(file) for file in files]
        await install(
            records,
            target_prefix=folder / "prefix",
            cache_dir=folder / "cache",
            alternative_target_prefix=f"/{PREFIX}",
            show_progress=False,
            execute_link_scripts=False,
        )

    asyncio.run(run())
    return read_folder(folder / "prefix")


NATIVE = Package(name="native", version="1.2", build_number=3, depends=("libfoo >=1",))
NOARCH = Package(
    name="pure", version="2.0", noarch="python", depends=("python >=3.8",), entry_points=("pure-run = pure.main:run",)
)


def native_files() -> list[File]:
    prefix = NATIVE.prefix
    binary = b"\x7fELF\0" + f"{prefix}/lib:{prefix}/share\0tail\0".encode() + b"\1\2\3" + prefix.encode() + b"\0end"
    return [
        File(path="bin/tool", content=f"#!{prefix}/bin/python\nprint('{prefix}')\n".encode(), executable=True,
             placeholder=prefix),
        File(path="lib/libthing.so.1", content=binary, executable=True, placeholder=prefix, binary=True),
        File(path="lib/libthing.so", link="libthing.so.1"),
        File(path="share/thing/data.txt", content=b"plain"),
        File(path="share/thing/again.txt", hard_link="share/thing/data.txt"),
        File(path="share/thing/empty.txt"),
        File(path="etc/thing.conf", content=f"root={prefix}\nother={prefix}/x\n".encode(), placeholder=prefix),
    ]  # fmt: skip


def noarch_files() -> list[File]:
    return [
        File(path="site-packages/pure/__init__.py", content=b""),
        File(path="site-packages/pure/main.py", content=b"def run():\n    return 0\n"),
        File(path="site-packages/pure-2.0.dist-info/METADATA", content=b"Name: pure\n"),
        File(path="python-scripts/pure-old", content=b"#!/usr/bin/env python\n", executable=True),
        File(path="share/pure/x", content=b"x"),
    ]


@pytest.mark.parametrize("paths_json", [True, False])
@pytest.mark.parametrize("kind", ["conda", "tar.bz2"])
def test_native_packages_are_linked_as_by_rattler(tmp_path: Path, kind: str, paths_json: bool) -> None:
    """Every path, byte and executable bit is what py-rattler makes of the same package for the same prefix."""
    file = pack(tmp_path / "packages", NATIVE, native_files(), kind, paths_json=paths_json)
    layer, _ = link(file, NATIVE, tmp_path / "scratch")
    assert read_layer(layer) == rattle([file], tmp_path / "rattler")


def test_noarch_packages_go_where_the_interpreter_looks(tmp_path: Path) -> None:
    """Modules go to site-packages of the locked Python, scripts and entry points to bin, all else stays."""
    file = pack(tmp_path / "packages", NOARCH, noarch_files())
    layer, _ = link(file, NOARCH, tmp_path / "scratch")
    found = read_layer(layer)
    site = "lib/python3.11/site-packages"
    assert set(found) == {
        f"{site}/pure/__init__.py", f"{site}/pure/main.py", f"{site}/pure-2.0.dist-info/METADATA", "bin/pure-old",
        "bin/pure-run", "share/pure/x",
    }  # fmt: skip
    kind, launcher, executable = found["bin/pure-run"]
    assert (kind, executable) == ("file", True)
    assert launcher.startswith(b"#!/opt/env/bin/python\n")
    assert b"from pure.main import run" in launcher


def test_a_note_tells_conda_of_the_package(tmp_path: Path) -> None:
    """conda-meta holds a record that py-rattler reads, with every linked path, and names no host."""
    from rattler import PrefixRecord

    file = pack(tmp_path / "packages", NATIVE, native_files())
    layer, _ = link(file, NATIVE, tmp_path / "scratch")
    (member,) = [member for member in layer.getmembers() if "conda-meta/" in member.name and member.isreg()]
    stream = layer.extractfile(member)
    assert stream is not None
    text = stream.read()
    note = tmp_path / Path(member.name).name
    note.write_bytes(text)
    record = PrefixRecord.from_path(note)
    assert (record.name.normalized, str(record.version)) == ("native", "1.2")
    assert sorted(json.loads(text)["files"]) == sorted(read_layer(layer))
    assert b"://" not in text.replace(b"conda:///", b"")


def test_what_a_package_wants_beside_files_is_told(tmp_path: Path) -> None:
    """Link scripts, activation scripts and variables are told; they are files of the layer all the same."""
    package = Package(name="wanting", version="1")
    files = [
        File(path="bin/.wanting-post-link.sh", content=b"echo no", executable=True),
        File(path="etc/conda/activate.d/wanting.sh", content=b"export A=1\n"),
        File(path="etc/conda/env_vars.d/wanting.json", content=b'{"B": "2"}'),
    ]
    layer, linked = link(pack(tmp_path / "p", package, files), package, tmp_path / "scratch")
    assert linked.link_scripts == ["bin/.wanting-post-link.sh"]
    assert linked.activation == {"etc/conda/activate.d/wanting.sh": "export A=1\n"}
    assert linked.variables == {"B": "2"}
    assert set(read_layer(layer)) == {file.path for file in files}


def test_bytes_follow_from_the_package_alone(tmp_path: Path) -> None:
    """Another folder, umask and time of the file change nothing in the layer."""
    digests = []
    for number, mask in enumerate((0o022, 0o077)):
        before = os.umask(mask)
        try:
            file = pack(tmp_path / f"p{number}", NATIVE, native_files())
            os.utime(file, (1, 1))
            stream = io.BytesIO()
            writer = LayerWriter(stream)
            (tmp_path / f"s{number}").mkdir()
            write_conda(
        [(locked(NATIVE, file), file)], writer=writer, python=PYTHON, scratch=tmp_path / f"s{number}",
                compile_sources=None, linked=Linked(),
            )  # fmt: skip
            digests.append(writer.finish().diff_id)
        finally:
            os.umask(before)
    assert digests[0] == digests[1]


def test_another_package_under_the_locked_name_is_refused(tmp_path: Path) -> None:
    """A file whose own index says another version than the lock is not linked."""
    file = pack(tmp_path / "p", NATIVE, native_files())
    import dataclasses

    wrong = dataclasses.replace(locked(NATIVE, file), version="1.3")
    with pytest.raises(BuildError, match="not what is locked"):
        write_conda(
            [(wrong, file)], writer=LayerWriter(io.BytesIO()), python=PYTHON, scratch=tmp_path, compile_sources=None,
            linked=Linked(),
        )  # fmt: skip


@pytest.mark.parametrize("cut", [0, 1, 100, 1000, -1])
def test_damaged_packages_are_named(tmp_path: Path, cut: int) -> None:
    """A package that is cut anywhere is refused by name, never a bare exception of some library."""
    file = pack(tmp_path / "p", NATIVE, native_files())
    package = locked(NATIVE, file)
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(BuildError, match=r"native-1\.2"):
        write_conda(
            [(package, file)], writer=LayerWriter(io.BytesIO()), python=PYTHON, scratch=tmp_path, compile_sources=None,
            linked=Linked(),
        )  # fmt: skip


def test_a_binary_keeps_its_length() -> None:
    """Strings of a binary keep their length: all of a string is moved up, and filled with NUL."""
    content = b"a\0/long/prefix/lib:/long/prefix/bin\0b\0/long/prefix"
    replaced = replace_prefix(content, b"/long/prefix", b"/p", "binary")
    assert replaced == b"a\0/p/lib:/p/bin" + bytes(20) + b"\0b\0/p" + bytes(10)
    assert len(replaced) == len(content)
    with pytest.raises(ValueError, match="longer"):
        replace_prefix(content, b"/x", b"/longer", "binary")


def tar_member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0
) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size, member.mode = kind, link, size, 0o644
    return member, bytes(size)


HOSTILE: dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], list[dict[str, Any]]]] = {
    "dots": ([tar_member("../../etc/evil", size=3)], []),
    "dots listed": ([tar_member("lib/../../evil", size=3)], [{"_path": "lib/../../evil", "path_type": "hardlink"}]),
    "absolute": ([tar_member("/etc/evil", size=3)], [{"_path": "/etc/evil", "path_type": "hardlink"}]),
    "link out": (
        [tar_member("lib/out", tarfile.SYMTYPE, "../../../etc")],
        [{"_path": "lib/out", "path_type": "softlink"}],
    ),
    "absolute link": (
        [tar_member("lib/out", tarfile.SYMTYPE, "/etc")],
        [{"_path": "lib/out", "path_type": "softlink"}],
    ),
    "through a link": (
        [tar_member("lib/in", tarfile.SYMTYPE, "../share"), tar_member("lib/in/evil", size=3)],
        [{"_path": "lib/in", "path_type": "softlink"}, {"_path": "lib/in/evil", "path_type": "hardlink"}],
    ),
    "hard link out": (
        [tar_member("lib/hard", tarfile.LNKTYPE, "../../etc/passwd")],
        [{"_path": "lib/hard", "path_type": "hardlink"}],
    ),
    "hard link to nothing": (
        [tar_member("lib/hard", tarfile.LNKTYPE, "lib/none")],
        [{"_path": "lib/hard", "path_type": "hardlink"}],
    ),
    "device": ([tar_member("lib/null", tarfile.CHRTYPE)], [{"_path": "lib/null", "path_type": "hardlink"}]),
    "pipe": ([tar_member("lib/pipe", tarfile.FIFOTYPE)], [{"_path": "lib/pipe", "path_type": "hardlink"}]),
    "twice": (
        [tar_member("lib/a", size=1), tar_member("lib/a", size=2)],
        [{"_path": "lib/a", "path_type": "hardlink"}],
    ),
    "listed twice": (
        [tar_member("lib/a", size=1)],
        [{"_path": "lib/a", "path_type": "hardlink"}, {"_path": "./lib/a", "path_type": "hardlink"}],
    ),
    "listed and missing": ([], [{"_path": "lib/none", "path_type": "hardlink"}]),
    "of no kind": ([tar_member("lib/a", size=1)], [{"_path": "lib/a", "path_type": "socket"}]),
    "bomb": ([tar_member("lib/big", size=300 << 20)], [{"_path": "lib/big", "path_type": "hardlink"}]),
}


@pytest.mark.parametrize("kind", ["conda", "tar.bz2"])
@pytest.mark.parametrize("attack", HOSTILE)
def test_what_escapes_is_refused(tmp_path: Path, attack: str, kind: str) -> None:
    """Paths and links that lead out, devices, doubles and bombs are refused by the package's name; nothing is written."""
    raw, rows = HOSTILE[attack]

    def change(info: dict[str, bytes]) -> None:
        document = json.loads(info["info/paths.json"])
        document["paths"] += rows
        info["info/paths.json"] = json.dumps(document).encode()

    package = Package(name="hostile", version="1")
    folder = tmp_path / "p"
    file = pack(folder, package, [File(path="share/plain", content=b"x")], kind, raw=raw, change_info=change)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(BuildError, match=r"hostile-1-"):
        link(file, package, tmp_path / "scratch")
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_is_not_listed_is_not_linked(tmp_path: Path) -> None:
    """As with conda, a member that the package's own list does not name has no place in the image."""
    package = Package(name="extra", version="1")
    file = pack(tmp_path / "p", package, [File(path="a", content=b"x")], raw=[tar_member("not-listed", size=1)])
    layer, _ = link(file, package, tmp_path / "scratch")
    assert set(read_layer(layer)) == {"a"}


@pytest.mark.parametrize("kind", ["conda", "tar.bz2"])
@pytest.mark.parametrize("type_", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_that_fills_memory_is_refused(tmp_path: Path, type_: bytes, kind: str) -> None:
    """What stands before a member is capped: a reader would take it into memory whole."""
    package = Package(name="hostile", version="1")
    header = tar_member("././@LongLink", type_, size=64 << 20)
    file = pack(tmp_path / "p", package, [File(path="share/plain", content=b"x")], kind, raw=[header])
    with pytest.raises(BuildError, match="headers are larger"):
        link(file, package, tmp_path / "scratch")


def test_a_description_that_is_a_bomb_is_refused(tmp_path: Path) -> None:
    """What a package says of itself counts whole, whether or not it is read."""
    package = Package(name="hostile", version="1")

    def change(info: dict[str, bytes]) -> None:
        info["info/recipe/zeros"] = bytes(257 << 20)

    file = pack(tmp_path / "p", package, [File(path="a", content=b"x")], change_info=change)
    with pytest.raises(BuildError, match="description is larger"):
        link(file, package, tmp_path / "scratch")


HARMLESS_ALONE = ("extra-file", "sha-mismatch", "size-mismatch", "two-second")
"""What conda would take too: a file that is not listed, notes beside the locked hash, one half of a pair."""


@pytest.mark.parametrize("kind", [kind for kind in hostile.KINDS if kind != "bomb-many"])
def test_hostile_packages_write_nothing_outside(tmp_path: Path, kind: Any) -> None:
    """Each package of tests/channel/hostile.py is refused by name, or does what an honest one does."""
    outside = tmp_path / "outside"
    outside.mkdir()
    file = hostile.make_hostile(kind, tmp_path / "channel", outside=outside / "escaped.txt", bomb_bytes=400 << 20)
    package = Package(name=f"hostile-{kind}", version="1.0", build="0")
    if kind in ("noarch-escape", "entry-point-escape"):
        package = replace(package, noarch="python")
    if kind in HARMLESS_ALONE:
        layer, _ = link(file, package, tmp_path / "scratch")
        assert all(not name.startswith("/") and ".." not in name.split("/") for name in layer.getnames())
    else:
        with pytest.raises(BuildError, match=f"hostile-{kind}"):
            link(file, package, tmp_path / "scratch")
    assert list(outside.iterdir()) == []
