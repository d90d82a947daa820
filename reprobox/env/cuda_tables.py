"""What is publicly known of CUDA, drivers, GPUs and framework builds. Data only, each table with its source in words.

A row that is missing means "not known here", never "refused": versions newer than these tables pass. Versions are
pairs (major, minor); drivers are tuples as long as NVIDIA writes them.
"""

from __future__ import annotations

from dataclasses import dataclass

Release = tuple[int, int]
"""Major and minor version: of CUDA, of a framework, of Python, or a GPU's compute capability."""

RELEASE_NOTES = "CUDA Toolkit release notes: CUDA Toolkit and corresponding driver versions, Linux x86-64"
MINOR_VERSION_GUIDE = "CUDA Compatibility guide: minor version compatibility"
FORWARD_GUIDE = "CUDA Compatibility guide: forward compatibility"
TENSORFLOW_BUILDS = "TensorFlow: tested build configurations, Linux, GPU"
PYTORCH_BUILDS = "PyTorch: release compatibility matrix"

DRIVERS: dict[Release, tuple[int, ...]] = {
    (10, 0): (410, 48),
    (10, 1): (418, 39),
    (10, 2): (440, 33),
    (11, 0): (450, 51, 5),
    (11, 1): (455, 23),
    (11, 2): (460, 27, 3),
    (11, 3): (465, 19, 1),
    (11, 4): (470, 42, 1),
    (11, 5): (495, 29, 5),
    (11, 6): (510, 39, 1),
    (11, 7): (515, 43, 4),
    (11, 8): (520, 61, 5),
    (12, 0): (525, 60, 13),
    (12, 1): (530, 30, 2),
    (12, 2): (535, 54, 3),
    (12, 3): (545, 23, 6),
    (12, 4): (550, 54, 14),
    (12, 5): (555, 42, 2),
    (12, 6): (560, 28, 3),
    (12, 8): (570, 26),
    (12, 9): (575, 51, 3),
    (13, 0): (580, 65, 6),
    (13, 1): (590, 44, 1),
    (13, 2): (595, 45, 4),
    (13, 3): (610, 43, 2),
}
"""The driver that came with the first ("GA") release of each CUDA; from it on, everything of that CUDA works.

There was no public toolkit 12.7. Source: CUDA Toolkit release notes, table "CUDA Toolkit and corresponding driver
versions", column Linux x86-64.
"""

MINOR_VERSION_DRIVERS: dict[int, tuple[int, ...]] = {11: (450, 80, 2), 12: (525, 60, 13), 13: (580, 65, 6)}
"""The driver from which every CUDA of a major version starts, without what needs a newer driver (such as compiling PTX
of a newer toolkit). Not known before CUDA 11.

Source: CUDA Toolkit release notes, table "minimum required driver version for CUDA minor version compatibility", and
its note on 450.80.02; CUDA Compatibility guide, section minor version compatibility.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardRow:
    """From which driver `cuda-compat` of some CUDA releases works, where minor version compatibility does not reach.

    Attributes:
        releases: CUDA releases.
        driver: The oldest kernel driver.
        branches: Driver branches that NVIDIA names; others in between may work and are not promised.
    """

    releases: tuple[Release, ...]
    driver: tuple[int, ...]
    branches: tuple[int, ...]


FORWARD: tuple[ForwardRow, ...] = (
    ForwardRow(releases=tuple((12, minor) for minor in (0, 1, 2, 3, 4, 5, 6, 8)), driver=(470, 57, 2), branches=(470,)),
    ForwardRow(releases=((13, 0), (13, 1)), driver=(535, 54, 3), branches=(535, 550, 565, 570, 575)),
    ForwardRow(releases=((13, 2),), driver=(535, 54, 3), branches=(535, 570)),
)
"""Data-center GPUs only.

Source: CUDA Compatibility guide, section forward compatibility; branches: the NVIDIA_REQUIRE_CUDA of NVIDIA's own CUDA
images 12.0, 12.4, 12.5, 12.8, 13.0 and 13.2, which carry that package (releases between two of them taken as alike).
"""

ARCHITECTURES: dict[Release, tuple[Release, Release | None]] = {
    (3, 0): ((4, 2), (11, 0)),
    (3, 5): ((5, 0), (12, 0)),
    (3, 7): ((6, 5), (12, 0)),
    (5, 0): ((6, 0), (13, 0)),
    (5, 2): ((6, 5), (13, 0)),
    (6, 0): ((8, 0), (13, 0)),
    (6, 1): ((8, 0), (13, 0)),
    (7, 0): ((9, 0), (13, 0)),
    (7, 5): ((10, 0), None),
    (8, 0): ((11, 0), None),
    (8, 6): ((11, 1), None),
    (8, 9): ((11, 8), None),
    (9, 0): ((11, 8), None),
    (10, 0): ((12, 8), None),
    (10, 3): ((12, 9), None),
    (12, 0): ((12, 8), None),
    (12, 1): ((12, 9), None),
}
"""Compute capability → the first CUDA that compiles for it, and the first that no longer does.

