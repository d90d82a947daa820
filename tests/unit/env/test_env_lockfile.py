"""reprobox.lock: text and value are one, and the digest is the identity of what is pinned and of nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable

import pytest
import yaml
from env_samples import make_lock, sha, spoil
from hypothesis import given, settings
from hypothesis import strategies as st

from reprobox.env.bases import DebianPackage
from reprobox.env.freshness import Ground, render_requested, require_fresh
from reprobox.env.lockfile import (
    LinkedFiles,
    Lock,
    Requested,
    Wheel,
    parse_lock,
    render_lock,
)
from reprobox.env.spec import parse_environment
from reprobox.errors import EnvironmentInvalid, LockStale

LOCK = make_lock()


def read(text: str) -> Lock:
    return parse_lock(text, source="envs/x/reprobox.lock")


def edited(edit: Callable[[dict], object]) -> str:
    """The text of a lock after an edit by hand."""
    document = yaml.safe_load(render_lock(LOCK))
    edit(document)
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def refusal(text: str) -> EnvironmentInvalid:
    with pytest.raises(EnvironmentInvalid) as caught:
        read(text)
    assert "envs/x/reprobox.lock" in caught.value.message
    assert caught.value.hint
    return caught.value


def test_parsing_undoes_rendering() -> None:
    """A lock read back from its own text is the same value and renders to the same text, whatever YAML makes of it."""
    text = render_lock(LOCK)
    assert read(text) == LOCK
    assert render_lock(read(text)) == text


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12)
WORD = st.from_regex(r"[0-9A-Za-z.+:~_-]{1,10}", fullmatch=True)


@given(word=WORD, value=TEXT, size=st.integers(0, 1 << 40))
@settings(max_examples=150, deadline=None, database=None)
def test_parsing_undoes_rendering_for_any_text(word: str, value: str, size: int) -> None:
    """Texts that look like numbers, dates, truths or nulls come back as the texts that they were."""
    lock = dataclasses.replace(
        LOCK,
        omit=(value,),
        debian=(DebianPackage(name=word, version=word, file="pool/a.deb", size_bytes=size, sha256=sha(word)),),
        wheels=(Wheel(name="a", version=word, file="a-1-py3-none-any.whl", size_bytes=size, sha256=sha(value)),),
        variables=((word, value),),
        requested=Requested(sha256=sha(word), base=word, conda=(word,), wheels=(value,), others=(word,)),
        tools=((word, value),),
    )
    assert read(render_lock(lock)) == lock
    assert read(render_lock(lock)).digest == lock.digest


def test_rows_are_sorted_whatever_order_they_were_in() -> None:
    """Order of rows is no part of a lock: neither of its text, nor of its value, nor of its digest."""
    turned = dataclasses.replace(LOCK, debian=LOCK.debian[::-1], wheels=LOCK.wheels[::-1])
    assert render_lock(turned) == render_lock(LOCK)
    assert turned.digest == LOCK.digest

    def turn(document: dict) -> None:
        document["wheels"].reverse()
        document["base"]["packages"].reverse()

    assert read(edited(turn)) == LOCK


def test_the_text_is_meant_for_diffs() -> None:
    """Every value stands on a line of its own, and one new version changes the lines of one package alone."""
    newer = dataclasses.replace(LOCK.wheels[0], version="1.11", sha256="2" * 64)
    old, new = (
        set(render_lock(lock).splitlines())
        for lock in (LOCK, dataclasses.replace(LOCK, wheels=(newer, LOCK.wheels[1])))
    )
    assert old - new == {"  version: '1.10'", "  sha256: '" + "1" * 64 + "'"}
    assert new - old == {"  version: '1.11'", "  sha256: '" + "2" * 64 + "'"}


def test_the_digest_follows_from_the_text_by_the_documented_recipe() -> None:
    """Who has a lock's text and docs/formats/lock-v1.md gets its digest; and it never changes for this lock."""
    pins = yaml.safe_load(render_lock(LOCK))
    for key in ("version", "requested", "tools"):
        del pins[key]
    text = json.dumps(pins, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert LOCK.digest == "sha256:" + hashlib.sha256(b"reprobox lock-v1\n" + text.encode()).hexdigest()
    assert LOCK.digest == "sha256:f346d90eb5b1228a3db18868f9863aabc6d7d1f400abac957d56acc64625a984"


def test_notes_are_no_part_of_the_digest() -> None:
    """Where a lock came from (`requested`, `tools`) changes its text and not its digest."""
    requested = Requested(sha256=sha("other"), base="other")
    for other in (dataclasses.replace(LOCK, requested=requested), dataclasses.replace(LOCK, tools=())):
        assert other.digest == LOCK.digest
        assert render_lock(other) != render_lock(LOCK)


def _each_pin() -> list[tuple[str, Lock]]:
    wheel, package = LOCK.wheels[0], LOCK.debian[0]
    changed = [
        ("platform", dataclasses.replace(LOCK, platform="linux-aarch64")),
        ("layer_format", dataclasses.replace(LOCK, layer_format=LOCK.layer_format + 1)),
        ("virtual_packages", dataclasses.replace(LOCK, virtual_packages=(("__glibc", "2.36"),))),
        ("python", dataclasses.replace(LOCK, python="3.11.3")),
        ("omit", dataclasses.replace(LOCK, omit=LOCK.omit[:1])),
        ("keep", dataclasses.replace(LOCK, keep=())),
        ("variables", dataclasses.replace(LOCK, variables=(("A", "no"), *LOCK.variables[1:]))),
        ("no wheel", dataclasses.replace(LOCK, wheels=LOCK.wheels[1:])),
        ("no package", dataclasses.replace(LOCK, debian=LOCK.debian[1:])),
    ]
    for row, field in ((wheel, "wheels"), (package, "debian")):
        for name in ("name", "version", "file", "size_bytes", "sha256"):
            value = 1 if name == "size_bytes" else getattr(row, name)[:-1] + "z"
            rows = (dataclasses.replace(row, **{name: value}), *getattr(LOCK, field)[1:])
            changed.append((f"{field}.{name}", dataclasses.replace(LOCK, **{field: rows})))
    return changed


@pytest.mark.parametrize(("what", "other"), _each_pin())
def test_every_pin_is_part_of_the_digest(what: str, other: Lock) -> None:
    """Whatever is pinned changes the digest when it changes."""
    assert other.digest != LOCK.digest, what


def test_all_digests_are_distinct() -> None:
    """No two of those changes give the same digest."""
    digests = {other.digest for _, other in _each_pin()}
    assert len(digests) == len(_each_pin())
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in digests)


