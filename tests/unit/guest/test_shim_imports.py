"""Imports under the shim: hooked modules are found, loaded and described as without it."""

import zipfile

import pytest

from tests.unit.guest.test_shim_process import events, has_module, printed

TORCH = "__version__ = '9'\ncalls = []\ndef manual_seed(seed):\n    calls.append(seed)\n"


@pytest.fixture
def torch(tmp_path):
    """A folder with a small module `torch`."""
    (tmp_path / "torch.py").write_text(TORCH)
    return tmp_path


def printed_seeded(code, *path, **options):
    return printed(code, path=path, level="seeded", **options)


def test_find_spec_gives_what_it_gives_without_the_shim(torch):
    """A spec found before the import has a loader of the same type with the same answers."""
    code = """
import importlib.util, importlib.machinery, sys
def describe(spec):
    loader = spec.loader
    return (spec.name, spec.origin, spec.cached, spec.has_location, spec.submodule_search_locations,
            type(loader), loader.name, loader.path, loader.get_source(spec.name),
            loader.get_data(spec.origin), loader.is_package(spec.name),
            loader.get_code(spec.name).co_filename, loader.get_filename())
spec = importlib.util.find_spec("torch")
print(describe(spec), spec == importlib.util.find_spec("torch"), "torch" in sys.modules, sorted(vars(spec)))
print(importlib.util.find_spec("keras"))
import torch
print(describe(torch.__spec__), torch.__loader__ is torch.__spec__.loader, sorted(vars(torch.__loader__)))
print(importlib.util.find_spec("torch") is torch.__spec__, sorted(vars(torch)))
"""
    assert printed_seeded(code, torch) == printed(code, path=[torch], shim=False)


def test_a_spec_loaded_by_hand_is_hooked(torch):
    """find_spec, module_from_spec and exec_module by hand seed the module too, once."""
    code = """
import importlib.util, sys
spec = importlib.util.find_spec("torch")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.calls)
"""
    assert printed_seeded(code, torch) == "[0]\n"


def test_a_lazily_loaded_module_is_seeded_when_it_is_loaded(torch):
    """importlib's LazyLoader puts off the import, and the seed with it."""
    code = """
import importlib.util, sys
spec = importlib.util.find_spec("torch")
spec.loader = importlib.util.LazyLoader(spec.loader)
module = importlib.util.module_from_spec(spec)
sys.modules["torch"] = module
spec.loader.exec_module(module)
print("calls" in object.__getattribute__(module, "__dict__"))
import torch
print(torch.calls, type(torch.__spec__.loader).__name__)
"""
    assert printed_seeded(code, torch) == "False\n[0] SourceFileLoader\n"


def test_a_module_in_a_zip_file_is_hooked(torch, tmp_path):
    """Where one loader serves many modules it is given back to the module when that runs."""
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("torch.py", TORCH + "import other\n")
        archive.writestr("other.py", "x = 1\n")
    (torch / "torch.py").unlink()
    code = """
import importlib.util, sys
print(importlib.util.find_spec("torch").loader.get_source("torch")[:11])
import torch, other
print(torch.calls, type(torch.__loader__), torch.__loader__ is torch.__spec__.loader, other.x)
"""
    expected = printed(code, path=[tmp_path / "all.zip"], shim=False)
    seeds = printed("import sys; print([0] if sys.version_info >= (3, 10) else [])", shim=False).strip()
    assert printed_seeded(code, tmp_path / "all.zip") == expected.replace("[]", seeds)


def test_a_namespace_package_is_left_alone(tmp_path):
    """A folder that happens to be called `keras` still is a namespace package, and nothing is noted of it."""
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "part.py").write_text("x = 1\n")
    code = "import keras.part, keras; print(keras.part.x, keras.__spec__.loader, list(keras.__path__), keras)"
    normal = printed(code, path=[tmp_path], shim=False)
    trail = tmp_path / "trail"
    assert printed_seeded(code, tmp_path, trail=trail).split(" at 0x")[0] == normal.split(" at 0x")[0]
    assert [event["event"] for event in events(trail)] == ["process"]


