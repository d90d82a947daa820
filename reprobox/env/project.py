"""The project: `reprobox.toml`, where environments are, and what ENV means on the command line.

A project is the nearest folder, upwards, with a `reprobox.toml`; without one it is the folder itself.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from reprobox.env.bases import DEFAULT_PLATFORM
from reprobox.errors import EnvironmentInvalid, UsageError

Determinism = Literal["strict", "seeded", "portable", "off"]
DEFAULT_BASE = "debian-12"
LOCK_NAME = "reprobox.lock"
_GPUS = r"auto|none|all|(?:\d+|GPU-[\w-]+|MIG-[\w/-]+)(?:,(?:\d+|GPU-[\w-]+|MIG-[\w/-]+))*,?"
ENVIRONMENT_NAMES = ("environment.yml", "environment.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentEntry:
    """One `[env.NAME]` table, or what its absence means.

    Attributes:
        name: Its name, for people.
        argument: What means it as ENV on the command line; empty where nothing needs to be typed.
        environment: Path of the environment file; it may be missing where there is only a lock.
        lock: Path of the lock; it may not exist yet.
        base: Name of the base.
        python: "base" to take the interpreter from the base; "auto" where the file decides.
    """

    name: str
    argument: str = ""
    environment: Path
    lock: Path
    base: str = DEFAULT_BASE
    python: Literal["auto", "base", "conda"] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDefaults:
    """The `[run]` table.

    Attributes:
        inputs: Paths relative to the project, mounted read-only.
        outputs: Globs of outputs; empty means every new or changed file.
        metrics: Globs of metrics files; empty means `*metrics*.json`.
        determinism: Level.
        gpus: auto, none, all, a number, or indices separated by commas.
        seed: Seed of every generator.
        env: Names of host variables let in, or NAME=VALUE.
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    determinism: Determinism = "strict"
    gpus: str = "auto"
    seed: int = 0
    env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A folder and what its `reprobox.toml` says.

    Attributes:
        root: Absolute path.
        default: Environment that `run` takes when several exist, or None.
        environments: The `[env.*]` tables.
        run: The `[run]` table.
        mirrors: The `[mirrors]` table: "pypi", "debian" and "conda" → URL; "channels" → channel → URL;
            "folder" → path of a folder that `reprobox mirror` made.
        engine: Name of the container engine to take, or None for the first that answers.
        trusted_keys: Paths of public keys, relative to the project: `keys` of the `[trust]` table.
    """

    root: Path
    default: str | None = None
    environments: dict[str, EnvironmentEntry] = field(default_factory=dict)
    run: RunDefaults = field(default_factory=RunDefaults)
    mirrors: dict[str, Any] = field(default_factory=dict)
    engine: str | None = None
    trusted_keys: tuple[str, ...] = ()

    @property
    def state(self) -> Path:
        """The folder that reprobox writes into."""
        return self.root / ".reprobox"


def find_project_root(start: Path) -> Path:
    """Find the nearest folder, from `start` upwards, with a reprobox.toml; `start` itself where there is none."""
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / "reprobox.toml").is_file():
            return folder
    return start


def load_project(start: Path) -> Project:
    """Load the project that `start` is in.

    Raises:
        EnvironmentInvalid: `reprobox.toml` is broken or holds an unknown key.
    """
    root = find_project_root(start)
    file = root / "reprobox.toml"
    if not file.is_file():
        return Project(root=root)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentInvalid(f"{file}: cannot be read: {error}") from None
    return parse_project(text, root=root)


def parse_project(text: str, *, root: Path) -> Project:
    """Parse the text of a `reprobox.toml`.

    Raises:
        EnvironmentInvalid: Broken TOML, an unknown key, or a value of the wrong type.
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # TOMLDecodeError is a ValueError; a number of thousands of digits is another.
        raise EnvironmentInvalid(f"reprobox.toml: {error}", hint="correct that line") from None
    _require_keys(document, ("default", "engine", "env", "run", "mirrors", "trust"), "reprobox.toml")
    environments = {name: _environment(name, table, root) for name, table in _table(document, "env").items()}
    run = _table(document, "run")
    _require_keys(run, tuple(RunDefaults.__dataclass_fields__), "[run]")
    values: dict[str, Any] = {}
    for key, value in run.items():
        values[key] = _run_value(key, value)
    return Project(
        root=root,
        default=_optional_text(document, "default"),
        engine=_optional_text(document, "engine"),
        environments=environments,
        run=RunDefaults(**values),
        mirrors=_mirrors(_table(document, "mirrors")),
        trusted_keys=_trusted_keys(_table(document, "trust")),
    )


