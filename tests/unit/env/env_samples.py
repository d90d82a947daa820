"""Environment files as people write them, a lock, a project file; and ways to spoil them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace

from reprobox.env.bases import BaseSpec, DebianPackage
from reprobox.env.lockfile import LAYER_FORMAT, CondaPackage, Lock, Requested, Wheel

ENVIRONMENTS = {
    "plain": """\
name: digits
channels:
  - defaults
dependencies:
  - python=3.11
  - pip
  - pip:
      - numpy==2.4.6
      - scikit-learn>=1.3, < 1.5
""",
    "export": """\
name: digits  \nchannels:
  - conda-forge
dependencies:
  - python=3.11.2=h955ad1f_0
  - pip=23.1=pyhd8ed1ab_0
  - pip:
    - absl-py==2.1.0
    - Jinja2==3.1.4
prefix: /home/someone/miniconda3/envs/digits
""",
    "turned": """\
# made by hand
dependencies:
- pip:
  - "tensorflow-cpu[and-cuda]==2.15.0 ; python_version < '3.12'"   # a comment
  -
  - idna
- Python = 3.11
variables:
  OMP_NUM_THREADS: 2
  GREETING: "hello, world"
name: turned
""",
    "quoted": """\
{name: 'quoted', dependencies: ["python==3.11.*", 'pip', {pip: ['h5py', "zopfli"]}]}
""",
    "anchors": """\
name: &it anchors
dependencies:
  - python
  - &tool pip
  - *tool
  - pip: &wheels
      - six
category: main
platforms: [linux-64]
variables: {NAME: *it}
""",
}

PROJECT = """\
default = "digits-cpu"
[env.digits-cpu]
environment = "envs/digits-cpu/environment.yml"
base = "debian-12"
python = "base"
[env.other]
[run]
inputs = ["data/"]
outputs = ["*.keras", "metrics.json"]
metrics = ["metrics.json"]
determinism = "seeded"
gpus = 2
seed = 7
env = ["HTTPS_PROXY", "DEBUG=1"]
[mirrors]
pypi = "https://pypi.example.org/simple"
debian = "http://deb.example.org/debian"
"""

BASE = """\
suite: bookworm
component: main
python: "3.11"
glibc: "2.36"
packages:
  - bash
  - libpython3.11-stdlib
without:
  - perl-base
omit:
  - usr/share/doc/
keep:
  - copyright
"""


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_lock() -> Lock:
    """A lock whose texts are the ones that YAML likes to take for something else."""
    return Lock(
        platform="linux-64",
        layer_format=LAYER_FORMAT,
        virtual_packages=(("__cuda", "12.0"), ("__glibc", "2.36")),
        python="3.11.2",
        omit=("usr/share/doc/", "usr/share/man/"),
        keep=("copyright",),
        debian=(
            DebianPackage(
                name="ca-certificates",
                version="20230311",
                file="pool/main/c/ca-certificates/ca-certificates_20230311_all.deb",
                size_bytes=155_260,
                sha256=sha("ca"),
            ),
            DebianPackage(
                name="zlib1g", version="1:1.2.13", file="pool/main/z/zlib/zlib1g.deb", size_bytes=9, sha256=sha("zlib")
            ),
        ),
        wheels=(
            Wheel(
                name="numpy", version="1.10", file=f"numpy-1.10-cp311-cp311-{_MANY}.whl", size_bytes=7, sha256="1" * 64
            ),
            Wheel(name="six", version="2024-01-31", file="six-1!2-py3-none-any.whl", size_bytes=8, sha256=sha("six")),
        ),
        variables=(("A", "yes"), ("B", "1e3"), ("C", " two\nlines"), ("E", ""), ("Ü", "ß \U0001f600")),
        requested=Requested(
            sha256=sha("file"), base="debian-12", conda=("python=3.10",), wheels=("numpy==1.10", "six")
        ),
        tools=(("uv", "0.10"),),
    )


def conda_row(name: str, **fields: object) -> CondaPackage:
    """A conda package of a lock; its file follows from its other fields unless it is given."""
    row: dict[str, object] = {"name": name, "version": "1.0", "build": "h0_0", "channel": "conda-forge"}
    row |= {"subdir": "linux-64", "size_bytes": 10, "sha256": sha(name), **fields}
    file = f"{name}-{row['version']}-{row['build']}.conda"
    return CondaPackage(**{"file": file, **row})  # type: ignore[arg-type]


def make_conda_lock() -> Lock:
    """A lock whose interpreter and libraries are conda packages."""
    rows = (
        conda_row("_libgcc_mutex", version="0.1", build="conda_forge", file="_libgcc_mutex-0.1-conda_forge.tar.bz2"),
        conda_row("jpeg", version="9e", build="h166bdaf_2", channel="pkgs/main", md5="0" * 32),
        conda_row("python", version="3.10.4", build="h2660328_0_cpython", size_bytes=30_000_000),
        conda_row("six", version="1.16.0", build="pyh6c4a22f_0", subdir="noarch", channel="team/label/dev"),
        conda_row("x264", version="1!164.3095", build="h166bdaf_2", md5="f" * 32),
    )
    requested = Requested(
        sha256=sha("file"),
        base="debian-12",
        channels=("conda-forge", "pkgs/main"),
        conda=("python=3.10", "x264=1!164"),
        wheels=("six",),
        others=("extra-index 0123456789abcdef",),
    )
    return replace(make_lock(), python="3.10.4", python_from="conda", conda=rows, requested=requested)


_MANY = "manylinux_2_17_x86_64.manylinux2014_x86_64"


def base_spec(
    *packages: str, without: tuple[str, ...] = (), omit: tuple[str, ...] = (), keep: tuple[str, ...] = ()
) -> BaseSpec:
    return BaseSpec(
        name="small",
        suite="bookworm",
        component="main",
        python="3.11",
        glibc="2.36",
        packages=packages,
        without=without,
        omit=omit,
        keep=keep,
    )


def spoil(text: str, *, count: int, seed: int) -> Iterator[str]:
    """Give `count` copies of a text, each with one or two places changed, removed, filled or moved."""
    generator = random.Random(seed)
    interesting = b"\x00\t\n\r :-#'\"[]{}&*!|>%@,=<~\\\xff\xc3\x80?"
    for _ in range(count):
        data = bytearray(text.encode())
        for _ in range(generator.randint(1, 2)):
            at = generator.randrange(len(data))
            match generator.randrange(5):
                case 0:
                    data[at] = generator.randrange(256)
                case 1:
                    data[at] = generator.choice(interesting)
                case 2:
                    del data[at : at + generator.randint(1, 9)]
                case 3:
                    data[at:at] = bytes([generator.choice(interesting)]) * generator.randint(1, 3)
                case _:
                    end = at + generator.randint(1, 30)
                    piece = data[at:end]
                    del data[at:end]
                    to = generator.randrange(len(data) + 1)
                    data[to:to] = piece
            data = data or bytearray(b"\n")
        yield data.decode("utf-8", "replace")
