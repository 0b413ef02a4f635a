"""The journal of a generation, ``POOL.journal.jsonl`` beside the pool: one line for each answer that was paid for.

A line is written and flushed before the next request is sent. Killing the process damages at most the last line, which
is then left out when the file is read. Answers are found by a digest of everything that they depend on (the model, the
request's text, limits, temperature, seed). So a generation that is run again, after an interruption, with another model
or with more wordings, asks only for the answers that it lacks. No API key is in the journal.
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
    """The journal cannot be written, or another process is writing it."""


@dataclass(frozen=True)
class StoredAnswer:
    """One answer of a model. Tokens are None where the server did not count them."""

    key: str
    model: str
    strategy: str
    request: int
    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    failed: int  # attempts that failed before it
    cut: bool  # whether it ends at the token limit
    seconds: float


class AnswerJournal:
    """Made by ``open_journal``. ``add`` may be called from several threads."""

    def __init__(self, path: str, file: Any):
        self.path, self._file = path, file
        self._lock = threading.Lock()
        self.answers: dict[str, StoredAnswer] = {}
        self.written: set[str] = set()  # digests of the pools that were made of these answers
        file.seek(0)
        data = file.read()
        for line in data.split(b"\n"):
            self._read_line(line)
        if data and not data.endswith(b"\n"):
            file.write(b"\n")  # the last line is incomplete: begin a new one

    def add(self, answer: StoredAnswer) -> None:
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

    def _read_line(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            if "pool" in record:
                self.written.add(str(record["pool"]))
                return
            answer = StoredAnswer(**record)
        except (ValueError, TypeError, RecursionError):
            return  # an incomplete line, or one of another version
        if isinstance(answer.key, str) and isinstance(answer.text, str):
            self.answers[answer.key] = answer


@contextlib.contextmanager
def open_journal(out: str) -> Iterator[AnswerJournal]:
    """The journal of the pool at ``out``, locked for this process. Raises JournalError."""
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
                f"{path}: another generation is writing it. Wait until it ends, or name another --out"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield AnswerJournal(path, file)


def journal_path(out: str) -> str:
    return os.path.splitext(out)[0] + SUFFIX
