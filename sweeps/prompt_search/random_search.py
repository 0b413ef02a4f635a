"""Random search: candidates are drawn without replacement and scored on the same rows until the budget is spent.

It is the baseline for the other searches: their strategy is worth what they gain over it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from sweeps.prompt_search.race import final_race, spread_rows
from sweeps.prompt_search.result import Evaluation, SearchResult, best_of
from sweeps.prompt_search.scorer import Scorer
from sweeps.prompt_search.settings import RandomSettings
from trainer.data.rows import Row
from trainer.data.wording import Prompt
from trainer.errors import UserError


def random_search(
    candidates: Sequence[Prompt],
    scorer: Scorer,
    rows: Sequence[Row],
    settings: RandomSettings | None = None,
    seed: int = 0,
) -> SearchResult:
    """Raises UserError where the budget does not pay for one prompt."""
    s = settings or RandomSettings()
    spread = spread_rows(rows, seed)
    part = spread[: s.rows]
    reserve = s.end_share * scorer.left if s.end_share and scorer.limit is not None else 0.0
    order = list(candidates)
    random.Random(seed).shuffle(order)
    scorer.prepare(order[: int((scorer.left - reserve) // len(part))] if scorer.limit is not None else order, part)
    evaluated: list[Evaluation] = []
    for prompt in order:
        if scorer.left - reserve < len(part):
            break
        score = scorer.score(prompt, part)
        evaluated.append(Evaluation(prompt, score, len(part), scorer.spent.scorings))
    require_one(evaluated, scorer, len(part))
    return final_race(evaluated, spread, scorer, reserve) if s.end_share else best_of(evaluated)


def require_one(evaluated: Sequence[Evaluation], scorer: Scorer, n_rows: int) -> None:
    if not evaluated:
        raise UserError(
            f"--budget = {scorer.limit} does not pay for one prompt on {n_rows} rows. Raise the budget, or lower --rows"
        )
