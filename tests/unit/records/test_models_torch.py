"""Files of torch.save: the tensors that torch would load, and nothing of what a pickle could do."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprobox.errors import ContentRefused, RecordError
from reprobox.records.models import pickle as models_pickle
from reprobox.records.models import torch as models_torch
from reprobox.records.models.content import (
    NoContent,
    detect_format,
    examine_content,
    list_tensors,
)
from tests.unit.records.model_files import digest, reference_digest

FIXTURES = Path(__file__).parent / "fixtures" / "torch"


def read(path: Path) -> dict[str, Any]:
    return {
        tensor.name: (tensor.dtype, tensor.shape, b"".join(map(bytes, tensor.chunks())))
        for tensor in list_tensors(path, "torch-zip")
    }


class FakeStorage:
    """What torch's pickler writes by id."""

    def __init__(self, kind: str, key: str, count: int) -> None:
        self.id = ("storage", Name("torch", kind), key, "cpu", count)


class Name:
    """A global that exists nowhere here, pickled by name alone."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Rebuilt:
    """A call of any function, pickled as REDUCE."""

    def __init__(self, function: Name, *arguments: Any, state: Any = None) -> None:
        self.function, self.arguments, self.state = function, arguments, state


class Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes names and calls that cannot be imported here, as torch would write them."""

    def persistent_id(self, item: Any) -> Any:
        return item.id if isinstance(item, FakeStorage) else None

    def save(self, item: Any, save_persistent_id: bool = True) -> None:
        if isinstance(item, Name):
            self.write(pickle.GLOBAL + f"{item.module}\n{item.name}\n".encode())
        elif isinstance(item, Rebuilt):
            self.save(item.function)
            self.save(item.arguments)
            self.write(pickle.REDUCE)
            if item.state is not None:
                self.save(item.state)
                self.write(pickle.BUILD)
        else:
            super().save(item, save_persistent_id)


REBUILD = Name("torch._utils", "_rebuild_tensor_v2")


def tensor(storage: FakeStorage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Rebuilt:
    return Rebuilt(REBUILD, storage, offset, shape, strides, False, {})


def write(path: Path, value: Any, storages: dict[str, bytes], *, raw: bytes | None = None, **members: bytes) -> Path:
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue() if raw is None else raw)
        for name, data in members.items():
            archive.writestr(f"archive/{name}", data)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def outcome(path: Path, format: str = "torch-zip") -> str:
    """The reason or message why a file has no digest; empty if it has one."""
    try:
        content = examine_content(path, format)
    except RecordError as error:
        return error.message if str(path) in error.message else "the message names no file"
    return content.reason if isinstance(content, NoContent) else ""


