"""The frame of the live table as lines of text."""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

from sweeps.display.terminal_table import TerminalColumn, fitted
from sweeps.display.text import one_line, shown

_CELL = 28  # longest cell in characters


@dataclass(frozen=True)
class Frame:
    """The table at one moment, as text; both views draw it."""

    header: str
    columns: tuple[TerminalColumn, ...]
    rows: tuple[tuple[str, ...], ...]
    more: int  # trials that are left out


class QuietStream(io.TextIOBase):
    """A text stream on which writing never raises. Once the reader is gone (``steadytune … | head``), it drops text."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._gone = False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        try:
            return self._stream.isatty()
        except ValueError:  # closed
            return False

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text.encode(self.encoding, "replace").decode(self.encoding)))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        if self._gone:
            return
        try:
            act()
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            self._gone = True
            if isinstance(error, BrokenPipeError) and self._stream in (sys.stdout, sys.__stdout__):
                # otherwise Python flushes the broken pipe at its exit, and ends with code 120
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def text_of(frame: Frame) -> list[str]:
    """The lines of the table where there is no terminal."""
    lines = fitted(frame.columns, frame.rows).lines if frame.rows else []
    return [frame.header, *lines, *([f"and {frame.more} more"] if frame.more else [])]


def rounded(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:.3f}"


def with_error(value: float, stderr: float) -> str:
    return rounded(value) + ("" if math.isnan(stderr) else f" ± {stderr:.3f}")


def clock_time(seconds: float | None) -> str:
    """0:07, 12:30, 1:05:00; ``?`` when not known."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def axis_text(value: Any) -> str:
    return one_line(shown(value))


def shortened(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"
