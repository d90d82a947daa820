"""The number of processors that a program sees is the run's number of threads."""

import os

import pytest

from tests.unit.guest.test_shim_process import has_module, printed

COUNT = "import os, multiprocessing, pickle; print(os.cpu_count(), multiprocessing.cpu_count(), os.cpu_count)"


@pytest.mark.parametrize(("level", "seen"), [("strict", "7 7"), ("seeded", "7 7"), ("off", None)])
def test_processors_that_are_counted(level, seen):
    """`os.cpu_count` gives the run's threads wherever it runs, and looks as it did; at `off` it is Python's own."""
    variables = {"REPROBOX_THREADS": "7", "PYTHON_CPU_COUNT": "7"} if seen else {"REPROBOX_THREADS": "7"}
    expected = printed(COUNT, shim=False).split(None, 2)
    first, second, rest = printed(COUNT, level=level, **variables).split(None, 2)
    assert f"{first} {second}" == (seen or " ".join(expected[:2]))
    assert rest == expected[2]


@pytest.mark.skipif(not has_module("numpy"), reason="the interpreter under test has no NumPy")
def test_openblas_takes_the_threads_that_it_is_told():
    """With fewer processors than threads, sums are divided as on a machine that has them all."""
    code = """
import os, sys
if sys.argv[1] == "one":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np
a = np.random.RandomState(0).normal(size=(2, 1_000_003))
print((a[0] @ a[1]).hex(), np.float32(a[0].astype("f4") @ a[1].astype("f4")).tobytes().hex())
"""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine has one processor")
    from tests.unit.guest.test_shim_process import python

    results = {
        (where, bool(threads)): python(
            "-c", code, where, OPENBLAS_NUM_THREADS="2", **({"REPROBOX_THREADS": threads} if threads else {})
        ).stdout
        for where in ("one", "all")
        for threads in ("2", "")
    }
    assert results["one", True] == results["all", True]
    # Else this test would prove nothing: without the shim's doing they differ.
    assert results["one", False] != results["all", False]
