"""Unpack Debian packages into the tree of a base, without their maintainer scripts.

What those scripts would have made and programs need is made here from the packages alone: accounts, the certificate
bundle, the shell's name, the merged /usr. (The library cache needs the tree on disk: see `interpreter`.)
"""

from __future__ import annotations

import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from reprobox.env.bases import DebianPackage
from reprobox.errors import BuildError
from reprobox.image.layers import GENERATED_MTIME, LayerWriter, check_path

USER_ID = 1000
"""Who a container runs as when the caller is root; has an account in every base."""

_MERGED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
_UNPACKED_LIMIT = 4 << 30
_EMPTY_FOLDERS = ("dev", "opt/env", "proc", "root", "run/reprobox", "sys", "var/log", "work")
# Writable by whoever a container runs as; an engine gives a folder in memory the mode of the image's own.
_OPEN_FOLDERS = ("home/reprobox", "tmp", "var/tmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file, symbolic link or folder of the base.

    Attributes:
        kind: What it is.
        content: Bytes of a file.
        target: Of a link.
        executable: Whether a file is.
        mode: Of a folder.
        mtime: Seconds since the epoch.
    """

    kind: Literal["file", "symlink", "directory"]
    content: bytes = b""
    target: str = ""
    executable: bool = False
    mode: int = 0o755
    mtime: int = GENERATED_MTIME


Tree = dict[str, Entry]
"""Path in the image → entry."""

_NOBODY: Mapping[str, str] = MappingProxyType({})


def load_tree(packages: Iterable[tuple[DebianPackage, Path]], *, omit: tuple[str, ...], keep: tuple[str, ...]) -> Tree:
    """Unpack all packages of a base into one tree, with what maintainer scripts would have made.

    Args:
        packages: Each with its file, whose hash was checked.
        omit: Path prefixes left out.
        keep: Names kept all the same (such as "copyright").

    Raises:
        BuildError: A package is broken, escapes, or brings a file that another one brought with other bytes.
    """
    tree, owners = _unpack(packages, omit, keep)
    tree |= render_system_files(tree)
    require_plain_parents(tree, owners)
    return tree


def load_packages(
    packages: Iterable[tuple[DebianPackage, Path]], *, omit: tuple[str, ...], keep: tuple[str, ...]
) -> Tree:
    """Unpack some packages of a base into a tree; see `load_tree`."""
    tree, owners = _unpack(packages, omit, keep)
    require_plain_parents(tree, owners)
    return tree


def _unpack(
    packages: Iterable[tuple[DebianPackage, Path]], omit: tuple[str, ...], keep: tuple[str, ...]
) -> tuple[Tree, dict[str, str]]:
    """Unpack packages in the order of their names; gives the tree, and whose each path is."""
    tree: Tree = {}
    owners: dict[str, str] = {}
    for package, file in sorted(packages, key=lambda pair: pair[0].name):
        for path, entry in _read_package(package, file):
            if path.startswith(omit) and path.rpartition("/")[2] not in keep and entry.kind != "directory":
                continue
            if path in tree:
                if _what(tree[path]) != _what(entry):
                    raise BuildError(
                        f"{package.name} and {owners[path]} both bring {path}, with other content",
                        hint="leave one of them out with `without:` in base.yml",
                    )
                continue
            if entry.kind == "directory" and path.startswith(omit):
                continue
            tree[path] = entry
            owners[path] = package.name
    return tree, owners


def _what(entry: Entry) -> tuple[object, ...]:
    """What an entry is, without when it was made."""
    return (entry.kind, entry.content, entry.target, entry.executable)


def require_plain_parents(tree: Tree, owners: Mapping[str, str] = _NOBODY) -> None:
    """Require that everything lies in folders: nothing may be written through a link that a package brought.

    Args:
        tree: Paths.
        owners: Whose they are, for messages.

    Raises:
        BuildError: Something does not.
    """
    for path in tree:
        parent = path
        while parent := parent.rpartition("/")[0]:
            if parent in tree and tree[parent].kind != "directory":
                raise BuildError(
                    f"{owners.get(path, 'the base')} brings {path}, but {parent}, brought by "
                    f"{owners.get(parent, 'the base')}, is no folder",
                    hint="do not use these packages together",
                )


def _read_package(package: DebianPackage, file: Path) -> Iterator[tuple[str, Entry]]:
    from debian.arfile import ArError
    from debian.debfile import DebError, DebFile

    name = file_name(package)
    total = 0
    try:
        with DebFile(str(file)) as deb:
            archive = deb.data.tgz()
            for member in archive:
                if member.name in (".", "./", ""):
                    continue
                path = _merge_usr(check_path(member.name.removeprefix("./"), package=name))
                total += member.size
                if total > _UNPACKED_LIMIT:
                    raise BuildError(f"{name} unpacks to more than any real package does", hint="do not use it")
                if member.isdir():
                    if path not in _MERGED:
                        mode = member.mode & 0o1777 if member.mode & 0o1000 else 0o755
                        yield path, Entry(kind="directory", mode=mode, mtime=int(member.mtime))
                elif member.issym() and member.name.removeprefix("./") in _MERGED:
                    continue
                elif member.issym():
                    yield path, Entry(kind="symlink", target=member.linkname, mtime=int(member.mtime))
                elif member.isreg() or member.islnk():
                    stream = archive.extractfile(member)
                    content = stream.read() if stream else b""
                    executable = bool(member.mode & 0o111)
                    yield path, Entry(kind="file", content=content, executable=executable, mtime=int(member.mtime))
                else:
                    raise BuildError(f"{name} holds a device or pipe: {path}", hint="do not use it")
    except (
        ArError,
        DebError,
        tarfile.TarError,
        lzma.LZMAError,
        zlib.error,
        EOFError,
        OSError,
        KeyError,
        ValueError,
    ) as error:
        if isinstance(error, PermissionError):
            raise BuildError(f"{name} cannot be read: {error}", hint="look at the cache's permissions") from None
        raise BuildError(
            f"{name} is not a Debian package that can be unpacked: {error}",
            hint="do not use it; it is broken or hostile",
        ) from None


def file_name(package: DebianPackage) -> str:
    """The file's name without its place in the pool."""
    return posixpath.basename(package.file)


def _merge_usr(path: str) -> str:
    first = path.partition("/")[0]
    return f"usr/{path}" if first in _MERGED else path


def render_system_files(packages: Tree) -> Tree:
    """Render what follows from all packages of a base: the merged /usr, folders, accounts, certificates."""
    tree: Tree = {}
    for name in _MERGED:
        if any(path.startswith(f"usr/{name}/") for path in packages):
            tree[name] = Entry(kind="symlink", target=f"usr/{name}")
    for folder in _EMPTY_FOLDERS:
        if folder not in packages:
            tree[folder] = Entry(kind="directory")
    for folder in _OPEN_FOLDERS:
        tree[folder] = Entry(kind="directory", mode=0o1777)
    _add_text(
        tree,
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\n" + render_passwd() + "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    )
    _add_text(tree, "etc/group", f"root:x:0:\n{render_group()}nogroup:x:65534:\n")
    _add_text(tree, "etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n")
    if "usr/bin/dash" in packages and "usr/bin/sh" not in packages:
        tree["usr/bin/sh"] = Entry(kind="symlink", target="dash")
    certificates = [
        entry.content
        for path, entry in sorted(packages.items())
        if path.startswith("usr/share/ca-certificates/") and path.endswith(".crt")
    ]
    if certificates:
        bundle = b"".join(content.rstrip(b"\n") + b"\n" for content in certificates)
        tree["etc/ssl/certs/ca-certificates.crt"] = Entry(kind="file", content=bundle)
        if "usr/lib/ssl/cert.pem" not in packages:
            tree["usr/lib/ssl/cert.pem"] = Entry(kind="symlink", target="/etc/ssl/certs/ca-certificates.crt")
    return tree


def render_passwd() -> str:
    """Render the line of the account that containers run as."""
    return f"reprobox:x:{USER_ID}:{USER_ID}::/home/reprobox:/bin/sh\n"


def render_group() -> str:
    """Render the line of its group."""
    return f"reprobox:x:{USER_ID}:\n"


def _add_text(tree: Tree, path: str, text: str) -> None:
    tree[path] = Entry(kind="file", content=text.encode())


def write_tree(tree: Tree, writer: LayerWriter) -> None:
    """Write a tree into a layer, by path."""
    for path in sorted(tree):
        entry = tree[path]
        match entry.kind:
            case "directory":
                writer.add_directory(path, mode=entry.mode, mtime=entry.mtime)
            case "symlink":
                writer.add_symlink(path, entry.target, mtime=entry.mtime)
            case "file":
                writer.add_file(
                    path, entry.content, size=len(entry.content), executable=entry.executable, mtime=entry.mtime
                )


def extract_tree(tree: Tree, folder: Path) -> None:
    """Write a tree into an empty folder, so that its interpreter can be used here.

    Symbolic links are written last and never followed.
    """
    links = []
    for path in sorted(tree):
        entry = tree[path]
        place = folder / path
        if entry.kind == "symlink":
            links.append((place, entry.target))
            continue
        if entry.kind == "directory":
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as stream:
            stream.write(entry.content)
        if entry.executable:
            place.chmod(0o755)
    for place, target in links:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
