"""Small packages that each have one property of real ones: what they show is said at each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

from tests.channel.conda_package import File, Package, seconds
from tests.channel.workshop import Workshop

Made = tuple[Package, list[File]]

OLD_FORMAT = "old-format"
"""Name of the package that is written as .tar.bz2 without info/paths.json."""

POST_LINK_NOTE = "var/post-link-demo.txt"
"""What the post-link script of post-link-demo writes, below the prefix."""

CUDA = {"11.8": "2023-02-01", "12.2": "2023-09-01", "12.5": "2024-06-10", "13.0": "2025-08-05"}


def make_special(workshop: Workshop) -> list[Made]:
    """Make the special packages of the first channel."""
    return [
        *_python(),
        *_prefixes(workshop),
        *_scripts(),
        *_links(),
        *_folder(),
        *_odd(),
        *make_cuda(),
        *make_frameworks(),
        *_conflicts(),
        *_versions(),
        *_virtual(),
    ]


def make_second() -> list[Made]:
    """Make the packages of the second channel: a newer version of a name that the first has too, and one of its own."""
    return [
        _marker("versioned", "3.0", timestamp=seconds("2025-06-01")),
        _marker("shared-lib", "2.1", timestamp=seconds("2025-06-01"), variables={"channel": "second"}, build_number=5),
        _marker("only-second", "1.0", depends=("versioned",), timestamp=seconds("2025-06-01")),
    ]


def make_many(count: int) -> list[Made]:
    """Make a large environment: `many` depends on that many noarch packages of forty files each."""
    found = []
    for number in range(count):
        name = f"many-{number:04d}"
        files = [
            File(
                path=f"site-packages/many_{number:04d}/module_{index:02d}.py",
                content=f"VALUE = {number * index}\n".encode(),
            )
            for index in range(40)
        ]
        found.append(
            (Package(name=name, version="1.0", build="pyhd8ed1ab_0", noarch="python", depends=("python",)), files)
        )
    names = tuple(package.name for package, _ in found)
    return [*found, (Package(name="many", version="1.0", noarch="generic", depends=names), [])]


def _marker(name: str, version: str, **more: object) -> Made:
    """A noarch package of one file that says what it is."""
    package = Package(name=name, version=version, noarch="generic", **more)  # type: ignore[arg-type]
    text = f"{package.dist}\n".encode()
    return package, [File(path=f"share/{name}/{name}.txt", content=text)]


def _python() -> Iterator[Made]:
    # noarch: python, with entry points, a data file, a script of its own and dist-info.
    info = "site-packages/hello_entry-1.0.dist-info"
    yield (
        Package(
            name="hello-entry",
            version="1.0",
            build="pyhd8ed1ab_0",
            noarch="python",
            depends=("python >=3.8",),
            entry_points=("hello-entry = hello_entry:main", "hello-nested = hello_entry.deep:Greeter.greet"),
            timestamp=seconds("2024-03-01"),
        ),
        [
            File(path="site-packages/hello_entry/__init__.py", content=_HELLO.encode()),
            File(path="site-packages/hello_entry/deep.py", content=_DEEP.encode()),
            File(path="site-packages/hello_entry/data.txt", content=b"from the package\n"),
            File(path="python-scripts/hello-script", content=b"#!/bin/sh\necho script\n", executable=True),
            File(path="share/hello-entry/readme.txt", content=b"read me\n"),
            File(path=f"{info}/METADATA", content=b"Metadata-Version: 2.1\nName: hello-entry\nVersion: 1.0\n"),
            File(path=f"{info}/INSTALLER", content=b"conda"),
            File(path=f"{info}/entry_points.txt", content=b"[console_scripts]\nhello-entry = hello_entry:main\n"),
            File(path=f"{info}/RECORD", content=f"hello_entry/__init__.py,,\n{info[14:]}/RECORD,,\n".encode()),
        ],
    )
    # Old sources that Python 3 does not compile, as a few real packages still bring.
    yield (
        Package(name="old-syntax", version="1.0", build="pyh_0", noarch="python", depends=("python",)),
        [
            File(path="site-packages/old_syntax/__init__.py", content=b"VALUE = 1\n"),
            File(path="site-packages/old_syntax/py2.py", content=b'print "no longer"\n'),
            File(path="site-packages/old_syntax/latin.py", content=b"# -*- coding: latin-1 -*-\nNAME = '\xe9'\n"),
        ],
    )


def _prefixes(workshop: Workshop) -> Iterator[Made]:
    # The build prefix in text: a shebang, a configuration file with two on one line, a .pc file.
    package = Package(name="prefix-text", version="1.0", depends=("python >=3.11,<3.12.0a0",))
    prefix = package.prefix
    script = f"#!{prefix}/bin/python3.11\nprint(open({prefix + '/etc/prefix-text.conf'!r}).read(), end='')\n"
    yield (
        package,
        [
            File(path="bin/prefix-text", content=script.encode(), executable=True, placeholder=prefix),
            File(
                path="bin/prefix-text-env",
                content=f"#!/usr/bin/env python3.11\nprint({prefix!r})\n".encode(),
                executable=True,
                placeholder=prefix,
            ),
            File(
                path="etc/prefix-text.conf",
                content=f"root={prefix}\npath={prefix}/bin:{prefix}/sbin\n".encode(),
                placeholder=prefix,
            ),
            File(path="lib/pkgconfig/prefix-text.pc", content=f"prefix={prefix}\n".encode(), placeholder=prefix),
            File(path="etc/plain.conf", content=b"nothing to replace\n"),
        ],
    )
    # In binaries: strings that end in NUL, two occurrences in one string, and a real ELF file's DT_RPATH.
    package = Package(name="prefix-binary", version="1.0")
    prefix = package.prefix
    raw = b"".join(
        [
            b"\x00\x01HEAD\x00",
            f"{prefix}/lib\0".encode(),
            f"{prefix}/bin:{prefix}/sbin\0".encode(),
            f"a={prefix}\0".encode(),
            b"tail that must keep its place\0\xff\xfe",
        ]
    )
    library = workshop.read_debian("libuuid1")["usr/lib/x86_64-linux-gnu/libuuid.so.1.3.0"].content
    assert isinstance(library, bytes)
    elf = workshop.set_rpath(library, f"{prefix}/lib:{prefix}/lib64")
    yield (
        package,
        [
            File(path="lib/prefix-binary.bin", content=raw, placeholder=prefix, binary=True),
            File(path="lib/libprefixed.so.1", content=elf, executable=True, placeholder=prefix, binary=True),
        ],
    )


def _scripts() -> Iterator[Made]:
    # Scripts that a linker may be asked to run.
    yield (
        Package(name="post-link-demo", version="1.0", noarch="generic"),
        [
            File(
                path="bin/.post-link-demo-post-link.sh",
                content=f'mkdir -p "$PREFIX/var"\necho "$PKG_NAME $PKG_VERSION in $PREFIX" > "$PREFIX/{POST_LINK_NOTE}"\n'.encode(),
                executable=True,
            ),
            File(
                path="bin/.post-link-demo-pre-unlink.sh",
                content=f'rm -f "$PREFIX/{POST_LINK_NOTE}"\n'.encode(),
                executable=True,
            ),
            File(path="share/post-link-demo/data.txt", content=b"data\n"),
        ],
    )
    # Scripts that an activation sources, and variables that it sets.
    yield (
        Package(name="activate-demo", version="1.0", noarch="generic"),
        [
            File(path="etc/conda/activate.d/activate-demo.sh", content=_ACTIVATE.encode()),
            File(path="etc/conda/activate.d/activate-demo.fish", content=b"set -gx ACTIVATE_DEMO fish\n"),
            File(path="etc/conda/deactivate.d/activate-demo.sh", content=b"unset ACTIVATE_DEMO ACTIVATE_DEMO_DATA\n"),
            File(
                path="etc/conda/env_vars.d/activate-demo.json",
                content=json.dumps({"ENV_VARS_DEMO": "from env_vars.d", "ENV_VARS_NUMBER": "7"}).encode(),
            ),
            File(path="share/activate-demo/bin/activate-demo", content=b"#!/bin/sh\necho active\n", executable=True),
        ],
    )


def _links() -> Iterator[Made]:
    # Symbolic links to a file, a folder, nothing and out of a folder; a hard link; a file to be copied.
    yield (
        Package(name="links-demo", version="1.0"),
        [
            File(path="lib/links-demo/real.txt", content=b"real\n"),
            File(path="lib/links-demo/second-name.txt", hard_link="lib/links-demo/real.txt"),
            File(path="lib/links-demo/link.txt", link="real.txt"),
            File(path="lib/links-demo/link-of-link.txt", link="link.txt"),
            File(path="lib/links-demo/folder/inside.txt", content=b"inside\n"),
            File(path="lib/links-demo/folder-link", link="folder"),
            File(path="share/links-demo/up.txt", link="../../lib/links-demo/real.txt"),
            File(path="share/links-demo/dangling.txt", link="not-there.txt"),
            File(path="share/links-demo/empty-file.txt", content=b""),
            File(path="share/links-demo/copied.txt", content=b"copied\n", no_link=True),
        ],
    )


def _folder() -> Iterator[Made]:
    # An empty folder with a row of its own in paths.json, as rattler-build writes it: py-rattler 0.28 fails to link it.
    yield (
        Package(name="empty-folder", version="1.0"),
        [
            File(path="share/empty-folder/empty", folder=True),
            File(path="share/empty-folder/file.txt", content=b"beside\n"),
        ],
    )


def _odd() -> Iterator[Made]:
    # Written as .tar.bz2, without paths.json and timestamp: has_prefix and files alone say what it holds.
    package = Package(name=OLD_FORMAT, version="1.0", build="0", timestamp=None)
    prefix = "/opt/anaconda1anaconda2anaconda3"
    yield (
        package,
        [
            File(
                path="bin/old-format",
                content=f"#!/bin/sh\necho {prefix}\n".encode(),
                executable=True,
                placeholder=prefix,
            ),
            File(path="lib/old-format.bin", content=f"\0{prefix}/lib\0".encode(), placeholder=prefix, binary=True),
            File(path="share/old-format/data.txt", content=b"old\n", no_link=True),
            File(path="share/old-format/link.txt", link="data.txt"),
        ],
    )
    # Names of files that are read wrongly now and then.
    package = Package(name="odd-names", version="1.0")
    yield (
        package,
        [
            File(path="share/odd names/with space.txt", content=package.prefix.encode(), placeholder=package.prefix),
            File(path="share/odd names/größe-数.txt", content="größe\n".encode()),
            File(path="share/odd names/" + "long-" * 30 + ".txt", content=b"long\n"),
            File(path="share/odd names/-dash", content=b"dash\n"),
            File(path="share/odd names/Case.txt", content=b"upper\n"),
            File(path="share/odd names/case.txt", content=b"lower\n"),
        ],
    )
    # Two packages that bring one path with other bytes, and a third that brings it with the first one's.
    for name, text in (("clobber-a", "a"), ("clobber-b", "b"), ("clobber-same", "a")):
        own = File(path=f"share/clobber/{name}.txt", content=name.encode())
        yield (
            Package(name=name, version="1.0", noarch="generic"),
            [File(path="share/clobber/same.txt", content=f"{text}\n".encode()), own],
        )


def make_cuda() -> Iterator[Made]:
    """Make the packages that pin CUDA, as conda-forge writes them: constraints on `__cuda`, hardly any content."""
    for version, date in CUDA.items():
        major = version.partition(".")[0]
        yield _marker(
            "cuda-version",
            version,
            build_number=3,
            timestamp=seconds(date),
            constrains=(f"__cuda >={major}", f"cudatoolkit {version}|{version}.*"),
        )
        if major != "11":
            minor = int(version.partition(".")[2])
            yield _marker(
                "cuda-cudart",
                f"{version}.39",
                timestamp=seconds(date),
                depends=(f"cuda-version >={version},<{major}.{minor + 1}.0a0",),
            )
    yield _marker(
        "cudatoolkit",
        "11.8.0",
        build_number=13,
        timestamp=seconds("2023-11-01"),
        constrains=("__cuda >=11", "cuda-version >=11.8,<11.9.0a0"),
    )
    for version, build, depends, date in (
        ("8.9.7.29", "cuda11", ("cuda-version >=11.8,<12.0a0", "cudatoolkit 11.*"), "2023-12-20"),
        ("8.9.7.29", "cuda12", ("cuda-version >=12.0,<13",), "2023-12-20"),
        ("9.3.0.75", "cuda12", ("cuda-version >=12.0,<13",), "2024-08-05"),
        ("9.13.0.50", "cuda13", ("cuda-version >=13.0,<14",), "2025-09-05"),
    ):
        yield _marker("cudnn", version, variables={"cuda": build}, depends=depends, timestamp=seconds(date))


def make_frameworks() -> Iterator[Made]:
    """Make a framework in CPU and CUDA builds: with `__cuda` a solver takes the CUDA build, without it the CPU build."""
    base = Package(
        name="fakeframework", version="2.0", license="Apache-2.0", timestamp=seconds("2025-09-20"), depends=("python",)
    )
    for cuda, cudnn in (("11.8", "8.9.7.29"), ("12.2", "8.9.7.29"), ("12.5", "9.3.0.75"), ("13.0", "9.13.0.50")):
        major, minor = cuda.split(".")
        depends = (
            "__cuda",
            f"cuda-version >={cuda},<{int(major) + 1}",
            f"cudnn >={cudnn},<{int(cudnn.partition('.')[0]) + 1}.0a0",
            "python",
        )
        number = 200 + int(major)
        build = f"cuda{major}{minor}py311h{int(major):02d}{int(minor)}e5f6_{number}"
        yield _framework(replace(base, build=build, build_number=number, depends=depends))
    cpu = replace(base, build="cpu_py311h0a1b2c3_0", track_features=("fakeframework-cpu",))
    yield _framework(cpu)
    # A solver shuns a tracked feature before it looks at versions, so every CPU build has it.
    yield _framework(replace(cpu, version="1.0", timestamp=seconds("2023-01-10")))
    # As conda-forge's pytorch-gpu: asks for a build by its string.
    yield (
        Package(
            name="fakeframework-gpu",
            version="2.0",
            depends=("fakeframework 2.0 cuda*",),
            timestamp=seconds("2025-09-20"),
        ),
        [],
    )


def _framework(package: Package) -> Made:
    text = f"BUILD = {package.build_string!r}\n".encode()
    return package, [File(path="lib/python3.11/site-packages/fakeframework.py", content=text)]


def _conflicts() -> Iterator[Made]:
    yield _marker("shared-lib", "1.2", timestamp=seconds("2023-05-01"))
    yield _marker("shared-lib", "2.1", timestamp=seconds("2024-05-01"))
    yield _marker("needs-old", "1.0", depends=("shared-lib >=1.0,<2.0a0",), timestamp=seconds("2024-06-01"))
    yield _marker("needs-new", "1.0", depends=("shared-lib >=2.0,<3.0a0",), timestamp=seconds("2024-06-01"))
    yield _marker("needs-missing", "1.0", depends=("nowhere-to-be-found >=1",), timestamp=seconds("2024-06-01"))


def _versions() -> Iterator[Made]:
    for version, date in (("1.0", "2024-01-01"), ("1.1", "2024-07-01"), ("2.0", "2025-01-01")):
        yield _marker("versioned", version, timestamp=seconds(date))
    yield _marker("versioned", "2.0", build_number=1, timestamp=seconds("2025-02-01"))
    yield _marker("prereleased", "1.0", timestamp=seconds("2025-03-01"))
    yield _marker("prereleased", "1.1rc1", timestamp=seconds("2025-04-01"))
    for version, date in (("1.0", "2024-01-15"), ("1.1", "2025-01-15")):
        yield _marker("upgradable-app", version, depends=("versioned >=1.0",), timestamp=seconds(date))
    yield _marker("no-timestamp", "1.0", timestamp=None)


def _virtual() -> Iterator[Made]:
    yield _marker("needs-new-glibc", "1.0", depends=("__glibc >=2.99",))
    for build, virtual in (("pyh_unix_0", "__unix"), ("pyh_win_0", "__win")):
        yield _marker("by-system", "1.0", build=build, depends=(virtual,))
    yield _marker("linux-only", "1.0", depends=("__linux >=4.18",))
    for level, number in (("x86_64", 0), ("x86_64_v3", 3)):
        package = Package(
            name="by-archspec",
            version="1.0",
            build=f"{level}_{number}",
            build_number=number,
            depends=(f"__archspec 1.* {level}",) if number else (),
        )
        yield package, [File(path="share/by-archspec/level.txt", content=f"{level}\n".encode())]


_HELLO = '''\
"""Says hello."""

import os
import sys


def main():
    """Say who runs this."""
    print("hello from", sys.prefix, "with", open(os.path.join(os.path.dirname(__file__), "data.txt")).read().strip())
    return 0
'''

_DEEP = '''\
"""An entry point that is an attribute of an attribute."""


class Greeter:
    """Greets."""

    @staticmethod
    def greet():
        """Greet."""
        print("nested hello")
'''

_ACTIVATE = """\
export ACTIVATE_DEMO="active in $CONDA_PREFIX"
export ACTIVATE_DEMO_DATA="${CONDA_PREFIX}/share/activate-demo"
export PATH="$CONDA_PREFIX/share/activate-demo/bin:$PATH"
ACTIVATE_DEMO_NOT_EXPORTED=1
"""
