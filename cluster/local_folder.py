"""The folder of a local Ray: private to its user, short enough for sockets, and gone when the run is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cluster import watchdog
from trainer.errors import UserError

PREFIX = "st-ray-"
LONGEST = 107  # bytes of a socket's path that Linux takes
SOCKETS = len("/st-ray-12345678/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
LONGEST_PLACE = LONGEST - SOCKETS
NEEDED = 64 * 2**20  # bytes: Ray's logs of a day, and room for what the control store writes at its start


class FolderError(UserError):
    """There is no place for Ray's temporary folder."""


def place() -> str:
    """The folder in which Ray's is made: RAY_TMPDIR, else the first of TMPDIR, TEMP, TMP, /tmp and /var/tmp that will
    do. Raises FolderError, which says what is wrong with each."""
    named = os.environ.get("RAY_TMPDIR")
    usual = [os.environ.get(n, "") for n in ("TMPDIR", "TEMP", "TMP")]
    places = [named] if named else [p for p in dict.fromkeys([*usual, "/tmp", "/var/tmp"]) if p]
    wrong = []
    for folder in places:
        complaint = unfit(folder)
        if complaint is None:
            return folder
        wrong.append(complaint)
    raise FolderError(
        f"Ray needs a temporary folder, and {'RAY_TMPDIR does not do' if named else 'none will do'}: {'; '.join(wrong)}"
        f". Set RAY_TMPDIR to a folder that can be written, with a path of at most {LONGEST_PLACE} bytes and "
        f"{NEEDED >> 20} MiB free"
    )


def unfit(folder: str) -> str | None:
    """What is wrong with ``folder`` as a place for Ray's, or None."""
    length = len(os.fsencode(os.path.abspath(folder)))
    if length > LONGEST_PLACE:
        return f"{folder} is {length} bytes long (at most {LONGEST_PLACE}: it holds sockets)"
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=PREFIX) as file:
            file.write(b"x" * 4096)
            file.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror})"
    return f"{folder} has {free >> 20} MiB free ({NEEDED >> 20} are needed)" if free < NEEDED else None


class LocalFolder:
    """A folder for Ray, inside a new one with mode 0700, since Ray opens its own to everybody. ``stays`` set to True:
    it is left behind, for its logs."""

    def __init__(self, private: str) -> None:
        self.path = os.path.join(private, "r")
        self.logs = os.path.join(self.path, "session_latest", "logs")
        self.stays = False


@contextmanager
def local_folder() -> Iterator[LocalFolder]:
    """A folder for a local Ray, and beside it a process that ends what is left of that Ray and removes the folder when
    this process leaves the ``with`` block or ends in any other way. Raises FolderError."""
    private = tempfile.mkdtemp(prefix=PREFIX, dir=os.path.abspath(place()))  # with mode 0700
    folder = LocalFolder(private)
    dog = subprocess.Popen(
        [sys.executable, "-I", "-S", watchdog.__file__, private],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={},
        start_new_session=True,  # a signal to the run's group must not end it
    )
    try:
        yield folder
    finally:
        assert dog.stdin is not None
        with suppress(OSError):
            if folder.stays:
                dog.stdin.write(watchdog.KEEP)
            dog.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            dog.wait(timeout=watchdog.PATIENCE)
