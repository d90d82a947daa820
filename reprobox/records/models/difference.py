"""Which tensors of two files differ, and by how much.

Both files are read once side by side, tensor by tensor in the order of their names, and a tensor that differs is read
once more, so memory stays within a few slabs. Start at `compare_tensors`.

What is the same here has the same `tensors-v1` digest: equality is of bits, so `0.0` and `-0.0` differ, and so do two
NaNs with different bits.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from reprobox.errors import ContentRefused
from reprobox.records.models.tensors import Tensor

if TYPE_CHECKING:
    import numpy as np

Change = Literal["only-a", "only-b", "dtype", "shape", "values"]

_PIECE_BYTES: Final = 1 << 20
_INTEGERS: Final = frozenset({"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"})
_FLOATS: Final = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
_COMPLEX: Final = {"complex64": "float32", "complex128": "float64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDifference:
    """One tensor that is not the same in two files.

    Numbers are there where both have the tensor in one type and one shape, and the type has a known value: integers,
    booleans, floats of 16 to 64 bits, complex numbers.

    Attributes:
        name: Its name, the same in both.
        change: Whether it is in one alone, has another type or shape, or other values. With another type and another
            shape: `dtype`.
        dtype_a: Its type in the first file; None where it is not there. `dtype_b` likewise.
        dtype_b: See there.
        shape_a: Its shape in the first file; None where it is not there. `shape_b` likewise.
        shape_b: See there.
        elements: How many elements it has, where both have the same number.
        differing: How many of them have other bits; None for strings.
        nan: How many of these are NaN in one file or both. They are left out of the figures that follow.
        max_absolute: The largest distance of two elements; an exact integer for integers, infinite where one is.
        mean_absolute: The mean over all elements that are NaN in neither.
        max_ulp: The most steps from one element to the other, through all numbers that the type has; -0.0 and 0.0 are
            one step apart, and so are the largest number and infinity. None for integers.
        cosine: Of the angle between the tensors as vectors; None where one is zero, or infinite.
    """

    name: str
    change: Change
    dtype_a: str | None
    dtype_b: str | None
    shape_a: tuple[int, ...] | None
    shape_b: tuple[int, ...] | None
    elements: int | None = None
    differing: int | None = None
    nan: int | None = None
    max_absolute: float | int | None = None
    mean_absolute: float | None = None
    max_ulp: int | None = None
    cosine: float | None = None


def compare_tensors(
    path_a: str | os.PathLike[str],
    path_b: str | os.PathLike[str],
    *,
    format_a: str | None = None,
    format_b: str | None = None,
) -> tuple[TensorDifference, ...]:
    """Compare two files that hold tensors, in whatever formats.

    Args:
        path_a: A file, or a folder that is a SavedModel.
        path_b: Another one.
        format_a: Format of the first, as `detect_format` names it; None detects it. `format_b` likewise.
        format_b: See there.

    Returns:
        What differs, by the UTF-8 bytes of the names; nothing if both have the same content digest.

    Raises:
        RecordError: A file cannot be read, is truncated or damaged.
        ContentRefused: A file holds no tensors that are read here.
    """
    from reprobox.records.models.content import HDF5_FORMATS, detect_format, has_tensors

    sides = []
    for path, format in ((Path(path_a), format_a), (Path(path_b), format_b)):
        known = format or detect_format(path)
        if known is None or not has_tensors(known):
            raise ContentRefused(path, "it holds no tensors that are read here")
        sides.append((path, known))
    (first, known_a), (second, known_b) = sides
    if HDF5_FORMATS & {known_a, known_b}:
        from reprobox.records.models.reader import compare_in_child

        return compare_in_child(first, known_a, second, known_b)
    return compare_in_process(first, known_a, second, known_b)


def compare_in_process(path_a: Path, format_a: str, path_b: Path, format_b: str) -> tuple[TensorDifference, ...]:
    """Compare two files in this process.

    Args:
        path_a: A file; an HDF5 file that is not trusted is better left to `compare_tensors`.
        format_a: Its format.
        path_b: Another one.
        format_b: Its format.

    Returns:
        As `compare_tensors`.

    Raises:
        RecordError: A file cannot be read, is truncated or damaged.
        ContentRefused: A file holds something that is not read.
    """
    from reprobox.records.models.content import list_tensors

    differences = []
    with closing(list_tensors(path_a, format_a)) as tensors_a, closing(list_tensors(path_b, format_b)) as tensors_b:
        for a, b in _join(tensors_a, tensors_b):
            difference = _compare(a, b)
            if difference is not None:
                differences.append(difference)
    return tuple(differences)


def _join(tensors_a: Iterator[Tensor], tensors_b: Iterator[Tensor]) -> Iterator[tuple[Tensor | None, Tensor | None]]:
    """Pair what has one name. Both are in the order of their names' bytes."""
    a, b = next(tensors_a, None), next(tensors_b, None)
    while a is not None or b is not None:
        key_a = None if a is None else a.name.encode("utf-8")
        key_b = None if b is None else b.name.encode("utf-8")
        take_a = key_a is not None and (key_b is None or key_a <= key_b)
        take_b = key_b is not None and (key_a is None or key_b <= key_a)
        yield (a if take_a else None, b if take_b else None)
        if take_a:
            a = next(tensors_a, None)
        if take_b:
            b = next(tensors_b, None)


