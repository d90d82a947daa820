"""What the variables of a TensorFlow checkpoint or SavedModel are called. Pure: the graph of objects in, names out.

A Keras model gets the names that it has in Keras's own files (`models_keras`), where the layers' names are known:

* in a checkpoint, from the objects on the way to a variable, and the variable's own name, which ends with the names of
  the layers that own it;
* in a SavedModel, from the scopes in which its variables are used (`models_tf_scopes`).

Where one name is not known, all variables are called by the objects that lead to them, such as `model/a/_kernel`.
Optimizers and what belongs to them, counters of saves and random generators are left out, as for Keras files.

`docs/formats/digest-v1.md` is the specification; change it first.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from reprobox.records.models_keras import name_owned_weights
from reprobox.records.models_tf_graph import Node
from reprobox.records.models_tf_scopes import SavedUse

_VARIABLE: Final = "VARIABLE_VALUE"
_SAVE_COUNTER: Final = "save_counter"
_RANDOM: Final = frozenset({"seed_generator", "seed_generator_state"})
_NUMBER: Final = re.compile(r"_\d+")
# Lists of a model's layers: Keras keeps one or both, and a Sequential model keeps the second in a model inside it.
_INNER_MODEL: Final = "_functional"
_LAYERS: Final = ("_operations", "_layers")
# Children that lead to variables again which stand elsewhere, or to those of training.
_PASSED_OVER: Final = frozenset(
    {"_all_variables", "_compiled_trainable_state", "_compile_metrics", "_loss_tracker", "keras_api", "signatures"}
)

Owned = tuple[tuple[str, ...], int]
"""The layers from the outermost one to the owner of a variable, and the number of the owner."""


def name_checkpoint(nodes: Sequence[Node], saved: SavedUse | None = None) -> dict[str, str]:
    """Name the tensors of a checkpoint.

    Args:
        nodes: Its graph of objects; the first one is the root.
        saved: What the SavedModel that it belongs to says of them, or None if there is none.

    Returns:
        Key in the checkpoint → name. What is left out has no entry.
    """
    paths = _find_paths(nodes)
    plain = dict(_list_tensors(nodes, paths))
    weights = None if saved is None else _name_saved(nodes, paths, saved)
    weights = weights or _name_model(nodes, paths)
    named = {key: (weights or {}).get(key, name) for key, name in plain.items()}
    return named if len(set(named.values())) == len(named) else plain


def _is_training(name: str) -> bool:
    return name in ("optimizer", "_optimizer", _SAVE_COUNTER) or name.endswith("_optimizer") or name in _PASSED_OVER


def _find_paths(nodes: Sequence[Node]) -> dict[int, tuple[str, ...]]:
    """The shortest way to each object that is no part of training; of several, the one that is listed first."""
    if not nodes:
        return {}
    slots = {slot for node in nodes for slot in node.slots}
    paths: dict[int, tuple[str, ...]] = {0: ()}
    pending = deque([0])
    while pending:
        number = pending.popleft()
        for name, child in nodes[number].children:
            if child not in paths and child not in slots and not _is_training(name):
                paths[child] = (*paths[number], name)
                pending.append(child)
    return paths


def _list_tensors(nodes: Sequence[Node], paths: Mapping[int, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    for number, path in paths.items():
        for attribute in nodes[number].attributes:
            if not _is_random(attribute.full_name):
                parts = path if attribute.name == _VARIABLE else (*path, attribute.name)
                yield attribute.key, "/".join(parts) or attribute.name


def _is_random(full_name: str) -> bool:
    return any(_strip_number(part) in _RANDOM for part in full_name.split("/"))


def _strip_number(name: str) -> str:
    return re.sub(r"(_\d+)+\Z", "", name)


def _variable(node: Node) -> tuple[str, str] | None:
    """Key and own name of a variable; None if the object is none, or a random generator's."""
    found = [item for item in node.attributes if item.name == _VARIABLE]
    return (found[0].key, found[0].full_name) if len(found) == 1 and not _is_random(found[0].full_name) else None


