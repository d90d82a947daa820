"""The `reprobox` command: its commands, and the one place where errors are caught."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from reprobox import __version__
from reprobox.cli import (
    attest_command,
    bundle_commands,
    compare_commands,
    digest_command,
    doctor_command,
    environment_commands,
    gc_command,
    registry_commands,
    run_commands,
)
from reprobox.cli.session import Session
from reprobox.errors import ReproboxError

# Typer carries a Click of its own in some versions and uses the installed one in others; its classes are met by name.
_ClickException: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

_INTERRUPTED = 130
_M_MMAP_THRESHOLD = -3
_MMAP_THRESHOLD_BYTES = 128 << 10

app = typer.Typer(
    name="reprobox",
    help="Pinned ML environments as bit-identical images; runs that are recorded and can be checked.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"reprobox {__version__}")
        raise typer.Exit


@app.callback()
def reprobox(
    context: typer.Context,
    directory: Annotated[
        str, typer.Option("--directory", "-C", metavar="DIR", help="Do everything as if started in DIR.")
    ] = ".",
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Pinned ML environments as bit-identical images; runs that are recorded and can be checked."""
    del version
    context.obj = Session(directory=directory, environ=dict(os.environ))


environment_commands.register(app)
registry_commands.register(app)
run_commands.register(app)
compare_commands.register(app)
attest_command.register(app)
digest_command.register(app)
bundle_commands.register(app)
doctor_command.register(app)
gc_command.register(app)


def main() -> NoReturn:
    """Run the command line and exit with the code that `reprobox.errors` gives."""
    signal.signal(signal.SIGTERM, _interrupt)
    _return_freed_memory()
    code = _run(sys.argv[1:])
    if "rattler" in sys.modules:
        # Its threads may still let go of Python's objects, which aborts an interpreter that is being taken down.
        _flush()
        os._exit(code)
    sys.exit(code)


def _return_freed_memory() -> None:
    """Have glibc give back what large buffers took, as it does until the first of them is freed.

    It then raises its threshold to that size, and the threads that unpack packages keep a heap each.
    Source: mallopt(3), M_MMAP_THRESHOLD.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _interrupt(number: int, frame: object) -> None:
    del number, frame
    raise KeyboardInterrupt


def _run(arguments: list[str]) -> int:
    wants_json = "--json" in arguments
    try:
        command = typer.main.get_command(app)
        result = command.main(args=arguments, prog_name="reprobox", standalone_mode=False)
        if result == _INTERRUPTED:
            # Typer turns Ctrl-C into this code by itself.
            _print_error("interrupted", None)
        return result if isinstance(result, int) else 0
    except ReproboxError as error:
        _print_error(error.message, error.hint)
        if wants_json and not getattr(error, "reported", False):
            from reprobox.report.documents import render_error

            print(json.dumps(render_error(error)))  # noqa: T201
        return error.exit_code
    except _ClickException as error:
        message: str = getattr(error, "format_message", error.__str__)()
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(message + "\n")
        else:
            path = getattr(getattr(error, "ctx", None), "command_path", "reprobox")
            _print_error(message, f"{path} --help")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        _print_error("interrupted", None)
        return _INTERRUPTED
    except (BrokenPipeError, SystemExit):
        # Whoever read our output has enough of it; Typer ends the process itself then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:  # noqa: BLE001 - the one catcher: what arrives here is a bug of ours, and is shown whole
        import traceback

        traceback.print_exc()
        _print_error(f"this is a bug in reprobox {__version__}", "please report it with the lines above")
        return 1


def _print_error(message: str, hint: str | None) -> None:
    progress = sys.modules.get("reprobox.cli.progress")
    if progress is not None:
        progress.close_progress()
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    word = "\x1b[31merror\x1b[0m" if colour else "error"
    sys.stderr.write(f"{word}: {message}\n")
    if hint:
        word = "\x1b[36mhint\x1b[0m" if colour else "hint"
        sys.stderr.write(f"\n{word}: {hint}\n")
    sys.stderr.flush()
