"""`reprobox attest`, and what `check` and `show` say of attestations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reprobox.cli.environment_commands import JsonOption
from reprobox.cli.run_commands import RunArgument
from reprobox.cli.session import Session, print_document, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reprobox.records.attestation import CheckedAttestations
    from reprobox.records.record import Record, RunId
    from reprobox.records.signing_keys import PrivateKey, PublicKey

_LIMIT_BYTES = 1 << 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("attest")(attest)


def attest(
    context: typer.Context,
    run: RunArgument = "latest",
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="Private key in PEM: ECDSA P-256 or Ed25519.")
    ] = None,
    passphrase_env: Annotated[
        str | None, typer.Option("--passphrase-env", metavar="NAME", help="Variable that holds the key's passphrase.")
    ] = None,
    model_signing: Annotated[
        Path | None,
        typer.Option("--model-signing", metavar="FILE", help="Also sign the outputs for the tool `model_signing`."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="PATH", help="For --model-signing: this output, or this folder of them."),
    ] = None,
    new_key: Annotated[
        Path | None,
        typer.Option("--new-key", metavar="FILE", help="Make a key and sign nothing; FILE.pub is what others need."),
    ] = None,
    key_type: Annotated[
        str,
        typer.Option(
            "--key-type",
            metavar="TYPE",
            help="Of a new key: ecdsa-p256 (default) or ed25519, which model_signing does not take.",
            show_default=False,
        ),
    ] = "ecdsa-p256",
    as_json: JsonOption = False,
) -> None:
    """Sign what a run is: what it was made from and what it made, or how an evaluation compared."""
    from reprobox.errors import UsageError

    session: Session = context.obj
    if new_key is not None:
        if key is not None or model_signing is not None or model is not None or run != "latest":
            raise UsageError("--new-key makes a key and signs nothing", hint="leave the rest out, and sign afterwards")
        _make_key(session, session.cwd / new_key.expanduser(), key_type, passphrase_env, as_json=as_json)
        return
    if key is None:
        raise UsageError(
            "no key to sign with", hint="name one: --key FILE; or make one: reprobox attest --new-key FILE"
        )
    if model is not None and model_signing is None:
        raise UsageError("--model says what --model-signing signs", hint="name its file: --model-signing FILE")
    run_id = session.store.find_run(run)
    private = load_private_key(session, key, passphrase_env)
    _sign(session, run_id, private, key, model_signing, model, as_json=as_json)


def _sign(
    session: Session,
    run_id: RunId,
    key: PrivateKey,
    key_file: Path,
    model_signing: Path | None,
    model: str | None,
    *,
    as_json: bool,
) -> None:
    from reprobox.records.attestation import attest_run, attestations_folder
    from reprobox.records.check import require_intact
    from reprobox.records.statements import PREDICATE_NAMES

    record = session.store.load_record(run_id)
    _require_secret(session, record, key_file)
    require_intact(session.store, run_id, workers=session.workers, consequence="; nothing was signed")
    # What can fail for want of a right argument comes first: then nothing was signed either.
    signature = _render_model_signature(session, record, key, model_signing, model)
    found, new = attest_run(session.store, run_id, key)
    if signature is not None:
        _write_signature(*signature)
    file = attestations_folder(session.store, run_id) / found.file
    if as_json:
        print_document(
            {
                "run": run_id,
                "file": str(file),
                "predicate": found.predicate,
                "keyid": found.keyid,
                "algorithm": found.algorithm,
                "new": new,
                "model_signing": str(signature[0]) if signature else None,
            }
        )
        return
    what = PREDICATE_NAMES[found.predicate]
    say(f"{'attested' if new else 'attested already'}  run {run_id}: {what}, key {found.keyid[:16]}")
    say(f"  {file}")
    if signature is not None:
        place = session.store.run_folder(run_id) / "outputs" / (model or "")
        say(f"  model_signing verify key {place} --signature {signature[0]} --public_key KEY.pub")


def _require_secret(session: Session, record: Record, file: Path) -> None:
    """Require that a private key is not part of what it signs.

    Raises:
        UsageError: The run was handed the key: whoever has the record has it too.
    """
    from reprobox.errors import UsageError
    from reprobox.records.digests import digest_bytes

    sha256 = digest_bytes(_read_key(session, file))
    rows = [*record.draft["code"]["files"], *record.draft["inputs"], *(output.to_json() for output in record.outputs)]
    for row in rows:
        if row["sha256"] == sha256:
            raise UsageError(
                f"the key {file} is in the record of run {record.run}, as {row['path']}: whoever has that has the key",
                hint="make a new one outside of the project, run again, and forget this key",
            )


def _render_model_signature(
    session: Session, record: Record, key: PrivateKey, file: Path | None, model: str | None
) -> tuple[Path, bytes] | None:
    from reprobox.errors import UsageError
    from reprobox.records.model_signing import choose_files, is_model_signature, render_model_signature

    if file is None:
        return None
    target = session.cwd / file
    if target.exists() and not (target.is_file() and is_model_signature(target.read_bytes())):
        raise UsageError(f"{target} is there, and is no signature", hint="name another file")
    name = model.rstrip("/").rpartition("/")[2] if model else str(record.run)
    return target, render_model_signature(name, choose_files(record.outputs, model), key)


def _write_signature(target: Path, data: bytes) -> None:
    from reprobox.errors import UsageError

    aside = target.with_name(f".{target.name}.part")
    try:
        aside.write_bytes(data)
        aside.replace(target)
    except OSError as error:
        raise UsageError(
            f"{target} cannot be written: {error.strerror}", hint="name a file in a folder of yours"
        ) from None
    finally:
        aside.unlink(missing_ok=True)


# Keys -------------------------------------------------------------------------------------------------


def load_private_key(session: Session, file: Path, passphrase_env: str | None) -> PrivateKey:
    """Load the key to sign with; asks for its passphrase on a terminal where no variable holds it.

    Raises:
        UsageError: It cannot be read, or is none, or cannot be opened.
    """
    import sys

    from reprobox.records.signing_keys import PassphraseNeeded, parse_private_key

    pem = _read_key(session, file)
    passphrase = _passphrase(session, passphrase_env)
    try:
        return parse_private_key(pem, source=str(file), passphrase=passphrase)
    except PassphraseNeeded:
        if not sys.stdin.isatty():
            raise
        typed = typer.prompt(f"passphrase of {file}", hide_input=True, err=True)
        return parse_private_key(pem, source=str(file), passphrase=typed.encode())


def load_public_keys(session: Session, files: Sequence[Path]) -> tuple[PublicKey, ...]:
    """Load keys that somebody vouches for.

    Raises:
        UsageError: One cannot be read, or is none.
    """
    from reprobox.records.signing_keys import parse_public_key

    return tuple(parse_public_key(_read_key(session, file), source=str(file)) for file in files)


def _read_key(session: Session, file: Path) -> bytes:
    from reprobox.errors import UsageError

    path = session.cwd / file.expanduser()
    try:
        if not path.is_file():
            raise UsageError(f"no key {file}", hint="name a file in PEM, or make one: reprobox attest --new-key FILE")
        with path.open("rb") as stream:
            return stream.read(_LIMIT_BYTES)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", hint="see who owns it: ls -l") from None


def _passphrase(session: Session, name: str | None) -> bytes | None:
    from reprobox.errors import UsageError

    if name is None:
        return None
    value = session.environ.get(name)
    if not value:
        raise UsageError(
            f"--passphrase-env {name}: it is not set here", hint=f"export {name}, without a value in the command line"
        )
    return value.encode("utf-8", "surrogateescape")


def _make_key(session: Session, path: Path, key_type: str, passphrase_env: str | None, *, as_json: bool) -> None:
    from reprobox.errors import UsageError
    from reprobox.records.signing_keys import ALGORITHMS, make_private_key

    algorithm = next((known for known in ALGORITHMS if known == key_type), None)
    if algorithm is None:
        raise UsageError(f"--key-type {key_type!r} is none", hint=f"one of {', '.join(ALGORITHMS)}")
    _require_outside(session, path)
    public_path = path.with_name(f"{path.name}.pub")
    key = make_private_key(algorithm)
    private_pem = key.render_pem(_passphrase(session, passphrase_env))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The public one first: with it alone nothing is lost, while a private key without one is half a key.
        _write_new(public_path, key.public.pem.encode("ascii"), mode=0o644)
        try:
            _write_new(path, private_pem, mode=0o600)
        except OSError:
            public_path.unlink(missing_ok=True)
            raise
    except FileExistsError as error:
        raise UsageError(
            f"{error.filename} is there, and keys are never overwritten", hint="name another file"
        ) from None
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}", hint="name a place in a folder of yours"
        ) from None
    if as_json:
        print_document(
            {
                "private_key": str(path),
                "public_key": str(public_path),
                "keyid": key.public.keyid,
                "algorithm": algorithm,
                "encrypted": passphrase_env is not None,
            }
        )
        return
    say(f"wrote {path}: keep it to yourself{'' if passphrase_env else '; it has no passphrase'}")
    say(f"wrote {public_path}: give it to whoever shall check what you sign")
    say(f"  key {key.public.keyid}")


def _write_new(path: Path, data: bytes, *, mode: int) -> None:
    import os

    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        # Whatever the umask is.
        os.fchmod(stream.fileno(), mode)
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _require_outside(session: Session, path: Path) -> None:
    """Require that a private key lies outside of the project, all of which is handed to runs and recorded.

    Raises:
        UsageError: It would lie inside.
    """
    from reprobox.errors import UsageError

    root = session.project.root
    marks = ("reprobox.toml", ".reprobox", "reprobox.lock", "environment.yml", "environment.yaml")
    if any((root / mark).exists() for mark in marks) and path.resolve().is_relative_to(root):
        raise UsageError(
            f"{path} lies in the project: every run would get the key, and record it",
            hint="name a place outside: reprobox attest --new-key ~/.config/reprobox/signing.pem",
        )


# What others say of attestations ----------------------------------------------------------------------


def check_signed(
    session: Session, run_id: RunId, key_files: Sequence[Path]
) -> tuple[CheckedAttestations, list[tuple[str, str]]]:
    """Check a run's attestations by the keys that were given, and those of reprobox.toml.

    Args:
        session: The call.
        run_id: The run.
        key_files: Public keys, each of which must have signed.

    Returns:
        What was found, and every problem: path in `.reprobox` and what is wrong.

    Raises:
        UsageError: A key cannot be read, or is none.
        RecordError: The record is unreadable or altered.
    """
    from reprobox.records.attestation import FOLDER, check_attestations

    demanded = load_public_keys(session, key_files)
    trusted = load_public_keys(session, [session.project.root / name for name in session.project.trusted_keys])
    found = check_attestations(session.store, run_id, (*demanded, *trusted))
    problems = list(found.problems)
    for file, key in zip(key_files, demanded, strict=True):
        if found.find_by(key) is None:
            problems.append((f"{FOLDER}/{run_id}", f"holds none by key {key.keyid[:16]} ({file})"))
    if trusted and found.attestations and not any(found.find_by(key) for key in trusted):
        problems.append((f"{FOLDER}/{run_id}", "holds none by a key of [trust] in reprobox.toml"))
    return found, problems


def render_failure(
    run_id: RunId, altered: Sequence[tuple[str, str]], unsigned: Sequence[tuple[str, str]]
) -> tuple[str, str]:
    """Say what `check` found wrong: with a run's own files, with what attests it, or both; gives message and hint."""
    listed = "".join(f"\n  {path}: {problem}" for path, problem in (*altered, *unsigned))
    if altered:
        return f"run {run_id} is not what was recorded:{listed}", "restore these files from a copy of the run"
    return (
        f"run {run_id} is what was recorded, but is not attested as it should be:{listed}",
        "restore an attestation from a copy, or move it away; a missing one is made by: reprobox attest RUN --key KEY",
    )


