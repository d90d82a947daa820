"""Wheels become entries of a layer: each file in its place, RECORD true, and nothing outside of the prefix."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import random
import resource
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest
from image_makers import (
    NOON_S,
    SITE,
    Layer,
    Member,
    compile_plainly,
    make_wheel,
    record_hash,
    unpack,
    wheel_of,
    with_crc,
)

from reprobox.errors import BuildError
from reprobox.image.layers import GENERATED_MTIME

INFO = "thing-1.0.dist-info"
DATA = "thing-1.0.data"
EVERYTHING = {
    "thing/__init__.py": b"x = 1\n",
    "thing/run.sh": Member(data=b"#!/bin/sh\n", executable=True),
    "thing/tests/test_a.py": b"",
    "thing/b_test.py": b"",
    "thing/data.bin": bytes(range(256)) * 40,
    f"{DATA}/purelib/pure.py": b"pure = 1\n",
    f"{DATA}/platlib/plat/__init__.py": b"plat = 1\n",
    f"{DATA}/scripts/tool": b"#!python\nprint(1)\n",
    f"{DATA}/scripts/gui": b"#!pythonw\nprint(2)\n",
    f"{DATA}/scripts/shell.sh": b"#!/bin/sh\necho python\n",
    f"{DATA}/data/share/thing/file.txt": b"data\n",
    f"{DATA}/data/etc/late.py": b"etc = 1\n",
    f"{DATA}/headers/thing.h": b"int x;\n",
}
ENTRY_POINTS = "[console_scripts]\nthing = thing.cli:main\ndeep = thing.cli:App.run [extra]\n[gui_scripts]\nwin = thing:w\n[other]\nx = y:z\n"


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Layer:
    """A wheel with everything that a wheel can hold."""
    folder = tmp_path_factory.mktemp("wheel")
    return unpack(*make_wheel(folder, EVERYTHING, entry_points=ENTRY_POINTS), compile_sources=compile_plainly)


def refusal(wheel: tuple) -> BuildError:
    with pytest.raises(BuildError) as caught:
        unpack(*wheel)
    assert "thing-1.0-py3-none-any.whl" in caught.value.message
    return caught.value


def test_every_file_is_in_its_place(everything: Layer) -> None:
    """Libraries, scripts, data and headers lie where an environment has them, each with the wheel's bytes."""
    files = everything.files()
    for path, place in (
        ("thing/__init__.py", f"{SITE}/thing/__init__.py"),
        ("thing/run.sh", f"{SITE}/thing/run.sh"),
        ("thing/data.bin", f"{SITE}/thing/data.bin"),
        (f"{DATA}/purelib/pure.py", f"{SITE}/pure.py"),
        (f"{DATA}/platlib/plat/__init__.py", f"{SITE}/plat/__init__.py"),
        (f"{DATA}/scripts/shell.sh", "opt/env/bin/shell.sh"),
        (f"{DATA}/data/share/thing/file.txt", "opt/env/share/thing/file.txt"),
        (f"{DATA}/data/etc/late.py", "opt/env/etc/late.py"),
        (f"{DATA}/headers/thing.h", "opt/env/include/site/python3.11/thing/thing.h"),
    ):
        content = EVERYTHING[path]
        assert files[place] == (content.data if isinstance(content, Member) else content), place
    assert not [name for name in files if ".data/" in name]
    assert all(name.startswith("opt/env/") for name in files)


def test_scripts_start_the_interpreter_of_the_environment(everything: Layer) -> None:
    """A script for `#!python` starts the environment's Python; other scripts stay; all are executable."""
    files = everything.files()
    assert files["opt/env/bin/tool"] == b"#!/opt/env/bin/python\nprint(1)\n"
    assert files["opt/env/bin/gui"] == b"#!/opt/env/bin/python\nprint(2)\n"
    assert files["opt/env/bin/shell.sh"] == b"#!/bin/sh\necho python\n"
    scripts = [entry for entry in everything.entries() if entry.name.startswith("opt/env/bin/")]
    assert len(scripts) == 6
    assert {entry.mode for entry in scripts} == {0o755}


