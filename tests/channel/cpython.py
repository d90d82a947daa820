"""CPython 3.11 and its libraries, taken from Debian 12 and moved to where conda has them.

What Debian changed of CPython so that packages land in dist-packages is taken back in site.py (its text and the
frozen copy in the interpreter), sysconfig.py and distutils; everything else is Debian's own. Libraries and extension modules find
each other by DT_RPATH.
"""

from __future__ import annotations

import re
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.channel.conda_package import File, Package
from tests.channel.workshop import TRIPLET, Workshop, find_needs, glibc_pin, pyc_path

Made = tuple[Package, list[File]]

_LIBRARIES = f"usr/lib/{TRIPLET}/"
_STDLIB = "usr/lib/python3.11/"
SITE_PACKAGES = "lib/python3.11/site-packages"

# Modules that need libraries which a conda environment has not, or that conda-forge leaves out too.
_WITHOUT = re.compile(
    r"lib-dynload/(nis|_dbm|ossaudiodev)\.|^_distutils_system_mod\.py$|^sitecustomize\.py$|^EXTERNALLY-MANAGED$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A conda package of shared libraries.

    Attributes:
        name: Conda name.
        debian: Debian packages, the first of which gives version and license text.
        license: SPDX expression.
        major: Parts of the version that dependents are pinned to.
        moved: Further prefixes of Debian paths → of the environment.
        depends: Beyond what its ELF files need.
        noarch: Whether it holds no libraries.
    """

    name: str
    debian: tuple[str, ...]
    license: str
    moved: tuple[tuple[str, str], ...] = ()
    depends: tuple[str, ...] = ()
    noarch: bool = False


LIBRARIES = (
    Library(
        name="ca-certificates",
        debian=("ca-certificates",),
        license="ISC",
        moved=(("usr/share/ca-certificates/", "ssl/"),),
        noarch=True,
    ),
    Library(
        name="tzdata",
        debian=("tzdata",),
        license="LicenseRef-Public-Domain",
        moved=(("usr/share/zoneinfo/", "share/zoneinfo/"),),
        noarch=True,
    ),
    Library(name="libgcc", debian=("libgcc-s1",), license="GPL-3.0-only WITH GCC-exception-3.1", depends=("_libgcc_mutex 0.1 conda_forge",)),
    Library(name="libgomp", debian=("libgomp1",), license="GPL-3.0-only WITH GCC-exception-3.1", depends=("_libgcc_mutex 0.1 conda_forge",)),
    Library(name="libstdcxx", debian=("libstdc++6",), license="GPL-3.0-only WITH GCC-exception-3.1"),
    Library(name="libzlib", debian=("zlib1g",), license="Zlib"),
    Library(name="bzip2", debian=("libbz2-1.0",), license="bzip2-1.0.6"),
    Library(name="xz", debian=("liblzma5",), license="0BSD"),
    Library(name="libexpat", debian=("libexpat1",), license="MIT"),
    Library(name="libffi", debian=("libffi8",), license="MIT"),
    Library(name="libuuid", debian=("libuuid1",), license="BSD-3-Clause"),
    Library(name="libxcrypt", debian=("libcrypt1",), license="LGPL-2.1-or-later"),
    Library(
        name="openssl",
        debian=("libssl3",),
        license="Apache-2.0",
        moved=((f"{_LIBRARIES}ossl-modules/", "lib/ossl-modules/"), (f"{_LIBRARIES}engines-3/", "lib/engines-3/")),
        depends=("ca-certificates",),
    ),
    Library(
        name="ncurses",
        debian=("libncursesw6", "libtinfo6", "ncurses-base"),
        license="X11 AND BSD-3-Clause",
        moved=(("usr/lib/terminfo/", "share/terminfo/"),),
    ),
    Library(name="readline", debian=("libreadline8",), license="GPL-3.0-only"),
    Library(name="libsqlite", debian=("libsqlite3-0",), license="blessing"),
)  # fmt: skip


def upstream(version: str) -> str:
    """The version that Debian packaged, as conda writes it."""
    return re.split(r"[-+~]|\.dfsg", version.partition(":")[2] or version)[0]


def library_pin(name: str, version: str) -> str:
    """How a dependent is pinned to a library."""
    if name in ("libgcc", "libstdcxx", "libgomp"):
        return f"{name} >={version.partition('.')[0]}"
    return f"{name} >={version},<{int(version.partition('.')[0]) + 1}.0a0"


def pins(workshop: Workshop, needs: set[str], *, but: str = "") -> list[str]:
    """The dependencies on libraries that a package's ELF files need."""
    found = []
    for library in LIBRARIES:
        if library.name in needs and library.name != but:
            found.append(library_pin(library.name, upstream(workshop.source(f"deb:{library.debian[0]}").version)))
    return found


def make_libraries(workshop: Workshop) -> Iterator[tuple[str, Callable[[], Made]]]:
    """Plan the packages below CPython: a name, and what makes it."""
    for library in LIBRARIES:
        yield library.name, lambda library=library: _make_library(workshop, library)
    yield (
        "_libgcc_mutex",
        lambda: (Package(name="_libgcc_mutex", version="0.1", build="conda_forge", license="None"), []),
    )
    yield (
        "_openmp_mutex",
        lambda: (
            Package(
                name="_openmp_mutex",
                version="4.5",
                build="2_gnu",
                build_number=16,
                depends=("_libgcc_mutex 0.1 conda_forge", "libgomp >=7.5.0"),
                license="BSD-3-Clause",
            ),
            [],
        ),
    )
    yield (
        "python_abi",
        lambda: (
            Package(
                name="python_abi",
                version="3.11",
                build="8_cp311",
                build_number=8,
                noarch="generic",
                constrains=("python 3.11.* *_cpython",),
                license="BSD-3-Clause",
            ),
            [],
        ),
    )


def _make_library(workshop: Workshop, library: Library) -> Made:
    files: dict[str, File] = {}
    needs: set[str] = set()
    mtime = 0
    for debian in library.debian:
        for path, file in workshop.read_debian(debian).items():
            place = _place(path, library)
            if place is None:
                continue
            mtime = max(mtime, file.mtime or 0)
            content = file.content
            if isinstance(content, bytes) and content.startswith(b"\x7fELF"):
                needs |= find_needs(content)
                content = workshop.set_rpath(content, "$ORIGIN" + "/.." * (place.count("/") - 1))
            files[place] = replace(file, path=place, content=content)
    if library.name == "ca-certificates":
        bundle = [f.content for p, f in sorted(files.items()) if p.endswith(".crt") and isinstance(f.content, bytes)]
        files = {
            "ssl/cacert.pem": File(
                path="ssl/cacert.pem", content=b"".join(pem.rstrip(b"\n") + b"\n" for pem in bundle)
            ),
            "ssl/cert.pem": File(path="ssl/cert.pem", link="cacert.pem"),
        }
    source = workshop.source(f"deb:{library.debian[0]}")
    depends = [*library.depends, *pins(workshop, needs, but=library.name)]
    if library.name == "libgcc":
        depends.append("_openmp_mutex >=4.5")
    if not library.noarch:
        depends.insert(0, glibc_pin(needs))
    version = upstream(source.version)
    if library.name == "ca-certificates":
        version = f"{version[:4]}.{int(version[4:6])}.{int(version[6:8])}"
    package = Package(
        name=library.name,
        version=version,
        depends=tuple(depends),
        license=library.license,
        noarch="generic" if library.noarch else None,
        timestamp=mtime,
        constrains=("libgcc-ng ==9999",) if library.name == "libgcc" else (),
        variables={"debian": source.version},
        run_exports=() if library.noarch else (library_pin(library.name, version),),
        info=_copyright(workshop, library.debian[0]),
    )
    return package, list(files.values())


def _place(path: str, library: Library) -> str | None:
    if path == "usr/share/zoneinfo/localtime":
        # Debian's link to the machine's own time zone leads out of an environment.
        return None
    for before, after in library.moved:
        if path.startswith(before):
            return after + path.removeprefix(before)
    name = path.removeprefix(_LIBRARIES)
    return f"lib/{name}" if path.startswith(_LIBRARIES) and "/" not in name and ".so" in name else None


def _copyright(workshop: Workshop, debian: str) -> dict[str, bytes]:
    file = workshop.read_debian(debian).get(f"usr/share/doc/{debian}/copyright")
    return {"licenses/copyright": file.content} if file and isinstance(file.content, bytes) else {}


def make_python(workshop: Workshop) -> Made:
    """Make the package `python`."""
    source = workshop.source("deb:libpython3.11-minimal")
    version = upstream(source.version)
    brought: dict[str, File] = {}
    for debian in (
        "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "python3-distutils", "python3-lib2to3",
    ):  # fmt: skip
        brought |= workshop.read_debian(debian)
    mtime = max(file.mtime or 0 for file in brought.values())
    package = Package(
        name="python",
        version=version,
        build_suffix="_cpython",
        license="Python-2.0",
        timestamp=mtime,
        constrains=("python_abi 3.11.* *_cp311",),
        variables={"debian": source.version},
        run_exports=("python_abi 3.11.* *_cp311",),
        summary="General purpose programming language",
        info=_copyright(workshop, "libpython3.11-minimal"),
    )
    files: dict[str, File] = {}
    needs: set[str] = set()
    for path, file in brought.items():
        name = path.removeprefix(_STDLIB)
        if not path.startswith(_STDLIB) or _WITHOUT.search(name):
            continue
        place = f"lib/python3.11/{name}"
        content = file.content
        if file.link is None and isinstance(content, bytes):
            if content.startswith(b"\x7fELF"):
                needs |= find_needs(content)
                content = workshop.set_rpath(content, "$ORIGIN/../..")
            elif name.endswith(".py"):
                content = _restore(name, content.decode("utf-8", "surrogateescape"), package).encode(
                    "utf-8", "surrogateescape"
                )
        marked = name.startswith("_sysconfigdata") and file.link is None
        files[place] = replace(
            file, path=place, content=content, executable=False, placeholder=package.prefix if marked else None
        )
    executable = brought["usr/bin/python3.11"].content
    assert isinstance(executable, bytes)
    needs |= find_needs(executable)
    # The build prefix as it is in real ones: in a string of the dynamic section, behind what finds its own libraries.
    patched = workshop.set_rpath(_restore_frozen_site(executable), f"$ORIGIN/../lib:{package.prefix}/lib")
    files["bin/python3.11"] = File(
        path="bin/python3.11", content=patched, executable=True, placeholder=package.prefix, binary=True, mtime=mtime
    )
    for name in ("python", "python3", "python3.1"):
        files[f"bin/{name}"] = File(path=f"bin/{name}", link="python3.11")
    for name, module, call in (("pydoc3.11", "pydoc", "cli()"), ("2to3-3.11", "lib2to3.main", "main('lib2to3.fixes')")):
        text = f"#!{package.prefix}/bin/python3.11\nimport sys\nfrom {module} import {call.partition('(')[0]}\nsys.exit({call})\n"
        files[f"bin/{name}"] = File(
            path=f"bin/{name}", content=text.encode(), executable=True, placeholder=package.prefix
        )
    files["bin/pydoc"] = File(path="bin/pydoc", link="pydoc3.11")
    files["bin/2to3"] = File(path="bin/2to3", link="2to3-3.11")
    readme = f"{SITE_PACKAGES}/README.txt"
    files[readme] = File(
        path=readme, content=b"This directory exists so that 3rd party packages can be installed\nhere.\n"
    )
    files |= _compiled(workshop, package, files)
    depends = (glibc_pin(needs), *pins(workshop, needs), "tzdata")
    return replace(package, depends=depends), list(files.values())


def _restore_frozen_site(executable: bytes) -> bytes:
    """Take Debian's folders out of the module `site` that is frozen into the interpreter.

    Its strings lie there as objects: length and hash (-1, not yet computed) before the characters. So
    getsitepackages() gives lib/python3.11/site-packages first, and then a folder that there never is.
    """
    for before, after in ((b"dist-packages", b"site-packages"), (b"local/lib", b"lib")):
        assert executable.count(before + b"\0") == 1, before
        at = executable.index(before + b"\0")
        header = struct.pack("<qq", len(before), -1)
        assert executable[at - 32 : at - 16] == header, before
        data = struct.pack("<qq", len(after), -1) + executable[at - 16 : at] + after.ljust(len(before), b"\0")
        executable = executable[: at - 32] + data + executable[at + len(before) :]
    return executable


def _compiled(workshop: Workshop, package: Package, files: dict[str, File]) -> dict[str, File]:
    sources = [
        f for p, f in sorted(files.items()) if p.endswith(".py") and f.link is None and "/lib2to3/tests/data/" not in p
    ]
    with tempfile.TemporaryDirectory(dir=workshop.folder) as folder:
        for file in sources:
            assert isinstance(file.content, bytes)
            place = Path(folder) / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.content)
        rows = [(f.path, f"{package.prefix}/{f.path}", f.mtime or package.mtime) for f in sources]
        codes = workshop.compile_sources(Path(folder), rows)
    found = {}
    for file, code in zip(sources, codes, strict=True):
        # What has the prefix in its text is rewritten at the link, and its bytecode would be stale.
        if code is not None and file.placeholder is None:
            path = pyc_path(file.path)
            found[path] = File(path=path, content=code, mtime=file.mtime)
    return found


