"""Bases that are an image or a Dockerfile: a real engine, a real registry on loopback."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.channel.build import default_cache, make_channel
from tests.channel.server import Server, serve
from tests.conftest import Tool

ENVIRONMENT = "channels: [conda-forge]\ndependencies:\n  - python=3.11\n  - pip:\n      - idna==3.10\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(make_channel(None, default_cache(), size="light").root) as running:
        yield running


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Name of an image in the engine, made by us: nothing can be pulled from a public registry."""
    folder = tmp_path_factory.mktemp("parent")
    (folder / "environment.yml").write_text("dependencies:\n  - python=3.11\n")
    Tool(folder)("build")
    found = json.loads(Tool(folder)("build", "--json").out)
    name = f"reprobox-test-parent:{os.getpid()}"
    subprocess.run(["docker", "tag", found["config_digest"], name], check=True)
    yield name
    subprocess.run(["docker", "rmi", name], check=False, capture_output=True)


def make_project(folder: Path, server: Server, base: str, dockerfile: str = "") -> Tool:
    (folder / "dockerfiles/mine").mkdir(parents=True)
    (folder / "dockerfiles/mine/base.yml").write_text(base)
    if dockerfile:
        (folder / "dockerfiles/mine/Dockerfile").write_text(dockerfile)
    (folder / "environment.yml").write_text(ENVIRONMENT)
    (folder / "reprobox.toml").write_text(
        f'[mirrors]\nconda = "{server.url()}"\n[env.x]\nenvironment = "environment.yml"\nbase = "mine"\n'
    )
    return Tool(folder, {"REPROBOX_CACHE": str(folder / "cache")})


def test_a_dockerfile_is_built_flattened_and_pinned(tmp_path: Path, server: Server, parent: str) -> None:
    """What a Dockerfile makes is in the image; a mirror carries it to where it cannot be built."""
    tool = make_project(
        tmp_path / "p", server, "dockerfile: Dockerfile\nglibc: '2.36'\n",
        f"FROM {parent}\nRUN echo from the Dockerfile > /said.txt && ln /said.txt /again.txt\n",
    )  # fmt: skip
    (tool.folder / "t.py").write_text(
        "import idna, os; print(open('/said.txt').read(), os.stat('/again.txt').st_nlink)"
    )
    assert tool("run", "t.py").out.split() == ["from", "the", "Dockerfile", "2"]
    lock = (tool.folder / "reprobox.lock").read_text()
    assert re.search(r"flattened:\n +sha256: [0-9a-f]{64}\n", lock)
    expected = tool("build", "--no-load", "--json").document["manifest_digest"]
    tool("mirror", "reprobox.lock", "mirror")
    elsewhere = Tool(tool.folder, {"REPROBOX_CACHE": str(tmp_path / "empty"), "REPROBOX_MIRROR": "mirror"})
    assert elsewhere("build", "--no-load", "--json").document["manifest_digest"] == expected
    alone = Tool(tool.folder, {"REPROBOX_CACHE": str(tmp_path / "empty-too")})
    done = alone("build", "--no-load", code=4)
    assert "the flattened base mine" in done.err
    assert "hint: " in done.err


def test_a_dockerfile_that_fails_says_why(tmp_path: Path, server: Server, parent: str) -> None:
    """The engine's last lines are shown, and nothing is locked."""
    tool = make_project(
        tmp_path / "p", server, "dockerfile: Dockerfile\nglibc: '2.36'\n",
        f"FROM {parent}\nRUN echo what went wrong; exit 3\n",
    )  # fmt: skip
    done = tool("lock", code=7)
    assert "what went wrong" in done.err
    assert not (tool.folder / "reprobox.lock").exists()
    assert not (tool.folder / "dockerfiles/mine/base.lock").exists()


def test_an_image_is_pinned_by_its_digest(tmp_path: Path, server: Server, parent: str, registry: str) -> None:
    """An image of a registry, named by digest, is pulled and flattened to the same bytes each time."""
    name = f"{registry}/parent:1"
    subprocess.run(["docker", "tag", parent, name], check=True)
    subprocess.run(["docker", "push", "--quiet", name], check=True, capture_output=True)
    names = json.loads(
        subprocess.run(
            ["docker", "image", "inspect", "--format", "{{json .RepoDigests}}", name], check=True, capture_output=True
        ).stdout
    )
    (digest,) = [text for text in names if text.startswith(registry)]
    # Gone from the engine, so that it is pulled.
    subprocess.run(["docker", "rmi", name, digest], check=False, capture_output=True)
    digests = []
    for number in range(2):
        tool = make_project(tmp_path / f"p{number}", server, f'image: "{digest}"\nglibc: "2.36"\n')
        tool("lock")
        digests.append(tool("build", "--no-load", "--json").document["manifest_digest"])
        assert registry not in (tool.folder / "reprobox.lock").read_text()
    assert digests[0] == digests[1]
    subprocess.run(["docker", "rmi", digest], check=False, capture_output=True)


def test_an_image_without_a_digest_is_refused(tmp_path: Path, server: Server) -> None:
    """A tag can come to mean something else, so it is no base."""
    tool = make_project(tmp_path / "p", server, "image: debian:12\nglibc: '2.36'\n")
    done = tool("lock", code=3)
    assert "has no digest" in done.err
