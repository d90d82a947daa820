"""What an image is, in the words of the OCI image specification: configuration, manifest, layout, docker-archive.

Layers are described uncompressed, so that configuration and manifest, and with them both digests, follow from the lock
alone and from no compressor. Pure, but for the two functions that write a folder or stream a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NewType

from reprobox.env.lockfile import Lock
from reprobox.errors import ArtefactAltered, BuildError
from reprobox.image.activation import capture_activation
from reprobox.image.cache import CachedLayer
from reprobox.image.layers import DiffId
from reprobox.image.places import PREFIX
from reprobox.image.plan import LayerPlan

ImageDigest = NewType("ImageDigest", str)
"""`sha256:` and 64 hex digits, of a manifest or a configuration."""

CREATED = "1970-01-01T00:00:00Z"
_ARCHITECTURES = {"linux-64": "amd64", "linux-aarch64": "arm64"}
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
LABEL_LOCK = "org.reprobox.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image, described.

    Attributes:
        lock_digest: The environment that it holds.
        config: Bytes of its configuration.
        manifest: Bytes of its manifest.
        diff_ids: Layers, lowest first.
        sizes_bytes: Their sizes, in the same order.
    """

    lock_digest: str
    config: bytes
    manifest: bytes
    diff_ids: tuple[DiffId, ...]
    sizes_bytes: tuple[int, ...]

    @property
    def config_digest(self) -> ImageDigest:
        """What Docker calls the image's id."""
        return _digest(self.config)

    @property
    def manifest_digest(self) -> ImageDigest:
        """What a registry calls the image's digest."""
        return _digest(self.manifest)

    @property
    def size_bytes(self) -> int:
        """Sum of the layers."""
        return sum(self.sizes_bytes)


def _digest(data: bytes) -> ImageDigest:
    return ImageDigest("sha256:" + hashlib.sha256(data).hexdigest())


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def render_environment(lock: Lock, layers: Sequence[CachedLayer] = ()) -> tuple[dict[str, str], tuple[str, ...]]:
    """Render the environment variables of an image.

    Returns:
        Name → value, and a sentence for each activation script whose effect could not be captured.
    """
    # What NVIDIA's container runtime asks of a host's driver before it hands over a GPU.
    required = dict(lock.cuda).get("host")
    variables = {
        "PATH": f"/{PREFIX}/bin:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
        **({"NVIDIA_REQUIRE_CUDA": required} if required else {}),
        **({"CONDA_PREFIX": f"/{PREFIX}"} if lock.python_from == "conda" else {"VIRTUAL_ENV": f"/{PREFIX}"}),
    }
    for layer in layers:
        variables |= dict(layer.extras.variables)
    # The person's own stand before the scripts run, which may ask for them, and after, because nothing undoes them.
    variables |= dict(lock.variables)
    problems = []
    # conda sources them by name, whatever package they are of.
    for path, text in sorted(script for layer in layers for script in layer.extras.activation):
        found = capture_activation(text, environment=variables)
        variables |= found.variables
        if found.unknown:
            problems.append(f"{path} does more than set variables, and was not captured: {found.unknown[0]}")
    return {**variables, **dict(lock.variables)}, tuple(problems)


def render_cuda_labels(lock: Lock) -> dict[str, str]:
    """Render the labels that say which CUDA and cuDNN an image brings; none where it brings none."""
    names = {"runtime": "org.reprobox.cuda", "cudnn": "org.reprobox.cudnn"}
    return {names[key]: value for key, value in lock.cuda if key in names}


def list_omissions(lock: Lock, layers: Sequence[CachedLayer]) -> tuple[str, ...]:
    """List what conda would have done at installation and activation, and was not done; a sentence each."""
    ran = lock.linked.scripts if lock.linked else ()
    # At an installation conda runs these alone.
    scripts = {path for layer in layers for path in layer.extras.link_scripts if path.endswith("-post-link.sh")}
    told = []
    if not lock.requested.link_scripts:
        told = [
            f"{path} was not run: scripts at link time are off; to run them once: reprobox lock --allow-link-scripts"
            for path in sorted(scripts.difference(ran))
        ]
    return (*told, *render_environment(lock, layers)[1])


