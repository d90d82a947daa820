"""Measure: one function a figure. What is compared is measured in turn, ours and theirs, within one run."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable

from commands import BenchError, Cost, run_command
from conda import CondaSide, changed_figure, link_figure, lock_figure
from engine import BENCH_LABEL, Engine
from figures import Figure
from image import ImageSide, large_figure, serve_registry, start_figure, write_figure
from ours import NAME, Ours, parse_document
from peer import CHANGED_IMAGE, IMAGE, PYTHON, Peer, render_requirements
from proof import check_figure, cost_figures, digest_figure, large_digest_figure

_SETTLE_S = 5
_IMPORT = "import time; t = time.perf_counter(); import tensorflow; print(time.perf_counter() - t)"
_SANDBOX = ("--network", "none", "--read-only", "--tmpfs", "/tmp", "--env", "HOME=/tmp", "--user", "1000:1000")


class Bench:
    """Both sides, and how often each figure is measured. Images are made when a figure first asks for them.

    Args:
        ours: Our side, its project made.
        peer: The Dockerfile, its base made.
        engine: Where the images are.
        wheel: The small wheel that changes.
        quick: Measure everything once.
        say: Told what is going on.
    """

    def __init__(
        self, ours: Ours, peer: Peer, engine: Engine, *, wheel: str, quick: bool, say: Callable[[str], None]
    ) -> None:
        self.ours = ours
        self.peer = peer
        self.engine = engine
        self.wheel = wheel
        self.say = say
        self._quick = quick
        self.requirements = render_requirements(ours.list_wheels())
        self._our_image = ""
        self._peer_ready = False

    def conda_side(self) -> CondaSide:
        """A project with a large conda environment."""
        return CondaSide(self.ours.folder / "conda", environ=os.environ, reprobox=self.ours.reprobox)

    def image_side(self) -> ImageSide:
        """A project with a committed environment, and a cache of its own."""
        return ImageSide(
            self.ours.folder / "image", environ=os.environ, reprobox=self.ours.reprobox, engine=self.engine
        )

    def times(self, count: int) -> range:
        """Repetitions: so many, or one."""
        return range(1 if self._quick else count)

    def tell(self, name: str, number: int, *walls_s: float) -> None:
        """Say what one repetition showed."""
        self.say(f"{name} {number + 1}: " + " beside ".join(f"{wall_s:.3f} s" for wall_s in walls_s))

    def build_ours_cold(self) -> Cost:
        """Build our image with nothing of builds before."""
        cost = self.ours.build_cold()
        self._our_image = _image_name(cost)
        return cost

    def build_peer_cold(self) -> Cost:
        """Build the Dockerfile with nothing of builds before."""
        self.peer.remove(IMAGE)
        self.engine.prune_build_cache()
        os.sync()
        cost = self.peer.build(self.requirements, IMAGE, fresh=True)
        self._peer_ready = True
        return cost

    def our_image(self) -> str:
        """Name of our image, in the engine."""
        if not self._our_image:
            self.say("preparing: our image (not measured)")
            self._our_image = _image_name(self.ours.build(self.ours.project))
        return self._our_image

    def peer_image(self) -> str:
        """Name of the Dockerfile's image, in the engine."""
        if not self._peer_ready and not self.peer.find_built(self.requirements):
            self.say("preparing: the Dockerfile's image (not measured)")
            self.build_peer_cold()
        self._peer_ready = True
        return IMAGE

    def settle(self) -> None:
        """Let what was written before reach the disk, so that no small measurement waits for it."""
        os.sync()
        time.sleep(0 if self._quick else _SETTLE_S)

    def run_in(self, image: str, command: list[str], *options: str) -> Cost:
        """Run a command in a container that is removed when it ends."""
        argv = [self.peer.docker, "run", "--rm", "--label", BENCH_LABEL, *options, image, *command]
        return run_command(argv, environ=os.environ)


def _image_name(cost: Cost) -> str:
    return f"reprobox/{NAME}:{parse_document(cost.stdout)['lock_digest'].removeprefix('sha256:')[:12]}"


