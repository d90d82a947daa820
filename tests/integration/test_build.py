"""Lock → image, with real packages."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPO, Tool, read_golden


def _tool_of_other_user(folder: Path) -> list[str] | None:
    """A command line that runs reprobox as another user, or None where this machine does not let us."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return None
    prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    paths = f"{REPO}:{sysconfig.get_paths()['purelib']}"
    for python in (sys.executable, "/usr/bin/python3"):
        command = [*prefix, "env", f"PYTHONPATH={paths}", python, "-m", "reprobox"]
        if subprocess.run([*command, "--version"], capture_output=True, check=False, cwd=folder).returncode == 0:
            return command
    return None


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user of this machine may enter; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="reprobox-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_one_lock_gives_one_digest_everywhere(open_folder: Path, update_golden: bool) -> None:
    """The committed lock, built twice from nothing in other folders, TZ, umask, HOME and user: one digest, the golden."""
    documents = []
    settings = [("first", "Pacific/Kiritimati", 0o022), ("second/a b", "America/Caracas", 0o077)]
    for number, (name, zone, mask) in enumerate(settings):
        home = open_folder / name
        env = home / "envs/digits-cpu"
        shutil.copytree(REPO / "envs/digits-cpu", env)
        (home / "home").mkdir()
        other = _tool_of_other_user(open_folder) if number == 1 else None
        if other:
            subprocess.run(["chown", "-R", "65534:65534", str(home)], check=True)
        tool = Tool(home)
        environment = tool.environment() | {
            "TZ": zone, "HOME": str(home / "home"), "REPROBOX_CACHE": str(home / "cache"), "LC_ALL": "C",
        }  # fmt: skip
        done = subprocess.run(
            [*(other or tool.command()), "build", "--no-load", "--json", "digits-cpu"],
            cwd=home, env=environment, capture_output=True, text=True, check=False,
            preexec_fn=lambda mask=mask: os.umask(mask) and None,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        documents.append(json.loads(done.stdout))
        shutil.rmtree(home / "cache")
    first, second = documents
    assert first["manifest_digest"] == second["manifest_digest"]
    assert first["diff_ids"] == second["diff_ids"]
    identity = {key: first[key] for key in ("lock_digest", "manifest_digest", "diff_ids", "size_bytes")}
    assert identity == read_golden("digits-cpu.json", identity, update_golden)


def test_building_again_builds_nothing(project: Tool) -> None:
    """What was built once is neither built nor loaded again."""
    project("build")
    again = project("build", "--json")
    assert again.document["reused"] is True
    assert again.err == ""


def test_a_layout_names_its_blobs_truly(project: Tool, tmp_path: Path) -> None:
    """Every blob of an OCI layout hashes to its name, and the index leads to the digest that was printed."""
    document = project("build", "--no-load", "--json", "--output", f"oci:{tmp_path / 'layout'}").document
    index = json.loads((tmp_path / "layout/index.json").read_text())
    assert index["manifests"][0]["digest"] == document["manifest_digest"]
    blobs = sorted((tmp_path / "layout/blobs/sha256").iterdir())
    assert len(blobs) == len(set(document["diff_ids"])) + 2
    for blob in blobs:
        with blob.open("rb") as stream:
            assert hashlib.file_digest(stream, "sha256").hexdigest() == blob.name


def test_an_archive_is_what_docker_loads(project: Tool, tmp_path: Path) -> None:
    """A docker-archive file loads by Docker's own means, with the layers that were promised."""
    document = project("build", "--no-load", "--json", "--output", f"docker-archive:{tmp_path / 'image.tar'}").document
    import docker

    client = docker.from_env()
    with (tmp_path / "image.tar").open("rb") as stream:
        (image,) = client.images.load(stream)
    assert image.id == document["config_digest"]
    assert image.attrs["RootFS"]["Layers"] == document["diff_ids"]


def test_a_wheel_with_other_bytes_is_refused(project: Tool, tmp_path: Path) -> None:
    """A wheel that does not hash to the lock is refused by name, and nothing is built of it."""
    lock = project.folder / "reprobox.lock"
    text = lock.read_text()
    start = text.index("file: idna-")
    digest = text[text.index("sha256: ", start) + 8 :][:64]
    lock.write_text(text.replace(digest, digest[:-1] + ("0" if digest[-1] != "0" else "1")))
    tool = Tool(project.folder, {"REPROBOX_CACHE": str(tmp_path / "cache")})
    done = tool("build", code=11)
    assert "idna-3.10-py3-none-any.whl does not hash to what the lock says" in done.err
    assert "hint: " in done.err
    assert not list((tmp_path / "cache/images").glob("*")) if (tmp_path / "cache/images").exists() else True
    assert not list((tmp_path / "cache/unfinished").iterdir())


def test_a_tampered_cached_package_is_noticed(project: Tool, tmp_path: Path) -> None:
    """A cached wheel whose bytes changed is not used: it is fetched again, and the image is the same."""
    tool = Tool(project.folder, {"REPROBOX_CACHE": str(tmp_path / "cache")})
    first = tool("build", "--no-load", "--json").document
    for file in (tmp_path / "cache/packages").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-1] + b"x")
    shutil.rmtree(tmp_path / "cache/layers")
    again = tool("build", "--no-load", "--json").document
    assert again["manifest_digest"] == first["manifest_digest"]
    assert again["reused"] is False


