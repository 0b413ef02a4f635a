"""Secrets that a test puts into a run's environment, and where they turn up."""

from __future__ import annotations

import os
from pathlib import Path

PLANTED = {
    "AWS_ACCESS_KEY_ID": "planted-0-akia",
    "AWS_SECRET_ACCESS_KEY": "planted-1-aws",
    "AWS_SESSION_TOKEN": "planted-2-session",
    "HF_TOKEN": "planted-3-hub",
    "OPENAI_API_KEY": "planted-4-openai",
    "MY_PASSWORD": "planted-5-own",
    "HTTPS_PROXY": "http://user:planted-6-proxy@127.0.0.1:9",
    "RUN_NOTES": "planted-7-notes",
}
MARK = b"planted-"


def files_with_secrets(folder: Path) -> list[str]:
    """The files below ``folder`` that hold a planted secret, in their text or their name."""
    found = []
    for path in folder.rglob("*"):
        if MARK.decode() in path.name or (path.is_file() and MARK in path.read_bytes()):
            found.append(str(path))
    return found


def readable_by_others(folder: Path) -> bool:
    """Whether another user than the owner of ``folder`` may enter it."""
    return bool(os.stat(folder).st_mode & 0o077)
