"""Debian packages become a tree: merged, thinned, without their scripts, and never outside of it."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from image_makers import (
    NOON_S,
    Layer,
    ar_archive,
    deb_of,
    make_deb,
    tar_file,
    tar_link,
)

from reprobox.env.bases import DebianPackage
from reprobox.errors import BuildError
from reprobox.image.debian import Entry, Tree, extract_tree, file_name, load_tree, write_tree
from reprobox.image.layers import GENERATED_MTIME, LayerWriter

Deb = tuple[DebianPackage, Path]


def tree_of(debs: Iterable[Deb], *, omit: tuple[str, ...] = (), keep: tuple[str, ...] = ()) -> Tree:
    return load_tree(debs, omit=omit, keep=keep)


def layer_of(tree: Tree) -> Layer:
    stream = io.BytesIO()
    writer = LayerWriter(stream)
    write_tree(tree, writer)
    digest = writer.finish()
    return Layer(stream.getvalue(), digest)


def refusal(debs: Iterable[Deb], name: str) -> BuildError:
    with pytest.raises(BuildError) as caught:
        tree_of(debs)
    assert name in caught.value.message
    return caught.value


SHELL = (
    tar_file("./", type=tarfile.DIRTYPE),
    tar_file("./bin/", type=tarfile.DIRTYPE),
    tar_file("./bin/dash", b"ELF", mode=0o755),
    tar_file("./lib/x86_64-linux-gnu/libc.so.6", b"libc"),
    tar_link("./lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/ld.so"),
    tar_file("./usr/bin/env", b"env", mode=0o755),
    tar_file("./usr/share/doc/shell/copyright", b"(c)"),
    tar_file("./usr/share/doc/shell/changelog.gz", b"long"),
    tar_file("./usr/share/doc/", type=tarfile.DIRTYPE),
    tar_file("./usr/share/man/man1/dash.1.gz", b"man"),
)


@pytest.fixture
def shell(tmp_path: Path) -> Deb:
    """A package as Debian has them: files in /bin and /lib, a manual, a copyright."""
    script = b"#!/bin/sh\ntouch " + str(tmp_path / "a script was run").encode() + b"\n"
    scripts = [tar_file(f"./{name}", script, mode=0o755) for name in ("preinst", "postinst", "triggers")]
    return make_deb(tmp_path, "shell", SHELL, control=scripts)


def test_the_system_is_merged_into_usr(shell: Deb) -> None:
    """What packages bring in /bin, /lib and /lib64 lies in /usr, and links of these names lead there."""
    tree = tree_of([shell])
    assert tree["usr/bin/dash"] == Entry(kind="file", content=b"ELF", executable=True, mtime=NOON_S)
    assert tree["usr/lib/x86_64-linux-gnu/libc.so.6"].content == b"libc"
    assert tree["usr/lib64/ld-linux-x86-64.so.2"].target == "/lib/x86_64-linux-gnu/ld.so"
    for name in ("bin", "lib", "lib64"):
        assert tree[name] == Entry(kind="symlink", target=f"usr/{name}")
    assert "sbin" not in tree
    assert not [path for path in tree if path.startswith(("bin/", "lib/", "lib64/"))]


def test_what_is_omitted_is_left_out_but_for_what_is_kept(shell: Deb) -> None:
    """Files below an omitted prefix are left out, those with a kept name are not, and neither is what lies elsewhere."""
    full = set(tree_of([shell]))
    thin = set(tree_of([shell], omit=("usr/share/doc/", "usr/share/man/"), keep=("copyright",)))
    assert full - thin == {"usr/share/doc/shell/changelog.gz", "usr/share/man/man1/dash.1.gz"}
    assert thin <= full
    assert "usr/share/doc/shell/copyright" not in tree_of([shell], omit=("usr/share/doc/",))


def test_no_maintainer_script_is_run_or_kept(shell: Deb, tmp_path: Path) -> None:
    """A package's scripts are neither started nor part of the tree."""
    tree = tree_of([shell])
    assert not (tmp_path / "a script was run").exists()
    assert not [path for path in tree if "inst" in path or "triggers" in path or path.startswith("var/lib")]


