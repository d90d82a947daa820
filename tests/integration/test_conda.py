"""Conda environments, end to end: a real channel on loopback, a real engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from reprobox.env.lockfile import parse_lock
from reprobox.image.plan import plan_layers
from tests.channel.build import Channel
from tests.channel.server import Server, flip, serve
from tests.conftest import REPO, Tool, require_program
from tests.integration.conftest import make_conda_project as make_project

DEMO = """\
name: demo
channels:
  - conda-forge
dependencies:
  - python=3.11
  - numpy>=2   # arrays
  - hello-entry
  - prefix-text
  - prefix-binary
  - links-demo
  - pip
  - pip:
      - idna==3.10
      - numpy
"""


@pytest.fixture
def demo(tmp_path: Path, server: Server) -> Tool:
    return make_project(tmp_path / "demo", server, DEMO)


def test_a_conda_environment_runs(demo: Tool) -> None:
    """Python, packages, an entry point and a wheel on top come from the lock, and from nowhere else."""
    (demo.folder / "train.py").write_text(
        "import json, subprocess, sys, idna, numpy\n"
        "said = subprocess.run(['hello-entry'], capture_output=True, text=True, check=True).stdout\n"
        "assert sys.prefix == '/opt/env' and numpy.__file__.startswith('/opt/env/'), (sys.prefix, numpy.__file__)\n"
        "assert [p for p in sys.path if 'dist-packages' in p] == []\n"
        "json.dump({'sum': float(numpy.arange(5).sum()), 'said': len(said)}, open('metrics.json', 'w'))\n"
    )
    done = demo("run", "--json", "train.py")
    assert done.document["metrics"]["sum"] == 10.0
    assert done.document["metrics"]["said"] > 0
    lock = (demo.folder / "reprobox.lock").read_text()
    assert "127.0.0.1" not in lock
    assert "file: idna-3.10-py3-none-any.whl" in lock
    # NumPy is asked for in both sections, and installed once.
    assert lock.count("- name: numpy\n") == 1


def test_locking_again_changes_nothing(demo: Tool) -> None:
    """Same file, same channel: same lock, byte for byte, also from nothing."""
    demo("lock")
    first = (demo.folder / "reprobox.lock").read_bytes()
    demo("lock")
    assert (demo.folder / "reprobox.lock").read_bytes() == first
    (demo.folder / "reprobox.lock").unlink()
    shutil.rmtree(demo.folder / "cache")
    demo("lock")
    assert (demo.folder / "reprobox.lock").read_bytes() == first


def test_one_environment_by_three_ways_is_one_image(demo: Tool, tmp_path: Path, server: Server) -> None:
    """From environment.yml, and from the conda-lock.yml and @EXPLICIT list made of its lock: one digest of each kind."""
    expected = demo("build", "--no-load", "--json").document
    for kind, name in (("conda-lock", "conda-lock.yml"), ("explicit", "explicit.txt")):
        text = demo("lock", "--export", kind).out
        again = make_project(tmp_path / kind, server, text, name)("build", "--no-load", "--json").document
        assert again["lock_digest"] == expected["lock_digest"], kind
        assert again["manifest_digest"] == expected["manifest_digest"], kind


def test_exports_are_what_other_tools_read(demo: Tool, tmp_path: Path) -> None:
    """conda-lock reads its file, py-rattler the explicit list, pip the requirements."""
    demo("lock")
    (tmp_path / "conda-lock.yml").write_text(demo("lock", "--export", "conda-lock").out)
    code = (
        "import sys, pathlib; from conda_lock.lockfile import parse_conda_lock_file as p;"
        "print(sorted(x.name for x in p(pathlib.Path(sys.argv[1])).package))"
    )
    import sys

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "conda-lock.yml")], capture_output=True, text=True, check=True
    )
    assert "'idna'" in done.stdout
    assert "'numpy'" in done.stdout
    from rattler.explicit_environment import ExplicitEnvironmentSpec

    specification = ExplicitEnvironmentSpec.from_str(demo("lock", "--export", "explicit").out)
    assert len(specification.packages) == len(
        re.findall(r"^  subdir:", (demo.folder / "reprobox.lock").read_text(), re.M)
    )
    (tmp_path / "requirements.txt").write_text(demo("lock", "--export", "requirements").out)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--no-deps",
         "--require-hashes", "-r", str(tmp_path / "requirements.txt")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_bytes_do_not_follow_the_machine(demo: Tool, tmp_path: Path, server: Server) -> None:
    """Another folder, umask, TZ and cache: the same image."""
    expected = demo("build", "--no-load", "--json").document["manifest_digest"]
    other = make_project(tmp_path / "o t h e r", server, DEMO)
    shutil.copyfile(demo.folder / "reprobox.lock", other.folder / "reprobox.lock")
    done = subprocess.run(
        other.command("build", "--no-load", "--json"), cwd=other.folder, capture_output=True, text=True, check=False,
        env=other.environment() | {"TZ": "Asia/Kathmandu", "LC_ALL": "C"},
        preexec_fn=lambda: os.umask(0o077) and None,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["manifest_digest"] == expected


def test_a_package_with_other_bytes_is_refused(demo: Tool, server: Server) -> None:
    """A channel that hands out other bytes than are locked: 11, with the package's name, and nothing is built."""
    demo("lock")
    name = next(line for line in (demo.folder / "reprobox.lock").read_text().splitlines() if "file: numpy" in line)
    file = name.split()[-1]
    server.alter[file] = flip
    done = demo("build", "--no-load", code=11)
    assert f"{file} does not hash to what the lock says" in done.err
    assert not (demo.folder / "cache/images").exists()


