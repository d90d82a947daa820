"""Turn requirements into packages. The only file of the project that resolves over the network.

Wheels are resolved by uv, against the target's Python, platform and C library, never this machine's. Debian packages
come from a suite's signed index.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from reprobox.env.bases import BaseSpec, DebianPackage, plan_closure
from reprobox.env.client import Client, find_debian_mirrors
from reprobox.env.lockfile import Wheel
from reprobox.env.spec import WheelRequirement
from reprobox.errors import ArtefactAltered, IndexUnreachable, NoSolution

if TYPE_CHECKING:
    from packaging.tags import Tag

MACHINES = {"linux-64": "x86_64", "linux-aarch64": "aarch64"}
_DEBIAN_ARCHITECTURES = {"linux-64": "amd64", "linux-aarch64": "arm64"}
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
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

    Returns:
        One wheel a project, by name.

    Raises:
        NoSolution: They cannot be met together, a name is unknown, or there is no wheel for the target.
        IndexUnreachable: The index did not answer.
    """
    wanted = list(requirements)
    if not wanted:
        return ()
    lines = [requirement.text for requirement in wanted]
    flags = [flag for name in upgrade for flag in ("--upgrade-package", name)]
    if exclude_newer:
        flags += ["--exclude-newer", exclude_newer]
    document = _run_uv(
        lines, flags=flags, kept=tuple(kept), python=python, glibc=glibc, platform=platform, client=client
    )
    rows = _choose(document, python=python, glibc=glibc, platform=platform)
    return tuple(sorted(rows, key=lambda wheel: wheel.name))


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
    document = _run_uv(lines, flags=["--no-deps"], python=python, glibc=glibc, platform=platform, client=client)
    found: dict[str, str] = {}
    for package in document.get("packages", []):
        for row in package.get("wheels", []):
            url = _url(row)
            found[_file_name(url)] = url
    return found


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


def _choose(document: dict[str, Any], *, python: str, glibc: str, platform: str) -> Iterator[Wheel]:
    from packaging.utils import parse_wheel_filename

    ranks = plan_tags(python=python, glibc=glibc, platform=platform)
    for package in document.get("packages", []):
        name, version = str(package["name"]), str(package.get("version", ""))
        best: tuple[tuple[int, Any, str], dict[str, Any]] | None = None
        for row in package.get("wheels", []):
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
    return unquote(urlsplit(url).path.rsplit("/", 1)[-1])


def _run_uv(
    lines: list[str],
    *,
    python: str,
    glibc: str,
    platform: str,
    client: Client,
    flags: list[str],
    kept: tuple[tuple[str, str], ...] = (),
) -> dict[str, Any]:
    from uv import find_uv_bin

    target = f"{MACHINES[platform]}-manylinux_{glibc.replace('.', '_')}"
    with tempfile.TemporaryDirectory(prefix="reprobox-solve-") as folder:
        output = Path(folder) / "pylock.toml"
        if kept:
            # uv takes the versions that an output file holds already as preferences.
            rows = [f'[[packages]]\nname = "{name}"\nversion = "{version}"\n' for name, version in kept]
            output.write_text('lock-version = "1.0"\ncreated-by = "reprobox"\n\n' + "\n".join(rows), encoding="utf-8")
        command = [
            find_uv_bin(), "pip", "compile", "-", "--quiet", "--no-header", "--no-annotate",
            "--format", "pylock.toml", "--output-file", str(output),
            "--only-binary", ":all:", "--python", sys.executable, "--no-python-downloads",
            "--python-version", python, "--python-platform", target, *flags,
        ]  # fmt: skip
        if "pypi" in client.mirrors:
            command += ["--default-index", client.mirrors["pypi"]]
        # Run apart from the project: a pyproject.toml or uv.toml beside the script must not shape the result.
        done = subprocess.run(
            command,
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env=dict(client.environ),
        )
        if done.returncode != 0:
            raise _explain(done.stderr)
        return tomllib.loads(output.read_text(encoding="utf-8"))


