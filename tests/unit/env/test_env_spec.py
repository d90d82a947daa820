"""environment.yml: what people write is read; what cannot be provided is refused by place, name and edit."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
from env_samples import ENVIRONMENTS, spoil

from reprobox.env.conda_specs import CondaRequirement
from reprobox.env.pip_lines import parse_wheel_requirement
from reprobox.env.spec import EnvironmentSpec, parse_environment
from reprobox.errors import EnvironmentInvalid


def read(text: str) -> EnvironmentSpec:
    return parse_environment(text, source="environment.yml")


def refusal(text: str) -> EnvironmentInvalid:
    with pytest.raises(EnvironmentInvalid) as caught:
        read(text)
    return caught.value


def with_conda(requirement: str) -> str:
    return f"name: x\ndependencies:\n  - pip\n  - {requirement}\n"


def with_pip(requirement: str) -> str:
    return f"name: x\ndependencies:\n  - python=3.11\n  - pip:\n      - {requirement}\n"


@pytest.mark.parametrize(
    ("written", "constraint", "prefix"),
    [
        ("python", "", ""),
        ("python=3.11", "=3.11", "3.11"),
        ("python=3", "=3", "3"),
        ("python==3.11.2", "==3.11.2", None),
        ("python==3.11", "==3.11", None),
        ("python 3.11", "==3.11", None),
        ("python=3.11.*", "=3.11", "3.11"),
        ("python==3.11.*", "=3.11", "3.11"),
        ("python 3.11.*", "=3.11", "3.11"),
        ("python = 3.11", "=3.11", "3.11"),
        ("python =3.11", "=3.11", "3.11"),
        ("python=3.8*", "=3.8", "3.8"),
        ("python=3.11.2=h955ad1f_0", "=3.11.2=h955ad1f_0", None),
        ('"python=3.11.*=*_cpython"', "=3.11.*=*_cpython", None),
        ("conda-forge::python=3.11", "=3.11", "3.11"),
        ("python=3.11   ", "=3.11", "3.11"),
        ("'python=3.11 '", "=3.11", "3.11"),
        ("Python=3.11", "=3.11", "3.11"),
        ("PYTHON", "", ""),
        ("python=3.11  # the interpreter", "=3.11", "3.11"),
        ("python>=3.8,<3.10", ">=3.8,<3.10", None),
        ("'python >=3.8, < 3.10'", ">=3.8,<3.10", None),
        ("python>=3.8.*", ">=3.8", None),
    ],
)
def test_the_interpreter_as_people_write_it(written: str, constraint: str, prefix: str | None) -> None:
    """Fuzzy, exact, glob, build, channel, blanks, comment and capitals: each is read as the version that it means."""
    (python,) = read(with_conda(written)).pythons
    assert (python.name, python.constraint, python.version_prefix, python.line) == ("python", constraint, prefix, 4)


@pytest.mark.parametrize(
    ("entries", "suffices"),
    [
        ("", True),
        ("python", True),
        ("python=3.11, pip", True),
        ("python>=3.9, pip=23", True),
        ("conda-forge::python", False),
        ("python=3.11.2=h955ad1f_0", False),
        ("python, pip=23.1=py_0", False),
        ("python, numpy", False),
    ],
)
def test_a_base_suffices_for_an_interpreter_alone(entries: str, suffices: bool) -> None:
    """A base's own Python will do where nothing of conda's is asked for: no library, no build, no channel."""
    lines = "".join(f"  - {entry.strip()}\n" for entry in entries.split(",") if entry)
    assert read(f"dependencies:\n{lines}").base_suffices is suffices


@pytest.mark.parametrize(
    ("written", "text", "name"),
    [
        ("numpy", "numpy", "numpy"),
        ("numpy==2.4.6", "numpy==2.4.6", "numpy"),
        ("numpy == 2.4.6", "numpy==2.4.6", "numpy"),
        ("scikit_learn>=1.3, < 1.5", "scikit_learn<1.5,>=1.3", "scikit-learn"),
        ("Jinja2==3.1.*   ", "Jinja2==3.1.*", "jinja2"),
        ("numpy  # the array library", "numpy", "numpy"),
        ("'numpy  # the array library'", "numpy", "numpy"),
        ("'numpy>=1 \t#no space after'", "numpy>=1", "numpy"),
        ("uvicorn[standard]>=0.2", "uvicorn[standard]>=0.2", "uvicorn"),
        (
            "\"tomli; python_version < '3.11'\"",
            'tomli; python_version < "3.11"',
            "tomli",
        ),
        ("zope.interface", "zope.interface", "zope-interface"),
    ],
)
def test_wheels_as_people_write_them(written: str, text: str, name: str) -> None:
    """A requirement of the pip section keeps its meaning, loses its comment, and knows its normal name and its line."""
    (wheel,) = read(with_pip(written)).wheels
    assert (wheel.text, wheel.name, wheel.line) == (text, name, 5)


def test_comments_and_empty_items_ask_for_nothing() -> None:
    """A null item, an item that is all comment and a section without items ask for nothing."""
    text = "dependencies:\n  -\n  - python\n  - pip:\n      -\n      - '# nothing'\n      - ''\n      - six\n  - pip:\nvariables: {}\n"
    spec = read(text)
    assert [(wheel.text, wheel.line) for wheel in spec.wheels] == [("six", 8)]
    assert read("dependencies:\n").wheels == ()
    assert read("name: x\n") == EnvironmentSpec(
        name="x",
        source="environment.yml",
        sha256=hashlib.sha256(b"name: x\n").hexdigest(),
    )
    python = CondaRequirement(text="python", name="python", channel=None, line=4)
    assert read("dependencies:\n  - ''\n  - '# later'\n  - python\n").conda == (python,)


def test_sections_stand_in_any_order() -> None:
    """Whatever stands first (pip before python, variables before dependencies), the same is asked for."""
    parts = {
        "name": "name: x\n",
        "channels": "channels: [conda-forge]\n",
        "dependencies": "dependencies:\n  - pip:\n      - six\n      - idna\n  - pip\n  - python=3.11\n",
        "variables": "variables:\n  B: '2'\n  A: 1\n",
        "prefix": "prefix: /home/x\n",
    }
    seen = set()
    for shift in range(len(parts)):
        keys = [*list(parts)[shift:], *list(parts)[:shift]]
        spec = read("".join(parts[key] for key in keys))
        conda = tuple(requirement.text for requirement in spec.conda)
        seen.add((spec.name, spec.channels, conda, tuple(wheel.text for wheel in spec.wheels), spec.variables))
    assert seen == {("x", ("conda-forge",), ("pip", "python=3.11"), ("six", "idna"), (("B", "2"), ("A", "1")))}


def test_a_name_may_be_missing_or_blank() -> None:
    """A missing and a blank name are None; blanks around one are no part of it."""
    assert read("dependencies: [python]\n").name is None
    assert read("name: '  '\n").name is None
    assert read("name:\n").name is None
    assert read("name: 'x  '\n").name == "x"


def test_variables_are_texts_as_written() -> None:
    """A variable's value is the text in the file, whatever type YAML would give it, and order is kept."""
    spec = read("variables:\n  B: 010\n  A: yes\n  C: 1.50\n  D: ''\n  E: 'a b'\n")
    assert spec.variables == (("B", "010"), ("A", "yes"), ("C", "1.50"), ("D", ""), ("E", "a b"))


