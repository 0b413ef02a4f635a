"""What a prompt search gives back: the prompt it chose, and every prompt that it scored on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trainer.data.wording import Prompt


@dataclass(frozen=True)
class Evaluation:
    """One prompt scored on ``rows`` rows. ``score`` is the metric (for BATprompt its mean over the sets of rows)."""

    prompt: Prompt
    score: float
    rows: int
    scorings: int  # spent by the search up to and with this evaluation


@dataclass(frozen=True)
class SearchResult:
    """The chosen prompt. ``score`` is the highest of many measured scores, so it is too high: expect less on other
    rows."""

    prompt: Prompt
    score: float
    rows: int
    evaluated: list[Evaluation] = field(default_factory=list)


def best_of(evaluated: Sequence[Evaluation]) -> SearchResult:
    """The highest score. Among equal scores the one on most rows is taken, then the first."""
    top = max(evaluated, key=lambda e: (e.score, e.rows))  # max keeps the first of equals
    return SearchResult(top.prompt, top.score, top.rows, list(evaluated))
