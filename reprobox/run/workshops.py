"""Containers that make something for a lock, whose output matters only where they fail."""

from __future__ import annotations

from reprobox.engines.base import Collected, ContainerRequest, Engine

_SHOWN_LINES = 12


def run_to_end(engine: Engine, request: ContainerRequest) -> tuple[int, list[str]]:
    """Run a container until it ends, and remove it; an interrupt ends it first.

    Returns:
        Its exit code, and the last lines that it printed.

    Raises:
        EngineRefused: It could not be started.
    """
    printed = Collected()
    container = engine.start(request, stdout=printed, stderr=printed)
    try:
        ended = container.wait()
    except KeyboardInterrupt:
        container.stop(grace_s=1)
        raise
    finally:
        container.remove()
    return ended.exit_code, bytes(printed.data).decode("utf-8", "replace").strip().splitlines()[-_SHOWN_LINES:]
