"""Where packages come from: asked in a fixed order, and never of a lock."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprobox.env.client import Client, find_debian_mirrors, parse_index_targets, parse_template
from reprobox.errors import IndexUnreachable

TARGETS = """\
http://security.debian.org/debian-security/|Debian|bookworm-security
http://deb.example.org/debian/|Debian|bookworm
http://deb.example.org/debian/|Debian|bookworm-updates
https://packages.example.com/apt/|Example|stable
https://download.example.com/linux/debian/|Docker|bookworm
http://fresh.example.org/debian||
http://fresh.example.org/debian-security||
http://fresh.example.org/ubuntu||
"""


def test_targets_are_archives_of_debian() -> None:
    """Only archives of Debian count, each once, in apt's order, with the security archive last."""
    assert parse_index_targets(TARGETS) == (
        "http://deb.example.org/debian",
        "http://fresh.example.org/debian",
        "http://security.debian.org/debian-security",
    )
    assert parse_index_targets("") == ()
    assert parse_index_targets("rubbish\n|\n") == ()


@pytest.mark.parametrize(
    ("text", "mirror"),
    [
        ("Suite: sid\nBaseURI: http://a.example/debian/\nBaseURI: http://b.example/\n", "http://a.example/debian"),
        ("mirror_style release\ndefault_mirror http://a.example/debian\n", "http://a.example/debian"),
        ("#BaseURI: http://a.example/\n BaseURI: http://b.example/\n", None),
        ("", None),
    ],
)
def test_a_template_names_a_mirror(text: str, mirror: str | None) -> None:
    """A template of python-apt or a script of debootstrap names Debian's own mirror at the start of a line."""
    assert parse_template(text) == mirror


@pytest.fixture
def machine(tmp_path: Path) -> Client:
    """A machine with every source: a variable, a table, an apt-get, two templates."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "targets").write_text(TARGETS)
    apt = programs / "apt-get"
    apt.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nexec /bin/cat {tmp_path}/targets\n')
    apt.chmod(0o755)
    (tmp_path / "one").write_text("default_mirror http://one.example/debian\n")
    (tmp_path / "two").write_text("BaseURI: http://deb.example.org/debian/\n")
    return Client(
        environ={"REPROBOX_DEBIAN_MIRROR": "http://variable.example/debian/", "PATH": str(programs)},
        cache=tmp_path / "cache",
        mirrors={"debian": "http://table.example/debian/"},
        apt_templates=(tmp_path / "missing", tmp_path / "one", tmp_path / "two"),
    )


def changed(client: Client, **fields: object) -> Client:
    kept = {name: getattr(client, name) for name in ("environ", "cache", "mirrors", "apt_templates")}
    return Client(**{**kept, **fields})


def test_the_variable_comes_first(machine: Client) -> None:
    """REPROBOX_DEBIAN_MIRROR is the only source asked where it is set; empty is not set."""
    assert find_debian_mirrors(machine) == ("http://variable.example/debian",)
    unset = changed(machine, environ={**machine.environ, "REPROBOX_DEBIAN_MIRROR": ""})
    assert find_debian_mirrors(unset) == ("http://table.example/debian",)


def test_the_table_comes_second(machine: Client, tmp_path: Path) -> None:
    """[mirrors] debian is the only source asked where the variable is not set: apt is not even started."""
    client = changed(machine, environ={"PATH": machine.environ["PATH"]})
    assert find_debian_mirrors(client) == ("http://table.example/debian",)
    assert not (tmp_path / "asked").exists()


def test_apt_comes_before_its_templates(machine: Client, tmp_path: Path) -> None:
    """What apt is configured with comes before its templates; a mirror that several name stands once."""
    client = changed(machine, environ={"PATH": machine.environ["PATH"]}, mirrors={"pypi": "http://x"})
    assert find_debian_mirrors(client) == (*parse_index_targets(TARGETS), "http://one.example/debian")
    assert "indextargets" in (tmp_path / "asked").read_text()


@pytest.mark.parametrize("path", ["", "/nowhere"])
def test_without_apt_the_templates_count(machine: Client, path: str) -> None:
    """Where no apt-get is on PATH, what the templates say is used; one that cannot be read is passed over."""
    client = changed(machine, environ={"PATH": path}, mirrors={})
    assert find_debian_mirrors(client) == ("http://one.example/debian", "http://deb.example.org/debian")


def test_an_apt_that_fails_is_passed_over(machine: Client) -> None:
    """An apt-get that ends with an error counts as one that names nothing."""
    Path(machine.environ["PATH"], "apt-get").write_text("#!/bin/sh\necho broken >&2\nexit 100\n")
    client = changed(machine, environ={"PATH": machine.environ["PATH"]}, mirrors={})
    assert find_debian_mirrors(client)[0] == "http://one.example/debian"


def test_no_source_at_all_is_explained(machine: Client) -> None:
    """Where nothing names a mirror, the error says how to name one."""
    with pytest.raises(IndexUnreachable) as caught:
        find_debian_mirrors(changed(machine, environ={"PATH": ""}, mirrors={}, apt_templates=()))
    assert "REPROBOX_DEBIAN_MIRROR" in (caught.value.hint or "")
    assert "[mirrors]" in (caught.value.hint or "")
    assert caught.value.exit_code == 4


def test_an_apt_that_cannot_be_started_is_passed_over(machine: Client) -> None:
    """An apt-get that is no program counts as none."""
    Path(machine.environ["PATH"], "apt-get").write_bytes(b"\x7fELF no more")
    client = changed(machine, environ={"PATH": machine.environ["PATH"]}, mirrors={})
    assert find_debian_mirrors(client)[0] == "http://one.example/debian"
