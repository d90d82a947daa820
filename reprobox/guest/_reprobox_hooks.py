"""Puts a note of what happened into the trail: which call of which library, on which data, from which line.

A hooked function is called with the arguments that it was given, and what it returns or raises reaches the
caller as it is. Whatever goes wrong in a note is a fault in the trail, or nothing, never the user's. Only the
outermost of nested calls is noted, and in one thread at a time: what a library does inside is its own affair.
"""

import _frozen_importlib as _bootstrap
import os
import sys
from _thread import allocate_lock

REPEATS = {"save": 256}
"""How often one call of a kind from one line is noted; a loop of a million predictions is not a million notes."""

_REPEATS = 16
_FILES = ("save", "load")
"""Kinds of calls that are noted inside others too: a model that is saved while it is fitted."""

MODULES = {
    "numpy": "_reprobox_hooks_data",
    "pandas": "_reprobox_hooks_data",
    "pickle": "_reprobox_hooks_data",
    "joblib": "_reprobox_hooks_data",
    "sklearn.datasets": "_reprobox_hooks_data",
    "sklearn.base": "_reprobox_hooks_sklearn",
    "sklearn.metrics": "_reprobox_hooks_sklearn",
    "keras": "_reprobox_hooks_keras",
    "tf_keras": "_reprobox_hooks_keras",
    "torch": "_reprobox_hooks_torch",
}
"""Modules whose calls are noted, and the part of the shim that knows how."""


class Hooks:
    """Notes calls in the trail.

    Args:
        trail: Where to.
        work: The working folder, absolute; user code is what lies below it.
    """

    def __init__(self, trail, work):
        self._trail = trail
        self._work = work.rstrip("/") + "/"
        self._folder = os.getcwd()  # What code that was started by a relative path is relative to.
        self._depth = {True: 0, False: 0}
        self._lock = allocate_lock()
        self._seen = {}
        self._opened = set()
        self._saved = set()
        self.is_on = True

    def apply(self, name, module):
        """Hook a module that was just imported; see `MODULES`."""
        __import__(MODULES[name]).apply(name, module, self)

    def watch_files(self):
        """Note every file below the working folder that this process opens, once for reading and once for writing."""
        sys.addaudithook(self._audit)

    def stop_in_children(self):
        """Have forked children note nothing: their order is not that of the program."""
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._stop)

    def _stop(self):
        self.is_on = False

    def _audit(self, event, arguments):
        if event != "open" or not self.is_on:
            return
        try:
            path, mode, flags = arguments
            if isinstance(path, int) or path is None:
                return
            path = os.path.abspath(os.fsdecode(path))
            if not path.startswith(self._work) or path.endswith((".pyc", ".py")):
                return
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR)) if isinstance(flags, int) else "w" in (mode or "")
            key = (path, writes)
            # A file that was saved and is written again is no longer what was saved.
            if key in self._opened and not (writes and path in self._saved):
                return
            if writes:
                self._saved.discard(path)
            self._opened.add(key)
            if not writes and not os.path.isfile(path):
                return
            place = self.find_place()
            if place is not None:
                self._trail.event("open", of=self.name_file(path), mode="write" if writes else "read", where=place)
        except Exception:
            pass

    def find_place(self):
        """File and line of the innermost frame of the user's own code, as "train.py:12"; None outside of any."""
        frame = sys._getframe(1)
        while frame is not None:
            name = frame.f_code.co_filename
            if not name.startswith("<"):
                path = os.path.normpath(os.path.join(self._folder, name))
                if path.startswith(self._work):
                    return "%s:%d" % (path[len(self._work) :], frame.f_lineno)
            frame = frame.f_back
        return None

    def is_users(self, file):
        """Whether a file is one of the user's own code."""
        return os.path.abspath(file).startswith(self._work)

    def name_file(self, path):
        """Name a file relative to the working folder, where it lies in there; None for what is no path."""
        if hasattr(path, "name") and not isinstance(path, os.PathLike):
            path = path.name
        try:
            path = os.path.abspath(os.fsdecode(path))
        except TypeError:
            return None
        return path[len(self._work) :] if path.startswith(self._work) else path

    def replace(self, holder, name, event, before=None, after=None, of=None):
        """Hook one function.

        Args:
            holder: The module or class that has it.
            name: Its name there. Nothing happens where there is none.
            event: The kind of the note.
            before: Called with the arguments before the call; gives fields of the note.
            after: Called with the arguments and the result after it; gives more of them.
            of: What the note is about; None takes the class of the first argument.
        """
        original = vars(holder).get(name)
        if not callable(original) or hasattr(original, "_reprobox"):
            return
        hooked = self.wrap(original, event, before, after, of)
        setattr(holder, name, hooked)
        if not isinstance(holder, type) and getattr(sys.modules.get(hooked.__module__), name, None) is not hooked:
            # Whoever sends it to a worker sends its address; this is where it is found.
            hooked.__module__ = holder.__name__

    def wrap(self, original, event, before, after, of=None):
        """Make the hooked form of a function; see `replace`."""
        import functools

        note = functools.partial(self._note, event, of)
        depth = self._depth
        kind = event in _FILES

        repeats = REPEATS.get(event, _REPEATS)

        def enter(args, kwargs):
            with self._lock:
                depth[kind] += 1
                if depth[kind] > 1 or not self.is_on:
                    return False
            # Behind this frame lies the wrapper's, and behind that the line that calls.
            frame = sys._getframe(2)
            site = (event, original, type(args[0]) if args else None, frame.f_code, frame.f_lineno)
            count = self._seen[site] = self._seen.get(site, 0) + 1
            if count == repeats + 1:
                note(None, None, args, kwargs, None)
            return count <= repeats

        def leave():
            with self._lock:
                depth[kind] -= 1

        wrapper = _make_wrapper(original, enter, leave, functools.partial(self._try, before), note, after)
        functools.update_wrapper(wrapper, original)
        wrapper._reprobox = True
        return wrapper

    def _try(self, function, *arguments):
        """Call a describing function; what it raises is a fault."""
        if function is None:
            return {}
        try:
            return function(*arguments)
        except Exception as error:
            self._trail.fault(getattr(function, "__qualname__", "hook"), error)
            return {}

    def _note(self, event, of, fields, after, args, kwargs, result):
        """Note a call; without fields, that there are more of its kind."""
        try:
            place = self.find_place()
            about = of if of is not None else type(args[0]).__name__
            if callable(about):
                about = about(args, kwargs)
            if about is None:
                return
            if event == "save":
                self._saved.add(os.path.join(self._work, about))
            if fields is None:
                self._trail.event(event, of=about, where=place, more=True)
                return
            fields = dict(fields)
            for name, value in self._try(after, args, kwargs, result).items():
                if name == "data":
                    value = dict(fields.get("data", {}), **value)
                fields[name] = value
            self._trail.event(event, of=about, where=place, **fields)
        except Exception as error:
            self._trail.fault(event, error)


