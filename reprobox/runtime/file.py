"""The file of a checkpoint: a safetensors file with a digest of all that is in it.

docs/formats/rng-state-v1.md describes it. Written aside, flushed to the disk and renamed, so that its name means the
old state or the new, whatever happens.

Source: the layout of safetensors, https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from typing import Any

from reprobox.runtime.arrays import ITEM_BYTES, Array
from reprobox.runtime.errors import StateUnreadable

SCHEMA = "reprobox-checkpoint/1"
RECIPE = "rng-state-v1/sha256"
HEADER_LIMIT_BYTES = 100_000_000
"""What readers of safetensors accept at most."""

_ALIGNMENT = 8
_RECIPE_LINE = b"reprobox rng-state-v1\n"


def render_header(document: str, digest: str, arrays: Mapping[str, Array]) -> bytes:
    """Render the first part of a file: the header's length, and the header. Pure.

    Args:
        document: The JSON of everything that is no array.
        digest: What the digest is, or an empty text while it is being made.
        arrays: By name, in the order of their data.
    """
    metadata = {"schema": SCHEMA, "recipe": RECIPE, "digest": digest, "state": document}
    header: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for name, array in arrays.items():
        end = position + len(array.data)
        header[name] = {"dtype": array.dtype, "shape": list(array.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def digest_parts(header_without_digest: bytes, arrays: Mapping[str, Array]) -> str:
    """Digest a file's content. Pure.

    Args:
        header_without_digest: As `render_header` renders it with an empty digest.
        arrays: By name, in the order of their data.
    """
    digest = hashlib.sha256(_RECIPE_LINE + header_without_digest)
    for array in arrays.values():
        digest.update(array.data)
    return digest.hexdigest()


def write_file(path: Any, value: Any, arrays: Mapping[str, Array]) -> None:
    """Write a checkpoint in the place of the one that is there, if there is one.

    Args:
        path: Where; its folder is made if it is not there.
        value: Everything that is no array, as `json` can write it.
        arrays: By name.

    Raises:
        OSError: It cannot be written; what was there is there still.
    """
    path = os.fspath(path)
    folder, name = os.path.split(os.path.abspath(path))
    # Wide types first: readers that map the file want them aligned.
    order = sorted(arrays, key=lambda one: -ITEM_BYTES[arrays[one].dtype])
    ordered = {one: arrays[one] for one in order}
    document = json.dumps(value, separators=(",", ":"))
    header = render_header(document, digest_parts(render_header(document, "", ordered), ordered), ordered)
    os.makedirs(folder, exist_ok=True)
    aside = os.path.join(folder, "." + name + ".part")
    with open(aside, "wb") as stream:
        stream.write(header)
        for array in ordered.values():
            stream.write(array.data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(aside, os.path.join(folder, name))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(path: Any) -> tuple[Any, dict[str, Array]]:
    """Read a checkpoint and check all of it.

    Args:
        path: The file.

    Returns:
        What `write_file` was given; arrays without their kinds.

    Raises:
        StateUnreadable: It is cut, altered, or no checkpoint.
        OSError: It cannot be read, or is not there.
    """
    with open(path, "rb") as stream:
        data = memoryview(stream.read())
    try:
        (length,) = struct.unpack("<Q", data[:8])
        if length > HEADER_LIMIT_BYTES or len(data) < 8 + length:
            raise ValueError("it ends before its header does")
        header = json.loads(bytes(data[8 : 8 + length]).decode("ascii"))
        metadata = header.pop("__metadata__")
        if metadata["schema"] != SCHEMA:
            raise ValueError("its schema is {!r}, not {!r}".format(metadata["schema"], SCHEMA))
        arrays = _cut(header, data[8 + length :])
        wanted = digest_parts(render_header(metadata["state"], "", arrays), arrays)
        # The whole header is compared, so that no bit of it is free.
        if bytes(data[: 8 + length]) != render_header(metadata["state"], wanted, arrays):
            raise ValueError("its content does not have the digest that it names")
        return json.loads(metadata["state"]), arrays
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise StateUnreadable(
            f"{os.fspath(path)}: this is no whole checkpoint: {error}",
            hint="take an older checkpoint, or remove the file to start anew",
        ) from error


def _cut(header: Mapping[str, Any], data: memoryview) -> dict[str, Array]:
    """Cut the arrays out of the data; they follow each other without a gap and end where it ends."""
    arrays: dict[str, Array] = {}
    position = 0
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        shape: list[int] = entry["shape"]
        size = ITEM_BYTES[entry["dtype"]]
        for extent in shape:
            size *= extent
        if start != position or end - start != size or min([0, *shape]) < 0:
            raise ValueError(f"the place of {name} does not fit its shape")
        arrays[name] = Array("", None, entry["dtype"], tuple(shape), data[start:end])
        position = end
    if position != len(data):
        raise ValueError(f"{len(data)} bytes of arrays are there, and {position} were written")
    return arrays
