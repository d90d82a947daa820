"""What the shim notes of a program's calls, and that the program is none the wiser. In real interpreters.

scikit-learn, Keras and pandas are not here: see tests/integration/test_trail.py. A small package of the test's own stands
in for scikit-learn where only the shim's ways matter.
"""

import json
import sys
import textwrap

import pytest

from tests.unit.guest.test_shim_process import events, has_module, python

needs_numpy = pytest.mark.skipif(not has_module("numpy"), reason="the interpreter has no NumPy")

SKLEARN = {
    "sklearn/__init__.py": "",
    "sklearn/base.py": """
        class BaseEstimator:
            def get_params(self, deep=True):
                return {}
        """,
    "sklearn/scale.py": """
        import warnings
        from sklearn.base import BaseEstimator

        class Scaler(BaseEstimator):
            def fit(self, X, y=None):
                '''Fit it.'''
                if X is None:
                    raise ValueError("no data")
                warnings.warn("careful", stacklevel=2)
                self.mean_ = sum(X) / len(X)
                return self

            def transform(self, X):
                return [x - self.mean_ for x in X]

            def fit_transform(self, X, y=None):
                return self.fit(X).transform(X)
        """,
}


def run(tmp_path, code, *, level="strict", trail=True, packages=SKLEARN):
    """Run a program of several lines below a working folder; gives what it printed, and the trail."""
    work = tmp_path / "work"
    for name, text in {**packages, "work/prog.py": code}.items():
        file = (tmp_path if name.startswith("work/") else tmp_path / "libraries") / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text).lstrip("\n"))
    note = tmp_path / "trail.jsonl"
    note.unlink(missing_ok=True)
    extra = {"REPROBOX_WORK": str(work)} if trail else {}
    done = python("prog.py", cwd=work, path=[tmp_path / "libraries"], level=level, trail=note, **extra)
    return done, [event for event in events(note) if event["event"] not in ("process", "seeded", "imported")]


CALLS = """
    from sklearn.scale import Scaler
    import warnings
    scaler = Scaler()
    scaler.fit([1, 2, 3])
    scaler.fit_transform([1, 2])
    print(scaler.transform([5]), Scaler.fit.__name__, Scaler.fit.__doc__)
    """


def test_a_fit_is_noted_with_the_users_line(tmp_path):
    """Only the outermost call is: fit_transform is one fit, whatever it calls."""
    done, found = run(tmp_path, CALLS)
    assert done.returncode == 0, done.stderr
    assert [(event["event"], event["of"], event["where"]) for event in found] == [
        ("fit", "Scaler", "prog.py:4"), ("fit", "Scaler", "prog.py:5"), ("transform", "Scaler", "prog.py:6"),
    ]  # fmt: skip
    assert found[0]["state"] != found[1]["state"] == found[2]["state"]


@pytest.mark.parametrize("level", ["off", "strict"])
def test_the_program_prints_what_it_prints_without_hooks(tmp_path, level):
    """Results, names, documentation, and the line that a warning points at."""
    with_hooks, found = run(tmp_path, CALLS, level=level)
    without, nothing = run(tmp_path, CALLS, level=level, trail=False)
    assert (with_hooks.stdout, with_hooks.stderr) == (without.stdout, without.stderr)
    assert "prog.py:4: UserWarning: careful" in with_hooks.stderr
    assert found
    assert nothing == []


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before 3.11 a traceback cannot be relieved of a frame")
def test_a_traceback_has_no_frame_of_ours(tmp_path):
    """What a program prints when it fails, and what it finds when it looks at an exception, is as without hooks."""
    code = """
        import traceback
        from sklearn.scale import Scaler
        def outer():
            Scaler().fit_transform(None)
        try:
            outer()
        except ValueError as error:
            print("".join(traceback.format_exception(error)))
            frame, count = error.__traceback__, 0
            while frame:
                frame, count = frame.tb_next, count + 1
            print(count)
        outer()
        """
    with_hooks, found = run(tmp_path, code)
    without, _ = run(tmp_path, code, trail=False)
    assert (with_hooks.stdout, with_hooks.stderr, with_hooks.returncode) == (without.stdout, without.stderr, 1)
    assert "no data" in with_hooks.stderr
    assert found == []


def test_a_users_own_estimator_is_left_alone(tmp_path):
    """Workers are sent such a class by value; what it calls of a library is noted."""
    code = """
        from sklearn.base import BaseEstimator
        from sklearn.scale import Scaler
        class Mine(BaseEstimator):
            def fit(self, X, y=None):
                self.inner = Scaler().fit(X)
        Mine().fit([1, 2])
        print(hasattr(Mine.fit, "_reprobox"))
        """
    done, found = run(tmp_path, code)
    assert done.stdout == "False\n"
    assert [(event["of"], event["where"]) for event in found] == [("Scaler", "prog.py:5")]


