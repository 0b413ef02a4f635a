"""What a scheduler is told of one rung of a trial."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from trainer.measure.metrics import objective
from trainer.trial import Trial


def report_of(
    trial: Trial, rung_index: int, rows: pa.Table, record: Mapping[str, Any], std_weight: float
) -> dict[str, Any]:
    """What Tune is told of one rung: the dev objective and what it came from."""
    told = {
        "id": trial.id,
        "rung_index": rung_index,
        "step": record["rung"],
        "seconds": record["seconds"],
        "tokens": record["tokens"],
        "replayed": record.get("replayed", False),
    }
    if "nan" in record:
        return {**told, "objective": math.nan, "stderr": math.nan, "degenerate": False, "why": record["nan"]}
    where = f"trial {trial.id}, rung {record['rung']}"
    found = objective(rows, trial.task.metric, std_weight, trial.task.labels, where, record.get("sample"))
    return {**told, "objective": found.value, "stderr": found.stderr, "degenerate": found.degenerate}


def told_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """The report in a Tune result. It travels as one text: of every number in a result Tune keeps statistics for every
    trial, and writes them down at the end; over thousands of trials most of the driver's work and memory."""
    return {**result, **json.loads(result.get("report", "{}"))}
