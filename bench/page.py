"""Render what was measured: docs/benchmarks.md for people, results.json for programs. Pure."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence

from figures import Figure, Numbers
from ours import LEFT_OUT
from peer import DOCKERFILE

_BY_HAND: dict[str, str] = {
    "cold-build": """\
docker rmi reprobox/digits-cpu:$TAG                  # and every other image of that lock
export REPROBOX_CACHE=$(mktemp -d) UV_CACHE_DIR=$(mktemp -d)
time reprobox build envs/digits-cpu
time docker build --no-cache --network host --tag peer context/""",
    "cold-layout": """\
export REPROBOX_CACHE=$(mktemp -d) UV_CACHE_DIR=$(mktemp -d)
time reprobox build --no-load --output oci:layout envs/digits-cpu""",
    "engine-load": """\
reprobox build --no-load --output docker-archive:image.tar envs/digits-cpu
docker rmi reprobox/digits-cpu:$TAG                  # and every other image of that lock
time docker load --quiet --input image.tar""",
    "build-again": """\
time reprobox build envs/digits-cpu
time docker build --network host --tag peer context/""",
    "one-wheel": """\
# add `- "{wheel}<VERSION"` below `- pip:` in environment.yml, VERSION being the locked one
time reprobox lock envs/digits-cpu
time reprobox build envs/digits-cpu
# write requirements.txt from the new lock
time docker build --network host --tag peer context/""",
    "image-size": "docker image inspect --format '{{.Size}}' reprobox/digits-cpu:$TAG peer",
    "run-empty": """\
touch empty.py
time reprobox run empty.py
options="--rm --network none -v $PWD/empty.py:/work/empty.py:ro -w /work"
time docker run $options reprobox/digits-cpu:$TAG python empty.py""",
    "help": "time reprobox --help\ntime .venv/bin/python -c pass",
    "import-tensorflow": """\
line='import time; t = time.perf_counter(); import tensorflow; print(time.perf_counter() - t)'
options='--rm --network none --read-only --tmpfs /tmp --env HOME=/tmp --user 1000:1000'
docker run $options reprobox/digits-cpu:$TAG python -c "$line"
docker run $options peer /opt/env/bin/python -c "$line\"""",
    "train": "cd examples/digits && time reprobox run train.py",
}

_REQUIREMENTS = """\
.venv/bin/python - > context/requirements.txt <<'PYTHON'
import yaml
for wheel in yaml.safe_load(open("envs/digits-cpu/reprobox.lock"))["wheels"]:
    print(f"{wheel['name']}=={wheel['version']} --hash=sha256:{wheel['sha256']}")
PYTHON"""


def render_amount(value: float, unit: str) -> str:
    """Render a number with its unit, to three digits or so."""
    if unit == "bytes":
        return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"
    return f"{value:.1f} s" if abs(value) >= 10 else f"{value:.2f} s" if abs(value) >= 1 else f"{value:.3f} s"


def render_numbers(values: Numbers, unit: str) -> str:
    """Render a median, and the least and greatest where there are several."""
    if not values:
        return "–"
    text = render_amount(statistics.median(values), unit)
    if len(values) == 1 or min(values) == max(values):
        return text
    return f"{text} ({render_amount(min(values), unit)} – {render_amount(max(values), unit)})"


def _aim(figure: Figure) -> str:
    if figure.aim is None:
        return "–"
    match figure.rule:
        case "share":
            return f"≤ {figure.aim:.2f} of it"
        case "difference":
            return f"≤ {figure.aim:.2f} s more"
        case "alone":
            return f"≤ {render_amount(figure.aim, figure.unit)}"


def _ratio(figure: Figure) -> str:
    if not figure.theirs:
        return "–"
    if figure.rule == "difference":
        return f"{figure.score:+.3f} s"
    return f"{statistics.median(figure.ours) / statistics.median(figure.theirs):.2f}"


