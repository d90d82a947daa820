"""Which engine is there."""

from __future__ import annotations

from collections.abc import Mapping

from reprobox.engines.base import Engine
from reprobox.engines.docker import DockerEngine


def connect_engine(environ: Mapping[str, str]) -> Engine:
    """Connect to the container engine of this machine.

    Args:
        environ: The process environment; `DOCKER_HOST` names another than the default one.

    Raises:
        EngineMissing: None answers.
    """
    return DockerEngine(environ)
