"""The shim in a process: when it acts, what it leaves alone, and the trail. All in real interpreters.

REPROBOX_GUEST_PYTHON names another interpreter to test, of any version that the shim supports.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

GUEST = Path(__file__).resolve().parents[3] / "reprobox" / "guest"
PYTHON = os.environ.get("REPROBOX_GUEST_PYTHON", sys.executable)


def python(*arguments, shim=True, level="strict", seed=None, trail=None, path=(), cwd=None, stdin=None, **environ):
    """Run an interpreter as the runner does, and return what came of it (texts, not bytes)."""
    entries = [str(entry) for entry in ([GUEST] if shim else []) + list(path)]
    environ.update({"PYTHONPATH": os.pathsep.join(entries), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"})
    environ["PYTHONDONTWRITEBYTECODE"] = "1"  # The runner mounts the folder read-only.
    for name, value in (("DETERMINISM", level), ("SEED", seed), ("TRAIL", trail)):
        if value is not None:
            environ["REPROBOX_" + name] = str(value)
    return subprocess.run(
        [PYTHON, *map(str, arguments)], env=environ, cwd=cwd, input=stdin, capture_output=True, text=True
    )


def printed(code, **options):
    """What a piece of code prints in a process that must end well and say nothing on stderr."""
    done = python("-c", code, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def events(trail):
    """The objects of a trail file."""
    return [json.loads(line) for line in Path(trail).read_text("ascii").splitlines()]


def has_module(name):
    """Whether the interpreter under test has a module."""
    return python("-c", f"import {name}", shim=False).returncode == 0


STATE = """
import os, posix, sys
print(os.listdir is posix.listdir, os.scandir is posix.scandir, len(sys.meta_path), sys.path, sys.argv)
print(sorted(name for name in sys.modules if name != "sitecustomize"))
"""


def test_no_level_no_shim():
    """Without REPROBOX_DETERMINISM a process is as it would be without the shim's folder."""
    assert printed(STATE, level=None) == printed(STATE, shim=False)


def test_off_changes_nothing(tmp_path):
    """At `off` modules, listings and imports are untouched; the trail has the process event alone."""
    trail = tmp_path / "trail"
    with_shim = printed(STATE + "import random", level="off", trail=trail, seed=3).replace(
        "'_reprobox_start', '_reprobox_trail', ", ""
    )
    assert with_shim == printed(STATE, shim=False)
    assert [(event["event"], event["determinism"], event["seed"]) for event in events(trail)] == [("process", "off", 3)]


def test_start_loads_no_other_module(tmp_path):
    """A strict start imports nothing but files of the shim: start-up time is the user's."""
    code = "import sys; print(*sorted(sys.modules))"
    before, after = (
        set(printed(code, shim=shim, trail=tmp_path / "t").split()) - {"sitecustomize"} for shim in (False, True)
    )
    assert before <= after
    assert all(name.startswith("_reprobox_") for name in after - before)


def test_isolated_python_is_unaffected():
    """`python -I` ignores PYTHONPATH, and so the shim."""
    done = python("-I", "-c", STATE)
    assert "_reprobox" not in done.stdout
    assert done.stdout.startswith("True True")


def test_folder_shadows_nothing():
    """Nothing in the shim's folder can be imported by the user's program: it is not on sys.path."""
    names = sorted({file.stem for file in GUEST.glob("*.py")} - {"__init__", "sitecustomize"})
    names = [name for name in names if not name.startswith("_reprobox_")]
    assert names
    code = "import importlib.util, sys\n"
    code += "print(any(map(importlib.util.find_spec, sys.argv[2:])), sys.argv[1] in sys.path)"
    assert python("-c", code, GUEST, *names).stdout == "False False\n"


def test_other_sitecustomize_is_run(tmp_path):
    """A sitecustomize that the shim hides is run, after the shim is in place, and is what `import` gives."""
    (tmp_path / "sitecustomize.py").write_text("import random\nvalue = random.random()\n")
    code = "import sitecustomize as s, random; print(s.__file__, s.__spec__.origin, s.__name__, s.value)"
    first = printed(code, path=[tmp_path])
    assert first == printed(code, path=[tmp_path])
    assert first.split()[:3] == [str(tmp_path / "sitecustomize.py")] * 2 + ["sitecustomize"]
    without_level = printed(code, path=[tmp_path], level=None)
    assert without_level.split()[:3] == first.split()[:3]


