"""Read `conda-lock.yml`, as conda-lock wrote it in any of its years, and pixi before its version 4. Pure.

Each row goes through conda-lock's own model, after a step that sets right what real files hold and the model refuses.

Source: conda_lock/lockfile/v1/models.py of conda-lock 4; conda-lock#639.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from packaging.utils import canonicalize_name

from reprobox.env.conda_lock_models import load_models
from reprobox.env.pinned import PinnedConda, PinnedEnvironment, PinnedWheel, merge_conda, merge_wheels
from reprobox.env.pinned_addresses import (
    parse_checksum,
    parse_conda_address,
    parse_wheel_address,
    refuse_unchecked,
    require_commit,
)
from reprobox.env.pinned_nodes import Fields, NodeReader, is_null, line_of
from reprobox.env.pip_lines import Note
from reprobox.errors import EnvironmentInvalid

_HINT = "make the file again with conda-lock, or correct it there"
_VERSIONS = ("", "1", "2", "3")
"""Missing in old files; 2 is conda-lock's next, and 1 to 3 are those of pixi that have the same shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    node: yaml.Node
    fields: Fields
    platform: str
    categories: frozenset[str]


def parse_conda_lock(
    text: str, *, source: str, platform: str = "linux-64", categories: Collection[str] = ("main",)
) -> PinnedEnvironment:
    """Parse the text of a conda-lock.yml.

    Args:
        text: The file's content.
        source: Its name, for messages.
        platform: Platform to take packages for.
        categories: Categories to take.

    Raises:
        EnvironmentInvalid: It is damaged, lacks the platform or a category, or holds a package that cannot be checked.
    """
    reader = NodeReader(source=source, hint=_HINT)
    document = reader.document(text.removeprefix("\ufeff"))
    version = reader.text(document.get("version"), "version")
    if version not in _VERSIONS:
        raise reader.refuse(document["version"], f"version {version!r} of conda-lock's format is not known here")
    if not {"metadata", "package"} & document.keys():
        raise EnvironmentInvalid(
            f"{source}: no lock of conda-lock: it has neither `metadata` nor `package`", hint=_HINT
        )
    rows = list(_read_rows(reader, document))
    platforms = _read_platforms(reader, document, rows)
    _require_held(source, platform, platforms, categories, rows)
    wanted = [row for row in rows if row.platform == platform and row.categories & set(categories)]
    notes: list[Note] = []
    if not wanted:
        notes.append(Note(line=1, message=f"{source} pins no package at all for {platform}"))
    conda: list[PinnedConda] = []
    wheels: list[PinnedWheel] = []
    for row in wanted:
        if reader.text(row.fields.get("manager"), "manager") == "pip":
            wheels.extend(_read_wheel(reader, row, notes))
        else:
            conda.extend(_read_conda(reader, row, notes))
    packages = merge_conda(conda, source=source)
    return PinnedEnvironment(
        source=source,
        sha256=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        kind="conda-lock",
        platforms=platforms,
        conda=packages,
        wheels=merge_wheels(wheels, source=source),
        notes=(*notes, *_note_old_archives(packages), *_note_bare_addresses(packages)),
    )


def _read_rows(reader: NodeReader, document: Fields) -> Iterator[_Row]:
    for node in reader.items(document.get("package"), "package"):
        fields = reader.mapping(node, "a package")
        platform = reader.text(fields.get("platform"), "platform")
        manager = reader.text(fields.get("manager"), "manager")
        if not platform or manager not in ("conda", "pip"):
            raise reader.refuse(node, f"a package needs a platform and the manager conda or pip, not {manager[:80]!r}")
        many = [reader.text(item, "a category") for item in reader.items(fields.get("categories"), "categories")]
        one = reader.text(fields.get("category"), "category")
        yield _Row(node=node, fields=fields, platform=platform, categories=frozenset(many or [one or "main"]))


def _read_platforms(reader: NodeReader, document: Fields, rows: list[_Row]) -> tuple[str, ...]:
    """Give the platforms that have rows; where there are none at all, those that the file was made for."""
    if rows:
        return tuple(sorted({row.platform for row in rows}))
    metadata = reader.mapping(document.get("metadata"), "metadata")
    named = reader.items(metadata.get("platforms"), "metadata.platforms")
    return tuple(sorted({reader.text(item, "a platform") for item in named}))


def _require_held(
    source: str, platform: str, platforms: tuple[str, ...], categories: Collection[str], rows: list[_Row]
) -> None:
    if platform not in platforms:
        raise EnvironmentInvalid(
            f"{source} holds nothing for {platform}; it holds {', '.join(platforms) or 'no platform'}",
            hint=f"lock for it: conda-lock lock --platform {platform}",
        )
    held = {category for row in rows for category in row.categories}
    # A file with nothing in `main` is odd, but nobody asked for `main` by name.
    missing = sorted(set(categories) - held - {"main"})
    if missing:
        raise EnvironmentInvalid(
            f"{source} has no category {missing[0]!r}; it has {', '.join(sorted(held)) or 'none'}",
            hint="name one of those",
        )


