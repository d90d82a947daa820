"""Read a conda package: its paths, what is to be done with each, and their bytes, checked for what could do harm.

The rules of `info/` are conda's own (paths.json, and for packages from before it `files`, `has_prefix` and `no_link`).
Nothing is read faster than it is accounted for: what lies between two members of an archive (their headers) is capped
like the members themselves, because a tar reader takes a header into memory whole.

Source: conda's documentation of the package specification; CEP 34 (contents of a package), CEP 35 (the .conda format).
"""

from __future__ import annotations

import bz2
import json
import lzma
import posixpath
import shlex
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, Literal, cast

from reprobox.env.lockfile import CondaPackage
from reprobox.errors import BuildError
from reprobox.image.layers import RATIO_LIMIT, check_path, limit_unpacked
from reprobox.image.tar_stream import stream_members

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdError, ZstdFile
else:
    from backports.zstd import ZstdError, ZstdFile

_INFO_LIMIT = 256 << 20
_OLD_PLACEHOLDER = "/opt/anaconda1anaconda2anaconda3"

BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, LookupError, ValueError,
    AssertionError, RuntimeError, OverflowError, ZstdError,
)  # fmt: skip
"""What the libraries below raise on archives that are damaged or made to harm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagePath:
    """One path of a package.

    Attributes:
        path: Inside the package.
        kind: What it is.
        placeholder: Prefix that the package was built with, where the file holds it.
        mode: How the file holds it.
    """

    path: str
    kind: Literal["file", "symlink", "directory"] = "file"
    placeholder: bytes | None = None
    mode: Literal["text", "binary"] = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageInfo:
    """What a package says of itself.

    Attributes:
        index: Its info/index.json.
        paths: Path → what it is.
        is_noarch_python: Whether its files go to the site-packages of whatever Python there is.
        entry_points: Lines such as "hello = hello.main:run".
    """

    index: dict[str, Any]
    paths: dict[str, PackagePath]
    is_noarch_python: bool
    entry_points: tuple[str, ...]


class CondaArchive:
    """A conda package on disk.

    Args:
        package: What it is.
        file: The archive; its hash was checked.
        scratch: A folder for what must be unpacked to be read.
    """

    def __init__(self, package: CondaPackage, file: Path, scratch: Path) -> None:
        self._package = package
        self._file = file
        self._scratch = scratch
        self._limit = limit_unpacked(file.stat().st_size)
        self._plain: Path | None = None

    def read_info(self) -> PackageInfo:
        """Read what the package says of itself.

        Raises:
            BuildError: It says nothing, or nothing that makes sense.
        """
        texts: dict[str, bytes] = {}
        wanted = ("index.json", "paths.json", "link.json", "files", "has_prefix", "no_link")
        total = 0
        with self._members("info") as members:
            for tar, member in members:
                name = member.name.removeprefix("./")
                if not name.startswith("info/"):
                    continue
                total += member.size
                if total > _INFO_LIMIT:
                    raise self.broken("its own description is larger than any real one")
                if name[5:] in wanted and member.isreg():
                    stream = tar.extractfile(member)
                    texts[name[5:]] = stream.read() if stream else b""
        try:
            return self._parse_info(texts)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise self.broken(f"its own description is damaged ({error!r})") from None

    def _parse_info(self, texts: dict[str, bytes]) -> PackageInfo:
        index = json.loads(texts["index.json"])
        if (index["name"], str(index["version"]), index["build"]) != (
            self._package.name, self._package.version, self._package.build,
        ):  # fmt: skip
            raise self.broken(f"it is {index['name']} {index['version']} {index['build']}, not what is locked")
        link = json.loads(texts.get("link.json", b"{}"))
        noarch = link.get("noarch") or {}
        rows = _read_paths(texts["paths.json"]) if "paths.json" in texts else _read_old_paths(texts)
        paths: dict[str, PackagePath] = {}
        for row in rows:
            if row.path in paths or check_path(row.path, package=self._package.file) != row.path:
                raise self.broken(f"it lists the path {row.path!r} twice, or spelled in a way that is not plain")
            paths[row.path] = row
        self._require_folders(paths)
        is_python = noarch.get("type") == "python" or index.get("noarch") == "python"
        if is_python and self._package.subdir != "noarch":
            raise self.broken("it is a noarch package in a folder of one platform")
        points = tuple(map(str, noarch.get("entry_points") or ())) if is_python else ()
        return PackageInfo(index=index, paths=paths, is_noarch_python=is_python, entry_points=points)

    def _require_folders(self, paths: dict[str, PackagePath]) -> None:
        """Require that nothing lies below a file or a link: it could be written through it."""
        for path in paths:
            for parent in PurePosixPath(path).parents:
                found = paths.get(parent.as_posix())
                if found is not None and found.kind != "directory":
                    raise self.broken(f"it lists {path!r} below {found.path!r}, which is no folder")

    def stream_files(self) -> Iterator[tuple[tarfile.TarInfo, str, BinaryIO | None]]:
        """Stream the package's members: each with its plain path and, for regular files, its bytes.

        Raises:
            BuildError: One escapes, is a device, or all together are larger than any real package.
        """
        total = 0
        with self._members("pkg") as members:
            for tar, member in members:
                name = member.name.removeprefix("./")
                if name in ("", ".") or name == "info" or name.startswith("info/"):
                    continue
                path = check_path(name, package=self._package.file)
                total += member.size
                if total > self._limit:
                    raise self.broken(f"it unpacks to more than {RATIO_LIMIT} times its size")
                if not (member.isreg() or member.issym() or member.islnk() or member.isdir()):
                    raise self.broken(f"it holds a device or pipe: {path}")
                if member.issym():
                    self._require_inside(path, member.linkname)
                yield member, path, cast("BinaryIO", tar.extractfile(member)) if member.isreg() else None

    def _require_inside(self, path: str, target: str) -> None:
        place = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if target.startswith("/") or place == ".." or place.startswith("../"):
            raise self.broken(f"it holds the link {path!r} to {target!r}, outside of the environment")

    def broken(self, reason: str) -> BuildError:
        """An error that names the package."""
        return BuildError(
            f"{self._package.file} is not a package that can be linked: {reason}",
            hint=f"ask for another build of {self._package.name}",
        )

    @contextmanager
    def _members(
        self, component: Literal["info", "pkg"]
    ) -> Iterator[Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]]:
        if not self._package.file.endswith(".conda"):
            # One stream holds everything, and is slow to unpack: it is done once.
            with self._unpacked().open("rb") as stream:
                yield stream_members(stream)
            return
        with zipfile.ZipFile(self._file) as archive:
            stem = f"{component}-{self._package.file.removesuffix('.conda')}."
            found = [info for info in archive.infolist() if info.filename.startswith(stem)]
            if len(found) != 1:
                raise self.broken(f"it holds {len(found)} archives {stem}tar.zst, not one")
            with archive.open(found[0]) as packed, ZstdFile(packed) as stream:
                yield stream_members(cast("IO[bytes]", stream))

    def _unpacked(self) -> Path:
        if self._plain is None:
            plain = self._plain = self._scratch / f"{self._package.sha256}.tar"
            total = 0
            with bz2.open(self._file, "rb") as reader, plain.open("wb") as writer:
                while chunk := reader.read(1 << 20):
                    total += len(chunk)
                    if total > self._limit:
                        raise self.broken(f"it unpacks to more than {RATIO_LIMIT} times its size")
                    writer.write(chunk)
        return self._plain

    def close(self) -> None:
        """Remove what was unpacked to be read."""
        if self._plain is not None:
            self._plain.unlink(missing_ok=True)
            self._plain = None


def _read_paths(text: bytes) -> Iterator[PackagePath]:
    kinds: dict[str, Literal["file", "symlink", "directory"]] = {
        "hardlink": "file",
        "softlink": "symlink",
        "directory": "directory",
    }
    for row in json.loads(text)["paths"]:
        placeholder = row.get("prefix_placeholder")
        yield PackagePath(
            path=row["_path"],
            kind=kinds[row["path_type"]],
            placeholder=placeholder.encode() if placeholder else None,
            mode="binary" if row.get("file_mode") == "binary" else "text",
        )


def _read_old_paths(texts: dict[str, bytes]) -> Iterator[PackagePath]:
    """Read the lists of packages from before paths.json. What is a link, the archive tells."""
    prefixes: dict[str, tuple[bytes, Literal["text", "binary"]]] = {}
    for line in texts.get("has_prefix", b"").decode().splitlines():
        words = shlex.split(line, posix=False)
        words = [word.strip("\"'") for word in words]
        mode: Literal["text", "binary"] = "binary" if words[1:2] == ["binary"] else "text"
        if len(words) == 1:
            prefixes[words[0]] = (_OLD_PLACEHOLDER.encode(), "text")
        elif len(words) == 3:
            prefixes[words[2]] = (words[0].encode(), mode)
    for path in texts["files"].decode().splitlines():
        if path:
            found = prefixes.get(path)
            yield PackagePath(path=path, placeholder=found and found[0], mode=found[1] if found else "text")


def replace_prefix(content: bytes, placeholder: bytes, prefix: bytes, mode: Literal["text", "binary"]) -> bytes:
    """Replace the prefix that a package was built with.

    In a binary the strings that hold it end with NUL; each keeps its length: what is saved is filled up with NULs.

    Args:
        content: Of the file.
        placeholder: What stands in it.
        prefix: What is to stand there.
        mode: How the file holds it.

    Raises:
        ValueError: A binary's strings have no room for the longer prefix.
    """
    if mode == "text":
        return content.replace(placeholder, prefix)
    if len(prefix) > len(placeholder):
        raise ValueError(f"the prefix {prefix!r} is longer than the one that the package was built with")
    result = bytearray()
    at = 0
    while (found := content.find(placeholder, at)) >= 0:
        end = content.find(b"\0", found)
        end = len(content) if end < 0 else end
        replaced = content[found:end].replace(placeholder, prefix)
        result += content[at:found] + replaced + bytes(end - found - len(replaced))
        at = end
    return bytes(result + content[at:])
