"""What is done to each hooked module once it was imported: seeds, and calls for deterministic operations.

Never more than the determinism level says, and never again later: whoever seeds afterwards wins.

Loaded with the first hooked module. Libraries of any age are met; what one of them refuses is a fault in the
trail.
"""

import functools
import os
import sys

_current = {"seed": None}
"""The seed of this process: the run's, or a worker's own."""

_seeded = {}
"""Modules seeded so far by name, in order."""


def apply(name, module, settings, trail):
    """Treat a module that was just imported.

    Args:
        name: Its full name, one of `_reprobox_imports.HOOKED`.
        module: The module.
        settings: The run's settings.
        trail: Where to note what was done.

    Raises:
        Exception: Whatever the module raises.
    """
    if _current["seed"] is None:
        _current["seed"] = settings.seed
    if name.endswith(".spawn"):
        _tell_workers_apart(module)
    elif name == "torch._inductor.config":
        if settings.is_deterministic and hasattr(module, "deterministic"):
            module.deterministic = True
    elif name == "jax":
        # Nothing to seed: every key is made by the user's code from a number of its own.
        trail.event("imported", module=name, version=_find_version(name))
        if settings.is_deterministic:
            _set_xla_flags(_find_version(name), settings.level, os.environ)
    elif name in ("keras", "tf_keras"):
        # Every seed generator and initializer of Keras that is not given a seed draws one from `random` (the
        # oldest from `numpy.random`), so it is seeded already, by us or by the user.
        # `keras.utils.set_random_seed` would overrule what the user has seeded by now, and imports TensorFlow
        # where another backend is in use. Source: keras/src/random/seed_generator.py, make_default_seed.
        trail.event("seeded", module=name, version=_find_version(name), through="random")
    else:
        _SEED[name](module, _current["seed"])
        _seeded[name] = module
        short = name.partition(".")[0]
        version = _find_version(short)
        trail.event("seeded", module=short, **({"version": version} if version else {}))
        if settings.is_deterministic and name in _DETERMINISTIC:
            for call in _DETERMINISTIC[name]:
                try:
                    call(module)
                except Exception as error:
                    trail.fault("%s: %s" % (name, call.__name__.strip("_")), error)


def _set_xla_flags(version, level, environ):
    """Ask XLA for deterministic operations, and at `portable` for no more than AVX2.

    Not by the runner: XLA ends a process for a flag that it does not know, and TensorFlow's reads them as well. It
    reads them when JAX first computes, so now is early enough. What the user has set stays.

    Args:
        version: Of JAX, or None.
        level: The determinism level.
        environ: Where `XLA_FLAGS` is set.
    """
    first = (version or "").partition(".")
    if first[0] == "0" and first[2].partition(".")[0] in ("", "0", "1", "2", "3", "4"):
        return  # Not tried with these.
    wanted = ["--xla_gpu_deterministic_ops=true"]
    if level == "portable":
        wanted += _find_flags(("--xla_cpu_max_isa=AVX2", "--xla_cpu_experimental_ynn_fusion_type="))
    flags = environ.get("XLA_FLAGS", "")
    missing = [flag for flag in wanted if flag.partition("=")[0] not in flags]
    if missing:
        environ["XLA_FLAGS"] = " ".join([flags] * bool(flags) + missing)


def _find_flags(flags):
    """Those flags that the XLA of JAX has, which is a matter of months: looked for in its library itself.

    Products of matrices are left to a library that goes by the processor (YNNPACK), unless it is switched off.
    """
    import mmap

    folder = os.path.dirname(os.path.abspath(sys.modules["jaxlib"].__file__))
    for name in ("libjax_common.so", "_jax.so", "xla_extension.so"):
        try:
            with open(os.path.join(folder, name), "rb") as stream:
                data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError:
            continue
        with data:
            return [flag for flag in flags if data.find(flag.strip("-").partition("=")[0].encode()) >= 0]
    return []


def _find_version(name):
    version = getattr(sys.modules.get(name), "__version__", None)
    if version is None and name == "numpy":
        # Old ones import their random part before they know their own version.
        from numpy.version import version
    return None if version is None else str(version)


def _seed_random(random, seed):
    random.seed(seed)
    if hasattr(os, "register_at_fork"):
        _seed_forks(random)


