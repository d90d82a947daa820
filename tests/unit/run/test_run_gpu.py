"""The GPU gate: a host's driver, read through NVML, against what a lock brings. NVML is simulated, nothing else."""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path

import pytest

from reprobox.env.lockfile import Lock, Wheel
from reprobox.errors import AcceleratorError
from reprobox.run import hardware
from reprobox.run.driver import require_gpu_fit
from reprobox.run.hardware import Gpus, choose_gpus, describe_host, load_gpus
from reprobox.run.world import World
from tests.unit.run.worlds import LOCK, make_world

# Driver branches, and the CUDA that each reports to run. Source: CUDA Toolkit release notes, driver table.
DRIVERS = {"470.256.02": 11040, "535.183.06": 12020, "550.144.03": 12040, "580.65.06": 13000}


def simulate(monkeypatch: pytest.MonkeyPatch, driver: str | None, *, model: str = "NVIDIA A100-SXM4-80GB") -> None:
    """Put a library in the place of NVML that drives one GPU, or none at all."""

    class NVMLError(Exception):
        pass

    def missing() -> None:
        raise NVMLError("Driver Not Loaded")

    library = types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=missing if driver is None else lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda handle: b"GPU-0000",
        nvmlDeviceGetName=lambda handle: model.encode(),
        nvmlDeviceGetMemoryInfo=lambda handle: types.SimpleNamespace(total=80 << 30),
        nvmlDeviceGetCudaComputeCapability=lambda handle: (8, 0),
        nvmlSystemGetDriverVersion=lambda: (driver or "").encode(),
        nvmlSystemGetCudaDriverVersion_v2=lambda: DRIVERS.get(driver or "", 0),
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)  # type: ignore[arg-type]
    monkeypatch.setattr(hardware, "_finds_driver", lambda: True)


def brings(cuda: str) -> Lock:
    """A lock with CUDA's runtime from a wheel."""
    major = int(cuda.split(".")[0])
    name = "nvidia-cuda-runtime" if major > 12 else f"nvidia-cuda-runtime-cu{major}"
    wheel = Wheel(
        name=name, version=f"{cuda}.1", file=f"{name}-{cuda}.1-py3-none-any.whl", size_bytes=1, sha256="0" * 64
    )
    return dataclasses.replace(LOCK, wheels=(wheel,))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def test_the_driver_is_read_through_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version, the CUDA that it runs, and each GPU with its compute capability."""
    simulate(monkeypatch, "535.183.06")
    found = load_gpus()
    assert (found.driver, found.cuda, found.problem) == ("535.183.06", "12.2", None)
    assert [(gpu.model, gpu.compute_capability) for gpu in found.devices] == [("NVIDIA A100-SXM4-80GB", "8.0")]
    host = describe_host(found, ("GPU-0000",))
    assert host is not None
    assert host.gpus[0].data_center


def test_a_driver_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library without its driver is a problem only for who asks for GPUs."""
    simulate(monkeypatch, None)
    found = load_gpus()
    assert found.problem == "Driver Not Loaded"
    assert choose_gpus("auto", found) == ()
    with pytest.raises(AcceleratorError, match="Driver Not Loaded"):
        choose_gpus("all", found)


# What each pair comes to: "native", "minor" (starts, with limits that are told) or the driver that is needed.
# Sources: CUDA Toolkit release notes (driver table), CUDA compatibility guide (minor version compatibility).
TABLE = {
    ("470.256.02", "11.2"): "native", ("470.256.02", "11.8"): "minor", ("470.256.02", "12.2"): "525.60.13",
    ("470.256.02", "12.5"): "525.60.13", ("470.256.02", "13.0"): "580.65.06",
    ("535.183.06", "11.2"): "native", ("535.183.06", "11.8"): "native", ("535.183.06", "12.2"): "native",
    ("535.183.06", "12.5"): "minor", ("535.183.06", "13.0"): "580.65.06",
    ("550.144.03", "11.2"): "native", ("550.144.03", "11.8"): "native", ("550.144.03", "12.2"): "native",
    ("550.144.03", "12.5"): "minor", ("550.144.03", "13.0"): "580.65.06",
    ("580.65.06", "11.2"): "native", ("580.65.06", "11.8"): "native", ("580.65.06", "12.2"): "native",
    ("580.65.06", "12.5"): "native", ("580.65.06", "13.0"): "native",
}  # fmt: skip


@pytest.mark.parametrize(("driver", "cuda"), TABLE)
def test_a_pair_is_settled_before_the_start(
    monkeypatch: pytest.MonkeyPatch, world: World, driver: str, cuda: str
) -> None:
    """A pair that works starts, one with limits starts and is told, one that cannot is refused with 5 and both ways out."""
    said: list[str] = []
    world = dataclasses.replace(world, say=said.append)
    simulate(monkeypatch, driver)
    found = load_gpus()
    expected = TABLE[driver, cuda]
    if expected in ("native", "minor"):
        require_gpu_fit(world, brings(cuda), "auto", ("GPU-0000",), found)
        assert any("minor version" in text for text in said) is (expected == "minor")
        return
    with pytest.raises(AcceleratorError) as caught:
        require_gpu_fit(world, brings(cuda), "auto", ("GPU-0000",), found)
    assert caught.value.exit_code == 5
    assert expected in caught.value.message
    assert f"--cuda {found.cuda}" in (caught.value.hint or "")
    assert "--gpus none" in (caught.value.hint or "")


def test_without_gpus_no_driver_is_needed(world: World) -> None:
    """A run on the CPU starts wherever it is, whatever its lock brings."""
    for cuda in ("11.2", "13.0"):
        require_gpu_fit(world, brings(cuda), "auto", (), Gpus())
        require_gpu_fit(world, brings(cuda), "none", (), Gpus(driver="470.256.02", cuda="11.4"))


def test_gpus_for_an_environment_without_cuda_are_told(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Who asks for GPUs is told that the environment cannot use them; who does not ask is left alone."""
    said: list[str] = []
    world = dataclasses.replace(world, say=said.append)
    simulate(monkeypatch, "580.65.06")
    require_gpu_fit(world, LOCK, "auto", ("GPU-0000",), load_gpus())
    assert said == []
    require_gpu_fit(world, LOCK, "all", ("GPU-0000",), load_gpus())
    assert "brings no CUDA" in said[0]