Boards with an integrated GPU (Jetson, Thor) are left out. Source: CUDA Toolkit release notes, new and dropped
architectures of each release: Kepler 3.0 dropped in 11.0, the rest of it in 12.0, Maxwell, Pascal and Volta in 13.0.
"""

_TO_90 = ((5, 0), (6, 0), (7, 0), (7, 5), (8, 0), (8, 6), (9, 0))
_TO_86 = ((3, 7), (5, 0), (6, 0), (7, 0), (7, 5), (8, 0), (8, 6))
_BLACKWELL = ((7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0))

PYTORCH_ARCHITECTURES: dict[tuple[Release, Release], tuple[Release, ...]] = {
    **{((1, minor), (10, 2)): ((3, 7), (5, 0), (6, 0), (7, 0), (7, 5)) for minor in range(8, 13)},
    **{((1, minor), (11, 1)): _TO_86 for minor in range(8, 12)},
    **{((1, minor), (11, 3)): _TO_86 for minor in range(10, 13)},
    **{((1, minor), (11, 6)): _TO_86 for minor in (12, 13)},
    ((1, 13), (11, 7)): _TO_86,
    ((2, 0), (11, 7)): _TO_86,
    **{((2, minor), (11, 8)): ((3, 7), *_TO_90) for minor in range(8)},
    **{((2, minor), (12, 1)): _TO_90 for minor in range(1, 6)},
    **{((2, minor), (12, 4)): _TO_90 for minor in range(4, 7)},
    **{((2, minor), (12, 6)): _TO_90 for minor in range(6, 15)},
    ((2, 7), (12, 8)): _BLACKWELL,
    **{((2, minor), (12, 8)): ((7, 0), *_BLACKWELL) for minor in range(8, 11)},
    ((2, 8), (12, 9)): ((7, 0), *_BLACKWELL),
    **{((2, minor), (13, 0)): _BLACKWELL for minor in range(9, 15)},
    **{((2, minor), (13, 2)): _BLACKWELL for minor in range(12, 15)},
}
"""(PyTorch, CUDA) → compute capabilities of the kernels in its own Linux x86-64 builds: pytorch channel and wheels.

Source: `torch.cuda.get_arch_list()` of those builds; from 2.12 on PyTorch's CUDA support matrix; its build script
`build_cuda.sh`. conda-forge builds its own list and is not covered.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRow:
    """What some versions of a framework were built and tested with.

    Attributes:
        versions: The framework's versions.
        python: Oldest and newest Python.
        builds: (CUDA, cuDNN) pairs; cuDNN is None where it is not published.
    """

    versions: tuple[Release, ...]
    python: tuple[Release, Release]
    builds: tuple[tuple[Release, Release | None], ...]


def _row(
    major: int, minors: tuple[int, ...], python: tuple[int, int], *builds: tuple[Release, Release | None]
) -> BuildRow:
    """Write a row short: minor versions of the framework, and of Python 3."""
    return BuildRow(
        versions=tuple((major, minor) for minor in minors), python=((3, python[0]), (3, python[1])), builds=builds
    )


TENSORFLOW: tuple[BuildRow, ...] = (
    _row(1, (13, 14, 15), (3, 7), ((10, 0), (7, 4))),
    _row(2, (0,), (3, 7), ((10, 0), (7, 4))),
    _row(2, (1,), (5, 7), ((10, 1), (7, 6))),
    _row(2, (2, 3), (5, 8), ((10, 1), (7, 6))),
    _row(2, (4,), (6, 8), ((11, 0), (8, 0))),
    _row(2, (5, 6), (6, 9), ((11, 2), (8, 1))),
    _row(2, (7,), (7, 9), ((11, 2), (8, 1))),
    _row(2, (8, 9, 10, 11), (7, 10), ((11, 2), (8, 1))),
    _row(2, (12, 13), (8, 11), ((11, 8), (8, 6))),
    _row(2, (14,), (9, 11), ((11, 8), (8, 7))),
    _row(2, (15,), (9, 11), ((12, 2), (8, 9))),
    _row(2, (16, 17), (9, 12), ((12, 3), (8, 9))),
    _row(2, (18, 19), (9, 12), ((12, 5), (9, 3))),
    _row(2, (20,), (9, 13), ((12, 5), (9, 3))),
    _row(2, (21,), (10, 13), ((12, 5), (9, 3))),
)
"""Source: TensorFlow, "Tested build configurations", Linux, GPU."""

