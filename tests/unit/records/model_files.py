"""Model files made by hand, those in Keras's layouts too, so that no test needs a framework.

The layouts were compared with files that Keras 3.15.1 saved.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from reprobox.records.models.content import ContentDigest, examine_content

Array = np.ndarray[Any, Any]
Arrays = dict[str, Any]


def reference_digest(arrays: Arrays) -> str:
    """The recipe once more, from its specification, for arrays of plain types."""

    def u64(number: int) -> bytes:
        return struct.pack("<Q", number)

    data = b"reprobox tensors-v1\n"
    for name in sorted(arrays, key=lambda text: text.encode()):
        array = np.asarray(arrays[name])
        dtype = array.dtype.name.encode()
        elements = array.astype(array.dtype.newbyteorder("<")).tobytes(order="C")
        data += u64(len(name.encode())) + name.encode() + u64(len(dtype)) + dtype
        data += u64(array.ndim) + b"".join(u64(size) for size in array.shape) + u64(len(elements)) + elements
    return hashlib.sha256(data).hexdigest()


def digest(path: Path, format: str | None = None) -> str:
    content = examine_content(path, format)
    assert isinstance(content, ContentDigest), content
    assert content.recipe == "tensors-v1/sha256"
    return content.digest


def write_hdf5(path: Path, arrays: Arrays, **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **(options if np.ndim(array) and np.size(array) else {}))
    return path


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer that owns variables.

    Attributes:
        path: Its attribute path, as in `.weights.h5`.
        chain: Layer names from the model down to it.
        trainable: Its trainable variables: name → value.
        frozen: The others.
    """

    path: str
    chain: tuple[str, ...]
    trainable: dict[str, Array]
    frozen: dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class KerasModel:
    """What a hand-made model file is made from.

    Attributes:
        containers: Attribute path → layer name of what owns no variable: nested models, Dropout.
        layers: The layers that own variables.
    """

    containers: dict[str, str]
    layers: tuple[Layer, ...]


def _values(seed: int, *shape: int) -> Array:
    return (np.arange(np.prod(shape)).reshape(shape) / 8 - seed).astype("float32")


def make_model(*, number_from: int = 0, seed: int = 0) -> KerasModel:
    """A model with a nested one, BatchNormalization, Dropout, and a bidirectional LSTM."""

    def numbered(stem: str, number: int) -> str:
        return f"{stem}_{number + number_from}" if number + number_from else stem

    def dense(path: str, chain: tuple[str, ...], rows: int, columns: int) -> Layer:
        values = {"kernel": _values(seed + rows, rows, columns), "bias": _values(seed + columns, columns)}
        return Layer(path=path, chain=chain, trainable=values, frozen={})

    nested, bidirectional = numbered("sequential", 0), numbered("bidirectional", 0)
    norm = {name: _values(seed + i, 6) for i, name in enumerate(("gamma", "beta", "moving_mean", "moving_variance"))}
    lstms = [
        Layer(
            path=f"layers/bidirectional/{side}_layer/cell",
            chain=(bidirectional, f"{side}_lstm", "lstm_cell"),
            trainable={"kernel": _values(seed + 7 + i, 3, 8), "bias": _values(seed + 9 + i, 8)},
            frozen={},
        )
        for i, side in enumerate(("forward", "backward"))
    ]
    return KerasModel(
        containers={
            "layers/sequential": nested,
            "layers/sequential/layers/dropout": numbered("dropout", 0),
            "layers/bidirectional": bidirectional,
            "layers/bidirectional/forward_layer": "forward_lstm",
            "layers/bidirectional/backward_layer": "backward_lstm",
        },
        layers=(
            *lstms,
            dense("layers/sequential/layers/dense", (nested, numbered("dense", 0)), 8, 6),
            Layer(
                path="layers/sequential/layers/batch_normalization",
                chain=(nested, numbered("batch_normalization", 0)),
                trainable={name: norm[name] for name in ("gamma", "beta")},
                frozen={name: norm[name] for name in ("moving_mean", "moving_variance")},
            ),
            dense("layers/sequential/layers/dense_1", (nested, numbered("dense", 1)), 6, 5),
            dense("layers/dense", (numbered("dense", 2),), 5, 4),
        ),
    )


def write_weights(
    file: h5py.File,
    model: KerasModel,
    *,
    with_optimizer: bool = False,
    reverse: bool = False,
    dataset_options: dict[str, Any] | None = None,
) -> None:
    """Write the layout of `.weights.h5`."""
    options = dataset_options or {}
    file.create_group("vars").attrs["name"] = "sequential_3"
    for path, name in model.containers.items():
        file.create_group(f"{path}/vars").attrs["name"] = name
    for layer in reversed(model.layers) if reverse else model.layers:
        group = file.create_group(f"{layer.path}/vars")
        group.attrs["name"] = layer.chain[-1]
        for index, value in enumerate((*layer.trainable.values(), *layer.frozen.values())):
            group.create_dataset(str(index), data=value, **(options if value.ndim else {}))
    if with_optimizer:
        file["optimizer/vars/0"] = np.int64(12)
        file["optimizer/vars/1"] = np.float32(0.001)


def write_legacy(
    file: h5py.File,
    model: KerasModel,
    *,
    scope: Callable[[tuple[str, ...]], Sequence[str]] = lambda chain: chain,
    root: str = "model_weights",
    with_optimizer: bool = False,
) -> None:
    """Write the layout of the legacy `.h5`; `scope` gives the part of a chain that weight names start with."""
    top = file.create_group(root) if root else file
    if root:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential"})
    names = [*dict.fromkeys(layer.chain[0] for layer in model.layers), "dropout_of_the_top"]
    top.attrs["layer_names"] = [name.encode() for name in names]
    for name in names:
        group = top.create_group(name)
        layers = [layer for layer in model.layers if layer.chain[0] == name]
        pairs = [(layer, variable, layer.trainable[variable]) for layer in layers for variable in layer.trainable]
        pairs += [(layer, variable, layer.frozen[variable]) for layer in layers for variable in layer.frozen]
        weights = ["/".join((*scope(layer.chain), variable)) for layer, variable, _ in pairs]
        group.attrs["weight_names"] = [weight.encode() for weight in weights]
        for weight, (_, _, value) in zip(weights, pairs, strict=True):
            group[weight] = value
    top.create_group("top_level_model_weights").attrs["weight_names"] = []
    if with_optimizer:
        group = file.create_group("optimizer_weights")
        group.attrs["weight_names"] = [b"adam/iteration"]
        group["adam/iteration"] = np.int64(12)


def write_keras(path: Path, model: KerasModel, *, compression: int = zipfile.ZIP_STORED, **options: Any) -> Path:
    """Write a `.keras` file."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        write_weights(file, model, **options)
    members = [
        ("metadata.json", b'{"keras_version": "3.15.1"}'),
        ("config.json", b'{"class_name": "Sequential"}'),
        ("model.weights.h5", buffer.getvalue()),
    ]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in reversed(members) if options.get("reverse") else members:
            archive.writestr(name, data)
    return path
