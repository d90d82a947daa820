"""Packages that are made to harm, or are broken. They are in no good channel; a test asks for one at a time.

Each is well-formed but for the one thing that it is named after, and has a record (name, hashes, size) that is true of
its bytes: what refuses it must have looked inside.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from tests.channel.conda_package import File, Package, index_json, write_package

Kind = Literal[
    "absolute",
    "absolute-paths",
    "bomb",
    "bomb-info",
    "bomb-many",
    "device",
    "dotdot",
    "dotdot-paths",
    "duplicate",
    "entry-point-escape",
    "extra-file",
    "fifo",
    "hardlink-escape",
    "index-other-name",
    "link-to-link",
    "missing-file",
    "missing-info",
    "noarch-escape",
    "not-an-archive",
    "prefix-too-short",
    "sha-mismatch",
    "size-mismatch",
    "symlink-absolute",
    "symlink-escape",
    "truncated",
    "two-first",
    "two-second",
]
KINDS: tuple[str, ...] = get_args(Kind)

BOMB_BYTES = 8 << 30
"""What the bomb unpacks to."""

_ZEROS = bytes(1 << 24)
_UP = "../" * 40
_MANY_FILES = 100_000


class _Zeros(io.RawIOBase):
    """Zeros, as many as asked for."""

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        return _ZEROS[:size] if size is not None and 0 <= size <= len(_ZEROS) else _ZEROS


def make_hostile(kind: Kind, folder: Path, *, outside: Path | None = None, bomb_bytes: int = BOMB_BYTES) -> Path:
    """Write one hostile package into a channel folder, and its record into that channel's repodata.json.

    Args:
        kind: What is wrong with it.
        folder: The channel; linux-64 (and noarch) below it are made.
        outside: A file or folder where all ways out lead to, which must stay as it is; /tmp/reprobox-escaped if None.
        bomb_bytes: What the bomb unpacks to.

    Returns:
        The package file; its name is hostile-KIND, version 1.0.
    """
    target = str(outside or "/tmp/reprobox-escaped").lstrip("/")
    noarch: Any = "python" if kind in ("noarch-escape", "entry-point-escape") else None
    package = Package(name=f"hostile-{kind}", version="1.0", build="0", noarch=noarch)
    good = File(path=f"share/{package.name}/good.txt", content=b"good\n")
    files, raw, change = _plan(kind, package, good, target, bomb_bytes)
    path = write_package(package, files, folder, change_info=change, raw=raw)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "not-an-archive":
        path.write_bytes(b"<html>login first</html>\n" * 20)
    elif kind == "missing-info":
        _drop_info(path)
    write_record(package, path, folder)
    return path


def write_record(package: Package, path: Path, folder: Path) -> None:
    """Put a package's record into repodata.json as an index that never looked inside would."""
    content = path.read_bytes()
    for subdir in ("noarch", "linux-64"):
        file = folder / subdir / "repodata.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        empty = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": {}, "repodata_version": 1}
        document = json.loads(file.read_text()) if file.exists() else empty
        if subdir == package.subdir:
            table = "packages.conda" if path.suffix == ".conda" else "packages"
            document[table][path.name] = {
                **index_json(package),
                "md5": hashlib.md5(content).hexdigest(),
                "sha256": hashlib.sha256(content).hexdigest(),
                "size": len(content),
            }
        file.write_text(json.dumps(document, indent=2, sort_keys=True))


Change = Callable[[dict[str, bytes]], None]
Raw = list[tuple[tarfile.TarInfo, bytes]]


