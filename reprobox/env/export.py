"""Render a lock in the formats of other tools. Pure: addresses come in, because a lock holds none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import yaml

from reprobox.env.conda_lock_models import load_models
from reprobox.env.lockfile import CondaPackage, Lock, Wheel
from reprobox.errors import EnvironmentInvalid

ExportKind = Literal["conda-lock", "explicit", "requirements"]
EXPORT_KINDS: tuple[ExportKind, ...] = get_args(ExportKind)


def render_export(lock: Lock, kind: ExportKind, addresses: Mapping[str, str]) -> str:
    """Render a lock as another tool's file.

    Args:
        lock: The lock.
        kind: "conda-lock" (conda-lock.yml, version 1), "explicit" (for `conda create --file`) or "requirements" (for
            `pip install --require-hashes`).
        addresses: File name → URL; not needed for "requirements".

    Raises:
        EnvironmentInvalid: The format cannot say what the lock holds.
    """
    match kind:
        case "conda-lock":
            return _render_conda_lock(lock, addresses)
        case "explicit":
            return _render_explicit(lock, addresses)
        case "requirements":
            return _render_requirements(lock)


def _render_requirements(lock: Lock) -> str:
    lines = [f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}" for wheel in lock.wheels]
    return "".join(f"{line}\n" for line in lines)


def _render_explicit(lock: Lock, addresses: Mapping[str, str]) -> str:
    if not lock.conda:
        raise EnvironmentInvalid(
            "an explicit list holds conda packages, and this lock has none", hint="use --export requirements"
        )
    lines = [f"# platform: {lock.platform}", "@EXPLICIT"]
    lines += [f"{addresses[package.file]}#sha256:{package.sha256}" for package in lock.conda]
    # conda passes comments over; conda-lock and this project read these.
    lines += [f"# pip {w.name} @ {addresses[w.file]} --hash=sha256:{w.sha256}" for w in lock.wheels]
    return "".join(f"{line}\n" for line in lines)


def _render_conda_lock(lock: Lock, addresses: Mapping[str, str]) -> str:
    for package in lock.conda:
        if package.md5 is None:
            raise EnvironmentInvalid(
                f"conda-lock.yml needs the md5 of {package.file}, and the lock does not hold it",
                hint="lock again: reprobox lock",
            )
    channels = list(dict.fromkeys(_channel_url(package, addresses) for package in lock.conda))
    document = {
        "version": 1,
        "metadata": {
            "content_hash": {lock.platform: lock.digest.removeprefix("sha256:")},
            "channels": [{"url": url, "used_env_vars": []} for url in channels],
            "platforms": [lock.platform],
            "sources": ["environment.yml"],
        },
        "package": [
            *(_row(package, lock, addresses) for package in lock.conda),
            *(_row(wheel, lock, addresses) for wheel in lock.wheels),
        ],
    }
    # The library's own model has the last word on what is such a file.
    rendered: dict[str, Any] = load_models().Lockfile.model_validate(document).dict_for_output()
    return yaml.dump(rendered, Dumper=yaml.CSafeDumper, sort_keys=False, width=200)


def _row(package: CondaPackage | Wheel, lock: Lock, addresses: Mapping[str, str]) -> dict[str, Any]:
    md5 = {"md5": package.md5} if isinstance(package, CondaPackage) else {}
    return {
        "name": package.name,
        "version": package.version,
        "manager": "conda" if isinstance(package, CondaPackage) else "pip",
        "platform": lock.platform,
        "dependencies": {},
        "url": addresses[package.file],
        "hash": {**md5, "sha256": package.sha256},
        "category": "main",
        "optional": False,
    }


def _channel_url(package: CondaPackage, addresses: Mapping[str, str]) -> str:
    return addresses[package.file].removesuffix(f"/{package.subdir}/{package.file}")
