"""Bases: which packages a list of wishes needs, and when its lock is stale."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import yaml
from env_samples import BASE, base_spec, make_lock, sha, spoil

from reprobox.env.base_files import digest_found_base, find_base_folder, load_base, load_base_lock, write_base_lock
from reprobox.env.bases import BaseSpec, digest_base, parse_base, parse_packages, plan_closure, render_packages
from reprobox.errors import EnvironmentInvalid

Depends = dict[str, tuple[tuple[str, ...], ...]]


def closure(spec: BaseSpec, depends: Depends, provides: dict[str, tuple[str, ...]] | None = None) -> tuple[str, ...]:
    return plan_closure(spec, depends=depends, provides=provides or {})


def read(text: str) -> BaseSpec:
    return parse_base(text, name="small", source="dockerfiles/small/base.yml")


def refusal(text: str) -> EnvironmentInvalid:
    with pytest.raises(EnvironmentInvalid) as caught:
        read(text)
    assert "dockerfiles/small/base.yml" in caught.value.message
    return caught.value


def test_the_closure_is_what_is_needed_and_no_more() -> None:
    """Dependencies are followed to the end, circles included; what nobody needs is left out; names come sorted."""
    depends: Depends = {"d": (), "a": (("b",), ("c",)), "b": (("c",),), "c": (("a",),), "z": (("d",),)}
    assert closure(base_spec("a"), depends) == ("a", "b", "c")
    assert closure(base_spec("z", "a"), depends) == ("a", "b", "c", "d", "z")
    assert closure(base_spec(), depends) == ()


def test_the_first_alternative_there_is_counts() -> None:
    """Of alternatives, the first that the suite has is taken; a virtual one stands for its first provider."""
    depends: Depends = {"a": (("gone", "mail", "c"),), "c": (), "exim": (), "postfix": ()}
    assert closure(base_spec("a"), depends) == ("a", "c")
    assert closure(base_spec("a"), depends, {"mail": ("exim", "postfix")}) == ("a", "exim")


def test_an_alternative_that_is_chosen_already_is_enough() -> None:
    """A dependency that something chosen meets, or provides, brings no other package."""
    depends: Depends = {"a": (("first",), ("second", "first")), "first": (), "second": ()}
    assert closure(base_spec("a"), depends) in (("a", "first"), ("a", "first", "second"))
    chain: Depends = {"a": (("first",),), "first": (("b",),), "b": (("second", "first"),), "second": ()}
    assert closure(base_spec("a"), chain) == ("a", "b", "first")
    provided: Depends = {"a": (("mawk",),), "mawk": (("b",),), "b": (("awk",),), "gawk": ()}
    assert closure(base_spec("a"), provided, {"awk": ("gawk", "mawk")}) == ("a", "b", "mawk")


def test_what_is_left_out_is_never_taken() -> None:
    """`without` drops a dependency, also as an alternative and also where it is virtual, with all that it needs."""
    depends: Depends = {"a": (("perl",), ("debconf", "cdebconf"), ("awk",)), "perl": (("deep",),), "deep": ()}
    depends |= {"debconf": (), "cdebconf": (), "gawk": ()}
    provides = {"awk": ("gawk",)}
    assert closure(base_spec("a", without=("perl", "debconf", "awk")), depends, provides) == ("a",)
    assert closure(base_spec("a", without=("perl", "debconf", "gawk")), depends, provides) == ("a",)
    assert closure(base_spec("a", without=("deep", "debconf", "awk")), depends, provides) == ("a", "perl")


def test_an_unknown_wish_is_refused() -> None:
    """A wanted package that the suite lacks is refused, named with its file and its suite."""
    with pytest.raises(
        EnvironmentInvalid, match=r"dockerfiles/small/base\.yml: 'bsah' is not in bookworm main"
    ) as caught:
        closure(base_spec("bsah"), {"bash": ()})
    assert caught.value.hint


def test_an_unknown_dependency_is_refused() -> None:
    """A dependency that nothing in the suite meets is refused, named with who needs it and how to do without."""
    with pytest.raises(EnvironmentInvalid, match=r"a needs x \| y, which is not in bookworm main") as caught:
        closure(base_spec("a"), {"a": (("x", "y"),)})
    assert "`without:`" in (caught.value.hint or "")


def test_the_order_of_wishes_does_not_matter() -> None:
    """One set of wishes has one digest, so it has one closure: a dependency that a wish meets brings no other package."""
    depends: Depends = {"a": (("x", "y"),), "b": (("y",),), "x": (), "y": ()}
    found = {closure(base_spec(*order), depends) for order in itertools.permutations(("a", "b", "y"))}
    assert found == {("a", "b", "y")}


def test_the_digest_of_a_base_is_of_what_decides_its_packages() -> None:
    """The digest changes with suite, component, python, packages and without, and with nothing else, nor with order."""
    spec = base_spec("a", "b", without=("c", "d"), omit=("x/",), keep=("k",))
    same = [
        dataclasses.replace(spec, packages=("b", "a"), without=("d", "c")),
        dataclasses.replace(spec, omit=(), keep=(), name="other", glibc="2.40"),
    ]
    others = [
        dataclasses.replace(spec, **change)
        for change in (
            {"suite": "trixie"},
            {"component": "contrib"},
            {"python": "3.13"},
            {"packages": ("a",)},
            {"packages": ("a", "b", "c")},
            {"without": ("c",)},
            {"packages": ("a",), "without": ("b", "c", "d")},
        )
    ]
    assert {digest_base(other) for other in same} == {digest_base(spec)}
    assert len({digest_base(other) for other in (spec, *others)}) == len(others) + 1


def test_a_base_lock_is_read_back_until_its_wishes_change(tmp_path: Path) -> None:
    """What was locked is found again while base.yml asks for the same, and is not once it asks for something else."""
    (tmp_path / "base.yml").write_text(BASE)
    spec = load_base(tmp_path)
    assert spec.name == tmp_path.name
    assert load_base_lock(tmp_path, spec) is None
    packages = make_lock().debian
    write_base_lock(tmp_path, spec, packages)
    assert load_base_lock(tmp_path, spec) == packages
    (tmp_path / "base.yml").write_text(BASE + "# a comment\n")
    assert load_base_lock(tmp_path, load_base(tmp_path)) == packages
    (tmp_path / "base.yml").write_text(BASE.replace("bash", "dash"))
    assert load_base_lock(tmp_path, load_base(tmp_path)) is None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["base.lock", "base.yml"]


@pytest.mark.parametrize("text", ["", "[]", "packages: []", "asked: {", "- asked", "asked: 1"])
def test_a_broken_base_lock_is_refused(tmp_path: Path, text: str) -> None:
    """A base.lock that is no lock is refused with what to do, and is not taken for a missing one."""
    (tmp_path / "base.lock").write_text(text)
    spec = base_spec("a")
    if text == "asked: 1":
        assert load_base_lock(tmp_path, spec) is None
        return
    with pytest.raises(EnvironmentInvalid, match=r"base\.lock") as caught:
        load_base_lock(tmp_path, spec)
    assert "remove" in (caught.value.hint or "")


def test_a_base_lock_without_hashes_is_refused(tmp_path: Path) -> None:
    """Rows of a base.lock are checked like those of a lock."""
    spec = base_spec("a")
    write_base_lock(tmp_path, spec, make_lock().debian)
    file = tmp_path / "base.lock"
    file.write_text(file.read_text().replace(sha("zlib"), "''"))
    with pytest.raises(EnvironmentInvalid, match="zlib1g has no sha256"):
        load_base_lock(tmp_path, spec)


@pytest.mark.parametrize("tail", [b"packages:\n", b"packages: 5\n", b"packages: 2024-13-01\n", b"\xff\xfe"])
def test_any_broken_base_lock_is_refused(tmp_path: Path, tail: bytes) -> None:
    """A base.lock whose rows are missing, or that is no text, is refused like any other broken one."""
    spec = base_spec("a")
    (tmp_path / "base.lock").write_bytes(f"asked: {digest_base(spec)}\n".encode() + tail)
    with pytest.raises(EnvironmentInvalid):
        load_base_lock(tmp_path, spec)


def test_package_rows_are_read_back() -> None:
    """Rows rendered and parsed are the same packages, sorted by name."""
    packages = make_lock().debian
    assert parse_packages(render_packages(packages[::-1]), source="x") == packages


def test_a_base_is_read() -> None:
    """Every key of a base.yml is read; component, without, omit and keep have defaults."""
    assert read(BASE) == base_spec(
        "bash", "libpython3.11-stdlib", without=("perl-base",), omit=("usr/share/doc/",), keep=("copyright",)
    )
    small = read('suite: bookworm\npython: "3.11"\nglibc: "2.36"\npackages: [bash]\n')
    assert small == base_spec("bash")


@pytest.mark.parametrize("key", ["suite", "python", "glibc", "packages"])
def test_a_base_that_lacks_a_key_is_refused(key: str) -> None:
    """A base.yml without one of the keys that have no default is refused, naming it."""
    document = yaml.safe_load(BASE)
    del document[key]
    assert repr(key) in refusal(yaml.safe_dump(document)).message


@pytest.mark.parametrize("text", ["", "- a\n", "a: [\n", "text\n"])
def test_what_is_no_base_is_refused(text: str) -> None:
    """Text that is no mapping is refused."""
    refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        BASE.replace("  - bash\n  - libpython3.11-stdlib\n", "").replace("packages:", "packages: bash"),
        BASE.replace("- bash", "- bash: 5"),
        BASE.replace("- bash", "- 5.2"),
        BASE.replace("without:", "witout:"),
    ],
)
def test_a_base_with_values_of_the_wrong_kind_is_refused(text: str) -> None:
    """A word where a list belongs (read letter by letter today), a mapping, a number, an unknown key: refused."""
    assert text != BASE
    refusal(text)


def test_a_version_without_quotes_is_not_rounded() -> None:
    """`python: 3.10` is 3.10 or refused, but never 3.1."""
    try:
        spec = read(BASE.replace('"3.11"', "3.10").replace('"2.36"', "2.40"))
    except EnvironmentInvalid:
        return
    assert (spec.python, spec.glibc) == ("3.10", "2.40")


@pytest.mark.parametrize("key", ["without", "omit", "keep"])
def test_an_empty_section_of_a_base_is_an_empty_list(key: str) -> None:
    """A section whose items were all removed is empty, as it is in an environment file."""
    document = yaml.safe_load(BASE)
    document[key] = None
    assert getattr(read(yaml.safe_dump(document)), key) == ()


def test_a_spoiled_base_is_refused() -> None:
    """Whatever bytes are changed, a base.yml is read or refused."""
    outcomes = {"read": 0, "refused": 0}
    for text in spoil(BASE, count=60, seed=2):
        try:
            read(text)
        except EnvironmentInvalid:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
    assert min(outcomes.values()) > 10, outcomes


def test_a_base_of_the_project_comes_before_the_shipped_one(tmp_path: Path) -> None:
    """A base is looked for in the project's dockerfiles/, then upwards, then among those that come with reprobox."""
    shipped = find_base_folder("debian-12", tmp_path)
    assert (shipped / "base.yml").is_file()
    assert not shipped.is_relative_to(tmp_path)
    above, own = tmp_path / "dockerfiles/debian-12", tmp_path / "project/dockerfiles/debian-12"
    for folder in (above, own):
        folder.mkdir(parents=True)
        if folder is own:
            assert find_base_folder("debian-12", tmp_path / "project") == above
        (folder / "base.yml").write_text(BASE)
    assert find_base_folder("debian-12", tmp_path / "project") == own


