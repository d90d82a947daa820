"""Bytecode: made by the locked interpreter, for where the source will lie, the same with any number of processes."""

from __future__ import annotations

import importlib.util
import json
import marshal
import os
import random
import struct
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import CodeType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reprobox
from reprobox.errors import BuildError
from reprobox.image import interpreter
from reprobox.image.interpreter import Interpreter, parse_reply, render_library_cache

SCRIPT = Path(reprobox.__file__).parent / "guest" / "pyc.py"
SOURCES = {
    "ok.py": b"def f():\n    '''doc'''\n    return 1\n",
    "package/__init__.py": "größe = '\U0001f600'\n".encode(),
    "latin.py": b"# coding: latin-1\nx = '\xe4'\n",
    "empty.py": b"",
    "crlf.py": b"x = 1\r\nif x:\r\n    y = 2\r\n",
}
BROKEN = {
    "syntax.py": b"x = (\n",
    "python2.py": b"print 'x'\n",
    "nul.py": b"x = 1\0\n",
    "coding.py": b"# coding: nothing-known\n",
    "bytes.py": b"x = '\xff'\n",
    "brackets.py": b"(" * 5000 + b")" * 5000,
    "long-sum.py": b"x = " + b" + ".join([b"1"] * 50_000),
    "indent.py": b"if 1:\n\tx = 1\n        y = 2\n",
}


def reply_of(codes: list[bytes | None]) -> bytes:
    return b"".join(struct.pack("<i", -1) if code is None else struct.pack("<i", len(code)) + code for code in codes)


CODES = st.lists(st.none() | st.binary(max_size=40), max_size=8)


@given(CODES)
@settings(max_examples=100, deadline=None, database=None)
def test_a_whole_reply_is_read_whole(codes: list[bytes | None]) -> None:
    """A reply gives what was packed into it, empty bytecode and missing bytecode told apart."""
    assert parse_reply(reply_of(codes)) == codes


@given(CODES, st.data())
@settings(max_examples=100, deadline=None, database=None)
def test_a_cut_reply_gives_its_whole_parts(codes: list[bytes | None], data: st.DataObject) -> None:
    """A reply that was cut anywhere gives exactly the parts that are whole, and never a part of one."""
    reply = reply_of(codes)
    length = data.draw(st.integers(0, len(reply)))
    whole = [count for count in range(len(codes) + 1) if len(reply_of(codes[:count])) <= length]
    assert parse_reply(reply[:length]) == codes[: max(whole)]


@pytest.mark.parametrize("reply", [b"", b"\x01", b"\x01\x00\x00", b"\x05\x00\x00\x00abcd", b"\xff\xff\xff\x7f"])
def test_less_than_one_part_is_nothing(reply: bytes) -> None:
    """A reply that ends in its first part gives nothing."""
    assert parse_reply(reply) == []


