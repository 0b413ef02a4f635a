"""How far two ways to answer the same rows lie apart: what an export of merged weights measures, and its card says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.predictor import Prediction


@dataclass(frozen=True)
class AnswerDifference:
    """Over ``rows`` rows."""

    rows: int
    changed: int  # answers that are others
    scores: float | None  # largest difference of a label's log-probability, in nats; None where answers are generated


@dataclass(frozen=True)
class MergeFigures:
    """What was measured of merged weights. The differences are None where no dev rows were at hand (``unmeasured``)."""

    dtype: str  # of the written weights
    rounding: AnswerDifference | None  # in float32: merged weights, and base with adapter
    written: AnswerDifference | None  # the written weights, and base with adapter as it was trained
    of_rows: int = 0  # dev rows of the study
    prompt: str = ""  # id of the wording that they were asked in
    unmeasured: str = ""


def difference(found: Sequence[Prediction], expected: Sequence[Prediction]) -> AnswerDifference:
    """Between the answers to the same rows."""
    pairs = list(zip(found, expected, strict=True))
    gaps = [abs(a.scores - b.scores).max() for a, b in pairs if a.scores is not None and b.scores is not None]
    changed = sum((a.index, a.text) != (b.index, b.text) for a, b in pairs)
    return AnswerDifference(len(pairs), changed, float(max(gaps)) if gaps else None)