def measure_cold_build(bench: Bench) -> Figure:
    """Build from nothing, downloads included, into the engine."""
    ours, theirs = [], []
    for number in bench.times(3):
        ours.append(bench.build_ours_cold())
        theirs.append(bench.build_peer_cold())
        bench.tell("cold-build", number, ours[-1].wall_s, theirs[-1].wall_s)
    return Figure(
        name="cold-build",
        what="cold build of digits-cpu, downloads included, into the engine",
        beside="`docker build` with pip, same wheels",
        ours=tuple(cost.wall_s for cost in ours),
        theirs=tuple(cost.wall_s for cost in theirs),
        rule="share",
        aim=0.5,
        also={
            "processor time of reprobox and its children_s": tuple(cost.cpu_s for cost in ours),
            "processor time of the whole machine, ours_s": tuple(cost.machine_cpu_s for cost in ours),
            "processor time of the whole machine, theirs_s": tuple(cost.machine_cpu_s for cost in theirs),
            "peak memory of the largest process of reprobox_bytes": tuple(float(cost.peak_bytes) for cost in ours),
        },
    )


def measure_cold_layout(bench: Bench) -> Figure:
    """Build from nothing, downloads included, to a folder that a node without an engine can use."""
    ours = [bench.ours.build_cold_layout() for _ in bench.times(3)]
    for number, cost in enumerate(ours):
        bench.tell("cold-layout", number, cost.wall_s)
    return Figure(
        name="cold-layout",
        what="cold build of digits-cpu, downloads included, to an OCI layout (no engine takes part)",
        beside="",
        ours=tuple(cost.wall_s for cost in ours),
    )


def measure_engine_load(bench: Bench) -> Figure:
    """Let the engine load the finished image: the part of a cold build that is the engine's own."""
    archive = bench.ours.write_archive()
    ours = []
    for number in bench.times(3):
        bench.ours.remove_images()
        bench.settle()
        ours.append(run_command([bench.peer.docker, "load", "--quiet", "--input", str(archive)], environ=os.environ))
        bench.tell("engine-load", number, ours[-1].wall_s)
    archive.unlink()
    return Figure(
        name="engine-load",
        what="the engine alone: `docker load` of the finished image",
        beside="",
        ours=tuple(cost.wall_s for cost in ours),
        also={"processor time of the whole machine_s": tuple(cost.machine_cpu_s for cost in ours)},
    )


def measure_build_again(bench: Bench) -> Figure:
    """Build again with nothing changed."""
    bench.our_image(), bench.peer_image()
    bench.settle()
    ours, theirs = [], []
    for number in bench.times(10):
        ours.append(bench.ours.build(bench.ours.project).wall_s)
        theirs.append(bench.peer.build(bench.requirements, IMAGE, fresh=False).wall_s)
        bench.tell("build-again", number, ours[-1], theirs[-1])
    return Figure(
        name="build-again",
        what="build again, nothing changed",
        beside="`docker build` again",
        ours=tuple(ours),
        theirs=tuple(theirs),
        aim=0.5,
    )


def measure_one_wheel(bench: Bench) -> Figure:
    """Build after one small wheel changed to an earlier version.

    Raises:
        BenchError: Another wheel changed with it.
    """
    bench.our_image(), bench.peer_image()
    before = bench.ours.list_wheels()
    kept = bench.engine.list_build_cache()
    lock, ours, theirs = [], [], []
    for number in bench.times(3):
        bench.ours.make_changed_project(bench.wheel)
        lock.append(bench.ours.lock(bench.ours.changed).wall_s)
        after = bench.ours.list_wheels(bench.ours.changed)
        moved = [row["name"] for row in after if row not in before]
        if moved != [bench.wheel] or len(after) != len(before):
            raise BenchError(f"asking for an earlier {bench.wheel} changed {', '.join(moved)}; name another wheel")
        cache = bench.ours.copy_cache()
        os.sync()
        cost = bench.ours.build(bench.ours.changed, cache=cache)
        bench.ours.remove_changed_image(cost)
        ours.append(cost.wall_s)
        os.sync()
        theirs.append(bench.peer.build(render_requirements(after), CHANGED_IMAGE, fresh=False).wall_s)
        bench.peer.remove(CHANGED_IMAGE)
        bench.engine.prune_build_cache(kept)
        bench.tell("one-wheel", number, ours[-1], theirs[-1])
    return Figure(
        name="one-wheel",
        what=f"build after one small wheel changed ({bench.wheel}, to the version before)",
        beside="`docker build`, same change",
        ours=tuple(ours),
        theirs=tuple(theirs),
        rule="share",
        aim=0.1,
        also={"`reprobox lock` before it_s": tuple(lock)},
    )


