"""conda-lock.yml: what real files hold is read as it is written, and what could not be checked is refused by name."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
from env_samples import sha
from pinned_samples import CONDA_LOCK, md5

from reprobox.env.pinned import PinnedConda, PinnedEnvironment, PinnedWheel
from reprobox.env.pinned_conda_lock import parse_conda_lock
from reprobox.errors import EnvironmentInvalid

EXAMPLE = "https://conda.example/conda-forge/noarch/a-1.10-0.conda"


def read(text: str, **options: object) -> PinnedEnvironment:
    return parse_conda_lock(text, source="envs/conda-lock.yml", **options)  # type: ignore[arg-type]


def refusal(text: str, **options: object) -> str:
    with pytest.raises(EnvironmentInvalid) as caught:
        read(text, **options)
    assert caught.value.message.startswith("envs/conda-lock.yml")
    assert caught.value.hint
    return caught.value.message


def row(
    *, manager: str = "conda", url: str = EXAMPLE, name: str = "a", hash: str = f"md5: {md5('a')}", **more: str
) -> str:
    """A row of one package; a key that is "-" is left out."""
    fields = {"name": name, "version": "1.10", "manager": manager, "platform": "linux-64", "url": url}
    fields |= {"hash": f"{{{hash}}}", "category": "main", "optional": "false"} | more
    lines = [f"{key}: {value}" for key, value in fields.items() if value != "-"]
    return "- " + "\n  ".join(lines) + "\n"


def lock(*rows: str) -> str:
    return "version: 1\nmetadata:\n  platforms: [linux-64]\npackage:\n" + "".join(rows)


def test_a_lock_is_read() -> None:
    """Every package of the platform and category is there as written, in order, without credentials and tokens."""
    found = read(CONDA_LOCK)
    assert (found.kind, found.source, found.platforms) == ("conda-lock", "envs/conda-lock.yml", ("linux-64", "osx-64"))
    assert found.sha256 == hashlib.sha256(CONDA_LOCK.encode()).hexdigest()
    assert found.conda == (
        PinnedConda(
            name="_libgcc_mutex", version="0.1", build="conda_forge", channel="https://conda.example/conda-forge",
            subdir="linux-64", file="_libgcc_mutex-0.1-conda_forge.tar.bz2",
            address="https://conda.example/conda-forge/linux-64/_libgcc_mutex-0.1-conda_forge.tar.bz2",
            size_bytes=None, sha256=sha("mutex"), md5=md5("mutex"), line=16,
        ),
        PinnedConda(
            name="x264", version="1!164.3095", build="h166bdaf_2", channel="http://mirror.example:8080/conda-forge",
            subdir="linux-64", file="x264-1!164.3095-h166bdaf_2.conda",
            address="http://mirror.example:8080/conda-forge/linux-64/x264-1%21164.3095-h166bdaf_2.conda",
            size_bytes=None, sha256=None, md5=md5("x264"), line=27,
        ),
        PinnedConda(
            name="tzdata", version="2023c", build="h71feb2d_0", channel="https://conda.example/conda-forge",
            subdir="noarch", file="tzdata-2023c-h71feb2d_0.conda",
            address="https://conda.example/conda-forge/noarch/tzdata-2023c-h71feb2d_0.conda",
            size_bytes=None, sha256=sha("tzdata"), md5=None, line=40,
        ),
    )  # fmt: skip
    assert found.wheels == (
        PinnedWheel(
            name="absl-py", version="2.1.0", file="absl_py-2.1.0-py3-none-any.whl",
            address="https://files.example/packages/a2/ad/absl_py-2.1.0-py3-none-any.whl",
            sha256s=(sha("absl"),), size_bytes=None, line=71,
        ),
        PinnedWheel(
            name="antlr4-python3-runtime", version="4.9.3", file="antlr4-python3-runtime-4.9.3.tar.gz",
            address="https://files.example/packages/antlr4-python3-runtime-4.9.3.tar.gz",
            sha256s=(sha("antlr"),), size_bytes=None, line=81,
        ),
        PinnedWheel(
            name="segment-anything", version="1.0", file=None,
            address=f"git+https://git.example/someone/segment-anything.git@{'6f' * 20}",
            sha256s=(), size_bytes=None, line=91,
        ),
    )  # fmt: skip
    assert "secret" not in repr(found)
    assert "tk-123" not in repr(found)


@pytest.mark.parametrize("version", ["", "version: 2\n", "version: 3\n", "version:\n"])
def test_the_version_may_be_missing(version: str) -> None:
    """A file without version, as three of twelve real ones are, reads as version 1, and so do its neighbours."""
    assert read(CONDA_LOCK.replace("version: 1\n", version)).conda[0].name == "_libgcc_mutex"
    assert "4: version '9' of conda-lock" in refusal(CONDA_LOCK.replace("version: 1\n", "\n\nversion: 9\n"))


@pytest.mark.parametrize("hash", [f"md5: {md5('a')}", f"md5: {md5('a')}, sha256: ''", f"md5: {md5('a')}, sha256: null"])
def test_an_md5_alone_is_enough(hash: str) -> None:
    """A row without sha256, or with an empty one, is pinned by its md5."""
    assert [(package.md5, package.sha256) for package in read(lock(row(hash=hash))).conda] == [(md5("a"), None)]


def test_a_sha256_alone_is_enough() -> None:
    """A row without md5, which the library itself refuses, is pinned by its sha256, in whatever letters."""
    found = read(lock(row(hash=f"sha256: {sha('a').upper()}"))).conda[0]
    assert (found.md5, found.sha256) == (None, sha("a"))


@pytest.mark.parametrize("hash", ["", "md5: ''", "md5: null, sha256: ''", "sha512: abc"])
def test_a_package_without_checksum_is_refused(hash: str) -> None:
    """File, line and package are named."""
    expected = "envs/conda-lock.yml:6: b has no checksum, so its bytes could not be checked"
    text = "version: 1\nmetadata:\n  platforms: []\npackage:\n-\n" + row(name="b", hash=hash)
    assert refusal(text) == expected
    assert refusal(text.replace(f"hash: {{{hash}}}", "hash:")) == expected
    assert refusal(text.replace(f"  hash: {{{hash}}}\n", "")) == expected


@pytest.mark.parametrize("hash", ["md5: 123", f"sha256: {'g' * 64}", f"sha256: {md5('a')}"])
def test_a_checksum_that_is_none_is_refused(hash: str) -> None:
    """What is no hexadecimal number of the right length is refused with its line."""
    assert "envs/conda-lock.yml:5:" in refusal(lock(row(hash=hash)))


def test_numbers_stay_as_they_are_written() -> None:
    """An unquoted 1.10 stays 1.10, and a checksum of digits keeps its zeros."""
    found = read(lock(row(hash=f"md5: {'0' * 31}7"))).conda[0]
    assert (found.version, found.md5) == ("1.10", "0" * 31 + "7")


@pytest.mark.parametrize("package", ["package: null", "package:", "package: []", ""])
def test_a_lock_without_packages_says_so(package: str) -> None:
    """`package: null` is an empty environment of the platforms that the file was made for, with a note."""
    text = f"metadata:\n  platforms: [linux-64]\n{package}\n"
    found = read(text)
    assert (found.conda, found.wheels, found.platforms) == ((), (), ("linux-64",))
    assert "no package at all" in found.notes[0].message
    assert "it holds linux-64" in refusal(text, platform="linux-aarch64")


def test_a_package_in_several_categories_stands_once() -> None:
    """One row for each category is one package; categories that are not asked for are left out."""
    text = lock(row(), row(category="dev"), row(), row(name="b", url=EXAMPLE.replace("a-1", "b-1"), category="dev"))
    assert [package.name for package in read(text).conda] == ["a"]
    assert [package.name for package in read(text, categories=("main", "dev")).conda] == ["a", "b"]
    assert [package.name for package in read(text, categories=("dev",)).conda] == ["a", "b"]
    assert "has no category 'test'; it has dev, main" in refusal(text, categories=("main", "test"))
    listed = lock(row(category="-", categories="[dev, test]"))
    assert len(read(listed, categories=("test",)).conda) == 1
    assert len(read(lock(row(category="-", optional="-"))).conda) == 1
    assert "no package at all" in read(lock(row(category="dev"))).notes[0].message


def test_one_name_with_two_files_is_refused() -> None:
    """Both lines are named; different checksums of one file are refused too."""
    other = row(url=EXAMPLE.replace("1.10-0", "1.10-1"))
    message = refusal(lock(row(), other))
    assert message.startswith(
        "envs/conda-lock.yml:13: a stands twice, also in line 5: a-1.10-0.conda and a-1.10-1.conda"
    )
    assert "with different checksums" in refusal(lock(row(), row(hash=f"md5: {md5('b')}")))
    assert len(read(lock(row(), row(hash=f"sha256: {sha('b')}"))).conda) == 1


def test_old_archives_carry_a_note() -> None:
    """A .tar.bz2 is kept as written; that its checksum may be the .conda's cannot be told, and is said once."""
    found = read(lock(row(url=EXAMPLE.replace(".conda", ".tar.bz2"), hash=f"sha256: {sha('the .conda')}")))
    assert (found.conda[0].file, found.conda[0].sha256) == ("a-1.10-0.tar.bz2", sha("the .conda"))
    assert [note.line for note in found.notes] == [5]
    assert "1 addresses end in .tar.bz2, from a on" in found.notes[0].message
    assert "conda-lock#639" in found.notes[0].message
    assert read(lock(row())).notes == ()


