"""Unpack wheels into a layer. The `installer` library reads the wheel; this is its destination.

Every byte that a wheel does not bring itself (launchers, RECORD, INSTALLER) is made here, so that it follows the layer
format and not the version of a library.
"""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import io
import re
import zipfile
import zlib
from calendar import timegm
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from installer import install
from installer.destinations import WheelDestination
from installer.exceptions import InstallerError
from installer.records import Hash, InvalidRecordEntry, RecordEntry
from installer.sources import WheelFile
from installer.utils import parse_entrypoints

from reprobox.env.lockfile import Wheel
from reprobox.errors import BuildError
from reprobox.image.layers import GENERATED_MTIME, NO_SPACE, LayerWriter, check_path, limit_unpacked
from reprobox.image.places import PREFIX, render_launcher, site_packages

_LINK_FROM_BYTES = 4096
_DATA_DEPTH = 2
"""Slashes in the name of a file below .data: folder/scheme/file."""

_UNPACKED_LIMIT = 64 << 30
_TESTS = re.compile(r"(^|/)tests/|_test\.py$")

# What zipfile, csv, configparser and installer raise on archives that are damaged or made to harm; its parsers of
# metadata also fail with AssertionError and AttributeError.
_BROKEN = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, csv.Error, configparser.Error, InstallerError,
    InvalidRecordEntry, KeyError, IndexError, ValueError, NotImplementedError, RuntimeError, EOFError, OSError,
    AssertionError, AttributeError,
)  # fmt: skip

# (absolute path in the image, source) pairs → compiled bytes, None where a source does not compile.
Compile = Callable[[Path, Sequence[tuple[str, str]]], list[bytes | None]]