def test_what_scripts_would_have_made_is_made(shell: Deb, tmp_path: Path) -> None:
    """Accounts, the shell's name and the folders that programs expect are there, the open ones open."""
    tree = tree_of([shell])
    accounts = {line.split(":")[0]: line.split(":") for line in tree["etc/passwd"].content.decode().splitlines()}
    assert {name: row[2] for name, row in accounts.items()} == {"root": "0", "reprobox": "1000", "nobody": "65534"}
    assert accounts["reprobox"][5] == "/home/reprobox"
    groups = [line.split(":")[0] for line in tree["etc/group"].content.decode().splitlines()]
    assert groups == ["root", "reprobox", "nogroup"]
    assert tree["usr/bin/sh"] == Entry(kind="symlink", target="dash")
    assert {path: tree[path].mode for path in ("tmp", "var/tmp", "home/reprobox")} == dict.fromkeys(
        ("tmp", "var/tmp", "home/reprobox"), 0o1777
    )
    assert all(
        tree[path].kind == "directory" for path in ("dev", "proc", "sys", "root", "work", "opt/env", "run/reprobox")
    )
    without = tree_of([make_deb(tmp_path, "other", [tar_file("./usr/bin/x", b"")])])
    assert "usr/bin/sh" not in without
    assert tree["etc/passwd"].mtime == GENERATED_MTIME


def test_the_packages_accounts_are_not_used(tmp_path: Path) -> None:
    """An etc/passwd that a package brings does not decide who there is."""
    tree = tree_of([make_deb(tmp_path, "a", [tar_file("./etc/passwd", b"evil::0:0::/:/bin/sh\n")])])
    assert b"evil" not in tree["etc/passwd"].content


def test_the_certificate_bundle_is_made_of_the_certificates(tmp_path: Path) -> None:
    """The bundle is every certificate, by path, each ending in one line feed; without certificates there is none."""
    folder = "./usr/share/ca-certificates/mozilla"
    certificates = [
        tar_file(f"{folder}/b.crt", b"BBB\n\n"),
        tar_file(f"{folder}/a.crt", b"AAA"),
        tar_file(f"{folder}/readme", b"no"),
    ]
    tree = tree_of([make_deb(tmp_path, "ca-certificates", certificates)])
    assert tree["etc/ssl/certs/ca-certificates.crt"].content == b"AAA\nBBB\n"
    assert tree["usr/lib/ssl/cert.pem"].target == "/etc/ssl/certs/ca-certificates.crt"
    assert "etc/ssl/certs/ca-certificates.crt" not in tree_of([make_deb(tmp_path, "a", [tar_file("./x", b"")])])


@pytest.mark.parametrize("packing", ["xz", "gz", "bz2"])
def test_packing_does_not_matter(tmp_path: Path, packing: str) -> None:
    """Whatever packs a package's files, the tree is the same."""
    assert tree_of([make_deb(tmp_path, "shell", SHELL, packing=packing)]) == tree_of([make_deb(tmp_path, "x", SHELL)])


def test_hard_links_are_files(tmp_path: Path) -> None:
    """Another name for a file of the same package is a file with the same content."""
    members = [tar_file("./usr/a", b"data", mode=0o755), tar_link("./usr/b", "./usr/a", tarfile.LNKTYPE)]
    tree = tree_of([make_deb(tmp_path, "a", members)])
    assert (tree["usr/b"].kind, tree["usr/b"].content) == ("file", b"data")


