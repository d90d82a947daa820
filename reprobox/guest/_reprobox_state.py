"""Digests what an estimator has learned, field by field, without pickling it.

Two estimators fitted on the same data by the same library have the same digest; what is not known here counts as its
type.
"""

import hashlib
import sys

from _reprobox_describe import CAP_BYTES, digest_array, to_array

_DEPTH = 16
_LEFT_OUT = ("_sklearn_version", "_sklearn_output_config", "_metadata_request", "_repr_html", "random_state", "_rng")


def digest_state(value):
    """Digest a fitted estimator, or a list or dictionary of such.

    Args:
        value: The object.

    Returns:
        32 hexadecimal digits.
    """
    walk = _Walk(sys.modules.get("numpy"))
    walk.visit(value, 0)
    return walk.hash.hexdigest()[:32]


def is_estimator(value):
    """Whether something is a fitted or unfitted estimator in the manner of scikit-learn."""
    return hasattr(value, "get_params") and hasattr(value, "__dict__") and not isinstance(value, type)


class _Walk:
    def __init__(self, numpy):
        self._numpy = numpy
        self._seen = {}
        self._kept = []  # Else the number of one that is gone could be that of the next.
        self._left = CAP_BYTES
        self.hash = hashlib.sha256()

    def _add(self, *words):
        for word in words:
            data = word if isinstance(word, bytes) else word.encode("utf-8", "surrogatepass")
            self.hash.update(b"%d:" % len(data) + data)

    def visit(self, value, depth):
        if value is None or isinstance(value, (bool, int, float, complex, str)):
            self._add(type(value).__name__, repr(value))
        elif isinstance(value, (bytes, bytearray)):
            self._add("bytes", bytes(value))
        elif depth > _DEPTH or self._left <= 0:
            self._add("deeper")
        elif id(value) in self._seen:
            self._add("again", str(self._seen[id(value)]))
        else:
            self._seen[id(value)] = len(self._seen)
            self._kept.append(value)
            self._visit_object(value, depth)

    def _visit_object(self, value, depth):
        numpy = self._numpy
        if isinstance(value, dict):
            self._visit_pairs("dict", [(str(key), item) for key, item in value.items()], depth)
        elif isinstance(value, (list, tuple)):
            self._add(type(value).__name__, str(len(value)))
            for item in value:
                self.visit(item, depth + 1)
        elif isinstance(value, (set, frozenset)):
            self._add("set", *sorted(repr(item) for item in value))
        elif isinstance(value, type) or callable(getattr(value, "__code__", None)):
            self._add("name", getattr(value, "__qualname__", "?"))
        elif numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
            self._visit_array(numpy.asarray(value), depth)
        elif hasattr(value, "tocsr") and hasattr(value, "nnz"):
            matrix = value.tocsr()
            for part in (matrix.indptr, matrix.indices, matrix.data):
                self._visit_array(part, depth)
        elif is_estimator(value):
            self._visit_estimator(value, depth)
        else:
            self._visit_other(value, depth)

    def _visit_array(self, array, depth):
        self._add("array", str(array.dtype), str(array.shape))
        if array.dtype == object:
            for item in array.flat:
                self.visit(item, depth + 1)
        elif not array.dtype.hasobject:
            self._left -= array.nbytes
            self._add(digest_array(self._numpy, array))

    def _visit_estimator(self, value, depth):
        # What it was told is not what it learned, but for the estimators that it was given.
        told = set(value.get_params(deep=False))
        fields = [(name, item) for name, item in vars(value).items() if name not in told or _holds_estimators(item)]
        self._visit_pairs(type(value).__qualname__, fields, depth)

    def _visit_other(self, value, depth):
        kind = type(value)
        array = to_array(self._numpy, value) if self._numpy is not None else None
        if array is not None:
            self._visit_array(array, depth)
        elif kind.__module__.startswith("sklearn.") and hasattr(kind, "__getstate__"):
            # Trees and the like, which are written in C.
            self._add(kind.__qualname__)
            self.visit(value.__getstate__(), depth + 1)
        elif hasattr(value, "__dict__") and not callable(value):
            self._visit_pairs(kind.__qualname__, list(vars(value).items()), depth)
        else:
            self._add("type", kind.__qualname__)

    def _visit_pairs(self, name, pairs, depth):
        kept = sorted((key, item) for key, item in ((key, _Boxed(item)) for key, item in pairs) if _counts(key))
        self._add(name, str(len(kept)))
        for key, boxed in kept:
            self._add(key)
            self.visit(boxed.value, depth + 1)


class _Boxed:
    """A value that sorts beside any other: keys are distinct, but sorting may look."""

    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value

    def __lt__(self, other):
        return False


def _counts(key):
    # How long something took is no part of what was learned.
    return not key.startswith(_LEFT_OUT) and "_time" not in key


def _holds_estimators(item):
    if is_estimator(item):
        return True
    return isinstance(item, (list, tuple)) and any(
        is_estimator(part) or (isinstance(part, tuple) and any(map(is_estimator, part))) for part in item
    )
