"""What is in an image, as an SPDX 2.3 document: a bill of materials for people and scanners who do not know our lock.

Pure: no clock and no random identifier, so that a lock has one document. It says what the lock knows and claims nothing
else: no host, no licence, no supplier. Package URLs are written as ECMA-427 wants them: a colon, such as that of a
Debian epoch, stays as it is; what else is no letter, digit or one of `.-_~` is encoded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from packaging.utils import canonicalize_name

from reprobox.env.bases import DebianPackage, FlattenedBase
from reprobox.env.lockfile import CondaPackage, LinkedFiles, Lock, Wheel
from reprobox.image.oci import CREATED, Image
from reprobox.image.plan import LayerPlan, Package

_DOCUMENT = "SPDXRef-DOCUMENT"
_IMAGE = "SPDXRef-image"
_NAME = "reprobox"
"""What the image is called: its name in an engine is the project's, and not in a lock."""

_UNKNOWN = "NOASSERTION"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What only some kinds of packages have, or each has in its own way.

    Attributes:
        id: Its identifier in the document.
        what: Its kind, for people.
        file: Base name of its file.
        version: Version; "" where there is none.
        purl: Package URL; "" where no manager knows it.
        source: How it came to be, where it was made here; "" otherwise.
    """

    id: str
    what: str
    file: str
    version: str = ""
    purl: str = ""
    source: str = ""


def render_sbom(lock: Lock, image: Image, plans: Sequence[LayerPlan], *, version: str) -> bytes:
    """Render the SPDX document of an image, as JSON with sorted keys, no blanks, and a line feed at its end.

    Args:
        lock: The environment.
        image: Its image, whole.
        plans: The image's layers as planned, lowest first.
        version: Of the reprobox that writes it.

    Raises:
        ValueError: The image has other layers than were planned.
    """
    count = len(image.diff_ids)
    rows = [
        _package_row(package, place=f"layer {number} of {count}, {diff_id}")
        for number, (plan, diff_id) in enumerate(zip(plans, image.diff_ids, strict=True), start=1)
        for package in plan.packages
    ]
    rows.sort(key=lambda row: str(row["SPDXID"]))
    document = {
        "SPDXID": _DOCUMENT,
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "name": f"{_NAME}-{lock.digest.removeprefix('sha256:')[:12]}",
        "creationInfo": {
            "created": CREATED,
            "creators": [f"Tool: {_NAME}-{version}"],
            "comment": "The time is none: it is fixed, so that a lock has one document.",
        },
        "packages": [_image_row(lock, image), *rows],
        "relationships": [
            _relationship(_DOCUMENT, "DESCRIBES", _IMAGE),
            *(_relationship(_IMAGE, "CONTAINS", row["SPDXID"]) for row in rows),
        ],
    }
    # SPDX wants one document for one namespace; notes of a lock, and our version, change this one but not the image.
    content = hashlib.sha256(_json(document)).hexdigest()
    namespace = f"urn:{_NAME}:sbom:{image.manifest_digest}:{content}"
    return _json({**document, "documentNamespace": namespace}) + b"\n"


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _relationship(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _image_row(lock: Lock, image: Image) -> dict[str, Any]:
    purl = _purl("oci", _NAME, image.manifest_digest, arch=json.loads(image.config)["architecture"])
    return {
        **_common_row(_IMAGE, _NAME, image.manifest_digest.removeprefix("sha256:"), purl),
        "primaryPackagePurpose": "CONTAINER",
        "versionInfo": lock.digest,
        "comment": f"{lock.platform}, Python {lock.python}; version: the lock's digest; checksum: the manifest's; "
        f"id in an engine: {image.config_digest}",
    }


def _package_row(package: Package, *, place: str) -> dict[str, Any]:
    entry = _describe(package)
    return {
        **_common_row(entry.id, package.name, package.sha256, entry.purl),
        "packageFileName": entry.file,
        "comment": f"{entry.what}; in {place}",
        **({"versionInfo": entry.version} if entry.version else {}),
        **({"sourceInfo": entry.source} if entry.source else {}),
    }


def _common_row(spdx_id: str, name: str, sha256: str, purl: str) -> dict[str, Any]:
    reference = {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}
    return {
        "SPDXID": spdx_id,
        "name": name,
        "checksums": [{"algorithm": "SHA256", "checksumValue": sha256}],
        "filesAnalyzed": False,
        **dict.fromkeys(("downloadLocation", "licenseConcluded", "licenseDeclared", "copyrightText"), _UNKNOWN),
        "supplier": _UNKNOWN,
        **({"externalRefs": [reference]} if purl else {}),
    }


def _describe(package: Package) -> _Entry:
    match package:
        case DebianPackage():
            file = PurePosixPath(package.file).name
            # A lock has no architecture of its own: dpkg's name of a file ends with it.
            arch = file.removesuffix(".deb").rpartition("_")[2] if "_" in file else ""
            return _Entry(
                id=_spdx_id("deb", package.name),
                what="Debian package",
                file=file,
                version=package.version,
                purl=_purl("deb/debian", package.name, package.version, arch=arch),
            )
        case CondaPackage():
            return _Entry(
                id=_spdx_id("conda", package.name),
                what="conda package",
                file=package.file,
                version=package.version,
                purl=_conda_purl(package),
            )
        case Wheel():
            return _Entry(
                id=_spdx_id("wheel", package.name),
                what="wheel",
                file=package.file,
                version=package.version,
                purl=_purl("pypi", canonicalize_name(package.name), package.version),
                source=f"built from {package.built_from}" if package.built_from else "",
            )
        case FlattenedBase():
            return _Entry(
                id="SPDXRef-base",
                what=f"base of {package.files} files, whose own packages the lock does not name",
                file=f"{package.sha256}.tar",
                source="flattened into one layer from an image or a Dockerfile",
            )
        case LinkedFiles():
            return _Entry(
                id="SPDXRef-linked",
                what=f"{package.files} files that scripts of conda packages wrote at link time",
                file=package.file,
                source=f"written by {', '.join(package.scripts)}",
            )


def _conda_purl(package: CondaPackage) -> str:
    return _purl(
        "conda",
        package.name,
        package.version,
        build=package.build,
        channel=package.channel,
        subdir=package.subdir,
        type="conda" if package.file.endswith(".conda") else "tar.bz2",
    )


def _purl(kind: str, name: str, version: str, **qualifiers: str) -> str:
    given = "&".join(f"{key}={_encode(value)}" for key, value in sorted(qualifiers.items()) if value)
    return f"pkg:{kind}/{_encode(name)}@{_encode(version)}" + (f"?{given}" if given else "")


def _encode(text: str) -> str:
    return quote(text, safe=":")


def _spdx_id(manager: str, name: str) -> str:
    # Names have no capitals, so that X and two digits stand for one byte only, and no two names become one identifier.
    safe = re.sub(rb"[^a-z0-9.-]", lambda found: b"X%02X" % found[0][0], name.encode())
    return f"SPDXRef-{manager}-{safe.decode()}"
