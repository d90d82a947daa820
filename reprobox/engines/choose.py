"""Which engine is there.

Asked in this order: `--engine`, the environment's `REPROBOX_ENGINE`, `engine` in reprobox.toml; else Docker where
`DOCKER_HOST` names one; else the first that answers of Docker, Podman, charliecloud.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from reprobox.engines.base import Engine
from reprobox.errors import EngineMissing, UsageError

ORDER = ("docker", "podman", "charliecloud")


def connect_engine(environ: Mapping[str, str], *, asked: str | None, store: Path) -> Engine:
    """Connect to a container engine of this machine.

    Args:
        environ: The process environment.
        asked: Name of the engine, or None for the first that answers.
        store: Folder for images and containers of engines that have no daemon to keep them.

    Raises:
        UsageError: No engine is called that.
        EngineMissing: None answers.
    """
    makers = _makers(environ, store)
    if asked is not None:
        if asked not in makers:
            raise UsageError(f"no engine is called {asked!r}", hint=f"one of {', '.join(ORDER)}")
        return makers[asked]()
    if environ.get("DOCKER_HOST"):
        return makers["docker"]()
    first: EngineMissing | None = None
    for name in ORDER:
        try:
            return makers[name]()
        except EngineMissing as error:
            # What Docker says is what most people can act on.
            first = first or error
    assert first is not None
    raise EngineMissing(
        f"{first.message}; Podman and charliecloud are not here either",
        hint=first.hint,
    )


def find_engines(environ: Mapping[str, str], *, store: Path) -> dict[str, Engine | EngineMissing]:
    """Find all engines of this machine, each by its name, or why it is not there."""
    found: dict[str, Engine | EngineMissing] = {}
    for name, make in _makers(environ, store).items():
        try:
            found[name] = make()
        except EngineMissing as error:
            found[name] = error
    return found


def _makers(environ: Mapping[str, str], store: Path) -> dict[str, Callable[[], Engine]]:
    def docker() -> Engine:
        from reprobox.engines.docker import DockerEngine

        return DockerEngine(environ)

    def podman() -> Engine:
        from reprobox.engines.podman import PodmanEngine

        return PodmanEngine(environ)

    def charliecloud() -> Engine:
        from reprobox.engines.charliecloud import CharliecloudEngine

        return CharliecloudEngine(environ, store / "charliecloud")

    return {"docker": docker, "podman": podman, "charliecloud": charliecloud}
