"""Link conda packages into a layer: the bytes that conda would put into /opt/env, as a pure function of the package.

Nothing is unpacked on disk: members go from the archive through the prefix replacement into the layer. What a package
would do beyond files (scripts at link time, at activation) is not done here; it is told, so that it can be named or
captured.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from reprobox.env.lockfile import CondaPackage
from reprobox.errors import BuildError
from reprobox.image.conda_archive import BROKEN, CondaArchive, PackageInfo, PackagePath, replace_prefix
from reprobox.image.layers import NO_SPACE, LayerExtras, LayerWriter
from reprobox.image.places import PREFIX, render_launcher, site_packages
from reprobox.image.wheels import Compile

_ENTRY_POINT = re.compile(r"\s*(?P<name>[\w.+-]+)\s*=\s*(?P<module>[\w.]+)\s*:\s*(?P<attr>[\w.]+)\s*(?:\[[^\]]*\])?\s*")
_LINK_SCRIPT = re.compile(r"bin/\.[^/]+-(?:post|pre)-(?:link|unlink)\.sh$")
_VARIABLES = re.compile(r"etc/conda/env_vars\.d/[^/]+\.json$")
_ACTIVATION = re.compile(r"etc/conda/activate\.d/[^/]+\.sh$")
_SMALL_TEXT = 1 << 20


@dataclass(slots=True)
class Linked:
    """What linking a layer's packages brought up beside files.

    Attributes:
        variables: Environment variables that packages set by env_vars.d, in order.
        activation: Path → text of scripts that a shell would source at activation.
        link_scripts: Paths of scripts that conda would run when it links or unlinks.
    """

    variables: dict[str, str] = field(default_factory=dict)
    activation: dict[str, str] = field(default_factory=dict)
    link_scripts: list[str] = field(default_factory=list)

    def to_extras(self) -> LayerExtras:
        """Render them as a layer keeps them."""
        return LayerExtras(
            variables=tuple(self.variables.items()),
            activation=tuple(sorted(self.activation.items())),
            link_scripts=tuple(sorted(self.link_scripts)),
        )


def write_conda(
    packages: Sequence[tuple[CondaPackage, Path]],
    *,
    writer: LayerWriter,
    python: str,
    scratch: Path,
    compile_sources: Compile | None,
    linked: Linked,
) -> None:
    """Link packages into a layer.

    Args:
        packages: What they are, each with its file, whose hash was checked; in the order of the layer.
        writer: The layer.
        python: Exact version of the environment's interpreter.
        scratch: An empty folder for what must lie on disk.
        compile_sources: Compiles modules of noarch packages with the locked interpreter; None where none is asked for.
        linked: Told what there is beside files.

    Raises:
        BuildError: One is no conda package, is not what is locked, or holds something that is not a place inside.
    """
    linkers = []
    for package, file in packages:
        archive = CondaArchive(package, file, scratch)
        try:
            linker = _Linker(archive, package, archive.read_info(), writer, python, scratch, linked)
            linker.write_files()
        except BROKEN as error:
            if isinstance(error, OSError) and error.errno in NO_SPACE:
                raise
            raise archive.broken(str(error) or type(error).__name__) from None
        finally:
            archive.close()
        linkers.append(linker)
    # All at once: starting an interpreter takes longer than compiling most packages.
    sources = [source for linker in linkers for source in linker.sources]
    codes = compile_sources(scratch, sources) if compile_sources is not None and sources else [None] * len(sources)
    for linker in linkers:
        linker.write_rest(codes[: len(linker.sources)])
        codes = codes[len(linker.sources) :]


class _Linker:
    """One package on its way into a layer."""

    def __init__(
        self, archive: CondaArchive, package: CondaPackage, info: PackageInfo, writer: LayerWriter, python: str,
        scratch: Path, linked: Linked,
    ) -> None:  # fmt: skip
        self._archive = archive
        self._package = package
        self._info = info
        self._writer = writer
        self._site = site_packages(python)
        self._tag = "cpython-" + "".join(python.split(".")[:2])
        self._scratch = scratch
        self._linked = linked
        self._rows: dict[str, dict[str, Any]] = {}
        self._written: dict[str, bool] = {}
        self.sources: list[tuple[str, str]] = []
        """Modules to compile: file below the scratch folder, and absolute path in the image."""

    def write_files(self) -> None:
        """Write what the package holds, and launchers of its entry points.

        Raises:
            BuildError: It is not what it says of itself.
        """
        # Of whatever Python: a layer of native packages does not follow the environment's.
        changed = {path.removesuffix(".py") for path, row in self._info.paths.items() if row.placeholder}
        stale = {path for path in self._info.paths if _source_of(path) in changed}
        for member, path, stream in self._archive.stream_files():
            row = self._info.paths.get(path)
            if row is None or path in stale:
                # conda links what is listed and nothing else; bytecode of a source that is changed here is of no use.
                continue
            self._write(member, row, stream)
        missing = [
            path
            for path, row in self._info.paths.items()
            if row.kind != "directory" and path not in self._written and path not in stale
        ]
        if missing:
            raise self._archive.broken(f"it lists {missing[0]!r}, which it does not hold")
        for path, row in self._info.paths.items():
            if row.kind == "directory" and path not in self._written:
                self._writer.add_directory(self._place(path))
        self._write_entry_points()

    def write_rest(self, codes: Sequence[bytes | None]) -> None:
        """Write the bytecode of `sources`, and the package's note."""
        for (_, place), code in zip(self.sources, codes, strict=True):
            if code is not None:
                bytecode = _bytecode_of(place.lstrip("/"), self._tag)
                self._writer.add_file(bytecode, code, size=len(code))
                path = bytecode.removeprefix(PREFIX + "/")
                self._rows[path] = {"_path": path, "path_type": "pyc_file"}
        self._write_note()

    def _place(self, path: str) -> str:
        """Give the place in the image: files of noarch packages go where the interpreter looks for them."""
        if self._info.is_noarch_python:
            if path.startswith("site-packages/"):
                return f"{self._site}/{path.removeprefix('site-packages/')}"
            if path.startswith("python-scripts/"):
                return f"{PREFIX}/bin/{path.removeprefix('python-scripts/')}"
        return f"{PREFIX}/{path}"

    def _write(self, member: tarfile.TarInfo, row: PackagePath, stream: BinaryIO | None) -> None:
        place = self._place(row.path)
        if row.path in self._written:
            raise self._archive.broken(f"it holds {row.path!r} twice")
        executable, mtime = bool(member.mode & 0o111), int(member.mtime)
        self._written[row.path] = executable
        if member.isdir():
            self._writer.add_directory(place)
            return
        note: dict[str, Any] = {"_path": place.removeprefix(PREFIX + "/"), "path_type": "hardlink"}
        if member.issym():
            self._writer.add_symlink(place, member.linkname, mtime=mtime)
            note["path_type"] = "softlink"
        elif member.islnk():
            target = member.linkname.removeprefix("./")
            if target not in self._written:
                raise self._archive.broken(f"{row.path!r} is another name of {target!r}, which does not come before it")
            self._writer.add_hardlink(place, self._place(target), executable=self._written[target], mtime=mtime)
        elif stream is not None:
            self._write_file(place, row, member.size, stream, executable, mtime, note)
        self._rows[note["_path"]] = note

    def _write_file(
        self, place: str, row: PackagePath, size: int, stream: BinaryIO, executable: bool, mtime: int,
        note: dict[str, Any],
    ) -> None:  # fmt: skip
        kept = _LINK_SCRIPT.search(row.path) or _VARIABLES.search(row.path) or _ACTIVATION.search(row.path)
        compiled = self._info.is_noarch_python and place.startswith(self._site) and place.endswith(".py")
        if row.placeholder is None and not kept and not compiled:
            self._writer.add_file(place, stream, size=size, executable=executable, mtime=mtime)
            return
        content = stream.read()
        if row.placeholder is not None:
            content = replace_prefix(content, row.placeholder, b"/" + PREFIX.encode(), row.mode)
            note |= {"prefix_placeholder": row.placeholder.decode(), "file_mode": row.mode}
        if kept and size <= _SMALL_TEXT:
            self._note_script(row.path, content)
        if compiled:
            self._keep_source(place, content)
        self._writer.add_file(place, content, size=len(content), executable=executable, mtime=mtime)

    def _note_script(self, path: str, content: bytes) -> None:
        if _LINK_SCRIPT.search(path):
            self._linked.link_scripts.append(path)
        elif _ACTIVATION.search(path):
            self._linked.activation[path] = content.decode("utf-8", "replace")
        else:
            values = json.loads(content)
            if isinstance(values, dict):
                self._linked.variables |= {str(key): str(value) for key, value in values.items()}

    def _keep_source(self, place: str, content: bytes) -> None:
        if "/tests/" in place or place.endswith("_test.py"):
            return
        # Two packages of a layer may bring the same path; each has its own folder.
        name = f"{self._package.sha256}/{len(self.sources)}.py"
        (self._scratch / self._package.sha256).mkdir(exist_ok=True)
        (self._scratch / name).write_bytes(content)
        self.sources.append((name, "/" + place))

    def _write_entry_points(self) -> None:
        for line in self._info.entry_points:
            found = _ENTRY_POINT.fullmatch(line)
            if not found:
                raise self._archive.broken(f"its entry point {line!r} makes no sense")
            place = f"{PREFIX}/bin/{found['name']}"
            content = render_launcher(found["module"], found["attr"])
            self._writer.add_file(place, content, size=len(content), executable=True)
            self._rows[f"bin/{found['name']}"] = {
                "_path": f"bin/{found['name']}",
                "path_type": "unix_python_entry_point",
            }

    def _write_note(self) -> None:
        """Write conda-meta's note of the package, so that conda and its kin see it in the environment."""
        package, index = self._package, self._info.index
        files = sorted(self._rows)
        taken = ("license", "timestamp", "noarch", "features", "track_features")
        note: dict[str, Any] = {key: index[key] for key in taken if key in index}
        note |= {
            "name": package.name,
            "version": package.version,
            "build": package.build,
            "build_number": index.get("build_number", 0),
            "channel": package.channel,
            "subdir": package.subdir,
            "fn": package.file,
            "url": f"conda:///{package.channel}/{package.subdir}/{package.file}",
            "sha256": package.sha256,
            "size": package.size_bytes,
            "depends": index.get("depends", []),
            "constrains": index.get("constrains", []),
            "requested_spec": "",
            "files": files,
            "paths_data": {"paths_version": 1, "paths": [self._rows[path] for path in files]},
        }
        content = (json.dumps(note, indent=1, sort_keys=True) + "\n").encode()
        stem = re.sub(r"\.(conda|tar\.bz2)$", "", package.file)
        self._writer.add_file(f"{PREFIX}/conda-meta/{stem}.json", content, size=len(content))


