"""A checksum inside a file of the run folder: SHA-256 over the file's place and all of its other bytes.

A file is written with ``METADATA`` among its metadata, and ``fill`` puts the checksum there. So one file holds both,
and both appear together. Any changed byte, a cut, and a file that was written for another place (the scores of another
trial, say) are found. Files of versions before it have no such metadata.
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal

KEY = "steadytune_sha256"
BLANK = "0" * 64
SECOND = "steadytune_checksum"  # says that there is one, so that a changed byte in ``KEY`` is found as well
METADATA = {KEY: BLANK, SECOND: "sha256"}
# Between key and value are Thrift's two bytes of a text of 64 characters (parquet), or JSON's quotes and colon.
_VALUE = re.compile(KEY.encode() + rb"[^0-9A-Za-z]{1,4}([0-9a-f]{64})(?![0-9A-Za-z])")

State = Literal["sound", "damaged", "unchecked"]


def fill(data: bytes, place: str) -> bytes:
    """``data``, whose metadata hold ``BLANK`` under ``KEY``, with its checksum there. ``place``: its name in the run
    folder. ValueError where there is no blank."""
    blanks = [m.start(1) for m in _VALUE.finditer(data) if m[1] == BLANK.encode()]
    if not blanks:
        raise ValueError(f"{place}: no place for a checksum")
    at = blanks[-1]
    return b"".join((data[:at], _digest(data, at, place).encode(), data[at + 64 :]))


def state(data: bytes, place: str) -> State:
    """Whether ``data`` is what was written at ``place``; ``unchecked`` where it has no checksum."""
    found = list(_VALUE.finditer(data))
    if not found:
        return "damaged" if KEY.encode() in data or SECOND.encode() in data else "unchecked"
    # texts of a user may look like a second checksum, so any that is right will do
    sound = any(_digest(data, m.start(1), place) == m[1].decode() for m in found[-8:])
    return "sound" if sound else "damaged"


def _digest(data: bytes, at: int, place: str) -> str:
    """Of ``data`` with a blank at the 64 bytes from ``at``."""
    made, view = hashlib.sha256(place.encode() + b"\0"), memoryview(data)
    for part in (view[:at], BLANK.encode(), view[at + 64 :]):
        made.update(part)
    return made.hexdigest()
