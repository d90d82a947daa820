"""TensorFlow checkpoints and SavedModels: tensors, names, and files that are damaged or mean harm."""

from __future__ import annotations

import random
import shutil
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprobox.errors import RecordError
from reprobox.records.models.content import (
    NoContent,
    detect_format,
    digest_architecture,
    digest_optimizer,
    examine_content,
    list_tensors,
)
from reprobox.records.models.table import MAGIC, checksum, mask_checksum
from reprobox.records.models.tensorflow import list_companions
from reprobox.records.models.tf_graph import Attribute, Node
from reprobox.records.models.tf_names import name_checkpoint
from tests.unit.records.model_files import digest, reference_digest

FIXTURES = Path(__file__).parent / "fixtures" / "keras"


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


def block(entries: Sequence[tuple[bytes, bytes]], kind: int = 0, restarts: int | None = None) -> bytes:
    data = b"".join(varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in entries)
    data += struct.pack("<II", 0, 1 if restarts is None else restarts)
    data += bytes([kind])
    return data + struct.pack("<I", mask_checksum(checksum(data)))


def table(entries: Sequence[tuple[bytes, bytes]], *, handles: Sequence[bytes] | None = None, **options: Any) -> bytes:
    data = block(entries, **options)
    index = block([(b"\xff", handle) for handle in handles or [varint(0) + varint(len(data) - 5)]])
    footer = varint(0) + varint(0) + varint(len(data)) + varint(len(index) - 5)
    return data + index + footer.ljust(40, b"\0") + MAGIC


def entry(dtype: int, shape: tuple[int, ...], data: bytes, offset: int = 0, **changes: Any) -> bytes:
    sizes = b"".join(field(2, field(1, size)) for size in shape)
    crc = changes.get("crc", mask_checksum(checksum(data)))
    encoded = field(1, dtype) + field(2, sizes) + field(3, changes.get("shard", 0)) + field(4, offset)
    return encoded + field(5, changes.get("size", len(data))) + varint(6 << 3 | 5) + struct.pack("<I", crc)


HEADER = (b"", field(1, 1))


def write(folder: Path, index: bytes, data: bytes = b"") -> Path:
    (folder / "x.index").write_bytes(index)
    (folder / "x.data-00000-of-00001").write_bytes(data)
    return folder / "x.index"


def outcome(path: Path, format: str = "tf-checkpoint") -> str:
    try:
        content = examine_content(path, format)
    except RecordError as error:
        return error.message
    return content.reason if isinstance(content, NoContent) else ""


