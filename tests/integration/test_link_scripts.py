"""What conda packages run at link time: off unless asked for, run once in a container, and pinned from then on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.channel.server import Server
from tests.channel.special import POST_LINK_NOTE
from tests.integration.conftest import make_conda_project

ENVIRONMENT = "channels: [conda-forge]\ndependencies: [python=3.11, post-link-demo, hello-entry]\n"


def test_link_scripts_run_once_and_are_pinned(tmp_path: Path, server: Server) -> None:
    """With --allow-link-scripts what a script writes is in the image; elsewhere it is taken from beside the lock."""
    tool = make_conda_project(tmp_path / "p", server, ENVIRONMENT)
    (tool.folder / "look.py").write_text(
        "import json, os, pathlib, subprocess\n"
        f"note = pathlib.Path('/opt/env/{POST_LINK_NOTE}')\n"
        "assert os.access('/opt/env', os.W_OK) is False\n"
        "json.dump({'ran': int(note.exists()), 'length': len(note.read_text()) if note.exists() else 0},"
        " open('metrics.json', 'w'))\n"
    )
    done = tool("run", "--json", "look.py")
    assert done.document["metrics"]["ran"] == 0
    assert "reprobox lock --allow-link-scripts" in tool("build").err
    plain = done.document["lock_digest"]

    said = tool("lock", "--allow-link-scripts").err
    assert "running 1 link scripts" in said
    lock = (tool.folder / "reprobox.lock").read_text()
    (file,) = (tool.folder / "linked").iterdir()
    assert f"sha256: {file.name.removesuffix('.tar')}" in lock
    again = tool("run", "--json", "look.py")
    assert again.document["metrics"]["length"] == len("post-link-demo 1.0 in /opt/env\n")
    assert again.document["lock_digest"] != plain
    assert "was not run" not in tool("build").err

    # Locking again keeps the permission and the result, and runs nothing.
    assert "running" not in tool("lock").err
    assert (tool.folder / "reprobox.lock").read_text() == lock

    # Another machine builds the same image from the folder that is committed, and none without it.
    other = make_conda_project(tmp_path / "other", server, ENVIRONMENT)
    shutil.copyfile(tool.folder / "reprobox.lock", other.folder / "reprobox.lock")
    assert "link scripts wrote" in other("build", "--no-load", code=4).err
    shutil.copytree(tool.folder / "linked", other.folder / "linked")
    built = other("build", "--no-load", "--json").document
    assert built["manifest_digest"] == again.document["manifest_digest"]
    (other.folder / "linked" / file.name).write_bytes(file.read_bytes() + b"x")
    shutil.rmtree(other.folder / "cache")
    assert "does not hash" in other("build", "--no-load", code=11).err

    # A mirror carries it, and the scripts can be turned off again.
    tool("mirror", "reprobox.lock", str(tmp_path / "mirror"))
    assert (tmp_path / "mirror/linked" / file.name).is_file()
    tool("lock", "--no-link-scripts")
    assert not re.search("link_scripts", (tool.folder / "reprobox.lock").read_text())


def test_a_link_script_that_fails_is_told(tmp_path: Path, server: Server) -> None:
    """A script that fails: 6, its last lines, and the lock stays as it was. It sees no network and no variable of ours."""
    from tests.channel.conda_package import File, Package, write_package
    from tests.channel.hostile import write_record

    package = Package(name="bad-link", version="1.0", build="0", noarch="generic")
    script = (
        "env | grep -q SECRET && exit 9\n"
        "touch /opt/outside 2>/dev/null && exit 8\n"
        "python3 -c \"import socket; socket.create_connection(('127.0.0.1', 80), 1)\" 2>/dev/null && exit 7\n"
        'echo "in $PWD as $(id -u)"; echo sorry; exit 3\n'
    )
    folder = tmp_path / "hostile"
    files = [File(path="bin/.bad-link-post-link.sh", content=script.encode(), executable=True)]
    write_record(package, write_package(package, files, folder), folder)
    shutil.copytree(folder, server.folder / "mine")
    text = "channels: [mine, conda-forge]\ndependencies: [python=3.11, bad-link]\n"
    tool = make_conda_project(tmp_path / "p", server, text)
    tool.environ["SECRET"] = "x"
    tool("lock")
    before = (tool.folder / "reprobox.lock").read_text()
    done = tool("lock", "--allow-link-scripts", code=6)
    assert "bin/.bad-link-post-link.sh" in done.err
    assert "sorry" in done.err
    assert "in /opt/env as" in done.err
    assert "as 0" not in done.err
    assert (tool.folder / "reprobox.lock").read_text() == before