def test_entry_points_have_launchers(everything: Layer) -> None:
    """An entry point is a script that calls what it names, whether a function or a method, in a terminal or not."""
    files = everything.files()
    assert files["opt/env/bin/thing"] == (
        b"#!/opt/env/bin/python\nimport sys\n\nfrom thing.cli import main\n\n"
        b'if __name__ == "__main__":\n    sys.exit(main())\n'
    )
    assert b"from thing.cli import App\n" in files["opt/env/bin/deep"]
    assert b"sys.exit(App.run())\n" in files["opt/env/bin/deep"]
    assert b"from thing import w\n" in files["opt/env/bin/win"]
    assert "opt/env/bin/x" not in files
    for name in ("thing", "deep", "win"):
        compile(files[f"opt/env/bin/{name}"], name, "exec")


def test_modes_are_the_wheels_executable_bits(everything: Layer) -> None:
    """A file is executable exactly where the wheel says so."""
    modes = {entry.name: entry.mode for entry in everything.entries() if not entry.isdir()}
    assert modes[f"{SITE}/thing/run.sh"] == 0o755
    assert modes[f"{SITE}/thing/data.bin"] == 0o644


def test_sources_are_compiled_to_where_they_lie(everything: Layer) -> None:
    """Each source beside its bytecode, compiled for its place; tests, scripts and data are not compiled."""
    compiled = {name: data for name, data in everything.files().items() if name.endswith(".pyc")}
    assert compiled == {
        f"{SITE}/thing/__pycache__/__init__.cpython-311.pyc": f"code of /{SITE}/thing/__init__.py".encode(),
        f"{SITE}/__pycache__/pure.cpython-311.pyc": f"code of /{SITE}/pure.py".encode(),
        f"{SITE}/plat/__pycache__/__init__.cpython-311.pyc": f"code of /{SITE}/plat/__init__.py".encode(),
    }


def test_a_source_that_does_not_compile_has_no_bytecode(tmp_path: Path) -> None:
    """Where the compiler has no answer for a source, the source is there and its bytecode is not."""
    layer = unpack(
        *make_wheel(tmp_path, {"a.py": b"", "b.py": b"(", "c.py": b""}),
        compile_sources=lambda archive, members: [b"A", None, b"C"],
    )
    files = layer.files()
    assert [files.get(f"{SITE}/__pycache__/{name}.cpython-311.pyc") for name in "abc"] == [b"A", None, b"C"]
    assert files[f"{SITE}/b.py"] == b"("


def rows(layer: Layer) -> dict[str, tuple[str, str]]:
    """RECORD, by place in the image; no row may stand twice."""
    found: dict[str, tuple[str, str]] = {}
    for path, digest, size in csv.reader(layer.files()[f"{SITE}/{INFO}/RECORD"].decode().splitlines()):
        parts: list[str] = []
        for part in f"{SITE}/{path}".split("/"):
            if part == "..":
                parts.pop()
            else:
                parts.append(part)
        assert "/".join(parts) not in found
        found["/".join(parts)] = (digest, size)
    return found


def test_record_is_complete(everything: Layer) -> None:
    """RECORD has a row for every file of the layer but bytecode, and none for anything else."""
    files = everything.files()
    assert set(rows(everything)) == {name for name in files if not name.endswith(".pyc")}
    assert files[f"{SITE}/{INFO}/INSTALLER"] == b"reprobox\n"


def test_every_hash_of_record_is_true(everything: Layer) -> None:
    """Each hash and size in RECORD is that of the file in the layer, also of scripts that were changed on the way."""
    files = everything.files()
    checked = 0
    for place, (digest, size) in rows(everything).items():
        if place.endswith("/RECORD"):
            assert (digest, size) == ("", "")
            continue
        assert int(size) == len(files[place])
        if digest:
            assert digest == record_hash(files[place])
            checked += 1
    assert checked >= 12


def test_record_has_a_hash_for_every_file(everything: Layer) -> None:
    """Every row but RECORD's own has a hash, also for what came out of .data (its place is another than in the wheel)."""
    assert [place for place, (digest, _) in rows(everything).items() if not digest] == [f"{SITE}/{INFO}/RECORD"]


def test_a_record_that_lies_is_not_handed_on(tmp_path: Path) -> None:
    """A wheel whose RECORD is untrue is refused, or its RECORD is made true: the image's own is always true."""
    record = f"thing.py,{record_hash(b'other')},1\n{INFO}/RECORD,,\n"
    try:
        layer = unpack(*make_wheel(tmp_path, {"thing.py": b"x"}, record=record))
    except BuildError:
        return
    assert rows(layer)[f"{SITE}/thing.py"][0] == record_hash(b"x")


