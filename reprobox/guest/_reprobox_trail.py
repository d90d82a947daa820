"""The trail: one JSON object a line, appended to one file by all processes of a run.

A line is one `write` to a file opened for appending, so lines of different processes never mix. Nothing in a
line depends on the moment or the process number, so that two identical runs leave identical trails. Where the
file can't be written nothing happens: the trail is a service, never a condition.
"""

import os
import sys

LIMIT_BYTES = 4 << 20
_TEXT_LIMIT = 4096
_ARGV_LIMIT = 16384


class Trail:
    """Writes events of this process.

    Args:
        path: The file, or None for no trail.
        argv: The command line of this process, as `sys.argv` gives it.
        level: The determinism level.
        seed: The seed.
    """

    def __init__(self, path, argv, level, seed):
        self._path = os.path.abspath(path) if path else None  # The program may change its folder.
        self._argv = argv
        self._level = level
        self._seed = seed
        self._introduced = False

    def open(self):
        """Note this process at once if it is the run's main one; any other is noted with its first own event.

        The main one is the container's first process or a child of it (of a shell, of an init), or the first
        to come.
        """
        if self._path and (1 in (os.getpid(), os.getppid()) or not self._size_bytes()):
            self._introduce()

    def event(self, event, **fields):
        """Append an event.

        Args:
            event: Its kind.
            **fields: What else to say: text, numbers, booleans, None, lists and dictionaries of these.
        """
        if not self._introduced:
            self._introduce()
        fields = dict({"event": event}, **fields)
        self._append(fields)

    def fault(self, where, error):
        """Append a fault of the shim's own, which it survived.

        Args:
            where: A module or setting.
            error: What was raised.
        """
        text = str(error).split("\n", 1)[0]
        self.event("fault", where=where, error="%s: %s" % (type(error).__name__, text.split(" at 0x", 1)[0]))

    def _introduce(self):
        self._introduced = True
        argv = [text[:_TEXT_LIMIT] for text in self._argv]
        if sum(map(len, argv)) > _ARGV_LIMIT:
            argv = [argv[0], "(%d more)" % (len(argv) - 1)]
        self._append(
            {
                "event": "process",
                "argv0": os.path.basename(argv[0]),
                "python": "%d.%d.%d" % sys.version_info[:3],
                "argv": argv,
                "determinism": self._level,
                "seed": self._seed,
            }
        )

    def _size_bytes(self):
        try:
            return os.stat(self._path).st_size
        except OSError:
            return 0

    def _append(self, fields):
        if not self._path:
            return
        try:
            line = (render_json(fields) + "\n").encode("ascii")
            # O_NONBLOCK: a pipe that nobody reads is an error, not a wait.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            descriptor = os.open(self._path, flags, 0o644)
            try:
                if os.fstat(descriptor).st_size + len(line) > LIMIT_BYTES:
                    self._path = None
                    return
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except (OSError, ValueError):
            self._path = None


def render_json(value):
    """Turn a value into JSON: all ASCII, keys in the order given. Importing `json` would take longer.

    Args:
        value: Text, integer, float, boolean, None, or a list or dictionary of these; anything else becomes its text.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        # The shortest text that reads back to the same double; JSON has no other numbers than finite ones.
        return float.__repr__(value) if value - value == 0 else _quote(float.__repr__(value))
    if isinstance(value, dict):
        return "{" + ", ".join(_quote(str(key)) + ": " + render_json(value[key]) for key in value) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(render_json, value)) + "]"
    return _quote(str(value)[:_TEXT_LIMIT])


def _quote(text):
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return '"' + text + '"'
    return '"' + "".join(map(_escape, text)) + '"'


def _escape(character):
    code = ord(character)
    if character in '"\\':
        return "\\" + character
    if 0x20 <= code < 0x7F:
        return character
    if code > 0xFFFF:
        code -= 0x10000
        return "\\u%04x\\u%04x" % (0xD800 + (code >> 10), 0xDC00 + (code & 0x3FF))
    return "\\u%04x" % code
