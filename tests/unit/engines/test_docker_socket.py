"""Where Docker is looked for."""

from __future__ import annotations

from pathlib import Path

from reprobox.engines.docker import find_socket


def test_a_rootless_engine_is_found(tmp_path: Path) -> None:
    """Without the system's socket, that of a rootless engine is taken; without any, the system's is named."""
    system = "unix:///var/run/docker.sock"
    rootless = tmp_path / "docker.sock"
    rootless.touch()
    expected = system if Path("/var/run/docker.sock").exists() else f"unix://{rootless}"
    assert find_socket({"XDG_RUNTIME_DIR": str(tmp_path)}) == expected
    assert find_socket({}) == system
