"""What the shim seeds, when, and who wins; with real modules and with small stand-ins for the large ones."""

import json

import pytest

from tests.unit.guest.test_shim_process import events, has_module, printed, python

needs_numpy = pytest.mark.skipif(not has_module("numpy"), reason="no NumPy in this interpreter")

NUMBERS = "import random; print(random.random(), random.getrandbits(64))"
ARRAYS = "import numpy; print(numpy.random.rand(3), numpy.random.randint(10**9))"

TENSORFLOW = """
import types
__version__ = "2.99"
calls = []
random = types.SimpleNamespace(set_seed=lambda seed: calls.append(("set_seed", seed)))
config = types.SimpleNamespace(experimental=types.SimpleNamespace(
    enable_tensor_float_32_execution=lambda on: calls.append(("tf32", on))))
"""
TORCH = """
import types
__version__ = "9.9"
calls = []
def manual_seed(seed):
    calls.append(("manual_seed", seed))
def use_deterministic_algorithms(mode, *, warn_only=False):
    calls.append(("deterministic", mode, warn_only))
cudnn = types.SimpleNamespace(benchmark=True, deterministic=False, allow_tf32=True)
cuda = types.SimpleNamespace(matmul=types.SimpleNamespace(allow_tf32=True))
backends = types.SimpleNamespace(cudnn=cudnn, cuda=cuda)
"""
KERAS = """
import random
__version__ = "3.99"
def make_default_seed():
    return random.randint(1, 10**9)
class utils:
    @staticmethod
    def set_random_seed(seed):
        random.seed(seed)
"""


def package(folder, **sources):
    """Write modules by name."""
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    return folder


@pytest.mark.parametrize("level", ["strict", "seeded", "portable"])
@pytest.mark.parametrize("code", [NUMBERS, pytest.param(ARRAYS, marks=needs_numpy)])
def test_two_processes_draw_the_same(level, code):
    """Unseeded programs draw the same numbers in every process, others with another seed."""
    assert printed(code, level=level) == printed(code, level=level) == printed(code, level=level, seed=0)
    assert printed(code, level=level) != printed(code, level=level, seed=1)


def test_the_seed_is_the_librarys_own(tmp_path):
    """The numbers are those that the library gives for this seed: no other mechanism is in between."""
    assert printed("import random; print(random.random())", seed=12) == printed(
        "import random; random.seed(12); print(random.random())", shim=False
    )


@pytest.mark.parametrize("seed", [2**32 - 1, 2**32 + 5, 2**70])
@needs_numpy
def test_seeds_of_any_size(tmp_path, seed):
    """NumPy takes 32 bits of a seed; larger ones do not fail."""
    trail = tmp_path / "trail"
    expected = printed(f"import numpy; numpy.random.seed({seed % 2**32}); print(numpy.random.rand())", shim=False)
    assert printed("import numpy; print(numpy.random.rand())", seed=seed, trail=trail) == expected
    assert [event["event"] for event in events(trail)].count("fault") == 0


@pytest.mark.parametrize(
    "code",
    [
        "import random; random.seed(7); import tempfile, keras; print(random.random())",
        pytest.param(
            "import numpy as np; np.random.seed(7); import keras, tensorflow; print(np.random.rand())",
            marks=needs_numpy,
        ),
        "import random; random.seed(7); import keras, torch, tensorflow; print(keras.make_default_seed())",
        "import tensorflow; tensorflow.random.set_seed(7); import keras; print(tensorflow.calls[-1])",
        "import torch; torch.manual_seed(7); import keras; print(torch.calls[-1])",
    ],
)
def test_the_users_own_seed_wins(tmp_path, code):
    """A seed that the program sets holds, whatever is imported afterwards and whatever the run's seed is."""
    package(tmp_path, keras=KERAS, tensorflow=TENSORFLOW, torch=TORCH)
    assert printed(code, path=[tmp_path]) == printed(code, path=[tmp_path], seed=3)
    assert printed(code, path=[tmp_path]) == printed(code, path=[tmp_path], shim=False)


def test_keras_draws_its_seeds_from_a_seeded_generator(tmp_path):
    """Seed generators of Keras start the same in every process, and the trail says by what."""
    package(tmp_path, keras=KERAS)
    trail = tmp_path / "trail"
    code = "import keras; print(keras.make_default_seed())"
    assert printed(code, path=[tmp_path], trail=trail) == printed(code, path=[tmp_path])
    assert {"event": "seeded", "module": "keras", "version": "3.99", "through": "random"} in events(trail)


