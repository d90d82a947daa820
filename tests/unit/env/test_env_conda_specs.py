"""Match specifications, channels and selectors: each meaning is read, has one text, and what is none is refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rattler import MatchSpec

from reprobox.env.conda_specs import (
    CondaRequirement,
    check_selector,
    find_platform,
    parse_channel,
    parse_conda_requirement,
)
from reprobox.errors import EnvironmentInvalid


def read(text: str) -> CondaRequirement:
    return parse_conda_requirement(text, source="environment.yml", line=7)


def refusal(text: str) -> EnvironmentInvalid:
    with pytest.raises(EnvironmentInvalid) as caught:
        read(text)
    assert caught.value.message.startswith("environment.yml:7: ")
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("written", "text", "only_version"),
    [
        ("numpy", "numpy", True),
        ("numpy=*", "numpy", True),
        ("NumPy", "numpy", True),
        ("numpy=1.21", "numpy=1.21", True),
        ("numpy=1.21.*", "numpy=1.21", True),
        ("numpy==1.21.*", "numpy=1.21", True),
        ("numpy 1.21.*", "numpy=1.21", True),
        ("numpy = 1.21", "numpy=1.21", True),
        ("numpy=1.8*", "numpy=1.8", True),
        ("numpy=1.21=", "numpy=1.21", True),
        ("numpy==1.21", "numpy==1.21", True),
        ("numpy 1.21", "numpy==1.21", True),
        ("numpy>=1.8,<2", "numpy>=1.8,<2", True),
        ("numpy <2, >=1.8", "numpy>=1.8,<2", True),
        ("numpy>=1.8.*", "numpy>=1.8", True),
        ("numpy!=1.8.*,>1", "numpy>1,!=1.8.*", True),
        ("numpy~=1.8", "numpy~=1.8", True),
        ("numpy=1.2,<1.2.5", "numpy=1.2,<1.2.5", True),
        ("numpy[version='>=1.8,<2']", "numpy>=1.8,<2", True),
        ("numpy=1.2|1.3", "numpy 1.2.*|==1.3", True),
        ("numpy (>=1,<2)|>3", "numpy >=1,<2|>3", True),
        ("jpeg=9d", "jpeg=9d", True),
        ("openssl=1.1.1l=h7f8727e_0", "openssl=1.1.1l=h7f8727e_0", False),
        ("_libgcc_mutex=0.1=main", "_libgcc_mutex=0.1=main", False),
        ("x264=1!164", "x264=1!164", True),
        ("x264=1!164.3095=h166bdaf_2", "x264=1!164.3095=h166bdaf_2", False),
        ("pytorch 1.9.0 py3.9_cuda11.1*", "pytorch=1.9.0=py3.9_cuda11.1*", False),
        ("pytorch==1.9.0=py3.9_cuda11.1_cudnn8.0.5_0", "pytorch=1.9.0=py3.9_cuda11.1_cudnn8.0.5_0", False),
        ("pytorch=*=*cuda*", "pytorch=*=*cuda*", False),
        ("cudnn=8.*=*cuda11*", "cudnn=8.*=*cuda11*", False),
        ("python 3.9.* *_cpython", "python=3.9.*=*_cpython", False),
        ("numpy>=1,<2 py_0", "numpy>=1,<2 py_0", False),
        ("numpy [version='>=1,<2', build='py_0']", "numpy>=1,<2 py_0", False),
        ("numpy[build=py_0]", "numpy=*=py_0", False),
        ("numpy=1.0=^py.*$", "numpy=1.0=^py.*$", False),
        ("numpy[build_number='>1']", 'numpy[build_number=">1"]', False),
        ("numpy[md5=d41d8cd98f00b204e9800998ecf8427e]", 'numpy[md5="d41d8cd98f00b204e9800998ecf8427e"]', False),
        ("torch=1.9.0+cu111", "torch=1.9.0+cu111", True),
        ("__cuda>=11.2", "__cuda>=11.2", True),
        ("ruamel.yaml", "ruamel.yaml", True),
        ("numpy  # comment", "numpy", True),
        ("numpy\t=\t1.2", "numpy=1.2", True),
    ],
)
def test_one_meaning_has_one_text(written: str, text: str, only_version: bool) -> None:
    """A specification keeps its meaning, is written in one way, and that way is read as itself."""
    found = read(written)
    assert (found.text, found.is_version_only, found.channel, found.line) == (text, only_version, None, 7)
    assert read(found.text) == found
    assert MatchSpec(found.text, strict=False)


@pytest.mark.parametrize(
    ("written", "channel", "shown"),
    [
        ("conda-forge::numpy=1", "conda-forge", "conda-forge::numpy=1"),
        ("conda-forge/linux-64::openssl=1.1", "conda-forge", "conda-forge::openssl=1.1"),
        ("conda-forge/noarch::six", "conda-forge", "conda-forge::six"),
        (
            "nvidia/label/cuda-11.8.0::cuda-toolkit",
            "nvidia/label/cuda-11.8.0",
            "nvidia/label/cuda-11.8.0::cuda-toolkit",
        ),
        ("pkgs/main::numpy", "pkgs/main", "pkgs/main::numpy"),
        ("https://conda.example/team::six", "https://conda.example/team", "https://conda.example/team::six"),
        ("numpy[channel=conda-forge]", "conda-forge", "conda-forge::numpy"),
    ],
)
def test_a_channel_of_its_own(written: str, channel: str, shown: str) -> None:
    """`channel::name`, with a label or a platform's folder, and the same in brackets."""
    found = read(written)
    assert (found.channel, found.shown) == (channel, shown)
    assert "::" not in found.text