@pytest.mark.parametrize("value", ["", None, "abc", "A" * 64, "g" * 64, "0" * 63, "0" * 65, 7])
@pytest.mark.parametrize("kind", ["wheel", "debian"])
def test_a_package_without_a_whole_sha256_is_refused(kind: str, value: object) -> None:
    """A sha256 that is missing, short, long or not in lower-case hex is refused, naming the package."""

    def edit(document: dict) -> None:
        row = document["wheels"][0] if kind == "wheel" else document["base"]["packages"][0]
        row["sha256"] = value

    message = refusal(edited(edit)).message
    assert ("numpy" if kind == "wheel" else "ca-certificates") in message
    assert "sha256" in message


@pytest.mark.parametrize("key", ["name", "version", "file", "size", "sha256"])
@pytest.mark.parametrize("kind", ["wheel", "debian"])
def test_a_row_that_lacks_a_key_is_refused(kind: str, key: str) -> None:
    """A row without one of its five keys is refused, naming the key."""

    def edit(document: dict) -> None:
        del (document["wheels"][0] if kind == "wheel" else document["base"]["packages"][0])[key]

    assert key in refusal(edited(edit)).message


@pytest.mark.parametrize(
    "key", ["platform", "layer_format", "virtual_packages", "python", "base", "wheels", "variables", "requested"]
)
def test_a_lock_that_lacks_a_section_is_refused(key: str) -> None:
    """A lock without one of its sections is refused, naming the section."""
    assert key in refusal(edited(lambda document: document.pop(key))).message


@pytest.mark.parametrize("value", [None, "text", 5, [5], ["text"]])
@pytest.mark.parametrize("key", ["virtual_packages", "python", "base", "variables", "requested"])
def test_a_section_of_another_shape_is_refused(key: str, value: object) -> None:
    """A section that holds another kind of value is refused."""
    assert "damaged" in refusal(edited(lambda document: document.update({key: value}))).message


@pytest.mark.parametrize("version", [2, 0, "1", None, [1], 1.5])
def test_an_unknown_version_is_refused(version: object) -> None:
    """A lock of another version is refused before anything else of it is read, and the hint says what to do."""
    error = refusal(yaml.safe_dump({"version": version}))
    assert repr(version) in error.message
    assert "reprobox lock" in (error.hint or "")


