"""Send an image to a registry and fetch one, skipping what is there; its bill of materials goes with it.

Layers travel as they are, so that the digest in the registry is that of the build and of every record. With
`--compress` they travel smaller, under a manifest of their own; what is unpacked from it is the same image again, and
is checked to be.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from reprobox.env.lockfile import LockDigest
from reprobox.errors import ArtefactAltered
from reprobox.image.cache import Cache
from reprobox.image.layers import DiffId
from reprobox.image.oci import LABEL_LOCK, Image, describe_image
from reprobox.image.registry import INDEX_TYPE, MANIFEST_TYPE, Advance, Reference, Registry, read_file
from reprobox.records.digests import is_digest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Compression = Literal["none", "zstd"]
_PIECE = 1 << 20
_LIMIT_BYTES = 1 << 40
SBOM_TYPE = "application/spdx+json"
_EMPTY = b"{}"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
# Several workers give other bytes than none, and any number of them the same: so there are always some.
_ZSTD = {zstd.CompressionParameter.compression_level: 3, zstd.CompressionParameter.nb_workers: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What pushing an image did.

    Attributes:
        reference: Where it is.
        digest: Of the manifest that is there.
        moved_bytes: Bytes of the blobs that were sent.
        skipped_bytes: Bytes of those that were there.
    """

    reference: Reference
    digest: str
    moved_bytes: int
    skipped_bytes: int


def push_image(
    image: Image,
    blobs: Mapping[DiffId, Path],
    registry: Registry,
    *,
    sbom: bytes,
    compression: Compression,
    cache: Cache,
    advance: Advance,
) -> Pushed:
    """Push an image with its bill of materials.

    Args:
        image: The image.
        blobs: Where its layers lie.
        registry: Where to.
        sbom: Its bill of materials, SPDX as JSON.
        compression: How layers travel.
        cache: For what is made on the way.
        advance: Told the number of bytes as they leave.

    Raises:
        IndexUnreachable: The registry does not take it.
        ArtefactAltered: A layer was altered on this machine or on its way.
    """
    moved = skipped = 0
    rows = []
    with cache.aside() as folder:
        for diff_id, size in zip(image.diff_ids, image.sizes_bytes, strict=True):
            path, digest, kind = blobs[diff_id], str(diff_id), _LAYER_TYPE
            if compression == "zstd":
                path, kind = folder / "layer", f"{_LAYER_TYPE}+zstd"
                digest, size = _compress(blobs[diff_id], path)
            rows.append({"mediaType": kind, "digest": digest, "size": size})
            if registry.has_blob(digest):
                skipped += size
            else:
                registry.push_blob(digest, size, read_file(path), advance)
                moved += size
    moved += _push_bytes(registry, image.config)
    manifest = image.manifest
    if compression != "none":
        document = json.loads(manifest)
        document["layers"] = rows
        manifest = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    digest = _digest(manifest)
    registry.push_manifest(manifest, name=digest)
    _push_sbom(registry, digest, len(manifest), sbom)
    # The tag last: it never names an image that is not whole.
    if registry.reference.tag is not None:
        registry.push_manifest(manifest, name=registry.reference.tag)
    return Pushed(reference=registry.reference, digest=digest, moved_bytes=moved, skipped_bytes=skipped)


def _compress(source: Path, target: Path) -> tuple[str, int]:
    """Compress a layer; gives digest and size of what came out."""
    digest = hashlib.sha256()
    compressor = zstd.ZstdCompressor(options={int(key): value for key, value in _ZSTD.items()})
    size = 0
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_PIECE):
            size += _put(compressor.compress(chunk), writer, digest)
        size += _put(compressor.flush(), writer, digest)
    return f"sha256:{digest.hexdigest()}", size


def _put(data: bytes, writer: BinaryIO, digest: Any) -> int:
    digest.update(data)
    writer.write(data)
    return len(data)


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _push_bytes(registry: Registry, data: bytes) -> int:
    """Push a small blob; gives the number of bytes that were sent."""
    digest = _digest(data)
    if registry.has_blob(digest):
        return 0
    registry.push_blob(digest, len(data), lambda offset: iter([data[offset:]]), lambda size: None)
    return len(data)


def _push_sbom(registry: Registry, subject: str, subject_size: int, sbom: bytes) -> None:
    """Attach a bill of materials to a manifest, so that tools which look for one find it."""
    for data in (sbom, _EMPTY):
        _push_bytes(registry, data)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": SBOM_TYPE,
            "config": {"mediaType": _EMPTY_TYPE, "digest": _digest(_EMPTY), "size": len(_EMPTY)},
            "layers": [{"mediaType": SBOM_TYPE, "digest": _digest(sbom), "size": len(sbom)}],
            "subject": {"mediaType": MANIFEST_TYPE, "digest": subject, "size": subject_size},
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
    digest = _digest(manifest)
    if registry.push_manifest(manifest, name=digest):
        return
    # A registry from before referrers: an index under a tag made of the digest stands for them.
    tag = subject.replace(":", "-")
    row = {"mediaType": MANIFEST_TYPE, "artifactType": SBOM_TYPE, "digest": digest, "size": len(manifest)}
    others = [other for other in registry.find_index(tag) if other.get("digest") != digest]
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*others, row]}
    data = json.dumps(index, sort_keys=True, separators=(",", ":")).encode()
    registry.push_manifest(data, name=tag, media_type=INDEX_TYPE)


