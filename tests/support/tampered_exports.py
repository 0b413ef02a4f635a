"""Exports that somebody has damaged or changed, and what ``predict`` says of them."""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweeps.export.exported import ADAPTER, SUMS, TEMPLATE, checksums

CPU_SECONDS = 20  # that one command may take
BYTES = 1_500_000_000  # of memory that one command may add

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 4, 2**31, 2**63, 10**30, 1e308, -0.5, float("nan"), float("inf"), "", " ", "\x00",
    "\ud800", "a" * 100_000, "{{ text }}", "{% for", "{{ text.upper }}", "../../etc/passwd", "\u2028\x1b[31m", "yes",
    "[]", [], [[]], [None], ["no", "no"], ["x"] * 1000, {}, {"a": 1}, {"": {"": {}}}, "labels", "bfloat16", "generate",
    "classifier", "batch", "contextual", "pmi", "q_proj", "lm_head", ["lm_head"], ["embed_tokens"], "gpt2", "/", ".",
)  # fmt: skip


def sign(folder: Path) -> None:
    """Write the checksums of the files as they are now."""
    files = {n: (folder / n).read_bytes() for n in (*ADAPTER, TEMPLATE) if (folder / n).is_file()}
    (folder / SUMS).write_bytes(checksums(files))


def tamper(folder: Path, rng: random.Random, other: Path) -> str:
    """Change the export in ``folder``, and say how. ``other`` is a sound export of another trial."""
    how = rng.choice(["value", "value", "value", "key", "bytes", "bytes", "file", "swap", "header", "header"])
    done = _WAYS[how](folder, rng, other)
    if (folder / SUMS).is_file() and (how in ("value", "key", "swap", "header") or rng.random() < 0.7):
        sign(folder) if rng.random() < 0.7 else (folder / SUMS).unlink(missing_ok=True)
    return f"{how}: {done}"


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in a JSON value."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _json_of(folder: Path, rng: random.Random) -> tuple[Path, Any]:
    at = folder / rng.choice([TEMPLATE, TEMPLATE, TEMPLATE, ADAPTER[0]])
    return at, json.loads(at.read_text())


def _value(folder: Path, rng: random.Random, other: Path) -> str:
    at, about = _json_of(folder, rng)
    container, key = rng.choice(list(_places(about)))
    container[key] = rng.choice(HOSTILE)
    at.write_text(json.dumps(about))
    return f"{at.name} {key!r} = {container[key]!r:.60}"


def _key(folder: Path, rng: random.Random, other: Path) -> str:
    at, about = _json_of(folder, rng)
    container, key = rng.choice([(c, k) for c, k in _places(about) if isinstance(c, dict)])
    value = container.pop(key)
    new = rng.choice([None, f"{key}x", "", "__class__", "\ud800"])
    if new is not None:
        container[new] = value
    at.write_text(json.dumps(about))
    return f"{at.name} {key!r} -> {new!r}"


def _bytes(folder: Path, rng: random.Random, other: Path) -> str:
    at = folder / rng.choice([*ADAPTER, TEMPLATE, SUMS])
    data = bytearray(at.read_bytes())
    how = rng.choice(["flip", "cut", "grow", "nest"])
    if how == "flip":
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[rng.randrange(len(data)) :]
    elif how == "grow":
        place = rng.randrange(len(data))
        data[place:place] = rng.randbytes(rng.randint(1, 200))
    else:
        data = bytearray(b"[" * 100_000)
    at.write_bytes(bytes(data))
    return f"{at.name} {how}"


def _file(folder: Path, rng: random.Random, other: Path) -> str:
    at = folder / rng.choice([*ADAPTER, TEMPLATE, SUMS])
    how = rng.choice(["gone", "empty", "folder"])
    at.unlink()
    if how == "empty":
        at.write_bytes(b"")
    elif how == "folder":
        at.mkdir()
    return f"{at.name} {how}"


def _swap(folder: Path, rng: random.Random, other: Path) -> str:
    name = rng.choice([*ADAPTER, TEMPLATE])
    shutil.copy(other / name, folder / name)
    return f"{name} of another trial"


def _header(folder: Path, rng: random.Random, other: Path) -> str:
    at = folder / ADAPTER[1]
    data = at.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    names = [n for n in header if n != "__metadata__"]
    name = rng.choice(names)
    how = rng.choice(["rename", "swap", "dtype", "shape", "offsets", "gone"])
    if how == "rename":
        header[rng.choice(["", "x", "\u0000", name.replace("layers.0", "layers.9")])] = header.pop(name)
    elif how == "swap":
        twin = rng.choice(names)
        header[name], header[twin] = header[twin], header[name]
    elif how == "dtype":
        header[name]["dtype"] = rng.choice(["F16", "I32", "U32", "BF16", "C64", "F8_E4M3", "BOOL", "I8", "Z", 4])
    elif how == "shape":
        header[name]["shape"] = rng.choice([[], [0], [-1], [2**62, 4], header[name]["shape"][::-1], ["a"], None])
    elif how == "offsets":
        header[name]["data_offsets"] = rng.choice([[0, 0], [0, 2**60], [-1, 4], [8, 4], None])
    else:
        del header[name]
    text = json.dumps(header).encode()
    at.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return f"{name} {how}"


_WAYS = {"value": _value, "key": _key, "bytes": _bytes, "file": _file, "swap": _swap, "header": _header}


@contextmanager
def bounded() -> Iterator[None]:
    """TimeoutError beyond ``CPU_SECONDS``, and no memory beyond ``BYTES`` more than now."""

    def out_of_time(*_: Any) -> None:
        raise TimeoutError(f"over {CPU_SECONDS} CPU seconds")

    before = signal.signal(signal.SIGPROF, out_of_time)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