def _name_saved(nodes: Sequence[Node], paths: Mapping[int, tuple[str, ...]], saved: SavedUse) -> dict[str, str] | None:
    """Name the variables of a SavedModel by the scopes in which they are read; None where that does not tell."""
    owned: dict[str, Owned] = {}
    owners: dict[tuple[str, ...], int] = {}
    numbers = [number for number in paths if nodes[number].attributes]
    for number in sorted(numbers, key=lambda number: (not saved.trainable.get(number, True), number)):
        variable = _variable(nodes[number])
        if variable is None:
            if any(not _is_random(item.full_name) for item in nodes[number].attributes):
                return None
            continue
        key, full_name = variable
        *_, owner, _ = ("", "", *full_name.split("/"))
        scope = saved.scopes.get(number, ())
        places = [place for place, part in enumerate(scope) if place and _NUMBER.fullmatch(part.removeprefix(owner))]
        if not owner or not places or not all(_NUMBER.search(part) for part in scope[1 : places[-1] + 1]):
            return None
        # Each scope has one number more than its layer, because the name was taken when the layer was built.
        chain = tuple(part.rpartition("_")[0] for part in scope[1 : places[-1] + 1])
        owned[key] = (chain, owners.setdefault(chain, len(owners)))
    return name_owned_weights(owned) if owned else None


def _name_model(nodes: Sequence[Node], paths: Mapping[int, tuple[str, ...]]) -> dict[str, str] | None:
    """Name the variables of the one Keras model in a checkpoint; None if there is none, or a name is not known."""
    models = [number for number in (0, *(child for name, child in _children(nodes, 0))) if _layers(nodes, number)]
    if not models:
        return None
    model = models[0]
    if model != 0 and len(models) > 1:
        return None
    owned: dict[str, Owned] = {}
    prefixes: set[tuple[str, ...]] = set()
    seen: set[int] = {model}
    for layer in _layers(nodes, model):
        for number, owner, depth in _walk_layer(nodes, layer, seen):
            variable = _variable(nodes[number])
            if variable is None or number not in paths:
                continue
            key, full_name = variable
            parts = tuple(full_name.split("/")[:-1])
            if len(parts) < depth:
                return None
            prefixes.add(parts[: len(parts) - depth])
            owned[key] = (parts[len(parts) - depth :], owner)
    # The model's own name stands before some layers and never is a layer's.
    outer = {chain[0] for chain, _ in owned.values()}
    if any(prefix[-1] in outer for prefix in prefixes if prefix) or not _are_one_to_one(owned):
        return None
    return name_owned_weights(owned) if owned else None


def _are_one_to_one(owned: Mapping[str, Owned]) -> bool:
    pairs = set(owned.values())
    return len({chain for chain, _ in pairs}) == len(pairs) == len({owner for _, owner in pairs})


def _children(nodes: Sequence[Node], number: int) -> list[tuple[str, int]]:
    return [(name, child) for name, child in nodes[number].children if not _is_training(name)]


def _layers(nodes: Sequence[Node], number: int) -> list[int]:
    """The layers of a functional or sequential model, in order; nothing if the object is none."""
    children = dict(nodes[number].children)
    if _INNER_MODEL in children:
        children = dict(nodes[children[_INNER_MODEL]].children)
    for name in _LAYERS:
        if name in children:
            return [child for _, child in nodes[children[name]].children]
    return []


def _walk_layer(nodes: Sequence[Node], layer: int, seen: set[int]) -> Iterator[tuple[int, int, int]]:
    """List the variables below a layer: each with its owner, and the number of layers from the outermost one on."""
    pending = [(layer, 1)]
    while pending:
        owner, depth = pending.pop()
        if owner in seen:
            continue
        seen.add(owner)
        inner = _layers(nodes, owner)
        lists = (*_LAYERS, _INNER_MODEL) if inner else ()
        holders = [owner]
        children = [(name, child) for name, child in _children(nodes, owner) if name not in lists]
        pending += [(child, depth + 1) for child in inner]
        while children:
            _, child = children.pop(0)
            if any(item.name == _VARIABLE for item in nodes[child].attributes):
                if child not in seen:
                    seen.add(child)
                    yield child, owner, depth
            elif nodes[child].children and all(key.isdigit() for key, _ in nodes[child].children):
                # A list is no layer: what is in it belongs to its owner.
                if child not in holders:
                    holders.append(child)
                    children += nodes[child].children
            elif nodes[child].children:
                pending.append((child, depth + 1))
