"""Runs a command and turns every way it may end into an exit code and a message on the error stream.

0: done. 1: ``check`` found an error in a study, a trial or a followed job failed, ``verify`` or ``monitor`` found a
difference, or something unexpected happened. 2: a mistake to mend, in the command line, in a study that was to run, in
a cluster file, or of this machine. 130 and 143: ended by Ctrl-C and by SIGTERM. STEADYTUNE_DEBUG=1 shows tracebacks.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn, TextIO

from cluster.connect import unwrapped
from sweeps.cli.environment_errors import environment_line, told
from trainer.errors import printable

INTERRUPTED = "interrupted: run the same command again to continue"


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where the main thread is, so that ``finally`` blocks run. A KeyboardInterrupt, since Ray's
    compiled code makes a SystemError of everything else, on which Tune waits ten seconds for its trials. What comes out
    of that code is a KeyboardInterrupt of Ray's own, so ``_signals`` keeps which signal it was."""


_signals: set[int] = set()  # received by this command


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command and exit: 0 done, 2 a mistake to mend, 1 a failure, 130 and 143 interrupted."""
    previous = signal.signal(signal.SIGTERM, _terminate)
    _signals.clear()
    try:
        open_streams()
        code = guarded(lambda: _app()(args=arguments, prog_name="steadytune", standalone_mode=False))
    finally:
        signal.signal(signal.SIGTERM, previous)
    if arguments is None:  # the process ends now: no traceback from Ctrl-C while Python goes
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code)


def _app() -> Callable[..., Any]:
    from sweeps.cli.app import app  # here, where Ctrl-C during the imports is told as everywhere else

    return app


def open_streams() -> None:
    """Let the output streams write every text: with replaced characters where the terminal's encoding lacks one
    (LANG=C, cp1252), and to nowhere if they are closed (``>&-``)."""
    for name, errors in (("stdout", "replace"), ("stderr", "backslashreplace")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="replace"))  # noqa: SIM115, as long as the process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)


def _terminate(number: int, frame: FrameType | None) -> None:
    _signals.add(number)
    raise Terminated


def guarded(command: Callable[[], Any]) -> int:
    """The exit code of ``command``; a message about anything that it raises is printed on the error stream."""
    try:
        result = command()
        sys.stdout.flush()
        if result == 130:  # Typer turns Ctrl-C into this code
            return _interrupted()
        return result if isinstance(result, int) else 0
    except BaseException as error:
        return _code_for(error)


def _code_for(error: BaseException) -> int:
    error = unwrapped(error)
    gone = _output_is_gone()
    if isinstance(error, Terminated) or (isinstance(error, SystemExit) and error.code == signal.SIGTERM):
        return _print_error(INTERRUPTED, 143)  # once Ray runs, its own handler leaves with the signal's number
    if isinstance(error, KeyboardInterrupt):
        return _interrupted()
    import typer  # after Ctrl-C, which may come while this is imported

    if isinstance(error, typer.Abort):
        return _interrupted()
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
        return 0  # Rich ends with 1 where its reader is gone
    if isinstance(error, SystemExit | typer.Exit):
        code = error.code if isinstance(error, SystemExit) else error.exit_code
        return code if isinstance(code, int) else 0 if code is None else _print_error(f"error: {code}", 1)
    if isinstance(error, BrokenPipeError):  # `steadytune plan x | head`
        return 0
    if is_user_error(error) and not debugging():
        cause = getattr(error, "cause", None) or error  # Ray wraps what a worker raised
        return _print_error("\n".join(f"error: {text}" for text in str(cause).split("\n") if text), 2)
    if type(error).__name__ == "NoArgsIsHelpError":
        return _print_error(str(error), 2)
    if hasattr(error, "format_message"):  # the command line itself: a flag or command that does not exist
        return _print_error(f"error: {error.format_message()}\nSee steadytune --help", 2)
    if debugging():
        raise error
    line = environment_line(error)
    if line is not None:
        output = gone and isinstance(error, OSError) and error.filename is None
        return _print_error(f"error: {'the output cannot be written: ' if output else ''}{line}", 2)
    where = "set STEADYTUNE_DEBUG=1 and run the same command again to see where"
    return _print_error(f"error: unexpected {type(error).__name__}: {told(error)} ({where})", 1)


def _interrupted() -> int:
    return _print_error(INTERRUPTED, 143 if signal.SIGTERM in _signals else 130)


def _output_is_gone() -> bool:
    """Whether the standard output takes no more text: its reader is gone, or its disk is full. It is then sent to
    nowhere, since Python would try again at its exit and end with code 120."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _send_to_nowhere(sys.stdout)
        return True
    return False


def _send_to_nowhere(stream: TextIO) -> None:
    with suppress(OSError, ValueError):  # it was closed, or it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def is_user_error(error: BaseException) -> bool:
    return bool(getattr(error, "user_error", False))


def debugging() -> bool:
    return os.environ.get("STEADYTUNE_DEBUG", "") not in ("", "0")


def _print_error(text: str, code: int) -> int:
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except (OSError, ValueError):  # nobody reads the error stream, or its disk is full
        _send_to_nowhere(sys.stderr)
    return code
