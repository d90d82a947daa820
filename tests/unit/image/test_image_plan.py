"""Which package in which layer: every one in exactly one, and a change moves few."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections import Counter

import pytest
from image_makers import fake_deb, fake_wheel, make_lock

from reprobox.env.lockfile import CondaPackage, Lock
from reprobox.image.plan import (
    BIG_WHEEL_BYTES,
    MAX_LAYERS,
    SMALL_GROUPS,
    LayerPlan,
    base_python,
    interpreter_digest,
    plan_layers,
)

DEBIAN = tuple(
    dataclasses.replace(fake_deb(name), version="3.11.2-6" if "3.11" in name else "1.0")
    for name in ("bash", "libpython3.11-stdlib", "python3.11-minimal", "zlib1g")
)
SMALL = tuple(fake_wheel(f"small-{number}", size=10 + number) for number in range(60))
BIG = tuple(fake_wheel(f"big-{number}", size=BIG_WHEEL_BYTES * (1 + number % 3)) for number in range(6))
LOCK = make_lock(wheels=sorted((*SMALL, *BIG), key=lambda wheel: wheel.name), debian=DEBIAN)


def keys(lock: Lock) -> list[str]:
    return [plan.key for plan in plan_layers(lock)]


def changed(lock: Lock, name: str, **fields: object) -> Lock:
    """The lock with other fields in one package's row."""
    wheels = tuple(dataclasses.replace(row, **fields) if row.name == name else row for row in lock.wheels)
    debian = tuple(dataclasses.replace(row, **fields) if row.name == name else row for row in lock.debian)
    return dataclasses.replace(lock, wheels=wheels, debian=debian)


def moved(before: Lock, after: Lock) -> list[LayerPlan]:
    known = set(keys(before))
    return [plan for plan in plan_layers(after) if plan.key not in known]


def test_every_package_is_in_exactly_one_layer() -> None:
    """No package is left out and none is in two layers."""
    plans = plan_layers(LOCK)
    assert Counter(wheel for plan in plans for wheel in plan.wheels) == Counter(LOCK.wheels)
    assert Counter(package for plan in plans for package in plan.debian) == Counter(LOCK.debian)
    assert len(set(keys(LOCK))) == len(plans)


def test_what_changes_rarely_lies_lowest() -> None:
    """The base, the skeleton, each big wheel alone from the largest down, then the small ones in few groups."""
    plans = plan_layers(LOCK)
    kinds = [plan.kind for plan in plans]
    below = kinds.index("skeleton") + 1
    assert kinds[:below] == ["debian"] * (below - 2) + ["base", "skeleton"]
    assert 0 < below - 2 <= SMALL_GROUPS
    assert not [plan for plan in plans[:below] if plan.wheels]
    big, small = plans[below : below + len(BIG)], plans[below + len(BIG) :]
    assert [plan.wheels for plan in big] == [
        (wheel,) for wheel in sorted(BIG, key=lambda wheel: (-wheel.size_bytes, wheel.name))
    ]
    assert 1 < len(small) <= SMALL_GROUPS
    assert all(wheel in SMALL for plan in small for wheel in plan.wheels)
    assert all(list(plan.wheels) == sorted(plan.wheels, key=lambda wheel: wheel.name) for plan in small)
    assert all(plan.reason and plan.title for plan in plans)


def test_a_wheel_is_big_from_the_limit_on() -> None:
    """A wheel of exactly the limit is alone, and one byte less is not."""
    at, below = fake_wheel("at", size=BIG_WHEEL_BYTES), fake_wheel("below", size=BIG_WHEEL_BYTES - 1)
    plans = plan_layers(make_lock(wheels=(at, below)))
    assert ["big" in plan.reason for plan in plans if plan.wheels] == [True, False]


def test_no_packages_are_no_more_than_two_layers() -> None:
    """An environment without wheels is a base and a skeleton; big packages of the base lie alone, too."""
    assert {plan.kind for plan in plan_layers(make_lock(debian=DEBIAN))} == {"debian", "base", "skeleton"}
    assert [plan.kind for plan in plan_layers(make_lock())] == ["base", "skeleton"]
    big = dataclasses.replace(fake_deb("perl"), size_bytes=BIG_WHEEL_BYTES)
    first = plan_layers(make_lock(debian=(*DEBIAN, big)))[0]
    assert first.debian == (big,)


@pytest.mark.parametrize("name", ["small-0", "small-17", "small-59"])
def test_a_new_version_of_a_small_wheel_moves_one_layer(name: str) -> None:
    """Another version of one small wheel changes the key of its group alone, and the place of no layer."""
    after = changed(LOCK, name, version="2.0", file=f"{name}-2.0-py3-none-any.whl", sha256="f" * 64, size_bytes=99)
    (plan,) = moved(LOCK, after)
    assert name in [wheel.name for wheel in plan.wheels]
    differing = [pair for pair in zip(keys(LOCK), keys(after), strict=True) if pair[0] != pair[1]]
    assert len(differing) == 1


