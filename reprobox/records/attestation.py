"""Attestations of runs: signed statements beside the runs, which never change.

    .reprobox/attestations/<run>/<predicate>.<first 8 digits of the key id>.json

Each is a DSSE envelope in canonical form, so that a file has one spelling and an altered bit is noticed even where no
key is given: the envelope carries the public key. Whether that is one to trust, only a key from elsewhere says.
Format: docs/formats/attestation-v1.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from reprobox.errors import ArtefactAltered, RecordError, UsageError
from reprobox.records.digests import Sha256, canonical_json, digest_bytes
from reprobox.records.dsse import find_signers, parse_envelope, render_envelope, require_whole, sign_envelope
from reprobox.records.record import Record, RunId
from reprobox.records.signing_keys import Algorithm, PrivateKey, PublicKey
from reprobox.records.statements import (
    PAYLOAD_TYPE,
    PREDICATE_NAMES,
    find_claim_problem,
    predicate_of,
    render_statement,
    require_attestable,
)
from reprobox.records.store import RunStore

FOLDER: Final = "attestations"
NAME: Final = re.compile(r"[a-z][a-z-]*\.[0-9a-f]{8}\.json")
_LIMIT_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """An attestation that was checked, and holds.

    Attributes:
        file: Its name in the run's folder of attestations.
        predicate: Type of its predicate, a URI.
        keyid: Of the key that signed it.
        algorithm: Kind of that key.
        signature: "verified" by a key that was given; "unchecked" where it is whole, and by a key that was not.
    """

    file: str
    predicate: str
    keyid: str
    algorithm: Algorithm
    signature: Literal["verified", "unchecked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedAttestations:
    """What was found of a run's attestations.

    Attributes:
        attestations: Those that hold, by file.
        problems: Pairs of path in `.reprobox` and problem, by path, of all that is there and does not hold.
    """

    attestations: tuple[Attestation, ...]
    problems: tuple[tuple[str, str], ...]

    def find_by(self, key: PublicKey) -> Attestation | None:
        """Find an attestation that a key verified."""
        signed = (one for one in self.attestations if one.signature == "verified" and one.keyid == key.keyid)
        return next(signed, None)


def name_of(predicate: str, keyid: str) -> str:
    """Name of an attestation's file, as in-toto wants it: of the predicate, and of the key in short."""
    return f"{PREDICATE_NAMES[predicate]}.{keyid[:8]}.json"


def render_attestation(record: Record, sha256: Sha256, key: PrivateKey) -> bytes:
    """Render what is kept: a signed statement of a run.

    Args:
        record: The run.
        sha256: Of the bytes of its `record.json`.
        key: Signs it.
    """
    return render_envelope(sign_envelope(canonical_json(render_statement(record, sha256)), PAYLOAD_TYPE, key))


def parse_attestation(
    data: bytes, *, file: str, record: Record, sha256: Sha256, keys: Sequence[PublicKey]
) -> Attestation:
    """Check that an attestation is whole, about exactly this record, and states nothing else than it.

    Args:
        data: The file's content.
        file: Its name.
        record: The run that it should be about.
        sha256: Of the bytes of its `record.json`.
        keys: Keys that somebody vouches for.

    Raises:
        RecordError: It does not hold; a clause that follows the name of the file.
    """
    envelope = parse_envelope(data)
    signer = require_whole(envelope)
    if render_envelope(envelope) != data:
        raise RecordError("it is not in canonical form")
    if envelope.payload_type != PAYLOAD_TYPE:
        raise RecordError(f"its payload is of type {envelope.payload_type!r}, not {PAYLOAD_TYPE}")
    try:
        claimed = json.loads(envelope.payload)
        canonical = canonical_json(claimed) == envelope.payload
    except (ValueError, RecursionError) as error:
        raise RecordError(f"it holds no statement ({error})") from None
    if not canonical:
        raise RecordError("its statement is not in canonical form")
    problem = find_claim_problem(claimed, record, sha256)
    if problem:
        raise RecordError(problem)
    predicate = predicate_of(record)
    if file != name_of(predicate, signer.keyid):
        raise RecordError(f"it should be called {name_of(predicate, signer.keyid)}")
    verified = bool(find_signers(envelope, tuple(keys)))
    return Attestation(
        file=file,
        predicate=predicate,
        keyid=signer.keyid,
        algorithm=signer.algorithm,
        signature="verified" if verified else "unchecked",
    )