def test_the_digest_is_of_the_text() -> None:
    """The digest that a lock notes is sha256 over the text in UTF-8."""
    text = "name: größe\n"
    assert read(text).sha256 == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("text", "line", "named", "edit"),
    [
        (with_conda("python=3.1x"), 4, "'3.1x'", "python=3.11"),
        (with_conda("'=3.10'"), 4, "'=3.10'", "name=1.2"),
        (with_conda("https://a.example/b-1.0-h_0.conda"), 4, "'https://a.example/b-1.0-h_0.conda'", "write b=1.0=h_0"),
        (with_conda("https://a.example/b.zip"), 4, "'https://a.example/b.zip'", "- pip:"),
        (with_conda("{python: 3.11}"), 4, "'python'", "python=3.11"),
        (with_conda("{conda: [numpy]}"), 4, "'conda'", "`pip:`"),
        (with_pip("nibabel=2.5.1"), 5, "'nibabel=2.5.1'", "nibabel==2.5.1"),
        (with_pip("tensorflow-gpu=1.7.0;"), 5, "'tensorflow-gpu=1.7.0;'", "tensorflow-gpu==1.7.0"),
        (with_pip("'--no-binary :all:'"), 5, "'--no-binary'", "wheel"),
        (with_pip("-r requirements.txt"), 5, "'requirements.txt'", "its lines here"),
        (with_pip("hg+https://a.example/b"), 5, "'hg+https://a.example/b'", "git"),
        (with_pip("b @ https://a.example/b-1.0-cp39-cp39-win32.whl"), 5, "win32", "for Linux"),
        (with_pip("b @ git+https://a.example/b ; python_version < '3'"), 5, "behind the address", "leave out"),
        (with_pip("numpy>>1"), 5, "'numpy>>1'", "name==1.2"),
        ("name: x\ndependancies:\n  - python\n", 2, "'dependancies'", "dependencies"),
        ("name: x\nchanels:\n  - defaults\n", 2, "'chanels'", "channels"),
        ("name: x\npip:\n  - six\n", 2, "'pip'", "- pip:"),
        ("channels: [nodefaults]\n", 1, "nodefaults", "conda-forge"),
        ("name: x\nchannels:\n  - default\n", 3, "'default'", "did you mean defaults?"),
        ("name: x\nname: y\n", 2, "'name'", "merge"),
        ("dependencies:\n  - pip: [a]\n    pip: [b]\n", 3, "'pip'", "merge"),
        ("name: x\ndependencies:\n  python: 3.11\n", 3, "dependencies must be a list", "- "),
        ("name: x\ndependencies:\n  - pip: six\n", 3, "pip must be a list", "`pip:`"),
        ("- python\n- pip\n", 1, "the file must be a mapping", "README"),
        ("name: x\nvariables:\n  - A\n", 3, "variables must be a mapping", "README"),
    ],
)
def test_a_refusal_names_place_spec_and_edit(text: str, line: int, named: str, edit: str) -> None:
    """What cannot be provided is refused as file:line, with the words that are wrong and one edit that helps."""
    error = refusal(text)
    assert error.message.startswith(f"environment.yml:{line}: ")
    assert named in error.message
    assert edit in (error.hint or "")


