"""The weights in Keras's own files, under the names that one model has in all of them.

`keras` decides on the names; here is where they are found: in the groups and attributes of HDF5, and in the
members of a `.keras` file.

Source: `saving/saving_lib.py` and `legacy/saving/legacy_h5_format.py` of Keras 3.15.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from reprobox.errors import ContentRefused, RecordError
from reprobox.records.models.hdf5 import find_text_attribute, list_datasets, list_text_attribute, open_hdf5
from reprobox.records.models.hdf5_data import Hdf5
from reprobox.records.models.keras import (
    TOP_LEVEL_WEIGHTS,
    LegacyLayer,
    is_model_weight,
    is_optimizer_weight,
    name_legacy_weights,
    name_weights,
)
from reprobox.records.models.tensors import SLAB_BYTES, Tensor
from reprobox.records.models.zip import open_member, open_zip

if TYPE_CHECKING:
    from zipfile import ZipFile

KERAS_WEIGHTS: Final = "model.weights.h5"
"""The member of a `.keras` file that holds the weights."""

_ASSETS: Final = "assets/"
_LEGACY_OPTIMIZER: Final = "optimizer_weights"


@contextmanager
def open_keras(path: Path) -> Iterator[list[Tensor]]:
    """Open a `.keras` file and list its weights, and its assets as tensors of bytes.

    Args:
        path: The file.

    Returns:
        A context manager that gives the tensors; they can be read inside it.

    Raises:
        RecordError: The file is truncated or damaged.
        ContentRefused: It has no weights in HDF5, or something that is not read.
    """
    with open_zip(path) as archive:
        if KERAS_WEIGHTS not in archive.namelist():
            raise ContentRefused(path, f"it has no member {KERAS_WEIGHTS}")
        with open_member(path, archive, KERAS_WEIGHTS) as stream, open_hdf5(path, stream) as hdf5:
            yield _list_keras_weights(hdf5) + _list_assets(path, archive)


@contextmanager
def open_keras_weights(path: Path) -> Iterator[list[Tensor]]:
    """Open a `.weights.h5` file and list its weights.

    Args:
        path: The file.

    Returns:
        A context manager that gives the tensors; they can be read inside it.

    Raises:
        RecordError: The file is truncated or damaged.
        ContentRefused: It has something that is not read.
    """
    with open_hdf5(path) as hdf5:
        yield _list_keras_weights(hdf5)


@contextmanager
def open_keras_legacy(path: Path) -> Iterator[list[Tensor]]:
    """Open a legacy `.h5` file and list its weights.

    Args:
        path: The file.

    Returns:
        A context manager that gives the tensors; they can be read inside it.

    Raises:
        RecordError: The file is truncated or damaged, or names a weight that is not there.
        ContentRefused: It has something that is not read.
    """
    with open_hdf5(path) as hdf5:
        yield _list_legacy_weights(hdf5)


def list_optimizer(hdf5: Hdf5) -> list[Tensor]:
    """List the variables of a `.weights.h5` layout's optimizers.

    Args:
        hdf5: The open file.

    Returns:
        Tensors named `<optimizer>/<index>`.

    Raises:
        RecordError: It is damaged.
        ContentRefused: It has something that is not read.
    """
    tensors = [tensor for tensor in list_datasets(hdf5).tensors if is_optimizer_weight(tensor.origin)]
    names = {tensor.origin: tensor.origin.replace("/vars/", "/") for tensor in tensors}
    if len(set(names.values())) < len(names):
        names = {origin: origin for origin in names}
    return [_as_keras(tensor, names[tensor.origin]) for tensor in tensors]


def list_legacy_optimizer(hdf5: Hdf5) -> list[Tensor]:
    """List the variables of a legacy `.h5` file's optimizer.

    Args:
        hdf5: The open file.

    Returns:
        Tensors named `optimizer/<index>`, in the order in which the file lists them.

    Raises:
        RecordError: It is damaged.
        ContentRefused: It has something that is not read.
    """
    listing = list_datasets(hdf5)
    if _LEGACY_OPTIMIZER not in listing.groups:
        return []
    tensors = {tensor.origin: tensor for tensor in listing.tensors}
    found = []
    for index, weight in enumerate(list_text_attribute(hdf5, _LEGACY_OPTIMIZER, "weight_names") or []):
        origin = f"{_LEGACY_OPTIMIZER}/{weight}"
        if origin not in tensors:
            raise RecordError(f"{hdf5.path}: names the weight {origin!r}, which is not there")
        found.append(_as_keras(tensors[origin], f"optimizer/{index}"))
    return found


def _list_keras_weights(hdf5: Hdf5) -> list[Tensor]:
    listing = list_datasets(hdf5)
    tensors = [tensor for tensor in listing.tensors if is_model_weight(tensor.origin)]
    layer_names = {}
    for group in listing.groups:
        owner, _, last = group.rpartition("/")
        if last == "vars" and owner and is_model_weight(group):
            layer_names[owner] = find_text_attribute(hdf5, group, "name") or owner.rpartition("/")[2]
    names = name_weights([tensor.origin for tensor in tensors], layer_names)
    return [_as_keras(tensor, names[tensor.origin]) for tensor in tensors]


def _list_legacy_weights(hdf5: Hdf5) -> list[Tensor]:
    listing = list_datasets(hdf5)
    tensors = {t.origin: t for t in listing.tensors if not t.origin.startswith(f"{_LEGACY_OPTIMIZER}/")}
    root = "model_weights" if "model_weights" in listing.groups else ""
    prefix = f"{root}/" if root else ""
    layer_names = list_text_attribute(hdf5, root, "layer_names") or []
    if prefix + TOP_LEVEL_WEIGHTS in listing.groups:
        layer_names.append(TOP_LEVEL_WEIGHTS)
    layers = []
    for name in layer_names:
        if prefix + name not in listing.groups:
            raise RecordError(f"{hdf5.path}: names the layer {name!r}, which is not there")
        weights = list_text_attribute(hdf5, prefix + name, "weight_names") or []
        layers.append(LegacyLayer(name=name, weights=tuple(weights)))
    names = {f"{prefix}{layer}/{weight}": name for (layer, weight), name in name_legacy_weights(layers).items()}
    for origin in names:
        if origin not in tensors:
            raise RecordError(f"{hdf5.path}: names the weight {origin!r}, which is not there")
    return [_as_keras(tensor, names.get(origin, origin)) for origin, tensor in tensors.items()]


def _as_keras(tensor: Tensor, name: str) -> Tensor:
    # HDF5 had no bfloat16 when these layouts were made: Keras writes it as two opaque bytes.
    dtype = "bfloat16" if tensor.dtype == "opaque2" else tensor.dtype
    return replace(tensor, name=name, dtype=dtype)


def _list_assets(path: Path, archive: ZipFile) -> list[Tensor]:
    """Vocabularies and the like: files that a layer keeps beside its weights, each as a tensor of bytes."""
    tensors = []
    for info in archive.infolist():
        if info.filename.startswith(_ASSETS) and not info.is_dir():

            def chunks(name: str = info.filename) -> Iterator[bytes]:
                with open_member(path, archive, name) as stream:
                    while chunk := stream.read(SLAB_BYTES):
                        yield chunk

            tensors.append(
                Tensor(
                    name=info.filename,
                    dtype="uint8",
                    shape=(info.file_size,),
                    nbytes=info.file_size,
                    chunks=chunks,
                    origin=info.filename,
                )
            )
    return tensors
