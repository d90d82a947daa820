"""`reprobox.lock`: what an environment is pinned to. Pure: text in, values out, and back.

Format: docs/formats/lock-v1.md. The digest is taken over what the lock pins, not over `requested` and `tools`, which
note where that came from: one environment reached on two ways has one digest.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NewType

import yaml

from reprobox.env.bases import DebianPackage, parse_packages, render_packages, require_sha256, require_size
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """One locked wheel.

    Attributes:
        name: Normalised project name.
        version: Version.
        file: File name; the index is the client's own configuration.
        size_bytes: Size of the file.
        sha256: Digest of the file, in hex.
    """

    name: str
    version: str
    file: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """What a lock was made from: a note, to tell when it is stale.

    Attributes:
        sha256: Digest of the environment file's bytes; while it stays, nothing else needs to be compared.
        base: Name of the base.
        python: Version prefix asked for, or None.
        wheels: Requirements, sorted.
    """

    sha256: str
    base: str
    python: str | None
    wheels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """A whole environment, pinned.

    Attributes:
        platform: Conda's name of the target, such as "linux-64".
        layer_format: Version of the layer rules.
        virtual_packages: What the host or base provides, such as {"__glibc": "2.36"}.
        python: Exact version of the interpreter.
        omit: Path prefixes of Debian packages left out.
        keep: Exceptions from `omit`.
        debian: Debian packages, by name.
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

    @property
    def digest(self) -> LockDigest:
        """The environment's identity."""
        return digest_pins(_pins(self))


def _pins(lock: Lock) -> dict[str, Any]:
    return {
        "platform": lock.platform,
        "layer_format": lock.layer_format,
        "virtual_packages": dict(lock.virtual_packages),
        "python": {"version": lock.python, "from": "base"},
        "base": {
            "omit": list(lock.omit),
            "keep": list(lock.keep),
            "packages": render_packages(lock.debian),
        },
        "wheels": [
            {"name": w.name, "version": w.version, "file": w.file, "size": w.size_bytes, "sha256": w.sha256}
            for w in sorted(lock.wheels, key=lambda wheel: wheel.name)
        ],
        "variables": dict(lock.variables),
    }


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
            "python": lock.requested.python,
            "wheels": list(lock.requested.wheels),
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
    document = parse_yaml(text, source=source, hint=_RELOCK)
    if not isinstance(document, dict) or "version" not in document:
        raise EnvironmentInvalid(f"{source}: not a reprobox.lock", hint=_RELOCK)
    if document["version"] != LOCK_VERSION:
        raise EnvironmentInvalid(
            f"{source}: lock version {document['version']!r} is not known here (this reprobox writes {LOCK_VERSION})",
            hint="upgrade reprobox, or lock again with this one: reprobox lock",
        )
    try:
        lock = _read(document, source)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise EnvironmentInvalid(f"{source}: the lock is incomplete or damaged ({error!r})", hint=_RELOCK) from None
    if lock.layer_format != LAYER_FORMAT:
        raise EnvironmentInvalid(
            f"{source}: layer format {lock.layer_format} is not what this reprobox writes ({LAYER_FORMAT})",
            hint="use the reprobox that made the lock, or lock again: reprobox lock",
        )
    return lock


def _read(document: dict[str, Any], source: str) -> Lock:
    requested = document["requested"]
    platform, python = document["platform"], document["python"]
    if platform not in PLATFORMS or python["from"] != "base" or not re.fullmatch(r"\d+\.\d+\.\d+", python["version"]):
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
    return Lock(
        platform=platform,
        layer_format=int(document["layer_format"]),
        virtual_packages=tuple(sorted(virtual_packages.items())),
        python=python["version"],
        omit=tuple(map(str, document["base"]["omit"])),
        keep=tuple(map(str, document["base"]["keep"])),
        debian=parse_packages(document["base"]["packages"], source=source),
        wheels=tuple(wheels[name] for name in sorted(wheels)),
        variables=tuple(sorted((str(k), str(v)) for k, v in document["variables"].items())),
        requested=Requested(
            sha256=str(requested["sha256"]),
            base=str(requested["base"]),
            python=None if requested["python"] is None else str(requested["python"]),
            wheels=tuple(map(str, requested["wheels"])),
        ),
        tools=tuple(sorted((str(k), str(v)) for k, v in document.get("tools", {}).items())),
    )


def _wheel(row: dict[str, Any], source: str) -> Wheel:
    file = str(row["file"])
    # Name, version, an optional build, and three tags; what the name says in full is checked when it is unpacked.
    if not re.fullmatch(r"[A-Za-z0-9._]+-[A-Za-z0-9._!+]+(-[0-9][A-Za-z0-9._]*)?(-[A-Za-z0-9._]+){3}\.whl", file):
        raise EnvironmentInvalid(f"{source}: {file!r} is not the name of a wheel", hint=_RELOCK)
    return Wheel(
        name=str(row["name"]),
        version=str(row["version"]),
        file=file,
        size_bytes=require_size(row["size"], source=source, name=file),
        sha256=require_sha256(row["sha256"], source=source, name=file),
    )


def render_requested(spec: EnvironmentSpec, *, base: str) -> Requested:
    """Render what a specification asks for, as a lock notes it."""
    return Requested(
        sha256=spec.sha256, base=base, python=spec.python, wheels=tuple(sorted(wheel.text for wheel in spec.wheels))
    )


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
    lines = {wheel.text: wheel.line for wheel in spec.wheels}
    findings = [
        f"{spec.source}:{lines[text]}: {text} is not in the lock" for text in now.wheels if text not in then.wheels
    ]
    findings += [f"{source}: {text} is no longer in {spec.source}" for text in then.wheels if text not in now.wheels]
    if now.python != then.python:
        findings.append(
            f"{spec.source}:{spec.python_line or 1}: python {now.python or '(any)'} is asked for, "
            f"the lock was made for {then.python or '(any)'}"
        )
    if now.base != then.base:
        findings.append(f"reprobox.toml: base {now.base} is asked for, the lock was made for {then.base}")
    if tuple(sorted(spec.variables)) != lock.variables:
        findings.append(f"{spec.source}: `variables:` differ from those in the lock")
    if findings:
        raise LockStale(f"{source} does not match {spec.source}:\n  " + "\n  ".join(findings), hint=command)
