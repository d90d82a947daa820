"""Train, save, load and evaluate the digits example in its pinned image, and show what proves it.

Run by `make eval`. Every phase is one reprobox command: its JSON is read here, its talk goes to the terminal.

Exit codes: 0 if everything was equal; 10 if all phases passed but something is not; otherwise that of the
phase that failed; 128 + signal when interrupted.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

EXAMPLE = Path("examples/digits")
NOT_REPRODUCED = 10
PHASES: dict[str, list[str]] = {
    "lock": ["lock", "--check", "--json"],
    "build": ["build", "--json"],
    "run": ["run", "--json", "train.py"],
    "eval": ["eval", "--gate", "--json", "evaluate.py"],
    "check run": ["check", "--json", "RUN"],
    "check eval": ["check", "--json", "EVAL"],
}
# What the summary reads; a document without these (the report of an error, say) is not shown.
NEEDED_KEYS: dict[str, set[str]] = {
    "build": {"manifest_digest", "lock_digest", "size_bytes", "reused"},
    "run": {"run", "record", "outputs", "manifest_digest", "lock_digest", "tainted"},
    "eval": {"of", "comparison", "outputs", "manifest_digest", "lock_digest", "tainted"},
}


class Interruptions:
    """Remembers a signal instead of dying of it: the command below stops its container and is waited for.

    Ctrl-C reaches the command by itself, as part of the terminal's process group; SIGTERM is handed on.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.process: subprocess.Popen[str] | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: object) -> None:
        self.signal_number = number
        if number == signal.SIGTERM and self.process is not None:
            self.process.terminate()


def run_phase(arguments: list[str], interruptions: Interruptions) -> tuple[int, Any]:
    """Run one reprobox command; returns its exit code and its JSON document, None where it printed none."""
    argv = [str(Path(sys.executable).with_name("reprobox")), "-C", str(EXAMPLE), *arguments]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        interruptions.process = process
        stdout, _ = process.communicate()
    interruptions.process = None
    try:
        return process.returncode, json.loads(stdout)
    except json.JSONDecodeError:
        return process.returncode, None


def find_differences(documents: dict[str, Any]) -> list[str]:
    """List what should be equal over the phases and is not, one line each; empty if all is well."""
    build, run, evaluation = documents["build"], documents["run"], documents["eval"]
    differences = [
        f"{key}: {name} has {document[key]}, build has {build[key]}"
        for key in ("manifest_digest", "lock_digest")
        for name, document in (("run", run), ("eval", evaluation))
        if document[key] != build[key]
    ]
    if evaluation["of"] != run["run"]:
        differences.append(f"run: eval looked at {evaluation['of']}, not at {run['run']}")
    compared = {row["metric"] for row in evaluation["comparison"]}
    differences += [f"metric {name}: not compared" for name in sorted({"accuracy", "loss"} - compared)]
    differences += [
        f"metric {row['metric']}: {row['trained']!r} trained, {row['evaluated']!r} evaluated"
        for row in evaluation["comparison"]
        if not row["equal"]
    ]
    for name in ("run", "eval"):
        differences += [f"{name} is tainted: {reason}" for reason in documents[name]["tainted"]]
    return differences


def render_table(rows: list[tuple[str, ...]]) -> list[str]:
    """Align cells in columns, two blanks apart and indented by two."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def render_summary(documents: dict[str, Any], durations_s: dict[str, float]) -> str:
    """Render what the finished phases showed; phases that never ran are left out."""
    lines: list[str] = ["", "Summary", ""]
    facts: list[tuple[str, ...]] = []
    if build := documents.get("build"):
        made = "reused, nothing was built" if build["reused"] else "built now"
        facts += [
            ("image", f"{build['manifest_digest']}  ({build['size_bytes'] / 1e9:.2f} GB, {made})"),
            ("lock", build["lock_digest"]),
        ]
    if run := documents.get("run"):
        record = Path(EXAMPLE, run["record"])  # an absolute path stays what it is
        facts += [
            ("run", run["run"]),
            ("record", str(record)),
            ("by hand", f"cd {record} && sha256sum -c SHA256SUMS"),
        ]
    lines += render_table(facts) if facts else []

    if run:
        rows: list[tuple[str, ...]] = [("output", "recipe", "digest")]
        for output in [*run["outputs"], *documents.get("eval", {}).get("outputs", [])]:
            rows.append((output["path"], "sha256", output["sha256"]))
            if content := output["content"]:
                rows.append(("", content["recipe"], content["digest"]))
        lines += ["", *render_table(rows)]
    if evaluation := documents.get("eval"):
        rows = [("metric", "after training", "after loading", "")]
        for row in evaluation["comparison"]:
            verdict = "equal" if row["equal"] else f"NOT EQUAL, {row['difference']!r}"
            rows.append((row["metric"], repr(row["trained"]), repr(row["evaluated"]), verdict))
        lines += ["", *render_table(rows)]

    times = [f"{name} {seconds:.1f} s" for name, seconds in durations_s.items()]
    lines += ["", f"  time: {', '.join(times)}; {sum(durations_s.values()):.1f} s in all", ""]
    return "\n".join(lines)


def main() -> int:
    """Run the phases in order until one fails, print the summary, and return the exit code."""
    os.chdir(Path(__file__).resolve().parent.parent)
    interruptions = Interruptions()
    documents: dict[str, Any] = {}
    durations_s: dict[str, float] = {}
    exit_code = 0
    for number, (name, arguments) in enumerate(PHASES.items(), start=1):
        ids = {"RUN": documents.get("run", {}).get("run"), "EVAL": documents.get("eval", {}).get("run")}
        arguments = [ids.get(word) or word for word in arguments]
        sys.stderr.write(f"\n[{number}/{len(PHASES)}] reprobox {' '.join(arguments)}\n")
        sys.stderr.flush()
        started_s = time.monotonic()
        exit_code, document = run_phase(arguments, interruptions)
        durations_s[name] = time.monotonic() - started_s
        if interruptions.signal_number is not None:
            sys.stderr.write(f"\ninterrupted during {name}\n")
            return 128 + interruptions.signal_number
        keys = set(document) if isinstance(document, dict) else set()
        if document is not None and NEEDED_KEYS.get(name, set()) <= keys:
            documents[name] = document
        elif exit_code == 0:
            sys.stderr.write(f"error: {name} printed no JSON document that can be read\n")
            exit_code = 1
        if exit_code != 0:
            break

    sys.stdout.write(render_summary(documents, durations_s) + "\n")
    if exit_code != 0:
        sys.stdout.write(f"FAILED: {name} ended with exit code {exit_code}\n")
        return exit_code if exit_code > 0 else 128 - exit_code
    if differences := find_differences(documents):
        sys.stdout.write("".join(f"NOT EQUAL: {difference}\n" for difference in differences))
        return NOT_REPRODUCED
    sys.stdout.write("EQUAL: saved, loaded again in the identical image, same metrics to the last bit.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
