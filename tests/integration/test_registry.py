"""A real registry on loopback: images go there and come back by digest, and what is wrong on the way is noticed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reprobox.errors import UsageError
from reprobox.image.registry import is_loopback, parse_reference
from tests.conftest import Tool, require_program
from tests.registry import serve_registry

ENVIRONMENT = "dependencies:\n  - python=3.11\n  - pip:\n      - idna==3.10\n      - numpy==2.4.6\n"


@pytest.fixture
def project(tmp_path: Path) -> Tool:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "environment.yml").write_text(ENVIRONMENT)
    tool = Tool(folder)
    tool("lock")
    return tool


def elsewhere(tmp_path: Path, name: str = "elsewhere") -> Tool:
    """Another machine: an empty folder and an empty cache."""
    folder = tmp_path / name
    folder.mkdir()
    return Tool(folder, {"REPROBOX_CACHE": str(tmp_path / f"{name}-cache")})


def blob_file(tmp_path: Path, digest: str) -> Path:
    """Where the registry itself keeps a blob."""
    (found,) = (tmp_path / "registry").rglob(f"{digest.removeprefix('sha256:')}/data")
    return found


def test_there_and_back_by_digest(project: Tool, registry: str, tmp_path: Path) -> None:
    """What is pushed is what was built; a second push moves nothing; a changed package moves its layer; back it is the same."""
    built = project("build", "--no-load", "--push", f"{registry}/team/small:1", "--json").document
    assert built["pushed"]["digest"] == built["manifest_digest"]
    assert built["pushed"]["moved_bytes"] >= built["size_bytes"]
    again = project("push", f"{registry}/team/small:2", "--json").document
    assert (again["moved_bytes"], again["digest"]) == (0, built["manifest_digest"])
    pulled = elsewhere(tmp_path)(
        "pull", f"{registry}/team/small@{built['manifest_digest']}", "--no-load", "--json"
    ).document
    assert pulled["manifest_digest"] == built["manifest_digest"]
    assert pulled["moved_bytes"] == built["size_bytes"]

    environment = project.folder / "environment.yml"
    environment.write_text(ENVIRONMENT.replace("3.10", "3.9"))
    project("lock")
    changed = project("push", f"{registry}/team/small:3", "--json").document
    assert 0 < changed["moved_bytes"] < 0.05 * built["size_bytes"]
    assert changed["skipped_bytes"] > 0.95 * built["size_bytes"]


def test_a_pulled_image_runs_without_packages(project: Tool, registry: str, tmp_path: Path) -> None:
    """Where an image was pulled, a run needs neither index nor mirror: the lock names the image."""
    project("push", f"{registry}/small:1")
    other = elsewhere(tmp_path)
    for name in ("environment.yml", "reprobox.lock"):
        shutil.copyfile(project.folder / name, other.folder / name)
    (other.folder / "t.py").write_text("import idna; print(idna.__version__)\n")
    other("pull", f"{registry}/small:1")
    other.environ |= {"UV_OFFLINE": "1", "REPROBOX_DEBIAN_MIRROR": "http://127.0.0.1:9"}
    assert other("run", "t.py").out == "3.10\n"


def test_other_tools_read_it(project: Tool, registry: str) -> None:
    """skopeo sees the same digest, and Docker pulls and runs it."""
    built = project("build", "--no-load", "--push", f"{registry}/small:1", "--json").document
    require_program("skopeo")
    done = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", f"docker://{registry}/small:1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["Digest"] == built["manifest_digest"]
    name = f"{registry}/small@{built['manifest_digest']}"
    try:
        subprocess.run(["docker", "pull", "--quiet", name], check=True, capture_output=True)
        run = subprocess.run(
            ["docker", "run", "--rm", name, "python", "-c", "import numpy; print(numpy.__version__)"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert run.stdout == "2.4.6\n"
    finally:
        subprocess.run(["docker", "rmi", name], check=False, capture_output=True)


def test_compressed_it_is_the_same_image(project: Tool, registry: str, tmp_path: Path) -> None:
    """With zstd less moves, under another digest there; what is pulled from it is the image that was built."""
    built = project("build", "--no-load", "--json").document
    first = project("push", f"{registry}/small:z", "--compress", "zstd", "--json").document
    assert first["moved_bytes"] < built["size_bytes"] / 2
    assert first["digest"] != built["manifest_digest"]
    second = project("push", f"{registry}/small:z", "--compress", "zstd", "--json").document
    assert (second["digest"], second["moved_bytes"]) == (first["digest"], 0)
    pulled = elsewhere(tmp_path)("pull", f"{registry}/small:z", "--no-load", "--json").document
    assert pulled["manifest_digest"] == built["manifest_digest"]


def test_a_bill_of_materials_is_attached(project: Tool, registry: str, tmp_path: Path) -> None:
    """The registry holds an SPDX document that refers to the image, as tools look for one; --sbom writes the same."""
    import requests

    built = project("build", "--no-load", "--push", f"{registry}/small:1", "--sbom", "sbom.json", "--json").document
    tag = built["manifest_digest"].replace(":", "-")
    base = f"http://{registry}/v2/small"
    index = requests.get(
        f"{base}/manifests/{tag}", headers={"Accept": "application/vnd.oci.image.index.v1+json"}, timeout=9
    )
    (row,) = index.json()["manifests"]
    assert row["artifactType"] == "application/spdx+json"
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    manifest = requests.get(f"{base}/manifests/{row['digest']}", headers=accept, timeout=9).json()
    assert manifest["subject"]["digest"] == built["manifest_digest"]
    blob = requests.get(f"{base}/blobs/{manifest['layers'][0]['digest']}", timeout=9).content
    assert blob == (project.folder / "sbom.json").read_bytes()


@pytest.mark.parametrize("harm", ["flip", "cut", "empty"])
def test_a_damaged_blob_is_noticed(project: Tool, registry: str, tmp_path: Path, harm: str) -> None:
    """A layer whose bytes changed in the registry, or were cut: 11, and nothing of it is kept."""
    built = project("build", "--no-load", "--push", f"{registry}/small:1", "--json").document
    digest = built["diff_ids"][-1]
    file = blob_file(tmp_path, digest)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes({"flip": bytes(data), "cut": bytes(data[: len(data) // 2]), "empty": b""}[harm])
    other = elsewhere(tmp_path)
    done = other("pull", f"{registry}/small:1", "--no-load", code=11)
    assert digest in done.err
    kept = [path.name for path in (tmp_path / "elsewhere-cache").rglob("*") if path.is_file()]
    assert digest.removeprefix("sha256:") not in kept
    assert list((tmp_path / "elsewhere-cache/unfinished").iterdir()) == []


def edit_manifest(registry: str, change: Any) -> None:
    """Put an edited manifest under the tag `bad`, as somebody who may write to the registry could."""
    import requests

    kind = "application/vnd.oci.image.manifest.v1+json"
    base = f"http://{registry}/v2/small/manifests"
    document = requests.get(f"{base}/1", headers={"Accept": kind}, timeout=9).json()
    change(document, registry)
    answer = requests.put(f"{base}/bad", data=json.dumps(document), headers={"Content-Type": kind}, timeout=9)
    assert answer.status_code == 201, answer.text


def put_blob(registry: str, data: bytes) -> dict[str, Any]:
    import requests

    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    start = requests.post(f"http://{registry}/v2/small/blobs/uploads/", timeout=9)
    place = start.headers["Location"]
    place = place if "://" in place else f"http://{registry}{place}"
    done = requests.put(f"{place}{'&' if '?' in place else '?'}digest={digest}", data=data, timeout=60)
    assert done.status_code == 201, done.text
    return {"digest": digest, "size": len(data)}


def bomb(document: dict[str, Any], registry: str) -> None:
    import gzip

    row = put_blob(registry, gzip.compress(bytes(1 << 29)))
    document["layers"][-1] = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **row}


def other_layer(document: dict[str, Any], registry: str) -> None:
    document["layers"][-1] = {**document["layers"][-1], **put_blob(registry, b"evil")}


def other_config(document: dict[str, Any], registry: str) -> None:
    row = put_blob(registry, b'{"config": {}, "rootfs": {"diff_ids": ["sha256:../../../../etc/passwd"]}}')
    document["config"] = {**document["config"], **row}


def fewer_layers(document: dict[str, Any], registry: str) -> None:
    document["layers"].pop()


def named_place(document: dict[str, Any], registry: str) -> None:
    place = "sha256:" + "/./././var/tmp/reprobox-victim".rjust(64, "/")
    config = {"config": {"Labels": {"org.reprobox.lock": f"sha256:{0:064}"}}, "rootfs": {"diff_ids": [place]}}
    document["config"] = {**document["config"], **put_blob(registry, json.dumps(config).encode())}
    document["layers"] = document["layers"][:1]


def named_note(document: dict[str, Any], registry: str) -> None:
    config = {"config": {"Labels": {"org.reprobox.lock": "sha256:/var/tmp/reprobox-note"}}, "rootfs": {"diff_ids": []}}
    document["config"] = {**document["config"], **put_blob(registry, json.dumps(config).encode())}
    document["layers"] = []


def corrupt_gzip(document: dict[str, Any], registry: str) -> None:
    import gzip

    data = bytearray(gzip.compress(os.urandom(9000)))
    data[10:40] = bytes(30)
    row = put_blob(registry, bytes(data))
    document["layers"][-1] = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **row}


@pytest.fixture
def victim() -> Iterator[Path]:
    """A file of the user's, outside of everything."""
    file = Path("/var/tmp/reprobox-victim")
    file.write_text("mine")
    yield file
    file.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "change", [bomb, other_layer, other_config, fewer_layers, named_place, named_note, corrupt_gzip]
)
def test_a_hostile_image_is_refused(project: Tool, registry: str, tmp_path: Path, victim: Path, change: Any) -> None:
    """A bomb, another layer, a configuration that names paths, missing layers: 11, and nothing outside of the cache."""
    project("build", "--no-load", "--push", f"{registry}/small:1")
    edit_manifest(registry, change)
    other = elsewhere(tmp_path)
    other("pull", f"{registry}/small:bad", "--no-load", code=11)
    assert not (tmp_path / "elsewhere-cache/images").exists()
    assert victim.read_text() == "mine"
    assert not Path("/var/tmp/reprobox-note.json").exists()


