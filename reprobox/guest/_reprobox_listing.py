"""Directory listings in the order of their names, as bytes.

`os.listdir` and `os.scandir` give the order of the file system, which another copy of the same folder need
not have. Everything else that lists folders (`os.walk`, `glob`, `pathlib`, `shutil`) calls these two. The
import system calls them by another way and pays nothing.

The replacements are objects, not functions: a function as the attribute of a class would become a method, and
the `pathlib` of Python 3.8 to 3.10 keeps both as attributes of a class.
"""

import os
import sys
from os import fsencode


class _Replacement:
    # Looks like the built-in function that it replaces: name, text, documentation, signature, pickle. It has
    # no docstring because each object has that of its original.

    __slots__ = ("__doc__", "__name__", "__qualname__", "__wrapped__", "_order")
    __module__ = "os"

    def __init__(self, original, order):
        self.__doc__ = original.__doc__
        self.__name__ = self.__qualname__ = original.__name__
        self.__wrapped__ = original
        self._order = order

    def __call__(self, *args, **kwargs):
        return self._order(self.__wrapped__(*args, **kwargs))

    def __repr__(self):
        return "<built-in function %s>" % self.__name__

    def __reduce__(self):
        return self.__name__


def _sort_names(names):
    names.sort(key=fsencode)
    return names


class ScandirIterator:
    """The entries of a folder in order: an iterator and context manager, as the original is.

    The folder is opened when `os.scandir` is called and read when the first entry is asked for, so that
    errors come when they came before.

    Args:
        entries: The original iterator, unread.
    """

    __slots__ = ("_entries", "_sorted")

    def __init__(self, entries):
        self._entries = entries
        self._sorted = None

    def __iter__(self):
        return self

    def __next__(self):
        if self._sorted is None:
            self._sorted = iter(sorted(self._entries, key=_name))
        return next(self._sorted)

    def close(self):
        """Close the folder; there are no more entries then."""
        self._sorted = iter(())
        self._entries.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()


def _name(entry):
    return fsencode(entry.name)


def install():
    """Replace both functions, also where a module has already taken hold of them."""
    _replace(os.listdir, _sort_names)
    _replace(os.scandir, ScandirIterator)


def _replace(original, order):
    name = original.__name__
    replacement = _Replacement(original, order)
    if original in os.supports_fd:
        os.supports_fd.add(replacement)
    for module in list(sys.modules.values()):
        try:
            # Not `module.__dict__`: asking a lazily loaded module for anything loads it.
            attributes = object.__getattribute__(module, "__dict__")
        except AttributeError:
            continue
        # `posix`, where both come from, keeps its own, which the import system uses.
        if attributes.get(name) is original and attributes.get("__name__") != original.__module__:
            attributes[name] = replacement
    for module_name, class_name in (("pathlib", "_NormalAccessor"), ("glob", "_StringGlobber")):
        holder = getattr(sys.modules.get(module_name), class_name, None)
        if holder is not None and getattr(holder, name, None) is original:
            setattr(holder, name, staticmethod(replacement))
