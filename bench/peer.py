"""The other side: the same wheels by `pip install --require-hashes` in a Dockerfile.

There may be no image registry, so the image that it starts from is made from Debian packages, in the manner of the
small official Python images: a minimal system, its Python, a virtual environment and pip. That is not measured.
What pip needs to reach the index (address, proxy, certificates) is what pip is configured with on this machine; it is
handed over as build arguments, which stay in the history of images that the bench removes when it ends.
"""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from commands import BenchError, Cost, run_command
from engine import BENCH_LABEL, MARK, Engine

IMAGE = f"{MARK}/pip:committed"
CHANGED_IMAGE = f"{MARK}/pip:changed"
PYTHON = "/opt/env/bin/python"
_SYSTEM = f"{MARK}/system:bookworm"
_BASE = f"{MARK}/base:bookworm"
_REQUIREMENTS_LABEL = "org.reprobox.bench.requirements"
_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "default-timeout", "timeout", "retries", "proxy")
_LEFT_OUT = ("usr/share/doc/*", "usr/share/locale/*", "usr/share/man/*", "usr/share/info/*", "var/cache/apt/*")

_BASE_DOCKERFILE = f"""\
FROM {_SYSTEM}
ENV PATH=/opt/env/bin:/usr/local/bin:/usr/bin:/bin PIP_CERT={_BUNDLE}
{{arguments}}
RUN : {MARK}; python3 -m venv /opt/env && pip install --no-cache-dir --upgrade '{{pip}}'
"""
DOCKERFILE = f"""\
FROM {_BASE}
{{arguments}}
COPY requirements.txt /{MARK}/requirements.txt
RUN pip install --no-cache-dir --require-hashes -r /{MARK}/requirements.txt
"""


def render_requirements(wheels: Sequence[Mapping[str, Any]]) -> str:
    """Render a lock's wheels as a requirements file that takes exactly these. Pure."""
    return "".join(f"{wheel['name']}=={wheel['version']} --hash=sha256:{wheel['sha256']}\n" for wheel in wheels)