def _explain(stderr: str) -> NoSolution | IndexUnreachable:
    """Turn uv's words into an error with the name that it is about."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", stderr).strip()
    text = re.sub(r"^\s*[×╰─▶│├]+\s*", "", text, flags=re.MULTILINE)
    sentences = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("warning")]
    plain = re.sub(r"\s+", " ", " ".join(sentences))
    plain = re.sub(r"^error: |\bcause: |\bhint: .*$", "", plain).strip()
    unknown = re.search(r"Because (\S+) was not found in the (?:package registry|provided)", plain)
    if unknown:
        return NoSolution(
            f"{unknown[1]} is not on the package index",
            hint=f"check the spelling of {unknown[1]} in the environment file",
        )
    if re.search(r"No solution found", plain):
        reason = re.sub(r"^No solution found when resolving dependencies:?\s*", "", plain)
        hint = "relax one of the versions named there"
        if "no usable wheels" in reason or "no wheels" in reason:
            hint = "ask for a version that is published as a wheel for this Python and platform"
        return NoSolution(f"the requirements cannot be met together: {reason}", hint=hint)
    if re.search(
        r"[Ff]ailed to fetch|[Cc]ould not connect|dns error|[Rr]equest failed|timed? ?out|[Cc]onnection", plain
    ):
        return IndexUnreachable(
            f"the package index did not answer: {plain}",
            hint="check the network, or name a mirror under [mirrors] in reprobox.toml",
        )
    return NoSolution(f"uv could not resolve the requirements: {plain}", hint="see the message of uv above")


def solve_base(spec: BaseSpec, *, platform: str, client: Client) -> tuple[DebianPackage, ...]:
    """Resolve a base into Debian packages, from the suite's signed index.

    Raises:
        IndexUnreachable: No mirror answers, or its signature cannot be checked.
        EnvironmentInvalid: A package is unknown.
        ArtefactAltered: The index does not hash to what its signed release file says.
    """
    architecture = _DEBIAN_ARCHITECTURES[platform]
    problem: IndexUnreachable | None = None
    for mirror in find_debian_mirrors(client):
        try:
            text = _load_index(mirror, spec, architecture, client)
        except IndexUnreachable as error:
            problem = problem or error
            continue
        return select_packages(text, spec)
    assert problem is not None
    raise problem


def select_packages(index: str, spec: BaseSpec) -> tuple[DebianPackage, ...]:
    """Select a base's packages out of the text of a suite's Packages index.

    Raises:
        EnvironmentInvalid: A package is unknown.
    """
    from debian.deb822 import Packages

    stanzas: dict[str, str] = {}
    provides: dict[str, list[str]] = {}
    depends: dict[str, tuple[tuple[str, ...], ...]] = {}
    for stanza in index.split("\n\n"):
        name = re.match(r"\s*Package: (\S+)", stanza)
        if not name or (name[1] in stanzas and not _is_newer(stanza, stanzas[name[1]])):
            continue
        stanzas[name[1]] = stanza
        depends[name[1]] = _alternatives(stanza)
        virtual = re.search(r"^Provides: (.+)$", stanza, re.MULTILINE)
        for provided in virtual[1].split(",") if virtual else ():
            provides.setdefault(provided.split("(")[0].strip(), []).append(name[1])
    names = plan_closure(spec, depends=depends, provides={key: tuple(sorted(value)) for key, value in provides.items()})
    selected = []
    for name_ in names:
        fields = Packages(stanzas[name_])
        selected.append(
            DebianPackage(
                name=name_,
                version=fields["Version"],
                file=fields["Filename"],
                size_bytes=int(fields["Size"]),
                sha256=fields["SHA256"],
            )
        )
    return tuple(selected)


def _is_newer(stanza: str, other: str) -> bool:
    from debian.debian_support import Version

    found = [re.search(r"^Version: (\S+)$", text, re.MULTILINE) for text in (stanza, other)]
    versions = [Version(match[1]) if match else Version("0") for match in found]
    return bool(versions[0] > versions[1])


def _alternatives(stanza: str) -> tuple[tuple[str, ...], ...]:
    groups: list[tuple[str, ...]] = []
    for field in ("Pre-Depends", "Depends"):
        found = re.search(rf"^{field}: (.+)$", stanza, re.MULTILINE)
        if found:
            for group in found[1].split(","):
                groups.append(tuple(re.split(r"[\s(:]", option.strip())[0] for option in group.split("|")))
    return tuple(groups)


def _load_index(mirror: str, spec: BaseSpec, architecture: str, client: Client) -> str:
    release = _verify_release(_get(f"{mirror}/dists/{spec.suite}/InRelease"), mirror=mirror, client=client)
    names = re.findall(r"^(?:Suite|Codename): (\S+)$", release, re.MULTILINE)
    if spec.suite not in names:
        # The signature is good for every suite; that this is the one asked for is said inside it alone.
        raise ArtefactAltered(
            f"{mirror}: the signed release file of {spec.suite} is that of {' / '.join(names) or 'no suite'}",
            hint="do not trust that mirror; name another",
        )
    path = f"{spec.component}/binary-{architecture}/Packages.xz"
    row = re.search(rf"^ ([0-9a-f]{{64}})\s+(\d+)\s+{re.escape(path)}$", release, re.MULTILINE)
    if not row:
        raise IndexUnreachable(f"{mirror}: {spec.suite} has no {path}", hint="check suite and component in base.yml")
    packed = _get(f"{mirror}/dists/{spec.suite}/{path}")
    if hashlib.sha256(packed).hexdigest() != row[1]:
        raise ArtefactAltered(
            f"{mirror}: {path} does not hash to what the signed release file says",
            hint="try again in a minute (the mirror may be mid-update), or another mirror",
        )
    return lzma.decompress(packed).decode("utf-8")


def _verify_release(signed: bytes, *, mirror: str, client: Client) -> str:
    if not _KEYRING.is_file():
        raise IndexUnreachable(
            f"the signature of {mirror} cannot be checked: {_KEYRING} is missing",
            hint="apt-get install gpgv debian-archive-keyring",
        )
    with tempfile.TemporaryDirectory(prefix="reprobox-release-") as folder:
        source, plain = Path(folder) / "InRelease", Path(folder) / "Release"
        source.write_bytes(signed)
        command = ["gpgv", "--keyring", str(_KEYRING), "--output", str(plain), str(source)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(client.environ))
        except FileNotFoundError:
            raise IndexUnreachable(
                f"the signature of {mirror} cannot be checked: gpgv is missing",
                hint="apt-get install gpgv debian-archive-keyring",
            ) from None
        if done.returncode != 0 or not plain.is_file():
            raise IndexUnreachable(
                f"the signature of {mirror} is not good: {done.stderr.strip().splitlines()[-1] if done.stderr else ''}",
                hint="use another mirror, or update debian-archive-keyring",
            )
        return plain.read_text(encoding="utf-8")


def _get(url: str) -> bytes:
    import requests

    try:
        answer = requests.get(url, timeout=_TIMEOUT_S)
        answer.raise_for_status()
    except requests.RequestException as error:
        raise IndexUnreachable(
            f"{url}: {type(error).__name__}: {error}",
            hint="check the network, or name a mirror: REPROBOX_DEBIAN_MIRROR",
        ) from None
    return answer.content
