"""A run folder with scores of made-up log-probabilities on 10 prompts: a tuned model and the base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from sweeps.run_folder.reading import RunFolder
from sweeps.study.load import resolved
from sweeps.study.study import Study
from sweeps.tables.columns import Settings
from sweeps.tables.robustness import write_tables
from trainer.store import SCORES, Store

P, R, DEV_YES = 10, 40, 6
TRUTH = np.random.default_rng(0).integers(0, 2, R)
PROMPTS, ROWS = [f"x{i}" for i in range(P)], [f"r{i:02d}" for i in range(R)]
LABELLED = {"label": "label", "labels": ["no", "yes"]}


def study(task: dict[str, Any], **more: Any) -> Study:
    rows = {use: {"path": f"{use}.jsonl"} for use in ("train", "dev", "test")}
    arms = {"base": {"pool": "many", "steps": 0}, "paft": {"pool": "many"}}
    pools = {"train": {"many": "train.yaml"}, "dev": "dev.yaml", "test": "test.yaml"}
    task = {"rows": rows, "fields": ["text"], **task}
    made = {"name": "asked", "model": {"path": "m"}, "task": task, "pools": pools, "arms": arms, "axes": {"steps": 40}}
    return Study.model_validate({**made, "scheduler": {"name": "none"}, **more})


def logprobs(seed: int, clear: float, k: int = 2, n: int = R, truth: Any = TRUTH) -> Any:
    """[P, n, k]: every prompt leans to some label."""
    rng = np.random.default_rng(seed)
    right = np.arange(k) == truth[:n, None]
    return -3 + clear * right + 0.8 * rng.standard_normal((P, 1, k)) + rng.standard_normal((P, n, k))


def score_rows(values: Any, names: list[str], pool: str, keep: Any = None, texts: bool = False) -> pa.Table:
    found = []
    for j, prompt in enumerate(PROMPTS[: len(values)]):
        for i in range(values.shape[1]):
            if keep is not None and not keep[j, i]:
                continue
            label, given = names[TRUTH[i] % len(names)], names[int(values[j, i].argmax())]
            found.append(
                {
                    "trial_id": "", "rung": 0, "pool": pool, "prompt_id": prompt, "row_id": ROWS[i], "label": label,
                    "predicted": given, "correct": label == given, "new_tokens": 1 if texts else None,
                    "label_logprobs": None if texts else values[j, i].tolist(),
                }
            )  # fmt: skip
    return pa.Table.from_pylist(found, schema=SCORES)


def run_folder(path: Path, made: Study, trials: dict[str, tuple[int, Any]], names: list[str], **how: Any) -> RunFolder:
    """``trials``: id -> steps, and log-probabilities on the test rows."""
    store = Store.open(path)
    store.write("study.yaml", yaml.safe_dump(resolved(made)).encode())
    lines = []
    record: dict[str, Any] = {"trial": {"task": {"labels": list(made.task.names)}}}
    for trial_id, (steps, values) in trials.items():
        dev = score_rows(values[:2], names, "dev", texts=how.get("texts", False))
        sample = {"sample": {"cells": int(how["keep"].sum()), "prompts": P, "rows": R}} if "keep" in how else {}
        for pool, table, more in (("dev", dev, {}), ("test", score_rows(values, names, "test", **how), sample)):
            table = table.set_column(0, "trial_id", pa.array([trial_id] * len(table), pa.string()))
            table = table.set_column(1, "rung", pa.array([steps] * len(table), pa.int32()))
            store.write_scores(trial_id, steps, pool, table, {**record, **more})
        axes = {"template": "plain", "r": 8, "alpha": 16.0, "dropout": 0.0, "target_modules": "all-linear"}
        axes |= {"rslora": False, "lr": 1e-3, "steps": steps, "plw": 0.0, "pool": "many", "seed": 0}
        axes["arm"] = "paft" if steps else "base"
        lines.append({"trial_id": trial_id, **axes, "status": "finished", "rung": steps, "reason": ""})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(lines), sink)
    store.write("trials.parquet", sink.getvalue().to_pybytes())
    write_tables(RunFolder(store), Settings.of(made))
    return RunFolder(store)


TUNED, BASE = logprobs(1, 2.5), logprobs(2, 1.0)


def rows_of(table: pa.Table, **wanted: Any) -> list[dict[str, Any]]:
    return [r for r in table.to_pylist() if all(r[k] == v for k, v in wanted.items())]
