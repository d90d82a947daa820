"""Push an environment's image to a registry, and pull one into the cache and the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reprobox import __version__
from reprobox.engines.base import Engine
from reprobox.env.client import Client, find_certificates
from reprobox.env.lockfile import Lock
from reprobox.image.build import Progress
from reprobox.image.cache import Cache
from reprobox.image.layers import DiffId
from reprobox.image.oci import Image
from reprobox.image.plan import plan_layers
from reprobox.image.publish import Compression, Pushed, pull_image, push_image
from reprobox.image.registry import Registry, parse_reference
from reprobox.image.sbom import render_sbom
from reprobox.run.prepare import load_into, take_foreign_image


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What pulling an image did.

    Attributes:
        image: The image as it was built.
        moved_bytes: Bytes that were fetched.
        loaded: Whether it was loaded into the engine, which did not have it.
    """

    image: Image
    moved_bytes: int
    loaded: bool


def push_environment(
    lock: Lock,
    image: Image,
    blobs: Mapping[DiffId, Path],
    reference: str,
    *,
    compression: Compression,
    client: Client,
    progress: Progress,
) -> Pushed:
    """Push an image that was built, with its bill of materials.

    Raises:
        UsageError: The reference is none.
        IndexUnreachable: The registry does not answer, or refuses.
    """
    registry = Registry(parse_reference(reference), verify=find_certificates(client) or True)
    progress.start("push", image.size_bytes)
    pushed = push_image(
        image,
        blobs,
        registry,
        sbom=render_sbom(lock, image, plan_layers(lock), version=__version__),
        compression=compression,
        cache=Cache(client.cache),
        advance=lambda size: progress.advance("push", size),
    )
    progress.finish("push")
    return pushed


def pull_reference(reference: str, *, client: Client, progress: Progress, engine: Engine | None) -> Pulled:
    """Pull an image into the cache, and into an engine.

    Args:
        reference: Where it is.
        client: How registries are reached.
        progress: Told how it goes.
        engine: Where to, or None for the cache alone.

    Raises:
        UsageError: The reference is none.
        IndexUnreachable: The registry does not answer, or does not have it.
        ArtefactAltered: What it gives is not what it should be.
    """
    parsed = parse_reference(reference)
    registry = Registry(parsed, verify=find_certificates(client) or True)
    cache = Cache(client.cache)
    progress.start("pull", 0)
    image, blobs, moved = pull_image(registry, cache, advance=lambda size: progress.advance("pull", size))
    progress.finish("pull")
    take_foreign_image(image, cache, reference)
    loaded = False
    if engine is not None and not engine.find_image(image.config_digest, image.diff_ids):
        load_into(engine, image, blobs, cache)
        engine.tag_image(image.config_digest, *_tag(parsed.name, image))
        loaded = True
    return Pulled(image=image, moved_bytes=moved, loaded=loaded)


def _tag(name: str, image: Image) -> tuple[str, str]:
    return f"reprobox/{name.rpartition('/')[2]}", image.lock_digest.removeprefix("sha256:")[:12]
