"""The digests of images on a machine that shares nothing with this one but its processor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.channel.build import default_cache, make_channel
from tests.channel.server import serve
from tests.conftest import REPO, require_program
from tests.integration.conftest import make_conda_project

RELEASE = "trixie"
# What a bare Debian needs to install reprobox; its Python is newer than the one that tests run with.
INCLUDED = "python3,python3-venv,ca-certificates"
CONDA = {
    "conda with wheels": """\
dependencies: [python=3.11, numpy, hello-entry, prefix-text, prefix-binary, links-demo, pip, {pip: [idna==3.10]}]
""",
    "300 conda packages": """\
dependencies: [python=3.11, numpy, many]
""",
}


def find_mirror() -> str:
    """Where this machine's own apt gets Debian from."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Origin: Debian"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return next(site for site in done.stdout.split() if site.rstrip("/").endswith("/debian"))


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Another release of Debian in a folder, with another Python and reprobox installed from this tree."""
    if os.geteuid() != 0:
        pytest.skip("only root can install another system into a folder")
    root = tmp_path_factory.mktemp("other") / "machine"
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
    golden = json.loads((REPO / "tests/golden/digits-cpu.json").read_bytes())
    built = build_within(machine, "~/p", "digits-cpu")
    assert {key: built[key] for key in golden} == golden


@pytest.mark.parametrize("name", CONDA)
def test_conda_environments_come_out_the_same_there(machine: Path, tmp_path: Path, name: str) -> None:
    """A conda environment, and one of 300 packages: one lock, built here and there, has one manifest digest."""
    made = make_channel(tmp_path / "channel", default_cache(), size="light", many=300)
    with serve(made.root) as server:
        here = make_conda_project(tmp_path / "here", server, "channels: [conda-forge]\n" + CONDA[name])
        expected = here("build", "--no-load", "--json").document
        there = machine / "home/other" / name.replace(" ", "-")
        there.mkdir()
        for file in ("environment.yml", "reprobox.lock", "reprobox.toml"):
            shutil.copyfile(here.folder / file, there / file)
        within(machine, f"chown -R other '/home/other/{there.name}'")
        built = build_within(machine, f"~/{there.name}", "")
    assert here.folder.joinpath("reprobox.lock").read_text().count("  subdir:") > (300 if "300" in name else 5)
    keys = ("lock_digest", "manifest_digest", "diff_ids")
    assert {key: built[key] for key in keys} == {key: expected[key] for key in keys}


def build_within(machine: Path, folder: str, environment: str) -> dict[str, Any]:
    """Build there, as another user with a umask, a time zone and a locale of its own; gives what it printed."""
    built = f"cd {folder} && umask 077 && TZ=Asia/Kathmandu LC_ALL=C.UTF-8 /venv/bin/reprobox build {environment} --no-load --json"
    document: dict[str, Any] = json.loads(within(machine, f"exec su other -c '{built}'"))
    return document


def test_another_processor_gives_the_same_image(tmp_path: Path) -> None:
    """Emulated, with other instruction sets: a processor of before AVX."""
    qemu = require_program("qemu-x86_64")
    text = "dependencies: [python=3.11, pip, {pip: [numpy==2.4.6, idna==3.10]}]\n"
    digests = []
    for name, prefix in (("here", []), ("there", [qemu, "-cpu", "Opteron_G3-v1"])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "environment.yml").write_text(text)
        done = subprocess.run(
            [*prefix, sys.executable, "-m", "reprobox", "build", "--no-load", "--json"],
            cwd=tmp_path / name, env={**os.environ, "REPROBOX_CACHE": str(tmp_path / name / "cache")}, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        digests.append(json.loads(done.stdout)["manifest_digest"])
    assert digests[0] == digests[1]
