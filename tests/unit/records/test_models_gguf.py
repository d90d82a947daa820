"""GGUF files: plain and quantised tensors, and files that are damaged or mean harm."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprobox.errors import RecordError
from reprobox.records.models.content import NoContent, detect_format, examine_content, list_tensors
from reprobox.records.models.gguf import _TYPES
from tests.unit.records.model_files import digest

FIXTURES = Path(__file__).parent / "fixtures" / "gguf"


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor(name: bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    sizes = b"".join(struct.pack("<Q", size) for size in shape)
    return text(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, offset)


def build(*tensors: bytes, pairs: tuple[bytes, ...] = (), data: bytes = bytes(64), version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def outcome(path: Path) -> str:
    try:
        content = examine_content(path, "gguf")
    except RecordError as error:
        return error.message if str(path) in error.message else "the message names no file"
    return content.reason if isinstance(content, NoContent) else ""


def test_plain_tensors_are_what_numpy_holds() -> None:
    """Types and shapes are the ones that the tensors were written with; metadata do not show."""
    assert detect_format(FIXTURES / "plain.gguf") == "gguf"
    assert digest(FIXTURES / "plain.gguf") == digest(FIXTURES / "plain.npz")


def test_quantised_tensors_are_blocks_with_a_type() -> None:
    """A quantised tensor has its own type, the shape of what it stands for, and the bytes of its blocks."""
    found = {item.name: item for item in list_tensors(FIXTURES / "quantised.gguf", "gguf")}
    assert [(item.dtype, item.shape, item.nbytes) for item in found.values()] == [
        ("bfloat16", (4, 64), 512),
        ("ggml_q4_0", (4, 64), 144),
        ("ggml_q8_0", (4, 64), 272),
    ]


def test_block_sizes_are_those_of_the_reference() -> None:
    """Each type that is read has the block that the reference implementation gives it."""
    lines = (line.split() for line in (FIXTURES / "sizes.txt").read_text().splitlines())
    reference = {int(kind): (int(items), int(size)) for kind, items, size in lines}
    # The reference's table has 40 bytes for q8_1, whose block has two 16-bit numbers and 32 bytes.
    assert {kind: sizes for kind, (_, *sizes) in _TYPES.items() if kind != 9} == {
        kind: list(reference[kind]) for kind in _TYPES if kind != 9
    }


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (build(tensor(b"a", (8,), 0, 0), tensor(b"b", (8,), 0, 0)), "overlaps"),
        (build(tensor(b"a", (17,), 0, 0)), "over the end"),
        (build(tensor(b"a", (4,), 0, 3)), "not aligned"),
        (build(tensor(b"a", (4,), 0, 1 << 63)), "over the end"),
        (build(tensor(b"a", (1 << 61, 1 << 61), 0, 0)), "over the end"),
        (build(tensor(b"a", (1 << 63,), 0, 0)), "no size"),
        (build(tensor(b"a", (1,) * 5, 0, 0)), "5 dimensions"),
        (build(tensor(b"a", (31,), 2, 0)), "multiple of 32"),
        (build(tensor(b"a", (4,), 77, 0)), "unknown type 77"),
        (build(tensor(b"a", (4,), 0, 0), tensor(b"a", (4,), 0, 32)), "two tensors"),
        (build(tensor(b"\xff", (4,), 0, 0)), "cannot be read"),
        (build(version=1), "version 1"),
        (build(version=3 << 24), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "holds"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "holds"),
        (build(pairs=(text(b"k") + struct.pack("<I", 99),)), "unknown type 99"),
        (build(pairs=(text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 60),)), "metadata"),
        (build(pairs=(text(b"k") + struct.pack("<IIQ", 9, 0, 1 << 60),)), "over the end"),
        (build(pairs=(text(b"k") + struct.pack("<IQ", 8, 1 << 62),)), "over the end"),
        (build(pairs=(text(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9,)), "unknown type 9"),
        (build(pairs=(text(b"general.alignment") + struct.pack("<II", 4, 0),)), "alignment of 0"),
        (build(pairs=(text(b"general.alignment") + struct.pack("<II", 4, 48),)), "alignment of 48"),
        (build(pairs=(text(b"split.count") + struct.pack("<IH", 2, 3),)), "several parts"),
        (b"GGUF", "too early"),
    ],
)
def test_headers_that_lie(tmp_path: Path, data: bytes, reason: str) -> None:
    """Counts, lengths, offsets and types that do not fit the file: an error or no digest."""
    (tmp_path / "x.gguf").write_bytes(data)
    assert reason in outcome(tmp_path / "x.gguf")


def test_damage(tmp_path: Path) -> None:
    """100 bits flipped inside tensors are noticed; flips and cuts anywhere end in an outcome."""
    path = tmp_path / "x.gguf"
    good, before = (FIXTURES / "plain.gguf").read_bytes(), digest(FIXTURES / "plain.gguf")
    sizes = {item.name: item.nbytes for item in list_tensors(FIXTURES / "plain.gguf", "gguf")}
    dice = random.Random(3)
    start = len(good) - sum(size + -size % 32 for size in sizes.values() if size)
    places = list(range(start, start + sizes["token_embd.weight"]))
    for _ in range(100):
        data = bytearray(good)
        data[dice.choice(places)] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
        assert digest(path) != before
    for turn in range(400):
        data = bytearray(good)
        if turn % 2:
            data = data[: dice.randrange(start)]
        else:
            data[dice.randrange(start)] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
        assert outcome(path) or not turn % 2


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 5), st.integers(0, 5))
def test_any_bytes_end_in_an_outcome(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, tensors: int, pairs: int
) -> None:
    """Whatever follows the first bytes, reading has an end that the interface names."""
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + data)
    outcome(path)