def test_addresses_of_every_kind() -> None:
    """Hosts of mirrors, addresses without a platform's folder or without host, files, tokens further in, queries."""
    for url, channel, subdir, address in (
        ("https://mirror.example:8080/x/y/noarch/a-1.10-0.conda", "https://mirror.example:8080/x/y", "noarch", "same"),
        ("https://mirror.example/cloud/a-1.10-0.conda", "https://mirror.example/cloud", "", "same"),
        ("conda-forge/noarch/a-1.10-0.conda", "conda-forge", "noarch", ""),
        ("conda-forge/label/dev/linux-64/a-1.10-0.conda", "conda-forge/label/dev", "linux-64", ""),
        ("file:///srv/pkgs/linux-64/a-1.10-0.conda", "file:///srv/pkgs", "linux-64", "same"),
        ("https://h.example/get/t/tok/main/noarch/a-1.10-0.conda?key=1", "https://h.example/get/main", "noarch",
         "https://h.example/get/main/noarch/a-1.10-0.conda"),
        ("https://${USER}:${KEY}@h.example/t/${TOKEN}/main/noarch/a-1.10-0.conda", "https://h.example/main", "noarch",
         "https://h.example/main/noarch/a-1.10-0.conda"),
        ("https://h.example/t/linux-64/a-1.10-0.conda", "https://h.example/t", "linux-64", "same"),
    ):  # fmt: skip
        found = read(lock(row(url=f"'{url}'")))
        package = found.conda[0]
        assert (package.channel, package.subdir) == (channel, subdir)
        assert package.address == (url if address == "same" else address)
        assert any("name no platform's folder" in note.message for note in found.notes) == (subdir == "")


