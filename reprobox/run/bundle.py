"""A run in one file: its record, code and outputs, and if wanted its inputs and image, to be checked anywhere.

A bundle is a plain tar, byte for byte the same for the same runs. `SHA256SUMS` comes first and covers all else, so it
can be checked while it is read, by us or with `sha256sum -c` after unpacking. Format: docs/formats/bundle-v1.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from reprobox.errors import ArtefactAltered, RecordError, UsageError
from reprobox.image.cache import Cache
from reprobox.image.layers import DiffId, LayerWriter
from reprobox.image.oci import LABEL_LOCK, Image, describe_image, render_layout
from reprobox.image.tar_stream import stream_members
from reprobox.records.attestation import FOLDER as ATTESTATIONS
from reprobox.records.attestation import NAME as ATTESTATION_NAME
from reprobox.records.attestation import check_attestations, list_attestations, take_attestations
from reprobox.records.check import check_run, require_intact
from reprobox.records.digests import digest_bytes, digest_file, is_digest, is_plain_path
from reprobox.records.record import Record, RunId, parse_sums, render_sums
from reprobox.records.store import RunStore
from reprobox.run.snapshot import SKIPPED_NAMES

SCHEMA = "reprobox-bundle/1"
SUMS = "SHA256SUMS"
_PIECE = 1 << 20
_SMALL = 64 << 20
_ALLOWED = re.compile(
    r"bundle\.json|ro-crate-metadata\.json|objects/[0-9a-f]{64}|runs/[0-9A-Za-z-]+/.+"
    rf"|{ATTESTATIONS}/[0-9A-Za-z-]+/{ATTESTATION_NAME.pattern}"
    r"|image/(?:oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})",
    re.DOTALL,  # names of files may hold any character
)

Advance = Callable[[int], None]
Crate = Callable[[list[Record], Mapping[str, tuple[str, int]]], bytes]
"""Renders the description of a bundle: runs, and path → sha256 and size of every file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file of a bundle.

    Attributes:
        sha256: Of its bytes, in hex.
        size_bytes: Their number.
        content: They themselves, or where they lie.
    """

    sha256: str
    size_bytes: int
    content: bytes | Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What importing a bundle brought.

    Attributes:
        runs: Runs in the bundle, oldest first.
        new: Those that were not here.
        image: Whether it held an image, which is in the cache now.
        inputs: Input path → object, of the last run, as far as the bundle holds them.
    """

    runs: tuple[RunId, ...]
    new: tuple[RunId, ...]
    image: Image | None
    inputs: dict[str, Path]


def list_chain(store: RunStore, run: RunId) -> list[Record]:
    """List a run and those that it evaluates, oldest first.

    Raises:
        ArtefactAltered: Something of one of them is not as it was recorded.
    """
    records: list[Record] = []
    wanted: RunId | None = run
    while wanted is not None and wanted not in {record.run for record in records}:
        record = store.load_record(wanted)
        require_intact(store, wanted)
        _require_attestations(store, wanted, hint=f"see reprobox check {wanted}")
        store.require_object(record.draft["environment"]["lock_sha256"], name=f"{wanted}: its lock")
        records.insert(0, record)
        of = record.draft.get("of")
        wanted = RunId(of) if of else None
    return records


def _require_attestations(store: RunStore, run: RunId, *, hint: str) -> None:
    """Require that what attests a run holds. Who signed it is asked by `check`, with a key from elsewhere.

    Raises:
        ArtefactAltered: One does not hold.
    """
    for path, problem in check_attestations(store, run).problems[:1]:
        raise ArtefactAltered(f"{path}: {problem}", hint=hint)


