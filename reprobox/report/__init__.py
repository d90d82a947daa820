"""report: a record, a build or a list of runs → text for people, or one JSON document for programs. Pure.

Never reads a store and never prints. Start at `text` and `documents`.

Invariants: the keys that `documents` gives stay; a text says the same with and without colour.
"""
