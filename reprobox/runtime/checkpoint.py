"""One file with all that a training needs to go on: objects, random generators, values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reprobox.runtime import objects as _objects
from reprobox.runtime.errors import StateMismatch
from reprobox.runtime.file import read_file, write_file
from reprobox.runtime.rng import restore_rng_state, rng_state
from reprobox.runtime.tree import decode, encode


def save_checkpoint(
    path: Any,
    *,
    objects: Mapping[str, Any] | None = None,
    generators: Mapping[str, Any] | None = None,
    values: Any = None,
) -> None:
    """Write the state of a training, whole or not at all.

    Args:
        path: The file. What it held is there until the new state is on the disk.
        objects: What is restored in place, by name: models and optimizers of Keras 3, and whatever has `state_dict` and
            `load_state_dict` or lists its `variables`.
        generators: Random generators of the program's own, by name; see `rng_state`. Those of the process are kept
            anyway.
        values: What `load_checkpoint` returns, the epoch for one: numbers, text, arrays, keys of JAX, and lists, tuples
            and dictionaries of these.

    Raises:
        StateError: Something is of a type that cannot be kept; nothing was written.
        OSError: The file cannot be written.
    """
    state = {
        "objects": {name: _objects.take_object(thing, name) for name, thing in (objects or {}).items()},
        "rng": rng_state(generators),
        "values": values,
    }
    encoded, arrays = {}, {}
    for part, value in state.items():
        encoded[part], found = encode(value, part)
        arrays.update(found)
    write_file(path, encoded, arrays)


def load_checkpoint(
    path: Any,
    *,
    objects: Mapping[str, Any] | None = None,
    generators: Mapping[str, Any] | None = None,
) -> Any:
    """Read a checkpoint, check it, and put everything where it was; random generators last.

    Args:
        path: The file.
        objects: As they were given to `save_checkpoint`: the same names, made by the same code.
        generators: Likewise.

    Returns:
        The values.

    Raises:
        StateUnreadable: The file is cut, altered, or no checkpoint.
        StateMismatch: It does not fit what was given. Whether all was given is checked before anything is changed; what
            is in it, object by object.
        FileNotFoundError: There is none.
    """
    encoded, arrays = read_file(path)
    state = {part: decode(value, arrays) for part, value in encoded.items()}
    given = dict(objects or {})
    if set(given) != set(state["objects"]):
        raise StateMismatch(
            "the checkpoint holds {}; given were {}".format(
                ", ".join(sorted(state["objects"])) or "no objects", ", ".join(sorted(given)) or "none"
            ),
            hint="give the same objects as when it was written",
        )
    for name, thing in given.items():
        _objects.give_object(thing, state["objects"][name], name)
    restore_rng_state(state["rng"], generators)
    return state["values"]
