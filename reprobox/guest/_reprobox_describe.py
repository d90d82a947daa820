"""Describes data in a few numbers: type, shape, a digest in order, one that ignores the order of rows, a summary.

Nothing here changes what it looks at, draws a random number or imports a library. What is larger than a cap is looked
at in part, always in the same part, and says so.
"""

import hashlib
import sys

CAP_BYTES = 64 << 20
ROWS_CAP_BYTES = 32 << 20
SAMPLE = 256
"""How many rows of a piece of data are named, so that one can ask which two pieces have in common."""

_BLOCK_BYTES = 1 << 20
_COLUMNS = 16
_CLASSES = 64
_ITEMS = 200000


def describe(value, sample=False):
    """Describe a piece of data.

    Args:
        value: Array, frame, tensor, sparse matrix, list of numbers or texts, or anything else.
        sample: Whether to name some of its rows.

    Returns:
        A dictionary for the trail; of what is not known here, its type alone.
    """
    numpy = sys.modules.get("numpy")
    name = _name_type(value)
    if numpy is None:
        return {"type": name}
    if name.startswith("pandas."):
        found = _describe_frame(numpy, value, sample)
        if found is not None:
            return found
    if hasattr(value, "tocsr") and hasattr(value, "nnz"):
        return _describe_sparse(numpy, value, name)
    array = to_array(numpy, value)
    if array is not None:
        return describe_array(numpy, array, sample)
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, str) for item in value[:_ITEMS]):
        return _describe_texts(numpy, value, sample)
    return {"type": name}


def to_array(numpy, value):
    """Give a NumPy array of a value that is one, or a tensor with values of its own; None for anything else."""
    if isinstance(value, numpy.ndarray):
        return value
    if isinstance(value, numpy.generic) or isinstance(value, (bool, int, float)):
        return numpy.asarray(value)
    if isinstance(value, (list, tuple)):
        if not value or len(value) > _ITEMS or not isinstance(_first(value), (bool, int, float, numpy.generic)):
            return None
        array = numpy.asarray(value)
        return array if array.dtype != object else None
    module = type(value).__module__.partition(".")[0]
    if module == "torch" and hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.view(sys.modules["torch"].int16)
        return value.numpy()
    if module in ("tensorflow", "jax", "jaxlib", "keras") and hasattr(value, "__array__") and hasattr(value, "shape"):
        # A symbolic tensor has no values, and says so.
        try:
            return numpy.asarray(value)
        except Exception:
            return None
    return None


def _first(value):
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return value