class TestReading:
    def test_what_torch_saved_is_what_numpy_and_safetensors_hold(self) -> None:
        """One digest in torch zip, npz and safetensors: types, scalars, empty tensors, NaNs, views and shared storages."""
        assert detect_format(FIXTURES / "plain.pt") == "torch-zip"
        assert digest(FIXTURES / "plain.pt") == digest(FIXTURES / "plain.npz") == digest(FIXTURES / "reversed.pt")
        assert digest(FIXTURES / "views.pt") == digest(FIXTURES / "views.safetensors")
        assert digest(FIXTURES / "alone.pt") == digest(FIXTURES / "alone.npy")

    def test_names_are_the_ways_that_lead_to_tensors(self) -> None:
        """Dictionaries, lists and tuples give their keys and indices; plain values are no tensors."""
        assert set(read(FIXTURES / "nested.pt")) == {"model", "list.0", "list.1.deep", "list.2.0"}
        assert "optimizer.state.0.exp_avg" in read(FIXTURES / "checkpoint.pt")

    def test_a_module_counts_as_its_state(self) -> None:
        """A pickled module has the digest of its state_dict, without its class being imported."""
        assert digest(FIXTURES / "module.pt") == digest(FIXTURES / "module-state.pt")

    def test_a_tensor_that_is_not_what_its_bytes_say_is_refused(self) -> None:
        """Conjugation that torch does as it reads would escape a digest of the bytes."""
        assert "conjugated" in outcome(FIXTURES / "conjugated.pt")

    def test_the_old_format_is_read(self, tmp_path: Path) -> None:
        """What torch wrote before 1.6 has the digest of the same tensors; cut anywhere or flipped, it has not."""
        good = (FIXTURES / "legacy.pt").read_bytes()
        before = digest(FIXTURES / "legacy.pt")
        assert detect_format(FIXTURES / "legacy.pt") == "torch-legacy"
        assert before == digest(FIXTURES / "plain.pt")
        dice = random.Random(5)
        path = tmp_path / "x.pt"
        with np.load(FIXTURES / "plain.npz") as arrays:
            piece = arrays["dense.weight"].tobytes()
        places = range(good.index(piece), good.index(piece) + len(piece))
        for turn in range(300):
            data = bytearray(good)
            if turn % 3 == 0:
                data[dice.choice(places)] ^= 1 << dice.randrange(8)
            elif turn % 3 == 1:
                data = data[: dice.randrange(len(data))]
            else:
                data[dice.randrange(places[0])] ^= 1 << dice.randrange(8)
            path.write_bytes(data)
            found = outcome(path, "torch-legacy")
            assert turn % 3 == 2 or found or digest(path, "torch-legacy") != before
            assert found or turn % 3 != 1
        path.write_bytes(good + b"x")
        assert "more bytes follow" in outcome(path, "torch-legacy")
        path.write_bytes(good[:-1000] + b"X" + b"\xff" * 4)
        assert outcome(path, "torch-legacy")

    def test_byte_order_is_turned(self, tmp_path: Path) -> None:
        """A file that a big-endian machine wrote has the digest of the same tensors here, complex ones included."""
        values = {
            "f": np.arange(6, dtype="f4").reshape(2, 3),
            "c": np.array([1 + 2j, -3], "c16"),
            "b": np.array([1, 2], "u1"),
        }
        kinds = {"f": "FloatStorage", "c": "ComplexDoubleStorage", "b": "ByteStorage"}
        for order in "<>":
            state = {}
            for name, array in values.items():
                strides = tuple(stride // array.itemsize for stride in array.strides)
                state[name] = tensor(FakeStorage(kinds[name], name, array.size), 0, array.shape, strides)
            data = {name: array.astype(array.dtype.newbyteorder(order)).tobytes() for name, array in values.items()}
            path = write(tmp_path / "x.pt", state, data, byteorder=b"big" if order == ">" else b"little")
            assert digest(path, "torch-zip") == reference_digest(values)
        assert "byte order" in outcome(write(path, state, data, byteorder=b"middle"))

    @settings(deadline=None, max_examples=60)
    @given(st.data())
    def test_any_view_is_read_as_numpy_reads_it(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        """Whatever offset, shape and strides: the elements are those that the same view has in NumPy."""
        base = np.arange(60, dtype="<i4")
        shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=3)))
        strides = tuple(data.draw(st.integers(0, 6)) for _ in shape)
        offset = data.draw(st.integers(0, 5))
        view = np.lib.stride_tricks.as_strided(base[offset:], shape, tuple(stride * 4 for stride in strides))
        state = {
            "v": tensor(FakeStorage("IntStorage", "0", 60), offset, shape, strides),
            "all": tensor(FakeStorage("IntStorage", "0", 60), 0, (60,), (1,)),
        }
        path = write(tmp_path_factory.mktemp("view") / "x.pt", state, {"0": base.tobytes()})
        assert read(path)["v"] == ("int32", shape, view.tobytes())


