"""What of solving is pure: tags, the choice of Debian packages, and the meaning of uv's words."""

from __future__ import annotations

import hashlib
import random
import sysconfig
from pathlib import Path

import pytest
from env_samples import base_spec
from packaging.tags import Tag

from reprobox.env import solve_debian, solve_wheels
from reprobox.env.bases import parse_base
from reprobox.env.client import Client
from reprobox.env.solve_debian import select_packages
from reprobox.env.solve_wheels import _choose, plan_tags
from reprobox.env.uv_resolver import explain
from reprobox.errors import ArtefactAltered, EnvironmentInvalid, IndexUnreachable, NoSolution, NoWheel, ResolutionError


def tags(*, python: str = "3.11.2", glibc: str = "2.36", platform: str = "linux-64") -> dict[Tag, int]:
    return plan_tags(python=python, glibc=glibc, platform=platform)


def test_what_fits_closest_ranks_first() -> None:
    """Own ABI before stable ABI before no ABI before any platform; within each, the newest C library first."""
    order = [
        Tag("cp311", "cp311", "manylinux_2_36_x86_64"),
        Tag("cp311", "cp311", "manylinux_2_28_x86_64"),
        Tag("cp311", "cp311", "manylinux_2_17_x86_64"),
        Tag("cp311", "cp311", "manylinux2014_x86_64"),
        Tag("cp311", "cp311", "manylinux2010_x86_64"),
        Tag("cp311", "cp311", "manylinux1_x86_64"),
        Tag("cp311", "cp311", "linux_x86_64"),
        Tag("cp311", "abi3", "manylinux_2_17_x86_64"),
        Tag("cp311", "none", "manylinux_2_17_x86_64"),
        Tag("cp310", "abi3", "manylinux_2_17_x86_64"),
        Tag("cp37", "abi3", "manylinux_2_17_x86_64"),
        Tag("py311", "none", "manylinux_2_17_x86_64"),
        Tag("py3", "none", "manylinux_2_17_x86_64"),
        Tag("cp311", "none", "any"),
        Tag("py311", "none", "any"),
        Tag("py3", "none", "any"),
        Tag("py310", "none", "any"),
    ]
    ranks = [tags()[tag] for tag in order]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == len(ranks)


@pytest.mark.parametrize(
    "tag",
    [
        Tag("cp311", "cp311", "manylinux_2_37_x86_64"),
        Tag("cp312", "cp312", "manylinux_2_17_x86_64"),
        Tag("cp310", "cp310", "manylinux_2_17_x86_64"),
        Tag("cp312", "abi3", "manylinux_2_17_x86_64"),
        Tag("cp311", "cp311", "manylinux_2_17_aarch64"),
        Tag("cp311", "cp311", "musllinux_1_1_x86_64"),
        Tag("cp311", "cp311", "win_amd64"),
        Tag("cp311", "cp311", "macosx_11_0_x86_64"),
        Tag("py2", "none", "any"),
    ],
)
def test_what_does_not_run_there_has_no_rank(tag: Tag) -> None:
    """A newer C library, another Python, another machine or system: such a wheel is not taken."""
    assert tag not in tags()


def test_tags_follow_the_target() -> None:
    """Another target (Python, C library, machine) takes other wheels."""
    assert Tag("cp39", "cp39", "manylinux_2_17_aarch64") in tags(python="3.9.1", platform="linux-aarch64")
    assert Tag("cp311", "cp311", "manylinux_2_18_x86_64") not in tags(glibc="2.17")
    assert Tag("cp311", "cp311", "manylinux2014_x86_64") not in tags(glibc="2.16")


@pytest.mark.parametrize(("variable", "python"), [("Py_DEBUG", "3.11.2"), ("Py_GIL_DISABLED", "3.13.1")])
def test_tags_do_not_follow_the_interpreter_that_runs_this(
    monkeypatch: pytest.MonkeyPatch, variable: str, python: str
) -> None:
    """On a debug or a free-threaded build of Python the target's tags are the same."""
    here = tags(python=python)
    monkeypatch.setitem(sysconfig.get_config_vars(), variable, 1)
    assert tags(python=python) == here


