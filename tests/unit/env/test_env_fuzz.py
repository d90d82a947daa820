"""Hundreds of damaged environment files and locks: each is read or refused, soon, and nothing else ever comes out."""

from __future__ import annotations

import codecs
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from env_samples import ENVIRONMENTS, make_conda_lock, make_lock

from reprobox.env.channels import parse_condarc
from reprobox.env.documents import decode_text
from reprobox.env.freshness import Ground, render_requested
from reprobox.env.lockfile import parse_lock, render_lock
from reprobox.env.spec import parse_environment
from reprobox.errors import EnvironmentInvalid

FOLDER = Path(__file__).parent / "environments"
TEXTS = [*ENVIRONMENTS.values(), *(path.read_text() for path in sorted(FOLDER.glob("*.yml")))]
LOCKS = [render_lock(make_lock()), render_lock(make_conda_lock())]
SECONDS = 5.0

PIECES = (
    "\t", "\x00", "\x07", "\x1b[31m", "\r", "\x85", "\u2028", "\ufeff", "\u202e", "é", "ＰＹ", "\U0001f600", "ſ", "K", "\ud83d".encode("utf-8", "surrogatepass").decode("latin-1"),
    "- ", ": ", "#", " # [linux]", "# [(((", "&a ", "*a", "<<: *a", "!!binary ", "!!python/object:os.system ", "!!set ", "? ", "| ", ">-\n", "%YAML 9.9\n",
    "---\n", "...\n", "{", "}", "[", "]", "{{ x }}", "{% if %}", '"', "'", "\\", '"\\0"', '"\\ud800"', "~", "null", "0x7f", "1e999", ".inf", "2024-13-45", "9" * 5000,
    "=", "==", ">=", "=*=*", "!=", "::", "@", "git+https://", "-e ", "-r ", "--hash=sha256:", "; python_version < '3'", "((((", "[version='", "(" * 3000, "[" * 3000,
    "- pip:\n", "  - pip:\n    - ", "https://[::1", "file://", "s3://", "C:\\", "../../", "$(x)", "${X}",
)  # fmt: skip


def mutate(text: str, generator: random.Random) -> bytes:
    """Damage a text in one to four places, and sometimes the way that it is saved."""
    for _ in range(generator.randint(1, 4)):
        lines = text.split("\n")
        at, line = generator.randrange(len(text) + 1), generator.randrange(len(lines))
        match generator.randrange(14):
            case 0:
                text = text[:at]
            case 1:
                text = text[:at] + text[at + generator.randint(1, 60) :]
            case 2:
                text = text[:at] + generator.choice(PIECES) + text[at:]
            case 3:
                text = text[:at] + text[at : at + 200] * generator.randint(2, 4) + text[at + 200 :]
            case 4:
                other = generator.randrange(len(lines))
                lines[line], lines[other] = lines[other], lines[line]
                text = "\n".join(lines)
            case 5:
                lines.insert(line, lines[generator.randrange(len(lines))])
                text = "\n".join(lines)
            case 6:
                del lines[line]
                text = "\n".join(lines)
            case 7:
                lines[line] = " " * generator.randint(0, 50) + lines[line].strip()
                text = "\n".join(lines)
            case 8:
                key, _, value = lines[line].partition(":")
                lines[line] = generator.choice(
                    [f"{key}: {{}}", f"{key}: [1, [2]]", f"{key}: null", f"{key}:{value}: x", value, f"- {key}"]
                )
                text = "\n".join(lines)
            case 9:
                text = text.replace(
                    generator.choice(["- ", ":", "=", "pip", "\n", "  "]),
                    generator.choice(PIECES),
                    generator.randint(1, 3),
                )
            case 10:
                text += (
                    "\n"
                    + generator.choice(["x: ", "  ", "dependencies: ", ""])
                    + generator.choice("[{(-?") * generator.choice([2, 39, 41, 400, 30_000])
                )
            case 11:
                # A word of a line in its place: numbers, names and digests of another kind.
                words = lines[line].split(" ")
                words[generator.randrange(len(words))] = generator.choice(PIECES)
                lines[line] = " ".join(words)
                text = "\n".join(lines)
            case 12:
                text = "".join(generator.sample(lines, len(lines))) if generator.random() < 0.2 else text.swapcase()
            case _:
                lines[line] += " " * generator.choice([1, 5000]) + generator.choice(["#", "# [", "\\", "x", "&&"])
                text = "\n".join(lines)
    data = text.encode("utf-8", "replace")
    match generator.randrange(12):
        case 0:
            return codecs.BOM_UTF8 + data
        case 1:
            return text.encode("utf-16", "replace")
        case 2:
            return codecs.BOM_UTF16_BE + text.encode("utf-16-be", "replace")[: generator.randint(0, 999)]
        case 3:
            return text.encode("utf-16-le", "replace")
        case 4:
            at = generator.randrange(len(data) + 1)
            return data[:at] + generator.randbytes(generator.randint(1, 40)) + data[at:]
        case 5:
            return text.encode("latin-1", "replace")
    return data