def _bytecode_of(path: str, tag: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc" if name.endswith(".py") else ""


def _source_of(path: str) -> str | None:
    """Give the source that a bytecode file is of, without `.py`; None for what is no bytecode."""
    found = re.fullmatch(r"(.*/)?__pycache__/([^/]+?)\.cpython-\d+(?:\.opt-\d)?\.pyc", path)
    return None if found is None else f"{found[1] or ''}{found[2]}"


def write_conda_skeleton(writer: LayerWriter) -> None:
    """Write what makes a prefix an environment of conda, before any package."""
    writer.add_file(f"{PREFIX}/conda-meta/history", b"", size=0)


def unpack_python(archive: Path, package: CondaPackage, folder: Path) -> None:
    """Unpack an interpreter's package into a folder, to compile with it on this machine.

    Raises:
        BuildError: The package cannot be read, or holds no interpreter.
    """
    opened = CondaArchive(package, archive, folder)
    links: list[tuple[Path, str]] = []
    try:
        info = opened.read_info()
        for member, path, stream in opened.stream_files():
            row = info.paths.get(path)
            if row is None or member.isdir():
                continue
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if stream is None:
                links.append((place, member.linkname))
                continue
            with place.open("wb") as target:
                while chunk := stream.read(1 << 20):
                    target.write(chunk)
            if member.mode & 0o111:
                place.chmod(0o755)
            # The bytecode that the package brings is valid for sources of this time alone.
            os.utime(place, (member.mtime, member.mtime))
        # Links last: nothing may be written through one.
        for place, target_name in links:
            if not place.exists() and not place.is_symlink():
                place.symlink_to(target_name)
    except BROKEN as error:
        raise opened.broken(str(error) or type(error).__name__) from None
    finally:
        opened.close()
    short = ".".join(package.version.split(".")[:2])
    if not (folder / f"bin/python{short}").exists():
        raise BuildError(f"{package.file} holds no bin/python{short}", hint="ask for another build of python")
