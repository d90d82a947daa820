"""ONNX models: tensors wherever they lie, and files that are damaged or mean harm."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprobox.errors import RecordError
from reprobox.records.models.content import NoContent, detect_format, examine_content, list_tensors
from reprobox.records.models.onnx import list_external_files
from reprobox.records.models.protobuf import parse_varint
from tests.unit.records.model_files import digest

FIXTURES = Path(__file__).parent / "fixtures" / "onnx"


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name: bytes, dtype: int, shape: tuple[int, ...], *parts: bytes) -> bytes:
    return b"".join(field(1, size) for size in shape) + field(2, dtype) + field(8, name) + b"".join(parts)


def model(*initializers: bytes, nodes: tuple[bytes, ...] = ()) -> bytes:
    graph = b"".join(field(1, node) for node in nodes) + b"".join(field(5, item) for item in initializers)
    return field(1, 9) + field(7, graph)


def external(**pairs: str) -> bytes:
    entries = (field(13, field(1, key.encode()) + field(2, value.encode())) for key, value in pairs.items())
    return b"".join(entries) + field(14, 1)


def outcome(path: Path) -> str:
    try:
        content = examine_content(path, "onnx")
    except RecordError as error:
        return error.message if str(path) in error.message else "the message names no file"
    return content.reason if isinstance(content, NoContent) else ""


class TestReading:
    def test_where_the_data_lie_does_not_matter(self) -> None:
        """Fields of their type, raw bytes and a file beside the model hold the tensors that NumPy holds."""
        files = ["typed.onnx", "raw.onnx", "external.onnx", "model.npz"]
        assert len({digest(FIXTURES / name) for name in files}) == 1
        assert detect_format(FIXTURES / "raw.onnx") == "onnx"
        assert list_external_files(FIXTURES / "external.onnx") == ("weights.bin",)

    def test_nested_graphs_and_constants_have_names(self) -> None:
        """Tensors of a branch are named below its node; a Constant's by its output."""
        found = {item.name: (item.dtype, item.shape) for item in list_tensors(FIXTURES / "nested.onnx", "onnx")}
        assert found == {
            "ints": ("int64", (2,)),
            "words": ("string", (2,)),
            "y/else_branch/w": ("float32", (2,)),
            "y/then_branch/w": ("float32", (2,)),
        }

    def test_unpacked_numbers_are_read(self, tmp_path: Path) -> None:
        """Numbers may stand one by one, as old writers wrote them."""
        one_by_one = b"".join(field(5, value & (1 << 64) - 1) for value in (1, -2, 3))
        packed = field(5, b"".join(varint(value & (1 << 64) - 1) for value in (1, -2, 3)))
        for name, part in (("a", one_by_one), ("b", packed)):
            (tmp_path / f"{name}.onnx").write_bytes(model(tensor(b"x", 6, (3,), part)))
        np.savez(tmp_path / "c.npz", x=np.array([1, -2, 3], "i4"))
        assert len({digest(tmp_path / name) for name in ("a.onnx", "b.onnx", "c.npz")}) == 1


