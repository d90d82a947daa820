"""Tables: which files are one table, and which are not."""

from __future__ import annotations

import csv
import hashlib
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprobox.records.models.content import ContentDigest, NoContent, examine_content


def table_digest(rows: list[list[bytes]]) -> str:
    """The recipe once more, from its specification."""
    data = b"reprobox table-v1\n"
    for row in rows:
        data += len(row).to_bytes(8, "little")
        for cell in row:
            data += len(cell).to_bytes(8, "little") + cell
    return hashlib.sha256(data).hexdigest()


def digest(folder: Path, data: bytes, name: str = "x.csv") -> str:
    (folder / name).write_bytes(data)
    content = examine_content(folder / name)
    assert isinstance(content, ContentDigest), content
    assert content.recipe == "table-v1/sha256"
    return content.digest


def test_line_ends_and_quotes_do_not_matter(tmp_path: Path) -> None:
    """One table however it is spelled: CRLF, a last line end, quotes, a byte order mark."""
    expected = table_digest([[b"a", b"b"], [b"1", "ü".encode()], [b'x"y', b"p,q"]])
    spellings = [
        'a,b\n1,ü\n"x""y","p,q"\n',
        'a,b\r\n1,ü\r\n"x""y","p,q"',
        '"a","b"\n"1","ü"\n"x""y","p,q"\n',
        '\ufeffa,b\n1,ü\n"x""y","p,q"\n',
    ]
    assert {digest(tmp_path, spelling.encode()) for spelling in spellings} == {expected}
    assert digest(tmp_path, b"a\tb,c\n", "x.tsv") == table_digest([[b"a", b"b,c"]])


def test_cells_and_their_order_matter(tmp_path: Path) -> None:
    """Rows in another order, another spelling of a number, blanks, an empty line, a cell more: other tables."""
    tables = [b"a,b\n1,2\n3,4\n", b"a,b\n3,4\n1,2\n", b"a,b\n1.0,2\n3,4\n", b"a,b\n1, 2\n3,4\n", b"a,b\n\n1,2\n3,4\n"]
    tables += [b"a,b\n1,2\n3,4,\n", b"a,b,1,2\n3,4\n", b"", b"\n", b'""\n', b"a,b\n1,2\n3,4\n\n"]
    assert len({digest(tmp_path, table) for table in tables}) == len(tables)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=6), min_size=1, max_size=4),
        max_size=6,
    ),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_a_writer_wrote_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], quoting: int, end: str
) -> None:
    """Whatever cells Python's own writer spells, they are the cells that are hashed."""
    path = tmp_path_factory.getbasetemp() / "any.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=quoting, lineterminator=end).writerows(rows)  # type: ignore[call-overload]
    written = path.read_bytes()
    if written.startswith(b"\xef\xbb\xbf"):
        return
    content = examine_content(path)
    assert isinstance(content, ContentDigest)
    assert content.digest == table_digest([[cell.encode() for cell in row] for row in rows])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'"a"b,c\n', "no table of quoted cells"),
        (b'"a,b\n1,2\n', "no table of quoted cells"),
        ("a,b\n".encode("utf-16"), "UTF-16"),
        (b"x" * (4 << 20) + b"\n", "a row of it"),
        (b'"\n",' * (2 << 20), "a row of it"),
        (b"x" * 140_000 + b"\n", "field larger"),
    ],
)
def test_what_is_no_table_has_no_digest(tmp_path: Path, data: bytes, reason: str) -> None:
    """Broken quotes, and rows and cells without an end, are refused with a reason."""
    (tmp_path / "x.csv").write_bytes(data)
    content = examine_content(tmp_path / "x.csv")
    assert isinstance(content, NoContent)
    assert reason in content.reason


def test_flips_are_noticed(tmp_path: Path) -> None:
    """100 bits flipped inside cells: none keeps the digest."""
    good = "\n".join(f"{number},{number / 7},name{number}" for number in range(200)).encode() + b"\n"
    before = digest(tmp_path, good)
    dice = random.Random(6)
    places = [place for place, byte in enumerate(good) if byte not in b",\n"]
    for _ in range(100):
        data = bytearray(good)
        data[dice.choice(places)] ^= 1 << dice.randrange(8)
        (tmp_path / "x.csv").write_bytes(data)
        content = examine_content(tmp_path / "x.csv")
        assert isinstance(content, NoContent) or content.digest != before
