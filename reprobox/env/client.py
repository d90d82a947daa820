"""The client's own configuration: where packages come from. Never part of a lock.

Asked in this order for Debian packages: `REPROBOX_DEBIAN_MIRROR`, `[mirrors] debian` in reprobox.toml, what apt is
configured with on this machine, what apt's own templates say of Debian. For wheels: `[mirrors] pypi`, else whatever
uv is configured with (its environment variables and configuration files, with their credentials).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobox.env.channels import ChannelPlaces, CondaConfiguration, merge_configurations, parse_condarc
from reprobox.env.pip_lines import PipOption
from reprobox.errors import IndexUnreachable

if TYPE_CHECKING:
    import rattler

_APT_TEMPLATES = (Path("/usr/share/python-apt/templates/Debian.info"), Path("/usr/share/debootstrap/scripts/sid"))


WHEELHOUSE = "wheels"
"""Folder beside a lock with the wheels that were built for it."""

LINKED = "linked"
"""Folder beside a lock with what scripts of conda packages wrote at link time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """How this machine reaches indexes and where it keeps what it fetched.

    Attributes:
        environ: The process environment, as the command line found it.
        cache: Folder of the cache; shared by all projects of a user.
        mirrors: The `[mirrors]` table of reprobox.toml.
        apt_templates: Files that may name Debian's own mirror.
        mirror: Folder that `reprobox mirror` made; asked before any network.
        beside: Folder of the lock, where what was made for it lies: `WHEELHOUSE` and `LINKED` below it.
        named_channels: URLs of conda channels that the environment file itself gives.
        pip_options: Options of pip that the environment file itself gives, such as further indexes.
    """

    environ: Mapping[str, str]
    cache: Path
    mirrors: Mapping[str, Any] = field(default_factory=dict)
    apt_templates: tuple[Path, ...] = _APT_TEMPLATES
    mirror: Path | None = None
    beside: Path | None = None
    named_channels: tuple[str, ...] = ()
    pip_options: tuple[PipOption, ...] = ()


def parse_index_targets(text: str) -> tuple[str, ...]:
    """Parse `apt-get indextargets` lines of the form URI|ORIGIN|CODENAME; archives of Debian only, in order."""
    found: dict[str, None] = {}
    for line in text.splitlines():
        uri, _, rest = line.partition("|")
        origin = rest.partition("|")[0]
        path = uri.rstrip("/")
        # Without downloaded lists apt knows no origin yet; an archive of Debian is told by its path then.
        if origin == "Debian" or (not origin and path.endswith("/debian")):
            found.setdefault(path)
    # The security archive is another tree; it is kept last because a suite's own files are not there.
    return tuple(sorted(found, key=lambda uri: uri.endswith("-security")))


def parse_template(text: str) -> str | None:
    """Parse the first Debian mirror out of a template of apt or a script of debootstrap."""
    found = re.search(r"^(?:BaseURI:|default_mirror)\s*(\S+)", text, re.MULTILINE)
    return found[1].rstrip("/") if found else None


def find_debian_mirrors(client: Client) -> tuple[str, ...]:
    """Find where Debian packages can be fetched on this machine.

    Returns:
        Root URLs of archives, best first; never empty.

    Raises:
        IndexUnreachable: None is configured.
    """
    explicit = client.environ.get("REPROBOX_DEBIAN_MIRROR") or client.mirrors.get("debian")
    if explicit:
        return (explicit.rstrip("/"),)
    mirrors = [*_ask_apt(client), *_read_templates(client.apt_templates)]
    if not mirrors:
        raise IndexUnreachable(
            "no Debian mirror is configured on this machine",
            hint='name one: set REPROBOX_DEBIAN_MIRROR, or write `debian = "URL"` under [mirrors] in reprobox.toml',
        )
    return tuple(dict.fromkeys(mirrors))


def make_conda_client(client: Client) -> rattler.Client:
    """Make py-rattler's client, which everything in a conda channel is fetched through.

    Its credentials are those of conda's and rattler's tools: `RATTLER_AUTH_FILE`, rattler's store, the keyring, netrc,
    and what stands in a mirror's own address.

    Raises:
        EnvironmentInvalid: A configuration file of conda is broken.
    """
    import rattler
    from rattler.config import Config

    verify = load_conda_configuration(client).verify
    config = Config.from_toml("tls-no-verify = true\n" if verify is False else "")
    return rattler.Client.from_config(config, max_retries=2)


def find_certificates(client: Client) -> str | None:
    """Find the bundle of certificate authorities that this machine's own configuration names; None for the usual one.

    Raises:
        EnvironmentInvalid: A configuration file of conda is broken.
    """
    named = (client.environ.get(name) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))
    verify = load_conda_configuration(client).verify
    return next(filter(None, named), None) or (verify if isinstance(verify, str) else None)


def load_channel_places(client: Client) -> ChannelPlaces:
    """Load where conda channels are: reprobox.toml, and conda's own configuration files, as far as there are any.

    Raises:
        EnvironmentInvalid: A configuration file of conda is broken.
    """
    configuration = load_conda_configuration(client)
    return ChannelPlaces(mirrors=client.mirrors, configuration=configuration, named=client.named_channels)


def load_conda_configuration(client: Client) -> CondaConfiguration:
    """Load what conda's own configuration files say, the strongest first.

    Raises:
        EnvironmentInvalid: One of them is broken.
    """
    home = client.environ.get("HOME", "/nonexistent")
    config = client.environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    named = client.environ.get("CONDARC")
    files = [named, f"{home}/.condarc", f"{home}/.conda/condarc", f"{config}/conda/condarc", "/etc/conda/condarc"]
    found = []
    for file in filter(None, files):
        try:
            text = Path(file).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        found.append(parse_condarc(text, source=file))
    alias = client.environ.get("CONDA_CHANNEL_ALIAS")
    if alias:
        found.insert(0, CondaConfiguration(alias=alias))
    return merge_configurations(found)


def _ask_apt(client: Client) -> tuple[str, ...]:
    apt = shutil.which("apt-get", path=client.environ.get("PATH"))
    if apt is None:
        return ()
    command = [apt, "indextargets", "--format", "$(REPO_URI)|$(ORIGIN)|$(CODENAME)", "Created-By: Packages"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(client.environ))
    except OSError:
        return ()
    return parse_index_targets(done.stdout)


def _read_templates(files: Iterable[Path]) -> list[str]:
    found = []
    for file in files:
        try:
            mirror = parse_template(file.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
        if mirror:
            found.append(mirror)
    return found
