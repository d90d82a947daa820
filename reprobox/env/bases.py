"""Bases: what stands below an environment. A list of Debian packages, and the lock of its closure.

A base is a folder of `dockerfiles/` with `base.yml` (written by a person) and `base.lock` (written by the tool).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reprobox.env.documents import parse_yaml
from reprobox.errors import EnvironmentInvalid

DEFAULT_PLATFORM = "linux-64"


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianPackage:
    """One locked Debian package.

    Attributes:
        name: Package name.
        version: Debian version, epoch included.
        file: Path below the mirror's root, such as "pool/main/z/zlib/zlib1g_1.2.13_amd64.deb".
        size_bytes: Size of that file.
        sha256: Digest of that file, in hex.
    """

    name: str
    version: str
    file: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FlattenedBase:
    """A base that was given as an image or a Dockerfile, flattened into one layer.

    Attributes:
        name: Name of the base.
        sha256: Digest of the layer's bytes, in hex; that of its file in cache and mirror, too.
        size_bytes: Size of the layer.
        files: Files and links in it.
        python: Exact version of its own interpreter below /usr/bin, or None.
    """

    name: str
    sha256: str
    size_bytes: int
    files: int
    python: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseSpec:
    """What a person wrote in `base.yml`.

    Attributes:
        name: The folder's name.
        suite: Debian suite, such as "bookworm".
        component: Archive component; one.
        python: Version prefix of its interpreter, such as "3.11".
        glibc: Version of its C library, such as "2.36".
        packages: Packages wanted, without their dependencies.
        without: Packages never taken, even where one depends on them.
        omit: Path prefixes left out of the image ("usr/share/man/").
        keep: Path prefixes or names kept although `omit` would drop them.
        image: Reference of an image, with its digest, that the base is; None for a list of packages.
        dockerfile: Text of a Dockerfile that the base is built from; None for the others.
        context: Digest of the files beside that Dockerfile, in hex; "" for the others.
    """

    name: str
    suite: str
    component: str
    python: str
    glibc: str
    image: str | None = None
    dockerfile: str | None = None
    context: str = ""
    packages: tuple[str, ...]
    without: tuple[str, ...]
    omit: tuple[str, ...]
    keep: tuple[str, ...]


def parse_base(text: str, *, name: str, source: str, read: Callable[[str], str | None] = lambda _: None) -> BaseSpec:
    """Parse the text of a `base.yml`.

    Args:
        text: The file's content.
        name: The base's name.
        source: The file's name, for messages.
        read: Gives the text of a file of the same folder, such as the Dockerfile.

    Raises:
        EnvironmentInvalid: Broken YAML or a missing key.
    """
    document = parse_yaml(text, source=source, hint="see dockerfiles/debian-12/base.yml")
    if not isinstance(document, dict):
        raise EnvironmentInvalid(f"{source}: must be a mapping", hint="see dockerfiles/debian-12/base.yml")
    given = [kind for kind in ("image", "dockerfile") if kind in document]
    known: tuple[str, ...] = ("suite", "component", "python", "glibc", "packages", "without", "omit", "keep")
    if given:
        known = ("image", "dockerfile", "python", "glibc")
    for key in document:
        if key not in known:
            raise EnvironmentInvalid(f"{source}: unknown key {key!r}", hint=f"known: {', '.join(known)}")
    if given:
        return _parse_given(document, name=name, source=source, read=read)
    return BaseSpec(
        name=name,
        suite=_text(document, "suite", source),
        component=_text({"component": "main"} | document, "component", source),
        python=_text(document, "python", source),
        glibc=_text(document, "glibc", source),
        packages=_texts({"packages": _require(document, "packages", source)}, "packages", source),
        without=_texts(document, "without", source),
        omit=_texts(document, "omit", source),
        keep=_texts(document, "keep", source),
    )


def _parse_given(document: dict[str, Any], *, name: str, source: str, read: Callable[[str], str | None]) -> BaseSpec:
    """Parse a base that is an image or a Dockerfile."""
    image = _text(document, "image", source) if "image" in document else None
    dockerfile = None
    if "dockerfile" in document:
        if image is not None:
            raise EnvironmentInvalid(f"{source}: is an image or a Dockerfile, not both", hint="leave one of them out")
        dockerfile = read(_text(document, "dockerfile", source))
        if dockerfile is None:
            raise EnvironmentInvalid(
                f"{source}: {document['dockerfile']} cannot be read", hint="write it beside base.yml"
            )
    if image is not None and not re.fullmatch(r"[^@\s]+@sha256:[0-9a-f]{64}", image):
        raise EnvironmentInvalid(
            f"{source}: image {image!r} has no digest, so another one could come under that name",
            hint="write NAME@sha256:…, as `docker image inspect --format '{{.RepoDigests}}'` prints it",
        )
    return BaseSpec(
        name=name,
        suite="",
        component="",
        python=_text({"python": ""} | document, "python", source),
        glibc=_text(document, "glibc", source),
        packages=(),
        without=(),
        omit=(),
        keep=(),
        image=image,
        dockerfile=dockerfile,
    )


def _text(document: Mapping[str, Any], key: str, source: str) -> str:
    value = _require(document, key, source)
    if not isinstance(value, str):
        # 3.10 without quotes is the number 3.1.
        raise EnvironmentInvalid(f"{source}: {key} must be a word, not {value!r}", hint="put it in quotes")
    return value


def _require(document: Mapping[str, Any], key: str, source: str) -> Any:
    if key not in document:
        raise EnvironmentInvalid(f"{source}: key {key!r} is missing", hint=f"write {key}: …")
    return document[key]


def _texts(document: Mapping[str, Any], key: str, source: str) -> tuple[str, ...]:
    values = document.get(key) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise EnvironmentInvalid(f"{source}: {key} must be a list of words", hint=f"write `{key}:` and lines with `- `")
    return tuple(values)


def parse_packages(rows: Iterable[Mapping[str, Any]], *, source: str) -> tuple[DebianPackage, ...]:
    """Read package rows as locks hold them.

    Raises:
        EnvironmentInvalid: A row without a name, file, size or sha256.
    """
    packages: dict[str, DebianPackage] = {}
    for row in rows:
        try:
            package = DebianPackage(
                name=str(row["name"]),
                version=str(row["version"]),
                file=_require_pool_path(str(row["file"]), source=source),
                size_bytes=require_size(row["size"], source=source, name=str(row["name"])),
                sha256=require_sha256(row["sha256"], source=source, name=str(row["name"])),
            )
        except (KeyError, TypeError) as error:
            raise EnvironmentInvalid(
                f"{source}: a Debian package row is incomplete: {row!r} ({error})", hint="lock again: reprobox lock"
            ) from None
        if package.name in packages:
            raise EnvironmentInvalid(f"{source}: {package.name} stands twice", hint="lock again: reprobox lock")
        packages[package.name] = package
    return tuple(packages[name] for name in sorted(packages))


def _require_pool_path(file: str, *, source: str) -> str:
    """Return the path of a Debian package if it is one below an archive's root, and nowhere else.

    Raises:
        EnvironmentInvalid: It is not; it would be fetched from, or written to, a place of somebody's choice.
    """
    parts = file.split("/")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+:~%/-]*\.deb", file) or {"", ".", ".."} & set(parts):
        raise EnvironmentInvalid(f"{source}: {file!r} is no path of a Debian package", hint="lock again: reprobox lock")
    return file


def require_size(value: object, *, source: str, name: str) -> int:
    """Return `value` if it counts bytes.

    Raises:
        EnvironmentInvalid: It does not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise EnvironmentInvalid(
            f"{source}: {name} has the size {value!r}, which is no number of bytes", hint="lock again: reprobox lock"
        )
    return value