def plan_bundle(
    store: RunStore,
    records: list[Record],
    *,
    image: tuple[Image, Mapping[DiffId, Path]] | None,
    inputs: Mapping[str, Path],
    crate: Crate,
) -> dict[str, Member]:
    """Plan the files of a bundle.

    Args:
        store: Where the runs are.
        records: The runs, oldest first; checked.
        image: The image of the last of them, and where its layers lie; None to leave it out.
        inputs: sha256 → file, of the inputs that go with it.
        crate: Renders its description.

    Returns:
        Path in the bundle → file, sorted; `SHA256SUMS` is not among them.

    Raises:
        ArtefactAltered: An input is not what was recorded.
    """
    members: dict[str, Member] = {}
    for record in records:
        folder = store.run_folder(record.run)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            members[f"runs/{record.run}/{file.relative_to(folder).as_posix()}"] = _measure(file)
        for file in list_attestations(store, record.run):
            members[f"{ATTESTATIONS}/{record.run}/{file.name}"] = _measure(file)
        lock = record.draft["environment"]["lock_sha256"]
        members[f"objects/{lock}"] = _measure(store.object_path(lock))
    for sha256, file in inputs.items():
        member = _measure(file)
        if member.sha256 != sha256:
            raise ArtefactAltered(
                f"the input {file} is not what it was when the run began",
                hint="restore it, or leave inputs out: --no-inputs",
            )
        members[f"objects/{sha256}"] = member
    if image is not None:
        described, blobs = image
        for path, data in render_layout(described).items():
            _add(members, f"image/{path}", data)
        for diff_id, size in zip(described.diff_ids, described.sizes_bytes, strict=True):
            sha256 = diff_id.removeprefix("sha256:")
            members[f"image/blobs/sha256/{sha256}"] = Member(sha256=sha256, size_bytes=size, content=blobs[diff_id])
    about = {
        "schema": SCHEMA,
        "runs": [record.run for record in records],
        "inputs": sorted({row["sha256"] for row in records[-1].draft["inputs"]} & set(inputs)),
        "image": None
        if image is None
        else {"lock_digest": image[0].lock_digest, "manifest_digest": image[0].manifest_digest},
    }
    _add(members, "bundle.json", json.dumps(about, indent=1, sort_keys=True).encode() + b"\n")
    described_files = {path: (member.sha256, member.size_bytes) for path, member in sorted(members.items())}
    _add(members, "ro-crate-metadata.json", crate(records, described_files))
    return dict(sorted(members.items()))


def _add(members: dict[str, Member], path: str, data: bytes) -> None:
    members[path] = Member(sha256=digest_bytes(data), size_bytes=len(data), content=data)


def _measure(file: Path) -> Member:
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return Member(sha256=sha256, size_bytes=stream.tell(), content=file)


def write_bundle(members: Mapping[str, Member], target: Path, *, advance: Advance) -> int:
    """Write a bundle, whole or not at all; gives its size in bytes.

    Raises:
        ArtefactAltered: A file changed while it was read.
        UsageError: It cannot be written there.
    """
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    sums = render_sums({path: member.sha256 for path, member in members.items()}).encode("utf-8", "surrogateescape")
    try:
        with aside.open("wb") as stream:
            writer = LayerWriter(stream)
            writer.add_file(SUMS, sums, size=len(sums))
            for path, member in members.items():
                if isinstance(member.content, bytes):
                    writer.add_file(path, member.content, size=member.size_bytes)
                else:
                    with member.content.open("rb") as source:
                        reader = _Checked(source, advance)
                        writer.add_file(path, cast("IO[bytes]", reader), size=member.size_bytes)  # type: ignore[arg-type]
                    if reader.digest.hexdigest() != member.sha256:
                        raise ArtefactAltered(f"{path} changed while it was read", hint="try again")
            size = writer.finish().size_bytes
        aside.replace(target)
        return size
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error}", hint="name a file on a disk with space") from None
    finally:
        aside.unlink(missing_ok=True)