def test_times_are_the_archives(everything: Layer, tmp_path: Path) -> None:
    """A file has the time that its wheel gives it, read as UTC; what is made here has the time of made files."""
    times = {entry.name: entry.mtime for entry in everything.entries()}
    for name in (f"{SITE}/thing/data.bin", "opt/env/bin/tool", "opt/env/share/thing/file.txt"):
        assert times[name] == NOON_S
    for name in ("opt/env/bin/thing", f"{SITE}/{INFO}/RECORD", f"{SITE}/{INFO}/INSTALLER", f"{SITE}/thing"):
        assert times[name] == GENERATED_MTIME
    early = Member(data=b"x", date=(1980, 1, 1, 0, 0, 0))
    assert unpack(*make_wheel(tmp_path, {"a": early})).get(f"{SITE}/a").mtime == GENERATED_MTIME


@pytest.mark.parametrize("stamp", [0, 0x0021 - 1, 0x0020, 0xFFFF, (1 << 5 | 31) ^ 31])
def test_a_date_that_is_none_is_tolerated(tmp_path: Path, stamp: int) -> None:
    """Day or month zero, month 15, and hour 31 are what some tools write: the file is there, with some fixed time."""
    _, file = make_wheel(tmp_path, {"thing.py": b"x"})
    data = bytearray(file.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 10), (b"PK\x01\x02", 12)):
        at = data.find(signature)
        while at >= 0:
            data[at + offset : at + offset + 4] = b"\xff\xff" + stamp.to_bytes(2, "little")
            at = data.find(signature, at + 4)
    file.write_bytes(data)
    layers = [unpack(wheel_of(file), file) for _ in range(2)]
    assert layers[0].data == layers[1].data
    assert layers[0].files()[f"{SITE}/thing.py"] == b"x"
    assert layers[0].get(f"{SITE}/thing.py").mtime >= 0


BIG = bytes(random.Random(1).randbytes(5000))


def test_repeated_big_files_are_links(tmp_path: Path) -> None:
    """Equal files of some size are one file with several names; small ones are written each."""
    members = {"a/one.so": BIG, "a/two.so": BIG, "b/three.so": BIG, "b/small": b"s" * 100, "a/small": b"s" * 100}
    layer = unpack(*make_wheel(tmp_path, members))
    links = {entry.name: entry.linkname for entry in layer.entries() if entry.islnk()}
    assert links == {f"{SITE}/a/two.so": f"{SITE}/a/one.so", f"{SITE}/b/three.so": f"{SITE}/a/one.so"}
    files = layer.files()
    assert {files[f"{SITE}/{name}"] for name in ("a/one.so", "a/two.so", "b/three.so")} == {BIG}
    assert set(rows(layer)) == set(files)
    assert all(digest == record_hash(files[place]) for place, (digest, _) in rows(layer).items() if digest)


def test_equal_sums_are_not_equal_files(tmp_path: Path) -> None:
    """Files of one size and one CRC-32 with other bytes are never links: each keeps its own content."""
    first = with_crc(BIG, 0x1234ABCD)
    second = with_crc(BIG[::-1], 0x1234ABCD)
    assert first != second
    assert (zlib.crc32(first), len(first)) == (zlib.crc32(second), len(second)) == (0x1234ABCD, len(BIG) + 4)
    layer = unpack(*make_wheel(tmp_path, {"a/one.so": first, "a/two.so": second, "b/one.so": first}))
    files = layer.files()
    assert files[f"{SITE}/a/one.so"] == files[f"{SITE}/b/one.so"] == first
    assert files[f"{SITE}/a/two.so"] == second
    assert [entry.name for entry in layer.entries() if entry.islnk()] == [f"{SITE}/b/one.so"]


def test_an_executable_is_no_link_to_what_is_none(tmp_path: Path) -> None:
    """Names of one file share its mode: equal bytes with another executable bit are two files."""
    members = {"a": BIG, "b": Member(data=BIG, executable=True)}
    layer = unpack(*make_wheel(tmp_path, members))
    assert not [entry for entry in layer.entries() if entry.islnk()]
    assert [layer.get(f"{SITE}/{name}").mode for name in "ab"] == [0o644, 0o755]


def test_a_repeated_executable_stays_one(tmp_path: Path) -> None:
    """Both names of a repeated executable are executable after unpacking (tarfile and containerd apply a link's mode)."""
    members = {name: Member(data=BIG, executable=True) for name in ("a", "b")}
    layer = unpack(*make_wheel(tmp_path, members))
    with tarfile.open(fileobj=io.BytesIO(layer.data)) as archive:
        archive.extractall(tmp_path / "out", filter="tar")
    assert [(tmp_path / "out" / SITE / name).stat().st_mode & 0o777 for name in "ab"] == [0o755, 0o755]