@needs_numpy
def test_importing_numpy_imports_no_more_of_it():
    """The shim waits for `numpy.random` to be imported; it does not import it."""
    code = "import sys, numpy; print(*sorted(name for name in sys.modules if name.startswith('numpy')))"
    assert printed(code) == printed(code, shim=False)


@needs_numpy
def test_numpy_is_noted_with_its_version(tmp_path):
    """The trail names NumPy, not its part, and the version that `numpy.__version__` gives."""
    trail = tmp_path / "trail"
    version = printed("import numpy, numpy.random; print(numpy.__version__)", trail=trail).strip()
    assert events(trail)[-1] == {"event": "seeded", "module": "numpy", "version": version}


@pytest.mark.parametrize(
    ("level", "calls"),
    [("strict", [["set_seed", 4], ["tf32", False]]), ("seeded", [["set_seed", 4]]), ("off", [])],
)
def test_tensorflow_two(tmp_path, level, calls):
    """TensorFlow 2 is seeded; TF32 is off at `strict` alone."""
    package(tmp_path, tensorflow=TENSORFLOW)
    code = "import json, tensorflow; print(json.dumps(tensorflow.calls))"
    assert json.loads(printed(code, path=[tmp_path], level=level, seed=4)) == calls


@pytest.mark.parametrize(
    "source",
    [
        "calls = []\ndef set_random_seed(seed):\n    calls.append(seed)\n",
        "import types\ncalls = []\nv1 = types.SimpleNamespace(set_random_seed=calls.append)\n"
        "compat = types.SimpleNamespace(v1=v1)\n",
    ],
)
def test_tensorflow_one(tmp_path, source):
    """TensorFlow 1 is seeded under the names that it has."""
    package(tmp_path, tensorflow=source)
    assert printed("import tensorflow; print(tensorflow.calls)", path=[tmp_path], seed=4) == "[4]\n"


def test_tensorflow_does_not_import_keras(tmp_path):
    """Importing TensorFlow alone imports no Keras."""
    package(tmp_path, tensorflow=TENSORFLOW, keras=KERAS)
    code = "import sys, tensorflow; print('keras' in sys.modules)"
    assert printed(code, path=[tmp_path]) == "False\n"


def test_torch(tmp_path):
    """PyTorch is seeded; at `strict` it is asked for deterministic algorithms and full precision."""
    package(tmp_path, torch=TORCH)
    code = "import json, torch\n"
    code += "print(json.dumps([torch.calls, vars(torch.cudnn), torch.cuda.matmul.allow_tf32]))"
    assert json.loads(printed(code, path=[tmp_path], seed=4)) == [
        [["manual_seed", 4], ["deterministic", True, True]],
        {"benchmark": False, "deterministic": True, "allow_tf32": False},
        False,
    ]
    assert json.loads(printed(code, path=[tmp_path], seed=4, level="seeded")) == [
        [["manual_seed", 4]],
        {"benchmark": True, "deterministic": False, "allow_tf32": True},
        True,
    ]


def test_torch_is_asked_in_the_way_that_imports_least(tmp_path):
    """Newer PyTorch has a switch that does not import its compiler, which is set when it is imported."""
    (tmp_path / "torch" / "_inductor").mkdir(parents=True)
    switch = "def set_deterministic_debug_mode(mode):\n    calls.append(mode)\n"
    (tmp_path / "torch" / "__init__.py").write_text(TORCH + switch)
    (tmp_path / "torch" / "_inductor" / "__init__.py").touch()
    (tmp_path / "torch" / "_inductor" / "config.py").write_text("deterministic = False\n")
    code = "import torch, torch._inductor.config as config; print(torch.calls, config.deterministic)"
    assert printed(code, path=[tmp_path]) == "[('manual_seed', 0), 'warn'] True\n"
    assert printed(code, path=[tmp_path], level="seeded") == "[('manual_seed', 0)] False\n"


