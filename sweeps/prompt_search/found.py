"""What a search gives back, and what all searches share: the order of rows, the race between prompts."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from sweeps.prompt_search.scorer import Scorer
from trainer.data.rows import Row
from trainer.data.wording import Prompt

METHODS = ("top-accuracy", "batprompt", "zopo", "random")  # as the command line names the searches
LEAST = 4  # rows that a prompt is scored on in a race


@dataclass(frozen=True)
class Evaluated:
    """``score``: the metric on ``rows`` rows (of BATprompt: the mean over its sets of rows)."""

    prompt: Prompt
    score: float
    rows: int
    scorings: int  # spent by the search when this was known


@dataclass(frozen=True)
class Found:
    """``score`` is what the search measured, the best of many: higher than what other rows will show."""

    prompt: Prompt
    score: float
    rows: int
    evaluated: list[Evaluated] = field(default_factory=list)


def spread_rows(rows: Sequence[Row], seed: int) -> list[Row]:
    """All rows, shuffled so that the first n hold the labels in about the shares of the whole, for every n."""
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


def best_of(evaluated: Sequence[Evaluated]) -> Found:
    """The highest score; of equal ones the one on most rows, then the first."""
    top = max(evaluated, key=lambda e: (e.score, e.rows))  # max keeps the first of equals
    return Found(top.prompt, top.score, top.rows, list(evaluated))


def race(
    prompts: Sequence[Prompt],
    rows: Sequence[Row],
    scorer: Scorer,
    scorings: float,
    least: int = LEAST,
    known: int = 0,
) -> list[Evaluated]:
    """Successive halving: all prompts on a few rows, the better half on twice as many, and so on until one is left or
    ``scorings`` are spent or all rows are used. Best first, by rows seen and then score; ties keep the order given.

    The first round's rows are such that the rounds use up ``scorings``, ``least`` at least. ``known``: of the first
    rows, all prompts have been scored on so many before, which costs nothing again."""
    if not prompts:
        return []
    scorings = min(scorings, scorer.left, len(prompts) * len(rows))
    end = scorer.spent.scorings + scorings
    alive = list(prompts)
    result: dict[str, Evaluated] = {}
    n = min(len(rows), max(least, int(scorings / (len(alive) * (1 + math.log2(len(alive)) / 2)))))
    while alive:
        seen = next((result[p.id].rows for p in alive if p.id in result), known)  # all of them on the same rows
        able = int((end - scorer.spent.scorings) // max(1, n - seen))
        if able < len(alive) and result:
            break  # half a round would compare prompts on different rows
        alive = alive[:able]
        scorer.prepare(alive, rows[:n])
        scored = []
        for prompt in alive:
            score = scorer.score(prompt, rows[:n])
            scored.append(Evaluated(prompt, score, n, scorer.spent.scorings))
        result.update({e.prompt.id: e for e in scored})
        if n == len(rows) or len(scored) <= 1:
            break
        scored.sort(key=lambda e: -e.score)
        alive = [e.prompt for e in scored[: (len(scored) + 1) // 2]]
        n = min(2 * n, len(rows))
    return sorted(result.values(), key=lambda e: (-e.rows, -e.score))


def final_race(
    evaluated: Sequence[Evaluated], rows: Sequence[Row], scorer: Scorer, scorings: float, most: int = 8
) -> Found:
    """The winner of a race between the best ``most`` of ``evaluated``, on rows beyond those they were found on; the
    highest score, where ``scorings`` do not pay for one. The best of many noisy scores is in large part luck."""
    best = sorted(evaluated, key=lambda e: -e.score)[:most]
    seen = max(e.rows for e in evaluated)
    entered = [e.prompt for e in best]
    ranked = (
        race(entered, rows, scorer, scorings, least=min(len(rows), 2 * seen), known=seen) if len(rows) > seen else []
    )
    if not ranked:
        return best_of(evaluated)
    return Found(ranked[0].prompt, ranked[0].score, ranked[0].rows, [*evaluated, *ranked])
