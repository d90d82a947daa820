"""Digests objects field by field, without pickling them: what an estimator learned, or all that a pickle holds.

`digest_state` leaves out what an estimator was told, and counts what it does not know as its type: it serves to compare
what was seen at two stages. `digest_objects` takes all in, and gives nothing where it meets something that it does not
know; it is the recipe `objects-v1/sha256` of docs/formats/digest-v1.md.
"""

import copyreg
import hashlib
import sys

from _reprobox_describe import CAP_BYTES, digest_array, to_array

_DEPTH = 64
_VISITS = 1000000
_NOISE = ("_sklearn_version", "_sklearn_output_config", "_metadata_request", "_repr_html", "_stop_words_id")
_GENERATORS = ("random_state", "_rng")
_SPELLED = ("datetime", "decimal", "fractions", "uuid", "pathlib", "pathlib._local")
"""Modules of the standard library whose values are what `repr` says."""


def digest_state(value):
    """Digest a fitted estimator, or a list or dictionary of such.

    Args:
        value: The object.

    Returns:
        32 hexadecimal digits.
    """
    walk = _Walk(sys.modules.get("numpy"), whole=False)
    walk.visit(value, 0)
    return walk.hash.hexdigest()[:32]


def digest_objects(value):
    """Digest all that an object holds, in a way that its pickle's bytes do not matter.

    Args:
        value: The object.

    Returns:
        64 hexadecimal digits; None where something in it is not known here, or it is over the cap.
    """
    walk = _Walk(sys.modules.get("numpy"), whole=True)
    walk.hash.update(b"reprobox objects-v1\n")
    walk.visit(value, 0)
    return walk.hash.hexdigest() if walk.is_complete else None


def is_estimator(value):
    """Whether something is a fitted or unfitted estimator in the manner of scikit-learn."""
    return hasattr(value, "get_params") and hasattr(value, "__dict__") and not isinstance(value, type)