@pytest.mark.parametrize("field", ["sha256", "file"])
@pytest.mark.parametrize("name", ["small-3", "big-4"])
def test_a_wheel_is_its_bytes_and_its_file_name(name: str, field: str) -> None:
    """Other bytes, or another file name (it names the project and the tags), are another layer."""
    value = "f" * 64 if field == "sha256" else "other-1-py3-none-any.whl"
    assert len(moved(LOCK, changed(LOCK, name, **{field: value}))) == 1


def test_a_new_neighbour_moves_at_most_one_layer() -> None:
    """One small wheel more or less changes one group; one big wheel more changes no other layer's key."""
    more = dataclasses.replace(LOCK, wheels=(*LOCK.wheels, fake_wheel("new")))
    assert len(moved(LOCK, more)) == 1
    assert len(moved(more, LOCK)) <= 1
    bigger = dataclasses.replace(LOCK, wheels=(*LOCK.wheels, fake_wheel("huge", size=1 << 40)))
    assert [plan.wheels[0].name for plan in moved(LOCK, bigger)] == ["huge"]


def test_a_new_system_package_moves_the_base_alone() -> None:
    """A package of the base that is no interpreter changes its own layer, and what follows from all of them."""
    assert [plan.kind for plan in moved(LOCK, changed(LOCK, "zlib1g", sha256="f" * 64))] == ["debian", "base"]
    for field in ("omit", "keep"):
        other = dataclasses.replace(LOCK, **{field: ("usr/share/",)})
        assert {plan.kind for plan in moved(LOCK, other)} == {"debian", "base"}


@pytest.mark.parametrize("name", ["python3.11-minimal", "libpython3.11-stdlib"])
def test_a_new_interpreter_moves_all_that_is_compiled(name: str) -> None:
    """Bytecode follows the interpreter: other bytes of it change the base and every layer of wheels."""
    after = changed(LOCK, name, sha256="f" * 64)
    assert interpreter_digest(after) != interpreter_digest(LOCK)
    assert {plan.kind for plan in moved(LOCK, after)} == {"debian", "base", "wheels"}
    still = [plan for plan in plan_layers(LOCK) if plan not in moved(after, LOCK)]
    assert not [plan for plan in still if plan.wheels or any("python3" in p.name for p in plan.debian)]


def test_the_format_is_part_of_every_key() -> None:
    """Another format of layers changes every key."""
    other = dataclasses.replace(LOCK, layer_format=LOCK.layer_format + 1)
    assert not set(keys(LOCK)) & set(keys(other))


def test_another_python_moves_all_that_lies_in_its_folders() -> None:
    """Another interpreter's version changes every key but the base's, whose bytes follow from its own packages."""
    other = dataclasses.replace(LOCK, python="3.11.3")
    assert {plan.kind for plan in plan_layers(LOCK) if plan.key in keys(other)} == {"debian", "base"}


def test_the_base_follows_its_own_interpreter() -> None:
    """The base's bytecode is that of its own Python, as Debian's package says; another one there is another base."""
    assert base_python(LOCK) == "3.11.2"
    newer = changed(LOCK, "python3.11-minimal", version="1:3.11.9-1")
    assert base_python(newer) == "3.11.9"
    assert {plan.kind for plan in moved(LOCK, newer)} == {"debian", "base"}
    none = dataclasses.replace(LOCK, debian=tuple(p for p in LOCK.debian if p.name != "python3.11-minimal"))
    assert base_python(none) is None


def test_what_is_no_content_moves_nothing() -> None:
    """Variables, notes and virtual packages are no part of any layer's key."""
    other = dataclasses.replace(LOCK, variables=(("A", "1"),), tools=(), virtual_packages=())
    assert keys(other) == keys(LOCK)


def test_the_order_of_wheels_does_not_matter() -> None:
    """The same wheels in any order are the same layers in the same order."""
    for seed in range(10):
        wheels = list(LOCK.wheels)
        random.Random(seed).shuffle(wheels)
        assert plan_layers(dataclasses.replace(LOCK, wheels=tuple(wheels))) == plan_layers(LOCK)


def test_the_order_of_system_packages_does_not_matter() -> None:
    """Locks with one digest have one set of layers, also where the rows of Debian packages are in another order."""
    turned = dataclasses.replace(LOCK, debian=LOCK.debian[::-1])
    assert turned.digest == LOCK.digest
    assert keys(turned) == keys(LOCK)


def test_a_group_follows_the_name_alone() -> None:
    """Which small wheels share a layer does not depend on their versions or on what else there is."""
    few = make_lock(wheels=SMALL[:20])
    together = {frozenset(w.name for w in plan.wheels) for plan in plan_layers(LOCK) if "small" in plan.reason}
    for plan in plan_layers(few)[2:]:
        names = frozenset(wheel.name for wheel in plan.wheels)
        assert sum(names <= group for group in together) == 1


