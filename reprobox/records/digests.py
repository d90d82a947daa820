"""Digests of bytes: files, buffers, and JSON values in one canonical spelling.

A digest in a record always stands beside the name of its recipe. Here the recipe is `sha256` over the bytes
themselves, so that `sha256sum` on any machine finds the same; `models` has the recipes for content.

`docs/formats/digest-v1.md` is the specification; change it first.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NewType, TypeGuard

from reprobox.errors import ArtefactAltered, RecordError

Sha256 = NewType("Sha256", str)
"""64 lower-case hexadecimal digits. Make one with `parse_sha256` or one of the `digest_…` functions."""

SHA256_RECIPE: Final = "sha256"
"""The recipe name of a digest over plain bytes."""

_BUFFER_BYTES: Final = 1 << 20
_SHA256_TEXT: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    """What a file's bytes hash to, and how many there were.

    Attributes:
        sha256: Digest of all bytes, as `sha256sum` prints it.
        size_bytes: Number of bytes that went into it.
    """

    sha256: Sha256
    size_bytes: int


def is_digest(value: object) -> TypeGuard[str]:
    """Whether something is `sha256:` and 64 hex digits, and so may become the name of a file."""
    return isinstance(value, str) and re.fullmatch(r"sha256:[0-9a-f]{64}", value) is not None


def is_plain_path(path: str) -> bool:
    """Whether a path with slashes is relative, and names every folder on its way once, as it is."""
    return "\0" not in path and not {"", ".", ".."} & set(path.split("/"))


def parse_sha256(text: str) -> Sha256:
    """Check that a text is a sha256 in lower-case hexadecimal.

    Args:
        text: 64 characters, without a `sha256:` prefix.

    Returns:
        The same text.

    Raises:
        RecordError: The text has another length or other characters.
    """
    if not _SHA256_TEXT.fullmatch(text):
        raise RecordError(f"not a sha256 in lower-case hexadecimal: {text[:80]!r}")
    return Sha256(text)


def digest_bytes(data: bytes | bytearray | memoryview) -> Sha256:
    """Hash a buffer.

    Args:
        data: Any contiguous buffer.

    Returns:
        Its sha256.
    """
    return Sha256(hashlib.sha256(data).hexdigest())


def digest_file(path: str | os.PathLike[str]) -> FileDigest:
    """Hash a file, reading 1 MiB at a time.

    A symbolic link is followed. Size and digest belong together: both are of the bytes that were read, even
    where somebody appends to the file meanwhile. Hashing releases the GIL.

    Args:
        path: A regular file.

    Returns:
        Digest and size in bytes.

    Raises:
        RecordError: The path is missing, no regular file, or cannot be read.
    """
    try:
        # A FIFO would block and a device might never end, so look before opening.
        _require_regular(path, Path(path).stat())
        with Path(path).open("rb", buffering=0) as file:
            _require_regular(path, os.fstat(file.fileno()))
            return _digest_stream(file)
    except OSError as error:
        raise _unreadable(path, error) from error


def digest_files(paths: Iterable[str | os.PathLike[str]], workers: int | None = None) -> dict[Path, FileDigest]:
    """Hash many files, several at once.

    Args:
        paths: Regular files. One named twice is read once.
        workers: Threads, at least 1; None takes what `ThreadPoolExecutor` does by itself.

    Returns:
        Path → digest, in the order in which the paths were given.

    Raises:
        RecordError: A file is missing or cannot be read; with several such files, the first that was given.
    """
    unique = list(dict.fromkeys(Path(path) for path in paths))
    if workers == 1 or len(unique) <= 1:
        return {path: digest_file(path) for path in unique}
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="digest") as pool:
        futures = [pool.submit(digest_file, path) for path in unique]
        try:
            return {path: future.result() for path, future in zip(unique, futures, strict=True)}
        finally:
            for future in futures:
                future.cancel()


def require_file(path: str | os.PathLike[str], expected: str, *, size_bytes: int | None = None) -> FileDigest:
    """Check that a file still has the bytes that were recorded.

    Args:
        path: A regular file.
        expected: The recorded sha256.
        size_bytes: The recorded size; where it differs, the file is not even read.

    Returns:
        Digest and size, equal to what was expected.

    Raises:
        ArtefactAltered: Size or digest differ.
        RecordError: The file is missing or cannot be read, or `expected` is no sha256.
    """
    wanted = parse_sha256(expected)
    if size_bytes is not None:
        try:
            found = Path(path).stat()
        except OSError as error:
            raise _unreadable(path, error) from error
        if stat.S_ISREG(found.st_mode) and found.st_size != size_bytes:
            raise ArtefactAltered(f"{os.fspath(path)}: has {found.st_size} bytes, {size_bytes} bytes were recorded")
    actual = digest_file(path)
    if actual.sha256 != wanted:
        raise ArtefactAltered(
            f"{os.fspath(path)}: does not hash to what was recorded\n"
            f"  recorded sha256 {wanted}\n"
            f"  found    sha256 {actual.sha256}"
        )
    return actual


def canonical_json(value: object) -> bytes:
    r"""Spell a JSON value in the one way that is hashed and stored.

    Keys sorted by their UTF-8 bytes, no white space, UTF-8 without unneeded escapes, integers in full, floats
    as the shortest text that reads back to the same double (`1.0`, `-0.0`, `1e-07`). An integer and a float
    stay apart: 1 is not 1.0. NaN and the infinities are no JSON: where a metric may be one, the caller stores
    the string `"NaN"`, `"Infinity"` or `"-Infinity"` (`metrics.encode_metric` does).

    Args:
        value: None, bool, int, float, str, lists or tuples of such, and mappings from str to such.

    Returns:
        The spelling, without a final line break.

    Raises:
        RecordError: The value holds NaN, an infinity, a key that is no string, half a surrogate pair, or
            something that JSON has no word for; the message names its place as `$.outer.inner[3]`.

    Source:
        RFC 8785 for the idea. It differs in two places: numbers are spelled as Python spells them, and keys
        are sorted by code point.
    """
    try:
        plain = _plain(value, "$")
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
        return text.encode("utf-8")
    except RecursionError as error:
        raise _not_json("nested too deeply") from error
    except ValueError as error:
        raise _not_json(str(error)) from error


def digest_json(value: object) -> Sha256:
    """Hash a JSON value by its canonical spelling.

    Args:
        value: As `canonical_json` takes it.

    Returns:
        The sha256 of `canonical_json(value)`.

    Raises:
        RecordError: As `canonical_json` raises it.
    """
    return digest_bytes(canonical_json(value))


def _require_regular(path: str | os.PathLike[str], found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise RecordError(f"{os.fspath(path)}: is {kind}, only the bytes of a regular file can be hashed")


def _digest_stream(file: BinaryIO) -> FileDigest:
    state = hashlib.sha256()
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    size_bytes = 0
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        state.update(buffer[:count])
        size_bytes += count
    return FileDigest(sha256=Sha256(state.hexdigest()), size_bytes=size_bytes)


def _plain(value: object, place: str) -> object:
    """Rebuild a value from plain dicts and lists, refusing what JSON cannot say."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        _require_unicode(value, place)
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _not_json(f"{place} is {value}")
        return value
    if isinstance(value, Mapping):
        return {_key(key, place): _plain(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
    raise _not_json(f"{place} is of type {type(value).__name__}")


def _key(key: object, place: str) -> str:
    if not isinstance(key, str):
        raise _not_json(f"{place} has a key that is no string: {key!r}")
    _require_unicode(key, place)
    return key


def _require_unicode(text: str, place: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _not_json(f"{place} has half a surrogate pair") from error


def _not_json(reason: str) -> RecordError:
    return RecordError(f"cannot be written as canonical JSON: {reason}")


def _unreadable(path: str | os.PathLike[str], error: OSError) -> RecordError:
    return RecordError(f"{os.fspath(path)}: cannot be read: {error.strerror or error}")
