"""runtime: what a user's own training imports, so that an interrupted one can go on and end with the same bits.

Start at `save_checkpoint` and `load_checkpoint`. `rng_state` and `restore_rng_state` are the part of them that holds
random generators; `Loop` calls them at the right moments of a hand-written loop, `reprobox.runtime.keras` of `fit`.

Never pickles, never imports a library for its own sake (only what the program has imported is looked at), and never
leaves out in silence what it cannot keep: that is an error. Standard library only at import, Python 3.8 syntax; imports
no other room and is imported by none: inside containers the guest shim offers it where the image does not hold it.

Invariant: a file is written whole or not at all, and one altered bit is noticed when it is read.
"""

from reprobox.runtime.checkpoint import load_checkpoint, save_checkpoint
from reprobox.runtime.errors import StateError, StateMismatch, StateUnreadable
from reprobox.runtime.loop import Loop
from reprobox.runtime.rng import restore_rng_state, rng_state

__all__ = [
    "Loop",
    "StateError",
    "StateMismatch",
    "StateUnreadable",
    "load_checkpoint",
    "restore_rng_state",
    "rng_state",
    "save_checkpoint",
]
