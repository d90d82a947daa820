"""What an image is: equal for equal input, and each of its forms holds what its digests say."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import resource
import tarfile
from pathlib import Path

import pytest
from image_makers import fake_deb, fake_wheel, make_lock

from reprobox.engines.fake import FakeEngine
from reprobox.env.lockfile import Lock
from reprobox.errors import ArtefactAltered, BuildError, EngineRefused
from reprobox.image.cache import CachedLayer
from reprobox.image.layers import DiffId, LayerDigest, LayerWriter
from reprobox.image.oci import (
    Image,
    render_archive,
    render_environment,
    render_image,
    write_archive,
    write_oci_layout,
)
from reprobox.image.plan import plan_layers

PINNED = (
    "sha256:033e1c3f29ccd632163f02aa642179d9be0ec85a453075146511b64cb671a096",
    "sha256:ec07a5d150acf696a61caad89f1f6007650be189c7619088f504d5e62bf91982",
)
LOCK = make_lock(wheels=(fake_wheel("big", size=1 << 30), fake_wheel("small")), debian=(fake_deb("bash"),))


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def make_layer(folder: Path, name: str, *, size: int = 700) -> CachedLayer:
    path = folder / name
    with path.open("wb") as stream:
        writer = LayerWriter(stream)
        writer.add_file(name, name.encode() * size, size=len(name.encode()) * size)
        digest = writer.finish()
    return CachedLayer(digest=digest, path=path)


@pytest.fixture
def layers(tmp_path: Path) -> list[CachedLayer]:
    folder = tmp_path / "layers"
    folder.mkdir()
    return [make_layer(folder, name) for name in ("debian", "base", "skeleton", "big", "small")]


def image_of(layers: list[CachedLayer], lock: Lock = LOCK, *, partial: bool = False) -> Image:
    return render_image(lock, plan_layers(lock), layers, partial=partial)


def blobs_of(layers: list[CachedLayer]) -> dict[DiffId, Path]:
    return {layer.digest.diff_id: layer.path for layer in layers}


def archive_of(image: Image, blobs: dict[DiffId, Path], **options: list[str]) -> dict[str, bytes]:
    """A docker-archive, read by tarfile."""
    stream = io.BytesIO(b"".join(render_archive(image, blobs, **options)))
    with tarfile.open(fileobj=stream) as archive:
        assert len(set(archive.getnames())) == len(archive.getnames())
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def test_equal_input_is_an_equal_image(layers: list[CachedLayer], tmp_path: Path) -> None:
    """The same lock and layers, wherever those lie and whatever the notes of the lock say, are the same bytes."""
    first = image_of(layers)
    noted = dataclasses.replace(LOCK, tools=(("uv", "9"),), requested=dataclasses.replace(LOCK.requested, base="other"))
    moved = [CachedLayer(digest=layer.digest, path=tmp_path / "elsewhere") for layer in layers]
    second = render_image(noted, plan_layers(noted), moved)
    assert (first.config, first.manifest) == (second.config, second.manifest)
    assert first == second


def test_the_image_of_format_2_is_pinned() -> None:
    """These layers and this lock have these digests for ever."""
    digests = [LayerDigest(diff_id=DiffId(sha(bytes([n]))), size_bytes=512 * n, files=n) for n in range(5)]
    image = image_of([CachedLayer(digest=digest, path=Path("/nowhere")) for digest in digests])
    assert (image.config_digest, image.manifest_digest) == PINNED


@pytest.mark.parametrize(
    "change",
    [
        {"variables": (("A", "1"),)},
        {"python": "3.11.3"},
        {"platform": "linux-aarch64"},
        {"keep": ()},
        {"wheels": (fake_wheel("big", size=1 << 30), fake_wheel("small", version="2"))},
    ],
)
def test_another_lock_is_another_image(layers: list[CachedLayer], change: dict[str, object]) -> None:
    """Whatever a lock pins is part of the image's identity, even where the layers are the same."""
    other = image_of(layers, dataclasses.replace(LOCK, **change))
    assert other.config_digest != image_of(layers).config_digest
    assert other.manifest_digest != image_of(layers).manifest_digest