def choose(*files: str) -> str:
    rows = [{"url": f"https://x.example/{file}", "size": 5, "hashes": {"sha256": "0" * 64}} for file in files]
    document = {"packages": [{"name": "thing", "version": "1.0", "wheels": rows}]}
    (wheel,) = _choose(document, python="3.11.2", glibc="2.36", platform="linux-64")
    return wheel.file


WHEELS = (
    "thing-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "thing-1.0-cp311-cp311-manylinux2010_x86_64.whl",
    "thing-1.0-cp38-abi3-manylinux_2_17_x86_64.whl",
    "thing-1.0-py3-none-any.whl",
)


def test_the_best_wheel_is_chosen_whatever_order_they_are_listed_in() -> None:
    """The same set of wheels gives the same choice in every order; without the best one, the next best."""
    others = ["thing-1.0-cp312-cp312-manylinux_2_17_x86_64.whl", "thing-1.0-cp311-cp311-win_amd64.whl"]
    for count in range(len(WHEELS)):
        listed = [*WHEELS[count:], *others]
        for seed in range(5):
            random.Random(seed).shuffle(listed)
            assert choose(*listed) == WHEELS[count]


def test_no_wheel_for_the_target_is_no_solution() -> None:
    """A project whose wheels are all for something else is named, with the target."""
    with pytest.raises(NoSolution, match=r"thing 1\.0 has no wheel .*Python 3\.11\.2 on linux-64 \(glibc 2\.36\)"):
        choose("thing-1.0-cp312-cp312-win_amd64.whl")


def test_of_two_builds_the_later_is_taken() -> None:
    """Of wheels that differ in the build number alone, the highest is taken. Source: the binary distribution format."""
    assert choose("thing-1.0-1-py3-none-any.whl", "thing-1.0-2-py3-none-any.whl") == "thing-1.0-2-py3-none-any.whl"


def stanza(name: str, version: str = "1", **fields: str) -> str:
    digest = hashlib.sha256(f"{name}{version}".encode()).hexdigest()
    lines = [f"Package: {name}", f"Version: {version}", "Architecture: amd64"]
    lines += [f"{key.replace('_', '-')}: {value}" for key, value in fields.items()]
    lines += ["Description: short", f"Filename: pool/{name}_{version}.deb", "Size: 12", f"SHA256: {digest}"]
    return "\n".join(lines) + "\n"


INDEX = "\n".join([
    stanza("app", Depends="libc6 (>= 2.36), awk, python3:any (>= 3.11) | python3-minimal, debconf (>= 0.5) | debconf-2.0"),
    stanza("libc6", "2:2.36-9", Pre_Depends="gcc-base (= 12)", Recommends="extra", Suggests="extra"),
    stanza("gcc-base"),
    stanza("mawk", Provides="awk (= 1), mawk-compat"),
    stanza("gawk", Provides="awk"),
    stanza("python3"),
    stanza("debconf"),
    stanza("extra"),
])  # fmt: skip


def test_packages_are_selected_out_of_an_index() -> None:
    """Depends and Pre-Depends are followed without their versions and architectures; Recommends and Suggests are not."""
    selected = select_packages(INDEX, base_spec("app", without=("debconf",)))
    assert [package.name for package in selected] == ["app", "gawk", "gcc-base", "libc6", "python3"]
    libc = selected[3]
    assert (libc.version, libc.file, libc.size_bytes) == ("2:2.36-9", "pool/libc6_2:2.36-9.deb", 12)
    assert libc.sha256 == hashlib.sha256(b"libc62:2.36-9").hexdigest()


def test_order_of_an_index_does_not_matter() -> None:
    """The same stanzas in another order select the same packages."""
    stanzas = INDEX.split("\n\n")
    expected = select_packages(INDEX, base_spec("app"))
    for seed in range(5):
        random.Random(seed).shuffle(stanzas)
        assert select_packages("\n\n".join(part.strip("\n") for part in stanzas) + "\n", base_spec("app")) == expected


