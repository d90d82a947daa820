"""Real parts: the machine's Docker engine, the package index, a Debian mirror.

`make test` sets all of them up; a machine without them fails here, it does not skip.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

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
