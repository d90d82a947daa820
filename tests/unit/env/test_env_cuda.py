"""CUDA: what a lock brings is recognised, what does not fit is named, and a host's driver gets the published verdict."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprobox.env import cuda_tables as tables
from reprobox.env.cuda import CudaContent, Package, Part, check_cuda, find_cuda
from reprobox.env.cuda_driver import (
    HostDriver,
    HostGpu,
    check_architecture,
    check_driver,
    render_pins,
    render_require_cuda,
    require_driver,
)
from reprobox.errors import AcceleratorError


def conda(text: str) -> list[Package]:
    """Packages as `conda list --export` writes them: name=version=build."""
    rows = [(*line.split("="), "")[:3] for line in text.split()]
    return [Package(name=name, version=version, build=build, manager="conda") for name, version, build in rows]


def wheels(text: str) -> list[Package]:
    """Packages as `pip freeze` writes them: name==version."""
    rows = [line.split("==") for line in text.split()]
    return [Package(name=name, version=version, manager="wheel") for name, version in rows]


PYTORCH_1_10 = conda(
    "python=3.9.7=h12debd9_1 pytorch=1.10.0=py3.9_cuda11.3_cudnn8.2.0_0 cudatoolkit=11.3.1=h2bc3f7f_2 "
    "torchvision=0.11.1=py39_cu113 torchaudio=0.10.0=py39_cu113 pytorch-mutex=1.0=cuda numpy=1.21.2=py39h20f2e39_0"
)
PYTORCH_2_1 = conda(
    "python=3.10.13=h955ad1f_0 pytorch=2.1.0=py3.10_cuda12.1_cudnn8.9.2_0 pytorch-cuda=12.1=ha16c6d3_5 "
    "cuda-cudart=12.1.105=0 cuda-cupti=12.1.105=0 cuda-libraries=12.1.0=0 cuda-nvrtc=12.1.105=0 cuda-nvtx=12.1.105=0 "
    "cuda-opencl=12.3.52=0 cuda-runtime=12.1.0=0 cuda-version=12.9=3 libcublas=12.1.0.26=0 "
    "torchvision=0.16.0=py310_cu121"
)
FORGE_PYTORCH = conda(
    "python=3.12.7=hc5c86c4_0_cpython pytorch=2.5.1=cuda126_mkl_py312_hdbe889e_310 libtorch=2.5.1=cuda126_mkl_h9fcdb9d_310 "
    "cuda-version=12.6=h7480c83_3 cuda-cudart=12.6.77=h5888daf_0 cuda-cudart_linux-64=12.6.77=h3f2d84a_0 "
    "cudnn=9.3.0.75=hc149ed5_1 nccl=2.23.4.1=h03a54cd_3"
)
FORGE_TENSORFLOW = conda(
    "python=3.9.16=h2782a2a_0_cpython tensorflow=2.10.0=cuda112py39h01bd6f0_0 "
    "tensorflow-base=2.10.0=cuda112py39haf1c94a_0 tensorflow-gpu=2.10.0=cuda112py39h0bbbad9_0 cudatoolkit=11.8.0=h37601d7_11 "
    "cudnn=8.4.1.50=hed8a83a_0"
)
DEFAULTS_TENSORFLOW = conda(
    "python=3.9.12=h12debd9_0 tensorflow=2.4.1=gpu_py39h8236f22_0 tensorflow-base=2.4.1=gpu_py39h29c2da4_0 "
    "tensorflow-gpu=2.4.1=h30adc30_0 cudatoolkit=10.1.243=h6bb024c_0 cudnn=7.6.5=cuda10.1_0"
)
QUIET_CPU = conda(
    "pytorch=2.0.1=py3.10_cpu_0 pytorch-mutex=1.0=cpu cudatoolkit=11.8.0=h37601d7_11 torchvision=0.15.2=py310_cpu"
)
QUIET_MKL = conda("tensorflow=2.9.1=mkl_py39hb9fcb14_0 tensorflow-base=2.9.1=mkl_py39h353358b_0 cudnn=8.2.1=cuda11.3_0")
QUIET_EIGEN = conda("tensorflow=2.8.2=eigen_py310h3aab7ec_0 cudatoolkit=11.3.1=h2bc3f7f_2 tensorflow-gpu=2.8.2=h1=0")
TORCH_WHEEL = wheels(
    "torch==2.5.1 torchvision==0.20.1 torchaudio==2.5.1 triton==3.1.0 nvidia-cublas-cu12==12.4.5.8 "
    "nvidia-cuda-cupti-cu12==12.4.127 nvidia-cuda-nvrtc-cu12==12.4.127 nvidia-cuda-runtime-cu12==12.4.127 "
    "nvidia-cudnn-cu12==9.1.0.70 nvidia-cufft-cu12==11.2.1.3 nvidia-curand-cu12==10.3.5.147 "
    "nvidia-cusolver-cu12==11.6.1.9 nvidia-cusparse-cu12==12.3.1.170 nvidia-nccl-cu12==2.21.5 "
    "nvidia-nvjitlink-cu12==12.4.127 nvidia-nvtx-cu12==12.4.127"
)
TORCH_13 = wheels(
    "torch==2.11.0 cuda-bindings==13.0.3 cuda-pathfinder==1.3.0 cuda-toolkit==13.0.2 nvidia-cublas==13.1.0.3 "
    "nvidia-cuda-runtime==13.0.96 nvidia-cudnn-cu13==9.17.1.4 nvidia-cufft==12.0.0.61 nvidia-nccl-cu13==2.28.9"
)
TF_WHEEL = wheels(
    "tensorflow==2.18.0 keras==3.6.0 nvidia_cublas_cu12==12.5.3.2 nvidia_cuda_runtime_cu12==12.5.82 "
    "nvidia_cuda_nvcc_cu12==12.5.82 nvidia_cudnn_cu12==9.3.0.75"
)
JAX_WHEEL = wheels(
    "jax==0.4.35 jaxlib==0.4.34 jax-cuda12-plugin==0.4.35 jax-cuda12-pjrt==0.4.35 nvidia-cuda-runtime-cu12==12.6.77 "
    "nvidia-cudnn-cu12==9.5.1.17"
)

RECOGNISED = [
    ("pytorch channel, cudatoolkit", PYTORCH_1_10, ["11.3"], ["8.2.0"], {"pytorch": "cuda", "torchvision": "cuda", "torchaudio": "cuda"}),
    ("pytorch channel, pytorch-cuda; cudart knows better than cuda-version", PYTORCH_2_1, ["12.1"], ["8.9.2"], {"pytorch": "cuda", "torchvision": "cuda"}),
    ("conda-forge pytorch", FORGE_PYTORCH, ["12.6"], ["9.3.0.75"], {"pytorch": "cuda"}),
    ("conda-forge tensorflow built for 11.2 with 11.8", FORGE_TENSORFLOW, ["11.8"], ["8.4.1.50"], {"tensorflow": "cuda"}),
    ("defaults tensorflow", DEFAULTS_TENSORFLOW, ["10.1"], ["7.6.5"], {"tensorflow": "cuda"}),
    ("defaults pytorch", conda("pytorch=1.3.1=cuda100py37h53c1284_0"), ["10.0"], [], {"pytorch": "cuda"}),
    ("defaults pytorch, gpu", conda("pytorch=1.12.1=gpu_cuda113py39h19ae3d8_1"), ["11.3"], [], {"pytorch": "cuda"}),
    ("old pytorch", conda("pytorch=1.7.0=py3.7_cuda9.2.148_cudnn7.6.3_0"), ["9.2"], ["7.6.3"], {"pytorch": "cuda"}),
    ("two digits with a dot left out", conda("magma-cuda=2.5=cuda92_1"), ["9.2"], [], {}),
    ("rapids names the major", conda("libcudf=25.02.00=cuda12_250213_g1 raft=1=cuda_11_py39_0"), ["12", "11"], [], {}),
    ("meta package and compiler", conda("cuda-nvcc=12.4.131=0 cuda-toolkit=12.4.1=0"), ["12.4"], [], {}),
    ("cpu build", conda("pytorch=2.0.1=py3.10_cpu_0"), [], [], {"pytorch": "cpu"}),
    ("conda-forge cpu build", conda("pytorch=2.1.2=cpu_mkl_py311h5c9e0c8_101"), [], [], {"pytorch": "cpu"}),
    ("mkl build", conda("tensorflow=2.9.1=mkl_py39hb9fcb14_0"), [], [], {"tensorflow": "cpu"}),
    ("eigen build", conda("tensorflow=2.8.2=eigen_py310h3aab7ec_0"), [], [], {"tensorflow": "cpu"}),
    ("conda jaxlib", conda("jaxlib=0.4.31=cuda120py311h0c9a6f3_200"), ["12.0"], [], {"jaxlib": "cuda"}),
    ("torch of the index", TORCH_WHEEL, ["12.4"], ["9.1.0.70"], {"torch": "cuda", "torchvision": "cuda", "torchaudio": "cuda"}),
    ("torch with CUDA 13, whose wheels have no suffix", TORCH_13, ["13.0"], ["9.17.1.4"], {"torch": "cuda"}),
    ("torch with local version", wheels("torch==2.0.1+cu118 torchvision==0.15.2+cu118"), ["11.8"], [], {"torch": "cuda", "torchvision": "cuda"}),
    ("torch for the CPU", wheels("torch==2.0.1+cpu"), [], [], {"torch": "cpu"}),
    ("torch for ROCm", wheels("torch==2.4.0+rocm6.1"), [], [], {"torch": "unknown"}),
    ("torch alone", wheels("torch==2.4.0"), [], [], {"torch": "unknown"}),
    ("tensorflow with its extra, written with underscores", TF_WHEEL, ["12.5"], ["9.3.0.75"], {"tensorflow": "cuda"}),
    ("tensorflow alone", wheels("tensorflow==2.15.0"), [], [], {"tensorflow": "unknown"}),
    ("tensorflow-cpu", wheels("tensorflow-cpu==2.15.0"), [], [], {"tensorflow-cpu": "cpu"}),
    ("tensorflow-gpu", wheels("tensorflow-gpu==2.5.0"), [], [], {"tensorflow-gpu": "cuda"}),
    ("jax with a plugin", JAX_WHEEL, ["12.6"], ["9.5.1.17"], {"jaxlib": "cuda"}),
    ("jax 13", wheels("jaxlib==0.8.0 jax-cuda13-plugin==0.8.0 jax-cuda13-pjrt==0.8.0"), ["13"], [], {"jaxlib": "cuda"}),
    ("jax of old", wheels("jaxlib==0.4.7+cuda11.cudnn86"), ["11"], ["8.6"], {"jaxlib": "cuda"}),
    ("jax alone", wheels("jax==0.4.35 jaxlib==0.4.34"), [], [], {"jaxlib": "cpu"}),
    ("cupy", wheels("cupy-cuda12x==13.3.0"), ["12"], [], {"cupy-cuda12x": "cuda"}),
    ("cupy of old", wheels("cupy-cuda112==10.6.0"), ["11.2"], [], {"cupy-cuda112": "cuda"}),
    ("tensorrt", wheels("tensorrt==10.3.0 tensorrt-cu12==10.3.0"), ["12"], [], {}),
    ("wheels of the minor kind", wheels("nvidia-dali-cuda120==1.40.0 nvidia-cublas-cu11==11.10.3.66"), ["12.0", "11"], [], {}),
    ("nothing", wheels("numpy==2.1.0 nvidia-ml-py==12.560.30 cuda-python==12.6.0 scikit-learn==1.5.2"), [], [], {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("packages", "cuda", "cudnn", "flavours"), [row[1:] for row in RECOGNISED], ids=[row[0] for row in RECOGNISED]
)
def test_recognises(packages: list[Package], cuda: list[str], cudnn: list[str], flavours: dict[str, str]) -> None:
    """What a lock brings is read from names, versions and builds as they are published."""
    content = find_cuda(packages, python="3.10.12")
    assert [part.version for part in content.cuda] == cuda
    assert [part.version for part in content.cudnn] == cudnn
    assert {f.package.name: f.flavour for f in content.frameworks} == flavours
    assert all(part.packages == tuple(sorted(part.packages)) for part in (*content.cuda, *content.cudnn))


def test_says_which_package_says_so() -> None:
    """A version of CUDA comes with the packages that stand for it."""
    (part,) = find_cuda(PYTORCH_1_10, python="3.9.7").cuda
    assert part.packages == ("cudatoolkit 11.3.1", "pytorch 1.10.0", "torchaudio 0.10.0", "torchvision 0.11.1")


def test_gpu_packages_are_only_those_that_need_a_gpu() -> None:
    """What runs anywhere (NVML's bindings, a framework) is no GPU dependency."""
    content = find_cuda([*JAX_WHEEL, *wheels("nvidia-ml-py==12.560.30 torch==2.4.0")], python="3.11.2")
    assert content.gpu_packages == (
        "jax-cuda12-pjrt 0.4.35",
        "jax-cuda12-plugin 0.4.35",
        "nvidia-cuda-runtime-cu12 12.6.77",
        "nvidia-cudnn-cu12 9.5.1.17",
    )
    assert content.libraries == ("nvidia-cuda-runtime-cu12 12.6.77",)


SOUND = [PYTORCH_1_10, PYTORCH_2_1, FORGE_PYTORCH, FORGE_TENSORFLOW, TORCH_WHEEL, TORCH_13, TF_WHEEL, JAX_WHEEL,
         wheels("tensorflow-cpu==2.15.0"), wheels("numpy==2.1.0"), wheels("torch==2.0.1+cu118 torchvision==0.15.2+cu118"),
         conda("pytorch=2.0.1=py3.10_cpu_0"), [*TORCH_WHEEL, *wheels("tensorflow-cpu==2.18.0 jaxlib==0.4.34")]]  # fmt: skip


@pytest.mark.parametrize("packages", SOUND)
def test_sound_environments_have_no_findings(packages: list[Package]) -> None:
    """What people run every day is not talked about."""
    python = next((p.version for p in packages if p.name == "python"), "3.11.2")
    assert check_cuda(find_cuda(packages, python=python)) == ()


@pytest.mark.parametrize("packages", [QUIET_CPU, QUIET_MKL, QUIET_EIGEN])
def test_a_gpu_dependency_that_ends_in_a_cpu_build_is_a_warning(packages: list[Package]) -> None:
    """A solver that quietly took a CPU build is told of, with both sides and the build."""
    (finding,) = check_cuda(find_cuda(packages, python="3.10.12"))
    assert finding.level == "warning"
    assert packages[0].build in finding.message
    assert re.search(r"(cudatoolkit|cudnn) [0-9.]+.* asks for a GPU", finding.message)
    assert "--cuda" in finding.hint


def test_two_majors_are_named() -> None:
    """Both versions, and who brings each."""
    packages = [*conda("cudatoolkit=11.8.0=h37601d7_11"), *TORCH_WHEEL]
    (finding,) = check_cuda(find_cuda(packages, python="3.11.2"))
    assert finding.level == "warning"
    assert "2 major versions" in finding.message
    assert "CUDA 11.8 (cudatoolkit 11.8.0)" in finding.message
    assert "nvidia-cuda-runtime-cu12 12.4.127" in finding.message


TF_FINDINGS = [
    ("tensorflow==2.15.0 nvidia-cuda-runtime-cu11==11.8.89", "3.11.2", "error", "built with CUDA 12.2, .* brings 11.8"),
    ("tensorflow==2.15.0 nvidia-cuda-runtime-cu12==12.2.140 nvidia-cudnn-cu12==9.1.0.70", "3.11.2", "error", "cuDNN 8.9, .* 9.1.0.70"),
    ("tensorflow==2.18.0 nvidia-cuda-runtime-cu12==12.5.82 nvidia-cudnn-cu12==9.1.0.70", "3.11.2", "error", "cuDNN 9.3, .* 9.1.0.70"),
    ("tensorflow==2.15.0 nvidia-cuda-runtime-cu12==12.2.140", "3.12.1", "warning", "for Python 3.9 to 3.11"),
    ("tensorflow-gpu==2.5.0", "3.9.2", "warning", "no package here brings them"),
    ("jaxlib==0.4.34 jax-cuda12-plugin==0.4.35", "3.11.2", "warning", "no package here brings them"),
    ("torch==2.5.1 nvidia-cuda-runtime-cu11==11.8.89 nvidia-cudnn-cu11==8.7.0.84", "3.11.2", "warning", "cuDNN 9.1, .* 8.7"),
    ("torch==2.8.0 nvidia-cuda-runtime-cu11==11.8.89", "3.11.2", "warning", "CUDA 12.6 or 12.8 or 12.9, .* 11.8"),
    ("torch==2.8.0+cu126 torchvision==0.15.2+cu126", "3.11.2", "error", "do not belong together"),
    ("torch==2.5.1+cu124 torchaudio==2.4.0+cu124", "3.11.2", "warning", "do not belong together"),
]  # fmt: skip


@pytest.mark.parametrize(("lock", "python", "level", "says"), TF_FINDINGS)
def test_disagreement_with_the_published_tables(lock: str, python: str, level: str, says: str) -> None:
    """Framework, CUDA, cuDNN and Python are compared with what their makers publish."""
    (finding,) = check_cuda(find_cuda(wheels(lock), python=python))
    assert finding.level == level
    assert re.search(says, finding.message), finding.message
    assert finding.hint


@pytest.mark.parametrize(("cuda", "levels"), [("10.1.243", []), ("10.2.89", ["error"]), ("11.0.3", ["error"])])
def test_before_cuda_11_the_minor_version_must_be_the_same(cuda: str, levels: list[str]) -> None:
    """TensorFlow 2.3 loads libcudart.so.10.1, wherever the libraries come from."""
    packages = [*wheels("tensorflow-gpu==2.3.0"), *conda(f"cudatoolkit={cuda}=h1 cudnn=7.6.5=h1")]
    assert [finding.level for finding in check_cuda(find_cuda(packages, python="3.8.5"))] == levels


def test_conda_is_only_warned_of() -> None:
    """For conda builds the lock is authoritative: a table of wheels can warn, never refuse."""
    findings = check_cuda(find_cuda(DEFAULTS_TENSORFLOW, python="3.9.12"))
    assert [finding.level for finding in findings] == ["warning"]
    assert "built with CUDA 11.0, this environment brings 10.1" in findings[0].message
    pair = conda("pytorch=2.1.0=py3.10_cuda12.1_cudnn8.9.2_0 torchvision=0.15.2=py310_cu118 pytorch-cuda=12.1=0")
    assert {finding.level for finding in check_cuda(find_cuda(pair, python="3.10.1"))} == {"warning"}
    unusual = conda("tensorflow=2.11.0=cuda112py312h01bd6f0_0 cudatoolkit=11.8.0=h37601d7_11")
    assert check_cuda(find_cuda(unusual, python="3.12.1")) == ()


@pytest.mark.parametrize(
    "lock",
    [
        "tensorflow==2.99.0 nvidia-cuda-runtime-cu14==14.1.2 nvidia-cudnn-cu14==10.1.0",
        "torch==3.1.0 torchvision==0.99.0 torchaudio==3.1.0 nvidia-cuda-runtime==14.1.2 nvidia-cudnn-cu14==10.2",
        "torch==2.8.0+cu126 torchvision==0.99.0+cu126",
        "torch==2.9.0.dev20250801+cu126 torchvision==0.23.0.dev20250801+cu126",
    ],
)
def test_newer_than_the_tables_is_no_finding(lock: str) -> None:
    """A framework, CUDA or cuDNN that came after these tables is not their business."""
    assert check_cuda(find_cuda(wheels(lock), python="3.13.0")) == ()


# Drivers -----------------------------------------------------------------------------------------------------------------

A100 = HostGpu(name="NVIDIA A100-SXM4-80GB", compute_capability="8.0", data_center=True)
RTX = HostGpu(name="NVIDIA GeForce RTX 3090", compute_capability="8.6", data_center=False)


def host(driver: str, gpu: HostGpu = RTX, cuda: str | None = None) -> HostDriver:
    return HostDriver(version=driver, cuda=cuda, gpus=(gpu,))


def brings(*versions: str, compat: str | None = None) -> CudaContent:
    parts = tuple(Part(version=version, packages=(f"cuda-version {version}",)) for version in versions)
    return CudaContent(python="3.11.2", cuda=parts, compat=compat)


NOTES, MINOR, FORWARD = tables.RELEASE_NOTES, tables.MINOR_VERSION_GUIDE, tables.FORWARD_GUIDE
# driver → CUDA → verdict, needed driver, newest CUDA in full, source. The drivers are real releases of their branches.
DRIVER_TABLE = {
    None: {
        "11.2": ("no-driver", "450.80.02", None, NOTES),
        "11.8": ("no-driver", "450.80.02", None, NOTES),
        "12.2": ("no-driver", "525.60.13", None, NOTES),
        "12.5": ("no-driver", "525.60.13", None, NOTES),
        "13.0": ("no-driver", "580.65.06", None, NOTES),
    },
    "470.256.02": {
        "11.2": ("native", "450.80.02", "11.4", NOTES),
        "11.8": ("minor-version", "450.80.02", "11.4", MINOR),
        "12.2": ("refused", "525.60.13", "11.4", MINOR),
        "12.5": ("refused", "525.60.13", "11.4", MINOR),
        "13.0": ("refused", "580.65.06", "11.4", MINOR),
    },
    "535.183.01": {
        "11.2": ("native", "450.80.02", "12.2", NOTES),
        "11.8": ("native", "450.80.02", "12.2", NOTES),
        "12.2": ("native", "525.60.13", "12.2", NOTES),
        "12.5": ("minor-version", "525.60.13", "12.2", MINOR),
        "13.0": ("refused", "580.65.06", "12.2", MINOR),
    },
    "550.144.03": {
        "11.2": ("native", "450.80.02", "12.4", NOTES),
        "11.8": ("native", "450.80.02", "12.4", NOTES),
        "12.2": ("native", "525.60.13", "12.4", NOTES),
        "12.5": ("minor-version", "525.60.13", "12.4", MINOR),
        "13.0": ("refused", "580.65.06", "12.4", MINOR),
    },
    "580.65.06": {
        "11.2": ("native", "450.80.02", "13.0", NOTES),
        "11.8": ("native", "450.80.02", "13.0", NOTES),
        "12.2": ("native", "525.60.13", "13.0", NOTES),
        "12.5": ("native", "525.60.13", "13.0", NOTES),
        "13.0": ("native", "580.65.06", "13.0", NOTES),
    },
}
CASES = [(driver, cuda, *row) for driver, column in DRIVER_TABLE.items() for cuda, row in column.items()]


@pytest.mark.parametrize(("driver", "cuda", "verdict", "needed", "fitting", "source"), CASES)
def test_driver(driver: str | None, cuda: str, verdict: str, needed: str, fitting: str | None, source: str) -> None:
    """Every verdict of the published tables, with where it is published."""
    found = check_driver(brings(cuda), host(driver) if driver else None)
    assert (found.verdict, found.needed_driver, found.fitting_cuda, found.source) == (verdict, needed, fitting, source)
    assert found.message


@pytest.mark.parametrize(
    ("driver", "gpu", "cuda", "compat", "verdict"),
    [
        ("470.256.02", A100, "12.5", "12.5.1", "forward"),
        ("470.256.02", A100, "12.5", None, "refused"),
        ("470.256.02", RTX, "12.5", "12.5.1", "refused"),
        ("470.256.02", A100, "13.0", "13.0.2", "refused"),
        ("535.183.01", A100, "13.0", "13.0.2", "forward"),
        ("535.183.01", A100, "13.0", "12.5.1", "refused"),
        ("535.183.01", RTX, "13.0", "13.0.2", "refused"),
        ("550.144.03", A100, "13.0", "13.0.2", "forward"),
        ("550.144.03", A100, "12.5", "12.5.1", "minor-version"),
        ("580.65.06", A100, "13.0", "13.0.2", "native"),
    ],
)
def test_forward_compatibility(driver: str, gpu: HostGpu, cuda: str, compat: str | None, verdict: str) -> None:
    """cuda-compat lifts older drivers on data-center GPUs only, and only from the branches that NVIDIA publishes."""
    found = check_driver(brings(cuda, compat=compat), host(driver, gpu))
    assert found.verdict == verdict
    assert (found.source == FORWARD) == (verdict == "forward")


def test_forward_compatibility_is_offered_and_its_branches_are_named() -> None:
    """A refusal says so where one package would do; a branch that NVIDIA does not name is told of."""
    refused = check_driver(brings("12.5"), host("470.256.02", A100))
    assert "cuda-compat=12.5 would do" in refused.message
    assert "cuda-compat" not in check_driver(brings("12.5"), host("470.256.02", RTX)).message
    assert (
        "names the driver branches R470" in check_driver(brings("12.5", compat="12.5"), host("510.47.03", A100)).message
    )
    mixed = HostDriver(version="470.256.02", cuda=None, gpus=(A100, RTX))
    assert check_driver(brings("12.5", compat="12.5"), mixed).verdict == "refused"


def test_before_cuda_11_there_is_no_minor_version_compatibility() -> None:
    """CUDA 10.2 needs its own driver."""
    assert check_driver(brings("10.2"), host("418.226.00")).verdict == "refused"
    assert check_driver(brings("10.2"), host("440.33.01")).verdict == "native"
    assert check_driver(brings("10.2"), host("418.226.00")).needed_driver == "440.33"


def test_the_worst_of_several_cudas_counts() -> None:
    """An environment with two majors needs the driver of the newer one."""
    found = check_driver(brings("12.4", "11.8"), host("470.256.02"))
    assert (found.verdict, found.needed_driver) == ("refused", "525.60.13")


def test_what_the_driver_reports_counts_where_the_table_ends() -> None:
    """A CUDA that is newer than the tables is judged by what the driver says of itself."""
    assert check_driver(brings("13.9"), host("700.10", cuda="13.9")).verdict == "native"
    assert check_driver(brings("13.9"), host("700.10", cuda="13.5")).verdict == "minor-version"
    assert check_driver(brings("14.1"), host("700.10", cuda="13.5")).verdict == "refused"
    assert check_driver(brings("14.1"), host("700.10", cuda="14.0")).verdict == "minor-version"
    assert check_driver(brings("14.1"), host("700.10")).verdict == "minor-version"
    assert check_driver(brings("14.1"), host("580.65.06")).verdict == "refused"
    assert check_driver(brings("12.4"), host("beta", cuda="12.4")).verdict == "native"
    unknown = check_driver(brings("12.4"), host("beta"))
    assert unknown.verdict == "minor-version"
    assert "'beta' says nothing" in unknown.message


def test_no_cuda() -> None:
    """Without CUDA there is nothing to require, asked or not."""
    assert check_driver(brings(), None).verdict == "no-cuda"
    assert require_driver(brings(), None, gpus_asked=True).verdict == "no-cuda"


def test_a_refusal_names_the_driver_and_the_cuda_that_fits() -> None:
    """Exit code 5, with what is needed, what fits here, and the way on the CPU."""
    with pytest.raises(AcceleratorError) as caught:
        require_driver(brings("12.5"), host("470.256.02"), gpus_asked=False)
    assert caught.value.exit_code == 5
    assert "CUDA 12.5 (cuda-version 12.5) needs NVIDIA driver 525.60.13 or newer" in caught.value.message
    assert "470.256.02 runs CUDA 11.4 in full" in caught.value.message
    assert caught.value.hint is not None
    assert "reprobox lock --cuda 11.4" in caught.value.hint
    assert "--gpus none" in caught.value.hint


@pytest.mark.parametrize("there", [None, HostDriver(version="535.183.01", cuda="12.2", gpus=())])
def test_no_gpu_matters_only_if_one_was_asked_for(there: HostDriver | None) -> None:
    """A host without driver or without GPU runs an environment with CUDA on its CPU."""
    assert require_driver(brings("12.5"), there, gpus_asked=False).verdict == "no-driver"
    with pytest.raises(AcceleratorError, match="GPUs were asked for") as caught:
        require_driver(brings("12.5"), there, gpus_asked=True)
    assert caught.value.hint is not None
    assert "525.60.13" in caught.value.hint


# Architectures -----------------------------------------------------------------------------------------------------------

ARCHITECTURE_CASES = [
    (wheels("torch==1.12.1+cu113"), "9.0", "torch 1.12.1.cu113 for CUDA 11.3 has kernels for 3.7, .* 8.6 only"),
    (wheels("torch==2.5.1+cu124"), "12.0", "has kernels for"),
    (wheels("torch==2.9.0+cu130"), "7.0", "has kernels for 7.5"),
    (PYTORCH_1_10, "9.0", "has kernels for"),
    (conda("cudatoolkit=11.3.1=h2bc3f7f_2"), "9.0", "from 11.8 on"),
    (conda("cuda-version=12.6=0"), "12.0", "from 12.8 on"),
    (conda("cuda-version=12.6=0"), "3.7", "no longer .* 12.0"),
    (conda("cuda-version=13.0=0"), "6.1", "no longer .* 13.0"),
    (wheels("torch==2.5.1+cu124"), "8.9", None),
    (wheels("torch==2.8.0+cu128"), "12.1", None),
    (wheels("torch==2.0.1+cu118"), "3.7", None),
    (wheels("torch==2.5.1+cu124"), "6.1", None),
    (conda("cudatoolkit=11.3.1=h2bc3f7f_2"), "8.9", None),
    (conda("cuda-version=13.0=0"), "7.5", None),
    (wheels("cupy-cuda12x==13.3.0"), "12.0", None),
    (wheels("torch==9.1.0+cu190"), "9.0", None),
    (wheels("torch==2.5.1+cu124"), "what", None),
    (conda("cuda-version=13.0=0"), "21.0", None),
]


@pytest.mark.parametrize(("packages", "capability", "says"), ARCHITECTURE_CASES)
def test_architecture(packages: list[Package], capability: str, says: str | None) -> None:
    """A GPU for which nothing was compiled is named; the same major with a lower minor version serves."""
    gpu = HostGpu(name="GPU", compute_capability=capability, data_center=True)
    findings = check_architecture(find_cuda(packages, python="3.10.1"), [gpu, gpu])
    assert [finding.level for finding in findings] == (["warning"] if says else [])
    assert says is None or re.search(says, findings[0].message), findings


# What an image says ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (brings(), None),
        (brings("12.5"), "cuda>=12.0"),
        (brings("11.8"), "cuda>=11.0"),
        (brings("12.4", "11.8"), "cuda>=12.0"),
        (brings("10.2"), "cuda>=10.2"),
        (brings("12.5", compat="12.5.1"), "driver>=470.57.02"),
        (brings("13.0", compat="13.0.2"), "driver>=535.54.03"),
        (brings("12.5", compat="13.0.2"), "cuda>=12.0"),
        (brings("13.0", compat="12.5.1"), "cuda>=13.0"),
        (brings("77.1"), None),
    ],
)
def test_require_cuda(content: CudaContent, expected: str | None) -> None:
    """One condition, and the widest that is right."""
    assert render_require_cuda(content) == expected


