"""Read `pixi.lock`, versions 4 to 7. Pure.

An environment names its packages for each platform by address; what is known of an address stands once, in `packages`.

Source: rattler_lock, whose versions 4 and 5 say `kind: conda` with `url:`, and from 6 on `conda: URL`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NoReturn

import yaml
from packaging.utils import canonicalize_name

from reprobox.env.pinned import PinnedConda, PinnedEnvironment, PinnedWheel, merge_conda, merge_wheels
from reprobox.env.pinned_addresses import (
    parse_checksum,
    parse_conda_address,
    parse_wheel_address,
    refuse_unchecked,
    require_commit,
    strip_credentials,
)
from reprobox.env.pinned_nodes import Fields, NodeReader, line_of
from reprobox.env.pip_lines import Note
from reprobox.errors import EnvironmentInvalid

_HINT = "make the file again: pixi lock"
_VERSIONS = ("4", "5", "6", "7")
_Rows = dict[tuple[str, str], tuple[yaml.Node, Fields]]


def parse_pixi_lock(
    text: str, *, source: str, platform: str = "linux-64", environment: str = "default"
) -> PinnedEnvironment:
    """Parse the text of a pixi.lock.

    Args:
        text: The file's content.
        source: Its name, for messages.
        platform: Platform to take packages for.
        environment: Environment to take.

    Raises:
        EnvironmentInvalid: It is damaged, of an unknown version, lacks the environment or platform, or holds a package
            that cannot be checked.
    """
    reader = NodeReader(source=source, hint=_HINT)
    document = reader.document(text.removeprefix("\ufeff"))
    _require_version(reader, document)
    chosen = _choose_environment(reader, document, environment)
    by_platform = reader.mapping(chosen.get("packages"), f"packages of environment {environment}")
    if platform not in by_platform:
        raise EnvironmentInvalid(
            f"{source}: environment {environment!r} holds nothing for {platform}; it holds "
            f"{', '.join(by_platform) or 'no platform'}",
            hint=f"lock for it: pixi project platform add {platform}",
        )
    rows = _index_rows(reader, document)
    conda: list[PinnedConda] = []
    wheels: list[PinnedWheel] = []
    notes: list[Note] = []
    for node in reader.items(by_platform[platform], f"packages for {platform}"):
        reference = reader.mapping(node, "a package")
        if "conda" in reference:
            conda.extend(_read_conda(reader, reference["conda"], rows, platform, notes))
        elif "pypi" in reference:
            wheels.extend(_read_wheel(reader, reference["pypi"], rows, notes))
        elif "conda_source" in reference:
            _note_source(reader, reference["conda_source"], notes)
        else:
            raise reader.refuse(node, "a package must be of conda or pypi")
    if not conda and not wheels:
        notes.append(Note(line=line_of(by_platform[platform]), message=f"{source} pins no package at all"))
    return PinnedEnvironment(
        source=source,
        sha256=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        kind="pixi",
        platforms=tuple(sorted(by_platform)),
        conda=merge_conda(conda, source=source),
        wheels=merge_wheels(wheels, source=source),
        indexes=tuple(_read_urls(reader, chosen.get("indexes"), "indexes")),
        notes=tuple(notes),
        find_links=tuple(_read_urls(reader, chosen.get("find-links"), "find-links")),
    )


def _require_version(reader: NodeReader, document: Fields) -> None:
    if "version" not in document or "environments" not in document:
        raise EnvironmentInvalid(
            f"{reader.source}: no lock of pixi: it needs `version` and `environments`", hint=reader.hint
        )
    version = reader.text(document["version"], "version")
    if version not in _VERSIONS:
        raise EnvironmentInvalid(
            f"{reader.where(document['version'])}: version {version[:80]!r} of pixi's lock is not known here "
            f"({_VERSIONS[0]} to {_VERSIONS[-1]} are)",
            hint="write it with another pixi, or export a list: pixi project export conda-explicit-spec",
        )


def _choose_environment(reader: NodeReader, document: Fields, environment: str) -> Fields:
    environments = reader.mapping(document["environments"], "environments")
    if environment not in environments:
        raise EnvironmentInvalid(
            f"{reader.source} has no environment {environment!r}; it has {', '.join(environments) or 'none'}",
            hint="name one of those",
        )
    return reader.mapping(environments[environment], f"environment {environment}")


def _index_rows(reader: NodeReader, document: Fields) -> _Rows:
    rows: _Rows = {}
    for node in reader.items(document.get("packages"), "packages"):
        fields = reader.mapping(node, "a package")
        kind = reader.text(fields.get("kind"), "kind") or next((key for key in ("conda", "pypi") if key in fields), "")
        address = next((reader.text(fields[key], key) for key in (kind, "url", "path") if key in fields), "")
        if kind not in ("conda", "pypi"):
            if "conda_source" in fields:
                continue
            raise reader.refuse(node, "a package must be of conda or pypi")
        other = rows.setdefault((kind, address), (node, fields))
        for key in ("sha256", "md5"):
            if reader.text(other[1].get(key), key) != reader.text(fields.get(key), key):
                raise reader.refuse(node, f"{strip_credentials(address)} stands twice, with different checksums")
    return rows


def _read_conda(
    reader: NodeReader, node: yaml.Node, rows: _Rows, platform: str, notes: list[Note]
) -> Iterator[PinnedConda]:
    address = reader.text(node, "conda")
    if not address.endswith((".conda", ".tar.bz2")):
        _note_source(reader, node, notes)
        return
    row, fields = rows.get(("conda", address)) or _refuse_unknown(reader, node, address)
    where = reader.where(row)
    place = parse_conda_address(address, where=where, platform=platform)
    named = {key: reader.text(fields.get(key), key) for key in ("name", "version", "build")}
    md5 = parse_checksum(reader.text(fields.get("md5"), "md5"), algorithm="md5", where=where)
    sha256 = parse_checksum(reader.text(fields.get("sha256"), "sha256"), algorithm="sha256", where=where)
    if not md5 and not sha256:
        raise refuse_unchecked(named["name"] or place.name, where=where)
    yield PinnedConda(
        name=named["name"] or place.name,
        version=named["version"] or place.version,
        build=named["build"] or place.build,
        channel=place.channel,
        subdir=place.subdir,
        file=place.file,
        address=place.address,
        size_bytes=reader.size_bytes(fields.get("size"), "size"),
        sha256=sha256,
        md5=md5,
        line=line_of(row),
    )


def _read_wheel(reader: NodeReader, node: yaml.Node, rows: _Rows, notes: list[Note]) -> Iterator[PinnedWheel]:
    address = reader.text(node, "pypi")
    row, fields = rows.get(("pypi", address)) or _refuse_unknown(reader, node, address)
    where = reader.where(row)
    place = parse_wheel_address(address, where=where)
    name = reader.text(fields.get("name"), "name") or place.name
    if place.kind == "folder":
        message = f"{name or 'a package'} is a folder or file beside {reader.source}: {place.address}; left out"
        notes.append(Note(line=line_of(row), message=message))
        return
    if not name:
        raise reader.refuse(row, "a package of pypi has no name")
    sha256 = parse_checksum(reader.text(fields.get("sha256"), "sha256"), algorithm="sha256", where=where)
    known = sha256 or place.sha256
    if place.kind == "git":
        require_commit(place, name=name, where=where)
        known = None
    elif not known:
        raise refuse_unchecked(name, where=where)
    yield PinnedWheel(
        name=canonicalize_name(name),
        version=reader.text(fields.get("version"), "version") or place.version,
        file=place.file,
        address=place.address,
        sha256s=(known,) if known else (),
        size_bytes=reader.size_bytes(fields.get("size"), "size"),
        line=line_of(row),
    )


def _note_source(reader: NodeReader, node: yaml.Node, notes: list[Note]) -> None:
    what = strip_credentials(reader.text(node, "a package"))
    notes.append(Note(line=line_of(node), message=f"{what} is built from source by pixi; left out"))


def _refuse_unknown(reader: NodeReader, node: yaml.Node, address: str) -> NoReturn:
    raise reader.refuse(node, f"{strip_credentials(address)[:200]!r} is not among `packages`")


def _read_urls(reader: NodeReader, node: yaml.Node | None, what: str) -> Iterator[str]:
    for item in reader.items(node, what):
        if isinstance(item, yaml.MappingNode):
            # find-links are written as `url: …` or `path: …`.
            yield from (strip_credentials(reader.text(value, what)) for value in reader.mapping(item, what).values())
        else:
            yield strip_credentials(reader.text(item, what))
