"""The recipe `table-v1/sha256`: the cells of a CSV file, row by row, whatever its line ends and quotes.

Cells are bytes as the file has them: no number is read, no text is decoded. The header is a row like the others.

Source: RFC 4180; https://docs.python.org/3/library/csv.html for what it leaves open.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TextIO

from reprobox.errors import ContentRefused
from reprobox.records.models.tensors import ContentDigest, reading

TABLE_RECIPE: Final = "table-v1/sha256"

_MAX_ROW_BYTES: Final = 4 << 20
_BATCH_BYTES: Final = 1 << 18
_SHORT: Final = 64
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_WIDE: Final = (b"\xff\xfe", b"\xfe\xff")


def digest_table(path: Path) -> ContentDigest:
    """Hash a CSV file by its cells.

    Args:
        path: The file. Cells are separated by commas, or by tabs where its name ends with `.tsv`.

    Returns:
        The digest under the recipe `table-v1/sha256`.

    Raises:
        RecordError: The file cannot be read.
        ContentRefused: Its quotes do not pair, a row has more than 4 MiB or a cell more than 128 KiB, or it is UTF-16.
    """
    state = hashlib.sha256(b"reprobox table-v1\n")
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    with reading(path, "a file"):
        start = _find_start(path)
        # Every byte is a character in Latin-1, so the cells come back as the bytes that they were.
        with path.open(encoding="latin-1", newline="") as text:
            text.seek(start)
            lines = _Lines(path, text)
            parts: list[str] = []
            batch_bytes = 0
            try:
                for row in csv.reader(lines, delimiter=separator, strict=True):
                    batch_bytes += lines.row_bytes
                    lines.row_bytes = 0
                    parts.append(_spell_length(len(row)))
                    for cell in row:
                        parts += (_LENGTHS[len(cell)] if len(cell) < _SHORT else _spell_length(len(cell)), cell)
                    if batch_bytes > _BATCH_BYTES:
                        state.update("".join(parts).encode("latin-1"))
                        parts.clear()
                        batch_bytes = 0
            except csv.Error as error:
                raise ContentRefused(path, f"it is no table of quoted cells: {error}") from error
    state.update("".join(parts).encode("latin-1"))
    return ContentDigest(recipe=TABLE_RECIPE, digest=state.hexdigest())


def _spell_length(length: int) -> str:
    """Eight bytes, as the characters that they are in Latin-1."""
    return length.to_bytes(8, "little").decode("latin-1")


_LENGTHS: Final = tuple(_spell_length(length) for length in range(_SHORT))


def _find_start(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(3)
    if head.startswith(_WIDE):
        raise ContentRefused(path, "it is a table in UTF-16")
    return len(head) if head == _BYTE_ORDER_MARK else 0


class _Lines:
    """The lines of a text, each with its end, as long as a row stays within its limit."""

    def __init__(self, path: Path, text: TextIO) -> None:
        self._path = path
        self._text = text
        self.row_bytes = 0
        """Bytes since the last row was complete; whoever takes the rows sets it back."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(_MAX_ROW_BYTES + 1)
        if not line:
            raise StopIteration
        self.row_bytes += len(line)
        if self.row_bytes > _MAX_ROW_BYTES:
            raise ContentRefused(self._path, f"a row of it has more than {_MAX_ROW_BYTES} bytes")
        return line
