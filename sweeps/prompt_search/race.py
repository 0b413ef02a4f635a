"""The order in which rows are used, and the race between prompts: what all searches share."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from sweeps.prompt_search.result import Evaluation, SearchResult, best_of
from sweeps.prompt_search.scorer import Scorer
from trainer.data.rows import Row
from trainer.data.wording import Prompt

LEAST = 4  # rows that a prompt is scored on in the first round of a race
FINALISTS = 8  # prompts in the race at the end of a search


def spread_rows(rows: Sequence[Row], seed: int) -> list[Row]:
    """All rows, shuffled so that for every n the labels have about the same shares in the first n as in the whole."""
    rng = random.Random(seed)
    by_label: dict[str, list[Row]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append(row)
    places = []
    for label in sorted(by_label):
        group = by_label[label]
        rng.shuffle(group)
        start = rng.random()
        places += [((i + start) / len(group), label, row) for i, row in enumerate(group)]
    return [row for _, _, row in sorted(places, key=lambda p: p[:2])]


def race(
    prompts: Sequence[Prompt],
    rows: Sequence[Row],
    scorer: Scorer,
    scorings: float,
    least: int = LEAST,
    known: int = 0,
) -> list[Evaluation]:
    """Successive halving: score all prompts on a few rows, keep the better half, score it on twice as many rows, and
    so on until one prompt is left, ``scorings`` are spent, or all rows are used. Returns the evaluations sorted by the
    number of rows and then by score, best first; ties keep the given order.

    The number of rows in the first round is chosen so that the rounds together use up ``scorings``; it is at least
    ``least``. ``known`` is the number of first rows on which all prompts have been scored before: scoring them again
    costs nothing."""
    if not prompts:
        return []
    scorings = min(scorings, scorer.left, len(prompts) * len(rows))
    end = scorer.spent.scorings + scorings
    alive = list(prompts)
    result: dict[str, Evaluation] = {}
    n = min(len(rows), max(least, int(scorings / (len(alive) * (1 + math.log2(len(alive)) / 2)))))
    while alive:
        seen = next((result[p.id].rows for p in alive if p.id in result), known)  # the same for all of them
        affordable = int((end - scorer.spent.scorings) // max(1, n - seen))
        if affordable < len(alive) and result:
            break  # half a round would compare prompts on different rows
        alive = alive[:affordable]
        scorer.prepare(alive, rows[:n])
        scored = []
        for prompt in alive:
            score = scorer.score(prompt, rows[:n])
            scored.append(Evaluation(prompt, score, n, scorer.spent.scorings))
        result.update({e.prompt.id: e for e in scored})
        if n == len(rows) or len(scored) <= 1:
            break
        scored.sort(key=lambda e: -e.score)
        alive = [e.prompt for e in scored[: (len(scored) + 1) // 2]]
        n = min(2 * n, len(rows))
    return sorted(result.values(), key=lambda e: (-e.rows, -e.score))


def final_race(evaluated: Sequence[Evaluation], rows: Sequence[Row], scorer: Scorer, scorings: float) -> SearchResult:
    """The winner of a race between the ``FINALISTS`` best of ``evaluated``, on more rows than they were scored on so
    far, since the best of many noisy scores is in large part luck. Where ``scorings`` do not pay for a race, the
    prompt with the highest score."""
    best = sorted(evaluated, key=lambda e: -e.score)[:FINALISTS]
    seen = max(e.rows for e in evaluated)
    entered = [e.prompt for e in best]
    ranked = (
        race(entered, rows, scorer, scorings, least=min(len(rows), 2 * seen), known=seen) if len(rows) > seen else []
    )
    if not ranked:
        return best_of(evaluated)
    return SearchResult(ranked[0].prompt, ranked[0].score, ranked[0].rows, [*evaluated, *ranked])
