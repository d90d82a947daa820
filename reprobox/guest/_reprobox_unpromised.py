"""Notes in the trail what no determinism level can promise: entropy of the operating system, and threads of the user's.

Only what user code, or a library that makes a generator for it, asks for itself; each once a process, with the file and
line of the user's code. Nothing is intercepted that can fail, so that no traceback has a frame more than it had:

- `os.urandom` stands behind `secrets`, `uuid.uuid4`, `random.SystemRandom`, and NumPy's generators without a seed.
- a thread, and a pool of threads, asks for a name when it is made.

What stays unseen: `random.Random()` without a seed, the time of day, and what extension modules ask by themselves.
"""

import os
import sys

_LIBRARY = os.path.dirname(os.__file__) + os.sep
_PACKAGES = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)
_SEED_BITS = 128
"""How much NumPy asks `secrets.randbits` for, to seed a generator that was given no seed."""


class Watch:
    """Hears of what cannot be promised.

    Args:
        trail: Where to note it.
        folder: The folder of the shim.
    """

    def __init__(self, trail, folder):
        self._trail = trail
        self._folder = folder
        self._noted = set()

    def entropy(self):
        """The operating system was asked for random bytes; called by what stands for `os.urandom`."""
        frame = sys._getframe(2)
        asked = None
        bits = 0
        while frame is not None and self._is_standard(frame):
            asked = frame
            if frame.f_code.co_name == "getrandbits":
                bits = frame.f_locals.get("k", 0)
            frame = frame.f_back
        if frame is None:
            return
        what = "os.urandom"
        if asked is not None:
            module = asked.f_globals.get("__name__", "")
            what = "%s.%s" % (module, asked.f_code.co_name) if module != "random" else "random.SystemRandom"
            if bits == _SEED_BITS and "randbits" not in frame.f_code.co_names and "numpy.random" in sys.modules:
                what = "numpy.random without a seed"
        library = self._library_of(frame)
        if library is None:
            self._note(what, frame)
        elif what.startswith("numpy") and library != "numpy":
            # A library that makes a generator without a seed draws numbers for the user; one that asks for bytes
            # names a file.
            self._note(what, self._user_frame(frame), library)

    def thread(self, what):
        """A thread or a pool of threads is made; called while it is.

        Args:
            what: "threading.Thread" or "concurrent.futures.ThreadPoolExecutor".
        """
        frame = sys._getframe(2)
        while frame is not None and self._is_standard(frame):
            module = frame.f_globals.get("__name__", "")
            if module.startswith("multiprocessing"):
                what = "multiprocessing"
            elif module == "concurrent.futures.process":
                what = "concurrent.futures.ProcessPoolExecutor"
            frame = frame.f_back
        if frame is not None and self._library_of(frame) is None:
            self._note(what, frame)

    def _note(self, what, frame, library=None):
        if frame is None or what in self._noted:
            return
        self._noted.add(what)
        file = frame.f_code.co_filename
        folder = os.getcwd() + os.sep
        fields = {
            "what": what,
            "file": file[len(folder) :] if file.startswith(folder) else file,
            "line": frame.f_lineno,
        }
        if library is not None:
            fields["through"] = library
        self._trail.event("unpromised", **fields)

    def _is_standard(self, frame):
        file = frame.f_code.co_filename
        return file.startswith(("<frozen ", self._folder)) or (
            file.startswith(_LIBRARY) and not any(part in file for part in _PACKAGES)
        )

    def _library_of(self, frame):
        """The package that the code of a frame belongs to, or None where it is the user's own."""
        file = frame.f_code.co_filename
        if not any(part in file for part in _PACKAGES) and not self._is_standard(frame):
            return None
        return frame.f_globals.get("__name__", "").partition(".")[0]

    def _user_frame(self, frame):
        """The user's code that called a library, or None where it only imports it."""
        while frame is not None and self._library_of(frame) is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                return None
            frame = frame.f_back
        return frame


class _Urandom:
    # Looks like the built-in function that it stands for; no function, which in a class would become a method.

    __slots__ = ("__doc__", "__name__", "__qualname__", "__wrapped__", "_watch")
    __module__ = "os"

    def __init__(self, original, watch):
        self.__doc__ = original.__doc__
        self.__name__ = self.__qualname__ = original.__name__
        self.__wrapped__ = original
        self._watch = watch

    def __call__(self, *args, **kwargs):
        drawn = self.__wrapped__(*args, **kwargs)
        try:
            self._watch.entropy()
        except Exception:
            pass
        return drawn

    def __repr__(self):
        return "<built-in function urandom>"

    def __reduce__(self):
        return "urandom"


_current = []


def apply(name, module, folder, trail):
    """Have a module that was just imported tell of what cannot be promised.

    Args:
        name: "random", "threading" or "concurrent.futures.thread".
        module: The module.
        folder: The folder of the shim.
        trail: Where to note it.
    """
    if not _current:
        _current.append(Watch(trail, folder))
        os.urandom = _Urandom(os.urandom, _current[0])
    watch = _current[0]
    if name == "random":
        if getattr(module, "_urandom", None) is os.urandom.__wrapped__:
            module._urandom = os.urandom
    elif name == "threading":
        _watch_threads(module, watch)
    elif name == "concurrent.futures.thread":
        _watch_pools(module.ThreadPoolExecutor, watch)


def _watch_threads(threading, watch):
    original = threading._newname

    def _newname(*args, **kwargs):
        try:
            watch.thread("threading.Thread")
        except Exception:
            pass
        return original(*args, **kwargs)

    threading._newname = _newname


def _watch_pools(executor, watch):
    # Its constructor calls this to name itself; a class attribute that is no function, so it stays one.
    original = executor._counter

    class _Counter:
        def __call__(self):
            try:
                watch.thread("concurrent.futures.ThreadPoolExecutor")
            except Exception:
                pass
            return original()

    executor._counter = _Counter()
