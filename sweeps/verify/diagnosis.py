"""Why a server's answers are not those of the exported adapter: found by trying each known fault here.

A set-up is named only if it gives what the server gave: the same number of tokens for each question, where the server
counts them, the same texts, and the same probabilities, where it tells them, all but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date

import numpy as np

from sweeps.prompts.endpoints import ModelAnswer
from sweeps.verify.compare import AnswerComparison, compare
from sweeps.verify.reference import ReferenceModel
from sweeps.verify.setups import ServerSetup, changed_questions, other_templates
from trainer.data.render import Request

MOST_ROWS = 48  # on which a set-up is tried


def faults(model: ReferenceModel, there: Sequence[ModelAnswer], found: AnswerComparison) -> list[ServerSetup]:
    """The set-ups that give the server's answers ``there``, of the simplest kind that does: one fault of the adapter or
    the question, then another chat template, then either of these together with a missing adapter or stop token."""
    at = _telling_rows(found)
    template, right = model.template, ServerSetup(model.template)
    changed = list(changed_questions(template, model.tokenizer, date.today()))
    others = list(other_templates(template))
    kinds: list[list[ServerSetup]] = [
        [right.without_adapter(), right.without_stop(), *changed],
        others,
        [s.without_adapter() for s in (*changed, *others)],
        [s.without_stop() for s in (*changed, *others)],
    ]
    explain = (_that_explain(model, kind, at, there, found.tolerance) for kind in kinds)
    return next((setups for setups in explain if setups), [])


def _telling_rows(found: AnswerComparison) -> list[int]:
    """Positions of the rows on which set-ups are tried: those that differ, and others."""
    ordered = [
        *found.differing,
        *found.other_lengths,
        *(sorted(found.rows, key=lambda r: -(r.gap.value if r.gap else 0))),
    ]
    return list(dict.fromkeys(r.at for r in ordered))[:MOST_ROWS]


def _that_explain(
    model: ReferenceModel,
    setups: Iterable[ServerSetup],
    at: Sequence[int],
    there: Sequence[ModelAnswer],
    tolerance: float,
) -> list[ServerSetup]:
    """Those of ``setups`` that give the answers, the first of each input."""
    answers = [there[i] for i in at]
    exported = model.requests(ServerSetup(model.template), at) or []
    tried: list[tuple[tuple[bool, bool], Sequence[Request]]] = [((True, True), exported)]
    ranked: list[tuple[int, ServerSetup]] = []
    for setup in setups:
        requests, kind = model.requests(setup, at) or [], (setup.adapter, setup.stops)
        if not requests or _counts_differ(requests, answers):
            continue
        if any(kind == other and _equal(requests, before) for other, before in tried):
            continue
        tried.append((kind, requests))
        given = compare(model, at, model.answers(setup, at, requests), answers, tolerance)
        if given.same:
            ranked.append((len(given.rounded), setup))
    fewest = min((rounded for rounded, _ in ranked), default=0)
    return [setup for rounded, setup in ranked if rounded == fewest]


def _counts_differ(requests: Sequence[Request], answers: Sequence[ModelAnswer]) -> bool:
    return any(a.prompt_tokens not in (None, len(r.context)) for r, a in zip(requests, answers, strict=True))


def _equal(a: Sequence[Request], b: Sequence[Request]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x.context, y.context) for x, y in zip(a, b, strict=True))
