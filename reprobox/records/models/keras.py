"""What a Keras model's weights are called, whichever of its formats they lie in. Pure: names in, names out.

Keras writes two layouts. In `.keras` and `.weights.h5`, a variable lies at `<attributes>/vars/<index>`, and
the `vars` group names its layer. In the legacy `.h5`, it lies at `<layer>/<scopes>/<variable>`, and lists
give the order. Both become `<layer>/<index>`, or `<outer layer>/<inner layers>/<index>` for nested layers:

* the outer layer is the one that the model itself holds;
* the inner layers are the shortest end of the path of layer names that tells the variable's owner apart from
  its siblings: the legacy layout loses the beginning of that path when a model is loaded and saved again;
* numbers at the end of names are counted anew, the outer ones among themselves and the inner ones within
  each outer layer: Keras numbers layers per process, not per model;
* the index counts a layer's own variables, trainable ones first.

`docs/formats/digest-v1.md` is the specification; change it first.

Source: `saving/saving_lib.py` and `legacy/saving/legacy_h5_format.py` of Keras 3.15.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

TOP_LEVEL_WEIGHTS: Final = "top_level_model_weights"
"""The legacy layout's group for variables that belong to the model itself."""

_VARS: Final = "vars"
_NUMBERED: Final = re.compile(r"(.+?)((?:_\d+)*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyLayer:
    """One layer group of the legacy layout.

    Attributes:
        name: The layer's name, one of the file's `layer_names`.
        weights: Its `weight_names`, in the order of the file. Each is also a dataset's path in the group.
    """

    name: str
    weights: tuple[str, ...]


def is_model_weight(path: str) -> bool:
    """Tell the model's own weights from the state of its training.

    Args:
        path: A dataset's path in a `.weights.h5` layout.

    Returns:
        False for an optimizer's variables, for metrics that old versions saved, and for the state of the
        random generators of dropout and augmentation layers, which only some versions save.
    """
    parts = path.split("/")
    top = parts[0]
    if top in ("optimizer_weights", "metrics") or top == "optimizer" or top.endswith("_optimizer"):
        return False
    return not any(part in ("seed_generator", "seed_generator_state") for part in parts)


def name_weights(paths: Iterable[str], layer_names: Mapping[str, str]) -> dict[str, str]:
    """Name the variables of a `.weights.h5` layout.

    Args:
        paths: Dataset paths, such as `layers/sequential/layers/dense/vars/0`.
        layer_names: Path of each group that has a `vars` group → the name of its layer. The model itself, at
            the empty path, needs no entry.

    Returns:
        Path → canonical name. A path without `vars` in the last but one place is its own name. Should two
        paths come to one name, all are their own names.
    """
    paths = list(paths)
    owners: dict[str, tuple[tuple[str, ...], str]] = {}
    for path in paths:
        owner, _, index = path.rpartition("/")
        if owner.rpartition("/")[2] == _VARS:
            owners[path] = (_chain(owner.rpartition("/")[0], layer_names), index)
    tops = {chain: (chain[:1], chain) for chain, _ in owners.values()}
    names = _name_owners(tops)
    return _unless_ambiguous(
        {path: _join(names[owners[path][0]], owners[path][1]) if path in owners else path for path in paths}
    )


def name_legacy_weights(layers: Sequence[LegacyLayer]) -> dict[tuple[str, str], str]:
    """Name the variables of a legacy `.h5` layout.

    Args:
        layers: The layer groups that have weights, `TOP_LEVEL_WEIGHTS` among them if there is such a group.

    Returns:
        (layer, weight name) → canonical name, or `<layer>/<weight name>` for all should two come to one name.
    """
    tops: dict[tuple[str, ...], tuple[tuple[str, ...], tuple[str, ...]]] = {}
    counts: Counter[tuple[str, ...]] = Counter()
    indices: dict[tuple[str, str], tuple[tuple[str, ...], int]] = {}
    for layer in layers:
        top = () if layer.name == TOP_LEVEL_WEIGHTS else (layer.name,)
        for weight in layer.weights:
            scope = tuple(weight.split("/")[:-1]) if top else ()
            key = (layer.name, *scope)
            tops[key] = (top, scope)
            indices[layer.name, weight] = (key, counts[key])
            counts[key] += 1
    names = _name_owners(tops)
    named = {pair: _join(names[key], str(index)) for pair, (key, index) in indices.items()}
    if len(set(named.values())) < len(named):
        return {pair: "/".join(pair) for pair in named}
    return named


def name_owned_weights(weights: Mapping[str, tuple[tuple[str, ...], int]]) -> dict[str, str] | None:
    """Name variables of which the layers that own them are known.

    Args:
        weights: Key → the layer names from the outermost layer to the owner, and the number of the owner; the
            variables of one owner in their order.

    Returns:
        Key → canonical name; None should two come to one name.
    """
    tops = {chain: (chain[:1], chain) for chain, _ in weights.values()}
    names = _name_owners(tops)
    counts: Counter[tuple[tuple[str, ...], int]] = Counter()
    named = {}
    for key, (chain, owner) in weights.items():
        named[key] = _join(names[chain], str(counts[chain, owner]))
        counts[chain, owner] += 1
    return named if len(set(named.values())) == len(named) else None


def is_optimizer_weight(path: str) -> bool:
    """Tell the variables of optimizers.

    Args:
        path: A dataset's path in a `.weights.h5` layout.

    Returns:
        Whether it lies below `optimizer` or `<anything>_optimizer`.
    """
    top, slash, _ = path.partition("/")
    return bool(slash) and (top == "optimizer" or top.endswith("_optimizer"))


def rename_layers(names: Iterable[str]) -> dict[str, str]:
    """Count the layers of a configuration anew.

    Args:
        names: Names of layers and models.

    Returns:
        Name → the name that it has in every process that makes this model.
    """
    return _renumber(names)


def _chain(owner: str, layer_names: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the layers from the model down to the owner of a variable."""
    chain = []
    parts = owner.split("/") if owner else []
    for end in range(1, len(parts) + 1):
        name = layer_names.get("/".join(parts[:end]))
        if name is not None:
            chain.append(name)
    return tuple(chain)


def _name_owners(
    owners: Mapping[tuple[str, ...], tuple[tuple[str, ...], tuple[str, ...]]],
) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Shorten and renumber owners.

    Args:
        owners: Key → (outer layer, path of layer names, of which only the end is reliable).

    Returns:
        Key → the parts of the owner's canonical name.
    """
    endings: Counter[tuple[tuple[str, ...], tuple[str, ...]]] = Counter()
    for top, scope in owners.values():
        endings.update((top, scope[start:]) for start in range(len(scope)))
    inner: dict[tuple[str, ...], tuple[str, ...]] = {}
    siblings: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for key, (top, scope) in owners.items():
        unique = (scope[start:] for start in reversed(range(len(scope))) if endings[top, scope[start:]] == 1)
        ending = next(unique, scope)
        inner[key] = () if ending == top else ending
        siblings[top].update(inner[key])
    outer = _renumber(name for top in siblings for name in top)
    renamed = {top: _renumber(names) for top, names in siblings.items()}
    return {
        key: (*(outer[name] for name in top), *(renamed[top][name] for name in inner[key]))
        for key, (top, _) in owners.items()
    }


def _renumber(names: Iterable[str]) -> dict[str, str]:
    """Count names with one stem anew: dense_3, dense_7 become dense, dense_1."""
    stems: defaultdict[str, set[tuple[tuple[int, ...], str]]] = defaultdict(set)
    for name in names:
        match = _NUMBERED.fullmatch(name)
        stem, digits = (match[1], match[2]) if match else (name, "")
        stems[stem].add((tuple(int(number) for number in digits.split("_") if number), name))
    return {
        name: f"{stem}_{rank}" if rank else stem
        for stem, members in stems.items()
        for rank, (_, name) in enumerate(sorted(members))
    }


def _join(owner: tuple[str, ...], index: str) -> str:
    return "/".join((*owner, index))


def _unless_ambiguous(names: dict[str, str]) -> dict[str, str]:
    return names if len(set(names.values())) == len(names) else {path: path for path in names}
