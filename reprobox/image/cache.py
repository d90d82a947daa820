"""The cache: packages as fetched, layers as written, bases as unpacked. Shared by a user's projects.

Everything in it is named by what it is or by what it is made from, appears whole (write aside, then rename), and is
never changed. Two builds at once may both write the same thing; the second rename replaces equal bytes by equal bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reprobox.errors import ArtefactAltered, BuildError
from reprobox.image.layers import DiffId, LayerDigest, LayerExtras
from reprobox.image.plan import LayerKey
from reprobox.records.digests import is_digest
from reprobox.records.notes import read_note, write_note
from reprobox.records.processes import boot_id

_NO_EXTRAS = LayerExtras()

CACHE_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# What reprobox can fetch or make again.\n"
"""What CACHEDIR.TAG in the cache holds, for tools that copy or back up what lies around it, runs among them.

Source: Cache Directory Tagging Specification.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedLayer:
    """A layer on disk.

    Attributes:
        digest: What it is.
        path: The uncompressed tar.
        extras: What its packages want beside their files.
    """

    digest: LayerDigest
    path: Path
    extras: LayerExtras = _NO_EXTRAS


class Cache:
    """A folder with packages, layers and unpacked bases.

    Args:
        root: The folder; made when first written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def package_path(self, sha256: str) -> Path:
        """Where the package with this digest lies, or would.

        Raises:
            ArtefactAltered: It is no sha256 in hex.
        """
        return self.root / "packages" / sha256[:2] / _hex_of(f"sha256:{sha256}")

    def find_package(self, sha256: str) -> Path | None:
        """Find a package whose bytes still hash to its name; one that does not is removed."""
        path = self.package_path(sha256)
        try:
            with path.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() == sha256:
                    _note_use(path)
                    return path
        except FileNotFoundError:
            return None
        path.unlink(missing_ok=True)
        return None

    def find_layer(self, key: LayerKey) -> CachedLayer | None:
        """Find a layer by what it is made from; None where it or its bytes are missing or cut."""
        note = read_note(self.root / "layers" / f"{key}.json")
        if note is None:
            return None
        try:
            digest = LayerDigest(diff_id=DiffId(note["diff_id"]), size_bytes=note["size_bytes"], files=note["files"])
            extras = _read_extras(note.get("extras", {}))
            path = self.blob_path(digest.diff_id)
        except (KeyError, TypeError, AttributeError, ArtefactAltered):
            return None
        try:
            whole = path.stat().st_size == digest.size_bytes
        except OSError:
            return None
        if not whole:
            return None
        _note_use(path)
        return CachedLayer(digest=digest, path=path, extras=extras)

    def blob_path(self, diff_id: DiffId) -> Path:
        """Where the layer with this digest lies, or would.

        Raises:
            ArtefactAltered: It is no digest: somebody else may have written it.
        """
        return self.root / "blobs" / _hex_of(diff_id)

    def keep_layer(
        self, key: LayerKey, digest: LayerDigest, written: Path, extras: LayerExtras = _NO_EXTRAS
    ) -> CachedLayer:
        """Take a written layer into the cache."""
        path = self.blob_path(digest.diff_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        written.replace(path)
        write_note(
            self.root / "layers" / f"{key}.json",
            {
                "diff_id": digest.diff_id,
                "size_bytes": digest.size_bytes,
                "files": digest.files,
                **({"extras": asdict(extras)} if extras != _NO_EXTRAS else {}),
            },
        )
        return CachedLayer(digest=digest, path=path, extras=extras)

    def check_blob(self, diff_id: DiffId) -> bool:
        """Check that a layer's bytes still hash to its name; one that does not is removed."""
        path = self.blob_path(diff_id)
        try:
            with path.open("rb") as stream:
                if "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest() == diff_id:
                    _note_use(path)
                    return True
        except FileNotFoundError:
            return False
        path.unlink(missing_ok=True)
        return False

    def find_tree(self, key: str) -> Path | None:
        """Find an unpacked base."""
        path = self.root / "trees" / key
        if not path.is_dir():
            return None
        _note_use(path)
        return path

    def keep_tree(self, key: str, folder: Path) -> Path:
        """Take an unpacked base into the cache; the first one stays."""
        path = self.root / "trees" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.rename(path)
        except OSError:
            if not path.is_dir():
                raise
            shutil.rmtree(folder, ignore_errors=True)
        return path

    @contextmanager
    def aside(self) -> Iterator[Path]:
        """Give a folder on the cache's own file system for something unfinished; it is removed at the end.

        Raises:
            BuildError: The cache cannot be written, or its disk is full.
        """
        folder = self.root / "unfinished" / f"{os.getpid()}-{place_of_pids()}-{secrets.token_hex(4)}"
        try:
            try:
                folder.mkdir(parents=True)
                tag = self.root / "CACHEDIR.TAG"
                if not tag.exists():
                    tag.write_bytes(CACHE_TAG)
            except PermissionError as error:
                raise BuildError(
                    f"the cache cannot be written: {error}", hint="set REPROBOX_CACHE to a folder of yours"
                ) from None
            yield folder
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise BuildError(
                    f"no space is left below {self.root}", hint="free some, or set REPROBOX_CACHE"
                ) from None
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def find_image(self, lock_digest: str) -> dict[str, Any] | None:
        """Find what a lock was built to."""
        path = self.root / "images" / f"{_hex_of(lock_digest)}.json"
        found = read_note(path)
        if found is not None:
            _note_use(path)
        return found

    def mark_base(self, sha256: str) -> None:
        """Mark a package as a flattened base, which cannot be fetched again from anywhere."""
        self.package_path(sha256).with_name(f"{sha256}.base").touch()

    def keep_image(self, lock_digest: str, note: dict[str, Any]) -> None:
        """Note what a lock was built to."""
        write_note(self.root / "images" / f"{_hex_of(lock_digest)}.json", note)


def place_of_pids() -> str:
    """Name what a process id means something in: this boot of this machine, in this namespace; as 8 hex digits."""
    known = [boot_id()]
    with contextlib.suppress(OSError):
        known.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return hashlib.sha256(" ".join(known).encode()).hexdigest()[:8]


def _hex_of(digest: str) -> str:
    if not is_digest(digest):
        raise ArtefactAltered(f"{digest[:100]!r} is no digest", hint="do not trust where it comes from")
    return digest.removeprefix("sha256:")


def _note_use(path: Path) -> None:
    """Note that something was used now, for whoever asks what is old; a cache that is read-only is as good."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _read_extras(note: dict[str, Any]) -> LayerExtras:
    return LayerExtras(
        variables=tuple((str(name), str(value)) for name, value in note.get("variables", ())),
        activation=tuple((str(path), str(text)) for path, text in note.get("activation", ())),
        link_scripts=tuple(map(str, note.get("link_scripts", ()))),
    )
