"""The datasets of an HDF5 file, read with what an untrusted file could misuse turned away.

Only hard links are followed, so nothing outside the file is ever opened; virtual datasets, external storage
and filters that would have to be loaded are refused. Attributes are metadata and belong to no content digest.

Source: https://docs.hdfgroup.org/documentation/hdf5/latest/_f_m_t4.html
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from reprobox.errors import ContentRefused, RecordError
from reprobox.records.models.hdf5_data import Hdf5, describe_dataset
from reprobox.records.models.hdf5_heaps import require_sound_heaps
from reprobox.records.models.tensors import MAX_NAME_BYTES, MAX_TENSORS, Tensor, reading

MAX_DEPTH: Final = 100

_CHUNK_CACHE_BYTES: Final = 64 << 20
_MAX_EXPANSION: Final = 1032
_FREE_BYTES: Final = 1 << 30
"""A file may declare this much more than its size explains: fill values take no room in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hdf5Listing:
    """What a walk through an HDF5 file found.

    Attributes:
        tensors: One per dataset, its name and origin the path without a leading slash. In any order.
        groups: Paths of all groups, likewise; the root is the empty path.
    """

    tensors: tuple[Tensor, ...]
    groups: frozenset[str]


@contextmanager
def open_hdf5(path: Path, stream: BinaryIO | None = None) -> Iterator[Hdf5]:
    """Open an HDF5 file for reading.

    Args:
        path: The file, or the archive that it lies in.
        stream: Where its bytes come from, if not from `path`.

    Returns:
        A context manager that gives the open file.

    Raises:
        RecordError: It is no HDF5 file, or truncated.
    """
    import h5py

    with ExitStack() as stack:
        with reading(path, "HDF5"):
            raw = stream or stack.enter_context(path.open("rb"))
            size_bytes = raw.seek(0, os.SEEK_END)
            if stream is None:
                file = h5py.File(path, "r", driver="sec2", locking=False, rdcc_nbytes=_CHUNK_CACHE_BYTES)
            else:
                file = h5py.File(stream, "r", rdcc_nbytes=_CHUNK_CACHE_BYTES)
            stack.callback(file.close)
        yield Hdf5(path=path, file=file, raw=raw, size_bytes=size_bytes)


@contextmanager
def open_datasets(path: Path) -> Iterator[list[Tensor]]:
    """Open an HDF5 file of no known layout and list its datasets as tensors.

    Args:
        path: The file.

    Returns:
        A context manager that gives the tensors; they can be read inside it.

    Raises:
        RecordError: The file is truncated or damaged.
        ContentRefused: It has something that is not read.
    """
    with open_hdf5(path) as hdf5:
        yield list(list_datasets(hdf5).tensors)


def list_datasets(hdf5: Hdf5) -> Hdf5Listing:
    """Walk through an HDF5 file.

    Args:
        hdf5: The open file.

    Returns:
        All datasets and groups.

    Raises:
        ContentRefused: It has a link other than a hard one, a dataset that is virtual, stored elsewhere,
            filtered by a plugin or of a type without portable bytes, or more than the limits allow.
        RecordError: It is damaged.
    """
    with reading(hdf5.path, "HDF5"):
        require_sound_heaps(hdf5.raw)
        return _walk(hdf5)


def list_child_groups(hdf5: Hdf5, group: str) -> frozenset[str]:
    """List the groups directly in a group that hard links lead to.

    Args:
        hdf5: The open file.
        group: A group's path, reached by hard links; empty for the root.

    Returns:
        Their names.

    Raises:
        RecordError: The file is damaged.
    """
    from h5py import h5l, h5o

    with reading(hdf5.path, "HDF5"):
        parent = h5o.open(hdf5.file.id, group.encode("utf-8") or b"/")
        return frozenset(
            link.decode("utf-8")
            for link in parent
            if parent.links.get_info(link).type == h5l.TYPE_HARD and h5o.get_info(parent, link).type == h5o.TYPE_GROUP
        )