class _Checked:
    """A file that is hashed while it is read."""

    def __init__(self, stream: IO[bytes], advance: Advance) -> None:
        self._stream = stream
        self._advance = advance
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes."""
        data = self._stream.read(size)
        self.digest.update(data)
        self._advance(len(data))
        return data


# Import ------------------------------------------------------------------------------------------------


def import_bundle(file: Path, store: RunStore, cache: Cache, *, advance: Advance) -> Imported:
    """Read a bundle that somebody else may have made, check all of it, and only then take it in.

    Args:
        file: The bundle.
        store: Where runs go.
        cache: Where the image goes.
        advance: Told the number of bytes as they are read.

    Raises:
        RecordError: It is no bundle, or a run of that id is here with another record.
        ArtefactAltered: Something in it is not what it says.
    """
    aside = store.state / f".import-{secrets.token_hex(6)}"
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{store.state} cannot be written: {error}", hint="import it in a folder of yours") from None
    try:
        try:
            with file.open("rb") as stream:
                _unpack(stream, file.name, aside, advance)
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise RecordError(f"{file.name} is no bundle: {error}", hint="export it again") from None
        except OSError as error:
            raise RecordError(
                f"{file} cannot be read: {error}", hint="check the path, and that there is space"
            ) from None
        about, records = _check(aside, file.name)
        for record in records:
            _require_same(aside, record, store)
        image = _take_image(aside, about, records[-1], cache, file.name)
        new = tuple(record.run for record in records if _take_run(aside, record, store))
        for run in (record.run for record in records):
            take_attestations(RunStore(aside), run, store)
        inputs = {
            row["path"]: store.object_path(row["sha256"])
            for row in records[-1].draft["inputs"]
            if store.object_path(row["sha256"]).exists()
        }
        return Imported(runs=tuple(record.run for record in records), new=new, image=image, inputs=inputs)
    except OSError as error:
        raise UsageError(f"{file} cannot be taken in: {error}", hint="check that there is space; try again") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _unpack(stream: IO[bytes], name: str, aside: Path, advance: Advance) -> None:
    """Unpack a bundle's members as files, each checked against the sums that come first."""
    sums: dict[str, str] | None = None
    seen: set[str] = set()
    for tar, member in stream_members(stream):
        if member.isdir():
            continue
        content = tar.extractfile(member) if member.isreg() else None
        if content is None:
            raise ArtefactAltered(f"{name} holds {member.name!r}, which is no plain file", hint="do not trust it")
        if sums is None:
            if member.name != SUMS or member.size > _SMALL:
                raise RecordError(f"{name} is no bundle: it does not begin with {SUMS}", hint="export it again")
            sums = parse_sums(content.read().decode("utf-8", "surrogateescape"), source=f"{name}: {SUMS}")
            continue
        path = member.name
        if path not in sums or path in seen or not _is_place(path):
            raise ArtefactAltered(f"{name} holds {path!r}, which has no place in it", hint="do not trust it")
        seen.add(path)
        target = aside / path
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with target.open("xb") as writer:
            while chunk := content.read(_PIECE):
                digest.update(chunk)
                writer.write(chunk)
                advance(len(chunk))
        blob = re.fullmatch(r"(?:objects|image/blobs/sha256)/([0-9a-f]{64})", path)
        if digest.hexdigest() != sums[path] or (blob and blob[1] != sums[path]):
            raise ArtefactAltered(f"{name}: {path} does not hash to what {SUMS} says", hint="fetch it again")
    missing = sorted(set(sums or {"": ""}) - seen)
    if missing:
        raise ArtefactAltered(f"{name} is cut: {missing[0] or SUMS} is not in it", hint="fetch it again")


def _is_place(path: str) -> bool:
    return bool(_ALLOWED.fullmatch(path)) and is_plain_path(path)


def _check(aside: Path, name: str) -> tuple[dict[str, Any], list[Record]]:
    """Check an unpacked bundle's runs as those of a store, with their objects made from what it holds."""
    try:
        about = json.loads((aside / "bundle.json").read_bytes())
        runs = [RunId(str(run)) for run in about["runs"]]
        if about["schema"] != SCHEMA or not runs:
            raise RecordError(f"{name}: its schema is not known here", hint="upgrade reprobox")
        if len(set(runs)) != len(runs):
            raise RecordError(f"{name}: it names a run twice", hint="do not trust it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{name} is no bundle: {error}", hint="export it again") from None
    inner = RunStore(aside)
    for file in sorted((aside / "objects").glob("*")) if (aside / "objects").is_dir() else []:
        place = inner.object_path(file.name)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.rename(place)
    records = []
    for run in runs:
        if not re.fullmatch(r"[0-9A-Za-z-]+", run):
            raise RecordError(f"{name}: {run!r} is no run's id", hint="do not trust it")
        record = inner.load_record(run)
        if record.run != run:
            raise ArtefactAltered(f"{name}: the record of {run} is that of {record.run}", hint="do not trust it")
        for path, sha256 in _files_of(record):
            source = inner.run_folder(run) / path
            if source.is_file():
                inner.keep_file(source, sha256)
        problems = check_run(inner, run)
        if problems:
            raise ArtefactAltered(f"{name}: run {run}: {problems[0][0]}: {problems[0][1]}", hint="fetch it again")
        _require_attestations(inner, run, hint="fetch it again, or do not trust it")
        inner.require_object(record.draft["environment"]["lock_sha256"], name=f"{name}: run {run}: its lock")
        records.append(record)
    attested = {folder.name for folder in (aside / ATTESTATIONS).glob("*")}
    if attested - set(runs):
        raise ArtefactAltered(
            f"{name}: it attests {min(attested - set(runs))}, which is not in it", hint="do not trust it"
        )
    return about, records


def _files_of(record: Record) -> Iterator[tuple[str, str]]:
    for output in record.outputs:
        yield f"outputs/{output.path}", output.sha256
    for row in record.draft["code"]["files"]:
        if "link" not in row:
            yield f"code/{row['path']}", row["sha256"]


