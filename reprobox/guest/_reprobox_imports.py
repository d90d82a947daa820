"""Does something right after certain modules were imported, and nothing to any other.

A finder at the head of `sys.meta_path` lets the finders behind it find the module, then makes the loader that
they chose call back when the module's code has run. The loader stays the object that it was, where it belongs
to that module alone; else a stand-in takes its place until the module runs. What users see of a module
afterwards, `__spec__`, `__loader__` and so on, is what they would see without us.
"""

import _frozen_importlib as _bootstrap
import sys
from _frozen_importlib_external import FileLoader, PathFinder
from _thread import get_ident

_WATCHED = ("random", "threading", "concurrent.futures.thread")
"""Modules that entropy and threads, which no level can promise, come through."""

_LOADS_BLAS = ("numpy", "scipy.linalg")
"""Modules that load OpenBLAS, each its own."""

SEEDED = frozenset(
    (
        "random",
        "numpy.random",  # Not `numpy`: since 2.x that imports its random part only when it is used.
        "tensorflow",
        "keras",
        "tf_keras",
        "torch",
        "torch._inductor.config",
        "jax",
        "multiprocessing.spawn",
        "joblib.externals.loky.backend.spawn",
        "loky.backend.spawn",
    )
)
HOOKED = SEEDED.union(_WATCHED, _LOADS_BLAS)


def install(folder, settings, trail, hooks=None, hooked=()):
    """Have the seeds set for modules imported from now on, and for those that already were.

    Args:
        folder: The folder of the shim, where its later parts are found.
        settings: The run's settings; at the level `off` nothing is seeded.
        trail: Where to note what was done.
        hooks: Notes what is done with modules, or None.
        hooked: Names of the modules that it wants to know of.
    """
    seeded = HOOKED if settings.level != "off" else frozenset()

    def after(name, module):
        # Some modules put another object in their own place while they run.
        module = sys.modules.get(name, module)
        try:
            if name in seeded:
                _treat(name, module, folder, settings, trail)
        except Exception as error:
            trail.fault(name, error)
        try:
            if name in hooked:
                hooks.apply(name, module)
        except Exception as error:
            trail.fault(name, error)

    wanted = seeded.union(hooked)
    sys.meta_path.insert(0, Finder(folder, after, wanted))
    for name in sorted(wanted.intersection(sys.modules)):
        if sys.modules[name] is not None:
            after(name, sys.modules[name])


def _treat(name, module, folder, settings, trail):
    """Do to a module what its determinism needs, loading the parts of the shim that do it."""
    if name in SEEDED:
        import _reprobox_seeds

        _reprobox_seeds.apply(name, module, settings, trail)
    if name in _WATCHED:
        import _reprobox_unpromised

        _reprobox_unpromised.apply(name, module, folder, trail)
    if name in _LOADS_BLAS and settings.threads:
        import _reprobox_processors

        _reprobox_processors.settle_openblas(settings.threads)


class Finder:
    """A meta path finder that finds nothing by itself, but hears of the hooked modules that others find.

    Args:
        folder: The folder of the shim.
        after: Called with name and module once a hooked module's code has run.
        hooked: Names of the hooked modules.
    """

    def __init__(self, folder, after, hooked=HOOKED):
        self._folder = folder
        self._after = after
        self._hooked = hooked
        self._busy = set()

    def find_spec(self, name, path=None, target=None):
        """Find a hooked module by the finders behind this one; see `importlib.abc.MetaPathFinder`."""
        if name not in self._hooked:
            if name.startswith("_reprobox_"):
                return PathFinder.find_spec(name, [self._folder])
            return None
        # A reload keeps the module's state, and with it whatever seed the user has set by now; `random` alone
        # makes its generator anew.
        key = (get_ident(), name)
        if key in self._busy or (target is not None and name != "random"):
            return None
        self._busy.add(key)
        try:
            finders = list(sys.meta_path)
            start = finders.index(self) + 1 if self in finders else 0
            for finder in finders[start:]:
                spec = _find(finder, name, path, target)
                if spec is not None:
                    break
            else:
                return None
        finally:
            self._busy.discard(key)
        loader = spec.loader
        if isinstance(loader, FileLoader) and loader.name == name:
            loader.exec_module = _CallBack(loader, self._after)
        elif hasattr(loader, "exec_module"):
            spec.loader = _StandIn(loader, self._after)
        return spec


def _find(finder, name, path, target):
    try:
        find_spec = finder.find_spec
    except AttributeError:
        legacy = getattr(_bootstrap, "_find_spec_legacy", None)  # Before Python 3.12.
        return legacy(finder, name, path) if legacy else None
    return find_spec(name, path, target)


class _CallBack:
    """Takes the place of a loader's `exec_module` for one call."""

    def __init__(self, loader, after):
        self._loader = loader
        self._after = after

    def __call__(self, module):
        loader = self._loader
        loader.__dict__.pop("exec_module", None)
        loader.exec_module(module)
        self._after(loader.name, module)

    def __eq__(self, other):
        # Loaders of files are equal when their attributes are, and specs when their loaders are.
        return isinstance(other, _CallBack)

    __hash__ = None


class _StandIn:
    """Takes the place of a loader that serves several modules, until the module has its own back."""

    def __init__(self, loader, after):
        self._loader = loader
        self._after = after

    def __getattr__(self, attribute):
        return getattr(self._loader, attribute)

    def create_module(self, spec):
        create = getattr(self._loader, "create_module", None)
        return create(spec) if create else None

    def exec_module(self, module):
        spec = module.__spec__
        spec.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._after(spec.name, module)


# Python leaves the frames of its import system out of the traceback of a failing import, and out of a
# warning's stacklevel. It knows them by this file name, which the frames between them must therefore have
# too.
for _function in (Finder.find_spec, _find, _CallBack.__call__, _StandIn.exec_module):
    _function.__code__ = _function.__code__.replace(co_filename=_bootstrap._find_spec.__code__.co_filename)
