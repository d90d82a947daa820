"""Which tensors moved, and by how much."""

from __future__ import annotations

import math
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reprobox.errors import ContentRefused, RecordError
from reprobox.records.models import difference as models_difference
from reprobox.records.models.difference import TensorDifference, compare_in_process, compare_tensors
from reprobox.report.tensors import render_difference_document, render_differences
from tests.unit.records.model_files import digest, make_model, write_hdf5, write_keras, write_weights

in_one_folder = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def compare(folder: Path, a: dict[str, Any], b: dict[str, Any]) -> tuple[TensorDifference, ...]:
    np.savez(folder / "a.npz", **a)
    np.savez(folder / "b.npz", **b)
    return compare_tensors(folder / "a.npz", folder / "b.npz")


def one(folder: Path, a: Any, b: Any) -> TensorDifference:
    (found,) = compare(folder, {"w": a}, {"w": b})
    return found


def test_what_is_missing_and_what_changed_its_type(tmp_path: Path) -> None:
    """Tensors of one file alone, another type, another shape: named, in the order of their names."""
    a = {"only": np.ones(2), "type": np.ones(3, "f4"), "shape": np.ones((2, 3)), "same": np.ones(4)}
    b = {"new": np.ones(2), "type": np.ones(3, "f8"), "shape": np.ones(6), "same": np.ones(4)}
    found = compare(tmp_path, a, b)
    assert [(item.name, item.change) for item in found] == [
        ("new", "only-b"),
        ("only", "only-a"),
        ("shape", "shape"),
        ("type", "dtype"),
    ]
    assert (found[2].shape_a, found[2].shape_b, found[2].max_absolute) == ((2, 3), (6,), None)
    assert (found[3].dtype_a, found[3].dtype_b) == ("float32", "float64")
    other = {"only-a": "only-b", "only-b": "only-a"}
    assert [
        (item.name, other.get(item.change, item.change), item.dtype_b, item.dtype_a, item.shape_b, item.shape_a)
        for item in compare(tmp_path, b, a)
    ] == [(item.name, item.change, item.dtype_a, item.dtype_b, item.shape_a, item.shape_b) for item in found]


def test_known_figures(tmp_path: Path) -> None:
    """The figures of a small example, worked out by hand."""
    found = one(tmp_path, np.array([1.0, 2.0, 0.0], "f4"), np.array([1.0, 2.0 + 2**-22, 4.0], "f4"))
    assert (found.elements, found.differing, found.nan, found.change) == (3, 2, 0, "values")
    assert found.max_absolute == 4.0
    assert found.mean_absolute == pytest.approx((4 + 2**-22) / 3, abs=0)
    assert found.max_ulp == int(np.float32(4).view("u4")), "from 0 to 4 there are as many steps as its bits say"
    moved = one(tmp_path, np.array([1.0, 2.0], "f4"), np.array([1.0, np.nextafter(np.float32(2), np.float32(0))], "f4"))
    assert moved.max_ulp == 1
    assert one(tmp_path, np.array([3, 4]), np.array([4, 3])).cosine == pytest.approx(24 / 25)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (0.0, -0.0, {"differing": 1, "nan": 0, "max_absolute": 0.0, "max_ulp": 1, "cosine": None}),
        (math.inf, -math.inf, {"differing": 1, "max_absolute": math.inf, "mean_absolute": math.inf, "cosine": None}),
        (math.inf, np.finfo("f4").max, {"max_absolute": math.inf, "max_ulp": 1}),
        (math.nan, 1.0, {"differing": 1, "nan": 1, "max_absolute": None, "mean_absolute": None, "max_ulp": None}),
        (1e-45, 0.0, {"max_ulp": 1}),
        (1e-45, -1e-45, {"max_ulp": 3}),
    ],
)
@pytest.mark.parametrize("dtype", ["f4"])
def test_unusual_numbers(tmp_path: Path, a: float, b: float, expected: dict[str, Any], dtype: str) -> None:
    """NaN, the infinities and the sign of zero have figures that mean something, and no warning."""
    found = one(tmp_path, np.array([a], dtype), np.array([b], dtype))
    assert {key: getattr(found, key) for key in expected} == expected


