"""What CUDA a lock brings, and whether its parts agree. Pure.

`find_cuda` reads packages, `check_cuda` compares them with one another; the tables are in `cuda_tables`, and what a
host can run is in `cuda_driver`. For users: docs/cuda.md.

Invariants: the order of packages does not matter; a version that the tables do not know is never refused because of
that; nothing that a lock can hold makes anything here raise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from reprobox.env import cuda_tables as tables
from reprobox.env.cuda_tables import Release
from reprobox.env.lockfile import Lock

Manager = Literal["conda", "wheel"]
Flavour = Literal["cuda", "cpu", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A locked package, as far as it matters here.

    Attributes:
        name: Its name.
        version: Its version, with a wheel's local part ("2.3.1+cu118").
        build: A conda package's build string.
        manager: Whose package it is.
    """

    name: str
    version: str
    build: str = ""
    manager: Manager


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One version of CUDA or cuDNN in an environment.

    Attributes:
        version: "12.4", or "12" where no package says more; cuDNN's as its package has it.
        packages: The packages that say so, sorted.
    """

    version: str
    packages: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """A framework that can use a GPU.

    Attributes:
        name: "pytorch", "tensorflow", "jax", "torchvision", "torchaudio" or "cupy".
        package: The package.
        flavour: Whether this build uses CUDA.
        cuda: The CUDA that its build was made for, if it says so ("11.8" or "12").
    """

    name: str
    package: Package
    flavour: Flavour
    cuda: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaContent:
    """What CUDA an environment holds.

    Attributes:
        python: Version of the interpreter.
        cuda: One part per major version of CUDA, newest first.
        cudnn: One part per version of cuDNN, newest first.
        frameworks: Sorted by name and package.
        gpu_packages: Packages that only a GPU needs, sorted.
        libraries: Those of them that bring CUDA's runtime library, sorted.
        compat: Version of NVIDIA's forward compatibility package, if it is there.
    """

    python: str
    cuda: tuple[Part, ...] = ()
    cudnn: tuple[Part, ...] = ()
    frameworks: tuple[Framework, ...] = ()
    gpu_packages: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    compat: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something in an environment that will not work, or may not.

    Attributes:
        level: "error" only where it is known not to work.
        message: What, naming the packages.
        hint: What helps.
    """

    level: Literal["warning", "error"]
    message: str
    hint: str


# What a package says ---------------------------------------------------------------------------------

_CUDA = re.compile(r"cuda_?([0-9]{1,4})(?:\.([0-9]{1,2}))?|(?:^|[_-])cu([0-9]{2,4})(?=[_.-]|$)")
_VERSION = re.compile(r"(?:[0-9]+!)?([0-9]{1,6})(?:\.([0-9]{1,6}))?")


def parse_release(version: str) -> tuple[int, int | None] | None:
    """Parse the first two numbers of a version; the second is None where there is one only."""
    """Read major and minor of a version; None if it starts with no number."""
    match = _VERSION.match(version)
    return (int(match[1]), None if match[2] is None else int(match[2])) if match else None


def parse_pair(version: str) -> Release | None:
    """Parse the first two numbers of a version, with 0 for a second that is not there."""
    release = parse_release(version)
    return None if release is None else (release[0], release[1] or 0)


def _built_for(text: str) -> tuple[int, int | None] | None:
    """Read the CUDA in a build string, a local version or a name: `cuda112`, `cuda11.3`, `cuda_12`, `cu118`, `cuda12x`.

    Returns:
        Major and minor version; the minor is None where it is not said.
    """
    found: tuple[int, int | None]
    for dotted, minor, joined in _CUDA.findall(text):
        digits = dotted or joined
        if minor:
            found = (int(digits), int(minor))
        elif len(digits) > 2:
            found = (int(digits[:2]), int(digits[2:]))
        elif digits > "79" and len(digits) == 2:  # "92" is 9.2, "12" is any 12
            found = (int(digits[0]), int(digits[1]))
        else:
            found = (int(digits), None)
        if 8 <= found[0] < 80:
            return found
    return None


def show_release(release: tuple[int, int | None]) -> str:
    """Show a release as people write it."""
    return str(release[0]) if release[1] is None else f"{release[0]}.{release[1]}"


def show_package(package: Package) -> str:
    """Show a package with its version."""
    return f"{package.name} {package.version}"


def _normalise(package: Package) -> Package:
    name = package.name.lower().split("_linux-")[0]
    if package.manager == "wheel":
        name = re.sub(r"[-_.]+", "-", package.name).lower()
    return Package(name=name, version=package.version, build=package.build, manager=package.manager)


