"""The `.reprobox` folder: objects by digest, one folder a run, and what is under way.

    objects/sha256/ab/cdef…      content, read-only, named by its digest
    runs/<id>/                   a finished run: record.json, SHA256SUMS, stdout, stderr, trail.jsonl, outputs/, code/
    active/<id>/                 a run under way: owner.json, draft.json, work/, trail/, guest/, stdout, stderr
    placed/<hash of path>.json   which run last put a file into the project folder

Everything appears by rename. A run is finished by renaming its folder from active/<id>/record to runs/<id>; before
that nothing of it counts, after that nothing of it changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from reprobox.errors import ArtefactAltered, RecordError, RecordNotFound
from reprobox.records.check import find_problem
from reprobox.records.digests import digest_bytes, digest_file
from reprobox.records.processes import boot_id, find_process
from reprobox.records.record import STREAMS, Output, Record, RunId, parse_record, render_record, render_sums


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that a run under way belongs to.

    Attributes:
        host: Its machine's name.
        boot: Id of that machine's current start.
        pid: Its number.
        started_ticks: When it began, as the kernel counts; tells a number used again.
    """

    host: str
    boot: str
    pid: int
    started_ticks: int

    def to_json(self) -> dict[str, Any]:
        """Render it."""
        return {"host": self.host, "boot": self.boot, "pid": self.pid, "started_ticks": self.started_ticks}

    @property
    def is_gone(self) -> bool | None:
        """Whether it has ended; None where that cannot be told from this machine."""
        if self.host != socket.gethostname():
            return None
        if self.boot != boot_id():
            return True
        process = find_process(self.pid)
        return process is None or process.started_ticks != self.started_ticks


def load_owner() -> Owner:
    """This process, as an owner."""
    process = find_process(os.getpid())
    started_ticks = process.started_ticks if process is not None else 0
    return Owner(host=socket.gethostname(), boot=boot_id(), pid=os.getpid(), started_ticks=started_ticks)


def make_run_id(now: datetime) -> RunId:
    """Make an id: the time in UTC to the second, and random hex digits."""
    return RunId(f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}")


