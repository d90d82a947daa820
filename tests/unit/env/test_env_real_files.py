"""Environment files as they are: one test for each row and each trap of what was counted on real ones, and whole files.

The files below `environments/` are written for these tests, in the manner of public projects of 2018 to 2026.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.utils import canonicalize_name

from reprobox.env.client import Client
from reprobox.env.documents import decode_text
from reprobox.env.pip_lines import WheelRequirement
from reprobox.env.solve_wheels import solve_wheels
from reprobox.env.spec import EnvironmentSpec, parse_environment
from reprobox.env.uv_resolver import _render_options
from reprobox.errors import EnvironmentInvalid, NoSolution

FOLDER = Path(__file__).parent / "environments"
FILES = sorted(path.name for path in FOLDER.glob("*.yml"))
BESIDE = {"requirements.txt": "numpy>=1.20\ntorch==2.1.0\n", "constraints.txt": "numpy<2\n"}


def read(text: str, include: Callable[[str], str | None] = BESIDE.get) -> EnvironmentSpec:
    return parse_environment(text, source="environment.yml", include=include)


def read_file(name: str) -> EnvironmentSpec:
    return parse_environment(decode_text((FOLDER / name).read_bytes(), source=name), source=name, include=BESIDE.get)


def with_conda(*lines: str) -> EnvironmentSpec:
    return read("channels: [conda-forge]\ndependencies:\n" + "".join(f"  - {line}\n" for line in lines))


def with_pip(*lines: str) -> EnvironmentSpec:
    return read("dependencies:\n  - python=3.9\n  - pip:\n" + "".join(f"    - {line}\n" for line in lines))


def refusal(text: str) -> EnvironmentInvalid:
    with pytest.raises(EnvironmentInvalid) as caught:
        read(text)
    return caught.value


# Whole files


def _entries(name: str) -> tuple[list[str], list[str]]:
    """What YAML alone says that conda and pip are asked for."""
    document: dict[str, Any] = yaml.load((FOLDER / name).read_text(), Loader=yaml.CSafeLoader)
    conda, pip = [], []
    for item in document["dependencies"]:
        if isinstance(item, dict):
            pip += [str(line) for line in item["pip"] if line]
        elif item:
            conda.append(str(item))
    return conda, pip


def test_there_are_enough_whole_files() -> None:
    """At least forty."""
    assert len(FILES) >= 40


@pytest.mark.parametrize("name", [name for name in FILES if name != "selectors.yml"])
def test_a_whole_file_becomes_a_complete_request(name: str) -> None:
    """Every entry of the file is in the request, under its name, and nothing else is."""
    spec = read_file(name)
    conda, pip = _entries(name)
    names = [entry.split("::")[-1].split("[")[0] for entry in conda]
    for sign in "=<>!~ ":
        names = [found.split(sign)[0] for found in names]
    assert [requirement.name for requirement in spec.conda] == [found.strip().lower() for found in names]
    own = [entry for entry in pip if not entry.startswith(("-r", "-c", "--", "-i"))]
    drawn = len(BESIDE["requirements.txt"].splitlines()) if any(entry.startswith("-r") for entry in pip) else 0
    assert len(spec.wheels) + len(spec.references) == len(own) + drawn
    told = len(spec.options) + len(spec.notes)
    assert told >= len([entry for entry in pip if entry.startswith(("--", "-c", "-i"))])
    written = [canonicalize_name(entry.split("[")[0].split("=")[0].split(" ")[0].rstrip(";<>~!")) for entry in own]
    assert {wheel.name for wheel in spec.wheels} <= {
        *(found.split(">")[0].split("<")[0].rstrip("~!") for found in written),
        "numpy",
        "torch",
    }


@pytest.mark.parametrize("name", FILES)
def test_a_whole_file_is_read_alike_however_it_was_saved(name: str) -> None:
    """Line ends of Windows, a byte order mark and the UTF-16 of PowerShell change nothing that is asked for."""
    text = (FOLDER / name).read_text()
    plain = read_file(name)
    for data in (
        text.replace("\n", "\r\n").encode(),
        text.encode("utf-8-sig"),
        text.encode("utf-16"),
        b"\xff\xfe" + text.replace("\n", "\r\n").encode("utf-16-le"),
    ):
        spec = parse_environment(decode_text(data, source=name), source=name, include=BESIDE.get)
        assert (spec.conda, spec.wheels, spec.references) == (plain.conda, plain.wheels, plain.references)
        assert (spec.channels, spec.options, spec.variables) == (plain.channels, plain.options, plain.variables)


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("export-")])
def test_an_export_is_kept_to_the_letter(name: str) -> None:
    """Versions and builds of an export reach the solver as they were."""
    conda, pip = _entries(name)
    spec = read_file(name)
    assert [requirement.shown for requirement in spec.conda] == conda
    assert [wheel.text for wheel in spec.wheels] == pip


# How often: one test a row


def test_row_pip_section_without_pip() -> None:
    """A pip section is read although pip itself is not listed (8 of 143 files)."""
    spec = read_file("pip-without-pip.yml")
    assert "pip" not in [requirement.name for requirement in spec.conda]
    assert len(spec.wheels) == 4


@pytest.mark.parametrize(
    ("written", "channels"),
    [
        ("", ("defaults",)),
        ("channels:\n", ("defaults",)),
        ("channels: [defaults]\n", ("defaults",)),
        ("channels: [conda-forge]\n", ("conda-forge",)),
        ("channels: [conda-forge, nodefaults]\n", ("conda-forge",)),
        ("channels: [defaults, conda-forge, nodefaults]\n", ("conda-forge",)),
        ("channels: [pytorch, nvidia, conda-forge, defaults]\n", ("pytorch", "nvidia", "conda-forge", "defaults")),
        ("channels: [conda-forge, bioconda, conda-forge]\n", ("conda-forge", "bioconda")),
        ("channels:\n  - conda-forge  \n  -\n  - 'defaults '\n", ("conda-forge", "defaults")),
        ("channels: [pytorch, nvidia]\n", ("pytorch", "nvidia", "defaults")),
        ("channels: [pytorch, nvidia, nodefaults]\n", ("pytorch", "nvidia")),
        (
            "channels: [nvidia/label/cuda-11.8.0, conda-forge/label/gcc7]\n",
            ("nvidia/label/cuda-11.8.0", "conda-forge/label/gcc7"),
        ),
        (
            "channels: [https://mirrors.example/anaconda/cloud/conda-forge/]\n",
            ("https://mirrors.example/anaconda/cloud/conda-forge",),
        ),
        ("channels: [https://mirrors.example/pkgs/main]\n", ("https://mirrors.example/pkgs/main",)),
        ("channels: [https://own.example/team]\n", ("https://own.example/team", "defaults")),
    ],
)
def test_row_channels(written: str, channels: tuple[str, ...]) -> None:
    """Named, by URL, missing altogether; where none of them has a Python, conda's implicit `defaults` comes last."""
    spec = read(f"{written}dependencies: [python=3.9]\n")
    assert spec.channels == channels
    implicit = channels[-1] == "defaults" and "defaults" not in written and len(channels) > 1
    assert [("nodefaults" in note.message, note.line) for note in spec.notes] == ([(True, 1)] if implicit else [])