def _make_wrapper(original, enter, leave, before, note, after):
    def wrapper(*args, **kwargs):
        noted = enter(args, kwargs)
        try:
            fields = before(args, kwargs) if noted else None
            try:
                result = original(*args, **kwargs)
            except BaseException as error:
                # Since 3.11 a bare `raise` takes the traceback from here, and adds no frame of ours to it.
                error.__traceback__ = error.__traceback__.tb_next
                raise
            if noted:
                note(fields, after, args, kwargs, result)
            return result
        finally:
            leave()

    # Frames of this name do not count for a warning's stacklevel, as those of the import system do not.
    wrapper.__code__ = wrapper.__code__.replace(co_filename=_bootstrap._find_spec.__code__.co_filename)
    return wrapper


def is_worker(command_line):
    """Whether a process is a worker that a Python program started for itself, as far as its command line tells.

    Args:
        command_line: Its words.
    """
    text = " ".join(command_line[:6])
    return "multiprocessing" in text or "loky" in text or "ipykernel" in text


def constant(text):
    """Name a call by a text, whatever it is given; see `Hooks.replace`."""
    return lambda args, kwargs: text


def name_path(hooks, names):
    """Name a call by the file that one of its arguments is; see `Hooks.replace`.

    Args:
        hooks: The hooks.
        names: Of the first parameters, in order; the last is the file. What is read from memory or a socket has no
            name, and is not noted.
    """

    def name(args, kwargs):
        path = bind(names, args, kwargs).get(names[-1])
        return None if path is None else hooks.name_file(path)

    return name


def bind(names, args, kwargs):
    """Give the arguments of these names, by position or by keyword, leaving out what was not given.

    Args:
        names: Of the first parameters, in order.
        args: Positional arguments.
        kwargs: Named arguments.
    """
    found = dict(zip(names, args))
    found.update((name, kwargs[name]) for name in names if name in kwargs)
    return {name: value for name, value in found.items() if value is not None}