def _compare(a: Tensor | None, b: Tensor | None) -> TensorDifference | None:
    known = a or b
    assert known is not None
    change: Change | None = None
    if a is None or b is None:
        change = "only-b" if a is None else "only-a"
    elif a.dtype != b.dtype:
        change = "dtype"
    elif a.shape != b.shape:
        change = "shape"
    elif _are_equal(a, b):
        return None
    figures: dict[str, Any] = {}
    if change is None:
        assert a is not None
        assert b is not None
        change, figures = "values", _measure(a, b)
    return TensorDifference(
        name=known.name,
        change=change,
        dtype_a=None if a is None else a.dtype,
        dtype_b=None if b is None else b.dtype,
        shape_a=None if a is None else a.shape,
        shape_b=None if b is None else b.shape,
        **figures,
    )


def _are_equal(a: Tensor, b: Tensor) -> bool:
    if a.nbytes is not None and a.nbytes != b.nbytes:
        return False
    return all(x == y for x, y in _pair_pieces(a, b))


def _pair_pieces(a: Tensor, b: Tensor) -> Iterator[tuple[bytes, bytes]]:
    """Read two tensors in pieces of equal length, but for the last, where one may be longer."""
    pieces_a, pieces_b = _Pieces(a.chunks()), _Pieces(b.chunks())
    while True:
        x, y = pieces_a.read(_PIECE_BYTES), pieces_b.read(_PIECE_BYTES)
        if not x and not y:
            return
        yield x, y


class _Pieces:
    """A stream over chunks of any length."""

    def __init__(self, chunks: Iterator[bytes | memoryview]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, count: int) -> bytes:
        parts = []
        missing = count
        while missing:
            if not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._rest = memoryview(chunk)
                continue
            parts.append(bytes(self._rest[:missing]))
            self._rest = self._rest[missing:]
            missing -= len(parts[-1])
        return b"".join(parts)