@pytest.mark.filterwarnings("error")
def test_bytecode_of_a_wheel_is_left_out(tmp_path: Path) -> None:
    """What a wheel brings in __pycache__ was made by another interpreter: it is left out, and RECORD has no row for it."""
    members = {
        "a/__init__.py": b"",
        "a/__pycache__/__init__.cpython-311.pyc": b"old",
        f"{DATA}/purelib/__pycache__/x": b"",
    }
    layer = unpack(*make_wheel(tmp_path, members), compile_sources=lambda archive, found: [b"new" for _ in found])
    files = layer.files()
    assert [data for name, data in files.items() if "__pycache__" in name] == [b"new"]
    assert not [place for place in rows(layer) if "__pycache__" in place]


@pytest.mark.filterwarnings("error")
def test_bytecode_at_the_top_is_left_out_in_silence(tmp_path: Path) -> None:
    """Also bytecode of a top-level module is left out, without a library's warning on the user's terminal."""
    layer = unpack(*make_wheel(tmp_path, {"six.py": b"", "__pycache__/six.cpython-311.pyc": b"old"}))
    assert not [name for name in layer.names() if "__pycache__" in name]


def test_one_wheel_is_one_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same wheel gives the same bytes, wherever the file lies, whatever it is called there, in any time zone."""
    first = unpack(*make_wheel(tmp_path, EVERYTHING, entry_points=ENTRY_POINTS), compile_sources=compile_plainly)
    wheel, file = make_wheel(tmp_path, EVERYTHING, entry_points=ENTRY_POINTS)
    other = tmp_path / "elsewhere"
    other.mkdir()
    moved = file.rename(other / wheel.sha256)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        second = unpack(wheel, moved, compile_sources=compile_plainly)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert second.data == first.data


ESCAPES = [
    "../x",
    "../x.py",
    "/x.py",
    "a/../../x",
    "a/../../x.py",
    "a/..",
    "./../x",
    "a\\..\\x",
    "a\nb",
    f"{DATA}/scripts/../../x",
    f"{DATA}/data/../../../etc/passwd",
    f"{DATA}/headers/../x",
    f"{DATA}/purelib/../x.py",
    f"{DATA}/../x",
    f"{INFO}/../../x",
]


@pytest.mark.parametrize("path", ESCAPES)
def test_a_path_that_escapes_is_refused(tmp_path: Path, path: str) -> None:
    """A wheel with a path outside of its place is refused, and nothing else is raised."""
    refusal(make_wheel(tmp_path, {"a/good.py": b"", path: b"evil"}))


@pytest.mark.parametrize("path", ["/x", "//x", f"/{DATA}/scripts/x"])
def test_an_absolute_path_is_refused(tmp_path: Path, path: str) -> None:
    """A wheel with an absolute path is refused, whatever the file is."""
    refusal(make_wheel(tmp_path, {"a/good.py": b"", path: b"evil"}))


@pytest.mark.parametrize("name", ["../../../x", "/x", "a/../../../../x", "a\\b"])
def test_an_entry_point_that_escapes_is_refused(tmp_path: Path, name: str) -> None:
    """A launcher lies in bin/ or nowhere."""
    refusal(make_wheel(tmp_path, {"a.py": b""}, entry_points=f"[console_scripts]\n{name} = a:b\n"))


def test_an_unknown_scheme_is_refused(tmp_path: Path) -> None:
    """A folder of .data that no scheme has a place for is refused."""
    refusal(make_wheel(tmp_path, {f"{DATA}/elsewhere/x": b""}))


@pytest.mark.parametrize("missing", ["WHEEL", "RECORD", "all"])
def test_a_zip_that_is_no_wheel_is_refused(tmp_path: Path, missing: str) -> None:
    """An archive without the files that make it a wheel is refused."""
    members = {
        f"{INFO}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\n",
        f"{INFO}/RECORD": b"",
        f"{INFO}/METADATA": b"",
    }
    kept = {name: data for name, data in members.items() if missing != "all" and not name.endswith(missing)}
    refusal(make_wheel(tmp_path, {"a.py": b"", **kept}, metadata=False))


def test_another_wheel_under_the_name_is_refused(tmp_path: Path) -> None:
    """An archive that is a wheel of another project than its file name says is refused."""
    _, file = make_wheel(tmp_path, {"a.py": b""}, name="other")
    refusal((wheel_of(file.rename(tmp_path / "thing-1.0-py3-none-any.whl")), tmp_path / "thing-1.0-py3-none-any.whl"))


def test_a_truncated_wheel_is_refused(tmp_path: Path) -> None:
    """A wheel that was cut anywhere is refused, and nothing else is raised."""
    wheel, file = make_wheel(tmp_path, EVERYTHING)
    data = file.read_bytes()
    for length in [0, 1, 21, 22, *range(30, len(data), len(data) // 40), len(data) - 1]:
        file.write_bytes(data[:length])
        refusal((wheel, file))


def test_changed_content_is_refused(tmp_path: Path) -> None:
    """Content that is not what the archive's own sum says is refused."""
    wheel, file = make_wheel(tmp_path, {"a.txt": b"0123456789" * 20}, stored=True)
    file.write_bytes(file.read_bytes().replace(b"0123456789" * 20, b"0123456788" * 20))
    refusal((wheel, file))


