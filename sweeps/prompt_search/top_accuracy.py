"""TopAccuracy: the candidate with the best metric on the training rows (PAFT's baseline of that name).

Without a budget every candidate is scored on every training row, as in the paper. With a budget all candidates are
scored on the same part of the rows, which has the labels in about the same shares and is as large as the budget allows.
"""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.prompt_search.race import spread_rows
from sweeps.prompt_search.result import Evaluation, SearchResult, best_of
from sweeps.prompt_search.scorer import Scorer
from trainer.data.rows import Row
from trainer.data.wording import Prompt
from trainer.errors import UserError


def top_accuracy(candidates: Sequence[Prompt], scorer: Scorer, rows: Sequence[Row], seed: int = 0) -> SearchResult:
    """Raises UserError where the budget allows less than one row per candidate."""
    n = len(rows) if scorer.limit is None else min(len(rows), scorer.limit // len(candidates))
    if n < 1:
        raise UserError(
            f"--budget = {scorer.limit} is less than one scoring for each of {len(candidates)} candidates. "
            f"Give {len(candidates)} at least; the paper's TopAccuracy takes {len(candidates) * len(rows)}"
        )
    part = spread_rows(rows, seed)[:n]
    scorer.prepare(candidates, part)
    evaluated = []
    for prompt in candidates:
        score = scorer.score(prompt, part)
        evaluated.append(Evaluation(prompt, score, n, scorer.spent.scorings))
    return best_of(evaluated)