@pytest.mark.parametrize(
    "text",
    [
        "dependencies:\n  - [python]\n",
        "dependencies:\n  - pip:\n      - torch: 2.0\n",
        "name: [x]\n",
        "variables:\n  A: [1]\n",
    ],
)
def test_a_list_where_a_word_belongs_is_refused_with_an_edit(text: str) -> None:
    """Also a wrong kind of value is refused with one edit that helps."""
    assert refusal(text).hint


@pytest.mark.parametrize("second", ["python", "python=3.11", "python=3.10"])
def test_python_twice_is_not_decided_in_silence(second: str) -> None:
    """Two lines on the interpreter both reach the solver, each with its place: neither is dropped."""
    spec = read(f"dependencies:\n  - python=3.10\n  - {second}\n")
    assert [(python.text, python.line) for python in spec.pythons] == [("python=3.10", 2), (second, 3)]


def test_an_open_glob_is_not_a_version() -> None:
    """`python=3.1*` takes in 3.11 and 3.10: read as a prefix that admits 3.11, or refused, but never as 3.1."""
    assert "3.1*" in refusal(with_conda("python=3.1*")).message


def test_what_conda_passes_over_is_noted() -> None:
    """A key that nobody knows is named with its line, and so is an option that decides nothing."""
    spec = read("mystery: 1\ndependencies:\n  - pip:\n      - --no-cache-dir\n      - -U six\n")
    assert [(note.line, "mystery" in note.message) for note in spec.notes] == [(1, True), (4, False), (5, False)]
    assert "--no-cache-dir" in spec.notes[1].message
    assert "-U" in spec.notes[2].message


FILES = {
    "requirements.txt": "# all\nsix==1.16  # comment\n-r more/dev.txt\n-c limits.txt\n--no-cache-dir\n",
    "more/dev.txt": "black; python_version \\\n  > '3'\n-e ../lib\n--extra-index-url https://whl.example\n",
    "limits.txt": "numpy<2\n",
    "more/limits.txt": "numpy<1\n",
    "broken.txt": "six\nnumpy=1.2\n",
    "round.txt": "-r round.txt\n",
}


def read_with_files(line: str, files: dict[str, str] = FILES) -> EnvironmentSpec:
    return parse_environment(with_pip(line), source="environment.yml", include=files.get)