def test_a_failing_compiler_is_not_hidden(tmp_path: Path) -> None:
    """What the compiler raises is what the caller gets."""

    def fail(archive: Path, members: object) -> list[bytes | None]:
        raise BuildError("the interpreter does not run")

    with pytest.raises(BuildError, match="the interpreter does not run"):
        unpack(*make_wheel(tmp_path, {"a.py": b""}), compile_sources=fail)


def test_a_wheel_of_no_real_size_is_refused(tmp_path: Path) -> None:
    """A wheel that says it unpacks to more than any real one is refused before anything is unpacked."""
    wheel, file = make_wheel(tmp_path, {"a.txt": b"x"})
    data = bytearray(file.read_bytes())
    at = data.find(b"PK\x01\x02")
    extra = b"\x01\x00\x08\x00" + (1 << 40).to_bytes(8, "little")
    data[at + 24 : at + 28] = b"\xff\xff\xff\xff"
    data[at + 30 : at + 32] = len(extra).to_bytes(2, "little")
    data[at + 46 + len("a.txt") : at + 46 + len("a.txt")] = extra
    end = data.rfind(b"PK\x05\x06")
    data[end + 12 : end + 16] = (int.from_bytes(data[end + 12 : end + 16], "little") + len(extra)).to_bytes(4, "little")
    file.write_bytes(data)
    with zipfile.ZipFile(file) as archive:
        assert archive.getinfo("a.txt").file_size == 1 << 40
    assert "more than any real wheel" in refusal((wheel, file)).message


BROKEN = {
    "a hash that is none": {"record": "a.py,nonsense,1\n"},
    "a size that is none": {"record": "a.py,,many\n"},
    "an endless field": {"record": '"' + "a" * 140_000},
    "an entry point without a function": {"entry_points": "[console_scripts]\nx = a\n"},
    "an entry point that is none": {"entry_points": "[console_scripts]\nx = !\n"},
    "entry points that are none": {"entry_points": "nonsense\n"},
    "entry points twice": {"entry_points": "[console_scripts]\nx = a:b\nx = a:c\n"},
    "a scheme without a file": {"path": f"{DATA}/scripts"},
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_wheel_is_refused(tmp_path: Path, what: str) -> None:
    """A wheel with broken metadata is refused as a wheel, not as a bug of ours."""
    given = dict(BROKEN[what])
    refusal(make_wheel(tmp_path, {"a.py": b"x", given.pop("path", "b.txt"): b""}, **given))


def test_a_spoiled_wheel_is_refused(tmp_path: Path) -> None:
    """Whatever bytes are changed, a wheel is unpacked or refused; nothing else is ever raised."""
    wheel, file = make_wheel(tmp_path, {"a/b.py": b"x = 1\n" * 100}, entry_points="[console_scripts]\na = b:c\n")
    data = file.read_bytes()
    generator = random.Random(3)
    outcomes = {"read": 0, "refused": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(400):
            spoiled = bytearray(data)
            for _ in range(generator.randint(1, 3)):
                spoiled[generator.randrange(len(spoiled))] = generator.randrange(256)
            file.write_bytes(spoiled)
            try:
                unpack(wheel, file)
            except BuildError:
                outcomes["refused"] += 1
            else:
                outcomes["read"] += 1
    assert min(outcomes.values()) > 10


def test_a_message_is_the_same_every_time(tmp_path: Path) -> None:
    """A refusal says what is wrong in words, without a Python object in it."""
    assert " object at 0x" not in refusal(make_wheel(tmp_path, {f"{DATA}/elsewhere/x": b""})).message


@pytest.mark.parametrize("path", [DATA])
def test_no_path_makes_unpacking_endless(tmp_path: Path, path: str) -> None:
    """A file that has the name of the .data folder, or names it by another way, is refused within a second."""
    make_wheel(tmp_path, {path: b"x"})
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from image_makers import unpack, wheel_of\n"
        "from reprobox.errors import BuildError\n"
        f"file = Path({str(tmp_path / 'thing-1.0-py3-none-any.whl')!r})\n"
        "try: unpack(wheel_of(file), file)\n"
        "except BuildError: sys.exit(0)\n"
    )
    limits = ((resource.RLIMIT_CPU, 1), (resource.RLIMIT_AS, 1 << 30))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=False,
        preexec_fn=lambda: [resource.setrlimit(which, (value, value)) for which, value in limits] and None,
    )
    assert done.returncode == 0


