"""reprobox.lock with conda packages: rows are read as they were written, spelling is no difference, damage is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Callable

import pytest
import yaml
from env_samples import conda_row, make_conda_lock, make_lock, spoil
from hypothesis import given, settings
from hypothesis import strategies as st

from reprobox.env.freshness import Ground, render_requested, require_fresh
from reprobox.env.lockfile import (
    CondaPackage,
    Lock,
    Requested,
    parse_lock,
    render_lock,
)
from reprobox.env.spec import parse_environment
from reprobox.errors import EnvironmentInvalid, LockStale

LOCK = make_lock()
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12)


def read(text: str) -> Lock:
    return parse_lock(text, source="envs/x/reprobox.lock")


def edited(edit: Callable[[dict], object]) -> str:
    """The text of a lock without conda packages after an edit by hand."""
    document = yaml.safe_load(render_lock(LOCK))
    edit(document)
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def refusal(text: str) -> EnvironmentInvalid:
    with pytest.raises(EnvironmentInvalid) as caught:
        read(text)
    assert "envs/x/reprobox.lock" in caught.value.message
    assert caught.value.hint
    return caught.value


CONDA_ENVIRONMENT = """\
channels:
  - conda-forge
dependencies:
  - python=3.10
  - numpy>=1.20,<2
  - pytorch::pytorch=1.9.0=py3.9_cuda11.1_cudnn8.0.5_0
  - pip
  - pip:
      - six
      - --extra-index-url https://whl.example/cu111
      - git+https://git.example/o/r.git@main#egg=r
"""


def conda_staleness(text: str) -> list[str]:
    spec = parse_environment(CONDA_ENVIRONMENT, source="environment.yml")
    row = conda_row("python", version="3.10.4")
    lock = dataclasses.replace(
        LOCK,
        python="3.10.4",
        python_from="conda",
        conda=(row,),
        variables=(),
        requested=render_requested(spec, ground=Ground(base="debian-12")),
    )
    lock = read(render_lock(lock))
    now = parse_environment(text, source="environment.yml")
    try:
        require_fresh(lock, now, ground=Ground(base="debian-12"), source="reprobox.lock", command="reprobox lock")
    except LockStale as error:
        return [line.strip() for line in error.message.splitlines()[1:]]
    return []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("python=3.10", "python==3.10.*"),
        ("python=3.10", "Python = 3.10.*   # the interpreter"),
        ("python=3.10", "python[version='3.10.*']"),
        ("numpy>=1.20,<2", "numpy <2, >=1.20"),
        ("numpy>=1.20,<2", "\"numpy[version='>=1.20,<2']\""),
        ("pytorch=1.9.0=py3.9", "pytorch==1.9.0=py3.9"),
        ("pytorch::pytorch=1.9.0=py3.9", "pytorch::pytorch 1.9.0 py3.9"),
        ("  - pip\n", "  - pip\n  - python\n"),
        ("      - six", "      - Six"),
        ("--extra-index-url https", "--extra-index-url=https"),
        ("channels:\n  - conda-forge\n", "channels: ['conda-forge ']\nname: other\n"),
        ("channels:\n", "# remark\nprefix: /somewhere\nchannels:\n"),
    ],
)
def test_spelling_does_not_make_a_conda_lock_stale(old: str, new: str) -> None:
    """One meaning has one text in a lock, however a person writes it."""
    assert old in CONDA_ENVIRONMENT
    assert conda_staleness(CONDA_ENVIRONMENT.replace(old, new)) == []


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("python=3.10", "python==3.10", "environment.yml:4: python==3.10 is not in the lock"),
        ("numpy>=1.20,<2", "numpy>=1.20,<=2", "environment.yml:5: numpy>=1.20,<=2 is not in the lock"),
        ("cudnn8.0.5_0", "cudnn8.0.5_1", "_1 is not in the lock"),
        ("pytorch::", "nvidia::", "environment.yml:6: nvidia::pytorch=1.9.0"),
        ("pytorch::", "", "environment.yml:6: pytorch=1.9.0"),
        ("  - pip\n", "", "reprobox.lock: pip is no longer in environment.yml"),
        ("- six", "- six>=1", "environment.yml:9: six>=1 is not in the lock"),
        ("@main", "@dev", "environment.yml:11: git r"),
        ("#egg=r", "#egg=r&subdirectory=x", "environment.yml:11: git r"),
        ("r.git@main#egg=r", "r.git@main#egg=r[all]", "environment.yml:11: git r[all]"),
        ("- git+", "- -e git+", "environment.yml:11: editable git r"),
        ("cu111", "cu113", "environment.yml:10: extra-index"),
        ("  - conda-forge", "  - conda-forge\n  - defaults", "channels are conda-forge, defaults, the lock"),
        ("  - conda-forge", "  - defaults", "channels are defaults, the lock was made with conda-forge"),
    ],
)
def test_what_makes_a_difference_makes_a_conda_lock_stale(old: str, new: str, named: str) -> None:
    """What changes the request is told, with its line."""
    assert old in CONDA_ENVIRONMENT
    assert named in "\n".join(conda_staleness(CONDA_ENVIRONMENT.replace(old, new)))


def test_a_lock_names_no_host_and_no_folder_of_a_machine() -> None:
    """Of channels, indexes, repositories and folders by address, a lock notes digests and names."""
    text = """\
