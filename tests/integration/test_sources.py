"""What has no wheel is built in a container: source archives of the index, git, files; `-e .` is on the path."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Tool

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "mini-proj"
version = "{version}"
dependencies = ["six"]
[tool.hatch.build.targets.wheel]
packages = ["mini"]
"""


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one project, on the branch `main`."""
    folder = tmp_path / "repository"
    (folder / "mini").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT.format(version="0.3"))
    (folder / "mini/__init__.py").write_text("VALUE = 41\n")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


def make_project(folder: Path, *lines: str) -> Tool:
    folder.mkdir(exist_ok=True)
    section = "".join(f"      - {line}\n" for line in lines)
    (folder / "environment.yml").write_text(f"dependencies:\n  - python=3.11\n  - pip:\n{section}")
    return Tool(folder)


def test_what_has_no_wheel_is_built_once(tmp_path: Path, repository: Path) -> None:
    """A source archive, a branch and the project's own code: built, kept, pinned, and importable."""
    tool = make_project(tmp_path / "p", "docopt==0.6.2", f"git+file://{repository}@main#egg=mini-proj", "-e .")
    (tool.folder / "src/own").mkdir(parents=True)
    (tool.folder / "src/own/__init__.py").write_text("X = 1\n")
    (tool.folder / "t.py").write_text("import docopt, mini, own, six; print(mini.VALUE + own.X)\n")
    first = tool("lock")
    assert "building mini-proj from source" in first.err
    lock = (tool.folder / "reprobox.lock").read_text()
    commit = git(repository, "rev-parse", "HEAD")
    assert re.search(rf"built_from: git [0-9a-f]{{16}} {commit}\n", lock)
    assert re.search(r"built_from: docopt-0\.6\.2\.tar\.gz sha256:[0-9a-f]{64}\n", lock)
    assert str(repository) not in lock
    assert tool("run", "t.py").out == "42\n"
    # A branch that moved is not followed until somebody asks for it, and nothing is built again.
    (repository / "mini/__init__.py").write_text("VALUE = 99\n")
    git(repository, "commit", "-qam", "second")
    assert "building" not in tool("lock").err
    assert (tool.folder / "reprobox.lock").read_text() == lock
    tool("lock", "--upgrade", "mini-proj")
    assert tool("run", "t.py").out == "100\n"


def test_a_built_wheel_comes_from_beside_the_lock(tmp_path: Path, repository: Path) -> None:
    """Another machine takes the kept wheel; altered it is refused, lost it is named."""
    tool = make_project(tmp_path / "p", f"git+file://{repository}#egg=mini-proj")
    tool("lock")
    expected = tool("build", "--no-load", "--json").document["manifest_digest"]
    elsewhere = Tool(tool.folder, {"REPROBOX_CACHE": str(tmp_path / "empty")})
    assert elsewhere("build", "--no-load", "--json").document["manifest_digest"] == expected
    (wheel,) = (tool.folder / "wheels").glob("mini_proj-*.whl")
    data = wheel.read_bytes()
    wheel.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    altered = Tool(tool.folder, {"REPROBOX_CACHE": str(tmp_path / "empty-2")})
    assert "does not hash to what the lock says" in altered("build", "--no-load", code=11).err
    wheel.unlink()
    lost = Tool(tool.folder, {"REPROBOX_CACHE": str(tmp_path / "empty-3")})
    assert "commit the folder `wheels`" in lost("build", "--no-load", code=4).err


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("gym==0.21.0", 6, ["environment.yml:4", "extras_require", "older than today's setuptools"]),
        ("git+file:///nowhere/at/all.git#egg=none", 6, ["environment.yml:4", "cannot be fetched"]),
        ("./no-such-1.0.tar.gz", 3, ["environment.yml:4", "does not exist"]),
        ("verl==0.2.0.dev0", 4, ["environment.yml:4", "is no longer published", "hint: write verl=="]),
        ("nosuchproject-xyz-1", 4, ["environment.yml:4", "is not on the package index", "spelling"]),
    ],
)
def test_what_cannot_be_had_is_explained(tmp_path: Path, line: str, code: int, words: list[str]) -> None:
    """Each with file and line, the reason, and the one edit; nothing is locked."""
    tool = make_project(tmp_path / "p", line)
    done = tool("lock", code=code)
    for word in words:
        assert word in done.err, done.err
    assert not (tool.folder / "reprobox.lock").exists()


