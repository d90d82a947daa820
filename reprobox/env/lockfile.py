"""`reprobox.lock`: what an environment is pinned to. Pure: text in, values out, and back.

Format: docs/formats/lock-v1.md. The digest is taken over what the lock pins, not over `requested` and `tools`, which
note where that came from: one environment reached on two ways has one digest.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Literal, NewType

import yaml
from packaging.utils import canonicalize_name

from reprobox.env.bases import (
    DebianPackage,
    FlattenedBase,
    parse_flattened,
    parse_packages,
    render_flattened,
    render_packages,
    require_sha256,
    require_size,
)
from reprobox.env.documents import parse_yaml
from reprobox.errors import EnvironmentInvalid

LockDigest = NewType("LockDigest", str)
"""`sha256:` and 64 hex digits, over what a lock pins."""

LOCK_VERSION = 1
PLATFORMS = ("linux-64", "linux-aarch64")
LAYER_FORMAT = 2
"""Version of the rules that turn packages into layer bytes; part of every lock's digest."""

_HEADER = "# Written by `reprobox lock`. Commit it; to change it, edit environment.yml and lock again.\n"
_RELOCK = "lock again: reprobox lock"
_CONDA_PARTS = tuple(map(re.compile, (r"[a-z0-9_][a-z0-9_.-]*", r"[A-Za-z0-9_.!+]+", r"[A-Za-z0-9_.+]+")))
"""Name, version and build of a conda package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """One locked wheel.

    Attributes:
        name: Normalised project name.
        version: Version.
        file: File name; the index is the client's own configuration.
        size_bytes: Size of the file.
        sha256: Digest of the file, in hex.
        built_from: Note: what it was built from, where the index has no such wheel; it lies beside the lock then.
    """

    name: str
    version: str
    file: str
    size_bytes: int
    sha256: str
    built_from: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CondaPackage:
    """One locked conda package.

    Attributes:
        name: Package name.
        version: Version.
        build: Build string.
        channel: Name of the channel, never an address; where it is, the client's own configuration says.
        subdir: Platform folder of the channel, such as "linux-64" or "noarch".
        file: File name.
        size_bytes: Size of the file.
        sha256: Digest of the file, in hex.
        md5: The same with MD5, in hex, or None: a note that other tools' lockfiles need.
    """

    name: str
    version: str
    build: str
    channel: str
    subdir: str
    file: str
    size_bytes: int
    sha256: str
    md5: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedFiles:
    """What scripts of conda packages wrote at link time: one layer, made once and pinned like a package.

    Attributes:
        sha256: Digest of the layer's bytes, in hex; that of its file beside the lock, too.
        size_bytes: Size of the layer.
        files: Files and links in it.
        scripts: Paths of the scripts, in the order in which they ran.
    """

    sha256: str
    size_bytes: int
    files: int
    scripts: tuple[str, ...]

    @property
    def name(self) -> str:
        """A few words for messages and listings."""
        return "link scripts"

    @property
    def file(self) -> str:
        """Name of its file, beside a lock or in a mirror."""
        return f"{self.sha256}.tar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """What a lock was made from: a note, to tell when it is stale. It names no host.

    Attributes:
        sha256: Digest of the environment file's text; while it stays, nothing else needs to be compared.
        base: Name of the base.
        channels: Channels, in their order.
        conda: Match specifications, sorted.
        wheels: Requirements of the index, sorted.
        others: References and options of pip, sorted; addresses in them are digested.
        project: Folders of the project whose code is on the path of every run (`-e .`), relative to the project.
        base_sha256: Digest of what that base asked for; "" where it is not known.
        python: Where reprobox.toml says that the interpreter comes from: "base", "conda", or "auto" where it does not.
        link_scripts: Whether scripts of conda packages may run at link time.
    """

    sha256: str
    base: str
    base_sha256: str = ""
    python: str = "auto"
    link_scripts: bool = False
    channels: tuple[str, ...] = ()
    conda: tuple[str, ...] = ()
    wheels: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    project: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """A whole environment, pinned.

    Attributes:
        platform: Conda's name of the target, such as "linux-64".
        layer_format: Version of the layer rules.
        virtual_packages: What the host or base provides, such as {"__glibc": "2.36"}.
        python: Exact version of the interpreter.
        python_from: Whether the interpreter is a package of the base or of conda.
        omit: Path prefixes of Debian packages left out.
        keep: Exceptions from `omit`.
        debian: Debian packages, by name; none where the base is flattened.
        flattened: The base, where it was given as an image or a Dockerfile.
        conda: Conda packages, by name.
        linked: What scripts of conda packages wrote, where they were allowed to.
        wheels: Wheels, by name.
        cuda: What of CUDA the image is labelled with: "runtime", "cudnn" and "host" (what it asks of a driver), as far
            as there are any. Pinned, so that an image never follows from what a later reprobox knows of CUDA.
        variables: Environment variables of the image, sorted.
        requested: Note: what it was made from.
        tools: Note: versions of the tools that resolved it.
    """

    platform: str
    layer_format: int
    virtual_packages: tuple[tuple[str, str], ...]
    python: str
    omit: tuple[str, ...]
    keep: tuple[str, ...]
    debian: tuple[DebianPackage, ...]
    wheels: tuple[Wheel, ...]
    variables: tuple[tuple[str, str], ...]
    requested: Requested
    tools: tuple[tuple[str, str], ...]
    python_from: Literal["base", "conda"] = "base"
    flattened: FlattenedBase | None = None
    conda: tuple[CondaPackage, ...] = ()
    linked: LinkedFiles | None = None
    cuda: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> LockDigest:
        """The environment's identity."""
        pins = _pins(self)
        for row in (*pins.get("conda", ()), *pins["wheels"]):
            row.pop("md5", None)
            row.pop("built_from", None)
        return digest_pins(pins)