@pytest.mark.parametrize(
    ("written", "channel"),
    [
        ("pytorch::pytorch=1.9", "pytorch"),
        ("bioconda::hmmer", "bioconda"),
        ("nvidia/label/cuda-11.8.0::cuda-toolkit", "nvidia/label/cuda-11.8.0"),
        ("conda-forge/linux-64::cudnn=8.8", "conda-forge"),
    ],
)
def test_row_a_channel_of_one_package(written: str, channel: str) -> None:
    """`channel::package`, with label or platform's folder, also of a channel that the list lacks."""
    (requirement,) = with_conda(written).conda
    assert (requirement.channel, "::" in requirement.text) == (channel, False)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("numpy=1.20", "numpy=1.20"),
        ("numpy", "numpy"),
        ("numpy=1.20.3=py37hf144106_0", "numpy=1.20.3=py37hf144106_0"),
        ("numpy>=1.20,<2", "numpy>=1.20,<2"),
        ("numpy==1.20.3", "numpy==1.20.3"),
        ("numpy=1.20.*", "numpy=1.20"),
        ("numpy >=1.20, < 2", "numpy>=1.20,<2"),
        ("pytorch=*=*cuda*", "pytorch=*=*cuda*"),
    ],
)
def test_row_match_specifications(written: str, text: str) -> None:
    """Fuzzy, bare, with build, ranges, exact, globs, inner blanks, globs of builds: each keeps its meaning."""
    assert [requirement.text for requirement in with_conda(f'"{written}"').conda] == [text]


