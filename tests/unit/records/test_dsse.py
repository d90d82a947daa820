"""Envelopes and keys: the published vectors, what is refused, and that nothing but the signed bytes is believed."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from reprobox.errors import RecordError, UsageError
from reprobox.records.dsse import (
    Envelope,
    Signature,
    encode_message,
    find_signers,
    parse_envelope,
    render_envelope,
    require_whole,
    sign_envelope,
)
from reprobox.records.signing_keys import (
    ALGORITHMS,
    Algorithm,
    PassphraseNeeded,
    PublicKey,
    find_public_key,
    make_private_key,
    parse_private_key,
    parse_public_key,
)

IN_TOTO = "application/vnd.in-toto+json"
STATEMENT = "eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEifQ=="
SIG_A = "2WAfaHm5jluo0w+0rk8uVkluELJYWjSmU9x7EUzx+AyteDGJ4/nqyJXfmAUVFIAoQafWm7AxBZNw5M9ixNHiCA=="
SIG_B = "c1+67/aT0yqEpwx8PsVY3MLHsj9D0CZ014/Fv/QlG59P+9CobUZ7xECJ/V3USG0Ob9CiE5LjReEZUzNF2l7eBw=="

# The keys of RFC 8032, section 7.1, and signatures of the test vectors that are published with DSSE.
KEY_A = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
KEY_B = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
VECTORS: list[tuple[str, str, str, list[dict[str, str]], int]] = [
    ("one signature", STATEMENT, IN_TOTO, [{"sig": SIG_A, "keyid": "A"}], 1),
    (
        "the other alphabet of base64", "-_-_Pj8=", IN_TOTO,
        [{"sig": "P-_KHICeR7tI6S_YyejJTRtrXhcQyQ2LYPaL8h90KjC9qN8HU_svOQ6TuDOT1HIrsGW886DbWNWcCmX5twLrAw==", "keyid": "A"}], 1,
    ),
    ("another type claimed", STATEMENT, "application/vnd.example.other+json", [{"sig": SIG_A, "keyid": "A"}], 0),
    (
        "a type that is not ASCII", STATEMENT, "application/vnd.exämple+json",
        [{"sig": "xmSk/ug66ysT7ayhkCIjhAq42zgZXSsEWuzUaNL7w2eGAdF/NU6/fRXPtmfN+5DNSAs5/i2lUnHjbbjPsu0tAw==", "keyid": "A"}], 1,
    ),
    (
        "an empty payload", "", IN_TOTO,
        [{"sig": "gSggCAaTLTYyRH6FIDBem6meyIynsYy8RTHVzwx9tnTb7Bg/1jMWnuVgI/gffqmbsC2VX5/jHfkkDqsj7CDbDg==", "keyid": "A"}], 1,
    ),
    ("two signers", STATEMENT, IN_TOTO, [{"sig": SIG_A, "keyid": "A"}, {"sig": SIG_B, "keyid": "B"}], 2),
    ("one signer twice", STATEMENT, IN_TOTO, [{"sig": SIG_A, "keyid": "A"}, {"sig": SIG_A, "keyid": "A"}], 1),
    ("no hints", STATEMENT, IN_TOTO, [{"sig": SIG_A}, {"sig": SIG_B}], 2),
    ("hints that lie", STATEMENT, IN_TOTO, [{"sig": SIG_A, "keyid": "B"}, {"sig": SIG_B, "keyid": "A"}], 2),
]  # fmt: skip


def raw_key(hex_digits: str) -> PublicKey:
    key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(hex_digits))
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(algorithm="ed25519", der=der)


def test_the_published_encoding() -> None:
    """The example of the protocol's specification, byte for byte; lengths are of bytes, not of characters."""
    assert (
        encode_message("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert encode_message("ä", b"") == b"DSSEv1 2 \xc3\xa4 0 "


def test_the_published_signature_by_a_p256_key() -> None:
    """The specification's ECDSA example verifies, its signature (r and s side by side there) spelled in DER."""
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    numbers = ec.EllipticCurvePublicNumbers(
        46950820868899156662930047687818585632848591499744589407958293238635476079160,
        5640078356564379163099075877009565129882514886557779369047442380624545832820,
        ec.SECP256R1(),
    )
    pem = numbers.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    raw = base64.b64decode("A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==")
    sig = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    key = parse_public_key(pem, source="k")
    envelope = Envelope(
        payload=b"hello world",
        payload_type="http://example.com/HelloWorld",
        signatures=(Signature(keyid="", sig=sig),),
    )
    assert find_signers(envelope, (key,)) == (key,)


@pytest.mark.parametrize(
    ("payload", "payload_type", "signatures", "signers"), [v[1:] for v in VECTORS], ids=[v[0] for v in VECTORS]
)
def test_the_published_vectors(payload: str, payload_type: str, signatures: list[dict[str, str]], signers: int) -> None:
    """As many different keys are found to have signed as the vectors say; hints decide nothing."""
    data = json.dumps({"payload": payload, "payloadType": payload_type, "signatures": signatures, "more": 1})
    found = find_signers(parse_envelope(data.encode()), (raw_key(KEY_A), raw_key(KEY_B), raw_key(KEY_A)))
    assert len(found) == signers


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_envelope_is_read_as_it_was_written(algorithm: Algorithm) -> None:
    """Parsing what was rendered is the identity, and the envelope is whole by the key that it carries."""
    key = make_private_key(algorithm)
    envelope = sign_envelope(b"\x00payload\xff", IN_TOTO, key)
    assert parse_envelope(render_envelope(envelope)) == envelope
    assert require_whole(envelope) == key.public
    assert find_signers(envelope, (make_private_key(algorithm).public,)) == ()


@settings(max_examples=40)
@given(st.binary(max_size=40), st.binary(max_size=40), st.text(max_size=10), st.text(max_size=10))
def test_no_two_pairs_are_encoded_alike(one: bytes, other: bytes, first: str, second: str) -> None:
    """Type and payload cannot be cut in another place."""
    if (first, one) != (second, other):
        assert encode_message(first, one) != encode_message(second, other)


def _valid() -> dict[str, Any]:
    return dict(json.loads(render_envelope(sign_envelope(b"payload", IN_TOTO, make_private_key("ed25519")))))


@pytest.mark.parametrize(
    "change",
    [{"payload": None}, {"payload": "a"}, {"payload": "cGF5bG9hZB=="}, {"payload": "cGF5bG9hZA"}, {"payload": "+_8="},
     {"payload": "cGF5\nbG9hZA=="}, {"payload": "é"}, {"payloadType": None}, {"payloadType": 3}, {"signatures": []}, {"signatures": {}},
     {"signatures": [None]}, {"signatures": [{}]}, {"signatures": [{"sig": 1}]}, {"signatures": [{"sig": "AA==", "keyid": 1}]}],
)  # fmt: skip
def test_what_is_no_envelope(change: dict[str, Any]) -> None:
    """Missing or wrong fields and base64 in any spelling but its own are refused as unreadable."""
    with pytest.raises(RecordError):
        parse_envelope(json.dumps(_valid() | change).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b"[" * 10**5, b'{"payload": "'])
def test_what_is_no_json(data: bytes) -> None:
    """Cut and hostile files are refused, whatever they are."""
    with pytest.raises(RecordError):
        parse_envelope(data)


def test_a_key_id_can_be_computed_with_openssl(tmp_path: Path) -> None:
    """The documented command gives the id."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    for algorithm in ALGORITHMS:
        key = make_private_key(algorithm)
        (tmp_path / "key.pem").write_bytes(key.render_pem(None))
        (tmp_path / "key.pub").write_text(key.public.pem)
        written = subprocess.run(
            ["openssl", "pkey", "-in", "key.pem", "-pubout"], cwd=tmp_path, capture_output=True, check=True
        )
        assert written.stdout.decode() == key.public.pem
        done = subprocess.run(
            ["openssl", "pkey", "-pubin", "-in", "key.pub", "-outform", "DER"],
            cwd=tmp_path,
            capture_output=True,
            check=True,
        )
        assert hashlib.sha256(done.stdout).hexdigest() == key.public.keyid


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("passphrase", [None, b"open sesame"])
def test_keys_are_read_as_they_were_written(algorithm: Algorithm, passphrase: bytes | None) -> None:
    """A private key gives the same public key again, with its passphrase alone; a plain one ignores any."""
    key = make_private_key(algorithm)
    pem = key.render_pem(passphrase)
    assert parse_private_key(pem, source="k", passphrase=passphrase or b"whatever").public == key.public
    assert parse_public_key(key.public.pem.encode(), source="k") == key.public
    assert find_public_key(key.public.der) == key.public
    if passphrase:
        with pytest.raises(PassphraseNeeded, match="encrypted"):
            parse_private_key(pem, source="k", passphrase=None)
        with pytest.raises(UsageError, match="does not open"):
            parse_private_key(pem, source="k", passphrase=b"wrong")
    assert pem.decode().split("\n")[1] not in repr(key)


def test_keys_of_other_kinds_are_refused_by_name() -> None:
    """RSA, other curves, OpenSSH's format, the wrong half, certificates and rubbish: each said in words."""
    words = serialization.NoEncryption()
    others: dict[str, Any] = {
        "RSA": rsa.generate_private_key(65537, 1024), "secp384r1": ec.generate_private_key(ec.SECP384R1()),
        "Ed448": serialization.load_der_private_key(bytes.fromhex("3047020100300506032b6571043b0439" + "07" * 57), None),
    }  # fmt: skip
    for name, other in others.items():
        private = other.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, words)
        public = other.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        with pytest.raises(UsageError, match=name):
            parse_private_key(private, source="k", passphrase=None)
        with pytest.raises(UsageError, match=name):
            parse_public_key(public, source="k")
    key = ed25519.Ed25519PrivateKey.generate()
    openssh = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, words)
    with pytest.raises(UsageError, match="OpenSSH"):
        parse_private_key(openssh, source="k", passphrase=None)
    good = make_private_key("ed25519")
    with pytest.raises(UsageError, match="is a public key"):
        parse_private_key(good.public.pem.encode(), source="k", passphrase=None)
    with pytest.raises(UsageError, match="is a private key"):
        parse_public_key(good.render_pem(None), source="k")
    with pytest.raises(UsageError, match="certificate"):
        parse_public_key(b"-----BEGIN CERTIFICATE-----\n", source="k")
    cut = good.render_pem(None).replace(b"M", b"", 1)
    for rubbish in (b"", b"\xff\x00", b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", cut):
        with pytest.raises(UsageError):
            parse_private_key(rubbish, source="k", passphrase=None)
        with pytest.raises(UsageError):
            parse_public_key(rubbish, source="k")
