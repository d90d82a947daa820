"""Figures of the proof: what determinism and the trail cost, how fast things are digested and checked."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from commands import BenchError, run_command
from figures import Figure
from ours import Ours, parse_document

_DIGEST_FILES = 8
_DIGEST_BYTES = 256 << 20
_CHECK_FILES = 10
_LARGE_BYTES = 10 << 30

# Both sides of a cost are counted in the container, by the program itself: what starts and collects it is the same.
_COUNTED = """
import resource as _resource
_used = _resource.getrusage(_resource.RUSAGE_SELF)
json.dump({"processor_s": _used.ru_utime + _used.ru_stime}, open("cost_metrics.json", "w"))
"""
_HASHLIB = """
import hashlib, sys
from concurrent.futures import ThreadPoolExecutor
def digest(name):
    state, buffer = hashlib.sha256(), bytearray(1 << 20)
    view = memoryview(buffer)
    with open(name, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            state.update(view[:count])
    return state.hexdigest()
with ThreadPoolExecutor(int(sys.argv[1])) as pool:
    print(*pool.map(digest, sys.argv[2:]), sep="\\n")
"""
_OURS = """
import sys
from reprobox.records.digests import digest_files
print(*(found.sha256 for found in digest_files(sys.argv[2:], int(sys.argv[1])).values()), sep="\\n")
"""
_MODEL_SIGNING = """
import sys
from model_signing.hashing import hash
for found in hash(sys.argv[1]).resource_descriptors():
    print(found.digest.digest_hex)
"""
_MANY = """
import json
for number in range({files}):
    with open(f"part-{{number}}.bin", "wb") as file:
        file.truncate({size} + number)
json.dump({{"parts": {files}}}, open("metrics.json", "w"))
"""


def cost_figures(ours: Ours, times: range, tell: Callable[..., None]) -> list[Figure]:
    """What `strict` costs over `off`, and what the trail costs: processor time of the digits training."""
    script = (ours.project / "train.py").read_text(encoding="utf-8")
    (ours.project / "counted.py").write_text(script + _COUNTED, encoding="utf-8")
    ways = {"whole": [], "strict": ["--no-trail"]}
    ways |= {level: ["--no-trail", "--determinism", level] for level in ("off", "seeded", "portable")}
    used: dict[str, list[float]] = {way: [] for way in ways}
    for number in times:
        for way, options in ways.items():
            cost = ours.run(["run", "--no-place", "--json", *options, "counted.py"], project=ours.project)
            used[way].append(float(parse_document(cost.stdout)["metrics"]["processor_s"]))
        tell("cost", number, *(values[-1] for values in used.values()))
    what = "processor time of the digits training"
    return [
        Figure(
            name="strict-cost",
            what=f"{what}, `strict`",
            beside="`off`",
            ours=tuple(used["strict"]),
            theirs=tuple(used["off"]),
            rule="share",
            aim=1.05,
            also={f"`{level}`_s": tuple(used[level]) for level in ("seeded", "portable")},
        ),
        Figure(
            name="trail-cost",
            what=f"{what}, `strict` with the trail",
            beside="`--no-trail`",
            ours=tuple(used["whole"]),
            theirs=tuple(used["strict"]),
            rule="share",
            aim=1.03,
        ),
    ]


def digest_figure(folder: Path, times: range, tell: Callable[..., None]) -> Figure:
    """Digest files with a thread for each processor; beside hashlib alone, and other programs.

    Raises:
        BenchError: Two of them disagree.
    """
    target = folder / "digest"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    files = []
    for number in range(_DIGEST_FILES):
        file = target / f"{number}.bin"
        with file.open("wb") as stream:
            for _ in range(_DIGEST_BYTES >> 24):
                stream.write(os.urandom(1 << 24))
        files.append(str(file))
    threads = str(len(os.sched_getaffinity(0)))
    commands = {
        "ours": [sys.executable, "-c", _OURS, threads, *files],
        "hashlib": [sys.executable, "-c", _HASHLIB, threads, *files],
        "hashlib, 1 thread": [sys.executable, "-c", _HASHLIB, "1", *files],
        "`sha256sum`": ["sha256sum", *files],
        "`openssl dgst`": ["openssl", "dgst", "-sha256", "-r", *files],
    }
    if importlib.util.find_spec("model_signing"):
        commands["`model_signing`"] = [sys.executable, "-c", _MODEL_SIGNING, str(target)]
    walls: dict[str, list[float]] = {name: [] for name in commands}
    for number in times:
        said = set()
        for name, argv in commands.items():
            cost = run_command(argv, environ=os.environ)
            walls[name].append(cost.wall_s)
            said.add(" ".join(line.split()[0] for line in cost.stdout.splitlines()))
        if len(said) != 1:
            raise BenchError("two programs found different digests of one file")
        tell("digest", number, walls["ours"][-1], walls["hashlib"][-1])
    shutil.rmtree(target)
    return Figure(
        name="digest",
        what=f"sha256 of {_DIGEST_FILES * _DIGEST_BYTES / 1e9:.2f} GB in {_DIGEST_FILES} files, {threads} threads",
        beside="hashlib in as many threads",
        ours=tuple(walls["ours"]),
        theirs=tuple(walls["hashlib"]),
        rule="share",
        aim=1 / 0.95,
        also={f"{name}_s": tuple(values) for name, values in walls.items() if name not in ("ours", "hashlib")},
    )


def check_figure(ours: Ours, times: range, tell: Callable[..., None]) -> Figure:
    """Check a run with outputs of 10 GB again; the files are sparse, so that it is hashing which is measured."""
    script = _MANY.format(files=_CHECK_FILES, size=_LARGE_BYTES // _CHECK_FILES)
    (ours.project / "many.py").write_text(script, encoding="utf-8")
    run = parse_document(ours.run(["run", "--no-place", "--json", "many.py"], project=ours.project).stdout)
    walls, peaks = [], []
    for number in times:
        cost = ours.run(["check", run["run"]], project=ours.project)
        walls.append(cost.wall_s)
        peaks.append(float(cost.peak_bytes))
        tell("check", number, cost.wall_s)
    size = sum(row["size_bytes"] for row in run["outputs"])
    return Figure(
        name="check",
        what=f"`reprobox check` of a run with {size / 1e9:.1f} GB of outputs, nothing changed",
        beside="",
        ours=tuple(walls),
        also={"peak memory_bytes": tuple(peaks)},
    )


def large_digest_figure(ours: Ours) -> Figure:
    """Digest a model of 10 GB, bytes and content."""
    file = ours.project / "large.safetensors"
    count = 40
    size = _LARGE_BYTES // count // 4 * 4
    header = {
        f"layer.{number}": {"dtype": "F32", "shape": [size // 4], "data_offsets": [number * size, (number + 1) * size]}
        for number in range(count)
    }
    text = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + count * size)
    cost = ours.run(["digest", "--json", file.name], project=ours.project)
    file.unlink()
    if parse_list(cost.stdout)[0]["content"] is None:
        raise BenchError("the large file was given no content digest")
    return Figure(
        name="large-digest",
        what="peak memory of `reprobox digest` of a safetensors file of 10 GB",
        beside="",
        unit="bytes",
        ours=(float(cost.peak_bytes),),
        aim=200e6,
        also={"time_s": (cost.wall_s,)},
    )


def parse_list(stdout: str) -> list[dict[str, object]]:
    """Parse the list that a command printed."""
    return list(json.loads(stdout))