def test_a_loop_is_noted_so_often_and_no_more(tmp_path):
    code = """
        import warnings
        warnings.simplefilter("ignore")
        from sklearn.scale import Scaler
        for n in range(1000):
            Scaler().fit([n])
        """
    done, found = run(tmp_path, code)
    assert done.returncode == 0
    assert len(found) == 17
    assert found[-1] == {"event": "fit", "of": "Scaler", "where": "prog.py:5", "more": True}


def test_what_is_not_noted_is_not_looked_at(tmp_path):
    """A loop of calls pays for those that are noted, and for no other."""
    code = """
        import warnings
        warnings.simplefilter("ignore")
        from sklearn.scale import Scaler
        import _reprobox_hooks_sklearn as hooks
        looked = []
        hooks.describe = lambda value, sample=False: looked.append(1) or {}
        for n in range(1000):
            Scaler().fit([n])
        print(len(looked))
        """
    done, _ = run(tmp_path, code)
    assert (done.stdout, done.stderr) == ("16\n", "")


def test_files_are_noted_once_for_each_use(tmp_path):
    """Files of the working folder that the user's code opens; not those of libraries, and no modules."""
    code = """
        import json, pathlib
        pathlib.Path("rows.txt").write_text("1")
        for _ in range(3):
            open("rows.txt").read()
        open("/etc/hostname").read()
        try:
            open("missing.txt")
        except FileNotFoundError:
            pass
        """
    done, found = run(tmp_path, code, packages={})
    assert done.returncode == 0, done.stderr
    assert [(event["of"], event["mode"], event["where"]) for event in found] == [
        ("rows.txt", "write", "prog.py:2"), ("rows.txt", "read", "prog.py:4"),
    ]  # fmt: skip


def test_forked_children_note_nothing(tmp_path):
    code = """
        import os, sys
        from sklearn.scale import Scaler
        import warnings
        warnings.simplefilter("ignore")
        child = os.fork()
        Scaler().fit([1])
        if child:
            os.waitpid(child, 0)
        """
    _, found = run(tmp_path, code)
    assert len(found) == 1


@needs_numpy
def test_arrays_are_told_apart_by_order_rows_and_values(tmp_path):
    """One digest for the order, one that ignores it; memory order, byte order and slicing make no difference."""
    code = """
        import json, numpy as np
        from _reprobox_describe import describe
        a = np.arange(60, dtype=np.float64).reshape(20, 3)
        same = [a.copy(order="F"), a.astype(">f8"), np.vstack([a, a])[:20], a[:]]
        one = describe(a, sample=True)
        print(all(describe(b, sample=True)["digest"] == one["digest"] and describe(b)["rows"] == one["rows"] for b in same))
        turned, changed = a[::-1], a.copy()
        changed[3, 1] = np.nextafter(changed[3, 1], 100)
        print(describe(turned)["digest"] != one["digest"], describe(turned)["rows"] == one["rows"])
        print(describe(changed)["digest"] != one["digest"], describe(changed)["rows"] != one["rows"])
        print(len(one["sample"]["rows"]), describe(turned, sample=True)["sample"] == one["sample"])
        doubled = np.vstack([a, a[:1]])
        print(describe(doubled)["rows"] != one["rows"])
        small = np.arange(4096.0).reshape(4096, 1)  # doubles whose low bits are all zero
        print(len(set(describe(small, sample=True)["sample"]["rows"])) > 100)
        """
    done = python("-c", textwrap.dedent(code))
    assert (done.stdout.split(), done.stderr) == (
        ["True", "True", "True", "True", "True", "20", "True", "True", "True"],
        "",
    )


@needs_numpy
def test_labels_under_other_numbers_have_one_pattern():
    """Which rows share a class is the same, whatever the class is called: integers, texts or one-hot rows."""
    code = """
        import numpy as np
        from _reprobox_describe import describe
        y = np.array([2, 0, 2, 1, 0])
        turned = np.array([0, 1, 0, 2, 1])
        names = np.array(["c", "a", "c", "b", "a"])
        hot = np.eye(3)[y]
        patterns = {describe(labels)["pattern"] for labels in (y, turned, names, hot, list(names))}
        print(len(patterns), describe(y)["digest"] != describe(turned)["digest"], describe(y)["labels"])
        print(describe(np.array([2, 0, 2, 1, 1]))["pattern"] in patterns, "pattern" in describe(np.linspace(0, 1, 5)))
        """
    done = python("-c", textwrap.dedent(code))
    assert done.stdout.split("\n")[:2] == ["1 True {'0': 2, '1': 1, '2': 2}", "False False"], done.stderr


