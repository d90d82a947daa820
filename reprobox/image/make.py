"""Make one planned layer from its packages, and the interpreters that compile for it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reprobox.env.bases import FlattenedBase
from reprobox.env.lockfile import LinkedFiles, Lock
from reprobox.image.cache import Cache, CachedLayer
from reprobox.image.conda import Linked, unpack_python, write_conda, write_conda_skeleton
from reprobox.image.debian import (
    Entry,
    extract_tree,
    load_packages,
    load_tree,
    render_system_files,
    require_plain_parents,
    write_tree,
)
from reprobox.image.interpreter import Interpreter, render_library_cache
from reprobox.image.layers import DiffId, LayerDigest, LayerWriter
from reprobox.image.places import PREFIX, site_packages
from reprobox.image.plan import LayerKey, LayerPlan, Package, base_key, base_python
from reprobox.image.unpack import unpack_layers


def list_packages(lock: Lock, missing: Sequence[LayerPlan], cache: Cache) -> list[Package]:
    """List the packages that are needed to make layers, the interpreter among them where it must be unpacked."""
    needs_base = any(plan.compiles for plan in missing)
    needs_python = lock.python_from == "conda" and any(plan.compiles and plan.kind != "base" for plan in missing)
    wanted: dict[str, Package] = {}
    # With the base unpacked and its layers written, nothing asks for its packages again.
    needs_all = any(plan.kind == "base" for plan in missing)
    if needs_all or (needs_base and cache.find_tree(base_key(lock)) is None):
        wanted |= {package.sha256: package for package in lock.debian}
        if lock.flattened is not None:
            wanted[lock.flattened.sha256] = lock.flattened
    if needs_python and cache.find_tree(_python_key(lock)) is None:
        wanted |= {package.sha256: package for package in lock.conda if package.name == "python"}
    for plan in missing:
        wanted |= {package.sha256: package for package in plan.packages}
    return list(wanted.values())


def _python_key(lock: Lock) -> LayerKey:
    """What the unpacked interpreter of a conda environment is called in the cache."""
    return LayerKey(next((f"python-{p.sha256}" for p in lock.conda if p.name == "python"), "python"))


@dataclass(frozen=True, kw_only=True)
class LayerMaker:
    """Makes the layers of one lock; used by several threads.

    Attributes:
        lock: The environment.
        cache: Where layers and unpacked interpreters are kept.
        packages: sha256 of each package → its file, ready at different times.
        workers: Compilers at once.
        check: Raises to give up.
        pool: One thread, which unpacks what the others wait for.
    """

    lock: Lock
    cache: Cache
    packages: Mapping[str, Future[Path]]
    workers: int
    check: Callable[[], None]
    pool: ThreadPoolExecutor
    _mutex: threading.RLock = field(default_factory=threading.RLock)
    _started: dict[str, Future[Any]] = field(default_factory=dict)

    @property
    def _base(self) -> Future[Path]:
        """The base, unpacked."""
        with self._mutex:
            if "base" not in self._started:
                self._started["base"] = self.pool.submit(self._unpack_base)
            return self._started["base"]

    @property
    def _interpreter(self) -> Future[Interpreter]:
        """The environment's interpreter: the base's, or that of its conda package."""
        with self._mutex:
            if "python" not in self._started:
                self._started["python"] = self.pool.submit(self._unpack_python, self._base)
            return self._started["python"]

    def make_layer(self, plan: LayerPlan) -> CachedLayer:
        """Make a layer and keep it.

        Raises:
            BuildError: A package cannot be unpacked.
            ArtefactAltered: A package does not hash to the lock.
        """
        linked = Linked()
        for package in plan.packages:
            self.packages[package.sha256].result()
        if plan.ready is not None:
            return self._keep_ready(plan, plan.ready)
        with self.cache.aside() as folder:
            part = folder / "layer.tar"
            with part.open("wb") as stream:
                writer = LayerWriter(stream, check=self.check)
                match plan.kind:
                    case "skeleton":
                        self._write_skeleton(writer)
                    case "debian":
                        self._write_debian(writer, plan)
                    case "base":
                        self._write_base(writer)
                    case "conda":
                        self._write_conda(writer, plan, folder, linked)
                    case "wheels":
                        self._write_wheels(writer, plan)
                digest = writer.finish()
            return self.cache.keep_layer(plan.key, digest, part, linked.to_extras())

    def _keep_ready(self, plan: LayerPlan, ready: FlattenedBase | LinkedFiles) -> CachedLayer:
        """Take what is locked as a layer for the layer that it is."""
        with self.cache.aside() as folder:
            shutil.copyfile(self.packages[ready.sha256].result(), folder / "layer.tar")
            diff_id = DiffId(f"sha256:{ready.sha256}")
            digest = LayerDigest(diff_id=diff_id, size_bytes=ready.size_bytes, files=ready.files)
            return self.cache.keep_layer(plan.key, digest, folder / "layer.tar")

    def _write_wheels(self, writer: LayerWriter, plan: LayerPlan) -> None:
        from reprobox.image.wheels import write_wheel

        python = self._interpreter.result()
        for wheel in plan.wheels:
            archive = self.packages[wheel.sha256].result()
            write_wheel(wheel, archive, writer=writer, python=self.lock.python, compile_sources=python.compile_sources)

    def _write_conda(self, writer: LayerWriter, plan: LayerPlan, folder: Path, linked: Linked) -> None:
        write_conda(
            [(package, self.packages[package.sha256].result()) for package in plan.conda],
            writer=writer,
            python=self.lock.python,
            scratch=folder,
            compile_sources=self._interpreter.result().compile_sources if plan.compiles else None,
            linked=linked,
        )

    def _unpack_base(self) -> Path:
        key = base_key(self.lock)
        found = self.cache.find_tree(key)
        if found:
            return found
        files = [(package, self.packages[package.sha256].result()) for package in self.lock.debian]
        with self.cache.aside() as folder:
            tree = folder / "tree"
            tree.mkdir()
            if self.lock.flattened is not None:
                unpack_layers([self.packages[self.lock.flattened.sha256].result()], tree, check=self.check)
                return self.cache.keep_tree(key, tree)
            extract_tree(load_tree(files, omit=self.lock.omit, keep=self.lock.keep), tree)
            render_library_cache(tree)
            return self.cache.keep_tree(key, tree)

    def _unpack_python(self, base: Future[Path]) -> Interpreter:
        tree = base.result()
        prefix: Path | None = None
        if self.lock.python_from == "conda":
            key = _python_key(self.lock)
            prefix = self.cache.find_tree(key)
            package = next(package for package in self.lock.conda if package.name == "python")
            if prefix is None:
                archive = self.packages[package.sha256].result()
                with self.cache.aside() as folder:
                    (folder / "tree").mkdir()
                    unpack_python(archive, package, folder / "tree")
                    prefix = self.cache.keep_tree(key, folder / "tree")
        return Interpreter(
            tree=tree, python=self.lock.python, platform=self.lock.platform, workers=self.workers, prefix=prefix
        )

    def _write_debian(self, writer: LayerWriter, plan: LayerPlan) -> None:
        """Write packages of the base, with the bytecode of the interpreter's library where they bring that."""
        files = [(package, self.packages[package.sha256].result()) for package in plan.debian]
        tree = load_packages(files, omit=self.lock.omit, keep=self.lock.keep)
        version = base_python(self.lock)
        if version is not None and plan.compiles:
            folder = self._base.result()
            python = Interpreter(tree=folder, python=version, platform=self.lock.platform, workers=self.workers)
            _compile_library(tree, python)
        write_tree(tree, writer)

    def _write_base(self, writer: LayerWriter) -> None:
        """Write what follows from all packages of the base together."""
        folder = self._base.result()
        files = [(package, self.packages[package.sha256].result()) for package in self.lock.debian]
        # Every one is held against all others here, whatever layers they are in.
        packages = load_packages(files, omit=self.lock.omit, keep=self.lock.keep)
        tree = render_system_files(packages)
        require_plain_parents({**packages, **tree})
        if self.lock.debian:
            tree["etc/ld.so.cache"] = Entry(kind="file", content=(folder / "etc/ld.so.cache").read_bytes())
        write_tree(tree, writer)

    def _write_skeleton(self, writer: LayerWriter) -> None:
        if self.lock.python_from == "conda":
            write_conda_skeleton(writer)
            return
        short = ".".join(self.lock.python.split(".")[:2])
        text = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {self.lock.python}\n".encode()
        writer.add_file(f"{PREFIX}/pyvenv.cfg", text, size=len(text))
        writer.add_symlink(f"{PREFIX}/bin/python", f"/usr/bin/python{short}")
        for name in ("python3", f"python{short}"):
            writer.add_symlink(f"{PREFIX}/bin/{name}", "python")
        writer.add_directory(site_packages(self.lock.python))


def _compile_library(tree: dict[str, Entry], python: Interpreter) -> None:
    """Add the bytecode of the base's standard library to its tree."""
    short = ".".join(python.python.split(".")[:2])
    library = f"usr/lib/python{short}/"
    sources = [
        path for path in sorted(tree) if path.startswith(library) and path.endswith(".py") and tree[path].kind == "file"
    ]
    tag = "cpython-" + short.replace(".", "")
    codes = python.compile_sources(python.tree, [(path, "/" + path) for path in sources])
    for path, code in zip(sources, codes, strict=True):
        if code is not None:
            parent, _, name = path.rpartition("/")
            tree[f"{parent}/__pycache__/{name[:-3]}.{tag}.pyc"] = Entry(kind="file", content=code)