def test_an_unknown_package_of_an_index_is_named() -> None:
    """What the index lacks is refused, by name."""
    with pytest.raises(EnvironmentInvalid, match="'nothing'"):
        select_packages(INDEX, base_spec("nothing"))


def test_of_two_versions_in_an_index_the_newer_is_taken() -> None:
    """An index may hold a package twice; the newer one is selected, with its own dependencies, in either order."""
    old, new = stanza("app", "1.9", Depends="extra"), stanza("app", "1.10", Depends="gcc-base")
    for pair in ([old, new], [new, old]):
        selected = select_packages("\n".join([*pair, stanza("extra"), stanza("gcc-base")]), base_spec("app"))
        assert [(package.name, package.version) for package in selected] == [("app", "1.10"), ("gcc-base", "1")]


# What uv 0.7.0 (with frames) and uv 0.13.9 (without) print, recorded.
UNKNOWN = [
    """\
  \x1b[31m×\x1b[0m No solution found when resolving dependencies:
  ╰─▶ Because reprobox-no-such-project-xyz was not found in the package
      registry and you require reprobox-no-such-project-xyz, we can conclude
      that your requirements are unsatisfiable.
""",
    """\
error: No solution found when resolving dependencies
  cause: Because reprobox-no-such-project-xyz was not found in the package registry and you require \
reprobox-no-such-project-xyz, we can conclude that your requirements are unsatisfiable.
""",
]
CONFLICT = [
    """\
error: No solution found when resolving dependencies
  cause: Because pandas==2.2.0 depends on numpy{python_full_version < '3.12'}>=1.23.2,<2 and you require pandas==2.2.0, \
we can conclude that you require numpy>=1.23.2,<2.
         And because you require numpy==1.20, we can conclude that your requirements are unsatisfiable.
""",
    """\
warning: The package `x` does not have an extra named `y`
  × No solution found when resolving dependencies:
  ╰─▶ Because pandas==2.2.0 depends on numpy>=1.23.2,<2 and you require
      pandas==2.2.0, we can conclude that you require numpy>=1.23.2,<2.
      And because you require numpy==1.20, we can conclude that your
      requirements are unsatisfiable.
""",
]
NO_WHEELS = [
    """\
  × No solution found when resolving dependencies:
  ╰─▶ Because numpy==1.19.0 has no usable wheels and you require
      numpy==1.19.0, we can conclude that your requirements are unsatisfiable.

      hint: Wheels are required for `numpy` because building from source is
      disabled for all packages (i.e., with `--no-build`)
""",
    """\
error: No solution found when resolving dependencies
  cause: Because numpy==1.19.0 has no usable wheels and you require numpy==1.19.0, we can conclude that your requirements \
are unsatisfiable.

hint: Wheels are required for `numpy` because building from source is disabled for all packages (i.e., with `--no-build`)
""",
    """\
error: No solution found when resolving dependencies
  cause: Because numpy==1.19.0 has no wheels with a matching Python ABI tag (e.g., `cp311`) and you require \
numpy==1.19.0, we can conclude that your requirements are unsatisfiable.

hint: You require CPython 3.11 (`cp311`), but we only found wheels for `numpy` (v1.19.0) with the following Python ABI \
tags: `cp36m`, `cp37m`
""",
]
NETWORK = [
    """\
error: Failed to fetch: `http://127.0.0.1:9/simple/idna/`
  Caused by: Request failed after 3 retries
  Caused by: error sending request for url (http://127.0.0.1:9/simple/idna/)
  Caused by: client error (Connect)
  Caused by: tcp connect error: Connection refused (os error 111)
""",
    """\
error: Request failed after 3 retries in 7.3s
  cause: Failed to fetch: http://no-such-host.invalid/simple/idna/
  cause: error sending request for url (http://no-such-host.invalid/simple/idna/)
  cause: client error (Connect)
  cause: dns error
  cause: error resolving DNS
  cause: failed to lookup address information: Name or service not known
""",
]


