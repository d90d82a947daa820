"""Fetch locked packages into the cache. What arrives must hash to what the lock says, wherever it came from."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from reprobox.env.bases import DebianPackage, FlattenedBase
from reprobox.env.channels import ChannelPlaces, hide_credentials
from reprobox.env.client import LINKED, WHEELHOUSE, Client, find_debian_mirrors, load_channel_places
from reprobox.env.lockfile import CondaPackage, LinkedFiles, Lock, Wheel
from reprobox.env.solve_wheels import locate_wheels
from reprobox.errors import ArtefactAltered, IndexUnreachable
from reprobox.image.cache import Cache
from reprobox.image.debian import file_name
from reprobox.image.plan import Package
from reprobox.image.transfer import Transfer, TransferFailed

_TRIES = 3

Advance = Callable[[int], None]


def measure_package(address: str, *, client: Client, cache: Cache, conda: bool = False) -> tuple[str, str, int]:
    """Fetch a file whose digest is not known yet, and keep it in the cache.

    Args:
        address: URL.
        client: How it is reached.
        cache: Where it is kept.
        conda: Whether it is in a conda channel.

    Returns:
        Its sha256 and md5, in hex, and its size in bytes.

    Raises:
        IndexUnreachable: It cannot be fetched.
    """
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with cache.aside() as folder:
        part = folder / "part"
        with part.open("wb") as stream:

            def write(chunk: bytes) -> None:
                nonlocal size
                sha256.update(chunk)
                md5.update(chunk)
                size += len(chunk)
                stream.write(chunk)

            try:
                Transfer(client).copy(address, write, conda=conda)
            except TransferFailed as error:
                raise IndexUnreachable(
                    f"{hide_credentials(address.rsplit('/', 1)[-1])} cannot be fetched: {error}",
                    hint="correct the address, or check the network; another place of a conda channel: "
                    "[mirrors.channels]",
                ) from None
        final = cache.package_path(sha256.hexdigest())
        final.parent.mkdir(parents=True, exist_ok=True)
        part.replace(final)
    return sha256.hexdigest(), md5.hexdigest(), size


def place_in_mirror(package: Package) -> PurePosixPath:
    """Where a package lies in a mirror folder. Pure."""
    match package:
        case FlattenedBase():
            return PurePosixPath("base", f"{package.sha256}.tar")
        case DebianPackage():
            return PurePosixPath("debian", package.file)
        case CondaPackage():
            return PurePosixPath("conda", package.channel, package.subdir, package.file)
        case LinkedFiles():
            return PurePosixPath("linked", package.file)
        case Wheel():
            return PurePosixPath("pypi", package.file)


class Fetcher:
    """Fetches the packages of one lock; may be used by several threads.

    Args:
        lock: Whose packages.
        client: Where from.
        cache: Where to.
        advance: Told the number of bytes as they arrive.
    """

    def __init__(self, lock: Lock, *, client: Client, cache: Cache, advance: Advance) -> None:
        self._lock = lock
        self._client = client
        self._cache = cache
        self._advance = advance
        self._mutex = threading.Lock()
        self._addresses: dict[str, str] = {}
        self._mirrors: tuple[str, ...] | None = None
        self._transfer = Transfer(client, check=lambda: advance(0))
        self._channels: ChannelPlaces | None = None

    def close(self) -> None:
        """Give up what is being fetched."""
        self._transfer.close()

    def fetch(self, package: Package) -> Path:
        """Have a package in the cache, whatever manager it is of.

        Raises:
            ArtefactAltered: What is given does not hash to what the lock says.
            IndexUnreachable: It cannot be fetched, or is gone.
        """
        found = self._cache.find_package(package.sha256)
        if found:
            self._advance(package.size_bytes)
            return found
        for kept in self._places_here(package):
            if kept.is_file():
                return self._fetch([kept.absolute().as_uri()], name=kept.name, sha256=package.sha256)
        match package:
            case FlattenedBase():
                raise IndexUnreachable(
                    f"the flattened base {package.name} (sha256:{package.sha256}) is not here",
                    hint="make it again with `reprobox lock --upgrade-base`, or build from a folder that "
                    "`reprobox mirror` made where it is",
                )
            case LinkedFiles():
                raise IndexUnreachable(
                    f"what link scripts wrote ({package.file}) lies neither beside the lock nor in a mirror",
                    hint="commit the folder `linked` that lies beside the lock, or lock again: "
                    "reprobox lock --allow-link-scripts",
                )
            case DebianPackage():
                return self._fetch_debian(package)
            case CondaPackage():
                return self._fetch_conda(package)
            case Wheel():
                return self._fetch_wheel(package)

    def _places_here(self, package: Package) -> Iterator[Path]:
        """List where a package may lie on this machine, beside the cache."""
        beside = self._client.beside
        if beside is not None and isinstance(package, Wheel):
            yield beside / WHEELHOUSE / package.file
        if beside is not None and isinstance(package, LinkedFiles):
            yield beside / LINKED / package.file
        if self._client.mirror is not None:
            yield self._client.mirror / place_in_mirror(package)

    def _fetch_conda(self, package: CondaPackage) -> Path:
        with self._mutex:
            if self._channels is None:
                self._channels = load_channel_places(self._client)
        address = f"{self._channels.find_url(package.channel)}/{package.subdir}/{package.file}"
        hint = (
            f"lock again: reprobox lock --upgrade {package.name}; or name a channel that still has it under "
            "[mirrors.channels] in reprobox.toml"
        )
        return self._fetch([address], name=package.file, sha256=package.sha256, gone_hint=hint, conda=True)

    def _fetch_wheel(self, wheel: Wheel) -> Path:
        if wheel.built_from is not None:
            raise IndexUnreachable(
                f"{wheel.file} was built from {wheel.built_from}, and lies neither beside the lock nor in a mirror",
                hint="commit the folder `wheels` that lies beside the lock, or lock again to build it anew",
            )
        address = self._find_address(wheel)
        if address is None:
            raise IndexUnreachable(
                f"{wheel.file} is locked, but the index no longer has it under that name",
                hint=f"lock again: reprobox lock --upgrade {wheel.name}",
            )
        return self._fetch([address], name=wheel.file, sha256=wheel.sha256)

    def _fetch_debian(self, package: DebianPackage) -> Path:
        with self._mutex:
            if self._mirrors is None:
                self._mirrors = find_debian_mirrors(self._client)
        addresses = [f"{mirror}/{package.file}" for mirror in self._mirrors]
        return self._fetch(addresses, name=file_name(package), sha256=package.sha256)

    def _find_address(self, wheel: Wheel) -> str | None:
        """Ask the index where a wheel is; the first time, for all that are missing at once."""
        with self._mutex:
            if wheel.file not in self._addresses:
                missing = [
                    w
                    for w in self._lock.wheels
                    if w.built_from is None and not self._cache.package_path(w.sha256).exists()
                ]
                self._addresses |= locate_wheels(
                    missing if wheel in missing and not self._addresses else [wheel],
                    python=self._lock.python,
                    glibc=dict(self._lock.virtual_packages)["__glibc"],
                    platform=self._lock.platform,
                    client=self._client,
                )
            return self._addresses.get(wheel.file)

    def _fetch(
        self,
        addresses: Iterable[str],
        *,
        name: str,
        sha256: str,
        gone_hint: str = "it was superseded; lock the base anew: reprobox lock --upgrade-base",
        conda: bool = False,
    ) -> Path:
        problems: list[str] = []
        altered: ArtefactAltered | None = None
        gone = False
        for address in addresses:
            for _ in range(_TRIES):
                try:
                    return self._fetch_once(address, name=name, sha256=sha256, conda=conda)
                except ArtefactAltered as error:
                    altered = altered or error
                    break
                except TransferFailed as error:
                    gone = gone or error.gone
                    problems.append(str(error))
                    if not error.again:
                        break
        if altered:
            raise altered
        hint = "check the network, or name a mirror under [mirrors] in reprobox.toml"
        if gone:
            hint = gone_hint
        raise IndexUnreachable(f"{name} cannot be fetched: {problems[-1] if problems else 'no address'}", hint=hint)

    def _fetch_once(self, address: str, *, name: str, sha256: str, conda: bool) -> Path:
        final = self._cache.package_path(sha256)
        digest = hashlib.sha256()
        with self._cache.aside() as folder:
            part = folder / "part"
            with part.open("wb") as stream:

                def write(chunk: bytes) -> None:
                    digest.update(chunk)
                    stream.write(chunk)
                    self._advance(len(chunk))

                self._transfer.copy(address, write, conda=conda)
            if digest.hexdigest() != sha256:
                raise ArtefactAltered(
                    f"{name} does not hash to what the lock says\n  locked   sha256:{sha256}\n"
                    f"  fetched  sha256:{digest.hexdigest()}",
                    hint="nothing was built; if the lock was edited, restore it, otherwise do not trust that index",
                )
            final.parent.mkdir(parents=True, exist_ok=True)
            part.replace(final)
        return final
