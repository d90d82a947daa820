"""guest: cargo that runs inside containers, mounted read-only on the user's PYTHONPATH.

Standard library only, Python 3.8 syntax. Imported by nobody on the host; files are handed over by path.
`sitecustomize.py` seeds random generators as their modules are imported and orders directory listings;
`pyc.py` compiles sources with a locked interpreter at build time.

Invariants: never changes a result other than by what the determinism level says, never a traceback of the user's code,
and a fault of ours in here never stops the user's program.
"""