def require_readable(error: ResolutionError) -> None:
    """One line, without uv's frames, colours and its own hints, and with an edit or a command to do next."""
    assert "\n" not in error.message
    for mark in ("×", "╰", "▶", "\x1b", "hint:", "warning:"):
        assert mark not in error.message
    assert error.hint
    assert error.exit_code == 4


@pytest.mark.parametrize("stderr", UNKNOWN)
def test_an_unknown_name_is_named(stderr: str) -> None:
    """A project that the index lacks is no solution, by its name."""
    error = explain(stderr)
    assert type(error) is NoSolution
    assert error.message == "reprobox-no-such-project-xyz is not on the package index"
    require_readable(error)


@pytest.mark.parametrize("stderr", CONFLICT)
def test_a_conflict_keeps_its_reason(stderr: str) -> None:
    """Requirements that exclude each other are no solution, with uv's whole reason."""
    error = explain(stderr)
    assert type(error) is NoSolution
    for part in (
        "cannot be met together: Because pandas==2.2.0",
        "And because you require numpy==1.20",
        "unsatisfiable.",
    ):
        assert part in error.message
    require_readable(error)


@pytest.mark.parametrize("stderr", NO_WHEELS)
def test_a_version_without_wheels_is_told_from_a_conflict(stderr: str) -> None:
    """A version without wheels for the target is no solution, and the hint is to ask for one that has them."""
    error = explain(stderr)
    assert isinstance(error, NoSolution)
    # Wheels of another Python are not built anew; a project that has none at all is.
    assert isinstance(error, NoWheel) is ("matching Python ABI tag" not in stderr)
    if isinstance(error, NoWheel):
        assert (error.project, error.version) == ("numpy", "1.19.0")
    assert "numpy==1.19.0" in error.message
    assert "published as a wheel" in (error.hint or "")
    require_readable(error)


@pytest.mark.parametrize("stderr", NETWORK)
def test_a_silent_index_is_told_from_no_solution(stderr: str) -> None:
    """An index that does not answer is unreachable, named by its address."""
    error = explain(stderr)
    assert type(error) is IndexUnreachable
    assert "/simple/idna/" in error.message
    require_readable(error)


@pytest.mark.parametrize("stderr", ["", "error: something new\n"])
def test_words_that_are_not_known_are_passed_on(stderr: str) -> None:
    """What uv says otherwise is passed on as it is."""
    error = explain(stderr)
    assert type(error) is NoSolution
    assert stderr.removeprefix("error: ").strip() in error.message
    require_readable(error)


def test_the_release_file_of_another_suite_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A mirror that hands out the well-signed release file of another suite is not believed."""
    release = "Origin: Debian\nSuite: oldoldstable\nCodename: bullseye\nSHA256:\n"
    monkeypatch.setattr(solve_debian, "_get", lambda url: b"")
    monkeypatch.setattr(solve_debian, "_verify_release", lambda signed, **_: release)
    spec = parse_base(
        "suite: bookworm\npython: '3.11'\nglibc: '2.36'\npackages: [libc6]\n", name="b", source="base.yml"
    )
    client = Client(environ={}, cache=tmp_path, mirrors={"debian": "mirror"})
    with pytest.raises(ArtefactAltered, match="bookworm is that of oldoldstable / bullseye"):
        solve_debian.solve_base(spec, platform="linux-64", client=client)


def test_a_size_that_the_index_does_not_tell_is_asked_for(tmp_path: Path) -> None:
    """A wheel of a folder has the size of its file; one that cannot be asked for is told."""
    file = tmp_path / "a-1-py3-none-any.whl"
    file.write_bytes(b"x" * 77)
    row = {"path": str(file), "hashes": {"sha256": "0" * 64}}
    document = {"packages": [{"name": "a", "version": "1", "wheels": [row]}]}
    (wheel,) = solve_wheels._choose(document, python="3.11.2", glibc="2.36", platform="linux-64")
    assert wheel.size_bytes == 77
    with pytest.raises(IndexUnreachable, match="does not tell the size of a-1"):
        solve_wheels._load_size("http://127.0.0.1:9/a-1-py3-none-any.whl", "a-1-py3-none-any.whl")
