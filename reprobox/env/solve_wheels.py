"""Resolve wheels with uv, against the target's Python, platform and C library, and never this machine's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from reprobox.env.client import Client
from reprobox.env.lockfile import Wheel
from reprobox.env.pip_lines import WheelRequirement
from reprobox.env.uv_resolver import BROUGHT, MACHINES, run_uv
from reprobox.errors import ArtefactAltered, IndexUnreachable, NoSolution, NoWheel

if TYPE_CHECKING:
    from packaging.tags import Tag

_TIMEOUT_S = 60


def solve_wheels(
    requirements: Iterable[WheelRequirement],
    *,
    python: str,
    glibc: str,
    platform: str,
    client: Client,
    kept: Iterable[tuple[str, str]] = (),
    upgrade: Iterable[str] = (),
    exclude_newer: str | None = None,
    provided: Iterable[tuple[str, str]] = (),
    source: str = "the environment file",
    dependencies: bool = True,
) -> tuple[Wheel, ...]:
    """Resolve requirements into wheels of the target.

    Args:
        requirements: What is asked for.
        python: Exact version of the interpreter, such as "3.11.2".
        glibc: Version of the target's C library, such as "2.36".
        platform: Conda's name of the target.
        client: How the index is reached.
        kept: Names and versions of an older lock, kept where they still fit.
        upgrade: Names whose version may move all the same.
        exclude_newer: Ignore what was published after this date (ISO 8601).
        provided: Projects, with versions, that conda packages bring; they are not installed twice.
        source: The environment file's name, for messages.
        dependencies: Whether what the requirements need is added; not where they are all there is.

    Returns:
        One wheel a project, by name.

    Raises:
        NoSolution: They cannot be met together, a name is unknown, or there is no wheel for the target.
        IndexUnreachable: The index did not answer.
    """
    brought = dict(provided)
    markers = {
        "python_version": ".".join(python.split(".")[:2]),
        "python_full_version": python,
        "platform_machine": MACHINES[platform],
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
    }
    wanted = [requirement for requirement in requirements if not _is_brought(requirement, brought, source, markers)]
    if not wanted:
        return ()
    lines = [requirement.text for requirement in wanted]
    flags = [flag for name in upgrade for flag in ("--upgrade-package", name)]
    if not dependencies:
        flags.append("--no-deps")
    if exclude_newer:
        flags += ["--exclude-newer", exclude_newer]
    try:
        document = run_uv(
            lines,
            flags=flags,
            kept=tuple(kept),
            provided=brought,
            python=python,
            glibc=glibc,
            platform=platform,
            client=client,
        )
    except NoWheel:
        raise
    except NoSolution as error:
        target = {"python": python, "glibc": glibc, "platform": platform}
        raise _place_error(error, wanted, source, target, client) from None
    rows = [
        package for package in document.get("packages", []) if not str(package.get("version", "")).endswith(BROUGHT)
    ]
    named = _collect_hashes(wanted)
    wheels = list(_choose({"packages": rows}, python=python, glibc=glibc, platform=platform, named=named))
    _require_hashes(wheels, wanted, source)
    return tuple(sorted(wheels, key=lambda wheel: wheel.name))


def _place_error(
    error: NoSolution, wanted: Iterable[WheelRequirement], source: str, target: Mapping[str, str], client: Client
) -> NoSolution:
    """Say in which lines the requirements stand that an error is about, and what there is instead of what is gone."""
    named = [r for r in wanted if re.search(rf"(?<![\w.-]){re.escape(r.name)}(?![\w-])", error.message)]
    if not named:
        return error
    gone = re.search(r"there is no version of ([\w.-]+?)==(\S+) and you require", error.message)
    asked = next((r for r in named if gone and r.name == gone[1]), None)
    if asked is not None:
        newest = _find_newest(asked.name, target, client)
        if newest:
            return NoSolution(
                f"{source}:{asked.line}: {asked.text} is no longer published; {newest} is",
                hint=f"write {asked.name}=={newest}",
            )
    if len(named) == 1:
        return NoSolution(f"{source}:{named[0].line}: {error.message}", hint=error.hint)
    lines = ", ".join(f"line {r.line}: {r.text}" for r in named)
    return NoSolution(f"{source}: {error.message} ({lines})", hint=error.hint)


def _find_newest(name: str, target: Mapping[str, str], client: Client) -> str | None:
    """Find the newest version of a project that has a wheel for a target."""
    try:
        document = run_uv(
            [name],
            flags=["--no-deps"],
            python=target["python"],
            glibc=target["glibc"],
            platform=target["platform"],
            client=client,
        )
    except (NoSolution, IndexUnreachable):
        return None
    return next((str(package["version"]) for package in document.get("packages", []) if "version" in package), None)


def _is_brought(
    requirement: WheelRequirement, provided: Mapping[str, str], source: str, target: Mapping[str, str]
) -> bool:
    """Whether conda brings what a pip requirement asks for.

    Raises:
        NoSolution: Conda brings another version of it.
    """
    from packaging.requirements import Requirement

    version = provided.get(requirement.name)
    if version is None:
        return False
    parsed = Requirement(requirement.text)
    if parsed.marker is not None and not parsed.marker.evaluate(dict(target)):
        # It does not stand for this target, so nothing is asked.
        return True
    if parsed.extras:
        raise NoSolution(
            f"{source}:{requirement.line}: {requirement.text} is asked of pip, but conda brings {requirement.name} "
            f"{version}, which knows no extras",
            hint=f"leave {requirement.name} to pip alone, or write what {', '.join(sorted(parsed.extras))} stands for",
        )
    if not parsed.specifier.contains(version, prereleases=True):
        raise NoSolution(
            f"{source}:{requirement.line}: {requirement.text} is asked of pip, but conda brings {requirement.name} "
            f"{version}; one would lie on top of the other",
            hint=f"take {requirement.name} out of one of the two sections, or ask both for one version",
        )
    return True


def _collect_hashes(wanted: Iterable[WheelRequirement]) -> dict[str, set[str]]:
    """Collect the digests that lines name for a project, over all its lines: markers may choose between them."""
    named: dict[str, set[str]] = {}
    for requirement in wanted:
        if requirement.sha256s:
            named.setdefault(requirement.name, set()).update(requirement.sha256s)
    return named


def _require_hashes(wheels: Iterable[Wheel], wanted: Iterable[WheelRequirement], source: str) -> None:
    """Require that the index gives the files that lines name by their hashes.

    Raises:
        ArtefactAltered: It gives another one.
    """
    requirements = list(wanted)
    named = _collect_hashes(requirements)
    for wheel in wheels:
        if wheel.name in named and wheel.sha256 not in named[wheel.name]:
            line = next(r.line for r in requirements if r.name == wheel.name and r.sha256s)
            raise ArtefactAltered(
                f"{source}:{line}: the index gives {wheel.file} with sha256 {wheel.sha256}, which no line for it names",
                hint="correct the hashes, or do not trust that index",
            )


def locate_wheels(wheels: Iterable[Wheel], *, python: str, glibc: str, platform: str, client: Client) -> dict[str, str]:
    """Ask the index where locked wheels can be fetched.

    Returns:
        File name → URL, for those that the index still has under that name.

    Raises:
        NoSolution: A locked version is no longer on the index.
        IndexUnreachable: The index did not answer.
    """
    lines = [f"{wheel.name}=={wheel.version}" for wheel in wheels]
    if not lines:
        return {}
    document = run_uv(lines, flags=["--no-deps"], python=python, glibc=glibc, platform=platform, client=client)
    found: dict[str, str] = {}
    for package in document.get("packages", []):
        for row in package.get("wheels", []):
            url = _url(row)
            found[_file_name(url)] = url
    return found


def find_source_archive(
    name: str, version: str | None, *, python: str, glibc: str, platform: str, client: Client
) -> tuple[str, str, str]:
    """Ask the index for a project's source archive, without building anything to learn its metadata.

    Args:
        name: Project name.
        version: Exact version, or None for the newest.

    Returns:
        File name, sha256 in hex, and URL.

    Raises:
        NoSolution: There is none with a sha256.
        IndexUnreachable: The index did not answer.
    """
    document = run_uv(
        [f"{name}=={version}" if version else name],
        flags=["--no-deps", "--no-binary", name],
        python=python,
        glibc=glibc,
        platform=platform,
        client=client,
        # What it depends on is read from the wheel, once that is built.
        configuration=f'[[dependency-metadata]]\nname = "{name}"\nrequires-dist = []\n',
        wheels_only=False,
    )
    for package in document.get("packages", []):
        row = package.get("sdist")
        if row and "sha256" in row.get("hashes", {}):
            return _file_name(_url(row)), str(row["hashes"]["sha256"]), _url(row)
    raise NoSolution(f"{name} has no source archive with a sha256 either", hint=f"ask for another version of {name}")


def uv_version() -> str:
    """Version of the resolver, noted in locks."""
    from importlib.metadata import version

    return version("uv")


def plan_tags(*, python: str, glibc: str, platform: str) -> dict[Tag, int]:
    """Plan which wheel tags a target takes, each with its rank (0 is best).

    Source: PEP 425, PEP 600 and the order of packaging.tags.
    """
    from packaging.tags import compatible_tags, cpython_tags

    machine = MACHINES[platform]
    major, minor = (int(part) for part in python.split(".")[:2])
    glibc_major, glibc_minor = (int(part) for part in glibc.split(".")[:2])
    platforms = []
    legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    for level in range(glibc_minor, 4, -1):
        platforms.append(f"manylinux_{glibc_major}_{level}_{machine}")
        if level in legacy:
            platforms.append(f"{legacy[level]}_{machine}")
    platforms.append(f"linux_{machine}")
    tags = [
        *cpython_tags((major, minor), abis=[f"cp{major}{minor}"], platforms=platforms),
        *compatible_tags((major, minor), interpreter=f"cp{major}{minor}", platforms=platforms),
    ]
    return {tag: rank for rank, tag in reversed(list(enumerate(tags)))}


def _choose(
    document: dict[str, Any],
    *,
    python: str,
    glibc: str,
    platform: str,
    named: Mapping[str, set[str]] | None = None,
) -> Iterator[Wheel]:
    from packaging.utils import parse_wheel_filename

    ranks = plan_tags(python=python, glibc=glibc, platform=platform)
    for package in document.get("packages", []):
        name, version = str(package["name"]), str(package.get("version", ""))
        best: tuple[tuple[int, Any, str], dict[str, Any]] | None = None
        rows = package.get("wheels", [])
        # Where files are named by their digests, the choice is among those alone.
        among = [row for row in rows if row.get("hashes", {}).get("sha256") in (named or {}).get(name, ())]
        for row in among or rows:
            file = _file_name(_url(row))
            _, _, build, tags = parse_wheel_filename(file)
            rank = max((-ranks[tag] for tag in tags if tag in ranks), default=None)
            # The better tag, then the later build.
            if rank is not None and (best is None or (rank, build, file) > best[0]):
                best = ((rank, build, file), row)
        if best is None or "sha256" not in best[1].get("hashes", {}):
            raise NoSolution(
                f"{name} {version} has no wheel with a sha256 for Python {python} on {platform} (glibc {glibc})",
                hint=f"ask for another version of {name}",
            )
        (_, _, file), row = best
        yield Wheel(
            name=name,
            version=version,
            file=file,
            size_bytes=int(row["size"]) if "size" in row else _load_size(_url(row), file),
            sha256=row["hashes"]["sha256"],
        )


def _load_size(url: str, file: str) -> int:
    """Ask for the size of a file whose index does not tell it (PEP 503 has no place for it).

    Raises:
        IndexUnreachable: It is not told either.
    """
    import requests

    if url.startswith("file:"):
        return Path(unquote(urlsplit(url).path)).stat().st_size
    try:
        answer = requests.head(url, timeout=_TIMEOUT_S, allow_redirects=True, headers={"Accept-Encoding": "identity"})
        answer.raise_for_status()
        return int(answer.headers["Content-Length"])
    except (requests.RequestException, KeyError, ValueError) as error:
        raise IndexUnreachable(
            f"the index does not tell the size of {file}: {type(error).__name__}: {error}",
            hint="name another index under [mirrors] in reprobox.toml",
        ) from None


def _url(row: Mapping[str, Any]) -> str:
    return str(row["url"]) if "url" in row else Path(str(row["path"])).resolve().as_uri()


def _file_name(url: str) -> str:
    """Give the name of the file at a URL.

    Raises:
        IndexUnreachable: It is none: quoted slashes would lead elsewhere.
    """
    name = unquote(urlsplit(url).path.rsplit("/", 1)[-1])
    if not name or name in (".", "..") or re.search(r"[/\\\x00-\x1f]", name):
        raise IndexUnreachable(
            f"the index names a file {name!r}, which is no name of one", hint="do not use that index"
        )
    return name
