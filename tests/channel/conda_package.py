"""Write a conda package: files and index metadata in, one `.conda` or `.tar.bz2` file out, always the same bytes.

Source: the layout that conda-build 24 writes (CEP 27, CEP 34, CEP 35): info/index.json, paths.json, files, has_prefix,
link.json, about.json, hash_input.json; in a `.conda` a stored zip of metadata.json, pkg-*.tar.zst, info-*.tar.zst.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import posixpath
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_PLACEHOLDER_LENGTH = 255
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One path of a package.

    Attributes:
        path: Below the prefix, with forward slashes.
        content: Bytes, or what opens them.
        size_bytes: Where content is opened.
        executable: Whether it is.
        link: Target, if it is a symbolic link.
        hard_link: Path of the file of this package that it is a second name of.
        folder: Whether it is an empty folder.
        placeholder: The build prefix, if it is in the content.
        binary: Whether the prefix is to be replaced as in a binary.
        no_link: Whether it must be copied.
        mtime: Seconds since the epoch; the package's own timestamp if None.
    """

    path: str
    content: bytes | Callable[[], BinaryIO] = b""
    size_bytes: int = 0
    executable: bool = False
    link: str | None = None
    hard_link: str | None = None
    folder: bool = False
    placeholder: str | None = None
    binary: bool = False
    no_link: bool = False
    mtime: int | None = None

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.size_bytes

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        with io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content() as stream:
            yield stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """What a package is, apart from its files.

    Attributes:
        name: Conda name.
        version: Version.
        build: The whole build string; made of the next three and a hash of the build's variables if None.
        build_prefix: Put before that hash, such as "py311".
        build_suffix: Put behind the number, such as "_cpython".
        build_number: Build number.
        depends: Match specs.
        constrains: Match specs.
        noarch: "python", "generic" or None.
        platform: Subdir it is built for, where it is not noarch.
        license: SPDX expression.
        timestamp: When it was built, in seconds since the epoch; None leaves it out, as old packages do.
        track_features: Words that make a solver prefer others.
        entry_points: Of a noarch python package, such as ("hello = hello:main",).
        summary: One line.
        variables: Build variables, of which the build string's hash is made.
        run_exports: What packages built against it depend on.
        extra: More of info/index.json.
        info: More files below info/.
    """

    name: str
    version: str
    build: str | None = None
    build_prefix: str = ""
    build_suffix: str = ""
    build_number: int = 0
    depends: tuple[str, ...] = ()
    constrains: tuple[str, ...] = ()
    noarch: Literal["python", "generic"] | None = None
    platform: str = "linux-64"
    license: str = "Apache-2.0"
    timestamp: int | None = 1_735_689_600
    track_features: tuple[str, ...] = ()
    entry_points: tuple[str, ...] = ()
    summary: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    run_exports: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def subdir(self) -> str:
        return "noarch" if self.noarch else self.platform

    @property
    def build_string(self) -> str:
        if self.build is not None:
            return self.build
        text = json.dumps(self.hash_input, sort_keys=True)
        return (
            f"{self.build_prefix}h{hashlib.sha1(text.encode()).hexdigest()[:7]}_{self.build_number}{self.build_suffix}"
        )

    @property
    def hash_input(self) -> dict[str, str]:
        return {"channel_targets": "conda-forge main", "target_platform": self.subdir, **self.variables}

    @property
    def dist(self) -> str:
        """Name, version and build, as in the file's name."""
        return f"{self.name}-{self.version}-{self.build_string}"

    @property
    def mtime(self) -> int:
        """When files were made that say nothing of it."""
        return self.timestamp if self.timestamp is not None else 1_483_228_800

    @property
    def prefix(self) -> str:
        """The folder that it was built in, 255 characters long, as conda-build makes them."""
        head = f"/home/conda/feedstock_root/build_artifacts/{self.name}_{self.mtime}000/_h_env_"
        return (head + "placehold_" * _PLACEHOLDER_LENGTH)[:_PLACEHOLDER_LENGTH]