def _component(package: Package) -> str | None:
    """Name the part of CUDA in an NVIDIA wheel: "cudnn" for nvidia-cudnn-cu12; None for other packages."""
    match = re.fullmatch(r"nvidia-(.+?)(-cu[0-9]+)?", package.name) if package.manager == "wheel" else None
    known = match and (match[2] or match[1] in tables.WHEEL_GPU)
    return match[1] if match and known else None


def _says_cuda(package: Package) -> tuple[int, tuple[int, int | None]] | None:
    """Say which CUDA a package stands for, with the weight of its word: 0 is the runtime itself, 3 a bare major."""
    own, component = parse_release(package.version), _component(package)
    weight, found = 2, None
    if package.manager == "conda":
        for rank, names in enumerate((tables.CONDA_RUNTIME, tables.CONDA_TOOLKIT, tables.CONDA_TOOLS)):
            if package.name in names:
                weight, found = rank, own
        found = found or _built_for(package.build)
    elif component == "cuda-runtime" or package.name == "cuda-toolkit":
        weight, found = (0 if component else 1), own
    elif component in tables.WHEEL_TOOLS:
        found = own
    else:
        found = _built_for(package.version.partition("+")[2]) or _built_for(package.name)
    if found is None or not 8 <= found[0] < 80:
        return None
    return (3 if found[1] is None else weight), found


def _says_cudnn(package: Package) -> str | None:
    if package.name in ("cudnn", "libcudnn") or _component(package) == "cudnn":
        return package.version if parse_release(package.version) else None
    match = re.search(r"cudnn([0-9.]*[0-9])", package.build or package.version.partition("+")[2])
    if match is None or "." in match[1]:
        return match and match[1]
    return ".".join(match[1][:3])  # jaxlib writes 8.6 as 86


def _needs_gpu(package: Package) -> bool:
    if package.manager == "conda":
        return package.name in tables.CONDA_GPU
    named = r"(cupy|jax)-cuda[0-9].*|tensorrt(-.*)?|tensorflow-gpu|cuda-toolkit"
    return _component(package) is not None or re.fullmatch(named, package.name) is not None


def _brings_runtime(package: Package) -> bool:
    if package.manager == "wheel":
        return _component(package) == "cuda-runtime" or package.name == "cuda-toolkit"
    return package.name in tables.CONDA_RUNTIME | tables.CONDA_TOOLKIT - {"cuda-version"}


# Finding ---------------------------------------------------------------------------------------------


def find_cuda_of(lock: Lock) -> CudaContent:
    """Find what CUDA a lock brings."""
    conda = (Package(name=p.name, version=p.version, build=p.build, manager="conda") for p in lock.conda)
    wheels = (Package(name=w.name, version=w.version, manager="wheel") for w in lock.wheels)
    return find_cuda((*conda, *wheels), python=lock.python)


def find_cuda(packages: Iterable[Package], *, python: str) -> CudaContent:
    """Find what CUDA an environment brings.

    Args:
        packages: All its packages, in any order.
        python: Version of its interpreter.

    Returns:
        The same for every order of packages.
    """
    known = sorted({_normalise(p) for p in packages}, key=lambda p: (p.name, p.manager, p.version, p.build))
    cudnn: dict[str, list[str]] = {}
    for package in known:
        if version := _says_cudnn(package):
            cudnn.setdefault(version, []).append(show_package(package))
    libraries = tuple(show_package(p) for p in known if _brings_runtime(p))
    compat = [p.version for p in known if (p.name, p.manager) == ("cuda-compat", "conda") and parse_release(p.version)]
    frameworks = [*_find_wheel_frameworks(known, with_libraries=bool(libraries)), *_find_conda_frameworks(known)]
    return CudaContent(
        python=python,
        cuda=_find_parts(known),
        cudnn=tuple(Part(version=v, packages=tuple(cudnn[v])) for v in sorted(cudnn, key=_order, reverse=True)),
        frameworks=tuple(sorted(frameworks, key=lambda f: (f.name, f.package.name, f.package.manager, f.cuda or ""))),
        gpu_packages=tuple(show_package(p) for p in known if _needs_gpu(p)),
        libraries=libraries,
        compat=max(compat, key=_order, default=None),
    )


def _find_parts(known: list[Package]) -> tuple[Part, ...]:
    """Find one part per major version: the newest version among the packages whose word weighs most."""
    said: dict[int, list[tuple[int, int, str]]] = {}
    for package in known:
        if says := _says_cuda(package):
            weight, (major, minor) = says
            said.setdefault(major, []).append((weight, -1 if minor is None else minor, show_package(package)))
    parts = []
    for major in sorted(said, reverse=True):
        best = min(weight for weight, _, _ in said[major])
        minor = max(minor for weight, minor, _ in said[major] if weight == best)
        packages = tuple(sorted({label for _, _, label in said[major]}))
        parts.append(Part(version=str(major) if minor < 0 else f"{major}.{minor}", packages=packages))
    return tuple(parts)


