"""Train small models again and again, each time in another setting, and count how often the bits are the same.

    bench/determinism.py [--times N] [--level strict] [--env FOLDER] [NAME …]

Each repetition runs `tests/trainings/train.py` in a container with another project folder, on one processor or all,
with or without another load on the machine, and some with another hash seed. The seed stays: it is a part of a run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
NAMES = ("mlp", "cnn", "forest", "hgb", "kmeans", "linear")
LOAD = "x = 1\nwhile True: x = x * 3 % 1000003"
# Affinity is what programs see of a cpuset; the launcher narrows it before the training's Python starts.
LAUNCH = (
    "import os, sys; os.sched_setaffinity(0, set(map(int, sys.argv[1].split(',')))); "
    "os.execvp('python', ['python', *sys.argv[2:]])"
)


def main() -> int:
    """Run the repetitions and print a line for each model; the exit code is 10 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--level", default="strict")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--env", type=Path, default=REPO / "envs/digits-cpu", help="folder with environment.yml and lock"
    )
    given = parser.parse_args()
    different = 0
    for name in given.names:
        digests: dict[str, list[str]] = {}
        for repetition in range(given.times):
            setting = _setting(repetition)
            digests.setdefault(_train(name, given, **setting), []).append(_words(setting))
        groups = sorted(digests.values(), key=len, reverse=True)
        print(
            f"{name:8} {len(groups[0])} of {given.times} identical at {given.level}, {given.threads} threads",
            flush=True,
        )
        for others in groups[1:]:
            print(f"{'':8} other bits: {'; '.join(others)}", flush=True)
        different += len(groups) > 1
    return 10 if different else 0


def _setting(repetition: int) -> dict[str, object]:
    processors = sorted(os.sched_getaffinity(0))
    return {
        "processors": processors[:1] if repetition % 2 else processors,
        "hash_seed": None if repetition < 2 else 1000 + repetition,
        "load": repetition % 3 == 2,
    }


def _words(setting: dict[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in setting.items())


def _train(name: str, given: argparse.Namespace, *, processors: list[int], hash_seed: int | None, load: bool) -> str:
    busy = [subprocess.Popen([sys.executable, "-c", LOAD]) for _ in range(2)] if load else []
    try:
        with tempfile.TemporaryDirectory(prefix="reprobox-determinism-") as scratch:
            folder = Path(scratch)
            for file in ("environment.yml", "reprobox.lock"):
                shutil.copy(given.env / file, folder / file)
            shutil.copy(REPO / "tests/trainings/train.py", folder)
            shutil.copy(REPO / "examples/digits/data/digits.csv", folder)
            let_in = ["--env", f"PYTHONHASHSEED={hash_seed}"] if hash_seed is not None else []
            launch = ["python", "-c", LAUNCH, ",".join(map(str, processors)), "train.py", name, "out.npz"]
            command = [sys.executable, "-m", "reprobox", "run", "--json", "--determinism", given.level, *let_in]
            command += ["--threads", str(given.threads), "--", *launch]
            done = subprocess.run(
                command, cwd=folder, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(f"{name}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
            (output,) = [one for one in json.loads(done.stdout)["outputs"] if one["path"] == "out.npz"]
            return str(output["content"]["digest"])
    finally:
        for process in busy:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