def test_pins() -> None:
    """What a lock pins for its image: versions, newest first; nothing for an environment without CUDA."""
    assert render_pins(find_cuda(TF_WHEEL, python="3.11.2")) == {
        "runtime": "12.5",
        "cudnn": "9.3.0.75",
        "host": "cuda>=12.0",
    }
    assert render_pins(brings("12.4", "11.8")) == {"runtime": "12.4,11.8", "host": "cuda>=12.0"}
    assert render_pins(find_cuda(wheels("numpy==2.1.0"), python="3.11.2")) == {}


# Laws --------------------------------------------------------------------------------------------------------------------

REAL = sorted({p for _, packages, *_ in RECOGNISED for p in packages}, key=str)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=14)
VERSION = st.one_of(
    st.from_regex(r"[0-9!.+a-z]{0,12}", fullmatch=True), TEXT, st.sampled_from([p.version for p in REAL])
)
PACKAGE = st.one_of(
    st.sampled_from(REAL),
    st.builds(
        Package,
        name=st.one_of(TEXT, st.sampled_from([p.name for p in REAL])),
        version=VERSION,
        build=st.one_of(TEXT, st.from_regex(r"(py3|)_?(cuda|cu|cudnn|cpu)_?[0-9.]{0,9}", fullmatch=True)),
        manager=st.sampled_from(["conda", "wheel"]),
    ),
)
PACKAGES = st.lists(PACKAGE, max_size=8)
GPU = st.builds(HostGpu, name=TEXT, compute_capability=VERSION, data_center=st.booleans())