def test_row_exports() -> None:
    """With builds and `prefix:`, without builds, and from history; the prefix decides nothing."""
    full, history = read_file("export-forge-py39-cuda113.yml"), read_file("export-from-history.yml")
    assert all(not requirement.is_version_only for requirement in full.conda)
    assert all(requirement.is_version_only for requirement in history.conda)
    assert all(requirement.constraint for requirement in read_file("export-no-builds-py38.yml").conda)
    assert full.notes == history.notes == ()


@pytest.mark.parametrize("version", ["2.7.13", "3.5", "3.6.9", "3.7", "3.8.*", "3.9"])
def test_row_old_pythons(version: str) -> None:
    """Python 3.9 and older (64 % of those that pin it) are asked for as they are."""
    (python,) = with_conda(f"python={version}").pythons
    assert python.constraint == f"={version.removesuffix('.*')}"


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("einops", "einops"),
        ("timm>=0.4,<0.7", "timm<0.7,>=0.4"),
        ("hydra-core~=1.1", "hydra-core~=1.1"),
        ("transformers[sentencepiece,torch]>=4", "transformers[sentencepiece,torch]>=4"),
        ("segmentation-models-pytorch==0.3.*", "segmentation-models-pytorch==0.3.*"),
        ("xformers==0.0.20; platform_system == 'Linux'", 'xformers==0.0.20; platform_system == "Linux"'),
    ],
)
def test_row_pip_requirements(written: str, text: str) -> None:
    """Unpinned, ranges, extras, globs and markers."""
    assert [wheel.text for wheel in with_pip(f'"{written}"').wheels] == [text]


@pytest.mark.parametrize(
    "revision", ["main", "v0.6.0", "6c17d0e", "feature/fast", "0875192baaa91c43523708f55866d98eaf3facaf"]
)
@pytest.mark.parametrize("prefix", ["", "-e ", "r @ "])
def test_row_git(revision: str, prefix: str) -> None:
    """A branch, a tag, a short and a whole commit, editable and by name."""
    (reference,) = with_pip(f"{prefix}git+https://git.example/o/r.git@{revision}").references
    assert (reference.kind, reference.address, reference.revision) == ("git", "https://git.example/o/r.git", revision)
    assert reference.editable is (prefix == "-e ")


def test_row_the_projects_own_code() -> None:
    """`-e .`, with extras too, is a reference to the folder; it is not looked for on an index."""
    spec = with_pip("-e .", "-e .[dev]")
    assert [(r.kind, r.address, r.editable, r.extras) for r in spec.references] == [
        ("folder", ".", True, ()),
        ("folder", ".", True, ("dev",)),
    ]
    assert spec.wheels == ()


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("--extra-index-url https://whl.example/cu118", "extra-index"),
        ("--extra-index-url=https://whl.example/cu118", "extra-index"),
        ("--index-url https://whl.example/cu118", "index"),
        ("--find-links https://whl.example/cu118", "find-links"),
        ("torch==1.9.0+cu111 -f https://whl.example/cu118", "find-links"),
    ],
)
def test_row_index_options(written: str, kind: str) -> None:
    """Each spelling is the same option, and reaches the resolver."""
    spec = with_pip(written)
    assert [(option.kind, option.value) for option in spec.options] == [(kind, "https://whl.example/cu118")]
    client = Client(environ={}, cache=Path("/nowhere"), pip_options=spec.options)
    assert "https://whl.example/cu118" in _render_options([], client, Path("/nowhere"), {})


def test_row_addresses_paths_markers_and_hashes() -> None:
    """URLs of wheels and archives, local paths, and digests of a line."""
    kinds = [reference.kind for reference in read_file("wheels-by-url.yml").references]
    assert kinds == ["wheel", "source", "folder", "wheel"]
    assert [len(wheel.sha256s) for wheel in read_file("hash-pinned.yml").wheels] == [1, 2]
    drawn = read_file("requirements-file.yml")
    assert [(wheel.text, wheel.line) for wheel in drawn.wheels] == [("numpy>=1.20", 8), ("torch==2.1.0", 8)]
    assert [(option.kind, option.value) for option in drawn.options] == [("constraint", "numpy<2")]