def write_wheel(wheel: Wheel, archive: Path, *, writer: LayerWriter, python: str, compile_sources: Compile) -> None:
    """Unpack one wheel into a layer, with its bytecode.

    Args:
        wheel: What it is.
        archive: The file; its hash was checked.
        writer: The layer.
        python: Exact version of the interpreter.
        compile_sources: Compiles members of the archive with the locked interpreter.

    Raises:
        BuildError: It is not a wheel, or holds a path outside of its place.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            source = _Source(opened, wheel)
            destination = _Destination(source, writer, python)
            sources = list(destination.find_sources())
            # Compiled in processes of their own while this thread unpacks.
            with ThreadPoolExecutor(1) as pool:
                compiled = pool.submit(compile_sources, archive, [(member, "/" + place) for member, place in sources])
                install(source, destination, additional_metadata={"INSTALLER": b"reprobox\n"})
                codes = compiled.result()
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise
        reason = re.sub(r"<[^<>]* object at 0x[0-9a-f]+>", wheel.file, str(error)) or type(error).__name__
        raise BuildError(
            f"{wheel.file} is not a wheel that can be unpacked: {reason}",
            hint=f"ask for another version of {wheel.name}",
        ) from None
    tag = "cpython-" + "".join(python.split(".")[:2])
    for (_, place), code in zip(sources, codes, strict=True):
        if code is not None:
            folder, _, name = place.rpartition("/")
            writer.add_file(f"{folder}/__pycache__/{name[:-3]}.{tag}.pyc", code, size=len(code))


class _Member(io.RawIOBase):
    """A stream that knows which archive member it is, and hashes what is read of it."""

    def __init__(self, stream: BinaryIO, info: zipfile.ZipInfo) -> None:
        self._stream = stream
        self.info = info
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        data = self._stream.read(-1 if size is None else size)
        self.digest.update(data)
        return data


class _Source(WheelFile):  # type: ignore[misc]
    """A wheel whose streams carry their archive member, so that size and time are known before the content."""

    def __init__(self, opened: zipfile.ZipFile, wheel: Wheel) -> None:
        # The file is kept under its digest; the name that the library parses is the locked one.
        opened.filename = wheel.file
        super().__init__(opened)
        self.archive = opened
        self.wheel = wheel
        total = sum(info.file_size for info in opened.infolist())
        if total > min(_UNPACKED_LIMIT, limit_unpacked(wheel.size_bytes)):
            raise BuildError(f"{wheel.file} unpacks to {total} bytes, more than any real wheel", hint="do not use it")
        self._require_plain_names()
        self.repeated = {
            key
            for key, count in Counter((info.CRC, info.file_size) for info in opened.infolist()).items()
            if count > 1 and key[1] >= _LINK_FROM_BYTES
        }

    def _require_plain_names(self) -> None:
        """Require names that mean one place each: the library takes them apart and does not expect others.

        Raises:
            BuildError: A name escapes, is spelled in a roundabout way, stands twice, or is a file and a folder.
        """
        names = [info.filename for info in self.archive.infolist() if not info.is_dir()]
        folders = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
        seen: set[str] = set()
        for name in names:
            if check_path(name, package=self.wheel.file) != name or name in seen or name in folders:
                raise BuildError(
                    f"{self.wheel.file} holds the path {name!r} twice, or spelled in a way that is not plain",
                    hint=f"ask for another version of {self.wheel.name}",
                )
            seen.add(name)
            if name == self.data_dir or (name.startswith(self.data_dir + "/") and name.count("/") < _DATA_DEPTH):
                raise BuildError(
                    f"{self.wheel.file} holds {name!r}, which is in no scheme of its .data folder",
                    hint=f"ask for another version of {self.wheel.name}",
                )

    def get_contents(self) -> Iterator[tuple[tuple[str, str, str], Any, bool]]:
        record = {row[0]: row for row in _record_rows(self.read_dist_info("RECORD"))}
        replaced = self._find_replaced()
        for info in self.archive.infolist():
            # Compiled files that a wheel brings are left out, as pip does: they were made by another interpreter.
            if info.is_dir() or "__pycache__" in info.filename.split("/")[:-1] or info.filename in replaced:
                continue
            mode = info.external_attr >> 16
            with self.archive.open(info) as stream:
                row = record.get(info.filename, (info.filename, "", ""))
                yield row, _Member(stream, info), bool(mode & 0o111)  # type: ignore[arg-type]

    def _find_replaced(self) -> set[str]:
        """Find members in whose place something is made here: the note on who installed it, scripts of entry points."""
        replaced = {f"{self.dist_info_dir}/INSTALLER"}
        if "entry_points.txt" in self.dist_info_filenames:
            points = parse_entrypoints(self.read_dist_info("entry_points.txt"))
            replaced |= {f"{self.data_dir}/scripts/{name}" for name, _, _, _ in points}
        return replaced


def _record_rows(text: str) -> Iterator[tuple[str, str, str]]:
    for row in csv.reader(text.splitlines()):
        if len(row) == 3:
            yield row[0], row[1], row[2]


class _Destination(WheelDestination):  # type: ignore[misc]
    """Where `installer` puts a wheel: entries of a layer."""

    def __init__(self, source: _Source, writer: LayerWriter, python: str) -> None:
        self._source = source
        self._writer = writer
        self._site = site_packages(python)
        self._short = ".".join(python.split(".")[:2])
        self._linkable: dict[tuple[bytes, bool], str] = {}
        self._places: set[str] = set()
        self._folders: set[str] = set()

    def find_sources(self) -> Iterator[tuple[str, str]]:
        """Find what is worth compiling: each member with its place. Tests are not: nothing imports them at a start."""
        data = self._source.data_dir + "/"
        for name in self._source.archive.namelist():
            if not name.endswith(".py") or _TESTS.search(name):
                continue
            if not name.startswith(data):
                yield name, self._locate("purelib", name)
            elif name.startswith((data + "purelib/", data + "platlib/")):
                yield name, self._locate("purelib", name[len(data) + len("purelib/") :])

    def write_file(self, scheme: str, path: Any, stream: Any, is_executable: bool) -> RecordEntry:
        """Write one file of the wheel into the layer."""
        place = self._place(scheme, str(path))
        mtime, size, member = GENERATED_MTIME, None, None
        if isinstance(stream, _Member):
            mtime, size, member = _mtime(stream.info), stream.info.file_size, stream.info
        if scheme == "scripts":
            content = re.sub(rb"^#!pythonw?", f"#!/{PREFIX}/bin/python".encode(), stream.read())
            self._writer.add_file(place, content, size=len(content), executable=True, mtime=mtime)
            return _record(self._relative(place), hashlib.sha256(content).digest(), len(content))
        if size is None or member is None:
            content = stream.read()
            self._writer.add_file(place, content, size=len(content), executable=is_executable, mtime=mtime)
            return _record(self._relative(place), hashlib.sha256(content).digest(), len(content))
        linked = self._link_repeated(member, place, is_executable, mtime)
        if linked is None:
            self._writer.add_file(place, stream, size=size, executable=is_executable, mtime=mtime)
        return _record(self._relative(place), linked or stream.digest.digest(), size)

    def _link_repeated(self, member: zipfile.ZipInfo, place: str, executable: bool, mtime: int) -> bytes | None:
        """Write a repeated file as a hard link to its first appearance; give its sha256, or None if it was not done."""
        if (member.CRC, member.file_size) not in self._source.repeated:
            return None
        digest = hashlib.sha256()
        with self._source.archive.open(member) as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        first = self._linkable.setdefault((digest.digest(), executable), place)
        if first == place:
            return None
        self._writer.add_hardlink(place, first, executable=executable, mtime=mtime)
        return digest.digest()

    def write_script(self, name: str, module: str, attr: str, section: str) -> RecordEntry:
        """Write the launcher of an entry point."""
        del section
        place = self._place("scripts", name)
        content = render_launcher(module, attr)
        self._writer.add_file(place, content, size=len(content), executable=True)
        return _record(self._relative(place), hashlib.sha256(content).digest(), len(content))

    def finalize_installation(self, scheme: str, record_file_path: str, records: Any) -> None:
        """Write RECORD: what is here, with digests of what was written and not of what the wheel says."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        for _, record in records:
            table.writerow([record.path, str(record.hash_ or ""), "" if record.size is None else record.size])
        content = text.getvalue().encode()
        self._writer.add_file(self._place(scheme, record_file_path), content, size=len(content))

    def _place(self, scheme: str, path: str) -> str:
        """Give the place of a file, once.

        Raises:
            BuildError: It is outside of the image, or two files of the wheel go there.
        """
        place = self._locate(scheme, path)
        parents = {parent.as_posix() for parent in PurePosixPath(place).parents}
        if place in self._places or place in self._folders or parents & self._places:
            raise BuildError(
                f"{self._source.wheel.file} brings {place} twice, or as a file and as a folder",
                hint=f"ask for another version of {self._source.wheel.name}",
            )
        self._places.add(place)
        self._folders |= parents
        return place

    def _locate(self, scheme: str, path: str) -> str:
        clean = check_path(path, package=self._source.wheel.file)
        match scheme:
            case "purelib" | "platlib":
                return f"{self._site}/{clean}"
            case "scripts":
                return f"{PREFIX}/bin/{clean}"
            case "data":
                return f"{PREFIX}/{clean}"
            case "headers":
                return f"{PREFIX}/include/site/python{self._short}/{self._source.distribution}/{clean}"
            case _:
                raise BuildError(f"{self._source.wheel.file}: unknown scheme {scheme!r}")

    def _relative(self, place: str) -> str:
        if place.startswith(self._site + "/"):
            return place[len(self._site) + 1 :]
        return "../../../" + place[len(PREFIX) + 1 :]


def _mtime(info: zipfile.ZipInfo) -> int:
    try:
        return timegm((*info.date_time, 0, 0, 0))
    except ValueError:
        # Month or day zero: what some tools write for "no time".
        return GENERATED_MTIME


def _record(path: str, sha256: bytes, size: int) -> RecordEntry:
    digest = base64.urlsafe_b64encode(sha256).rstrip(b"=").decode()
    return RecordEntry(path, Hash("sha256", digest), size)
