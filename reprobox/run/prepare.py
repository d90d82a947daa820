"""Bring an environment to where it can run: environment file → lock → layers → engine."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from reprobox.engines.base import Engine
from reprobox.env.bases import (
    BaseSpec,
    DebianPackage,
    find_base_folder,
    load_base,
    load_base_lock,
    write_base_lock,
)
from reprobox.env.client import Client
from reprobox.env.lockfile import (
    LAYER_FORMAT,
    Lock,
    parse_lock,
    render_lock,
    render_requested,
    require_fresh,
)
from reprobox.env.project import EnvironmentEntry, Project
from reprobox.errors import ArtefactAltered, EngineRefused, EnvironmentInvalid, UsageError
from reprobox.image.build import Progress, start_build
from reprobox.image.cache import Cache
from reprobox.image.layers import DiffId
from reprobox.image.oci import Image, render_archive, render_image

if TYPE_CHECKING:
    from reprobox.env.spec import EnvironmentSpec

PLATFORM = "linux-64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An environment that an engine holds, or could.

    Attributes:
        entry: Which environment.
        lock: What it is pinned to.
        image: What it was built to.
        reused: Whether nothing was built or loaded.
    """

    entry: EnvironmentEntry
    lock: Lock
    image: Image
    reused: bool


def lock_command(entry: EnvironmentEntry) -> str:
    """The command that locks an environment again."""
    return f"reprobox lock {entry.argument}".rstrip()


def load_spec(entry: EnvironmentEntry, project: Project) -> EnvironmentSpec | None:
    """Load the environment file; None where there is only a lock.

    Raises:
        EnvironmentInvalid: It is broken.
    """
    from reprobox.env.spec import parse_environment

    try:
        text = entry.environment.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentInvalid(
            f"{entry.environment}: cannot be read: {error}", hint="save it as UTF-8 text"
        ) from None
    return parse_environment(text, source=_shown(entry.environment, project))


def _text_digest(file: Path) -> str | None:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    return hashlib.sha256(text.encode()).hexdigest()


def _shown(path: Path, project: Project) -> str:
    return str(path.relative_to(project.root)) if path.is_relative_to(project.root) else str(path)


def load_fresh_lock(entry: EnvironmentEntry, project: Project) -> Lock | None:
    """Load the lock of an environment and require that it matches the environment file.

    Returns:
        The lock, or None where there is none yet.

    Raises:
        EnvironmentInvalid: Lock or environment file is broken.
        LockStale: The lock was made from something else.
    """
    try:
        text = entry.lock.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentInvalid(f"{entry.lock}: cannot be read: {error}", hint=lock_command(entry)) from None
    source = _shown(entry.lock, project)
    lock = parse_lock(text, source=source)
    if lock.requested.base == entry.base and lock.requested.sha256 == _text_digest(entry.environment):
        return lock
    spec = load_spec(entry, project)
    if spec is not None:
        require_fresh(lock, spec, base=entry.base, source=source, command=lock_command(entry))
    return lock