def test_row_builds_for_cuda_without_an_index() -> None:
    """`+cu116` with no index named (10 of 13): the resolver is told the backend, whose index it knows."""
    spec = read_file("cu-pins-no-index.yml")
    assert [wheel.text for wheel in spec.wheels][:2] == ["torch==1.12.1+cu116", "torchvision==0.13.1+cu116"]
    client = Client(environ={}, cache=Path("/nowhere"), pip_options=spec.options)
    words = _render_options([wheel.text for wheel in spec.wheels], client, Path("/nowhere"), {})
    assert words[words.index("--torch-backend") + 1] == "cu116"


def test_row_yaml_as_people_leave_it() -> None:
    """Comments, trailing blanks (on name and channel too), `variables:`, no name, null items."""
    spec = read_file("globs-and-spaces.yml")
    assert (spec.name, spec.channels) == ("globs", ("conda-forge", "defaults"))
    assert spec.conda[-1].text == "libgcc-ng>=7.5.0"
    assert [requirement.text for requirement in read_file("history-conda-lines-by-hand.yml").conda][:2] == [
        "python=3.6.9",
        "pytorch=1.3.1",
    ]
    assert dict(read_file("tf-and-cuda-wheels.yml").variables)["TF_CPP_MIN_LOG_LEVEL"] == "2"
    assert read_file("null-items.yml").name is read_file("bioinformatics.yml").name is None
    assert len(read_file("null-items.yml").conda) == 2


def test_row_selectors_anchors_and_flow() -> None:
    """Seldom seen, and read: selectors of both kinds for the target alone, anchors, one line."""
    spec = read_file("selectors.yml")
    assert [requirement.name for requirement in spec.conda] == ["python", "pytorch-gpu"]
    assert [wheel.name for wheel in spec.wheels] == ["decord"]
    chosen = with_conda("sel(linux): nccl", "sel(win): vc", "sel(unix): make=4", "sel(osx): libcxx")
    assert [(requirement.text, requirement.line) for requirement in chosen.conda] == [("nccl", 3), ("make=4", 5)]
    assert len(read_file("flow-style.yml").wheels) == len(read_file("anchors.yml").wheels) == 2


@pytest.mark.parametrize(
    ("text", "place", "words", "edit"),
    [
        ("name: x\ndependencies:\n\t- python\n", "environment.yml:3:1: ", "not valid YAML", "indentation"),
        ("name: x\ndependencies:\n  - python={{ py }}\n", "environment.yml:3: ", "python={{ py }}", "template"),
        ("{% set py = 3.9 %}\nname: x\n", "environment.yml:1:2: ", "not valid YAML", "template"),
        ("dependencies:\n  - {{ package }}\n", "environment.yml:2: ", "plain value", "template"),
        ("dependencies:\n  - pip:\n    - torch=={{ torch }}\n", "environment.yml:3: ", "is a template", "write what"),
    ],
)
def test_row_tabs_and_templates_are_refused(text: str, place: str, words: str, edit: str) -> None:
    """What is no YAML, or a template, is refused with its place."""
    error = refusal(text)
    assert error.message.startswith(place)
    assert words in error.message
    assert edit in (error.hint or "")


@pytest.mark.parametrize(
    "line",
    ["cudatoolkit=8.0", "cudatoolkit=11.3.1=h9edb442_10", "pytorch-cuda=12.4", "cuda-version=12.9", "cuda-nvcc=11.8.*", "cudnn=8.2",
     "tensorflow-gpu=1.14", "pytorch=*=*cuda*"],
)  # fmt: skip
def test_row_gpu_dependencies(line: str) -> None:
    """What asks for CUDA by name is in the request as written."""
    (requirement,) = with_conda(line).conda
    assert requirement.line == 3
    assert requirement.text == line.removesuffix(".*")