@pytest.mark.parametrize(
    ("written", "reason", "edit"),
    [
        ("numpy=>1.2", "=>1.2", "write numpy>=1.2"),
        ("numpy=<1.2", "=<1.2", "write numpy<=1.2"),
        ("numpy>=1.2<2", "'<2' is no build", "write numpy>=1.2,<2"),
        ("numpy >=1.2 <2", "'<2' is no build", "write numpy>=1.2,<2"),
        ("numpy^1.2", "^1.2", "write numpy>=1.2, and"),
        ("numpy=^1.2", "^1.2", "write numpy>=1.2, and"),
        ("numpy:1.2", "numpy:1.2", "write numpy=1.2"),
        ("numpy=", "cannot read", "name=1.2"),
        ("numpy>=", "cannot read", "name=1.2"),
        ("numpy>=1,", "cannot read", "name=1.2"),
        ("uvicorn[standard]", "uvicorn[standard]", "- pip:"),
        ("uvicorn[standard]>=0.2", "uvicorn[standard]", "- pip:"),
        ("torch @ git+https://git.example/o/r", "torch @", "- pip:"),
        ("git+https://git.example/o/r.git", "git+", "- pip:"),
        ("-r requirements.txt", "-r", "- pip:"),
        ("--extra-index-url https://whl.example", "--extra", "- pip:"),
        ("./folder", "./folder", "- pip:"),
        ("https://conda.example/linux-64/a-b-1.0-py_0.tar.bz2#0a", "a-b-1.0", "write a-b=1.0=py_0"),
        ("{{ python }}", "{{ python }}", "template"),
        ("numpy {{ numpy }}", "{{ numpy }}", "template"),
        ("python=3.8;", "'3.8;' is no version of Python", "python=3.11"),
        ("python=three", "no version of Python", "python=3.11"),
        ("python=3.1*", "'3.1*' is no version of Python", "python>=3.10"),
        ("python=3.10'", "quotes", "write python=3.10"),
        ("python='3.10'", "quotes", "write python=3.10"),
        ("a b c d", "'c d' is no build", "name=1.2"),
        ("numpy[subdir=linux-64]", "'subdir' cannot be asked for", "name=1.2"),
        ("numpy[url=x]", "'url' cannot be asked for", "name=1.2"),
        ("numpy[when='python>=3']", "'when' cannot be asked for", "name=1.2"),
        ("torch=1.9.0=pypi_0", "project of the package index", "write torch==1.9.0 below `- pip:`"),
        ("=1.2", "'=1.2'", "name=1.2"),
        ("'numpy'", "numpy", "name=1.2"),
        ("default::numpy", "no channel 'default'", "did you mean defaults?"),
        ("..::numpy", "is no channel", "conda-forge"),
        ("a " + "(" * 500_000, "cannot read", "name=1.2"),
        ("a=1" + "|1" * 5000, "longer than 1000 characters", "name=1.2"),
    ],
)
def test_what_is_no_specification_is_refused_with_the_edit(written: str, reason: str, edit: str) -> None:
    """What is wrong is said, and what to write instead; a deep one does not end the process."""
    error = refusal(written)
    assert reason in error.message
    assert edit in (error.hint or "")
    assert len(error.message) < 700


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("vc=14.1=h21ff451_1", "a Windows package"),
        ("vc", "a Windows package"),
        ("vs2015_runtime=14.27", "a Windows package"),
        ("ucrt", "a Windows package"),
        ("m2w64-gcc-libs=5.3.0=7", "a Windows package"),
        ("console_shortcut_miniconda", "a Windows package"),
        ("libcxx=14.0.6", "a macOS package"),
        ("appnope", "a macOS package"),
        ("defaults::python.app", "a macOS package"),
        ("pip=21.2.4=py39haa95532_0", "a build for Windows"),
        ("ca-certificates=2022.2.1=haa95532_0", "a build for Windows"),
        ("certifi=2021.5.30=py39hecd8cb5_0", "a build for macOS"),
        ("pip 21.2.4 py39hca03da5_0", "a build for macOS"),
    ],
)
def test_what_is_of_another_platform_is_told_by_name(written: str, kind: str) -> None:
    """Exports from Windows and macOS are known by packages and builds that exist there alone."""
    assert find_platform(written) == kind
    assert f"is {kind}; images are Linux" in refusal(written).message
    assert "--from-history" in (refusal(written).hint or "")


