"""The bill of materials: all of a lock and nothing else, the same every time, and what SPDX's own tools call valid."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from image_makers import fake_deb, fake_wheel, make_lock
from packageurl import PackageURL
from spdx_tools.spdx.jsonschema.document_converter import DocumentConverter
from spdx_tools.spdx.model import Document
from spdx_tools.spdx.parser.json.json_parser import parse_from_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from reprobox.env.bases import DebianPackage, FlattenedBase
from reprobox.env.lockfile import CondaPackage, LinkedFiles, Lock, Wheel, parse_lock
from reprobox.image.cache import CachedLayer
from reprobox.image.layers import DiffId, LayerDigest
from reprobox.image.oci import Image, render_image
from reprobox.image.plan import plan_layers
from reprobox.image.sbom import render_sbom

REPO = Path(__file__).parents[3]
VERSION = "0.1.0"
COMMITTED = sorted((REPO / "envs").glob("*/reprobox.lock"))


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def fake_conda(name: str, *, version: str = "1.0", channel: str = "conda-forge", kind: str = "conda") -> CondaPackage:
    return CondaPackage(
        name=name,
        version=version,
        build="h1_0",
        channel=channel,
        subdir="linux-64",
        file=f"{name}-{version}-h1_0.{kind}",
        size_bytes=1000,
        sha256=sha(f"conda {name}{version}"),
    )


DEBIAN = (
    fake_deb("libstdc++6", version="1:2.3~rc1+b2"),
    dataclasses.replace(fake_deb("tzdata"), file="pool/main/t/tzdata/tzdata_2026b-0+deb12u1_all.deb"),
    dataclasses.replace(fake_deb("odd"), file="pool/odd.deb"),
)
CONDA = (
    fake_conda("_libgcc_mutex", version="0.1", kind="tar.bz2"),
    fake_conda("libstdcxx", channel="my-lab/label/dev"),
    fake_conda("x264", version="1!164.3095"),
)
WHEELS = (
    fake_wheel("scikit-learn"),
    fake_wheel("torch", version="1!2.0+cu121"),
    dataclasses.replace(fake_wheel("ours"), built_from="git 0123456789abcdef " + "c" * 40),
)
LINKED = LinkedFiles(sha256=sha("linked"), size_bytes=512, files=2, scripts=("bin/.a-post-link.sh", "bin/.b.sh"))
BASE = FlattenedBase(name="our-base", sha256=sha("base"), size_bytes=1 << 20, files=1234, python="3.11.2")
PLAIN = dataclasses.replace(make_lock(wheels=WHEELS, debian=DEBIAN), conda=CONDA, linked=LINKED)
FLATTENED = dataclasses.replace(PLAIN, debian=(), flattened=BASE)


def image_of(lock: Lock) -> Image:
    digests = [
        LayerDigest(diff_id=DiffId(f"sha256:{sha(plan.key)}"), size_bytes=512, files=1) for plan in plan_layers(lock)
    ]
    layers = [CachedLayer(digest=digest, path=Path("/nowhere")) for digest in digests]
    return render_image(lock, plan_layers(lock), layers)


def sbom_of(lock: Lock, *, version: str = VERSION) -> bytes:
    return render_sbom(lock, image_of(lock), plan_layers(lock), version=version)


def rows_of(lock: Lock) -> dict[str, dict[str, Any]]:
    """Rows of a document by identifier, the image's own left out."""
    rows = json.loads(sbom_of(lock))["packages"]
    assert rows[0]["SPDXID"] == "SPDXRef-image"
    return {row["SPDXID"]: row for row in rows[1:]}


def row_of(lock: Lock, sha256: str) -> dict[str, Any]:
    (row,) = (row for row in rows_of(lock).values() if row["checksums"][0]["checksumValue"] == sha256)
    return row


def purl_of(row: dict[str, Any]) -> str:
    (reference,) = row["externalRefs"]
    assert (reference["referenceCategory"], reference["referenceType"]) == ("PACKAGE-MANAGER", "purl")
    return reference["referenceLocator"]


def read_by_spdx(data: bytes, folder: Path) -> Document:
    """The document, read by SPDX's own library, and valid in its eyes."""
    file = folder / "sbom.spdx.json"
    file.write_bytes(data)
    document = parse_from_file(str(file))
    assert [message.validation_message for message in validate_full_spdx_document(document)] == []
    return document


