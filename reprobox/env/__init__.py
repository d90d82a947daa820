"""env: what must be inside an environment, and the lock that pins it.

Reads environment files, project files and locks; resolves them against indexes. Never builds or runs anything.
Start at `spec.parse_environment` (what a person wrote), `lockfile.Lock` (what is pinned), `solve` (the only file here
that resolves over the network).

Invariants: parsing is pure (text in, values out, with file and line); a lock names packages by file, size and sha256,
never by host; its digest covers what it pins and not its notes on where that came from.
"""