def known_drivers() -> list[tuple[int, ...]]:
    """Every driver of the tables, those beside it, and those in between."""
    named = {*tables.DRIVERS.values(), *tables.MINOR_VERSION_DRIVERS.values(), *(row.driver for row in tables.FORWARD)}
    near = {(*driver[:-1], driver[-1] + step) for driver in named for step in (-1, 0, 1) if driver[-1] + step >= 0}
    return sorted(near | {(390, 46), (500, 1), (616, 0), (700, 1, 1)})


DRIVERS = known_drivers()
RELEASES = [*tables.DRIVERS, (9, 2), (12, 7), (13, 9), (14, 0)]


@settings(max_examples=100, deadline=None)
@given(PACKAGES, st.randoms())
def test_the_order_of_packages_does_not_matter(packages: list[Package], random: object) -> None:
    """Any order, and any package twice, gives the same content, so the same findings and the same image."""
    shuffled = [*packages, *packages[:2]]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert find_cuda(shuffled, python="3.11.2") == find_cuda(packages, python="3.11.2")


@settings(max_examples=150, deadline=None)
@given(PACKAGES, VERSION, VERSION, st.none() | VERSION, st.lists(GPU, max_size=2))
def test_nothing_unknown_raises(
    packages: list[Package], python: str, driver: str, reported: str | None, gpus: list[HostGpu]
) -> None:
    """Whatever a lock or a driver says, there is an answer."""
    content = find_cuda(packages, python=python)
    check_cuda(content, python=python)
    check_driver(content, HostDriver(version=driver, cuda=reported, gpus=tuple(gpus)))
    check_architecture(content, gpus)
    render_require_cuda(content)
    render_pins(content)