class TestReading:
    def test_one_model_has_one_digest_in_all_formats(self) -> None:
        """Keras's own files, a checkpoint, an exported and a saved model: compiled, fitted and nested."""
        files = ["m.keras", "m.weights.h5", "m.h5", "checkpoint/m.index", "export", "export/saved_model.pb", "saved"]
        digests = {name: digest(FIXTURES / name) for name in files}
        assert len(set(digests.values())) == 1, digests
        assert detect_format(FIXTURES / "checkpoint/m.index") == "tf-checkpoint"
        assert detect_format(FIXTURES / "saved") == detect_format(FIXTURES / "saved/saved_model.pb") == "savedmodel"

    def test_architecture_and_optimizer_have_their_own(self) -> None:
        """`.keras` and `.h5` of one model agree on both; what has neither says so."""
        for digest_part, files in (
            (digest_architecture, ("m.keras", "m.h5")),
            (digest_optimizer, ("m.keras", "m.h5", "m.weights.h5")),
        ):
            found = {digest_part(FIXTURES / name) for name in files}
            assert len(found) == 1
            assert None not in found
        assert digest_architecture(FIXTURES / "m.weights.h5") is None
        assert digest_optimizer(FIXTURES / "export") is None

    def test_an_architecture_counts_and_its_numbers_do_not(self, tmp_path: Path) -> None:
        """Another activation is another architecture; other numbers of layers, dates and identities are not."""
        with zipfile.ZipFile(FIXTURES / "m.keras") as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        before = digest_architecture(FIXTURES / "m.keras")
        config = members["config.json"].decode()

        def rewrite(text: str) -> Any:
            with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
                for name, data in members.items():
                    archive.writestr(name, text if name == "config.json" else data)
            return digest_architecture(tmp_path / "m.keras")

        assert rewrite(config.replace('"dense_1"', '"dense_41"').replace('"dense"', '"dense_7"')) == before
        assert rewrite(config.replace('"linear"', '"relu"')) != before
        assert rewrite(config.replace('"units": 3', '"units": 1e999')) not in (before, None)
        for broken in ('{"config"', "[]", config.replace('"linear"', '"\\ud800"'), "[" * 100_000):
            with pytest.raises(RecordError, match=r"m\.keras"):
                rewrite(broken)
        assert rewrite(config.replace('"units": 3', '"units": 4')) != before

    def test_what_is_no_keras_model_keeps_its_own_names(self) -> None:
        """Variables of a tf.Module are called by the objects that lead to them; strings and counters are read."""
        found = {t.name: (t.dtype, t.shape) for t in list_tensors(FIXTURES / "checkpoint/plain.index", "tf-checkpoint")}
        assert found == {"module/v/0": ("float32", (2,)), "module/v/1": ("string", (2,)), "step": ("int32", ())}

    def test_a_checkpoint_without_a_graph_keeps_its_keys(self, tmp_path: Path) -> None:
        """As TensorFlow 1 wrote them; types, big-endian data and several data files included."""
        arrays = {"a/w": np.arange(6, dtype="f4").reshape(2, 3), "b": np.array(7, "i8")}
        for order in "<>":
            data = [array.astype(array.dtype.newbyteorder(order)).tobytes() for array in arrays.values()]
            header = (b"", field(1, 2) + (field(2, 1) if order == ">" else b""))
            rows = [header, (b"a/w", entry(1, (2, 3), data[0])), (b"b", entry(9, (), data[1], shard=1))]
            (tmp_path / "x.index").write_bytes(table(rows))
            for shard, piece in enumerate(data):
                (tmp_path / f"x.data-0000{shard}-of-00002").write_bytes(piece)
            assert digest(tmp_path / "x.index") == reference_digest(arrays)
        assert [path.name for path in list_companions(tmp_path / "x.index", "tf-checkpoint")] == [
            "x.data-00000-of-00002",
            "x.data-00001-of-00002",
        ]

    def test_assets_count(self, tmp_path: Path) -> None:
        """A vocabulary beside the variables is content."""
        shutil.copytree(FIXTURES / "saved", tmp_path / "m")
        found = {digest(tmp_path / "m")}
        for text in ("a\nb", "b\na"):
            (tmp_path / "m" / "assets").mkdir(exist_ok=True)
            (tmp_path / "m" / "assets" / "vocabulary.txt").write_text(text)
            found.add(digest(tmp_path / "m"))
        assert len(found) == 3
        assert {path.name for path in list_companions(tmp_path / "m", "savedmodel")} == {
            "variables.index",
            "variables.data-00000-of-00001",
            "vocabulary.txt",
        }

    def test_a_folder_without_variables_has_none(self, tmp_path: Path) -> None:
        """A SavedModel that was not saved to its end is no model."""
        (tmp_path / "saved_model.pb").write_bytes((FIXTURES / "saved/saved_model.pb").read_bytes())
        assert "has no variables" in outcome(tmp_path, "savedmodel")