def _plan(
    kind: str, package: Package, good: File, target: str, bomb_bytes: int
) -> tuple[list[File], Raw, Change | None]:
    evil = b"escaped\n"
    match kind:
        case "dotdot":
            return [good, File(path=f"share/{_UP}{target}", content=evil)], [], None
        case "dotdot-paths":
            return [good], [], _rename_row(good.path, f"share/{_UP}{target}")
        case "absolute":
            return [good, File(path=f"/{target}", content=evil)], [], None
        case "absolute-paths":
            return [good], [], _rename_row(good.path, f"/{target}")
        case "symlink-escape":
            inside = File(path="share/way-out/escaped.txt", content=evil)
            link = _raw("share/way-out", tarfile.SYMTYPE, link=_UP + target)
            return [good], [link, _raw(inside.path, content=evil)], _add_rows(_link_row(link[0]), _row(inside))
        case "symlink-absolute":
            link = _raw("share/way-out", tarfile.SYMTYPE, link=f"/{target}")
            inside = File(path="share/way-out/escaped.txt", content=evil)
            return [good], [link, _raw(inside.path, content=evil)], _add_rows(_link_row(link[0]), _row(inside))
        case "link-to-link":
            # Two links, each of which stays inside if the other is taken for a folder.
            first = _raw("share/a", tarfile.SYMTYPE, link="..")
            second = _raw("share/b", tarfile.SYMTYPE, link="a/" + _UP.rstrip("/"))
            inside = File(path=f"share/b/{target}", content=evil)
            rows = _add_rows(_link_row(first[0]), _link_row(second[0]), _row(inside))
            return [good], [first, second, _raw(inside.path, content=evil)], rows
        case "hardlink-escape":
            link = _raw("share/name-of-outside.txt", tarfile.LNKTYPE, link=_UP + target)
            return [good], [link], _add_rows(_row(File(path=link[0].name, content=b"")))
        case "device":
            member = _raw("share/zero", tarfile.CHRTYPE)
            member[0].devmajor, member[0].devminor = 1, 5
            return [good], [member], _add_rows(_row(File(path="share/zero")))
        case "fifo":
            return [good], [_raw("share/pipe", tarfile.FIFOTYPE)], _add_rows(_row(File(path="share/pipe")))
        case "duplicate":
            return [good], [_raw(good.path, content=b"evil\n")], None
        case "bomb":
            zeros = File(path="share/zeros.bin", content=lambda: _Zeros(), size_bytes=bomb_bytes)  # type: ignore[arg-type, return-value]
            return [good, zeros], [], None
        case "bomb-many":
            return [good, *(File(path=f"share/many/{n:06d}") for n in range(_MANY_FILES))], [], None
        case "bomb-info":
            return [good], [], lambda info: info.update({"info/recipe/zeros": bytes(min(bomb_bytes, 1 << 30))})
        case "sha-mismatch":
            return [good], [], _change_row(good.path, sha256="0" * 64)
        case "size-mismatch":
            return [good], [], _change_row(good.path, size_in_bytes=4_000_000)
        case "missing-file":
            return [good], [], _add_rows(_row(File(path="share/not-in-the-tar.txt", content=b"missing\n")))
        case "extra-file":
            return [good], [_raw("share/not-in-paths.txt", content=evil)], None
        case "prefix-too-short":
            # A binary whose placeholder is shorter than any prefix: the text would grow.
            short = File(path="lib/short.bin", content=b"\0/p/lib\0rest", placeholder="/p", binary=True)
            return [good, short], [], None
        case "index-other-name":
            return [good], [], _change_index(name="something-else", version="9.9")
        case "noarch-escape":
            path = f"site-packages/{_UP}{target}"
            return [good, File(path=path, content=evil)], [], None
        case "entry-point-escape":
            lines = [f"{_UP}{target} = evil:main"]
            noarch = {"noarch": {"type": "python", "entry_points": lines}, "package_metadata_version": 1}
            return [good], [], lambda info: info.update({"info/link.json": json.dumps(noarch).encode()})
        case "two-first":
            # Harmless alone: a link out of the prefix, for two-second to write through.
            return [good, File(path="share/two-way-out", link=f"/{target}")], [], None
        case "two-second":
            return [good, File(path="share/two-way-out/escaped.txt", content=evil)], [], None
        case "truncated" | "not-an-archive" | "missing-info":
            return [good], [], None
    raise ValueError(kind)


def _raw(
    path: str, kind: bytes = tarfile.REGTYPE, *, content: bytes = b"", link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(path)
    member.type, member.linkname, member.size, member.mtime, member.mode = (
        kind,
        link,
        len(content),
        1_735_689_600,
        0o664,
    )
    return member, content


def _row(file: File) -> dict[str, Any]:
    content = file.content if isinstance(file.content, bytes) else b""
    sha256 = hashlib.sha256(content).hexdigest()
    return {"_path": file.path, "path_type": "hardlink", "sha256": sha256, "size_in_bytes": len(content)}


def _link_row(member: tarfile.TarInfo) -> dict[str, Any]:
    return {**_row(File(path=member.name)), "path_type": "softlink"}


def _change_paths(change: Callable[[list[dict[str, Any]]], None]) -> Change:
    def apply(info: dict[str, bytes]) -> None:
        document = json.loads(info["info/paths.json"])
        change(document["paths"])
        info["info/paths.json"] = json.dumps(document, indent=2).encode()
        info["info/files"] = "".join(f"{row['_path']}\n" for row in document["paths"]).encode()

    return apply


def _add_rows(*rows: dict[str, Any]) -> Change:
    return _change_paths(lambda paths: paths.extend(rows))


def _change_row(path: str, **values: Any) -> Change:
    return _change_paths(lambda paths: [row.update(values) for row in paths if row["_path"] == path] and None)


def _rename_row(path: str, other: str) -> Change:
    return _change_row(path, _path=other)


def _change_index(**values: Any) -> Change:
    def apply(info: dict[str, bytes]) -> None:
        info["info/index.json"] = json.dumps({**json.loads(info["info/index.json"]), **values}).encode()

    return apply


def _drop_info(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        kept = [(info, archive.read(info)) for info in archive.infolist() if not info.filename.startswith("info-")]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for info, content in kept:
            archive.writestr(info, content)