def measure_image_size(bench: Bench) -> Figure:
    """Ask the engine how large both images are."""
    sizes = []
    for name in (bench.our_image(), bench.peer_image()):
        found = bench.engine.find_image(name)
        if found is None:
            raise BenchError(f"the engine lost {name} during the bench; somebody removed it")
        sizes.append(float(found["Size"]))
    return Figure(
        name="image-size",
        what="image size, as `docker image inspect` says",
        beside="the Dockerfile's image",
        unit="bytes",
        ours=(sizes[0],),
        theirs=(sizes[1],),
        aim=1.8e9,
    )


def measure_run_empty(bench: Bench) -> Figure:
    """Run an empty script, recorded; beside a plain container of the same image."""
    image = bench.our_image()
    bench.settle()
    script = bench.ours.project / "empty.py"
    # Without a network, as reprobox runs it too.
    options = ("--network", "none", "-v", f"{script}:/work/empty.py:ro", "-w", "/work")
    ours, theirs = [], []
    # The first of each warms what both read.
    for number in range(-1, len(bench.times(12))):
        theirs.append(bench.run_in(image, ["python", "empty.py"], *options).wall_s)
        ours.append(bench.ours.run(["run", "empty.py"], project=bench.ours.project).wall_s)
        if number >= 0:
            bench.tell("run-empty", number, ours[-1], theirs[-1])
    return Figure(
        name="run-empty",
        what="`reprobox run` of an empty script",
        beside="`docker run --rm` of the same image and script",
        ours=tuple(ours[1:]),
        theirs=tuple(theirs[1:]),
        rule="difference",
        aim=0.3,
    )


def measure_help(bench: Bench) -> Figure:
    """Ask for help; beside the same interpreter doing nothing."""
    bench.settle()
    ours, theirs = [], []
    for number in range(-1, len(bench.times(20))):
        ours.append(bench.ours.run(["--help"], project=bench.ours.project).wall_s)
        theirs.append(run_command([sys.executable, "-c", "pass"], environ=os.environ).wall_s)
        if number >= 0:
            bench.tell("help", number, ours[-1], theirs[-1])
    return Figure(
        name="help",
        what="`reprobox --help`",
        beside="`python -c pass`, same interpreter",
        ours=tuple(ours[1:]),
        theirs=tuple(theirs[1:]),
        rule="difference",
        aim=0.15,
    )


def measure_import(bench: Bench) -> Figure:
    """Import TensorFlow in both images, measured inside the container, with a warm page cache."""
    images = {bench.our_image(): "python", bench.peer_image(): PYTHON}
    walls: dict[str, list[float]] = {image: [] for image in images}
    bench.settle()
    for number in range(-1, len(bench.times(10))):
        for image, python in images.items():
            walls[image].append(float(bench.run_in(image, [python, "-c", _IMPORT], *_SANDBOX).stdout))
        if number >= 0:
            bench.tell("import-tensorflow", number, *(walls[image][-1] for image in images))
    ours, theirs = walls.values()
    return Figure(
        name="import-tensorflow",
        what="`import tensorflow` in our image, container start excluded",
        beside="in the Dockerfile's image",
        ours=tuple(ours[1:]),
        theirs=tuple(theirs[1:]),
        rule="share",
        aim=1.0,
    )


def measure_train(bench: Bench) -> Figure:
    """Train the digits example, recorded."""
    bench.our_image()
    bench.settle()
    ours = []
    for number in bench.times(3):
        ours.append(bench.ours.run(["run", "train.py"], project=bench.ours.project).wall_s)
        bench.tell("train", number, ours[-1])
    return Figure(name="train", what="`reprobox run train.py` of examples/digits", beside="", ours=tuple(ours))


