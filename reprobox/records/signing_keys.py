"""Keys that sign and verify: Ed25519 and ECDSA P-256, in PEM. Pure: bytes in, values out.

A key's id is the sha256 of its public half as a DER SubjectPublicKeyInfo, in hex; anybody can compute it:
`openssl pkey -pubin -in key.pub -outform DER | sha256sum`. It names a key, it vouches for nothing.

Source: RFC 8032 (Ed25519), FIPS 186-5 (ECDSA; over SHA-256, signatures in DER as OpenSSL writes them), RFC 5958 and
RFC 7468 (PEM of private and public keys).
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, get_args

from reprobox.errors import UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

# `cryptography` is imported where it is used: most commands sign and verify nothing.

Algorithm = Literal["ecdsa-p256", "ed25519"]
ALGORITHMS: Final[tuple[Algorithm, ...]] = get_args(Algorithm)

_MAKE_ONE: Final = "make one with: reprobox attest --new-key PATH"


class PassphraseNeeded(UsageError):
    """A private key is encrypted, and no passphrase was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A key that verifies.

    Attributes:
        algorithm: What kind of key it is.
        der: Its SubjectPublicKeyInfo, in DER.
    """

    algorithm: Algorithm
    der: bytes

    @property
    def keyid(self) -> str:
        """Its id: sha256 of `der`, in hex."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def pem(self) -> str:
        """Itself in PEM, lines of 64 characters, with a line feed at the end."""
        text = base64.b64encode(self.der).decode("ascii")
        lines = [text[start : start + 64] for start in range(0, len(text), 64)]
        return "\n".join(("-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""))

    def has_signed(self, message: bytes, signature: bytes) -> bool:
        """Whether a signature over a message is this key's."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        key = _load_public(self.der)
        try:
            if isinstance(key, Ed25519PublicKey):
                key.verify(signature, message)
            else:
                key.verify(signature, message, _ecdsa())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateKey:
    """A key that signs.

    Attributes:
        public: Its public half.
    """

    public: PublicKey
    _key: EllipticCurvePrivateKey | Ed25519PrivateKey = field(repr=False)

    def sign(self, message: bytes) -> bytes:
        """Sign a message; gives 64 bytes for Ed25519, and DER for ECDSA."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(message)
        return self._key.sign(message, _ecdsa())

    def render_pem(self, passphrase: bytes | None) -> bytes:
        """Render it as PKCS #8 in PEM, encrypted if there is a passphrase."""
        from cryptography.hazmat.primitives import serialization

        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption(),
        )


def make_private_key(algorithm: Algorithm) -> PrivateKey:
    """Make a new key from the system's randomness."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    match algorithm:
        case "ed25519":
            return _private(ed25519.Ed25519PrivateKey.generate())
        case "ecdsa-p256":
            return _private(ec.generate_private_key(ec.SECP256R1()))


def parse_private_key(pem: bytes, *, source: str, passphrase: bytes | None) -> PrivateKey:
    """Parse a private key in PEM.

    Args:
        pem: The file's content.
        source: Its name, for messages.
        passphrase: What it is encrypted with; ignored where it is not encrypted.

    Raises:
        PassphraseNeeded: It is encrypted, and there is no passphrase.
        UsageError: It is no private key, of another kind, or the passphrase is wrong.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if b"PRIVATE KEY-----" not in pem:
        what = "is a public key" if b"PUBLIC KEY-----" in pem else "is no private key in PEM"
        raise UsageError(f"{source} {what}; signing takes the private one", hint=f"name its file, or {_MAKE_ONE}")
    if b"OPENSSH PRIVATE KEY-----" in pem:
        raise UsageError(f"{source} is a key of OpenSSH, not one in PKCS #8", hint=_MAKE_ONE)
    encrypted = b"ENCRYPTED" in pem
    if encrypted and not passphrase:
        raise PassphraseNeeded(
            f"{source} is encrypted, and there is no passphrase",
            hint="put it into a variable and name that: --passphrase-env NAME",
        )
    try:
        key = load_pem_private_key(pem, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if encrypted:
            raise UsageError(f"{source} does not open with that passphrase", hint="check the passphrase") from None
        raise UsageError(f"{source} cannot be read as a private key", hint=_MAKE_ONE) from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return _private(key)
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return _private(key)
    raise _other_kind(source, key)


def parse_public_key(pem: bytes, *, source: str) -> PublicKey:
    """Parse a public key in PEM.

    Args:
        pem: The file's content.
        source: Its name, for messages.

    Raises:
        UsageError: It is no public key, or one of another kind.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY-----" in pem:
        raise UsageError(
            f"{source} is a private key; verifying takes the public one, and nobody else should have this",
            hint="name the file that ends in .pub, or write it: openssl pkey -in KEY -pubout",
        )
    if b"BEGIN CERTIFICATE" in pem:
        raise UsageError(
            f"{source} is a certificate, not a public key",
            hint="take the key out: openssl x509 -in FILE -noout -pubkey",
        )
    try:
        key = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UsageError(
            f"{source} is no public key in PEM", hint="name a file that begins with -----BEGIN PUBLIC KEY-----"
        ) from None
    if isinstance(key, ed25519.Ed25519PublicKey):
        return _public(key)
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return _public(key)
    raise _other_kind(source, key)


def find_public_key(der: bytes) -> PublicKey | None:
    """Read a public key from its one DER spelling; None where it is none of the kinds that are known here."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        key = _public(_load_public(der))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if key.der == der else None


def _load_public(der: bytes) -> EllipticCurvePublicKey | Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    key = load_der_public_key(der)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise ValueError("a key of another kind")


def _public(key: EllipticCurvePublicKey | Ed25519PublicKey) -> PublicKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return PublicKey(
        algorithm="ed25519" if isinstance(key, Ed25519PublicKey) else "ecdsa-p256",
        der=key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
    )


def _private(key: EllipticCurvePrivateKey | Ed25519PrivateKey) -> PrivateKey:
    return PrivateKey(public=_public(key.public_key()), _key=key)


def _ecdsa() -> ECDSA:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA(hashes.SHA256())


def _other_kind(source: str, key: object) -> UsageError:
    curve = getattr(getattr(key, "curve", None), "name", "")
    kind = f"an elliptic key on {curve}" if curve else type(key).__name__.lstrip("_").removesuffix("Key")
    return UsageError(f"{source} is {kind}; Ed25519 and ECDSA P-256 are the kinds that are taken", hint=_MAKE_ONE)