def conda_package(name: str, *, size: int = 10, subdir: str = "linux-64", **fields: object) -> CondaPackage:
    row = CondaPackage(
        name=name,
        version="1.0",
        build="h0_0",
        channel="conda-forge",
        subdir=subdir,
        file=f"{name}-1.0-h0_0.conda",
        size_bytes=size,
        sha256=hashlib.sha256(name.encode()).hexdigest(),
    )
    return dataclasses.replace(row, **fields)


NATIVE = tuple(conda_package(f"lib{number}", size=10 ** (number % 9)) for number in range(40))
NOARCH = tuple(conda_package(f"pure{number}", subdir="noarch") for number in range(20))
PYTHON = conda_package("python", size=30_000_000, version="3.10.4", file="python-3.10.4-h0_0.conda")
CONDA = dataclasses.replace(
    LOCK, python="3.10.4", python_from="conda", conda=tuple(sorted((*NATIVE, *NOARCH, PYTHON), key=lambda p: p.name))
)


def changed_conda(name: str, **fields: object) -> Lock:
    rows = tuple(dataclasses.replace(row, **fields) if row.name == name else row for row in CONDA.conda)
    return dataclasses.replace(CONDA, conda=rows)


def test_conda_packages_are_in_exactly_one_layer_below_the_wheels() -> None:
    """Native packages lie below noarch ones, those below wheels; none is left out or doubled."""
    plans = plan_layers(CONDA)
    assert Counter(package for plan in plans for package in plan.conda) == Counter(CONDA.conda)
    kinds = [plan.kind for plan in plans]
    assert kinds == sorted(kinds, key=["debian", "base", "skeleton", "conda", "wheels"].index)
    subdirs = [{package.subdir for package in plan.conda} for plan in plans if plan.conda]
    assert all(len(found) == 1 for found in subdirs)
    assert sorted(map(str, subdirs)) == list(map(str, subdirs))


@pytest.mark.parametrize("field", ["sha256", "size_bytes", "channel", "file"])
@pytest.mark.parametrize("name", ["lib3", "lib8", "pure5"])
def test_a_conda_package_moves_its_own_layer_alone(name: str, field: str) -> None:
    """Other bytes, another size, file or channel of one package change the key of its layer, and of no other."""
    size = next(row.size_bytes for row in CONDA.conda if row.name == name)
    other = {"sha256": "f" * 64, "size_bytes": size + 1, "channel": "other", "file": f"{name}-1.0-h0_0.tar.bz2"}
    moved_to = moved(CONDA, changed_conda(name, **{field: other[field]}))
    assert [name in [package.name for package in plan.conda] for plan in moved_to] == [True]


def test_an_md5_is_no_content() -> None:
    """A note for other tools moves no layer."""
    assert keys(changed_conda("lib3", md5="0" * 32)) == keys(CONDA)


def test_a_new_conda_python_moves_noarch_packages_and_wheels() -> None:
    """Native packages do not follow the interpreter; what is compiled by it does."""
    after = changed_conda("python", sha256="f" * 64)
    kinds = [(plan.kind, {package.subdir for package in plan.conda}) for plan in moved(CONDA, after)]
    assert ("conda", {"noarch"}) in kinds
    assert ("wheels", set()) in kinds
    native = [plan for plan in moved(CONDA, after) if {p.subdir for p in plan.conda} == {"linux-64"}]
    assert [[package.name for package in plan.conda] for plan in native] == [["python"]]


@pytest.mark.parametrize("counts", [(0, 0, 200), (200, 0, 0), (200, 0, 200), (200, 200, 200), (59, 3, 80)])
def test_no_image_has_more_layers_than_engines_hold(counts: tuple[int, int, int]) -> None:
    """However many big packages of each kind there are, nothing is left out, and the layers stay below the limit."""
    native, noarch, wheels = counts
    rows = [conda_package(f"a{number}", size=BIG_WHEEL_BYTES + number) for number in range(native)]
    rows += [conda_package(f"b{number}", size=BIG_WHEEL_BYTES, subdir="noarch") for number in range(noarch)]
    rows += [conda_package(f"c{number}", size=1, subdir="noarch") for number in range(60)]
    big = [fake_wheel(f"d{number}", size=BIG_WHEEL_BYTES) for number in range(wheels)]
    lock = dataclasses.replace(CONDA, conda=tuple(rows), wheels=(*big, *SMALL))
    plans = plan_layers(lock)
    assert len(plans) <= MAX_LAYERS
    assert sum(len(plan.packages) for plan in plans) == len(rows) + len(lock.wheels) + len(lock.debian)


def test_the_order_of_conda_packages_does_not_matter() -> None:
    """The same packages in any order are the same layers in the same order."""
    rows = list(CONDA.conda)
    random.Random(3).shuffle(rows)
    assert plan_layers(dataclasses.replace(CONDA, conda=tuple(rows))) == plan_layers(CONDA)
