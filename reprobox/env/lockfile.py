"""`reprobox.lock`: what an environment is pinned to. Pure: text in, values out, and back.

Format: docs/formats/lock-v1.md. The digest is taken over what the lock pins, not over `requested` and `tools`, which
note where that came from: one environment reached on two ways has one digest.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NewType

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
from reprobox.env.channels import name_channel
from reprobox.env.documents import parse_yaml
from reprobox.errors import EnvironmentInvalid, LockStale

if TYPE_CHECKING:
    from reprobox.env.spec import EnvironmentSpec

LockDigest = NewType("LockDigest", str)
"""`sha256:` and 64 hex digits, over what a lock pins."""

LOCK_VERSION = 1
PLATFORMS = ("linux-64", "linux-aarch64")
LAYER_FORMAT = 1
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
    """

    sha256: str
    base: str
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
        wheels: Wheels, by name.
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


def parse_lock(text: str, *, source: str) -> Lock:
    """Parse the text of a `reprobox.lock`.

    Args:
        text: The file's content.
        source: Its name, for messages.

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
    if lock.layer_format != LAYER_FORMAT:
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
        variables=tuple(sorted((str(k), str(v)) for k, v in document["variables"].items())),
        requested=Requested(
            sha256=str(requested["sha256"]),
            base=str(requested["base"]),
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


def render_requested(spec: EnvironmentSpec, *, base: str) -> Requested:
    """Render what a specification asks for, as a lock notes it."""
    return Requested(
        sha256=spec.sha256,
        base=base,
        channels=tuple(name_channel(channel) for channel in spec.channels),
        conda=tuple(sorted(text for text, _ in _conda_texts(spec))),
        wheels=tuple(sorted(text for text, _ in _wheel_texts(spec))),
        others=tuple(sorted(text for text, _ in _others(spec))),
    )


def _conda_texts(spec: EnvironmentSpec) -> list[tuple[str, int]]:
    """What conda is asked for, each with its line; a channel that is given by its URL is named without its host."""
    return [(f"{name_channel(r.channel)}::{r.text}" if r.channel else r.text, r.line) for r in spec.conda]


def _wheel_texts(spec: EnvironmentSpec) -> list[tuple[str, int]]:
    """What the index is asked for, under normalised names, each with its line."""
    rows = [(re.sub(r"^[A-Za-z0-9._-]+", wheel.name, wheel.text), wheel) for wheel in spec.wheels]
    return [("".join([text, *(f" sha256:{digest}" for digest in sorted(w.sha256s))]), w.line) for text, w in rows]


def _others(spec: EnvironmentSpec) -> list[tuple[str, int]]:
    """References and options, each in one line without a host, with their lines in the file."""
    rows: list[tuple[list[str | None], int]] = []
    for r in spec.references:
        name = f"{r.name or ''}[{','.join(r.extras)}]" if r.extras else r.name
        words = ["editable" if r.editable else None, r.kind, name, _hide(r.address), r.revision]
        rows.append(([*words, r.subdirectory, r.sha256 and f"sha256:{r.sha256}"], r.line))
    rows += [([option.kind, _hide(option.value)], option.line) for option in spec.options]
    return [(" ".join(filter(None, words)), line) for words, line in rows]


def _hide(address: str) -> str:
    """Give a path of the project as it is, and an address as a digest: a lock names no host and no machine's folder."""
    own = "://" not in address and not re.match(r"[/~]|[^/\s]*@[^/\s]*:", address)
    return address if own else hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def require_fresh(lock: Lock, spec: EnvironmentSpec, *, base: str, source: str, command: str) -> None:
    """Require that a lock was made from what the environment file holds now.

    Args:
        lock: The lock.
        spec: The environment file, parsed.
        base: Name of the base that the project asks for.
        source: The lock's name, for messages.
        command: The command that would lock again.

    Raises:
        LockStale: Something differs; names every line that does.
    """
    now = render_requested(spec, base=base)
    then = lock.requested
    # A bare python is in every environment, and where conda takes no part a bare pip asks for nothing.
    nothing = {"python"} if lock.python_from == "conda" else {"python", "pip"}
    asked, locked = (set(part.conda) - nothing for part in (now, then))
    lines = {text: line for text, line in _conda_texts(spec) if text in asked}
    findings = [f"{spec.source}:{lines[text]}: {text} is not in the lock" for text in sorted(asked - locked)]
    gone = sorted(locked - asked)
    for rows, part in ((_wheel_texts(spec), then.wheels), (_others(spec), then.others)):
        findings += [
            f"{spec.source}:{line}: {text} is not in the lock" for text, line in sorted(rows) if text not in part
        ]
        gone += [text for text in part if text not in dict(rows)]
    findings += [f"{source}: {text} is no longer in {spec.source}" for text in gone]
    if lock.python_from == "conda" and now.channels != then.channels:
        findings.append(
            f"{spec.source}: channels are {', '.join(now.channels) or '(none)'}, "
            f"the lock was made with {', '.join(then.channels) or '(none)'}"
        )
    if now.base != then.base:
        findings.append(f"reprobox.toml: base {now.base} is asked for, the lock was made for {then.base}")
    if tuple(sorted(spec.variables)) != lock.variables:
        findings.append(f"{spec.source}: `variables:` differ from those in the lock")
    if findings:
        raise LockStale(f"{source} does not match {spec.source}:\n  " + "\n  ".join(findings), hint=command)