@pytest.mark.parametrize(
    "line", ["tensorflow-gpu==2.5.0", "nvidia-cudnn-cu12==8.9.4.25", "tensorflow[and-cuda]", "jax[cuda12]"]
)
def test_row_gpu_wheels(line: str) -> None:
    """Wheels that bring CUDA are in the request as written."""
    assert [wheel.text for wheel in with_pip(line).wheels] == [line]


# What blocks a file: the refusal that it deserves

WINDOWS = """\
name: tf
channels:
  - defaults
dependencies:
  - ca-certificates=2022.2.1=haa95532_0
  - python=3.9.7=h6244533_1
  - sqlite=3.37.2=h2bbff1b_0
  - vc=14.2=h21ff451_1
  - vs2015_runtime=14.27.29016=h5e58377_2
  - wincertstore=0.2=py39haa95532_2
  - pip:
    - pywin32==305
prefix: C:\\Users\\me\\anaconda3\\envs\\tf
"""
WITHOUT_BUILDS = """\
channels: [conda-forge]
dependencies:
  - python=3.8
  - {}
"""


def test_blocked_another_platform_with_builds() -> None:
    """An export of builds from Windows is told as a whole: no line could stay, so the one edit is to make it anew."""
    error = refusal(WINDOWS)
    assert error.message.startswith("environment.yml:5: this is an export from Windows (its prefix is 'C:")
    assert "'ca-certificates=2022.2.1=haa95532_0' and 5 other lines" in error.message
    assert "--from-history" in (error.hint or "")
    error = refusal(WINDOWS.rpartition("prefix:")[0])
    assert error.message.startswith("environment.yml:5: 'ca-certificates=2022.2.1=haa95532_0' is a build for Windows")
    assert "5 lines" in error.message
    assert "--from-history" in (error.hint or "")


def test_blocked_an_export_from_macos_without_builds() -> None:
    """Names of macOS among versions: the lines to delete, as all others could stay."""
    error = refusal("dependencies:\n  - python=3.9\n  - appnope=0.1.2\n  - numpy=1.21\n  - libcxx=14.0.6\n")
    assert "2 lines of this file are not for it" in error.message
    assert "delete lines 3, 5" in (error.hint or "")


@pytest.mark.parametrize("spec", ["libcxx", "libcxx>=14", "libcxx=17.0.6=h00ab1b0_0", "clang_osx-64"])
def test_what_linux_has_too_is_left_to_the_index(spec: str) -> None:
    """conda-forge builds libcxx and cross compilers for Linux: only an export from macOS pins their bare versions."""
    assert read(WITHOUT_BUILDS.format(spec)).conda[1].name == spec.partition(">")[0].partition("=")[0]


@pytest.mark.parametrize(
    ("package", "kind"),
    [
        ("vc=14.1", "Windows"),
        ("vc=14.1=h21ff451_1", "Windows"),
        ("khronos-opencl-icd-loader=2023.04.17", "Windows"),
        ("libcxx=14.0.6", "macOS"),
        ("appnope=0.1.2", "macOS"),
    ],
)
def test_blocked_another_platform_by_name(package: str, kind: str) -> None:
    """Exports without builds are told by names of packages: file, line, spec, reason, edit."""
    error = refusal(WITHOUT_BUILDS.format(package))
    assert error.message == f"environment.yml:4: {package!r} is a {kind} package; images are Linux"
    assert error.hint == "make the file with `conda env export --from-history`, or delete that line"


def test_blocked_another_platform_in_the_pip_section() -> None:
    """A project that has wheels for Windows alone, without a marker."""
    error = refusal("dependencies:\n  - python=3.9\n  - pip:\n    - pywin32==305\n")
    assert error.message == "environment.yml:4: 'pywin32==305' is published for Windows alone; images are Linux"
    assert error.hint == "delete that line, or add ; sys_platform == 'win32'"


@pytest.mark.parametrize(
    ("line", "edit"),
    [
        ("nibabel=2.5.1", "nibabel==2.5.1"),
        ("tensorflow-gpu=1.7.0", "tensorflow-gpu==1.7.0"),
        ("gym = 0.21", "gym==0.21"),
    ],
)
def test_blocked_syntax_of_conda_in_the_pip_section(line: str, edit: str) -> None:
    """One `=` below pip: the line, what stands there, and what to write."""
    error = refusal(f"dependencies:\n  - pip:\n    - {line}\n")
    assert error.message.startswith(f"environment.yml:3: cannot read the requirement {line!r}: ")
    assert error.hint == f"write it as {edit}"