def list_root_attributes(hdf5: Hdf5) -> frozenset[str]:
    """List the names of the root's attributes.

    Args:
        hdf5: The open file.

    Returns:
        Their names.

    Raises:
        RecordError: The file is damaged.
    """
    with reading(hdf5.path, "HDF5"):
        return frozenset(hdf5.file.attrs)


def find_text_attribute(hdf5: Hdf5, group: str, name: str) -> str | None:
    """Read an attribute that holds one string.

    Args:
        hdf5: The open file.
        group: A group's path; empty for the root.
        name: The attribute's name.

    Returns:
        Its text; None where it is missing or no single string.

    Raises:
        RecordError: It is damaged.
    """
    with reading(hdf5.path, "HDF5"):
        attributes = hdf5.file[group or "/"].attrs
        if name not in attributes or attributes.get_id(name).shape != ():
            return None
        return _text(attributes[name])


def list_text_attribute(hdf5: Hdf5, group: str, name: str) -> list[str] | None:
    """Read an attribute that holds a list of strings, as Keras writes it.

    Args:
        hdf5: The open file.
        group: A group's path; empty for the root.
        name: The attribute's name. Where it is missing, `name0`, `name1`, … are joined: one attribute has at
            most 64 KiB.

    Returns:
        The strings in the order of the file; None where there is neither.

    Raises:
        RecordError: It is damaged, or holds something else.
    """
    with reading(hdf5.path, "HDF5"):
        attributes = hdf5.file[group or "/"].attrs
        if name in attributes:
            return _texts(attributes, name)
        if f"{name}0" not in attributes:
            return None
        joined: list[str] = []
        part = 0
        while f"{name}{part}" in attributes:
            joined += _texts(attributes, f"{name}{part}")
            part += 1
        return joined


def _texts(attributes: Any, name: str) -> list[str]:
    shape = attributes.get_id(name).shape
    if shape is None or len(shape) != 1 or shape[0] > MAX_TENSORS:
        raise ValueError(f"the attribute {name!r} is no list of names")
    texts = [_text(item) for item in attributes[name].tolist()]
    if None in texts:
        raise ValueError(f"the attribute {name!r} is no list of names")
    return [text for text in texts if text is not None]


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return str(value) if isinstance(value, str) else None


def _walk(hdf5: Hdf5) -> Hdf5Listing:
    from h5py import h5d, h5g, h5l, h5o

    path = hdf5.path
    tensors: list[Tensor] = []
    groups = {""}
    pending: list[tuple[bytes, int]] = [(b"", 0)]
    entries = 0
    declared = 0
    while pending:
        parent, depth = pending.pop()
        group = h5o.open(hdf5.file.id, parent or b"/")
        for link in group:
            entries += 1
            if entries > MAX_TENSORS or depth >= MAX_DEPTH:
                raise ContentRefused(path, f"it has over {MAX_TENSORS} entries or {MAX_DEPTH} levels of groups")
            child = parent + b"/" + link if parent else link
            name = _decode(path, link, child)
            if group.links.get_info(link).type != h5l.TYPE_HARD:
                raise ContentRefused(path, f"{name!r} is a soft, external or user-defined link, which is not followed")
            item = h5o.open(group, link)
            if isinstance(item, h5g.GroupID):
                groups.add(name)
                pending.append((child, depth + 1))
            elif isinstance(item, h5d.DatasetID):
                tensor, claimed = describe_dataset(hdf5, name, item)
                tensors.append(tensor)
                declared += claimed
    if declared > _FREE_BYTES + _MAX_EXPANSION * hdf5.size_bytes:
        raise ContentRefused(path, f"it declares {declared} bytes of data in {hdf5.size_bytes} bytes of file")
    return Hdf5Listing(tensors=tuple(tensors), groups=frozenset(groups))


def _decode(path: Path, link: bytes, child: bytes) -> str:
    if len(child) > MAX_NAME_BYTES:
        raise ContentRefused(path, f"the name {child[:40]!r}… is longer than {MAX_NAME_BYTES} bytes")
    if b"/" in link or link in (b"", b".", b".."):
        raise RecordError(f"{path}: {link!r} cannot be the name of a link")
    try:
        return child.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ContentRefused(path, f"the name {child[:40]!r} is no Unicode text") from error
