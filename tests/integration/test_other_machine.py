"""The digest of an image on a machine that shares nothing with this one but its processor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPO, require_program

RELEASE = "trixie"
# What a bare Debian needs to install reprobox; its Python is newer than the one that tests run with.
INCLUDED = "python3,python3-venv,ca-certificates"


def find_mirror() -> str:
    """Where this machine's own apt gets Debian from."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Origin: Debian"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return next(site for site in done.stdout.split() if site.rstrip("/").endswith("/debian"))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    """Another release of Debian in a folder, with another Python and reprobox installed from this tree."""
    if os.geteuid() != 0:
        pytest.skip("only root can install another system into a folder")
    root = tmp_path / "machine"
    debootstrap = require_program("debootstrap")
    subprocess.run(
        [debootstrap, "--variant=minbase", f"--include={INCLUDED}", RELEASE, str(root), find_mirror()],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    for file in ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt"):
        if Path(file).exists():
            (root / file[1:]).unlink(missing_ok=True)
            shutil.copyfile(file, root / file[1:])
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, check=True, capture_output=True).stdout
    for name in filter(None, os.fsdecode(listed).split("\0")):
        target = root / "src" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPO / name, target)
    within(
        root, "useradd -m other && python3 -m venv /venv && /venv/bin/pip install -q /src && cp -r /src /home/other/p"
    )
    within(root, "chown -R other /home/other")
    yield root
    shutil.rmtree(root)


def within(root: Path, script: str) -> str:
    """Run a shell script in there; what it mounts goes with it."""
    prepare = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" sh -euc "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", prepare, str(root), script], check=False, capture_output=True, text=True,
        env={**os.environ, "HOME": "/root", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_another_release_and_another_python_give_the_same_image(machine: Path) -> None:
    """Debian 13, its Python, another user, umask, time zone, an empty cache and no engine: the golden digests."""
    assert "Python 3.13" in within(machine, "python3 --version")
    built = within(
        machine, "exec su other -c 'cd ~/p && umask 077 && TZ=Asia/Kathmandu /venv/bin/reprobox build digits-cpu --no-load --json'"
    )  # fmt: skip
    golden = json.loads((REPO / "tests/golden/digits-cpu.json").read_bytes())
    assert {key: json.loads(built)[key] for key in golden} == golden
