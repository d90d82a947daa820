"""Small JSON files that a tool writes for itself: each appears whole, and one that is broken counts as none."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_note(path: Path) -> dict[str, Any] | None:
    """Read a note; None where there is none, or what is there is no JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_note(path: Path, value: Mapping[str, Any]) -> None:
    """Write a note whole or not at all, with its folder and with sorted keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    aside.write_text(json.dumps(value, sort_keys=True), encoding="utf-8")
    aside.replace(path)