class TestNames:
    def graph(self, *nodes: tuple[dict[str, int], str]) -> list[Node]:
        return [
            Node(
                children=tuple(children.items()),
                attributes=(Attribute(name="VARIABLE_VALUE", full_name=name, key=f"k{number}"),) if name else (),
                slots=(),
            )
            for number, (children, name) in enumerate(nodes)
        ]

    def test_optimizers_and_counters_are_left_out(self) -> None:
        """What only an optimizer leads to, a counter of saves and a random generator are no content."""
        nodes = self.graph(
            ({"w": 1, "optimizer": 2, "save_counter": 4, "g": 5}, ""),
            ({}, "w"),
            ({"m": 3, "of": 1}, ""),
            ({}, "adam/m"),
            ({}, "save_counter"),
            ({"state": 6}, ""),
            ({}, "seed_generator_3/seed_generator_state"),
        )
        assert name_checkpoint(nodes) == {"k1": "w"}

    def test_cycles_end(self) -> None:
        """Objects that lead to each other are visited once."""
        nodes = self.graph(
            ({"a": 1, "_layers": 2}, ""), ({"b": 0, "c": 1}, ""), ({"0": 1, "1": 0, "2": 2, "3": 3}, ""), ({}, "d/w")
        )
        assert name_checkpoint(nodes) == {"k3": "d/0"}

    def test_a_long_way_is_no_long_memory(self) -> None:
        """A chain of objects without an end, and a wide tree at the end of one, are given up."""
        chain = [({"c": number + 1}, "") for number in range(200_000)]
        with pytest.raises(ValueError, match="more than 4096"):
            name_checkpoint(self.graph(*chain, ({}, "w")))
        assert name_checkpoint(self.graph(*chain, ({}, ""))) == {}
        wide = {str(number): number + 2 for number in range(1000)}
        ends = [({}, "w")] * 1000
        assert len(name_checkpoint(self.graph(({"x" * 4000: 1}, ""), (wide, ""), *ends))) == 1000

    def test_lost_names_are_not_guessed(self) -> None:
        """Where a nested layer's outer one is not known, all variables are called by their objects."""
        nodes = self.graph(
            ({"_operations": 1}, ""),
            ({"0": 2, "1": 4}, ""),
            ({"cell": 3}, ""),
            ({"kernel": 5}, ""),
            ({"kernel": 6}, ""),
            ({}, "lstm_cell/kernel"),
            ({}, "dense/kernel"),
        )
        assert name_checkpoint(nodes) == {"k5": "_operations/0/cell/kernel", "k6": "_operations/1/kernel"}


