"""What no level can promise is said in the trail, with the line of the user's code; and nothing else is."""

import pytest

from tests.unit.guest.test_shim_process import events, has_module, printed, python

needs_numpy = pytest.mark.skipif(not has_module("numpy"), reason="the interpreter under test has no NumPy")


def noted(tmp_path, source, **options):
    """The notes that a program leaves, without what they have in common."""
    (tmp_path / "trail").unlink(missing_ok=True)
    (tmp_path / "train.py").write_text(source)
    done = python("train.py", cwd=tmp_path, trail=tmp_path / "trail", **options)
    assert (done.returncode, done.stderr) == (0, "")
    found = events(tmp_path / "trail")
    assert not [event for event in found if event["event"] == "fault"]
    return [tuple(list(event.values())[1:]) for event in found if event["event"] == "unpromised"]


@pytest.mark.parametrize(
    ("source", "what", "line"),
    [
        ("import os, random\n\nos.urandom(3)", "os.urandom", 3),
        ("import secrets\nsecrets.token_hex(4)", "secrets.token_hex", 2),
        ("import random\nrandom.SystemRandom().random()", "random.SystemRandom", 2),
        ("import random, uuid\nuuid.uuid1\nuuid.uuid4()", "uuid.uuid4", 3),
        ("import threading\nthreading.Thread(target=print).start()\n", "threading.Thread", 2),
        (
            "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(2) as pool:\n"
            "    list(pool.map(abs, [1]))",
            "concurrent.futures.ThreadPoolExecutor",
            2,
        ),
        (
            "from multiprocessing.pool import ThreadPool\n\nwith ThreadPool(2) as pool:\n    pool.map(abs, [1])",
            "multiprocessing",
            3,
        ),
        pytest.param("import numpy\nnumpy.random.default_rng()", "numpy.random without a seed", 2, marks=needs_numpy),
        pytest.param(
            "import numpy as np\ndef f():\n    return np.random.RandomState()\nf()",
            "numpy.random without a seed",
            3,
            marks=needs_numpy,
        ),
    ],
)  # fmt: skip
def test_what_user_code_asks_for(tmp_path, source, what, line):
    """Entropy of the operating system and threads are noted once each, with file and line."""
    assert (what, "train.py", line) in noted(tmp_path, source)
    twice = noted(tmp_path, source + "\n" + source)
    assert twice == noted(tmp_path, source)
    assert len({note[0] for note in twice}) == len(twice)


@needs_numpy
def test_a_library_that_draws_for_the_user(tmp_path):
    """A generator without a seed inside of an installed package is noted with its name, and where it was called."""
    package = tmp_path / "site-packages" / "lib"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import os, threading, uuid, numpy\ndef draw():\n    uuid.uuid4()\n    threading.Thread()\n"
        "    return numpy.random.default_rng()\ndraw()\n"
    )
    assert noted(tmp_path, "import lib\n", path=[tmp_path / "site-packages"]) == []
    source = "import lib\nlib.draw()\n"
    assert noted(tmp_path, source, path=[tmp_path / "site-packages"]) == [
        ("numpy.random without a seed", "train.py", 2, "lib")
    ]


@pytest.mark.parametrize(
    "source",
    [
        "import random, tempfile\nwith tempfile.TemporaryDirectory(): random.random()",
        "import logging, subprocess, sys, threading, asyncio\nsubprocess.run([sys.executable, '-c', ''])\n"
        "asyncio.run(asyncio.sleep(0))",
        pytest.param("import numpy as np\nnp.random.rand()\nnp.random.default_rng(3)", marks=needs_numpy),
    ],
)
def test_what_is_repeatable_is_not_noted(tmp_path, source):
    """Seeded generators, names of temporary files, and what the standard library and NumPy do at import are no news."""
    assert noted(tmp_path, source) == []


def test_off_notes_nothing(tmp_path):
    """At `off` nothing was promised."""
    assert noted(tmp_path, "import os, random\nos.urandom(1)", level="off") == []


def test_nothing_changes_for_the_program():
    """Names, pickles, errors and tracebacks are those of a process without the shim."""
    code = """
import os, pickle, random, threading, traceback
from concurrent.futures import ThreadPoolExecutor
print(os.urandom, os.urandom.__name__, pickle.loads(pickle.dumps(os.urandom)) is os.urandom, len(os.urandom(5)))
print(threading.Thread().name, ThreadPoolExecutor(1)._thread_name_prefix, threading.Thread(name="x").name)
for call in (lambda: ThreadPoolExecutor(0), lambda: threading.Thread(target=1, args=3), lambda: random.SystemRandom().seed()):
    try:
        call()
    except Exception:
        traceback.print_exc(file=__import__("sys").stdout)
"""
    assert printed(code) == printed(code, shim=False)