def _pins(lock: Lock) -> dict[str, Any]:
    conda = {"conda": [_conda_row(p) for p in sorted(lock.conda, key=lambda package: package.name)]}
    return {
        "platform": lock.platform,
        "layer_format": lock.layer_format,
        "virtual_packages": dict(lock.virtual_packages),
        "python": {"version": lock.python, "from": lock.python_from},
        "base": {
            "omit": list(lock.omit),
            "keep": list(lock.keep),
            "packages": render_packages(lock.debian),
            **({"flattened": render_flattened(lock.flattened)} if lock.flattened else {}),
        },
        **(conda if lock.conda else {}),
        **({"link_scripts": _linked_row(lock.linked)} if lock.linked else {}),
        **({"cuda": dict(lock.cuda)} if lock.cuda else {}),
        "wheels": [_wheel_row(wheel) for wheel in sorted(lock.wheels, key=lambda wheel: wheel.name)],
        "variables": dict(lock.variables),
    }


def _wheel_row(wheel: Wheel) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": wheel.name, "version": wheel.version, "file": wheel.file, "size": wheel.size_bytes,
        "sha256": wheel.sha256,
    }  # fmt: skip
    return row if wheel.built_from is None else {**row, "built_from": wheel.built_from}


def _conda_row(package: CondaPackage) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": package.name, "version": package.version, "build": package.build, "channel": package.channel,
        "subdir": package.subdir, "file": package.file, "size": package.size_bytes, "sha256": package.sha256,
    }  # fmt: skip
    return row if package.md5 is None else {**row, "md5": package.md5}


def _linked_row(linked: LinkedFiles) -> dict[str, Any]:
    return {
        "sha256": linked.sha256, "size": linked.size_bytes, "files": linked.files, "scripts": list(linked.scripts),
    }  # fmt: skip


