"""Directory listings under the shim: sorted, and otherwise the same as the originals."""

import json
import os
import random

import pytest

from tests.unit.guest.test_shim_process import has_module, printed, python


@pytest.fixture
def folder(tmp_path):
    """A folder with 180 files and 20 folders, made in the reverse of their order."""
    generator = random.Random(7)
    names = [f"{generator.randrange(1 << 24):06x}" for _ in range(190)]
    names += ["B", "a", "é", "Z.txt", "10", "9", "_", "\U0001f600", "\udcff", "é"]
    here = tmp_path / "data"
    here.mkdir()
    for place, name in enumerate(sorted(names, key=os.fsencode, reverse=True)):
        if place % 10:
            (here / name).touch()
        else:
            (here / name).mkdir()
            for inner in "zyxabc":
                (here / name / inner).touch()
    return here


WAYS = """
import glob, json, os, pathlib, shutil, sys
here = sys.argv[1]
os.chdir(here)
descriptor = os.open(here, os.O_RDONLY)
def text(name):
    return os.fsdecode(name)
def entries(path):
    with os.scandir(path) as found:
        return [text(entry.name) for entry in found]
lists = {
    "listdir": os.listdir(here), "listdir bytes": list(map(text, os.listdir(os.fsencode(here)))),
    "listdir fd": os.listdir(descriptor), "listdir Path": os.listdir(pathlib.Path(here)),
    "listdir None": os.listdir(), "listdir keyword": os.listdir(path=here),
    "scandir": entries(here), "scandir bytes": entries(os.fsencode(here)), "scandir fd": entries(descriptor),
    "scandir Path": entries(pathlib.Path(here)), "scandir None": entries(None),
    "iterdir": [path.name for path in pathlib.Path(here).iterdir()],
    "pathlib.glob": [path.name for path in pathlib.Path(here).glob("*")],
    "glob": glob.glob("*"), "iglob": [os.path.basename(path) for path in glob.iglob(here + "/*")],
}
trees = {
    "walk": [(os.path.basename(top) if top != here else "", d, f) for top, d, f in os.walk(here)],
    "fwalk": [(os.path.basename(top) if top != here else "", d, f) for top, d, f, _ in os.fwalk(here)],
}
rglob = [str(path.relative_to(here)) for path in pathlib.Path(here).rglob("[a-z]")]
print(json.dumps([lists, trees, rglob]))
"""


def test_every_way_of_listing_is_sorted(folder):
    """listdir, scandir and all that builds on them give names in the order of their bytes."""
    lists, trees, rglob = json.loads(python("-c", WAYS, folder).stdout)
    names = sorted(os.listdir(folder), key=os.fsencode)
    for way, found in lists.items():
        assert found == names, way
    folders = [name for name in names if (folder / name).is_dir()]
    files = [name for name in names if not (folder / name).is_dir()]
    for way, tree in trees.items():
        assert tree[0] == ["", folders, files], way
        assert [top for top, _, _ in tree[1:]] == folders, way
        assert all(inner == sorted("zyxabc") for _, _, inner in tree[1:]), way
    for name in folders:
        inner = [path for path in rglob if path.startswith(name + "/")]
        assert inner == sorted(inner)


def test_the_file_system_itself_has_another_order(folder):
    """What the tests above see is the shim's doing: at level `seeded` the order is the file system's."""
    code = "import json, os, posix, sys\n"
    code += "print(json.dumps([read(sys.argv[1]) for read in (os.listdir, posix.listdir)]))"
    plain, original = json.loads(python("-c", code, folder, level="seeded").stdout)
    assert plain == original
    if original == sorted(original, key=os.fsencode):
        pytest.skip("this file system keeps names sorted")


@pytest.mark.parametrize("early", ["pathlib", "glob", "shutil", "zipfile"])
def test_modules_imported_before_the_shim_list_in_order(folder, early):
    """Modules that took hold of the functions before the shim came are put right."""
    code = f"import sys\nfrom os import listdir, scandir\nimport {early}, site\nsite.main()\n"
    code += "assert listdir is __import__('os').listdir and scandir is __import__('os').scandir\n" + WAYS
    done = python("-S", "-c", code, folder)
    assert done.stderr == ""
    lists, _, _ = json.loads(done.stdout)
    names = sorted(os.listdir(folder), key=os.fsencode)
    assert [way for way, found in lists.items() if found != names] == []