@pytest.mark.parametrize(
    "url",
    [
        "https://h.example/noarch/a.conda", "https://h.example/noarch/a-1-0.zip", "/srv/noarch/a-1-0.conda",
        "../noarch/a-1-0.conda", "https:///noarch/a-1-0.conda", "https://h.example/noarch/a-1-%2Fb.conda",
        "https://h.example/noarch/..%2Fa-1-0.conda", "a-1-0.conda", "https://a-1-0.conda", "https://h.example/noarch/--.conda",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """What is no place of a conda package, or would lead out of a folder, is refused with its line."""
    assert ":5: " in refusal(lock(row(url=url)))


def test_names_come_from_the_file_where_the_row_has_none() -> None:
    """Name, version and build of the row win; a difference is noted."""
    found = read(lock(row(name="-", version="-"))).conda[0]
    assert (found.name, found.version, found.build) == ("a", "1.10", "0")
    assert read(lock(row(build="h1_0"))).conda[0].build == "h1_0"
    odd = read(lock(row(version="1.1")))
    assert odd.conda[0].version == "1.1"
    assert odd.notes[0].message == "a 1.1 is pinned to a file of another name: a-1.10-0.conda"


@pytest.mark.parametrize("dependencies", ["{b: a || b, c: null}", "[b >=1, c]", "null", "-", "{b: ''}"])
def test_dependencies_never_stop_a_lock(dependencies: str) -> None:
    """A list of alternatives, an empty one, a list as pixi wrote it, and none at all."""
    assert len(read(lock(row(dependencies=dependencies))).conda) == 1


def test_what_pixi_wrote_before_its_version_4() -> None:
    """Further keys are passed over, and the size is taken."""
    text = lock(row(size="254228", build="'0'", subdir="noarch", timestamp="1", license="MIT", dependencies="[c]"))
    assert read(text.replace("version: 1", "version: 3")).conda[0].size_bytes == 254228
    assert "'many' is no number of bytes" in refusal(lock(row(size="many")))


def test_the_platform_is_chosen() -> None:
    """Rows of another platform are left out; one that the file lacks is refused, naming those that it has."""
    assert [package.name for package in read(CONDA_LOCK, platform="osx-64").conda] == ["tzdata"]
    message = refusal(CONDA_LOCK, platform="linux-aarch64")
    assert message == "envs/conda-lock.yml holds nothing for linux-aarch64; it holds linux-64, osx-64"
    wrong = refusal(lock(row(url="https://h.example/win-64/a-1.10-0.conda")))
    assert wrong.endswith(":5: a-1.10-0.conda is a package for win-64, not for linux-64")


def test_rows_that_stand_for_the_host_are_left_out() -> None:
    """A row of a virtual package is no package, and that is said."""
    found = read(lock(row(name="__glibc", url="-")))
    assert found.conda == ()
    assert "__glibc is no package" in found.notes[0].message


def test_rows_of_pip() -> None:
    """Wheels, sdists, digests in the address, commits; a folder is left out with a note."""
    wheel = "https://files.example/a_b-1.10-py3-none-any.whl"
    sdist = "https://someone:secret@files.example/A_b-1.10.zip"
    found = read(lock(row(manager="pip", name="A.b", url=wheel + f"#sha256={sha('a')}", hash=""))).wheels[0]
    assert (found.name, found.file, found.address, found.sha256s) == ("a-b", wheel.split("/")[-1], wheel, (sha("a"),))
    found = read(lock(row(manager="pip", name="-", version="-", url=sdist, hash=f"sha256: {sha('a')}"))).wheels[0]
    assert (found.name, found.version, found.address) == ("a-b", "1.10", "https://files.example/A_b-1.10.zip")
    folder = read(lock(row(manager="pip", url="file:///home/someone/mine", hash="")))
    assert folder.wheels == ()
    assert "a is a folder of the machine that made envs/conda-lock.yml" in folder.notes[0].message
    commit = f"git+ssh://git@git.example/x/y.git@{'a' * 40}#egg=y&subdirectory=python"
    found = read(lock(row(manager="pip", url=commit, hash=f"sha256: {'a' * 40}"))).wheels[0]
    assert found.address == f"git+ssh://git@git.example/x/y.git@{'a' * 40}#subdirectory=python"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://files.example/a-1.10-py3-none-any.whl", "a has no checksum"),
        ("https://files.example/a-1.10-cp311-cp311-win_amd64.whl", "is a wheel for win_amd64"),
        ("https://files.example/a.whl", "is not the name of a wheel"),
        ("git+https://git.example/a.git@main", "a comes from git without a whole commit"),
        ("git+https://git.example/a.git", "a comes from git without a whole commit"),
        ("git+git@git.example:a.git", "is no address of a git commit"),
        (f"git+https://git.example/a.git@{'a' * 40}#subdirectory=../x", "is no address of a git commit"),
        ("-", "a has no url"),
    ],
)
def test_rows_of_pip_that_are_refused(url: str, reason: str) -> None:
    """Each with its line and the reason."""
    message = refusal(lock(row(manager="pip", url=url, hash=f"md5: {md5('a')}")))
    assert message.startswith("envs/conda-lock.yml:5: ")
    assert reason in message


