"""What a model, array or metrics file holds, hashed so that its container does not matter.

Start at `detect_format`, then `examine_content`. Nothing is ever unpickled, imported or executed: formats
that would need that have no content digest here; they are for the run's own container.

`docs/formats/digest-v1.md` is the specification; change it first.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reprobox.errors import ContentRefused, RecordError
from reprobox.records.digests import digest_json
from reprobox.records.models_formats import FORMATS, Format, detect_format
from reprobox.records.models_tensors import (
    SLAB_BYTES,
    TENSORS_RECIPE,
    ContentDigest,
    Tensor,
    digest_tensors,
    reading,
    sort_tensors,
)

if TYPE_CHECKING:
    from zipfile import ZipFile

    from reprobox.records.models_hdf5_data import Hdf5

__all__ = [
    "FORMATS",
    "JSON_RECIPE",
    "TENSORS_RECIPE",
    "ContentDigest",
    "ContentRefused",
    "Format",
    "NoContent",
    "Tensor",
    "detect_format",
    "digest_content",
    "digest_tensors_of",
    "examine_content",
    "list_tensors",
]

JSON_RECIPE: Final = "json-v1/sha256"

_HDF5_FORMATS: Final = frozenset({"keras", "keras-weights-h5", "keras-h5", "hdf5"})
_MAX_JSON_BYTES: Final = 64 << 20
_KERAS_WEIGHTS: Final = "model.weights.h5"
_KERAS_ASSETS: Final = "assets/"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoContent:
    """A file has no content digest, which is no fault of the file.

    Attributes:
        reason: Why, as a clause.
    """

    reason: str


def digest_content(path: str | os.PathLike[str], format: str | None = None) -> ContentDigest | None:
    """Hash what a file holds.

    Args:
        path: The file.
        format: Its format, as `detect_format` names it; None detects it.

    Returns:
        The digest with its recipe, or None where the format or what is in it has none (`examine_content` says
        why).

    Raises:
        RecordError: The file cannot be read, is truncated, damaged, or not of this format.
    """
    content = examine_content(path, format)
    return content if isinstance(content, ContentDigest) else None


def examine_content(path: str | os.PathLike[str], format: str | None = None) -> ContentDigest | NoContent:
    """Hash what a file holds, or say why it has no content digest.

    Args:
        path: The file.
        format: Its format, as `detect_format` names it; None detects it.

    Returns:
        The digest with its recipe, or the reason why there is none.

    Raises:
        RecordError: The file cannot be read, is truncated, damaged, or not of this format.
    """
    path = Path(path)
    known = detect_format(path) if format is None else format
    try:
        if known == "json":
            return _digest_json_file(path)
        if known in _HDF5_FORMATS:
            from reprobox.records.models_reader import examine_in_child

            return examine_in_child(path, known)
        if known in _SOURCES:
            return digest_tensors_of(path, known)
    except ContentRefused as refused:
        return NoContent(reason=refused.reason)
    if known is None:
        return NoContent(reason="its format is unknown")
    if known == "pickle":
        return NoContent(reason="pickles are never loaded outside of a run's container")
    return NoContent(reason=f"there is no content recipe for {known}")


def digest_tensors_of(path: str | os.PathLike[str], format: str) -> ContentDigest:
    """Hash a file's tensors in this process.

    Args:
        path: The file. An HDF5 file that is not trusted is better left to `examine_content`, which survives a crash of
            the HDF5 library.
        format: Its format, one that holds tensors.

    Returns:
        The digest under the recipe `tensors-v1/sha256`.

    Raises:
        RecordError: The file cannot be read, is truncated, damaged, or not of this format.
        ContentRefused: It holds something that is not read, or the format holds no tensors.
    """
    return digest_tensors(list_tensors(path, format))


def list_tensors(path: str | os.PathLike[str], format: str) -> Iterator[Tensor]:
    """List a file's tensors in the order in which they are hashed, in this process.

    Args:
        path: The file; an HDF5 file that is not trusted is better left to `examine_content`.
        format: Its format, one that holds tensors.

    Returns:
        An iterator over the tensors by the UTF-8 bytes of their names. Each can be read until the next one is
        asked for; the file is closed after the last.

    Raises:
        RecordError: The file cannot be read, is truncated, damaged, or not of this format.
        ContentRefused: It holds something that is not read, or the format holds no tensors.
    """
    path = Path(path)
    if format not in _SOURCES:
        raise ContentRefused(path, f"{format} holds no tensors that are read here")
    with _SOURCES[format](path) as tensors:
        yield from sort_tensors(path, tensors)


@contextmanager
def _open_keras(path: Path) -> Iterator[list[Tensor]]:
    from reprobox.records.models_hdf5 import open_hdf5
    from reprobox.records.models_zip import open_member, open_zip

    with open_zip(path) as archive:
        if _KERAS_WEIGHTS not in archive.namelist():
            raise ContentRefused(path, f"it has no member {_KERAS_WEIGHTS}")
        with open_member(path, archive, _KERAS_WEIGHTS) as stream, open_hdf5(path, stream) as hdf5:
            yield _list_keras_weights(hdf5) + _list_assets(path, archive)


@contextmanager
def _open_keras_weights(path: Path) -> Iterator[list[Tensor]]:
    from reprobox.records.models_hdf5 import open_hdf5

    with open_hdf5(path) as hdf5:
        yield _list_keras_weights(hdf5)


@contextmanager
def _open_keras_legacy(path: Path) -> Iterator[list[Tensor]]:
    from reprobox.records.models_hdf5 import open_hdf5

    with open_hdf5(path) as hdf5:
        yield _list_legacy_weights(hdf5)


@contextmanager
def _open_hdf5(path: Path) -> Iterator[list[Tensor]]:
    from reprobox.records.models_hdf5 import list_datasets, open_hdf5

    with open_hdf5(path) as hdf5:
        yield list(list_datasets(hdf5).tensors)


def _open_npy(path: Path) -> AbstractContextManager[list[Tensor]]:
    from reprobox.records.models_numpy import open_npy

    return open_npy(path)


def _open_npz(path: Path) -> AbstractContextManager[list[Tensor]]:
    from reprobox.records.models_numpy import open_npz

    return open_npz(path)


def _open_safetensors(path: Path) -> AbstractContextManager[list[Tensor]]:
    from reprobox.records.models_safetensors import open_safetensors

    return open_safetensors(path)


_SOURCES: Final[dict[str, Callable[[Path], AbstractContextManager[list[Tensor]]]]] = {
    "keras": _open_keras,
    "keras-weights-h5": _open_keras_weights,
    "keras-h5": _open_keras_legacy,
    "hdf5": _open_hdf5,
    "npy": _open_npy,
    "npz": _open_npz,
    "safetensors": _open_safetensors,
}


def _list_keras_weights(hdf5: Hdf5) -> list[Tensor]:
    from reprobox.records.models_hdf5 import find_text_attribute, list_datasets
    from reprobox.records.models_keras import is_model_weight, name_weights

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
    from reprobox.records.models_hdf5 import list_datasets, list_text_attribute
    from reprobox.records.models_keras import TOP_LEVEL_WEIGHTS, LegacyLayer, name_legacy_weights

    listing = list_datasets(hdf5)
    tensors = {t.origin: t for t in listing.tensors if not t.origin.startswith("optimizer_weights/")}
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
        if info.filename.startswith(_KERAS_ASSETS) and not info.is_dir():

            def chunks(name: str = info.filename) -> Iterator[bytes]:
                from reprobox.records.models_zip import open_member

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


def _digest_json_file(path: Path) -> ContentDigest:
    """Hash a JSON document by its canonical spelling, NaN and the infinities as strings of these names.

    Only its name says that a file is JSON, so one that is not is no damaged file: it has no content digest.
    """
    with reading(path, "a file"):
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ContentRefused(path, f"it is a JSON document of more than {_MAX_JSON_BYTES} bytes")
        data = path.read_bytes()
    try:
        value = json.loads(
            data, parse_constant=str, parse_float=_parse_float, object_pairs_hook=partial(_require_unique, path)
        )
        return ContentDigest(recipe=JSON_RECIPE, digest=digest_json(value))
    except (ValueError, RecursionError, RecordError) as error:
        if isinstance(error, ContentRefused):
            raise
        raise ContentRefused(path, f"it is no JSON document that can be spelled in one way: {error}") from error


def _parse_float(text: str) -> float | str:
    value = float(text)
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _require_unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ContentRefused(path, "a key appears twice in one JSON object")
    return found