def pull_image(registry: Registry, cache: Cache, *, advance: Advance) -> tuple[Image, dict[DiffId, Path], int]:
    """Pull an image that reprobox made; layers that the cache has are not fetched.

    Returns:
        The image as it was built, whatever way it travelled; where its layers lie; bytes that were fetched.

    Raises:
        IndexUnreachable: The registry does not have it.
        ArtefactAltered: It is no image of reprobox's, or its bytes are not what it says.
    """
    reference = registry.reference
    data = registry.pull_manifest(reference.digest or reference.tag or "latest")
    config, rows = _read_manifest(data, registry, cache)
    document = _read_config(config, reference)
    diff_ids = tuple(DiffId(str(diff_id)) for diff_id in document["rootfs"]["diff_ids"])
    if len(rows) != len(diff_ids):
        raise ArtefactAltered(f"{reference}: its manifest has {len(rows)} layers, its configuration {len(diff_ids)}")
    moved = 0
    blobs: dict[DiffId, Path] = {}
    for diff_id, row in zip(diff_ids, rows, strict=True):
        if not cache.check_blob(diff_id):
            _pull_layer(registry, row, diff_id, cache, advance)
            moved += row["size"]
        blobs[diff_id] = cache.blob_path(diff_id)
    sizes = tuple(blobs[diff_id].stat().st_size for diff_id in diff_ids)
    lock_digest = LockDigest(document["config"]["Labels"][LABEL_LOCK])
    return describe_image(lock_digest, config, diff_ids, sizes), blobs, moved


def _read_manifest(data: bytes, registry: Registry, cache: Cache) -> tuple[bytes, list[dict[str, Any]]]:
    refused = ArtefactAltered(
        f"{registry.reference}: its manifest is none that is known here", hint="name an image that reprobox pushed"
    )
    try:
        document = json.loads(data)
        rows = [document["config"], *document["layers"]]
        plain = [{"mediaType": r["mediaType"], "digest": r["digest"], "size": r["size"]} for r in rows]
    except (ValueError, KeyError, TypeError):
        raise refused from None
    for row in plain:
        if not is_digest(row["digest"]) or type(row["size"]) is not int or not 0 <= row["size"] < _LIMIT_BYTES:
            raise refused
    if plain[0]["size"] > 16 << 20:
        raise refused
    with cache.aside() as folder:
        registry.pull_blob(plain[0]["digest"], plain[0]["size"], folder / "config", lambda size: None)
        return (folder / "config").read_bytes(), plain[1:]


def _read_config(config: bytes, reference: Reference) -> dict[str, Any]:
    try:
        document = json.loads(config)
        labels = document["config"]["Labels"]
        if all(map(is_digest, document["rootfs"]["diff_ids"])) and is_digest(labels[LABEL_LOCK]):
            return dict(document)
    except (ValueError, KeyError, TypeError):
        pass
    raise ArtefactAltered(f"{reference} is no image that reprobox made", hint="pull others with the engine's own tool")


def _pull_layer(registry: Registry, row: dict[str, Any], diff_id: DiffId, cache: Cache, advance: Advance) -> None:
    """Pull a layer and keep it unpacked under its own digest.

    Raises:
        ArtefactAltered: What it unpacks to is another layer.
    """
    kind = str(row["mediaType"])
    path = cache.blob_path(diff_id)
    with cache.aside() as folder:
        packed, plain = folder / "packed", folder / "plain"
        registry.pull_blob(row["digest"], row["size"], packed, advance)
        if kind == _LAYER_TYPE or kind.endswith("diff.tar"):
            plain, found = packed, row["digest"]
        else:
            found = _decompress(packed, plain, kind, diff_id)
        if found != diff_id:
            raise ArtefactAltered(
                f"layer {row['digest']} unpacks to {found}, not to {diff_id}", hint="nothing was kept"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        plain.replace(path)


def _decompress(packed: Path, plain: Path, kind: str, diff_id: DiffId) -> str:
    """Unpack a layer that travelled compressed; gives the digest of what came out."""
    if not kind.endswith(("+zstd", "+gzip", ".gzip")):
        raise ArtefactAltered(f"layer {diff_id} is {kind}, which is nothing known here")
    opened: Any = zstd.ZstdFile(packed) if kind.endswith("+zstd") else gzip.GzipFile(packed)
    digest = hashlib.sha256()
    limit = max(1 << 28, 300 * packed.stat().st_size)
    total = 0
    try:
        with opened as reader, plain.open("wb") as writer:
            while chunk := reader.read(_PIECE):
                total += len(chunk)
                if total > limit:
                    raise ArtefactAltered(f"layer {diff_id} unpacks to more than any real one", hint="nothing was kept")
                digest.update(chunk)
                writer.write(chunk)
    except (OSError, EOFError, ValueError, zlib.error, zstd.ZstdError) as error:
        raise ArtefactAltered(f"layer {diff_id} cannot be unpacked: {error}", hint="nothing was kept") from None
    return "sha256:" + digest.hexdigest()
