"""What a model, array or metrics file holds, hashed so that its container does not matter.

Start at `detect_format`, then `examine_content`. Nothing is ever unpickled, imported or executed: formats
that would need that have no content digest here; they are for the run's own container.

`docs/formats/digest-v1.md` is the specification; change it first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from reprobox.errors import ContentRefused, RecordError
from reprobox.records.digests import digest_json
from reprobox.records.models.formats import FORMATS, Format, detect_format
from reprobox.records.models.parts import HAVE_PARTS, Part, parse_json_float
from reprobox.records.models.sources import HDF5_FORMATS, has_tensors, open_tensors
from reprobox.records.models.tensors import (
    TENSORS_RECIPE,
    ContentDigest,
    Tensor,
    digest_tensors,
    reading,
    sort_tensors,
)

__all__ = [
    "FORMATS",
    "HDF5_FORMATS",
    "JSON_RECIPE",
    "TENSORS_RECIPE",
    "ContentDigest",
    "ContentRefused",
    "Format",
    "NoContent",
    "Tensor",
    "detect_format",
    "digest_architecture",
    "digest_content",
    "digest_optimizer",
    "digest_tensors_of",
    "examine_content",
    "has_tensors",
    "list_companions",
    "list_tensors",
]

JSON_RECIPE: Final = "json-v1/sha256"

_MAX_JSON_BYTES: Final = 64 << 20


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
        if known in HDF5_FORMATS:
            from reprobox.records.models.reader import examine_in_child

            return examine_in_child(path, known)
        if known == "csv":
            from reprobox.records.models.csv import digest_table

            return digest_table(path)
        if known is not None and has_tensors(known):
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


def list_companions(path: str | os.PathLike[str], format: str | None = None) -> tuple[Path, ...]:
    """List the other files in which a file's content lies: of a checkpoint, a SavedModel, an ONNX model.

    Args:
        path: The file that stands for them all, or the folder of a SavedModel.
        format: Its format, as `detect_format` names it; None detects it.

    Returns:
        Their paths; nothing for a file that is complete by itself.

    Raises:
        RecordError: The file is damaged, or names others that are not there.
        ContentRefused: It names a file that is not below its folder.
    """
    path = Path(path)
    known = format or detect_format(path)
    if known in ("tf-checkpoint", "savedmodel"):
        from reprobox.records.models import tensorflow

        return tensorflow.list_companions(path, known)
    if known == "onnx":
        from reprobox.records.models.onnx import list_external_files

        return tuple(path.parent / name for name in list_external_files(path))
    return ()


def digest_architecture(path: str | os.PathLike[str], format: str | None = None) -> ContentDigest | None:
    """Hash the configuration of a Keras model: its layers and how they are joined, without weights.

    Args:
        path: The file.
        format: Its format, as `detect_format` names it; None detects it.

    Returns:
        The digest with its recipe, or None where the file has no configuration.

    Raises:
        RecordError: The file cannot be read, is truncated, damaged, or not of this format.
    """
    return _digest_part(Path(path), format, "architecture")


def digest_optimizer(path: str | os.PathLike[str], format: str | None = None) -> ContentDigest | None:
    """Hash the variables of a Keras model's optimizer.

    Args:
        path: The file.
        format: Its format, as `detect_format` names it; None detects it.

    Returns:
        The digest with its recipe, or None where the file has no optimizer.

    Raises:
        RecordError: The file cannot be read, is truncated, damaged, or not of this format.
    """
    return _digest_part(Path(path), format, "optimizer")


def _digest_part(path: Path, format: str | None, part: Part) -> ContentDigest | None:
    known = format or detect_format(path)
    if known not in HAVE_PARTS:
        return None
    from reprobox.records.models.reader import examine_in_child

    try:
        return examine_in_child(path, known, part)
    except ContentRefused:
        return None


def list_tensors(path: str | os.PathLike[str], format: str) -> Generator[Tensor, None, None]:
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
    if not has_tensors(format):
        raise ContentRefused(path, f"{format} holds no tensors that are read here")
    with open_tensors(path, format) as tensors:
        yield from sort_tensors(path, tensors)


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
            data, parse_constant=str, parse_float=parse_json_float, object_pairs_hook=partial(_require_unique, path)
        )
        return ContentDigest(recipe=JSON_RECIPE, digest=digest_json(value))
    except (ValueError, RecursionError, RecordError) as error:
        if isinstance(error, ContentRefused):
            raise
        raise ContentRefused(path, f"it is no JSON document that can be spelled in one way: {error}") from error


def _require_unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ContentRefused(path, "a key appears twice in one JSON object")
    return found
