"""What a determinism level sets before a process starts. Pure.

What needs a call inside the process (seeding a generator, for one) is done by the guest shim. Sources for each variable
are in docs/determinism.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reprobox.env.project import Determinism

WORK = "/work"
GUEST = "/run/reprobox/guest"
TRAIL = "/run/reprobox/trail"
HOME = "/home/reprobox"

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "BLIS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",  # Rust: tokenizers, and much else.
    "POLARS_MAX_THREADS",
    "LOKY_MAX_CPU_COUNT",  # What joblib, and so `n_jobs=-1` of scikit-learn, counts.
    "PYTHON_CPU_COUNT",  # What `os.cpu_count` gives since Python 3.13; before it, the shim does that.
    "NPROC",  # What XLA, and so JAX, counts; it knows no other variable.
)
_THREADS_ARE_FIXED = {
    # Neither library is to take fewer threads than it was told because a machine has fewer cores, or is busy.
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
}
_STRICT = {
    "TF_DETERMINISTIC_OPS": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "NVIDIA_TF32_OVERRIDE": "0",
}
_PORTABLE = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    # By itself TensorFlow uses oneDNN only on processors with AVX-512 VNNI.
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "OPENBLAS_CORETYPE": "Haswell",
    "MKL_CBWR": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    # The names of groups since NumPy 2.4, and the features before it; each version ignores what it does not know.
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ,-AVX512CD",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a run is made repeatable.

    Attributes:
        determinism: Level.
        seed: Of every generator, and of Python's hashes.
        threads: Of every thread pool that can be told.
        network: Whether the container has any.
        memory_bytes: Limit, or None.
        pids: Limit of processes.
        gpus: Devices handed over.
        environment: Variables that the user lets in, sorted.
        trail: Whether stages are noted.
    """

    determinism: Determinism
    seed: int
    threads: int
    network: bool
    memory_bytes: int | None
    pids: int
    gpus: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    trail: bool = True

    def to_json(self) -> dict[str, Any]:
        """Render them for a record."""
        return {
            "determinism": self.determinism,
            "seed": self.seed,
            "hash_seed": None if self.determinism == "off" else self.seed,
            "threads": self.threads,
            "network": self.network,
            "memory_bytes": self.memory_bytes,
            "pids": self.pids,
            "gpus": list(self.gpus),
            "environment": dict(self.environment),
            "trail": self.trail,
        }


def render_variables(settings: Settings, paths: Sequence[str] = ()) -> dict[str, str]:
    """Render every variable that a container is given beside its image's own.

    Args:
        settings: How the run is made repeatable.
        paths: Folders of the project, absolute in the container, that modules are looked for in.

    Returns:
        Name → value; what the user lets in wins over all but the shim's own.
    """
    variables = {
        "HOME": HOME,
        "USER": "reprobox",
        "LOGNAME": "reprobox",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONUTF8": "1",
        # Output is shown as it comes, and bytecode never becomes an output.
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    if settings.determinism != "off":
        variables["PYTHONHASHSEED"] = str(settings.seed)
        variables |= {name: str(settings.threads) for name in _THREAD_VARIABLES} | _THREADS_ARE_FIXED
    if settings.determinism in ("strict", "portable"):
        variables |= _STRICT
    if settings.determinism == "portable":
        variables |= _PORTABLE
    return {
        **variables,
        **dict(settings.environment),
        "PYTHONPATH": ":".join((GUEST, *paths)),
        "REPROBOX_DETERMINISM": settings.determinism,
        "REPROBOX_SEED": str(settings.seed),
        "REPROBOX_THREADS": str(settings.threads),
        "REPROBOX_TRAIL": f"{TRAIL}/trail.jsonl",
        **({"REPROBOX_WORK": WORK} if settings.trail else {}),
    }