def require_sha256(value: object, *, source: str, name: str) -> str:
    """Return `value` if it is a sha256 in lower-case hex.

    Raises:
        EnvironmentInvalid: It is not; the package could not be checked.
    """
    text = str(value)
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise EnvironmentInvalid(
            f"{source}: {name} has no sha256, so its bytes could not be checked", hint="lock again: reprobox lock"
        )
    return text


def render_packages(packages: Iterable[DebianPackage]) -> list[dict[str, object]]:
    """Render packages as rows for a lock, by name."""
    return [
        {"name": p.name, "version": p.version, "file": p.file, "size": p.size_bytes, "sha256": p.sha256}
        for p in sorted(packages, key=lambda package: package.name)
    ]


def plan_closure(
    spec: BaseSpec, *, depends: Mapping[str, tuple[tuple[str, ...], ...]], provides: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """Choose the packages that a base needs: the wanted ones and what they depend on.

    Args:
        spec: The base.
        depends: Package name → its dependencies, each a tuple of alternatives in the package's own order.
        provides: Virtual name → packages that provide it, sorted.

    Returns:
        Package names, sorted.

    Raises:
        EnvironmentInvalid: A package is unknown in the suite.
    """
    chosen: set[str] = set()
    # Sorted, and with all wishes known from the start, so that their order does not decide between alternatives.
    wished = set(spec.packages)
    pending = sorted(wished, reverse=True)
    without = set(spec.without)
    while pending:
        name = pending.pop()
        if name in chosen:
            continue
        if name not in depends:
            raise EnvironmentInvalid(
                f"dockerfiles/{spec.name}/base.yml: {name!r} is not in {spec.suite} {spec.component}",
                hint="correct the name, or leave it out with `without:`",
            )
        chosen.add(name)
        for alternatives in depends[name]:
            real = [
                n for option in alternatives for n in ((option,) if option in depends else provides.get(option, ()))
            ]
            if without.intersection(alternatives) or without.intersection(real) or (chosen | wished).intersection(real):
                continue
            if not real:
                raise EnvironmentInvalid(
                    f"dockerfiles/{spec.name}/base.yml: {name} needs {' | '.join(alternatives)}, which is not in "
                    f"{spec.suite} {spec.component}",
                    hint=f"add one of them to `without:` if {name} works without it",
                )
            pending.append(real[0])
    return tuple(sorted(chosen))


def find_debian_python(packages: Iterable[DebianPackage], short: str | None = None) -> str | None:
    """Find the exact version of the interpreter among Debian packages, such as "3.11.2"; None where there is none.

    Args:
        packages: The packages.
        short: Take only this one, such as "3.11".
    """
    wanted = r"3\.\d+" if short is None else re.escape(short)
    for package in packages:
        found = re.match(r"(?:\d+:)?(\d+\.\d+\.\d+)", package.version)
        if found and re.fullmatch(rf"python{wanted}-minimal", package.name):
            return found[1]
    return None


def digest_base(spec: BaseSpec) -> str:
    """Digest what a base asks for, to tell when its lock is stale."""
    if spec.image or spec.dockerfile:
        given = [spec.image, spec.dockerfile, spec.python, *([spec.context] if spec.context else [])]
        return hashlib.sha256(json.dumps(given).encode()).hexdigest()
    asked = [spec.suite, spec.component, spec.python, sorted(spec.packages), sorted(spec.without)]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def parse_flattened(row: Any, *, name: str, source: str) -> FlattenedBase:
    """Read the row of a flattened base, as locks hold it.

    Raises:
        EnvironmentInvalid: It is incomplete.
    """
    if not isinstance(row, dict):
        raise EnvironmentInvalid(f"{source}: says nothing of the flattened base", hint="lock again: reprobox lock")
    python = row.get("python")
    return FlattenedBase(
        name=name,
        sha256=require_sha256(row.get("sha256"), source=source, name=name),
        size_bytes=require_size(row.get("size"), source=source, name=name),
        files=require_size(row.get("files"), source=source, name=name),
        python=None if python is None else str(python),
    )


def render_flattened(base: FlattenedBase) -> dict[str, object]:
    """Render a flattened base as a row for a lock."""
    row: dict[str, object] = {"sha256": base.sha256, "size": base.size_bytes, "files": base.files}
    return row if base.python is None else {**row, "python": base.python}
