"""The signature of a model: what is signed. That its own tool verifies it is tested in tests/integration."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest

from reprobox.errors import UsageError
from reprobox.records.dsse import find_signers, parse_envelope
from reprobox.records.model_signing import choose_files, is_model_signature, render_model_signature
from reprobox.records.record import Output
from reprobox.records.signing_keys import make_private_key

KEY = make_private_key("ecdsa-p256")
FILES = {
    "model.keras": b"weights", "sub/b.npy": b"b", "sub-a/a.npy": b"a", "ü x.json": b"{}", "sub/deep/c.bin": b"", ".hidden": b"h",
}  # fmt: skip


def make_outputs(files: dict[str, bytes]) -> tuple[Output, ...]:
    return tuple(
        Output(path=path, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), format=None, content=None)
        for path, data in files.items()
    )


def test_what_is_signed() -> None:
    """A Sigstore bundle without a log, of a statement with each file's sha256, and their sha256 as its subject."""
    data = render_model_signature("run", choose_files(make_outputs(FILES), None), KEY)
    bundle = json.loads(data)
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert bundle["verificationMaterial"] == {
        "publicKey": {"hint": hashlib.sha256(KEY.public.pem.encode()).hexdigest()}, "tlogEntries": [],
    }  # fmt: skip
    envelope = parse_envelope(json.dumps(bundle["dsseEnvelope"]).encode())
    assert find_signers(envelope, (KEY.public,)) == (KEY.public,)
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    resources = statement["predicate"]["resources"]
    # By folder, not by text: "sub-a/…" comes after "sub/…" there, as the tool sorts.
    assert [row["name"] for row in resources] == [
        ".hidden", "model.keras", "sub/b.npy", "sub/deep/c.bin", "sub-a/a.npy", "ü x.json",
    ]  # fmt: skip
    assert {row["name"]: row["digest"] for row in resources} == {
        path: hashlib.sha256(content).hexdigest() for path, content in FILES.items()
    }
    root = hashlib.sha256(b"".join(bytes.fromhex(row["digest"]) for row in resources)).hexdigest()
    assert statement["subject"] == [{"name": "run", "digest": {"sha256": root}}]
    assert is_model_signature(data)
    assert not is_model_signature(b"\x93NUMPY")
    assert not is_model_signature(b"[]")


def test_what_is_the_model() -> None:
    """All outputs, a folder of them by paths below it, or one file, which is called "."; else a word of what there is."""
    outputs = make_outputs(FILES | {".gitignore": b"", "sub/.gitignore": b""})
    assert set(choose_files(outputs, None)) == {*FILES, "sub/.gitignore"}
    assert set(choose_files(outputs, "sub")) == {"b.npy", "deep/c.bin"}
    assert choose_files(outputs, "sub/") == choose_files(outputs, "sub")
    assert choose_files(outputs, "model.keras") == {".": hashlib.sha256(b"weights").hexdigest()}
    for path in ("su", "x", "model.keras/x"):
        with pytest.raises(UsageError, match=path):
            choose_files(outputs, path)
    with pytest.raises(UsageError, match="no outputs"):
        choose_files((), None)


def test_ed25519_is_refused() -> None:
    """The tool verifies elliptic keys of NIST alone; better said here than there."""
    with pytest.raises(UsageError, match="ed25519"):
        render_model_signature("run", choose_files(make_outputs(FILES), None), make_private_key("ed25519"))
