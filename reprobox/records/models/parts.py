"""What a model file holds besides its weights: its architecture, and the state of its optimizer.

Only Keras's own files say either in a way that can be read without Keras. `docs/formats/digest-v1.md` is the
specification; change it first.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from reprobox.errors import ContentRefused, RecordError
from reprobox.records.digests import canonical_json
from reprobox.records.models.keras import rename_layers
from reprobox.records.models.tensors import ContentDigest, Tensor, digest_tensors, reading, sort_tensors

Part = Literal["content", "architecture", "optimizer"]

ARCHITECTURE_RECIPE: Final = "architecture-v1/sha256"
OPTIMIZER_RECIPE: Final = "optimizer-v1/sha256"

HAVE_PARTS: Final = frozenset({"keras", "keras-weights-h5", "keras-h5"})
"""Formats that may have an architecture or an optimizer."""

_MAX_CONFIG_BYTES: Final = 64 << 20
_CONFIG: Final = "config.json"
# Not the architecture: identities of objects, what was learned from data or is about training.
_LEFT_OUT: Final = frozenset(
    {"shared_object_id", "compile_config", "build_config", "training_config", "build_input_shape"}
)
# `.h5` does not say of a layer where its class lies, `.keras` does.
_NAMELESS: Final = frozenset({"module", "registered_name"})
_TOP_LEVEL: Final = ("class_name", "config")


def digest_part(path: Path, format: str, part: Part) -> ContentDigest:
    """Hash one part of a file in this process.

    Args:
        path: The file.
        format: Its format.
        part: Which part.

    Returns:
        The digest under the part's recipe.

    Raises:
        RecordError: The file is truncated or damaged.
        ContentRefused: The file has no such part, or it is not read.
    """
    match part:
        case "content":
            from reprobox.records.models.content import digest_tensors_of

            return digest_tensors_of(path, format)
        case "architecture":
            return digest_architecture_of(path, format)
        case "optimizer":
            with _open_optimizer(path, format) as tensors:
                if not tensors:
                    raise ContentRefused(path, "it has no optimizer")
                return digest_tensors(sort_tensors(path, tensors), recipe=OPTIMIZER_RECIPE)


def digest_architecture_of(path: Path, format: str) -> ContentDigest:
    """Hash a Keras model's configuration.

    Args:
        path: The file.
        format: Its format.

    Returns:
        The digest under the recipe `architecture-v1/sha256`.

    Raises:
        RecordError: The file is truncated or damaged.
        ContentRefused: It has no configuration.
    """
    text = _read_config(path, format)
    with reading(path, "the configuration of a Keras model"):
        try:
            config = json.loads(text, parse_constant=str, parse_float=parse_json_float)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        if not isinstance(config, dict) or "config" not in config:
            raise ValueError("it is no configuration of a model")
    try:
        plain = normalise_architecture(config)
        return ContentDigest(recipe=ARCHITECTURE_RECIPE, digest=hashlib.sha256(canonical_json(plain)).hexdigest())
    except (RecursionError, RecordError) as error:
        raise RecordError(f"{path}: its configuration cannot be spelled in one way: {error}") from error


def parse_json_float(text: str) -> float | str:
    """Read a number of a JSON document, beyond the range of a double as the name of an infinity.

    Args:
        text: The number.

    Returns:
        Its value, `"Infinity"` or `"-Infinity"`.
    """
    value = float(text)
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def normalise_architecture(config: dict[str, Any]) -> Any:
    """Take out of a configuration what two files of one model do not share.

    Args:
        config: As `.keras` has it in `config.json`, and `.h5` in `model_config`.

    Returns:
        Class and configuration of the model, layers numbered anew.
    """
    stripped = _strip({key: config.get(key) for key in _TOP_LEVEL})
    return _rename(stripped, rename_layers(_list_names(stripped)))


def _strip(value: Any) -> Any:
    if isinstance(value, dict):
        left_out = _LEFT_OUT | _NAMELESS if "class_name" in value else _LEFT_OUT
        return {key: _strip(item) for key, item in value.items() if key not in left_out}
    if isinstance(value, list):
        return [_strip(item) for item in value]
    return value


def _list_names(value: Any) -> Iterator[str]:
    """The names of a model and its layers: what has a class and a configuration with a name."""
    if isinstance(value, dict):
        config = value.get("config")
        if "class_name" in value and isinstance(config, dict) and isinstance(config.get("name"), str):
            yield config["name"]
        for item in value.values():
            yield from _list_names(item)
    elif isinstance(value, list):
        for item in value:
            yield from _list_names(item)


def _rename(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _rename(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_rename(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def _read_config(path: Path, format: str) -> str:
    if format == "keras":
        from reprobox.records.models.zip import open_member, open_zip

        with open_zip(path) as archive:
            if _CONFIG not in archive.namelist():
                raise ContentRefused(path, f"it has no member {_CONFIG}")
            if archive.getinfo(_CONFIG).file_size > _MAX_CONFIG_BYTES:
                raise ContentRefused(path, f"its configuration has more than {_MAX_CONFIG_BYTES} bytes")
            with open_member(path, archive, _CONFIG) as stream, reading(path, "the configuration of a Keras model"):
                return stream.read().decode("utf-8")
    if format == "keras-h5":
        from reprobox.records.models.hdf5 import find_text_attribute, open_hdf5

        with open_hdf5(path) as hdf5:
            text = find_text_attribute(hdf5, "", "model_config")
        if text is not None:
            return text
    raise ContentRefused(path, "it has no configuration")


@contextmanager
def _open_optimizer(path: Path, format: str) -> Iterator[list[Tensor]]:
    from reprobox.records.models.hdf5 import open_hdf5
    from reprobox.records.models.keras_files import KERAS_WEIGHTS, list_legacy_optimizer, list_optimizer
    from reprobox.records.models.zip import open_member, open_zip

    with ExitStack() as stack:
        if format == "keras":
            archive = stack.enter_context(open_zip(path))
            if KERAS_WEIGHTS not in archive.namelist():
                raise ContentRefused(path, f"it has no member {KERAS_WEIGHTS}")
            stream = stack.enter_context(open_member(path, archive, KERAS_WEIGHTS))
            yield list_optimizer(stack.enter_context(open_hdf5(path, stream)))
        elif format == "keras-weights-h5":
            yield list_optimizer(stack.enter_context(open_hdf5(path)))
        elif format == "keras-h5":
            yield list_legacy_optimizer(stack.enter_context(open_hdf5(path)))
        else:
            raise ContentRefused(path, "its format has no optimizer that is read here")