@pytest.mark.parametrize(
    "written",
    [
        "menuinst=2.2.0=py312h7900ff3_0",
        "pip=21.2.4=py39h06a4308_0",
        "certifi=2021.10.8=py39hf3d152e_1",
        "six=1.16.0=pyhd3eb1b0_1",
        "libcxxabi-tools",
        "vcrpy",
        "blas=1.0=mkl",
        "tk=8.6.12=h1ccaba5_0",
    ],
)
def test_what_is_of_linux_too_is_not_taken_for_another(written: str) -> None:
    """Names and builds that only look like those of another platform are read."""
    assert find_platform(written) is None
    read(written)


VERSION = st.from_regex(r"[0-9]{1,2}(\.[0-9]{1,2}){0,2}", fullmatch=True)
CLAUSE = st.builds("{}{}".format, st.sampled_from(["=", "==", ">=", ">", "<", "<=", "!=", "~="]), VERSION) | st.builds(
    "={}.*".format, VERSION
)
NAMES = st.sampled_from(["numpy", "PyTorch", "_libgcc_mutex", "ruamel.yaml", "x264"])


@given(name=NAMES, clauses=st.lists(CLAUSE, min_size=1, max_size=3), blank=st.sampled_from(["", " "]))
@settings(max_examples=300, deadline=None, database=None)
def test_a_text_means_what_was_written(name: str, clauses: list[str], blank: str) -> None:
    """Normalising changes neither what versions fit (as py-rattler has it) nor, a second time, itself."""
    written = f"{name}{blank}" + f",{blank}".join(clauses)
    found = read(written)
    assert read(found.text).text == found.text
    mine = set(str(MatchSpec(found.text, strict=False).version).split(","))
    theirs = set(str(MatchSpec(name + ",".join(clauses), strict=False).version).split(","))
    assert mine == theirs
    turned = read(name + ",".join(reversed(clauses)))
    assert turned.text == found.text


@given(st.text(max_size=40) | st.text("numpy=<>!~*.,|[]()'\"^$ 12:#", max_size=40))
@settings(max_examples=500, deadline=None, database=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever is written, the answer is a requirement or a refusal."""
    try:
        found = read(text)
    except EnvironmentInvalid:
        return
    assert found.name == found.name.lower()
    assert read(found.text).text == found.text


@pytest.mark.parametrize(
    ("written", "channel"),
    [
        ("conda-forge", "conda-forge"),
        ("conda-forge  ", "conda-forge"),
        ("conda-forge/", "conda-forge"),
        ("conda-forge/linux-64", "conda-forge"),
        ("pytorch/label/nightly", "pytorch/label/nightly"),
        ("conda-forge/label/cudatoolkit_dev", "conda-forge/label/cudatoolkit_dev"),
        ("https://conda.example/team/", "https://conda.example/team"),
        ("https://conda.example/team/noarch", "https://conda.example/team"),
        ("https://user:pass@word@conda.example/team", "https://conda.example/team"),
        ("https://conda.example/t/tk-12/team", "https://conda.example/team"),
        ("file:///srv/channel", "file:///srv/channel"),
    ],
)
def test_channels_as_people_write_them(written: str, channel: str) -> None:
    """Names, labels and URLs; blanks, a platform's folder and credentials are no part of one."""
    assert parse_channel(written, where="e:1") == channel


@pytest.mark.parametrize("written", ["default", "conda_forge", "condaforge"])
def test_a_slip_in_a_channel_is_told(written: str) -> None:
    """An unknown channel that is a well-known slip is refused with the name that was meant."""
    with pytest.raises(EnvironmentInvalid, match=rf"^e:1: there is no channel '{written}'$") as caught:
        parse_channel(written, where="e:1")
    assert caught.value.hint in ("did you mean defaults?", "did you mean conda-forge?")


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        "/",
        "a b",
        "-x",
        "a/../b",
        "https://",
        "https://[::1",
        "https://a b/c",
        "ftp://a/b",
        "https://h/a\u2028b",
        "ä",
    ],
)
def test_what_is_no_channel_is_refused(written: str) -> None:
    """Neither a name nor an address: refused, with what to write."""
    with pytest.raises(EnvironmentInvalid, match=r"^e:1: ") as caught:
        parse_channel(written, where="e:1")
    assert "conda-forge" in (caught.value.hint or "")