def render_rows(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """Render the cells of the table, without its head."""
    words = {True: "yes", False: "**no**", None: "–"}
    return [
        (
            figure.what,
            render_numbers(figure.ours, figure.unit),
            f"{figure.beside}: {render_numbers(figure.theirs, figure.unit)}" if figure.theirs else "–",
            _ratio(figure),
            _aim(figure),
            words[figure.met],
        )
        for figure in figures
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def render_page(figures: Sequence[Figure], *, machine: Mapping[str, str], dates: Mapping[str, str], wheel: str) -> str:
    """Render docs/benchmarks.md.

    Args:
        figures: What was measured, in order.
        machine: Property → value.
        dates: Name of each figure → when it was measured.
        wheel: The small wheel that was changed.
    """
    also = [
        (figure.what, name.rpartition("_")[0], render_numbers(values, name.rpartition("_")[2]))
        for figure in figures
        for name, values in figure.also.items()
    ]
    repetitions = [
        (figure.what, str(len(figure.ours)), str(len(figure.theirs) or "–"), dates[figure.name]) for figure in figures
    ]
    by_hand = "\n\n".join(
        f"{figure.what}:\n\n```sh\n{_BY_HAND[figure.name].replace('{wheel}', wheel)}\n```"
        for figure in figures
        if figure.name in _BY_HAND
    )
    dockerfile = "\n".join(line for line in DOCKERFILE.format(arguments="").splitlines() if line)
    return f"""\
# Benchmarks

Written by `make bench`; the raw numbers are in [bench/results.json](../bench/results.json). Both sides of a line were
measured in turn, in one run, on one machine; the last table says when. A cell holds the median and, in parentheses, the
least and the greatest.

{_table(("what", "reprobox", "beside it", "ratio", "aim", "met?"), render_rows(figures))}

A ratio is ours divided by theirs, of the medians; a number with a sign is ours minus theirs.

## Also seen

{_table(("during", "what", "value"), also) if also else "Nothing."}

Processor time of the whole machine holds the engine's work, and that of everything else that ran.

## Machine

{_table(("what", "value"), list(machine.items()))}

## Repetitions

{_table(("what", "reprobox", "beside it", "measured"), repetitions)}

## What bounds a cold build

An engine that has nothing of an image pulls it from the tool over loopback, layer by layer and several at once; the
line "the engine alone" is `docker load` of the same finished image, the way that is taken where the engine holds most
of it already, or cannot reach the tool. What the engine writes and hashes is its own, and most of the time of a cold
build; what is left beside it is the line "to an OCI layout": download, unpacking, bytecode and the hash of every
layer.

## What is compared

- The environment is `envs/digits-cpu`, as it is committed. So that an image of it that the engine happens to hold
  cannot lend its layers, the bench builds it on a base that leaves out one more folder of its lowest layer,
  `/{LEFT_OUT.rstrip("/")}` (plugins that nothing here uses). A cold build begins with an empty cache of packages and
  layers, and an empty cache of uv.
- Beside it stands a Dockerfile that installs exactly the same wheels, by their hashes, with the pip named above, built
  by the builder named above. It starts from a minimal Debian 12 with its Python, in the manner of the small official
  Python images; making that, and resolving the versions, is not measured.
- What was written before reaches the disk before each measured build, and before each other figure, so that none pays
  for the one before.
- `import tensorflow`, `--help` and the empty script are run once unmeasured first: both sides find a warm page cache.
  The plain container has no network either, as in a recorded run.

## By hand

`$TAG` stands for the first twelve digits of the lock digest, which `reprobox build` prints. The Dockerfile's side:

```sh
debootstrap --variant=minbase --include=python3.11,python3-venv,ca-certificates bookworm system
tar -C system -c . | docker import - reprobox-bench/system:bookworm
docker build --tag reprobox-bench/base:bookworm - <<'DOCKERFILE'
FROM reprobox-bench/system:bookworm
ENV PATH=/opt/env/bin:/usr/local/bin:/usr/bin:/bin
RUN python3 -m venv /opt/env && pip install --no-cache-dir --upgrade pip
DOCKERFILE
mkdir context
cat > context/Dockerfile <<'DOCKERFILE'
{dockerfile}
DOCKERFILE
{_REQUIREMENTS}
```

{by_hand}
"""


def merge_results(
    text: str, figures: Sequence[Figure], dates: Mapping[str, str], machine: Mapping[str, str]
) -> tuple[list[Figure], dict[str, str], dict[str, str]]:
    """Put new figures among those that were measured before.

    Args:
        text: What `render_results` rendered then.
        figures: The new ones.
        dates: When they were measured.
        machine: What they were measured on; what an earlier measurement alone knew is kept.

    Returns:
        All figures, the new ones in the place of their namesakes or behind; their dates; and the machine.
    """
    document = json.loads(text)
    merged: dict[str, Figure] = {}
    when: dict[str, str] = {}
    for name, row in document["figures"].items():
        also = {key: tuple(values) for key, values in row["also"].items()}
        fields = {key: row[key] for key in ("what", "beside", "unit", "rule", "aim")}
        merged[name] = Figure(name=name, ours=tuple(row["ours"]), theirs=tuple(row["theirs"]), also=also, **fields)
        when[name] = row.get("date") or document["date"]
    merged |= {figure.name: figure for figure in figures}
    return list(merged.values()), {**when, **dates}, {**document["machine"], **machine}


def render_results(figures: Sequence[Figure], *, machine: Mapping[str, str], dates: Mapping[str, str]) -> str:
    """Render every single number as JSON."""
    document = {
        "machine": dict(machine),
        "figures": {
            figure.name: {
                "date": dates[figure.name],
                "what": figure.what,
                "beside": figure.beside,
                "unit": figure.unit,
                "ours": list(figure.ours),
                "theirs": list(figure.theirs),
                "rule": figure.rule,
                "score": figure.score,
                "aim": figure.aim,
                "met": figure.met,
                "also": {name: list(values) for name, values in figure.also.items()},
            }
            for figure in figures
        },
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
