"""A folder with everything that a lock needs, from which lock → image works with no network at all.

Its layout is that of the sources themselves, so that a web server can stand before it: conda/<channel>/<subdir>/<file>,
pypi/<file>, debian/pool/…, base/ and linked/ for whole layers; SHA256SUMS lists all of it for `sha256sum -c`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from reprobox.env.client import Client
from reprobox.env.lockfile import Lock
from reprobox.errors import BuildError
from reprobox.image.cache import Cache
from reprobox.image.fetch import Fetcher, place_in_mirror
from reprobox.image.plan import Package

_DOWNLOADS = 8
SUMS = "SHA256SUMS"


def list_all(lock: Lock) -> tuple[Package, ...]:
    """List every package of a lock."""
    ready = [package for package in (lock.flattened, lock.linked) if package is not None]
    return (*lock.debian, *ready, *lock.conda, *lock.wheels)


def write_mirror(
    lock: Lock, folder: Path, *, client: Client, cache: Cache, advance: Callable[[int], None]
) -> tuple[int, int]:
    """Put every package of a lock into a folder; what is there already and right stays.

    Args:
        lock: The lock.
        folder: The folder; made if there is none. Several locks may share it.
        client: Where packages come from.
        cache: Where they are kept on the way.
        advance: Told the number of bytes as they arrive.

    Returns:
        Number of packages, and their bytes.

    Raises:
        ArtefactAltered: What is fetched does not hash to the lock.
        IndexUnreachable: Something cannot be fetched.
        BuildError: The folder cannot be written.
    """
    fetcher = Fetcher(lock, client=client, cache=cache, advance=advance)
    packages = list_all(lock)
    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        files = list(pool.map(fetcher.fetch, packages))
    try:
        for package, file in zip(packages, files, strict=True):
            _place(file, folder, place_in_mirror(package))
        _write_sums(folder, packages)
    except OSError as error:
        raise BuildError(
            f"{folder} cannot be written: {error}", hint="name a folder of yours, on a disk with space"
        ) from None
    return len(packages), sum(package.size_bytes for package in packages)


def _place(source: Path, folder: Path, place: PurePosixPath) -> None:
    target = folder / place
    if place.is_absolute() or ".." in place.parts:
        raise BuildError(f"{place} is not a place in a mirror", hint="lock again: reprobox lock")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copyfile(source, aside)
    aside.replace(target)


def _write_sums(folder: Path, packages: tuple[Package, ...]) -> None:
    """Write the sums of these packages beside those of others that the folder holds."""
    file = folder / SUMS
    rows = {}
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            digest, _, path = line.partition("  ")
            rows[path] = digest
    rows |= {place_in_mirror(package).as_posix(): package.sha256 for package in packages}
    aside = file.with_name(f".{SUMS}.{os.getpid()}")
    aside.write_text("".join(f"{digest}  {path}\n" for path, digest in sorted(rows.items())), encoding="utf-8")
    aside.replace(file)