def _trusted_keys(table: dict[str, Any]) -> tuple[str, ...]:
    _require_keys(table, ("keys",), "[trust]")
    value = table.get("keys", [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise EnvironmentInvalid("reprobox.toml: [trust] keys must be a list of strings")
    return tuple(value)


def _mirrors(table: dict[str, Any]) -> dict[str, Any]:
    _require_keys(table, ("pypi", "debian", "conda", "channels", "folder"), "[mirrors]")
    channels = _table(table, "channels")
    found: dict[str, Any] = {key: _optional_text(table, key) or "" for key in table if key != "channels"}
    if channels:
        found["channels"] = {name: _optional_text(channels, name) or "" for name in channels}
    return found


def _run_value(key: str, value: Any) -> Any:
    match key:
        case "determinism":
            if value not in get_args(Determinism):
                raise EnvironmentInvalid(
                    f"reprobox.toml: [run] determinism is {value!r}", hint=f"one of {', '.join(get_args(Determinism))}"
                )
            return value
        case "gpus":
            number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
            if not number and not (isinstance(value, str) and re.fullmatch(_GPUS, value)):
                raise EnvironmentInvalid(
                    f"reprobox.toml: [run] gpus is {value!r}", hint='auto, none, all, a number, or indices: "0,2"'
                )
            return str(value)
        case "seed":
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
                raise EnvironmentInvalid(
                    f"reprobox.toml: [run] seed is {value!r}", hint="an integer from 0 to 4294967295"
                )
            return value
        case _:
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise EnvironmentInvalid(f"reprobox.toml: [run] {key} must be a list of strings")
            return tuple(value)


def _environment(name: str, table: Any, root: Path) -> EnvironmentEntry:
    if not isinstance(table, dict):
        raise EnvironmentInvalid(f"reprobox.toml: [env.{name}] must be a table")
    _require_keys(table, ("environment", "base", "python"), f"[env.{name}]")
    path = Path(os.path.normpath(root / (_optional_text(table, "environment") or f"envs/{name}/environment.yml")))
    python = table.get("python", "auto")
    if python not in ("auto", "base", "conda"):
        raise EnvironmentInvalid(f"reprobox.toml: [env.{name}] python is {python!r}", hint='"base" or "conda"')
    if path.name == LOCK_NAME:
        path = _entry_of_folder(path.parent, name, name).environment
    return EnvironmentEntry(
        name=name,
        argument=name,
        environment=path,
        lock=path.parent / LOCK_NAME,
        base=_optional_text(table, "base") or DEFAULT_BASE,
        python=python,
    )


def _table(document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key, {})
    if not isinstance(value, dict):
        raise EnvironmentInvalid(f"reprobox.toml: [{key}] must be a table")
    return value


def _optional_text(table: dict[str, Any], key: str) -> str | None:
    value = table.get(key)
    if value is not None and not isinstance(value, str):
        raise EnvironmentInvalid(f"reprobox.toml: {key} must be a string, not {value!r}")
    return value


def _require_keys(table: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            raise EnvironmentInvalid(
                f"reprobox.toml: unknown key {key!r} in {where}", hint=f"known: {', '.join(known)}"
            )


def find_environment(project: Project, name: str | None, *, cwd: Path) -> EnvironmentEntry:
    """Find what ENV means: a name from reprobox.toml, a folder of envs/, or the path of an environment file or lock.

    Args:
        project: The project.
        name: ENV as typed, or None for the default.
        cwd: Folder that relative paths start from.

    Raises:
        UsageError: Nothing, or more than one, is meant by it.
    """
    if name is None:
        return _default_environment(project, cwd)
    if name in project.environments:
        return project.environments[name]
    folder = project.root / "envs" / name
    if folder.parent == project.root / "envs" and name not in (".", "..") and folder.is_dir():
        return _entry_of_folder(folder, name, name)
    path = (cwd / name).resolve()
    for entry in project.environments.values():
        if path.is_file() and path in (entry.lock.resolve(), entry.environment.resolve()):
            return entry
        if is_lock_name(path.name) and path.is_file() and path.parent == entry.lock.parent.resolve():
            return replace(entry, lock=path)
    if path.is_dir():
        return _entry_of_folder(path, path.name, name)
    if is_lock_name(path.name) and path.is_file():
        return replace(_entry_of_folder(path.parent, path.parent.name, name), lock=path)
    if path.is_file():
        return EnvironmentEntry(name=path.parent.name, argument=name, environment=path, lock=path.parent / LOCK_NAME)
    known = sorted({*project.environments, *_folders(project)})
    raise UsageError(
        f"no environment {name!r}: neither a name in reprobox.toml, nor a folder of envs/, nor a file",
        hint=f"there is: {', '.join(known)}" if known else "write an environment.yml, or name its path",
    )


def _default_environment(project: Project, cwd: Path) -> EnvironmentEntry:
    if project.default is not None:
        return find_environment(project, project.default, cwd=cwd)
    if len(project.environments) == 1:
        return next(iter(project.environments.values()))
    for folder in dict.fromkeys((cwd, project.root)):
        if any((folder / file).is_file() for file in (*ENVIRONMENT_NAMES, LOCK_NAME)):
            return _entry_of_folder(folder, folder.name, "")
    names = sorted({*project.environments, *_folders(project)})
    if len(names) == 1:
        return find_environment(project, names[0], cwd=cwd)
    if names:
        raise UsageError(
            f"several environments: {', '.join(names)}",
            hint='name one, or write `default = "NAME"` in reprobox.toml',
        )
    raise UsageError(
        f"no environment in {project.root}",
        hint="write an environment.yml there, for example:\n"
        "  name: my-env\n  dependencies:\n    - python=3.11\n    - pip\n    - pip:\n        - numpy",
    )


def _folders(project: Project) -> list[str]:
    envs = project.root / "envs"
    if not envs.is_dir():
        return []
    return [f.name for f in envs.iterdir() if any((f / n).is_file() for n in (*ENVIRONMENT_NAMES, LOCK_NAME))]


def _entry_of_folder(folder: Path, name: str, argument: str) -> EnvironmentEntry:
    present = [file for file in ENVIRONMENT_NAMES if (folder / file).is_file()]
    file = present[0] if present else ENVIRONMENT_NAMES[0]
    return EnvironmentEntry(name=name, argument=argument, environment=folder / file, lock=folder / LOCK_NAME)


def lock_name(platform: str) -> str:
    """Name of the lock for a platform: `reprobox.lock`, and for others than the usual one with its name in it."""
    return LOCK_NAME if platform == DEFAULT_PLATFORM else f"reprobox.{platform}.lock"


def is_lock_name(name: str) -> bool:
    """Whether a file of that name is a lock, of whatever platform."""
    return name == LOCK_NAME or re.fullmatch(r"reprobox\.[a-z0-9]+-[a-z0-9]+\.lock", name) is not None


def lock_platform(name: str) -> str:
    """Give the platform that a lock of this file name is for."""
    found = re.fullmatch(r"reprobox\.([a-z0-9]+-[a-z0-9]+)\.lock", name)
    return found[1] if found else DEFAULT_PLATFORM


def choose_lock(entry: EnvironmentEntry, *, machine: str) -> EnvironmentEntry:
    """Give an environment with the lock for a kind of machine, unless a lock was named as such.

    Args:
        entry: The environment.
        machine: As the kernel calls it, such as "aarch64".
    """
    if is_lock_name(Path(entry.argument).name):
        return entry
    platform = {"aarch64": "linux-aarch64", "arm64": "linux-aarch64"}.get(machine, DEFAULT_PLATFORM)
    return replace(entry, lock=entry.lock.with_name(lock_name(platform)))