@pytest.mark.parametrize(
    "paths", [("a.py", "a.py"), ("a.py", f"{DATA}/purelib/a.py"), ("a", "a/b"), (f"{INFO}/INSTALLER",) * 2]
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_place_is_written_once(tmp_path: Path, paths: tuple[str, str]) -> None:
    """A wheel that brings one place twice is refused: which of two contents is there depends on who unpacks."""
    with pytest.raises(BuildError):
        unpack(*make_wheel(tmp_path, [(paths[0], b"one"), (paths[1], b"two")]))


def test_a_place_is_no_file_and_folder(tmp_path: Path) -> None:
    """A file and a folder of one place are refused also where they come from different schemes."""
    with pytest.raises(BuildError):
        unpack(*make_wheel(tmp_path, {"a": b"one", f"{DATA}/purelib/a/b": b"two"}))


def test_an_installer_file_of_a_wheel_is_replaced(tmp_path: Path) -> None:
    """What a wheel says of its installer (repacked wheels bring it) is replaced, as pip does, and stands once in RECORD."""
    layer = unpack(*make_wheel(tmp_path, {"a.py": b"", f"{INFO}/INSTALLER": b"conda\n"}))
    assert layer.files()[f"{SITE}/{INFO}/INSTALLER"] == b"reprobox\n"
    assert f"{SITE}/{INFO}/INSTALLER" in rows(layer)


def test_an_entry_point_replaces_a_script_of_its_name(tmp_path: Path) -> None:
    """A wheel with both a script and an entry point of one name (old build tools make them) has the entry point, as pip."""
    members = {"a.py": b"", f"{DATA}/scripts/tool": b"#!python\nold\n"}
    layer = unpack(*make_wheel(tmp_path, members, entry_points="[console_scripts]\ntool = a:b\n"))
    assert b"from a import b" in layer.files()["opt/env/bin/tool"]
    assert len([place for place in rows(layer) if place == "opt/env/bin/tool"]) == 1


def test_the_installer_is_named(everything: Layer) -> None:
    """What installed a wheel is reprobox, and RECORD says so."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"reprobox\n").digest()).rstrip(b"=").decode()
    assert everything.files()[f"{SITE}/{INFO}/INSTALLER"] == b"reprobox\n"
    assert rows(everything)[f"{SITE}/{INFO}/INSTALLER"] == (f"sha256={digest}", "9")


def test_places_follow_the_python_of_the_target(tmp_path: Path) -> None:
    """Folders and the names of bytecode follow the locked interpreter, not the one that runs this."""
    wheel, file = make_wheel(tmp_path, {"a.py": b"", f"{DATA}/headers/a.h": b""})
    files = unpack(wheel, file, compile_sources=compile_plainly, python="3.9.18").files()
    assert files["opt/env/lib/python3.9/site-packages/__pycache__/a.cpython-39.pyc"].endswith(
        b"/python3.9/site-packages/a.py"
    )
    assert "opt/env/include/site/python3.9/thing/a.h" in files
    assert not [name for name in files if "3.11" in name]


def test_a_small_wheel_that_fills_a_disk_is_refused(tmp_path: Path) -> None:
    """A wheel that is packed hundreds of times smaller than it is large is refused before anything is unpacked."""
    wheel, file = make_wheel(tmp_path, {"zeros.bin": bytes(300 << 20)})
    assert file.stat().st_size < 1 << 20
    assert "more than any real wheel" in refusal((wheel, file)).message