def test_secrets_are_in_no_refusal() -> None:
    """An address that is refused is shown without user, password and token."""
    for url in ("https://me:secret@h.example/t/tok/a-1.zip", "git+https://me:secret@h.example/a.git@main"):
        for manager in ("conda", "pip"):
            assert "secret" not in refusal(lock(row(manager=manager, url=url, hash="")))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "envs/conda-lock.yml: the file is empty"),
        ("- a\n", "envs/conda-lock.yml:1: the file must be a mapping"),
        ("name: x\n", "envs/conda-lock.yml: no lock of conda-lock"),
        ("metadata: {}\npackage: {}\n", "envs/conda-lock.yml:2: package must be a list"),
        ("metadata: {}\npackage:\n- a\n", "envs/conda-lock.yml:3: a package must be a mapping"),
        ("metadata: {}\npackage: [a\n", "envs/conda-lock.yml:3:1: not valid YAML"),
        (lock(row(platform="-")), "envs/conda-lock.yml:5: a package needs a platform"),
        (lock(row(manager="npm")), "envs/conda-lock.yml:5: a package needs a platform"),
        (lock(row() + "  url: x\n"), "envs/conda-lock.yml:13: key 'url' stands twice"),
        (lock(row(version="[1]")), "envs/conda-lock.yml:6: version must be a plain value"),
        (lock(row(source="{type: git, url: x}")), "envs/conda-lock.yml:5: a: conda-lock does not take this: source.type"),
        (lock(row(optional="perhaps")), "envs/conda-lock.yml:5: a: conda-lock does not take this: optional"),
    ],
)  # fmt: skip
def test_damage_is_named_with_its_place(text: str, place: str) -> None:
    """Each refusal says file, line and what is wrong there."""
    assert refusal(text).startswith(place)


