"""Every exception of reprobox, each with its exit code.

    ReproboxError                     1   a bug of ours, if raised as such
    ├── UsageError                    2   the command line makes no sense
    ├── EnvironmentInvalid            3   environment file, project file or lock invalid
    │   └── LockStale                 3   the lock was made from other requirements
    ├── ResolutionError               4
    │   ├── NoSolution                4   the requirements cannot be met together, or a name is unknown
    │   │   └── NoWheel               4   a project is published as source alone
    │   └── IndexUnreachable          4   the index or mirror did not answer
    ├── AcceleratorError              5   CUDA or the driver cannot run this
    ├── BuildError                    6   the image could not be built
    ├── EngineError                   7
    │   ├── EngineMissing             7   no container engine answers
    │   └── EngineRefused             7   the engine answered with an error
    ├── CommandFailed                 8   the user's own command failed
    ├── SchedulerError                9   the scheduler refused
    ├── NotReproduced                10   something differs that should be equal
    ├── RecordError                  11   a record or artefact is unreadable, altered or incomplete
    │   ├── RecordNotFound           11   no such run
    │   ├── ArtefactAltered          11   bytes do not hash to what was recorded or locked
    │   └── ContentRefused           11   a file is in order, but holds what no content digest covers
    ├── NoVerdict                    12   `why` cannot tell
    └── Interrupted                 130   stopped by SIGINT or SIGTERM (128 + 2, as shells report it)

The command line is the only place that catches these: it prints `error: <message>`, a blank line, `hint: <hint>`,
and exits with `exit_code`. Nothing else may exit the process.
"""

from __future__ import annotations

import os
from typing import ClassVar


class ReproboxError(Exception):
    """Base of all errors that reprobox raises on purpose.

    Args:
        message: What happened and where, naming the offending object. May have several lines.
        hint: One command or edit that helps, or None.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(ReproboxError):
    """The command line makes no sense."""

    exit_code = 2


class EnvironmentInvalid(ReproboxError):
    """An environment file, project file or lock is invalid or not supported."""

    exit_code = 3


class LockStale(EnvironmentInvalid):
    """The lock was made from other requirements than the environment file now holds."""


class ResolutionError(ReproboxError):
    """Requirements could not be turned into packages."""

    exit_code = 4


class NoSolution(ResolutionError):
    """The requirements cannot be met together, or name something unknown."""


class NoWheel(NoSolution):
    """A project is published as source alone.

    Args:
        message: As for all errors.
        project: Its name.
        version: The version asked for, or None for any.
        hint: As for all errors.
    """

    def __init__(self, message: str, *, project: str, version: str | None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.project = project
        self.version = version


class IndexUnreachable(ResolutionError):
    """An index or mirror did not answer."""


class AcceleratorError(ReproboxError):
    """The GPU, its driver or CUDA cannot do what was asked."""

    exit_code = 5


class BuildError(ReproboxError):
    """The image could not be built."""

    exit_code = 6


class EngineError(ReproboxError):
    """The container engine is missing, too old, or refused."""

    exit_code = 7


class EngineMissing(EngineError):
    """No container engine answers."""


class EngineRefused(EngineError):
    """The engine answered with an error."""


class CommandFailed(ReproboxError):
    """The user's own command failed; its exit code is in the record."""

    exit_code = 8


class SchedulerError(ReproboxError):
    """The batch scheduler refused."""

    exit_code = 9


class NotReproduced(ReproboxError):
    """Something differs that should be equal."""

    exit_code = 10


class RecordError(ReproboxError):
    """A record or an artefact is unreadable, altered or incomplete."""

    exit_code = 11


class RecordNotFound(RecordError):
    """There is no such run."""


class ArtefactAltered(RecordError):
    """Bytes do not hash to what was recorded or locked."""


class ContentRefused(RecordError):
    """The file is in order, but holds something that this reader does not read, so it has no content digest.

    Args:
        path: The file.
        reason: What it holds; a clause without the path.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: has no content digest: {reason}")
        self.path = os.fspath(path)
        self.reason = reason


class NoVerdict(ReproboxError):
    """`why` cannot tell what moved the metric."""

    exit_code = 12


class Interrupted(ReproboxError):
    """Stopped by a signal."""

    exit_code = 130