def measure_conda_lock(bench: Bench) -> Figure:
    """Solve and lock a large conda environment."""
    side = bench.conda_side()
    with side.channel():
        costs = [side.lock() for _ in bench.times(5)]
    for number, cost in enumerate(costs):
        bench.tell("conda-lock", number, cost.wall_s)
    return lock_figure(costs, int(parse_document(costs[-1].stdout)["packages"]))


def measure_conda_layers(bench: Bench) -> Figure:
    """Turn conda packages into layers; beside py-rattler, which links them."""
    side = bench.conda_side()
    ours, theirs = [], []
    with side.channel():
        packages = int(parse_document(side.lock().stdout)["packages"])
        side.prepare()
        for number in bench.times(3):
            ours.append(side.link_layers())
            theirs.append(side.link_folder())
            bench.tell("conda-layers", number, ours[-1].wall_s, theirs[-1].wall_s)
    shutil.rmtree(side.folder)
    return link_figure(ours, theirs, packages)


def measure_tf_cuda_lock(bench: Bench) -> Figure:
    """Lock TensorFlow with CUDA from wheels."""
    bench.settle()
    costs = [bench.ours.lock_environment("tf-cuda") for _ in bench.times(5)]
    for number, cost in enumerate(costs):
        bench.tell("tf-cuda-lock", number, cost.wall_s)
    return Figure(
        name="tf-cuda-lock",
        what="lock envs/tf-cuda (TensorFlow with CUDA from wheels)",
        beside="",
        ours=tuple(cost.wall_s for cost in costs),
        also={"peak memory_bytes": tuple(float(cost.peak_bytes) for cost in costs)},
    )


def measure_conda_changed(bench: Bench) -> Figure:
    """Change one package of a large conda environment, and run in it."""
    side = bench.conda_side()
    with side.channel(), serve_registry(side.folder) as registry:
        packages = int(parse_document(side.lock().stdout)["packages"])
        side.run("build", "--json")
        side.run("push", f"{registry}:1", "--json")
        # Once: a second time everything would be there already.
        cost, moved = side.change_one(registry)
    bench.tell("conda-changed", 0, cost.wall_s)
    shutil.rmtree(side.folder)
    return changed_figure([cost], [moved], packages)


def measure_layer_write(bench: Bench) -> Figure:
    """Write a tree as a layer; beside tar."""
    return write_figure(bench.image_side(), len(bench.times(5)))


def measure_start(bench: Bench) -> list[Figure]:
    """From a lock to a container that ran; beside docker pull."""
    return start_figure(bench.image_side(), len(bench.times(3)), docker=bench.peer.docker)


def measure_large(bench: Bench) -> Figure:
    """Build a very large environment once; its peak memory."""
    return large_figure(bench.image_side())


def measure_cost(bench: Bench) -> list[Figure]:
    """What determinism and the trail cost."""
    bench.our_image()
    bench.settle()
    return cost_figures(bench.ours, bench.times(7), bench.tell)


def measure_digest(bench: Bench) -> Figure:
    """Digest files; beside hashlib."""
    return digest_figure(bench.ours.folder, bench.times(5), bench.tell)


def measure_check(bench: Bench) -> Figure:
    """Check a run with large outputs."""
    bench.our_image()
    return check_figure(bench.ours, bench.times(3), bench.tell)


def measure_large_digest(bench: Bench) -> Figure:
    """Digest a model of 10 GB; its peak memory."""
    return large_digest_figure(bench.ours)


MEASURES: dict[str, Callable[[Bench], Figure | list[Figure]]] = {
    "cold-build": measure_cold_build,
    "cold-layout": measure_cold_layout,
    "engine-load": measure_engine_load,
    "build-again": measure_build_again,
    "one-wheel": measure_one_wheel,
    "image-size": measure_image_size,
    "run-empty": measure_run_empty,
    "help": measure_help,
    "import-tensorflow": measure_import,
    "train": measure_train,
    "conda-lock": measure_conda_lock,
    "conda-layers": measure_conda_layers,
    "tf-cuda-lock": measure_tf_cuda_lock,
    "conda-changed": measure_conda_changed,
    "layer-write": measure_layer_write,
    "start": measure_start,
    "large": measure_large,
    "cost": measure_cost,
    "digest": measure_digest,
    "check": measure_check,
    "large-digest": measure_large_digest,
}
"""Name → how to measure it, in the order in which they are measured and shown."""
