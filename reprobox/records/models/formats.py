"""Which format a file has, told by its first bytes and, where these say too little, by its name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Final, Literal, cast, get_args

from reprobox.errors import RecordError

Format = Literal[
    "keras",
    "keras-weights-h5",
    "keras-h5",
    "hdf5",
    "npz",
    "npy",
    "safetensors",
    "torch-zip",
    "torch-legacy",
    "tf-checkpoint",
    "onnx",
    "gguf",
    "pickle",
    "json",
    "csv",
    "parquet",
    "savedmodel",
]
"""A name that `detect_format` gives. `pickle` includes joblib; `keras-h5` is Keras's legacy HDF5 layout."""

FORMATS: Final[frozenset[str]] = frozenset(get_args(Format))

_HDF5_MAGIC: Final = b"\x89HDF\r\n\x1a\n"
_GGUF_MAGIC: Final = b"GGUF"
_TORCH_LEGACY_MAGIC: Final = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_TABLE_MAGIC: Final = bytes.fromhex("57fb808b247547db")
_TABLE_FOOTER_BYTES: Final = 48
_SUFFIXES: Final[dict[str, Format]] = {
    ".keras": "keras",
    ".npz": "npz",
    ".npy": "npy",
    ".safetensors": "safetensors",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".joblib": "pickle",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".onnx": "onnx",
}


def detect_format(path: str | os.PathLike[str]) -> Format | None:
    """Tell a file's format. Nothing in it is executed or unpickled.

    The content decides where it has a mark of its own. A file that is damaged behind its first bytes still
    has its format; reading it fails then.

    Args:
        path: A file, or a folder, which has a format only if it is a SavedModel. The file `saved_model.pb` stands for
            its folder, and the index of a TensorFlow checkpoint for the files of data beside it.

    Returns:
        The format, or None where neither content nor name tells.

    Raises:
        RecordError: The path is missing or cannot be read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return "savedmodel" if (path / "saved_model.pb").is_file() else None
        if not path.is_file():
            raise RecordError(f"{path}: there is no such file")
        with path.open("rb") as file:
            return _detect(path, file)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror or error}") from error


def _detect(path: Path, file: BinaryIO) -> Format | None:
    size = os.fstat(file.fileno()).st_size
    head = file.read(16)
    by_name = _SUFFIXES.get(path.suffix.lower())
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _detect_zip(path) or (by_name if by_name in ("keras", "npz") else None)
    if _is_hdf5(file, size):
        from reprobox.records.models.reader import detect_in_child

        try:
            return cast(Format, detect_in_child(path))
        except RecordError:
            return _name_hdf5(path)
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PAR1"):
        return "parquet"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") + 8 <= size:
        return "safetensors"
    if head.startswith(_GGUF_MAGIC):
        return "gguf"
    if head.startswith(_TORCH_LEGACY_MAGIC):
        return "torch-legacy"
    if path.name == "saved_model.pb":
        return "savedmodel"
    if path.suffix == ".index" and size >= _TABLE_FOOTER_BYTES and _last_bytes(file, len(_TABLE_MAGIC)) == _TABLE_MAGIC:
        return "tf-checkpoint"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and _last_bytes(file, 1) == b".":
        return "pickle"  # PROTO first, STOP last
    return by_name


def _last_bytes(file: BinaryIO, count: int) -> bytes:
    file.seek(-count, os.SEEK_END)
    return file.read(count)


def _is_hdf5(file: BinaryIO, size: int) -> bool:
    """The signature stands at byte 0, or behind a block of the user's own, at 512, 1024, 2048, …"""
    offset = 0
    while offset < size:
        file.seek(offset)
        if file.read(8) == _HDF5_MAGIC:
            return True
        offset = offset * 2 or 512
    return False


def _detect_zip(path: Path) -> Format | None:
    from reprobox.records.models.zip import open_zip

    try:
        with open_zip(path) as archive:
            names = archive.namelist()
    except RecordError:
        return None
    if "config.json" in names and {"model.weights.h5", "model.weights.npz"} & set(names):
        return "keras"
    if any(name.count("/") == 1 and name.endswith("/data.pkl") for name in names):
        return "torch-zip"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    return None


def detect_hdf5(path: Path) -> Format:
    """Tell Keras's HDF5 layouts from each other and from any other HDF5 file, in this process.

    Args:
        path: An HDF5 file.

    Returns:
        `keras-h5`, `keras-weights-h5` or `hdf5`; by its name where it is too damaged to tell.
    """
    from reprobox.records.models.hdf5 import list_child_groups, list_root_attributes, open_hdf5

    try:
        with open_hdf5(path) as hdf5:
            attributes = list_root_attributes(hdf5)
            groups = list_child_groups(hdf5, "")
            if {"model_config", "layer_names", "layer_names0"} & attributes or "model_weights" in groups:
                return "keras-h5"
            nested = (
                f"{group}/{child}"
                for group in ("layers", "_layer_checkpoint_dependencies")
                if group in groups
                for child in list_child_groups(hdf5, group)
            )
            if "vars" in groups or any("vars" in list_child_groups(hdf5, group) for group in nested):
                return "keras-weights-h5"
    except RecordError:
        pass
    return _name_hdf5(path)


def _name_hdf5(path: Path) -> Format:
    return "keras-weights-h5" if path.name.endswith(".weights.h5") else "hdf5"