def test_what_conda_lock_itself_writes_is_read(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A file from the library's own writer gives the packages of its own parser."""
    from conda_lock.lockfile import parse_conda_lock_file, write_conda_lock_file

    given = tmp_path / "conda-lock.yml"
    full = CONDA_LOCK.replace("sha256: ''", f"sha256: {sha('x264')}")
    full = full.replace(f"    sha256: {sha('tzdata')}", f"    md5: {md5('tzdata')}\n    sha256: {sha('tzdata')}")
    given.write_text(full)
    theirs = parse_conda_lock_file(given)
    write_conda_lock_file(theirs, tmp_path / "written.yml", None)
    ours = read((tmp_path / "written.yml").read_text())
    expected = {
        (package.name, package.version, package.hash.md5, package.hash.sha256)
        for package in theirs.package
        if package.platform == "linux-64" and package.manager == "conda" and "main" in package.categories
    }
    assert {(package.name, package.version, package.md5, package.sha256) for package in ours.conda} == expected


def test_reading_leaves_the_process_as_it_was() -> None:
    """The library's import changes sys.path and the environment; after a lock is read, nothing of that is left."""
    script = (
        "import os, sys; from reprobox.env.pinned_conda_lock import parse_conda_lock; text = sys.stdin.read();"
        "before = list(sys.path), dict(os.environ); parse_conda_lock(text, source='x');"
        "assert 'conda_lock' in sys.modules; assert before == (sys.path, dict(os.environ))"
    )
    done = subprocess.run([sys.executable, "-c", script], input=CONDA_LOCK, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
