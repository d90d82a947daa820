"""The state of one random generator that a program has made itself."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

from reprobox.runtime.errors import StateError, StateMismatch


def take_generator(generator: Any, name: str) -> dict[str, Any]:
    """Take the state of a generator.

    Args:
        generator: Of one of the types that `rng_state` names.
        name: What the program calls it, for errors.

    Returns:
        Its type, and its state as numbers, bytes and arrays.

    Raises:
        StateError: It is of another type.
    """
    kind = _kind_of(generator)
    if kind == "random.Random":
        return {"kind": kind, "state": generator.getstate()}
    if kind == "numpy.RandomState":
        return {"kind": kind, "state": generator.get_state(legacy=False)}
    if kind in ("numpy.Generator", "numpy.BitGenerator"):
        bits = generator.bit_generator if kind == "numpy.Generator" else generator
        return {"kind": kind, "state": bits.state, "seed": _take_seed(bits)}
    if kind == "torch.Generator":
        return {"kind": kind, "device": str(generator.device), "state": bytes_of(generator.get_state())}
    if kind == "tensorflow.Generator":
        return {"kind": kind, "algorithm": int(generator.algorithm), "state": generator.state.numpy().copy()}
    if kind == "keras.SeedGenerator":
        return take_seed_generator(generator)
    raise StateError(
        f"{name} is a {type(generator).__module__}.{type(generator).__qualname__}, whose state nobody knows",
        hint="a key of JAX belongs among the values of a checkpoint",
    )


def give_generator(generator: Any, saved: Mapping[str, Any], name: str) -> None:
    """Put a generator where it was.

    Args:
        generator: Of the type that it had.
        saved: What `take_generator` returned.
        name: What the program calls it, for errors.

    Raises:
        StateMismatch: It is of another type, or cannot be put there.
    """
    kind = _kind_of(generator)
    if kind != saved["kind"]:
        raise StateMismatch(
            "the generator {} was a {} and is a {}".format(name, saved["kind"], kind or type(generator))
        )
    state = saved["state"]
    if kind == "random.Random":
        generator.setstate(state)
    elif kind == "numpy.RandomState":
        generator.set_state(state)
    elif kind in ("numpy.Generator", "numpy.BitGenerator"):
        bits = generator.bit_generator if kind == "numpy.Generator" else generator
        if bits.state["bit_generator"] != state["bit_generator"]:
            raise StateMismatch(
                "the generator {} drew from {} and draws from {}".format(
                    name, state["bit_generator"], bits.state["bit_generator"]
                )
            )
        _give_seed(bits, saved["seed"], name)
        bits.state = state
    elif kind == "torch.Generator":
        if str(generator.device) != saved["device"]:
            raise StateMismatch(
                "the generator {} was on {} and is on {}".format(name, saved["device"], generator.device)
            )
        generator.set_state(tensor_of(sys.modules["torch"], state))
    elif kind == "tensorflow.Generator":
        if int(generator.algorithm) != saved["algorithm"]:
            raise StateMismatch(f"the generator {name} has another algorithm than it had")
        generator.state.assign(state)
    else:
        give_seed_generator(generator, saved, name)


def _kind_of(generator: Any) -> str:
    numpy_random, torch = sys.modules.get("numpy.random"), sys.modules.get("torch")
    # `SystemRandom` is a `Random` and has no state.
    if isinstance(generator, random.Random) and not isinstance(generator, random.SystemRandom):
        return "random.Random"
    if numpy_random is not None:
        for name in ("Generator", "RandomState", "BitGenerator"):
            if isinstance(generator, getattr(numpy_random, name, ())):
                return "numpy." + name
    if torch is not None and isinstance(generator, torch.Generator):
        return "torch.Generator"
    home = type(generator).__module__.partition(".")[0]
    if home == "tensorflow" and hasattr(generator, "algorithm") and hasattr(generator, "state"):
        return "tensorflow.Generator"
    if home == "keras" and type(generator).__name__ == "SeedGenerator":
        return "keras.SeedGenerator"
    return ""


def _take_seed(bits: Any) -> Any:
    """What `spawn` makes children from, where the bit generator tells: the seed, and how many there are."""
    seed: Any = getattr(bits, "seed_seq", None)
    if not hasattr(seed, "n_children_spawned"):
        return None
    entropy = seed.entropy if isinstance(seed.entropy, int) else repr(seed.entropy)
    return {"entropy": entropy, "spawn_key": list(map(int, seed.spawn_key)), "children": int(seed.n_children_spawned)}


def _give_seed(bits: Any, saved: Any, name: str) -> None:
    now = _take_seed(bits)
    if saved is None or now is None or now == saved:
        return
    same = (now["entropy"], now["spawn_key"]) == (saved["entropy"], saved["spawn_key"])
    if same and now["children"] < saved["children"]:
        bits.seed_seq.spawn(saved["children"] - now["children"])
    elif saved["children"]:
        raise StateMismatch(
            f"the generator {name} has spawned children from a seed that is not its seed now",
            hint="make it from the same seed as in the interrupted program",
        )


def take_seed_generator(generator: Any) -> dict[str, Any]:
    """Take the state of a `keras.random.SeedGenerator`."""
    state = sys.modules["keras"].ops.convert_to_numpy(generator.state)
    return {"kind": "keras.SeedGenerator", "state": [int(number) for number in state.tolist()]}


def give_seed_generator(generator: Any, saved: Mapping[str, Any], name: str) -> None:
    """Put a `keras.random.SeedGenerator` where it was."""
    if len(saved["state"]) != int(generator.state.shape[0]):
        raise StateMismatch(f"{name} has another size than it had")
    generator.state.assign(saved["state"])


def bytes_of(tensor: Any) -> bytes:
    """The bytes of a state of PyTorch, which is a tensor of bytes; without NumPy, which need not be there."""
    return bytes(tensor.cpu().tolist())


def tensor_of(torch: Any, data: bytes) -> Any:
    """The tensor of bytes that PyTorch takes as a state."""
    return torch.tensor(list(data), dtype=torch.uint8)
