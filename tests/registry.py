"""A real registry on loopback, for tests and for the bench."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serve_registry(program: str, folder: Path, *, users: Path | None = None) -> Iterator[str]:
    """Run an empty registry while it is needed; gives its address.

    Args:
        program: Path of Debian's docker-registry.
        folder: Where its configuration goes, and what it keeps below `registry`.
        users: A file of htpasswd, whose users alone may come in.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = (
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {folder / 'registry'}\n"
        f"http:\n  addr: 127.0.0.1:{port}\n"
    )
    if users is not None:
        text += f"auth:\n  htpasswd:\n    realm: here\n    path: {users}\n"
    file = folder / "registry.yml"
    file.write_text(text, encoding="utf-8")
    running = subprocess.Popen([program, "serve", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait()
