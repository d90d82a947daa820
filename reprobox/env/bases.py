"""Bases: what stands below an environment. A list of Debian packages, and the lock of its closure.

A base is a folder of `dockerfiles/` with `base.yml` (written by a person) and `base.lock` (written by the tool).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reprobox.errors import EnvironmentInvalid


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
    """

    name: str
    suite: str
    component: str
    python: str
    glibc: str
    packages: tuple[str, ...]
    without: tuple[str, ...]
    omit: tuple[str, ...]
    keep: tuple[str, ...]


def parse_base(text: str, *, name: str, source: str) -> BaseSpec:
    """Parse the text of a `base.yml`.

    Raises:
        EnvironmentInvalid: Broken YAML or a missing key.
    """
    try:
        document = yaml.load(text, Loader=yaml.CSafeLoader)
        if not isinstance(document, dict):
            raise EnvironmentInvalid(f"{source}: must be a mapping", hint="see dockerfiles/debian-12/base.yml")
        return BaseSpec(
            name=name,
            suite=str(document["suite"]),
            component=str(document.get("component", "main")),
            python=str(document["python"]),
            glibc=str(document["glibc"]),
            packages=tuple(document["packages"]),
            without=tuple(document.get("without", ())),
            omit=tuple(document.get("omit", ())),
            keep=tuple(document.get("keep", ())),
        )
    except yaml.YAMLError as error:
        raise EnvironmentInvalid(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from None
    except KeyError as error:
        raise EnvironmentInvalid(f"{source}: key {error.args[0]!r} is missing") from None


def parse_packages(rows: Iterable[Mapping[str, Any]], *, source: str) -> tuple[DebianPackage, ...]:
    """Read package rows as locks hold them.

    Raises:
        EnvironmentInvalid: A row without a name, file, size or sha256.
    """
    packages = []
    for row in rows:
        try:
            package = DebianPackage(
                name=str(row["name"]),
                version=str(row["version"]),
                file=str(row["file"]),
                size_bytes=int(row["size"]),
                sha256=require_sha256(row["sha256"], source=source, name=str(row["name"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise EnvironmentInvalid(
                f"{source}: a Debian package row is incomplete: {row!r} ({error})", hint="lock again: reprobox lock"
            ) from None
        packages.append(package)
    return tuple(sorted(packages, key=lambda package: package.name))


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
    pending = list(spec.packages)
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
            if without.intersection(alternatives) or without.intersection(real) or chosen.intersection(real):
                continue
            if not real:
                raise EnvironmentInvalid(
                    f"dockerfiles/{spec.name}/base.yml: {name} needs {' | '.join(alternatives)}, which is not in "
                    f"{spec.suite} {spec.component}",
                    hint=f"add one of them to `without:` if {name} works without it",
                )
            pending.append(real[0])
    return tuple(sorted(chosen))


def digest_base(spec: BaseSpec) -> str:
    """Digest what a base asks for, to tell when its lock is stale."""
    asked = [spec.suite, spec.component, spec.python, sorted(spec.packages), sorted(spec.without)]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def find_base_folder(name: str, root: Path) -> Path:
    """Find a base: in the project's `dockerfiles/`, else among those that come with reprobox.

    Raises:
        EnvironmentInvalid: There is none of that name.
    """
    package = Path(__file__).resolve().parent.parent
    shipped = (package / "dockerfiles", package.parent / "dockerfiles")
    places = [parent / "dockerfiles" for parent in (root, *root.parents)] + list(shipped)
    for place in places:
        if re.fullmatch(r"[A-Za-z0-9._-]+", name) and (place / name / "base.yml").is_file():
            return place / name
    raise EnvironmentInvalid(
        f"no base {name!r}: there is no dockerfiles/{name}/base.yml",
        hint=f"known: {', '.join(sorted({f.parent.name for p in shipped for f in p.glob('*/base.yml')}))}",
    )


def load_base(folder: Path) -> BaseSpec:
    """Load a base's `base.yml`.

    Raises:
        EnvironmentInvalid: It is broken.
    """
    file = folder / "base.yml"
    return parse_base(file.read_text(encoding="utf-8"), name=folder.name, source=str(file))


def load_base_lock(folder: Path, spec: BaseSpec) -> tuple[DebianPackage, ...] | None:
    """Load what a base is locked to; None where there is no lock, or it was made from another `base.yml`.

    Raises:
        EnvironmentInvalid: The lock is broken.
    """
    file = folder / "base.lock"
    try:
        document = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        if document["asked"] != digest_base(spec):
            return None
        rows = document["packages"]
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise EnvironmentInvalid(
            f"{file}: not a lock of a base ({error!r})", hint=f"remove {file} and lock again"
        ) from None
    return parse_packages(rows, source=str(file))


def write_base_lock(folder: Path, spec: BaseSpec, packages: tuple[DebianPackage, ...]) -> None:
    """Write what a base is locked to beside its `base.yml`; where that folder is not ours to write, nothing is lost."""
    text = "# Written by `reprobox lock`. To move it: reprobox lock --upgrade-base.\n" + yaml.dump(
        {"asked": digest_base(spec), "packages": render_packages(packages)},
        Dumper=yaml.CSafeDumper,
        sort_keys=False,
        width=200,
    )
    try:
        aside = folder / ".base.lock.new"
        aside.write_text(text, encoding="utf-8")
        aside.replace(folder / "base.lock")
    except PermissionError:
        return