def test_layers_and_their_order_are_the_identity(layers: list[CachedLayer]) -> None:
    """Other layers, the same in another order, and a part of them are other images."""
    turned = [layers[0], layers[2], layers[1], layers[3]]
    images = [image_of(layers), image_of(turned), image_of(layers[:3]), image_of(layers[:3], partial=True)]
    assert len({image.config_digest for image in images}) == 4
    assert len({image.manifest_digest for image in images}) == 4


def test_the_configuration_says_what_is_inside(layers: list[CachedLayer]) -> None:
    """The configuration has platform, layers, history, labels and sorted variables; nothing of this machine or moment."""
    lock = dataclasses.replace(LOCK, variables=(("LANG", "de_DE.UTF-8"), ("Z", "a=b")))
    config = json.loads(image_of(layers, lock).config)
    assert (config["architecture"], config["os"], config["created"]) == ("amd64", "linux", "1970-01-01T00:00:00Z")
    assert config["rootfs"] == {"type": "layers", "diff_ids": [layer.digest.diff_id for layer in layers]}
    assert len(config["history"]) == len(layers)
    assert [row["created_by"] for row in config["history"]] == [
        "reprobox: bash",
        "reprobox: base",
        "reprobox: skeleton",
        "reprobox: big",
        "reprobox: small",
    ]
    variables = config["config"]["Env"]
    assert variables == sorted(variables)
    assert {"LANG=de_DE.UTF-8", "Z=a=b", "TZ=UTC"} <= set(variables)
    assert "LANG=C.UTF-8" not in variables
    assert config["config"]["Labels"]["org.reprobox.lock"] == lock.digest
    assert "org.reprobox.partial" not in config["config"]["Labels"]
    partial = json.loads(image_of(layers[:1], partial=True).config)
    assert partial["config"]["Labels"]["org.reprobox.partial"] == "true"
    assert len(partial["history"]) == len(partial["rootfs"]["diff_ids"]) == 1


def test_variables_of_the_lock_come_over_the_defaults() -> None:
    """What the environment file sets counts; what it does not set is there all the same."""
    environment, problems = render_environment(dataclasses.replace(LOCK, variables=(("TZ", "Europe/Berlin"),)))
    assert not problems
    assert environment["TZ"] == "Europe/Berlin"
    assert environment["PATH"].startswith("/opt/env/bin:")


def test_the_manifest_names_configuration_and_layers(layers: list[CachedLayer]) -> None:
    """The manifest has digest and size of the configuration and of each layer, lowest first."""
    image = image_of(layers)
    manifest = json.loads(image.manifest)
    assert manifest["config"]["digest"] == sha(image.config) == image.config_digest
    assert manifest["config"]["size"] == len(image.config)
    assert [(row["digest"], row["size"]) for row in manifest["layers"]] == [
        (sha(layer.path.read_bytes()), layer.path.stat().st_size) for layer in layers
    ]
    assert image.manifest_digest == sha(image.manifest)
    assert image.size_bytes == sum(layer.path.stat().st_size for layer in layers)


def test_an_archive_has_its_layers_in_order(layers: list[CachedLayer]) -> None:
    """A docker-archive is a tar whose manifest names configuration, tags, and the layers in their order."""
    image = image_of(layers)
    files = archive_of(image, blobs_of(layers), tags=["reprobox/x:1", "reprobox/x:2"])
    (row,) = json.loads(files["manifest.json"])
    assert row["RepoTags"] == ["reprobox/x:1", "reprobox/x:2"]
    assert files[row["Config"]] == image.config
    assert row["Config"] == image.config_digest.removeprefix("sha256:") + ".json"
    assert [sha(files[name]) for name in row["Layers"]] == list(image.diff_ids)
    assert len(files) == 2 + len(layers)
    assert next(iter(files)) == "manifest.json"