def _find_wheel_frameworks(known: list[Package], *, with_libraries: bool) -> list[Framework]:
    plugins = [p for p in known if p.manager == "wheel" and re.fullmatch(r"jax-cuda[0-9]+-(plugin|pjrt)", p.name)]
    found = []
    for package in known:
        name = "cupy" if package.name.startswith("cupy-cuda") else tables.WHEEL_FRAMEWORKS.get(package.name)
        if name is None or package.manager != "wheel":
            continue
        local = package.version.partition("+")[2]
        built = _built_for(local) or (_built_for(package.name) if name == "cupy" else None)
        if built is None and name == "jax" and plugins:
            built = _built_for(plugins[-1].name)
        flavour: Flavour = "unknown"
        if built or package.name == "tensorflow-gpu":
            flavour = "cuda"
        elif local.startswith("cpu") or package.name in ("tensorflow-cpu", "jaxlib"):
            flavour = "cpu"
        elif with_libraries and not local:  # torch and tensorflow of the index find CUDA in the nvidia-* wheels
            flavour = "cuda"
        found.append(Framework(name=name, package=package, flavour=flavour, cuda=built and show_release(built)))
    return found


def _find_conda_frameworks(known: list[Package]) -> list[Framework]:
    conda = {package.name: package for package in known if package.manager == "conda"}
    found = []
    for name, names in tables.CONDA_FRAMEWORKS.items():
        members = [conda[member] for member in names if member in conda]
        builds = [member.build.lower() for member in members]
        tokens = {token for build in builds for token in re.split(r"[_.]", build)}
        built = next(filter(None, map(_built_for, builds)), None)
        flavour: Flavour = "unknown"
        if built or any(token.startswith(("cuda", "gpu")) for token in tokens):
            flavour = "cuda"
        elif tokens & {"cpu", "mkl", "eigen"}:
            flavour = "cpu"
        elif members and members[0].name.endswith(("-gpu", "-gpu-base", "-cpu")):
            flavour = "cpu" if members[0].name.endswith("-cpu") else "cuda"
        if members:
            found.append(Framework(name=name, package=members[0], flavour=flavour, cuda=built and show_release(built)))
    return found


# Parts against one another ---------------------------------------------------------------------------


def check_cuda(content: CudaContent, *, python: str | None = None) -> tuple[Finding, ...]:
    """Check that framework, CUDA, cuDNN and Python agree, by what their makers publish.

    Args:
        content: What the environment brings.
        python: Version of the interpreter; default: the one it was found for.

    Returns:
        Findings, the same for the same content. Versions newer than the tables are no finding.
    """
    findings = [*_check_majors(content), *_check_cpu_builds(content), *_check_libraries(content)]
    for framework in content.frameworks:
        rows = {"tensorflow": tables.TENSORFLOW, "pytorch": tables.PYTORCH}.get(framework.name, ())
        version = parse_pair(framework.package.version)
        for row in (row for row in rows if version in row.versions):
            findings += _check_python(framework, row, python or content.python)
            findings += _check_build(framework, row, content)
    return (*findings, *_check_torch_pairs(content))


def _check_majors(content: CudaContent) -> list[Finding]:
    if len(content.cuda) < 2:
        return []
    parts = "; ".join(f"CUDA {part.version} ({', '.join(part.packages)})" for part in content.cuda)
    message = f"this environment holds {len(content.cuda)} major versions of CUDA: {parts}"
    hint = "take frameworks and CUDA packages of one major version, unless you know that they keep apart"
    return [Finding(level="warning", message=message, hint=hint)]


def _check_cpu_builds(content: CudaContent) -> list[Finding]:
    """A GPU dependency that ends in a CPU build; a wheel that is meant for the CPU may stand beside a GPU framework."""
    uses_cuda = any(framework.flavour == "cuda" for framework in content.frameworks)
    builds = [
        f"{show_package(f.package)} {f.package.build}".strip()
        for f in content.frameworks
        if f.flavour == "cpu" and not (uses_cuda and f.package.manager == "wheel")
    ]
    if not builds or not content.gpu_packages:
        return []
    message = f"{', '.join(content.gpu_packages)} asks for a GPU, but locked for the CPU only: {', '.join(builds)}"
    hint = "lock for a driver, such as: reprobox lock --cuda 12.4; or take the GPU packages out of environment.yml"
    return [Finding(level="warning", message=message, hint=hint)]


