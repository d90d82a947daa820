"""Our side: a project of its own, a cache of its own, and an image that shares no layer with any other.

An engine that holds an image of the same lock would lend its layers to a build that is meant to be cold. Those images
may be somebody's, so they stay; instead the bench's base leaves out one more folder of a few kilobytes. All layers lie
on the base, so none of them can be reused, and all else is the committed environment: its wheels are compared.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from commands import BenchError, Cost, run_command
from engine import LOCK_LABEL, Engine

ENVIRONMENT = "digits-cpu"
NAME = "bench-digits-cpu"
LEFT_OUT = "usr/lib/x86_64-linux-gnu/krb5/"
_BASE = "bench-base"
_PROJECT = f"""\
default = "{NAME}"

[env.{NAME}]
environment = "environment.yml"
base = "{_BASE}"

[run]
inputs = ["data/"]
"""

Document = dict[str, Any]


def parse_document(stdout: str) -> Document:
    """Parse the one JSON document that a command printed.

    Raises:
        BenchError: It is none.
    """
    try:
        document = json.loads(stdout)
    except json.JSONDecodeError:
        raise BenchError(f"reprobox printed no JSON document but {stdout[:200]!r}") from None
    return dict(document)


def render_changed(environment: str, *, wheel: str, version: str) -> str:
    """Render an environment file that wants an earlier version of one wheel. Pure."""
    document = yaml.safe_load(environment)
    section = next(row["pip"] for row in document["dependencies"] if isinstance(row, dict) and "pip" in row)
    section.append(f"{wheel}<{version}")
    return yaml.safe_dump(document, sort_keys=False)


class Ours:
    """The project to measure, and what is built from it.

    Args:
        repository: The checkout.
        folder: Where project and cache are made.
        engine: Where images are loaded.
        environ: The process environment.
        reprobox: The command.
    """

    def __init__(
        self, repository: Path, folder: Path, *, engine: Engine, environ: Mapping[str, str], reprobox: Path
    ) -> None:
        self._repository = repository
        self._folder = folder
        self._engine = engine
        self._environ = dict(environ)
        self._reprobox = str(reprobox)
        self.reprobox = reprobox
        self.folder = folder
        self._locks: set[str] = set()
        self.project = folder / "project"
        self.changed = folder / "changed"
        self.cache = folder / "cache"
        self._scratch = folder / "scratch"

    def make_project(self) -> None:
        """Write the project and lock it; not measured.

        Raises:
            BenchError: The lock came out with other wheels than the committed one.
        """
        source = self._repository / "envs" / ENVIRONMENT
        committed = _load_yaml(source / "reprobox.lock")
        base = self._repository / "dockerfiles" / committed["requested"]["base"]
        for folder in (self.project, self.changed):
            shutil.rmtree(folder, ignore_errors=True)
        target = self.project / "dockerfiles" / _BASE
        shutil.copytree(base, target)
        spec = _load_yaml(base / "base.yml")
        spec["omit"] = [*spec.get("omit", ()), LEFT_OUT]
        (target / "base.yml").write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
        example = self._repository / "examples" / "digits"
        shutil.copytree(example / "data", self.project / "data")
        shutil.copyfile(example / "train.py", self.project / "train.py")
        for name in ("environment.yml", "reprobox.lock"):
            shutil.copyfile(source / name, self.project / name)
        (self.project / "empty.py").write_text("", encoding="utf-8")
        (self.project / "reprobox.toml").write_text(_PROJECT, encoding="utf-8")
        self.lock(self.project)
        if self.list_wheels() != committed["wheels"]:
            raise BenchError("locking chose other wheels than the committed lock holds; lock envs/digits-cpu again")
        self._commit()

    def _commit(self) -> None:
        """Put the project under git, as most are: each run records its commit, and that takes time."""
        if shutil.which("git", path=self._environ.get("PATH")) is None:
            return
        git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "commit.gpgsign=false"]
        for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "bench"]):
            run_command([*git, *words], environ=self._environ, folder=self.project)

    def make_changed_project(self, wheel: str) -> None:
        """Write the project once more, asking for an earlier version of one wheel; not locked yet.

        Raises:
            BenchError: The committed lock has no such wheel.
        """
        versions = {row["name"]: row["version"] for row in self.list_wheels()}
        if wheel not in versions:
            raise BenchError(f"{wheel} is not in the lock of {ENVIRONMENT}; name another wheel to change")
        shutil.rmtree(self.changed, ignore_errors=True)
        shutil.copytree(self.project, self.changed, ignore=shutil.ignore_patterns(".reprobox", ".git"))
        text = (self.changed / "environment.yml").read_text(encoding="utf-8")
        text = render_changed(text, wheel=wheel, version=versions[wheel])
        (self.changed / "environment.yml").write_text(text, encoding="utf-8")

    def list_wheels(self, project: Path | None = None) -> list[Document]:
        """The wheels that a project is locked to."""
        return list(_load_yaml((project or self.project) / "reprobox.lock")["wheels"])

    def lock(self, project: Path) -> Cost:
        """Lock a project, keeping the versions that its lock holds."""
        cost = self.run(["lock", "--json"], project=project)
        self._locks.add(str(parse_document(cost.stdout)["lock_digest"]))
        return cost

    def lock_environment(self, name: str) -> Cost:
        """Lock a copy of a committed environment from nothing."""
        target = self._folder / "envs" / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        shutil.copyfile(self._repository / "envs" / name / "environment.yml", target / "environment.yml")
        return self.run(["lock", "--json"], project=target)

    def build_cold(self) -> Cost:
        """Build with an empty cache into an engine that holds none of the layers.

        Raises:
            BenchError: Something was reused after all.
        """
        self.remove_images()
        shutil.rmtree(self.cache, ignore_errors=True)
        present = self._engine.list_lowest_layers()
        os.sync()
        cost = self.run(["build", "--json"], project=self.project)
        document = parse_document(cost.stdout)
        if document["reused"] or document["diff_ids"][0] in present:
            raise BenchError("the build was not cold: the engine had its lowest layer already")
        return cost

    def build_cold_layout(self) -> Cost:
        """Build with an empty cache to an OCI layout; no engine takes part."""
        for folder in (self.cache, self._scratch):
            shutil.rmtree(folder, ignore_errors=True)
        os.sync()
        words = ["build", "--json", "--no-load", "--output", f"oci:{self._scratch}"]
        cost = self.run(words, project=self.project)
        shutil.rmtree(self._scratch)
        return cost

    def write_archive(self) -> Path:
        """Write the image as one file that the engine can load."""
        archive = self._folder / "image.tar"
        archive.unlink(missing_ok=True)
        self.run(["build", "--json", "--no-load", "--output", f"docker-archive:{archive}"], project=self.project)
        return archive

    def build(self, project: Path, *, cache: Path | None = None) -> Cost:
        """Build a project with what the cache holds."""
        return self.run(["build", "--json"], project=project, cache=cache)

    def copy_cache(self) -> Path:
        """Copy the cache by hard links, for one build that must not leave anything behind in it."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        shutil.copytree(self.cache, self._scratch, symlinks=True, copy_function=os.link)
        return self._scratch

    def run(self, words: Sequence[str], *, project: Path, cache: Path | None = None) -> Cost:
        """Run a command of reprobox in a project, with a cache of packages and of index answers of the bench's own."""
        cache = cache or self.cache
        environ = {**self._environ, "REPROBOX_CACHE": str(cache), "UV_CACHE_DIR": str(cache / "uv")}
        return run_command([self._reprobox, *words], environ=environ, folder=project)

    def remove_changed_image(self, cost: Cost) -> None:
        """Remove what a build of the changed project loaded into the engine."""
        self._engine.remove_labelled(f"{LOCK_LABEL}={parse_document(cost.stdout)['lock_digest']}")
        shutil.rmtree(self._scratch, ignore_errors=True)

    def remove_images(self) -> None:
        """Remove all images that the bench had reprobox make."""
        for digest in self._locks:
            self._engine.remove_labelled(f"{LOCK_LABEL}={digest}")


def _load_yaml(path: Path) -> Document:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))