def read_lock(file: Path) -> Lock:
    return parse_lock(file.read_text(encoding="utf-8"), source=str(file))


@pytest.mark.parametrize("lock", [PLAIN, FLATTENED, make_lock()], ids=["debian", "flattened", "empty"])
def test_the_document_is_valid_and_nothing_in_it_is_unknown_to_spdx(lock: Lock, tmp_path: Path) -> None:
    """SPDX's library finds no fault, and writing what it read gives all that we wrote: it knows every key and value."""
    data = sbom_of(lock)
    written = json.dumps(DocumentConverter().convert(read_by_spdx(data, tmp_path)))
    # The library writes the underscore of SPDX 2.2; in 2.3 it is a dash.
    assert json.loads(written.replace("PACKAGE_MANAGER", "PACKAGE-MANAGER")) == json.loads(data)


@pytest.mark.parametrize("file", COMMITTED, ids=[file.parent.name for file in COMMITTED])
def test_documents_of_committed_locks_are_valid(file: Path, tmp_path: Path) -> None:
    """Real locks, with every name and version that they hold, give valid documents with all their packages."""
    lock = read_lock(file)
    document = read_by_spdx(sbom_of(lock), tmp_path)
    assert len(document.packages) == 1 + len(lock.debian) + len(lock.conda) + len(lock.wheels)


def test_the_form_is_canonical_and_holds_no_moment() -> None:
    """Keys sorted, no blanks, one line feed at the end, packages by identifier, and a time that is always the same."""
    data = sbom_of(PLAIN)
    document = json.loads(data)
    assert data == json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    assert list(rows_of(PLAIN)) == sorted(rows_of(PLAIN))
    assert document["creationInfo"]["created"] == "1970-01-01T00:00:00Z"
    assert document["creationInfo"]["creators"] == ["Tool: reprobox-0.1.0"]
    assert (document["spdxVersion"], document["dataLicense"]) == ("SPDX-2.3", "CC0-1.0")


def test_equal_input_is_an_equal_document() -> None:
    """The same lock gives the same bytes, in whatever order its packages were named."""
    turned = dataclasses.replace(PLAIN, debian=DEBIAN[::-1])
    assert sbom_of(PLAIN) == sbom_of(PLAIN) == sbom_of(turned)


def test_a_namespace_names_one_document() -> None:
    """It starts with the manifest's digest, and is another one where anything else in the document is another."""
    namespaces = {}
    noted = dataclasses.replace(PLAIN, wheels=(*WHEELS[:2], dataclasses.replace(WHEELS[2], built_from=None)))
    for lock, version in ((PLAIN, VERSION), (PLAIN, "0.2.0"), (noted, VERSION), (FLATTENED, VERSION)):
        data = sbom_of(lock, version=version)
        namespace = json.loads(data)["documentNamespace"]
        assert re.fullmatch(rf"urn:reprobox:sbom:{image_of(lock).manifest_digest}:[0-9a-f]{{64}}", namespace)
        namespaces[namespace] = data
    assert len(namespaces) == len(set(namespaces.values())) == 4
    assert image_of(noted) == image_of(PLAIN)


