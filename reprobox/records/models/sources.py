"""Which reader opens which format. Readers are imported as they are needed, so that naming them costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Final, cast

from reprobox.records.models.tensors import Tensor

HDF5_FORMATS: Final = frozenset({"keras", "keras-weights-h5", "keras-h5", "hdf5"})
"""Formats that are read in a child process, because the HDF5 library may crash on a damaged file."""

_READERS: Final = {
    "keras": ("keras_files", "open_keras"),
    "keras-weights-h5": ("keras_files", "open_keras_weights"),
    "keras-h5": ("keras_files", "open_keras_legacy"),
    "hdf5": ("hdf5", "open_datasets"),
    "npy": ("numpy", "open_npy"),
    "npz": ("numpy", "open_npz"),
    "safetensors": ("safetensors", "open_safetensors"),
    "torch-zip": ("torch", "open_torch"),
    "torch-legacy": ("torch_legacy", "open_torch_legacy"),
    "tf-checkpoint": ("tensorflow", "open_checkpoint"),
    "savedmodel": ("tensorflow", "open_savedmodel"),
    "onnx": ("onnx", "open_onnx"),
    "gguf": ("gguf", "open_gguf"),
}


def has_tensors(format: str) -> bool:
    """Whether files of a format hold tensors that are read here.

    Args:
        format: As `detect_format` names it.

    Returns:
        Whether `open_tensors` can open them.
    """
    return format in _READERS


def open_tensors(path: Path, format: str) -> AbstractContextManager[list[Tensor]]:
    """Open a file that holds tensors.

    Args:
        path: The file, or the folder of a SavedModel.
        format: Its format, one that `has_tensors`.

    Returns:
        A context manager that gives its tensors, in any order; they can be read inside it. It raises what the format's
        own reader says.
    """
    module, name = _READERS[format]
    reader = getattr(import_module(f"reprobox.records.models.{module}"), name)
    return cast(Callable[[Path], AbstractContextManager[list[Tensor]]], reader)(path)
