"""Digests of bytes and the canonical spelling of JSON."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.errors import ArtefactAltered, RecordError
from reprobox.records.digests import (
    FileDigest,
    Sha256,
    canonical_json,
    digest_bytes,
    digest_file,
    digest_files,
    digest_json,
    parse_sha256,
    require_file,
)

SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

texts = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def test_sha256_is_the_published_vector(tmp_path: Path) -> None:
    """The digest of `abc` is the one in FIPS 180-2, from bytes and from a file."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert digest_bytes(b"abc") == SHA256_OF_ABC
    assert digest_file(tmp_path / "abc") == FileDigest(sha256=Sha256(SHA256_OF_ABC), size_bytes=3)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 5])
def test_file_digest_is_that_of_its_bytes(tmp_path: Path, size: int) -> None:
    """However the size relates to the buffer, a file hashes to the sha256 of all its bytes."""
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    found = digest_file(tmp_path / "file")
    assert (found.sha256, found.size_bytes) == (hashlib.sha256(data).hexdigest(), size)


def test_agrees_with_sha256sum(tmp_path: Path) -> None:
    """Anybody with coreutils finds the same digest."""
    (tmp_path / "file").write_bytes(os.urandom(5000))
    printed = subprocess.run(["sha256sum", tmp_path / "file"], capture_output=True, text=True, check=True).stdout
    assert printed.split()[0] == digest_file(tmp_path / "file").sha256


def test_many_files_hash_as_each_alone(tmp_path: Path) -> None:
    """The number of workers changes neither digests nor their order, which is that of the arguments."""
    paths = [tmp_path / f"{i:03}" for i in reversed(range(40))]
    for path in paths:
        path.write_bytes(path.name.encode() * 1000)
    expected = {path: digest_file(path) for path in paths}
    for workers in (1, 2, 8, None):
        found = digest_files([*paths, paths[0]], workers)
        assert found == expected
        assert list(found) == paths


@pytest.mark.parametrize("workers", [1, 4])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, workers: int) -> None:
    """Missing files are record errors that name the first one, not tracebacks."""
    (tmp_path / "there").write_bytes(b"")
    with pytest.raises(RecordError, match="first-missing: cannot be read"):
        digest_files([tmp_path / "there", tmp_path / "first-missing", tmp_path / "missing"], workers)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A FIFO would block for ever and a folder has no bytes: both are refused without being opened."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(RecordError, match="no regular file"):
        digest_file(tmp_path / "fifo")
    with pytest.raises(RecordError, match="a folder"):
        digest_file(tmp_path)


def test_an_altered_file_is_told_from_an_unreadable_one(tmp_path: Path) -> None:
    """Equal bytes pass; other bytes or another size are ArtefactAltered; a missing file is a plain RecordError."""
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    assert require_file(file, SHA256_OF_ABC, size_bytes=3).size_bytes == 3
    file.write_bytes(b"abd")
    with pytest.raises(ArtefactAltered, match="does not hash"):
        require_file(file, SHA256_OF_ABC, size_bytes=3)
    file.write_bytes(b"abcd")
    with pytest.raises(ArtefactAltered, match="4 bytes"):
        require_file(file, SHA256_OF_ABC, size_bytes=3)
    with pytest.raises(RecordError) as missing:
        require_file(tmp_path / "missing", SHA256_OF_ABC, size_bytes=3)
    assert not isinstance(missing.value, ArtefactAltered)


@pytest.mark.parametrize("text", ["", "ba78", SHA256_OF_ABC.upper(), "sha256:" + SHA256_OF_ABC, SHA256_OF_ABC + "\n"])
def test_a_sha256_has_one_spelling(text: str) -> None:
    """Only 64 lower-case hexadecimal digits pass."""
    with pytest.raises(RecordError):
        parse_sha256(text)
    assert parse_sha256(SHA256_OF_ABC) == SHA256_OF_ABC


def test_canonical_json_is_as_documented() -> None:
    """The spelling of every kind of value is fixed, to the byte."""
    value = {"b": [1, 1.0, -0.0, 1e-7, 1e16, True, None], "a": 'é"\\\n\x01\x7f/', "é": {}, "Z": (), "𐀀": 0, "\uffff": 0}
    expected = '{"Z":[],"a":"é\\"\\\\\\n\\u0001\x7f/","b":[1,1.0,-0.0,1e-07,1e+16,true,null],"é":{},"\uffff":0,"𐀀":0}'
    assert canonical_json(value) == expected.encode()
    assert digest_json(value) == hashlib.sha256(expected.encode()).hexdigest()


@given(json_values)
def test_canonical_json_parses_back(value: Any) -> None:
    """parse ∘ render is the identity, and rendering again changes nothing."""
    rendered = canonical_json(value)
    parsed = json.loads(rendered)
    assert parsed == value
    assert canonical_json(parsed) == rendered


@given(st.dictionaries(texts, st.integers(), min_size=2))
def test_canonical_json_ignores_insertion_order(value: dict[str, int]) -> None:
    """Two dictionaries with the same members have one spelling."""
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_keep_their_bits(value: float) -> None:
    """A float reads back to the same double, its sign of zero included."""
    parsed = json.loads(canonical_json(value))
    assert parsed == value
    assert math.copysign(1, parsed) == math.copysign(1, value)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [0, math.nan]}, r"\$\.a\[1\] is nan"),
        (math.inf, r"\$ is inf"),
        ({"a": {1: 2}}, r"\$\.a has a key that is no string"),
        ({"a": b"bytes"}, r"\$\.a is of type bytes"),
        (["\ud800"], r"\$\[0\] has half a surrogate pair"),
        ({"\ud800": 1}, "half a surrogate pair"),
    ],
)
def test_what_json_cannot_say_is_refused_by_place(value: Any, place: str) -> None:
    """No value is rounded or replaced in silence: the error says where it stands."""
    with pytest.raises(RecordError, match=place):
        canonical_json(value)


def test_endless_nesting_is_refused() -> None:
    """A value that holds itself is an error, not a crash."""
    value: list[Any] = []
    value.append(value)
    with pytest.raises(RecordError, match="too deeply"):
        canonical_json(value)
