"""Lines as pip takes them: requirements, references and options are told apart, and nothing is lost in silence."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprobox.env.pip_lines import (
    PipLine,
    PipOption,
    Reference,
    WheelRequirement,
    parse_pip_line,
    parse_wheel_requirement,
    split_requirements,
)
from reprobox.errors import EnvironmentInvalid

HASH = "0123456789abcdef" * 4
REPOSITORY = "https://git.example/o/r.git"


def read(text: str) -> PipLine:
    return parse_pip_line(text, source="requirements.txt", line=3)


def reference(text: str) -> Reference:
    (item,) = read(text).items
    assert isinstance(item, Reference)
    return item


def refusal(text: str) -> EnvironmentInvalid:
    with pytest.raises(EnvironmentInvalid) as caught:
        read(text)
    assert caught.value.message.startswith("requirements.txt:3: ")
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("written", "kind", "name", "address", "revision"),
    [
        (f"git+{REPOSITORY}", "git", None, REPOSITORY, None),
        (f"git+{REPOSITORY}@main", "git", None, REPOSITORY, "main"),
        (f"git+{REPOSITORY}@v1.0#egg=r", "git", "r", REPOSITORY, "v1.0"),
        (f"git+{REPOSITORY}@feature/x", "git", None, REPOSITORY, "feature/x"),
        (f"git+{REPOSITORY}@refs/pull/1/head", "git", None, REPOSITORY, "refs/pull/1/head"),
        (f"r @ git+{REPOSITORY}@0123abc", "git", "r", REPOSITORY, "0123abc"),
        (f"R_x@git+{REPOSITORY}", "git", "r-x", REPOSITORY, None),
        ("git+https://git.example/o/r", "git", None, "https://git.example/o/r", None),
        ("git+ssh://git@git.example/o/r.git", "git", None, "ssh://git@git.example/o/r.git", None),
        ("git+ssh://git@git.example/o/r.git@v1", "git", None, "ssh://git@git.example/o/r.git", "v1"),
        ("git+git@git.example:o/r.git@v1", "git", None, "git@git.example:o/r.git", "v1"),
        (f"-e git+{REPOSITORY}@main#egg=r", "git", "r", REPOSITORY, "main"),
        (f"--editable=git+{REPOSITORY}", "git", None, REPOSITORY, None),
        ("-e .", "folder", None, ".", None),
        ("-e.", "folder", None, ".", None),
        (".", "folder", None, ".", None),
        ("./lib", "folder", None, "./lib", None),
        ("../lib", "folder", None, "../lib", None),
        ("libs/own", "folder", None, "libs/own", None),
        ("-e src/own", "folder", None, "src/own", None),
        ("./dist/r-1.0.tar.gz", "source", None, "./dist/r-1.0.tar.gz", None),
        ("r-1.0.zip", "source", None, "r-1.0.zip", None),
        ("https://files.example/r-1.0.tar.gz", "source", None, "https://files.example/r-1.0.tar.gz", None),
        ("r @ https://files.example/main.zip", "source", "r", "https://files.example/main.zip", None),
        ("./r_x-1.0-py3-none-any.whl", "wheel", "r-x", "./r_x-1.0-py3-none-any.whl", None),
        (
            "https://files.example/torch-1.9.0%2Bcu111-cp39-cp39-linux_x86_64.whl",
            "wheel",
            "torch",
            "https://files.example/torch-1.9.0%2Bcu111-cp39-cp39-linux_x86_64.whl",
            None,
        ),
    ],
)
def test_references_as_people_write_them(
    written: str, kind: str, name: str | None, address: str, revision: str | None
) -> None:
    """Commits, branches (with a / too), addresses, archives, wheels and folders, each with its parts."""
    found = reference(written)
    assert (found.kind, found.name, found.address, found.revision) == (kind, name, address, revision)
    assert found.editable is written.startswith(("-e", "--editable"))
    assert found.line == 3


def test_parts_of_a_reference() -> None:
    """Extras, a folder of the repository and a digest are kept."""
    found = reference(f"git+{REPOSITORY}@main#egg=r[b,a]&subdirectory=sub/x")
    assert (found.extras, found.subdirectory) == (("a", "b"), "sub/x")
    assert reference("-e ./lib[dev, test]".replace(" test", "test")).extras == ("dev", "test")
    assert reference(f"r[x] @ https://files.example/r-1.tar.gz#sha256={HASH}").sha256 == HASH
    assert reference(f"https://files.example/r-1.tar.gz --hash=sha256:{HASH}").sha256 == HASH


def test_a_reference_is_shown_without_credentials() -> None:
    """What a person reads of it names no password."""
    found = reference("r @ git+https://user:se@cret@git.example/o/r.git@v1")
    assert found.text == "r @ https://git.example/o/r.git v1"
    assert reference("./lib").text == "./lib"


@pytest.mark.parametrize(
    ("written", "options"),
    [
        ("--extra-index-url https://whl.example/cu118", [("extra-index", "https://whl.example/cu118")]),
        ("--extra-index-url=https://whl.example/cu118", [("extra-index", "https://whl.example/cu118")]),
        ("--index-url 'https://whl.example'", [("index", "https://whl.example")]),
        ("-i https://whl.example", [("index", "https://whl.example")]),
        ("-f https://whl.example/a.html", [("find-links", "https://whl.example/a.html")]),
        ("-fhttps://whl.example/a.html", [("find-links", "https://whl.example/a.html")]),
        ("--find-links=wheels", [("find-links", "wheels")]),
        ("--pre", [("pre", "")]),
        ("--no-index -f wheels", [("no-index", ""), ("find-links", "wheels")]),
        ("-r a.txt", [("include", "a.txt")]),
        ("-ra.txt", [("include", "a.txt")]),
        ("--requirement=a.txt", [("include", "a.txt")]),
        ("-c limits.txt", [("constraint", "limits.txt")]),
        (
            "-i https://a.example --extra-index-url https://b.example",
            [("index", "https://a.example"), ("extra-index", "https://b.example")],
        ),
    ],
)
def test_options_as_people_write_them(written: str, options: list[tuple[str, str]]) -> None:
    """Long and short, with a blank, with = and with neither, one or more on a line."""
    found = read(written)
    assert [(option.kind, option.value) for option in found.options] == options
    assert found.items == ()


@pytest.mark.parametrize("place", ["torch==1.9.0+cu111 {}", "{} torch==1.9.0+cu111"])
def test_an_option_beside_a_requirement(place: str) -> None:
    """An index on the same line counts, and so does the requirement."""
    found = read(place.format("-f https://whl.example/torch_stable.html"))
    assert [item.text for item in found.items] == ["torch==1.9.0+cu111"]
    assert found.options == (PipOption(kind="find-links", value="https://whl.example/torch_stable.html", line=3),)


def test_hashes_stay_with_their_requirement() -> None:
    """Any of the sha256 digests will do; others beside them are not needed."""
    found = read(f"six==1.16 --hash=sha256:{HASH} --hash sha256:{HASH[::-1]} --hash=md5:00")
    assert found.items == (WheelRequirement(text="six==1.16", name="six", line=3, sha256s=(HASH, HASH[::-1])),)


@pytest.mark.parametrize(
    "option", ["--no-cache-dir", "-U", "--upgrade", "--quiet", "--trusted-host whl.example", "--user"]
)
def test_what_decides_nothing_is_noted(option: str) -> None:
    """An option that only says how pip works is passed over, and that is said."""
    found = read(f"{option} six")
    assert [item.text for item in found.items] == ["six"]
    assert [option.split()[0] in note.message for note in found.notes] == [True]


@pytest.mark.parametrize(
    ("written", "reason", "edit"),
    [
        ("nibabel=2.5.1", "'nibabel=2.5.1'", "nibabel==2.5.1"),
        ("tensorflow-gpu = 1.7.0", "'tensorflow-gpu = 1.7.0'", "tensorflow-gpu==1.7.0"),
        ("uvicorn[standard]=0.2", "'uvicorn[standard]=0.2'", "uvicorn[standard]==0.2"),
        ("numpy=>1.2", "'numpy=>1.2'", "numpy>=1.2"),
        ("numpy=<1.2", "'numpy=<1.2'", "numpy<=1.2"),
        ("numpy>=1.2 <2", "comma", "numpy>=1.2,<2"),
        ("numpy>=1.2.*", ".*", "numpy>=1.2"),
        ("numpy 1.2", "'numpy 1.2'", "numpy==1.2"),
        ("numpy>>1", "'numpy>>1'", "name==1.2"),
        ("numpy; python_version <", "numpy", "name==1.2"),
        ("six; " + "(" * 5000, "nested", "name==1.2"),
        ("${PACKAGE}", "${PACKAGE}", "name==1.2"),
        ("torch=={{ torch }}", "is a template", "what it stands for"),
        ("hg+https://a.example/b", "hg is not supported", "git"),
        ("svn+ssh://a.example/b", "svn is not supported", "git"),
        ("C:\\wheels\\a.whl", "path of Windows", "with /"),
        ("-e ..\\lib", "path of Windows", "with /"),
        ("https://a.example/a-1.0-cp39-cp39-win_amd64.whl", "a wheel for win_amd64; images are Linux", "for Linux"),
        ("./a-1.0-cp39-cp39-macosx_10_9_x86_64.whl", "a wheel for macosx_10_9_x86_64", "for Linux"),
        ("https://a.example/a.whl", "not the name of a wheel", "name"),
        ("pywin32==305", "published for Windows alone", "sys_platform == 'win32'"),
        ("pyobjc-core", "published for macOS alone", "sys_platform == 'darwin'"),
        ("tensorflow-metal==0.5.0", "published for macOS alone", "delete that line"),
        ("--no-deps", "'--no-deps' is not supported", "leave it out"),
        ("--no-binary=:all:", "'--no-binary' is not supported", "leave it out"),
        ("--target here", "'--target' is not supported", "the image's"),
        ("--frobnicate", "'--frobnicate' is not supported", "leave it out"),
        ("-e", "'-e' has no value", "write -e VALUE"),
        ("--index-url", "'--index-url' has no value", "write --index-url VALUE"),
        ("six --hash=md5:00", "'md5:00' is no sha256", "--hash=sha256:"),
        ("six --hash=sha256:00", "'00' is no sha256", "--hash=sha256:"),
        (f"git+{REPOSITORY} ; python_version < '3'", "behind the address", "leave out"),
        (f"r @ git+{REPOSITORY} ; python_version < '3'", "behind the address", "leave out"),
    ],
)
def test_a_refusal_names_the_line_the_reason_and_the_edit(written: str, reason: str, edit: str) -> None:
    """What is no requirement or cannot be met is refused with one edit that helps."""
    error = refusal(written)
    assert reason in error.message
    assert edit in (error.hint or "")


@pytest.mark.parametrize("text", ["", "  ", "# all", "  # all", "\t#"])
def test_a_line_without_words_asks_for_nothing(text: str) -> None:
    """Blanks and comments are no requirement."""
    assert read(text) == PipLine()


def test_a_fragment_is_no_comment() -> None:
    """`#egg=` follows an address without a blank; a comment follows a blank."""
    assert reference(f"git+{REPOSITORY}#egg=r  # the fork").name == "r"


def test_a_requirement_of_another_platform_with_a_marker_is_read() -> None:
    """Where the line itself says that it is for Windows, it is for nobody here."""
    (item,) = read("pywin32==305 ; sys_platform == 'win32'").items
    assert item.text == 'pywin32==305; sys_platform == "win32"'


def test_a_wheel_requirement_is_nothing_else() -> None:
    """A constraint must be a requirement of the index."""
    assert parse_wheel_requirement("numpy<2", source="c.txt", line=1).text == "numpy<2"
    for text in ("-e .", "./lib", "-r a.txt", ""):
        with pytest.raises(EnvironmentInvalid, match=r"^c.txt:1: "):
            parse_wheel_requirement(text, source="c.txt", line=1)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a\n\n# b\nc # d\n", [(1, "a"), (4, "c")]),
        ("a \\\n  --hash=x \\\n  --hash=y\nb", [(1, "a    --hash=x    --hash=y"), (4, "b")]),
        ("a \\\n# between\nb\n", [(1, "a"), (3, "b")]),
        ("a # x \\\nb\n", [(1, "a"), (2, "b")]),
        ("a \\", [(1, "a")]),
        ("a\r\nb\r\n", [(1, "a"), (2, "b")]),
    ],
)
def test_lines_of_a_requirements_file(text: str, rows: list[tuple[int, str]]) -> None:
    """Lines that end in a backslash go on in the next; each knows where it began."""
    assert split_requirements(text) == rows


@given(st.text(max_size=60) | st.text("abc-=<>!~[](); @:/.#+*1e'\"\\", max_size=60))
@settings(max_examples=500, deadline=None, database=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever is written, the answer is what it says or a refusal."""
    try:
        found = read(text)
    except EnvironmentInvalid:
        return
    assert all(item.line == 3 for item in (*found.items, *found.options, *found.notes))
    assert len(found.items) <= 2
