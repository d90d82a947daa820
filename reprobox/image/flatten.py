"""Flatten an image's whole file system into one layer of our own kind: sorted, normalised, without what an engine adds.

Used for bases that are given as an image or as a Dockerfile. The result is a file that is kept like a package, by its
digest; it is the base's identity from then on.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from reprobox.errors import BuildError
from reprobox.image.debian import USER_ID, render_group, render_passwd
from reprobox.image.layers import LayerDigest, LayerWriter, check_path

_ADDED_BY_ENGINES = (".dockerenv", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab")
_ADDED_FOLDERS = ("dev/", "proc/", "sys/")
_FOLDERS = ("dev", "opt/env", "proc", "run/reprobox", "sys", "work")
_OPEN_FOLDERS = ("home/reprobox", "tmp", "var/tmp")


@dataclass(slots=True)
class _Entry:
    """A path of the file system, and the archive member that it is written from."""

    member: tarfile.TarInfo
    content: bytes | None = None


def flatten_tar(source: Path, target: BinaryIO) -> LayerDigest:
    """Flatten the tar of a container's file system into a layer.

    Args:
        source: As an engine exports it.
        target: Where the layer's bytes go.

    Returns:
        What was written; a function of paths, contents, links, executable bits and times in `source`.

    Raises:
        BuildError: It is no such tar.
    """
    try:
        with tarfile.open(source) as archive:
            entries = _read_entries(archive)
            _add_accounts(archive, entries)
            return _write_entries(archive, entries, target)
    except tarfile.TarError as error:
        raise BuildError(f"the base's file system cannot be read: {error}", hint="see `reprobox doctor`") from None


def _read_entries(archive: tarfile.TarFile) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    for member in archive:
        name = member.name.removeprefix("./").rstrip("/")
        if name in ("", ".", *_ADDED_BY_ENGINES) or (name + "/").startswith(_ADDED_FOLDERS):
            continue
        path = check_path(name, package="the base")
        if member.isdir() or member.isreg() or member.issym() or member.islnk():
            entries[path] = _Entry(member)
    return entries


def _add_accounts(archive: tarfile.TarFile, entries: dict[str, _Entry]) -> None:
    """Add the account that containers run as, where the base has none of its number."""
    for path, line in (("etc/passwd", render_passwd()), ("etc/group", render_group())):
        entry = entries.get(path)
        stream = archive.extractfile(entry.member) if entry is not None and entry.member.isreg() else None
        text = stream.read().decode("utf-8", "replace") if stream else ""
        if any(row.split(":")[2:3] == [str(USER_ID)] for row in text.splitlines()):
            continue
        member = tarfile.TarInfo(path) if entry is None else entry.member
        entries[path] = _Entry(member, (text.rstrip("\n") + "\n" if text else "").encode() + line.encode())


def _write_entries(archive: tarfile.TarFile, entries: dict[str, _Entry], target: BinaryIO) -> LayerDigest:
    writer = LayerWriter(target)
    owners = _choose_owners(entries)
    modes = dict.fromkeys(_FOLDERS, 0o755) | dict.fromkeys(_OPEN_FOLDERS, 0o1777)
    for path in sorted({*entries, *modes}):
        entry = entries.get(path)
        if entry is None or entry.member.isdir():
            writer.add_directory(path, mode=modes.get(path, 0o755))
            continue
        member = entry.member
        executable, mtime = bool(member.mode & 0o111), int(member.mtime)
        if entry.content is not None:
            writer.add_file(path, entry.content, size=len(entry.content), executable=executable, mtime=mtime)
        elif member.issym():
            writer.add_symlink(path, member.linkname, mtime=mtime)
        elif path in owners and owners[path] != path:
            writer.add_hardlink(path, owners[path], executable=executable, mtime=mtime)
        else:
            stream = archive.extractfile(member)
            if stream is None:
                raise BuildError(f"the base's {path} cannot be read", hint="see `reprobox doctor`")
            writer.add_file(path, stream, size=_size(archive, member), executable=executable, mtime=mtime)  # type: ignore[arg-type]
    return writer.finish()


def _size(archive: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    return archive.getmember(member.linkname).size if member.islnk() else member.size


def _choose_owners(entries: dict[str, _Entry]) -> dict[str, str]:
    """Choose which name of a file with several holds the bytes: the first, whatever the archive's order."""
    names: dict[str, list[str]] = {}
    for path, entry in entries.items():
        if entry.member.islnk():
            first = entry.member.linkname.removeprefix("./")
            names.setdefault(first, [first]).append(path)
    owners: dict[str, str] = {}
    for group in names.values():
        present = sorted(path for path in group if path in entries and entries[path].content is None)
        owners |= dict.fromkeys(present, present[0]) if present else {}
    return owners