class TestHostile:
    data = bytes(range(24))

    @pytest.mark.parametrize(
        ("index", "reason"),
        [
            (table([HEADER, (b"a", entry(1, (6,), data))]), ""),
            (table([HEADER, (b"a", entry(1, (6,), data, crc=1))]), "does not have its checksum"),
            (table([HEADER, (b"a", entry(1, (7,), data))]), "has 24 bytes"),
            (table([HEADER, (b"a", entry(1, (1 << 61, 1 << 61), data))]), "a size that is none"),
            (table([HEADER, (b"a", entry(1, ((1 << 64) - 1,), data))]), "a size that is none"),
            (table([HEADER, (b"a", entry(1, (1,) * 65, data))]), "more than 64 dimensions"),
            (table([HEADER, (b"a", entry(1, (6,), data, offset=1))]), "over the end"),
            (table([HEADER, (b"a", entry(1, (6,), data, offset=(1 << 64) - 1))]), "a size that is none"),
            (table([HEADER, (b"a", entry(1, (6,), data, size=1 << 40))]), "over the end"),
            (table([HEADER, (b"a", entry(1, (6,), data, shard=3))]), "data file 3"),
            (table([HEADER, (b"a", entry(21, (6,), data))]), "unknown type 21"),
            (table([HEADER, (b"a", entry(7, (1 << 40,), data))]), "strings in 24 bytes"),
            (table([HEADER, (b"a", entry(7, (2,), data))]), "lengths of the strings"),
            (table([HEADER, (b"a", entry(1, (6,), data) + field(7, b""))]), "in slices"),
            (table([HEADER, (b"a" * 5000, entry(1, (6,), data))]), "longer than 4096"),
            (table([HEADER, (b"\xff", entry(1, (6,), data))]), "cannot be read"),
            (table([HEADER, (b"_CHECKPOINTABLE_OBJECT_GRAPH", entry(1, (6,), data))]), "lengths of the strings"),
            (table([HEADER, (b"b", entry(1, (6,), data)), (b"a", entry(1, (6,), data))]), "out of order"),
            (table([HEADER, (b"a", b""), (b"a", b"")]), "out of order"),
            (table([(b"a", entry(1, (6,), data))]), "no header"),
            (table([]), "no header"),
            (table([HEADER]), "no variables"),
            (table([(b"", field(1, 1 << 40))]), "data files"),
            (table([(b"", field(1, 1) + field(2, 7))]), "byte order"),
            (table([HEADER, (b"a", b"\xff" * 11)]), "64 bits"),
            (table([HEADER], kind=1), "compressed"),
            (table([HEADER], restarts=1 << 30), "more restarts"),
            (table([HEADER], handles=[varint(1 << 40) + varint(4)]), "over the end"),
            (table([HEADER], handles=[varint(0) + varint(1 << 63)]), "over the end"),
            (table([HEADER], handles=[varint(2) + varint(9)]), "checksum"),
            (table([HEADER], handles=[b"\xff" * 11]), "64 bits"),
            (table([HEADER, (b"a", entry(1, (6,), data))], handles=[varint(0) + varint(len(block([HEADER, (b"a", entry(1, (6,), data))])) - 5)] * 2), "overlaps"),
            (table([HEADER])[:-1], "none of a table"),
            (b"", "too few"),
            (bytes(48), "none of a table"),
        ],
    )  # fmt: skip
    def test_indexes_that_lie(self, tmp_path: Path, index: bytes, reason: str) -> None:
        """Blocks and tensors outside of the file, wrong checksums, absurd shapes: an error or no digest."""
        found = outcome(write(tmp_path, index, self.data))
        assert any(part in found for part in reason.split("|"))
        assert bool(found) is bool(reason)

    def test_data_files_that_are_missing_or_none(self, tmp_path: Path) -> None:
        """What the index needs and is not there, or is a folder, is an error that names it."""
        path = write(tmp_path, table([HEADER, (b"a", entry(1, (6,), self.data))]), self.data)
        (tmp_path / "x.data-00000-of-00001").unlink()
        assert "x.data-00000-of-00001, which it needs, is not there" in outcome(path)
        (tmp_path / "x.data-00000-of-00001").mkdir()
        assert "is no file" in outcome(path)

    @pytest.mark.parametrize(
        ("model", "place"),
        [
            ("checkpoint/m.index", "checkpoint/m.data-00000-of-00001"),
            ("export", "export/variables/variables.data-00000-of-00001"),
        ],
    )
    def test_flips_in_tensor_data_are_noticed(self, tmp_path: Path, model: str, place: str) -> None:
        """100 bits flipped in the data of a checkpoint, and of a SavedModel: each is a failed checksum."""
        shutil.copytree(FIXTURES, tmp_path, dirs_exist_ok=True)
        # Without functions, a graph takes no time to read; names do not matter here.
        (tmp_path / "export/saved_model.pb").write_bytes(field(2, b""))
        format = detect_format(tmp_path / model) or ""
        good, dice = (tmp_path / place).read_bytes(), random.Random(8)
        pieces = [b"".join(map(bytes, tensor.chunks())) for tensor in list_tensors(tmp_path / model, format)]
        places = [good.index(piece) + step for piece in pieces for step in range(len(piece))]
        for _ in range(100):
            data = bytearray(good)
            data[dice.choice(places)] ^= 1 << dice.randrange(8)
            (tmp_path / place).write_bytes(data)
            assert "does not have its checksum" in outcome(tmp_path / model, format)

    @pytest.mark.parametrize(
        "name", ["variables/variables.index", "variables/variables.data-00000-of-00001", "saved_model.pb"]
    )
    def test_flips_and_cuts_never_crash(self, tmp_path: Path, name: str) -> None:
        """Whatever is flipped or cut off in any file of a SavedModel: an outcome that the interface names."""
        shutil.copytree(FIXTURES / "saved", tmp_path / "m")
        path = tmp_path / "m" / name
        good, dice = path.read_bytes(), random.Random(name)
        if name != "saved_model.pb":
            (tmp_path / "m" / "saved_model.pb").write_bytes(field(2, b""))
        for turn in range(60 if name == "saved_model.pb" else 300):
            data = bytearray(good)
            if turn % 2:
                data = data[: dice.randrange(len(data))]
            else:
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            path.write_bytes(data)
            found = outcome(tmp_path / "m", "savedmodel")
            assert found or not turn % 2 or name.endswith(("pb", "00001"))

    @settings(deadline=None, max_examples=150)
    @given(st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=30)), max_size=6), st.binary(max_size=60))
    def test_any_entries_end_in_an_outcome(
        self, tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[bytes, bytes]], graph: bytes
    ) -> None:
        """A table with good checksums and any content: reading it has an end that the interface names."""
        folder = tmp_path_factory.getbasetemp()
        lengths = varint(len(graph))
        crc = checksum(struct.pack("<I", len(graph)))
        stored = struct.pack("<I", mask_checksum(crc))
        data = lengths + stored + graph
        full = mask_checksum(checksum(graph, checksum(stored, crc)))
        known = (b"_CHECKPOINTABLE_OBJECT_GRAPH", entry(7, (), data, crc=full))
        ordered = sorted({key: value for key, value in rows if key and key < b"Z"}.items())
        outcome(write(folder, table([HEADER, *ordered, known]), data))