def test_a_local_package_with_other_bytes_is_refused(demo: Tool, server: Server) -> None:
    """The same from a channel on disk, which py-rattler would take unchecked."""
    demo("lock")
    toml = f'[mirrors]\nconda = "file://{server.folder}"\n'
    (demo.folder / "reprobox.toml").write_text(toml)
    (file,) = (server.folder / "conda-forge/linux-64").glob("numpy-2*.conda")
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(flip(data))
    done = demo("build", "--no-load", code=11)
    assert f"{file.name} does not hash to what the lock says" in done.err
    file.write_bytes(data)
    demo("build", "--no-load")


def test_a_tampered_cache_is_noticed(demo: Tool) -> None:
    """Cached packages whose bytes changed are fetched again; the image is the same."""
    first = demo("build", "--no-load", "--json").document
    for file in (demo.folder / "cache/packages").rglob("*"):
        if file.is_file():
            file.write_bytes(flip(file.read_bytes()))
    shutil.rmtree(demo.folder / "cache/layers")
    again = demo("build", "--no-load", "--json").document
    assert again["manifest_digest"] == first["manifest_digest"]


def test_a_row_without_a_hash_is_refused(demo: Tool) -> None:
    """A lock whose row has no sha256: 3, with the package's name."""
    demo("lock")
    lock = demo.folder / "reprobox.lock"
    text = lock.read_text()
    start = text.index("file: numpy")
    lock.write_text(text[:start] + re.sub(r"  sha256: [0-9a-f]+\n", "", text[start:], count=1))
    done = demo("build", "--no-load", code=3)
    assert "reprobox.lock" in done.err


def test_a_changed_file_names_its_lines(demo: Tool) -> None:
    """`lock --check` says which line of the environment file is not in the lock."""
    demo("lock")
    file = demo.folder / "environment.yml"
    file.write_text(file.read_text().replace("numpy>=2 ", "numpy>=2.1 "))
    done = demo("lock", "--check", code=3)
    assert "environment.yml:6: numpy>=2.1 is not in the lock" in done.err


def test_a_conflict_is_told_in_words(tmp_path: Path, server: Server) -> None:
    """Two packages that need other versions of a third: 4, both named, with their lines."""
    tool = make_project(
        tmp_path / "p",
        server,
        "channels: [conda-forge]\ndependencies:\n  - python=3.11\n  - needs-old\n  - needs-new\n",
    )
    done = tool("lock", code=4)
    for word in ("needs-old", "needs-new", "shared-lib", "line 4", "line 5"):
        assert word in done.err, done.err
    assert not (tool.folder / "reprobox.lock").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nunpy", ["environment.yml:4", "nunpy is in none of the channels", "spelling"]),
        ("numpy=1.0", ["environment.yml:4", "numpy=1.0 is no longer published", "there is 2.4.6"]),
        ("numpy=2.4.6=py39h123_0", ["environment.yml:4", "that build is not in", "relax it to numpy=2.4.6"]),
    ],
)
def test_what_a_channel_does_not_have_is_explained(tmp_path: Path, server: Server, line: str, words: list[str]) -> None:
    """An unknown name, a version that is gone, a build of another platform: each with its line and the one edit."""
    tool = make_project(
        tmp_path / "p", server, f"channels: [conda-forge]\ndependencies:\n  - python=3.11\n  - {line}\n"
    )
    done = tool("lock", code=4)
    for word in words:
        assert word in done.err, done.err