def test_modes_are_the_executable_bit_alone(tmp_path: Path) -> None:
    """Of modes, only the executable bit stays: no setuid, no group's or other's rights; an open folder stays open."""
    members = [
        tar_file("./usr/bin/su", b"su", mode=0o4755),
        tar_file("./usr/share/secret", b"s", mode=0o600),
        tar_file("./usr/spool", type=tarfile.DIRTYPE, mode=0o1777),
        tar_file("./usr/closed", type=tarfile.DIRTYPE, mode=0o700, uid=5, gid=7, uname="x"),
    ]
    entries = {entry.name: entry for entry in layer_of(tree_of([make_deb(tmp_path, "a", members)])).entries()}
    modes = [entries[f"usr/{name}"].mode for name in ("bin/su", "share/secret", "spool", "closed")]
    assert modes == [0o755, 0o644, 0o1777, 0o755]
    assert (entries["usr/closed"].uid, entries["usr/closed"].uname) == (0, "")


def test_the_order_of_packages_does_not_matter(shell: Deb, tmp_path: Path) -> None:
    """The same packages in any order, with any order of files in them, are the same layer."""
    debs = [shell]
    for number, name in enumerate("abc"):
        # Also what two packages bring alike, at different times.
        shared = [
            tar_file("./usr/folder", type=tarfile.DIRTYPE, mtime=NOON_S + number),
            tar_file("./usr/same", b"2", mtime=NOON_S + number),
        ]
        debs.append(make_deb(tmp_path, name, [*shared, tar_file(f"./usr/{name}", b"1")]))
    expected = layer_of(tree_of(debs))
    for seed in range(3):
        random.Random(seed).shuffle(debs)
        assert layer_of(tree_of(debs)).data == expected.data
    members = list(SHELL)
    random.Random(5).shuffle(members)
    debs = [make_deb(tmp_path, "shell", members) if deb is shell else deb for deb in debs]
    assert layer_of(tree_of(debs)).data == expected.data


def test_two_packages_with_one_file_must_agree(tmp_path: Path) -> None:
    """A path that two packages bring with other bytes, target, kind or executable bit is refused, naming both and it."""
    first = make_deb(tmp_path, "first", [tar_file("./lib/x", b"one"), tar_link("./usr/l", "a")])
    same = make_deb(tmp_path, "same", [tar_file("./lib/x", b"one"), tar_link("./usr/l", "a")])
    assert tree_of([first, same])["usr/lib/x"].content == b"one"
    for number, member in enumerate(
        (
            tar_file("./usr/lib/x", b"two"),
            tar_link("./usr/l", "b"),
            tar_file("./usr/l", b"a"),
            tar_link("./lib/x", "one"),
            tar_file("./lib/x", b"one", mode=0o755),
        )
    ):
        error = refusal([first, make_deb(tmp_path, f"second{number}", [member])], "first")
        assert f"second{number}" in error.message
        assert "usr/l" in error.message


def test_one_file_of_two_times_is_one_file(tmp_path: Path) -> None:
    """Two packages that bring the same bytes agree, whenever they were made."""
    tree_of([make_deb(tmp_path, n, [tar_file("./usr/x", b"same", mtime=NOON_S + i)]) for i, n in enumerate("ab")])


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_are_refused(tmp_path: Path, kind: bytes) -> None:
    """A package with a device or a pipe is refused, naming the path."""
    deb = make_deb(tmp_path, "a", [tar_file("./dev/thing", type=kind, devmajor=1, devminor=3)])
    assert "dev/thing" in refusal([deb], "a_1.0_amd64.deb").message


ESCAPES = ["../x", "./../x", "./a/../../x", "a/../../../x", "/etc/x", "//etc/x", "./a\\b", "./a\nb", "./usr/.."]


@pytest.mark.parametrize("path", ESCAPES)
def test_a_path_that_escapes_is_refused(tmp_path: Path, path: str) -> None:
    """A package with a path outside of the tree is refused."""
    refusal([make_deb(tmp_path, "a", [tar_file(path, b"evil")])], "a_1.0_amd64.deb")


