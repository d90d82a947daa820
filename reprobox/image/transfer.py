"""Stream files from where they are: the file system, the web, conda channels. Used by several threads at once.

Conda channels are asked through py-rattler's own client, so that credentials, mirrors and kinds of places (OCI, S3)
that hold for what channels list hold for their packages too. Everything else goes through requests, which knows netrc,
proxies and certificate bundles.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from reprobox.env.channels import hide_credentials
from reprobox.env.client import Client, make_conda_client

if TYPE_CHECKING:
    import rattler

_TIMEOUT_S = (15, 60)
_CHUNK = 1 << 20
_LOOK_S = 0.2

Write = Callable[[bytes], None]


class TransferFailed(Exception):
    """A file did not come.

    Args:
        reason: Why, without credentials.
        gone: Whether the place answers and has no such file.
        again: Whether another try may help.
    """

    def __init__(self, reason: str, *, gone: bool = False, again: bool = True) -> None:
        super().__init__(hide_credentials(reason))
        self.gone = gone
        self.again = again


class Transfer:
    """Streams files.

    Args:
        client: How places are reached.
        check: Called from time to time; raises to give up.
    """

    def __init__(self, client: Client, *, check: Callable[[], None] = lambda: None) -> None:
        self._client = client
        self._check = check
        self._local = threading.local()
        self._mutex = threading.Lock()
        self._open: set[Any] = set()
        self._closed = False
        self._conda: rattler.Client | None = None

    def close(self) -> None:
        """Give up what is being read: whoever waits for bytes that do not come gets an error at once."""
        with self._mutex:
            self._closed = True
            for answer in self._open:
                with contextlib.suppress(OSError, ValueError, RuntimeError):
                    answer.raw.shutdown()

    def copy(self, address: str, write: Write, *, conda: bool = False) -> None:
        """Stream the bytes at an address.

        Args:
            address: URL.
            write: Given the bytes in pieces; what it raises comes out of here as it is.
            conda: Whether it is in a conda channel.

        Raises:
            TransferFailed: They did not come, or not all of them.
        """
        self._check()
        if address.startswith("file://"):
            self._copy_file(address, write)
        elif conda:
            asyncio.run(self._copy_conda(address, write))
        else:
            self._copy_http(address, write)

    def _copy_file(self, address: str, write: Write) -> None:
        try:
            # Apart from reading: what `write` raises must not be taken for an error of this file.
            stream = Path(unquote(urlsplit(address).path)).open("rb")  # noqa: SIM115
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise TransferFailed(str(error), gone=True, again=False) from None
        except OSError as error:
            raise TransferFailed(str(error), again=False) from None
        with stream:
            while chunk := stream.read(_CHUNK):
                write(chunk)

    def _copy_http(self, address: str, write: Write) -> None:
        import requests

        try:
            with self._session().get(address, stream=True, timeout=_TIMEOUT_S) as answer:
                if answer.status_code >= 400:
                    code = answer.status_code
                    gone = code in (404, 410)
                    raise TransferFailed(f"{code} {answer.reason}", gone=gone, again=code >= 500 or code == 429)
                with self._mutex:
                    self._open.add(answer)
                try:
                    for chunk in answer.iter_content(_CHUNK):
                        write(chunk)
                finally:
                    with self._mutex:
                        self._open.discard(answer)
        except requests.RequestException as error:
            # A read that was given up ends as if the other side had closed.
            self._check()
            raise TransferFailed(f"{type(error).__name__}: {error}") from None

    async def _copy_conda(self, address: str, write: Write) -> None:
        from rattler.package_streaming import download_to_writer

        writer = _Writer(write)
        task = asyncio.ensure_future(download_to_writer(self._conda_client(), address, writer))
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=_LOOK_S)
                self._check()
            task.result()
        except (RuntimeError, OSError) as error:
            if writer.problem is not None:
                raise writer.problem from None
            text = re.sub(r" for url \(.*?\)", "", str(error))
            status = re.search(r"\((\d{3}) ([^)]*)\)", text)
            code = int(status[1]) if status else 0
            reason = f"{code} {status[2]}" if status else text
            again = code in (0, 429) or code >= 500
            raise TransferFailed(reason, gone=code in (404, 410), again=again) from None
        finally:
            task.cancel()

    def _conda_client(self) -> rattler.Client:
        with self._mutex:
            if self._conda is None:
                self._conda = make_conda_client(self._client)
            return self._conda

    def _session(self) -> Any:
        import requests

        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        return self._local.session


class _Writer:
    """What py-rattler writes to; it keeps what went wrong here, which does not find its way through."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self.problem: BaseException | None = None

    def write(self, chunk: bytes) -> int:
        """Take a chunk."""
        try:
            self._write(chunk)
        except BaseException as error:
            self.problem = error
            raise
        return len(chunk)