# On disk ----------------------------------------------------------------------------------------------


def attestations_folder(store: RunStore, run: RunId) -> Path:
    """Where a run's attestations lie, or would."""
    return store.state / FOLDER / run


def list_attestations(store: RunStore, run: RunId) -> list[Path]:
    """List all that lies in a run's folder of attestations, by name, without what is being written."""
    folder = attestations_folder(store, run)
    if not os.path.lexists(folder):
        return []
    if not folder.is_dir():
        return [folder]
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def check_attestations(store: RunStore, run: RunId, keys: Sequence[PublicKey] = ()) -> CheckedAttestations:
    """Check every attestation of a run; hashes nothing but its record.

    Args:
        store: Where.
        run: The run.
        keys: Keys that somebody vouches for.

    Raises:
        RecordError: The record itself is unreadable or altered.
    """
    record = store.load_record(run)
    sha256 = digest_bytes((store.run_folder(run) / "record.json").read_bytes())
    found: list[Attestation] = []
    problems: list[tuple[str, str]] = []
    for path in list_attestations(store, run):
        try:
            data = _read(path)
            found.append(parse_attestation(data, file=path.name, record=record, sha256=sha256, keys=keys))
        except RecordError as error:
            problems.append((path.relative_to(store.state).as_posix(), error.message))
    return CheckedAttestations(attestations=tuple(found), problems=tuple(problems))


def attest_run(store: RunStore, run: RunId, key: PrivateKey) -> tuple[Attestation, bool]:
    """Sign a statement of a run and keep it. All of the run must have been checked before.

    Args:
        store: Where.
        run: The run.
        key: Signs it.

    Returns:
        The attestation, and whether it is new: where there is one by this key already, that stays.

    Raises:
        ArtefactAltered: What is there by this name does not hold; it is left as it is.
        UsageError: It cannot be written.
        RecordError: Nothing true can be stated of the run, or its record is unreadable.
    """
    record = store.load_record(run)
    require_attestable(record)
    sha256 = digest_bytes((store.run_folder(run) / "record.json").read_bytes())
    path = attestations_folder(store, run) / name_of(predicate_of(record), key.public.keyid)
    new = not os.path.lexists(path)
    data = render_attestation(record, sha256, key) if new else b""
    if new:
        _write(path, data)
    try:
        found = parse_attestation(_read(path), file=path.name, record=record, sha256=sha256, keys=(key.public,))
    except RecordError as error:
        raise ArtefactAltered(f"{path} is there and does not hold: {error.message}", hint="move it away") from None
    if found.signature != "verified":
        raise ArtefactAltered(
            f"{path} is there, by another key whose id begins alike", hint="move it away, or sign with another key"
        )
    return found, new


def take_attestations(source: RunStore, run: RunId, target: RunStore) -> tuple[str, ...]:
    """Take a run's attestations, which were checked, from one store into another; what is there already stays.

    Returns:
        Names of those that were not there.
    """
    new = []
    for path in list_attestations(source, run):
        place = attestations_folder(target, run) / path.name
        if not os.path.lexists(place):
            _write(place, _read(path))
            new.append(path.name)
    return tuple(new)


def _read(path: Path) -> bytes:
    try:
        # Before it is opened: a FIFO would block.
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise RecordError("it is no plain file")
        if found.st_size > _LIMIT_BYTES:
            raise RecordError(f"it has {found.st_size} bytes; no attestation is that big")
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"it cannot be read: {error.strerror}") from None


def _write(path: Path, data: bytes) -> None:
    """Write a file so that it appears whole."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            os.fchmod(stream.fileno(), 0o444)
        aside.replace(path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}", hint="see who owns the folder: ls -ld"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