@pytest.mark.parametrize("target", ["../../etc/passwd", "/etc/passwd", "./usr/missing"])
def test_a_hard_link_out_of_the_package_is_refused(tmp_path: Path, target: str) -> None:
    """A hard link to what the package does not bring is refused: no file of this machine is read."""
    deb = make_deb(tmp_path, "a", [tar_link("./usr/x", target, tarfile.LNKTYPE)])
    refusal([deb], "a_1.0_amd64.deb")


@pytest.mark.parametrize("data", [b"", b"nonsense", ar_archive([("debian-binary", b"2.0\n")]), ar_archive([])])
def test_what_is_no_package_is_refused(tmp_path: Path, data: bytes) -> None:
    """A file that is no Debian package is refused."""
    file = tmp_path / "a_1.0_amd64.deb"
    file.write_bytes(data)
    refusal([(deb_of(file, name="a"), file)], "a_1.0_amd64.deb")


@pytest.mark.parametrize("packing", ["xz", "gz"])
def test_a_truncated_package_is_refused(tmp_path: Path, packing: str) -> None:
    """A package that was cut is refused, or only its packer's last sums are missing; no file is missed in silence."""
    deb = make_deb(tmp_path, "shell", SHELL, packing=packing)
    data, whole, refused = deb[1].read_bytes(), tree_of([deb]), []
    for length in range(0, len(data), 7):
        deb[1].write_bytes(data[:length])
        try:
            tree = tree_of([deb])
        except BuildError as error:
            refused.append(error)
            continue
        assert length > len(data) - 60
        assert tree == whole
    assert all(file_name(deb[0]) in error.message for error in refused)


@pytest.mark.parametrize("packing", ["xz", "gz"])
def test_a_spoiled_package_is_refused(tmp_path: Path, packing: str) -> None:
    """Whatever bytes are changed, a package is unpacked or refused; nothing else is ever raised."""
    deb = make_deb(tmp_path, "a", SHELL, packing=packing)
    data = deb[1].read_bytes()
    generator = random.Random(3)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        spoiled = bytearray(data)
        for _ in range(generator.randint(1, 3)):
            spoiled[generator.randrange(len(spoiled))] = generator.randrange(256)
        deb[1].write_bytes(spoiled)
        try:
            tree_of([deb])
        except BuildError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
    assert min(outcomes.values()) > 10


def test_a_tree_on_disk_is_the_tree(shell: Deb, tmp_path: Path) -> None:
    """What is unpacked here is what the layer holds: files with their bytes and executable bit, links unresolved."""
    tree = tree_of([shell])
    folder = tmp_path / "tree"
    folder.mkdir()
    extract_tree(tree, folder)
    for path, entry in tree.items():
        place = folder / path
        match entry.kind:
            case "file":
                assert place.read_bytes() == entry.content
                assert bool(place.stat().st_mode & 0o111) == entry.executable
            case "symlink":
                assert str(place.readlink()) == entry.target
            case "directory":
                assert place.is_dir()
    on_disk = {str(place.relative_to(folder)) for place in folder.rglob("*")}
    assert on_disk == set(layer_of(tree).names())


# Each of these names a place outside through a link that a package brings. Whatever is done with them, nothing may
# appear in `outside`.
THROUGH_LINKS = {
    "a file below a link": [[("./usr/lib/x", "OUT")], [("./usr/lib/x/y", b"evil")]],
    "one package": [[("./usr/lib/x", "OUT"), ("./usr/lib/x/y", b"evil")]],
    "a file first": [[("./usr/lib/x/y", b"evil"), ("./usr/lib/x", "OUT")]],
    "a merged folder": [[("./usr/bin", "OUT"), ("./bin/y", b"evil")]],
    "a folder of ours": [[("./etc", "OUT")]],
    "the home folder": [[("./home", "OUT")]],
    "a file of ours": [[("./etc/passwd", "OUT/y")]],
    "a relative link": [[("./usr/lib/x", "UP")], [("./usr/lib/x/y", b"evil")]],
}
LINKS_THROUGH_LINKS = {
    "a link below a link": [[("./usr/lib/x", "OUT"), ("./usr/lib/x/y", "/etc/passwd")]],
    "in two packages": [[("./usr/lib/x", "OUT")], [("./usr/lib/x/y", "/etc/passwd")]],
    "a relative one": [[("./usr/lib/x", "UP"), ("./usr/lib/x/y", "/etc/passwd")]],
    "a merged folder": [[("./usr/bin", "OUT"), ("./bin/y", "/etc/passwd")]],
}


