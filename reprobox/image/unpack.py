"""Unpack an image's layers into a folder, as an engine would show them: upper ones over lower ones, whiteouts obeyed.

Nothing is written through a link, whatever a layer holds: all links are made last, and where an upper layer has a
folder in the place of a lower one's link, it is a folder. Owners are not restored; modes are 0755, 0644 and those of
folders.

Source: OCI image specification, layer.md (applying changesets).
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from reprobox.errors import ArtefactAltered, BuildError
from reprobox.image.layers import check_path

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_CHUNK = 1 << 20

Kind = Literal["folder", "file", "link"]


class _Hashed(io.RawIOBase):
    """A stream that is hashed while it is read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes."""
        data = self._stream.read(size)
        self._digest.update(data)
        return data

    def finish(self) -> str:
        """Read what is left; gives the digest of all."""
        while self.read(_CHUNK):
            pass
        return "sha256:" + self._digest.hexdigest()


@dataclass(slots=True)
class _Tree:
    """What is unpacked so far.

    Attributes:
        root: The folder on disk.
        kinds: Path → what it is.
        links: Path → target, of symbolic links; made at the end.
        below: Path of a folder → names in it.
    """

    root: Path
    kinds: dict[str, Kind] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    below: dict[str, set[str]] = field(default_factory=dict)

    def remove(self, path: str) -> None:
        """Remove a path and what is below it, as far as it was there before this layer."""
        kind = self.kinds.pop(path, None)
        if kind is None:
            return
        parent, _, name = path.rpartition("/")
        self.below.get(parent, set()).discard(name)
        if kind == "folder":
            for child in list(self.below.get(path, ())):
                self.remove(f"{path}/{child}")
            self.below.pop(path, None)
            (self.root / path).rmdir()
        elif kind == "file":
            (self.root / path).unlink()
        else:
            del self.links[path]

    def note(self, path: str, kind: Kind) -> None:
        """Note what a path is now; its parents are folders by then."""
        self.kinds[path] = kind
        parent, _, name = path.rpartition("/")
        self.below.setdefault(parent, set()).add(name)

    def make_folder(self, path: str, mode: int | None = None) -> None:
        """Make a folder and its parents, in the place of what is no folder."""
        if not path:
            return
        if self.kinds.get(path) != "folder":
            self.make_folder(path.rpartition("/")[0])
            self.remove(path)
            (self.root / path).mkdir()
            (self.root / path).chmod(0o755)
            self.note(path, "folder")
        if mode is not None:
            (self.root / path).chmod(mode)


def unpack_layers(
    layers: Sequence[Path],
    folder: Path,
    *,
    below: str = "",
    expected: Sequence[str] | None = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Unpack layers into an empty folder.

    Args:
        layers: Uncompressed tars, lowest first.
        folder: An empty folder.
        below: Only unpack what lies below this path, such as "opt/env"; all of it where this is "".
        expected: Digests that the layers must have ("sha256:…"), in the same order; None where they were checked.
        check: Called for every member; raises to give up.

    Raises:
        ArtefactAltered: A layer does not hash to what is expected.
        BuildError: A layer cannot be read, or holds a path that is none inside.
    """
    tree = _Tree(root=folder)
    for number, layer in enumerate(layers):
        try:
            with layer.open("rb") as file:
                # Read once, from front to back, and hashed on the way.
                stream = _Hashed(file)
                with tarfile.open(fileobj=stream, mode="r|", bufsize=_CHUNK) as archive:
                    _unpack_layer(archive, tree, layer.name, below, check)
                if expected is not None and stream.finish() != expected[number]:
                    raise ArtefactAltered(
                        f"the layer {layer.name} was altered since it was written", hint="build again"
                    )
        except tarfile.TarError as error:
            raise BuildError(f"the layer {layer.name} cannot be read: {error}", hint="build again") from None
    for path, target in tree.links.items():
        (folder / path).symlink_to(target)


def _unpack_layer(archive: tarfile.TarFile, tree: _Tree, name: str, below: str, check: Callable[[], None]) -> None:
    # What a layer itself brings is not removed by its own whiteouts, in whatever order they come.
    own: set[str] = set()
    for member in archive:
        check()
        plain = member.name.removeprefix("./").rstrip("/")
        if plain in ("", "."):
            continue
        path = check_path(plain, package=f"the layer {name}")
        if below and path != below and not path.startswith(below + "/"):
            continue
        parent, _, last = path.rpartition("/")
        if last == _OPAQUE:
            for child in list(tree.below.get(parent, ())):
                if f"{parent}/{child}".lstrip("/") not in own:
                    tree.remove(f"{parent}/{child}".lstrip("/"))
            continue
        if last.startswith(_WHITEOUT):
            hidden = f"{parent}/{last.removeprefix(_WHITEOUT)}".lstrip("/")
            if hidden not in own:
                tree.remove(hidden)
            continue
        own.add(path)
        own.update(parent.as_posix() for parent in PurePosixPath(path).parents)
        if member.isdir():
            tree.make_folder(path, member.mode & 0o1777 | 0o700)
            continue
        tree.make_folder(parent)
        tree.remove(path)
        if member.issym():
            tree.links[path] = member.linkname
            tree.note(path, "link")
        elif member.islnk():
            _link_again(member, tree, path, name)
        elif member.isreg() and not member.issparse():
            _write(archive, member, tree, path)
        else:
            raise BuildError(
                f"the layer {name} holds a device, pipe or sparse file: {path}", hint="do not use this image"
            )


def _link_again(member: tarfile.TarInfo, tree: _Tree, path: str, name: str) -> None:
    target = check_path(member.linkname.removeprefix("./"), package=f"the layer {name}")
    if tree.kinds.get(target) == "link":
        tree.links[path] = tree.links[target]
        tree.note(path, "link")
    elif tree.kinds.get(target) == "file":
        os.link(tree.root / target, tree.root / path, follow_symlinks=False)
        tree.note(path, "file")
    else:
        raise BuildError(f"the layer {name} holds {path} as another name of {target}, which is no file")


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, tree: _Tree, path: str) -> None:
    stream = archive.extractfile(member)
    place = tree.root / path
    with place.open("xb") as target:
        if stream is not None:
            shutil.copyfileobj(stream, target, _CHUNK)
        target.flush()
        os.fchmod(target.fileno(), 0o755 if member.mode & 0o111 else 0o644)
        os.utime(target.fileno(), (member.mtime, member.mtime))
    tree.note(path, "file")