def test_equal_infinities_and_nans_are_no_distance(tmp_path: Path) -> None:
    """What is equal bit for bit adds nothing: neither an infinity nor a NaN hides the others."""
    same = [math.inf, -math.inf, math.nan, 1.0]
    found = one(tmp_path, np.array([*same, 1.0]), np.array([*same, 3.0]))
    assert (found.differing, found.nan, found.max_absolute, found.mean_absolute) == (1, 0, 2.0, 0.5)
    quiet, other = (np.array([bits], "u4").view("f4") for bits in (0x7FC00000, 0x7FC00001))
    found = one(tmp_path, quiet, other)
    assert (found.differing, found.nan, found.max_absolute) == (1, 1, None)


def test_integers_are_exact(tmp_path: Path) -> None:
    """The ends of 64 bits are as far apart as they are."""
    low, high = np.iinfo("i8").min, np.iinfo("i8").max
    found = one(tmp_path, np.array([low, 0], "i8"), np.array([high, 0], "i8"))
    assert (found.max_absolute, found.max_ulp, found.differing) == (2**64 - 1, None, 1)
    assert one(tmp_path, np.array([0], "u8"), np.array([2**64 - 1], "u8")).max_absolute == 2**64 - 1
    assert one(tmp_path, np.array([True, False]), np.array([True, True])).max_absolute == 1


def test_types_without_numbers(tmp_path: Path) -> None:
    """Strings and opaque elements differ or not; complex numbers have a distance in the plane."""
    found = one(tmp_path, np.array(["a", "b"]), np.array(["a", "cc"]))
    assert (found.change, found.differing, found.max_absolute) == ("values", None, None)
    found = one(tmp_path, np.array([b"abc", b"def"], "V3"), np.array([b"abc", b"dxf"], "V3"))
    assert (found.elements, found.differing) == (2, 1)
    found = one(tmp_path, np.array([1 + 1j, 2], "c8"), np.array([4 + 5j, 2], "c8"))
    assert (found.max_absolute, found.mean_absolute, found.differing) == (5.0, 2.5, 1)


@in_one_folder
@given(st.data())
def test_laws(tmp_path: Path, data: st.DataObject) -> None:
    """Nothing differs from itself; what differs one way differs the other way round, with the same figures.

    Differences are empty exactly if the content digests are equal, and figures agree with exact arithmetic.
    """
    dtype = data.draw(st.sampled_from(["f2", "f4", "f8", "i1", "i8", "u2", "?", "c8"]))
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=4))
    a = data.draw(hnp.arrays(dtype, shape))
    b = data.draw(hnp.arrays(dtype, shape))
    forth = compare(tmp_path, {"w": a, "x": a}, {"w": b, "x": a})
    assert bool(forth) is (digest(tmp_path / "a.npz") != digest(tmp_path / "b.npz"))
    assert compare_tensors(tmp_path / "a.npz", tmp_path / "a.npz") == ()
    back = compare(tmp_path, {"w": b, "x": a}, {"w": a, "x": a})
    assert repr(back) == repr(forth)
    assume(forth and dtype not in ("c8",) and np.isfinite(a).all() and np.isfinite(b).all())
    (found,) = forth
    pairs = [(Fraction(x), Fraction(y)) for x, y in zip(a.reshape(-1).tolist(), b.reshape(-1).tolist(), strict=True)]
    largest = max(abs(x - y) for x, y in pairs)
    assert found.max_absolute == pytest.approx(float(largest), rel=1e-15) or math.isinf(float(found.max_absolute or 0))
    if dtype in ("i1", "i8", "u2", "?"):
        assert found.max_absolute == largest
        assert found.mean_absolute == pytest.approx(float(sum(abs(x - y) for x, y in pairs) / len(pairs)))
    assert found.cosine is None or -1 <= found.cosine <= 1


