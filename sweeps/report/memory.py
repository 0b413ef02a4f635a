"""Memory that numpy's arrays use again and again."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# of malloc.h: what mallopt sets, to what, and glibc's own values
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = {_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 1 << 30}
_USUAL = {_MMAP_THRESHOLD: 128 << 10, _TRIM_THRESHOLD: 128 << 10}


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Every trial needs the same arrays, of a megabyte or so. glibc gives such memory back to the system as soon as it
    is free, and getting it anew, page by page, is a fifth of the work of a report. With another C library nothing is
    done."""
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    try:
        for name, value in _KEPT.items():
            libc.mallopt(name, value)
        yield
    finally:
        for name, value in _USUAL.items():
            libc.mallopt(name, value)
        libc.malloc_trim(0)