def parse_pip_settings(text: str) -> dict[str, str]:
    """Parse what `pip config list` prints into environment variables for a pip elsewhere. Pure.

    Left out is what means nothing in a container: folders and files of this machine.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        name = key.rpartition(".")[2]
        if not separator or name not in _PIP_SETTINGS:
            continue
        try:
            words = str(ast.literal_eval(value)).split()
        except (ValueError, SyntaxError):
            words = value.split()
        words = [word for word in words if not word.startswith(("/", "file:"))]
        if words:
            found["PIP_" + name.upper().replace("-", "_")] = " ".join(words)
    return found


def find_docker(environ: Mapping[str, str]) -> tuple[str, dict[str, str], str]:
    """Find a client that builds with BuildKit, which is the faster builder; the ordinary one where there is none.

    Returns:
        Its path, what to add to its environment, and a few words about it.

    Raises:
        BenchError: There is no client.
    """
    folders = environ.get("PATH", "").split(os.pathsep)
    clients = [path for folder in folders if (path := shutil.which("docker", path=folder))]
    if not clients:
        raise BenchError("there is no `docker` client to measure beside; on Debian: apt-get install docker.io")
    for client in clients if environ.get("DOCKER_BUILDKIT") != "0" else ():
        version = _ask([client, "version", "--format", "{{.Client.Version}}"], environ)
        if _ask([client, "buildx", "version"], environ) or (version and int(version.split(".")[0]) < 23):
            return client, {"DOCKER_BUILDKIT": "1"}, f"BuildKit, client {version}"
    version = _ask([clients[0], "version", "--format", "{{.Client.Version}}"], environ)
    return clients[0], {"DOCKER_BUILDKIT": "0"}, f"classic builder, client {version}"


def _ask(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    done = subprocess.run(list(argv), capture_output=True, text=True, check=False, env=dict(environ))
    return done.stdout.strip() if done.returncode == 0 else ""


def _succeeds(argv: Sequence[str]) -> bool:
    return shutil.which(argv[0]) is not None and subprocess.run(argv, capture_output=True, check=False).returncode == 0


class Peer:
    """The Dockerfile and what is built from it.

    Args:
        folder: Where build contexts are written.
        engine: Where images are built.
        environ: The process environment.
        pip: Which pip the image has, as pip itself takes it: "pip" for the newest, or "pip==24.0".
    """

    def __init__(self, folder: Path, *, engine: Engine, environ: Mapping[str, str], pip: str = "pip") -> None:
        self._folder = folder
        self._engine = engine
        self._pip = pip
        self.docker, extra, self.builder = find_docker(environ)
        self._environ = {**environ, **extra}
        self._arguments = {name: environ[name] for name in _PROXIES if name in environ}
        settings = parse_pip_settings(_ask([sys.executable, "-m", "pip", "config", "list"], environ))
        for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
            if name in environ:
                settings.setdefault("PIP_INDEX_URL", environ[name])
        self._arguments |= settings

    def make_base(self) -> str:
        """Have the image that the Dockerfile starts from; not measured.

        Returns:
            What pip in it is, for people.

        Raises:
            BenchError: It cannot be made on this machine.
        """
        label = self._engine.find_image(_BASE)
        if label is None or label["Config"]["Labels"].get(BENCH_LABEL) != self._pip:
            if self._engine.find_image(_SYSTEM) is None:
                self._import_system()
            text = _BASE_DOCKERFILE.format(arguments=self._render_arguments(), pip=self._pip)
            context = self._write_context("base", text, "")
            self._build(context, _BASE, labels={BENCH_LABEL: self._pip})
        argv = [self.docker, "run", "--rm", "--label", BENCH_LABEL, "--network", "none", _BASE, "pip", "--version"]
        return " ".join(run_command(argv, environ=self._environ).stdout.split()[:2])

    def _import_system(self) -> None:
        if shutil.which("debootstrap") is None:
            installer = Path(__file__).resolve().parent.parent / "scripts" / "apt-install.sh"
            if os.geteuid() != 0 or shutil.which("apt-get") is None:
                raise BenchError("debootstrap is missing; on Debian, as root: apt-get install debootstrap")
            run_command([str(installer), "debootstrap", "debian-archive-keyring"], environ=self._environ)
        from reprobox.env.client import Client, find_debian_mirrors

        mirror = find_debian_mirrors(Client(environ=self._environ, cache=self._folder))[0]
        root = self._folder / "system"
        shutil.rmtree(root, ignore_errors=True)
        include = "--include=python3.11,python3-venv,ca-certificates"
        argv = ["debootstrap", "--variant=minbase", include, "bookworm", str(root), mirror]
        # What it mounts goes with it, should it be interrupted: nothing of this machine may hang below that folder.
        apart = ["unshare", "--mount"] if _succeeds(["unshare", "--mount", "true"]) else []
        run_command([*apart, *argv], environ={**self._environ, "LC_ALL": "C.UTF-8"})
        shutil.copyfile(_host_bundle(self._environ), root / _BUNDLE.lstrip("/"))
        tar = ["tar", "-C", str(root), "--numeric-owner", "--one-file-system"]
        tar += [f"--exclude=./{pattern}" for pattern in (*_LEFT_OUT, "var/lib/apt/lists/*")]
        archive = self._folder / "system.tar"
        run_command([*tar, "-cf", str(archive), "."], environ=self._environ)
        change = ["--change", f"LABEL {BENCH_LABEL}=system"]
        run_command([self.docker, "import", *change, str(archive), _SYSTEM], environ=self._environ)
        archive.unlink()
        shutil.rmtree(root)

    def build(self, requirements: str, name: str, *, fresh: bool) -> Cost:
        """Build the Dockerfile.

        Args:
            requirements: Text of the requirements file.
            name: What to call the image.
            fresh: Take nothing from builds before.
        """
        text = DOCKERFILE.format(arguments=self._render_arguments())
        context = self._write_context("pip", text, requirements)
        labels = {_REQUIREMENTS_LABEL: hashlib.sha256((text + requirements).encode()).hexdigest()}
        return self._build(context, name, labels=labels, options=("--no-cache",) if fresh else ())

    def find_built(self, requirements: str) -> bool:
        """Whether the engine still holds what these requirements were built to."""
        text = DOCKERFILE.format(arguments=self._render_arguments())
        found = self._engine.find_image(IMAGE)
        wanted = hashlib.sha256((text + requirements).encode()).hexdigest()
        return found is not None and (found["Config"]["Labels"] or {}).get(_REQUIREMENTS_LABEL) == wanted

    def remove(self, name: str) -> None:
        """Remove a built image; what BuildKit keeps of it is pruned apart."""
        self._engine.remove_image(name)

    def _build(self, context: Path, name: str, *, labels: Mapping[str, str], options: Sequence[str] = ()) -> Cost:
        argv = [self.docker, "build", "--network", "host", "--force-rm", "--tag", name, *options]
        for key, value in labels.items():
            argv += ["--label", f"{key}={value}"]
        for key in self._arguments:
            argv += ["--build-arg", key]
        # Values are taken from the environment, so that no command line shows them.
        return run_command([*argv, str(context)], environ={**self._environ, **self._arguments})

    def _render_arguments(self) -> str:
        return "\n".join(f"ARG {key}" for key in self._arguments if key not in _PROXIES)

    def _write_context(self, name: str, dockerfile: str, requirements: str) -> Path:
        context = self._folder / name
        context.mkdir(parents=True, exist_ok=True)
        (context / "Dockerfile").write_text(dockerfile, encoding="utf-8")
        (context / "requirements.txt").write_text(requirements, encoding="utf-8")
        return context


def _host_bundle(environ: Mapping[str, str]) -> Path:
    """The certificates that programs on this machine trust; behind an inspecting proxy its own is among them."""
    named = [environ.get(name) for name in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")]
    for path in (*named, _BUNDLE, ssl.get_default_verify_paths().cafile):
        if path and Path(path).is_file():
            return Path(path)
    raise BenchError("no bundle of certificates was found; name one in SSL_CERT_FILE")
