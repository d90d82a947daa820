"""The tensors of TensorFlow's checkpoints and SavedModels.

Source: tensorflow/python/checkpoint/checkpoint.py, tensorflow/python/saved_model/save.py of TensorFlow 2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from reprobox.errors import ContentRefused
from reprobox.records.models.bundle import Bundle, count_shards, describe_entry, list_shards, open_bundle, read_strings
from reprobox.records.models.spans import read_span
from reprobox.records.models.tensors import MAX_TENSORS, Tensor, reading
from reprobox.records.models.tf_graph import OBJECT_GRAPH_KEY, parse_object_graph
from reprobox.records.models.tf_names import name_checkpoint
from reprobox.records.models.tf_scopes import SavedUse, read_saved_use

SAVED_MODEL: Final = "saved_model.pb"
"""The file that makes a folder a SavedModel, and stands for it."""

_VARIABLES: Final = Path("variables", "variables.index")
_ASSETS: Final = "assets"


@contextmanager
def open_checkpoint(path: Path) -> Iterator[list[Tensor]]:
    """Open a checkpoint and list its tensors.

    Args:
        path: Its index, `<prefix>.index`.

    Returns:
        A context manager that gives the tensors; they can be read inside it.

    Raises:
        RecordError: It is damaged, or a data file is missing.
        ContentRefused: It has something that is not read, or no tensors.
    """
    with open_bundle(path) as bundle:
        yield _list_tensors(path, bundle, None)


@contextmanager
def open_savedmodel(path: Path) -> Iterator[list[Tensor]]:
    """Open a SavedModel and list its variables, and its assets as tensors of bytes.

    Args:
        path: Its folder, or the file `saved_model.pb` in it.

    Returns:
        A context manager that gives the tensors; they can be read inside it.

    Raises:
        RecordError: It is damaged, or a file is missing.
        ContentRefused: It has no variables, or something that is not read.
    """
    folder = path if path.is_dir() else path.parent
    if not (folder / _VARIABLES).is_file():
        raise ContentRefused(path, f"it has no {_VARIABLES}")
    with reading(folder / SAVED_MODEL, "a SavedModel"):
        saved = read_saved_use(folder / SAVED_MODEL)
    with open_bundle(folder / _VARIABLES) as bundle:
        tensors = _list_tensors(path, bundle, saved)
        yield tensors + _list_assets(path, folder)


def list_companions(path: Path, format: str) -> tuple[Path, ...]:
    """List the other files that a file's content lies in.

    Args:
        path: The index of a checkpoint, a `saved_model.pb`, or the folder of a SavedModel.
        format: `tf-checkpoint` or `savedmodel`.

    Returns:
        Their paths. Whether all of them are there is not looked at.

    Raises:
        RecordError: An index is damaged.
    """
    if format == "tf-checkpoint":
        return list_shards(path, count_shards(path))
    folder = path if path.is_dir() else path.parent
    index = folder / _VARIABLES
    if not index.is_file():
        return ()
    return (index, *list_shards(index, count_shards(index)), *_find_assets(path, folder))


def _list_tensors(path: Path, bundle: Bundle, saved: SavedUse | None) -> list[Tensor]:
    keys = [key for key in bundle.entries if key != OBJECT_GRAPH_KEY]
    names = {key: key for key in keys}
    if OBJECT_GRAPH_KEY in bundle.entries:
        (graph, *more) = read_strings(bundle, OBJECT_GRAPH_KEY)
        with reading(path, "a TensorFlow checkpoint"):
            if more:
                raise ValueError("it has more than one graph of objects")
            nodes = parse_object_graph(graph)
            known = {attribute.key for node in nodes for attribute in node.attributes}
            missing = next((key for key in known if key not in bundle.entries), None)
            if missing is not None:
                raise ValueError(f"its graph of objects names {missing!r}, which is not there")
            # What no object owns was written by something else and is kept as it is.
            names = {key: key for key in keys if key not in known} | name_checkpoint(nodes, saved)
    if not names:
        raise ContentRefused(path, "it holds no variables")
    return [describe_entry(bundle, key, name) for key, name in names.items()]


def _find_assets(path: Path, folder: Path) -> list[Path]:
    found: list[Path] = []
    for parent, folders, files in os.walk(folder / _ASSETS):
        folders.sort()
        found += [Path(parent, name) for name in sorted(files)]
        if len(found) > MAX_TENSORS:
            raise ContentRefused(path, f"it has more than {MAX_TENSORS} assets")
    return found


def _list_assets(path: Path, folder: Path) -> list[Tensor]:
    """Vocabularies and the like, each file as a tensor of bytes, as in a `.keras` file."""
    tensors = []
    for place in _find_assets(path, folder):
        with reading(place, "a file"):
            if not place.is_file():
                raise ContentRefused(path, f"its asset {place.name!r} is no file")
            size = place.stat().st_size
        name = place.relative_to(folder).as_posix()

        def chunks(place: Path = place, size: int = size) -> Iterator[bytes | memoryview]:
            with reading(place, "a file"), place.open("rb") as file:
                yield from read_span(place, file, 0, size, "a file")()

        tensors.append(Tensor(name=name, dtype="uint8", shape=(size,), nbytes=size, chunks=chunks, origin=name))
    return tensors