def test_bfloat16_has_numbers(tmp_path: Path) -> None:
    """A bfloat16 is read as the number that it is, in HDF5 as in safetensors, across formats."""
    for name, raw in (("a", b"\x80\x3f"), ("b", b"\x81\x3f")):
        with h5py.File(tmp_path / f"{name}.weights.h5", "w") as file:
            file.create_dataset("layers/dense/vars/0", data=np.array([raw], "V2"))
    (found,) = compare_tensors(tmp_path / "a.weights.h5", tmp_path / "b.weights.h5")
    assert (found.name, found.dtype_a, found.max_absolute, found.max_ulp) == ("dense/0", "bfloat16", 2**-7, 1)


def test_formats_mix(tmp_path: Path) -> None:
    """A model in two formats is equal to itself; another one differs in the tensors that differ."""
    a, b = write_keras(tmp_path / "a.keras", make_model()), tmp_path / "b.weights.h5"
    with h5py.File(b, "w") as file:
        write_weights(file, make_model(number_from=4))
    assert compare_tensors(a, b) == ()
    with h5py.File(b, "r+") as file:
        file["layers/dense/vars/1"][...] += 1
    (found,) = compare_tensors(a, b)
    assert (found.name, found.max_absolute, found.differing) == ("dense/1", 1.0, 4)
    np.savez(tmp_path / "c.npz", **{"dense/1": np.zeros(4, "f4")})
    assert {item.change for item in compare_tensors(tmp_path / "c.npz", a)} == {"only-b", "values"}


def test_errors_name_the_file(tmp_path: Path) -> None:
    """Damage and formats without tensors are errors, never a difference."""
    write_hdf5(tmp_path / "a.h5", {"w": np.ones(3)})
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:700])
    with pytest.raises(RecordError, match=r"b\.h5"):
        compare_tensors(tmp_path / "a.h5", tmp_path / "b.h5", format_b="hdf5")
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(ContentRefused, match=r"c\.json"):
        compare_tensors(tmp_path / "a.h5", tmp_path / "c.json")


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """Two arrays of 48 MiB are compared within a few slabs of memory, less than the two have."""
    a = np.zeros(3 << 22, "f4")
    np.save(tmp_path / "a.npy", a)
    a[-1] = 1
    np.save(tmp_path / "b.npy", a)
    del a
    tracemalloc.start()
    try:
        (found,) = compare_in_process(tmp_path / "a.npy", "npy", tmp_path / "b.npy", "npy")
        assert tracemalloc.get_traced_memory()[1] < 80 << 20
    finally:
        tracemalloc.stop()
    assert (found.differing, found.max_absolute, found.mean_absolute) == (1, 1.0, 1 / (3 << 22))


@given(st.lists(st.binary(max_size=9), max_size=9), st.integers(1, 20))
def test_pieces_are_the_stream(chunks: list[bytes], count: int) -> None:
    """However a stream is cut, reading it in pieces gives all of it, each piece as long as was asked for but the last."""
    pieces = models_difference._Pieces(iter(chunks))
    found = []
    while piece := pieces.read(count):
        found.append(piece)
    assert b"".join(found) == b"".join(chunks)
    assert all(len(piece) == count for piece in found[:-1])


def test_how_it_is_shown(tmp_path: Path) -> None:
    """What is missing comes first, then the largest distance; the document is JSON without NaN."""
    a = {
        "near": np.array([1.0]),
        "far": np.array([1.0]),
        "nan": np.array([1.0]),
        "gone": np.ones(2),
        "inf": np.array([1.0]),
    }
    b = {"near": np.array([1.5]), "far": np.array([9.0]), "nan": np.array([np.nan]), "inf": np.array([np.inf])}
    found = compare(tmp_path, a, b)
    lines = render_differences(found, "A", "B")
    assert [line.split()[0] for line in lines] == ["gone", "inf", "nan", "far", "near"]
    assert lines[0] == "gone  only in A: float64[2]"
    assert lines[-1].startswith("near  float64[1]  1 of 1 differ, max 0.5, mean 0.5, max ")
    document = render_difference_document(found, "A", "B")
    assert [row["name"] for row in document["tensors"]] == ["far", "gone", "inf", "nan", "near"]
    assert document["tensors"][2]["max_absolute"] == "Infinity"
    assert document["identical"] is False
    assert render_differences((), "A", "B") == ["equal: A and B hold the same tensors, bit for bit"]
