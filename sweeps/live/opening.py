"""Lines that say what a command does before its live table is there. Imports nothing slow: its first line comes before
everything that may take seconds."""

from __future__ import annotations

import threading
import time
from types import TracebackType

EVERY = 4.0  # seconds of silence after which the last line is said again


class Opening:
    """Use as ``with Opening() as opening: opening.say("reading rows")``. What is said is said again while it lasts."""

    def __init__(self, every: float = EVERY) -> None:
        self.every = every
        self.began = time.monotonic()
        self._last = ""
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._over = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Opening:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def say(self, text: str) -> None:
        """``text``: what begins now, such as ``loading the tokenizer``."""
        self._last = text
        self._print(text)
        if self._thread is None:
            self._thread = threading.Thread(target=self._repeat, name="opening", daemon=True)
            self._thread.start()
        self._news.set()

    def end(self) -> None:
        """Say nothing more: from now on the live table does."""
        with self._lock:
            self._over = True
        self._news.set()

    def _repeat(self) -> None:
        while not self._over:
            if self._news.wait(self.every):
                self._news.clear()
            else:
                self._print(f"still {self._last}")

    def _print(self, text: str) -> None:
        with self._lock:
            if self._over:
                return
            seconds = int(time.monotonic() - self.began)
            try:
                print(f"[{seconds // 60}:{seconds % 60:02d}] {text}", flush=True)
            except (OSError, ValueError):  # nobody reads; whoever writes next from the main thread is told
                self._over = True