def make_zip(file: Path, sources: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sources.items():
            archive.writestr(name, data)
    return file


def make_folder(folder: Path, sources: Mapping[str, bytes]) -> Path:
    for name, data in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def compile_here(archive: Path, members: list[tuple[str, str]]) -> list[bytes | None]:
    """What guest/pyc.py answers under the interpreter that runs this."""
    job = json.dumps({"archive": str(archive), "members": members}).encode()
    command = [sys.executable, "-s", "-S", "-B", str(SCRIPT)]
    done = subprocess.run(command, input=job, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    return parse_reply(done.stdout)


def load(code: bytes) -> CodeType:
    """Read a .pyc as an import does. Source: PEP 552."""
    assert code[:4] == importlib.util.MAGIC_NUMBER
    assert int.from_bytes(code[4:8], "little") == 0b01, "hash-based, and not checked against the source"
    return marshal.loads(code[16:])


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_bytecode_is_of_the_source_and_for_its_place(tmp_path: Path, form: str) -> None:
    """From a zip and from a folder: unchecked-hash bytecode, with the source's hash and the path where it will lie."""
    archive = make_zip(tmp_path / "a.whl", SOURCES) if form == "zip" else make_folder(tmp_path / "a", SOURCES)
    members = [(name, f"/opt/env/lib/{name}") for name in SOURCES]
    codes = compile_here(archive, members)
    assert len(codes) == len(members)
    for (name, place), code in zip(members, codes, strict=True):
        assert code is not None
        assert load(code).co_filename == place
        assert code[8:16] == importlib.util.source_hash(SOURCES[name])
    scope: dict[str, object] = {}
    exec(load(codes[0] or b""), scope)
    assert (scope["f"](), scope["f"].__doc__) == (1, "doc")  # type: ignore[operator]


def test_python_imports_the_bytecode(tmp_path: Path) -> None:
    """The interpreter takes the bytecode in place of the source, even where the source is another by now."""
    (code,) = compile_here(make_zip(tmp_path / "a.whl", {"mod.py": b"x = 'compiled'\n"}), [("mod.py", "/m/mod.py")])
    cached = Path(importlib.util.cache_from_source(str(tmp_path / "mod.py")))
    cached.parent.mkdir()
    cached.write_bytes(code or b"")
    (tmp_path / "mod.py").write_text("x = 'source'\n")
    done = subprocess.run(
        [sys.executable, "-c", "import mod; print(mod.x)"], cwd=tmp_path, capture_output=True, check=True
    )
    assert done.stdout == b"compiled\n"


def test_what_does_not_compile_is_told_apart(tmp_path: Path) -> None:
    """A source that does not compile has no bytecode; its neighbours have theirs, in order, and nothing is printed."""
    names = [name for pair in zip(BROKEN, [*SOURCES, *SOURCES], strict=False) for name in pair]
    codes = compile_here(make_zip(tmp_path / "a.whl", {**BROKEN, **SOURCES}), [(name, f"/{name}") for name in names])
    assert {name for name, code in zip(names, codes, strict=True) if code is None} == set(BROKEN)
    assert all(load(code).co_filename == f"/{name}" for name, code in zip(names, codes, strict=True) if code)


@pytest.mark.parametrize(
    "source", ["x = " + "-" * 10_000 + "1", "x = " + "lambda: " * 3000 + "1", "if 1: pass\n" + "elif 1: pass\n" * 9000]
)
def test_what_is_too_deep_does_not_compile(tmp_path: Path, source: str) -> None:
    """A source that is nested too deep for the parser is one that does not compile: it fails no build."""
    archive = make_zip(tmp_path / "a.whl", {"deep.py": source.encode(), "ok.py": b""})
    codes = compile_here(archive, [("deep.py", "/deep.py"), ("ok.py", "/ok.py")])
    assert [code is None for code in codes] == [True, False]


def test_nothing_of_a_package_is_run(tmp_path: Path) -> None:
    """Compiling imports and runs nothing, neither what is compiled nor what lies beside it."""
    evil = f"open({str(tmp_path / 'was run')!r}, 'w')\n".encode()
    folder = make_folder(tmp_path / "a", {"json.py": evil, "sitecustomize.py": evil, "x.py": evil})
    compile_here(folder, [("x.py", "/x.py"), ("json.py", "/json.py")])
    assert not (tmp_path / "was run").exists()
    assert not (folder / "__pycache__").exists()


LOADER = """#!/bin/sh
# Stands in for a dynamic loader: takes --inhibit-cache --library-path PATH PYTHON, and starts the Python that runs the tests.
echo started >> "{log}"
[ "$1 $2" = "--inhibit-cache --library-path" ] || exit 9
shift 4
[ "$PYTHONHASHSEED" = 0 ] || exit 8
unset PYTHONHOME
exec "{python}" "$@"
"""


def make_interpreter(folder: Path, *, workers: int = 2, loader: str = LOADER) -> Interpreter:
    """A tree with a loader that starts the interpreter that runs the tests."""
    place = folder / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    place.parent.mkdir(parents=True)
    place.write_text(loader.format(python=sys.executable, log=folder / "log"))
    place.chmod(0o755)
    return Interpreter(tree=folder, python="3.11.2", platform="linux-64", workers=workers)


def test_the_interpreter_is_started_by_its_own_loader(tmp_path: Path) -> None:
    """The command is the tree's loader with the tree's libraries and Python, without site and user packages."""
    command = Interpreter(tree=tmp_path, python="3.11.2", platform="linux-64", workers=1).command()
    assert command[0].startswith(str(tmp_path))
    assert command[4] == str(tmp_path / "usr/bin/python3.11")
    assert {"-s", "-S", "-B"} <= set(command)
    arm = Interpreter(tree=tmp_path, python="3.9.1", platform="linux-aarch64", workers=1).command()
    assert "aarch64" in arm[0]
    assert arm[4].endswith("python3.9")


def test_members_are_compiled_in_order(tmp_path: Path) -> None:
    """Each member has its bytecode, in the order of the members; without members nothing is started."""
    python = make_interpreter(tmp_path / "tree")
    archive = make_zip(tmp_path / "a.whl", {**SOURCES, **BROKEN})
    members = [(name, f"/opt/{name}") for name in ("ok.py", "syntax.py", "empty.py", "latin.py")]
    codes = python.compile_sources(archive, members)
    assert [code and load(code).co_filename for code in codes] == ["/opt/ok.py", None, "/opt/empty.py", "/opt/latin.py"]
    assert python.compile_sources(archive, []) == []
    assert (tmp_path / "tree/log").read_text() == "started\n"


def test_bytecode_does_not_follow_the_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces are cut by size alone: the same pieces and the same bytes with one worker and with many."""
    monkeypatch.setattr(interpreter, "_PIECE_BYTES", 2000)
    generator = random.Random(1)
    sources = {
        f"m{number}.py": f"import os\nname_{number % 3} = 'text {number}'\n".encode() * generator.randint(1, 40)
        for number in range(12)
    }
    sources["huge.py"] = b"x = 1\n" * 2000
    members = [(name, f"/{name}") for name in sources]
    found, started = [], []
    for workers in (1, 5):
        folder = tmp_path / f"tree{workers}"
        python = make_interpreter(folder, workers=workers)
        found.append(python.compile_sources(make_zip(tmp_path / "a.whl", sources), members))
        started.append((folder / "log").read_text().count("started"))
    found.append(python.compile_sources(make_folder(tmp_path / "folder", sources), members))
    assert found[0] == found[1] == found[2]
    assert None not in found[0]
    assert started[0] == started[1] > 3


@pytest.mark.parametrize(
    ("loader", "named"),
    [
        ("#!/bin/sh\necho 'no such libc' >&2\nexit 3\n", "no such libc"),
        ("#!/bin/sh\nexit 0\n", "failed to compile a.whl"),
        ("#!/bin/sh\nprintf '\\001\\000\\000'\n", "failed to compile a.whl"),
    ],
)
def test_an_interpreter_that_fails_is_told(tmp_path: Path, loader: str, named: str) -> None:
    """An interpreter that ends with an error, or answers too little, fails the build with its own last words."""
    python = make_interpreter(tmp_path / "tree", loader=loader)
    with pytest.raises(BuildError, match=named):
        python.compile_sources(make_zip(tmp_path / "a.whl", SOURCES), [("ok.py", "/ok.py")])


@pytest.mark.parametrize("kind", ["missing", "of another machine"])
def test_an_interpreter_that_does_not_start_is_told(tmp_path: Path, kind: str) -> None:
    """An interpreter that cannot be started here fails the build, with the platform that it is for."""
    python = make_interpreter(tmp_path / "tree", loader="\x7fELF of another machine")
    if kind == "missing":
        os.unlink(python.command()[0])
    with pytest.raises(BuildError, match="does not run on this machine") as caught:
        python.compile_sources(make_zip(tmp_path / "a.whl", SOURCES), [("ok.py", "/ok.py")])
    assert "linux-64" in (caught.value.hint or "")


def make_ldconfig(tree: Path, text: str) -> None:
    file = tree / "usr/sbin/ldconfig"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    file.chmod(0o755)


def test_the_library_cache_is_what_ldconfig_made(tmp_path: Path) -> None:
    """The base's ldconfig is started for the tree alone, and what it wrote is given back."""
    (tmp_path / "etc").mkdir()
    make_ldconfig(tmp_path, '#!/bin/sh\n[ "$1" = -r ] && printf "cache of $2" > "$2/etc/ld.so.cache"\n')
    assert render_library_cache(tmp_path) == f"cache of {tmp_path}".encode()


@pytest.mark.parametrize("text", ["#!/bin/sh\necho broken >&2; exit 1\n", "#!/bin/sh\nexit 0\n", "\x7fELF", None])
def test_an_ldconfig_that_fails_is_told(tmp_path: Path, text: str | None) -> None:
    """An ldconfig that is missing, does not start, ends with an error or writes nothing fails the build."""
    if text is not None:
        make_ldconfig(tmp_path, text)
    with pytest.raises(BuildError, match="ldconfig"):
        render_library_cache(tmp_path)