def make_lock(
    entry: EnvironmentEntry,
    project: Project,
    client: Client,
    *,
    upgrade: tuple[str, ...] = (),
    upgrade_all: bool = False,
    upgrade_base: bool = False,
    exclude_newer: str | None = None,
) -> Lock:
    """Resolve an environment and write its lock. Versions that the old lock holds are kept where they still fit.

    Args:
        entry: Which environment.
        project: Whose.
        client: How indexes are reached.
        upgrade: Projects whose version may move.
        upgrade_all: Let every version move.
        upgrade_base: Resolve the base anew, too.
        exclude_newer: Ignore what was published after this date (ISO 8601).

    Raises:
        UsageError: `exclude_newer` is no date.
        EnvironmentInvalid: The file is missing, broken, or asks for what this version cannot provide.
        NoSolution: It cannot be resolved.
        IndexUnreachable: An index did not answer.
    """
    from reprobox.env.solve import solve_wheels, uv_version

    if exclude_newer is not None:
        try:
            datetime.fromisoformat(exclude_newer)
        except ValueError:
            raise UsageError(
                f"--exclude-newer {exclude_newer!r} is no date", hint="write 2026-01-31, or 2026-01-31T12:00:00Z"
            ) from None
    spec = load_spec(entry, project)
    if spec is None:
        raise EnvironmentInvalid(
            f"{_shown(entry.environment, project)} does not exist", hint="write it, or name another environment"
        )
    base, debian = load_locked_base(entry.base, project, client, anew=upgrade_base)
    python = require_python(spec, base, debian)
    kept: tuple[tuple[str, str], ...] = ()
    if entry.lock.is_file() and not upgrade_all:
        try:
            old = parse_lock(entry.lock.read_text(encoding="utf-8"), source=str(entry.lock))
        except (EnvironmentInvalid, UnicodeDecodeError):
            old = None
        kept = tuple((wheel.name, wheel.version) for wheel in old.wheels) if old else ()
    wheels = solve_wheels(
        spec.wheels,
        python=python,
        glibc=base.glibc,
        platform=PLATFORM,
        client=client,
        kept=kept,
        upgrade=upgrade,
        exclude_newer=exclude_newer,
    )
    lock = Lock(
        platform=PLATFORM,
        layer_format=LAYER_FORMAT,
        virtual_packages=(("__glibc", base.glibc),),
        python=python,
        omit=base.omit,
        keep=base.keep,
        debian=debian,
        wheels=wheels,
        variables=tuple(sorted(spec.variables)),
        requested=render_requested(spec, base=entry.base),
        tools=(("uv", uv_version()),),
    )
    text = render_lock(lock)
    if not entry.lock.is_file() or entry.lock.read_text(encoding="utf-8", errors="replace") != text:
        aside = entry.lock.with_name(f".{entry.lock.name}.new")
        aside.write_text(text, encoding="utf-8")
        aside.replace(entry.lock)
    return lock


def load_locked_base(
    name: str, project: Project, client: Client, *, anew: bool = False
) -> tuple[BaseSpec, tuple[DebianPackage, ...]]:
    """Load a base and what it is locked to; resolve and write its lock where there is none.

    Raises:
        EnvironmentInvalid: There is no such base, or it is broken.
        IndexUnreachable: It must be resolved and no mirror answers.
    """
    folder = find_base_folder(name, project.root)
    base = load_base(folder)
    locked = None if anew else load_base_lock(folder, base)
    if locked is None:
        from reprobox.env.solve import solve_base

        locked = solve_base(base, platform=PLATFORM, client=client)
        write_base_lock(folder, base, locked)
    return base, locked


def require_python(spec: EnvironmentSpec, base: BaseSpec, debian: tuple[DebianPackage, ...]) -> str:
    """Give the exact version of the base's interpreter, if it is the one asked for.

    Raises:
        EnvironmentInvalid: It is another.
    """
    name = f"python{base.python}-minimal"
    package = next((package for package in debian if package.name == name), None)
    version = re.match(r"(?:\d+:)?(\d+\.\d+\.\d+)", package.version) if package else None
    if version is None:
        raise EnvironmentInvalid(f"base {base.name} has no {name}", hint="add it to its base.yml")
    wanted = spec.python.split(".") if spec.python else []
    if wanted != version[1].split(".")[: len(wanted)]:
        raise EnvironmentInvalid(
            f"{spec.source}:{spec.python_line}: python {spec.python} is asked for; base {base.name} has {version[1]}",
            hint=f"write python={base.python}, or name another base in reprobox.toml",
        )
    return version[1]