def describe_array(numpy, array, sample=False):
    """Describe an array; see `describe`."""
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    found = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if array.dtype == object:
        if array.size > _ITEMS or not all(isinstance(item, str) for item in array.flat):
            return found
        texts = _describe_texts(numpy, list(array.flat), sample and array.ndim == 1)
        return dict(texts, **found)
    if array.dtype.hasobject:
        return found
    if array.nbytes > CAP_BYTES and array.ndim:
        step = -(-array.nbytes // CAP_BYTES)
        array = array[::step]
        found["every"] = int(step)
    found["digest"] = digest_array(numpy, array)
    if array.ndim and array.shape[0] > 1 and array.dtype.kind in "biufc" and array.size:
        rows = hash_rows(numpy, array)
        found["rows"] = combine_rows(numpy, rows)
        if sample:
            found["sample"] = sample_rows(numpy, rows)
    if array.dtype.kind in "biuf" and array.size:
        found["summary"] = _summarise(numpy, array)
    found.update(_describe_labels(numpy, array))
    return found


def digest_array(numpy, array):
    """Digest an array's bytes in order, little-endian and in C order; type and shape stand beside it."""
    if array.dtype.names:
        state = hashlib.sha256()
        for name in array.dtype.names:  # Without the bytes between fields, which nobody sets.
            state.update(digest_array(numpy, array[name]).encode("ascii"))
        return state.hexdigest()[:32]
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    array = numpy.ascontiguousarray(array)
    return hashlib.sha256(array.view(numpy.uint8).data if array.size and array.ndim else array.tobytes()).hexdigest()[
        :32
    ]


def hash_rows(numpy, array):
    """Hash each row of an array: 64 bits each, of all bytes in it.

    Args:
        numpy: The module.
        array: One dimension or more, without objects.

    Returns:
        An array of shape (rows,) and type uint64.
    """
    rows = array.shape[0]
    if array.nbytes > ROWS_CAP_BYTES:
        step = -(-array.nbytes // ROWS_CAP_BYTES)
        array = array[::step]
        rows = array.shape[0]
    width = array.nbytes // rows
    words = max(1, -(-width // 8))
    factors = _mix(numpy, numpy.arange(1, words + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15))
    factors |= numpy.uint64(1)
    hashes = numpy.empty(rows, numpy.uint64)
    step = max(1, _BLOCK_BYTES // (words * 8))
    for start in range(0, rows, step):
        part = numpy.ascontiguousarray(array[start : start + step])
        count = part.shape[0]
        if width == words * 8:
            block = part.reshape(count, -1).view(numpy.uint64).reshape(count, words)
        else:
            block = numpy.zeros((count, words * 8), numpy.uint8)
            block[:, :width] = part.reshape(count, -1).view(numpy.uint8).reshape(count, width)
            block = block.view(numpy.uint64)
        hashes[start : start + step] = _mix(numpy, (_mix(numpy, block) * factors).sum(axis=1, dtype=numpy.uint64))
    return hashes


def _mix(numpy, values):
    """Spread each bit over the whole word. Source: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    values = (values ^ (values >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return values ^ (values >> numpy.uint64(31))


def combine_rows(numpy, hashes):
    """Combine the hashes of rows so that their order does not matter, but how often each one is there does."""
    one = hashes.sum(dtype=numpy.uint64)
    other = _mix(numpy, hashes ^ numpy.uint64(0xA5A5A5A5A5A5A5A5)).sum(dtype=numpy.uint64)
    return "%016x%016x" % (int(one), int(other))


def sample_rows(numpy, hashes):
    """Name some rows, such that of two pieces of data those are named that both have.

    Returns:
        "shift": rows are named whose hash is a multiple of 2 to this power, "rows": these hashes, each once, sorted.
    """
    unique = numpy.unique(hashes)
    shift = 0
    while True:
        chosen = unique if not shift else unique[unique & numpy.uint64((1 << shift) - 1) == 0]
        if len(chosen) <= SAMPLE:
            return {"shift": shift, "rows": ["%016x" % int(item) for item in chosen]}
        shift += 1


def _summarise(numpy, array):
    with numpy.errstate(all="ignore"):
        if array.dtype.kind == "b":
            return {"mean": _round(array.mean())}
        if array.ndim == 2 and 1 < array.shape[1] <= _COLUMNS:
            return {
                "mean": [_round(item) for item in array.mean(axis=0)],
                "min": [_round(item) for item in array.min(axis=0)],
                "max": [_round(item) for item in array.max(axis=0)],
            }
        return {"mean": _round(array.mean()), "min": _round(array.min()), "max": _round(array.max())}


def _round(value):
    return float("%.6g" % float(value))


def _describe_labels(numpy, array):
    """Count the classes of what looks like labels, and digest which rows share one, whatever its number is."""
    if array.ndim == 2 and 1 < array.shape[1] <= _CLASSES and array.dtype.kind in "biuf":
        is_one_hot = ((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all()
        if not is_one_hot:
            return {}
        array = array.argmax(axis=1)
    elif array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.shape[0] < 2 or array.dtype.kind not in "biufSU":
        return {}
    if array.dtype.kind == "f" and not (array == numpy.floor(array)).all():
        return {}
    values, first, inverse, counts = numpy.unique(array, return_index=True, return_inverse=True, return_counts=True)
    if len(values) > _CLASSES:
        return {}
    ranks = numpy.empty(len(values), numpy.int32)
    ranks[numpy.argsort(first, kind="stable")] = numpy.arange(len(values), dtype=numpy.int32)
    pattern = hashlib.sha256(ranks[inverse.reshape(-1)].tobytes()).hexdigest()[:32]
    labels = {str(value)[:40]: int(count) for value, count in zip(values.tolist(), counts)}
    return {"labels": labels, "pattern": pattern}


def _describe_frame(numpy, value, sample):
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(value, (pandas.DataFrame, pandas.Series)):
        return None
    found = {"type": type(value).__name__, "shape": list(value.shape)}
    if isinstance(value, pandas.DataFrame):
        found["columns"] = [str(name)[:80] for name in value.columns[:_CLASSES]]
        found["dtype"] = ",".join(sorted({str(kind) for kind in value.dtypes}))
    else:
        found["dtype"] = str(value.dtype)
    if value.size > 50 * _ITEMS:
        step = -(-value.size // (50 * _ITEMS))
        value = value.iloc[::step]
        found["every"] = int(step)
    if not len(value):
        return found
    hashes = _mix(numpy, pandas.util.hash_pandas_object(value, index=False).to_numpy().astype(numpy.uint64))
    found["digest"] = digest_array(numpy, hashes)
    found["rows"] = combine_rows(numpy, hashes)
    if sample:
        found["sample"] = sample_rows(numpy, hashes)
    if isinstance(value, pandas.Series) and value.dtype.kind in "biuf":
        found.update(_describe_labels(numpy, value.to_numpy()))
    elif isinstance(value, pandas.Series) and value.nunique() <= _CLASSES:
        found.update(_describe_labels(numpy, value.astype(str).to_numpy().astype("U")))
    return found


def _describe_sparse(numpy, value, name):
    matrix = value.tocsr()
    state = hashlib.sha256()
    for part in (matrix.indptr, matrix.indices, matrix.data):
        state.update(digest_array(numpy, part[: CAP_BYTES // max(1, part.itemsize)]).encode("ascii"))
    return {"type": name, "dtype": str(matrix.dtype), "shape": list(matrix.shape), "digest": state.hexdigest()[:32]}


def _describe_texts(numpy, value, sample):
    found = {"type": "texts", "shape": [len(value)]}
    if len(value) > _ITEMS:
        step = -(-len(value) // _ITEMS)
        value = value[::step]
        found["every"] = step
    state = hashlib.sha256()
    hashes = numpy.empty(len(value), numpy.uint64)
    for index, item in enumerate(value):
        digest = hashlib.sha256(item.encode("utf-8", "surrogatepass")).digest()
        state.update(digest)
        hashes[index] = int.from_bytes(digest[:8], "little")
    found["digest"] = state.hexdigest()[:32]
    found["rows"] = combine_rows(numpy, hashes)
    if sample:
        found["sample"] = sample_rows(numpy, hashes)
    if len(set(value)) <= _CLASSES:
        found.update(_describe_labels(numpy, numpy.asarray(value, dtype="U")))
    return found


def _name_type(value):
    kind = type(value)
    module = kind.__module__
    return kind.__qualname__ if module in ("builtins", "__main__") else "%s.%s" % (module, kind.__qualname__)