def _check_libraries(content: CudaContent) -> list[Finding]:
    bare = [
        show_package(f.package)
        for f in content.frameworks
        if f.flavour == "cuda" and f.package.manager == "wheel" and f.name in ("cupy", "jax", "tensorflow")
    ]
    if not bare or content.libraries:
        return []
    message = f"{', '.join(bare)} needs CUDA's libraries, and no package here brings them"
    hint = "add them, such as tensorflow[and-cuda], jax[cuda12], cupy-cuda12x[ctk], or cudatoolkit by conda"
    return [Finding(level="warning", message=message, hint=hint)]


def _check_python(framework: Framework, row: tables.BuildRow, python: str) -> list[Finding]:
    package, found = framework.package, parse_release(python)
    if found is None or found[1] is None or row.python[0] <= (found[0], found[1]) <= row.python[1]:
        return []
    if re.search(rf"py{found[0]}\.?{found[1]}(?![0-9])", package.build):  # conda built it for this Python after all
        return []
    oldest, newest = (show_release(version) for version in row.python)
    message = f"{show_package(package)} was published for Python {oldest} to {newest}, this environment has {python}"
    return [Finding(level="warning", message=message, hint=f"take a Python between {oldest} and {newest}")]


def _check_build(framework: Framework, row: tables.BuildRow, content: CudaContent) -> list[Finding]:
    """Compare with the CUDA and cuDNN of a framework's makers; a conda build that names its own CUDA knows better."""
    package = framework.package
    if framework.flavour != "cuda" or not content.cuda or (package.manager == "conda" and framework.cuda):
        return []
    alone = [f.name for f in content.frameworks if f.flavour == "cuda"] == ["tensorflow"]
    level: Literal["warning", "error"] = "error" if alone and package.manager == "wheel" else "warning"
    source = tables.TENSORFLOW_BUILDS if framework.name == "tensorflow" else tables.PYTORCH_BUILDS
    have = [parse_pair(framework.cuda)] if framework.cuda else [parse_pair(part.version) for part in content.cuda]
    # Before CUDA 11 every minor version has its own library names; from 11 on, those of one major version are alike.
    fits = [
        (cuda, cudnn)
        for cuda, cudnn in row.builds
        if any(h and h[0] == cuda[0] and (cuda[0] > 10 or h == cuda) for h in have)
    ]
    wanted = " or ".join(show_release(cuda) for cuda, _ in row.builds)
    if not fits:
        brought = " and ".join([framework.cuda] if framework.cuda else [part.version for part in content.cuda])
        message = f"{show_package(package)} was built with CUDA {wanted}, this environment brings {brought} ({source})"
        return [Finding(level=level, message=message, hint=f"lock it with CUDA {wanted}, or take another version")]
    wants = sorted({cudnn for _, cudnn in fits if cudnn})
    brings = [parse_pair(part.version) for part in content.cudnn]
    if not wants or not brings or any(b and b[0] == w[0] and b >= w for w in wants for b in brings):
        return []
    wanted = " or ".join(map(show_release, wants))
    versions = ", ".join(part.version for part in content.cudnn)
    message = f"{show_package(package)} was built with cuDNN {wanted}, this environment brings {versions} ({source})"
    hint = f"take cuDNN {wanted} or a newer one of the same major version"
    return [Finding(level=level, message=message, hint=hint)]


def _check_torch_pairs(content: CudaContent) -> list[Finding]:
    findings = []
    for torch in (f.package for f in content.frameworks if f.name == "pytorch"):
        for other in content.frameworks:
            pairs = {"torchvision": tables.TORCHVISION, "torchaudio": tables.TORCHAUDIO}.get(other.name, {})
            expected, found = pairs.get(parse_pair(torch.version) or (0, 0)), parse_pair(other.package.version)
            nightly = re.search(r"dev|a[0-9]", f"{torch.version} {other.package.version}".split("+")[0])
            if expected is None or found not in pairs.values() or found == expected or nightly:
                continue
            certain = other.name == "torchvision" and torch.manager == other.package.manager == "wheel"
            message = f"{show_package(torch)} and {show_package(other.package)} do not belong together"
            hint = f"with this PyTorch take {other.name} {show_release(expected)}"
            findings.append(Finding(level="error" if certain else "warning", message=message, hint=hint))
    return findings


def _order(version: str) -> tuple[tuple[int, ...], str]:
    return tuple(int(number) for number in re.findall(r"[0-9]{1,9}", version)), version