def render_signed(found: CheckedAttestations, *, keys_given: bool) -> list[str]:
    """Render what `check` says of attestations that hold."""
    from reprobox.records.statements import PREDICATE_NAMES

    lines = []
    for one in found.attestations:
        what = f"{PREDICATE_NAMES[one.predicate]} by key {one.keyid[:16]}"
        if one.signature == "verified":
            lines.append(f"attested  {what}: signature verified")
        else:
            why = "it is by none of the keys given" if keys_given else "no key given"
            lines.append(f"attested  {what}: signature not checked: {why}; its content is as recorded")
    return lines


def describe_signed(found: CheckedAttestations) -> list[dict[str, Any]]:
    """Describe attestations that hold for `--json`."""
    return [
        {"file": one.file, "predicate": one.predicate, "keyid": one.keyid, "signature": one.signature}
        for one in found.attestations
    ]


def list_signed(session: Session, run_id: RunId) -> list[str]:
    """Say in a line each what attests a run, for `show`; hashes nothing but the record."""
    from reprobox.records.attestation import check_attestations
    from reprobox.records.statements import PREDICATE_NAMES

    found = check_attestations(session.store, run_id)
    lines = [f"  attested  {PREDICATE_NAMES[one.predicate]} by key {one.keyid[:16]}" for one in found.attestations]
    return [*lines, *(f"  attested  {path} does not hold: {problem}" for path, problem in found.problems)]
