"""Runs a command and turns every way it may end into an exit code and a message on the error stream.

0: done. 1: ``check`` found an error in a study, a trial or a followed job failed, or something unexpected happened.
2: a mistake to mend, in the command line, in a study that was to run, or in a cluster file. 130 and 143: ended by
Ctrl-C and by SIGTERM. STEADYTUNE_DEBUG=1 shows tracebacks.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

import typer

from cluster.connect import unwrapped
from sweeps.cli.app import app

INTERRUPTED = "interrupted: run the same command again to continue"


class Terminated(BaseException):
    """SIGTERM, raised where the main thread is, so that ``finally`` blocks run."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and exit: 0 done, 2 a mistake to mend, 1 a failure, 130 and 143 interrupted."""
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        code = guarded(lambda: app(args=arguments, prog_name="steadytune", standalone_mode=False))
    finally:
        signal.signal(signal.SIGTERM, previous)
    sys.exit(code)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def guarded(command: Callable[[], Any]) -> int:
    """The exit code of ``command``; a message about anything that it raises is printed on the error stream."""
    try:
        result = command()
        sys.stdout.flush()
        if result == 130:  # Typer turns Ctrl-C into this code
            return _print_error(INTERRUPTED, 130)
        return result if isinstance(result, int) else 0
    except BaseException as error:
        return _code_for(error)


def _code_for(error: BaseException) -> int:
    error = unwrapped(error)
    if isinstance(error, Terminated) or (isinstance(error, SystemExit) and error.code == signal.SIGTERM):
        return _print_error(INTERRUPTED, 143)  # once Ray runs, its own handler leaves with the signal's number
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return _print_error(INTERRUPTED, 130)
    if isinstance(error, SystemExit | typer.Exit):
        code = error.code if isinstance(error, SystemExit) else error.exit_code
        return code if isinstance(code, int) else 0 if code is None else _print_error(f"error: {code}", 1)
    if isinstance(error, BrokenPipeError):  # `steadytune plan x | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if is_user_error(error) and not debugging():
        cause = getattr(error, "cause", None) or error  # Ray wraps what a worker raised
        return _print_error("\n".join(f"error: {text}" for text in str(cause).splitlines()), 2)
    if type(error).__name__ == "NoArgsIsHelpError":
        return _print_error(str(error), 2)
    if hasattr(error, "format_message"):  # the command line itself: a flag or command that does not exist
        return _print_error(f"error: {error.format_message()}\nSee steadytune --help", 2)
    if debugging():
        raise error
    first = (str(error).strip().splitlines() or [""])[0]
    where = "set STEADYTUNE_DEBUG=1 and run the same command again to see where"
    return _print_error(f"error: unexpected {type(error).__name__}: {first} ({where})", 1)


def is_user_error(error: BaseException) -> bool:
    return bool(getattr(error, "user_error", False))


def debugging() -> bool:
    return os.environ.get("STEADYTUNE_DEBUG", "") not in ("", "0")


def _print_error(text: str, code: int) -> int:
    print(text, file=sys.stderr, flush=True)
    return code