@pytest.mark.parametrize("lock", [PLAIN, FLATTENED, *map(read_lock, COMMITTED)])
def test_every_package_stands_in_it_once(lock: Lock) -> None:
    """Each package of the lock has one row with its digest, and the image contains each row, described by the document."""
    document = json.loads(sbom_of(lock))
    image, *rows = document["packages"]
    ready = [package for package in (lock.flattened, lock.linked) if package]
    locked = [*lock.debian, *ready, *lock.conda, *lock.wheels]
    digests = Counter(row["checksums"][0]["checksumValue"] for row in rows)
    assert digests == Counter(package.sha256 for package in locked)
    assert Counter(row["name"] for row in rows) == Counter(package.name for package in locked)
    ids = [row["SPDXID"] for row in document["packages"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", spdx_id) for spdx_id in ids)
    pairs = [(r["spdxElementId"], r["relationshipType"], r["relatedSpdxElement"]) for r in document["relationships"]]
    contained = [(image["SPDXID"], "CONTAINS", row["SPDXID"]) for row in rows]
    assert pairs == [("SPDXRef-DOCUMENT", "DESCRIBES", image["SPDXID"]), *contained]


def test_the_image_is_what_the_document_describes() -> None:
    """Its row has the digest of the manifest, a purpose, and a package URL that names that digest."""
    image = image_of(PLAIN)
    row = json.loads(sbom_of(PLAIN))["packages"][0]
    assert row["primaryPackagePurpose"] == "CONTAINER"
    hexdigest = image.manifest_digest.removeprefix("sha256:")
    assert row["checksums"] == [{"algorithm": "SHA256", "checksumValue": hexdigest}]
    assert row["versionInfo"] == PLAIN.digest
    assert image.config_digest in row["comment"]
    assert purl_of(row) == f"pkg:oci/reprobox@{image.manifest_digest}?arch=amd64"
    arm = dataclasses.replace(PLAIN, platform="linux-aarch64")
    assert purl_of(json.loads(sbom_of(arm))["packages"][0]).endswith("?arch=arm64")


def test_nothing_is_claimed_that_a_lock_does_not_know() -> None:
    """No row says where its package lies, who supplies it, or what its licence is, and no host is named."""
    data = sbom_of(PLAIN)
    assert b"://" not in data
    for row in json.loads(data)["packages"]:
        assert row["filesAnalyzed"] is False
        for key in ("downloadLocation", "licenseConcluded", "licenseDeclared", "copyrightText", "supplier"):
            assert row[key] == "NOASSERTION"


@pytest.mark.parametrize("lock", [PLAIN, FLATTENED])
def test_a_row_says_which_layer_holds_the_package(lock: Lock) -> None:
    """The comment has the layer's place among all, and its digest."""
    image, plans = image_of(lock), plan_layers(lock)
    for number, (plan, diff_id) in enumerate(zip(plans, image.diff_ids, strict=True), start=1):
        for package in plan.packages:
            comment = row_of(lock, package.sha256)["comment"]
            assert comment.endswith(f"; in layer {number} of {len(plans)}, {diff_id}")


@pytest.mark.parametrize(
    ("package", "file", "purl"),
    [
        (
            DEBIAN[0],
            "libstdc++6_1:2.3~rc1+b2_amd64.deb",
            "pkg:deb/debian/libstdc%2B%2B6@1:2.3~rc1%2Bb2?arch=amd64",
        ),
        (DEBIAN[1], "tzdata_2026b-0+deb12u1_all.deb", "pkg:deb/debian/tzdata@1.0?arch=all"),
        (DEBIAN[2], "odd.deb", "pkg:deb/debian/odd@1.0"),
        (
            CONDA[0],
            "_libgcc_mutex-0.1-h1_0.tar.bz2",
            "pkg:conda/_libgcc_mutex@0.1?build=h1_0&channel=conda-forge&subdir=linux-64&type=tar.bz2",
        ),
        (
            CONDA[1],
            "libstdcxx-1.0-h1_0.conda",
            "pkg:conda/libstdcxx@1.0?build=h1_0&channel=my-lab%2Flabel%2Fdev&subdir=linux-64&type=conda",
        ),
        (
            CONDA[2],
            "x264-1!164.3095-h1_0.conda",
            "pkg:conda/x264@1%21164.3095?build=h1_0&channel=conda-forge&subdir=linux-64&type=conda",
        ),
        (WHEELS[0], "scikit_learn-1.0-py3-none-any.whl", "pkg:pypi/scikit-learn@1.0"),
        (WHEELS[1], "torch-1!2.0+cu121-py3-none-any.whl", "pkg:pypi/torch@1%212.0%2Bcu121"),
    ],
)
def test_file_version_and_package_url(package: DebianPackage | CondaPackage | Wheel, file: str, purl: str) -> None:
    """A row names its file without folders, its version, and the package as its manager knows it."""
    row = row_of(PLAIN, package.sha256)
    assert (row["packageFileName"], row["versionInfo"], purl_of(row)) == (file, package.version, purl)
    assert "sourceInfo" not in row


def test_what_was_made_here_says_from_what() -> None:
    """A built wheel, a flattened base and the layer of link scripts say so; the latter two are in no manager."""
    assert row_of(PLAIN, WHEELS[2].sha256)["sourceInfo"] == f"built from {WHEELS[2].built_from}"
    base, linked = row_of(FLATTENED, BASE.sha256), row_of(FLATTENED, LINKED.sha256)
    assert (base["name"], base["packageFileName"]) == ("our-base", f"{BASE.sha256}.tar")
    assert "image or a Dockerfile" in base["sourceInfo"]
    assert linked["packageFileName"] == LINKED.file
    assert linked["sourceInfo"] == "written by bin/.a-post-link.sh, bin/.b.sh"
    assert "externalRefs" not in base
    assert "externalRefs" not in linked


def test_an_image_with_other_layers_is_refused() -> None:
    """A part of an image has no document: its rows would name the wrong layers."""
    plans = plan_layers(PLAIN)
    with pytest.raises(ValueError):
        render_sbom(PLAIN, image_of(PLAIN), plans[:-1], version=VERSION)


NAMES = st.from_regex(r"[a-z0-9_][a-z0-9+_.-]{0,7}", fullmatch=True) | st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=4
)


@settings(max_examples=60, deadline=None)
@given(st.lists(NAMES, unique=True, min_size=2, max_size=12))
@example(["a+", "aX2B", "a-2b", "a.2b", "a_"])
def test_no_two_names_share_an_identifier(names: list[str]) -> None:
    """Whatever packages are called, identifiers are well-formed, each its own, and not moved by other packages."""
    lock = make_lock(debian=[fake_deb(name) for name in names])
    ids = {row["name"]: spdx_id for spdx_id, row in rows_of(lock).items()}
    assert ids.keys() == set(names)
    assert all(re.fullmatch(r"SPDXRef-deb-[A-Za-z0-9.-]+", spdx_id) for spdx_id in ids.values())
    alone = rows_of(make_lock(debian=[fake_deb(names[0], version="2")]))
    assert list(alone) == [ids[names[0]]]


def test_identifiers_of_ordinary_packages_can_be_read() -> None:
    """Letters, digits, dots and dashes stay; the rest is spelt as bytes."""
    ids = set(rows_of(PLAIN))
    assert {"SPDXRef-deb-libstdcX2BX2B6", "SPDXRef-conda-X5FlibgccX5Fmutex", "SPDXRef-wheel-scikit-learn"} <= ids
    assert "SPDXRef-linked" in ids
    assert "SPDXRef-base" in rows_of(FLATTENED)


@settings(max_examples=100, deadline=None)
@given(
    name=st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,8}", fullmatch=True),
    epoch=st.sampled_from(("", "1:", "12:")),
    version=st.from_regex(r"[0-9][A-Za-z0-9.+~-]{0,8}", fullmatch=True),
)
def test_package_urls_of_debian_parse_back(name: str, epoch: str, version: str) -> None:
    """The library for package URLs reads the same parts that the lock has, and would write the same text."""
    package = fake_deb(name, version=epoch + version)
    purl = purl_of(row_of(make_lock(debian=[package]), package.sha256))
    parsed = PackageURL.from_string(purl)
    assert (parsed.type, parsed.namespace, parsed.name) == ("deb", "debian", name)
    assert (parsed.version, parsed.qualifiers) == (epoch + version, {"arch": "amd64"})
    assert str(parsed) == purl


