"""The figures of images on their way: written, loaded, pulled, run, changed in one package, and a very large one."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from commands import BenchError, Cost, run_command
from engine import Engine
from figures import Figure

REPOSITORY = Path(__file__).resolve().parent.parent
_WRITE = """\
import os, sys
from reprobox.image.layers import LayerWriter
root = sys.argv[1]
with open(sys.argv[2], "wb") as out:
    writer = LayerWriter(out)
    for folder, names, files in os.walk(root):
        names.sort()
        for name in sorted(files):
            path = os.path.join(folder, name)
            found, place = os.lstat(path), os.path.relpath(path, root)
            if os.path.islink(path):
                writer.add_symlink(place, os.readlink(path), mtime=int(found.st_mtime))
            else:
                with open(path, "rb") as stream:
                    writer.add_file(place, stream, size=found.st_size, mtime=int(found.st_mtime))
    print(writer.finish().diff_id)
"""
_UNPACK = """\
import sys
from pathlib import Path
from reprobox.image.unpack import unpack_layers
unpack_layers([Path(p) for p in sys.argv[2:]], Path(sys.argv[1]), below="opt/env")
"""


class ImageSide:
    """A project with the environment `digits-cpu`, a cache of its own, and a registry on loopback.

    Args:
        folder: Where all of it is made.
        environ: The process environment.
        reprobox: The command.
        engine: The Docker engine.
    """

    def __init__(self, folder: Path, *, environ: Mapping[str, str], reprobox: Path, engine: Engine) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self._engine = engine
        self._reprobox = str(reprobox)
        self._environ = {**environ, "REPROBOX_CACHE": str(self.cache)}

    def make(self, environment: str = "digits-cpu") -> None:
        """Make the project from a committed environment."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name in ("environment.yml", "reprobox.lock"):
            shutil.copyfile(REPOSITORY / "envs" / environment / name, self.folder / name)

    def run(self, *words: str) -> Cost:
        """Run a command of reprobox there."""
        return run_command([self._reprobox, *words], environ=self._environ, folder=self.folder)

    def build(self) -> dict[str, object]:
        """Have all layers in the cache; not measured."""
        return dict(json.loads(self.run("build", "--no-load", "--json").stdout))

    def forget_image(self) -> None:
        """Remove the image from the engine."""
        digest = json.loads(self.run("lock", "--check", "--json").stdout)["lock_digest"]
        self._engine.remove_labelled(f"org.reprobox.lock={digest}")

    def forget_layers(self) -> None:
        """Remove all layers and what is unpacked from the cache; packages stay."""
        for name in ("layers", "blobs", "images", "trees", "engines"):
            shutil.rmtree(self.cache / name, ignore_errors=True)
        os.sync()

    def unpack(self) -> Path:
        """Unpack the environment into a folder; not measured."""
        document = self.build()
        blobs = [str(self.cache / "blobs" / str(d).removeprefix("sha256:")) for d in document["diff_ids"]]  # type: ignore[attr-defined]
        tree = self.folder / "tree"
        tree.mkdir()
        run_command([sys.executable, "-c", _UNPACK, str(tree), *blobs], environ=os.environ)
        return tree


@contextmanager
def serve_registry(folder: Path) -> Iterator[str]:
    """Run a registry on loopback while it is needed, beside a project, not in it; gives the name of a repository.

    Raises:
        BenchError: It is not installed.
    """
    program = shutil.which("docker-registry")
    if program is None:
        raise BenchError("docker-registry is not installed: apt-get install docker-registry")
    sys.path.insert(0, str(REPOSITORY))
    from tests import registry

    beside = folder.with_name(folder.name + "-registry")
    beside.mkdir(parents=True, exist_ok=True)
    try:
        with registry.serve_registry(program, beside) as address:
            yield f"{address}/bench"
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_figure(side: ImageSide, times: int) -> Figure:
    """Write a tree as a layer, hash included; beside `tar`, which hashes nothing."""
    side.make()
    tree = side.unpack()
    ours, theirs, summed = [], [], []
    for _ in range(times):
        for costs, argv in (
            (ours, [sys.executable, "-c", _WRITE, str(tree), str(side.folder / "ours.tar")]),
            (theirs, ["tar", "--sort=name", "-C", str(tree), "-cf", str(side.folder / "theirs.tar"), "."]),
            (summed, ["sha256sum", str(side.folder / "theirs.tar")]),
        ):
            os.sync()
            costs.append(run_command(argv, environ=os.environ).wall_s)
    files = sum(len(names) for _, _, names in os.walk(tree))
    size = (side.folder / "ours.tar").stat().st_size
    return Figure(
        name="layer-write",
        what=f"write {files} files ({size / 1e6:.0f} MB) as one layer, sha256 included",
        beside="`tar` of the same tree, without any hash",
        ours=tuple(ours),
        theirs=tuple(theirs),
        rule="share",
        aim=1.0,
        also={"`sha256sum` of that tar_s": tuple(summed)},
    )


def start_figure(side: ImageSide, times: int, *, docker: str) -> list[Figure]:
    """From a lock to a container that ran, with what the cache holds: layers, or packages alone."""
    side.make()
    side.build()
    with serve_registry(side.folder) as registry:
        side.run("push", f"{registry}:1", "--json")
        layers, pulled, rootfs, packages = [], [], [], []
        for _ in range(times):
            side.forget_image()
            os.sync()
            layers.append(side.run("run", "--no-place", "--", "true").wall_s)
            side.forget_image()
            os.sync()
            began = time.perf_counter()
            run_command([docker, "pull", "--quiet", f"{registry}:1"], environ=os.environ)
            run_command([docker, "run", "--rm", f"{registry}:1", "true"], environ=os.environ)
            pulled.append(time.perf_counter() - began)
            run_command([docker, "rmi", f"{registry}:1"], environ=os.environ)
            shutil.rmtree(side.cache / "engines", ignore_errors=True)
            os.sync()
            rootfs.append(side.run("run", "--no-place", "--engine", "charliecloud", "--", "true").wall_s)
        for _ in range(times):
            side.forget_image()
            side.forget_layers()
            packages.append(side.run("run", "--no-place", "--", "true").wall_s)
    beside = "`docker pull` of the same image from a registry on loopback, and `docker run`"
    return [
        Figure(
            name="start-layers",
            what="from a lock to a container that ran (digits-cpu, 1.8 GB): layers in the cache, nothing in Docker",
            beside=beside,
            ours=tuple(layers),
            theirs=tuple(pulled),
            rule="share",
            aim=1.0,
            also={"the same with charliecloud_s": tuple(rootfs)},
        ),
        Figure(
            name="start-packages",
            what="the same with packages in the cache and no layers",
            beside=beside,
            ours=tuple(packages),
            theirs=tuple(pulled),
            rule="share",
            aim=1.0,
        ),
    ]


def large_figure(side: ImageSide) -> Figure:
    """Build envs/tf-cuda, downloads included, to an OCI layout."""
    side.make("tf-cuda")
    cost = side.run("build", "--no-load", "--output", f"oci:{side.folder / 'layout'}", "--json")
    size = int(json.loads(cost.stdout)["size_bytes"])
    return Figure(
        name="large",
        what=f"peak memory of a build of envs/tf-cuda ({size / 1e9:.1f} GB) to an OCI layout, downloads included",
        beside="",
        unit="bytes",
        ours=(float(cost.peak_bytes),),
        aim=300e6,
        also={"time_s": (cost.wall_s,), "processor time_s": (cost.cpu_s,)},
    )
