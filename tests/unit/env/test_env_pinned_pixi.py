"""pixi.lock, versions 4 to 7: an environment and a platform are chosen, and every package has a row with a checksum."""

from __future__ import annotations

import pytest
from env_samples import sha
from pinned_samples import PIXI_4, PIXI_6, md5

from reprobox.env.pinned import PinnedConda, PinnedEnvironment
from reprobox.env.pinned_pixi import parse_pixi_lock
from reprobox.errors import EnvironmentInvalid


def read(text: str, **options: str) -> PinnedEnvironment:
    return parse_pixi_lock(text, source="pixi.lock", **options)


def refusal(text: str, **options: str) -> str:
    with pytest.raises(EnvironmentInvalid) as caught:
        read(text, **options)
    assert caught.value.message.startswith("pixi.lock")
    assert caught.value.hint
    assert "secret" not in caught.value.message
    return caught.value.message


def lock(reference: str, row: str) -> str:
    return (
        "version: 6\nenvironments:\n  default:\n    packages:\n      linux-64:\n"
        f"      - {reference}\npackages:\n{row}\n"
    )


def test_version_6_is_read() -> None:
    """Names come from the address, checksums and sizes from the row; indexes lose their credentials."""
    found = read(PIXI_6)
    assert (found.kind, found.platforms) == ("pixi", ("linux-64", "osx-arm64"))
    assert found.indexes == ("https://index.example/simple",)
    assert found.find_links == ("https://wheels.example/page.html",)
    assert found.conda[0] == PinnedConda(
        name="tzdata", version="2023c", build="h71feb2d_0", channel="https://conda.example/conda-forge",
        subdir="noarch", file="tzdata-2023c-h71feb2d_0.conda",
        address="https://conda.example/conda-forge/noarch/tzdata-2023c-h71feb2d_0.conda",
        size_bytes=119135, sha256=sha("tzdata"), md5=md5("tzdata"), line=26,
    )  # fmt: skip
    x264 = found.conda[1]
    assert (x264.version, x264.file, x264.sha256) == ("1!164.3095", "x264-1!164.3095-h166bdaf_2.tar.bz2", None)
    assert [(wheel.name, wheel.version, wheel.address, wheel.sha256s) for wheel in found.wheels] == [
        ("absl-py", "2.1.0", "https://files.example/packages/absl_py-2.1.0-py3-none-any.whl", (sha("absl"),)),
        ("uvloop", "0.22.1", f"git+https://git.example/uvloop.git@{'a308' * 10}", ()),
    ]
    assert [note.message for note in found.notes] == ["mine is a folder or file beside pixi.lock: ./; left out"]


@pytest.mark.parametrize("version", ["4", "5"])
def test_versions_4_and_5_are_read(version: str) -> None:
    """Rows that say their kind are found by their address, and a path is left out with a note."""
    found = read(PIXI_4.replace("version: 4", f"version: {version}"))
    assert [(p.name, p.version, p.build, p.size_bytes) for p in found.conda] == [
        ("bzip2", "1.0.8", "hd590300_5", 254228)
    ]
    assert [wheel.sha256s for wheel in found.wheels] == [(sha("absl"),)]
    assert [(note.line, note.message.split(" is ")[0]) for note in found.notes] == [(26, "mine")]


def test_version_7_is_read() -> None:
    """It has the shape of 6, with the platforms listed before and names in the rows."""
    text = PIXI_6.replace("version: 6\n", "version: 7\nplatforms:\n- name: linux-64\n", 1)
    assert [package.name for package in read(text).conda] == ["tzdata", "x264"]
    assert "1: version '8' of pixi's lock is not known here" in refusal(PIXI_6.replace("version: 6", "version: 8", 1))
    assert "1: version '3'" in refusal(PIXI_6.replace("version: 6", "version: 3", 1))


