"""Protocol buffers, field by field, from a file that need not fit into memory. Pure but for reading the file.

There is no schema: a field is its number and its value. Whoever knows the message picks what it needs by number, and
fields that it does not know are passed over, as the format intends.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

MAX_FIELDS: Final = 50_000_000
"""How many fields one reader passes over before it gives the file up."""

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5
_WINDOW_BYTES: Final = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A part of the file: a message, text, bytes, or packed numbers.

    Attributes:
        start: Its first byte.
        end: The byte after its last.
    """

    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        """Its length."""
        return self.end - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a message.

    Attributes:
        number: Its number in the schema.
        value: The number that it holds: of a varint, or the bits of 32 or 64 fixed ones; 0 where it has a span.
        span: Where its bytes are. For a fixed number they are that number, little-endian.
        is_bytes: Whether it is a message, text, bytes or packed numbers.
    """

    number: int
    value: int
    span: Span
    is_bytes: bool


class ProtobufReader:
    """Messages in a file.

    Args:
        file: Where the bytes come from. Its position is free to change.
        size_bytes: Their number.
    """

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self.whole = Span(start=0, end=size_bytes)
        self._window = b""
        self._window_start = 0
        self._fields = 0

    def read_fields(self, span: Span) -> Iterator[Field]:
        """List the fields of a message, in the order of the file.

        Args:
            span: The message.

        Returns:
            An iterator over its fields.

        Raises:
            ValueError: They are damaged, or reach over the end of the message; or there are absurdly many.
        """
        position = span.start
        while position < span.end:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise ValueError(f"more than {MAX_FIELDS} fields")
            key, position = self._varint(position, span.end)
            number, kind = key >> 3, key & 7
            if number == 0:
                raise ValueError(f"a field without a number at byte {position}")
            value, start = 0, position
            if kind == _VARINT:
                value, end = self._varint(position, span.end)
            elif kind == _BYTES:
                length, start = self._varint(position, span.end)
                end = start + length
            elif kind in (_FIXED32, _FIXED64):
                end = start + (4 if kind == _FIXED32 else 8)
            else:
                raise ValueError(f"a field of the unknown kind {kind} at byte {position}")
            if end > span.end:
                raise ValueError(f"a field at byte {start} reaches over the end of its message")
            if kind in (_FIXED32, _FIXED64):
                value = int.from_bytes(self.read_bytes(Span(start=start, end=end)), "little")
            position = end
            yield Field(number=number, value=value, span=Span(start=start, end=end), is_bytes=kind == _BYTES)

    def read_varints(self, span: Span) -> Iterator[int]:
        """List packed variable-length numbers.

        Args:
            span: Where they lie.

        Returns:
            An iterator over them, unsigned 64-bit.

        Raises:
            ValueError: They are damaged.
        """
        position = span.start
        while position < span.end:
            value, position = self._varint(position, span.end)
            yield value

    def read_bytes(self, span: Span) -> bytes:
        """Read a part of the file.

        Args:
            span: Which.

        Returns:
            Its bytes.

        Raises:
            EOFError: The file ends before.
        """
        low = span.start - self._window_start
        if low >= 0 and low + span.size_bytes <= len(self._window):
            return self._window[low : low + span.size_bytes]
        if span.size_bytes <= _WINDOW_BYTES // 4:
            self._fill(span.start)
            data = self._window[: span.size_bytes]
        else:
            self._file.seek(span.start)
            data = self._file.read(span.size_bytes)
        if len(data) != span.size_bytes:
            raise EOFError(f"the file ends {span.size_bytes - len(data)} bytes too early")
        return data

    def read_text(self, span: Span, limit_bytes: int) -> str:
        """Read a text.

        Args:
            span: Where it lies.
            limit_bytes: How long it may be.

        Returns:
            The text.

        Raises:
            ValueError: It is longer, or no UTF-8.
        """
        if span.size_bytes > limit_bytes:
            raise ValueError(f"a text of {span.size_bytes} bytes at byte {span.start}")
        return self.read_bytes(span).decode("utf-8")

    def _fill(self, position: int) -> None:
        self._file.seek(position)
        self._window = self._file.read(_WINDOW_BYTES)
        self._window_start = position

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        low = position - self._window_start
        if low < 0 or low + 10 > len(self._window):
            self._fill(position)
            low = 0
        value, position = parse_varint(self._window, low, min(len(self._window), end - self._window_start))
        return value, position + self._window_start


def parse_varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Read a number of variable length, unsigned and of at most 64 bits.

    Args:
        data: Bytes.
        position: Where it begins.
        end: Where it has to have ended.

    Returns:
        The number, and the position behind it.

    Raises:
        ValueError: It has no end, or more than 64 bits.
    """
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError(f"a number at byte {position} has no end")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                raise ValueError(f"a number at byte {position} has more than 64 bits")
            return value, position
    raise ValueError(f"a number at byte {position} has more than 64 bits")


def to_signed(value: int) -> int:
    """Read the 64 bits of a varint as two's complement, as int32 and int64 fields are stored.

    Args:
        value: Unsigned.

    Returns:
        Signed.
    """
    return value - (1 << 64) if value >> 63 else value
