"""The state of models, optimizers and what else learns: taken, and given back in place.

Three kinds are known: what has `state_dict` and `load_state_dict` (PyTorch, and much that follows it), models and
optimizers of Keras 3, and what lists its `variables` (TensorFlow's modules, Keras's metrics).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from reprobox.runtime.errors import StateError, StateMismatch


def take_object(thing: Any, name: str) -> dict[str, Any]:
    """Take the state of an object.

    Args:
        thing: The object.
        name: What the program calls it, for errors.

    Returns:
        Its kind and its state.

    Raises:
        StateError: Nobody knows how.
    """
    if not _is_keras(thing) and hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict"):
        return {"kind": "state_dict", "state": thing.state_dict()}
    parts = _parts_of(thing, name)
    return {"kind": "variables", "parts": {part: _take_variables(variables) for part, variables in parts}}


def give_object(thing: Any, saved: Mapping[str, Any], name: str) -> None:
    """Put an object where it was.

    Args:
        thing: The object, made by the same code.
        saved: What `take_object` returned.
        name: What the program calls it, for errors.

    Raises:
        StateMismatch: It has other variables than it had.
    """
    if saved["kind"] == "state_dict":
        if not hasattr(thing, "load_state_dict"):
            raise StateMismatch(f"{name} had a state_dict and has none")
        thing.load_state_dict(saved["state"])
        return
    parts = dict(_parts_of(thing, name))
    if list(parts) != list(saved["parts"]):
        raise StateMismatch(
            "{} had {} and has {}".format(name, ", ".join(saved["parts"]) or "nothing", ", ".join(parts) or "nothing")
        )
    for part, variables in parts.items():
        _require_same(variables, saved["parts"][part], f"{name}, {part}")
    for part, variables in parts.items():
        for variable, value in zip(variables, saved["parts"][part].values()):
            variable.assign(value)


def _is_keras(thing: Any) -> bool:
    """Whether it is a model or layer of Keras; with PyTorch below, it is also a module, whose state_dict is not all."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(thing, keras.layers.Layer)


def _parts_of(thing: Any, name: str) -> list[tuple[str, list[Any]]]:
    """The variables of an object, in an order that its own code gives them."""
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(thing, keras.Model):
        if not thing.built:
            raise StateError(f"the model {name} has no variables yet", hint="build it, or call it once, before")
        parts = [("model", list(thing.variables))]
        optimizer = getattr(thing, "optimizer", None)
        if optimizer is not None:
            if not optimizer.built:
                optimizer.build(thing.trainable_variables)
            parts.append(("optimizer", list(optimizer.variables)))
        return parts
    variables = getattr(thing, "variables", None)
    if variables is None or callable(variables):
        raise StateError(
            f"{name} is a {type(thing).__module__}.{type(thing).__qualname__}: it has neither state_dict nor variables",
            hint="keep its numbers and arrays among the values of the checkpoint",
        )
    return [("variables", list(variables))]


def _take_variables(variables: list[Any]) -> dict[str, Any]:
    # The number keeps the order, and apart what has one path.
    return {f"{index:04d}/{_path(variable)}": _array(variable) for index, variable in enumerate(variables)}


def _path(variable: Any) -> str:
    return str(getattr(variable, "path", None) or getattr(variable, "name", ""))


def _array(variable: Any) -> Any:
    keras = sys.modules.get("keras")
    if keras is not None and type(variable).__module__.startswith("keras"):
        return keras.ops.convert_to_numpy(variable.value)
    return variable.numpy()


def _require_same(variables: list[Any], saved: Mapping[str, Any], where: str) -> None:
    if len(variables) != len(saved):
        raise StateMismatch(f"{where}: there were {len(saved)} variables, and there are {len(variables)}")
    for variable, (label, value) in zip(variables, saved.items()):
        now = _array(variable)
        before = label.split("/", 1)[1]
        # Keras counts the layers of a process, so the number behind a name depends on what else was made.
        if _without_counts(_path(variable)) != _without_counts(before):
            raise StateMismatch(f"{where}: the variable {_path(variable)} has the place that {before} had")
        if now.shape != value.shape or now.dtype != value.dtype:
            raise StateMismatch(
                f"{where}: {_path(variable)} was {value.dtype}{list(value.shape)} and is {now.dtype}{list(now.shape)}"
            )


def _without_counts(path: str) -> str:
    return re.sub(r"_\d+(?=/|$|:)", "", path)
