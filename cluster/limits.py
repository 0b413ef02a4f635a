"""The limits of this process that a local Ray needs higher."""

from __future__ import annotations

import resource

from trainer.errors import UserError

NEEDED = 256  # open files in one of Ray's processes: its control store has 60 open for two hosts, and more for each
WANTED = 8192  # what Ray recommends


class LimitError(UserError):
    """A limit of this process that it cannot raise itself."""


def raise_open_files() -> None:
    """Let this process, and those that it starts, open as many files as Ray wants, as far as that is allowed. Raises
    LimitError if that is too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if allowed < NEEDED:
        raise LimitError(
            f"this process may open {hard} files, and Ray needs at least {NEEDED}. Raise the limit (`ulimit -Hn "
            f"{WANTED}` as root, or LimitNOFILE= of a service), and run the same command again"
        )
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
