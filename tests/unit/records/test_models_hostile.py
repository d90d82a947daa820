"""Files that are damaged or mean harm: an error that names the file, or no digest, and nothing else."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.numpy

from reprobox.errors import RecordError, ReproboxError
from reprobox.records.models import hdf5_data as models_hdf5_data
from reprobox.records.models import reader as models_reader
from reprobox.records.models.content import (
    ContentDigest,
    NoContent,
    detect_format,
    digest_content,
    digest_tensors_of,
    examine_content,
)
from tests.unit.records.model_files import (
    digest,
    make_model,
    reference_digest,
    write_hdf5,
    write_keras,
    write_legacy,
    write_weights,
)


class Trap:
    """An object that makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.mark),))


def _refused(tmp_path: Path, write: Callable[[Path], Any], name: str = "x.h5") -> str:
    write(tmp_path / name)
    content = examine_content(tmp_path / name)
    assert isinstance(content, NoContent), content
    assert digest_content(tmp_path / name) is None
    return content.reason


def _hdf5(write: Callable[[h5py.File], Any]) -> Callable[[Path], None]:
    def write_file(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file["plain"] = np.ones(3)
            write(file)

    return write_file


class TestHostileFiles:
    @pytest.mark.parametrize("name", ["x.pkl", "x.joblib", "x.npy", "x.npz"])
    def test_nothing_is_ever_unpickled(self, tmp_path: Path, name: str) -> None:
        """A pickle's code does not run, wherever the pickle hides; the file has no content digest."""
        array = np.array([Trap(tmp_path / "sprung")], dtype=object)
        writers: dict[str, Callable[[Path], Any]] = {
            ".npy": lambda path: np.save(path, array),
            ".npz": lambda path: np.savez(path, a=array),
        }
        plain: Callable[[Path], Any] = lambda path: path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))  # noqa: E731
        assert "pickl" in _refused(tmp_path, writers.get(Path(name).suffix, plain), name)
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize(
        ("write", "reason"),
        [
            (lambda file: file.__setitem__("s", h5py.SoftLink("/plain")), "'s' is a soft"),
            (lambda file: file.__setitem__("e", h5py.ExternalLink("other.h5", "/x")), "'e' is a soft, external"),
            (lambda file: file.__setitem__("up", file["/"]), "levels of groups"),
            (lambda file: file.create_dataset("o", (4,), "f4", external=[("raw", 0, 16)]), "outside"),
            (lambda file: file.create_dataset("v", data=np.array([np.ones(2), np.ones(3)], object), dtype=h5py.vlen_dtype("f4")), "objects"),
            (lambda file: file.create_dataset("r", data=file.ref, dtype=h5py.ref_dtype), "objects"),
            (lambda file: file.create_dataset("l", data=np.ones(2, "longdouble")), "portable|unusual"),
            (lambda file: file.create_dataset("n" * 5000, data=1), "longer than 4096"),
            (lambda file: file.create_dataset("big", (1 << 40,), "f4", chunks=(1 << 20,)), "declares"),
            (lambda file: file.create_dataset("chunk", (1 << 28,), "f4", chunks=(1 << 27,)), "chunks of more"),
        ],
    )  # fmt: skip
    def test_what_hdf5_could_be_misused_for_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[h5py.File], Any], reason: str
    ) -> None:
        """Nothing outside of the file is opened and nothing huge is allocated: the file has no content digest."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "raw").write_bytes(bytes(16))
        with h5py.File("other.h5", "w") as other:
            other["x"] = np.ones(3)
        assert re.search(reason, _refused(tmp_path, _hdf5(write)))

    def test_virtual_datasets_and_foreign_filters_are_refused(self, tmp_path: Path) -> None:
        """Data of another file and plugins stay where they are."""

        def virtual(file: h5py.File) -> None:
            layout = h5py.VirtualLayout((3,), "f8")
            layout[:] = h5py.VirtualSource("other.h5", "x", (3,))
            file.create_virtual_dataset("v", layout)

        def filtered(file: h5py.File) -> None:
            created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            created.set_chunk((4,))
            created.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
            space = h5py.h5s.create_simple((4,))
            h5py.h5d.create(file.id, b"f", h5py.h5t.NATIVE_FLOAT, space, created)

        assert "outside" in _refused(tmp_path, _hdf5(virtual))
        assert "filter 32015" in _refused(tmp_path, _hdf5(filtered))

    def test_a_chunk_that_inflates_beyond_its_shape_is_damage(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """HDF5 would allocate whatever a deflate stream holds, so the stream is measured first."""
        monkeypatch.setattr(models_hdf5_data, "_SMALL_CHUNK_BYTES", 1000)
        with h5py.File(tmp_path / "x.h5", "w") as file:
            dataset = file.create_dataset("x", (1024,), "u1", chunks=(1024,), compression="gzip")
            dataset.id.write_direct_chunk((0,), zlib.compress(bytes(4 << 20)))
        with pytest.raises(RecordError, match="inflates"):
            digest_tensors_of(tmp_path / "x.h5", "hdf5")
        honest = {"x": np.random.default_rng(0).bytes(5000)}
        write_hdf5(tmp_path / "y.h5", {"x": np.frombuffer(honest["x"], "u1")}, chunks=(4096,), compression="gzip")
        content = digest_tensors_of(tmp_path / "y.h5", "hdf5")
        assert content.digest == reference_digest({"x": np.frombuffer(honest["x"], "u1")})

    def test_one_long_string_is_not_read_a_thousand_times(self, tmp_path: Path) -> None:
        """Elements that all point at one string are damage: honest strings stand once each in their file."""
        path = tmp_path / "x.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("s", data=["x" * 100_000, *[""] * 999], dtype=h5py.string_dtype())
            offset = file["s"].id.get_offset()
        data = bytearray(path.read_bytes())
        data[offset : offset + 16_000] = data[offset : offset + 16] * 1000
        path.write_bytes(data)
        with pytest.raises(RecordError, match="longer than the file"):
            digest_content(path)

    def test_a_damaged_heap_does_not_stop_the_clock(self, tmp_path: Path) -> None:
        """The HDF5 library loops for ever over an object of size zero; here it is an error."""
        path = tmp_path / "x.h5"
        write_hdf5(path, {"s": ["some", "strings"]})
        data = bytearray(path.read_bytes())
        heap = data.index(b"GCOL") + 16
        data[heap : heap + 16] = bytes(16)
        path.write_bytes(data)
        with pytest.raises(RecordError, match="heap"):
            digest_content(path)

    @pytest.mark.parametrize(
        ("program", "error", "reason"),
        [
            ("import os; os.kill(os.getpid(), 11)", RecordError, "x.h5: .*crash with signal 11"),
            ("import time; time.sleep(60)", RecordError, "x.h5: .*takes longer than"),
            ("raise ValueError('bug of ours')", ReproboxError, "bug of ours"),
        ],
    )
    def test_a_crash_of_the_library_is_an_error_of_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, error: type[Exception], reason: str
    ) -> None:
        """HDF5 is read in a child: where it crashes or hangs, the file is named, and the next file is read as ever.

        A failure of the child's own is no verdict about the file.
        """
        path = write_hdf5(tmp_path / "x.h5", {"x": np.ones(3)})
        monkeypatch.setattr(models_reader, "_CHILD", models_reader._Child())
        with monkeypatch.context() as patch:
            patch.setattr(models_reader, "_PROGRAM", program)
            patch.setattr(models_reader, "_GRACE_S", 0.5)
            with pytest.raises(error, match=reason):
                digest_content(path, "hdf5")
        assert digest(path, "hdf5") == reference_digest({"x": np.ones(3)})
        models_reader._CHILD.stop()

    def test_the_host_never_loads_hdf5(self, tmp_path: Path) -> None:
        """Hashing a model leaves h5py and NumPy out of the process, and no child behind."""
        path = write_keras(tmp_path / "m.keras", make_model())
        program = (
            "import sys, subprocess\n"
            "from reprobox.records.models.content import digest_content\n"
            f"print(digest_content({str(path)!r}).digest, 'h5py' in sys.modules, 'numpy' in sys.modules)\n"
            "from reprobox.records.models import reader as models_reader\n"
            "print(models_reader._CHILD._process.pid)"
        )
        shown = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.split()
        assert shown[:3] == [digest(path), "False", "False"]
        assert not Path(f"/proc/{shown[3]}").exists()

    def test_zip_tricks_are_refused(self, tmp_path: Path) -> None:
        """Two members of one name, a false size, a broken checksum: errors. An odd compression: no digest."""
        good = write_keras(tmp_path / "x.keras", make_model()).read_bytes()
        path = tmp_path / "y.keras"

        def damage(position: int, new: bytes) -> None:
            path.write_bytes(good[:position] + new + good[position + len(new) :])

        weights = good.index(b"\x89HDF")
        damage(weights + 3000, bytes([good[weights + 3000] ^ 1]))
        with pytest.raises(RecordError, match="CRC"):
            digest_content(path)
        entry = good.rindex(b"PK\x01\x02")
        damage(entry + 24, struct.pack("<I", 1 << 31))
        with pytest.raises(RecordError, match="claims to hold"):
            digest_content(path)
        damage(entry + 8, b"\x01")
        assert "encrypted" in str(examine_content(path))
        path.write_bytes(good)
        with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
            archive.writestr("model.weights.h5", b"")
        with pytest.raises(RecordError, match="one name"):
            digest_content(path)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
            archive.writestr("config.json", b"{}")
            archive.writestr("model.weights.h5", b"")
        assert "deflate" in str(examine_content(path, "keras"))
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", b"{}")
            archive.writestr("model.weights.npz", b"")
        assert "no member model.weights.h5" in str(examine_content(path))

    @pytest.mark.parametrize(
        ("header", "data", "error"),
        [
            ({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}, b"123", "cover"),
            ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]}}, b"1234", "hole"),
            ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}, b"1234", "cover 2 of 4"),
            ({"a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 4]}}, b"1234", "disagree"),
            ({"a": {"dtype": "U8", "shape": [-4], "data_offsets": [0, -4]}}, b"", "no size"),
            ({"a": {"dtype": "U8", "shape": [0, 10**30], "data_offsets": [0, 0]}}, b"", "no size"),
            ({"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}}, b"1", "no size"),
            ({"a": {"dtype": "U8"}}, b"", "incomplete"),
            ({"a": 1}, b"", "incomplete"),
            ([], b"", "no JSON object"),
        ],
    )
    def test_safetensors_that_contradict_themselves(self, tmp_path: Path, header: Any, data: bytes, error: str) -> None:
        """A header that does not account for every byte exactly once is damage."""
        text = json.dumps(header).encode()
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
        with pytest.raises(RecordError, match=error):
            digest_content(tmp_path / "x.safetensors", "safetensors")

    def test_safetensors_headers_have_limits(self, tmp_path: Path) -> None:
        """A header longer than the file, names that appear twice and unknown types end the reading."""
        path = tmp_path / "x.safetensors"
        path.write_bytes(struct.pack("<Q", 1 << 60) + b'{"')
        with pytest.raises(RecordError, match="does not fit"):
            digest_content(path, "safetensors")
        entry = b'{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
        text = b'{"a":' + entry + b',"a":' + entry + b"}"
        path.write_bytes(struct.pack("<Q", len(text)) + text)
        with pytest.raises(RecordError, match="twice"):
            digest_content(path)
        text = text.replace(b'"U8"', b'"Q2"').replace(b',"a"', b',"b"')
        path.write_bytes(struct.pack("<Q", len(text)) + text)
        assert "unknown dtype 'Q2'" in str(examine_content(path))

    @pytest.mark.parametrize(
        ("header", "data", "expected"),
        [
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", b"1234", "too few"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1 << 60,)}", b"1234", "cannot be read"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (10**40,)}", b"1234", "cannot be read"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", b"1234", "no tuple of sizes"),
            ("{'descr': '<f4', 'fortran_order': False}", b"1234", "three keys"),
            ("__import__('os').mkdir('sprung')", b"", "cannot be read"),
            ("(" * 5000, b"", "cannot be read"),
            ("{'descr': 'nonsense', 'fortran_order': False, 'shape': ()}", b"", "cannot be read"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': ()}", b"12345", "more bytes follow"),
            ("{'descr': '|S0', 'fortran_order': False, 'shape': (9999999999999,)}", b"", "have no bytes"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': ()}" + " " * 10_000, b"1234", "header has"),
        ],
    )
    def test_array_headers_that_lie(self, tmp_path: Path, header: str, data: bytes, expected: str) -> None:
        """A .npy header is data, not code, and what it declares is held against the file's size."""
        text = header.encode()
        (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data)
        try:
            shown = str(examine_content(tmp_path / "x.npy"))
        except RecordError as error:
            shown = error.message
        assert expected in shown
        assert not Path("sprung").exists()

    @pytest.mark.parametrize("name", ["m.keras", "m.weights.h5", "m.h5", "x.h5", "x.npz", "x.npy", "x.safetensors"])
    def test_cut_and_flipped_files_never_crash(self, tmp_path: Path, name: str) -> None:
        """Whatever is cut off or flipped, the end is a digest, no digest, or an error that names the file."""
        path = tmp_path / name
        model = make_model()
        arrays = {"w": np.arange(12, dtype="f4").reshape(3, 4), "s": np.ones(3, "i8")}
        writers: dict[str, Callable[[], Any]] = {
            "m.keras": lambda: write_keras(path, model),
            "m.weights.h5": lambda: _hdf5(lambda file: write_weights(file, model))(path),
            "m.h5": lambda: _hdf5(lambda file: write_legacy(file, model))(path),
            "x.h5": lambda: write_hdf5(path, {**arrays, "t": ["a", "bc"]}),
            "x.npz": lambda: np.savez_compressed(path, **arrays),
            "x.npy": lambda: np.save(path, arrays["w"]),
            "x.safetensors": lambda: safetensors.numpy.save_file(arrays, path),
        }
        writers[name]()
        good, format, dice = path.read_bytes(), detect_format(path), random.Random(name)
        for turn in range(120):
            data = bytearray(good)
            if turn % 2:
                data = data[: dice.randrange(len(data))]
            else:
                for _ in range(dice.choice((1, 3, 8))):
                    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            path.write_bytes(data)
            outcome = self.examine(path, format)
            assert not (turn % 2 and isinstance(outcome, ContentDigest)), "a file that was cut has a content digest"
            assert not isinstance(outcome, RecordError) or str(path) in outcome.message

    @staticmethod
    def examine(path: Path, format: str | None) -> ContentDigest | NoContent | RecordError:
        try:
            detect_format(path)
            return examine_content(path, format)
        except RecordError as error:
            return error