@settings(max_examples=100, deadline=None)
@given(
    name=st.from_regex(r"[a-z0-9_][a-z0-9_.-]{0,8}", fullmatch=True),
    version=st.from_regex(r"([0-9]!)?[A-Za-z0-9_.+]{1,8}", fullmatch=True),
    channel=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,4}(/[A-Za-z0-9_-]{1,4}){0,2}", fullmatch=True),
    kind=st.sampled_from(("conda", "tar.bz2")),
)
def test_package_urls_of_conda_parse_back(name: str, version: str, channel: str, kind: str) -> None:
    """The library for package URLs reads the same parts that the lock has."""
    package = fake_conda(name, version=version, channel=channel, kind=kind)
    purl = purl_of(row_of(dataclasses.replace(make_lock(), conda=(package,)), package.sha256))
    parsed = PackageURL.from_string(purl)
    assert (parsed.type, parsed.namespace, parsed.name, parsed.version) == ("conda", None, name, version)
    assert parsed.qualifiers == {"build": "h1_0", "channel": channel, "subdir": "linux-64", "type": kind}


def test_package_urls_of_committed_locks_parse_back() -> None:
    """So do those of real locks, wheels among them."""
    for lock in map(read_lock, COMMITTED):
        for package in (*lock.debian, *lock.wheels):
            parsed = PackageURL.from_string(purl_of(row_of(lock, package.sha256)))
            assert (parsed.name, parsed.version) == (package.name, package.version)
