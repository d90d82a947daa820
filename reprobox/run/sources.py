"""Build from source, once, what has no wheel: in a container of the environment, which has no network.

What comes out is kept beside the lock, in `wheels/`, and pinned by its hash like any other wheel: a build need not come
out the same twice, so nobody is asked to repeat it. Commit that folder, or carry it with `reprobox mirror`.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import secrets
import shutil
import stat
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion

from reprobox.engines.base import RUN_LABEL, STATE_LABEL, ContainerRequest, Engine, Mount
from reprobox.env.channels import hide_credentials
from reprobox.env.client import Client
from reprobox.env.lockfile import Lock, Wheel
from reprobox.env.pip_lines import WheelRequirement
from reprobox.env.solve_wheels import find_source_archive, solve_wheels
from reprobox.env.sources import SourceOrder, parse_build_requirements
from reprobox.errors import ArtefactAltered, BuildError, EnvironmentInvalid, NoSolution
from reprobox.image.cache import Cache
from reprobox.image.fetch import Fetcher, measure_package
from reprobox.image.layers import limit_unpacked
from reprobox.run.identity import choose_identity
from reprobox.run.workshops import run_to_end

_EPOCH = "315532800"
_OF_OTHER_REPOSITORIES = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_PREFIX",
)  # fmt: skip
_WHEEL_LIMIT = 4 << 30
_BUILD = """\
set -eu
pip=$(ls /in/wheels/pip-*.whl)/pip
run() { python "$pip" --disable-pip-version-check "$@" --no-index --find-links /in/wheels; }
cp -r /in/source /tmp/source
cd "/tmp/source/$1"
if run wheel --no-deps --wheel-dir /out . >/tmp/first.log 2>&1; then exit 0; fi
# Some need what they will run beside (PyTorch, NumPy) while they are built, and do not say so.
run install --quiet --target /tmp/build-requirements $2 >/tmp/second.log 2>&1 || { cat /tmp/first.log; exit 1; }
PYTHONPATH=/tmp/build-requirements run wheel --no-deps --no-build-isolation --wheel-dir /out . >/tmp/third.log 2>&1 ||
    { cat /tmp/first.log; echo "--- and without build isolation:"; cat /tmp/third.log; exit 1; }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Where sources are built.

    Attributes:
        client: How indexes are reached.
        cache: Keeps fetched files.
        engine: Runs the builds.
        image: Gives the engine's id of the image for a lock, making it where it is missing.
        wheelhouse: Folder for what comes out.
    """

    client: Client
    cache: Cache
    engine: Engine
    image: Callable[[Lock], str]
    wheelhouse: Path


def build_source(order: SourceOrder, lock: Lock, workshop: Workshop, *, folder: Path) -> Wheel:
    """Fetch one project's source, build its wheel in a container of a lock, and keep it.

    Args:
        order: What to build.
        lock: The environment that it is built in.
        workshop: Where.
        folder: The environment file's, which paths start from.

    Returns:
        The wheel; `built_from` says what it was made from, with the commit or digest.

    Raises:
        BuildError: It cannot be fetched or built; the last lines of the build are in the text.
        ArtefactAltered: Its source has other bytes than the environment file says.
    """
    with workshop.cache.aside() as scratch:
        out = scratch / "out"
        out.mkdir()
        if order.kind == "wheel":
            built_from = _fetch_file(order, folder, out, workshop)
        else:
            source = scratch / "source"
            built_from = _fetch_source(order, lock, folder, source, workshop)
            _build(order, lock, source, out, scratch, workshop)
        files = sorted(out.glob("*.whl"))
        if len(files) != 1:
            raise BuildError(f"{order.where}: building {order.shown} gave {len(files)} wheels, not one")
        return _keep(files[0], built_from, order, workshop)


def _keep(file: Path, built_from: str, order: SourceOrder, workshop: Workshop) -> Wheel:
    try:
        name, version, _, _ = parse_wheel_filename(file.name)
    except (InvalidWheelFilename, InvalidVersion) as error:
        raise BuildError(f"{order.where}: building {order.shown} gave no wheel: {error}") from None
    if order.name is not None and canonicalize_name(name) != canonicalize_name(order.name):
        raise BuildError(f"{order.where}: {order.shown} turned out to be {name}", hint=f"write #egg={name}")
    data = _read_plain(file, order)
    sha256 = hashlib.sha256(data).hexdigest()
    workshop.wheelhouse.mkdir(parents=True, exist_ok=True)
    aside = workshop.wheelhouse / f".{file.name}.{secrets.token_hex(4)}"
    aside.write_bytes(data)
    aside.replace(workshop.wheelhouse / file.name)
    return Wheel(
        name=str(canonicalize_name(name)),
        version=str(version),
        file=file.name,
        size_bytes=len(data),
        sha256=sha256,
        built_from=built_from,
    )


def _read_plain(file: Path, order: SourceOrder) -> bytes:
    """Read what a build left behind: a file, and not a link to one of ours, or a pipe.

    Raises:
        BuildError: It is something else, or larger than any real wheel.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise BuildError(f"{order.where}: what the build of {order.shown} left is no file: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _WHEEL_LIMIT:
            raise BuildError(f"{order.where}: what the build of {order.shown} left is no wheel")
        return stream.read()


def _fetch_source(order: SourceOrder, lock: Lock, folder: Path, source: Path, workshop: Workshop) -> str:
    if order.kind == "git":
        return _clone(order, source, workshop.client.environ)
    archive = source.parent / "archive"
    archive.mkdir()
    if order.kind == "index":
        name, digest, url = find_source_archive(
            order.name or "",
            order.revision,
            python=lock.python,
            glibc=dict(lock.virtual_packages)["__glibc"],
            platform=lock.platform,
            client=workshop.client,
        )
        sha256, _, _ = measure_package(url, client=workshop.client, cache=workshop.cache)
        if sha256 != digest:
            raise ArtefactAltered(f"{order.where}: {name} does not hash to what its index says (sha256 {digest})")
        shutil.copyfile(workshop.cache.package_path(sha256), archive / name)
        built_from = f"{name} sha256:{sha256}"
    else:
        built_from = _fetch_file(order, folder, archive, workshop)
    (file,) = archive.iterdir()
    _unpack(file, source, order)
    return built_from


def _fetch_file(order: SourceOrder, folder: Path, target: Path, workshop: Workshop) -> str:
    address = order.address
    if "://" not in address:
        path = (folder / address).resolve()
        if not path.is_file():
            raise EnvironmentInvalid(f"{order.where}: {address!r} does not exist", hint="correct the path")
        address = path.as_uri()
    name = unquote(address.partition("?")[0].partition("#")[0].rsplit("/", 1)[-1])
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise EnvironmentInvalid(
            f"{order.where}: {hide_credentials(address)} names no file", hint="correct the address"
        )
    sha256, _, _ = measure_package(address, client=workshop.client, cache=workshop.cache)
    if order.sha256 is not None and sha256 != order.sha256:
        raise ArtefactAltered(
            f"{order.where}: {name} does not hash to what that line says\n"
            f"  named    {order.sha256}\n  fetched  {sha256}",
            hint="nothing was built; do not trust that address",
        )
    shutil.copyfile(workshop.cache.package_path(sha256), target / name)
    return f"{name} sha256:{sha256}"


def _clone(order: SourceOrder, target: Path, environ: Mapping[str, str]) -> str:
    """Clone a repository and check out one commit; gives it as "git <digest of the address> <commit>"."""
    git = shutil.which("git", path=environ.get("PATH"))
    if git is None:
        raise BuildError(f"{order.where}: git is not installed", hint="apt-get install git")
    # What points git at the caller's own repository (inside a hook, for one) must not point ours there.
    kept = {name: value for name, value in environ.items() if name not in _OF_OTHER_REPOSITORIES}
    safe = {**kept, "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1"}
    base = [git, "-c", "protocol.ext.allow=never", "-c", "advice.detachedHead=false"]
    _git([*base, "clone", "--quiet", "--no-checkout", "--", order.address, str(target)], order, safe)
    inside = [*base, "-C", str(target)]
    exact = re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", order.revision or "")
    candidates = (f"origin/{order.revision}", order.revision) if order.revision else ("HEAD",)
    for candidate in (order.revision,) if exact else candidates:
        done = subprocess.run(
            [*inside, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{candidate}^{{commit}}"],
            capture_output=True, text=True, check=False, env=safe,
        )  # fmt: skip
        # A branch may be called like a commit.
        if done.returncode == 0 and (not exact or done.stdout.strip() == order.revision):
            break
    else:
        raise BuildError(f"{order.where}: {order.shown} has no revision {order.revision!r}", hint="correct it")
    commit = done.stdout.strip()
    _git([*inside, "checkout", "--quiet", "--detach", commit], order, safe)
    _git([*inside, "submodule", "--quiet", "update", "--init", "--recursive"], order, safe)
    return order.note_git(commit)


def _git(command: list[str], order: SourceOrder, environ: Mapping[str, str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(environ))
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["git failed"])[-1]
        raise BuildError(
            f"{order.where}: {order.shown} cannot be fetched: {hide_credentials(last)}", hint="check address"
        )


def _unpack(file: Path, target: Path, order: SourceOrder) -> None:
    """Unpack a source archive; its one folder becomes `target`."""
    aside = target.with_name("unpacked")
    aside.mkdir()
    try:
        if file.name.endswith(".zip"):
            _unpack_zip(file, aside)
        else:
            _unpack_tar(file, aside)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
    ) as error:
        raise BuildError(f"{order.where}: {file.name} is no source archive that can be unpacked: {error}") from None
    inside = list(aside.iterdir())
    (inside[0] if len(inside) == 1 and inside[0].is_dir() else aside).rename(target)


def _unpack_zip(file: Path, folder: Path) -> None:
    limit = limit_unpacked(file.stat().st_size)
    with zipfile.ZipFile(file) as archive:
        if sum(info.file_size for info in archive.infolist()) > limit:
            raise ValueError(f"it unpacks to more than {limit} bytes")
        # A member never gives more bytes than its entry says.
        archive.extractall(folder)


def _unpack_tar(file: Path, folder: Path) -> None:
    left = limit_unpacked(file.stat().st_size)
    with tarfile.open(file) as archive:
        for member in archive:
            left -= member.size
            if left < 0:
                raise ValueError("it unpacks to more than any real one")
            # What the filter refuses is an error, and so is a link to what the archive does not hold.
            archive.extract(member, folder, filter="data")


def _build(order: SourceOrder, lock: Lock, source: Path, out: Path, scratch: Path, workshop: Workshop) -> None:
    project = source / (order.subdirectory or ".")
    if not project.resolve().is_relative_to(source.resolve()) or not project.is_dir():
        raise BuildError(f"{order.where}: {order.shown} has no folder {order.subdirectory!r}")
    file = project / "pyproject.toml"
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None
    required = parse_build_requirements(text, where=order.where)
    _fetch_build_requirements(required, lock, scratch / "wheels", workshop)
    info = workshop.engine.describe()
    identity = choose_identity(info)
    if not identity.is_caller:
        # The container's user is nobody's here; what it writes is read back below.
        out.chmod(0o777)
        for path in (scratch, *source.rglob("*"), source):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o055)
    request = ContainerRequest(
        name=f"reprobox-build-{secrets.token_hex(6)}",
        image=workshop.image(lock),
        argv=("sh", "-c", _BUILD, "build", order.subdirectory or ".", " ".join(r.name for r in required)),
        environment=(
            ("HOME", "/home/reprobox"), ("LC_ALL", "C.UTF-8"), ("PIP_NO_CACHE_DIR", "1"), ("PYTHONHASHSEED", "0"),
            ("SOURCE_DATE_EPOCH", _EPOCH), ("TZ", "UTC"),
        ),
        working_directory="/tmp",
        user=identity.user,
        mounts=(
            Mount(source=source, target="/in/source"),
            Mount(source=scratch / "wheels", target="/in/wheels"),
            Mount(source=out, target="/out", writable=True),
        ),
        memory_bytes=int(info.memory_bytes * 0.9) or None,
        labels=((RUN_LABEL, "build"), (STATE_LABEL, str(scratch))),
    )  # fmt: skip
    exit_code, lines = run_to_end(workshop.engine, request)
    if exit_code != 0:
        raise BuildError(
            f"{order.where}: {order.shown} cannot be built in the environment:\n  " + "\n  ".join(lines),
            hint=_hint_of("\n".join(lines)) or f"ask for a version of {order.shown} that has a wheel",
        )


def _hint_of(text: str) -> str | None:
    if "gcc" in text or "cc'" in text or "compiler" in text or "cmake" in text.lower():
        return "it needs a compiler: name a base that has one, or take compilers from conda"
    if "egg_info" in text or "extras_require" in text:
        return "its setup.py is older than today's setuptools: ask for a newer version of it"
    return None


def _fetch_build_requirements(
    required: tuple[WheelRequirement, ...], lock: Lock, folder: Path, workshop: Workshop
) -> None:
    """Have wheels of a build's requirements, and pip itself, in a folder."""
    folder.mkdir()
    pip = WheelRequirement(text="pip", name="pip", line=1)
    try:
        wheels = solve_wheels(
            (pip, *required),
            python=lock.python,
            glibc=dict(lock.virtual_packages)["__glibc"],
            platform=lock.platform,
            client=workshop.client,
        )
    except NoSolution as error:
        raise BuildError(f"what the build needs cannot be had: {error.message}", hint=error.hint) from None
    fetcher = Fetcher(lock, client=workshop.client, cache=workshop.cache, advance=lambda size: None)
    for wheel in wheels:
        shutil.copyfile(fetcher.fetch(wheel), folder / wheel.file)
