"""Checkpoints as files: whole or not at all, and one altered bit is noticed."""

from __future__ import annotations

import json
import math
import os
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from reprobox.records.models.content import digest_content
from reprobox.runtime import StateError, StateMismatch, StateUnreadable, load_checkpoint, save_checkpoint
from reprobox.runtime.file import read_file, write_file
from reprobox.runtime.tree import decode, encode

_leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=20)
    | st.integers(0, 3).map(lambda n: np.arange(n, dtype=np.float32)) | st.just(np.float64("-0.0"))
)  # fmt: skip
_keys = st.text(max_size=5) | st.integers() | st.tuples(st.text(max_size=2), st.booleans())
_trees = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(_keys, inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray | np.generic):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, float):
        return type(b) is float and (struct.pack("<d", a) == struct.pack("<d", b) or (math.isnan(a) and math.isnan(b)))
    return type(a) is type(b) and a == b


@settings(max_examples=200, deadline=None)
@given(_trees)
def test_values_come_back_as_they_were(value: Any) -> None:
    """decode∘json∘encode is the identity, type by type and bit by bit, and the order of keys stays."""
    document, arrays = encode(value, "values")
    assert _equal(decode(json.loads(json.dumps(document)), arrays), value)


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, np.array(["a"]), np.array([1 + 2j]), np.array([object()]), {"deep": [print]}, 1j]
)
def test_what_cannot_be_kept_is_refused(value: Any, tmp_path: Path) -> None:
    """A value of a type that JSON and arrays do not have is an error that says where it is; the old file stays."""
    save_checkpoint(tmp_path / "c", values=1)
    with pytest.raises(StateError, match=r"values.*cannot be kept"):
        save_checkpoint(tmp_path / "c", values={"name": value})
    assert load_checkpoint(tmp_path / "c") == 1


def _write_sample(path: Path) -> bytes:
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array([1, -1], dtype=np.int8)}
    save_checkpoint(path, values={"step": 7, "arrays": arrays})
    return path.read_bytes()


def test_one_flipped_bit_anywhere(tmp_path: Path) -> None:
    """Whatever bit of a file is altered, it is refused."""
    data = _write_sample(tmp_path / "c")
    draw = random.Random(1)
    for position in draw.sample(range(len(data) * 8), 1500):
        altered = bytearray(data)
        altered[position // 8] ^= 1 << position % 8
        (tmp_path / "c").write_bytes(bytes(altered))
        with pytest.raises(StateUnreadable):
            read_file(tmp_path / "c")


def test_a_cut_file(tmp_path: Path) -> None:
    """A file that ends early, or goes on, is refused with words that say so."""
    data = _write_sample(tmp_path / "c")
    for kept in [*range(0, len(data), 97), len(data) - 1]:
        (tmp_path / "c").write_bytes(data[:kept])
        with pytest.raises(StateUnreadable, match="no whole checkpoint"):
            read_file(tmp_path / "c")
    (tmp_path / "c").write_bytes(data + b"\0")
    with pytest.raises(StateUnreadable):
        read_file(tmp_path / "c")


@pytest.mark.parametrize("shape", [[-1, -6], [1 << 62, 1 << 62], ["2"], None, [2.5]])
def test_a_hostile_header(tmp_path: Path, shape: Any) -> None:
    """A header that says what cannot be is refused before anything of that size is made."""
    header = {"__metadata__": {"schema": "reprobox-checkpoint/1", "digest": "", "recipe": "", "state": "{}"},
              "a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 24]}}  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    (tmp_path / "c").write_bytes(struct.pack("<Q", len(text)) + text + bytes(24))
    with pytest.raises(StateUnreadable):
        read_file(tmp_path / "c")


def test_equal_states_are_equal_bytes(tmp_path: Path) -> None:
    """A file depends on the state alone."""
    random.seed(1)
    first = _write_sample(tmp_path / "a")
    random.seed(1)
    assert _write_sample(tmp_path / "b") == first


def test_other_programs_read_it(tmp_path: Path) -> None:
    """The file is a safetensors file: that library reads its arrays, and `reprobox digest` their content."""
    _write_sample(tmp_path / "c.safetensors")
    with safe_open(tmp_path / "c.safetensors", framework="numpy") as opened:
        assert np.array_equal(opened.get_tensor("values/arrays/w"), np.arange(6, dtype=np.float32).reshape(2, 3))
        assert opened.metadata()["schema"] == "reprobox-checkpoint/1"
    assert digest_content(tmp_path / "c.safetensors") is not None


def test_the_old_state_until_the_new_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails while the new state is written leaves the old one, and the next writing succeeds."""
    write_file(tmp_path / "c", {"state": 1}, {})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError):
            write_file(tmp_path / "c", {"state": 2}, {})
    assert read_file(tmp_path / "c")[0] == {"state": 1}
    write_file(tmp_path / "c", {"state": 3}, {})
    assert read_file(tmp_path / "c")[0] == {"state": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    """A file of another kind is refused, not run."""
    import pickle

    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "touched",))

    (tmp_path / "c").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(StateUnreadable):
        load_checkpoint(tmp_path / "c")
    assert not (tmp_path / "touched").exists()


def test_objects_are_the_same_ones(tmp_path: Path) -> None:
    """Objects missing or too many are told before anything is changed."""
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none")
    save_checkpoint(tmp_path / "c", values=None)
    random.seed(3)
    state = random.getstate()
    with pytest.raises(StateMismatch, match="holds no objects; given were model"):
        load_checkpoint(tmp_path / "c", objects={"model": object()})
    assert random.getstate() == state
