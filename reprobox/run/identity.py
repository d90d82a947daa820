"""As whom a container runs, and whether that is the caller in the eyes of the file system."""

from __future__ import annotations

import os
from dataclasses import dataclass

from reprobox.engines.base import EngineInfo
from reprobox.image.debian import USER_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The user of a container.

    Attributes:
        number: Its user and group id inside.
        is_caller: Whether what it makes belongs to the caller, and what the caller may read it may read.
    """

    number: int
    is_caller: bool

    @property
    def user(self) -> str:
        """As a request names it."""
        return f"{self.number}:{self.number}"


def choose_identity(info: EngineInfo) -> Identity:
    """Choose as whom containers of an engine run: as the caller where that can be, and never as root of the machine."""
    match info.caller:
        case "root":
            return Identity(number=0, is_caller=True)
        case "any":
            return Identity(number=USER_ID, is_caller=True)
        case "same":
            caller = os.geteuid()
            return Identity(number=caller or USER_ID, is_caller=caller != 0)