def digest_pins(pins: dict[str, Any]) -> LockDigest:
    """Digest what a lock pins: sha256 over its JSON with sorted keys and no spaces."""
    text = json.dumps(pins, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return LockDigest("sha256:" + hashlib.sha256(b"reprobox lock-v1\n" + text.encode()).hexdigest())


def render_lock(lock: Lock) -> str:
    """Render a lock as the text of a `reprobox.lock`: sorted, one package a block."""
    document = {
        "version": LOCK_VERSION,
        **_pins(lock),
        "requested": {
            "sha256": lock.requested.sha256,
            "base": lock.requested.base,
            **({"base_sha256": lock.requested.base_sha256} if lock.requested.base_sha256 else {}),
            **({"python": lock.requested.python} if lock.requested.python != "auto" else {}),
            **({"link_scripts": True} if lock.requested.link_scripts else {}),
            "channels": list(lock.requested.channels),
            "conda": list(lock.requested.conda),
            "wheels": list(lock.requested.wheels),
            "others": list(lock.requested.others),
            **({"project": list(lock.requested.project)} if lock.requested.project else {}),
        },
        "tools": dict(lock.tools),
    }
    blocks = [
        yaml.dump({key: value}, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=200)
        for key, value in document.items()
    ]
    return _HEADER + "".join(blocks)


def parse_lock(text: str, *, source: str, any_format: bool = False) -> Lock:
    """Parse the text of a `reprobox.lock`.

    Args:
        text: The file's content.
        source: Its name, for messages.
        any_format: Whether a lock for other layer rules is read too, for the versions that it holds.

    Raises:
        EnvironmentInvalid: Not a lock of a known version, or a package without file, size or sha256.
    """
    document = parse_yaml(text, source=source, hint=_RELOCK, aliases=False)
    if not isinstance(document, dict) or "version" not in document:
        raise EnvironmentInvalid(f"{source}: not a reprobox.lock", hint=_RELOCK)
    if type(document["version"]) is not int or document["version"] != LOCK_VERSION:
        raise EnvironmentInvalid(
            f"{source}: lock version {document['version']!r} is not known here (this reprobox writes {LOCK_VERSION})",
            hint="upgrade reprobox, or lock again with this one: reprobox lock",
        )
    try:
        lock = _read(document, source)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise EnvironmentInvalid(f"{source}: the lock is incomplete or damaged ({reason})", hint=_RELOCK) from None
    if lock.layer_format != LAYER_FORMAT and not any_format:
        raise EnvironmentInvalid(
            f"{source}: layer format {lock.layer_format} is not what this reprobox writes ({LAYER_FORMAT})",
            hint="use the reprobox that made the lock, or lock again: reprobox lock",
        )
    return lock


def _read(document: dict[str, Any], source: str) -> Lock:
    requested = document["requested"]
    platform, python = document["platform"], document["python"]
    plain = re.fullmatch(r"\d+\.\d+\.\d+([a-z0-9.]*)", str(python["version"]))
    if platform not in PLATFORMS or python["from"] not in ("base", "conda") or not plain:
        raise EnvironmentInvalid(
            f"{source}: platform {platform!r} with python {python!r} is nothing that this reprobox builds", hint=_RELOCK
        )
    virtual_packages = {str(key): str(value) for key, value in document["virtual_packages"].items()}
    if not re.fullmatch(r"\d+\.\d+", virtual_packages.get("__glibc", "")):
        raise EnvironmentInvalid(f"{source}: virtual_packages has no version of __glibc", hint=_RELOCK)
    wheels: dict[str, Wheel] = {}
    for row in document["wheels"]:
        wheel = _wheel(row, source)
        if wheel.name in wheels:
            raise EnvironmentInvalid(f"{source}: {wheel.name} stands twice", hint=_RELOCK)
        wheels[wheel.name] = wheel
    conda: dict[str, CondaPackage] = {}
    for row in document.get("conda", []):
        package = _conda(row, source)
        if package.name in conda:
            raise EnvironmentInvalid(f"{source}: {package.name} stands twice", hint=_RELOCK)
        conda[package.name] = package
    if python["from"] == "conda" and getattr(conda.get("python"), "version", None) != python["version"]:
        raise EnvironmentInvalid(f"{source}: python {python['version']} is not among its conda packages", hint=_RELOCK)
    return Lock(
        platform=platform,
        layer_format=require_size(document["layer_format"], source=source, name="layer_format"),
        virtual_packages=tuple(sorted(virtual_packages.items())),
        python=python["version"],
        omit=tuple(map(str, document["base"]["omit"])),
        keep=tuple(map(str, document["base"]["keep"])),
        debian=parse_packages(document["base"]["packages"], source=source),
        python_from=python["from"],
        flattened=(
            parse_flattened(document["base"]["flattened"], name=str(requested["base"]), source=source)
            if "flattened" in document["base"]
            else None
        ),
        conda=tuple(conda[name] for name in sorted(conda)),
        wheels=tuple(wheels[name] for name in sorted(wheels)),
        linked=_linked(document["link_scripts"], source) if "link_scripts" in document else None,
        cuda=_cuda(document.get("cuda", {}), source),
        variables=tuple(sorted((str(k), str(v)) for k, v in document["variables"].items())),
        requested=Requested(
            sha256=str(requested["sha256"]),
            base=str(requested["base"]),
            base_sha256=str(requested.get("base_sha256", "")),
            python=str(requested.get("python", "auto")),
            link_scripts=requested.get("link_scripts") is True,
            channels=tuple(map(str, requested.get("channels", ()))),
            conda=tuple(map(str, requested.get("conda", ()))),
            wheels=tuple(map(str, requested["wheels"])),
            others=tuple(map(str, requested.get("others", ()))),
            project=tuple(map(str, requested.get("project", ()))),
        ),
        tools=tuple(sorted((str(k), str(v)) for k, v in document.get("tools", {}).items())),
    )


def _wheel(row: dict[str, Any], source: str) -> Wheel:
    file = str(row["file"])
    # Name, version, an optional build, and three tags; what the name says in full is checked when it is unpacked.
    if not re.fullmatch(r"[A-Za-z0-9._]+-[A-Za-z0-9._!+]+(-[0-9][A-Za-z0-9._]*)?(-[A-Za-z0-9._]+){3}\.whl", file):
        raise EnvironmentInvalid(f"{source}: {file!r} is not the name of a wheel", hint=_RELOCK)
    name, version = str(row["name"]), str(row["version"])
    # Both are asked of the resolver later: a line of its own in one of them would be an option.
    if canonicalize_name(file.partition("-")[0]) != canonicalize_name(name) or re.search(r"[\s,;@\x00-\x1f]", version):
        raise EnvironmentInvalid(f"{source}: {file!r} is not the wheel of {name!r} {version!r}", hint=_RELOCK)
    return Wheel(
        name=str(row["name"]),
        version=str(row["version"]),
        file=file,
        size_bytes=require_size(row["size"], source=source, name=file),
        sha256=require_sha256(row["sha256"], source=source, name=file),
        built_from=None if row.get("built_from") is None else str(row["built_from"]),
    )


def _conda(row: dict[str, Any], source: str) -> CondaPackage:
    file = str(row["file"])
    name, version, build, subdir = (str(row[key]) for key in ("name", "version", "build", "subdir"))
    stem, parts = re.sub(r"\.(conda|tar\.bz2)$", "", file), (name, version, build)
    plain = all(form.fullmatch(part) for form, part in zip(_CONDA_PARTS, parts, strict=True))
    # A package's name is in lower case; its file may be older than that rule.
    if not plain or stem == file or stem.lower() != "-".join(parts).lower():
        raise EnvironmentInvalid(f"{source}: {file!r} is not the file of {name} {version} {build}", hint=_RELOCK)
    if subdir not in (*PLATFORMS, "noarch"):
        raise EnvironmentInvalid(f"{source}: {file} is for {subdir!r}, which is no platform here", hint=_RELOCK)
    channel = str(row["channel"])
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_./-]*", channel) or ".." in channel.split("/"):
        raise EnvironmentInvalid(f"{source}: {file} comes from {channel!r}, which is no channel", hint=_RELOCK)
    md5 = row.get("md5")
    if md5 is not None and not re.fullmatch(r"[0-9a-f]{32}", str(md5)):
        raise EnvironmentInvalid(f"{source}: {file} has the md5 {md5!r}, which is none", hint=_RELOCK)
    return CondaPackage(
        name=name,
        version=version,
        build=build,
        channel=channel,
        subdir=subdir,
        file=file,
        size_bytes=require_size(row["size"], source=source, name=file),
        sha256=require_sha256(row["sha256"], source=source, name=file),
        md5=None if md5 is None else str(md5),
    )


def _linked(row: dict[str, Any], source: str) -> LinkedFiles:
    return LinkedFiles(
        sha256=require_sha256(row["sha256"], source=source, name="link_scripts"),
        size_bytes=require_size(row["size"], source=source, name="link_scripts"),
        files=require_size(row["files"], source=source, name="link_scripts"),
        scripts=tuple(map(str, row["scripts"])),
    )


def _cuda(rows: dict[str, Any], source: str) -> tuple[tuple[str, str], ...]:
    for key, value in rows.items():
        if key not in ("runtime", "cudnn", "host") or not re.fullmatch(r"[A-Za-z0-9.,<>=+_-]{1,100}", str(value)):
            raise EnvironmentInvalid(f"{source}: cuda holds {key!r}: {value!r}, which is nothing known", hint=_RELOCK)
    return tuple(sorted((str(key), str(value)) for key, value in rows.items()))