def test_a_silent_channel_is_unreachable(tmp_path: Path, server: Server) -> None:
    """A channel that does not answer: 4, without a password that stands in its address."""
    tool = make_project(tmp_path / "p", server, "channels: [conda-forge]\ndependencies: [python=3.11, numpy]\n")
    (tool.folder / "reprobox.toml").write_text('[mirrors]\nconda = "http://user:hunter2@127.0.0.1:9"\n')
    done = tool("lock", code=4)
    assert "did not answer" in done.err
    assert "hunter2" not in done.err


def test_cuda_is_what_is_said_and_not_what_is_here(tmp_path: Path, server: Server) -> None:
    """Without --cuda the CPU build is solved, with it the build for that CUDA; it stays when locked again."""
    text = "channels: [conda-forge]\ndependencies:\n  - python=3.11\n  - fakeframework\n"
    tool = make_project(tmp_path / "p", server, text)
    tool("lock")
    lock = tool.folder / "reprobox.lock"
    assert re.search(r"file: fakeframework-2\.0-cpu_", lock.read_text())
    tool("lock", "--cuda", "12.2")
    assert re.search(r"file: fakeframework-2\.0-cuda122", lock.read_text())
    assert "__cuda: '12.2'" in lock.read_text()
    tool("lock")
    assert re.search(r"file: fakeframework-2\.0-cuda122", lock.read_text())
    tool("lock", "--cuda", "twelve", code=2)


def test_upgrading_one_package_moves_nothing_else(tmp_path: Path, server: Server) -> None:
    """Locking again keeps versions; `--upgrade PKG` moves that package alone."""
    text = "channels: [conda-forge]\ndependencies:\n  - python=3.11\n  - versioned{}\n  - upgradable-app{}\n"
    tool = make_project(tmp_path / "p", server, text.format("=1.0", "=1.0"))
    lock = tool.folder / "reprobox.lock"

    def versions() -> dict[str, str]:
        return dict(re.findall(r"- name: (\S+)\n +version: (\S+)", lock.read_text()))

    tool("lock")
    before = versions()
    assert (before["versioned"], before["upgradable-app"]) == ("'1.0'", "'1.0'")
    (tool.folder / "environment.yml").write_text(text.format("", ""))
    tool("lock")
    assert versions() == before
    tool("lock", "--upgrade", "versioned")
    after = versions()
    assert {name for name in after if after[name] != before.get(name)} == {"versioned"}


def test_what_is_too_new_is_left_out(tmp_path: Path, server: Server) -> None:
    """`--exclude-newer` hides what was published after that day, and says so where nothing is left."""
    tool = make_project(tmp_path / "p", server, "channels: [conda-forge]\ndependencies: [python=3.11, numpy]\n")
    done = tool("lock", "--exclude-newer", "2020-01-01", code=4)
    assert "after the cutoff date of 2020-01-01" in done.err
    tool("lock", "--exclude-newer", "yesterday", code=2)


def test_link_scripts_are_named_and_activation_is_captured(tmp_path: Path, server: Server) -> None:
    """A post-link script is named and not run; what activation would export is in the image."""
    tool = make_project(
        tmp_path / "p", server,
        "channels: [conda-forge]\ndependencies: [python=3.11, post-link-demo, activate-demo]\nvariables: {MINE: '7'}\n",
    )  # fmt: skip
    done = tool("build", "--no-load", "--output", f"oci:{tmp_path / 'layout'}")
    assert "bin/.post-link-demo-post-link.sh was not run" in done.err
    index = json.loads((tmp_path / "layout/index.json").read_text())
    manifest = json.loads((tmp_path / "layout/blobs/sha256" / index["manifests"][0]["digest"][7:]).read_text())
    config = json.loads((tmp_path / "layout/blobs/sha256" / manifest["config"]["digest"][7:]).read_text())
    variables = dict(line.split("=", 1) for line in config["config"]["Env"])
    assert variables["ACTIVATE_DEMO"] == "active in /opt/env"
    assert variables["ENV_VARS_DEMO"] == "from env_vars.d"
    assert variables["MINE"] == "7"
    assert variables["CONDA_PREFIX"] == "/opt/env"