def unpack_hostile(
    tmp_path: Path, packages: list[list[tuple[str, str | bytes]]]
) -> tuple[list[str], BaseException | None]:
    """Unpack packages and tell what appeared outside, and what was raised."""
    outside, folder = tmp_path / "outside", tmp_path / "tree"
    outside.mkdir()
    folder.mkdir()
    debs = []
    for number, members in enumerate(packages):
        made = []
        for path, content in members:
            if isinstance(content, bytes):
                made.append(tar_file(path, content))
            else:
                target = content.replace("OUT", str(outside)).replace("UP", "../../../outside")
                made.append(tar_link(path, target))
        debs.append(make_deb(tmp_path, f"p{number}", made))
    raised: BaseException | None = None
    try:
        extract_tree(tree_of(debs), folder)
    except (BuildError, OSError) as error:
        raised = error
    return sorted(path.name for path in outside.iterdir()), raised


@pytest.mark.parametrize("what", THROUGH_LINKS)
def test_no_file_is_written_through_a_link(tmp_path: Path, what: str) -> None:
    """Nothing is written through a symbolic link that a package brought."""
    appeared, _ = unpack_hostile(tmp_path, THROUGH_LINKS[what])
    assert appeared == []


@pytest.mark.parametrize("what", LINKS_THROUGH_LINKS)
def test_no_link_is_written_through_a_link(tmp_path: Path, what: str) -> None:
    """Nothing is written through a symbolic link that a package brought, also not another link."""
    appeared, _ = unpack_hostile(tmp_path, LINKS_THROUGH_LINKS[what])
    assert appeared == []


@pytest.mark.parametrize("what", ["a file below a link", "one package", "a merged folder", "a folder of ours"])
def test_what_lies_below_a_link_is_refused(tmp_path: Path, what: str) -> None:
    """A path below another package's link is refused as a broken package, not as a bug of ours."""
    _, raised = unpack_hostile(tmp_path, THROUGH_LINKS[what])
    assert isinstance(raised, BuildError)


@pytest.mark.parametrize("turned", [False, True])
def test_a_file_is_no_folder(tmp_path: Path, turned: bool) -> None:
    """A path that is a file in one package and a folder in another is refused, naming it."""
    file = [tar_file("./usr/x", b"file")]
    folder = [tar_file("./usr/x", type=tarfile.DIRTYPE), tar_file("./usr/x/y", b"")]
    debs = [
        make_deb(tmp_path, name, members)
        for name, members in zip("ba" if turned else "ab", (file, folder), strict=True)
    ]
    assert "usr/x" in refusal(debs, "usr/x").message


def test_a_package_may_bring_the_merged_links_itself(tmp_path: Path) -> None:
    """The base-files of Debian 13 brings bin → usr/bin and its like: they are what they would be made to."""
    members = [tar_link("./bin", "usr/bin"), tar_file("./usr/bin/", type=tarfile.DIRTYPE), tar_file("./usr/bin/x", b"")]
    tree = tree_of([make_deb(tmp_path, "base-files", members)])
    assert tree["bin"] == Entry(kind="symlink", target="usr/bin")
    assert tree.get("usr/bin", Entry(kind="directory")).kind == "directory"


def test_no_path_is_passed_over(tmp_path: Path) -> None:
    """A path that is nothing but dots is a name or is refused; only the root itself is passed over."""
    deb = make_deb(tmp_path, "a", [tar_file("./...", b"name")])
    assert "..." in tree_of([deb])