def selected(line: str, platform: str = "linux-64") -> bool:
    return check_selector(line, platform=platform, where="e:1")


@pytest.mark.parametrize(
    ("line", "x86", "arm"),
    [
        ("- numpy", True, True),
        ("- numpy  # [linux]", True, True),
        ("- numpy  #[unix]", True, True),
        ("- numpy  # [ linux64 ]", True, False),
        ("- numpy  # [linux-64]", True, False),
        ("- numpy  # [aarch64]", False, True),
        ("- numpy  # [arm64]", False, False),
        ("- numpy  # [win]", False, False),
        ("- numpy  # [osx]", False, False),
        ("- numpy  # [not win]", True, True),
        ("- numpy  # [!osx]", True, True),
        ("- numpy  # [linux and not aarch64]", True, False),
        ("- numpy  # [(win or linux) and x86_64]", True, False),
        ("- numpy  # why [win]  ", True, True),
        ("- numpy  # see [1]", True, True),
        ("- numpy  # [tested on linux]", True, True),
        ("- numpy  # [win] is not supported", True, True),
        ("- numpy  # [cuda 11.3 is needed]", True, True),
        ("- numpy[version='>=1']", True, True),
    ],
)
def test_a_selector_decides_for_the_target(line: str, x86: bool, arm: bool) -> None:
    """A line with a selector counts where it holds for the target; a remark in brackets is none."""
    assert (selected(line), selected(line, "linux-aarch64")) == (x86, arm)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("- numpy  # [py37]", "'py37'"),
        ("- numpy  # [py>=38]", "'py'"),
        ("- numpy  # [linux and foo]", "'foo'"),
        ("- numpy  # [linux and]", "[linux and]"),
        ("- numpy  # [linux win]", "[linux win]"),
        ("- numpy  # [(linux]", "[(linux]"),
        ("- numpy  # [" + "(" * 5000 + "linux]", "too long"),
        ("- numpy  # [" + "not " * 5000 + "linux]", "too long"),
    ],
)
def test_a_selector_that_cannot_be_decided_is_refused(line: str, named: str) -> None:
    """What is no platform, or makes no sense, is refused by name."""
    with pytest.raises(EnvironmentInvalid, match=r"^e:1: ") as caught:
        selected(line)
    assert named in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "line", ["#" * 50_000, "#[" + " " * 50_000, "# [osx or" + " " * 50_000 + "win]", "# [" * 20_000]
)
def test_a_long_line_is_decided_soon(line: str) -> None:
    """No line takes longer than its length."""
    began = time.monotonic()
    selected(line)
    assert time.monotonic() - began < 1


WORDS = {word: word in ("linux", "unix", "linux64", "x86_64", "x86") for word in (
    "linux", "unix", "linux64", "x86_64", "x86", "win", "osx", "win64", "aarch64", "arm64", "ppc64le",
)}  # fmt: skip
EXPRESSION = st.recursive(
    st.sampled_from(sorted(WORDS)),
    lambda inner: st.one_of(
        st.builds("{} and {}".format, inner, inner),
        st.builds("{} or {}".format, inner, inner),
        st.builds("not {}".format, inner),
        st.builds("({})".format, inner),
    ),
    max_leaves=8,
)


@given(EXPRESSION)
@settings(max_examples=400, deadline=None, database=None)
def test_a_selector_is_evaluated_as_python_does(expression: str) -> None:
    """`not`, `and`, `or` and parentheses bind as in Python."""
    assert selected(f"- numpy  # [{expression}]") is bool(eval(expression, {}, dict(WORDS)))


@given(st.lists(st.sampled_from([*sorted(WORDS), "and", "or", "not", "!", "(", ")"]), min_size=1, max_size=9))
@settings(max_examples=400, deadline=None, database=None)
def test_words_that_are_no_expression_are_refused(words: list[str]) -> None:
    """What Python cannot read is refused, and what it can is decided alike."""
    text = " ".join(words).replace("( )", "( ( linux )")
    try:
        expected = bool(eval(text.replace("!", " not "), {}, dict(WORDS)))
    except (SyntaxError, TypeError):
        with pytest.raises(EnvironmentInvalid):
            selected(f"- numpy  # [{text}]")
    else:
        assert selected(f"- numpy  # [{text}]") is expected
