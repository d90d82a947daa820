"""Bring a locked environment to where it can run: lock → layers → engine."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reprobox.engines.base import Engine, LoadableImage
from reprobox.env.client import Client
from reprobox.env.lockfile import Lock
from reprobox.env.project import EnvironmentEntry
from reprobox.errors import ArtefactAltered, BuildError, EngineRefused
from reprobox.image.build import Build, Progress, start_build
from reprobox.image.cache import Cache, CachedLayer
from reprobox.image.layers import DiffId
from reprobox.image.oci import Image, list_omissions, render_archive, render_image
from reprobox.image.unpack import unpack_layers
from reprobox.run.base import Connect, Tools
from reprobox.run.locking import find_addresses


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An environment that an engine holds, or could.

    Attributes:
        entry: Which environment.
        lock: What it is pinned to.
        image: What it was built to.
        reused: Whether nothing was built or loaded.
        notes: What conda would have done and was not done, for people.
        source: Where the image came from, if it was not built here.
    """

    entry: EnvironmentEntry
    lock: Lock
    image: Image
    reused: bool
    notes: tuple[str, ...] = ()
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What is known of a lock's image.

    Attributes:
        image: The image.
        notes: What was said of it.
        source: Where it came from, if it was not built here.
    """

    image: Image
    notes: tuple[str, ...]
    source: str | None


def find_built(lock: Lock, cache: Cache) -> Built | None:
    """Find what a lock was built to before."""
    note = cache.find_image(lock.digest)
    if note is None:
        return None
    try:
        image = Image(
            lock_digest=lock.digest,
            config=base64.b64decode(note["config"]),
            manifest=base64.b64decode(note["manifest"]),
            diff_ids=tuple(DiffId(diff_id) for diff_id in note["diff_ids"]),
            sizes_bytes=tuple(note["sizes_bytes"]),
        )
        return Built(image=image, notes=tuple(map(str, note.get("notes", ()))), source=note.get("source"))
    except (KeyError, TypeError, ValueError):
        return None


def build_layers(
    entry: EnvironmentEntry, lock: Lock, *, client: Client, cache: Cache, progress: Progress, workers: int
) -> tuple[Prepared, dict[DiffId, Path]]:
    """Make all layers of a lock, without an engine.

    Returns:
        What was prepared (`reused` where all layers were cached), and where its layers lie.
    """
    build, layers = _make_layers(entry, lock, client=client, cache=cache, progress=progress, workers=workers)
    image = render_image(lock, build.plans, layers)
    notes = list_omissions(lock, layers)
    keep_image(image, cache, notes)
    prepared = Prepared(entry=entry, lock=lock, image=image, reused=not build.built, notes=notes)
    return prepared, {layer.digest.diff_id: layer.path for layer in layers}


def have_layers(
    entry: EnvironmentEntry, lock: Lock, *, client: Client, cache: Cache, progress: Progress, workers: int
) -> tuple[Image, dict[DiffId, Path]]:
    """Have all layers of a lock in the cache, checked: those that are there, or else made from packages.

    Returns:
        The image, and where its layers lie.
    """
    known = find_built(lock, cache)
    if known is not None and all(cache.check_blob(diff_id) for diff_id in known.image.diff_ids):
        return known.image, {diff_id: cache.blob_path(diff_id) for diff_id in known.image.diff_ids}
    prepared, blobs = build_layers(entry, lock, client=client, cache=cache, progress=progress, workers=workers)
    return prepared.image, blobs


def _make_layers(
    entry: EnvironmentEntry, lock: Lock, *, client: Client, cache: Cache, progress: Progress, workers: int
) -> tuple[Build, tuple[CachedLayer, ...]]:
    client = find_addresses(entry, client)
    build = start_build(lock, client=client, cache=cache, progress=progress, workers=workers)
    try:
        return build, build.wait()
    finally:
        build.close()


def _prepare_known(entry: EnvironmentEntry, lock: Lock, known: Built, *, reused: bool) -> Prepared:
    return Prepared(entry=entry, lock=lock, image=known.image, reused=reused, notes=known.notes, source=known.source)


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
    if known is not None and engine.find_image(known.image.config_digest, known.image.diff_ids):
        # It may have come in for an environment of another name.
        engine.tag_image(known.image.config_digest, *render_tag(entry, lock))
        return _prepare_known(entry, lock, known, reused=True)
    if known is not None and (blobs := _find_blobs(known.image, cache)) is not None:
        # Built, pulled or imported before: nothing needs to be known of packages.
        load_into(engine, known.image, blobs, cache)
        engine.tag_image(known.image.config_digest, *render_tag(entry, lock))
        return _prepare_known(entry, lock, known, reused=False)
    client = find_addresses(entry, client)
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
            while ready < count and (build.layers[ready].done() or not engine.takes_parts):
                build.layers[ready].result()
                ready += 1
            layers = tuple(future.result() for future in build.layers[:ready])
            ready_ids = [layer.digest.diff_id for layer in layers]
            held = max((_common(chain, ready_ids) for chain in chains), default=0)
            whole = ready == count
            image = render_image(lock, build.plans, layers, partial=not whole)
            if not whole and held >= ready:
                sent = ready
                progress.advance(task, ready)
                continue
            blobs = {layer.digest.diff_id: layer.path for layer in layers}
            _load(engine, image, blobs, held, cache)
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
    notes = list_omissions(lock, layers)
    keep_image(image, cache, notes)
    return Prepared(entry=entry, lock=lock, image=image, reused=False, notes=notes)


def _find_blobs(image: Image, cache: Cache) -> dict[DiffId, Path] | None:
    """Find all layers of an image in the cache; None where one is missing or cut. The engine checks their bytes."""
    found: dict[DiffId, Path] = {}
    for diff_id, size in zip(image.diff_ids, image.sizes_bytes, strict=True):
        path = cache.blob_path(diff_id)
        try:
            if path.stat().st_size != size:
                return None
        except OSError:
            return None
        found[diff_id] = path
    return found


def load_into(engine: Engine, image: Image, blobs: Mapping[DiffId, Path], cache: Cache) -> None:
    """Load a whole image into an engine.

    Raises:
        ArtefactAltered: A layer was altered in the cache.
        EngineRefused: The engine does not take it.
    """
    held = max((_common(chain, image.diff_ids) for chain in engine.list_layers()), default=0)
    _load(engine, image, blobs, held, cache)
    if not engine.find_image(image.config_digest, image.diff_ids):
        raise EngineRefused("the engine took the image but does not have it now", hint="see `reprobox doctor`")


def _load(engine: Engine, image: Image, blobs: Mapping[DiffId, Path], held: int, cache: Cache) -> None:
    try:
        engine.load_image(make_loadable(image, blobs), held=held)
    except (EngineRefused, ArtefactAltered, BuildError) as error:
        damaged = [diff_id for diff_id in blobs if not cache.check_blob(diff_id)]
        if damaged:
            raise ArtefactAltered(
                f"the engine refused {', '.join(damaged)}: altered in the cache since written, and now removed from it "
                f"({error.message})",
                hint="build again; and look at the disk if it happens twice",
            ) from None
        raise


def make_loadable(image: Image, blobs: Mapping[DiffId, Path]) -> LoadableImage:
    """Give an image in the form that engines take, from where its layers lie."""

    def render(wanted: Collection[str]) -> Iterator[bytes]:
        # An engine hashes what it is given.
        return render_archive(image, {d: path for d, path in blobs.items() if d in set(wanted)}, verify=False)

    def unpack(folder: Path) -> None:
        unpack_layers([blobs[diff_id] for diff_id in image.diff_ids], folder, expected=image.diff_ids)

    return LoadableImage(
        id=image.config_digest,
        diff_ids=tuple(image.diff_ids),
        config=image.config,
        manifest=image.manifest,
        manifest_digest=image.manifest_digest,
        layers={str(diff_id): path for diff_id, path in blobs.items()},
        render_archive=render,
        unpack=unpack,
    )


def _common(chain: Sequence[str], diff_ids: Sequence[str]) -> int:
    count = 0
    for held, layer in zip(chain, diff_ids, strict=False):
        if held != layer:
            break
        count += 1
    return count


def render_tag(entry: EnvironmentEntry, lock: Lock) -> tuple[str, str]:
    """Render what people see an image called in an engine: name and tag."""
    name = re.sub(r"[^a-z0-9]+", "-", entry.name.lower()).strip("-") or "environment"
    return f"reprobox/{name}", lock.digest.removeprefix("sha256:")[:12]


def take_foreign_image(image: Image, cache: Cache, source: str) -> None:
    """Note an image that came from elsewhere as the one of the lock that it names, which nothing proves.

    What this machine built stays, and so does what came first; whoever uses the image is told where it came from.

    Args:
        image: The image; its layers are in the cache.
        cache: Where to note it.
        source: Where it came from, for people.

    Raises:
        ArtefactAltered: Another image is known for that lock.
    """
    note = cache.find_image(image.lock_digest)
    if note is None:
        keep_image(image, cache, (), source=source)
    elif note.get("manifest") != base64.b64encode(image.manifest).decode():
        raise ArtefactAltered(
            f"{source} has another image for the lock {image.lock_digest[:19]} than the one that is known here",
            hint="one of the two was not made from that lock by this version; keep yours, or use an empty cache",
        )


def keep_image(image: Image, cache: Cache, notes: tuple[str, ...], *, source: str | None = None) -> None:
    """Note what a lock was built to, what was said of it, and where it came from if it was not built here."""
    cache.keep_image(
        image.lock_digest,
        {
            "config": base64.b64encode(image.config).decode(),
            "manifest": base64.b64encode(image.manifest).decode(),
            "diff_ids": list(image.diff_ids),
            "sizes_bytes": list(image.sizes_bytes),
            "notes": list(notes),
            **({"source": source} if source is not None else {}),
        },
    )


def make_tools(
    entry: EnvironmentEntry,
    *,
    connect: Connect,
    client: Client,
    progress: Callable[[], Progress],
    workers: int,
    say: Callable[[str], None],
) -> Tools:
    """Give what locking may need: the engine, and images of locks in it."""

    def image(lock: Lock) -> str:
        prepared = prepare_image(
            replace(entry, name=f"{entry.name}-build"),
            lock,
            engine=connect(),
            client=client,
            cache=Cache(client.cache),
            progress=progress(),
            workers=workers,
        )
        return prepared.image.config_digest

    def layers(lock: Lock) -> tuple[CachedLayer, ...]:
        _, found = _make_layers(
            entry, lock, client=client, cache=Cache(client.cache), progress=progress(), workers=workers
        )
        return found

    return Tools(connect=connect, image=image, layers=layers, say=say)
