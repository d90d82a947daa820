"""Fill the working folder of a run: a copy of the project's files, with inputs kept apart.

A run must not see what an earlier run of the same script left in the folder, or it would be a function of history. So a
file that such a run put there, and that nobody has changed since, is left out; what another script put there is handed
over like any other file. Big files are not copied: they are mounted read-only, as inputs.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox.errors import UsageError
from reprobox.image.cache import CACHE_TAG
from reprobox.records.digests import digest_files
from reprobox.records.record import RecordedFile
from reprobox.records.store import RunStore

BIG_FILE_BYTES = 64 << 20
_LIMIT_FILES = 20_000
_LIMIT_BYTES = 4 << 30
_LIMIT_BIG_FILES = 64
SKIPPED_NAMES = frozenset({
    ".git", ".hg", ".svn", ".reprobox", "__pycache__", ".venv", "venv", ".tox", ".nox", "node_modules", ".mypy_cache",
    ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", ".DS_Store",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotPlan:
    """What goes where.

    Attributes:
        copied: Paths of files that are copied, relative to the project, sorted.
        links: Symbolic links that stay inside the project: path → target.
        inputs: What is mounted read-only: path in the record → path on this machine; files or folders.
        left_out: Paths that are not handed over, each with the reason.
        notes: What a person should know.
    """

    copied: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    inputs: tuple[tuple[str, Path], ...]
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def plan_snapshot(root: Path, *, inputs: Iterable[str], script: str, store: RunStore) -> SnapshotPlan:
    """Plan the working folder of a run.

    Args:
        root: The project.
        inputs: Paths of inputs, relative to the project or absolute.
        script: What is run, as records name it; tells whose leftovers are left out.
        store: Knows which run put which file into the project.

    Raises:
        UsageError: An input does not exist, or the folder holds too much to be copied.
    """
    chosen = dict(_named_inputs(root, inputs))
    copied: list[str] = []
    links: list[tuple[str, str]] = []
    left_out: list[tuple[str, str]] = []
    notes: list[str] = []
    total = 0
    big = 0
    for path, found in _walk(root, skip=set(chosen)):
        try:
            path.encode("utf-8")
        except UnicodeEncodeError:
            left_out.append((os.fsencode(path).decode("utf-8", "replace"), "its name is not UTF-8"))
            continue
        if stat.S_ISLNK(found.st_mode):
            target = str((root / path).readlink())
            inside = Path(os.path.realpath(root / path)).is_relative_to(root.resolve())
            if inside and not target.startswith("/"):
                links.append((path, target))
            else:
                left_out.append((path, "a link out of the project; name it under inputs to have it"))
                notes.append(f"{path} points out of the project and is left out; to hand it over: --input {path}")
            continue
        if not stat.S_ISREG(found.st_mode):
            left_out.append((path, "not a file"))
            continue
        placed = store.find_placed(path, root / path)
        if placed is not None and placed["script"] == script:
            left_out.append((path, f"made by run {placed['run']} of the same script"))
            continue
        if found.st_size > BIG_FILE_BYTES:
            chosen[path] = root / path
            big += 1
            notes.append(f"{path} ({found.st_size >> 20} MiB) is mounted read-only as an input")
            continue
        total += found.st_size
        copied.append(path)
        if len(copied) > _LIMIT_FILES or total > _LIMIT_BYTES or big > _LIMIT_BIG_FILES:
            raise UsageError(
                f"{root} holds too much to be copied: over {_LIMIT_FILES} files, {_LIMIT_BYTES >> 30} GiB, or "
                f"{_LIMIT_BIG_FILES} big files",
                hint="name folders of data as inputs, which are mounted: --input data/, or `inputs` in reprobox.toml",
            )
    return SnapshotPlan(
        copied=tuple(sorted(copied)),
        links=tuple(sorted(links)),
        inputs=tuple(sorted(chosen.items())),
        left_out=tuple(sorted(left_out)),
        notes=tuple(notes),
    )


def _named_inputs(root: Path, inputs: Iterable[str]) -> Iterator[tuple[str, Path]]:
    for name in inputs:
        path = Path(os.path.normpath(root / name))
        if not path.exists():
            raise UsageError(f"input {name!r} does not exist", hint=f"it would be {path}")
        if path == root:
            raise UsageError(f"input {name!r} is the project itself", hint="name a folder in it")
        if path.is_relative_to(root):
            yield path.relative_to(root).as_posix(), path.resolve()
        else:
            if path.parts[1] in ("bin", "dev", "etc", "lib", "opt", "proc", "run", "sys", "tmp", "usr", "work"):
                raise UsageError(
                    f"input {name!r} lies in {path}, where a container has its own files",
                    hint="link or copy it into the project folder and name that",
                )
            yield path.as_posix(), path.resolve()


def _walk(root: Path, *, skip: set[str], below: str = "") -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(root / below) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = f"{below}{entry.name}"
        if entry.name in SKIPPED_NAMES or path in skip or entry.name.endswith(".pyc"):
            continue
        if entry.is_dir(follow_symlinks=False):
            if not Path(entry.path, "pyvenv.cfg").exists() and not _is_cache(Path(entry.path)):
                yield from _walk(root, skip=skip, below=f"{path}/")
        else:
            yield path, entry.stat(follow_symlinks=False)


def _is_cache(folder: Path) -> bool:
    """Whether a folder is our own cache, which somebody keeps in the project."""
    try:
        return (folder / "CACHEDIR.TAG").read_bytes() == CACHE_TAG
    except OSError:
        return False


def copy_snapshot(root: Path, plan: SnapshotPlan, work: Path, store: RunStore) -> tuple[RecordedFile, ...]:
    """Copy what is planned into an empty folder, keeping an object of every file.

    Returns:
        Every file and link, by path.
    """
    recorded = []
    for path in plan.copied:
        source, target = root / path, work / path
        with source.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            data = stream.read()
        target.parent.mkdir(parents=True, exist_ok=True)
        executable = bool(mode & 0o111)
        target.write_bytes(data)
        target.chmod(0o755 if executable else 0o644)
        sha256 = store.keep_bytes(data)
        recorded.append(RecordedFile(path=path, sha256=sha256, size_bytes=len(data), executable=executable))
    for path, link in plan.links:
        target = work / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(link)
        recorded.append(RecordedFile(path=path, sha256="", size_bytes=0, link=link))
    return tuple(sorted(recorded, key=lambda file: file.path))


def restore_snapshot(files: Iterable[RecordedFile], work: Path, store: RunStore) -> tuple[RecordedFile, ...]:
    """Copy what a record calls its code into an empty folder, from the store's objects.

    Returns:
        The files and links, as given.
    """
    restored = tuple(files)
    for file in restored:
        target = work / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.link is not None:
            target.symlink_to(file.link)
            continue
        shutil.copyfile(store.object_path(file.sha256), target)
        target.chmod(0o755 if file.executable else 0o644)
    return restored


def make_mount_points(plan: SnapshotPlan, work: Path) -> None:
    """Make the places of inputs that lie inside the working folder."""
    for name, source in plan.inputs:
        if name.startswith("/"):
            continue
        place = work / name
        if source.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()


def hash_inputs(plan: SnapshotPlan, *, workers: int) -> tuple[RecordedFile, ...]:
    """Hash every file of the inputs.

    Returns:
        The files, by path; a link inside an input counts as what it points to.

    Raises:
        RecordError: One cannot be read.
    """
    files: dict[str, Path] = {}
    for name, source in plan.inputs:
        if source.is_dir():
            for folder, _, names in os.walk(source, followlinks=False):
                for leaf in names:
                    path = Path(folder, leaf)
                    if path.is_file():
                        files[f"{name}/{path.relative_to(source).as_posix()}"] = path
        else:
            files[name] = source
    digests = digest_files(files.values(), workers)
    return tuple(
        RecordedFile(path=name, sha256=digests[files[name]].sha256, size_bytes=digests[files[name]].size_bytes)
        for name in sorted(files)
    )


def require_readable(plan: SnapshotPlan, *, user_id: int) -> None:
    """Require that another user than the caller can read the inputs, where the container runs as one.

    Raises:
        UsageError: It could not; names the first such file.
    """
    for _, source in plan.inputs:
        paths: Iterable[Path] = [source]
        if source.is_dir():
            paths = (Path(folder, leaf) for folder, _, names in os.walk(source) for leaf in (*names, "."))
        for path in paths:
            mode = path.stat().st_mode if path.exists() else 0o777
            if not mode & (0o001 if stat.S_ISDIR(mode) else 0o004):
                raise UsageError(
                    f"{path} is readable by its owner alone; the container runs as user {user_id}, never as root",
                    hint=f"chmod -R o+rX {source}",
                )


def hand_over(folder: Path, *, user_id: int) -> None:
    """Give a folder and all in it to the user that the container runs as; only root can."""
    for path, folders, files in os.walk(folder):
        os.chown(path, user_id, user_id)
        for name in (*folders, *files):
            os.chown(Path(path, name), user_id, user_id, follow_symlinks=False)


def load_git(root: Path, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Commit of the project's repository and whether the project's files differ from it; None outside of one."""
    if not any((folder / ".git").exists() for folder in (root, *root.parents)) or shutil.which("git") is None:
        return None

    def ask(*words: str) -> str | None:
        command = ["git", "-C", str(root), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(environ))
        return done.stdout if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return None
    status = ask("status", "--porcelain", "--", ".")
    return {"commit": commit.strip(), "dirty": bool(status) if status is not None else None}