def test_a_requirements_file_is_drawn_in() -> None:
    """Its requirements, references, options and notes count, paths are beside it, and the line is that of its -r."""
    spec = read_with_files("-r requirements.txt")
    assert [(wheel.text, wheel.line) for wheel in spec.wheels] == [("six==1.16", 5), ('black; python_version > "3"', 5)]
    assert [(ref.address, ref.editable, ref.line) for ref in spec.references] == [("../lib", True, 5)]
    assert [(option.kind, option.value, option.line) for option in spec.options] == [
        ("extra-index", "https://whl.example", 5),
        ("constraint", "numpy<2", 5),
    ]
    told = [(note.line, note.message.split(": ")[0]) for note in spec.notes]
    assert told == [(5, "requirements.txt:3"), (5, "requirements.txt:5")]


def test_what_is_drawn_in_is_part_of_the_digest() -> None:
    """A lock notices a changed requirements file although environment.yml is the same."""
    seen = {read_with_files("-r requirements.txt").sha256}
    for name in ("requirements.txt", "more/dev.txt", "limits.txt", "more/limits.txt"):
        seen.add(read_with_files("-r requirements.txt", {**FILES, name: FILES[name] + "\n"}).sha256)
    assert len(seen) == 4
    assert read_with_files("six").sha256 == hashlib.sha256(with_pip("six").encode()).hexdigest()


