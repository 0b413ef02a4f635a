"""Answers that are paid for, kept beside the pool as they come: ``POOL.journal.jsonl``, one line for each.

A line is written and flushed before the next request is sent. What a kill tears is at most the last line, and that is
left out when the file is read. An answer is found again by a digest of everything that it depends on (the model, the
request's text, limits, temperature, seed), so a generation that is run again asks only for what it has not got: after
an interruption, with another model added, or with more wordings wanted. No key is in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from trainer.errors import UserError

SUFFIX = ".journal.jsonl"


class JournalError(UserError):
    """The journal cannot be written, or another generation has it."""


@dataclass(frozen=True)
class Answer:
    """One answer of a model; tokens are None where the server did not count them."""

    key: str
    model: str
    strategy: str
    request: int
    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    failed: int  # attempts before it
    cut: bool  # the token limit ended it
    seconds: float


class Journal:
    """Use through ``open_journal``. ``add`` may be called from several threads."""

    def __init__(self, path: str, file: Any):
        self.path, self._file = path, file
        self._lock = threading.Lock()
        self.answers: dict[str, Answer] = {}
        self.written: set[str] = set()  # digests of the pools that were written from it
        file.seek(0)
        data = file.read()
        for line in data.split(b"\n"):
            self._take(line)
        if data and not data.endswith(b"\n"):
            file.write(b"\n")  # after a torn line

    def add(self, answer: Answer) -> None:
        with self._lock:
            self.answers[answer.key] = answer
            self._append(asdict(answer))

    def add_written(self, pool: bytes) -> None:
        found = sha256(pool).hexdigest()
        if found not in self.written:
            self.written.add(found)
            self._append({"pool": found})

    def wrote(self, pool: bytes) -> bool:
        return sha256(pool).hexdigest() in self.written

    def _append(self, record: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(record).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise JournalError(
                f"{self.path}: cannot be written ({error}). Mend that and run the same command again: the answers "
                "before this one are kept"
            ) from None

    def _take(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            if "pool" in record:
                self.written.add(str(record["pool"]))
                return
            answer = Answer(**record)
        except (ValueError, TypeError, RecursionError):
            return  # torn, or of another version
        if isinstance(answer.key, str) and isinstance(answer.text, str):
            self.answers[answer.key] = answer


@contextlib.contextmanager
def open_journal(out: str) -> Iterator[Journal]:
    """The journal of the pool at ``out``, to this process alone. Raises JournalError."""
    path = journal_path(out)
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        file = open(path, "a+b")  # noqa: SIM115
    except OSError as error:
        raise JournalError(f"{path}: cannot be opened ({error}). Name another place with --out") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalError(
                f"{path}: another generation is writing it. Wait for it, or name another --out"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield Journal(path, file)


def journal_path(out: str) -> str:
    return os.path.splitext(out)[0] + SUFFIX