def test_what_py_rattler_writes_is_read(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The library that pixi itself locks with writes what this reader reads."""
    import rattler

    record = rattler.PackageRecord(
        "x264", "1!164.3095", rattler.BuildString("h166bdaf_2"), 2, "linux-64", None, None,
        sha256=bytes.fromhex(sha("x264")), md5=bytes.fromhex(md5("x264")), size=5,
    )  # fmt: skip
    url = "https://conda.example/main/linux-64/x264-1%21164.3095-h166bdaf_2.tar.bz2"
    platform = rattler.LockPlatform("linux-64")
    written = rattler.LockFile([platform])
    written.set_channels("default", [rattler.LockChannel("https://conda.example/main")])
    written.add_conda_package(
        "default", platform, rattler.RepoDataRecord(record, url.split("/")[-1], url, "https://conda.example/main")
    )
    written.add_pypi_package("default", platform, "mine", "0", "./")
    written.to_path(tmp_path / "pixi.lock")
    found = read((tmp_path / "pixi.lock").read_text())
    assert [(p.name, p.version, p.build, p.sha256, p.md5, p.size_bytes, p.channel) for p in found.conda] == [
        ("x264", "1!164.3095", "h166bdaf_2", sha("x264"), md5("x264"), 5, "https://conda.example/main")
    ]
    assert len(found.notes) == 1


def test_environment_and_platform_are_chosen() -> None:
    """What the file lacks is refused, naming what it has."""
    assert [package.name for package in read(PIXI_6, environment="cuda").conda] == ["tzdata"]
    assert [package.name for package in read(PIXI_6, platform="osx-arm64").conda] == ["tzdata"]
    assert "no environment 'test'; it has default, cuda" in refusal(PIXI_6, environment="test")
    message = refusal(PIXI_6, platform="linux-aarch64")
    assert message == "pixi.lock: environment 'default' holds nothing for linux-aarch64; it holds linux-64, osx-arm64"


URL = "https://conda.example/main/linux-64/a-1-0.conda"


@pytest.mark.parametrize(
    ("reference", "row", "message"),
    [
        (f"conda: {URL}", "", f":6: '{URL}' is not among `packages`"),
        ("pypi: ./", "", ":6: './' is not among `packages`"),
        (f"conda: {URL}", f"- conda: {URL}\n  license: MIT", ":8: a has no checksum, so its bytes could not be checked"),
        (f"conda: {URL}", f"- conda: {URL}\n  md5: abc", ":8: 'abc' is no md5"),
        (f"conda: {URL}", f"- conda: {URL}\n  md5: {md5('a')}\n  size: -1", ":10: size '-1' is no number of bytes"),
        (f"conda: {URL}", f"- conda: {URL}\n  md5: {md5('a')}\n- conda: {URL}\n  md5: {md5('b')}", ":10: https://conda"),
        ("conda: https://h.example/win-64/a-1-0.conda", f"- conda: https://h.example/win-64/a-1-0.conda\n  md5: {md5('a')}",
         ":8: a-1-0.conda is a package for win-64, not for linux-64"),
        ("conda: ./a-1-0.conda", f"- conda: ./a-1-0.conda\n  md5: {md5('a')}", ":8: './a-1-0.conda' is no address"),
        ("pypi: https://files.example/a-1.zip", "- pypi: https://files.example/a-1.zip\n  name: a", ":8: a has no checksum"),
        ("pypi: git+https://h.example/a?rev=main#abcdef0", "- pypi: git+https://h.example/a?rev=main#abcdef0\n  name: a",
         ":8: a comes from git without a whole commit: git+https://h.example/a@abcdef0"),
        ("pypi: https://me:secret@h.example/x", "- pypi: https://me:secret@h.example/x", ":8: a package of pypi has no name"),
        ("npm: x", "", ":6: a package must be of conda or pypi"),
        (f"conda: {URL}", "- npm: x", ":8: a package must be of conda or pypi"),
    ],
)  # fmt: skip
def test_what_cannot_be_checked_is_refused(reference: str, row: str, message: str) -> None:
    """Each refusal has the line and the package."""
    assert message in refusal(lock(reference, row))


def test_what_is_built_from_source_is_noted() -> None:
    """Packages that pixi builds itself are left out, each with a note."""
    for reference in ("conda: .", "conda: git+https://me:secret@h.example/x", "conda_source: 'x[1] @ .'"):
        found = read(lock(reference, f"- {reference}\n  name: x"))
        assert found.conda == ()
        assert "is built from source by pixi" in found.notes[0].message
        assert "no package at all" in found.notes[1].message
        assert "secret" not in repr(found)


def test_one_name_with_two_files_is_refused() -> None:
    """Both lines are named."""
    other = URL.replace("a-1-0", "a-2-0")
    rows = f"- conda: {URL}\n  md5: {md5('a')}\n- conda: {other}\n  md5: {md5('b')}"
    assert ":11: a stands twice, also in line 9: a-1-0.conda" in refusal(
        lock(f"conda: {URL}\n      - conda: {other}", rows)
    )


def test_a_text_of_another_kind_is_refused() -> None:
    """Without its two keys it is no lock of pixi."""
    assert "no lock of pixi" in refusal("version: 6\n")
    assert "the file is empty" in refusal("")
