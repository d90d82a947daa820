"""What a lock was made from, as it notes it, and whether that is still what is asked for. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reprobox.env.channels import name_channel
from reprobox.env.lockfile import Lock, Requested
from reprobox.errors import LockStale

if TYPE_CHECKING:
    from reprobox.env.spec import EnvironmentSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What an environment stands on, beside its own file.

    Attributes:
        base: Name of the base.
        base_sha256: Digest of what that base asks for.
        base_is_own: Whether it is the project's own. A newer reprobox may bring one of its own in another state, which
            makes no lock stale.
        python: Where reprobox.toml says that the interpreter comes from, or "auto".
    """

    base: str
    base_sha256: str = ""
    base_is_own: bool = True
    python: str = "auto"

    def list_changes(self, then: Requested) -> list[str]:
        """List in sentences what differs from what a lock was made on."""
        findings = []
        if self.base != then.base:
            findings.append(f"reprobox.toml: base {self.base} is asked for, the lock was made for {then.base}")
        elif self.base_is_own and then.base_sha256 not in ("", self.base_sha256):
            findings.append(f"dockerfiles/{self.base} is not what the lock was made on")
        if self.python != then.python:
            words = {"auto": "nothing", "base": '"base"', "conda": '"conda"'}
            findings.append(
                f"reprobox.toml: python is {words[self.python]}, when the lock was made it was "
                f"{words.get(then.python, then.python)}"
            )
        return findings


def render_requested(spec: EnvironmentSpec, *, ground: Ground) -> Requested:
    """Render what a specification asks for, as a lock notes it."""
    return Requested(
        sha256=spec.sha256,
        base=ground.base,
        base_sha256=ground.base_sha256,
        python=ground.python,
        channels=tuple(name_channel(channel) for channel in spec.channels),
        conda=tuple(sorted(text for text, _ in _conda_texts(spec))),
        wheels=tuple(sorted(text for text, _ in _wheel_texts(spec))),
        others=list_others(spec),
    )


def list_others(spec: EnvironmentSpec) -> tuple[str, ...]:
    """List references and options of a specification as a lock notes them, sorted."""
    return tuple(sorted(text for text, _ in _others(spec)))


def _conda_texts(spec: EnvironmentSpec) -> list[tuple[str, int]]:
    """What conda is asked for, each with its line; a channel that is given by its URL is named without its host."""
    return [(f"{name_channel(r.channel)}::{r.text}" if r.channel else r.text, r.line) for r in spec.conda]


def _wheel_texts(spec: EnvironmentSpec) -> list[tuple[str, int]]:
    """What the index is asked for, under normalised names, each with its line."""
    rows = [(re.sub(r"^[A-Za-z0-9._-]+", wheel.name, wheel.text), wheel) for wheel in spec.wheels]
    return [("".join([text, *(f" sha256:{digest}" for digest in sorted(w.sha256s))]), w.line) for text, w in rows]


def _others(spec: EnvironmentSpec) -> list[tuple[str, int]]:
    """References and options, each in one line without a host, with their lines in the file."""
    rows: list[tuple[list[str | None], int]] = []
    for r in spec.references:
        name = f"{r.name or ''}[{','.join(r.extras)}]" if r.extras else r.name
        words = ["editable" if r.editable else None, r.kind, name, _hide(r.address), r.revision]
        rows.append(([*words, r.subdirectory, r.sha256 and f"sha256:{r.sha256}"], r.line))
    rows += [([option.kind, _hide(option.value)], option.line) for option in spec.options]
    return [(" ".join(filter(None, words)), line) for words, line in rows]


def _hide(address: str) -> str:
    """Give a path of the project as it is, and an address as a digest: a lock names no host and no machine's folder."""
    own = "://" not in address and not re.match(r"[/~]|[^/\s]*@[^/\s]*:", address)
    return address if own else hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def require_fresh(lock: Lock, spec: EnvironmentSpec, *, ground: Ground, source: str, command: str) -> None:
    """Require that a lock was made from what the environment file holds now.

    Args:
        lock: The lock.
        spec: The environment file, parsed.
        ground: What the project has it stand on.
        source: The lock's name, for messages.
        command: The command that would lock again.

    Raises:
        LockStale: Something differs; names every line that does.
    """
    now = render_requested(spec, ground=ground)
    then = lock.requested
    # A bare python is in every environment, and where conda takes no part a bare pip asks for nothing.
    nothing = {"python"} if lock.python_from == "conda" else {"python", "pip"}
    asked, locked = (set(part.conda) - nothing for part in (now, then))
    lines = {text: line for text, line in _conda_texts(spec) if text in asked}
    findings = [f"{spec.source}:{lines[text]}: {text} is not in the lock" for text in sorted(asked - locked)]
    gone = sorted(locked - asked)
    for rows, part in ((_wheel_texts(spec), then.wheels), (_others(spec), then.others)):
        findings += [
            f"{spec.source}:{line}: {text} is not in the lock" for text, line in sorted(rows) if text not in part
        ]
        gone += [text for text in part if text not in dict(rows)]
    findings += [f"{source}: {text} is no longer in {spec.source}" for text in gone]
    if lock.python_from == "conda" and now.channels != then.channels:
        findings.append(
            f"{spec.source}: channels are {', '.join(now.channels) or '(none)'}, "
            f"the lock was made with {', '.join(then.channels) or '(none)'}"
        )
    findings += ground.list_changes(then)
    if tuple(sorted(spec.variables)) != lock.variables:
        findings.append(f"{spec.source}: `variables:` differ from those in the lock")
    if findings:
        raise LockStale(f"{source} does not match {spec.source}:\n  " + "\n  ".join(findings), hint=command)
