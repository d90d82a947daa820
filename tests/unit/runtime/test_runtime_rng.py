"""Random generators: what they draw after they were put back is what they drew before."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reprobox.runtime import StateError, StateMismatch, load_checkpoint, restore_rng_state, rng_state, save_checkpoint

BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
REPO = Path(__file__).resolve().parents[3]


def _make() -> dict[str, Any]:
    made: dict[str, Any] = {name: np.random.Generator(getattr(np.random, name)(5)) for name in BIT_GENERATORS}
    return {**made, "old": np.random.RandomState(5), "bits": np.random.PCG64(5), "python": random.Random(5)}


def _draw(generators: dict[str, Any]) -> list[Any]:
    drawn: list[Any] = [random.random(), random.gauss(0, 1), np.random.random(), np.random.randn()]
    for name, generator in generators.items():
        if name == "python":
            drawn += [generator.random(), generator.gauss(0, 1)]
        elif name == "bits":
            drawn.append(int(generator.random_raw()))
        else:
            drawn.append(float(generator.standard_normal()))
            # Half of a 64-bit number is kept for the next 32-bit one.
            drawn.append(int(generator.integers(9, dtype=np.uint32)) if name != "old" else int(generator.randint(9)))
    return drawn


@pytest.mark.parametrize("warm", [0, 1, 2, 7])
def test_what_is_drawn_afterwards(tmp_path: Path, warm: int) -> None:
    """All generators, the process's and given ones, go on as they did, from a file and in other objects; also between
    the two numbers that one call of `gauss` makes."""
    random.seed(1)
    np.random.seed(1)
    generators = _make()
    for _ in range(warm):
        _draw(generators)
    save_checkpoint(tmp_path / "c", generators=generators)
    kept = rng_state(generators)
    expected = [_draw(generators) for _ in range(3)]
    random.seed(99)
    np.random.seed(99)
    others = _make()
    load_checkpoint(tmp_path / "c", generators=others)
    assert [_draw(others) for _ in range(3)] == expected
    restore_rng_state(kept, others)
    assert [_draw(others) for _ in range(3)] == expected


def test_children_go_on_being_counted() -> None:
    """A generator spawns the children that it would have spawned; one of another seed that cannot is told."""
    first = np.random.default_rng(3)
    first.spawn(2)
    state = rng_state({"g": first})
    expected = first.spawn(1)[0].random()
    second = np.random.default_rng(3)
    restore_rng_state(state, {"g": second})
    assert second.spawn(1)[0].random() == expected
    with pytest.raises(StateMismatch, match="spawned"):
        restore_rng_state(state, {"g": np.random.default_rng(4)})


def test_generators_that_do_not_fit() -> None:
    """A generator that is missing, not saved, of another type or another algorithm is named; so is an unknown one."""
    state = rng_state({"g": np.random.default_rng(1)})
    for given, words in (
        ({}, "missing: g"),
        ({"g": np.random.default_rng(1), "h": random.Random(1)}, "not saved: h"),
        ({"g": random.Random(1)}, "was a numpy.Generator and is a random.Random"),
        ({"g": np.random.Generator(np.random.Philox(1))}, "drew from PCG64 and draws from Philox"),
    ):
        with pytest.raises(StateMismatch, match=words):
            restore_rng_state(state, given)
    for unknown in (random.SystemRandom(), object(), 5):
        with pytest.raises(StateError, match="whose state nobody knows"):
            rng_state({"x": unknown})


def _run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environ = {"PYTHONPATH": str(REPO), "PATH": os.environ["PATH"]}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environ, capture_output=True, text=True)


def test_nothing_is_imported_for_its_own_sake(tmp_path: Path) -> None:
    """Importing the room, and keeping the state of a program without NumPy, imports no NumPy and no other room."""
    code = (
        "import sys, random, reprobox.runtime as r\nr.save_checkpoint('c', values=[1, b'x', (2.5,)])\n"
        "print(r.load_checkpoint('c'), 'numpy' in sys.modules, "
        "sorted(m for m in sys.modules if m.startswith('reprobox.') and not m.startswith('reprobox.runtime')))"
    )
    done = _run(code, tmp_path)
    assert (done.stdout, done.stderr) == ("[1, b'x', (2.5,)] False []\n", "")


def test_a_module_that_is_not_there_yet(tmp_path: Path) -> None:
    """Restoring before NumPy is imported is refused: its import would seed it, and the state would be lost in silence."""
    save_checkpoint(tmp_path / "c")
    done = _run("import reprobox.runtime as r; r.load_checkpoint('c')", tmp_path)
    assert "StateMismatch: the state holds the generators of numpy, which is not imported" in done.stderr


def test_the_state_is_plain(tmp_path: Path) -> None:
    """A state can be kept among other values, which is what the callback and the loop do."""
    save_checkpoint(tmp_path / "c", values={"rng": rng_state({"g": random.Random(1)})})
    state = load_checkpoint(tmp_path / "c")["rng"]
    generator = random.Random(2)
    restore_rng_state(state, {"g": generator})
    assert generator.random() == random.Random(1).random()
    assert set(json.loads(json.dumps(list(state["process"])))) >= {"numpy", "random"}
