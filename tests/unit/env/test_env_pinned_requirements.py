"""Requirements files with hashes: every entry is exact and hashed, or the first that is not is named."""

from __future__ import annotations

import hashlib

import pytest
from env_samples import sha
from pinned_samples import REQUIREMENTS

from reprobox.env.pinned import PinnedEnvironment, PinnedWheel
from reprobox.env.pinned_requirements import is_hashed_requirements, parse_requirements
from reprobox.errors import EnvironmentInvalid

HASH = f"--hash=sha256:{sha('a')}"


def read(text: str, files: dict[str, str] | None = None) -> PinnedEnvironment:
    return parse_requirements(text, source="envs/requirements.txt", include=None if files is None else files.get)


def refusal(text: str, files: dict[str, str] | None = None) -> str:
    with pytest.raises(EnvironmentInvalid) as caught:
        read(text, files)
    assert caught.value.message.startswith("envs/")
    assert caught.value.hint
    assert "secret" not in caught.value.message
    return caught.value.message


def test_a_file_is_read() -> None:
    """Continuations, several hashes, markers, extras, addresses, indexes in both spellings, find-links."""
    found = read(REQUIREMENTS)
    assert (found.kind, found.platforms, found.conda) == ("requirements", ("linux-64",), ())
    assert found.indexes == ("https://index.example/simple", "https://wheels.example/whl/cu118")
    assert found.find_links == ("https://wheels.example/page.html",)
    assert found.wheels[0] == PinnedWheel(
        name="absl-py", version="2.1.0", file=None, address=None, sha256s=(sha("absl"), sha("absl sdist")),
        size_bytes=None, line=8,
    )  # fmt: skip
    assert [(wheel.name, wheel.version, wheel.markers, wheel.sha256s) for wheel in found.wheels[1:]] == [
        ("keras-preprocessing", "1.1.2", 'python_version < "3.12"', (sha("keras"),)),
        ("torch", "2.0.1+cu118", 'sys_platform == "linux"', (sha("torch"),)),
        ("torch", "2.0.1", 'sys_platform == "darwin"', (sha("torch mac"),)),
        ("six", "1.16.0", "", (sha("six"),)),
    ]
    assert found.wheels[4].address == "https://files.example/six-1.16.0-py2.py3-none-any.whl"
    assert found.notes == ()


@pytest.mark.parametrize(
    "options",
    [
        "-i https://i.example/x\n", "-ihttps://i.example/x\n", "--index-url https://i.example/x\n",
        "--index-url=https://i.example/x\n", "--extra-index-url https://i.example/x  # comment\n",
        "--extra-index-url=https://me:secret@i.example/x\n", "--index-url \\\n  https://i.example/x\n",
    ],
)  # fmt: skip
def test_every_spelling_of_an_index(options: str) -> None:
    """Each names the one index, without credentials."""
    assert read(f"{options}a==1 {HASH}\n").indexes == ("https://i.example/x",)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("b==2", "b==2"),
        ("b", "b"),
        ("b>=2 ; python_version < '4'", "b>=2"),
        (f"b==2 --hash=sha512:{'a' * 128}", "b==2"),
        ("b @ https://me:secret@h.example/b-1-py3-none-any.whl", "b-1-py3-none-any.whl"),
        (f"git+https://h.example/b@{'a' * 40}", "git+https://h.example/b"),
        ("./b", "./b"),
        ("-e .", "the project's own code"),
        ("-e git+https://me:secret@h.example/b", "the project's own code"),
    ],
)
def test_the_first_entry_without_hash_is_named(line: str, name: str) -> None:
    """One entry without a sha256 is enough to refuse the file; its line is named."""
    message = refusal(f"a==1 {HASH}\n{line}\nc==3\n")
    assert message.startswith("envs/requirements.txt:2: ")
    assert name in message
    assert "so its bytes could not be checked" in message


@pytest.mark.parametrize("entry", ["a", "a>=1", "a==1.*", "a==1,!=2", "a~=1.0", "a<2"])
def test_an_entry_that_is_not_exact_is_refused(entry: str) -> None:
    """A hash does not make a range a pin."""
    assert refusal(f"\n{entry} {HASH}\n").startswith(f"envs/requirements.txt:2: '{entry}' is not exact")


@pytest.mark.parametrize("entry", ["a==1.0", "a===1.0", "A [x,y]  ==  1.0", "a==1.0;python_version>'3'"])
def test_an_exact_entry_is_taken(entry: str) -> None:
    """In every spelling of an exact pin."""
    assert [(wheel.name, wheel.version) for wheel in read(f"{entry} {HASH}").wheels] == [("a", "1.0")]


def test_addresses_are_pins() -> None:
    """By name and bare, with the digest as an option or in the address; one that names no project is refused."""
    url = "https://h.example/a-1.0-py3-none-any.whl"
    for line in (f"a @ {url} {HASH}", f"{url} {HASH}", f"a @ {url}#sha256={sha('a')}", f"{url}#sha256={sha('a')}"):
        found = read(line).wheels[0]
        assert (found.name, found.version, found.file, found.address) == ("a", "1.0", "a-1.0-py3-none-any.whl", url)
        assert found.sha256s == (sha("a"),)
    assert "does not say which project" in refusal(f"https://h.example/archive/main.zip {HASH}")
    assert read(f"a @ https://h.example/archive/main.zip {HASH}").wheels[0].version == ""


