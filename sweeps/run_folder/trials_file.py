"""``trials.parquet``: how it is written, and what of it a reader may rely on.

Its schema metadata hold, under the key ``steadytune``, the driver's state and the checksum of the study that it is of.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from sweeps.run_folder.columns import SEARCH, TRIALS
from trainer.store import DamagedError, Store

TRIALS_FILE = "trials.parquet"
STATUSES = ("finished", "stopped", "failed", "running")
_KEY = b"steadytune"
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")  # an id names folders, so it must not lead out of them


@dataclass(frozen=True)
class DriverState:
    """What the driver has last said of itself. Seconds since 1970; 0 where it said nothing."""

    began: float = 0.0
    written: float = 0.0
    left: float | None = None  # seconds until the sweep ends, as estimated when this was written
    steps_per_s: float | None = None
    cells_per_s: float | None = None  # scored
    steps: tuple[int, int] = (0, 0)  # optimizer steps done, and to do in all
    dev_cells: tuple[int, int] = (0, 0)  # scored, and to score in all
    test_cells: tuple[int, int] = (0, 0)
    doing: str = ""  # what the hosts do before they train
    now: Mapping[str, str] = field(default_factory=dict)  # trial -> how far it is with what it does
    over: bool = True  # a folder that does not say so is no sweep's
    study: str = ""  # checksum of the study.yaml that the table is of


def study_checksum(study: bytes) -> str:
    return hashlib.sha256(study).hexdigest()


def write_trials(store: Store, rows: Sequence[Mapping[str, Any]], state: Mapping[str, Any]) -> None:
    """Write the table with the driver's ``state``: fields of ``DriverState``."""
    table = pa.Table.from_pylist(list(rows), schema=TRIALS.with_metadata({_KEY: json.dumps(state).encode()}))
    store.write_table(TRIALS_FILE, table)


def driver_state(table: pa.Table) -> DriverState:
    """The state in the table's metadata. Raises ``DamagedError``."""
    try:
        told = json.loads((table.schema.metadata or {}).get(_KEY, b"{}"))
        numbers: dict[str, Any] = {name: float(told.get(name) or 0.0) for name in ("began", "written")}
        rates: dict[str, Any] = {n: told.get(n) for n in ("left", "steps_per_s", "cells_per_s")}
        rates = {n: None if value is None else float(value) for n, value in rates.items()}
        cells: dict[str, Any] = {n: _two(told.get(n) or (0, 0)) for n in ("steps", "dev_cells", "test_cells")}
        state = DriverState(
            **numbers,
            **rates,
            **cells,
            doing=str(told.get("doing") or ""),
            now={str(trial): str(text) for trial, text in (told.get("now") or {}).items()},
            over=bool(told.get("over", True)),
            study=str(told.get("study") or ""),
        )
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedError(f"its driver's state cannot be read: {error}") from error
    times = (state.began, state.written, *(rate or 0.0 for rate in rates.values()))
    if not all(math.isfinite(v) for v in times):
        raise DamagedError("its driver's state holds a time that is no number")
    return state


def _two(numbers: Sequence[Any]) -> tuple[int, int]:
    first, second = numbers
    return int(first), int(second)


def trial_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows, with the columns that are known. Raises ``DamagedError`` where a column is of another type, or a value
    cannot be."""
    missing = [name for name in ("trial_id", "status", "steps") if name not in table.column_names]
    if missing:
        raise DamagedError(f"it has no column {missing[0]}")
    twice = [name for name in table.column_names if table.column_names.count(name) > 1]
    if twice:
        raise DamagedError(f"it has two columns {twice[0]}")
    known = [field for field in TRIALS if field.name in table.column_names]
    try:
        rows: list[dict[str, Any]] = table.select([f.name for f in known]).cast(pa.schema(known)).to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise DamagedError(str(error).splitlines()[0]) from error
    seen: set[str] = set()
    for row in rows:
        trial_id, status = row["trial_id"], row["status"]
        if trial_id is None or not _ID.fullmatch(trial_id):
            raise DamagedError(f"trial_id = {trial_id!r:.40} is none")
        if trial_id in seen:
            raise DamagedError(f"trial {trial_id} stands in it twice")
        seen.add(trial_id)
        if status not in STATUSES:
            raise DamagedError(f"trial {trial_id} has status = {status!r:.40}")
        if row["steps"] is None or row["steps"] < 0 or (row.get("rung") or 0) < 0:
            raise DamagedError(f"trial {trial_id} has a number of steps that cannot be")
        row["configuration"] = row.get("configuration") or trial_id  # of before: which are replicates is not said
        row["role"] = row.get("role") or SEARCH
    return rows
