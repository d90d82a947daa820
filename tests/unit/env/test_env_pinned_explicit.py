"""@EXPLICIT lists: one URL and one checksum a line, for one platform."""

from __future__ import annotations

import pytest
from env_samples import sha
from pinned_samples import EXPLICIT, md5

from reprobox.env.pinned import PinnedConda, PinnedEnvironment
from reprobox.env.pinned_explicit import parse_explicit
from reprobox.errors import EnvironmentInvalid

URL = "https://conda.example/conda-forge/noarch/a-1-0.conda"
WHEEL = "https://files.example/a_b-1-py3-none-any.whl"


def read(text: str, platform: str = "linux-64") -> PinnedEnvironment:
    return parse_explicit(text, source="spec.txt", platform=platform)


def refusal(text: str, platform: str = "linux-64") -> str:
    with pytest.raises(EnvironmentInvalid) as caught:
        read(text, platform)
    assert caught.value.message.startswith("spec.txt")
    assert caught.value.hint
    assert "secret" not in caught.value.message
    return caught.value.message


def test_a_list_is_read() -> None:
    """Checksums in every spelling, mirrors, epochs, files; no credentials; conda-lock's wheels out of comments."""
    found = read(EXPLICIT)
    assert (found.kind, found.platforms, found.notes) == ("explicit", ("linux-64",), ())
    assert [(package.name, package.md5, package.sha256) for package in found.conda] == [
        ("_libgcc_mutex", md5("mutex"), None),
        ("tzdata", None, sha("tzdata")),
        ("x264", None, sha("x264")),
        ("bzip2", md5("bzip2"), None),
    ]
    assert found.conda[2] == PinnedConda(
        name="x264", version="1!164.3095", build="h166bdaf_2", channel="http://mirror.example:8080/conda-forge",
        subdir="linux-64", file="x264-1!164.3095-h166bdaf_2.conda",
        address="http://mirror.example:8080/conda-forge/linux-64/x264-1%21164.3095-h166bdaf_2.conda",
        size_bytes=None, sha256=sha("x264"), md5=None, line=8,
    )  # fmt: skip
    assert found.conda[1].channel == "https://conda.example/conda-forge"
    assert found.conda[3].channel == "file:///srv/channel"
    assert [(wheel.name, wheel.version, wheel.sha256s, wheel.line) for wheel in found.wheels] == [
        ("absl-py", "2.1.0", (sha("absl"),), 11),
        ("antlr4-runtime", "4.9.3", (sha("antlr"),), 12),
    ]


def test_line_ends_and_blanks_do_not_matter() -> None:
    """A list with Windows line ends, a BOM and blanks around lines gives the same packages."""
    changed = "\ufeff" + EXPLICIT.replace("\n", "  \r\n")
    assert read(changed).conda == read(EXPLICIT).conda
    assert read(changed).sha256 != read(EXPLICIT).sha256


def test_a_line_without_checksum_is_refused() -> None:
    """The line and the package are named, also for an empty checksum."""
    for line in (URL, URL + "#", URL + "#sha256:"):
        message = refusal(f"@EXPLICIT\n\n{line}\n")
        assert message == "spec.txt:3: a has no checksum, so its bytes could not be checked"
    assert "spec.txt:2: 'abc' is no sha256" in refusal(f"@EXPLICIT\n{URL}#abc\n")
    assert "spec.txt:2: 'md5:abc' is no md5" in refusal(f"@EXPLICIT\n{URL}#md5:abc\n")


@pytest.mark.parametrize("platform", ["osx-64", "win-64", "linux-aarch64"])
def test_packages_of_another_platform_are_refused(platform: str) -> None:
    """By the URL, and by the comment that says what the list was made on."""
    text = f"@EXPLICIT\n{URL.replace('noarch', platform)}#{md5('a')}\n"
    assert refusal(text) == f"spec.txt:2: a-1-0.conda is a package for {platform}, not for linux-64"
    assert read(text, platform).platforms == (platform,)
    comment = refusal(f"# platform: {platform}\n@EXPLICIT\n{URL}#{md5('a')}\n")
    assert comment == f"spec.txt:1: this is a list for {platform}, not for linux-64"


def test_a_list_for_every_platform_is_for_the_one_asked_for() -> None:
    """Only noarch packages and no comment: whatever was asked for."""
    assert read(f"@EXPLICIT\n{URL}#{md5('a')}\n", "linux-aarch64").platforms == ("linux-aarch64",)


def test_one_name_with_two_files_is_refused() -> None:
    """The same line twice is one package; another file of the name names both lines."""
    text = f"@EXPLICIT\n{URL}#{md5('a')}\n"
    assert len(read(text + f"{URL}#{md5('a')}\n").conda) == 1
    message = refusal(text + f"{URL.replace('1-0', '2-0')}#{md5('b')}\n")
    assert message == "spec.txt:3: a stands twice, also in line 2: a-1-0.conda and a-2-0.conda"
    assert "with different checksums" in refusal(text + f"{URL}#{md5('b')}\n")


@pytest.mark.parametrize(
    "line",
    ["numpy=1.26=py311_0", "conda-forge::numpy", "/srv/linux-64/a-1-0.conda", "./a-1-0.conda", "https://h.example/a"],
)
def test_what_is_no_url_of_a_package_is_refused(line: str) -> None:
    """Specs and paths are named with their line."""
    assert refusal(f"@EXPLICIT\n{line}\n").startswith("spec.txt:2: ")


def test_lines_of_pip() -> None:
    """Every spelling of conda-lock's; a commit; a folder is left out with a note; what has no checksum is refused."""
    for line in (
        f"{WHEEL} --hash=sha256:{sha('a')}",
        f"{WHEEL}#sha256={sha('a')}",
        f"{WHEEL} --hash sha256:{sha('a')}",
    ):
        found = read(f"@EXPLICIT\n# pip A.b @ {line}\n").wheels[0]
        assert (found.name, found.address, found.sha256s) == ("a-b", WHEEL, (sha("a"),))
    commit = f"git+https://me:secret@git.example/a.git@{'a' * 40}"
    assert read(f"@EXPLICIT\n# pip a @ {commit}\n").wheels[0].address == f"git+https://git.example/a.git@{'a' * 40}"
    folder = read("@EXPLICIT\n# pip a @ file:///home/someone/a\n")
    assert (folder.wheels, folder.notes[0].line) == ((), 2)
    assert "without a whole commit" in refusal("@EXPLICIT\n# pip a @ git+https://git.example/a.git@main\n")
    assert (
        refusal(f"@EXPLICIT\n# pip a @ {WHEEL}\n") == "spec.txt:2: a has no checksum, so its bytes could not be checked"
    )
    assert "a stands twice" in refusal(
        f"@EXPLICIT\n# pip a @ {WHEEL}#sha256={sha('a')}\n# pip a @ {WHEEL}#sha256={sha('b')}\n"
    )


def test_comments_are_comments() -> None:
    """What only begins like a line of pip pins nothing."""
    found = read("# pip install x\n# pip: y\n@EXPLICIT\n#\n# pip\n")
    assert (found.conda, found.wheels) == ((), ())
    assert "no package at all" in found.notes[0].message


def test_a_text_without_the_line_is_refused() -> None:
    """Without @EXPLICIT it is no such list."""
    assert "no line `@EXPLICIT`" in refusal(f"{URL}#{md5('a')}\n")
