"""Conda channels: what one is called in a lock, and where it is for this client. Pure.

A lock names channels and never hosts. Where a channel is comes from, in this order: `[mirrors.channels]` in
reprobox.toml, the URL that the environment file itself gives, conda's own configuration files (`custom_channels`,
`channel_alias`, `default_channels`), `[mirrors] conda`, and what py-rattler takes for granted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reprobox.env.conda_specs import DEFAULTS
from reprobox.env.documents import parse_yaml
from reprobox.errors import EnvironmentInvalid

_DEFAULT_NAMES = ("main", "r")
"""What `defaults` stands for below an alias that serves those channels by their short names."""


def name_channel(channel: str) -> str:
    """Give a channel's name for a lock: of a URL its path without host, token and credentials.

    Args:
        channel: A name, or a URL without the platform's folder.
    """
    if "://" not in channel:
        return channel.strip("/")
    path = re.sub(r"^[^/]*/*", "", re.split(r"[?#]", channel.split("://", 1)[1], maxsplit=1)[0]).strip("/")
    path = re.sub(r"(^|/)t/[^/]+(?=/|$)", "", path).strip("/")
    if channel.startswith("file:"):
        path = path.rsplit("/", 1)[-1]
    parts = [re.sub(r"[^A-Za-z0-9_.-]", "-", part) for part in path.split("/") if part.strip(".")]
    return re.sub(r"^[^A-Za-z0-9]+", "", "/".join(parts)) or "channel"


def hide_credentials(text: str) -> str:
    """Give a text without the users, passwords and tokens of the URLs in it, for messages."""
    return re.sub(r"/t/[^/\s]+", "/t/<token>", re.sub(r"(://)[^/\s]*@", r"\1", text))


@dataclass(frozen=True, slots=True, kw_only=True)
class CondaConfiguration:
    """What conda's configuration files say of channels.

    Attributes:
        alias: URL that names are looked up below, or None.
        default_channels: URLs or names that `defaults` stands for.
        custom_channels: Name → URL.
        verify: False, True, or the path of a bundle of certificates; None where nothing is said.
    """

    alias: str | None = None
    default_channels: tuple[str, ...] = ()
    custom_channels: Mapping[str, str] = field(default_factory=dict)
    verify: str | bool | None = None


def parse_condarc(text: str, *, source: str) -> CondaConfiguration:
    """Parse the text of a `.condarc`.

    Raises:
        EnvironmentInvalid: It is not YAML, or a key has the wrong shape.
    """
    document = parse_yaml(text, source=source, hint=f"correct {source}") or {}
    if not isinstance(document, dict):
        raise EnvironmentInvalid(f"{source}: must be a mapping", hint=f"correct {source}")
    alias, defaults, custom = (
        document.get("channel_alias"),
        document.get("default_channels") or [],
        document.get("custom_channels") or {},
    )
    if not isinstance(alias, str | None) or not isinstance(defaults, list) or not isinstance(custom, dict):
        raise EnvironmentInvalid(f"{source}: channels are not written as conda takes them", hint=f"correct {source}")
    verify = document.get("ssl_verify")
    return CondaConfiguration(
        alias=alias,
        default_channels=tuple(map(str, defaults)),
        # conda writes the URL without the channel's own name.
        custom_channels={str(name): f"{str(url).rstrip('/')}/{name}" for name, url in custom.items()},
        verify=verify if isinstance(verify, str | bool) else None,
    )


def merge_configurations(found: Iterable[CondaConfiguration]) -> CondaConfiguration:
    """Merge configurations, the strongest first."""
    parts = list(found)
    return CondaConfiguration(
        alias=next((part.alias for part in parts if part.alias), None),
        default_channels=next((part.default_channels for part in parts if part.default_channels), ()),
        custom_channels={name: url for part in reversed(parts) for name, url in part.custom_channels.items()},
        verify=next((part.verify for part in parts if part.verify is not None), None),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelPlaces:
    """Where channels are, for one client and one environment.

    Attributes:
        mirrors: The `[mirrors]` table: "conda" → URL of an alias, "channels" → name → URL.
        configuration: What conda's own files say.
        named: URLs that the environment file itself gives.
    """

    mirrors: Mapping[str, Any] = field(default_factory=dict)
    configuration: CondaConfiguration = field(default_factory=CondaConfiguration)
    named: tuple[str, ...] = ()

    def expand(self, channels: Iterable[str]) -> tuple[str, ...]:
        """Expand `defaults` into the channels that it stands for here; order kept, each once."""
        names: dict[str, None] = {}
        for channel in channels:
            if channel == DEFAULTS and DEFAULTS not in self._mirrored():
                names |= dict.fromkeys(self.configuration.default_channels or _DEFAULT_NAMES)
            else:
                names.setdefault(channel)
        return tuple(names)

    def find_url(self, channel: str) -> str:
        """Find where a channel is.

        Args:
            channel: A URL, or a name as a lock holds it.

        Returns:
            Its URL, without a trailing slash.
        """
        name = name_channel(channel)
        known = {name_channel(url): url for url in (*self.configuration.default_channels, *self.named) if "://" in url}
        alias = self.mirrors.get("conda") or self.configuration.alias
        if name in self._mirrored():
            url = str(self._mirrored()[name])
        elif "://" in channel:
            url = channel
        elif name in known:
            url = known[name]
        elif name in self.configuration.custom_channels:
            url = self.configuration.custom_channels[name]
        elif alias:
            url = f"{str(alias).rstrip('/')}/{name}"
        else:
            from rattler import Channel

            url = Channel(name.removeprefix("pkgs/")).base_url
        return url.rstrip("/")

    def name_of(self, url: str) -> str:
        """Name the channel that a URL of a record belongs to: a mirror is named as what it mirrors."""
        url = url.rstrip("/")
        for name, mirror in self._mirrored().items():
            if str(mirror).rstrip("/") == url:
                return str(name)
        for name, place in self.configuration.custom_channels.items():
            if place.rstrip("/") == url:
                return name
        for alias in (self.mirrors.get("conda"), self.configuration.alias):
            if alias and url.startswith(str(alias).rstrip("/") + "/"):
                return url[len(str(alias).rstrip("/")) + 1 :]
        return name_channel(url)

    def _mirrored(self) -> Mapping[str, Any]:
        table = self.mirrors.get("channels", {})
        return table if isinstance(table, Mapping) else {}