@pytest.mark.parametrize(
    "body",
    [
        "raise OSError('no')",
        "import nowhere",
        "def",
        "import sys; sys.exit(3)",
        "raise ImportError('x')",
        "import re",
    ],
)
def test_faulty_sitecustomize_is_reported_by_python(tmp_path, body):
    """Errors of the hidden sitecustomize end as they do without the shim: same message, same exit code."""
    (tmp_path / "sitecustomize.py").write_text(body)
    with_shim, without = (
        python("-c", "import random; print('went on')", path=[tmp_path], shim=shim) for shim in (True, False)
    )
    assert (with_shim.returncode, with_shim.stdout) == (without.returncode, without.stdout)
    if "exit" in body:  # Python then ends with a traceback of its own start, in which the shim's file is seen.
        assert with_shim.stderr.splitlines()[-1] == without.stderr.splitlines()[-1]
    else:
        assert with_shim.stderr == without.stderr


def test_where_no_sitecustomize_is_none_is_found():
    """`import sitecustomize` in the user's program gives what it gives without the shim."""
    code = """
try:
    import sitecustomize
    print(sitecustomize.__file__)
except ModuleNotFoundError as error:
    print(error)
"""
    assert printed(code) == printed(code, shim=False)


@pytest.mark.parametrize("name", ["random", "torch", "keras"])
@pytest.mark.parametrize("error", ["RuntimeError('in the middle')", "ImportError('in the middle')"])
def test_tracebacks_have_no_frame_of_ours(tmp_path, name, error):
    """An error inside a hooked module shows the very traceback that it shows without the shim."""
    (tmp_path / f"{name}.py").write_text(f"def f():\n    raise {error}\nf()\n")
    (tmp_path / "main.py").write_text(f"import {name}\n")
    with_shim, without = (python("main.py", "x", cwd=tmp_path, shim=shim) for shim in (True, False))
    assert with_shim.stderr == without.stderr
    assert with_shim.returncode == without.returncode == 1


def test_warnings_in_a_hooked_module_blame_the_importer(tmp_path):
    """A warning with stacklevel 2 at the top of a hooked module names the line that imports it."""
    (tmp_path / "keras.py").write_text("import warnings\nwarnings.warn('old', UserWarning, stacklevel=2)\n")
    (tmp_path / "main.py").write_text("import keras\n")
    with_shim, without = (python("main.py", cwd=tmp_path, shim=shim).stderr for shim in (True, False))
    assert with_shim == without
    assert "main.py:1: UserWarning" in with_shim


def test_children_have_the_shim():
    """A child process that is started anew has the shim too."""
    code = "import random, subprocess, sys; print(random.random(), flush=True)"
    child = code + f"; subprocess.run([sys.executable, '-c', {code!r}])"
    first, second = printed(child).split()
    assert first == second


def test_starting_twice_is_starting_once(tmp_path):
    """The same shim in a second folder of PYTHONPATH, or `site` run again, changes nothing."""
    (tmp_path / "again").symlink_to(GUEST)
    code = "import site, sys; site.main(); finders = [type(finder).__name__ for finder in sys.meta_path]; "
    code += "print(finders.count('Finder'), [entry for entry in sys.path if entry.endswith(('again', 'guest'))])"
    assert printed(code, path=[tmp_path / "again", tmp_path / "again"]) == "1 []\n"


def test_syntax_is_that_of_python_3_8():
    """Every file of the guest can be compiled by Python 3.8."""
    files = sorted(GUEST.glob("*.py"))
    assert len(files) > 5
    for file in files:
        ast.parse(file.read_text("utf-8"), str(file), feature_version=(3, 8))


