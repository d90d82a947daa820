"""One flipped bit anywhere in a tensor shows, in every format: 1,000 bits each. Too slow to be a unit test."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from reprobox.errors import RecordError
from reprobox.records.models.content import detect_format, digest_content, list_tensors

FIXTURES = Path(__file__).parents[1] / "unit" / "records" / "fixtures"

# The file that stands for a model, and the one in which its tensors lie.
MODELS = {
    "keras/m.keras": "",
    "keras/m.weights.h5": "",
    "keras/m.h5": "",
    "keras/export": "variables/variables.data-00000-of-00001",
    "keras/saved": "variables/variables.data-00000-of-00001",
    "keras/checkpoint/m.index": "m.data-00000-of-00001",
    "torch/plain.npz": "",
    "torch/alone.npy": "",
    "torch/views.safetensors": "",
    "torch/plain.pt": "",
    "torch/module.pt": "",
    "torch/legacy.pt": "",
    "onnx/raw.onnx": "",
    "onnx/external.onnx": "weights.bin",
    "gguf/plain.gguf": "",
    "gguf/quantised.gguf": "",
}


@pytest.mark.parametrize("name", MODELS)
def test_each_flipped_bit_shows(tmp_path: Path, name: str) -> None:
    """The digest is another one, or the file is damaged; the same digest never comes back."""
    shutil.copytree(FIXTURES, tmp_path, dirs_exist_ok=True)
    model = tmp_path / name
    folder = model if model.is_dir() else model.parent
    place = folder / MODELS[name] if MODELS[name] else model
    format = detect_format(model)
    assert format is not None
    before = digest_content(model, format)
    assert before is not None
    good, dice = place.read_bytes(), random.Random(name)
    pieces = [b"".join(map(bytes, tensor.chunks())) for tensor in list_tensors(model, format)]
    # What is transposed is not found, and what is short may be found elsewhere. `model.export` writes each variable
    # again at the end, which nobody reads.
    copies = 2 if name == "keras/export" else 1
    starts = [(good.index(piece), len(piece)) for piece in pieces if len(piece) >= 8 and good.count(piece) == copies]
    places = [start + step for start, length in starts for step in range(length)]
    assert len(places) * 3 > sum(map(len, pieces))
    for _ in range(1000):
        data = bytearray(good)
        data[dice.choice(places)] ^= 1 << dice.randrange(8)
        place.write_bytes(data)
        try:
            assert digest_content(model, format) != before
        except RecordError:
            continue


def test_each_flipped_bit_of_a_table_shows(tmp_path: Path) -> None:
    """The same of the cells of a CSV file, whose quotes a flip may break: then it has no digest."""
    good = (FIXTURES.parents[3] / "examples/digits/data/digits.csv").read_bytes()[:20_000]
    path = tmp_path / "x.csv"
    path.write_bytes(good)
    before, dice = digest_content(path), random.Random(3)
    assert before is not None
    places = [place for place, byte in enumerate(good) if byte not in b",\r\n"]
    for _ in range(1000):
        data = bytearray(good)
        data[dice.choice(places)] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
        assert digest_content(path) != before
