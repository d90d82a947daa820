"""Reads what the runner asked for, and puts the parts of the shim in place.

The only file that reads the environment. It is compiled anew by every process where the folder is mounted
read-only, so it imports no more than this process needs: what seeds modules is loaded when the first such
module is.
"""

import os
import sys

from _reprobox_trail import Trail

LEVELS = ("strict", "seeded", "portable", "off")


class Settings:
    """What the runner asked for.

    Args:
        level: One of `LEVELS`.
        seed: Where random generators start, 0 or more.
        threads: How many each pool of threads has, or None where that is left alone.
    """

    __slots__ = ("level", "seed", "threads")

    def __init__(self, level, seed, threads=None):
        self.level = level
        self.seed = seed
        self.threads = threads

    @property
    def is_deterministic(self):
        """Whether libraries are asked for deterministic operations and listings are sorted."""
        return self.level in ("strict", "portable")


def parse_settings(environ):
    """Read the settings out of environment variables.

    Args:
        environ: A mapping; `REPROBOX_DETERMINISM`, `REPROBOX_SEED` and `REPROBOX_THREADS` count.

    Returns:
        The settings, and a list of (variable, error) for values that make no sense. A level that nobody knows
        is taken as `off`, such a seed as 0.
    """
    faults = []
    level = environ["REPROBOX_DETERMINISM"]
    if level not in LEVELS:
        faults.append(("REPROBOX_DETERMINISM", ValueError("no such level: %r" % level)))
        level = "off"
    try:
        seed = int(environ.get("REPROBOX_SEED") or 0)
        if seed < 0:
            raise ValueError("negative seed: %d" % seed)
    except ValueError as error:
        faults.append(("REPROBOX_SEED", error))
        seed = 0
    threads = environ.get("REPROBOX_THREADS", "")
    return Settings(level, seed, int(threads) if threads.isdecimal() else None), faults


_started = []


def start(environ, folder):
    """Put the shim in place in this process, once.

    Args:
        environ: The process environment.
        folder: The folder of the shim, absolute.
    """
    if _started:
        return
    _started.append(True)
    settings, faults = parse_settings(environ)
    argv = getattr(sys, "argv", None) or [""]
    trail = Trail(environ.get("REPROBOX_TRAIL"), argv, settings.level, settings.seed)
    trail.open()
    for where, error in faults:
        trail.fault(where, error)
    package = os.path.join(folder, "package")
    if os.path.isdir(package):
        try:
            import _reprobox_package

            _reprobox_package.install(package)
        except Exception as error:
            trail.fault("package", error)
    if settings.is_deterministic:
        try:
            import _reprobox_listing

            _reprobox_listing.install()
        except Exception as error:
            trail.fault("listing", error)
    if settings.threads and settings.level != "off":
        try:
            import _reprobox_processors

            _reprobox_processors.install(settings.threads)
        except Exception as error:
            trail.fault("processors", error)
    hooks, hooked = _make_hooks(environ, trail)
    if settings.level != "off" or hooks is not None:
        try:
            import _reprobox_imports

            _reprobox_imports.install(folder, settings, trail, hooks, hooked)
        except Exception as error:
            trail.fault("imports", error)


def _make_hooks(environ, trail):
    """Make what notes the calls of this process, where the runner wants them; a worker of another process has none.

    Returns:
        The hooks, or None, and the names of the modules that they are for.
    """
    work = environ.get("REPROBOX_WORK")
    if not work:
        return None, ()
    try:
        import _reprobox_hooks

        if _reprobox_hooks.is_worker(_read_command_line()):
            return None, ()
        hooks = _reprobox_hooks.Hooks(trail, work)
        hooks.stop_in_children()
        hooks.watch_files()
        return hooks, _reprobox_hooks.MODULES
    except Exception as error:
        trail.fault("hooks", error)
        return None, ()


def _read_command_line():
    """The words that this process was started with; `sys.argv` is not made yet for some of them."""
    with open("/proc/self/cmdline", "rb") as file:
        return file.read().decode("utf-8", "surrogateescape").split("\0")
