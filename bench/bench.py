"""Measure reprobox beside `docker build` and `docker run`, in one run, and write docs/benchmarks.md.

`make bench` runs it. What it makes (images, containers, a folder with project and cache) it removes again, also on
Ctrl-C; what others made it leaves alone.

Exit codes: 0 everything was measured, whether aims are met or not; 1 something could not be measured; 2 usage;
130 interrupted.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from commands import BenchError
from engine import BENCH_LABEL, Engine, EngineFailure
from figures import Figure
from machine import load_machine
from measures import MEASURES, Bench
from ours import Ours
from page import merge_results, render_page, render_results, render_rows
from peer import Peer

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "benchmarks.md"
RESULTS = REPOSITORY / "bench" / "results.json"


_WITHOUT_PEER = {
    "help", "run-empty", "train", "conda-lock", "conda-layers", "tf-cuda-lock", "conda-changed", "layer-write", "start",
    "large", "cost", "digest", "check", "large-digest",
}  # fmt: skip


def parse_arguments(words: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="bench/bench.py", description="Measure reprobox beside docker build and run.")
    parser.add_argument("--only", metavar="NAME[,NAME]", help="measure only these figures, and print them")
    parser.add_argument("--quick", action="store_true", help="measure everything once, and print it")
    parser.add_argument(
        "--write",
        action="store_true",
        help="write the page even with --only (other figures stay) or --quick",
    )
    parser.add_argument("--list", action="store_true", help="print the names of the figures")
    parser.add_argument("--keep", action="store_true", help="keep images and folder; the next run reuses them")
    parser.add_argument("--date", metavar="DATE", help="the date to write (default: today, in UTC)")
    parser.add_argument("--wheel", default="idna", metavar="NAME", help="the small wheel to change (default: idna)")
    parser.add_argument(
        "--pip", default="pip", metavar="REQUIREMENT", help="the Dockerfile's pip (default: the newest)"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("/var/tmp"), metavar="DIR", help="where to work, on a real disk (/var/tmp)"
    )
    arguments = parser.parse_args(words)
    names = arguments.only.split(",") if arguments.only else list(MEASURES)
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        parser.error(f"no figure is called {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    arguments.names = [name for name in MEASURES if name in names]
    return arguments


def say(text: str) -> None:
    """Tell a person something."""
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


@contextmanager
def open_folder(parent: Path) -> Iterator[Path]:
    """Hold the folder to work in; two benches at once would measure each other.

    Raises:
        BenchError: Another bench runs.
    """
    folder = parent / "reprobox-bench"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BenchError(f"another bench works in {folder}; wait for it") from None
        yield folder


def measure(arguments: argparse.Namespace, folder: Path) -> tuple[list[Figure], dict[str, str]]:
    """Measure the figures that were asked for, and clean up.

    Raises:
        BenchError: Something could not be measured.
        KeyboardInterrupt: Interrupted.
    """
    machine = load_machine()
    engine = Engine()
    reprobox = Path(sys.executable).with_name("reprobox")
    ours = Ours(REPOSITORY, folder, engine=engine, environ=os.environ, reprobox=reprobox)
    peer = Peer(folder / "peer", engine=engine, environ=os.environ, pip=arguments.pip)
    try:
        say("preparing: our project and its lock (not measured)")
        ours.make_project()
        pip = ""
        if set(arguments.names) - _WITHOUT_PEER:
            say("preparing: the image that the Dockerfile starts from (not measured)")
            pip = peer.make_base()
        bench = Bench(ours, peer, engine, wheel=arguments.wheel, quick=arguments.quick, say=say)
        figures: list[Figure] = []
        for name in arguments.names:
            found = MEASURES[name](bench)
            figures += found if isinstance(found, list) else [found]
    finally:
        if not arguments.keep:
            _clean(ours, engine, folder)
    machine |= {"engine": f"Docker {engine.version}, {engine.storage}", "`docker build`": peer.builder}
    if pip:
        machine["pip in the Dockerfile"] = pip
    return figures, machine


def _clean(ours: Ours, engine: Engine, folder: Path) -> None:
    """Remove what was made. A second Ctrl-C does not stop that half-way."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    say("removing what the bench made")
    try:
        engine.remove_containers()
        ours.remove_images()
        engine.remove_labelled(BENCH_LABEL)
        engine.prune_build_cache()
    except EngineFailure as error:
        say(f"the engine stopped answering, images may be left: {error}")
    shutil.rmtree(folder, ignore_errors=True)


def _interrupt(number: int, frame: object) -> None:
    del number, frame
    raise KeyboardInterrupt


def main() -> int:
    """Measure, print, write; returns the exit code."""
    arguments = parse_arguments(sys.argv[1:])
    if arguments.list:
        for name, function in MEASURES.items():
            print(f"{name:20}{(function.__doc__ or '').splitlines()[0]}")
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with open_folder(arguments.work) as folder:
            figures, machine = measure(arguments, folder)
    except (BenchError, *EngineFailure) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    for row in render_rows(figures):
        print("  |  ".join(row))
    for figure in figures:
        for name, values in figure.also.items():
            print(f"  {figure.name}: {name}: {', '.join(f'{value:.4g}' for value in values)}")
    date = arguments.date or datetime.now(UTC).date().isoformat()
    if arguments.write or not (arguments.only or arguments.quick):
        dates = {figure.name: date for figure in figures}
        if arguments.only and RESULTS.exists():
            figures, dates, machine = merge_results(RESULTS.read_text(encoding="utf-8"), figures, dates, machine)
        # The numbers first: they took minutes, and the page can be rendered again.
        RESULTS.write_text(render_results(figures, machine=machine, dates=dates), encoding="utf-8")
        page = render_page(figures, machine=machine, dates=dates, wheel=arguments.wheel)
        PAGE.write_text(page, encoding="utf-8")
        say(f"wrote {PAGE.relative_to(REPOSITORY)} and {RESULTS.relative_to(REPOSITORY)}")
    else:
        say("a part of the figures: nothing was written (--write writes all the same)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
