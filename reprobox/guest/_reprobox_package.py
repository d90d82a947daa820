"""Lets a program import `reprobox.runtime` where the image does not hold reprobox.

A finder behind all others, so a package of that name that is installed, or lies in the project, wins. It serves one
folder beside the shim, which the runner filled; what is below `reprobox` is found by Python itself from there.
"""

import sys
from _frozen_importlib_external import PathFinder

NAME = "reprobox"


class Finder:
    """A meta path finder for one package.

    Args:
        folder: Where it lies.
    """

    def __init__(self, folder):
        self._folder = folder

    def find_spec(self, name, path=None, target=None):
        """Find the package; see `importlib.abc.MetaPathFinder`."""
        return PathFinder.find_spec(name, [self._folder]) if name == NAME else None


def install(folder):
    """Have the package found.

    Args:
        folder: Where it lies, absolute.
    """
    sys.meta_path.append(Finder(folder))
