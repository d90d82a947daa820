"""The conda-lock library's own model of its files, loaded without what its import does to the process."""

from __future__ import annotations

import functools
import os
import sys
from typing import Any


@functools.cache
def load_models() -> Any:
    """Load conda-lock's models of version 1: 0.4 s, which no command should pay that needs no such file.

    Returns:
        The module with `Lockfile` and `LockedDependency`.
    """
    # Its import puts a `packaging` of its own in front of everybody's, and sets CONDA_ROOT; both are undone here.
    path, environment = list(sys.path), dict(os.environ)
    try:
        from conda_lock.lockfile.v1 import models
    finally:
        sys.path[:] = path
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
    return models