class TestHostile:
    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (model(tensor(b"x", 1, (2,), field(9, bytes(4)))), "has 4 bytes"),
            (model(tensor(b"x", 1, (2,), field(4, bytes(4)))), "another number of elements"),
            (model(tensor(b"x", 6, (2,), field(5, b"\x01"))), "has 1 elements"),
            (model(tensor(b"x", 3, (1,), field(5, varint(300)))), "which its type has not"),
            (model(tensor(b"x", 1, (1 << 40,), field(9, bytes(4)))), "has 4 bytes"),
            (model(tensor(b"x", 1, (1 << 61,) * 64, field(9, bytes(4)))), "has 4 bytes"),
            (model(tensor(b"x", 1, (1,) * 65, field(9, bytes(4)))), "dimensions"),
            (model(tensor(b"x", 1, (2**64 - 1,), field(9, bytes(4)))), "absurd"),
            (model(tensor(b"x", 99, (1,), field(9, bytes(4)))), "unknown type 99"),
            (model(tensor(b"x", 1, (1,), field(9, bytes(4)), field(7, b"\x01"))), "does not use"),
            (model(tensor(b"x", 1, (1,), field(9, bytes(4))), tensor(b"x", 1, (1,), field(9, bytes(4)))), "two of its"),
            (model(tensor(b"x" * 5000, 1, (1,), field(9, bytes(4)))), "a text of 5000 bytes"),
            (model(tensor(b"x", 8, (3,), field(6, b"a"))), "1 strings"),
            (model(tensor(b"x", 1, (1,), external(location="../x"))), "no path below"),
            (model(tensor(b"x", 1, (1,), external(location="/etc/passwd"))), "no path below"),
            (model(tensor(b"x", 1, (1,), external(location="a/../../x"))), "no path below"),
            (model(tensor(b"x", 1, (1,), external(location=""))), "no path below"),
            (model(tensor(b"x", 1, (1,), external(location="nowhere"))), "is not there"),
            (model(tensor(b"x", 1, (1,), external(location="beside", offset="-1"))), "no position"),
            (model(tensor(b"x", 1, (1,), external(location="beside", offset="14"))), "over the end"),
            (model(tensor(b"x", 1, (1,), external(location="beside", length="5"))), "has 5 bytes"),
            (model(tensor(b"x", 1, (1 << 40,), external(location="beside"))), "over the end"),
            (model(tensor(b"x", 1, (1,), external(location="folder"))), "is no file"),
            (field(7, field(15, b"")), "sparse"),
            (model(), "holds no tensors"),
            (b"", "holds no tensors"),
            (field(7, b"")[:-1] + b"\x05", "over the end"),
            (b"\x80" * 11, "more than 64 bits"),
            (b"\xff" * 9 + b"\x7f", "more than 64 bits"),
            (b"\x00", "without a number"),
            (b"\x0b", "unknown kind"),
        ],
    )  # fmt: skip
    def test_what_does_not_fit_ends_with_a_reason(self, tmp_path: Path, data: bytes, reason: str) -> None:
        """Sizes that disagree, paths that lead out, fields that reach over their message: an error or no digest."""
        (tmp_path / "beside").write_bytes(bytes(16))
        (tmp_path / "folder").mkdir()
        (tmp_path / "x.onnx").write_bytes(data)
        assert reason in outcome(tmp_path / "x.onnx")

    def test_graphs_in_graphs_end_at_a_limit(self, tmp_path: Path) -> None:
        """Nesting is cut at a fixed depth, whatever the file says."""
        graph = b""
        for _ in range(200):
            graph = field(1, field(2, b"y") + field(4, b"If") + field(5, field(1, b"then_branch") + field(6, graph)))
        (tmp_path / "x.onnx").write_bytes(field(7, graph))
        assert "levels deep" in outcome(tmp_path / "x.onnx")

    @pytest.mark.parametrize("name", ["typed.onnx", "raw.onnx", "external.onnx", "nested.onnx"])
    def test_flips_and_cuts_never_crash(self, tmp_path: Path, name: str) -> None:
        """Bits flipped or bytes cut off anywhere: a digest, no digest, or an error that names the file."""
        shutil.copytree(FIXTURES, tmp_path, dirs_exist_ok=True)
        path = tmp_path / name
        good, dice = path.read_bytes(), random.Random(name)
        for turn in range(250):
            data = bytearray(good)
            if turn % 2:
                data = data[: dice.randrange(len(data))]
            else:
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            path.write_bytes(data)
            outcome(path)

    def test_flips_in_tensor_data_are_noticed(self, tmp_path: Path) -> None:
        """100 bits flipped where tensors lie, in the model and beside it: no digest is kept."""
        shutil.copytree(FIXTURES, tmp_path, dirs_exist_ok=True)
        before = digest(tmp_path / "raw.onnx")
        with np.load(FIXTURES / "model.npz") as arrays:
            pieces = [arrays[name].tobytes() for name in arrays.files if arrays[name].nbytes >= 4]
        dice = random.Random(4)
        for name, model_name in (("raw.onnx", "raw.onnx"), ("weights.bin", "external.onnx")):
            path = tmp_path / name
            good = path.read_bytes()
            places = [place for piece in pieces for place in range(good.index(piece), good.index(piece) + len(piece))]
            for _ in range(100):
                data = bytearray(good)
                data[dice.choice(places)] ^= 1 << dice.randrange(8)
                path.write_bytes(data)
                assert digest(tmp_path / model_name) != before
            path.write_bytes(good)

    @settings(deadline=None)
    @given(st.integers(0, 2**64 - 1), st.binary(max_size=4))
    def test_varints_come_out_as_they_went_in(self, value: int, tail: bytes) -> None:
        """Any number of 64 bits is read back, and what follows is left alone."""
        data: Any = varint(value) + tail
        assert parse_varint(data, 0, len(data)) == (value, len(varint(value)))

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=100))
    def test_any_bytes_end_in_an_outcome(self, tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
        """Whatever a file called .onnx holds, reading it has an end that the interface names."""
        path = tmp_path_factory.getbasetemp() / "any.onnx"
        path.write_bytes(field(7, data))
        outcome(path)
