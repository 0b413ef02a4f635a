"""Random search: candidates drawn without replacement, each on the same rows, until the budget is spent.

The yardstick for the other searches: what they find beyond it is what their strategy is worth.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from sweeps.prompt_search.found import Evaluated, Found, best_of, spread_rows
from sweeps.prompt_search.scorer import Scorer
from trainer.data.rows import Row
from trainer.data.wording import Prompt
from trainer.errors import UserError


def random_search(
    candidates: Sequence[Prompt], scorer: Scorer, rows: Sequence[Row], n_rows: int = 100, seed: int = 0
) -> Found:
    """Raises UserError where the budget does not pay for one prompt on ``n_rows`` rows."""
    part = spread_rows(rows, seed)[:n_rows]
    order = list(candidates)
    random.Random(seed).shuffle(order)
    scorer.prepare(order, part)
    evaluated: list[Evaluated] = []
    for prompt in order:
        if scorer.left < len(part):
            break
        score = scorer.score(prompt, part)
        evaluated.append(Evaluated(prompt, score, len(part), scorer.spent.scorings))
    require_one(evaluated, scorer, len(part))
    return best_of(evaluated)


def require_one(evaluated: Sequence[Evaluated], scorer: Scorer, n_rows: int) -> None:
    if not evaluated:
        raise UserError(
            f"--budget = {scorer.limit} does not pay for one prompt on {n_rows} rows. Raise the budget, or lower --rows"
        )