def test_another_layer_format_is_refused() -> None:
    """A lock of layers that this version cannot write is refused."""
    old = edited(lambda document: document.update(layer_format=1))
    assert "layer format 1" in refusal(old).message
    # What it holds is still of use to whoever locks again.
    assert parse_lock(old, source="reprobox.lock", any_format=True).wheels == LOCK.wheels


@pytest.mark.parametrize("text", ["", "[]", "version", "a: 1", "- version: 1", "version: {"])
def test_what_is_no_lock_is_refused(text: str) -> None:
    """Text that is no lock is refused with the command that makes one."""
    assert "reprobox lock" in (refusal(text).hint or "")


@pytest.mark.parametrize(
    "file", ["numpy.whl", "a-1.whl", "../a-1-py3-none-any.whl", "a/b-1-py3-none-any.whl", "a-1-py3-none-any.tar.gz", ""]
)
def test_what_is_no_wheel_name_is_refused(file: str) -> None:
    """A wheel's file has the name of a wheel, without a folder; anything else is refused, naming it."""
    assert repr(file) in refusal(edited(lambda document: document["wheels"][0].update(file=file))).message


def test_a_spoiled_lock_is_refused_and_never_crashes() -> None:
    """Whatever bytes are changed, a lock is read or refused; nothing else is ever raised."""
    refused: list[EnvironmentInvalid] = []
    for text in spoil(render_lock(LOCK), count=400, seed=11):
        try:
            read(text)
        except EnvironmentInvalid as error:
            refused.append(error)
    assert 20 < len(refused) < 380
    assert all(error.hint and "envs/x/reprobox.lock" in error.message for error in refused)


@pytest.mark.parametrize("value", ["2024-13-01", "0b_", "!!bool x", "!!int x", "!!timestamp x", "1" * 5000])
def test_a_value_that_yaml_cannot_make_is_refused(value: str) -> None:
    """A date without a month 13 and its like are refused as invalid YAML is."""
    refusal(f"version: 1\nplatform: {value}\n")


@pytest.mark.parametrize("kind", ["wheel", "debian"])
def test_an_endless_size_is_refused(kind: str) -> None:
    """A size that is no number of bytes is refused."""

    def edit(document: dict) -> None:
        (document["wheels"] if kind == "wheel" else document["base"]["packages"])[0]["size"] = float("inf")

    refusal(edited(edit))


@pytest.mark.parametrize("size", [-1, 1.5, True])
def test_a_size_that_counts_no_bytes_is_refused(size: object) -> None:
    """A negative size, a fraction and a truth are refused: a pin that cannot be true is damage."""
    refusal(edited(lambda document: document["wheels"][0].update(size=size)))


def test_an_interpreter_from_elsewhere_is_refused() -> None:
    """`from: conda` pins something else than `from: base`: it is not read as if it said base."""
    refusal(edited(lambda document: document["python"].update({"from": "conda"})))


@pytest.mark.parametrize("kind", ["wheel", "debian"])
def test_a_package_that_stands_twice_is_refused(kind: str) -> None:
    """One project has one wheel and one package one version; a lock (a merge gone wrong) with two of them is refused."""

    def edit(document: dict) -> None:
        rows = document["wheels"] if kind == "wheel" else document["base"]["packages"]
        rows.append(rows[0] | {"version": "9"})

    refusal(edited(edit))


@pytest.mark.parametrize(("key", "value"), [("virtual_packages", {}), ("platform", "win-64"), ("python", "three")])
def test_what_a_build_needs_of_a_lock_is_there(key: str, value: object) -> None:
    """A lock without a C library's version, for an unknown platform or without a version of Python is refused."""

    def edit(document: dict) -> None:
        document[key] = {"version": value} if key == "python" else value

    refusal(edited(edit))


ENVIRONMENT = """\
dependencies:
  - python=3.11
  - pip:
      - numpy==2.0
      - six
variables:
  A: 1
"""


def fresh_lock() -> Lock:
    spec = parse_environment(ENVIRONMENT, source="environment.yml")
    return dataclasses.replace(
        LOCK, requested=render_requested(spec, ground=Ground(base="debian-12")), variables=tuple(sorted(spec.variables))
    )


def stale(text: str, *, base: str = "debian-12") -> list[str]:
    with pytest.raises(LockStale) as caught:
        require_fresh(
            fresh_lock(),
            parse_environment(text, source="environment.yml"),
            ground=Ground(base=base),
            source="reprobox.lock",
            command="reprobox lock x",
        )
    assert caught.value.hint == "reprobox lock x"
    first, *rest = caught.value.message.splitlines()
    assert first == "reprobox.lock does not match environment.yml:"
    return [line.strip() for line in rest]