def test_blocked_unknown_channel() -> None:
    """`default`: did you mean defaults?"""
    error = refusal("channels:\n  - conda-forge\n  - default\ndependencies: [python]\n")
    assert error.message == "environment.yml:3: there is no channel 'default'"
    assert error.hint == "did you mean defaults?"


@pytest.mark.parametrize("line", ["gym==0.21.0", "torch-scatter", "pytorch-lightning==1.5.10", "verl==0.2.0.dev0"])
def test_blocked_elsewhere_is_read_here(line: str) -> None:
    """What only an index or a build can refuse (old metadata, source builds, what is gone) is a whole request."""
    assert [wheel.text for wheel in with_pip(line).wheels] == [line]


def test_blocked_what_pip_and_conda_both_bring(tmp_path: Path) -> None:
    """A project that pip is asked for in another version than conda brings is refused with its line and the edit."""
    requirement = with_pip("numpy==1.19").wheels[0]
    client = Client(environ={}, cache=tmp_path)

    def solve(version: str) -> tuple[object, ...]:
        return solve_wheels(
            [requirement], python="3.9.7", glibc="2.36", platform="linux-64", client=client, provided=[("numpy", version)],
            source="environment.yml",
        )  # fmt: skip

    assert solve("1.19.0") == ()
    with pytest.raises(
        NoSolution, match=r"^environment\.yml:4: numpy==1\.19 is asked of pip, but conda brings numpy 1\.20\.3"
    ) as caught:
        solve("1.20.3")
    assert "take numpy out of one of the two sections" in (caught.value.hint or "")


# Traps


def test_trap_strict_match_specifications() -> None:
    """What py-rattler's strict reading refuses (builds, `=2.5.*`) is read."""
    spec = with_conda("pytorch=1.4.0=py3.7_cuda10.1.243_cudnn7.6.3_0", "tensorflow=2.5.*", "tensorflow=2.15.*=cuda120*")
    assert [requirement.constraint for requirement in spec.conda] == [
        "=1.4.0=py3.7_cuda10.1.243_cudnn7.6.3_0",
        "=2.5",
        "=2.15.*=cuda120*",
    ]


def test_trap_one_package_in_both_sections_and_names_twice() -> None:
    """The same name in both sections, twice in one, or twice with markers: every line reaches its solver."""
    spec = read_file("duplicates.yml")
    assert [requirement.text for requirement in spec.conda] == ["python=3.8", "numpy", "scipy", "numpy=1.20"]
    assert [wheel.name for wheel in spec.wheels] == ["numpy", "protobuf", "protobuf"]
    assert isinstance(spec.wheels[1], WheelRequirement)
    assert 'python_version < "3.11"' in spec.wheels[1].text


def test_trap_fragments_epochs_and_capitals() -> None:
    """`#egg=` is no comment, an epoch no exclamation, and names are what they are in any case."""
    assert [r.name for r in read_file("git-short-sha.yml").references] == [None, "d4rl", None, "metaworld", "core"]
    assert "x264=1!164.3095=h166bdaf_2" in [r.text for r in read_file("export-forge-py39-cuda113.yml").conda]
    assert [r.name for r in read_file("upper-case.yml").conda] == ["python", "pytorch", "nltk", "cython"]
    assert [w.name for w in read_file("upper-case.yml").wheels] == ["sentencepiece", "pyyaml", "scikit-learn"]


def test_trap_sections_in_any_order() -> None:
    """Dependencies before channels, pip before python."""
    spec = read_file("sections-turned.yml")
    assert (spec.name, spec.channels, len(spec.conda), len(spec.wheels)) == ("turned", ("conda-forge",), 3, 2)


def test_trap_what_conda_list_says_of_pip() -> None:
    """`name=version=pypi_0` is what `conda list` shows of a project of the index: refused with what to write."""
    error = refusal("dependencies:\n  - python=3.9\n  - torch=1.9.0=pypi_0\n")
    assert error.message.startswith("environment.yml:3: 'torch=1.9.0=pypi_0' is a project of the package index")
    assert error.hint == "write torch==1.9.0 below `- pip:`"
