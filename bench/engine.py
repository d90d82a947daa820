"""What the bench leaves in the engine, and takes out of it again. Nothing that others made is touched."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import docker
import docker.errors
import requests
from commands import BenchError

MARK = "reprobox-bench"
"""In the name of every image and in every RUN line of the bench's Dockerfiles; BuildKit tells it of what it keeps."""
BENCH_LABEL = "org.reprobox.bench"
"""On every image and container that the bench makes, except those of `reprobox` itself."""
LOCK_LABEL = "org.reprobox.lock"
"""On every image that reprobox makes."""
EngineFailure = (docker.errors.DockerException, requests.RequestException)
"""What the SDK raises when the engine refuses something or is gone."""


class Engine:
    """The Docker engine that `DOCKER_HOST`, or the default socket, leads to.

    Raises:
        BenchError: None answers.
    """

    def __init__(self) -> None:
        try:
            self._api: Any = docker.from_env(timeout=600).api
            self.version: str = self._api.version()["Version"]
            self.storage: str = self._api.info()["Driver"]
        except EngineFailure as error:
            raise BenchError(f"no engine answers ({error}); start it with scripts/ensure-engine.sh") from None
        self._foreign_cache = self.list_build_cache()

    def list_lowest_layers(self) -> set[str]:
        """The lowest layer of every image that it holds: what no cold build may begin with."""
        found = [self._api.inspect_image(image["Id"])["RootFS"].get("Layers") for image in self._api.images(all=True)]
        return {layers[0] for layers in found if layers}

    def find_image(self, name: str) -> dict[str, Any] | None:
        """What it says of an image; None where it has none of that name."""
        try:
            return dict(self._api.inspect_image(name))
        except docker.errors.ImageNotFound:
            return None

    def remove_image(self, name: str) -> None:
        """Remove an image and the unnamed ones below it, if it is there."""
        try:
            self._api.remove_image(name, force=True)
        except docker.errors.APIError:
            return

    def remove_labelled(self, label: str) -> None:
        """Remove all images with a label, however many names they have."""
        for _ in range(3):
            rows = self._api.images(all=True, filters={"label": label})
            for row in rows:
                self.remove_image(row["Id"])
            if not rows:
                return

    def remove_containers(self) -> None:
        """Remove containers that an interrupted measurement left."""
        for row in self._api.containers(all=True, filters={"label": BENCH_LABEL}):
            try:
                self._api.remove_container(row["Id"], force=True, v=True)
            except docker.errors.APIError:
                continue

    def list_build_cache(self) -> dict[str, str]:
        """Ids of what BuildKit keeps, and where each comes from; empty for an engine that has none."""
        return {row["ID"]: str(row.get("Description", "")) for row in self._api.df().get("BuildCache") or ()}

    def prune_build_cache(self, kept: Container[str] | None = None) -> None:
        """Drop what BuildKit keeps of the bench's builds.

        Args:
            kept: Ids that stay; by default what was there when the bench began, but for what an earlier bench left.
        """
        # A row goes only after those that were made from it, and the engine lists them in no order.
        for _ in range(10):
            found = self.list_build_cache()
            if kept is None:
                rows = [row for row, origin in found.items() if row not in self._foreign_cache or MARK in origin]
            else:
                rows = [row for row in found if row not in kept]
            for row in rows:
                try:
                    self._api.prune_builds(filters={"id": [row]}, all=True)
                except docker.errors.APIError:
                    continue
            if not rows:
                return