class _Walk:
    def __init__(self, numpy, whole):
        self._numpy = numpy
        self._whole = whole
        self._path = set()
        self._visits = 0
        self._kept = []  # Else the number of one that is gone could be that of the next.
        self._left = CAP_BYTES * (4 if whole else 1)
        self.is_complete = True
        self.hash = hashlib.sha256()

    def _add(self, *words):
        for word in words:
            data = word if isinstance(word, bytes) else word.encode("utf-8", "surrogatepass")
            self.hash.update(b"%d:" % len(data) + data)

    def _give_up(self, *words):
        self.is_complete = False
        self._add(*words)

    def visit(self, value, depth):
        if value is None or type(value) in (bool, int, float, complex, str):
            self._add(type(value).__name__, repr(value))
        elif isinstance(value, (bytes, bytearray)):
            self._add("bytes", bytes(value))
        elif depth > _DEPTH or self._left <= 0 or self._visits > _VISITS:
            self._give_up("deeper")
        elif id(value) in self._path:
            self._give_up("itself")
        else:
            # One object in two places counts as two equal ones: loading and saving again may change which it is.
            self._visits += 1
            self._path.add(id(value))
            self._kept.append(value)
            self._visit_object(value, depth)
            self._path.discard(id(value))

    def _visit_object(self, value, depth):
        numpy = self._numpy
        if isinstance(value, dict):
            self._visit_dict(value, depth)
            self._visit_attributes(value, depth)
        elif isinstance(value, (list, tuple)):
            self._add(type(value).__name__, str(len(value)))
            for item in value:
                self.visit(item, depth + 1)
            self._visit_attributes(value, depth)
        elif isinstance(value, (set, frozenset)):
            if not all(_is_plain(item) for item in value):
                self._give_up("set")
            self._add("set", *sorted(_spell(item) for item in value))
        elif isinstance(value, type) or callable(getattr(value, "__code__", None)) or hasattr(value, "__code__"):
            self._add("name", str(getattr(value, "__module__", "?")), getattr(value, "__qualname__", "?"))
        elif numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
            self._visit_array(numpy.asarray(value), depth)
        elif hasattr(value, "tocsr") and hasattr(value, "nnz"):
            self._visit_sparse(value, depth)
        elif is_estimator(value):
            self._visit_estimator(value, depth)
        else:
            self._visit_other(value, depth)

    def _visit_attributes(self, value, depth):
        """Visit what an object of a class derived from a container has beside its items."""
        if self._whole and getattr(value, "__dict__", None):
            self._visit_pairs("attributes", list(vars(value).items()), depth)

    def _visit_dict(self, value, depth):
        if all(isinstance(key, str) for key in value):
            self._visit_pairs(type(value).__name__, list(value.items()), depth)
            return
        if not all(_is_plain(key) for key in value):
            self._give_up("keys")
        pairs = sorted(((_spell(key), _Boxed(item)) for key, item in value.items()), key=lambda pair: pair[0])
        self._add(type(value).__name__, str(len(pairs)))
        for key, boxed in pairs:
            self._add(key)
            self.visit(boxed.value, depth + 1)

    def _visit_array(self, array, depth):
        self._add("array", str(array.dtype), str(array.shape))
        if array.dtype == object:
            for item in array.flat:
                self.visit(item, depth + 1)
        elif array.dtype.hasobject:
            self._give_up("objects")
        else:
            self._left -= array.nbytes
            self._add(digest_array(self._numpy, array))

    def _visit_sparse(self, value, depth):
        matrix = value.tocsr()
        self._add("sparse", str(matrix.shape))
        for part in (matrix.indptr, matrix.indices, matrix.data):
            self._visit_array(part, depth)

    def _visit_estimator(self, value, depth):
        fields = list(vars(value).items())
        if not self._whole:
            # What it was told is not what it learned, but for the estimators that it was given.
            told = set(value.get_params(deep=False))
            fields = [(name, item) for name, item in fields if name not in told or _holds_estimators(item)]
        self._visit_pairs(type(value).__qualname__, fields, depth)

    def _visit_other(self, value, depth):
        kind = type(value)
        array = to_array(self._numpy, value) if self._numpy is not None else None
        if array is not None:
            self._visit_array(array, depth)
        elif kind.__module__ in _SPELLED:
            self._add(kind.__qualname__, repr(value))
        elif kind.__module__.startswith("pandas.") and hasattr(value, "to_numpy"):
            self._visit_frame(value, depth)
        elif self._whole:
            self._visit_reduced(value, depth)
        elif kind.__module__.startswith("sklearn.") and hasattr(kind, "__getstate__"):
            # Trees and the like, which are written in C.
            self._add(kind.__qualname__)
            self.visit(value.__getstate__(), depth + 1)
        elif hasattr(value, "__dict__") and not callable(value):
            self._visit_pairs(kind.__qualname__, list(vars(value).items()), depth)
        else:
            self._add("type", kind.__qualname__)

    def _visit_reduced(self, value, depth):
        """Visit what pickle would keep of an object: what makes it, and its state."""
        try:
            reduce = copyreg.dispatch_table.get(type(value))
            parts = reduce(value) if reduce else value.__reduce_ex__(4)
        except Exception:
            self._give_up("type", type(value).__qualname__)
            return
        if isinstance(parts, str):
            self._add("name", str(getattr(value, "__module__", "?")), parts)
            return
        self._add("reduced", str(len(parts)))
        for part in parts[:3]:
            self.visit(part, depth + 1)
        for items in parts[3:]:
            self.visit(None if items is None else list(items) if hasattr(items, "__next__") else items, depth + 1)

    def _visit_frame(self, value, depth):
        self._add(type(value).__qualname__)
        if hasattr(value, "columns"):
            self.visit(list(value.columns), depth + 1)
            self._visit_array(self._numpy.asarray(value.index), depth)
            for number in range(value.shape[1]):
                column = value.iloc[:, number]
                self._add(str(column.dtype))
                self._visit_array(column.to_numpy(), depth)
            return
        self._add(str(getattr(value, "name", None)), str(value.dtype))
        if hasattr(value, "index") and not callable(value.index):
            self._visit_array(self._numpy.asarray(value.index), depth)
        self._visit_array(value.to_numpy(), depth)

    def _visit_pairs(self, name, pairs, depth):
        kept = sorted(((key, _Boxed(item)) for key, item in pairs if self._counts(key)), key=lambda pair: pair[0])
        self._add(name, str(len(kept)))
        for key, boxed in kept:
            self._add(key)
            self.visit(boxed.value, depth + 1)

    def _counts(self, key):
        # How long something took is no part of what it is.
        if key.startswith(_NOISE) or "_time" in key:
            return False
        return self._whole or not key.startswith(_GENERATORS)


class _Boxed:
    """A value beside its key, so that no tuple compares values."""

    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


def _is_plain(item):
    if isinstance(item, tuple):
        return all(map(_is_plain, item))
    return item is None or type(item) in (bool, int, float, complex, str, bytes)


def _spell(item):
    return "%s %r" % (type(item).__name__, item)


def _holds_estimators(item):
    if is_estimator(item):
        return True
    return isinstance(item, (list, tuple)) and any(
        is_estimator(part) or (isinstance(part, tuple) and any(map(is_estimator, part))) for part in item
    )
