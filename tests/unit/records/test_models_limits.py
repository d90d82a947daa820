"""However large a file is or claims to be, reading it stays within a few slabs of memory."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.unit.records.test_models_gguf import build
from tests.unit.records.test_models_gguf import tensor as gguf_tensor
from tests.unit.records.test_models_onnx import field, model
from tests.unit.records.test_models_onnx import tensor as onnx_tensor
from tests.unit.records.test_models_torch import FakeStorage, write
from tests.unit.records.test_models_torch import tensor as torch_tensor

LARGE = 128 << 20
PROGRAM = """
import resource, sys
from reprobox.errors import RecordError
from reprobox.records.models.content import ContentDigest, detect_format, examine_content
import numpy, zipfile, google_crc32c
from reprobox.records.models import gguf as models_gguf, onnx as models_onnx, tensorflow as models_tensorflow, torch as models_torch
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[1]),) * 2)
for path in sys.argv[2:]:
    try:
        content = examine_content(path)
        print("digest" if isinstance(content, ContentDigest) else content.reason)
    except RecordError as error:
        print(error.message)
"""


def examine(*paths: Path, memory_bytes: int = 100 << 20) -> list[str]:
    """Examine files in a process that may take so much memory for it."""
    shown = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(memory_bytes), *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout.splitlines()


def extend(path: Path, data: bytes, size: int = LARGE) -> Path:
    """Write a file and let it grow, without taking room on disk."""
    with path.open("wb") as file:
        file.write(data)
        file.truncate(len(data) + size)
    return path


def test_large_tensors_are_streamed(tmp_path: Path) -> None:
    """Tensors of 128 MiB in GGUF, ONNX, beside ONNX and in torch zip files: 100 MiB are enough.

    A transposed one is mapped from a temporary file, which takes addresses, and little memory at once.
    """
    gguf = extend(tmp_path / "x.gguf", build(gguf_tensor(b"a", (LARGE // 4,), 0, 0), data=b""))
    head = onnx_tensor(b"x", 1, (LARGE // 4,), b"\x4a" + _varint(LARGE))
    graph = b"\x2a" + _varint(len(head) + LARGE) + head
    onnx = extend(tmp_path / "x.onnx", b"\x3a" + _varint(len(graph) + LARGE) + graph)
    extend(tmp_path / "weights", b"")
    pair = field(13, field(1, b"location") + field(2, b"weights"))
    beside = tmp_path / "y.onnx"
    beside.write_bytes(model(onnx_tensor(b"x", 1, (LARGE // 4,), pair, field(14, 1))))
    torch = write(tmp_path / "x.pt", {"w": torch_tensor(FakeStorage("ByteStorage", "0", LARGE), 0, (LARGE,), (1,))}, {"0": bytes(LARGE)})  # fmt: skip
    side = 1 << 11
    turned = torch_tensor(FakeStorage("ByteStorage", "0", LARGE), 0, (side, LARGE // side), (1, side))
    transposed = write(tmp_path / "y.pt", {"w": turned}, {"0": bytes(LARGE)})
    assert examine(gguf, onnx, beside, torch) == ["digest"] * 4
    assert examine(transposed, memory_bytes=LARGE + (100 << 20)) == ["digest"]


def test_claims_are_not_believed(tmp_path: Path) -> None:
    """Sizes far beyond the file, in whatever field: an answer, without memory."""
    huge = 1 << 45
    names = []
    for name, data in {
        "a.gguf": build(gguf_tensor(b"a", (huge,), 0, 0)),
        "b.gguf": b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", huge),
        "a.onnx": b"\x3a" + _varint(huge),
        "b.onnx": model(onnx_tensor(b"x", 6, (huge,), field(5, b"\1" * 1000))),
        "c.onnx": model(onnx_tensor(b"x", 8, (huge,), field(6, b"a"))),
        "a.csv": b'"' + b"a\n" * (4 << 20),
    }.items():
        (tmp_path / name).write_bytes(data)
        names.append(tmp_path / name)
    with (
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a/data/0", "w") as file,
    ):
        for _ in range(150):
            file.write(bytes(1 << 20))
    with zipfile.ZipFile(tmp_path / "bomb.pt", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02]q\x00(" + b"h\x00" * 500_000 + b"e.")
        archive.write(tmp_path / "bomb.pt", "a/data/inner.pt")
    names.append(tmp_path / "bomb.pt")
    answers = examine(*names)
    assert len(answers) == len(names)
    assert "digest" not in answers, json.dumps(answers)


@pytest.mark.parametrize("depth", [1000, 200_000])
def test_nesting_does_not_exhaust_the_stack(tmp_path: Path, depth: int) -> None:
    """Tuples in tuples, as deep as a file can make them, are taken apart without recursion."""
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02N" + b"\x85" * depth + b".")
    (answer,) = examine(path)
    assert "levels deep" in answer


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
