"""What counts as the same: rounding, spellings of tokens, tokens with the same text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from small_tokenizers import byte_level, llama_like

from sweeps.prompts.endpoints import ModelAnswer
from sweeps.prompts.first_token import FirstToken
from sweeps.verify.compare import (
    NATS,
    AnswerComparison,
    ProbabilityGap,
    RowComparison,
    _probability_gaps,
    unlikely_choice,
)
from trainer.score.steps import Step

TOLERANCE = 0.1
NEAR, FAR = NATS * TOLERANCE, NATS * TOLERANCE + 0.01


def rows(*leads: float | None, more: int | None = None, gap: float | None = None) -> AnswerComparison:
    """Rows with the same text (None) or another one."""
    found = None if gap is None else ProbabilityGap(gap, "x", 0.0, gap)
    made = [RowComparison(i, x is None, x is None, x or 0.0, more, found) for i, x in enumerate(leads)]
    return AnswerComparison(tuple(made), TOLERANCE)


def test_a_text_that_turns_at_a_near_tie_is_rounding() -> None:
    found = rows(NEAR, *[None] * 9)
    assert ([r.at for r in found.rounded], found.differing, found.same) == ([0], [], True)


def test_a_text_that_turns_where_the_model_is_sure_is_not() -> None:
    found = rows(FAR, *[None] * 99)
    assert ([r.at for r in found.differing], found.same) == ([0], False)


def test_rounding_turns_few_texts() -> None:
    assert rows(*[NEAR] * 2, *[None] * 18).same
    many = rows(*[NEAR] * 3, *[None] * 18)
    assert (len(many.differing), many.rounded, many.same) == (3, [], False)


@pytest.mark.parametrize(
    ("more", "gap", "same"), [(0, 0.1, True), (None, None, True), (1, None, False), (-2, 0.0, False), (0, 0.11, False)]
)
def test_counts_and_probabilities_count_where_all_texts_are_the_same(
    more: int | None, gap: float | None, same: bool
) -> None:
    assert rows(None, None, more=more, gap=gap).same is same


SPELLINGS: dict[str, Callable[[Any, int], str]] = {
    "decoded": lambda tokenizer, token: str(tokenizer.decode([token])),
    "pieces": lambda tokenizer, token: str(tokenizer.convert_ids_to_tokens(token)),
    "spaces": lambda tokenizer, token: tokenizer.convert_ids_to_tokens(token).replace("▁", " ").replace("Ġ", " "),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("family", [llama_like, byte_level])
def test_tokens_are_found_however_a_server_spells_them(family: Callable[[], Any], spelling: str) -> None:
    tokenizer = family()
    ids = [tokenizer(text, add_special_tokens=False).input_ids[-1] for text in (" yes", " no", "s", " fox", " the")]
    assert len(set(ids)) == len(ids)
    p = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    listed = [(SPELLINGS[spelling](tokenizer, i), float(q)) for i, q in zip(ids, p, strict=True)]
    other = [(text, q + d) for (text, q), d in zip(listed, [0, 0.02, 0, 0, -0.02], strict=True)]
    here = [Step(np.array(ids), p)] * 3
    there = [*(FirstToken(listed[0][0], tuple(x)) for x in (listed, other)), None]
    same, moved, none = _probability_gaps(tokenizer, here, there)
    assert same is not None
    assert same.value == 0
    assert moved is not None
    assert moved.value == pytest.approx(0.02)
    assert none is None


def test_a_token_that_is_not_expected_here_counts_whole() -> None:
    tokenizer = byte_level()
    token = tokenizer("yes", add_special_tokens=False).input_ids[0]
    there = FirstToken("Surely", (("Surely", 0.9), (tokenizer.decode([token]), 0.1)))
    [gap] = _probability_gaps(tokenizer, [Step(np.array([token]), np.array([0.95]))], [there])
    assert gap == ProbabilityGap(0.9, "Surely", 0.0, 0.9)


def test_a_first_token_that_is_not_the_servers_likeliest_was_drawn() -> None:
    top = (("yes", 0.8), ("no", 0.15), ("yes", 0.01))
    answers = [ModelAnswer("", 1, 1, first=f) for f in (FirstToken("no", top), FirstToken("yes", top), None)]
    assert [unlikely_choice(a, TOLERANCE) for a in answers] == [True, False, False]
    assert not unlikely_choice(ModelAnswer("", 1, 1, first=FirstToken("b", (("a", 0.5), ("b", 0.45)))), TOLERANCE)