def _seed_forks(random):
    """Give each forked child random numbers of its own that are the same in every run.

    `random` seeds itself from the operating system in a forked child. Ours comes after that, and starts the
    child from the state that its parent had, so from the user's seed if there is one, and from the number of
    children before it.
    """
    parent = [0, None]

    def before():
        try:
            parent[:] = [parent[0] + 1, random.getstate()]
        except Exception:
            parent[1] = None

    def after_in_child():
        if parent[1] is not None:
            random.seed(repr(parent))

    os.register_at_fork(before=before, after_in_child=after_in_child)


def _seed_numpy(numpy_random, seed):
    numpy_random.seed(seed % 2**32)


def _seed_tensorflow(tensorflow, seed):
    set_seed = getattr(getattr(tensorflow, "random", None), "set_seed", None)
    if set_seed is None:
        set_seed = getattr(tensorflow, "set_random_seed", None) or tensorflow.compat.v1.set_random_seed
    set_seed(seed)


def _seed_torch(torch, seed):
    torch.manual_seed(seed % 2**64)


_SEED = {
    "random": _seed_random,
    "numpy.random": _seed_numpy,
    "tensorflow": _seed_tensorflow,
    "torch": _seed_torch,
}


def _tensorflow_precision(tensorflow):
    # Deterministic operations themselves are switched on by TF_DETERMINISTIC_OPS.
    experimental = getattr(getattr(tensorflow, "config", None), "experimental", None)
    if hasattr(experimental, "enable_tensor_float_32_execution"):  # Since 2.4; none before it used TF32.
        experimental.enable_tensor_float_32_execution(False)


def _tensorflow_listing(tensorflow):
    # TensorFlow reads folders by itself, in an order that it calls arbitrary.
    file_io = sys.modules.get("tensorflow.python.lib.io.file_io")
    for name, public_name, order in (
        ("list_directory_v2", "listdir", _order_listdir),
        ("get_matching_files_v2", "glob", _order_glob),
    ):
        original = getattr(file_io, name, None)
        if original is not None:
            replacement = order(original)
            setattr(file_io, name, replacement)
            if getattr(tensorflow.io.gfile, public_name, None) is original:
                setattr(tensorflow.io.gfile, public_name, replacement)


def _order_listdir(original):
    @functools.wraps(original)
    def listdir(path):
        return sorted(original(path), key=os.fsencode)

    return listdir


def _order_glob(original):
    @functools.wraps(original)
    def glob(pattern):
        if isinstance(pattern, (list, tuple)):  # The results of several patterns follow each other.
            return [found for one in pattern for found in glob(one)]
        return sorted(original(pattern), key=os.fsencode)

    return glob


def _torch_algorithms(torch):
    if hasattr(torch, "set_deterministic_debug_mode"):
        # The same switch without importing the compiler, which takes longer than the rest of torch: see
        # `torch._inductor.config` for that half of it.
        torch.set_deterministic_debug_mode("warn")
    else:
        torch.use_deterministic_algorithms(True, warn_only=True)


def _torch_cudnn(torch):
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _torch_precision(torch):
    # Not by the newer `fp32_precision`: a program that then uses the old names would be refused.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


_DETERMINISTIC = {
    "tensorflow": (_tensorflow_precision, _tensorflow_listing),
    "torch": (_torch_algorithms, _torch_cudnn, _torch_precision),
}


def _tell_workers_apart(spawn):
    """Give each worker process that is started anew, not forked, a seed of its own.

    With the run's seed in all of them, every worker would draw the same numbers. A worker is told its name
    ("SpawnPoolWorker-3", counted by its parent) before any code of the user's runs in it.
    """
    original = spawn.prepare

    @functools.wraps(original)
    def prepare(data, *args, **kwargs):
        try:
            _start_worker(data["name"])
        except Exception:
            pass  # Then it has the run's seed.
        return original(data, *args, **kwargs)

    spawn.prepare = prepare


def _start_worker(name):
    import hashlib

    digest = hashlib.sha256(("%d/%s" % (_current["seed"], name)).encode("utf-8", "surrogatepass")).digest()
    _current["seed"] = int.from_bytes(digest[:4], "big") >> 1
    for module_name, module in list(_seeded.items()):
        if module_name == "random":
            module.seed(_current["seed"])
        else:
            _SEED[module_name](module, _current["seed"])
