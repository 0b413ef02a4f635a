"""Random search: candidates are drawn without replacement and scored on the same rows until the budget is spent.

It is the baseline for the other searches: their strategy is worth what they gain over it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from sweeps.prompt_search.race import spread_rows
from sweeps.prompt_search.result import Evaluation, SearchResult, best_of
from sweeps.prompt_search.scorer import Scorer
from trainer.data.rows import Row
from trainer.data.wording import Prompt
from trainer.errors import UserError


def random_search(
    candidates: Sequence[Prompt], scorer: Scorer, rows: Sequence[Row], n_rows: int = 100, seed: int = 0
) -> SearchResult:
    """Raises UserError where the budget does not pay for one prompt on ``n_rows`` rows."""
    part = spread_rows(rows, seed)[:n_rows]
    order = list(candidates)
    random.Random(seed).shuffle(order)
    scorer.prepare(order, part)
    evaluated: list[Evaluation] = []
    for prompt in order:
        if scorer.left < len(part):
            break
        score = scorer.score(prompt, part)
        evaluated.append(Evaluation(prompt, score, len(part), scorer.spent.scorings))
    require_one(evaluated, scorer, len(part))
    return best_of(evaluated)


def require_one(evaluated: Sequence[Evaluation], scorer: Scorer, n_rows: int) -> None:
    if not evaluated:
        raise UserError(
            f"--budget = {scorer.limit} does not pay for one prompt on {n_rows} rows. Raise the budget, or lower --rows"
        )
