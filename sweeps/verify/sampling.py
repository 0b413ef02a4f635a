"""Whether a server draws its answers at random: the same questions, asked again, tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sweeps.prompts.endpoints import ModelAnswer
from sweeps.verify.compare import NATS, AnswerComparison, unlikely_choice
from sweeps.verify.reference import ReferenceAnswer, ReferenceModel

ROWS, TIMES = 8, 3  # that are asked again, each so often
Ask = Callable[[int, int], ModelAnswer]  # position of the row, seed


def evidence(
    model: ReferenceModel,
    here: Sequence[ReferenceAnswer],
    there: Sequence[ModelAnswer],
    found: AnswerComparison,
    ask: Ask,
) -> str:
    """What shows that answers are drawn at random; "" where nothing does. The rows that differ are asked again with
    other seeds, then those of which the model is least sure, where a draw would show first. An answer that changes only
    where two tokens are about as probable does not count: batches alone can do that."""
    unlikely = sum(unlikely_choice(answer, found.tolerance) for answer in there)
    if unlikely:
        return f"of {unlikely} answers the first token is not the one that the server itself calls most probable"
    ordered = [*(r.at for r in found.differing), *_least_sure(here, found.tolerance)]
    asked = list(dict.fromkeys(ordered))[:ROWS]
    changed = sum(_changes(model, here[i], there[i], i, ask, found.tolerance) for i in asked)
    return f"{changed} of {len(asked)} questions got another answer when they were asked again" if changed else ""


def _changes(
    model: ReferenceModel, mine: ReferenceAnswer, before: ModelAnswer, at: int, ask: Ask, tolerance: float
) -> bool:
    for seed in range(1, TIMES + 1):
        again = ask(at, seed)
        if again.text.strip() != before.text.strip():
            return max(model.lead(mine, again.text), model.lead(mine, before.text)) > NATS * tolerance
    return False


def _least_sure(here: Sequence[ReferenceAnswer], tolerance: float) -> list[int]:
    """Positions, least sure first, of answers whose every token is clearly the most probable one."""
    margins = [min(float(step.p[0] - step.p[1]) for step in answer.steps) for answer in here]
    return sorted((i for i, margin in enumerate(margins) if margin > tolerance), key=lambda i: margins[i])
