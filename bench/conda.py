"""The conda figures: a large environment from the tests' own channel, locked, and turned into layers.

Beside the layers stands py-rattler, which links the same packages into a folder. It is given the package files and an
empty cache, as we are; it compiles no bytecode, which we do for noarch packages.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from commands import Cost, run_command
from figures import Figure

REPOSITORY = Path(__file__).resolve().parent.parent
MANY = 300
_LINK = """\
import asyncio, glob, os, sys
from rattler import RepoDataRecord, install
async def main():
    files = sorted(glob.glob(sys.argv[1] + "/conda/*/*/*"))
    records = [await RepoDataRecord.from_package_archive(file) for file in files]
    await install(records, target_prefix=sys.argv[2], cache_dir=sys.argv[3], show_progress=False,
                  execute_link_scripts=False)
asyncio.run(main())
# All is on disk; its threads may outlive the interpreter, which aborts then.
os._exit(0)
"""
_ENVIRONMENT = """\
channels: [conda-forge]
dependencies: [python=3.11, many, versioned=1.0, tensorflow-cpu, scikit-learn, pandas, joblib]
"""


class CondaSide:
    """A project with a large conda environment.

    Args:
        folder: Where project, cache and mirror are made.
        environ: The process environment.
        reprobox: The command.
    """

    def __init__(self, folder: Path, *, environ: Mapping[str, str], reprobox: Path) -> None:
        self.folder = folder
        self._reprobox = str(reprobox)
        self.cache = folder / "cache"
        self._environ = {**environ, "REPROBOX_CACHE": str(self.cache)}

    @contextmanager
    def channel(self) -> Iterator[None]:
        """Serve the channel while it is needed; made once a machine, and not measured."""
        sys.path.insert(0, str(REPOSITORY))
        from tests.channel.build import default_cache, make_channel
        from tests.channel.server import serve

        made = make_channel(None, default_cache(), size="full", many=MANY)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        (self.folder / "environment.yml").write_text(_ENVIRONMENT, encoding="utf-8")
        with serve(made.root) as server:
            (self.folder / "reprobox.toml").write_text(f'[mirrors]\nconda = "{server.url()}"\n', encoding="utf-8")
            yield

    def run(self, *words: str) -> Cost:
        """Run a command of reprobox there."""
        return run_command([self._reprobox, *words], environ=self._environ, folder=self.folder)

    def lock(self) -> Cost:
        """Lock from nothing, with an empty cache of what channels say."""
        (self.folder / "reprobox.lock").unlink(missing_ok=True)
        shutil.rmtree(self.folder / "cache" / "repodata", ignore_errors=True)
        return self.run("lock", "--json")

    def prepare(self) -> None:
        """Have every package, the base's layer, and a folder with the packages; not measured."""
        self.run("build", "--no-load", "--json")
        self.run("mirror", "reprobox.lock", str(self.folder / "mirror"))

    def forget_conda_layers(self) -> None:
        """Remove every layer but those of the base, and the unpacked interpreter."""
        cache = self.folder / "cache"
        document = json.loads(self.run("build", "--no-load", "--json").stdout)
        count = [row["title"] for row in document["layers"]].index("skeleton")
        base = {diff_id.removeprefix("sha256:") for diff_id in document["diff_ids"][:count]}
        for note in (cache / "layers").iterdir():
            if json.loads(note.read_bytes())["diff_id"].removeprefix("sha256:") not in base:
                note.unlink()
        for blob in (cache / "blobs").iterdir():
            if blob.name not in base:
                blob.unlink()
        shutil.rmtree(cache / "images")
        for tree in (cache / "trees").glob("python-*"):
            shutil.rmtree(tree)
        os.sync()

    def link_layers(self) -> Cost:
        """Turn the packages into layers; the base's layer is there."""
        self.forget_conda_layers()
        return self.run("build", "--no-load", "--json")

    def change_one(self, registry: str) -> tuple[Cost, dict[str, float]]:
        """Change one package's version, and run something in the image; gives also what that moved, in bytes."""
        file = self.folder / "environment.yml"
        text = file.read_text(encoding="utf-8")
        whole = json.loads(self.run("push", f"{registry}:1", "--json").stdout)["skipped_bytes"]
        before = {blob.name for blob in (self.cache / "blobs").iterdir()}
        file.write_text(text.replace("versioned=1.0", "versioned=2.0"), encoding="utf-8")
        self.run("lock", "--json")
        os.sync()
        cost = self.run("run", "--no-place", "--", "true")
        new = sum(blob.stat().st_size for blob in (self.cache / "blobs").iterdir() if blob.name not in before)
        moved = json.loads(self.run("push", f"{registry}:2", "--json").stdout)["moved_bytes"]
        file.write_text(text, encoding="utf-8")
        self.run("lock", "--json")
        return cost, {"whole": float(whole), "moved": float(moved), "stored": float(new)}

    def link_folder(self) -> Cost:
        """Let py-rattler link the same packages into a folder."""
        for name in ("prefix", "rattler"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        os.sync()
        argv = [sys.executable, "-c", _LINK, *(str(self.folder / name) for name in ("mirror", "prefix", "rattler"))]
        return run_command(argv, environ=self._environ)


def lock_figure(costs: list[Cost], packages: int) -> Figure:
    """The figure of locking."""
    return Figure(
        name="conda-lock",
        what=f"solve and lock a conda environment of {packages} packages, empty cache",
        beside="",
        ours=tuple(cost.wall_s for cost in costs),
        also={"peak memory_bytes": tuple(float(cost.peak_bytes) for cost in costs)},
    )


def link_figure(ours: list[Cost], theirs: list[Cost], packages: int) -> Figure:
    """The figure of turning packages into layers."""
    return Figure(
        name="conda-layers",
        what=f"{packages} conda packages into layers, bytecode of noarch packages included",
        beside="py-rattler links them into a folder, empty cache, no bytecode",
        ours=tuple(cost.wall_s for cost in ours),
        theirs=tuple(cost.wall_s for cost in theirs),
        rule="share",
        aim=1.5,
        also={
            "peak memory of the largest process of reprobox_bytes": tuple(float(cost.peak_bytes) for cost in ours),
            "peak memory of py-rattler_bytes": tuple(float(cost.peak_bytes) for cost in theirs),
        },
    )


def changed_figure(costs: list[Cost], moved: list[dict[str, float]], packages: int) -> Figure:
    """The figure of one changed package among many."""
    return Figure(
        name="conda-changed",
        what=f"one of {packages} conda packages changed: from the new lock to a container that ran",
        beside="",
        ours=tuple(cost.wall_s for cost in costs),
        aim=5.0,
        also={
            "moved to a registry that has the image before_bytes": tuple(row["moved"] for row in moved),
            "more in the cache than for one of the two environments alone_bytes": tuple(row["stored"] for row in moved),
            "the whole image_bytes": tuple(row["whole"] for row in moved),
        },
    )
