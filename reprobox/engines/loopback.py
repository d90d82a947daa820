"""Give an engine of this machine an image by letting it pull: a registry on loopback, for as long as one image takes.

`docker load` unpacks an archive to disk before it looks at a layer; a pull streams layers, several at once, and takes a
third less time. Only what the engine asks for is read, and it hashes all of it. The repository's name is random and
long, so that nobody else on this machine can ask for it.

Source: OCI distribution specification 1.1 (pull).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from reprobox.engines.base import LoadableImage

_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Where an image can be pulled from.

    Attributes:
        repository: Host, port and name.
        digest: Of the manifest.
    """

    repository: str
    digest: str


@contextmanager
def serve_image(image: LoadableImage) -> Iterator[Served]:
    """Serve an image on loopback for as long as the block runs."""
    name = secrets.token_hex(16)
    server = _Server(image, name)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Served(repository=f"127.0.0.1:{server.server_port}/{name}", digest=image.manifest_digest)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, image: LoadableImage, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.image = image
        self.name = name

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: an engine that closes early tells why itself."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """Give a manifest or a blob."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Tell size and kind of one."""
        self._answer(body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _answer(self, *, body: bool) -> None:
        image, base = self.server.image, f"/v2/{self.server.name}"
        if self.path == "/v2/":
            self._send(b"{}", "application/json", body)
        elif self.path == f"{base}/manifests/{image.manifest_digest}":
            self._send(image.manifest, _MANIFEST_TYPE, body)
        elif self.path == f"{base}/blobs/{image.id}":
            self._send(image.config, "application/octet-stream", body)
        elif self.path.removeprefix(f"{base}/blobs/") in image.layers:
            self._send_file(self.path.removeprefix(f"{base}/blobs/"), body)
        else:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _begin(self, size: int, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        if kind == _MANIFEST_TYPE:
            self.send_header("Docker-Content-Digest", self.server.image.manifest_digest)
        self.end_headers()

    def _send(self, data: bytes, kind: str, body: bool) -> None:
        self._begin(len(data), kind)
        if body:
            self.wfile.write(data)

    def _send_file(self, diff_id: str, body: bool) -> None:
        with self.server.image.layers[diff_id].open("rb") as stream:
            stream.seek(0, 2)
            size = stream.tell()
            stream.seek(0)
            self._begin(size, "application/octet-stream")
            if body:
                self.wfile.flush()
                self.connection.sendfile(stream)