def find_built(lock: Lock, cache: Cache) -> Image | None:
    """Find what a lock was built to before."""
    note = cache.find_image(lock.digest)
    if note is None:
        return None
    try:
        return Image(
            lock_digest=lock.digest,
            config=base64.b64decode(note["config"]),
            manifest=base64.b64decode(note["manifest"]),
            diff_ids=tuple(DiffId(diff_id) for diff_id in note["diff_ids"]),
            sizes_bytes=tuple(note["sizes_bytes"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def build_layers(
    lock: Lock, *, client: Client, cache: Cache, progress: Progress, workers: int
) -> tuple[Image, dict[DiffId, Path], bool]:
    """Make all layers of a lock, without an engine.

    Returns:
        The image, where its layers lie, and whether all of them were cached.
    """
    build = start_build(lock, client=client, cache=cache, progress=progress, workers=workers)
    try:
        layers = build.wait()
    finally:
        build.close()
    image = render_image(lock, build.plans, layers)
    _keep(image, cache)
    return image, {layer.digest.diff_id: layer.path for layer in layers}, not build.built


def prepare_image(
    entry: EnvironmentEntry,
    lock: Lock,
    *,
    engine: Engine,
    client: Client,
    cache: Cache,
    progress: Progress,
    workers: int,
) -> Prepared:
    """Have a lock's image in an engine, building and sending only what is missing.

    Layers are handed over while those above them are still being made. Each part handed over early is an image of its
    own to the engine; those are removed at the end, and their layers stay in the whole one.

    Raises:
        BuildError: It could not be built.
        EngineRefused: The engine did not take it.
    """
    known = find_built(lock, cache)
    if known is not None and engine.find_image(known.config_digest, known.diff_ids):
        return Prepared(entry=entry, lock=lock, image=known, reused=True)
    build = start_build(lock, client=client, cache=cache, progress=progress, workers=workers)
    parts: list[str] = []
    try:
        chains = engine.list_layers()
        count = len(build.layers)
        sent = 0
        task = "engine"
        progress.start(task, count)
        build.require_packages()
        while sent < count:
            build.layers[sent].result()
            ready = sent + 1
            while ready < count and build.layers[ready].done():
                ready += 1
            layers = tuple(future.result() for future in build.layers[:ready])
            held = max((_common(chain, layers) for chain in chains), default=0)
            whole = ready == count
            image = render_image(lock, build.plans, layers, partial=not whole)
            if not whole and held >= ready:
                sent = ready
                progress.advance(task, ready)
                continue
            blobs = {layer.digest.diff_id: layer.path for layer in layers}
            new = {layer.digest.diff_id: layer.path for layer in layers[held:]}
            _load(engine, image, new, blobs, cache)
            chains.append(tuple(image.diff_ids))
            if not whole:
                parts.append(image.config_digest)
            progress.advance(task, ready - sent)
            sent = ready
        progress.finish(task)
        if not engine.find_image(image.config_digest, image.diff_ids):
            raise EngineRefused("the engine took the image but does not have it now", hint="see `reprobox doctor`")
        engine.tag_image(image.config_digest, *render_tag(entry, lock))
    finally:
        build.close()
        for part in parts:
            engine.remove_image(part)
    _keep(image, cache)
    return Prepared(entry=entry, lock=lock, image=image, reused=False)


def _load(engine: Engine, image: Image, new: Mapping[DiffId, Path], blobs: Mapping[DiffId, Path], cache: Cache) -> None:
    # An engine hashes what it is given and refuses layers that are not what they are called.
    try:
        try:
            engine.load_archive(render_archive(image, dict(new), verify=False))
        except EngineRefused:
            # An engine may hold layers in a way that does not let them be named without their bytes; then it gets all.
            if len(new) == len(blobs):
                raise
            engine.load_archive(render_archive(image, dict(blobs), verify=False))
    except EngineRefused as error:
        damaged = [diff_id for diff_id in blobs if not cache.check_blob(diff_id)]
        if damaged:
            raise ArtefactAltered(
                f"the engine refused {', '.join(damaged)}: altered in the cache since written, and now removed from it "
                f"({error.message})",
                hint="build again; and look at the disk if it happens twice",
            ) from None
        raise


def _common(chain: tuple[str, ...], layers: tuple[object, ...]) -> int:
    count = 0
    for held, layer in zip(chain, layers, strict=False):
        if held != layer.digest.diff_id:  # type: ignore[attr-defined]
            break
        count += 1
    return count


def render_tag(entry: EnvironmentEntry, lock: Lock) -> tuple[str, str]:
    """Render what people see an image called in an engine: name and tag."""
    name = re.sub(r"[^a-z0-9]+", "-", entry.name.lower()).strip("-") or "environment"
    return f"reprobox/{name}", lock.digest.removeprefix("sha256:")[:12]


def _keep(image: Image, cache: Cache) -> None:
    cache.keep_image(
        image.lock_digest,
        {
            "config": base64.b64encode(image.config).decode(),
            "manifest": base64.b64encode(image.manifest).decode(),
            "diff_ids": list(image.diff_ids),
            "sizes_bytes": list(image.sizes_bytes),
        },
    )
