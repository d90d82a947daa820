"""What this machine is: processor, kernel, GPUs. Read from the kernel and from NVIDIA's management library."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprobox.env.cuda_driver import HostDriver, HostGpu
from reprobox.errors import AcceleratorError

# What NVIDIA calls its GPUs for data centers: Tesla, and letters with numbers behind its own name alone.
_DATA_CENTER = re.compile(
    r"\bTesla\b|\b(?:NVIDIA )(?:[KMPVABHL]\d{1,3}[A-Z]?|T4G?|GH200|GB\d{3}|DGX|HGX|PG\d+)\b(?! (?:Ti|Laptop))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, as its driver describes it.

    Attributes:
        index: The driver's number of it.
        uuid: Its own name, for ever.
        model: Such as "NVIDIA H200".
        memory_bytes: Of the device.
        compute_capability: Such as "9.0", or None where the driver does not say.
    """

    index: int
    uuid: str
    model: str
    memory_bytes: int
    compute_capability: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpus:
    """What NVIDIA's driver says, if there is one.

    Attributes:
        driver: Its version, or None where there is no driver.
        devices: Devices, by index.
        problem: Why nothing could be read although a driver is there.
        cuda: The newest CUDA that the driver runs, such as "12.2", or None.
    """

    driver: str | None = None
    devices: tuple[Gpu, ...] = ()
    problem: str | None = None
    cuda: str | None = None


def load_gpus() -> Gpus:
    """Ask NVIDIA's management library; no driver and no GPU are ordinary answers."""
    if not _finds_driver():
        return Gpus()
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Gpus(problem=str(error))
    try:
        devices = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            devices.append(
                Gpu(
                    index=index,
                    uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
                    model=_text(pynvml.nvmlDeviceGetName(handle)),
                    memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
                    compute_capability=".".join(map(str, pynvml.nvmlDeviceGetCudaComputeCapability(handle))),
                )
            )
        # NVML counts 12020 for 12.2.
        number = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
        return Gpus(
            driver=_text(pynvml.nvmlSystemGetDriverVersion()),
            devices=tuple(devices),
            cuda=f"{number // 1000}.{number % 1000 // 10}",
        )
    except pynvml.NVMLError as error:
        return Gpus(problem=str(error))
    finally:
        pynvml.nvmlShutdown()


def _finds_driver() -> bool:
    """Whether the kernel has NVIDIA's driver; without it, its library is not even looked for."""
    return Path("/proc/driver/nvidia").exists() or Path("/dev/nvidiactl").exists()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def describe_host(found: Gpus, used: tuple[str, ...]) -> HostDriver | None:
    """Describe the driver and those GPUs that a run uses, to be held against what a lock brings. Pure."""
    if found.driver is None:
        return None
    gpus = tuple(
        HostGpu(
            name=gpu.model,
            compute_capability=gpu.compute_capability or "",
            data_center=bool(_DATA_CENTER.search(gpu.model)),
        )
        for gpu in found.devices
        if gpu.uuid in used
    )
    return HostDriver(version=found.driver, cuda=found.cuda, gpus=gpus)


def choose_gpus(asked: str, found: Gpus) -> tuple[str, ...]:
    """Choose which GPUs a container gets. Pure.

    Args:
        asked: "none", "auto" (all there are, which may be none), "all", a number, or indices or UUIDs with commas
            (a single index is written with a comma: "0,").
        found: What is there.

    Returns:
        UUIDs, in the driver's order; () for none.

    Raises:
        AcceleratorError: There are not that many, or not those.
    """
    if asked == "none" or asked == "0":
        return ()
    if found.problem and asked != "auto":
        raise AcceleratorError(
            f"GPUs were asked for ({asked}), but the NVIDIA driver cannot be asked: {found.problem}",
            hint="run `nvidia-smi`; or run on the CPU with --gpus none",
        )
    if asked == "auto":
        return tuple(gpu.uuid for gpu in found.devices)
    if not found.devices:
        raise AcceleratorError(
            f"GPUs were asked for ({asked}), but this machine has none that an NVIDIA driver knows",
            hint="run on the CPU with --gpus none, or on a machine with a GPU and its driver",
        )
    if asked == "all":
        return tuple(gpu.uuid for gpu in found.devices)
    if asked.isdigit():
        if int(asked) > len(found.devices):
            raise AcceleratorError(f"{asked} GPUs were asked for; there are {len(found.devices)}", hint="ask for fewer")
        return tuple(gpu.uuid for gpu in found.devices[: int(asked)])
    names = {name: gpu.uuid for gpu in found.devices for name in (str(gpu.index), gpu.uuid)}
    chosen = []
    for part in filter(None, (part.strip() for part in asked.split(","))):
        if part not in names:
            raise AcceleratorError(
                f"there is no GPU {part!r}", hint=f"there is: {', '.join(str(gpu.index) for gpu in found.devices)}"
            )
        chosen.append(names[part])
    return tuple(dict.fromkeys(chosen))


def load_hardware(gpus: Gpus, used: tuple[str, ...]) -> dict[str, Any]:
    """What a record says of the machine."""
    model, flags = _processor()
    return {
        "machine": platform.machine(),
        "kernel": platform.release(),
        "cpu": {"model": model, "flags": flags},
        "gpu_driver": gpus.driver,
        "gpu_driver_cuda": gpus.cuda,
        "gpus": [
            {
                "index": g.index,
                "uuid": g.uuid,
                "model": g.model,
                "memory_bytes": g.memory_bytes,
                "compute_capability": g.compute_capability,
            }
            for g in gpus.devices
            if g.uuid in used
        ],
    }


def _processor() -> tuple[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    except OSError:
        return platform.processor(), ""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    values = {key.strip(): value.strip() for key, value in fields.items()}
    return values.get("model name", platform.processor()), values.get("flags", values.get("Features", ""))