class TestHostile:
    @pytest.mark.parametrize("protocol", range(2, 6))
    def test_nothing_is_executed(self, tmp_path: Path, protocol: int) -> None:
        """A pickle that would make a folder makes none; beside a tensor, what it would have made is not looked at."""

        class Trap:
            def __reduce__(self) -> Any:
                return (os.mkdir, (str(tmp_path / "sprung"),))

        raw = pickle.dumps({"a": Trap(), "b": [Trap()]}, protocol)
        assert "no tensors" in outcome(write(tmp_path / "x.pt", None, {}, raw=raw))
        with_tensor = {
            "t": tensor(FakeStorage("ByteStorage", "0", 1), 0, (1,), (1,)),
            "trap": Rebuilt(Name("os", "mkdir"), str(tmp_path / "sprung")),
        }
        assert outcome(write(tmp_path / "x.pt", with_tensor, {"0": b"1"})) == ""
        assert not (tmp_path / "sprung").exists()

    def test_the_interpreter_imports_nothing(self, tmp_path: Path) -> None:
        """Reading a file whose pickle names modules loads none of them, and neither torch nor pickle itself."""
        path = write(
            tmp_path / "x.pt",
            {
                "t": tensor(FakeStorage("ByteStorage", "0", 1), 0, (1,), (1,)),
                "m": Name("antigravity", "x"),
                "s": Rebuilt(Name("this", "s")),
            },
            {"0": b"1"},
        )
        program = (
            "import sys\nfrom reprobox.records.models.content import digest_content\n"
            f"digest_content({str(path)!r}).digest\n"
            "print([m for m in ('antigravity', 'this', 'torch', 'numpy') if m in sys.modules])"
        )
        shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert shown.stdout.strip() == "[]"

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda t: {"a": t(FakeStorage("FloatStorage", "0", 4), 0, (5,), (1,))}, "over the end"),
            (lambda t: {"a": t(FakeStorage("FloatStorage", "0", 4), 3, (2,), (1,))}, "over the end"),
            (lambda t: {"a": t(FakeStorage("FloatStorage", "0", 5), 0, (4,), (1,))}, "are declared"),
            (lambda t: {"a": t(FakeStorage("FloatStorage", "../0", 4), 0, (4,), (1,))}, "has the name"),
            (lambda t: {"a": t(FakeStorage("FloatStorage", "1", 4), 0, (4,), (1,)), "b": t(FakeStorage("FloatStorage", "0", 4), 0, (4,), (1,))}, "cannot be read"),
            (lambda t: {"a": t(FakeStorage("FloatStorage", "0", 4), 0, (1 << 50,), (0,))}, "many times the file"),
            (lambda t: {"a": t(FakeStorage("FloatStorage", "0", 4), 0, (1 << 61, 1 << 61), (0, 0))}, "no tensor has"),
            (lambda t: {"a": t(FakeStorage("FloatStorage", "0", 4), -1, (4,), (1,))}, "no number"),
            (lambda t: {"a": t(FakeStorage("FloatStorage", "0", 4), 0, (4,), (1, 1))}, "strides"),
            (lambda t: {"a": t(FakeStorage("FloatStorage", "0", 4), 0, ("4",), (1,))}, "no number"),
            (lambda t: {"a": t(FakeStorage("QUInt8Storage", "0", 4), 0, (4,), (1,))}, "unknown type"),
            (lambda t: {"a": Rebuilt(Name("torch._utils", "_rebuild_sparse_tensor"), 1, 2)}, "not read (sparse_tensor)"),
            (lambda t: {"a": Rebuilt(Name("torch._tensor", "_rebuild_from_type_v2"), Name("my", "f"), Name("my", "T"), (), {})}, "class that is not known"),
            (lambda t: {"a": Rebuilt(REBUILD, 1, 2, 3, 4)}, "no storage"),
            (lambda t: {"a": Rebuilt(REBUILD)}, "lacks its shape"),
            (lambda t: {"a": FakeStorage("FloatStorage", "0", 4)}, "without a tensor"),
            (lambda t: {"a.b": t(FakeStorage("FloatStorage", "0", 4), 0, (4,), (1,)), "a": {"b": t(FakeStorage("FloatStorage", "0", 4), 0, (4,), (1,))}}, "two of its tensors"),
            (lambda t: {(1, 2): t(FakeStorage("FloatStorage", "0", 4), 0, (4,), (1,))}, "neither text nor a number"),
            (lambda t: {"epoch": 3}, "no tensors"),
        ],
    )  # fmt: skip
    def test_what_does_not_fit_ends_with_a_reason(
        self, tmp_path: Path, make: Callable[[Any], Any], reason: str
    ) -> None:
        """Tensors that reach out of their storage, absurd shapes, other kinds of tensors, names with `..`: no digest."""
        assert reason in outcome(write(tmp_path / "x.pt", make(tensor), {"0": bytes(16)}))

    @pytest.mark.parametrize(
        ("raw", "reason"),
        [
            (b"\x80\x02]q\x00h\x00a.", "holds itself"),  # a list in itself
            (b"\x80\x02}q\x00U\x01ah\x00s.", "holds itself"),  # a dictionary in itself
            (b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".", "levels deep"),  # innermost empty
            (b"\x80\x02" + b"]" * 5000 + b"Na" + b"a" * 4999 + b".", "levels deep"),
            (b"\x80\x02" + b"]q\x00" + b"h\x00h\x00\x86" * 3 + b".", "no tensors"),
            (b"\x80\x02N", "cannot be read"),  # no end
            (b"\x80\x02.", "cannot be read"),  # nothing on the stack
            (b"\x80\x02Nae.", "cannot be read"),
            (b"\x80\x02h\x05.", "cannot be read"),  # no such memo
            (b"\x80\x02(NNd0NNs.", "cannot be read"),
            (b"\x80\x02\x8b\xff\xff\xff\x7f.", "cannot be read"),  # a number of two gigabytes
            (b"\x80\x02X\xff\xff\xff\xff.", "cannot be read"),  # a text of four
            (b"\x80\x05\x8d" + b"\xff" * 8 + b".", "cannot be read"),
            (b"\x80\x05\x97.", "the instruction NEXT_BUFFER"),
            (b"\x80\x02N.N.", "more bytes follow"),
            (b"I" + b"9" * 100_000 + b"\n.", "cannot be read"),
            (b"", "cannot be read"),
        ],
    )  # fmt: skip
    def test_pickles_made_to_do_harm(self, tmp_path: Path, raw: bytes, reason: str) -> None:
        """Cycles, nesting, instructions on an empty stack, lengths beyond the file: an error that names the file."""
        assert reason in outcome(write(tmp_path / "x.pt", None, {}, raw=raw))

    def test_doubling_is_cut_short(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A few bytes that stand for 2**60 ways to a value, or for a stack that grows and grows, end at a limit."""

        monkeypatch.setattr(models_torch, "_MAX_VISITS", 10_000)
        doubled = b"\x80\x02Cq\x00".replace(b"C", b"]") + b"".join(
            b"]q%c(h%ch%ce" % (i, i - 1, i - 1) for i in range(1, 60)
        )
        assert "10000 values" in outcome(write(tmp_path / "x.pt", None, {}, raw=doubled + b"."))
        monkeypatch.setattr(models_pickle, "MAX_VALUES", 1000)
        assert "makes more than 1000" in outcome(
            write(tmp_path / "x.pt", None, {}, raw=b"\x80\x02" + b"]" * 2000 + b".")
        )

    @settings(deadline=None, max_examples=300)
    @given(st.binary(max_size=200))
    def test_any_bytes_end_in_a_value_or_an_error(self, data: bytes) -> None:
        """The interpreter has no way to fail but those that it documents."""
        allowed = (ContentRefused, ValueError, LookupError, TypeError)
        try:
            models_pickle.parse_pickle("x", io.BytesIO(data))
        except allowed:
            pass

    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.tuples(inner, inner)
            | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        ),
        max_leaves=15,
    )

    @settings(deadline=None, max_examples=200)
    @given(values, st.integers(0, 5))
    def test_plain_values_come_out_as_they_went_in(self, value: Any, protocol: int) -> None:
        """For values without objects the interpreter agrees with pickle, in every protocol."""

        def plain(item: Any) -> Any:
            if isinstance(item, models_pickle.Dictionary):
                return {plain(key): plain(child) for key, child in item.pairs}
            if isinstance(item, models_pickle.Call):  # protocols before 3 spell bytes as a call
                return b"" if item.function.name.endswith(".bytes") else item  # type: ignore[union-attr]
            if isinstance(item, list | tuple):
                return type(item)(plain(child) for child in item)
            return item

        assert plain(models_pickle.parse_pickle("x", io.BytesIO(pickle.dumps(value, protocol)))) == value

    def test_damage_is_noticed(self, tmp_path: Path) -> None:
        """100 bits flipped inside tensor data: none keeps the digest; cut anywhere, the file has none."""
        good = (FIXTURES / "views.pt").read_bytes()
        before = digest(FIXTURES / "views.pt")
        path = tmp_path / "x.pt"
        dice = random.Random(1)
        places = []
        with zipfile.ZipFile(FIXTURES / "views.pt") as archive:
            for info in archive.infolist():
                if "/data/" in info.filename:
                    name_bytes, extra_bytes = struct.unpack_from("<2H", good, info.header_offset + 26)
                    start = info.header_offset + 30 + name_bytes + extra_bytes
                    places += range(start, start + info.file_size)
        for _ in range(100):
            data = bytearray(good)
            data[dice.choice(places)] ^= 1 << dice.randrange(8)
            path.write_bytes(data)
            assert outcome(path) or digest(path, "torch-zip") != before
        pickled = good.index(b"data.pkl") + 200
        path.write_bytes(good[:pickled] + bytes([good[pickled] ^ 1]) + good[pickled + 1 :])
        assert "CRC" in outcome(path)
        for end in dice.sample(range(len(good)), 100):
            path.write_bytes(good[:end])
            assert outcome(path)

    def test_flips_anywhere_never_crash(self, tmp_path: Path) -> None:
        """Bits flipped anywhere, the pickle's checksum made good again: a digest, no digest, or an error."""
        with zipfile.ZipFile(FIXTURES / "module.pt") as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        (pickle_name,) = (name for name in members if name.endswith("data.pkl"))
        path = tmp_path / "x.pt"
        dice = random.Random(2)
        for _ in range(300):
            data = bytearray(members[pickle_name])
            for _ in range(dice.choice((1, 1, 4))):
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in members.items():
                    archive.writestr(name, bytes(data) if name == pickle_name else content)
            outcome(path)

    def test_bombs_do_not_fill_the_memory(self, tmp_path: Path) -> None:
        """Archives that unpack to gigabytes, or that claim to: an error or a refusal within 200 MiB."""
        program = (
            "import resource, sys, zipfile\n"
            "from reprobox.records.models.content import examine_content\n"
            "from reprobox.errors import RecordError\n"
            "import reprobox.records.models.torch, reprobox.records.models.pickle, numpy\n"
            "reprobox.records.models.pickle.MAX_VALUES = 1_000_000\n"
            "now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
            "resource.setrlimit(resource.RLIMIT_AS, (now + (200 << 20),) * 2)\n"
            "for path in sys.argv[1:]:\n"
            "    try:\n"
            "        print(examine_content(path, 'torch-zip'))\n"
            "    except RecordError as error:\n"
            "        print('RecordError', error.message)\n"
        )
        pickled = tmp_path / "pickle.pt"
        with zipfile.ZipFile(pickled, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/data.pkl", "w") as stream:
            for _ in range(70):
                stream.write(bytes(1 << 20))
        many = tmp_path / "values.pt"
        with zipfile.ZipFile(many, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", b"\x80\x02" + b"]" * (4 << 20) + b".")
        shown = subprocess.run(
            [sys.executable, "-c", program, str(pickled), str(many)], capture_output=True, text=True, check=False
        )
        assert shown.returncode == 0, shown.stderr
        lines = shown.stdout.splitlines()
        assert len(lines) == 2
        assert all(line.startswith(("NoContent", "RecordError")) for line in lines), lines


def test_the_old_magic_is_a_pickle() -> None:
    """What the old format begins with is its magic number, pickled."""
    assert models_pickle.parse_pickle("x", io.BytesIO((FIXTURES / "legacy.pt").read_bytes())) == 0x1950A86A20F9469CFC6C
