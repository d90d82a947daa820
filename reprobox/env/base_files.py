"""Bases on disk: where one is found, what its folder holds, and its lock beside it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import re
import secrets
from dataclasses import replace
from pathlib import Path

import yaml

from reprobox.env.bases import (
    DEFAULT_PLATFORM,
    BaseSpec,
    DebianPackage,
    FlattenedBase,
    digest_base,
    parse_base,
    parse_flattened,
    parse_packages,
    render_flattened,
    render_packages,
)
from reprobox.env.documents import parse_yaml
from reprobox.errors import EnvironmentInvalid


def find_base_folder(name: str, root: Path) -> Path:
    """Find a base: in the project's `dockerfiles/`, else among those that come with reprobox.

    Raises:
        EnvironmentInvalid: There is none of that name.
    """
    shipped = _shipped()
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

    def read(name: str) -> str | None:
        inside = folder / name
        if inside.parent != folder or not inside.is_file():
            return None
        return inside.read_text(encoding="utf-8", errors="replace")

    base = parse_base(file.read_text(encoding="utf-8"), name=folder.name, source=str(file), read=read)
    return replace(base, context=_digest_context(folder)) if base.dockerfile else base


def _digest_context(folder: Path) -> str:
    """Digest what a Dockerfile may copy: paths, contents, links and executable bits of the files of its folder."""
    parts = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if re.fullmatch(r"base\.yml|base(\.[a-z0-9-]+)?\.lock|\.base\.lock\..*", name) or (
            path.is_dir() and not path.is_symlink()
        ):
            continue
        if path.is_symlink():
            parts.append([name, "link", str(path.readlink())])
        elif path.is_file():
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            parts.append([name, "executable" if path.stat().st_mode & 0o111 else "file", digest])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def digest_found_base(name: str, root: Path) -> tuple[str, bool]:
    """Digest what a base asks for, and tell whether it is one of the project's own rather than of reprobox.

    Raises:
        EnvironmentInvalid: There is no such base, or it is broken.
    """
    folder = find_base_folder(name, root)
    return digest_base(load_base(folder)), folder.parent not in _shipped()


def _shipped() -> tuple[Path, ...]:
    package = Path(__file__).resolve().parent.parent
    return package / "dockerfiles", package.parent / "dockerfiles"


def base_lock_name(platform: str) -> str:
    """Name of a base's lock for a platform."""
    return "base.lock" if platform == DEFAULT_PLATFORM else f"base.{platform}.lock"


def load_base_lock(
    folder: Path, spec: BaseSpec, platform: str = DEFAULT_PLATFORM
) -> tuple[DebianPackage, ...] | FlattenedBase | None:
    """Load what a base is locked to; None where there is no lock, or it was made from another `base.yml`.

    Raises:
        EnvironmentInvalid: The lock is broken.
    """
    file = folder / base_lock_name(platform)
    hint = f"remove {file} and lock again"
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentInvalid(f"{file}: cannot be read: {error}", hint=hint) from None
    document = parse_yaml(text, source=str(file), hint=hint)
    if not isinstance(document, dict) or "asked" not in document:
        raise EnvironmentInvalid(f"{file}: not the lock of a base", hint=hint)
    if document["asked"] != digest_base(spec):
        return None
    if spec.image or spec.dockerfile:
        return parse_flattened(document.get("flattened"), name=spec.name, source=str(file))
    if not isinstance(document.get("packages"), list):
        raise EnvironmentInvalid(f"{file}: its packages are no list", hint=hint)
    return parse_packages(document["packages"], source=str(file))


def write_base_lock(
    folder: Path,
    spec: BaseSpec,
    locked: tuple[DebianPackage, ...] | FlattenedBase,
    platform: str = DEFAULT_PLATFORM,
) -> None:
    """Write what a base is locked to beside its `base.yml`; where that folder is not ours to write, nothing is lost."""
    text = "# Written by `reprobox lock`. To move it: reprobox lock --upgrade-base.\n" + yaml.dump(
        {
            "asked": digest_base(spec),
            **(
                {"flattened": render_flattened(locked)}
                if isinstance(locked, FlattenedBase)
                else {"packages": render_packages(locked)}
            ),
        },
        Dumper=yaml.CSafeDumper,
        sort_keys=False,
        width=200,
    )
    aside = folder / f".base.lock.{secrets.token_hex(4)}"
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(folder / base_lock_name(platform))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()