@pytest.mark.parametrize(
    "text",
    [
        ENVIRONMENT,
        "# a comment\nname: other\n" + ENVIRONMENT,
        "variables: {A: '1'}\ndependencies: [{pip: [six, numpy == 2.0]}, pip, python==3.11.*]\n",
    ],
)
def test_a_lock_stays_fresh_while_the_same_is_asked_for(text: str) -> None:
    """Comments, names, order and spelling do not make a lock stale."""
    spec = parse_environment(text, source="environment.yml")
    require_fresh(fresh_lock(), spec, ground=Ground(base="debian-12"), source="reprobox.lock", command="")


def test_every_line_that_differs_is_named() -> None:
    """Whatever is new, gone or changed is named, each once, with its line in the environment file."""
    text = (
        "dependencies:\n  - python=3.10\n  - pip:\n      - numpy==2.1\n      - h5py\n      - six\nvariables:\n  A: 2\n"
    )
    assert stale(text, base="debian-13") == [
        "environment.yml:2: python=3.10 is not in the lock",
        "environment.yml:5: h5py is not in the lock",
        "environment.yml:4: numpy==2.1 is not in the lock",
        "reprobox.lock: python=3.11 is no longer in environment.yml",
        "reprobox.lock: numpy==2.0 is no longer in environment.yml",
        "reprobox.toml: base debian-13 is asked for, the lock was made for debian-12",
        "environment.yml: `variables:` differ from those in the lock",
    ]


@pytest.mark.parametrize("other", ["python", "python=3.11.2", "python==3.11", "python>=3.11", "python=3.11.*=h_0"])
def test_another_constraint_is_another_python(other: str) -> None:
    """Asking for any Python, or for one more or less exactly, where the lock was made for 3.11 is a difference."""
    text = ENVIRONMENT.replace("python=3.11", other)
    here = [] if other == "python" else [f"environment.yml:2: {other} is not in the lock"]
    assert stale(text) == [*here, "reprobox.lock: python=3.11 is no longer in environment.yml"]


@pytest.mark.parametrize(
    ("ground", "words"),
    [
        (Ground(base="other"), "base other is asked for"),
        (Ground(base="debian-12", base_sha256="00"), "dockerfiles/debian-12 is not what"),
        (
            Ground(base="debian-12", base_sha256="11", python="conda"),
            'python is "conda", when the lock was made it was nothing',
        ),
    ],
)
def test_what_an_environment_stands_on_makes_a_lock_stale(ground: Ground, words: str) -> None:
    """Another base, an edited one, another place of the interpreter: each is told, though the file is the same."""
    spec = parse_environment(ENVIRONMENT, source="environment.yml")
    lock = dataclasses.replace(
        fresh_lock(), requested=render_requested(spec, ground=Ground(base="debian-12", base_sha256="11"))
    )
    with pytest.raises(LockStale, match=re.escape(words)):
        require_fresh(lock, spec, ground=ground, source="reprobox.lock", command="")
    theirs = Ground(base="debian-12", base_sha256="22", base_is_own=False)
    require_fresh(lock, spec, ground=theirs, source="reprobox.lock", command="")
    again = dataclasses.replace(LOCK, requested=render_requested(spec, ground=ground), variables=())
    assert read(render_lock(again)).requested == again.requested


def test_what_link_scripts_wrote_is_pinned() -> None:
    """It is part of the digest; that scripts may run is a note."""
    linked = LinkedFiles(sha256=sha("l"), size_bytes=1024, files=1, scripts=("bin/.a-post-link.sh",))
    lock = dataclasses.replace(LOCK, linked=linked)
    assert read(render_lock(lock)) == lock
    assert lock.digest != LOCK.digest
    noted = dataclasses.replace(LOCK, requested=dataclasses.replace(LOCK.requested, link_scripts=True))
    assert read(render_lock(noted)) == noted
    assert noted.digest == LOCK.digest


def test_cuda_is_pinned() -> None:
    """What an image says of CUDA is in the lock, and nothing else can stand there."""
    lock = dataclasses.replace(LOCK, cuda=(("cudnn", "9.3.0.75"), ("host", "cuda>=12.0"), ("runtime", "12.5,11.8")))
    assert read(render_lock(lock)) == lock
    assert lock.digest != LOCK.digest
    for rows in ({"other": "1"}, {"runtime": "12\nENV=1"}, {"host": ""}, {"host": {}}, [1], "x"):
        refusal(edited(lambda document, rows=rows: document.update(cuda=rows)))