@pytest.mark.parametrize("names", ["clobber-a, clobber-b", "clobber-b, clobber-a, clobber-same"])
def test_of_two_files_at_one_path_the_planned_one_stays(tmp_path: Path, server: Server, names: str) -> None:
    """Packages bring one path with other bytes: the upper layer's stays, in one layer the later by name; everywhere."""
    tool = make_project(tmp_path / "p", server, f"channels: [conda-forge]\ndependencies: [python=3.11, {names}]\n")
    (tool.folder / "read.py").write_text(
        "import json\n"
        "text = open('/opt/env/share/clobber/same.txt').read().strip()\n"
        "json.dump({'b': int(text == 'b')}, open('metrics.json', 'w'))\n"
    )
    tool("build")
    lock = parse_lock((tool.folder / "reprobox.lock").read_text(), source="lock")
    order = [package.name for plan in plan_layers(lock) for package in plan.conda if package.name in names]
    assert sorted(order) == sorted(names.split(", "))
    expected = {"b": int(order[-1] == "clobber-b")}
    for engine, program in (("docker", "docker"), ("podman", "podman"), ("charliecloud", "ch-run")):
        require_program(program)
        assert tool("run", "--engine", engine, "--json", "read.py").document["metrics"] == expected, engine


def test_a_mirror_needs_no_network(demo: Tool, tmp_path: Path, server: Server) -> None:
    """From the folder that `mirror` made, the image is built in a namespace without any network."""
    expected = demo("build", "--no-load", "--json").document["manifest_digest"]
    demo("mirror", "reprobox.lock", str(tmp_path / "mirror"))
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path / "mirror", check=True)
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let us make a network namespace")
    environment = demo.environment() | {
        "REPROBOX_MIRROR": str(tmp_path / "mirror"), "REPROBOX_CACHE": str(tmp_path / "empty"),
    }  # fmt: skip
    done = subprocess.run(
        ["unshare", "--net", *demo.command("build", "--no-load", "--json")], cwd=demo.folder, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["manifest_digest"] == expected


def test_an_export_of_the_environment_gives_the_same_packages(demo: Tool, tmp_path: Path, server: Server) -> None:
    """What `conda env export` would print of the image (from its notes), fed back, locks the same packages."""
    script = (
        "import json, glob, importlib.metadata as m\n"
        "rows = [json.load(open(f)) for f in sorted(glob.glob('/opt/env/conda-meta/*.json'))]\n"
        "names = {r['name'] for r in rows}\n"
        "print('name: x\\nchannels:\\n  - ' + rows[0]['channel'] + '\\n  - defaults\\ndependencies:')\n"
        "for r in rows: print('  - %s=%s=%s' % (r['name'], r['version'], r['build']))\n"
        "print('  - pip:')\n"
        "for d in m.distributions():\n"
        "    if (d.read_text('INSTALLER') or '').strip() != 'conda': print('    - %s==%s' % (d.metadata['Name'], d.version))\n"
        "print('prefix: /opt/env')\n"
    )
    (demo.folder / "export.py").write_text(script)
    exported = demo("run", "export.py").out
    assert "prefix: /opt/env" in exported
    again = make_project(tmp_path / "again", server, exported.replace("  - defaults\n", ""))
    again("lock")
    digests = [re.search(r"sha256:\w+", tool("lock", "--check").err) for tool in (demo, again)]
    assert digests[0] is not None
    assert digests[1] is not None
    assert digests[0][0] == digests[1][0]


def test_digits_train_from_conda_alone(tmp_path: Path, full_channel: Channel) -> None:
    """The example trains and evaluates in an image whose Python and packages all come from conda: equal metrics."""
    shutil.copytree(
        REPO / "examples/digits", tmp_path / "digits", ignore=shutil.ignore_patterns(".reprobox", "*.keras")
    )
    folder = tmp_path / "digits"
    (folder / "environment.yml").write_text(
        "name: digits-conda\nchannels: [conda-forge]\ndependencies:\n  - python=3.11\n  - tensorflow-cpu\n"
        "  - scikit-learn\n  - pandas\n  - joblib\n"
    )
    with serve(full_channel.root) as server:
        (folder / "reprobox.toml").write_text(f'[mirrors]\nconda = "{server.url()}"\n[run]\ninputs = ["data/"]\n')
        tool = Tool(folder)
        tool("lock", "--json")
        assert "wheels: []" in (folder / "reprobox.lock").read_text()
        trained = tool("run", "--json", "train.py").document
        evaluated = tool("eval", "--json", "evaluate.py").document
    assert all(row["equal"] for row in evaluated["comparison"])
    assert trained["metrics"]["accuracy"] > 0.9
