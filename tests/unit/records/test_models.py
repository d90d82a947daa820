"""Content digests: what they see and what they ignore, and how a format is told."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reprobox.errors import RecordError
from reprobox.records.models import arrays as models_arrays
from reprobox.records.models import tensors as models_tensors
from reprobox.records.models.content import (
    ContentDigest,
    NoContent,
    detect_format,
    digest_content,
    digest_tensors_of,
    examine_content,
    list_tensors,
)
from tests.unit.records.model_files import (
    Arrays,
    digest,
    make_model,
    reference_digest,
    write_hdf5,
    write_keras,
    write_legacy,
    write_weights,
)

DOCUMENT = Path(__file__).parents[3] / "docs" / "formats" / "digest-v1.md"
in_one_folder = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])

names = st.text(
    st.characters(min_codepoint=33, exclude_characters="./\\", exclude_categories=["C"]), min_size=1
).filter(lambda text: len(text.encode()) < 100)
plain_types = st.sampled_from(
    ["?", *(f"{order}{kind}" for order in "<>" for kind in ("i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "c16"))]
)
arrays_of_plain_types = st.dictionaries(
    names,
    plain_types.flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    ),
    max_size=4,
)


class TestRecipe:
    def test_the_document_s_example_holds(self, tmp_path: Path) -> None:
        """Bytes, digest and program in the format document agree with each other and with the code."""
        text = DOCUMENT.read_text(encoding="utf-8")
        _, _, example = text.partition("## An example")
        spelled = bytes.fromhex(re.findall(r"```\n([0-9a-f\n]+)```", example)[0])
        (documented,) = re.findall(r"`tensors-v1/sha256`: `([0-9a-f]{64})`", example)
        assert hashlib.sha256(spelled).hexdigest() == documented
        arrays = {"dense/0": np.array([[1, 2], [3, 4]], "<f4"), "dense/1": np.array([0.5, -0.0], "<f4")}
        program: dict[str, Any] = {}
        exec(re.findall(r"```python\n(.*?)```", example, re.DOTALL)[0], program)
        raw = {name: ("float32", array.shape, array.tobytes()) for name, array in arrays.items()}
        assert program["tensors_v1"](raw) == documented
        np.savez(tmp_path / "x.npz", **arrays)
        safetensors.numpy.save_file(arrays, tmp_path / "x.safetensors")
        with h5py.File(tmp_path / "x.weights.h5", "w") as file:
            for index, array in enumerate(arrays.values()):
                file[f"layers/dense/vars/{index}"] = array
            file["layers/dense/vars"].attrs["name"] = "dense_17"
        assert {digest(tmp_path / name) for name in ("x.npz", "x.safetensors", "x.weights.h5")} == {documented}

    def test_golden(self, tmp_path: Path) -> None:
        """These digests are in records that exist: they may never change."""
        arrays = {
            "b": np.array([True, False]),
            "ä/x": np.arange(-3, 3, dtype=">i8").reshape(2, 3),
            "a": np.array(1.5, "f2"),
            "s": np.array([["x", "ü"], ["", "long"]]),
            "r": np.array([(1, 2.5, b"q")], np.dtype([("n", "i1"), ("f", "f8"), ("t", "S3")], align=True)),
            "t": np.array(["2020-01-01"], "M8[s]"),
        }
        np.savez_compressed(tmp_path / "x.npz", **arrays)
        assert digest(tmp_path / "x.npz") == "7d4c0d3af608732bb3e0c560784f2fa0aedc50c9911302759ffecec5dc6c1fbf"
        np.save(tmp_path / "x.npy", arrays["ä/x"])
        assert digest(tmp_path / "x.npy") == "71416ce4b34f892c864e7b56231ede46db02e6c3ae811e30ee6372f556beba5e"
        header = b'{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"q":{"dtype":"F4","shape":[4],"data_offsets":[4,6]}}'
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\x80?\x00\xc0\x12\x34")
        assert digest(tmp_path / "x.safetensors") == "a6873c335362fcfa4ac60086c4dd3de91561f471637086437a9adb234d28c908"
        document = '{"loss": 1e-7, "n": 10, "nan": NaN, "s": "é"}'
        (tmp_path / "x.json").write_text(document, encoding="utf-8")
        assert digest_content(tmp_path / "x.json") == ContentDigest(
            recipe="json-v1/sha256", digest="1bc3c3680920d5b5d0ed991a8b62c8bacd2db5642c59f0a263937cf0ecb8bb4a"
        )

    def test_golden_keras(self, tmp_path: Path) -> None:
        """One hand-made model keeps its digest, and its names are as documented."""
        with h5py.File(tmp_path / "m.weights.h5", "w") as file:
            write_weights(file, make_model())
        found = [tensor.name for tensor in list_tensors(tmp_path / "m.weights.h5", "keras-weights-h5")]
        norm = [f"sequential/batch_normalization/{i}" for i in range(4)]
        cells = [f"bidirectional/{side}_lstm/lstm_cell/{i}" for side in ("backward", "forward") for i in range(2)]
        dense = [f"sequential/{layer}/{i}" for layer in ("dense", "dense_1") for i in range(2)]
        assert found == [*cells, "dense/0", "dense/1", *norm, *dense]
        assert digest(tmp_path / "m.weights.h5") == "12b03629a22d177a94226b513f43ff9e1b150d9818e47fbfc6428f1e8c9510d7"

    @in_one_folder
    @given(arrays_of_plain_types, st.booleans())
    def test_containers_do_not_matter(self, tmp_path: Path, arrays: Arrays, backwards: bool) -> None:
        """npz, HDF5 and safetensors of the same tensors have the digest that the specification gives them.

        Neither compression, chunks, the order of entries, byte order, memory order nor metadata shows.
        """
        expected = reference_digest(arrays)
        stored = dict(reversed(arrays.items())) if backwards else arrays
        transposed = {name: np.asarray(array, order="F") for name, array in stored.items()}
        with zipfile.ZipFile(
            tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED if backwards else zipfile.ZIP_STORED
        ) as file:
            for name, array in transposed.items():
                buffer = io.BytesIO()
                np.save(buffer, array)
                file.writestr(f"{name}.npy", buffer.getvalue())
        assert digest(tmp_path / "x.npz", "npz") == expected
        options = {"compression": "gzip", "chunks": True, "shuffle": True, "fletcher32": True} if backwards else {}
        assert digest(write_hdf5(tmp_path / "x.h5", stored, **options), "hdf5") == expected
        if all(array.dtype.char not in "D" for array in stored.values()):
            native = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in stored.items()}
            safetensors.numpy.save_file(native, tmp_path / "x.safetensors", metadata={"b": "1", "a": "2"})
            assert digest(tmp_path / "x.safetensors", "safetensors") == expected

    @in_one_folder
    @given(st.data())
    def test_one_flipped_bit_shows(self, tmp_path: Path, data: st.DataObject) -> None:
        """Whichever bit of whichever element is flipped, in any format, the digest becomes another."""
        arrays = {"w": np.arange(12, dtype="f4").reshape(3, 4), "b": np.ones(3, "i2"), "z": np.zeros(5, "c8")}
        name = data.draw(st.sampled_from(sorted(arrays)))
        bit = data.draw(st.integers(0, arrays[name].nbytes * 8 - 1))
        raw = bytearray(arrays[name].tobytes())
        raw[bit // 8] ^= 1 << bit % 8
        changed = arrays | {name: np.frombuffer(bytes(raw), arrays[name].dtype).reshape(arrays[name].shape)}
        found = set()
        for version in (arrays, changed):
            np.savez(tmp_path / "x.npz", **version)
            safetensors.numpy.save_file(version, tmp_path / "x.safetensors")
            write_hdf5(tmp_path / "x.h5", version, compression="gzip")
            digests = {digest(tmp_path / file) for file in ("x.npz", "x.safetensors", "x.h5")}
            assert len(digests) == 1
            found |= digests
        assert len(found) == 2

    @pytest.mark.parametrize(
        "other",
        [
            {"w": np.zeros((3, 2), "f4")},
            {"w": np.zeros(6, "f4")},
            {"w": np.zeros((2, 3), "i4")},
            {"v": np.zeros((2, 3), "f4")},
            {"w": np.zeros((2, 3), "f4"), "x": np.zeros((0,), "f4")},
            {},
        ],
    )
    def test_names_types_and_shapes_count(self, tmp_path: Path, other: Arrays) -> None:
        """The same bytes under another name, type or shape are other content."""
        np.savez(tmp_path / "a.npz", w=np.zeros((2, 3), "f4"))
        np.savez(tmp_path / "b.npz", **other)
        assert digest(tmp_path / "a.npz") != digest(tmp_path / "b.npz", "npz")

    def test_strings_and_padding_do_not_show(self, tmp_path: Path) -> None:
        """Fixed and variable strings, text and bytes, aligned and packed records are one content each."""
        words = ["a", "", "ü-long"]
        for name, array in {"text": np.array(words), "bytes": np.array([word.encode() for word in words])}.items():
            np.savez(tmp_path / f"{name}.npz", s=array)
        write_hdf5(tmp_path / "variable.h5", {"s": words})
        write_hdf5(tmp_path / "fixed.h5", {"s": np.array([word.encode() for word in words])})
        files = ("text.npz", "bytes.npz", "variable.h5", "fixed.h5")
        assert len({digest(tmp_path / file) for file in files}) == 1
        fields = [("a", "i1"), ("b", [("c", ">f8"), ("d", "u2", (2,))])]
        aligned, packed = np.zeros(3, np.dtype(fields, align=True)), np.zeros(3, np.dtype(fields))
        aligned.view("u1")[:] = 255
        for field in (aligned["a"], aligned["b"]["c"], aligned["b"]["d"]):
            field[...] = 1
        for field in (packed["a"], packed["b"]["c"], packed["b"]["d"]):
            field[...] = 1
        np.savez(tmp_path / "aligned.npz", r=aligned)
        np.savez(tmp_path / "packed.npz", r=packed)
        write_hdf5(tmp_path / "packed.h5", {"r": packed})
        assert len({digest(tmp_path / file) for file in ("aligned.npz", "packed.npz", "packed.h5")}) == 1

    def test_special_types_are_spelled_as_documented(self, tmp_path: Path) -> None:
        """Strings, records, times and opaque bytes have the type names and bytes of the format document."""
        u64 = [struct.pack("<Q", number) for number in range(4)]
        expected = {
            "o": ("opaque3", b"abcdef"),
            "r": (
                r'record[["n","int8",[]],["f","record[[\"d\",\"uint16\",[2]]]",[]],["t","bytes3",[]]]',
                b"\x01\1\0\2\0q\0\0",
            ),
            "s": ("string", u64[1] + b"x" + u64[2] + "ü".encode() + u64[0]),
            "t": ("timedelta64[ms]", struct.pack("<q", -1)),
        }
        record = [("n", "i1"), ("f", [("d", ">u2", (2,))]), ("t", "S3")]
        np.savez(
            tmp_path / "x.npz",
            o=np.array([b"abc", b"def"], "V3"),
            r=np.array([(1, ([1, 2],), b"q")], np.dtype(record, align=True)),
            s=np.array(["x", "ü", ""]),
            t=np.array([-1], ">m8[ms]"),
        )
        found = {t.name: (t.dtype, b"".join(map(bytes, t.chunks()))) for t in list_tensors(tmp_path / "x.npz", "npz")}
        assert found == expected

    @pytest.mark.parametrize("bits", [0x7FA00001, 0xFFC12345, 0x7F800000, 0x80000000])
    def test_unusual_floats_keep_their_bits(self, tmp_path: Path, bits: int) -> None:
        """Swapping bytes does not quieten a signalling NaN or lose the sign of zero."""
        np.savez(tmp_path / "x.npz", w=np.array([bits], ">u4").view(">f4"))
        pieces = [bytes(chunk) for tensor in list_tensors(tmp_path / "x.npz", "npz") for chunk in tensor.chunks()]
        assert pieces == [bits.to_bytes(4, "little")]

    @in_one_folder
    @given(hnp.array_shapes(max_dims=4, max_side=9), st.data())
    def test_slabs_are_the_array_in_order(self, shape: tuple[int, ...], data: st.DataObject) -> None:
        """However small the slabs and whatever the chunks, they are the whole array in C order, each within the limit."""
        chunk = tuple(data.draw(st.integers(1, size)) for size in shape)
        limit = data.draw(st.integers(4, 200))
        array = np.arange(np.prod(shape), dtype="<i4").reshape(shape)
        element = models_arrays.describe_dtype("x", array.dtype)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(models_arrays, "SLAB_BYTES", limit)
            pieces = [array[index].tobytes() for index in models_arrays.plan_slabs(shape, element, chunk)]
        assert b"".join(pieces) == array.tobytes()
        assert all(0 < len(piece) <= limit for piece in pieces)

    @pytest.mark.parametrize("order", ["C", "F"])
    def test_memory_stays_bounded(self, tmp_path: Path, order: Any) -> None:
        """An array of 96 MiB is hashed within a few slabs of memory, also where it has to be transposed."""
        shape = (3 << 9, 1 << 14)
        np.savez_compressed(tmp_path / "x.npz", w=np.zeros(shape, "f4", order=order))
        write_hdf5(tmp_path / "x.h5", {"w": np.zeros(shape, "f4")}, chunks=(128, 4096), compression="gzip")
        tracemalloc.start()
        try:
            assert digest_tensors_of(tmp_path / "x.npz", "npz") == digest_tensors_of(tmp_path / "x.h5", "hdf5")
            assert tracemalloc.get_traced_memory()[1] < 64 << 20
        finally:
            tracemalloc.stop()

    def test_a_source_that_lies_is_caught(self) -> None:
        """The core checks lengths, order and duplicates itself, whatever a source tells it."""

        def tensor(name: str, nbytes: int) -> models_tensors.Tensor:
            return models_tensors.Tensor(
                name=name, dtype="uint8", shape=(2,), nbytes=nbytes, chunks=lambda: iter([b"ab"]), origin=name
            )

        with pytest.raises(RecordError, match="announced 3 bytes and gave 2"):
            models_tensors.digest_tensors([tensor("a", 3)])
        with pytest.raises(RecordError, match="out of order"):
            models_tensors.digest_tensors([tensor("b", 2), tensor("a", 2)])
        with pytest.raises(RecordError, match="two tensors have the name 'a'"):
            models_tensors.sort_tensors("x", [tensor("a", 2), tensor("a", 2)])


class TestFormats:
    def test_content_tells_the_format(self, tmp_path: Path) -> None:
        """A file keeps its format under a name that says nothing."""
        files: dict[str, bytes] = {}

        def keep(format: str, data: bytes) -> None:
            files[format] = data

        def hdf5(write: Callable[[h5py.File], Any]) -> bytes:
            buffer = io.BytesIO()
            with h5py.File(buffer, "w") as file:
                write(file)
            return buffer.getvalue()

        model = make_model()
        keep("keras", write_keras(tmp_path / "m", model).read_bytes())
        keep("keras-weights-h5", hdf5(lambda file: write_weights(file, model)))
        keep("keras-h5", hdf5(lambda file: write_legacy(file, model)))
        keep("hdf5", hdf5(lambda file: file.create_dataset("x", data=1)))
        buffer = io.BytesIO()
        np.savez(buffer, a=1)
        keep("npz", buffer.getvalue())
        buffer = io.BytesIO()
        np.save(buffer, np.ones(3))
        keep("npy", buffer.getvalue())
        keep("safetensors", safetensors.numpy.save({"a": np.ones(3)}))
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", b"")
            archive.writestr("archive/version", b"3")
        keep("torch-zip", buffer.getvalue())
        keep("parquet", b"PAR1 and PAR1")
        for format, data in files.items():
            (tmp_path / "nameless").write_bytes(data)
            assert detect_format(tmp_path / "nameless") == format
        for protocol in range(2, 6):
            (tmp_path / "nameless").write_bytes(pickle.dumps([1], protocol))
            assert detect_format(tmp_path / "nameless") == "pickle"
        with h5py.File(tmp_path / "nameless", "w", userblock_size=1024) as file:
            file["x"] = 1
        assert detect_format(tmp_path / "nameless") == "hdf5"

    @pytest.mark.parametrize(
        ("name", "data", "format"),
        [
            ("a.json", b"{}", "json"),
            ("a.csv", b"a,b", "csv"),
            ("a.joblib", zlib.compress(b"x"), "pickle"),
            ("a.pkl", b"(lp0\n.", "pickle"),
            ("a.txt", b"text", None),
            ("a", b"", None),
            ("a.zip", b"PK\x05\x06" + bytes(18), None),
            ("broken.keras", b"PK\x03\x04 cut", "keras"),
            ("broken.weights.h5", b"\x89HDF\r\n\x1a\n cut", "keras-weights-h5"),
            ("broken.h5", b"\x89HDF\r\n\x1a\n cut", "hdf5"),
            ("empty.h5", b"", None),
        ],
    )
    def test_the_name_decides_where_content_cannot(
        self, tmp_path: Path, name: str, data: bytes, format: str | None
    ) -> None:
        """Text formats, old pickles and files that are cut go by their names."""
        (tmp_path / name).write_bytes(data)
        assert detect_format(tmp_path / name) == format

    def test_folders(self, tmp_path: Path) -> None:
        """A folder has a format only as a SavedModel; what is not there is an error."""
        assert detect_format(tmp_path) is None
        (tmp_path / "saved_model.pb").write_bytes(b"")
        assert detect_format(tmp_path) == "savedmodel"
        assert digest_content(tmp_path) is None
        with pytest.raises(RecordError, match="no such file"):
            detect_format(tmp_path / "missing")

    def test_json_by_value(self, tmp_path: Path) -> None:
        """Order and layout of a JSON document do not matter, values and the kind of a number do."""
        digests = []
        for text in ('{"a": 1, "b": [NaN, 0.10]}', '{"b":[NaN,1e-1],\n"a":1}', '{"a": 1.0, "b": [NaN, 0.1]}'):
            (tmp_path / "m.json").write_text(text, encoding="utf-8")
            digests.append(digest_content(tmp_path / "m.json"))
        assert digests[0] == digests[1] != digests[2]
        for text in ('{"a": 1, "a": 1}', '{"a": 1}\n{"a": 2}', "[" * 100_000, '"\\ud800"', ""):
            (tmp_path / "m.json").write_text(text, encoding="utf-8")
            assert isinstance(examine_content(tmp_path / "m.json"), NoContent)

    def test_importing_costs_nothing(self) -> None:
        """NumPy and h5py are loaded when a file is read, not when the module is."""
        program = (
            "import sys, reprobox.records.models, reprobox.records.metrics\n"
            "print([m for m in ('numpy', 'h5py', 'safetensors', 'zipfile') if m in sys.modules])"
        )
        shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert shown.stdout.strip() == "[]"
