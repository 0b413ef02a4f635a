"""``stages.json`` in the run folder: what each stage compared, what it chose and why.

On the next start a finished stage is read from here instead of being decided again, if it would compare the same trials
(by id) by the same rule. Tables and report read this file and the score files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.errors import UserError
from trainer.store import Store
from trainer.trial import digest

STAGES_FILE = "stages.json"
RULE = 1  # to be raised when the same scores may lead to another choice
Stage = dict[str, Any]


class StageRecords:
    """The records of the stages, in the order in which they were decided."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.stages: list[Stage] = []
        self.answer: dict[str, Any] | None = None
        self._earlier = {stage["key"]: stage for stage in (read(store) or {"stages": []})["stages"]}

    def earlier(self, key: str) -> Stage | None:
        """The record that an earlier start has made of the stage with this key."""
        return self._earlier.get(key)

    def add(self, stage: Mapping[str, Any]) -> Stage:
        made = dict(stage)
        self.stages.append(made)
        self.write()
        return made

    def write(self) -> None:
        content = {"format": 1, "stages": self.stages, "answer": self.answer}
        self.store.write(
            STAGES_FILE, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
        )


def read(store: Store) -> dict[str, Any] | None:
    """The file's content; None if the run has no stages. Raises UserError if it cannot be read."""
    if not store.exists(STAGES_FILE):
        return None
    try:
        content: dict[str, Any] = json.loads(store.read(STAGES_FILE))
        if content["format"] != 1 or not isinstance(content["stages"], list):
            raise ValueError(f"its format is {content['format']}")
        return content
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{store.address(STAGES_FILE)}: is not a record of stages ({error}). Remove it and run the study again: "
            "its trials are kept, and the stages are decided anew"
        ) from None


def key(name: str, trials: Sequence[Sequence[str]], **settings: Any) -> str:
    """Equal for two stages that compare the same trials by the same rule and settings."""
    return digest({"rule": RULE, "name": name, "trials": [list(t) for t in trials], **settings})[:16]