def test_a_killed_build_leaves_nothing_that_harms(project: Tool, tmp_path: Path) -> None:
    """After kill -9 at several moments of a build from nothing, the next build is right."""
    import signal
    import time

    expected = project("build", "--no-load", "--json").document["manifest_digest"]
    tool = Tool(project.folder, {"REPROBOX_CACHE": str(tmp_path / "cache")})
    for delay_s in (0.8, 1.6, 2.4, 3.2):
        process = tool.start("build", "--no-load", "--json")
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert tool("build", "--no-load", "--json").document["manifest_digest"] == expected


def test_two_builds_at_once(project: Tool, tmp_path: Path) -> None:
    """Two builds into one empty cache give one digest."""
    tool = Tool(project.folder, {"REPROBOX_CACHE": str(tmp_path / "cache")})
    processes = [tool.start("build", "--json") for _ in range(2)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len({json.loads(out)["manifest_digest"] for out, _ in outputs}) == 1


def test_a_changed_wheel_moves_its_layer_only(project: Tool) -> None:
    """Another version of one small wheel shares every layer below its group with the image before."""
    before = project("build", "--no-load", "--json").document
    environment = project.folder / "environment.yml"
    environment.write_text(environment.read_text().replace("idna==3.10", "idna==3.9"))
    project("lock")
    after = project("build", "--json").document
    moved = [a for a, b in zip(before["diff_ids"], after["diff_ids"], strict=True) if a != b]
    assert len(moved) == 1
    assert before["layers"][-1]["diff_id"] in moved


@pytest.mark.parametrize("root", [True, False])
def test_library_cache_is_the_same_with_and_without_root(
    project: Tool, tmp_path: Path, open_folder: Path, root: bool
) -> None:
    """The dynamic loader's cache of the base does not depend on who makes it."""
    from reprobox.env.lockfile import parse_lock
    from reprobox.image.plan import base_key

    lock = parse_lock((project.folder / "reprobox.lock").read_text(), source="lock")
    cache = tmp_path / "cache"
    tool = Tool(project.folder, {"REPROBOX_CACHE": str(cache)})
    tool("build", "--no-load")
    tree = cache / "trees" / base_key(lock)
    made = (tree / "etc/ld.so.cache").read_bytes()
    assert b"libstdc++.so.6" in made
    copy = open_folder / "tree"
    shutil.copytree(tree, copy, symlinks=True)
    (copy / "etc/ld.so.cache").unlink()
    prefix: list[str] = []
    if not root:
        if os.geteuid() != 0:
            pytest.skip("not root: the other half is what every build here does")
        subprocess.run(["chown", "-R", "65534:65534", str(copy)], check=True)
        prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    subprocess.run([*prefix, str(copy / "usr/sbin/ldconfig"), "-r", str(copy), "-i", "-X"], check=True)
    assert (copy / "etc/ld.so.cache").read_bytes() == made


def test_a_tampered_cached_layer_is_refused_once(project: Tool, tmp_path: Path) -> None:
    """A cached layer with a flipped bit is refused by name, and the next build makes it anew: the same image."""
    import docker

    tool = Tool(project.folder, {"REPROBOX_CACHE": str(tmp_path / "cache")})
    first = tool("build", "--no-load", "--json").document
    client = docker.from_env()
    label = f"org.reprobox.lock={first['lock_digest']}"
    for image in client.images.list(filters={"label": label}):
        client.images.remove(image.id, force=True)
    # The top layer: no other image of this engine is sure to hold it below the same layers.
    name = first["diff_ids"][-1].removeprefix("sha256:")
    blob = tmp_path / "cache/blobs" / name
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    done = tool("build", code=11)
    assert name in done.err
    assert "build again" in done.err
    again = tool("build", "--json").document
    assert again["manifest_digest"] == first["manifest_digest"]


def test_another_platform_has_a_lock_of_its_own(tmp_path: Path) -> None:
    """Locked here for ARM: its wheels and Debian packages, in its own file; it cannot be built here, and says so."""
    tool = Tool(tmp_path)
    (tmp_path / "environment.yml").write_text("dependencies:\n  - python=3.11\n  - pip:\n      - numpy==2.4.6\n")
    tool("lock")
    before = (tmp_path / "reprobox.lock").read_bytes()
    tool("lock", "--platform", "linux-aarch64")
    text = (tmp_path / "reprobox.linux-aarch64.lock").read_text()
    assert "platform: linux-aarch64" in text
    assert "_aarch64.whl" in text
    assert "_arm64.deb" in text
    assert "_amd64.deb" not in text
    assert (tmp_path / "reprobox.lock").read_bytes() == before
    tool("lock", "--platform", "linux-aarch64", "--check")
    if os.uname().machine == "x86_64":
        assert (
            "cannot be built on Linux x86_64" in tool("build", "--no-load", "reprobox.linux-aarch64.lock", code=6).err
        )
    tool("lock", "--platform", "mars", code=2)