def read_environment(data: bytes) -> None:
    text = decode_text(data, source="environment.yml")
    files = {"requirements.txt": text, "constraints.txt": text}
    spec = parse_environment(text, source="environment.yml", include=files.get)
    # What is read can be noted in a lock, which names no host.
    requested = render_requested(spec, ground=Ground(base="b"))
    assert "://" not in "".join((*requested.channels, *requested.others))


def read_lock(data: bytes) -> None:
    lock = parse_lock(decode_text(data, source="reprobox.lock"), source="reprobox.lock")
    assert parse_lock(render_lock(lock), source="reprobox.lock").digest == lock.digest


def read_condarc(data: bytes) -> None:
    parse_condarc(decode_text(data, source=".condarc"), source=".condarc")


def find_refusals(texts: list[str], count: int, read: Callable[[bytes], None], *, seed: int) -> list[str]:
    """Damage texts and read them; anything but a refusal escapes."""
    refused = []
    for number in range(count):
        generator = random.Random(f"{seed} {number}")
        data = mutate(generator.choice(texts), generator)
        began = time.monotonic()
        try:
            read(data)
        except EnvironmentInvalid as error:
            refused.append(error.message)
        assert time.monotonic() - began < SECONDS, number
    assert count / 5 < len(refused) < count
    return refused


@pytest.mark.parametrize("seed", range(4))
def test_damaged_environment_files(seed: int) -> None:
    """150 files a seed: cut, swapped, doubled, other types, other alphabets, control characters, depth, encodings."""
    for message in find_refusals(TEXTS, 150, read_environment, seed=seed):
        assert message.startswith(("environment.yml", "requirements.txt:", "constraints.txt:"))
        assert len(message) < 2000


@pytest.mark.parametrize("seed", range(4))
def test_damaged_locks(seed: int) -> None:
    """150 locks a seed, half of them with conda packages."""
    assert all("reprobox.lock" in message for message in find_refusals(LOCKS, 150, read_lock, seed=seed))


def test_damaged_configurations_of_conda() -> None:
    """Conda's own file may be damaged, too."""
    text = "channel_alias: https://a.example\ndefault_channels:\n  - https://b.example\ncustom_channels:\n  x: https://c.example\nssl_verify: true\n"
    assert find_refusals([text], 150, read_condarc, seed=9)


SCALARS: list[object] = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    float("nan"),
    "",
    "x",
    "a" * 300,
    [],
    {},
    [[]],
    [None],
    {"x": 1},
    "\u2028",
    "1" * 64,
    "../x",
]


def _places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        return found + [place for key in value for place in _places(value[key], (*path, key))]
    if isinstance(value, list):
        return found + [place for number in range(len(value)) for place in _places(value[number], (*path, number))]
    return found


@pytest.mark.parametrize("number", range(len(LOCKS)))
def test_each_value_of_a_lock_may_be_of_another_type(number: int) -> None:
    """Whatever value stands in whatever place, a lock is read or refused; one whose meaning changed has another digest."""
    document = yaml.load(LOCKS[number], Loader=yaml.CSafeLoader)
    original = parse_lock(LOCKS[number], source="reprobox.lock")
    places = _places(document)
    generator = random.Random(number)
    for place in places:
        for value in generator.sample(SCALARS, 6):
            changed = yaml.load(LOCKS[number], Loader=yaml.CSafeLoader)
            inner = changed
            for step in place[:-1]:
                inner = inner[step]
            inner[place[-1]] = value
            try:
                lock = parse_lock(yaml.dump(changed, Dumper=yaml.CSafeDumper), source="reprobox.lock")
            except EnvironmentInvalid:
                continue
            notes = place[0] in ("requested", "tools") or place[-1] == "md5"
            assert notes or lock.digest != original.digest, (place, value)


@pytest.mark.parametrize("name", ["turned", "anchors", "export-from-history.yml", "jax-cuda.yml", "pytorch-cuda-2.yml"])
def test_each_value_of_an_environment_file_may_be_of_another_type(name: str) -> None:
    """Whatever value stands in whatever place, a file is read or refused, with its line."""
    text = ENVIRONMENTS[name] if name in ENVIRONMENTS else (FOLDER / name).read_text()
    for place in _places(yaml.load(text, Loader=yaml.CSafeLoader)):
        for value in SCALARS:
            changed = yaml.load(text, Loader=yaml.CSafeLoader)
            inner = changed
            for step in place[:-1]:
                inner = inner[step]
            inner[place[-1]] = value
            data = yaml.dump(changed, Dumper=yaml.CSafeDumper).encode()
            try:
                read_environment(data)
            except EnvironmentInvalid as error:
                message = error.message
            else:
                continue
            assert message.startswith("environment.yml:"), (place, value)
