"""engines: where containers run. One Protocol, one file an engine, one contract suite over all of them.

Knows containers, mounts and images by id; knows nothing of locks, records or projects.
Start at `base.Engine` (what an engine can do) and `choose.connect_engine` (which one is there).

Invariants: a container gets exactly what its request says and nothing of the host's environment; every container
carries the label of its run, so that what a killed tool left can be found.
"""
