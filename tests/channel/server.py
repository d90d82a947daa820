"""Serve a folder over HTTP on loopback, count what is asked for, and misbehave on request."""

from __future__ import annotations

import base64
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

_CHUNK = 1 << 20
_STALL_S = 60
_TYPES = {".json": "application/json", ".zst": "application/zstd"}

Alter = Callable[[bytes], bytes]


def flip(content: bytes) -> bytes:
    """Flip one byte in the middle; the length stays."""
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 0xFF
    return bytes(changed)


@dataclass(slots=True, kw_only=True)
class Server:
    """A folder that is being served. What is set here holds from the next request on.

    Attributes:
        folder: What is served; nothing outside of it.
        port: On loopback.
        user: Name and password that requests must have (HTTP basic), or None.
        bearer: Token that requests must have (Authorization: Bearer), or None.
        scheme: "http", or "https".
        token: Word that the path must begin with, as /t/TOKEN/…, or None.
        alter: File name, or path below the folder → what is made of its bytes before they are sent.
        fail: File name or path → HTTP status instead of the file.
        delay_s: Seconds before each answer.
        cut: File names or paths of which only half is sent before the connection is closed.
        stall: File names or paths of which only half is sent, and then nothing for a minute.
        requests: (method, path, status) of each answer, in order.
    """

    folder: Path
    port: int
    user: tuple[str, str] | None = None
    bearer: str | None = None
    scheme: str = "http"
    token: str | None = None
    alter: dict[str, Alter] = field(default_factory=dict)
    fail: dict[str, int] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: set[str] = field(default_factory=set)
    stall: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, int]] = field(default_factory=list)

    def url(self, channel: str = "", *, credentials: bool = False) -> str:
        """URL of a channel, such as "conda-forge".

        Args:
            channel: Folder below the root.
            credentials: Whether user, password and token are in it.
        """
        user = "{}:{}@".format(*(quote(word, safe="") for word in self.user)) if credentials and self.user else ""
        token = f"/t/{self.token}" if credentials and self.token else ""
        return f"{self.scheme}://{user}127.0.0.1:{self.port}{token}/{channel}".rstrip("/")

    def count(self, name: str) -> int:
        """How often a file was sent (whole or in part), by its name or the end of its path."""
        return sum(
            status in (200, 206) and path.endswith(name) for method, path, status in self.requests if method == "GET"
        )

    def counts(self) -> Counter[str]:
        """How often each path was sent."""
        return Counter(path for method, path, status in self.requests if method == "GET" and status in (200, 206))


@contextmanager
def serve(
    folder: Path,
    *,
    user: tuple[str, str] | None = None,
    token: str | None = None,
    alter: Mapping[str, Alter] | None = None,
    certificate: Path | None = None,
) -> Iterator[Server]:
    """Serve a folder for as long as the block runs.

    Args:
        folder: What is served.
        user: Name and password that requests must have.
        token: Word that paths must begin with, as /t/TOKEN/….
        alter: File name → what is made of its bytes.
        certificate: PEM file with key and certificate; then it is served over TLS.
    """
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.daemon_threads = True
    server = Server(folder=folder.resolve(), port=http.server_port, user=user, token=token, alter=dict(alter or {}))
    if certificate is not None:
        server.scheme = "https"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        http.socket = context.wrap_socket(http.socket, server_side=True)
    http.state = server  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: tests read `requests`."""

    @property
    def state(self) -> Server:
        return self.server.state  # type: ignore[attr-defined, no-any-return]

    def _answer(self, *, body: bool) -> None:
        state = self.state
        if state.delay_s:
            time.sleep(state.delay_s)
        path = unquote(urlsplit(self.path).path).lstrip("/")
        if state.token is not None:
            opening = f"t/{state.token}/"
            if not path.startswith(opening):
                return self._refuse(HTTPStatus.FORBIDDEN, path)
            path = path.removeprefix(opening)
        if state.user is not None:
            expected = "Basic " + base64.b64encode(":".join(state.user).encode()).decode()
            if self.headers.get("Authorization") != expected:
                return self._refuse(HTTPStatus.UNAUTHORIZED, path, {"WWW-Authenticate": 'Basic realm="channel"'})
        if state.bearer is not None and self.headers.get("Authorization") != f"Bearer {state.bearer}":
            return self._refuse(HTTPStatus.UNAUTHORIZED, path)
        status = self._find(state.fail, path)
        if status is not None:
            return self._refuse(status, path)
        file = (state.folder / path).resolve()
        if not file.is_relative_to(state.folder) or not file.is_file():
            return self._refuse(HTTPStatus.NOT_FOUND, path)
        return self._send(file, path, body)

    @staticmethod
    def _find(table: Mapping[str, Any], path: str) -> Any:
        return table.get(path, table.get(path.rpartition("/")[2]))

    def _send(self, file: Path, path: str, body: bool) -> None:
        alter = self._find(self.state.alter, path)
        content = alter(file.read_bytes()) if alter else None
        size = len(content) if content is not None else file.stat().st_size
        begin, end, status = 0, size, HTTPStatus.OK
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked and asked[0] != "bytes=-":
            begin, end = self._range(asked[1], asked[2], size)
            if begin >= end:
                return self._refuse(
                    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, path, {"Content-Range": f"bytes */{size}"}
                )
            status = HTTPStatus.PARTIAL_CONTENT
        self._note(path, status)
        self.send_response(status)
        self.send_header("Content-Type", _TYPES.get(file.suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(end - begin))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Last-Modified", self.date_time_string(file.stat().st_mtime))
        if status == HTTPStatus.PARTIAL_CONTENT:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.end_headers()
        if not body:
            return None
        if path in self.state.cut or path.rpartition("/")[2] in self.state.cut:
            end = begin + (end - begin) // 2
            self.close_connection = True
        stalls = path in self.state.stall or path.rpartition("/")[2] in self.state.stall
        try:
            self._copy(file, content, begin, begin + (end - begin) // 2 if stalls else end)
            if stalls:
                self.wfile.flush()
                self.close_connection = True
                time.sleep(_STALL_S)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        return None

    @staticmethod
    def _range(first: str, last: str, size: int) -> tuple[int, int]:
        if not first:
            return max(size - int(last), 0), size
        return int(first), min(int(last) + 1, size) if last else size

    def _copy(self, file: Path, content: bytes | None, begin: int, end: int) -> None:
        if content is not None:
            self.wfile.write(content[begin:end])
            return
        with file.open("rb") as stream:
            stream.seek(begin)
            left = end - begin
            while left and (chunk := stream.read(min(_CHUNK, left))):
                self.wfile.write(chunk)
                left -= len(chunk)

    def _refuse(self, status: int, path: str, headers: Mapping[str, str] | None = None) -> None:
        self._note(path, status)
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _note(self, path: str, status: int) -> None:
        self.state.requests.append((self.command, path, int(status)))