def another_image(document: dict[str, Any], registry: str) -> None:
    import requests

    config = requests.get(f"http://{registry}/v2/small/blobs/{document['config']['digest']}", timeout=9).json()
    config["config"]["Env"].append("EVIL=1")
    document["config"] = {**document["config"], **put_blob(registry, json.dumps(config).encode())}


def test_what_an_image_says_of_itself_replaces_nothing(project: Tool, registry: str, tmp_path: Path) -> None:
    """An image that claims a lock which was built here is refused; where nothing is known, a run says where it is from."""
    project("build", "--no-load", "--push", f"{registry}/small:1")
    edit_manifest(registry, another_image)
    known = {
        path: path.read_bytes()
        for path in Path(project.environment().get("REPROBOX_CACHE") or Path.home() / ".cache/reprobox").glob(
            "images/*.json"
        )
    }
    assert "has another image for the lock" in project("pull", f"{registry}/small:bad", "--no-load", code=11).err
    assert all(path.read_bytes() == data for path, data in known.items())
    other = elsewhere(tmp_path)
    other("pull", f"{registry}/small:1", "--no-load")
    for name in ("environment.yml", "reprobox.lock"):
        shutil.copyfile(project.folder / name, other.folder / name)
    (other.folder / "train.py").write_text("print(1)\n")
    assert f"came from {registry}/small:1 and was not built here" in other("run", "train.py").err


