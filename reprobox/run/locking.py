"""Bring an environment file to a lock, and tell whether a lock still is what its environment file asks for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from reprobox.env.base_files import digest_found_base
from reprobox.env.bases import DEFAULT_PLATFORM
from reprobox.env.client import Client, load_channel_places
from reprobox.env.documents import decode_text
from reprobox.env.freshness import Ground, require_fresh
from reprobox.env.lockfile import Lock, parse_lock, render_lock
from reprobox.env.pinned import digest_pinned, find_pinned_kind, parse_pinned
from reprobox.env.project import EnvironmentEntry, Project, lock_name
from reprobox.errors import EnvironmentInvalid, IndexUnreachable, LockStale
from reprobox.run.base import Tools, load_locked_base
from reprobox.run.building import Resolver, build_pinned, resolve_building
from reprobox.run.link_scripts import run_link_scripts
from reprobox.run.resolve import LockOptions, client_for, client_of_pinned, resolve_pinned

if TYPE_CHECKING:
    from reprobox.env.spec import EnvironmentSpec


def lock_command(entry: EnvironmentEntry) -> str:
    """The command that locks an environment again."""
    return f"reprobox lock {entry.argument}".rstrip()


def list_lock_digests(project: Project) -> list[str]:
    """List the digests of all locks that a project holds; one that cannot be read is left out."""
    files = {entry.lock for entry in project.environments.values()}
    files |= {*project.root.glob("reprobox*.lock"), *project.root.glob("envs/*/reprobox*.lock")}
    found = []
    for file in sorted(files):
        try:
            found.append(str(parse_lock(file.read_text(encoding="utf-8"), source=str(file)).digest))
        except (OSError, UnicodeDecodeError, EnvironmentInvalid):
            continue
    return found


def load_ground(entry: EnvironmentEntry, project: Project) -> Ground:
    """Load what an environment stands on, beside its own file.

    Raises:
        EnvironmentInvalid: Its base is none, or broken.
    """
    digest, is_own = digest_found_base(entry.base, project.root)
    return Ground(base=entry.base, base_sha256=digest, base_is_own=is_own, python=entry.python)


def load_spec(
    entry: EnvironmentEntry, project: Project | None, platform: str = DEFAULT_PLATFORM
) -> EnvironmentSpec | None:
    """Load the environment file; None where there is only a lock, or it is the lockfile of another tool.

    Raises:
        EnvironmentInvalid: It is broken.
    """
    text, source = _read_source(entry, project)
    return None if text is None or find_pinned_kind(source, text) else _parse(text, source, entry, platform)


def _read_source(entry: EnvironmentEntry, project: Project | None) -> tuple[str | None, str]:
    """Read the environment file: its text, or None where there is none, and its name for messages."""
    source = _shown(entry.environment, project)
    try:
        return decode_text(entry.environment.read_bytes(), source=source), source
    except FileNotFoundError:
        return None, source
    except OSError as error:
        raise EnvironmentInvalid(f"{entry.environment}: cannot be read: {error}") from None


def _include(entry: EnvironmentEntry) -> Callable[[str], str | None]:
    def include(name: str) -> str | None:
        file = entry.environment.parent / name
        try:
            return decode_text(file.read_bytes(), source=name)
        except OSError:
            return None

    return include


def _parse(text: str, source: str, entry: EnvironmentEntry, platform: str = DEFAULT_PLATFORM) -> EnvironmentSpec:
    from reprobox.env.spec import parse_environment

    return parse_environment(text, source=source, platform=platform, include=_include(entry))


def _text_digest(file: Path) -> str | None:
    try:
        text = decode_text(file.read_bytes(), source=file.name)
    except (OSError, EnvironmentInvalid):
        return None
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _shown(path: Path, project: Project | None) -> str:
    if project is not None and path.is_relative_to(project.root):
        return str(path.relative_to(project.root))
    return str(path)


def load_fresh_lock(entry: EnvironmentEntry, project: Project) -> Lock | None:
    """Load the lock of an environment and require that it matches the environment file.

    Returns:
        The lock, or None where there is none yet.

    Raises:
        EnvironmentInvalid: Lock or environment file is broken.
        LockStale: The lock was made from something else.
    """
    try:
        text = entry.lock.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentInvalid(f"{entry.lock}: cannot be read: {error}", hint=lock_command(entry)) from None
    source = _shown(entry.lock, project)
    lock = parse_lock(text, source=source)
    if not entry.environment.is_file():
        # Whoever has the lock alone takes it as it is.
        return lock
    ground = load_ground(entry, project)
    changes = ground.list_changes(lock.requested)
    if not changes and lock.requested.sha256 == _text_digest(entry.environment):
        return lock
    spec = load_spec(entry, project, lock.platform)
    if spec is not None:
        require_fresh(lock, spec, ground=ground, source=source, command=lock_command(entry))
        return lock
    if lock.requested.sha256 != _load_pinned_digest(entry, lock.platform):
        changes.append(f"it was made from another {entry.environment.name} than is there now")
    if changes:
        raise LockStale(f"{source} is out of date:\n  " + "\n  ".join(changes), hint=lock_command(entry))
    return lock


def _load_pinned_digest(entry: EnvironmentEntry, platform: str) -> str:
    """Digest the lockfile of another tool, with the files that it includes."""
    text, source = _read_source(entry, None)
    return digest_pinned(parse_pinned(text or "", source=source, platform=platform, include=_include(entry)))


def make_lock(
    entry: EnvironmentEntry,
    project: Project,
    client: Client,
    options: LockOptions | None = None,
    *,
    tools: Tools,
) -> Lock:
    """Resolve an environment and write its lock. Versions that the old lock holds are kept where they still fit.

    Args:
        entry: Which environment.
        project: Whose.
        client: How indexes are reached.
        options: What may move, and what the target has.
        tools: For a base that must be built once, and for projects that have no wheel.

    Raises:
        UsageError: An option makes no sense.
        EnvironmentInvalid: The file is missing, broken, or asks for what this version cannot provide.
        NoSolution: It cannot be resolved.
        IndexUnreachable: An index did not answer.
    """
    options = options or LockOptions()
    options.require_sense()
    entry = replace(entry, lock=entry.lock.with_name(lock_name(options.platform)))
    text, source = _read_source(entry, project)
    if text is None:
        raise EnvironmentInvalid(f"{source} does not exist", hint="write it, or name another environment")
    base = load_locked_base(
        entry.base, project, client, connect=tools.connect, platform=options.platform, anew=options.upgrade_base
    )
    old = _load_old_lock(entry)
    ground = load_ground(entry, project)
    if find_pinned_kind(source, text):
        lock, orders = resolve_pinned(text, source, base, client, options, ground, _include(entry), tools.say)
        lock = build_pinned(lock, orders, entry, find_addresses(entry, client), tools=tools, old=old)
    else:
        spec = _parse(text, source, entry, options.platform)
        for note in spec.notes:
            tools.say(f"note: {source}:{note.line}: {note.message}")
        resolver = Resolver(
            entry=entry,
            base=base,
            client=client_for(spec, client, folder=entry.environment.parent),
            options=options,
            old=None if options.upgrade_all else old,
            ground=ground,
        )
        lock = resolve_building(spec, resolver, tools=tools, root=project.root)
    allowed = options.link_scripts
    if allowed is None:
        allowed = old is not None and old.requested.link_scripts
    if allowed:
        lock = replace(lock, requested=replace(lock.requested, link_scripts=True))
        addresses = find_addresses(entry, client)
        lock = replace(lock, linked=run_link_scripts(lock, entry, addresses, tools=tools, old=old))
    rendered = render_lock(lock)
    # What is written is read back first: a lock that no build would take is no lock.
    parse_lock(rendered, source=_shown(entry.lock, project))
    if not entry.lock.is_file() or entry.lock.read_text(encoding="utf-8", errors="replace") != rendered:
        aside = entry.lock.with_name(f".{entry.lock.name}.new")
        aside.write_text(rendered, encoding="utf-8")
        aside.replace(entry.lock)
    return lock


def _load_old_lock(entry: EnvironmentEntry) -> Lock | None:
    if not entry.lock.is_file():
        return None
    try:
        return parse_lock(entry.lock.read_text(encoding="utf-8"), source=str(entry.lock), any_format=True)
    except (EnvironmentInvalid, UnicodeDecodeError):
        return None


def find_addresses(entry: EnvironmentEntry, client: Client) -> Client:
    """Find the addresses that the environment file itself names, where there is one that can be read."""
    client = replace(client, beside=entry.lock.parent)
    try:
        text, source = _read_source(entry, None)
        if text is None:
            return client
        if find_pinned_kind(source, text):
            return client_of_pinned(parse_pinned(text, source=source, include=_include(entry)), client)
        return client_for(_parse(text, source, entry), client, folder=entry.environment.parent)
    except EnvironmentInvalid:
        return client


def load_addresses(lock: Lock, entry: EnvironmentEntry, client: Client) -> dict[str, str]:
    """Ask where a lock's packages are for this client.

    Returns:
        File name → URL, of conda packages and wheels.

    Raises:
        IndexUnreachable: An index did not answer, or no longer has a wheel.
    """
    from reprobox.env.solve_wheels import locate_wheels

    client = find_addresses(entry, client)
    places = load_channel_places(client)
    found = {p.file: f"{places.find_url(p.channel)}/{p.subdir}/{p.file}" for p in lock.conda}
    glibc = dict(lock.virtual_packages)["__glibc"]
    published = [wheel for wheel in lock.wheels if wheel.built_from is None]
    found |= locate_wheels(published, python=lock.python, glibc=glibc, platform=lock.platform, client=client)
    for wheel in lock.wheels:
        if wheel.file not in found:
            raise IndexUnreachable(
                f"{wheel.file} is locked, but the index no longer has it under that name",
                hint=f"lock again: {lock_command(entry)} --upgrade {wheel.name}",
            )
    return found
