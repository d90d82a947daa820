"""What the variables of a TensorFlow checkpoint or SavedModel are called. Pure: the graph of objects in, names out.

A Keras model gets the names that it has in Keras's own files (`keras`), where the layers' names are known. How
many layers own a variable is told by the objects on the way to it; their names are told

* in a SavedModel, by the scopes in which the variable is used (`tf_scopes`);
* else by the variable's own name, which ends with the names of its layers, unless some are lost.

An exported model (`model.export`) has its variables in a list instead: there, scopes and own names have to agree.
Where one name is not known, all variables are called by the objects that lead to them, such as `a/_kernel`. Optimizers
and what belongs to them, counters of saves and random generators are left out, as for Keras files.

`docs/formats/digest-v1.md` is the specification; change it first.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from reprobox.records.models.keras import name_owned_weights
from reprobox.records.models.tensors import MAX_NAME_BYTES
from reprobox.records.models.tf_graph import Node
from reprobox.records.models.tf_scopes import SavedUse

_VARIABLE: Final = "VARIABLE_VALUE"
_MAX_NAMES: Final = 64 << 20
_SAVE_COUNTER: Final = "save_counter"
_RANDOM: Final = frozenset({"seed_generator", "seed_generator_state"})
_NUMBER: Final = re.compile(r"_\d+")
_NUMBERS_AT_END: Final = re.compile(r"(_\d+)+\Z")
# Lists of a model's layers: Keras keeps one or both, and a Sequential model keeps the second in a model inside it.
_INNER_MODEL: Final = "_functional"
_LAYERS: Final = ("_operations", "_layers")
_EXPORTED: Final = "variables"
# Children that lead to variables again which stand elsewhere, or to those of training.
_PASSED_OVER: Final = frozenset(
    {"_all_variables", "_compiled_trainable_state", "_compile_metrics", "_loss_tracker", "keras_api", "signatures"}
)

Owned = dict[str, tuple[tuple[str, ...], int]]
"""Key of a variable → the layers from the outermost one to its owner, and the number of the owner."""


def name_checkpoint(nodes: Sequence[Node], saved: SavedUse | None = None) -> dict[str, str]:
    """Name the tensors of a checkpoint.

    Args:
        nodes: Its graph of objects; the first one is the root.
        saved: What the SavedModel that it belongs to says of them, or None if there is none.

    Returns:
        Key in the checkpoint → name. What is left out has no entry.
    """
    if not nodes:
        return {}
    root = _find_root(nodes)
    ways = _find_ways(nodes, root)
    plain = dict(_list_tensors(nodes, ways))
    if saved is not None and _EXPORTED in dict(nodes[root].children):
        owned = _own_exported(nodes, ways, saved)
    else:
        owned = _own_model(nodes, root, saved)
    weights = name_owned_weights(owned) if owned else None
    named = {key: (weights or {}).get(key, name) for key, name in plain.items()}
    return named if len(set(named.values())) == len(named) else plain


def _find_root(nodes: Sequence[Node]) -> int:
    """The root, or the one object that a root holds which was made for this checkpoint alone."""
    children = _children(nodes, 0)
    if len(children) == 1 and _list_layers(nodes, 0) is None and nodes[children[0][1]].children:
        return children[0][1] if children[0][0] != _EXPORTED else 0
    return 0


def _is_training(name: str) -> bool:
    return name in ("optimizer", "_optimizer", _SAVE_COUNTER) or name.endswith("_optimizer") or name in _PASSED_OVER


def _children(nodes: Sequence[Node], number: int) -> list[tuple[str, int]]:
    return [(name, child) for name, child in nodes[number].children if not _is_training(name)]


def _find_ways(nodes: Sequence[Node], root: int) -> dict[int, tuple[int, str]]:
    """The shortest way to each object that is no part of training, as its last step; the one listed first of several.

    A step is the object that it starts from and the name of the child. The root is its own.
    """
    slots = {slot for node in nodes for slot in node.slots}
    ways: dict[int, tuple[int, str]] = {root: (root, "")}
    pending = deque([root])
    while pending:
        number = pending.popleft()
        for name, child in _children(nodes, number):
            if child not in ways and child not in slots:
                ways[child] = (number, name)
                pending.append(child)
    return ways


def _list_tensors(nodes: Sequence[Node], ways: Mapping[int, tuple[int, str]]) -> Iterator[tuple[str, str]]:
    total = 0
    for number in ways:
        for attribute in nodes[number].attributes:
            if not _is_random(attribute.full_name):
                parts = [*_follow(ways, number), *([] if attribute.name == _VARIABLE else [attribute.name])]
                name = "/".join(parts) or attribute.name
                total += len(name)
                if total > _MAX_NAMES:
                    raise ValueError(f"the names of its variables have more than {_MAX_NAMES} characters")
                yield attribute.key, name


def _follow(ways: Mapping[int, tuple[int, str]], number: int) -> list[str]:
    parts: list[str] = []
    length = 0
    while ways[number][0] != number:
        number, name = ways[number]
        parts.append(name)
        length += len(name) + 1
        if length > MAX_NAME_BYTES:
            raise ValueError(f"the way to a variable has more than {MAX_NAME_BYTES} characters")
    return parts[::-1]


def _is_random(full_name: str) -> bool:
    return any(_NUMBERS_AT_END.sub("", part) in _RANDOM for part in full_name.split("/"))


def _find_variable(node: Node) -> tuple[str, tuple[str, ...]] | None:
    """Key of a variable, and its own name without the last part; None if the object is none that counts."""
    found = [item for item in node.attributes if item.name == _VARIABLE]
    if len(found) != 1 or _is_random(found[0].full_name):
        return None
    return found[0].key, tuple(found[0].full_name.split("/")[:-1])


def _own_exported(nodes: Sequence[Node], ways: Mapping[int, tuple[int, str]], saved: SavedUse) -> Owned | None:
    """Find the layers of an exported model's variables by scopes and own names; None where these do not tell."""
    owned: Owned = {}
    owners: dict[tuple[str, ...], int] = {}
    models = {_without_number(scope[0]) for scope in saved.scopes.values() if scope}
    numbers = [number for number in ways if _find_variable(nodes[number]) is not None]
    for number in sorted(numbers, key=lambda number: (not saved.trainable.get(number, True), number)):
        variable = _find_variable(nodes[number])
        assert variable is not None
        key, parts = variable
        scope = saved.scopes.get(number)
        chain = _align(parts, scope) if scope else parts[1:] if parts[:1] and parts[0] in models else parts
        if not chain:
            return None
        owned[key] = (chain, owners.setdefault(chain, len(owners)))
    return owned


