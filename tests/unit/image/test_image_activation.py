"""Activation scripts: what is captured is what a shell would have set, and what cannot be told is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reprobox.image.activation import Activation, capture_activation

ENVIRONMENT = {"CONDA_PREFIX": "/opt/env", "PATH": "/opt/env/bin:/usr/bin", "SET": "value", "EMPTY": ""}
BASH = shutil.which("bash")


def capture(text: str) -> Activation:
    return capture_activation(text, environment=ENVIRONMENT)


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("export A=1", {"A": "1"}),
        ("A=1\nexport A\n", {"A": "1"}),
        ("export A\nA=1\n", {"A": "1"}),
        ("A=1", {}),
        ("export A=", {"A": ""}),
        ("export A='a b $SET'", {"A": "a b $SET"}),
        ('export A="a b $SET"', {"A": "a b value"}),
        ("export A=$CONDA_PREFIX/share/x", {"A": "/opt/env/share/x"}),
        ('export A="${CONDA_PREFIX}/share"', {"A": "/opt/env/share"}),
        ("export PATH=$CONDA_PREFIX/x:$PATH", {"PATH": "/opt/env/x:/opt/env/bin:/usr/bin"}),
        ("PATH=/x", {"PATH": "/x"}),
        ("export A=$UNSET-x", {"A": "-x"}),
        ("export A=${UNSET:-d} B=2", None),
        ("export A=${UNSET:-d}", {"A": "d"}),
        ("export A=${EMPTY:-d}", {"A": "d"}),
        ("export A=${EMPTY-d}", {"A": ""}),
        ("export A=${SET:+d}", {"A": "d"}),
        ("export A=${EMPTY+d}", {"A": "d"}),
        ("export A=${UNSET+d}", {"A": ""}),
        ('export A="${UNSET:-$SET}"', {"A": "value"}),
        ("export A=1; export B=2;", {"A": "1", "B": "2"}),
        ('export A="a;b"; export B=c', {"A": "a;b", "B": "c"}),
        ("# don't\nexport A=1 # it's\n", {"A": "1"}),
        ("# to be continued \\\nexport A=1\n", {"A": "1"}),
        ('export A="x # y"', {"A": "x # y"}),
        ("export A=x#y", {"A": "x#y"}),
        ('export A="a\\\nb"', {"A": "ab"}),
        ("export A=a\\\nb", {"A": "ab"}),
        ("export A='a\nb'", {"A": "a\nb"}),
        ("export SET=value", {}),
        ("export A=1\nunset A\n", {}),
        ("A=1\nunset -v A B\n", {}),
        ('if [ -z "$UNSET" ]; then\n  export A=1\nfi\n', {"A": "1"}),
        ('if [[ -n "${SET:-}" ]]; then export A=1; else export A=2; fi', {"A": "1"}),
        ('if [ -n "$UNSET" ]; then export A=1; else export A=2; fi', {"A": "2"}),
        (
            'if [ -n "$UNSET" ]\nthen\nexport A=1\nelif test -n "$SET"\nthen\nexport A=2\nelse\nexport A=3\nfi',
            {"A": "2"},
        ),
        ('if [ -n "$UNSET" ]; then\nif [ -f x ]; then\n. y\nfi\nfor a in b; do c; done\nfi\nexport A=1', {"A": "1"}),
        ('if [ ! -z "$SET" ]; then export A=1; fi', {"A": "1"}),
        ("if [ -n $UNSET ]; then export A=1; fi", {"A": "1"}),
        ("if [[ -n $UNSET ]]; then export A=1; fi", {}),
        ('[ -n "$SET" ] && export A=1', {"A": "1"}),
        ('[[ -n "$UNSET" ]] || export A=1', {"A": "1"}),
        ('[ -z "${SET+x}" ] && export SET=other', {}),
        ("true\n:\n", {}),
        ("", {}),
        (
            "#!/bin/sh\n# keep what was there\n"
            'if [ -n "${GDAL_DATA-}" ]; then\n  export _CONDA_SET_GDAL_DATA="$GDAL_DATA"\nfi\n'
            "export GDAL_DATA=$CONDA_PREFIX/share/gdal\nexport GDAL_DRIVER_PATH=\n",
            {"GDAL_DATA": "/opt/env/share/gdal", "GDAL_DRIVER_PATH": ""},
        ),
    ],
)
def test_what_a_script_sets(text: str, variables: dict[str, str] | None) -> None:
    """Assignments, known variables, defaults and conditions on variables are captured as a shell has them."""
    found = capture(text)
    if variables is None:
        assert found.unknown
        assert not found.variables
    else:
        assert (dict(found.variables), found.unknown) == (variables, ())


@pytest.mark.parametrize(
    "line",
    [
        "source other.sh",
        ". other.sh",
        "export A=$(nproc)",
        "export A=`nproc`",
        'export A="$(nproc)"',
        "export A=$((1 + 1))",
        "export A=1 B=2",
        "export PATH+=:/x",
        "export A=~/x",
        "export A=a:~/x",
        "export A=$HOME/x",
        "export A=$PWD",
        "export A=$1",
        "export A=${SET%e}",
        "export A=${SET/a/b}",
        "export A=${#SET}",
        "export A=${!SET}",
        "export A=${UNSET:=x}",
        "export A=${UNSET:?x}",
        "export A=${UNSET:-${SET}}",
        "export A=a*b",
        "export A=(1 2)",
        'export A="a\\$b"',
        "export A=$'a'",
        "export A=it's",
        'export A=foo"',
        "export -n SET",
        "export A-B=1",
        "unset SET",
        "unset $A",
        "unset -f a",
        "declare -x A=1",
        "set -e",
        "echo hello",
        "export A=1 | cat",
        "export A=1 && export B=2",
        '[ -n "$UNSET" ] && export A=1 || export A=2',
        "if [ -f /x ]; then export A=1; fi",
        '[ "$SET" = value ] && export A=1',
        '[ -n "$A" -a -n "$B" ] && export A=1',
        '[[ -n "$SET" ] && export A=1',
        '[ -n "$SET" && export A=1',
        "if true; then export A=1; fi",
        'if [ -z "$UNSET" ]; then export A=1',
        "fi",
        "else",
        "for a in b; do export A=1; done",
        "while true; do export A=1; done",
        "case $SET in value) export A=1;; esac",
        "f() { export A=1; }",
        "cat <<EOF\nexport A=1\nEOF",
        "[ -n ${SET}x y ] && export A=1",
        "exit 0",
        "return",
    ],
)
def test_what_cannot_be_told_is_named(line: str) -> None:
    """Whatever else a script does is named, and then nothing of it counts."""
    found = capture(f"export FIRST=1\n{line}\n")
    assert found.unknown
    assert not found.variables
    first = line.split("\n")[0].split(";")[0]
    assert any(
        first.split()[0].strip("\"'") in unknown or "unset" in unknown or "`if`" in unknown for unknown in found.unknown
    )


def test_only_the_condition_is_named() -> None:
    """Of an `if` that cannot be decided the lines inside are not named too."""
    assert capture("if [ -d x ]; then\n. y\nelse\n. z\nfi\nexport A=1\n").unknown == ("if [ -d x ]",)


LINES = st.sampled_from([
    "export A=1", "export A=$SET", 'export B="$A:x"', "A=2", "export A", "unset A", "unset B", "B=${A:-d}", "export B=${A+d}",
    "export C='$A'", 'C="a b"', "export C=$UNSET", ":", "# [ ] ' \"", "export SET=other", 'export SET="$SET$SET"',
    '[ -n "$A" ] && export D=1', '[[ -z $B ]] && D=2', '[ -z "${C:-}" ] || export D=3', "[ -n $D ] && export D=4",
    "export EMPTY=${EMPTY:-full}; export D=$EMPTY", 'export A="x\\\ny"', "export D=${D}${A}$B",
])  # fmt: skip
TESTS = st.sampled_from(
    ['[ -n "$A" ]', "[[ -n $B ]]", '[ -z "$C" ]', 'test -n "$SET"', "[ ! -z $EMPTY ]", "[ -n $D ]", "[[ ! -n ${A-} ]]"]
)
SCRIPTS = st.recursive(
    st.lists(LINES, max_size=4).map("\n".join),
    lambda inner: st.one_of(
        st.builds("{}\n{}".format, inner, inner),
        st.builds("if {}; then\n:\n{}\nfi".format, TESTS, inner),
        st.builds("if {}\nthen :; {}\nelse\n:\n{}\nfi".format, TESTS, inner, inner),
        st.builds("if {}; then\n:\n{}\nelif {}; then :\n{}\nfi".format, TESTS, inner, TESTS, inner),
    ),
    max_leaves=5,
)
DUMP = f"exec {sys.executable} -Sc 'import json, os; print(json.dumps(dict(os.environ)))'\n"


def run_in_bash(script: str) -> dict[str, str]:
    assert BASH
    done = subprocess.run([BASH, "--norc", "-c", f"{script}\n{DUMP}"], env=ENVIRONMENT, capture_output=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return {name: value for name, value in found.items() if name not in ("_", "PWD", "SHLVL", "OLDPWD", "LC_CTYPE")}


@pytest.mark.skipif(BASH is None, reason="there is no bash to compare with")
@given(SCRIPTS)
@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_what_is_captured_is_what_bash_does(script: str) -> None:
    """Where a script is understood, it sets what bash sets, to the letter; where it is not, nothing."""
    found = capture(script)
    if found.unknown:
        assert not found.variables
        return
    assert {**ENVIRONMENT, **found.variables} == run_in_bash(script)


WORDS = ["export ", "A=", "$A", "${", "}", ":-", '"', "'", "\n", ";", "if ", "then ", "else", "fi", "[ ", " ]", "-n ", "&&", "||",
         "#", "\\", "unset ", "(", ")", "<<", "~", "*", " ", "[[", "]]", "elif ", "\x00", "é"]  # fmt: skip


@given(st.text(max_size=80) | st.lists(st.sampled_from(WORDS), max_size=30).map("".join))
@settings(max_examples=800, deadline=None, database=None)
def test_any_text_is_captured_or_named(text: str) -> None:
    """Whatever is in a script, the answer is what it sets or what is not understood; nothing is raised."""
    found = capture(text)
    assert not (found.unknown and found.variables)
    assert all(isinstance(value, str) for value in found.variables.values())


@pytest.mark.parametrize(
    "text",
    [
        "[" + " " * 30_000 + "x",
        "[ -n a ] && " * 5000,
        "export A=" + "${a}" * 5000,
        "export A=" + "$a" * 20_000 + "*",
        "A=" + "${A:-" * 5000,
        "'" * 20_001,
        '"' + "\\" * 50_000,
        "then " * 20_000,
        "unset" + " A" * 20_000 + " -",
        "if " * 20_000,
        "if [ -z a ]\n" * 3000,
    ],
)
def test_a_long_script_is_captured_soon(text: str) -> None:
    """No script takes much longer than its length."""
    began = time.monotonic()
    capture(text)
    assert time.monotonic() - began < 60
