"""Channels: a lock names no host, and where a name is follows from the client's own configuration alone."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprobox.env.channels import (
    ChannelPlaces,
    CondaConfiguration,
    hide_credentials,
    merge_configurations,
    name_channel,
    parse_condarc,
)
from reprobox.errors import EnvironmentInvalid


@pytest.mark.parametrize(
    ("channel", "name"),
    [
        ("conda-forge", "conda-forge"),
        ("pytorch/label/nightly/", "pytorch/label/nightly"),
        ("https://conda.example/conda-forge", "conda-forge"),
        ("https://conda.example:8443/pkgs/main/", "pkgs/main"),
        ("https://user:pw@conda.example/t/tk-1/team/label/dev", "team/label/dev"),
        ("https://conda.example/t/tk-1", "channel"),
        ("https://conda.example/t/tk-1/", "channel"),
        ("https://conda.example", "channel"),
        ("https://conda.example/a/../../b", "a/b"),
        ("https://conda.example/_own/-x", "own/-x"),
        ("https://conda.example/a%7Eb?token=1", "a-7Eb"),
        ("file:///home/somebody/channels/own", "own"),
        ("https://[::1", "channel"),
    ],
)
def test_the_name_of_a_channel(channel: str, name: str) -> None:
    """Of a URL its path: no host, no credentials, no token, no folder of a machine."""
    assert name_channel(channel) == name


PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]*")
PATH = st.text("ab.-_/~%@:?#[]é t", max_size=30)


@given(st.builds("{}://{}/{}".format, st.sampled_from(["https", "file", "s3"]), PATH, PATH))
@settings(max_examples=300, deadline=None, database=None)
def test_every_name_is_one_that_a_lock_takes(url: str) -> None:
    """Whatever a URL holds, its name can stand in a lock and be read back."""
    name = name_channel(url)
    assert PLAIN.fullmatch(name), name
    assert ".." not in name.split("/")
    assert name_channel(name) == name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://a.example/x", "https://a.example/x"),
        ("cannot reach https://user:p@ss@a.example/x", "cannot reach https://a.example/x"),
        ("https://a.example/t/tk-123/x/noarch", "https://a.example/t/<token>/x/noarch"),
        ("https://a.example/t/tk-123", "https://a.example/t/<token>"),
        ("(https://u@a.example/x) and https://v:w@b.example/y", "(https://a.example/x) and https://b.example/y"),
        ("mail me@a.example", "mail me@a.example"),
    ],
)
def test_messages_have_no_credentials(text: str, shown: str) -> None:
    """Users, passwords and tokens of all URLs in a text are left out."""
    assert hide_credentials(text) == shown


CONDARC = """\
channel_alias: https://alias.example/
default_channels:
  - https://mirror.example/pkgs/main
  - https://mirror.example/pkgs/r
custom_channels:
  team: https://team.example/conda/
ssl_verify: /etc/bundle.pem
show_channel_urls: true
"""


def test_what_condarc_says() -> None:
    """Alias, default channels, custom channels (conda writes their URL without the name) and the bundle."""
    found = parse_condarc(CONDARC, source=".condarc")
    assert found == CondaConfiguration(
        alias="https://alias.example/",
        default_channels=("https://mirror.example/pkgs/main", "https://mirror.example/pkgs/r"),
        custom_channels={"team": "https://team.example/conda/team"},
        verify="/etc/bundle.pem",
    )
    assert parse_condarc("", source=".condarc") == CondaConfiguration()
    assert parse_condarc("ssl_verify: false\n", source=".condarc").verify is False


@pytest.mark.parametrize(
    "text",
    ["- a\n", "channel_alias: [a]\n", "default_channels: a\n", "custom_channels: [a]\n", "a: b: c\n", "a: *b\n", "\t"],
)
def test_a_broken_condarc_is_refused(text: str) -> None:
    """What conda could not read either is refused with the file's name."""
    with pytest.raises(EnvironmentInvalid, match=r"^\.condarc"):
        parse_condarc(text, source=".condarc")


def test_the_strongest_configuration_counts() -> None:
    """Of several files the first that says something decides; custom channels are merged by name."""
    strong = CondaConfiguration(custom_channels={"a": "https://1.example/a"}, verify=False)
    weak = parse_condarc(CONDARC, source="x")
    merged = merge_configurations([strong, weak, CondaConfiguration(alias="https://other.example")])
    assert merged.alias == "https://alias.example/"
    assert merged.default_channels == weak.default_channels
    assert merged.custom_channels == {"a": "https://1.example/a", "team": "https://team.example/conda/team"}
    assert merged.verify is False
    assert merge_configurations([]) == CondaConfiguration()


CONFIGURATION = parse_condarc(CONDARC, source="x")


@pytest.mark.parametrize(
    ("channel", "url"),
    [
        ("mirrored", "https://m.example/mirrored"),
        ("https://elsewhere.example/mirrored", "https://m.example/mirrored"),
        ("https://direct.example/x/", "https://direct.example/x"),
        ("x/own", "https://named.example/x/own"),
        ("pkgs/r", "https://mirror.example/pkgs/r"),
        ("team", "https://team.example/conda/team"),
        ("conda-forge", "https://alias.example/conda-forge"),
        ("pytorch/label/nightly", "https://alias.example/pytorch/label/nightly"),
    ],
)
def test_where_a_channel_is(channel: str, url: str) -> None:
    """A mirror of this channel, then its own URL, the file's, conda's lists, and the alias."""
    places = ChannelPlaces(
        mirrors={"channels": {"mirrored": "https://m.example/mirrored/"}},
        configuration=CONFIGURATION,
        named=("https://named.example/x/own",),
    )
    assert places.find_url(channel) == url


def test_a_mirror_of_all_comes_before_the_alias() -> None:
    """`[mirrors] conda` of the project counts above conda's own alias."""
    places = ChannelPlaces(mirrors={"conda": "https://all.example/"}, configuration=CONFIGURATION)
    assert places.find_url("conda-forge") == "https://all.example/conda-forge"
    assert ChannelPlaces().find_url("pytorch").endswith("/pytorch")


@pytest.mark.parametrize("channel", ["mirrored", "team", "conda-forge", "pkgs/main", "x/own", "pytorch/label/nightly"])
def test_a_name_and_its_place_belong_together(channel: str) -> None:
    """A lock that names a channel finds it again: the name of the place of a name is that name."""
    places = ChannelPlaces(
        mirrors={"channels": {"mirrored": "https://m.example/other/"}},
        configuration=CONFIGURATION,
        named=("https://named.example/x/own",),
    )
    assert places.name_of(places.find_url(channel)) == channel
    assert places.name_of(places.find_url(channel) + "/") == channel


def test_what_defaults_stands_for() -> None:
    """`defaults` is what conda's configuration says, else main and r; a mirror of it stands for itself."""
    assert ChannelPlaces().expand(["conda-forge", "defaults"]) == ("conda-forge", "main", "r")
    assert ChannelPlaces(configuration=CONFIGURATION).expand(["defaults"]) == CONFIGURATION.default_channels
    mirror = ChannelPlaces(mirrors={"channels": {"defaults": "https://m.example/d"}})
    assert mirror.expand(["defaults", "r", "r"]) == ("defaults", "r")
    assert ChannelPlaces().expand(["r", "defaults"]) == ("r", "main")
