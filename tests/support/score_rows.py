"""Score rows for a store, and damage to its files."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.store import SCORES, Store

RECORD = {"rung": 10, "seconds": 1.5, "curve": {"step": [1, 2], "prompt_loss": [None, 0.25]}}


def rows(n: int = 40, trial_id: str = "aa11", rung: int = 10, pool: str = "dev") -> pa.Table:
    """``n`` score rows with numbers that do not repeat."""
    rng = random.Random(n)
    return pa.table(
        {
            "trial_id": [trial_id] * n,
            "rung": [rung] * n,
            "pool": [pool] * n,
            "prompt_id": [f"p{i % 4}" for i in range(n)],
            "row_id": [f"dev-{i // 4}" for i in range(n)],
            "label": ["no"] * n,
            "predicted": [None if i % 7 == 0 else "yes" for i in range(n)],
            "correct": [False] * n,
            "label_logprobs": [[-rng.random(), -rng.random()] for _ in range(n)],
            "new_tokens": [None] * n,
        },
        schema=SCORES,
    )


def damaged(kind: str, data: bytes) -> bytes:
    table = pq.read_table(pa.BufferReader(data))
    if kind == "empty":
        return b""
    if kind == "half":
        return data[: len(data) // 2]
    if kind == "no end":
        return data[:-1]
    if kind == "another format":
        return b"version https://git-lfs.github.com/spec/v1\n"
    if kind == "page":  # one bit of the rows; parquet's own structure stays sound
        at = 60
        return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
    if kind == "no record":
        table = table.replace_schema_metadata({})
    elif kind == "record no JSON":
        table = table.replace_schema_metadata({b"steadytune": b"{"})
    elif kind == "record no mapping":
        table = table.replace_schema_metadata({b"steadytune": b"[1]"})
    elif kind == "record no text":
        table = table.replace_schema_metadata({b"steadytune": b"\xff\xfe"})
    elif kind == "column missing":
        table = table.drop_columns(["correct"])
    elif kind == "column of another type":
        table = table.set_column(1, "rung", pa.array(["ten"] * table.num_rows))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


KINDS = (
    "empty", "half", "no end", "another format", "page", "no record", "record no JSON", "record no mapping",
    "record no text", "column missing", "column of another type",
)  # fmt: skip


def can_mount(place: Path) -> bool:
    try:
        return (
            subprocess.run(
                ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(place)], capture_output=True
            ).returncode
            == 0
        )
    except FileNotFoundError:
        return False


def read_score_files(store: Store, pool: str) -> Iterator[tuple[str, int, pa.Table, dict[str, Any]]]:
    """(trial id, rung, rows, record) of every readable score file of ``pool``."""
    for trial_id in store.folders("scores"):
        for rung in store.rungs(trial_id, pool):
            if (scores := store.read_scores(trial_id, rung, pool)) is not None:
                yield trial_id, rung, *scores
