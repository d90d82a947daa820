"""Starts the guest shim in every Python process of a run, then gets out of the way.

Python imports `sitecustomize` at start, and finds this file because the runner puts its folder first on
PYTHONPATH. Children inherit that variable; the folder itself leaves this process's `sys.path`, so that
nothing in it can shadow a module of the user's. A `sitecustomize` that this file hid is run as if this one
were not there, and where there is none, importing it fails as it would without us: `site` expects that.
"""

import os
import sys

_folder = os.path.dirname(os.path.abspath(__file__))

if os.environ.get("REPROBOX_DETERMINISM"):
    try:
        import _reprobox_start

        _reprobox_start.start(os.environ, _folder)
    except Exception:
        pass  # A fault of ours never stops the user's program.

_others = [entry for entry in sys.path if os.path.abspath(entry) != _folder]
if __name__ == "sitecustomize" and len(_others) < len(sys.path):
    sys.path[:] = _others
    sys.path_importer_cache.pop(_folder, None)
    del sys.modules["sitecustomize"]
    # The one that we hid; where there is none, the error that this raises is what `site` expects.
    import sitecustomize  # noqa: F401
