"""A run folder with given answers, made without a model: what each trial had right, under each prompt on each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sweeps.run_folder import trials_file
from sweeps.study.load import resolved
from sweeps.study.overlay import dump_yaml
from sweeps.study.study import Study
from trainer.store import SCORES, Store

Right = NDArray[np.bool_]  # [P, R]


@dataclass(frozen=True)
class SimulatedTrial:
    """``dev``: step -> what was right; the last is the end."""

    seed: int = 0
    lr: float = 1e-3
    test: Right | None = None
    dev: Mapping[int, Right] = field(default_factory=dict)
    status: str = "finished"


def write_run(folder: Path, study: Study, trials: Sequence[SimulatedTrial]) -> str:
    """The run folder, with two labels of which every other row has the second."""
    store = Store.open(str(folder))
    store.write("study.yaml", dump_yaml(resolved(study)).encode())
    lines: list[dict[str, Any]] = []
    for number, trial in enumerate(trials):
        trial_id = f"t{number:03}"
        steps = max(trial.dev, default=10)
        for step, right in trial.dev.items():
            store.write_scores(trial_id, step, "dev", rows(trial_id, step, "dev", right), _record(study, step))
        if trial.test is not None:
            store.write_scores(
                trial_id, steps, "test", rows(trial_id, steps, "test", trial.test), _record(study, steps)
            )
        line = {
            "trial_id": trial_id,
            "lr": trial.lr,
            "seed": trial.seed,
            "configuration": f"lr{trial.lr:g}",
            "status": trial.status,
            "steps": steps,
        }
        line |= {"rung": steps, "test_mean": None if trial.test is None else float(trial.test.mean())}
        lines.append({**line, "objective": 1.0 - number / 100})
    trials_file.write_trials(store, lines, {})
    return store.uri


def rows(trial_id: str, step: int, pool: str, right: Right) -> pa.Table:
    p, r = right.shape
    label = [("no", "yes")[i % 2] for i in range(r)] * p
    flat = right.ravel().tolist()
    other = {"no": "yes", "yes": "no"}
    return pa.table(
        {
            "trial_id": [trial_id] * (p * r),
            "rung": [step] * (p * r),
            "pool": [pool] * (p * r),
            "prompt_id": [f"p{j:03}" for j in range(p) for _ in range(r)],
            "row_id": [f"r{i:04}" for _ in range(p) for i in range(r)],
            "label": label,
            "predicted": [name if ok else other[name] for name, ok in zip(label, flat, strict=True)],
            "correct": flat,
            "label_logprobs": [None] * (p * r),
            "new_tokens": [None] * (p * r),
        },
        schema=SCORES,
    )


def _record(study: Study, step: int) -> dict[str, Any]:
    return {
        "rung": step, "seconds": 1.0, "tokens": 1, "curve": {"step": []},
        "trial": {"task": {"labels": list(study.task.names)}},
    }  # fmt: skip