PYTORCH: tuple[BuildRow, ...] = (
    _row(1, (12,), (7, 10), ((10, 2), (7, 6)), ((11, 3), (8, 3)), ((11, 6), (8, 3))),
    _row(1, (13,), (7, 11), ((11, 6), (8, 3)), ((11, 7), (8, 5))),
    _row(2, (0,), (8, 11), ((11, 7), (8, 5)), ((11, 8), (8, 7))),
    _row(2, (1, 2, 3), (8, 12), ((11, 8), (8, 7)), ((12, 1), (8, 9))),
    _row(2, (4,), (8, 12), ((11, 8), (9, 1)), ((12, 1), (9, 1)), ((12, 4), (9, 1))),
    _row(2, (5,), (9, 13), ((11, 8), (9, 1)), ((12, 1), (9, 1)), ((12, 4), (9, 1))),
    _row(2, (6,), (9, 13), ((11, 8), None), ((12, 4), (9, 1)), ((12, 6), (9, 5))),
    _row(2, (7,), (9, 13), ((11, 8), (9, 1)), ((12, 6), (9, 5)), ((12, 8), (9, 7))),
    _row(2, (8,), (9, 13), ((12, 6), (9, 10)), ((12, 8), (9, 10)), ((12, 9), (9, 10))),
    _row(2, (9,), (10, 14), ((12, 6), (9, 10)), ((12, 8), (9, 10)), ((13, 0), (9, 13))),
    _row(2, (10,), (10, 14), ((12, 6), (9, 10)), ((12, 8), (9, 10)), ((13, 0), (9, 15))),
    _row(2, (11,), (10, 14), ((12, 6), (9, 10)), ((12, 8), (9, 17)), ((13, 0), (9, 17))),
    _row(2, (12,), (10, 14), ((12, 6), (9, 10)), ((13, 0), (9, 20)), ((13, 2), (9, 20))),
    _row(2, (13,), (10, 15), ((12, 6), (9, 10)), ((13, 0), (9, 20)), ((13, 2), (9, 20))),
    _row(2, (14,), (10, 15), ((12, 6), (9, 10)), ((13, 0), (9, 24)), ((13, 2), (9, 24))),
)
"""Stable and experimental CUDA; experimental Pythons count as supported.

Source: PyTorch, RELEASE.md, "Release compatibility matrix"; 1.12 with CUDA 10.2 from the pytorch channel's builds.
"""

TORCHVISION: dict[Release, Release] = {
    **{(1, minor): (0, minor + 1) for minor in range(4, 14)},
    **{(2, minor): (0, minor + 15) for minor in range(13)},
}
"""PyTorch → torchvision. Source: torchvision, README, table of versions (1.4 → 0.5 up to 2.12 → 0.27)."""

TORCHAUDIO: dict[Release, Release] = {
    **{(1, minor): (0, minor) for minor in range(8, 14)},
    **{(2, minor): (2, minor) for minor in range(9)},
}
"""PyTorch → torchaudio, up to 2.8. Source: torchaudio, compatibility matrix."""

CONDA_RUNTIME = frozenset({"cuda-cudart", "cudatoolkit"})
"""Conda packages that bring CUDA's runtime library and carry its version."""

CONDA_TOOLKIT = frozenset({"cuda", "cuda-libraries", "cuda-runtime", "cuda-toolkit", "cuda-version", "pytorch-cuda"})
"""Conda packages that stand for a whole CUDA release."""

CONDA_TOOLS = frozenset(
    {"cuda-compiler", "cuda-cudart-dev", "cuda-cupti", "cuda-nvcc", "cuda-nvcc-impl", "cuda-nvcc-tools", "cuda-nvrtc",
     "cuda-nvtx"}
)  # fmt: skip
"""Conda packages of a CUDA release that carry its version."""

CONDA_GPU = frozenset(
    {*CONDA_RUNTIME, *CONDA_TOOLKIT, *CONDA_TOOLS, "cudnn", "cupy", "libcudnn", "nccl", "pytorch-gpu", "tensorflow-gpu",
     "tensorflow-gpu-base", "tensorrt"}
)  # fmt: skip
"""Conda packages that nobody needs without a GPU."""

WHEEL_TOOLS = frozenset({"cuda-cupti", "cuda-nvcc", "cuda-nvrtc", "nvjitlink", "nvtx"})
"""NVIDIA wheels, without "nvidia-" and "-cuXX", that carry the version of their CUDA release."""

WHEEL_GPU = frozenset(
    {*WHEEL_TOOLS, "cublas", "cuda-runtime", "cudnn", "cufft", "cufile", "curand", "cusolver", "cusparse", "cusparselt",
     "nccl", "nvshmem"}
)  # fmt: skip
"""NVIDIA wheels, without "nvidia-", that are part of CUDA also where no "-cuXX" says so."""

WHEEL_FRAMEWORKS = {
    "jaxlib": "jax",
    "tensorflow": "tensorflow",
    "tensorflow-cpu": "tensorflow",
    "tensorflow-gpu": "tensorflow",
    "torch": "pytorch",
    "torchaudio": "torchaudio",
    "torchvision": "torchvision",
}
"""Wheel → framework."""

CONDA_FRAMEWORKS = {
    "cupy": ("cupy", "cupy-core"),
    "jax": ("jaxlib",),
    "pytorch": ("pytorch", "libtorch", "pytorch-gpu", "pytorch-cpu"),
    "tensorflow": ("tensorflow", "tensorflow-base", "tensorflow-gpu", "tensorflow-gpu-base", "tensorflow-cpu"),
    "torchaudio": ("torchaudio",),
    "torchvision": ("torchvision",),
}
"""Framework → conda packages whose builds tell about it; the first that is there gives its version."""
