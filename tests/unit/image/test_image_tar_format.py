"""Headers of a tar: what a reader takes them for, and the very bytes of Python 3.11's own writer."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.image.tar_format import BLOCK, render_header

PATH = st.one_of(
    st.from_regex(r"[a-z0-9_./-]{1,150}", fullmatch=True).map(lambda text: text.strip("/") or "a"),
    st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=120),
    st.text("ab\udc80\udcff", min_size=1, max_size=8),
)
KINDS = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)


def theirs(path: str, kind: bytes, *, mode: int, mtime: int, size: int, link: str) -> bytes:
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.mtime, info.size, info.linkname = kind, mode, mtime, size, link
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the bytes of later versions may differ, ours may not")
@given(
    PATH, st.sampled_from(KINDS), st.sampled_from([0o755, 0o644, 0o1777]), st.integers(0, 8**12),
    st.integers(0, 8**12), PATH | st.just(""),
)  # fmt: skip
def test_the_bytes_are_those_of_the_library(
    path: str, kind: bytes, mode: int, mtime: int, size: int, link: str
) -> None:
    """Names and links of any length and character, sizes and times without a place in their fields."""
    row = {"mode": mode, "mtime": mtime, "size": size, "link": link}
    assert render_header(path, kind, **row) == theirs(path, kind, **row)


@given(PATH.filter(lambda path: not path.endswith("/")), st.sampled_from([0, 5, 512, 8**11]))
def test_a_reader_takes_them_for_what_they_are(path: str, size: int) -> None:
    """Whatever the version of Python: name, size, mode, time and owner are read back."""
    header = render_header(path, tarfile.REGTYPE, mode=0o644, mtime=1_700_000_000, size=size)
    assert len(header) % BLOCK == 0
    with tarfile.open(fileobj=io.BytesIO(header + bytes(1024)), errors="surrogateescape") as archive:
        member = archive.next()
    assert member is not None
    assert (member.name, member.size, member.mode, member.mtime) == (path, size, 0o644, 1_700_000_000)
    assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")


def test_the_bytes_may_change_on_purpose_alone() -> None:
    """One digest over headers of all kinds: another one is another layer format."""
    parts = [
        render_header("a", tarfile.REGTYPE, mode=0o755, mtime=1, size=3),
        render_header("a" * 101, tarfile.DIRTYPE, mode=0o755, mtime=2),
        render_header("é", tarfile.SYMTYPE, mode=0o777, mtime=3, link="b" * 200),
        render_header("b", tarfile.LNKTYPE, mode=0o644, mtime=8**11, size=8**11, link="a\udcff"),
    ]
    assert hashlib.sha256(b"".join(parts)).hexdigest() == PINNED


PINNED = "19b722cc7f9a43fb134a1a3a06bdc5183bef56afbcd06d0dd867dc8db39b8a2f"