VERDICTS = ["native", "minor-version", "forward", "refused"]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(RELEASES),
    st.none() | st.sampled_from([(12, 5), (13, 0), (13, 2), (12, 9)]),
    st.sampled_from([A100, RTX]),
    st.none() | st.sampled_from(["11.0", "12.2", "13.0", "14.0"]),
)
def test_a_newer_driver_is_never_worse(
    cuda: tuple[int, int], compat: tuple[int, int] | None, gpu: HostGpu, reported: str | None
) -> None:
    """With the same GPU and environment, verdicts only improve from driver to driver."""
    content = brings("{}.{}".format(*cuda), compat=compat and "{}.{}".format(*compat))
    ranks = [
        VERDICTS.index(check_driver(content, host(".".join(map(str, driver)), gpu, reported)).verdict)
        for driver in DRIVERS
    ]
    assert ranks == sorted(ranks, reverse=True)


def reported_by(driver: tuple[int, ...]) -> tuple[int, int]:
    """What a driver reports: the newest CUDA whose driver it is or follows."""
    return max(release for release, least in tables.DRIVERS.items() if driver >= least)


@pytest.mark.parametrize("compat", [None, "12.5", "13.0", "13.2", "12.9"])
@pytest.mark.parametrize("cuda", tables.DRIVERS)
def test_the_image_refuses_no_host_that_is_accepted(cuda: tuple[int, int], compat: str | None) -> None:
    """The condition that NVIDIA's runtime checks holds on every host with an accepted driver."""
    content = brings("{}.{}".format(*cuda), compat=compat)
    condition = render_require_cuda(content)
    assert condition is not None
    kind, _, least = condition.partition(">=")
    wanted = tuple(map(int, least.split(".")))
    for driver in (d for d in DRIVERS if d >= tables.DRIVERS[10, 0]):
        if check_driver(content, host(".".join(map(str, driver)), A100)).verdict != "refused":
            assert (reported_by(driver) if kind == "cuda" else driver) >= wanted


