"""Real parts: the machine's Docker engine, the package index, a Debian mirror.

`make test` sets all of them up; a machine without them fails here, it does not skip.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.channel.build import Channel, default_cache, make_channel
from tests.channel.server import Server, serve
from tests.conftest import REPO, Tool

SMALL = """\
name: small
dependencies:
  - python=3.11
  - pip
  - pip:
      - numpy==2.4.6
      - idna==3.10
"""


@pytest.fixture(scope="session")
def small_lock(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The lock of a small environment, resolved once."""
    folder = tmp_path_factory.mktemp("lock")
    (folder / "environment.yml").write_text(SMALL)
    Tool(folder)("lock")
    return (folder / "reprobox.lock").read_text()


@pytest.fixture
def project(tmp_path: Path, small_lock: str) -> Tool:
    """A new folder with a small environment and its lock."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "environment.yml").write_text(SMALL)
    (folder / "reprobox.lock").write_text(small_lock)
    return Tool(folder)


@pytest.fixture
def digits(tmp_path: Path) -> Tool:
    """A copy of the example, with its environment."""
    for name in ("examples/digits", "envs/digits-cpu"):
        shutil.copytree(REPO / name, tmp_path / name, ignore=shutil.ignore_patterns(".reprobox", "*.keras", "*.joblib"))
    for file in (tmp_path / "examples/digits").glob("*metrics.json"):
        file.unlink()
    return Tool(tmp_path / "examples/digits")


@pytest.fixture
def trainings(digits: Tool) -> Tool:
    """The digits example with the trainings of tests/trainings beside it."""
    for name in ("train.py", "resume.py", "drive.py"):
        shutil.copy(REPO / "tests/trainings" / name, digits.folder / name)
    shutil.copy(digits.folder / "data" / "digits.csv", digits.folder / "digits.csv")
    return digits


@pytest.fixture(scope="session")
def channel() -> Channel:
    """The channel without TensorFlow, made once a machine."""
    return make_channel(None, default_cache(), size="light")


@pytest.fixture
def server(channel: Channel, tmp_path: Path) -> Iterator[Server]:
    """The channel, served; a copy of links, so that a test may change what is in it."""
    folder = tmp_path / "channel"
    make_channel(folder, default_cache(), size="light")
    with serve(folder) as running:
        yield running


@pytest.fixture(scope="session")
def full_channel() -> Channel:
    """The channel with TensorFlow and its kin."""
    return make_channel(None, default_cache(), size="full")


def make_conda_project(folder: Path, server: Server, text: str, name: str = "environment.yml") -> Tool:
    """A folder with an environment file, whose channels are the served ones."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    toml = f'[mirrors]\nconda = "{server.url()}"\n'
    if name != "environment.yml":
        toml += f'[env.demo]\nenvironment = "{name}"\n'
    (folder / "reprobox.toml").write_text(toml)
    return Tool(folder, {"REPROBOX_CACHE": str(folder / "cache")})
