"""Real packages, small and made here: wheels, .deb files, locks; and reading a layer back."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reprobox.env.bases import DebianPackage
from reprobox.env.lockfile import LAYER_FORMAT, Lock, Requested, Wheel
from reprobox.image.layers import LayerDigest, LayerWriter
from reprobox.image.wheels import Compile, write_wheel

PYTHON = "3.11.2"
SITE = "opt/env/lib/python3.11/site-packages"
NOON = (2021, 6, 15, 12, 30, 2)
NOON_S = 1_623_760_202


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file of a wheel."""

    data: bytes
    executable: bool = False
    date: tuple[int, int, int, int, int, int] = NOON


def record_hash(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def make_wheel(
    folder: Path,
    members: Mapping[str, bytes | Member] | Sequence[tuple[str, bytes | Member]],
    *,
    name: str = "thing",
    version: str = "1.0",
    entry_points: str = "",
    record: str | None = None,
    metadata: bool = True,
    stored: bool = False,
) -> tuple[Wheel, Path]:
    """Write a wheel; RECORD is true unless another one is given."""
    pairs = list(members.items()) if isinstance(members, Mapping) else list(members)
    info = f"{name}-{version}.dist-info"
    if metadata:
        pairs.append((f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()))
        pairs.append((f"{info}/WHEEL", b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"))
        if entry_points:
            pairs.append((f"{info}/entry_points.txt", entry_points.encode()))
    rows = []
    file = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        for path, member in pairs:
            it = member if isinstance(member, Member) else Member(data=member)
            header = zipfile.ZipInfo(path, it.date)
            header.external_attr = (0o100755 if it.executable else 0o100644) << 16
            header.compress_type = archive.compression
            archive.writestr(header, it.data)
            rows.append(f"{path},{record_hash(it.data)},{len(it.data)}\n")
        text = "".join(rows) + f"{info}/RECORD,,\n" if record is None else record
        if metadata:
            archive.writestr(zipfile.ZipInfo(f"{info}/RECORD", NOON), text)
    return wheel_of(file, name=name, version=version), file


def wheel_of(file: Path, *, name: str = "thing", version: str = "1.0") -> Wheel:
    data = file.read_bytes()
    return Wheel(
        name=name, version=version, file=file.name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
    )


def compile_nothing(archive: Path, members: Sequence[tuple[str, str]]) -> list[bytes | None]:
    """Stands in for the locked interpreter: no source compiles."""
    del archive
    return [None for _ in members]


def compile_plainly(archive: Path, members: Sequence[tuple[str, str]]) -> list[bytes | None]:
    """Stands in for the locked interpreter: "bytecode" that names where the source will lie."""
    del archive
    return [b"code of " + place.encode() for _, place in members]


@dataclass(frozen=True)
class Layer:
    """A written layer, read back."""

    data: bytes
    digest: LayerDigest

    def entries(self) -> list[tarfile.TarInfo]:
        with tarfile.open(fileobj=io.BytesIO(self.data)) as archive:
            return archive.getmembers()

    def names(self) -> list[str]:
        return [entry.name for entry in self.entries()]

    def files(self) -> dict[str, bytes]:
        """Path → content, hard links followed; no path may stand twice."""
        found: dict[str, bytes] = {}
        with tarfile.open(fileobj=io.BytesIO(self.data)) as archive:
            for entry in archive.getmembers():
                assert entry.name not in found, f"{entry.name} stands twice"
                if entry.isreg() or entry.islnk():
                    stream = archive.extractfile(entry)
                    assert stream is not None
                    found[entry.name] = stream.read()
        return found

    def get(self, path: str) -> tarfile.TarInfo:
        with tarfile.open(fileobj=io.BytesIO(self.data)) as archive:
            return archive.getmember(path)


def unpack(wheel: Wheel, file: Path, *, compile_sources: Compile = compile_nothing, python: str = PYTHON) -> Layer:
    """Write one wheel into a layer of its own."""
    stream = io.BytesIO()
    writer = LayerWriter(stream)
    write_wheel(wheel, file, writer=writer, python=python, compile_sources=compile_sources)
    digest = writer.finish()
    return Layer(stream.getvalue(), digest)


def ar_archive(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Source: deb(5), the common ar format."""
    parts = [b"!<arch>\n"]
    for name, data in members:
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data)
        parts.append(b"\n" * (len(data) % 2))
    return b"".join(parts)


def tar_file(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """A member for `make_deb`; `fields` are attributes of its TarInfo."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = len(data), NOON_S
    for key, value in fields.items():
        setattr(entry, key, value)
    return entry, data


def tar_link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return tar_file(name, type=kind, linkname=target)


def make_deb(
    folder: Path,
    name: str,
    members: Iterable[tuple[tarfile.TarInfo, bytes]],
    *,
    version: str = "1.0",
    packing: str = "xz",
    control: Iterable[tuple[tarfile.TarInfo, bytes]] = (),
) -> tuple[DebianPackage, Path]:
    """Write a .deb file: an ar archive of debian-binary, control.tar and data.tar."""
    about = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nDescription: made here\n".encode()
    data = ar_archive([
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", _tar([tar_file("./control", about), *control], "gz")),
        (f"data.tar.{packing}", _tar(members, packing)),
    ])  # fmt: skip
    file = folder / f"{name}_{version}_amd64.deb"
    file.write_bytes(data)
    return deb_of(file, name=name, version=version), file


def deb_of(file: Path, *, name: str, version: str = "1.0") -> DebianPackage:
    data = file.read_bytes()
    return DebianPackage(
        name=name,
        version=version,
        file=f"pool/main/{name[0]}/{name}/{file.name}",
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _tar(members: Iterable[tuple[tarfile.TarInfo, bytes]], packing: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{packing}", format=tarfile.GNU_FORMAT) as archive:
        for entry, data in members:
            archive.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def make_lock(
    *, wheels: Iterable[Wheel] = (), debian: Iterable[DebianPackage] = (), variables: Mapping[str, str] | None = None
) -> Lock:
    return Lock(
        platform="linux-64",
        layer_format=LAYER_FORMAT,
        virtual_packages=(("__glibc", "2.36"),),
        python=PYTHON,
        omit=("usr/share/doc/",),
        keep=("copyright",),
        debian=tuple(debian),
        wheels=tuple(wheels),
        variables=tuple(sorted((variables or {}).items())),
        requested=Requested(sha256="0" * 64, base="debian-12"),
        tools=(("uv", "0.9.0"),),
    )


def fake_wheel(name: str, *, size: int = 1000, version: str = "1.0") -> Wheel:
    """A row of a lock without a file."""
    return Wheel(
        name=name,
        version=version,
        file=f"{name.replace('-', '_')}-{version}-py3-none-any.whl",
        size_bytes=size,
        sha256=hashlib.sha256(f"{name}{version}".encode()).hexdigest(),
    )


def fake_deb(name: str, *, version: str = "1.0") -> DebianPackage:
    """A row of a lock without a file."""
    return DebianPackage(
        name=name,
        version=version,
        file=f"pool/main/{name[0]}/{name}/{name}_{version}_amd64.deb",
        size_bytes=1000,
        sha256=hashlib.sha256(f"deb {name}{version}".encode()).hexdigest(),
    )


def with_crc(prefix: bytes, crc: int) -> bytes:
    """Append the four bytes to `prefix` that give it this CRC-32.

    Source: the CRC register is a linear shift register; four bytes run backwards set it to anything.
    """
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
        table.append(value)
    by_top = {entry >> 24: index for index, entry in enumerate(table)}
    wanted = crc ^ 0xFFFFFFFF
    indices = []
    for _ in range(4):
        index = by_top[wanted >> 24]
        indices.append(index)
        wanted = (wanted ^ table[index]) << 8 & 0xFFFFFFFF
    register = zlib.crc32(prefix) ^ 0xFFFFFFFF
    tail = []
    for index in reversed(indices):
        tail.append((register ^ index) & 0xFF)
        register = register >> 8 ^ table[index]
    return prefix + struct.pack("4B", *tail)
