"""``RungReport``: one rung of a trial, as the scheduler compares it and Tune carries it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from trainer.measure.metrics import objective
from trainer.trial import Trial

REPORT = "report"  # the key of a Tune result that holds one


@dataclass(frozen=True)
class RungReport:
    """What a trial reports when it has been scored at a rung."""

    trial_id: str
    rung_index: int  # from 0
    step: int  # optimizer steps so far
    objective: float  # on the dev prompts; NaN where training or scoring gave NaN
    stderr: float = math.nan  # of the objective
    degenerate: bool = False  # one answer nearly always, or none that could be read
    seconds: float = 0.0  # of the accelerator, training and scoring
    tokens: int = 0  # trained on since the rung before
    replayed: bool = False  # read from the run folder
    reason: str = ""  # of an objective that is NaN
    unread: bool = False  # degenerate because nearly no generated answer could be read
    std: float = 0.0  # of the metric over the dev prompts

    @classmethod
    def of(
        cls, trial: Trial, rung_index: int, rows: pa.Table, record: Mapping[str, Any], std_weight: float
    ) -> RungReport:
        """From the score rows of the rung and their record. Raises ``ScoreError`` where the rows are no whole grid."""
        shared: dict[str, Any] = {
            "trial_id": trial.id,
            "rung_index": rung_index,
            "step": record["rung"],
            "seconds": record["seconds"],
            "tokens": record["tokens"],
            "replayed": record.get("replayed", False),
        }
        if "nan" in record:
            return cls(**shared, objective=math.nan, reason=record["nan"])
        where = f"trial {trial.id}, rung {record['rung']}"
        scored = objective(rows, trial.task.metric, std_weight, trial.task.labels, where, record.get("sample"))
        return cls(
            **shared,
            objective=scored.value,
            stderr=scored.stderr,
            degenerate=scored.degenerate,
            unread=scored.unread,
            std=scored.std,
        )

    @property
    def note(self) -> str:
        """Why a degenerate trial ranks below every other one."""
        if self.unread:
            return "its answers could not be read"
        return "degenerate: one answer nearly always" if self.degenerate else ""

    def encode(self) -> dict[str, Any]:
        """As a Tune result: the objective, and the report as one text. Tune keeps statistics of every number in every
        result and writes them down at the end, which over thousands of trials is most of the driver's work."""
        return {"objective": self.objective, REPORT: json.dumps(asdict(self))}

    @classmethod
    def decode(cls, result: Mapping[str, Any]) -> RungReport | None:
        """The report in a Tune result; None where it has none, as in the result of a trial that failed."""
        return cls(**json.loads(result[REPORT])) if REPORT in result else None