@pytest.mark.parametrize(("level", "listed"), [("strict", "abc"), ("portable", "abc"), ("seeded", "cab")])
def test_tensorflow_lists_folders_in_order(tmp_path, level, listed):
    """TensorFlow's own ways of reading a folder are sorted as Python's are; patterns keep their own order."""
    place = tmp_path / "tensorflow" / "python" / "lib" / "io"
    place.mkdir(parents=True)
    for folder in (place, *list(place.parents)[:3]):
        (folder / "__init__.py").touch()
    (place / "file_io.py").write_text(
        "def list_directory_v2(path):\n    return ['c', 'a', 'b']\n"
        "def get_matching_files_v2(pattern):\n    return [pattern + name for name in 'cab']\n"
        "def walk_v2(top):\n    return list_directory_v2(top)\n"
    )
    (tmp_path / "tensorflow" / "__init__.py").write_text(
        TENSORFLOW
        + "from tensorflow.python.lib.io import file_io\n"
        + "io = types.SimpleNamespace(gfile=types.SimpleNamespace(\n"
        + "    listdir=file_io.list_directory_v2, glob=file_io.get_matching_files_v2, walk=file_io.walk_v2))\n"
    )
    code = """
import tensorflow
gfile = tensorflow.io.gfile
print(*gfile.listdir("."), *gfile.walk("."), *gfile.glob("x"), sep="")
print(gfile.listdir.__name__)
"""
    expected = "".join(listed) * 2 + "".join("x" + name for name in listed)
    assert printed(code, path=[tmp_path], level=level) == expected + "\nlist_directory_v2\n"
    if level != "seeded":
        code = "import tensorflow; print(*tensorflow.io.gfile.glob(pattern=['z', 'x']))"
        assert printed(code, path=[tmp_path], level=level) == "za zb zc xa xb xc\n"


def test_old_torch_keeps_what_it_can(tmp_path):
    """Where one call is refused, the others are still made, and the trail names the one."""
    old = TORCH.replace("mode, *, warn_only=False", "mode").replace(", warn_only))", "))")
    package(tmp_path, torch=old)
    trail = tmp_path / "trail"
    code = "import torch; print(torch.cudnn.deterministic, torch.cuda.matmul.allow_tf32, torch.calls)"
    assert printed(code, path=[tmp_path], trail=trail) == "True False [('manual_seed', 0)]\n"
    faults = [event for event in events(trail) if event["event"] == "fault"]
    assert [fault["where"] for fault in faults] == ["torch: torch_algorithms"]
    assert faults[0]["error"].startswith("TypeError: ")


def test_jax_is_noted_and_left_alone(tmp_path):
    """JAX has no global seed: the trail says that it was imported, not that it was seeded."""
    package(tmp_path, jax="__version__ = '0.9'\n")
    trail = tmp_path / "trail"
    printed("import jax", path=[tmp_path], trail=trail)
    assert events(trail)[-1] == {"event": "imported", "module": "jax", "version": "0.9"}


@pytest.mark.parametrize(
    ("version", "level", "before", "after"),
    [
        ("0.9.1", "strict", "", "--xla_gpu_deterministic_ops=true"),
        ("0.10.2", "portable", "", "--xla_gpu_deterministic_ops=true --xla_cpu_max_isa=AVX2"),
        ("1.0", "portable", "--xla_cpu_max_isa=SSE4_2", "--xla_cpu_max_isa=SSE4_2 --xla_gpu_deterministic_ops=true"),
        ("0.4.30", "portable", "", ""),
        ("0.9", "seeded", "", ""),
    ],
)
def test_flags_of_xla(tmp_path, version, level, before, after):
    """XLA is told by its flags, which it reads after JAX is imported; a version that may not know them is not."""
    package(tmp_path, jax=f"import jaxlib\n__version__ = {version!r}", jaxlib="")
    # Of the two that `portable` wants, this library has one.
    place = next(path.parent for path in [tmp_path / "jaxlib/__init__.py", tmp_path / "jaxlib.py"] if path.exists())
    (place / "libjax_common.so").write_bytes(b"\x7fELF\0xla_cpu_max_isa\0" + bytes(5000))
    code = "import jax, os; print(os.environ['XLA_FLAGS'])"
    assert printed(code, path=[tmp_path], level=level, XLA_FLAGS=before).strip() == after


@pytest.mark.parametrize("name", ["random", "torch", "tensorflow"])
def test_a_raising_hook_does_not_break_the_import(tmp_path, name):
    """A user's own module of a known name, without what is called, imports; the trail has the fault."""
    package(tmp_path, **{name: "here = 1\n"})
    trail = tmp_path / "trail"
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {name}; print({name}.here)"
    assert printed(code, trail=trail) == "1\n"
    (fault,) = [event for event in events(trail) if event["event"] == "fault"]
    assert (fault["where"], fault["error"].split(":")[0]) == (name, "AttributeError")


def test_modules_imported_before_the_shim_are_seeded(tmp_path):
    """What was imported before the shim came (by a .pth file) is seeded when it comes."""
    code = "import random, torch, site; site.main(); print(random.random(), torch.calls)"
    package(tmp_path, torch=TORCH)
    done = python("-S", "-c", code, path=[tmp_path], seed=12)
    expected = printed("import random; random.seed(12); print(random.random())", shim=False).strip()
    assert done.stdout.startswith(expected + " [('manual_seed', 12)")


