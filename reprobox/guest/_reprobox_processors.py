"""The number of processors that a program sees is the run's number of threads, on whatever machine it runs.

Variables of the environment tell most libraries (see `run/settings.py`). What they do not reach:

- `os.cpu_count` before Python 3.13, which programs and libraries size their pools of workers by.
- OpenBLAS takes no more threads from its variable than there are processors that the process may use, and divides its
  sums by them. Told by a call it takes as many as it is told.
  Source: OpenBLAS, driver/others/memory.c, blas_get_cpu_number; driver/others/blas_server.c, goto_set_num_threads.
"""

import os
import sys

_SETTERS = (
    "scipy_openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
)


class _Count:
    # Looks like the built-in function that it stands for.

    __slots__ = ("__doc__", "__name__", "__qualname__", "__wrapped__", "_count")
    __module__ = "os"

    def __init__(self, original, count):
        self.__doc__ = original.__doc__
        self.__name__ = self.__qualname__ = original.__name__
        self.__wrapped__ = original
        self._count = count

    def __call__(self):
        return self._count

    def __repr__(self):
        return "<built-in function cpu_count>"

    def __reduce__(self):
        return self.__name__


def install(threads):
    """Have `os.cpu_count` give the number of threads of the run.

    Args:
        threads: That number.
    """
    if sys.version_info < (3, 13):  # From there on, PYTHON_CPU_COUNT does it.
        os.cpu_count = _Count(os.cpu_count, threads)


def settle_openblas(threads):
    """Give every OpenBLAS that is loaded the number of threads of the run, where it took fewer.

    Args:
        threads: That number.
    """
    if len(os.sched_getaffinity(0)) >= threads:
        return
    import ctypes

    with open("/proc/self/maps", "rb") as stream:
        paths = {line.split(None, 5)[5].strip() for line in stream if b"openblas" in line}
    for path in sorted(paths):
        library = ctypes.CDLL(os.fsdecode(path))
        for name in _SETTERS:
            setter = getattr(library, name, None)
            if setter is not None:
                setter(threads)
                break