def test_the_tables_are_in_order() -> None:
    """A newer CUDA never came with an older driver, and a kernel is compiled before it is dropped."""
    assert list(tables.DRIVERS) == sorted(tables.DRIVERS)
    assert list(tables.DRIVERS.values()) == sorted(tables.DRIVERS.values())
    assert all(end is None or start < end for start, end in tables.ARCHITECTURES.values())
    for table in (tables.TENSORFLOW, tables.PYTORCH):
        versions = [version for row in table for version in row.versions]
        assert versions == sorted(set(versions))
        assert all(row.python[0] <= row.python[1] for row in table)
    for (_, cuda), kernels in tables.PYTORCH_ARCHITECTURES.items():
        for kernel in kernels:
            start, end = tables.ARCHITECTURES[kernel]
            assert start <= cuda < (end or (99, 0))


def test_the_page_for_users_shows_the_tables() -> None:
    """docs/cuda.md has the driver of every CUDA and every row of TensorFlow's and PyTorch's tables."""
    page = (Path(__file__).parents[3] / "docs" / "cuda.md").read_text(encoding="utf-8")
    rows = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in page.splitlines() if line[:1] == "|"}
    text = {row[0]: row for row in rows}
    for cuda, driver in tables.DRIVERS.items():
        shown = ".".join([str(driver[0]), *(f"{number:02d}" for number in driver[1:])])
        assert ("{}.{}".format(*cuda), shown) in rows
    for name, table in (("TensorFlow", tables.TENSORFLOW), ("PyTorch", tables.PYTORCH)):
        for row in table:
            first, last = row.versions[0], row.versions[-1]
            versions = "{}.{}".format(*first) if first == last else "{}.{}–{}.{}".format(*first, *last)
            python = "{}.{}–{}.{}".format(*row.python[0], *row.python[1])
            builds = [f"{c[0]}.{c[1]} / " + (f"{d[0]}.{d[1]}" if d else "?") for c, d in row.builds]
            assert text[f"{name} {versions}"] == (f"{name} {versions}", python, ", ".join(builds))