class RunStore:
    """A project's `.reprobox` folder.

    Args:
        state: The folder; made when first written.
    """

    def __init__(self, state: Path) -> None:
        self.state = state

    # Objects

    def object_path(self, sha256: str) -> Path:
        """Where the object with this digest lies, or would."""
        return self.state / "objects" / "sha256" / sha256[:2] / sha256[2:]

    def keep_bytes(self, data: bytes) -> str:
        """Keep some bytes as an object and return their sha256."""
        sha256 = digest_bytes(data)
        path = self.object_path(sha256)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f".{secrets.token_hex(6)}")
            with aside.open("wb") as stream:
                stream.write(data)
                os.fchmod(stream.fileno(), 0o444)
            aside.replace(path)
        return sha256

    def keep_file(self, source: Path, sha256: str) -> None:
        """Take a file that nobody writes to any more into the store.

        It keeps its old name too, as a hard link, so that doing this again after being killed finds the same.
        """
        path = self.object_path(sha256)
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        source.chmod(0o444)
        if os.geteuid() == 0:
            os.chown(source, 0, 0)
        try:
            os.link(source, path)
        except FileExistsError:
            return
        except OSError:
            aside = path.with_name(f".{secrets.token_hex(6)}")
            shutil.copyfile(source, aside)
            aside.chmod(0o444)
            aside.replace(path)

    def require_object(self, sha256: str, *, name: str) -> Path:
        """Give an object's path after hashing it.

        Raises:
            ArtefactAltered: It is missing, or its bytes are others; `name` is named.
        """
        path = self.object_path(sha256)
        problem = find_problem(path, sha256)
        if problem:
            raise ArtefactAltered(f"{name}: {problem}", hint="restore it from a copy, or run the training again")
        return path

    def require_output(self, run: RunId, output: Output) -> None:
        """Require that a run's folder still shows an output as it was recorded.

        Raises:
            ArtefactAltered: It is missing there, or its bytes are others.
        """
        shown = self.run_folder(run) / "outputs" / output.path
        try:
            if shown.samefile(self.object_path(output.sha256)):
                return
        except OSError:
            pass
        problem = find_problem(shown, output.sha256)
        if problem:
            raise ArtefactAltered(f"{run}: outputs/{output.path}: {problem}", hint=f"see reprobox check {run}")

    # Finished runs

    def list_runs(self) -> list[RunId]:
        """Ids of all finished runs, oldest first; of those that began in one second, the one that ended first."""
        folder = self.state / "runs"
        if not folder.is_dir():
            return []
        found = [(entry.name.partition("-")[0], entry.stat().st_mtime_ns, entry.name) for entry in folder.iterdir()]
        return [RunId(name) for _, _, name in sorted(found)]

    def find_run(self, name: str) -> RunId:
        """Find the run that `name` means: an id, a unique prefix of it or of its hex digits, latest, latest~N.

        Raises:
            RecordNotFound: None, or more than one, is meant.
        """
        runs = self.list_runs()
        if not runs:
            raise RecordNotFound(f"no runs in {self.state}", hint="make one: reprobox run train.py")
        base, tilde, back = name.partition("~")
        if base == "latest" and (not tilde or back.isdigit()):
            index = int(back or 0)
            if index >= len(runs):
                raise RecordNotFound(f"{name}: there are only {len(runs)} runs", hint="list them: reprobox runs")
            return runs[-1 - index]
        found = [run for run in runs if run == name] or [
            run for run in runs if run.startswith(name) or run.partition("-")[2].startswith(name)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise RecordNotFound(f"{name!r} could be {', '.join(found[:5])}", hint="type more of it")
        raise RecordNotFound(f"no run {name!r}", hint="list them: reprobox runs")

    def run_folder(self, run: RunId) -> Path:
        """Where a finished run lies."""
        return self.state / "runs" / run

    def load_record(self, run: RunId) -> Record:
        """Load a finished run's record.

        Raises:
            RecordError: It is unreadable or altered.
        """
        file = self.run_folder(run) / "record.json"
        try:
            data = file.read_bytes()
        except OSError as error:
            raise RecordError(f"{file}: {error.strerror}", hint="restore it, or remove that run's folder") from None
        return parse_record(data, source=str(file))

    # Runs under way

    def active_folder(self, run: RunId) -> Path:
        """Where a run under way lies."""
        return self.state / "active" / run

    def begin(self, run: RunId) -> Path:
        """Make the folder of a run, with its owner noted before anything else."""
        folder = self.active_folder(run)
        aside = self.state / "active" / f".{run}"
        aside.mkdir(parents=True)
        (aside / "owner.json").write_text(json.dumps(load_owner().to_json()), encoding="utf-8")
        (self.state / ".gitignore").write_text("*\n", encoding="utf-8")
        aside.rename(folder)
        return folder

    def finish(self, record: Record) -> Path:
        """Write a run's record folder and make it appear whole.

        Objects of its outputs and code must be in the store. What is there is flushed to disk before the rename.

        Returns:
            The finished run's folder.
        """
        active = self.active_folder(record.run)
        folder = active / "record"
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        sums: dict[str, str] = {}
        for name in STREAMS:
            shutil.copyfile(active / name, folder / name) if (active / name).exists() else (folder / name).touch()
            sums[name] = str(record.streams[name]["sha256"])
        for output in record.outputs:
            self._link(output.sha256, folder / "outputs" / output.path)
            sums[f"outputs/{output.path}"] = output.sha256
        for row in record.draft["code"]["files"]:
            if "link" not in row:
                self._link(row["sha256"], folder / "code" / row["path"])
                sums[f"code/{row['path']}"] = row["sha256"]
        data = render_record(record)
        (folder / "record.json").write_bytes(data)
        sums["record.json"] = digest_bytes(data)
        (folder / "SHA256SUMS").write_text(render_sums(sums), encoding="utf-8", errors="surrogateescape")
        _flush(entry for entry in folder.rglob("*") if entry.is_file() and not entry.is_symlink())
        final = self.run_folder(record.run)
        final.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(final)
        _flush_folder(final.parent)
        self.discard(record.run)
        return final

    def discard(self, run: RunId) -> None:
        """Remove the folder of a run under way."""
        shutil.rmtree(self.active_folder(run), ignore_errors=True)

    def list_active(self) -> list[tuple[RunId, Owner | None]]:
        """Runs under way or left behind, each with its owner (None where that note is unreadable)."""
        folder = self.state / "active"
        if not folder.is_dir():
            return []
        found: list[tuple[RunId, Owner | None]] = []
        for entry in sorted(folder.iterdir()):
            try:
                value = json.loads((entry / "owner.json").read_bytes())
                owner: Owner | None = Owner(
                    host=value["host"], boot=value["boot"], pid=value["pid"], started_ticks=value["started_ticks"]
                )
            except (OSError, ValueError, KeyError, TypeError):
                owner = None
            found.append((RunId(entry.name), owner))
        return found

    def _link(self, sha256: str, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        source = self.object_path(sha256)
        try:
            os.link(source, place)
        except OSError:
            # A file system without hard links, or one whose count is full: a copy is as good.
            shutil.copyfile(source, place)

    # What lies in the project folder

    def _placed_path(self, path: str) -> Path:
        return self.state / "placed" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"

    def note_placed(self, path: str, *, sha256: str, run: RunId, script: str, file: Path) -> None:
        """Note that a run put a file into the project folder."""
        note = self._placed_path(path)
        note.parent.mkdir(parents=True, exist_ok=True)
        found = file.stat()
        value = {
            "path": path, "sha256": sha256, "run": run, "script": script,
            "size_bytes": found.st_size, "mtime_ns": found.st_mtime_ns, "inode": found.st_ino,
        }  # fmt: skip
        aside = note.with_name(f".{secrets.token_hex(6)}")
        aside.write_text(json.dumps(value), encoding="utf-8")
        aside.replace(note)

    def find_placed(self, path: str, file: Path) -> dict[str, Any] | None:
        """Find which run put a file there, if it is still what that run put there."""
        try:
            value = json.loads(self._placed_path(path).read_bytes())
            found = file.stat()
        except (OSError, ValueError):
            return None
        if found.st_size != value["size_bytes"]:
            return None
        if (found.st_mtime_ns, found.st_ino) != (value["mtime_ns"], value["inode"]) and digest_file(
            file
        ).sha256 != value["sha256"]:
            return None
        return dict(value)


def _flush(files: Iterable[Path] | Iterator[Path]) -> None:
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
