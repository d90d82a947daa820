"""The locked interpreter, unpacked on this machine, to compile bytecode exactly as the image's Python would.

It is started through its own dynamic loader, so nothing of the host's C library or Python takes part, and neither root
nor a container is needed. What it compiles is cut into pieces of fixed size, each in a fresh process: bytecode can
depend on what its process compiled before, and so must not depend on how many cores there are.
"""

from __future__ import annotations

import json
import struct
import subprocess
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from reprobox.errors import BuildError

_PIECE_BYTES = 3_000_000
_LOADERS = {
    "linux-64": ("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
    "linux-aarch64": ("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python on disk: a base's own, or a conda package that runs on the base's C library.

    Attributes:
        tree: The base's folder.
        python: Exact version, such as "3.11.2".
        platform: Conda's name of what it runs on.
        workers: Processes at once.
        prefix: Folder of the interpreter's conda package; None for the base's own interpreter.
    """

    tree: Path
    python: str
    platform: str
    workers: int
    prefix: Path | None = None

    @property
    def home(self) -> Path:
        """What Python takes for its own prefix."""
        return self.prefix or self.tree / "usr"

    def command(self) -> list[str]:
        """The start of a command line that runs this interpreter here."""
        triplet, loader = _LOADERS[self.platform]
        libraries = self.tree / "usr/lib" / triplet
        short = ".".join(self.python.split(".")[:2])
        # The base's libraries stand in for those that a conda interpreter would find among other packages.
        places = [str(self.prefix / "lib"), str(libraries)] if self.prefix else [str(libraries)]
        return [
            str(libraries / loader), "--inhibit-cache", "--library-path", ":".join(places),
            str(self.home / f"bin/python{short}"), "-s", "-S", "-B",
        ]  # fmt: skip

    def compile_sources(self, archive: Path, members: Sequence[tuple[str, str]]) -> list[bytes | None]:
        """Compile members of a zip file, or files below a folder.

        Args:
            archive: The zip file or folder.
            members: Pairs of member name and absolute path in the image.

        Returns:
            For each member the bytes of its .pyc file, or None where the source does not compile.

        Raises:
            BuildError: The interpreter does not run on this machine.
        """
        if not members:
            return []
        sizes = _sizes(archive, members)
        pieces: list[list[tuple[str, str]]] = [[]]
        filled = 0
        for pair, size in zip(members, sizes, strict=True):
            if filled + size > _PIECE_BYTES and pieces[-1]:
                pieces.append([])
                filled = 0
            pieces[-1].append(pair)
            filled += size
        with as_file(files("reprobox") / "guest" / "pyc.py") as script, ThreadPoolExecutor(self.workers) as pool:
            done = pool.map(lambda piece: self._compile_piece(script, archive, piece), pieces)
            return [code for piece in done for code in piece]

    def _compile_piece(self, script: Path, archive: Path, members: list[tuple[str, str]]) -> list[bytes | None]:
        job = json.dumps({"archive": str(archive), "members": members}).encode()
        environment = {"PYTHONHOME": str(self.home), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
        try:
            done = subprocess.run(
                [*self.command(), str(script)], input=job, capture_output=True, check=False, env=environment
            )
        except OSError as error:
            raise BuildError(
                f"the locked interpreter does not run on this machine: {error}",
                hint=f"build on a machine of {self.platform}",
            ) from None
        codes = parse_reply(done.stdout)
        if done.returncode != 0 or len(codes) != len(members):
            last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise BuildError(f"the locked interpreter failed to compile {archive.name}: {' '.join(last)}")
        return codes


def parse_reply(reply: bytes) -> list[bytes | None]:
    """Parse what guest/pyc.py answers; a cut reply gives the whole parts of it."""
    codes: list[bytes | None] = []
    at = 0
    while at + 4 <= len(reply):
        (length,) = struct.unpack_from("<i", reply, at)
        at += 4
        if length < 0:
            codes.append(None)
            continue
        if at + length > len(reply):
            break
        codes.append(reply[at : at + length])
        at += length
    return codes


def _sizes(archive: Path, members: Sequence[tuple[str, str]]) -> list[int]:
    if archive.is_dir():
        return [(archive / member).stat().st_size for member, _ in members]
    with zipfile.ZipFile(archive) as opened:
        return [opened.getinfo(member).file_size for member, _ in members]


def render_library_cache(tree: Path) -> bytes:
    """Make the dynamic loader's cache of a base with the base's own (static) ldconfig.

    Raises:
        BuildError: It does not run here.
    """
    cache = tree / "etc/ld.so.cache"
    command = [str(tree / "usr/sbin/ldconfig"), "-r", str(tree), "-i", "-X"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={"LC_ALL": "C"})
    except OSError as error:
        raise BuildError(f"the base's ldconfig does not run on this machine: {error}") from None
    if done.returncode != 0 or not cache.is_file():
        raise BuildError(f"the base's ldconfig failed: {done.stderr.strip()}")
    return cache.read_bytes()