def _measure(a: Tensor, b: Tensor) -> dict[str, Any]:
    elements = math.prod(a.shape)
    if a.dtype in _INTEGERS:
        return _IntegerFigures(a.dtype).run(a, b, elements)
    if a.dtype in _FLOATS or a.dtype in _COMPLEX:
        return _FloatFigures(a.dtype).run(a, b, elements)
    if a.nbytes is None or elements == 0 or a.nbytes % elements or a.nbytes // elements > _PIECE_BYTES:
        # Strings, and blocks in which several elements share bytes: that they differ is all that can be said.
        return {"elements": elements}
    return {"elements": elements, "differing": _count_differing(a, b, a.nbytes // elements)}


def _count_differing(a: Tensor, b: Tensor, item_bytes: int) -> int:
    import numpy as np

    differing = 0
    pieces_a, pieces_b = _Pieces(a.chunks()), _Pieces(b.chunks())
    step = _PIECE_BYTES - _PIECE_BYTES % item_bytes
    while x := pieces_a.read(step):
        unequal = np.frombuffer(x, "u1") != np.frombuffer(pieces_b.read(step), "u1")
        differing += int(unequal.reshape(-1, item_bytes).any(axis=1).sum())
    return differing


class _Cosine:
    """The cosine of the angle between two vectors, piece by piece."""

    def __init__(self) -> None:
        self._sums: list[list[float]] = [[], [], []]

    def add(self, a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> None:
        for sums, x, y in zip(self._sums, (a, a, b), (b, a, b), strict=True):
            sums.append(float(x @ y))

    def result(self) -> float | None:
        try:
            product, square_a, square_b = (math.fsum(sums) for sums in self._sums)
        except (OverflowError, ValueError):  # an infinity among them
            return None
        length = math.sqrt(square_a) * math.sqrt(square_b)
        if not math.isfinite(product) or not math.isfinite(length) or length == 0:
            return None
        return max(-1.0, min(1.0, product / length))


class _IntegerFigures:
    """Figures of integers, exact."""

    def __init__(self, dtype: str) -> None:
        import numpy as np

        # A bool is the byte that the file has, whatever it is.
        self._dtype = np.dtype("uint8" if dtype == "bool" else dtype).newbyteorder("<")

    def run(self, a: Tensor, b: Tensor, elements: int) -> dict[str, Any]:
        import numpy as np

        differing, largest, total = 0, 0, 0
        cosine = _Cosine()
        for raw_a, raw_b in _pair_pieces(a, b):
            x, y = np.frombuffer(raw_a, self._dtype), np.frombuffer(raw_b, self._dtype)
            wide = np.uint64 if self._dtype.kind == "u" else np.int64
            low, high = np.minimum(x, y).astype(wide), np.maximum(x, y).astype(wide)
            # The distance of two 64-bit numbers fits into 64 bits without a sign, where subtraction wraps around.
            distance = high.astype(np.uint64) - low.astype(np.uint64)
            differing += int(np.count_nonzero(distance))
            largest = max(largest, int(distance.max()))
            # Halves, because a sum of 64-bit numbers does not fit into 64 bits.
            total += (int((distance >> 32).sum()) << 32) + int((distance & 0xFFFFFFFF).sum())
            cosine.add(x.astype(np.float64), y.astype(np.float64))
        return {
            "elements": elements,
            "differing": differing,
            "nan": 0,
            "max_absolute": largest,
            "mean_absolute": total / elements,
            "cosine": cosine.result(),
        }


class _FloatFigures:
    """Figures of floats and complex numbers."""

    def __init__(self, dtype: str) -> None:
        self._part = _COMPLEX.get(dtype, dtype)
        self._parts = 2 if dtype in _COMPLEX else 1
        self._width = _FLOATS[self._part]

    def run(self, a: Tensor, b: Tensor, elements: int) -> dict[str, Any]:
        import numpy as np

        differing, nan, compared, most_steps = 0, 0, 0, 0
        largest = 0.0
        sums: list[float] = []
        cosine = _Cosine()
        with np.errstate(all="ignore"):
            for raw_a, raw_b in _pair_pieces(a, b):
                bits_a, bits_b = self._read_bits(raw_a), self._read_bits(raw_b)
                x, y = self._values(bits_a), self._values(bits_b)
                unequal = (bits_a != bits_b).any(axis=1)
                is_nan = (np.isnan(x) | np.isnan(y)).any(axis=1)
                differing += int(unequal.sum())
                nan += int((unequal & is_nan).sum())
                x, y, bits_a, bits_b = x[~is_nan], y[~is_nan], bits_a[~is_nan], bits_b[~is_nan]
                if not len(x):
                    continue
                compared += len(x)
                most_steps = max(most_steps, int(self._steps(bits_a, bits_b).max()))
                # Where both are one infinity their difference is NaN, and they are equal.
                distance = np.where(x == y, 0.0, np.abs(x - y))
                absolute = distance[:, 0] if self._parts == 1 else np.hypot(distance[:, 0], distance[:, 1])
                largest = max(largest, float(absolute.max()))
                sums.append(float(absolute.sum()))
                cosine.add(x.reshape(-1), y.reshape(-1))
        return {
            "elements": elements,
            "differing": differing,
            "nan": nan,
            "max_absolute": largest if compared else None,
            "mean_absolute": _sum(sums) / compared if compared else None,
            "max_ulp": most_steps if compared else None,
            "cosine": cosine.result(),
        }

    def _read_bits(self, raw: bytes) -> np.ndarray[Any, Any]:
        import numpy as np

        return np.frombuffer(raw, f"<u{self._width}").reshape(-1, self._parts)

    def _values(self, bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        import numpy as np

        if self._part == "bfloat16":
            return (bits.astype("<u4") << 16).view("<f4").astype(np.float64)
        return bits.view(f"<f{self._width}").astype(np.float64)

    def _steps(self, bits_a: np.ndarray[Any, Any], bits_b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """How many numbers of the type lie between: in the order of the bits, negative ones turned around."""
        import numpy as np

        sign = np.uint64(1 << (8 * self._width - 1))
        mask = np.uint64((1 << 8 * self._width) - 1)
        ordered = []
        for bits in (bits_a.astype(np.uint64), bits_b.astype(np.uint64)):
            ordered.append(np.where(bits & sign != 0, ~bits & mask, bits | sign))
        return np.maximum(*ordered) - np.minimum(*ordered)


def _sum(values: list[float]) -> float:
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf
