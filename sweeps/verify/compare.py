"""A server's answers held against those of this machine, row by row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.prompts.endpoints import ModelAnswer
from sweeps.prompts.first_token import FirstToken
from sweeps.verify.reference import ReferenceAnswer, ReferenceModel
from trainer.score.steps import Step

Spelling = Callable[[int], str]
NATS = 2.0  # by which rounding may change the order of two tokens, for each unit by which it may move a probability
MOST_ROUNDED = 0.1  # share of the rows in which rounding may change the text


@dataclass(frozen=True)
class ProbabilityGap:
    """The token of one row whose probability as the answer's first one differs most."""

    value: float
    token: str
    here: float
    there: float


@dataclass(frozen=True)
class RowComparison:
    """``lead``: see ``ReferenceModel.lead``. ``more_tokens``: those of the question that the server counted beyond
    ours; None where it counts none. ``gap`` is None where it gave no log-probabilities."""

    at: int  # the row's position among those asked
    same_text: bool
    same_answer: bool
    lead: float
    more_tokens: int | None
    gap: ProbabilityGap | None


@dataclass(frozen=True)
class AnswerComparison:
    rows: tuple[RowComparison, ...]
    tolerance: float  # a difference of probabilities up to which rounding may be the reason

    @property
    def differing(self) -> list[RowComparison]:
        """Rows with another text that rounding does not explain. It turns few answers: where too many differ, all
        count."""
        other = [r for r in self.rows if not r.same_text]
        near = [r for r in other if r.lead <= NATS * self.tolerance]
        return other if len(near) > max(1, MOST_ROUNDED * len(self.rows)) else [r for r in other if r not in near]

    @property
    def rounded(self) -> list[RowComparison]:
        """Rows with another text at a place where two tokens are about as probable."""
        far = self.differing
        return [r for r in self.rows if not r.same_text and r not in far]

    @property
    def other_lengths(self) -> list[RowComparison]:
        """Rows of whose question the server counted another number of tokens."""
        return [r for r in self.rows if r.more_tokens]

    @property
    def largest(self) -> RowComparison | None:
        """The row with the largest gap, where there are log-probabilities."""
        return max((r for r in self.rows if r.gap), key=lambda r: r.gap.value if r.gap else 0.0, default=None)

    @property
    def same(self) -> bool:
        """Whether nothing differs but by rounding."""
        gap = self.largest.gap.value if self.largest and self.largest.gap else 0.0
        return not self.differing and not self.other_lengths and gap <= self.tolerance


def compare(
    model: ReferenceModel,
    at: Sequence[int],
    here: Sequence[ReferenceAnswer],
    there: Sequence[ModelAnswer],
    tolerance: float,
) -> AnswerComparison:
    """``here[i]`` and ``there[i]`` answer the row at the position ``at[i]``."""
    gaps = _probability_gaps(model.tokenizer, [a.steps[0] for a in here], [a.first for a in there])
    rows = []
    for i, mine, theirs, gap in zip(at, here, there, gaps, strict=True):
        lead = model.lead(mine, theirs.text)
        same = theirs.text.strip() == mine.text.strip()
        counted = theirs.prompt_tokens
        more = None if counted is None else counted - mine.question_tokens
        rows.append(RowComparison(i, same, model.index_of(theirs.text, i) == mine.index, lead, more, gap))
    return AnswerComparison(tuple(rows), tolerance)


def unlikely_choice(answer: ModelAnswer, tolerance: float) -> bool:
    """Whether the server took another first token than its own most probable one, as greedy decoding never does."""
    if answer.first is None:
        return False
    best = answer.first.top[0]
    taken = dict(reversed(answer.first.top)).get(answer.first.text, 0.0)
    return best[1] - taken > tolerance


def _probability_gaps(
    tokenizer: Any, here: Sequence[Step], there: Sequence[FirstToken | None]
) -> list[ProbabilityGap | None]:
    """One for each row. Servers spell tokens in different ways: of those known, the one with which they differ least
    over all rows is taken."""
    found = [
        [None if b is None else _gap(a, b, spell) for a, b in zip(here, there, strict=True)]
        for spell in _spellings(tokenizer)
    ]
    return min(found, key=lambda gaps: sum(g.value for g in gaps if g))


def _spellings(tokenizer: Any) -> list[Spelling]:
    """A token's text: decoded alone; its piece in the vocabulary; the piece with spaces for the signs that stand for
    them."""

    def piece(token: int) -> str:
        return str(tokenizer.convert_ids_to_tokens(token))

    return [
        lambda token: str(tokenizer.decode([token])),
        piece,
        lambda token: piece(token).replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n"),
    ]


def _gap(here: Step, there: FirstToken, spell: Spelling) -> ProbabilityGap:
    """The largest difference over the tokens that the server names. Of tokens with the same text, the most probable of
    one side is held against the most probable of the other."""
    mine = _by_text((spell(int(i)), float(p)) for i, p in zip(here.ids, here.p, strict=True))
    largest = ProbabilityGap(0.0, there.text, 0.0, 0.0)
    for text, theirs in _by_text(there.top).items():
        ours = mine.get(text, [])
        for k, p in enumerate(theirs):
            own = ours[k] if k < len(ours) else 0.0
            if abs(p - own) >= largest.value:
                largest = ProbabilityGap(abs(p - own), text, own, p)
    return largest


def _by_text(tokens: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    found = defaultdict(list)
    for text, p in tokens:
        found[text].append(p)
    return {text: sorted(values, reverse=True) for text, values in found.items()}
