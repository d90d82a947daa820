"""What a project says that it needs, read without running anything of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from reprobox.env.project_metadata import ProjectMetadata, parse_project_metadata


def read(files: dict[str, str], *extras: str) -> ProjectMetadata:
    return parse_project_metadata(files.get, extras=extras)


def test_poetry() -> None:
    """Carets, tildes, stars, tables, extras; what is a path or git is told."""
    found = read(
        {
            "pyproject.toml": """
[tool.poetry.dependencies]
python = "^3.9"
a = "^1.2.3"
b = "^0.3"
c = "^0.0.3"
d = "~1.4.2"
e = "~2"
f = "*"
g = "1.2.*"
h = ">=1, <2.5"
i = "2.1"
j = {version = "^2", extras = ["x", "y"], markers = "sys_platform == 'linux'"}
k = {version = "1.0", optional = true}
l = {git = "https://git.example/l"}
m = "^1 || ^2"
[tool.poetry.extras]
more = ["k"]
[tool.poetry.scripts]
run-it = "a:b"
"""
        },
        "more",
    )
    assert found.requirements == [
        "a>=1.2.3,<2", "b>=0.3,<0.4", "c>=0.0.3,<0.0.4", "d>=1.4.2,<1.5", "e>=2,<3", "f", "g==1.2.*", "h>=1,<2.5",
        "i==2.1", "j[x,y]>=2,<3 ; sys_platform == 'linux'", "k==1.0",
    ]  # fmt: skip
    assert [Requirement(text).name for text in found.requirements] == list("abcdefghijk")
    assert len(found.notes) == 2
    assert found.commands == ["run-it"]


def test_setup_cfg() -> None:
    """Lines of install_requires, and of an extra; a file: is told."""
    text = "[options]\ninstall_requires =\n    six>=1  # old\n    tomli; python_version<'3.11'\n"
    extra = "[options.extras_require]\ndev =\n    rich\n"
    found = read({"setup.cfg": text + extra, "setup.py": "from setuptools import setup\nsetup()\n"}, "dev")
    assert found.requirements == ["six>=1", "tomli; python_version<'3.11'", "rich"]
    assert "another file" in read({"setup.cfg": "[options]\ninstall_requires = file: r.txt\n"}).notes[0]


@pytest.mark.parametrize(
    ("text", "requirements", "notes"),
    [
        ("setup(name='x', install_requires=['a', 'b>1'])", ["a", "b>1"], 0),
        ("import setuptools\nNEED = ['a']\nsetuptools.setup(install_requires=NEED, extras_require={'dev': ['c']})",
         ["a", "c"], 0),
        ("setup(install_requires=open('requirements.txt').read().split())", [], 1),
        ("setup(name='x')", [], 0),
        ("raise SystemExit", [], 0),
        ("not python (", [], 1),
    ],
)  # fmt: skip
def test_setup_py(text: str, requirements: list[str], notes: int) -> None:
    """Literal lists are read, what is computed is told, and nothing is run."""
    found = read({"setup.py": text}, *(["dev"] if "extras_require" in text else []))
    assert found.requirements == requirements
    assert len(found.notes) == notes


def test_what_must_be_compiled_is_seen() -> None:
    """Extension modules, and backends that compile."""
    assert read({"setup.py": "setup(ext_modules=[CUDAExtension('x', [])])"}).compiled
    assert read({"pyproject.toml": "[build-system]\nrequires = ['maturin>=1']\n"}).compiled
    assert not read({"pyproject.toml": "[build-system]\nrequires = ['hatchling']\n"}).compiled


def test_dynamic_requirements_are_looked_for_elsewhere() -> None:
    """A pyproject.toml that leaves them to setuptools."""
    files = {
        "pyproject.toml": "[project]\nname = 'x'\ndynamic = ['dependencies']\n",
        "setup.py": "setup(install_requires=['a'])",
    }
    assert read(files).requirements == ["a"]


@given(st.text(max_size=80), st.sampled_from(["pyproject.toml", "setup.cfg", "setup.py"]))
def test_no_text_breaks_it(text: str, name: str) -> None:
    """Whatever stands in a file of the project, there is an answer."""
    read({name: text}, "x")
    read({"pyproject.toml": f"[project]\n{text}", "setup.cfg": f"[options]\n{text}", "setup.py": f"setup({text})"})