def _align(parts: tuple[str, ...], scope: tuple[str, ...]) -> tuple[str, ...]:
    """Join the layers of a scope and those of a variable's own name, which has lost some at its beginning.

    The scope's first part is the model; each part has one number more than its layer.
    """
    for index in reversed(range(len(parts))):
        for place in reversed(range(1, len(scope))):
            if _NUMBER.fullmatch(scope[place].removeprefix(parts[index])):
                return (*map(_without_number, scope[1 : place + 1]), *parts[index + 1 :])
    return ()


def _without_number(part: str) -> str:
    stem, _, number = part.rpartition("_")
    return stem if number.isdigit() and stem else part


def _own_model(nodes: Sequence[Node], model: int, saved: SavedUse | None) -> Owned | None:
    """Find the layers of a Keras model's variables; None if it is none, or a name is not known."""
    layers = _list_layers(nodes, model)
    # The layers of a model that is a class of its own are its attributes. Scopes tell it from what is none of Keras.
    is_class = layers is None
    if layers is None:
        if saved is None:
            return None
        layers = [child for _, child in _children(nodes, model) if nodes[child].children]
    seen = {model}
    found = [(child, model, 0) for _, child in _children(nodes, model) if nodes[child].attributes]
    seen.update(child for child, _, _ in found)
    for layer in layers:
        found += _walk_layer(nodes, layer, seen)
    if saved is not None:
        found.sort(key=lambda item: not saved.trainable.get(item[0], True))
    owned: Owned = {}
    prefixes: set[tuple[str, ...]] = set()
    for number, owner, depth in found:
        variable = _find_variable(nodes[number])
        if variable is None:
            continue
        key, parts = variable
        chain = _take_scope(parts, saved.scopes.get(number, ()), depth) if saved is not None else None
        if chain is None:
            if len(parts) < depth or (is_class and depth):
                return None
            chain = parts[len(parts) - depth :]
            prefixes.add(parts[: len(parts) - depth])
        owned[key] = (chain, owner)
    # The model's own name stands before those of some layers, and is no layer's.
    outer = {chain[0] for chain, _ in owned.values() if chain}
    if not outer:
        return None
    pairs = set(owned.values())
    is_clear = len({chain for chain, _ in pairs}) == len(pairs) == len({owner for _, owner in pairs})
    return owned if is_clear and not any(prefix[-1] in outer for prefix in prefixes if prefix) else None


def _take_scope(parts: tuple[str, ...], scope: tuple[str, ...], depth: int) -> tuple[str, ...] | None:
    """The layers of a variable that `depth` layers own: all from its scope, or the outermost; None if neither."""
    numbered = [bool(_NUMBERS_AT_END.search(part)) for part in scope]
    if depth == 0 or len(scope) < 2 or not numbered[1]:
        return None
    if len(scope) > depth and all(numbered[1 : depth + 1]):
        return tuple(map(_without_number, scope[1 : depth + 1]))
    if len(parts) < depth - 1:
        return None
    return (_without_number(scope[1]), *parts[len(parts) - depth + 1 :])


def _list_layers(nodes: Sequence[Node], number: int) -> list[int] | None:
    """The layers of a model, or of a layer that has a list of them; None if the object has none."""
    children = dict(nodes[number].children)
    if _INNER_MODEL in children:
        children = dict(nodes[children[_INNER_MODEL]].children)
    for name in _LAYERS:
        if name in children:
            return [child for _, child in nodes[children[name]].children]
    return None


def _walk_layer(nodes: Sequence[Node], layer: int, seen: set[int]) -> Iterator[tuple[int, int, int]]:
    """List the variables below a layer: each with its owner, and the number of layers from the outermost one on."""
    pending = [(layer, 1)]
    while pending:
        owner, depth = pending.pop()
        if owner in seen:
            continue
        seen.add(owner)
        inner = _list_layers(nodes, owner)
        lists = () if inner is None else (*_LAYERS, _INNER_MODEL)
        holders = {owner}
        children = deque((name, child) for name, child in _children(nodes, owner) if name not in lists)
        pending += [(child, depth + 1) for child in inner or ()]
        while children:
            _, child = children.popleft()
            if any(item.name == _VARIABLE for item in nodes[child].attributes):
                if child not in seen:
                    seen.add(child)
                    yield child, owner, depth
            elif nodes[child].children and all(key.isdigit() for key, _ in nodes[child].children):
                # A list is no layer: what is in it belongs to its owner.
                if child not in holders:
                    holders.add(child)
                    children.extend(nodes[child].children)
            elif nodes[child].children:
                pending.append((child, depth + 1))
