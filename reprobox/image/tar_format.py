"""The headers of a tar, written by hand: the bytes must not follow a library's version, and there are many of them.


What fits is a plain ustar header; a name, link or size that does not is preceded by a pax header that has it whole.
For the entries that layers hold these are the bytes that Python 3.11's tarfile writes in its PAX format, and tests
compare the two.

Source: POSIX.1-2017, pax: ustar interchange format, pax header block.
"""

from __future__ import annotations

BLOCK = 512
_LONGEST = 100
_LARGEST = 8**11 - 1
_LATEST = 8**11 - 1
_TAIL = b"ustar\x0000" + bytes(247)
"""Magic, version, names of owners, device numbers and prefix, padded to a block."""


def render_header(path: str, kind: bytes, *, mode: int, mtime: int, size: int = 0, link: str = "") -> bytes:
    """Render what stands before an entry's bytes.

    Args:
        path: Relative, without a trailing slash; surrogate escapes stand for bytes that are not UTF-8.
        kind: `tarfile`'s type: REGTYPE, DIRTYPE, SYMTYPE or LNKTYPE.
        mode: Permission bits.
        mtime: Seconds since the epoch; not negative.
        size: Bytes of a regular file.
        link: Target of a link.

    Returns:
        One block, or three and more where a value has no room in it.
    """
    # A directory's name ends in a slash, which counts.
    name = path + "/" if kind == b"5" and not path.endswith("/") else path
    records: dict[str, str] = {}
    name_field = _fit(name, "path", records)
    link_field = _fit(link, "linkpath", records)
    if size > _LARGEST:
        records["size"], size = str(size), 0
    if mtime > _LATEST:
        records["mtime"], mtime = str(mtime), 0
    header = _block(name_field, kind, mode=mode, mtime=mtime, size=size, link=link_field)
    return _pax(records) + header if records else header


def _fit(value: str, keyword: str, records: dict[str, str]) -> bytes:
    """Give a value as its field holds it, noting it whole where that is less."""
    try:
        plain = value.encode("ascii")
    except UnicodeEncodeError:
        records[keyword] = value
        return value.encode("ascii", "replace")[:_LONGEST]
    if len(plain) > _LONGEST:
        records[keyword] = value
    return plain[:_LONGEST]


def _block(name: bytes, kind: bytes, *, mode: int, mtime: int, size: int, link: bytes) -> bytes:
    """Render one header block, owner 0:0 without names."""
    start = b"%b%07o\x000000000\x000000000\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, size, mtime)
    end = kind + link.ljust(100, b"\0") + _TAIL
    # The sum counts its own field as blanks.
    return b"%b%06o\0 %b" % (start, sum(start) + sum(end) + 8 * 32, end)


def _pax(records: dict[str, str]) -> bytes:
    body = b"".join(_record(keyword, value) for keyword, value in records.items())
    if any("\udc80" <= character <= "\udcff" for value in records.values() for character in value):
        body = _record("hdrcharset", "BINARY") + body
    header = _block(b"././@PaxHeader", b"x", mode=0, mtime=0, size=len(body), link=b"")
    return header + body + bytes(-len(body) % BLOCK)


def _record(keyword: str, value: str) -> bytes:
    """Render one record: its own length in decimal, a blank, keyword=value and a line feed."""
    rest = f" {keyword}=".encode() + value.encode("utf-8", "surrogateescape") + b"\n"
    length = len(rest) + 1
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest
