"""Write a layer: a deterministic tar, hashed while it is written.

Normalised: owner 0:0 without names, modes 0755 and 0644 by the executable bit alone, directories once and before what
is in them, whole seconds. Kept: each file's modification time as its package has it, because some programs refuse the
epoch.
"""

from __future__ import annotations

import errno
import hashlib
import tarfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, NewType

from reprobox.errors import BuildError
from reprobox.image.tar_format import BLOCK, render_header

DiffId = NewType("DiffId", str)
"""`sha256:` and 64 hex digits, over the bytes of an uncompressed layer."""

GENERATED_MTIME = 315_532_800
"""1980-01-01T00:00:00Z, for what no package gives a time: the first moment that a zip archive can hold."""

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk that is full or a quota that is spent: never the package's fault."""

RATIO_LIMIT = 300
_SMALL = 256 << 20
_CHUNK = 1 << 20
_TOGETHER = 1 << 20
_AHEAD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDigest:
    """What a written layer is.

    Attributes:
        diff_id: Digest of its bytes.
        size_bytes: Size of the tar.
        files: Number of files and links in it.
    """

    diff_id: DiffId
    size_bytes: int
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerExtras:
    """What a layer's packages want beside their files.

    Attributes:
        variables: Environment variables that they set, in order.
        activation: Paths and texts of scripts that a shell would source at activation, by path.
        link_scripts: Paths of scripts that conda would run at link time; they were not run.
    """

    variables: tuple[tuple[str, str], ...] = ()
    activation: tuple[tuple[str, str], ...] = ()
    link_scripts: tuple[str, ...] = ()


def limit_unpacked(size_bytes: int) -> int:
    """How many bytes a package of a size may unpack to.

    Nothing real is packed `RATIO_LIMIT` times smaller than it is, and nothing below a quarter of a GiB fills a disk.
    """
    return max(_SMALL, RATIO_LIMIT * size_bytes)


def check_path(path: str, *, package: str) -> str:
    """Check that a package's path stays inside the image, and return it without "./" and doubled slashes.

    Raises:
        BuildError: It is absolute, escapes, or holds a character that no package needs.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or "\n" in path:
        raise BuildError(
            f"{package} holds the path {path!r}, which is not a place inside the image",
            hint=f"do not use this {package}; it is broken or hostile",
        )
    return "/".join(part for part in parts if part != ".")


class LayerWriter:
    """Writes entries to a stream as a tar and hashes what it writes.

    Args:
        stream: Where the bytes go.
        check: Called before every write; raises to give up.
    """

    def __init__(self, stream: BinaryIO, *, check: Callable[[], None] = lambda: None) -> None:
        self._stream = stream
        self._check = check
        self._hash = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._hashing: deque[Future[None]] = deque()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._size = 0
        self._files = 0
        self._directories: set[str] = set()

    def add_directory(self, path: str, *, mode: int = 0o755, mtime: int = GENERATED_MTIME) -> None:
        """Add a directory and its parents, each once."""
        if path in self._directories or not path:
            return
        self._parents(path)
        self._directories.add(path)
        self._header(path, tarfile.DIRTYPE, mode=mode, mtime=mtime)

    def add_file(
        self, path: str, content: bytes | BinaryIO, *, size: int, executable: bool = False, mtime: int = GENERATED_MTIME
    ) -> None:
        """Add a regular file.

        Args:
            path: Relative, checked.
            content: Its bytes, or a stream of them.
            size: How many bytes there are.
            executable: Whether its mode is 0755 rather than 0644.
            mtime: Seconds since the epoch.

        Raises:
            BuildError: The stream holds more or fewer bytes than `size`.
        """
        self._parents(path)
        self._files += 1
        self._header(path, tarfile.REGTYPE, mode=0o755 if executable else 0o644, mtime=mtime, size=size)
        if isinstance(content, bytes):
            written = len(content)
            self._write(content)
        else:
            written = 0
            while chunk := content.read(_CHUNK):
                written += len(chunk)
                if written > size:
                    break
                self._write(chunk)
        if written != size:
            raise BuildError(f"{path}: holds another number of bytes than its package says ({size})")
        if size % BLOCK:
            self._write(bytes(BLOCK - size % BLOCK))

    def add_symlink(self, path: str, target: str, *, mtime: int = GENERATED_MTIME) -> None:
        """Add a symbolic link."""
        self._parents(path)
        self._files += 1
        self._header(path, tarfile.SYMTYPE, mode=0o777, mtime=mtime, link=target)

    def add_hardlink(self, path: str, target: str, *, executable: bool = False, mtime: int = GENERATED_MTIME) -> None:
        """Add another name for a file that this layer holds already."""
        self._parents(path)
        self._files += 1
        self._header(path, tarfile.LNKTYPE, mode=0o755 if executable else 0o644, mtime=mtime, link=target)

    def finish(self) -> LayerDigest:
        """End the tar and tell what was written."""
        self._write(bytes(2 * BLOCK))
        self._flush()
        self._hasher.shutdown(wait=True)
        return LayerDigest(diff_id=DiffId("sha256:" + self._hash.hexdigest()), size_bytes=self._size, files=self._files)

    def _parents(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        if parent and parent not in self._directories:
            self.add_directory(parent)

    def _header(self, path: str, kind: bytes, *, mode: int, mtime: int, size: int = 0, link: str = "") -> None:
        self._write(render_header(path, kind, mode=mode, mtime=max(0, mtime), size=size, link=link))

    def _write(self, data: bytes) -> None:
        # Hashing and writing many small pieces costs more than the pieces do: they go out together.
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self._size += len(data)
        if self._waiting_bytes >= _TOGETHER:
            self._flush()

    def _flush(self) -> None:
        self._check()
        data = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        # Hashed beside the writing, in order; a few pieces ahead at most, so that memory stays bounded.
        self._hashing.append(self._hasher.submit(self._hash.update, data))
        if len(self._hashing) > _AHEAD:
            self._hashing.popleft().result()
        self._stream.write(data)