def render_image(
    lock: Lock, plans: Sequence[LayerPlan], layers: Sequence[CachedLayer], *, partial: bool = False
) -> Image:
    """Render configuration and manifest of a lock's layers.

    Args:
        lock: The environment.
        plans: The layers as planned, lowest first.
        layers: The same, as written; fewer of them for a part of the image.
        partial: Mark it as a part, made only to hand over layers early.
    """
    labels = {
        LABEL_LOCK: lock.digest,
        "org.reprobox.layer-format": str(lock.layer_format),
        "org.reprobox.platform": lock.platform,
        "org.reprobox.python": lock.python,
    }
    labels |= render_cuda_labels(lock)
    if partial:
        labels["org.reprobox.partial"] = "true"
    diff_ids = tuple(layer.digest.diff_id for layer in layers)
    sizes = tuple(layer.digest.size_bytes for layer in layers)
    config = _json({
        "architecture": _ARCHITECTURES[lock.platform],
        "os": "linux",
        "created": CREATED,
        "config": {
            "Env": [f"{key}={value}" for key, value in sorted(render_environment(lock, layers)[0].items())],
            "Cmd": ["python"],
            "WorkingDir": "/work",
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        "history": [
            {"created": CREATED, "created_by": f"reprobox: {plan.title}", "comment": plan.reason}
            for plan, _ in zip(plans, layers, strict=False)
        ],
    })  # fmt: skip
    return describe_image(lock.digest, config, diff_ids, sizes)


def describe_image(lock_digest: str, config: bytes, diff_ids: tuple[DiffId, ...], sizes: tuple[int, ...]) -> Image:
    """Describe an image from its configuration and layers: the manifest follows from these.

    Args:
        lock_digest: The environment that it holds.
        config: Bytes of its configuration.
        diff_ids: Layers, lowest first.
        sizes: Their sizes in bytes, in the same order.
    """
    manifest = _json({
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "config": {"mediaType": _CONFIG_TYPE, "digest": _digest(config), "size": len(config)},
        "layers": [
            {"mediaType": _LAYER_TYPE, "digest": diff_id, "size": size}
            for diff_id, size in zip(diff_ids, sizes, strict=True)
        ],
        "annotations": {LABEL_LOCK: lock_digest},
    })  # fmt: skip
    return Image(lock_digest=lock_digest, config=config, manifest=manifest, diff_ids=diff_ids, sizes_bytes=sizes)


def write_oci_layout(image: Image, blobs: dict[DiffId, Path], folder: Path) -> None:
    """Write an image as an OCI image layout, whole or not at all, checking every layer while it is copied.

    Args:
        image: The image.
        blobs: Where its layers lie.
        folder: A folder that does not exist or is empty.

    Raises:
        BuildError: The folder holds something already, or cannot be written.
        ArtefactAltered: A cached layer does not hash to its name.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BuildError(f"{folder} is not empty", hint="name a folder that does not exist yet")
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        target = aside / "blobs" / "sha256"
        target.mkdir(parents=True)
        for diff_id in dict.fromkeys(image.diff_ids):
            _copy_checked(blobs[diff_id], target / diff_id.removeprefix("sha256:"), diff_id)
        for path, data in render_layout(image).items():
            (aside / path).write_bytes(data)
        # An empty folder gives way to a whole one.
        aside.replace(folder)
    except OSError as error:
        raise BuildError(
            f"{folder} cannot be written: {error}", hint="name a place of yours, on a disk with space"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def render_layout(image: Image) -> dict[str, bytes]:
    """Render the small files of an OCI image layout: path → bytes; the layers' own are not among them."""
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": _MANIFEST_TYPE, "digest": image.manifest_digest, "size": len(image.manifest)}],
    }
    return {
        f"blobs/sha256/{image.config_digest.removeprefix('sha256:')}": image.config,
        f"blobs/sha256/{image.manifest_digest.removeprefix('sha256:')}": image.manifest,
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json(index),
    }


def _copy_checked(source: Path, target: Path, diff_id: DiffId) -> None:
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(1 << 20):
            digest.update(chunk)
            writer.write(chunk)
    if "sha256:" + digest.hexdigest() != diff_id:
        target.unlink()
        raise _altered(diff_id, source)


def _altered(diff_id: DiffId, path: Path) -> ArtefactAltered:
    return ArtefactAltered(f"the cached layer {diff_id} was altered", hint=f"remove {path} and build again")


def render_archive(
    image: Image, blobs: dict[DiffId, Path], *, tags: Sequence[str] = (), verify: bool = True
) -> Iterator[bytes]:
    """Render an image as a docker-archive, chunk by chunk.

    Args:
        image: The image.
        blobs: Where its layers lie. A layer that is not named here is left out: an engine that has it does not open it.
        tags: Names to give it, such as "reprobox/digits:0123456789ab".
        verify: Hash layers while they are read; not needed where the reader does.

    Raises:
        ArtefactAltered: A cached layer is not what it is called.
    """
    config_name = f"{image.config_digest.removeprefix('sha256:')}.json"
    names = [f"{diff_id.removeprefix('sha256:')}/layer.tar" for diff_id in image.diff_ids]
    manifest = _json([{"Config": config_name, "RepoTags": list(tags), "Layers": names}])
    for name, data in (("manifest.json", manifest), (config_name, image.config)):
        yield _header(name, len(data)) + data + bytes(-len(data) % 512)
    sent: set[DiffId] = set()
    for diff_id, size, name in zip(image.diff_ids, image.sizes_bytes, names, strict=True):
        if diff_id not in blobs or diff_id in sent:
            continue
        sent.add(diff_id)
        yield _header(name, size)
        digest = hashlib.sha256()
        with blobs[diff_id].open("rb") as stream:
            if os.fstat(stream.fileno()).st_size != size:
                raise ArtefactAltered(f"the cached layer {diff_id} was cut", hint="build again")
            while chunk := stream.read(1 << 20):
                if verify:
                    digest.update(chunk)
                yield chunk
        if verify and "sha256:" + digest.hexdigest() != diff_id:
            raise _altered(diff_id, blobs[diff_id])
        yield bytes(-size % 512)
    yield bytes(1024)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.PAX_FORMAT)


def write_archive(image: Image, blobs: dict[DiffId, Path], file: Path, *, tags: Sequence[str]) -> None:
    """Write an image as a docker-archive file, whole or not at all.

    Raises:
        BuildError: It cannot be written there.
        ArtefactAltered: A cached layer does not hash to its name.
    """
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with part.open("wb") as stream:
            for chunk in render_archive(image, blobs, tags=tags):
                stream.write(chunk)
        part.replace(file)
    except OSError as error:
        raise BuildError(
            f"{file} cannot be written: {error}", hint="name a place of yours, on a disk with space"
        ) from None
    finally:
        part.unlink(missing_ok=True)
