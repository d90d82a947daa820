"""Signatures of models as the OpenSSF `model_signing` tool makes and verifies them, format 1.0. Pure.

The format is a manifest of files in an in-toto statement, in a DSSE envelope, in a Sigstore bundle. Its own tool is no
dependency: it brings the whole of Sigstore, which a signature by a key does not need.

Source: https://github.com/sigstore/model-transparency: model_signing 1.1, its predicate
`https://model_signing/signature/v1.0`; the bundle is https://github.com/sigstore/protobuf-specs, version 0.3.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from reprobox.errors import UsageError
from reprobox.records.digests import canonical_json
from reprobox.records.dsse import render_envelope, sign_envelope
from reprobox.records.record import Output
from reprobox.records.signing_keys import PrivateKey
from reprobox.records.statements import PAYLOAD_TYPE, STATEMENT_TYPE

PREDICATE: Final = "https://model_signing/signature/v1.0"
BUNDLE_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"

IGNORED: Final = (".git", ".gitattributes", ".github", ".gitignore")
"""Names at the top of a model that its tool does not look at unless told to."""


def choose_files(outputs: Iterable[Output], path: str | None) -> dict[str, str]:
    """Choose which outputs of a run are the model: all, those in a folder, or one file.

    Args:
        outputs: Of the run.
        path: A file or folder among them, or None for all.

    Returns:
        Path relative to the model → sha256; of a model that is one file, its path is ".".

    Raises:
        UsageError: There are none.
    """
    found = {output.path: output.sha256 for output in outputs}
    if path is None:
        chosen = found
    else:
        path = path.rstrip("/")
        inside = {name.removeprefix(f"{path}/"): sha for name, sha in found.items() if name.startswith(f"{path}/")}
        chosen = {".": found[path]} if path in found else inside
    chosen = {name: sha256 for name, sha256 in chosen.items() if name.split("/")[0] not in IGNORED}
    if not chosen:
        known = ", ".join(list(found)[:5]) or "none"
        what = "outputs" if path is None else f"output {path!r}"
        raise UsageError(f"the run has no {what} to sign as a model", hint=f"its outputs: {known}")
    return chosen


def render_manifest(name: str, files: Mapping[str, str]) -> dict[str, Any]:
    """Render the statement that is signed.

    Args:
        name: What the model is called; only informative.
        files: Path relative to the model → sha256.
    """
    rows = sorted(files.items(), key=lambda row: row[0].split("/"))
    root = hashlib.sha256(b"".join(bytes.fromhex(sha256) for _, sha256 in rows)).hexdigest()
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(IGNORED),
            },
            "resources": [{"name": path, "algorithm": "sha256", "digest": sha256} for path, sha256 in rows],
        },
    }


def render_model_signature(name: str, files: Mapping[str, str], key: PrivateKey) -> bytes:
    """Sign a model; gives the bytes of the signature's file.

    Args:
        name: What the model is called.
        files: Path relative to the model → sha256.
        key: Signs it; must be ECDSA P-256.

    Raises:
        UsageError: The key is of another kind, which the tool does not verify.
    """
    if key.public.algorithm != "ecdsa-p256":
        raise UsageError(
            f"model_signing verifies no {key.public.algorithm} keys",
            hint="sign with an ECDSA P-256 key: reprobox attest --new-key PATH --key-type ecdsa-p256",
        )
    envelope = json.loads(
        render_envelope(sign_envelope(canonical_json(render_manifest(name, files)), PAYLOAD_TYPE, key))
    )
    bundle = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {
            # The tool wants the sha256 of the key's PEM here, not of its DER.
            "publicKey": {"hint": hashlib.sha256(key.public.pem.encode("ascii")).hexdigest()},
            "tlogEntries": [],
        },
        "dsseEnvelope": {**envelope, "signatures": [{"sig": envelope["signatures"][0]["sig"], "keyid": ""}]},
    }
    return canonical_json(bundle) + b"\n"


def is_model_signature(data: bytes) -> bool:
    """Whether a file is a Sigstore bundle, and so may be replaced by a new one."""
    try:
        return str(json.loads(data)["mediaType"]).startswith("application/vnd.dev.sigstore.bundle")
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
