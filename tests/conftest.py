"""What all tests share: the golden option, and telling what this machine has."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.registry import serve_registry

REPO = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew, to be read as a diff")


@dataclass
class Done:
    """A finished `reprobox` command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@dataclass
class Tool:
    """Types `reprobox` as a user would, in a folder."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "reprobox", *words]

    def environment(self) -> dict[str, str]:
        # The coverage of a user's shell, without what pytest or an editor put there.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PYTHON"))}
        return {**kept, **self.environ}

    def __call__(self, *words: str, code: int | None = 0) -> Done:
        done = subprocess.run(
            self.command(*words), cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=False
        )
        result = Done(done.returncode, done.stdout, done.stderr)
        if code is not None:
            assert result.code == code, f"exit {result.code}, not {code}\n{result.out}\n{result.err}"
        assert "Traceback (most recent call last)" not in result.err or code == 8, result.err
        return result

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As from a terminal, also where whoever started the tests ignores Ctrl-C: `nohup`, or a job in the background.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


# Programs that tests use, and the Debian packages that bring them (with what those need to be of use here).
_PACKAGES = {
    "qemu-x86_64": ("qemu-user",),
    "docker-registry": ("docker-registry",),
    "podman": ("podman", "runc", "catatonit", "uidmap", "slirp4netns", "netavark"),
    "ch-run": ("charliecloud",),
    "skopeo": ("skopeo",),
    "debootstrap": ("debootstrap",),
    "openssl": ("openssl",),
    "htpasswd": ("apache2-utils",),
}


def require_program(name: str) -> str:
    """The path of a program that a test uses; installed where root runs the tests, as everything else of them."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if shutil.which(name, path=path) is None:
        if os.geteuid() != 0:
            pytest.skip(
                f"{name} is not installed, and this user cannot install it: apt-get install {_PACKAGES[name][0]}"
            )
        subprocess.run([str(REPO / "scripts/apt-install.sh"), *_PACKAGES[name]], check=True)
    found = shutil.which(name, path=path)
    assert found is not None
    return found


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A real registry on loopback, empty; its address."""
    with serve_registry(require_program("docker-registry"), tmp_path) as address:
        yield address


def read_golden(name: str, value: Any, update: bool) -> Any:
    """Give the golden document of that name, after writing it anew where that was asked for."""
    file = REPO / "tests" / "golden" / name
    if update:
        file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))