def test_a_build_has_no_network_and_no_secrets(tmp_path: Path) -> None:
    """A setup.py that looks around sees neither a network nor the caller's environment, nor his files."""
    source = tmp_path / "p" / "nosy-1.0"
    source.mkdir(parents=True)
    (source / "setup.py").write_text(
        "import os, socket, sys\n"
        "from setuptools import setup\n"
        "assert 'SECRET_TOKEN' not in os.environ\n"
        "assert not os.path.exists('/root/.ssh') or not os.access('/root', os.R_OK)\n"
        f"assert not os.path.exists({str(tmp_path)!r})\n"
        "try:\n    socket.create_connection(('127.0.0.1', 9), 1)\n"
        "except ConnectionRefusedError: pass\n"
        "try:\n    socket.create_connection(('192.0.2.1', 80), 1); raise SystemExit('a network')\n"
        "except OSError: pass\n"
        "assert os.geteuid() != 0\n"
        "setup(name='nosy', version='1.0', py_modules=['nosy'])\n"
    )
    (source / "nosy.py").write_text("X = 3\n")
    subprocess.run(["tar", "-czf", "nosy-1.0.tar.gz", "nosy-1.0"], cwd=tmp_path / "p", check=True)
    tool = make_project(tmp_path / "p", "./nosy-1.0.tar.gz")
    tool.environ["SECRET_TOKEN"] = "hush"
    tool("lock")
    assert os.listdir(tmp_path / "p/wheels") == ["nosy-1.0-py3-none-any.whl"]


def test_a_commit_is_that_commit_whatever_a_branch_is_called(tmp_path: Path, repository: Path) -> None:
    """A branch with the name of a commit does not come in its place."""
    commit = git(repository, "rev-parse", "HEAD")
    (repository / "mini/__init__.py").write_text("VALUE = 666\n")
    git(repository, "checkout", "-qb", "other")
    git(repository, "commit", "-qam", "evil")
    git(repository, "update-ref", f"refs/heads/{commit}", "HEAD")
    git(repository, "checkout", "-q", "main")
    tool = make_project(tmp_path / "p", f"git+file://{repository}@{commit}#egg=mini-proj")
    tool("lock")
    assert f"{commit}\n" in (tool.folder / "reprobox.lock").read_text()
    (tool.folder / "t.py").write_text("import mini; print(mini.VALUE)\n")
    assert tool("run", "t.py").out == "41\n"


def test_a_build_cannot_hand_out_a_file_of_ours(tmp_path: Path) -> None:
    """A link that a build leaves in the place of its wheel is not followed."""
    secret = tmp_path / "secret"
    secret.write_text("hush")
    source = tmp_path / "p" / "linky-1.0"
    source.mkdir(parents=True)
    (source / "setup.py").write_text(
        f"import os\nos.symlink({str(secret)!r}, '/out/linky-1.0-py3-none-any.whl')\nos._exit(0)\n"
    )
    subprocess.run(["tar", "-czf", "linky-1.0.tar.gz", "linky-1.0"], cwd=tmp_path / "p", check=True)
    tool = make_project(tmp_path / "p", "./linky-1.0.tar.gz")
    tool("lock", code=6)
    assert not (tmp_path / "p/wheels").exists()