def _cut(text: str, begin: str, end: str, instead: str) -> str:
    first = text.index(begin)
    return text[:first] + instead + text[text.index(end, first) :]


def _restore(name: str, text: str, package: Package) -> str:
    """Take back what Debian changed, and put the build prefix where CPython's own build has it."""
    if name.startswith("_sysconfigdata"):
        text = text.replace(f"/usr/lib/{TRIPLET}", "/usr/lib")
        text = re.sub(r"/usr/share/zoneinfo:[\w/:]*", "/usr/share/zoneinfo:/usr/share/tzinfo", text)
        return re.sub(r"(?<![\w.])/usr(?!/bin/|/src)(?=[/' ])", package.prefix, text)
    if name == "site.py":
        plain = "            for libdir in libdirs:\n                path = os.path.join(prefix, libdir,\n"
        plain += '                                    "python%d.%d" % sys.version_info[:2],\n'
        plain += '                                    "site-packages")\n                sitepackages.append(path)\n'
        text = _cut(text, "            if is_virtual_environment:\n", "        else:\n            sitepackages", plain)
        text = text.replace(
            '    is_virtual_environment = sys.base_prefix != sys.prefix or hasattr(sys, "real_prefix")\n\n', ""
        )
        text = _cut(text, "For Debian and derivatives", "If a file named", "")
        return text.replace("lib/python3/dist-packages.", "lib/python<version>/site-packages.")
    if name == "sysconfig.py":
        text = _cut(text, "    'deb_system': {", "    'posix_home': {", "")
        text = text.replace("'posix_home', 'posix_local', 'deb_system'", "'posix_home'")
        return _cut(
            text,
            '    if sys.base_prefix != sys.prefix or hasattr(sys, "real_prefix"):\n        # virtual',
            "    return {\n        'prefix': prefix_scheme",
            "    prefix_scheme = 'posix_prefix'\n",
        )
    if name == "distutils/sysconfig.py":
        return _cut(text, "        elif is_default_prefix and not is_virtual", "        else:\n", "")
    if name == "distutils/command/install.py":
        return text.replace('self.select_scheme("unix_local")', 'self.select_scheme("unix_prefix")')
    return text
