"""Signed envelopes: DSSE 1.0 in JSON. Pure.

The signature covers the payload's bytes and its type, not their spelling in JSON or base64, so nothing has to be parsed
before it was verified.

Source: DSSE 1.0.2, protocol.md and envelope.md of https://github.com/secure-systems-lab/dsse.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Final

from reprobox.errors import RecordError
from reprobox.records.digests import canonical_json
from reprobox.records.signing_keys import PrivateKey, PublicKey, find_public_key

PUBLIC_KEY: Final = "reprobox_publicKey"
"""A field that DSSE does not know and tells readers to ignore: the signer's public key, DER in base64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One signature of an envelope.

    Attributes:
        keyid: A hint at the key, which nothing vouches for; may be empty.
        sig: The signature.
        public_key: The key that the signer says it is from, in DER, or None. It shows whether the envelope is whole; it
            does not show whose it is.
    """

    keyid: str
    sig: bytes
    public_key: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A signed payload.

    Attributes:
        payload: The bytes that were signed.
        payload_type: What they are, signed with them.
        signatures: At least one.
    """

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]

    @property
    def message(self) -> bytes:
        """What signatures are made over."""
        return encode_message(self.payload_type, self.payload)


def encode_message(payload_type: str, payload: bytes) -> bytes:
    """Join type and payload so that no other pair gives the same bytes: DSSE's pre-authentication encoding."""
    name = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def sign_envelope(payload: bytes, payload_type: str, key: PrivateKey) -> Envelope:
    """Sign a payload; the envelope carries the public key along."""
    return Envelope(
        payload=payload,
        payload_type=payload_type,
        signatures=(
            Signature(
                keyid=key.public.keyid,
                sig=key.sign(encode_message(payload_type, payload)),
                public_key=key.public.der,
            ),
        ),
    )


def find_signers(envelope: Envelope, keys: tuple[PublicKey, ...]) -> tuple[PublicKey, ...]:
    """Find which of some keys signed an envelope, each once, in the order given.

    Hints are not looked at: each key is tried on each signature.
    """
    message = envelope.message
    return tuple(
        key for key in dict.fromkeys(keys) if any(key.has_signed(message, one.sig) for one in envelope.signatures)
    )


def require_whole(envelope: Envelope) -> PublicKey:
    """Require that an envelope's one signature is that of the key that it carries.

    That shows that nobody altered it without signing it again. Whether the key is one to trust is another question.

    Returns:
        That key.

    Raises:
        RecordError: It is not, or there is no such key, or the id is not the key's, or there are several signatures.
    """
    if len(envelope.signatures) != 1:
        raise RecordError(f"it has {len(envelope.signatures)} signatures, not one")
    signature = envelope.signatures[0]
    key = find_public_key(signature.public_key) if signature.public_key is not None else None
    if key is None:
        raise RecordError("it carries no public key that is known here")
    if key.keyid != signature.keyid:
        raise RecordError("its key id is not that of the public key that it carries")
    if not key.has_signed(envelope.message, signature.sig):
        raise RecordError("its signature does not verify")
    return key


def render_envelope(envelope: Envelope) -> bytes:
    """Render an envelope as canonical JSON with a line feed at the end, base64 in the standard alphabet."""
    rows = []
    for signature in envelope.signatures:
        row = {"keyid": signature.keyid, "sig": _encode(signature.sig)}
        if signature.public_key is not None:
            row[PUBLIC_KEY] = _encode(signature.public_key)
        rows.append(row)
    value = {"payload": _encode(envelope.payload), "payloadType": envelope.payload_type, "signatures": rows}
    return canonical_json(value) + b"\n"


def parse_envelope(data: bytes) -> Envelope:
    """Parse an envelope in whatever spelling DSSE allows; verifies nothing.

    Raises:
        RecordError: It is none; a clause that follows the name of the file.
    """
    try:
        value = json.loads(data)
        rows = value["signatures"]
        envelope = Envelope(
            payload=_decode(value["payload"]),
            payload_type=_text(value["payloadType"]),
            signatures=tuple(_signature(row) for row in rows),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(f"it is no signed envelope ({type(error).__name__}: {error})") from None
    if not envelope.signatures:
        raise RecordError("it has no signature")
    return envelope


def _signature(row: dict[str, Any]) -> Signature:
    public_key = row.get(PUBLIC_KEY)
    return Signature(
        keyid=_text(row.get("keyid") or ""),
        sig=_decode(row["sig"]),
        public_key=None if public_key is None else _decode(public_key),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is none")
    value.encode("utf-8")
    return value


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decode(value: object) -> bytes:
    """Decode base64 in either alphabet, in its one spelling: padded, and with no bit that decoding would drop."""
    text = _text(value)
    alphabet = b"-_" if "-" in text or "_" in text else b"+/"
    try:
        data = base64.b64decode(text.encode("ascii"), altchars=alphabet, validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("a value is no base64") from None
    if base64.b64encode(data, altchars=alphabet).decode("ascii") != text:
        raise ValueError("a value is base64 in another spelling than its own")
    return data
