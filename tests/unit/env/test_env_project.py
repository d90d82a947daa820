"""reprobox.toml, and what ENV means."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from env_samples import PROJECT, spoil

from reprobox.env.project import (
    EnvironmentEntry,
    Project,
    RunDefaults,
    choose_lock,
    find_environment,
    find_project_root,
    load_project,
    lock_name,
    lock_platform,
    parse_project,
)
from reprobox.errors import EnvironmentInvalid, UsageError

ROOT = Path("/somewhere/project")


def read(text: str) -> Project:
    return parse_project(text, root=ROOT)


def refusal(text: str) -> EnvironmentInvalid:
    with pytest.raises(EnvironmentInvalid) as caught:
        read(text)
    assert "reprobox.toml" in caught.value.message
    return caught.value


def place(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("")
    return root


def test_every_key_is_read() -> None:
    """A file with every key gives every value, in its type."""
    project = read(PROJECT)
    assert project.default == "digits-cpu"
    entry = project.environments["digits-cpu"]
    assert entry.environment == ROOT / "envs/digits-cpu/environment.yml"
    assert entry.lock == ROOT / "envs/digits-cpu/reprobox.lock"
    assert (entry.name, entry.base, entry.python) == ("digits-cpu", "debian-12", "base")
    assert project.run == RunDefaults(
        inputs=("data/",),
        outputs=("*.keras", "metrics.json"),
        metrics=("metrics.json",),
        determinism="seeded",
        gpus="2",
        seed=7,
        env=("HTTPS_PROXY", "DEBUG=1"),
    )
    assert project.mirrors == {"pypi": "https://pypi.example.org/simple", "debian": "http://deb.example.org/debian"}
    assert project.state == ROOT / ".reprobox"


def test_nothing_needs_to_be_written() -> None:
    """An empty file and no file at all mean the same: the defaults."""
    assert read("") == Project(root=ROOT)
    assert read("[run]\n").run == RunDefaults()
    assert RunDefaults().determinism == "strict"


def test_an_entry_without_keys_means_its_folder() -> None:
    """`[env.x]` alone means envs/x with the default base; a path is taken from the project, and leads to its lock."""
    project = read('[env.x]\n[env.y]\nenvironment = "sub/../a/env.yaml"\n[env.z]\nenvironment = "a/reprobox.lock"\n')
    entries = project.environments
    assert (entries["x"].environment, entries["x"].base) == (ROOT / "envs/x/environment.yml", "debian-12")
    assert (entries["y"].environment, entries["y"].lock) == (ROOT / "a/env.yaml", ROOT / "a/reprobox.lock")
    assert entries["z"].lock == ROOT / "a/reprobox.lock"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("defualt = 'x'\n", "'defualt'"),
        ("[runs]\n", "'runs'"),
        ("[run]\nseeds = 1\n", "'seeds'"),
        ("[env.x]\nfile = 'y'\n", "'file'"),
    ],
)
def test_an_unknown_key_is_refused_with_the_known_ones(text: str, named: str) -> None:
    """A key that is not known is a mistake, named, with those that are."""
    error = refusal(text)
    assert named in error.message
    assert (error.hint or "").startswith("known: ")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("default = 5\n", "default"),
        ("env = 5\n", "[env]"),
        ("env.x = 5\n", "[env.x]"),
        ("[env.x]\nbase = 5\n", "base"),
        ("[env.x]\nenvironment = []\n", "environment"),
        ("[env.x]\npython = 'pyenv'\n", "'pyenv'"),
        ("[env.x]\npython = ['base']\n", "['base']"),
        ("run = []\n", "[run]"),
        ("mirrors = 'x'\n", "[mirrors]"),
        ("[run]\ninputs = 'data'\n", "inputs"),
        ("[run]\noutputs = [1]\n", "outputs"),
        ("[run]\nmetrics = {}\n", "metrics"),
        ("[run]\nenv = [[]]\n", "env"),
        ("[run]\ndeterminism = 'very'\n", "'very'"),
        ("[run]\ndeterminism = []\n", "[]"),
        ("[run]\nseed = -1\n", "-1"),
        ("[run]\nseed = 4294967296\n", "4294967296"),
        ("[run]\nseed = true\n", "True"),
        ("[run]\nseed = 1.5\n", "1.5"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(text: str, named: str) -> None:
    """A value that cannot be meant is refused, naming key or value."""
    assert named in refusal(text).message


def test_the_whole_range_of_seeds_is_taken() -> None:
    """Seeds are 32 bits without a sign: both ends are taken."""
    assert [read(f"[run]\nseed = {seed}\n").run.seed for seed in (0, 4294967295)] == [0, 4294967295]


@pytest.mark.parametrize(
    "text", ["[mirrors]\ndebain = 'http://x'\n", "[mirrors]\npypi = 5\n", "[mirrors]\npypi = {}\n"]
)
def test_mirrors_are_checked_like_everything_else(text: str) -> None:
    """A mirror for what is not known, and one that is no text, are refused: a typo would use the wrong index in silence."""
    refusal(text)


@pytest.mark.parametrize("value", ["true", "{a = 1}", "1.5", "[]", "-1", "'some'"])
def test_gpus_are_checked_like_everything_else(value: str) -> None:
    """`gpus` that are none of auto, none, all, a number or indices are refused."""
    refusal(f"[run]\ngpus = {value}\n")


@pytest.mark.parametrize(
    ("value", "text"),
    [("'auto'", "auto"), ("'none'", "none"), ("'all'", "all"), ("0", "0"), ("2", "2"), ("'3'", "3"), ("'0,2'", "0,2")],
)
def test_gpus_may_be_a_word_a_number_or_indices(value: str, text: str) -> None:
    """Every way to name GPUs that the documents have is read, as text."""
    assert read(f"[run]\ngpus = {value}\n").run.gpus == text


def test_no_value_of_gpus_takes_long() -> None:
    """A long number with a letter behind it is refused at once, not after hours."""

    def stop(*_: object) -> None:
        raise TimeoutError

    old = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.5)
    try:
        refusal(f"[run]\ngpus = '{'1' * 60}x'\n")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, old)


@pytest.mark.parametrize("text", ["default = \n", "[run\n", "a = 1\na = 2\n", "[run]\nseed = 2024-13-01\n", "\x00"])
def test_broken_toml_is_refused_with_its_line(text: str) -> None:
    """Broken TOML is refused, with line and column as the parser has them."""
    message = refusal(text).message
    assert "line" in message or "document" in message


def test_a_spoiled_project_file_is_refused_and_never_crashes() -> None:
    """Whatever bytes are changed, a project file is read or refused; nothing else is ever raised."""
    outcomes = {"read": 0, "refused": 0}
    for text in spoil(PROJECT, count=400, seed=11):
        try:
            read(text)
        except EnvironmentInvalid:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
    assert min(outcomes.values()) > 20, outcomes


@pytest.mark.parametrize("value", ["1" * 5000, "[" * 5000])
def test_a_value_that_toml_cannot_make_is_refused(value: str) -> None:
    """A number of thousands of digits, or as many brackets, are refused as broken TOML is."""
    refusal(f"default = {value}\n")


def test_the_nearest_project_upwards_counts(tmp_path: Path) -> None:
    """The project is the nearest folder upwards with a reprobox.toml; a folder of that name does not count."""
    place(tmp_path, "reprobox.toml", "a/b/reprobox.toml", "a/b/c/d/file", "a/e/f/file")
    (tmp_path / "a/b/c/reprobox.toml").mkdir()
    assert find_project_root(tmp_path / "a/b/c/d") == tmp_path / "a/b"
    assert find_project_root(tmp_path / "a/b") == tmp_path / "a/b"
    assert find_project_root(tmp_path / "a/e/f") == tmp_path
    assert load_project(tmp_path / "a/e/f").root == tmp_path


def test_without_a_project_file_the_folder_is_the_project(tmp_path: Path) -> None:
    """Where no folder upwards has a reprobox.toml, the project is the folder itself, links resolved."""
    place(tmp_path, "a/file")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert load_project(tmp_path / "link") == Project(root=tmp_path / "a")


def test_an_unreadable_project_file_is_refused(tmp_path: Path) -> None:
    """A project file that is not UTF-8 is refused, naming it."""
    (tmp_path / "reprobox.toml").write_bytes(b"default = '\xff'\n")
    with pytest.raises(EnvironmentInvalid, match=r"reprobox\.toml"):
        load_project(tmp_path)


def find(root: Path, name: str | None, *, cwd: Path | None = None) -> EnvironmentEntry:
    return find_environment(load_project(root), name, cwd=cwd or root)


def usage(root: Path, name: str | None, *, cwd: Path | None = None) -> UsageError:
    with pytest.raises(UsageError) as caught:
        find(root, name, cwd=cwd)
    assert caught.value.hint
    return caught.value


def test_a_name_of_the_project_file_comes_first(tmp_path: Path) -> None:
    """ENV is a name from reprobox.toml before it is a folder of envs/, before it is a path."""
    place(tmp_path, "envs/x/environment.yml", "x/environment.yml", "other/environment.yml")
    assert find(tmp_path, "x").environment == tmp_path / "envs/x/environment.yml"
    (tmp_path / "reprobox.toml").write_text('[env.x]\nenvironment = "other/environment.yml"\nbase = "b"\n')
    entry = find(tmp_path, "x", cwd=tmp_path / "x")
    assert (entry.environment, entry.base) == (tmp_path / "other/environment.yml", "b")


def test_a_folder_of_envs_is_meant_from_anywhere(tmp_path: Path) -> None:
    """The name of a folder of envs/ means it from every folder of the project, with .yml before .yaml."""
    place(
        tmp_path, "reprobox.toml", "envs/x/environment.yaml", "envs/y/environment.yaml", "envs/y/environment.yml", "a/b"
    )
    for cwd in (tmp_path, tmp_path / "a"):
        assert find(tmp_path, "x", cwd=cwd).environment == tmp_path / "envs/x/environment.yaml"
        assert find(tmp_path, "y", cwd=cwd).environment == tmp_path / "envs/y/environment.yml"
    assert find(tmp_path, "x").lock == tmp_path / "envs/x/reprobox.lock"
    assert find(tmp_path, "x").name == "x"


def test_a_folder_with_a_lock_alone_is_an_environment(tmp_path: Path) -> None:
    """Where there is only a lock, ENV means it, and the environment file is the one that could be written."""
    place(tmp_path, "envs/x/reprobox.lock")
    entry = find(tmp_path, "x")
    assert (entry.lock, entry.environment) == (tmp_path / "envs/x/reprobox.lock", tmp_path / "envs/x/environment.yml")


def test_a_path_is_meant_from_the_folder_that_it_was_typed_in(tmp_path: Path) -> None:
    """The path of a file or folder is relative to the current folder; its lock lies beside it."""
    place(tmp_path, "reprobox.toml", "a/sub/environment.yml", "a/sub/my.yml")
    folder = find(tmp_path, "sub", cwd=tmp_path / "a")
    assert (folder.name, folder.environment) == ("sub", tmp_path / "a/sub/environment.yml")
    for name in ("sub/my.yml", "../a/sub/my.yml", str(tmp_path / "a/sub/my.yml")):
        file = find(tmp_path, name, cwd=tmp_path / "a")
        assert file.environment == tmp_path / "a/sub/my.yml"
        assert file.lock == tmp_path / "a/sub/reprobox.lock"
        assert file.name == "sub"


@pytest.mark.parametrize("name", ["envs/x/reprobox.lock", "x"])
def test_the_path_of_a_lock_means_that_lock(tmp_path: Path, name: str) -> None:
    """ENV may be the path of a lock: that file is the lock, and not also the environment file that is parsed."""
    place(tmp_path, "envs/x/environment.yml", "envs/x/reprobox.lock")
    if name == "x":
        (tmp_path / "reprobox.toml").write_text('[env.x]\nenvironment = "envs/x/reprobox.lock"\n')
    entry = find(tmp_path, name)
    assert entry.lock == tmp_path / "envs/x/reprobox.lock"
    assert entry.environment == tmp_path / "envs/x/environment.yml"


def test_a_relative_path_is_no_folder_of_envs(tmp_path: Path) -> None:
    """`.`, `..` and `../x` are paths from the current folder even where the project has a folder envs/."""
    place(tmp_path, "reprobox.toml", "environment.yml", "envs/y/environment.yml", "a/b/file", "a/x/environment.yml")
    place(tmp_path, "x/environment.yml", "a/environment.yml")
    assert find(tmp_path, ".").environment == tmp_path / "environment.yml"
    assert find(tmp_path, "../x", cwd=tmp_path / "a/b").environment == tmp_path / "a/x/environment.yml"
    assert find(tmp_path, "..", cwd=tmp_path / "a/x").environment == tmp_path / "a/environment.yml"


def test_an_absolute_folder_has_a_short_name(tmp_path: Path) -> None:
    """The same folder has the same name however its path was typed."""
    place(tmp_path, "a/environment.yml")
    assert find(tmp_path, str(tmp_path / "a")).name == find(tmp_path, "a").name


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    """A name that means nothing is a mistake of usage; the hint has every name that means something, sorted."""
    place(tmp_path, "envs/b/environment.yml", "envs/a/reprobox.lock", "envs/empty/readme", "envs/file")
    (tmp_path / "reprobox.toml").write_text("[env.c]\n")
    error = usage(tmp_path, "nothing")
    assert "'nothing'" in error.message
    assert error.hint == "there is: a, b, c"


def test_no_name_means_the_default(tmp_path: Path) -> None:
    """Without ENV, `default` counts before anything else."""
    place(tmp_path, "envs/a/environment.yml", "envs/b/environment.yml", "environment.yml")
    (tmp_path / "reprobox.toml").write_text('default = "b"\n[env.c]\n')
    assert find(tmp_path, None).name == "b"
    (tmp_path / "reprobox.toml").write_text('default = "gone"\n')
    assert "'gone'" in usage(tmp_path, None).message


def test_no_name_means_the_only_one(tmp_path: Path) -> None:
    """Without ENV and default: the only [env.*]; else the file of this folder, then of the project; else the only folder."""
    place(tmp_path, "reprobox.toml", "envs/a/environment.yml", "sub/file")
    assert find(tmp_path, None).environment == tmp_path / "envs/a/environment.yml"
    place(tmp_path, "environment.yaml")
    assert find(tmp_path, None, cwd=tmp_path / "sub").environment == tmp_path / "environment.yaml"
    place(tmp_path, "sub/reprobox.lock")
    assert find(tmp_path, None, cwd=tmp_path / "sub").lock == tmp_path / "sub/reprobox.lock"
    (tmp_path / "reprobox.toml").write_text("[env.c]\n")
    assert find(tmp_path, None, cwd=tmp_path / "sub").name == "c"


def test_several_environments_need_a_name(tmp_path: Path) -> None:
    """Where several could be meant, all are named and none is chosen."""
    place(tmp_path, "envs/b/environment.yml", "envs/a/environment.yml")
    error = usage(tmp_path, None)
    assert "a, b" in error.message
    assert "default" in (error.hint or "")


def test_no_environment_at_all_is_explained(tmp_path: Path) -> None:
    """Where there is none, the hint is a whole environment file."""
    assert "dependencies:" in (usage(tmp_path, None).hint or "")
    assert usage(tmp_path, "x").hint == "write an environment.yml, or name its path"


@pytest.mark.parametrize(("machine", "name"), [("x86_64", "reprobox.lock"), ("aarch64", "reprobox.linux-aarch64.lock")])
def test_the_lock_of_a_machine(tmp_path: Path, machine: str, name: str) -> None:
    """A run takes the lock for the machine that it is on, unless one is named."""
    root = place(tmp_path, "environment.yml", "reprobox.lock", "reprobox.linux-aarch64.lock")
    entry = find_environment(Project(root=root), None, cwd=root)
    assert choose_lock(entry, machine=machine).lock.name == name
    assert lock_name(lock_platform(name)) == name
    for named in ("reprobox.lock", "reprobox.linux-aarch64.lock"):
        entry = find_environment(Project(root=root), named, cwd=root)
        assert choose_lock(entry, machine=machine).lock.name == named
