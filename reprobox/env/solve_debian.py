"""Resolve a base's Debian packages from a suite's signed index."""

from __future__ import annotations

import hashlib
import lzma
import re
import subprocess
import tempfile
from pathlib import Path

from reprobox.env.bases import BaseSpec, DebianPackage, plan_closure
from reprobox.env.client import Client, find_debian_mirrors
from reprobox.errors import ArtefactAltered, IndexUnreachable

_DEBIAN_ARCHITECTURES = {"linux-64": "amd64", "linux-aarch64": "arm64"}
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_TIMEOUT_S = 60


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