def test_threads_that_call_at_once_leave_the_hooks_on(tmp_path):
    """Calls inside a call are not noted, in whatever thread they are; the next one is."""
    code = """
        import warnings
        warnings.simplefilter("ignore")
        from concurrent.futures import ThreadPoolExecutor
        from sklearn.base import BaseEstimator
        from sklearn.scale import Scaler
        import sys
        sys.setswitchinterval(1e-6)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: Scaler().fit([n, 1]), range(3000)))
        Scaler().fit_transform([1])
        """
    done, found = run(tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert found[-1]["where"] == "prog.py:10"


def test_a_hooked_function_is_sent_by_its_name(tmp_path):
    code = """
        import pickle
        assert pickle.loads(pickle.dumps(pickle.load)) is pickle.load
        assert pickle.loads(pickle.dumps(pickle.dump)) is pickle.dump
        print(pickle.load.__name__)
        """
    done, _ = run(tmp_path, code, packages={})
    assert (done.stdout, done.stderr) == ("load\n", "")


def test_a_line_is_named_wherever_the_program_went(tmp_path):
    """A program that changes its folder is still the file that it was."""
    code = """
        import os, warnings
        warnings.simplefilter("ignore")
        from sklearn.scale import Scaler
        os.mkdir("sub")
        os.chdir("sub")
        Scaler().fit([1])
        open("made.txt", "w").close()
        """
    _, found = run(tmp_path, code)
    assert [(event["of"], event["where"]) for event in found] == [
        ("Scaler", "prog.py:6"),
        ("sub/made.txt", "prog.py:7"),
    ]


@needs_numpy
def test_numpy_and_pickle_are_noted(tmp_path):
    code = """
        import pickle, numpy as np
        np.save("a.npy", np.arange(3))
        np.load("a.npy")
        with open("b.pkl", "wb") as file:
            pickle.dump({"a": np.arange(3)}, file)
        with open("b.pkl", "rb") as file:
            pickle.load(file)
        pickle.loads(pickle.dumps(1))
        """
    done, found = run(tmp_path, code, packages={})
    assert done.returncode == 0, done.stderr
    assert [(event["event"], event["of"]) for event in found if event["event"] != "open"] == [
        ("save", "a.npy"), ("read", "a.npy"), ("save", "b.pkl"), ("load", "b.pkl"),
    ]  # fmt: skip
    saved, loaded = (event for event in found if event["of"] == "b.pkl" and event["event"] != "open")
    assert saved["state"] == loaded["state"]


def test_a_describing_function_that_fails_is_a_fault_and_the_program_goes_on(tmp_path):
    """Data that raises whenever somebody looks at it."""
    code = """
        import warnings
        warnings.simplefilter("ignore")
        import numpy
        from sklearn.scale import Scaler
        class Odd(list):
            @property
            def nnz(self):
                raise RuntimeError("do not look")
            tocsr = nnz
        print(Scaler().fit(Odd([1, 2])).mean_)
        """
    if not has_module("numpy"):
        pytest.skip("the interpreter has no NumPy")
    done, found = run(tmp_path, code)
    assert (done.stdout, done.returncode) == ("1.5\n", 0)
    assert [event["event"] for event in found] == ["fault", "fit"]
    assert json.dumps(found).count("do not look") == 1


@needs_numpy
def test_what_a_pickle_holds_has_one_digest_whatever_its_bytes():
    """Loaded and saved again, with another memo or protocol: the same; one bit of a value: another."""
    code = """
        import collections, datetime, pickle, numpy as np
        from _reprobox_state import digest_objects as digest
        class Mine:
            def __init__(self):
                self.a = np.arange(3.0)
                self.b = self.a
                self.c = {"x": [1, (2, "y")], "when": datetime.date(2026, 1, 2)}
        padded = np.zeros(3, dtype=np.dtype({"names": ["a", "b"], "formats": ["i1", "f8"], "offsets": [0, 8], "itemsize": 16}))
        values = [Mine(), {1: {3, 4}, ("a", 2): None}, padded, np.random.RandomState(3), collections.Counter("aab"), [b"x", 1.5, True]]
        for value in values:
            again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(value)), protocol=2))
            print(digest(value) is not None and digest(value) == digest(again))
        twin = Mine()
        twin.b = twin.a.copy()
        print(digest(twin) == digest(Mine()))
        twin.b[1] = np.nextafter(twin.b[1], 2)
        print(digest(twin) != digest(Mine()), digest(True) != digest(1) != digest(1.0), digest([1]) != digest((1,)))
        loop = []
        loop.append(loop)
        print(digest(loop), digest({object(): 1}), digest({Mine()}))
        """
    done = python("-c", textwrap.dedent(code))
    assert (done.stdout.split(), done.stderr) == ([*["True"] * 10, *["None"] * 3], "")


@needs_numpy
def test_a_file_that_is_written_again_is_not_what_was_saved(tmp_path):
    """The note of the later opening is what tells the reader of the trail."""
    code = """
        import pickle, numpy as np
        for name in ("once.pkl", "again.pkl"):
            with open(name, "wb") as file:
                pickle.dump([1], file)
        with open("again.pkl", "ab") as file:
            file.write(b"more")
        with open("two.pkl", "wb") as file:
            pickle.dump([1], file)
            pickle.dump([2], file)
        """
    _, found = run(tmp_path, code, packages={})
    from reprobox.diff.trail import find_contents

    assert list(find_contents(found)) == ["once.pkl"]
    assert find_contents(found)["once.pkl"][0] == "objects-v1/sha256"