@pytest.mark.parametrize("name", ["debian-99", "", "../dockerfiles/debian-12", "/etc", "a b"])
def test_an_unknown_base_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    """A base that there is not is refused; the hint has those that there are; a name is no path."""
    with pytest.raises(EnvironmentInvalid) as caught:
        find_base_folder(name, tmp_path)
    assert repr(name) in caught.value.message
    assert "debian-12" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "file", ["/home/u/.bashrc", "../../x.deb", "pool/../../x.deb", "pool/x.deb\n", "pool//x.deb", ""]
)
def test_a_package_lies_in_its_pool(file: str) -> None:
    """A row whose file is no path below an archive's root is refused: it would be written to a place of its choice."""
    row = {"name": "x", "version": "1", "file": file, "size": 1, "sha256": "0" * 64}
    with pytest.raises(EnvironmentInvalid, match="no path of a Debian package"):
        parse_packages([row], source="reprobox.lock")


def test_a_dockerfile_is_more_than_its_text(tmp_path: Path) -> None:
    """What a Dockerfile may copy makes another base; what reprobox itself writes there does not."""
    folder = tmp_path / "dockerfiles/own"
    (folder / "files").mkdir(parents=True)
    (folder / "base.yml").write_text("dockerfile: Dockerfile\nglibc: '2.36'\n")
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY files /\n")
    (folder / "files/a").write_text("1")
    first = digest_base(load_base(folder))
    assert digest_found_base("own", tmp_path) == (first, True)
    (folder / "base.lock").write_text("x")
    (folder / "base.linux-aarch64.lock").write_text("x")
    assert digest_base(load_base(folder)) == first
    seen = {first}
    for change in (
        lambda: (folder / "files/a").write_text("2"),
        lambda: (folder / "files/a").chmod(0o755),
        lambda: (folder / "files/b").symlink_to("a"),
        lambda: (folder / "files/a").rename(folder / "files/c"),
    ):
        change()
        seen.add(digest_base(load_base(folder)))
    assert len(seen) == 5


def test_a_base_that_came_with_reprobox_makes_no_lock_stale(tmp_path: Path) -> None:
    """A newer reprobox may bring another state of it; the lock pins what it was made on."""
    digest, is_own = digest_found_base("debian-12", tmp_path)
    assert len(digest) == 64
    assert not is_own