def _take_image(aside: Path, about: dict[str, Any], record: Record, cache: Cache, name: str) -> Image | None:
    """Take a bundle's image into the cache, after checking that it is the one of the run."""
    from reprobox.run.prepare import take_foreign_image

    if about.get("image") is None:
        return None
    environment = record.draft["environment"]
    blobs = aside / "image/blobs/sha256"
    try:
        config = (blobs / environment["config_digest"].removeprefix("sha256:")).read_bytes()
        diff_ids = tuple(DiffId(str(diff_id)) for diff_id in json.loads(config)["rootfs"]["diff_ids"])
        if not all(map(is_digest, diff_ids)):
            raise ValueError("a layer's digest is none")
        paths = {diff_id: blobs / diff_id.removeprefix("sha256:") for diff_id in diff_ids}
        image = describe_image(
            json.loads(config)["config"]["Labels"][LABEL_LOCK],
            config,
            diff_ids,
            tuple(paths[diff_id].stat().st_size for diff_id in diff_ids),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactAltered(f"{name}: its image is not whole: {error}", hint="export it again") from None
    if (image.manifest_digest, image.lock_digest) != (record.manifest_digest, record.lock_digest):
        raise ArtefactAltered(f"{name}: its image is not the one that the run had", hint="do not trust it")
    for diff_id, path in paths.items():
        place = cache.blob_path(diff_id)
        if path.exists() and not cache.check_blob(diff_id):
            place.parent.mkdir(parents=True, exist_ok=True)
            with cache.aside() as folder:
                shutil.move(path, folder / "blob")
                (folder / "blob").replace(place)
    take_foreign_image(image, cache, f"the bundle {name}")
    return image


def _require_same(aside: Path, record: Record, store: RunStore) -> None:
    """Require that a run of that id is not here yet, or is the same.

    Raises:
        RecordError: It is another one.
    """
    final = store.run_folder(record.run) / "record.json"
    source = RunStore(aside).run_folder(record.run) / "record.json"
    if final.exists() and final.read_bytes() != source.read_bytes():
        raise RecordError(
            f"a run {record.run} is here already, and is another one", hint="import it into another folder"
        )


def _take_run(aside: Path, record: Record, store: RunStore) -> bool:
    """Take a run and what came with it into the store; False where the run is there already."""
    final = store.run_folder(record.run)
    source = RunStore(aside).run_folder(record.run)
    for file in sorted((aside / "objects/sha256").rglob("*")):
        place = store.state / file.relative_to(aside)
        if file.is_file() and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, place)
            except OSError:
                _copy_whole(file, place)
            place.chmod(0o444)
    if final.exists():
        return False
    (store.state / ".gitignore").write_text("*\n", encoding="utf-8")
    final.parent.mkdir(parents=True, exist_ok=True)
    source.rename(final)
    return True


def place_files(record: Record, store: RunStore, root: Path) -> tuple[list[str], list[str]]:
    """Put a run's code and inputs into a project's folder; nothing that is there is touched.

    Args:
        record: The run.
        store: Its store.
        root: The project's folder.

    Returns:
        Paths that were written, and paths that hold something else, or must not be written, and were left.
    """
    written: list[str] = []
    left: list[str] = []
    code = store.run_folder(record.run) / "code"
    rows = [(row["path"], code / row["path"], row) for row in record.draft["code"]["files"] if "link" not in row]
    rows += [(row["path"], store.object_path(row["sha256"]), row) for row in record.draft["inputs"]]
    for path, source, row in rows:
        target = root / path
        if not source.is_file() or path.startswith("/"):
            continue
        if not _may_be_written(path, root):
            left.append(path)
            continue
        if target.exists():
            if not target.is_file() or digest_file(target).sha256 != row["sha256"]:
                left.append(path)
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            left.append(path)
            continue
        _copy_whole(source, target, executable=bool(row.get("executable")))
        written.append(path)
    return written, left


def _may_be_written(path: str, root: Path) -> bool:
    """Whether a record may put a file there: inside, through no link, and where a project's own files are.

    No run has code below the folders of version control, of tools or of reprobox: a record that names one is forged, so
    that something else runs what it brings.
    """
    skipped = {name.casefold() for name in SKIPPED_NAMES}
    if not is_plain_path(path) or skipped & {part.casefold() for part in path.split("/")}:
        return False
    target = root / path
    return Path(os.path.realpath(target.parent)).is_relative_to(root.resolve()) and not target.is_symlink()


def _copy_whole(source: Path, target: Path, *, executable: bool = False) -> None:
    """Copy a file so that it appears whole."""
    aside = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        shutil.copyfile(source, aside)
        aside.chmod(0o755 if executable else 0o644)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
