"""Addresses and checksums of packages, as lockfiles of other tools hold them. Pure.

Every address loses user, password, token and query here, before anything else sees it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename

from reprobox.errors import EnvironmentInvalid

_SUBDIR = re.compile(r"noarch|(?:linux|osx|win|freebsd|zos|emscripten|wasi)-[a-z0-9_]+")
_TOKEN = re.compile(rf"(^|/)t/(?!(?:{_SUBDIR.pattern})/)[^/]+(?=/)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CONDA_FILE = re.compile(r"(?P<stem>\w[A-Za-z0-9_.+!~-]*?)(?:\.conda|\.tar\.bz2)", re.ASCII)
_ARCHIVES = (".whl", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")


def strip_credentials(address: str) -> str:
    """Strip user, password, token, query and fragment from an address.

    An ssh address keeps its user, which is no secret and needed to log in.
    """
    scheme, separator, rest = address.partition("://")
    if not separator:
        return re.split(r"[?#]", address, maxsplit=1)[0]
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    user, at, host = host.rpartition("@")
    kept = user.partition(":")[0] + at if scheme.endswith("ssh") else ""
    return f"{scheme}://{kept}{host}{slash}{_TOKEN.sub(r'', path).lstrip('/') if host else path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CondaPlace:
    """What an address says of a conda package; the attributes are those of PinnedConda."""

    name: str
    version: str
    build: str
    channel: str
    subdir: str
    file: str
    address: str


def parse_conda_address(address: str, *, where: str, platform: str) -> CondaPlace:
    """Parse the address of a conda package.

    Args:
        address: A URL, or a channel's name with folder and file.
        where: File and line, for messages.
        platform: The platform that it must be for.

    Raises:
        EnvironmentInvalid: It is no such address, or of another platform.
    """
    plain = strip_credentials(address.strip())
    folder, _, file = plain.rpartition("/")
    file = unquote(file)
    named = _CONDA_FILE.fullmatch(file)
    parts = named["stem"].rsplit("-", 2) if named else []
    if _SCHEME.match(plain):
        sound = re.fullmatch(r"(?:file://[^\s\x00-\x1f]*|[A-Za-z0-9+.-]+://[^/\s\x00-\x1f][^\s\x00-\x1f]*)", folder)
    else:
        sound = re.fullmatch(r"[A-Za-z0-9][\w.+-]*(?:/[\w+-][\w.+-]*)*", folder, re.ASCII)
    if not sound or len(parts) != 3 or not all(parts):
        raise EnvironmentInvalid(
            f"{where}: {plain[:200]!r} is no address of a conda package",
            hint="it must be a URL that ends in /PLATFORM/name-version-build.conda or .tar.bz2",
        )
    above, _, last = folder.rpartition("/")
    subdir = last if _SUBDIR.fullmatch(last) else ""
    if subdir not in ("", "noarch", platform):
        raise EnvironmentInvalid(
            f"{where}: {file} is a package for {subdir}, not for {platform}", hint=f"lock again for {platform}"
        )
    return CondaPlace(
        name=parts[0],
        version=parts[1],
        build=parts[2],
        channel=above if subdir else folder,
        subdir=subdir,
        file=file,
        address=plain if _SCHEME.match(plain) else "",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelPlace:
    """What an address says of a wheel or source archive.

    Attributes:
        kind: "git" (a commit), "file" (an archive), or "folder" (a folder beside the lockfile, or a file there).
        address: Without credentials.
        revision: Of git: what it names, or "".
        file: File name, or None.
        sha256: Digest that the address carries, or None.
        version: Version that the file's name says, or "".
        name: Normalised name that the file's name says, or "".
    """

    kind: Literal["git", "file", "folder"]
    address: str
    revision: str = ""
    file: str | None = None
    sha256: str | None = None
    version: str = ""
    name: str = ""


def parse_wheel_address(address: str, *, where: str) -> WheelPlace:
    """Parse the address of a wheel, a source archive, a git commit or a folder.

    Args:
        address: As pip, conda-lock or pixi write it.
        where: File and line, for messages.

    Raises:
        EnvironmentInvalid: It is a wheel for another system than Linux, or the name of a file cannot be read.
    """
    address = address.strip().removeprefix("direct+")
    fragments = dict(part.partition("=")[::2] for part in address.partition("#")[2].split("&"))
    if address.startswith("git+"):
        return _parse_git(address, fragments, where)
    plain = strip_credentials(address)
    file = unquote(plain.rpartition("/")[2])
    if re.search(r"[\s\x00-\x1f]", plain) or re.search(r"[/\\\x00-\x1f]", file):
        raise EnvironmentInvalid(f"{where}: {plain[:200]!r} is no address", hint="correct the address")
    if not _SCHEME.match(plain) or (plain.startswith("file://") and not file.endswith(_ARCHIVES)):
        return WheelPlace(kind="folder", address=plain)
    name, version = _parse_archive_name(file, where)
    sha256 = parse_checksum(fragments.get("sha256"), algorithm="sha256", where=where)
    return WheelPlace(kind="file", address=plain, file=file or None, sha256=sha256, name=name, version=version)


def _parse_git(address: str, fragments: dict[str, str], where: str) -> WheelPlace:
    """Read both spellings: pip's `@REVISION#subdirectory=…`, and uv's `?rev=…&subdirectory=…#REVISION`."""
    plain = strip_credentials(address)
    queries = dict(part.partition("=")[::2] for part in address.partition("#")[0].partition("?")[2].split("&"))
    scheme, separator, rest = plain.partition("://")
    host, slash, path = rest.partition("/")
    path, _, revision = path.partition("@")
    commits = [key for key, value in fragments.items() if not value and re.fullmatch(r"[0-9a-f]{7,64}", key)]
    revision = commits[0] if commits else revision or queries.get("rev", "")
    folder = fragments.get("subdirectory") or unquote(queries.get("subdirectory", ""))
    if not path or not re.fullmatch(r"(?:[\w.-]+(?:/[\w.-]+)*/?)?", folder) or ".." in folder.split("/"):
        raise EnvironmentInvalid(f"{where}: {plain[:200]!r} is no address of a git commit", hint="correct the address")
    bare = f"{scheme}{separator}{host}{slash}{path}"
    full = f"{bare}@{revision}" if revision else bare
    return WheelPlace(kind="git", address=full + (f"#subdirectory={folder}" if folder else ""), revision=revision)


def _parse_archive_name(file: str, where: str) -> tuple[str, str]:
    try:
        if file.endswith(".whl"):
            name, version, _, tags = parse_wheel_filename(file)
            platforms = sorted({tag.platform for tag in tags})
            if not any(platform == "any" or "linux" in platform for platform in platforms):
                raise EnvironmentInvalid(
                    f"{where}: {file} is a wheel for {', '.join(platforms)}; images are Linux",
                    hint="lock again for Linux",
                )
            return name, str(version)
        name, version = parse_sdist_filename(file)
    except InvalidWheelFilename as error:
        raise EnvironmentInvalid(
            f"{where}: {file[:200]!r} is not the name of a wheel: {error}", hint="correct the address, or lock again"
        ) from None
    except InvalidSdistFilename:
        # An archive of some host, whose name says nothing that could be relied on.
        return "", ""
    return name, str(version)


def require_commit(place: WheelPlace, *, name: str, where: str) -> None:
    """Require that a git address names one commit.

    Raises:
        EnvironmentInvalid: It names a branch, a tag, a short commit or nothing.
    """
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", place.revision):
        raise EnvironmentInvalid(
            f"{where}: {name} comes from git without a whole commit: {place.address}",
            hint="write the commit's 40 digits after an @, and lock again",
        )


def parse_checksum(value: str | None, *, algorithm: Literal["md5", "sha256"], where: str) -> str | None:
    """Parse a checksum; an empty one is none.

    Raises:
        EnvironmentInvalid: It is no checksum of that algorithm.
    """
    digits = (value or "").strip().lower().removeprefix(algorithm + ":")
    if not digits:
        return None
    if not re.fullmatch(r"[0-9a-f]{%d}" % {"md5": 32, "sha256": 64}[algorithm], digits):  # noqa: UP031
        raise EnvironmentInvalid(f"{where}: {(value or '')[:80]!r} is no {algorithm}", hint="lock again")
    return digits


def refuse_unchecked(name: str, *, where: str) -> EnvironmentInvalid:
    """Give the refusal of a package without checksum."""
    return EnvironmentInvalid(
        f"{where}: {name} has no checksum, so its bytes could not be checked",
        hint="make the file anew with checksums (conda list --explicit --sha256, or --md5), or add the sha256 there",
    )
