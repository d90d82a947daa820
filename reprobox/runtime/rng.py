"""The state of random generators: those that a process has by itself, and those that it is given.

Only modules that are imported already are looked at. What each one holds, and what nobody outside of it can reach, is
listed in docs/resume.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from reprobox.runtime import rng_given
from reprobox.runtime.errors import StateMismatch


def rng_state(generators: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Take the state of every random generator.

    Args:
        generators: Generators of the program's own, by names that it chooses: `random.Random`, NumPy's `Generator`,
            `RandomState` and bit generators, `torch.Generator`, `tf.random.Generator`, `keras.random.SeedGenerator`. A
            key of JAX is a value, not a generator: keep it among the values of a checkpoint.

    Returns:
        Numbers, text, bytes and arrays; to be kept with `save_checkpoint`, or given to `restore_rng_state`.

    Raises:
        StateError: A generator is of a type that nobody knows.
    """
    state: dict[str, Any] = {"given": {}, "process": {}}
    for name, generator in (generators or {}).items():
        state["given"][name] = rng_given.take_generator(generator, name)
    for name, (module_name, take, _) in _PROCESS.items():
        module = sys.modules.get(module_name)
        if module is not None:
            state["process"][name] = take(module)
    return state


def restore_rng_state(state: Mapping[str, Any], generators: Mapping[str, Any] | None = None) -> None:
    """Put every random generator where it was.

    Call it after everything that draws random numbers on its own was made: models, data sets, other generators.

    Args:
        state: What `rng_state` returned.
        generators: As it was given there: the same names and types.

    Raises:
        StateMismatch: A module of the state is not imported, a generator is missing, one too many, or of another type.
    """
    given = dict(generators or {})
    for names, word in ((set(state["given"]) - set(given), "missing"), (set(given) - set(state["given"]), "not saved")):
        if names:
            raise StateMismatch(
                "random generators are {}: {}".format(word, ", ".join(sorted(names))),
                hint="give the same generators as when the state was taken",
            )
    for name in state["process"]:
        if name not in _PROCESS:
            raise StateMismatch(f"the state holds generators of {name!r}, which this version does not know")
        if _PROCESS[name][0] not in sys.modules:
            raise StateMismatch(
                f"the state holds the generators of {name}, which is not imported",
                hint=f"import {name} before; what it would seed at its import later would not be restored",
            )
    for name, generator in given.items():
        rng_given.give_generator(generator, state["given"][name], name)
    # In the order of the table: making a generator of Keras draws from `random`.
    for name, (module_name, _, give) in _PROCESS.items():
        if name in state["process"]:
            give(sys.modules[module_name], state["process"][name])


_KERAS_ATTRIBUTES = "keras.src.backend.common.global_state"


def _take_keras(keras: Any) -> dict[str, Any]:
    attributes = sys.modules.get(_KERAS_ATTRIBUTES)  # Keras 2 has none, and no seed generators.
    generator = None if attributes is None else attributes.get_global_attribute("global_seed_generator")
    return {"global": None if generator is None else rng_given.take_seed_generator(generator)}


def _give_keras(keras: Any, state: Mapping[str, Any]) -> None:
    attributes: Any = sys.modules.get(_KERAS_ATTRIBUTES)
    if attributes is None:
        return
    if state["global"] is None:
        attributes.set_global_attribute("global_seed_generator", None)
        return
    generator = attributes.get_global_attribute("global_seed_generator")
    if generator is None:
        generator = keras.random.SeedGenerator(seed=0)
        attributes.set_global_attribute("global_seed_generator", generator)
    rng_given.give_seed_generator(generator, state["global"], "the global seed generator of Keras")


def _take_tensorflow(tensorflow: Any) -> dict[str, Any]:
    # What seeds each random operation that is called eagerly, and the generator that a program asks for by
    # `tf.random.get_global_generator`. The latter is not asked for here: that would make one.
    context = sys.modules["tensorflow.python.eager.context"].context()
    drawn = getattr(context, "_rng", None)
    module = sys.modules.get("tensorflow.python.ops.stateful_random_ops")
    generator = getattr(module, "global_generator", None)
    return {
        "seed": None if context._seed is None else int(context._seed),
        "operations": None if drawn is None else drawn.getstate(),
        "global": None if generator is None else rng_given.take_generator(generator, "tensorflow"),
    }


def _give_tensorflow(tensorflow: Any, state: Mapping[str, Any]) -> None:
    context = sys.modules["tensorflow.python.eager.context"].context()
    if context._seed != state["seed"]:
        raise StateMismatch(
            "the seed of TensorFlow was {!r} and is {!r}".format(state["seed"], context._seed),
            hint="call tf.random.set_seed as it was called then; functions that are traced already keep their seeds",
        )
    if state["operations"] is not None:
        context._rng.setstate(state["operations"])
    if state["global"] is not None:
        generator = tensorflow.random.get_global_generator()
        rng_given.give_generator(generator, state["global"], "the global generator of TensorFlow")


def _take_torch(torch: Any) -> dict[str, Any]:
    cuda = []
    # A process that has not used CUDA yet has drawn nothing there.
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        cuda = [rng_given.bytes_of(state) for state in torch.cuda.get_rng_state_all()]
    return {"cpu": rng_given.bytes_of(torch.get_rng_state()), "cuda": cuda}


def _give_torch(torch: Any, state: Mapping[str, Any]) -> None:
    devices = torch.cuda.device_count() if state["cuda"] else 0
    if len(state["cuda"]) > devices:
        raise StateMismatch(f"the state holds {len(state['cuda'])} CUDA generators; there are {devices}")
    torch.set_rng_state(rng_given.tensor_of(torch, state["cpu"]))
    for device, saved in enumerate(state["cuda"]):
        torch.cuda.set_rng_state(rng_given.tensor_of(torch, saved), device)


_PROCESS: dict[str, tuple[str, Callable[[Any], Any], Callable[[Any, Any], None]]] = {
    "keras": ("keras", _take_keras, _give_keras),
    "tensorflow": ("tensorflow", _take_tensorflow, _give_tensorflow),
    "torch": ("torch", _take_torch, _give_torch),
    "numpy": (
        "numpy.random",
        lambda module: module.get_state(legacy=False),
        lambda module, state: module.set_state(state),
    ),
    "random": ("random", lambda module: module.getstate(), lambda module, state: module.setstate(state)),
}
"""Part of a state → the module that holds it, how it is taken and how it is given back; in the order of the latter."""