def test_a_loader_that_is_a_class_is_hooked():
    """Built-in and frozen modules have a class as loader, which is not altered."""
    code = """
import importlib.machinery, sys
class Frozen:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "torch":
            return importlib.machinery.ModuleSpec(name, cls, origin="frozen")
    @staticmethod
    def create_module(spec):
        return None
    @staticmethod
    def exec_module(module):
        module.calls = []
        module.manual_seed = module.calls.append
sys.meta_path.insert(0, sys.meta_path.pop(0))
sys.meta_path.append(Frozen)
import torch
print(torch.calls, torch.__loader__ is Frozen, torch.__spec__.loader is Frozen, "exec_module" in vars(Frozen))
"""
    assert printed_seeded(code) == "[0] True True True\n"


def test_a_finder_that_asks_for_the_spec_again_does_not_double_the_hook(torch):
    """Other import hooks ask the whole import system for a spec (as wrapt does); the seed is set once."""
    code = """
import importlib.util, sys
class Chained:
    def __init__(self, loader):
        self.loader = loader
    def create_module(self, spec):
        return self.loader.create_module(spec)
    def exec_module(self, module):
        self.loader.exec_module(module)
        module.calls.append("user's hook")
class Finder:
    busy = False
    def find_spec(self, name, path=None, target=None):
        if name == "torch" and not self.busy:
            self.busy = True
            spec = importlib.util.find_spec(name)
            spec.loader = Chained(spec.loader)
            return spec
sys.meta_path.insert({place}, Finder())
import torch
print(torch.calls)
"""
    before = printed_seeded(code.replace("{place}", "0"), torch)
    behind = printed_seeded(code.replace("{place}", "1"), torch)
    assert before == '[0, "user\'s hook"]\n'
    assert behind == '["user\'s hook", 0]\n'


def test_a_module_that_replaces_itself_is_hooked_in_its_new_form(tmp_path):
    """Old TensorFlow puts a wrapper in its own place in sys.modules; that is what is seeded."""
    source = "import sys, types\ncalls = []\nnew = types.SimpleNamespace(manual_seed=calls.append, calls=calls)\n"
    source += "sys.modules[__name__] = new\n"
    (tmp_path / "torch.py").write_text(source)
    assert printed_seeded("import torch; print(torch.calls, type(torch).__name__)", tmp_path) == "[0] SimpleNamespace\n"


def test_a_failed_import_can_be_tried_again(tmp_path):
    """A module that fails the first time is hooked the second time."""
    source = "import os\nif not os.environ.get('GO'):\n    os.environ['GO'] = '1'\n    raise OSError('not yet')\n"
    (tmp_path / "torch.py").write_text(source + TORCH)
    code = """
try:
    import torch
except OSError:
    import torch
print(torch.calls)
"""
    assert printed_seeded(code, tmp_path) == "[0]\n"


def test_packages_and_submodules_import(tmp_path):
    """A hooked package finds its parts and its data."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(TORCH + "from . import nn\n")
    (tmp_path / "torch" / "nn.py").write_text("x = 1\n")
    (tmp_path / "torch" / "data.txt").write_text("data\n")
    code = """
import importlib.resources, pkgutil, torch, torch.nn
parts = [part.name for part in pkgutil.iter_modules(torch.__path__)]
print(torch.calls, torch.nn.x, pkgutil.get_data("torch", "data.txt"), parts)
print((importlib.resources.files("torch") / "data.txt").read_text())
"""
    assert printed_seeded(code, tmp_path) == "[0] 1 b'data\\n' ['nn']\ndata\n\n"


def test_running_a_hooked_module_as_a_program(torch):
    """`python -m` of a hooked module works: it asks the loader for code."""
    from tests.unit.guest.test_shim_process import python

    done = python("-m", "torch", path=[torch])
    assert (done.returncode, done.stderr) == (0, "")


def test_metadata_of_distributions_is_found():
    """importlib.metadata works, and sees the finders that it looks for."""
    if not has_module("numpy"):
        pytest.skip("no NumPy in this interpreter")
    code = "import importlib.metadata as m, numpy; "
    code += "print(m.version('numpy') == numpy.__version__, len(m.files('numpy')) > 9)"
    assert printed_seeded(code) == "True True\n"


def test_threads_may_import_at_once(torch):
    """Many threads importing hooked modules for the first time all get a whole, seeded module."""
    code = """
import sys, threading
results = []
start = threading.Barrier(8)
def work(place):
    start.wait()
    if place % 2:
        import random
        results.append(hasattr(random, "random"))
    else:
        import torch
        results.append(torch.calls == [0])
threads = [threading.Thread(target=work, args=(place,)) for place in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(results == [True] * 8)
"""
    assert printed_seeded(code, torch) == "True\n"