def make_archive(folder: Path, name: str) -> tuple[Path, str]:
    """A source archive of one module; gives it and its sha256."""
    source = folder / f"{name}-1.0"
    source.mkdir(parents=True)
    (source / "setup.py").write_text(
        f"from setuptools import setup\nsetup(name='{name}', version='1.0', py_modules=['{name}'])\n"
    )
    (source / f"{name}.py").write_text("X = 3\n")
    archive = folder / f"{name}-1.0.tar.gz"
    subprocess.run(["tar", "-czf", str(archive), source.name], cwd=folder, check=True)
    return archive, hashlib.sha256(archive.read_bytes()).hexdigest()


def test_sources_that_another_tool_pinned_are_built(tmp_path: Path, repository: Path) -> None:
    """A requirements.txt with a commit and a source archive by its hash: built from just these bytes, once."""
    archive, sha256 = make_archive(tmp_path, "plain")
    commit = git(repository, "rev-parse", "HEAD")
    folder = tmp_path / "p"
    folder.mkdir()
    text = f"mini-proj @ git+file://{repository}@{commit}\nplain @ {archive.as_uri()} --hash=sha256:{{}}\n"
    (folder / "requirements.txt").write_text(text.format(sha256))
    (folder / "reprobox.toml").write_text('[env.x]\nenvironment = "requirements.txt"\n')
    (folder / "t.py").write_text("import mini, plain; print(mini.VALUE + plain.X)\n")
    tool = Tool(folder)
    assert "building mini-proj from source" in tool("lock").err
    lock = (folder / "reprobox.lock").read_text()
    assert commit in lock
    assert f"sha256:{sha256}" in lock
    assert tool("run", "t.py").out == "44\n"
    assert "building" not in tool("lock").err
    (folder / "requirements.txt").write_text(text.format("0" * 64))
    assert "does not hash to what that line says" in tool("lock", code=11).err
    assert (folder / "reprobox.lock").read_text() == lock


def test_old_wheels_beside_the_lock_are_not_offered(tmp_path: Path) -> None:
    """What an earlier lock had built lies there still, and decides nothing."""
    archive, _ = make_archive(tmp_path, "plain")
    tool = make_project(tmp_path / "p", str(archive))
    tool("lock")
    (wheel,) = (tmp_path / "p/wheels").iterdir()
    evil = wheel.with_name("six-99.0-py3-none-any.whl")
    evil.write_bytes(wheel.read_bytes())
    make_project(tmp_path / "p", str(archive), "six")
    tool("lock")
    assert "99.0" not in (tmp_path / "p/reprobox.lock").read_text()


def test_wheels_of_a_folder_beside_the_file(tmp_path: Path) -> None:
    """`-f ./folder` starts where the environment file is, not where the command was typed."""
    archive, _ = make_archive(tmp_path, "plain")
    tool = make_project(tmp_path / "first", str(archive))
    tool("lock")
    other = make_project(tmp_path / "p", "-f ./found", "plain==1.0")
    shutil.copytree(tmp_path / "first/wheels", tmp_path / "p/found")
    elsewhere = Tool(tmp_path, other.environ)
    elsewhere("-C", "p", "lock")
    elsewhere("-C", "p", "build", "--no-load", "--output", "oci:image")
    assert (tmp_path / "p/image/index.json").is_file()


def test_requirements_of_the_project_itself_are_locked(tmp_path: Path) -> None:
    """`-e .` brings what its pyproject.toml asks for, with extras; editing that makes the lock stale, by name."""
    tool = make_project(tmp_path / "p", '"-e .[more]"')
    text = (
        "[project]\nname = 'own'\nversion = '1'\ndependencies = ['six']\noptional-dependencies.more = ['idna==3.10']\n"
    )
    (tool.folder / "pyproject.toml").write_text(text)
    assert "2 requirements are read from its own files" in tool("lock").err
    lock = (tool.folder / "reprobox.lock").read_text()
    assert "file: idna-3.10-py3-none-any.whl" in lock
    (tool.folder / "pyproject.toml").write_text(text.replace("'six'", "'six', 'toolz'"))
    assert "environment.yml:4: toolz is not in the lock" in tool("lock", "--check", code=3).err