@pytest.mark.parametrize(
    ("line", "place", "named"),
    [
        ("-r none.txt", "environment.yml:5: ", "'none.txt' cannot be read"),
        ("-r broken.txt", "broken.txt:2: ", "'numpy=1.2'"),
        ("-c requirements.txt", "requirements.txt:3: ", "no requirement of the index"),
        ("-r round.txt", "round.txt:1: ", "without an end"),
        ("-r https://a.example/r.txt", "environment.yml:5: ", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_drawn_in_is_refused(line: str, place: str, named: str) -> None:
    """A missing, broken or circular requirements file is refused with the place where it goes wrong."""
    with pytest.raises(EnvironmentInvalid) as caught:
        read_with_files(line)
    assert caught.value.message.startswith(place)
    assert named in caught.value.message
    assert caught.value.hint


def test_a_character_of_code_zero_is_refused() -> None:
    """YAML can write a NUL, which ends names of files and variables for the system below."""
    for text in (with_pip('"-r a\\0b"'), with_conda('"a\\0b"'), 'variables: {A: "x\\0"}\n', 'name: "\\0"\n'):
        assert refusal(text).hint


def test_a_null_name_is_no_name() -> None:
    """`name: null` is YAML for no name."""
    assert read("name: null\n").name is None


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("name: x\ndependencies:\n\t- python\n", 3, 1),
        ("name: x\ndependencies:\n  - python\n - pip\n", 4, 2),
        ("name: 'x\n", 2, 1),
        ("name: x: y\n", 1, 8),
        ("a: *b\n", 1, 4),
        ("name: x\n---\nname: y\n", 2, 1),
        ("name: x\ndependencies: [python, pip\n", 3, 1),
    ],
)
def test_broken_yaml_has_line_and_column(text: str, line: int, column: int) -> None:
    """Broken YAML is refused with line and column, both counted from one."""
    error = refusal(text)
    assert error.message.startswith(f"environment.yml:{line}:{column}: not valid YAML")
    assert "environment.yml" in (error.hint or "")


def test_a_control_character_is_refused_with_advice() -> None:
    """Text of another encoding (UTF-16 read as UTF-8 has NULs) is refused, and the advice is to save it as UTF-8."""
    error = refusal("n\x00a\x00m\x00e\x00:\x00 \x00x\x00")
    assert "not valid YAML" in error.message
    assert "UTF-8" in (error.hint or "")


def test_an_empty_file_is_refused_with_an_example() -> None:
    """Nothing, and nothing but comments, is refused with what to write."""
    for text in ("", "\n\n", "# later\n"):
        error = refusal(text)
        assert "empty" in error.message
        assert "dependencies:" in (error.hint or "")


@pytest.mark.parametrize("sample", sorted(ENVIRONMENTS))
def test_the_samples_are_read(sample: str) -> None:
    """Each sample is read as it stands: what the spoiled copies below are copies of is valid."""
    spec = read(ENVIRONMENTS[sample])
    assert spec.name in ("digits", "turned", "quoted", "anchors")
    assert spec.wheels


@pytest.mark.parametrize("sample", sorted(ENVIRONMENTS))
def test_a_spoiled_file_is_refused_and_never_crashes(sample: str) -> None:
    """Whatever bytes are changed, a file is read or refused with the file's name; nothing else is ever raised."""
    refused: list[EnvironmentInvalid] = []
    for text in spoil(ENVIRONMENTS[sample], count=300, seed=11):
        try:
            read(text)
        except EnvironmentInvalid as error:
            refused.append(error)
    assert 10 < len(refused) < 290
    assert all(error.message.startswith("environment.yml") for error in refused)


def test_a_deep_marker_is_refused() -> None:
    """A marker of thousands of brackets is refused like any other that cannot be read."""
    with pytest.raises(EnvironmentInvalid):
        parse_wheel_requirement("numpy; " + "(" * 3000, source="environment.yml", line=1)


def test_a_deep_file_does_not_kill_the_process() -> None:
    """A file of 30,000 open brackets (60 kB) is refused; it does not end the process by a signal."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        "from reprobox.env.spec import parse_environment\n"
        "from reprobox.errors import EnvironmentInvalid\n"
        "try: parse_environment('[' * 30_000 + ']' * 30_000, source='e')\n"
        "except EnvironmentInvalid: pass\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


PYPROJECT = """\
[project]
name = "own"
dependencies = ["six>=1.16", "own-lib @ git+https://git.example/o/lib.git@v1", "tomli; python_version < '3.11'"]
[project.optional-dependencies]
All_things = ["rich", "own[dev]"]
[project.scripts]
own = "own:main"
"""


def test_what_the_project_itself_needs_is_asked_for() -> None:
    """`-e .` puts code on the path; its requirements and extras come from its own files, and a change makes a lock stale."""
    files = {"pyproject.toml": PYPROJECT}
    spec = read_with_files('"-e .[all-things]"', files)
    assert [(wheel.name, wheel.line) for wheel in spec.wheels] == [("six", 5), ("tomli", 5), ("rich", 5), ("own", 5)]
    assert [(r.kind, r.address) for r in spec.references] == [("folder", "."), ("git", "https://git.example/o/lib.git")]
    told = " ".join(note.message for note in spec.notes)
    assert "5 requirements are read from its own files" in told
    assert "commands of . (own) are not on PATH" in told
    assert spec.sha256 != read_with_files('"-e .[all-things]"', {"pyproject.toml": PYPROJECT + "# x"}).sha256
    assert "no extra 'none'" in " ".join(n.message for n in read_with_files('"-e .[none]"', files).notes)


def test_a_project_without_files_of_its_own_is_a_note() -> None:
    """Nothing is known of what it needs, and that is said."""
    assert "name no requirements" in read_with_files("-e .", {}).notes[0].message


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("https://a.example/x-1-py3-none-any.whl; 'linux' in sys_platform", 1),
        ("https://a.example/x-1-cp39-cp39-macosx_11_0_arm64.whl ; sys_platform == 'darwin'", 0),
        ("x @ git+https://a.example/x ; platform_system != 'Windows'", 1),
        ("x @ https://a.example/x.tar.gz ; os_name == 'nt'", 0),
    ],
)
def test_an_address_for_one_platform(line: str, kept: int) -> None:
    """A marker of the platform behind an address is met or the line is left out, with a note."""
    spec = parse_environment(with_pip(f'"{line}"'), source="environment.yml")
    assert len(spec.references) == kept
    assert ["left out" in note.message for note in spec.notes] == [True] * (1 - kept)


def test_options_behind_a_requirement_are_passed_over() -> None:
    """As pip does it, with a note; before any requirement --no-binary decides, and is refused."""
    spec = parse_environment(
        with_pip("six --no-binary=six\n      - rich --only-binary rich\n      - '--only-binary :all:'"), source="e"
    )
    assert [wheel.name for wheel in spec.wheels] == ["six", "rich"]
    assert len(spec.notes) == 3
    with pytest.raises(EnvironmentInvalid, match="--no-binary"):
        parse_environment(with_pip("--no-binary six"), source="e")


def test_what_is_no_environment_file_is_told() -> None:
    """A configuration of something else, and what `conda list --export` prints."""
    with pytest.raises(EnvironmentInvalid, match="no environment file"):
        parse_environment("server: x\nport: 8\n", source="env.yml")
    listed = "# This file may be used to create an environment\n# platform: win-64\nnumpy=1.2=py39_0\npip=22=py_0\n"
    with pytest.raises(EnvironmentInvalid, match="conda list --export"):
        parse_environment(listed, source="env.yml")


def test_a_requirements_file_by_a_short_url() -> None:
    """`-r file:requirements.txt`, as older pips took it."""
    assert [w.name for w in read_with_files("-r file:limits.txt").wheels] == ["numpy"]