def test_what_is_not_there_is_told(project: Tool, registry: str, tmp_path: Path) -> None:
    """An unknown image or tag, and a registry that does not answer: 4, at once and in words."""
    assert "has no image 9" in project("pull", f"{registry}/small:9", code=4).err
    assert "does not answer" in project("pull", "127.0.0.1:9/small:1", code=4).err
    project("push", "small:1", code=2)
    project("push", f"{registry}/small:1", "--compress", "rar", code=2)


def test_credentials_come_from_docker(tmp_path: Path, project: Tool) -> None:
    """A registry that wants a password: refused without, taken with docker's configuration or a credential helper."""
    program = require_program("docker-registry")
    require_program("htpasswd")
    (tmp_path / "users").write_bytes(
        subprocess.run(["htpasswd", "-Bbn", "alice", "hunter2"], check=True, capture_output=True).stdout
    )
    with serve_registry(program, tmp_path, users=tmp_path / "users") as address:
        home = tmp_path / "home"
        (home / ".docker").mkdir(parents=True)
        cache = os.environ.get("REPROBOX_CACHE") or str(Path.home() / ".cache/reprobox")
        tool = Tool(project.folder, {"HOME": str(home), "REPROBOX_CACHE": cache})
        reference = f"{address}/small:1"
        assert "docker login" in tool("push", reference, code=4).err
        secret = base64.b64encode(b"alice:hunter2").decode()
        (home / ".docker/config.json").write_text(json.dumps({"auths": {address: {"auth": secret}}}))
        tool("push", reference)
        helper = tmp_path / "bin/docker-credential-mine"
        helper.parent.mkdir()
        helper.write_text('#!/bin/sh\ncat >/dev/null\necho \'{"Username": "alice", "Secret": "hunter2"}\'\n')
        helper.chmod(0o755)
        (home / ".docker/config.json").write_text(json.dumps({"credHelpers": {address: "mine"}}))
        tool.environ["PATH"] = f"{helper.parent}:{os.environ['PATH']}"
        done = tool("push", reference, "--json")
        assert done.document["moved_bytes"] == 0
        assert "hunter2" not in done.err


@pytest.mark.parametrize(
    "text",
    ["small", "small:1", "h.example/UPPER", "h.example/x@sha256:12", "h.example/", "h.example/../x", "-h/x", "h/x"],
)
def test_what_is_no_reference(text: str) -> None:
    """No host is taken for granted, and nothing that is no name gets into an address."""
    with pytest.raises(UsageError):
        parse_reference(text)


def test_references() -> None:
    """Hosts, ports, tags and digests; this machine is known by its names."""
    digest = "sha256:" + "0" * 64
    found = parse_reference(f"docker://localhost:5000/a/b-c:v1@{digest}")
    assert (found.host, found.name, found.tag, found.digest) == ("localhost:5000", "a/b-c", "v1", digest)
    assert re.fullmatch(r"localhost:5000/a/b-c:v1@sha256:0+", str(found))
    assert all(map(is_loopback, ("localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000", "[::1]")))
    assert not any(map(is_loopback, ("registry.example", "10.0.0.1:5000", "127.example")))