def test_errors_are_those_of_the_originals(tmp_path):
    """Wrong paths and arguments raise the same errors, with the same attributes, at the same moment."""
    (tmp_path / "file").touch()
    code = """
import os, posix
def outcome(call, args, kwargs):
    try:
        return type(call(*args, **kwargs)).__name__
    except Exception as error:
        return type(error), str(error), error.args, getattr(error, "filename", 0), getattr(error, "errno", 0)
paths = ["nowhere", "file", b"nowhere", 1.5, "a\\0b", 99999, -1, [], "", True]
cases = [((path,), {}) for path in paths]
cases += [((".", "."), {}), ((), {"way": "."}), ((), {"path": "nowhere"})]
for ours, original in ((os.listdir, posix.listdir), (os.scandir, posix.scandir)):
    assert ours is not original
    for args, kwargs in cases:
        a, b = outcome(ours, args, kwargs), outcome(original, args, kwargs)
        assert a == b, (ours, args, kwargs, a, b)
print("same")
"""
    assert python("-W", "ignore", "-c", code, cwd=tmp_path).stdout == "same\n"


def test_scandir_is_iterator_and_context_manager(folder):
    """The result iterates once, closes, and at any stage may be used as the original may."""
    code = f"""
import collections.abc, os
here = {str(folder)!r}
count = len(os.listdir(here))
with os.scandir(here) as found:
    assert iter(found) is found and isinstance(found, collections.abc.Iterator)
    first = next(found)
    assert isinstance(first, os.DirEntry) and first.path == os.path.join(here, first.name)
    assert len(list(found)) == count - 1 and next(found, None) is None
assert next(found, None) is None
found = os.scandir(here)
next(found)
found.close()
found.close()
assert list(found) == []
unread = os.scandir(here)
unread.close()
assert list(unread) == []
try:
    with os.scandir(here) as found:
        raise KeyError("user's")
except KeyError:
    pass
assert next(found, None) is None
assert len(list(os.scandir(here))) == count
print("good")
"""
    done = python("-W", "error", "-X", "dev", "-c", code)
    assert (done.stdout, done.stderr) == ("good\n", "")


def test_scandir_reads_late_and_leaks_no_descriptor(tmp_path):
    """Files made between the call and the first entry are found, and nothing stays open afterwards."""
    code = """
import os
before = len(os.listdir("/proc/self/fd"))
for _ in range(50):
    found = os.scandir(".")
    open("late", "w").close()
    assert [entry.name for entry in found] == ["late"]
    os.remove("late")
    with os.scandir(".") as found:
        pass
print(len(os.listdir("/proc/self/fd")) - before)
"""
    assert printed(code, cwd=tmp_path) == "0\n"


def test_functions_still_look_like_themselves():
    """Name, module, text, signature, documentation, pickling, copying and wrapping work as before."""
    code = """
import copy, functools, inspect, os, pickle, posix, shutil
for ours, original in ((os.listdir, posix.listdir), (os.scandir, posix.scandir)):
    assert callable(ours) and repr(ours) == repr(original)
    for attribute in ("__name__", "__qualname__", "__doc__"):
        assert getattr(ours, attribute) == getattr(original, attribute)
    assert inspect.signature(ours) == inspect.signature(original)
    assert inspect.getdoc(ours) == inspect.getdoc(original)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(ours, protocol)) is ours
    assert copy.copy(ours) is ours and copy.deepcopy(ours) is ours
    assert hash(ours) == hash(ours) and {ours: 1}[ours] == 1
    @functools.wraps(ours)
    def wrapper(*args):
        return ours(*args)
    assert wrapper.__name__ == ours.__name__ and wrapper.__module__ == "os"
    assert list(wrapper.__dict__) == ["__wrapped__"]
    assert ours in os.supports_fd and original in os.supports_fd
    class Holder:
        method = ours
    Holder().method(".")
assert shutil.rmtree.avoids_symlink_attacks
print("good")
"""
    assert printed(code) == "good\n"


def test_a_pickled_listdir_means_the_same_without_the_shim(tmp_path):
    """A pickle made under the shim can be read where there is none."""
    pickled = printed("import os, pickle; print(pickle.dumps(os.listdir, 0).hex())")
    code = f"import os, pickle; print(pickle.loads(bytes.fromhex({pickled.strip()!r})) is os.listdir)"
    assert printed(code, shim=False) == "True\n"


def test_trees_are_copied_and_removed(folder, tmp_path):
    """shutil works on folders under the shim."""
    code = f"""
import os, shutil
shutil.copytree({str(folder)!r}, "copy")
print(os.listdir("copy") == os.listdir({str(folder)!r}))
shutil.rmtree("copy")
print(os.path.exists("copy"))
"""
    assert printed(code, cwd=tmp_path) == "True\nFalse\n"


def test_cloudpickle_style_lookup_and_numpy_are_fine():
    """A library that lists folders at import time (NumPy's test for its own files) imports under the shim."""
    if not has_module("numpy"):
        pytest.skip("no NumPy in this interpreter")
    assert printed("import numpy, os; print(numpy.arange(3).sum())") == "3\n"