def test_guest_imports_the_standard_library_alone():
    """No file of the guest imports, at its top, anything but the standard library and its own neighbours."""
    for file in GUEST.glob("*.py"):
        for node in ast.parse(file.read_text("utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.partition(".")[0]
                assert top in sys.stdlib_module_names or top.startswith(("_reprobox_", "_frozen_importlib")), file


# The trail


def test_trails_of_identical_runs_are_identical(tmp_path):
    """Two runs of one program leave the same bytes."""
    (tmp_path / "train.py").write_text("import random, tempfile, json\nprint(random.random())\n")
    trails = [tmp_path / "one", tmp_path / "two"]
    for trail in trails:
        python("train.py", "--rate", "0.1", cwd=tmp_path, trail=trail, seed=5)
    assert trails[0].read_bytes() == trails[1].read_bytes()
    assert events(trails[0]) == [
        {
            "event": "process",
            "argv0": "train.py",
            "python": events(trails[0])[0]["python"],
            "argv": ["train.py", "--rate", "0.1"],
            "determinism": "strict",
            "seed": 5,
        },
        {"event": "seeded", "module": "random"},
    ]


@pytest.mark.parametrize("kind", ["no folder", "a folder", "read-only", "a pipe", "a device", "empty name"])
def test_unwritable_trail_is_silent(tmp_path, kind):
    """Whatever the trail's path leads to, the program runs, says nothing about it, and never waits."""
    trail = {"no folder": tmp_path / "no" / "trail", "a folder": tmp_path, "a device": "/dev/full"}.get(
        kind, tmp_path / "trail"
    )
    if kind == "a pipe":
        os.mkfifo(trail)
    if kind == "read-only":
        trail.touch()
        trail.chmod(0o444)
    if kind == "empty name":
        trail = ""
    assert printed("import random; print(random.random())", trail=trail) == printed(
        "import random; print(random.random())"
    )


def test_trail_is_valid_json_whatever_the_arguments(tmp_path):
    """Quotes, control characters, any Unicode and bytes that are not UTF-8 survive in the process event."""
    trail = tmp_path / "trail"
    arguments = [
        '"',
        "\\",
        "a\nb\t\x1b\x7f",
        "ö€",
        "\U0001f600",
        b"\xff\xfe".decode("utf-8", "surrogateescape"),
        "",
    ]
    python("-c", "pass", *arguments, trail=trail)
    assert trail.read_bytes().count(b"\n") == 1
    assert events(trail)[0]["argv"] == ["-c", *arguments]


def test_a_relative_trail_stays_where_it_began(tmp_path):
    """A program that changes its folder leaves one trail, where the path led at its start."""
    (tmp_path / "inner").mkdir()
    printed("import os; os.chdir('inner'); import random", trail="trail", cwd=tmp_path)
    assert [event["event"] for event in events(tmp_path / "trail")] == ["process", "seeded"]
    assert not (tmp_path / "inner" / "trail").exists()


def test_trail_of_a_huge_command_line_stays_small(tmp_path):
    """A command line of a megabyte gives a short line that says how much is left out."""
    trail = tmp_path / "trail"
    python("-c", "pass", *["x" * 1000] * 1000, trail=trail)
    assert events(trail)[0]["argv"] == ["-c", "(1000 more)"]


def test_trail_ends_at_four_mebibytes(tmp_path):
    """Nothing is written once the file is full, and what is there stays whole lines."""
    trail = tmp_path / "trail"
    full = b"{}\n" * ((4 << 20) // 3)
    trail.write_bytes(full)
    printed("import random", trail=trail)
    assert trail.read_bytes() == full


def test_only_children_with_something_to_say_write(tmp_path):
    """A child that imports no hooked module leaves no event; one that does introduces itself first."""
    trail = tmp_path / "trail"
    code = "import subprocess, sys\n"
    code += "for code in ('pass', 'import random'): subprocess.run([sys.executable, '-c', code])"
    printed(code, trail=trail)
    assert [event["event"] for event in events(trail)] == ["process", "process", "seeded"]


@pytest.mark.parametrize("number", ["getpid", "getppid"])
def test_the_containers_first_process_and_its_children_write_at_once(tmp_path, number):
    """Process 1 of a container and what it starts introduce themselves, whoever wrote before them."""
    trail = tmp_path / "trail"
    trail.write_text("{}\n")
    printed("pass", trail=trail)
    assert len(events(trail)) == 1
    code = f"import os, site; os.{number} = lambda: 1; site.main()"
    assert python("-S", "-c", code, trail=trail).stderr == ""
    assert [event.get("event") for event in events(trail)] == [None, "process"]


@pytest.mark.parametrize(
    ("settings", "where", "used"),
    [
        ({"seed": "-1"}, "REPROBOX_SEED", ("strict", 0)),
        ({"seed": "many"}, "REPROBOX_SEED", ("strict", 0)),
        ({"level": "Strict"}, "REPROBOX_DETERMINISM", ("off", 0)),
    ],
)
def test_settings_without_sense_are_noted(tmp_path, settings, where, used):
    """A seed or level that can't be read does not stop the program, and the trail says so."""
    trail = tmp_path / "trail"
    printed("pass", trail=trail, **settings)
    process, fault = events(trail)
    assert (process["determinism"], process["seed"]) == used
    assert (fault["event"], fault["where"]) == ("fault", where)


def test_lines_of_many_processes_do_not_mix(tmp_path):
    """Processes that write at once leave whole lines, each its own."""
    trail = tmp_path / "trail"
    code = """
import subprocess, sys
children = [subprocess.Popen([sys.executable, "-c", "import random", "x" * 2000]) for _ in range(12)]
print([child.wait() for child in children].count(0))
"""
    assert printed(code, trail=trail) == "12\n"
    assert [event["event"] for event in events(trail) if event.get("argv0") != "-c"].count("seeded") >= 12
    assert sum("x" * 2000 in event.get("argv", ()) for event in events(trail)) == 12
