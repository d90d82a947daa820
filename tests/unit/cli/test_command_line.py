"""The command line itself: usage errors, exit codes, what goes where."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from reprobox import errors
from reprobox.cli.run_commands import _parse_size
from reprobox.errors import UsageError
from tests.conftest import REPO, Tool


def test_help_and_version_go_to_stdout(tmp_path: Path) -> None:
    """What was asked for is a document: stdout, exit 0; asked for nothing, help is talk: stderr, exit 2."""
    tool = Tool(tmp_path)
    assert "Usage: reprobox" in tool("--help").out
    assert tool("--version").out.startswith("reprobox ")
    nothing = tool(code=2)
    assert nothing.out == ""
    assert "Usage: reprobox" in nothing.err


@pytest.mark.parametrize(
    "words",
    [["nonsense"], ["run"], ["run", "--seed", "x", "a.py"], ["run", "--seed", "-1", "a.py"], ["build", "--output", "zip:x"],
     ["-C", "/nonexistent", "runs"], ["run", "--determinism", "much", "a.py"], ["run", "--memory", "lots", "a.py"]],
)  # fmt: skip
def test_usage_errors(tmp_path: Path, words: list[str]) -> None:
    """What makes no sense is exit code 2 with a hint, before anything is looked at."""
    (tmp_path / "environment.yml").write_text("dependencies: [python=3.11]\n")
    done = Tool(tmp_path, {"DOCKER_HOST": "unix:///nonexistent"})(*words, code=2)
    assert done.err.startswith("error: ")
    assert "\n\nhint: " in done.err
    assert done.out == ""


def test_every_error_has_its_own_code() -> None:
    """The tree in the docstring of `errors` is the truth, and no two families share a code."""
    drawn = dict(re.findall(r"([A-Z]\w+)\s+(\d+)(?:\s|$)", errors.__doc__ or ""))
    kinds = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.ReproboxError)
    }
    assert set(drawn) == set(kinds)
    for name, kind in kinds.items():
        assert kind.exit_code == int(drawn[name])
    families = [kind.exit_code for kind in kinds.values() if errors.ReproboxError in kind.__bases__]
    assert len(families) == len(set(families))


def test_help_is_quick_to_import() -> None:
    """`reprobox --help` loads none of the heavy libraries: a law about imports, not a timed test."""
    import subprocess
    import sys

    code = "import sys, reprobox.cli.main; print([m for m in ('docker', 'numpy', 'yaml', 'requests', 'rich', 'h5py') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("text", "size"), [("512m", 512 << 20), ("8g", 8 << 30), ("1.5GiB", 3 << 29), ("100", 100), (None, None)]
)
def test_memory_sizes(text: str | None, size: int | None) -> None:
    """Sizes are read as container engines read them."""
    assert _parse_size(text) == size


def test_bad_memory_size() -> None:
    """A size that is none is a usage error."""
    with pytest.raises(UsageError):
        _parse_size("much")


def test_only_the_command_line_reads_clock_and_environment() -> None:
    """No other room calls the clock, reads the process environment, prints, or ends the process."""
    forbidden = {
        ("os", "environ"),
        ("os", "getenv"),
        ("time", "time"),
        ("datetime", "now"),
        ("sys", "exit"),
        ("datetime", "utcnow"),
    }
    found = []
    for file in (REPO / "reprobox").rglob("*.py"):
        # conda_lock_models puts back what the import of a library changes in the process.
        if file.parent.name in ("cli", "guest") or file.name in ("__main__.py", "conda_lock_models.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and (node.value.id, node.attr) in forbidden
            ):
                found.append(f"{file.name}:{node.lineno}")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.append(f"{file.name}:{node.lineno}")
    assert found == []


def test_nothing_names_a_place_of_a_registry() -> None:
    """No lock and no code names the host of a package index: that is the client's own configuration."""
    import subprocess

    files = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=False).stdout.split()
    words = ("pypi" + ".org", "pythonhosted" + ".org", "deb.debian" + ".org", "registry.npmjs" + ".org")
    for name in files:
        data = (REPO / name).read_bytes() if (REPO / name).is_file() else b""
        for word in words:
            assert word.encode() not in data, f"{name} names {word}"
