"""image: lock → bytes. Assembles container images from hash-checked packages, without daemon, root or RUN step.

Never resolves a version, never runs package code, never talks to an engine.
Start at `plan.plan_layers` (which package in which layer; pure), `build.start_build` (does it), `oci` (what it is).

Invariants: a layer is a pure function of its packages' bytes and the layer format; every package is hashed before a
byte of it is used; a cached file appears whole or not at all; nothing is written outside the layer or the cache.
"""
