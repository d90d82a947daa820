"""A real conda channel, made here from Debian packages and wheels, for tests that need one.

For: tests of solving, locking, linking and building conda environments where no public channel can be reached.
Never: parts that are made up where real ones can be had; nothing of it is shipped.
Start: `build.make_channel`, `server.serve`; `hostile.make_hostile`; by hand `python -m tests.channel.build FOLDER`.

Invariants: sources are pinned by sha256 (sources.lock and envs/digits-cpu/reprobox.lock); the same sources and the same
generator give the same package bytes; what is finished is never changed, and is found again by a key.
"""
