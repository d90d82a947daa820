"""cli: parses, calls one function, prints, exits.

The only room that reads the clock or the process environment, catches errors, or ends the process.
Start at `main.main`; one file a group of commands; `session.Session` is what they share.

Invariants: documents go to stdout, talk to stderr; one JSON document with --json; colour and bars on a terminal only.
"""
