"""``stages.json`` in the run folder: what each stage compared, what it chose and why.

On the next start a finished stage is read from here instead of being decided again, if it would compare the same trials
(by id) by the same rule. Tables and report read this file and the score files. The file carries a checksum.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, StrictBool, StrictInt, StrictStr, ValidationError

from trainer.errors import UserError
from trainer.files import checksum
from trainer.store import Store
from trainer.trial import digest

log = logging.getLogger("steadytune")

STAGES_FILE = "stages.json"
RULE = 2  # to be raised when the same scores may lead to another choice
Stage = dict[str, Any]
Number = float | None


class _CandidateShape(BaseModel):
    """The fields of a candidate that readers rely on; so with the classes below."""

    candidate: StrictStr
    trials: list[StrictStr]
    objective: Number
    mean: Number
    std: Number
    min: Number
    gap: Number
    gap_low: Number
    gap_high: Number
    p: Number = None
    p_holm: Number = None
    heavy_tails: StrictBool = False
    leader: StrictBool
    tied: StrictBool
    taken: StrictBool
    degenerate: StrictBool
    whole: StrictBool


class _RowShape(BaseModel):
    template: StrictStr
    lora: StrictStr
    plw: StrictStr
    pool: StrictStr
    seed: StrictStr
    trial: StrictStr
    objective: Number
    mean: Number
    degenerate: StrictBool


class _TestShape(BaseModel):
    factors: list[StrictStr]
    f: Number
    df: StrictInt
    df_residual: StrictInt
    p: float
    p_permutation: float
    p_holm: float


class _CellShape(BaseModel):
    template: StrictStr
    lora: StrictStr
    objective: float


class _StageShape(BaseModel):
    stage: StrictInt
    name: StrictStr
    title: StrictStr
    key: StrictStr
    reason: StrictStr
    taken: StrictStr = ""
    leader: StrictStr = ""
    seeds: StrictInt = 1
    warnings: list[StrictStr] = []
    candidates: list[_CandidateShape] = []
    rows: list[_RowShape] = []
    tests: list[_TestShape] = []
    cells: list[_CellShape] = []
    shares: dict[str, tuple[Number, Number, Number]] = {}
    settings: dict[str, StrictStr] = {}
    seed_std: Number = None


class _AnswerShape(BaseModel):
    kind: StrictStr
    sentence: StrictStr
    command: StrictStr | None
    lucky: list[StrictStr]
    choice: dict[str, Any]


class _FileShape(BaseModel):
    format: StrictInt
    stages: list[_StageShape]
    answer: _AnswerShape | None


class StageRecords:
    """The records of the stages, in the order in which they were decided."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.stages: list[Stage] = []
        self.answer: dict[str, Any] | None = None
        self._earlier = {stage["key"]: stage for stage in self._read_earlier()}

    def _read_earlier(self) -> list[Stage]:
        """The stages of an earlier start. A damaged file is set aside: they are decided anew, from the same scores."""
        try:
            found = read(self.store)
        except UserError as error:
            log.warning("%s. It is set aside as .corrupt, and the stages are decided anew", error)
            self.store.set_aside(STAGES_FILE)
            return []
        return found["stages"] if found else []

    def earlier(self, key: str) -> Stage | None:
        """The record that an earlier start has made of the stage with this key."""
        return self._earlier.get(key)

    def add(self, stage: Mapping[str, Any]) -> Stage:
        made = dict(stage)
        self.stages.append(made)
        self.write()
        return made

    def write(self) -> None:
        content = {**checksum.METADATA, "format": 1, "stages": self.stages, "answer": self.answer}
        data = (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
        self.store.write(STAGES_FILE, checksum.fill(data, STAGES_FILE))


def read(store: Store) -> dict[str, Any] | None:
    """The file's content; None if the run has no stages. Raises UserError if it cannot be read."""
    if not store.exists(STAGES_FILE):
        return None
    data = store.read(STAGES_FILE)
    try:
        content: dict[str, Any] = json.loads(data)
        found = _FileShape.model_validate(content)
        if found.format != 1:
            raise ValueError(f"its format is {found.format}")
        unknown = {c.lora for s in found.stages for c in s.cells if c.lora not in s.settings}
        if unknown:
            raise ValueError(f"its LoRA setting {min(unknown)} is not described")
        if checksum.state(data, STAGES_FILE) == "damaged":
            raise ValueError("its bytes are not those that were written: its checksum differs")
        return content
    except (ValidationError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{store.address(STAGES_FILE)}: is not a record of stages ({_why(error)}). Remove it and run the study "
            "again: its trials are kept, and the stages are decided anew"
        ) from None


def _why(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def key(name: str, trials: Sequence[Sequence[str]], **settings: Any) -> str:
    """Equal for two stages that compare the same trials by the same rule and settings."""
    return digest({"rule": RULE, "name": name, "trials": [list(t) for t in trials], **settings})[:16]