def index_json(package: Package) -> dict[str, Any]:
    """Make info/index.json."""
    architectures = {"linux-64": ("x86_64", "linux"), "linux-aarch64": ("aarch64", "linux")}
    arch, platform = (None, None) if package.noarch else architectures[package.platform]
    document: dict[str, Any] = {
        "arch": arch,
        "build": package.build_string,
        "build_number": package.build_number,
        "depends": list(package.depends),
        "license": package.license,
        "name": package.name,
        "platform": platform,
        "subdir": package.subdir,
        "version": package.version,
    }
    if package.constrains:
        document["constrains"] = list(package.constrains)
    if package.noarch:
        document["noarch"] = package.noarch
    if package.timestamp is not None:
        document["timestamp"] = package.timestamp * 1000
    if package.track_features:
        document["track_features"] = " ".join(package.track_features)
    return {**document, **package.extra}


def write_package(
    package: Package,
    files: Iterable[File],
    folder: Path,
    *,
    kind: Literal["conda", "tar.bz2"] = "conda",
    paths_json: bool = True,
    change_info: Callable[[dict[str, bytes]], None] | None = None,
    raw: Iterable[tuple[tarfile.TarInfo, bytes]] = (),
) -> Path:
    """Write a package into `folder`/subdir.

    Args:
        package: What it is.
        files: Its paths, in any order.
        folder: The channel.
        kind: Which format.
        paths_json: False leaves info/paths.json out, as packages of before 2016 do.
        change_info: Called with info/* before it is written, to do harm.
        raw: Members put behind all others just as they are, to do harm.

    Returns:
        The file.
    """
    target = folder / package.subdir / f"{package.dist}.{kind}"
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.part")
    payload = sorted(files, key=lambda file: file.path)
    body = target.with_name(f".{target.name}.pkg")
    try:
        with body.open("wb") as stream, _open_tar(stream, kind) as archive:
            rows = _write_payload(archive, package, payload, raw)
            info = _info(package, payload, rows, paths_json, change_info)
            if kind == "tar.bz2":
                _write_info(archive, info, package.mtime)
        if kind == "tar.bz2":
            body.replace(aside)
        else:
            buffer = io.BytesIO()
            with _open_tar(buffer, kind) as archive:
                _write_info(archive, info, package.mtime)
            with zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr(zipfile.ZipInfo("metadata.json", _ZIP_TIME), b'{"conda_pkg_format_version": 2}')
                with (
                    body.open("rb") as source,
                    archive.open(
                        zipfile.ZipInfo(f"pkg-{package.dist}.tar.zst", _ZIP_TIME), "w", force_zip64=False
                    ) as member,
                ):
                    while chunk := source.read(1 << 20):
                        member.write(chunk)
                archive.writestr(zipfile.ZipInfo(f"info-{package.dist}.tar.zst", _ZIP_TIME), buffer.getvalue())
        aside.replace(target)
    finally:
        body.unlink(missing_ok=True)
        aside.unlink(missing_ok=True)
    return target


@contextmanager
def _open_tar(stream: BinaryIO, kind: str) -> Iterator[tarfile.TarFile]:
    packed: Any = bz2.BZ2File(stream, "wb") if kind == "tar.bz2" else zstd.ZstdFile(stream, "w", level=3)
    with packed, tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as archive:
        yield archive


class _Hashing:
    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.digest.update(data)
        return data


def _write_payload(
    archive: tarfile.TarFile, package: Package, files: list[File], raw: Iterable[tuple[tarfile.TarInfo, bytes]]
) -> list[dict[str, Any]]:
    """Write the payload; gives the rows of paths.json."""
    hashes: dict[str, tuple[str, int]] = {}
    # A hard link must come behind what it is a name of.
    for file in sorted(files, key=lambda file: file.hard_link is not None):
        member = _member(file.path, mtime=file.mtime if file.mtime is not None else package.mtime)
        if file.folder:
            member.type, member.mode = tarfile.DIRTYPE, 0o775
            archive.addfile(member)
        elif file.link is not None:
            member.type, member.linkname, member.mode = tarfile.SYMTYPE, file.link, 0o777
            archive.addfile(member)
        elif file.hard_link is not None:
            member.type, member.linkname = tarfile.LNKTYPE, file.hard_link
            archive.addfile(member)
            hashes[file.path] = hashes[file.hard_link]
        else:
            member.size, member.mode = file.size, 0o775 if file.executable else 0o664
            with file.open() as stream:
                hashing = _Hashing(stream)
                archive.addfile(member, hashing)  # type: ignore[arg-type]
            hashes[file.path] = (hashing.digest.hexdigest(), file.size)
    for member, content in raw:
        archive.addfile(member, io.BytesIO(content))
    return [_path_row(file, files, hashes) for file in files]