channels:
  - https://user:secret@conda.example/t/tk-123/team/label/dev/linux-64
  - file:///srv/channels/own
  - nodefaults
dependencies:
  - python=3.10
  - https://other.example/things::numpy
  - pip:
      - --index-url https://user:secret@whl.example/simple
      - --find-links /srv/wheels
      - git+ssh://git@git.example/o/r.git@v1#egg=r
      - git+git@git.example:o/s.git#egg=s
      - t @ https://files.example/t-1.0.tar.gz
      - -e /srv/code/u
      - -e ~/code/v
"""
    requested = render_requested(parse_environment(text, source="e"), ground=Ground(base="b"))
    lock = dataclasses.replace(LOCK, requested=requested)
    assert requested.channels == ("team/label/dev", "own")
    assert "things::numpy" in requested.conda
    for word in ("example", "secret", "tk-123", "/srv", "git@", "code", "user"):
        assert word not in render_lock(lock), word


CONDA_LOCK = make_conda_lock()


def edited_conda(edit: Callable[[dict], object]) -> str:
    """The text of a lock with conda packages after an edit by hand."""
    document = yaml.safe_load(render_lock(CONDA_LOCK))
    edit(document)
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


NAME = st.from_regex(r"[a-z0-9_][a-z0-9_.-]{0,8}", fullmatch=True)
PART = st.from_regex(r"[A-Za-z0-9_.]{1,8}", fullmatch=True)
ROWS = st.lists(
    st.builds(
        conda_row,
        NAME,
        version=PART | st.from_regex(r"[0-9]![0-9]{1,3}(\.[0-9e]{1,3})?", fullmatch=True),
        build=PART,
        channel=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}(/label/[a-z0-9.]{1,5}[a-z])?", fullmatch=True),
        subdir=st.sampled_from(["linux-64", "noarch"]),
        size_bytes=st.integers(0, 1 << 40),
        sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
        md5=st.none() | st.from_regex(r"[0-9]{32}|[0-9a-f]{32}", fullmatch=True),
    ),
    max_size=5,
    unique_by=lambda row: row.name,
)


@given(rows=ROWS, requested=st.lists(TEXT, max_size=3))
@settings(max_examples=80, deadline=None, database=None)
def test_parsing_undoes_rendering_of_conda_packages(rows: list[CondaPackage], requested: list[str]) -> None:
    """Versions that look like numbers and dates, builds, epochs and digests come back as the texts that they were."""
    texts = tuple(requested)
    rows = sorted([*(row for row in rows if row.name != "python"), CONDA_LOCK.conda[2]], key=lambda row: row.name)
    lock = dataclasses.replace(
        CONDA_LOCK,
        conda=tuple(rows),
        requested=Requested(sha256="0" * 64, base="b", channels=texts, conda=texts, wheels=texts, others=texts),
    )
    text = render_lock(lock)
    assert read(text) == lock
    assert render_lock(read(text)) == text
    assert read(text).digest == lock.digest


@given(rows=ROWS, order=st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None, database=None)
def test_order_and_md5_of_conda_packages_are_no_part_of_the_digest(
    rows: list[CondaPackage], order: random.Random
) -> None:
    """Rows in any order, with any md5 or none, are one environment."""
    lock = dataclasses.replace(CONDA_LOCK, conda=tuple(rows))
    order.shuffle(rows)
    turned = dataclasses.replace(CONDA_LOCK, conda=tuple(dataclasses.replace(row, md5="1" * 32) for row in rows))
    assert turned.digest == lock.digest


@given(rows=ROWS.filter(bool), data=st.data())
@settings(max_examples=80, deadline=None, database=None)
def test_every_field_of_a_conda_package_is_part_of_the_digest(rows: list[CondaPackage], data: st.DataObject) -> None:
    """One other byte, size, channel, platform, file, version, build or name is another environment."""
    at = data.draw(st.integers(0, len(rows) - 1))
    field = data.draw(
        st.sampled_from(["name", "version", "build", "channel", "subdir", "file", "size_bytes", "sha256"])
    )
    old = getattr(rows[at], field)
    new = old + 1 if field == "size_bytes" else ("0" if old[:1] != "0" else "1") + old[1:]
    changed = [*rows[:at], dataclasses.replace(rows[at], **{field: new}), *rows[at + 1 :]]
    locks = [
        dataclasses.replace(CONDA_LOCK, conda=tuple(found)) for found in (rows, changed, rows[:at] + rows[at + 1 :])
    ]
    assert len({lock.digest for lock in locks}) == 3


def test_where_python_comes_from_is_part_of_the_digest() -> None:
    """The same packages with another interpreter are another environment."""
    assert dataclasses.replace(CONDA_LOCK, python_from="base").digest != CONDA_LOCK.digest


def test_a_lock_without_conda_packages_does_not_speak_of_them() -> None:
    """A section without rows is no part of the text, and so of no older lock's digest."""
    assert "\nconda:" not in render_lock(LOCK).partition("requested:")[0]
    assert read(edited(lambda document: document.update(conda=[]))).digest == LOCK.digest