def test_a_reload_seeds_random_again_and_nothing_else(tmp_path):
    """Reloading `random` makes a new generator, which is seeded; a library keeps its state and its seed."""
    package(tmp_path, torch=TORCH)
    code = """
import importlib, random, torch
first = random.random()
importlib.reload(random)
print(first == random.random())
importlib.reload(torch)
print(torch.calls)
"""
    assert printed(code, path=[tmp_path]) == "True\n[]\n"


# Other processes

FORKS = """
import os, random, sys
{seed}
for _ in range(3):
    child = os.fork()
    if not child:
        print(random.random(), flush=True)
        if not os.fork():
            print(random.random(), flush=True)
            os._exit(0)
        os.wait()
        os._exit(0)
    os.waitpid(child, 0)
print(random.random())
"""


@pytest.mark.parametrize("seed", ["", "random.seed(7)"])
def test_forked_children_draw_the_same_in_every_run(seed):
    """Forked children differ from each other, not between runs; the parent's numbers are undisturbed."""
    code = FORKS.format(seed=seed)
    numbers = printed(code).split()
    assert numbers == printed(code).split()
    assert len(set(numbers)) == len(numbers) == 7
    expected = printed(f"import random; {seed or 'random.seed(0)'}; print(random.random())", shim=False)
    assert numbers[-1] == expected.strip()


def test_forked_children_follow_the_users_seed():
    """Another seed of the user's gives the children other numbers, whatever the run's seed."""
    seven, eight = (printed(FORKS.format(seed=f"random.seed({seed})"), seed=1) for seed in (7, 8))
    assert seven != eight
    assert seven == printed(FORKS.format(seed="random.seed(7)"), seed=2)


WORKERS = """
import multiprocessing, random, sys

def draw(queue, place):
    queue.put((place, random.random(), {numpy}))

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    queue = context.Queue()
    workers = [context.Process(target=draw, args=(queue, place)) for place in range(3)]
    for worker in workers:
        worker.start()
    numbers = sorted(queue.get() for _ in workers)
    for worker in workers:
        worker.join()
    print(*(number for pair in numbers for number in pair[1:]), random.random())
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_draw_the_same_in_every_run(tmp_path, method):
    """Workers of multiprocessing differ from each other, not between runs, however they are started."""
    numpy = "__import__('numpy').random.rand()" if has_module("numpy") and method != "fork" else "place"
    (tmp_path / "main.py").write_text(WORKERS.format(numpy=numpy))
    runs = [python("main.py", method, cwd=tmp_path) for _ in range(2)]
    assert [run.stderr for run in runs] == ["", ""]
    assert runs[0].stdout == runs[1].stdout
    numbers = runs[0].stdout.split()
    assert len(numbers) == len(set(numbers)) == 7
    assert numbers[-1] == printed("import random; print(random.random())").strip()


@pytest.mark.parametrize("name", ["loky.backend.spawn", "joblib.externals.loky.backend.spawn"])
def test_workers_of_joblib_draw_numbers_of_their_own(tmp_path, name):
    """joblib starts workers by a copy of multiprocessing's code; they are told apart as well."""
    place = tmp_path.joinpath(*name.split(".")[:-1])
    place.mkdir(parents=True)
    (place / "spawn.py").write_text("def prepare(data, parent_sentinel=None):\n    print(sorted(data))\n")
    code = f"""
import random, sys
from {name} import prepare
prepare({{"name": sys.argv[1]}}, None)
import torch
print(random.random(), torch.calls)
"""
    (tmp_path / "torch.py").write_text(TORCH)
    first, again, second = (
        python("-c", code, worker, path=[tmp_path]).stdout for worker in ("Worker-1", "Worker-1", "Worker-2")
    )
    assert first.startswith("['name']\n")
    assert first == again
    assert [a == b for a, b in zip(first.split()[1:4], second.split()[1:4], strict=True)] == [
        False,
        True,
        False,
    ]


def test_every_hooked_name_is_treated():
    """The names that the finder looks for are the names that something is done for."""
    code = """
import sys
imports, seeds = sys.modules["_reprobox_imports"], __import__("_reprobox_seeds")
named = set(seeds._SEED) | {"keras", "tf_keras", "jax", "torch._inductor.config"}
print(imports.SEEDED - named == {name for name in imports.SEEDED if name.endswith(".spawn")})
print(named <= imports.SEEDED <= imports.HOOKED, set(seeds._DETERMINISTIC) <= named)
"""
    assert printed(code) == "True\nTrue True\n"
