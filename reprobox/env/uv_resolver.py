"""Ask uv: its options from what is asked of whom, its answer as a document, its words as errors."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reprobox.env.client import Client
from reprobox.errors import IndexUnreachable, NoSolution, NoWheel

MACHINES = {"linux-64": "x86_64", "linux-aarch64": "aarch64"}
_SHAPING = (
    "UV_TORCH_BACKEND", "UV_RESOLUTION", "UV_PRERELEASE", "UV_EXCLUDE_NEWER", "UV_FORK_STRATEGY", "UV_CONSTRAINT",
    "UV_OVERRIDE", "UV_EXCLUDE", "UV_NO_BINARY", "UV_NO_BUILD", "UV_NO_SOURCES", "UV_PYTHON", "UV_PYTHON_PLATFORM",
    "UV_CUSTOM_COMPILE_COMMAND", "UV_BUILD_CONSTRAINT",
)  # fmt: skip
BROUGHT = "+conda"
"""Local version of the empty wheels that stand for what conda brings."""


def run_uv(
    lines: list[str],
    *,
    python: str,
    glibc: str,
    platform: str,
    client: Client,
    flags: list[str],
    kept: tuple[tuple[str, str], ...] = (),
    provided: Mapping[str, str] | None = None,
    configuration: str = "",
    wheels_only: bool = True,
) -> dict[str, Any]:
    """Resolve requirements with uv, for a target.

    Args:
        lines: Requirements.
        python: Exact version of the target's interpreter.
        glibc: Version of the target's C library.
        platform: Conda's name of the target.
        client: How the index is reached, with the options of the environment file.
        flags: Further options of uv.
        kept: Names and versions that are kept where they still fit.
        provided: Names and versions that are there already.
        configuration: Text of a uv.toml, stronger than the user's own.
        wheels_only: Whether source archives are passed over.

    Returns:
        The document that uv writes (PEP 751).

    Raises:
        NoSolution: They cannot be met together.
        IndexUnreachable: The index did not answer.
    """
    from uv import find_uv_bin

    target = f"{MACHINES[platform]}-manylinux_{glibc.replace('.', '_')}"
    with tempfile.TemporaryDirectory(prefix="reprobox-solve-") as folder:
        output = Path(folder) / "pylock.toml"
        if kept:
            # uv takes the versions that an output file holds already as preferences.
            rows = [f'[[packages]]\nname = "{name}"\nversion = "{version}"\n' for name, version in kept]
            output.write_text('lock-version = "1.0"\ncreated-by = "reprobox"\n\n' + "\n".join(rows), encoding="utf-8")
        command = [
            find_uv_bin(), "pip", "compile", "-", "--quiet", "--no-header", "--no-annotate",
            "--format", "pylock.toml", "--output-file", str(output),
            *(["--only-binary", ":all:"] if wheels_only else []), "--python", sys.executable, "--no-python-downloads",
            "--python-version", python, "--python-platform", target, *flags,
        ]  # fmt: skip
        if "pypi" in client.mirrors:
            command += ["--default-index", client.mirrors["pypi"]]
        if configuration:
            (Path(folder) / "uv.toml").write_text(configuration, encoding="utf-8")
        command += _render_options(lines, client, Path(folder), provided or {})
        # Run apart from the project: a pyproject.toml or uv.toml beside the script must not shape the result.
        done = subprocess.run(
            command,
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            # Where an index is and how it is reached is the client's; what is chosen from it is not.
            env={name: value for name, value in client.environ.items() if name not in _SHAPING},
        )
        if done.returncode != 0:
            raise explain(done.stderr)
        return tomllib.loads(output.read_text(encoding="utf-8"))


def _render_options(lines: list[str], client: Client, folder: Path, provided: Mapping[str, str]) -> list[str]:
    """Render what the environment file says of indexes, and what conda brings, as options of uv."""
    words: list[str] = []
    limits = [option.value for option in client.pip_options if option.kind == "constraint"]
    kinds = {option.kind for option in client.pip_options}
    for option in client.pip_options:
        if option.kind == "extra-index":
            words += ["--index", option.value]
        elif option.kind == "find-links":
            words += ["--find-links", option.value]
    # As with pip, the last of several wins.
    default = [option.value for option in client.pip_options if option.kind == "index"]
    if default and "pypi" not in client.mirrors:
        words += ["--default-index", default[-1]]
    if "extra-index" in kinds:
        words += ["--index-strategy", "unsafe-best-match"]
    if "pre" in kinds:
        words += ["--prerelease", "allow"]
    if "no-index" in kinds:
        words.append("--no-index")
    backends = {found[1] for line in lines if (found := re.search(r"\+(cu\d+|cpu|rocm[\d.]+)\b", line))}
    if len(backends) == 1 and not any(option.kind in ("extra-index", "find-links") for option in client.pip_options):
        # Builds of PyTorch that are named by their accelerator lie on indexes of their own, which uv knows.
        words += ["--torch-backend", backends.pop()]
    if provided:
        stubs = folder / "provided"
        stubs.mkdir()
        for name, version in provided.items():
            _write_stub(stubs, name, version + BROUGHT)
            limits.append(f"{name}=={version}{BROUGHT}")
        words += ["--find-links", str(stubs)]
    if limits:
        file = folder / "constraints.txt"
        file.write_text("\n".join(limits) + "\n", encoding="utf-8")
        words += ["--constraint", str(file)]
    return words


def _write_stub(folder: Path, name: str, version: str) -> None:
    """Write an empty wheel, so that the resolver sees a project that conda brings, and asks for nothing of it."""
    stem = f"{name.replace('-', '_')}-{version}"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")


def explain(stderr: str) -> NoSolution | IndexUnreachable:
    """Turn uv's words into an error with the name that it is about."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", stderr).strip()
    text = re.sub(r"^\s*[×╰─▶│├]+\s*", "", text, flags=re.MULTILINE)
    sentences = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("warning")]
    plain = re.sub(r"\s+", " ", " ".join(sentences))
    plain = re.sub(r"^error: |\bcause: |\bhint: .*$", "", plain).strip()
    unknown = re.search(r"Because (\S+) was not found in the (?:package registry|provided)", plain)
    if unknown:
        return NoSolution(
            f"{unknown[1]} is not on the package index",
            hint=f"check the spelling of {unknown[1]} in the environment file",
        )
    lacking = re.search(
        r"Because (?:all versions of )?([A-Za-z0-9._-]+?)(?:==(\S+))? ha(?:s|ve) no (?:usable )?wheels(?! with)", plain
    )
    if lacking:
        return NoWheel(
            f"{lacking[1]}{f' {lacking[2]}' if lacking[2] else ''} is published as source alone: {plain}",
            project=lacking[1],
            version=lacking[2],
            hint="ask for a version that is published as a wheel for this Python and platform",
        )
    if re.search(r"No solution found", plain):
        reason = re.sub(r"^No solution found when resolving dependencies:?\s*", "", plain)
        hint = "relax one of the versions named there"
        if "no usable wheels" in reason or "no wheels" in reason:
            hint = (
                "ask for a version that is published as a wheel for this Python and platform, or for the Python that "
                "this one is published for"
            )
        return NoSolution(f"the requirements cannot be met together: {reason}", hint=hint)
    if re.search(
        r"[Ff]ailed to fetch|[Cc]ould not connect|dns error|[Rr]equest failed|timed? ?out|[Cc]onnection", plain
    ):
        return IndexUnreachable(
            f"the package index did not answer: {plain}",
            hint="check the network, or name a mirror under [mirrors] in reprobox.toml",
        )
    return NoSolution(f"uv could not resolve the requirements: {plain}", hint="see the message of uv above")
