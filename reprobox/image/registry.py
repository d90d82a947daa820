"""Push images to a registry and pull them, by digest. What moves is checked at both ends; what is there does not move.

oras-py brings addresses, sessions and credentials (docker's configuration and credential helpers). Transfers are our
own: it reads a blob into memory whole, and writes a manifest anew, which would give it another digest.

Source: OCI distribution specification 1.1 (blob uploads in chunks, referrers and their tag schema).
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from reprobox.errors import ArtefactAltered, IndexUnreachable, UsageError

_CHUNK = 64 << 20
_PIECE = 1 << 20
_TRIES = 3
_TIMEOUT_S = (15, 300)
_MANIFEST_LIMIT = 4 << 20
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_ACCEPTED = f"{MANIFEST_TYPE}, application/vnd.docker.distribution.manifest.v2+json"

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Where an image is in a registry.

    Attributes:
        host: Host, and port where one is named.
        name: Name of the repository.
        tag: Tag, or None.
        digest: `sha256:` and 64 hex digits, or None.
    """

    host: str
    name: str
    tag: str | None = None
    digest: str | None = None

    @property
    def repository(self) -> str:
        """Host and name."""
        return f"{self.host}/{self.name}"

    def __str__(self) -> str:
        """As people write it."""
        return self.repository + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> Reference:
    """Parse HOST[:PORT]/NAME[:TAG][@DIGEST].

    Raises:
        UsageError: It is none; a host must be named, because none is taken for granted.
    """
    found = re.fullmatch(
        r"(?:docker://)?(?P<host>[A-Za-z0-9.-]+(?::\d+)?|\[[0-9A-Fa-f:]+\](?::\d+)?)/"
        r"(?P<name>[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)"
        r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
        text,
    )
    host = found["host"] if found else ""
    if found is None or not re.search(r"[.:\[]", host + ("." if host == "localhost" else "")):
        raise UsageError(
            f"{text!r} is no image in a registry", hint="write HOST/NAME:TAG, such as registry.example/team/digits:1"
        )
    return Reference(host=host, name=found["name"], tag=found["tag"], digest=found["digest"])


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, which registries serve without TLS, as Docker takes it."""
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    try:
        return name == "localhost" or ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


class Registry:
    """One repository of a registry.

    Args:
        reference: Which one.
        verify: Bundle of certificates, or True for the usual one.
    """

    def __init__(self, reference: Reference, *, verify: str | bool = True) -> None:
        import oras.provider

        insecure = is_loopback(reference.host)
        self.reference = reference
        self._oras = oras.provider.Registry(hostname=reference.host, insecure=insecure, tls_verify=verify)
        self._base = f"{'http' if insecure else 'https'}://{reference.host}/v2/{reference.name}"
        self._container = self._oras.get_container(f"{reference.repository}:x")
        self._oras.auth.load_configs(self._container)
        self._insecure = insecure
        self._verify = verify
        self._authorization: dict[str, str] = {}

    # Requests ------------------------------------------------------------------------------------------

    def _ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: Callable[[], Any] | bytes | None = None,
        stream: bool = False,
    ) -> Any:
        """Ask, once more with credentials where they are wanted; a body that is used up is made anew.

        Raises:
            IndexUnreachable: It does not answer, or refuses the credentials.
        """
        import requests

        url = url if "://" in url else self._base + url
        refused = IndexUnreachable(
            f"the registry {self.reference.host} refuses {self.reference.name}: no credentials that it takes",
            hint=f"docker login {self.reference.host}",
        )
        try:
            for last in (False, True):
                answer = self._oras.session.request(
                    method,
                    url,
                    data=data() if callable(data) else data,
                    headers=dict(headers or {}),
                    auth=lambda request: self._authorize(request, url),
                    stream=stream,
                    verify=self._verify,
                    timeout=_TIMEOUT_S,
                )
                if answer.status_code not in (401, 403):
                    return answer
                if last or not self._authenticate(answer):
                    raise refused
        except requests.RequestException as error:
            raise IndexUnreachable(
                f"the registry {self.reference.host} does not answer: {type(error).__name__}: {error}",
                hint="check the address and the network",
            ) from None
        raise refused

    def _authorize(self, request: Any, url: str) -> Any:
        # A callable, or else requests would put what ~/.netrc has for that host in the place of the header. A registry
        # may send an upload elsewhere; what is secret goes to the registry alone.
        if url.startswith(self._base.partition("/v2/")[0] + "/"):
            request.headers.update(self._authorization)
        return request

    def _authenticate(self, answer: Any) -> bool:
        """Answer a challenge with the credentials that docker's configuration has; gives whether there are any."""
        import oras.auth

        challenge = answer.headers.get("WWW-Authenticate", "")
        if challenge.lower().startswith("basic"):
            basic = oras.auth.get_auth_backend("basic", self._oras.session, self._insecure)
            basic.load_configs(self._container)
            if getattr(basic, "_basic_auth", None) is None:
                return False
            self._authorization = basic.get_auth_header()
            return True
        if not challenge:
            return False
        try:
            headers, changed = self._oras.auth.authenticate_request(answer, {}, refresh=True)
        except (AttributeError, KeyError, ValueError):
            # A challenge that lacks its parts.
            return False
        self._authorization = {"Authorization": headers["Authorization"]} if changed else {}
        return bool(changed)

    def _require(self, answer: Any, *codes: int, doing: str) -> Any:
        if answer.status_code not in codes:
            raise IndexUnreachable(
                f"the registry {self.reference.host} refused to {doing}: {answer.status_code} {_words(answer)}",
                hint="repeat it; what has arrived is not sent again",
            )
        return answer

    # Blobs ---------------------------------------------------------------------------------------------

    def has_blob(self, digest: str) -> bool:
        """Whether the repository has a blob."""
        return bool(self._ask("HEAD", f"/blobs/{digest}").status_code == 200)

    def push_blob(self, digest: str, size: int, read: Callable[[int], Iterator[bytes]], advance: Advance) -> None:
        """Push a blob in chunks; after a broken connection it goes on where the registry got to.

        Args:
            digest: Of its bytes; the registry checks it.
            size: How many there are.
            read: Gives its bytes from an offset on.
            advance: Told the number of bytes as they leave.

        Raises:
            IndexUnreachable: It cannot be pushed.
            ArtefactAltered: The registry got other bytes than the digest is of.
        """
        started = self._require(self._ask("POST", "/blobs/uploads/"), 202, doing="begin an upload")
        place = _location(started, self._base)
        sent, failures = 0, 0
        while sent < size or (size == 0 and sent == 0):
            last = min(sent + _CHUNK, size)
            headers = {"Content-Range": f"{sent}-{max(last - 1, 0)}", "Content-Type": "application/octet-stream"}
            try:
                answer = self._ask("PATCH", place, headers=headers, data=_make_part(read, sent, last, advance))
                self._require(answer, 202, doing=f"take {digest}")
            except IndexUnreachable:
                failures += 1
                if failures >= _TRIES:
                    raise
                state = self._ask("GET", place)
                arrived = re.search(r"-(\d+)$", state.headers.get("Range", "")) if state.status_code == 204 else None
                if arrived is None:
                    raise
                sent = int(arrived[1]) + 1 if int(arrived[1]) else 0
                place = _location(state, self._base) or place
                continue
            place, sent = _location(answer, self._base), last
            if size == 0:
                break
        joint = "&" if "?" in place else "?"
        answer = self._ask("PUT", f"{place}{joint}digest={digest}", headers={"Content-Length": "0"})
        if answer.status_code == 400:
            raise ArtefactAltered(
                f"the registry {self.reference.host} got other bytes than {digest}: {_words(answer)}", hint="push again"
            )
        self._require(answer, 201, doing=f"keep {digest}")

    def pull_blob(self, digest: str, size: int, target: Path, advance: Advance) -> None:
        """Pull a blob into a file; after a broken connection it goes on from where it was.

        Args:
            digest: What its bytes must hash to.
            size: How many there must be.
            target: The file; where other bytes came, it is removed.
            advance: Told the number of bytes as they arrive.

        Raises:
            ArtefactAltered: Other bytes came.
            IndexUnreachable: They did not come.
        """
        with target.open("wb") as stream:
            self._download(digest, size, stream, advance)
        with target.open("rb") as stream:
            found = "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
        if found != digest:
            target.unlink()
            raise ArtefactAltered(
                f"the registry {self.reference.host} gives {found} for {digest}",
                hint="nothing was kept; do not trust that registry",
            )

    def _download(self, digest: str, size: int, stream: BinaryIO, advance: Advance) -> None:
        import requests

        got, failures = 0, 0
        while got < size:
            headers = {"Range": f"bytes={got}-"} if got else {}
            answer = self._ask("GET", f"/blobs/{digest}", headers=headers, stream=True)
            with answer:
                if answer.status_code == 416:
                    raise ArtefactAltered(
                        f"the registry {self.reference.host} has {got} of {size} bytes of {digest}",
                        hint="push the image again",
                    )
                self._require(answer, 200, 206, doing=f"give {digest}")
                if got and answer.status_code == 200:
                    # It cannot give parts: from the start.
                    stream.seek(0)
                    stream.truncate()
                    got = 0
                try:
                    for chunk in answer.iter_content(_PIECE):
                        got += len(chunk)
                        if got > size:
                            raise ArtefactAltered(f"the registry {self.reference.host} gives more bytes for {digest}")
                        stream.write(chunk)
                        advance(len(chunk))
                except requests.RequestException as error:
                    failures += 1
                    if failures >= _TRIES:
                        raise IndexUnreachable(f"{digest} cannot be pulled: {error}", hint="repeat it") from None
                    continue
            if got < size:
                failures += 1
                if failures >= _TRIES:
                    raise ArtefactAltered(
                        f"the registry {self.reference.host} gives {got} of {size} bytes of {digest}",
                        hint="push the image again",
                    )

    # Manifests -----------------------------------------------------------------------------------------

    def push_manifest(self, data: bytes, *, name: str, media_type: str = MANIFEST_TYPE) -> bool:
        """Push a manifest under a tag or its digest.

        Returns:
            Whether the registry itself keeps track of what refers to what.
        """
        answer = self._ask("PUT", f"/manifests/{name}", headers={"Content-Type": media_type}, data=data)
        self._require(answer, 201, doing=f"keep the manifest {name}")
        return "OCI-Subject" in answer.headers

    def pull_manifest(self, name: str) -> bytes:
        """Pull a manifest by tag or digest.

        Raises:
            IndexUnreachable: There is none.
            ArtefactAltered: It is not what its digest says, or larger than any real one.
        """
        import urllib3

        answer = self._ask("GET", f"/manifests/{name}", headers={"Accept": _ACCEPTED}, stream=True)
        if answer.status_code == 404:
            raise IndexUnreachable(f"{self.reference.repository} has no image {name}", hint="check name and tag")
        self._require(answer, 200, doing=f"give the manifest {name}")
        try:
            data = bytes(answer.raw.read(_MANIFEST_LIMIT + 1, decode_content=True))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise IndexUnreachable(f"the manifest {name} cannot be pulled: {error}", hint="repeat it") from None
        if len(data) > _MANIFEST_LIMIT:
            raise ArtefactAltered(f"the manifest {name} is larger than any real one")
        if name.startswith("sha256:") and "sha256:" + hashlib.sha256(data).hexdigest() != name:
            raise ArtefactAltered(
                f"the registry {self.reference.host} gives another manifest than {name}",
                hint="nothing was kept; do not trust that registry",
            )
        return data

    def find_index(self, tag: str) -> list[dict[str, Any]]:
        """Find the descriptors of an index under a tag; none where there is no index."""
        answer = self._ask("GET", f"/manifests/{tag}", headers={"Accept": INDEX_TYPE})
        if answer.status_code != 200:
            return []
        try:
            rows = json.loads(answer.content)["manifests"]
        except (ValueError, KeyError, TypeError):
            return []
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def read_file(path: Path) -> Callable[[int], Iterator[bytes]]:
    """Give what reads a file's bytes from an offset on."""

    def read(offset: int) -> Iterator[bytes]:
        with path.open("rb") as stream:
            stream.seek(offset)
            while chunk := stream.read(_PIECE):
                yield chunk

    return read


def _make_part(read: Callable[[int], Iterator[bytes]], begin: int, end: int, advance: Advance) -> Callable[[], _Part]:
    return lambda: _Part(read(begin), end - begin, advance)


class _Part:
    """A part of a blob, as a request's body of known length."""

    def __init__(self, chunks: Iterator[bytes], size: int, advance: Advance) -> None:
        self._chunks = chunks
        self._left = size
        self._size = size
        self._advance = advance
        self._waiting = b""

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes."""
        if not self._waiting:
            self._waiting = next(self._chunks, b"")[: self._left]
        data = self._waiting if size < 0 else self._waiting[:size]
        self._waiting = self._waiting[len(data) :]
        self._left -= len(data)
        self._advance(len(data))
        return data


def _location(answer: Any, base: str) -> str:
    place = str(answer.headers.get("Location", ""))
    return place if "://" in place else re.sub(r"^(\w+://[^/]+).*", r"\1", base) + place if place else ""


def _words(answer: Any) -> str:
    try:
        return "; ".join(str(error.get("message", error.get("code"))) for error in answer.json()["errors"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return str(answer.reason)
