"""Run what conda packages would run at link time: once, when locking, and keep what came out as a layer.

The scripts run in a container of the environment without network, privileges or any variable of the caller, and can
write below /opt/env alone. What they wrote, changed or removed there becomes a layer that is pinned by its hash and
kept beside the lock, so that an image is a function of its lock with them as without: no build ever runs one again.

Source: conda's documentation of link scripts (PREFIX, PKG_NAME, PKG_VERSION, PKG_BUILDNUM, .messages.txt).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from reprobox.engines.base import RUN_LABEL, STATE_LABEL, ContainerRequest, Mount
from reprobox.env.client import LINKED, Client
from reprobox.env.lockfile import LinkedFiles, Lock
from reprobox.env.project import EnvironmentEntry
from reprobox.errors import BuildError
from reprobox.image.cache import Cache
from reprobox.image.layers import LayerDigest, LayerWriter
from reprobox.image.places import PREFIX
from reprobox.image.unpack import unpack_layers
from reprobox.run.base import Tools
from reprobox.run.identity import choose_identity
from reprobox.run.snapshot import hand_over
from reprobox.run.workshops import run_to_end

_MESSAGES = ".messages.txt"
_LIMIT_BYTES = 8 << 30
_RUN = """\
shell=$(command -v bash || command -v sh)
while [ $# -gt 0 ]; do
    echo "--- $1" >&2
    PKG_NAME=$2 PKG_VERSION=$3 PKG_BUILDNUM=$4 "$shell" "$PREFIX/$1" </dev/null || exit 1
    shift 4
done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Script:
    """A script, and the package that it is of.

    Attributes:
        path: Below the prefix.
        name: Of the package.
        version: Of the package.
        build_number: Of the package.
    """

    path: str
    name: str
    version: str
    build_number: str


def run_link_scripts(
    lock: Lock, entry: EnvironmentEntry, client: Client, *, tools: Tools, old: Lock | None
) -> LinkedFiles | None:
    """Run the link scripts of a lock's conda packages, and keep what they wrote beside the lock.

    Args:
        lock: What is locked so far.
        entry: Which environment.
        client: How packages are reached.
        tools: Give the engine, and layers and images of locks.
        old: The lock that is there, whose result is kept where its conda packages are the same.

    Returns:
        What was written, or None where no package has such a script or none of them wrote anything.

    Raises:
        BuildError: A script failed; its last lines are in the text.
    """
    if not lock.conda:
        return None
    # As with conda, they run before pip adds anything.
    bare = replace(lock, wheels=(), linked=None)
    folder = entry.lock.parent / LINKED
    if old is not None and old.linked is not None and replace(old, wheels=(), linked=None).digest == bare.digest:
        kept = folder / old.linked.file
        if kept.is_file() and hashlib.sha256(kept.read_bytes()).hexdigest() == old.linked.sha256:
            return old.linked
    layers = tools.layers(bare)
    found = {path for layer in layers for path in layer.extras.link_scripts if path.endswith("-post-link.sh")}
    if not found:
        return None
    cache = Cache(client.cache)
    with cache.aside() as scratch:
        prefix = scratch / "tree" / PREFIX
        (scratch / "tree").mkdir()
        unpack_layers([layer.path for layer in layers], scratch / "tree", below=PREFIX)
        scripts = _order_scripts(prefix, found)
        tools.say(f"running {len(scripts)} link scripts, in a container of the environment")
        before = _run(scripts, prefix, tools, bare, scratch)
        messages = prefix / _MESSAGES
        if messages.is_file() and not messages.is_symlink():
            tools.say(messages.read_text(encoding="utf-8", errors="replace").rstrip())
            messages.unlink()
        part = scratch / "layer.tar"
        with part.open("wb") as stream:
            digest = _write_changes(prefix, before, stream)
        if digest is None:
            return None
        linked = LinkedFiles(
            sha256=digest.diff_id.removeprefix("sha256:"),
            size_bytes=digest.size_bytes,
            files=digest.files,
            scripts=tuple(script.path for script in scripts),
        )
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f".{linked.file}.{secrets.token_hex(4)}"
        aside.write_bytes(part.read_bytes())
        aside.replace(folder / linked.file)
    return linked


def _order_scripts(prefix: Path, paths: set[str]) -> tuple[_Script, ...]:
    """Order scripts as conda links packages: each after those that its package depends on, else by name."""
    notes = {}
    for file in sorted((prefix / "conda-meta").glob("*.json")):
        note = json.loads(file.read_bytes())
        notes[note["name"]] = note
    ordered: list[str] = []
    # Each name is met twice: to look at what it depends on, and when that is done.
    pending = [(name, False) for name in sorted(notes, reverse=True)]
    seen: set[str] = set()
    while pending:
        name, done = pending.pop()
        if done:
            ordered.append(name)
        elif name in notes and name not in seen:
            seen.add(name)
            pending.append((name, True))
            needed = sorted({re.split(r"[\s=<>!~\[]", text, maxsplit=1)[0] for text in notes[name]["depends"]})
            pending += [(other, False) for other in reversed(needed)]
    scripts = []
    for name in ordered:
        path = f"bin/.{name}-post-link.sh"
        if path in paths:
            note = notes[name]
            number = str(note.get("build_number", 0))
            scripts.append(_Script(path=path, name=name, version=note["version"], build_number=number))
    return tuple(scripts)


def _run(
    scripts: Sequence[_Script], prefix: Path, tools: Tools, lock: Lock, scratch: Path
) -> dict[str, tuple[object, ...]]:
    """Run scripts in a container; gives what the prefix held before.

    Raises:
        BuildError: One failed.
    """
    engine = tools.connect()
    info = engine.describe()
    identity = choose_identity(info)
    for folder in (scratch, scratch / "tree", prefix.parent):
        folder.chmod(0o755)
    if not identity.is_caller:
        hand_over(prefix, user_id=identity.number)
    before = dict(_scan(prefix))
    request = ContainerRequest(
        name=f"reprobox-link-{secrets.token_hex(6)}",
        image=tools.image(lock),
        argv=("sh", "-c", _RUN, "link", *(w for s in scripts for w in (s.path, s.name, s.version, s.build_number))),
        environment=(
            ("HOME", "/home/reprobox"), ("PREFIX", f"/{PREFIX}"), ("PYTHONDONTWRITEBYTECODE", "1"),
            ("PYTHONHASHSEED", "0"), ("ROOT_PREFIX", f"/{PREFIX}"), ("SOURCE_DATE_EPOCH", "315532800"), ("TZ", "UTC"),
        ),
        working_directory=f"/{PREFIX}",
        user=identity.user,
        mounts=(Mount(source=prefix, target=f"/{PREFIX}", writable=True),),
        memory_bytes=int(info.memory_bytes * 0.9) or None,
        labels=((RUN_LABEL, "link"), (STATE_LABEL, str(scratch))),
    )  # fmt: skip
    exit_code, lines = run_to_end(engine, request)
    if exit_code != 0:
        raise BuildError(
            "a link script failed in the environment:\n  " + "\n  ".join(lines),
            hint="lock without it: reprobox lock --no-link-scripts",
        )
    return before


def _scan(prefix: Path) -> Iterator[tuple[str, tuple[object, ...]]]:
    """List what a prefix holds, each with what changes when it is touched (a time of change cannot be set back)."""
    for folder, names, files in os.walk(prefix):
        for name in (*names, *files):
            path = Path(folder, name)
            found = path.lstat()
            kind = stat.S_IFMT(found.st_mode)
            mark: tuple[object, ...] = (kind,)
            if not stat.S_ISDIR(found.st_mode):
                mark = (kind, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            yield path.relative_to(prefix).as_posix(), mark


def _write_changes(prefix: Path, before: dict[str, tuple[object, ...]], stream: BinaryIO) -> LayerDigest | None:
    """Write what differs from `before` as a layer; None where nothing does.

    Raises:
        BuildError: What was written is no file, folder or link, or is more than any real script writes.
    """
    after = dict(_scan(prefix))
    gone = {path for path in before if path not in after}
    folders = {path for path, mark in after.items() if mark == (stat.S_IFDIR,)} | {""}
    # A folder that is gone, or is something else now, hides what was in it.
    removed = {path for path in gone if path.rpartition("/")[0] in folders}
    changed = {path for path, mark in after.items() if before.get(path) != mark}
    if not changed and not removed:
        return None
    writer = LayerWriter(stream)
    total = 0
    for path in sorted(changed | removed):
        place = f"{PREFIX}/{path}"
        if path in removed:
            parent, _, name = place.rpartition("/")
            writer.add_file(f"{parent}/.wh.{name}", b"", size=0)
            continue
        source = prefix / path
        found = source.lstat()
        if stat.S_ISDIR(found.st_mode):
            writer.add_directory(place)
        elif stat.S_ISLNK(found.st_mode):
            writer.add_symlink(place, str(source.readlink()))
        elif stat.S_ISREG(found.st_mode):
            total += found.st_size
            if total > _LIMIT_BYTES:
                raise BuildError("link scripts wrote more than any real ones", hint="reprobox lock --no-link-scripts")
            with source.open("rb") as content:
                writer.add_file(place, content, size=found.st_size, executable=bool(found.st_mode & 0o111))
        else:
            raise BuildError(f"a link script made {path}, which is no file", hint="reprobox lock --no-link-scripts")
    return writer.finish()
