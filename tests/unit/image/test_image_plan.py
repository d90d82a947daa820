"""Which package in which layer: every one in exactly one, and a change moves few."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest
from image_makers import fake_deb, fake_wheel, make_lock

from reprobox.env.lockfile import Lock
from reprobox.image.plan import BIG_WHEEL_BYTES, SMALL_GROUPS, LayerPlan, interpreter_digest, plan_layers

DEBIAN = tuple(fake_deb(name) for name in ("bash", "libpython3.11-stdlib", "python3.11-minimal", "zlib1g"))
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
    assert [plan.kind for plan in plans[:2]] == ["base", "skeleton"]
    assert (plans[0].debian, plans[0].wheels, plans[1].debian, plans[1].wheels) == (LOCK.debian, (), (), ())
    big, small = plans[2 : 2 + len(BIG)], plans[2 + len(BIG) :]
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
    assert ["big" in plan.reason for plan in plans[2:]] == [True, False]


def test_no_packages_are_no_more_than_two_layers() -> None:
    """An environment without wheels is a base and a skeleton."""
    assert [plan.kind for plan in plan_layers(make_lock(debian=DEBIAN))] == ["base", "skeleton"]


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
    """A package of the base that is no interpreter changes the base's key and no other."""
    assert [plan.kind for plan in moved(LOCK, changed(LOCK, "zlib1g", sha256="f" * 64))] == ["base"]
    for field in ("omit", "keep"):
        other = dataclasses.replace(LOCK, **{field: ("usr/share/",)})
        assert [plan.kind for plan in moved(LOCK, other)] == ["base"]


@pytest.mark.parametrize("name", ["python3.11-minimal", "libpython3.11-stdlib"])
def test_a_new_interpreter_moves_all_that_is_compiled(name: str) -> None:
    """Bytecode follows the interpreter: other bytes of it change the base and every layer of wheels."""
    after = changed(LOCK, name, sha256="f" * 64)
    assert interpreter_digest(after) != interpreter_digest(LOCK)
    assert {plan.kind for plan in moved(LOCK, after)} == {"base", "wheels"}
    assert len(moved(LOCK, after)) == len(plan_layers(LOCK)) - 1


@pytest.mark.parametrize("change", [{"python": "3.11.3"}, {"layer_format": 2}])
def test_python_and_format_are_part_of_every_key(change: dict[str, object]) -> None:
    """Another interpreter's version or another format of layers changes every key."""
    other = dataclasses.replace(LOCK, **change)
    assert not set(keys(LOCK)) & set(keys(other))


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
