"""run: the one driver that joins environment, image, engine, guest and record.

Decides nothing about formats and prints nothing; whoever calls it passes clock, process environment and progress in.
Start at `driver.run_script` and `driver.evaluate_run`; `prepare` brings an environment into an engine, `execute` makes
one run, `snapshot` fills its working folder, `collect` turns what came out into a record, `recover` mends after a kill.

Invariants: a run is on disk as a draft before its container starts; its record appears whole or not at all; nothing in
the user's folder is overwritten that could not be had back.
"""
