"""``timing.json``: what ``steadytune time`` has measured of a run's trials."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.errors import UserError
from trainer.store import Store

TIMING_FILE = "timing.json"


@dataclass(frozen=True)
class Timing:
    batch: int = 0
    answers: int = 0  # of each trial
    max_new_tokens: int = 0
    device: str = ""
    threads: int = 0
    trials: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)  # label_ms, generate_ms, …

    def of(self, trial_id: str) -> Mapping[str, float | None]:
        return self.trials.get(trial_id, {})


def read_timing(store: Store) -> Timing:
    """What was measured; empty where nothing was. Raises UserError for a damaged file."""
    if not store.exists(TIMING_FILE):
        return Timing()
    try:
        found: dict[str, Any] = json.loads(store.read(TIMING_FILE))
        return Timing(**{name: found[name] for name in Timing.__dataclass_fields__})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{store.address(TIMING_FILE)}: is damaged ({error}). Remove it, and run steadytune time again"
        ) from None