def test_what_an_engine_has_is_left_out(layers: list[CachedLayer]) -> None:
    """A layer without a blob is named but absent; the others are there."""
    image = image_of(layers)
    files = archive_of(image, blobs_of(layers[2:]))
    (row,) = json.loads(files["manifest.json"])
    assert len(row["Layers"]) == 5
    assert [name in files for name in row["Layers"]] == [False, False, True, True, True]


def test_a_layer_that_stands_twice_is_sent_once(layers: list[CachedLayer]) -> None:
    """Two equal layers are one entry of an archive, named twice, and one blob of a layout."""
    image = image_of([layers[0], layers[1], layers[0], layers[3]])
    files = archive_of(image, blobs_of(layers))
    (row,) = json.loads(files["manifest.json"])
    assert [sha(files[name]) for name in row["Layers"]] == list(image.diff_ids)
    assert len(files) == 2 + 3


def test_an_engine_takes_the_archive(layers: list[CachedLayer]) -> None:
    """The engine that we ship for tests takes a whole archive, and one without the layers that it has; no other."""
    engine = FakeEngine()
    part, whole = image_of(layers[:2], partial=True), image_of(layers)
    with pytest.raises(EngineRefused):
        engine.load_archive(render_archive(whole, blobs_of(layers[2:])))
    engine.load_archive(render_archive(part, blobs_of(layers)))
    engine.load_archive(render_archive(whole, blobs_of(layers[2:]), tags=["x:y"]))
    assert engine.find_image(whole.config_digest, whole.diff_ids)
    assert engine.tags == {"x:y": whole.config_digest}