def test_the_digest_of_conda_packages_never_changes() -> None:
    """The documented recipe, with the rows' md5 left out; and one value that no release may change."""
    pins = yaml.safe_load(render_lock(CONDA_LOCK))
    for key in ("version", "requested", "tools"):
        del pins[key]
    for row in pins["conda"]:
        row.pop("md5", None)
    text = json.dumps(pins, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert CONDA_LOCK.digest == "sha256:" + hashlib.sha256(b"reprobox lock-v1\n" + text.encode()).hexdigest()
    assert CONDA_LOCK.digest == "sha256:3363bf1f0e62419e61c35d77974243e727f1bdebbb88f109d88fc3860e627354"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sha256": None}, "sha256"),
        ({"sha256": "0" * 63}, "sha256"),
        ({"size": -1}, "size"),
        ({"size": None}, "size"),
        ({"md5": "0" * 31}, "md5"),
        ({"md5": ""}, "md5"),
        ({"file": "jpeg-9e-h166bdaf_2.zip"}, "jpeg-9e-h166bdaf_2.zip"),
        ({"file": "../jpeg-9e-h166bdaf_2.conda"}, "../jpeg"),
        ({"file": "other-9e-h166bdaf_2.conda"}, "other-9e"),
        ({"name": "../x", "file": "../x-9e-h166bdaf_2.conda"}, "../x"),
        ({"name": "a((((", "file": "a((((-9e-h166bdaf_2.conda"}, "a(((("),
        ({"version": "9e/1", "file": "jpeg-9e/1-h166bdaf_2.conda"}, "9e/1"),
        ({"version": "(" * 9999, "file": "jpeg-" + "(" * 9999 + "-h166bdaf_2.conda"}, "jpeg"),
        ({"subdir": "win-64"}, "win-64"),
        ({"subdir": "../linux-64"}, "../linux-64"),
        ({"channel": "https://conda.example/x"}, "https://conda.example/x"),
        ({"channel": "a/../b"}, "a/../b"),
        ({"channel": ""}, "''"),
    ],
)
def test_a_conda_row_that_cannot_be_is_refused(change: dict[str, object], named: str) -> None:
    """A row that could not be checked, or that names another place or platform, is refused by name."""
    assert named in refusal(edited_conda(lambda document: document["conda"][1].update(change))).message


@pytest.mark.parametrize("key", ["name", "version", "build", "channel", "subdir", "file", "size", "sha256"])
def test_a_conda_row_that_lacks_a_key_is_refused(key: str) -> None:
    """A row without one of its keys is refused, naming the key."""
    assert key in refusal(edited_conda(lambda document: document["conda"][1].pop(key))).message


def test_a_conda_package_that_stands_twice_is_refused() -> None:
    """Two rows of one name (a merge gone wrong) are refused."""
    assert (
        "x264" in refusal(edited_conda(lambda document: document["conda"].append(dict(document["conda"][-1])))).message
    )


def test_a_file_of_an_older_package_may_have_capitals() -> None:
    """A package's name is in lower case, its file may not be."""

    def edit(document: dict) -> None:
        document["conda"][1].update(name="simpleitk", file="SimpleITK-9e-h166bdaf_2.tar.bz2")

    assert "SimpleITK-9e-h166bdaf_2.tar.bz2" in [package.file for package in read(edited_conda(edit)).conda]


def test_an_interpreter_of_conda_is_among_its_packages() -> None:
    """A lock that says another version than its package, or has none, is refused."""
    refusal(edited_conda(lambda document: document["python"].update(version="3.10.5")))
    refusal(edited_conda(lambda document: document.update(conda=[])))


def test_values_that_stand_for_others_are_refused() -> None:
    """Nine lines of anchors can stand for more than memory holds; a lock has none."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    refusal("\n".join([*lines, "version: *a11", ""]))
    refusal(render_lock(LOCK).replace("omit:", "omit: &it").replace("variables:", "variables: *it\nx:"))


@pytest.mark.parametrize("version", [True, 1.0])
def test_a_version_that_only_equals_one_is_refused(version: object) -> None:
    """A truth and a fraction are no version, and no layer format."""
    refusal(edited(lambda document: document.update(version=version)))
    refusal(edited(lambda document: document.update(layer_format=version)))


def test_a_spoiled_lock_of_conda_packages_is_refused_and_never_crashes() -> None:
    """Whatever bytes are changed, a lock is read or refused; nothing else is ever raised."""
    refused: list[EnvironmentInvalid] = []
    for text in spoil(render_lock(CONDA_LOCK), count=400, seed=12):
        try:
            read(text)
        except EnvironmentInvalid as error:
            refused.append(error)
    assert 20 < len(refused) < 395
    assert all(error.hint and "envs/x/reprobox.lock" in error.message for error in refused)
