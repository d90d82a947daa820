"""The OpenSSF tool `model_signing` verifies what we sign, and signs the same itself."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reprobox.records.model_signing import choose_files, render_model_signature
from reprobox.records.signing_keys import make_private_key
from tests.unit.records.test_model_signing import FILES, KEY, make_outputs


def find_tool() -> str:
    """The tool, of the environment that the tests run in, or on PATH."""
    beside = Path(sys.executable).with_name("model_signing")
    found = str(beside) if beside.exists() else shutil.which("model_signing")
    if not found:
        pytest.skip("model_signing is not installed: pip install model-signing pyOpenSSL")
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model as a run would have made it, beside the halves of its key and the public one of another."""
    for path, data in FILES.items():
        (tmp_path / "outputs" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "outputs" / path).write_bytes(data)
    (tmp_path / "key.pem").write_bytes(KEY.render_pem(None))
    (tmp_path / "key.pub").write_text(KEY.public.pem)
    (tmp_path / "other.pub").write_text(make_private_key("ecdsa-p256").public.pem)
    return tmp_path


@pytest.mark.parametrize("model", [None, "sub", "model.keras"])
def test_the_tool_verifies_it(folder: Path, model: str | None) -> None:
    """It accepts all outputs, a folder of them, or one file; and refuses them altered, with one more, or by another key."""
    tool = find_tool()
    place = folder / "outputs" / (model or "")
    (folder / "model.sig").write_bytes(render_model_signature("m", choose_files(make_outputs(FILES), model), KEY))

    def verify(key: str = "key.pub") -> int:
        command = [tool, "verify", "key", str(place), "--signature", "model.sig", "--public_key", key]
        return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode

    assert verify() == 0
    assert verify("other.pub") != 0
    victim = place if place.is_file() else next(path for path in sorted(place.rglob("*")) if path.is_file())
    kept = victim.read_bytes()
    victim.write_bytes(kept + b"x")
    assert verify() != 0
    victim.write_bytes(kept)
    if place.is_dir():
        (place / "more.txt").write_text("more")
        assert verify() != 0
        (place / "more.txt").unlink()
    assert verify() == 0


@pytest.mark.parametrize("model", [None, "sub", "model.keras"])
def test_the_tool_signs_the_same(folder: Path, model: str | None) -> None:
    """Statement and bundle are those that the tool makes, but for the signature and the order of what is ignored."""
    place = folder / "outputs" / (model or "")
    command = [find_tool(), "sign", "key", str(place), "--signature", "model.sig", "--private_key", "key.pem"]
    subprocess.run(command, cwd=folder, capture_output=True, check=True)

    def read(data: bytes) -> tuple[Any, Any]:
        bundle = json.loads(data)
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"].pop("payload")))
        bundle["dsseEnvelope"]["signatures"][0].pop("sig")
        statement["predicate"]["serialization"]["ignore_paths"].sort()
        return bundle, statement

    ours = render_model_signature(place.name, choose_files(make_outputs(FILES), model), KEY)
    assert read(ours) == read((folder / "model.sig").read_bytes())
