"""Run folders whose score files are made of given answers, without any training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sweeps.tables.columns import Settings
from trainer.store import SCORES, Store

SETTINGS = Settings("accuracy", 1.0, (0.75, 0.9), True, ("no", "yes"))
RECORD = {"trial": {"task": {"labels": ["no", "yes"]}}}
P, R = 6, 80
LABEL = np.arange(R) % 2


def _logprobs(predicted: int, j: int) -> list[float] | None:
    """None for a text that could not be read."""
    return None if predicted < 0 else [-1.0, -1.0 + (predicted - 0.5) * (1 + (j % 3))]


def scores(trial_id: str, rung: int, pool: str, predicted: Any) -> list[dict[str, Any]]:
    return [
        {
            "trial_id": trial_id, "rung": rung, "pool": pool, "prompt_id": f"{pool}{i}", "row_id": f"r{j:03d}",
            "label": ("no", "yes")[LABEL[j]],
            "predicted": None if predicted[i, j] < 0 else ("no", "yes")[predicted[i, j]],
            "correct": bool(predicted[i, j] == LABEL[j]),
            "label_logprobs": _logprobs(predicted[i, j], j), "new_tokens": None,
        }
        for i in range(P)
        for j in range(R)
    ]  # fmt: skip


def write(store: Store, trial_id: str, rung: int, pool: str, predicted: Any) -> None:
    rows = pa.Table.from_pylist(scores(trial_id, rung, pool, predicted), schema=SCORES)
    store.write_scores(trial_id, rung, pool, rows, {**RECORD, "rung": rung})


def answers(right: float, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    each = right + 0.05 * np.linspace(-1, 1, P)[:, None]
    return np.where(rng.random((P, R)) < each, LABEL, 1 - LABEL)


def folder(
    path: Path, trials: Mapping[str, tuple[Any, ...]], more: Mapping[str, Mapping[str, Any]] | None = None
) -> Store:
    """A run folder of ``trials``: id -> (status, rung, dev answers, test answers, template, plw). ``more``: id ->
    further columns of trials.parquet."""
    store = Store.open(path)
    rows = []
    for trial_id, (status, rung, dev, test, template, plw) in trials.items():
        if dev is not None:
            write(store, trial_id, 10, "dev", answers(0.5, 7))  # an earlier rung that must not count
            write(store, trial_id, rung, "dev", dev)
            write(store, trial_id, rung, "test", test)
        axes = {"template": template, "r": 8, "alpha": 16.0, "dropout": 0.0, "target_modules": "all-linear"}
        axes |= {"rslora": False, "lr": 1e-3, "steps": 40, "plw": plw, "pool": "many", "seed": 0}
        reason = {"failed": "loss is NaN at step 3", "stopped": "stopped at rung 1 of 2: 0.5 < 0.6"}.get(status, "")
        rows.append({"trial_id": trial_id, **axes, "status": status, "rung": rung, "reason": reason})
        rows[-1] |= (more or {}).get(trial_id, {})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    store.write("trials.parquet", sink.getvalue().to_pybytes())
    return store


def by_id(table: pa.Table) -> dict[str, dict[str, Any]]:
    return {r["trial_id"]: r for r in table.to_pylist()}