def _read_conda(reader: NodeReader, row: _Row, notes: list[Note]) -> Iterator[PinnedConda]:
    name = reader.text(row.fields.get("name"), "name")
    if name.startswith("__"):
        # What the host provides; conda-lock's own writer leaves such rows out.
        notes.append(Note(line=line_of(row.node), message=f"{name} is no package but stands for the host; left out"))
        return
    where = reader.where(row.node)
    url = _require_url(reader, row, name)
    place = parse_conda_address(url, where=where, platform=row.platform)
    md5, sha256 = _read_hash(reader, row, name or place.name, where)
    if not md5 and not sha256:
        raise refuse_unchecked(name or place.name, where=where)
    model = _validate(reader, row, {"name": place.name, "version": place.version, "build": place.build})
    if (model.name.lower(), model.version) != (place.name.lower(), place.version):
        message = f"{model.name} {model.version} is pinned to a file of another name: {place.file}"
        notes.append(Note(line=line_of(row.node), message=message))
    yield PinnedConda(
        name=model.name,
        version=model.version,
        build=model.build,
        channel=place.channel,
        subdir=place.subdir,
        file=place.file,
        address=place.address,
        size_bytes=reader.size_bytes(row.fields.get("size"), "size"),
        sha256=sha256,
        md5=md5,
        line=line_of(row.node),
    )


def _read_wheel(reader: NodeReader, row: _Row, notes: list[Note]) -> Iterator[PinnedWheel]:
    where = reader.where(row.node)
    name = reader.text(row.fields.get("name"), "name")
    place = parse_wheel_address(_require_url(reader, row, name), where=where)
    name = name or place.name
    if not name:
        raise reader.refuse(row.node, "a package of pip has no name")
    sha256s: tuple[str, ...] = ()
    if place.kind == "git":
        # conda-lock writes the commit where a sha256 belongs.
        require_commit(place, name=name, where=where)
    else:
        sha256 = _read_hash(reader, row, name, where)[1] or place.sha256
        if place.kind == "folder":
            message = f"{name} is a folder of the machine that made {reader.source}: {place.address}; left out"
            notes.append(Note(line=line_of(row.node), message=message))
            return
        if not sha256:
            raise refuse_unchecked(name, where=where)
        sha256s = (sha256,)
    model = _validate(reader, row, {"name": name, "version": place.version, "build": ""})
    yield PinnedWheel(
        name=canonicalize_name(model.name),
        version=model.version,
        file=place.file,
        address=place.address,
        sha256s=sha256s,
        size_bytes=reader.size_bytes(row.fields.get("size"), "size"),
        line=line_of(row.node),
    )


def _require_url(reader: NodeReader, row: _Row, name: str) -> str:
    url = reader.text(row.fields.get("url"), "url")
    if not url:
        raise reader.refuse(row.node, f"{name or 'a package'} has no url")
    return url


def _read_hash(reader: NodeReader, row: _Row, name: str, where: str) -> tuple[str | None, str | None]:
    hashes = reader.mapping(row.fields.get("hash"), f"hash of {name}")
    md5 = parse_checksum(reader.text(hashes.get("md5"), "md5"), algorithm="md5", where=where)
    return md5, parse_checksum(reader.text(hashes.get("sha256"), "sha256"), algorithm="sha256", where=where)


def _validate(reader: NodeReader, row: _Row, defaults: dict[str, str]) -> Any:
    """Give a row as conda-lock's model takes it.

    Raises:
        EnvironmentInvalid: The model refuses it all the same.
    """
    fields = row.fields
    tidy: dict[str, Any] = {key: reader.text(fields.get(key), key) or value for key, value in defaults.items()}
    tidy |= {key: reader.text(fields[key], key) for key in ("manager", "platform", "url")}
    tidy["dependencies"] = _read_dependencies(reader, fields.get("dependencies"))
    # The model demands an md5, which some files lack; what is there was checked before, by this reader.
    tidy["hash"] = {"md5": ""}
    category = min(row.categories)
    tidy |= {"category": category, "optional": reader.text(fields.get("optional"), "optional") or category != "main"}
    if source := fields.get("source"):
        found = reader.mapping(source, "source")
        tidy["source"] = {key: reader.text(value, f"source.{key}") for key, value in found.items()} or None
    try:
        return load_models().LockedDependency.model_validate(tidy)
    except ValueError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise reader.refuse(row.node, f"{tidy['name']}: conda-lock does not take this: {reason}") from None


def _read_dependencies(reader: NodeReader, node: yaml.Node | None) -> dict[str, str]:
    # A list of specs, as pixi wrote them, says nothing that a pinned file needs.
    if node is None or is_null(node) or isinstance(node, yaml.SequenceNode):
        return {}
    found = reader.mapping(node, "dependencies")
    return {key: reader.text(value, f"dependencies.{key}") for key, value in found.items()}


def _note_old_archives(packages: tuple[PinnedConda, ...]) -> Iterator[Note]:
    old = [package for package in packages if package.file.endswith(".tar.bz2")]
    if old:
        yield Note(
            line=old[0].line,
            message=f"{len(old)} addresses end in .tar.bz2, from {old[0].name} on; conda-lock may have written the "
            "checksum of the same build's .conda beside them (conda-lock#639), which cannot be told here",
        )


def _note_bare_addresses(packages: tuple[PinnedConda, ...]) -> Iterator[Note]:
    bare = [package for package in packages if not package.subdir]
    if bare:
        yield Note(
            line=bare[0].line,
            message=f"{len(bare)} addresses name no platform's folder, from {bare[0].name} on",
        )