def _member(path: str, *, mtime: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.mtime, member.mode = mtime, 0o664
    return member


def _path_row(file: File, files: list[File], hashes: dict[str, tuple[str, int]]) -> dict[str, Any]:
    row: dict[str, Any] = {"_path": file.path}
    if file.folder:
        return {**row, "path_type": "directory"}
    if file.link is not None:
        # conda-build hashes what the link leads to, and nothing where that is a folder or missing.
        sha256, size = _follow(file, files, hashes)
        return {**row, "path_type": "softlink", "sha256": sha256, "size_in_bytes": size}
    sha256, size = hashes[file.path]
    row |= {"path_type": "hardlink", "sha256": sha256, "size_in_bytes": size}
    if file.no_link:
        row["no_link"] = True
    if file.placeholder is not None:
        row |= {"prefix_placeholder": file.placeholder, "file_mode": "binary" if file.binary else "text"}
    return row


def _follow(file: File, files: list[File], hashes: dict[str, tuple[str, int]]) -> tuple[str, int]:
    links = {other.path: other.link for other in files if other.link is not None}
    path = file.path
    for _ in range(40):
        if path not in links:
            break
        path = posixpath.normpath(posixpath.join(posixpath.dirname(path), links[path] or ""))
    return hashes.get(path, (EMPTY_SHA256, 0))


def _info(
    package: Package,
    files: list[File],
    rows: list[dict[str, Any]],
    paths_json: bool,
    change: Callable[[dict[str, bytes]], None] | None,
) -> dict[str, bytes]:
    info: dict[str, bytes] = {
        "info/index.json": _json(index_json(package)),
        "info/files": "".join(f"{file.path}\n" for file in files).encode(),
        "info/about.json": _json(
            {
                "channels": ["conda-forge"],
                "conda_build_version": "24.11.2",
                "home": "",
                "license": package.license,
                "root_pkgs": [],
                "summary": package.summary or package.name,
            }
        ),
        "info/hash_input.json": _json(package.hash_input),
        **{f"info/{name}": content for name, content in package.info.items()},
    }
    if paths_json:
        info["info/paths.json"] = _json({"paths": rows, "paths_version": 1})
    prefixed = [file for file in files if file.placeholder is not None]
    if prefixed:
        lines = [f"{file.placeholder} {'binary' if file.binary else 'text'} {_quote(file.path)}\n" for file in prefixed]
        info["info/has_prefix"] = "".join(lines).encode()
    unlinked = [file.path for file in files if file.no_link]
    if unlinked:
        info["info/no_link"] = "".join(f"{path}\n" for path in unlinked).encode()
    if package.noarch == "python":
        noarch: dict[str, Any] = {"type": "python"}
        if package.entry_points:
            noarch["entry_points"] = list(package.entry_points)
        info["info/link.json"] = _json({"noarch": noarch, "package_metadata_version": 1})
    if package.run_exports:
        info["info/run_exports.json"] = _json({"weak": list(package.run_exports)})
    if change:
        change(info)
    return info


def _quote(path: str) -> str:
    return f'"{path}"' if " " in path else path


def _json(document: Any) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False).encode()


def _write_info(archive: tarfile.TarFile, info: dict[str, bytes], mtime: int) -> None:
    for path in sorted(info):
        member = _member(path, mtime=mtime)
        member.size = len(info[path])
        archive.addfile(member, io.BytesIO(info[path]))


def seconds(date: str) -> int:
    """Seconds since the epoch of a date such as "2024-07-01", in UTC."""
    return int(datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp())