def test_an_entry_twice() -> None:
    """The same pin twice is one; under other markers it is another; a different one is refused with both lines."""
    assert len(read(f"a==1 {HASH}\nA==1 {HASH}\n").wheels) == 1
    message = refusal(f"a==1 {HASH}\na==2 {HASH}\n")
    assert message == "envs/requirements.txt:2: a stands twice, also in line 1: 1 and 2"


@pytest.mark.parametrize(
    "option",
    ["--require-hashes", "--no-binary :all:", "--only-binary=:all:", "--no-deps", "--pre", "--no-index",
     "--trusted-host h.example", "-c constraints.txt", "--prefer-binary"],
)  # fmt: skip
def test_options_that_decide_nothing_are_noted(option: str) -> None:
    """What a solver had to know before, or a machine's client does, is passed over and said."""
    found = read(f"{option}\na==1 {HASH}\n")
    assert len(found.wheels) == 1
    assert [note.line for note in found.notes] == [1]


@pytest.mark.parametrize(
    "line",
    ["--frobnicate", f"a==1 {HASH} --frobnicate", f"a==1 {HASH} -r x", "a==1 --hash=md5:abc", "a==1 --hash=sha256:abc",
     "a==1 --hash", "--index-url", "-i https://${HOST}/simple", "a b c --hash=sha256:" + sha("a"),
     "hg+https://h.example/x " + HASH],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(line: str) -> None:
    """With its line."""
    assert refusal(f"\n{line}\n").startswith("envs/requirements.txt:2: ")


def test_options_of_a_build_are_noted() -> None:
    """They stand after the requirement, and would matter only to a build from source."""
    found = read(f"a==1 --config-settings=x=y --global-option y {HASH}")
    assert [wheel.sha256s for wheel in found.wheels] == [(sha("a"),)]
    assert len(found.notes) == 2


def test_included_files_are_read() -> None:
    """Paths are relative to the file that names them; what stands in one says so; each is read once, with its digest."""
    files = {
        "sub/base.txt": f"-r more.txt\n-i https://i.example/x\nb==2 {HASH}\n--pre\n",
        "sub/more.txt": f"-r base.txt\n\nc==3 {HASH}\n",
    }
    found = read(f"-r sub/base.txt\na==1 {HASH}\n--requirement=./sub/more.txt\n", files)
    assert [(wheel.name, wheel.source, wheel.line) for wheel in found.wheels] == [
        ("c", "sub/more.txt", 3),
        ("b", "sub/base.txt", 3),
        ("a", "", 2),
    ]
    assert found.indexes == ("https://i.example/x",)
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    assert dict(found.included) == digests
    assert found.notes[0].message.startswith("envs/sub/base.txt:4: ")
    assert refusal("-r x.txt", {"x.txt": "\nb==2\n"}).startswith("envs/x.txt:2: 'b==2' has no sha256 hash")


@pytest.mark.parametrize("name", ["missing.txt", "/srv/x.txt", "https://me:secret@h.example/x.txt"])
def test_what_cannot_be_included_is_refused(name: str) -> None:
    """A file that is not there, one outside of the project, one of a host; or nobody to give any."""
    assert refusal(f"-r {name}\n", {}).startswith("envs/requirements.txt:1: ")
    assert refusal(f"-r {name}\n").startswith("envs/requirements.txt:1: ")


def test_circles_end() -> None:
    """Files that include each other end, and so do files without end."""
    assert len(read("-r a.txt\n", {"a.txt": f"-r a.txt\na==1 {HASH}\n"}).wheels) == 1
    with pytest.raises(EnvironmentInvalid, match="cannot be included"):
        parse_requirements("-r x\n", source="envs/r.txt", include=lambda name: f"-r {name}x\n")


def test_pips_own_rule_tells_whether_a_file_is_hashed() -> None:
    """One hash is enough, or the option; a comment is not."""
    assert is_hashed_requirements(REQUIREMENTS)
    assert is_hashed_requirements(f"a==1\nb==1 \\\n  {HASH}\n")
    assert is_hashed_requirements("--require-hashes\na==1\n")
    assert not is_hashed_requirements(f"a==1\n# b==1 {HASH}\n")
    assert not is_hashed_requirements("")


def test_a_file_without_entries_says_so() -> None:
    """It pins nothing, and that is a note."""
    assert "no package at all" in read("# nothing\n").notes[0].message


def test_a_commit_is_a_checksum() -> None:
    """A named project at a whole commit is pinned; at a branch it is not."""
    (wheel,) = read(f"b @ git+https://h.example/b@{'a' * 40}#subdirectory=x\n").wheels
    assert (wheel.name, wheel.sha256s) == ("b", ())
    assert wheel.address == f"git+https://h.example/b@{'a' * 40}#subdirectory=x"
    assert "without a whole commit" in refusal("b @ git+https://h.example/b@main\n")
