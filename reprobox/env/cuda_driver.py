"""Whether a host's driver and GPUs can run the CUDA of an environment. Pure.

Invariants: a newer driver never makes a verdict worse; a version that the tables do not know is never refused because
of that; only `require_driver` raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from reprobox.env import cuda_tables as tables
from reprobox.env.cuda import CudaContent, Finding, Part, parse_pair, parse_release, show_package, show_release
from reprobox.env.cuda_tables import Release
from reprobox.errors import AcceleratorError

Verdict = Literal["native", "minor-version", "forward", "refused", "no-driver", "no-cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostGpu:
    """A GPU: its name, its compute capability ("8.0"), and whether NVIDIA sells it for data centers."""

    name: str
    compute_capability: str
    data_center: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDriver:
    """A host's NVIDIA driver.

    Attributes:
        version: Such as "535.104.05".
        cuda: The newest CUDA that it reports to run, such as "12.2", if it could be asked.
        gpus: What it drives.
    """

    version: str
    cuda: str | None
    gpus: tuple[HostGpu, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverVerdict:
    """Whether a host can run what an environment brings.

    Attributes:
        verdict: "native": in full. "minor-version": with limits. "forward": through cuda-compat. "refused": not at all.
            "no-driver": the host has no driver or no GPU. "no-cuda": the environment brings none.
        message: The same in words.
        needed_driver: The oldest driver that would do, if known.
        fitting_cuda: The newest CUDA that this host runs in full, if known.
        source: Where the rule is published.
    """

    verdict: Verdict
    message: str
    needed_driver: str | None = None
    fitting_cuda: str | None = None
    source: str = tables.RELEASE_NOTES


_RANK: dict[Verdict, int] = {"no-cuda": 0, "native": 1, "minor-version": 2, "forward": 3, "refused": 4, "no-driver": 5}


def check_driver(content: CudaContent, host: HostDriver | None) -> DriverVerdict:
    """Check whether a host's driver runs the CUDA of an environment.

    Args:
        content: What the environment brings.
        host: The driver and its GPUs, or None where there is none.

    Returns:
        The worst verdict of its CUDA versions. A newer driver never gets a worse one.
    """
    if not content.cuda:
        return DriverVerdict(verdict="no-cuda", message="this environment brings no CUDA that is known here")
    if host is None or not host.gpus:
        wanted = content.cuda[0]
        there = "no NVIDIA driver" if host is None else f"NVIDIA driver {host.version}, but no GPU"
        return DriverVerdict(
            verdict="no-driver",
            message=f"this host has {there}; CUDA {wanted.version} needs a GPU and its driver",
            needed_driver=_needed(parse_pair(wanted.version) or (0, 0)),
        )
    return max((_judge(part, content, host) for part in content.cuda), key=lambda v: _RANK[v.verdict])


def _judge(part: Part, content: CudaContent, host: HostDriver) -> DriverVerdict:
    wanted = parse_pair(part.version) or (0, 0)
    driver, reported = _driver(host.version), parse_pair(host.cuda or "")
    needed, full = _needed(wanted), _fitting(driver, reported)
    runs = f"this host's driver {host.version} runs CUDA {full} in full" if full else f"driver {host.version}"
    what = f"CUDA {part.version} ({', '.join(part.packages[:3])}{', …' if len(part.packages) > 3 else ''})"

    def verdict(name: Verdict, message: str, source: str) -> DriverVerdict:
        return DriverVerdict(verdict=name, message=message, needed_driver=needed, fitting_cuda=full, source=source)

    if _runs_natively(wanted, driver, reported):
        return verdict("native", f"{what}: driver {host.version} runs it in full", tables.RELEASE_NOTES)
    if driver is None and reported is None:
        message = f"{what}: the driver's version {host.version!r} says nothing that could be compared"
        return verdict("minor-version", message, tables.RELEASE_NOTES)
    if _runs_limited(wanted, driver, reported):
        limits = "what needs a newer driver will not work, such as compiling PTX (JIT) of this CUDA at run time"
        message = f"{what} runs by minor version compatibility ({runs}): {limits}"
        return verdict("minor-version", message, tables.MINOR_VERSION_GUIDE)
    package = parse_pair(content.compat or "")
    row = _forward_row(wanted if package is None else package)
    reach = row is not None and driver is not None and driver >= row.driver
    center = all(gpu.data_center for gpu in host.gpus)
    if row and package and package[0] >= wanted[0] and reach and center and driver:
        named = ", ".join(f"R{branch}" for branch in row.branches)
        listed = "" if driver[0] in row.branches else f"; NVIDIA names the driver branches {named} for it"
        message = f"{what} runs through cuda-compat {content.compat} on data-center GPUs ({runs}){listed}"
        return verdict("forward", message, tables.FORWARD_GUIDE)
    newer = f"needs NVIDIA driver {needed} or newer" if needed else "needs a newer NVIDIA driver"
    message = f"{what} {newer}; {runs}"
    if reach and center and package is None:
        message += f"; on these data-center GPUs the conda package cuda-compat={show_release(wanted)} would do as well"
    elif content.compat and not center:
        message += "; cuda-compat works on data-center GPUs only"
    return verdict("refused", message, tables.MINOR_VERSION_GUIDE if wanted[0] > 10 else tables.RELEASE_NOTES)


def require_driver(content: CudaContent, host: HostDriver | None, *, gpus_asked: bool) -> DriverVerdict:
    """Require that a host's driver runs the CUDA of an environment.

    Args:
        content: What the environment brings.
        host: The driver and its GPUs, or None.
        gpus_asked: Whether somebody asked for GPUs; without that, a host that has none is fine.

    Raises:
        AcceleratorError: The driver is too old; or there is no driver or GPU, and one was asked for.
    """
    found = check_driver(content, host)
    if found.verdict == "refused":
        lock = f"lock for this host: reprobox lock --cuda {found.fitting_cuda}; or " if found.fitting_cuda else ""
        newer = f"update the driver to {found.needed_driver} or newer; or " if found.needed_driver else ""
        raise AcceleratorError(f"{found.message} ({found.source})", hint=f"{newer}{lock}run on the CPU: --gpus none")
    if found.verdict == "no-driver" and gpus_asked:
        least = f" and NVIDIA driver {found.needed_driver} or newer" if found.needed_driver else ""
        hint = f"use a machine with a GPU{least}, or run on the CPU: --gpus none"
        raise AcceleratorError(f"GPUs were asked for: {found.message}", hint=hint)
    return found


def _driver(version: str) -> tuple[int, ...] | None:
    match = re.match(r"[0-9]{1,6}(?:\.[0-9]{1,6}){0,3}", version)
    return tuple(map(int, match[0].split("."))) if match else None


def _show_driver(numbers: tuple[int, ...]) -> str:
    return ".".join([str(numbers[0]), *(f"{number:02d}" for number in numbers[1:])])


def _toolkit_driver(wanted: Release) -> tuple[int, ...] | None:
    """The driver that came with a release, or with the next one that is known; None for newer than all known."""
    later = [release for release in tables.DRIVERS if release >= wanted]
    return tables.DRIVERS[min(later)] if later else None


def _least_driver(wanted: Release) -> tuple[int, ...] | None:
    candidates = (tables.MINOR_VERSION_DRIVERS.get(wanted[0]), _toolkit_driver(wanted))
    return min((candidate for candidate in candidates if candidate), default=None)


def _needed(wanted: Release) -> str | None:
    numbers = _least_driver(wanted)
    return _show_driver(numbers) if numbers else None


def _fitting(driver: tuple[int, ...] | None, reported: Release | None) -> str | None:
    known = [release for release, least in tables.DRIVERS.items() if driver and driver >= least]
    best = max([*known, *([reported] if reported else [])], default=None)
    return show_release(best) if best else None


def _runs_natively(wanted: Release, driver: tuple[int, ...] | None, reported: Release | None) -> bool:
    least = _toolkit_driver(wanted)
    if driver and least and driver >= least:
        return True
    return reported is not None and reported >= wanted


def _runs_limited(wanted: Release, driver: tuple[int, ...] | None, reported: Release | None) -> bool:
    least = tables.MINOR_VERSION_DRIVERS.get(wanted[0])
    if least and driver:
        return driver >= least
    if wanted[0] <= 10:
        return False
    if reported:
        return reported[0] >= wanted[0]
    # A driver newer than the tables may know a CUDA newer than the tables.
    return driver is not None and driver[0] > max(tables.DRIVERS.values())[0]


def _forward_row(release: Release) -> tables.ForwardRow | None:
    return next((row for row in tables.FORWARD if release in row.releases), None)


def check_architecture(content: CudaContent, gpus: Iterable[HostGpu]) -> tuple[Finding, ...]:
    """Check that the CUDA and the framework builds of an environment have kernels for some GPUs.

    Kernels run on GPUs of the same major compute capability and the same or a higher minor one. GPUs and builds that
    are not known here are no finding.

    Returns:
        Warnings, one per model at most, in the order of `gpus`.
    """
    models = {gpu.name: parse_release(gpu.compute_capability) for gpu in gpus}
    findings = []
    for name, found in models.items():
        capability = None if found is None else (found[0], found[1] or 0)
        reason = capability and (_missing_kernels(content, capability) or _unknown_to_cuda(content, capability))
        if capability and reason:
            message = f"{name} has compute capability {show_release(capability)}: {reason}"
            findings.append(Finding(level="warning", message=message, hint="lock other versions for this GPU"))
    return tuple(findings)


def _covers(compiled: Iterable[Release], capability: Release) -> bool:
    return any(major == capability[0] and minor <= capability[1] for major, minor in compiled)


def _missing_kernels(content: CudaContent, capability: Release) -> str | None:
    for framework in (f for f in content.frameworks if f.name == "pytorch" and f.flavour == "cuda"):
        package = framework.package
        if package.manager == "conda" and not re.match(r"py[0-9.]+_cuda", package.build):
            continue  # not the pytorch channel's own build
        cuda = framework.cuda or next((part.version for part in content.cuda), "")
        kernels = tables.PYTORCH_ARCHITECTURES.get((parse_pair(package.version) or (0, 0), parse_pair(cuda) or (0, 0)))
        if kernels and not _covers(kernels, capability):
            return (
                f"{show_package(package)} for CUDA {cuda} has kernels for {', '.join(map(show_release, kernels))} only"
            )
    return None


def _unknown_to_cuda(content: CudaContent, capability: Release) -> str | None:
    alike = [known for known in tables.ARCHITECTURES if _covers([known], capability)]
    for part in content.cuda if alike else ():
        found = parse_release(part.version) or (0, None)
        release = (found[0], 99 if found[1] is None else found[1])
        first = min(tables.ARCHITECTURES[known][0] for known in alike)
        dropped = [tables.ARCHITECTURES[known][1] for known in alike]
        gone = max((end for end in dropped if end), default=None) if None not in dropped else None
        if release < first:
            began = show_release(first)
            return f"CUDA {part.version} compiles for it from {began} on; without kernels it may work by PTX only"
        if gone and release >= gone:
            return (
                f"CUDA {part.version} no longer compiles for it; the last that does comes before {show_release(gone)}"
            )
    return None


def render_pins(content: CudaContent) -> dict[str, str]:
    """Render what a lock pins of CUDA for its image.

    Returns:
        "runtime" and "cudnn": versions, newest first with commas; "host": see `render_require_cuda`. Each only where
        there is something to say.
    """
    pins = {
        name: ",".join(p.version for p in parts)
        for name, parts in (("runtime", content.cuda), ("cudnn", content.cudnn))
    }
    return {name: value for name, value in {**pins, "host": render_require_cuda(content) or ""}.items() if value}


def render_require_cuda(content: CudaContent) -> str | None:
    """Render NVIDIA_REQUIRE_CUDA, by which NVIDIA's container runtime refuses a host before the start.

    One condition only: blanks and commas between conditions have been read as "or" and as "and" by different versions.
    It never refuses a host that `check_driver` accepts: with minor version compatibility, every CUDA of a major version
    starts where the first does.

    Returns:
        Such as "cuda>=12.0"; None if the environment brings no CUDA, or none that is known here.

    Source: nvidia-container-cli, requirement expressions (cuda, driver, arch, brand).
    """
    wanted = parse_pair(content.cuda[0].version) if content.cuda else None
    if wanted is None or not (wanted[0] in tables.MINOR_VERSION_DRIVERS or wanted in tables.DRIVERS):
        return None
    package, floor = parse_pair(content.compat or "") or (0, 0), _least_driver(wanted)
    row = _forward_row(package)
    if row and floor and package[0] >= wanted[0] and row.driver < floor:
        return f"driver>={_show_driver(row.driver)}"
    return f"cuda>={show_release((wanted[0], 0) if wanted[0] in tables.MINOR_VERSION_DRIVERS else wanted)}"