def test_a_layout_holds_what_its_digests_say(layers: list[CachedLayer], tmp_path: Path) -> None:
    """From index.json on, every digest and size of an OCI layout is that of a blob, and there is no other blob."""
    image, folder = image_of(layers), tmp_path / "deep/layout"
    write_oci_layout(image, blobs_of(layers), folder)
    assert json.loads((folder / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    seen = set()

    def follow(row: dict) -> bytes:
        data = (folder / "blobs" / row["digest"].replace(":", "/")).read_bytes()
        assert (sha(data), len(data)) == (row["digest"], row["size"])
        seen.add(row["digest"].removeprefix("sha256:"))
        return data

    (row,) = json.loads((folder / "index.json").read_text())["manifests"]
    assert row["digest"] == image.manifest_digest
    manifest = json.loads(follow(row))
    assert manifest["mediaType"] == row["mediaType"]
    config = json.loads(follow(manifest["config"]))
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        assert sha(follow(layer)) == diff_id
        assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar"
    assert {path.name for path in (folder / "blobs/sha256").iterdir()} == seen
    assert sorted(path.name for path in folder.iterdir()) == ["blobs", "index.json", "oci-layout"]


def test_a_layout_is_not_written_over_something(layers: list[CachedLayer], tmp_path: Path) -> None:
    """A folder with anything in it, and a file, are refused and left as they are; an empty folder is taken."""
    image, blobs = image_of(layers), blobs_of(layers)
    full, file, empty = tmp_path / "full", tmp_path / "file", tmp_path / "empty"
    full.mkdir()
    empty.mkdir()
    (full / "mine").write_text("mine")
    file.write_text("mine")
    for folder in (full, file):
        with pytest.raises(BuildError, match="not empty"):
            write_oci_layout(image, blobs, folder)
    assert [path.name for path in full.iterdir()] == ["mine"]
    assert file.read_text() == "mine"
    write_oci_layout(image, blobs, empty)
    assert (empty / "index.json").is_file()


def alter(layer: CachedLayer) -> None:
    data = bytearray(layer.path.read_bytes())
    data[600] ^= 1
    layer.path.write_bytes(data)


def test_an_altered_layer_is_in_no_layout(layers: list[CachedLayer], tmp_path: Path) -> None:
    """A cached layer whose bytes changed is found, named, and not handed on; the folder has no index."""
    alter(layers[2])
    with pytest.raises(ArtefactAltered) as caught:
        write_oci_layout(image_of(layers), blobs_of(layers), tmp_path / "layout")
    assert layers[2].digest.diff_id in caught.value.message
    assert str(layers[2].path) in (caught.value.hint or "")
    assert not (tmp_path / "layout/index.json").exists()
    assert not (tmp_path / "layout/blobs/sha256" / layers[2].digest.diff_id.removeprefix("sha256:")).exists()


@pytest.mark.parametrize("change", [-1, 1, 512])
def test_a_cut_layer_is_in_no_archive(layers: list[CachedLayer], tmp_path: Path, change: int) -> None:
    """A cached layer that is shorter or longer than it was is found, and no file is left."""
    os.truncate(layers[1].path, layers[1].digest.size_bytes + change)
    with pytest.raises(ArtefactAltered, match=layers[1].digest.diff_id):
        write_archive(image_of(layers), blobs_of(layers), tmp_path / "image.tar", tags=[])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layers"]


def test_an_altered_layer_is_in_no_archive(layers: list[CachedLayer], tmp_path: Path) -> None:
    """An archive that was written without an error holds the layers that it names."""
    alter(layers[2])
    with pytest.raises(ArtefactAltered):
        write_archive(image_of(layers), blobs_of(layers), tmp_path / "image.tar", tags=[])


def test_an_archive_file_is_the_stream(layers: list[CachedLayer], tmp_path: Path) -> None:
    """The file has the bytes that an engine is sent, replaces an older one whole, and leaves nothing beside it."""
    image, blobs, file = image_of(layers), blobs_of(layers), tmp_path / "out" / "image.tar"
    file.parent.mkdir()
    file.write_bytes(b"old")
    write_archive(image, blobs, file, tags=["x:y"])
    assert file.read_bytes() == b"".join(render_archive(image, blobs, tags=["x:y"]))
    assert [path.name for path in file.parent.iterdir()] == ["image.tar"]


@pytest.mark.parametrize("missing", [100, 1024 + 100])
def test_an_archive_is_whole_or_not_there(layers: list[CachedLayer], tmp_path: Path, missing: int) -> None:
    """Where not all of an archive can be written (no space is left), none of it is there, and an error says so."""
    image, blobs, file = image_of(layers), blobs_of(layers), tmp_path / "image.tar"
    limit = sum(map(len, render_archive(image, blobs))) - missing
    child = os.fork()
    if child == 0:
        # A limit on the size of files is what can be had of a full disk without one.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            write_archive(image, blobs, file, tags=[])
        except BuildError as error:
            os._exit(5 if "cannot be written" in error.message else 6)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert not file.exists()
    assert status == 5


def test_a_layout_is_whole_or_not_there(layers: list[CachedLayer], tmp_path: Path) -> None:
    """A layer that was altered in the cache leaves no folder behind; an empty folder is filled."""
    image, blobs, folder = image_of(layers), blobs_of(layers), tmp_path / "layout"
    folder.mkdir()
    write_oci_layout(image, blobs, folder)
    assert (folder / "index.json").is_file()
    path = blobs[image.diff_ids[-1]]
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(ArtefactAltered):
        write_oci_layout(image, blobs, tmp_path / "second")
    assert [path.name for path in tmp_path.iterdir() if "second" in path.name] == []


def test_what_a_lock_pins_of_cuda_is_in_the_image(layers: list[CachedLayer]) -> None:
    """Labels and the condition on the host follow from the lock, and from no table of this version's."""
    lock = dataclasses.replace(make_lock(), cuda=(("cudnn", "9.3.0"), ("host", "cuda>=77.0"), ("runtime", "77.5")))
    config = json.loads(render_image(lock, plan_layers(lock), layers).config)["config"]
    assert config["Labels"]["org.reprobox.cuda"] == "77.5"
    assert config["Labels"]["org.reprobox.cudnn"] == "9.3.0"
    assert "NVIDIA_REQUIRE_CUDA=cuda>=77.0" in config["Env"]
