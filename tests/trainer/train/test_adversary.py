"""The arm that looks for the worst wordings: its candidates, what it finds in a simulated model, its bound and cost."""

# ruff: noqa: F811  (a fixture of another file is taken by its name)
from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from runner_trials import ASSETS, model, trial  # noqa: F401  (a fixture)

from trainer.data.wording import Prompt, placeholders
from trainer.train.adversary import CandidateWording, WorstWordings, candidates_of
from trainer.train.batches import ExampleOrder
from trainer.trial import Arm, Draw, Optimization, Template

POOL = [Prompt(f"p{i}", f"{ask} {{{{ text }}}}") for i, ask in enumerate(
    ["Does the writer of this message sound unhappy?", "Unhappy, yes or no:", "Please say whether they complain:"]
)]  # fmt: skip


def test_candidates_are_the_pool_rewrites_typos_and_formats() -> None:
    arm = Arm(choice="adversarial", typos=0.5, search_rewrites=2, formats=(Template("a"), Template("b")))
    found = candidates_of(arm, POOL, ["yes", "no"])
    texts = list(dict.fromkeys(c.prompt.text for c in found))
    assert {p.text for p in POOL} < set(texts)
    assert len(texts) == 3 * (1 + 2 + 1), "each prompt, two rewrites of it, one with typos"
    assert len(found) == 2 * len(texts)
    assert all(placeholders(c.prompt) == {"text"} for c in found)
    assert [c.format for c in found[:2]] == [0, 1]
    assert found == candidates_of(arm, POOL, ["yes", "no"]), "the same for the same pool"
    bare = Arm(choice="adversarial", search_rewrites=0)
    assert [c.prompt for c in candidates_of(bare, POOL)] == POOL


def memory(n: int = 30, **more: Any) -> WorstWordings:
    arm = Arm(choice="adversarial", search_candidates=10, search_worst=3, search_share=0.4, **more)
    return WorstWordings(arm, [CandidateWording(Prompt(f"c{i}", "{{ text }}")) for i in range(n)])


def test_the_worst_are_kept_and_looked_at_again_and_nan_is_not_one() -> None:
    one = memory()
    asked = one.to_score(random.Random(0))
    assert len(set(asked)) == 10
    one.found({**dict.fromkeys(asked, 0.1), asked[2]: 3.0, asked[5]: 1.0, asked[7]: math.nan, asked[8]: 2.0})
    assert one.worst == [asked[2], asked[8], asked[5]]
    again = one.to_score(random.Random(1))
    assert set(one.worst) <= set(again)
    assert len(set(again)) == 10
    other = memory()
    other.restore(one.values)
    assert other.worst == one.worst


def test_the_bound_is_kept() -> None:
    """A share of the examples meets the worst wordings, each about as often; the others draw as without the arm."""
    one = memory()
    one.found({4: 1.0, 9: 2.0, 20: 3.0})
    plan = Optimization(steps=500, batch_size=8)
    order = ExampleOrder(3, 40, 12, Draw(every=1), plan, one.arm)
    plain = ExampleOrder(3, 40, 12, Draw(every=1), plan, Arm())
    picks = [order.pick(i, one) for i in range(4000)]
    met = [p.candidate for p in picks if p.candidate >= 0]
    assert len(met) / 4000 == pytest.approx(0.4, abs=0.03)
    assert set(met) == {4, 9, 20}
    assert np.bincount(met)[[4, 9, 20]] / len(met) == pytest.approx(1 / 3, abs=0.05)
    assert [(p.row, p.prompt) for p in picks] == [(plain.pick(i).row, plain.pick(i).prompt) for i in range(4000)]
    one.reset()
    assert all(order.pick(i, one).candidate == -1 for i in range(100)), "before a search nothing is the worst"


def test_formats_and_views_of_examples_are_what_the_documents_say() -> None:
    """Examples from the pool draw a format for each row; views draw apart from each other, also whether they meet one
    of the worst."""
    one = memory()
    one.found({4: 1.0, 9: 2.0})
    forms = (Template("a"), Template("b"))
    varied = Arm(choice="adversarial", search_share=0.4, formats=forms, views=2)
    order = ExampleOrder(3, 400, 12, Draw(every=1), Optimization(steps=500, batch_size=8), varied)
    picks = [order.pick(i, one) for i in range(2000)]
    views = list(zip(picks[::2], picks[1::2], strict=True))
    assert {p.format for p in picks if p.candidate < 0} == {0, 1}
    assert all(a.format == b.format and a.row == b.row for a, b in views)
    assert any(a.candidate == b.candidate >= 0 for a, b in views)
    assert any((a.candidate < 0) != (b.candidate < 0) for a, b in views)


def test_in_a_simulated_model_it_finds_the_one_bad_wording_and_lowers_its_loss() -> None:
    """Losses fall with the examples that a wording gets; one begins far above the others. Compared with uniform draws
    over the same candidates, for the same number of examples."""

    def loss(start: float, examples: int) -> float:
        return 0.1 + (start - 0.1) * math.exp(-examples / 40)

    n, bad, steps, size = 40, 27, 200, 8
    begin = [3.0 if i == bad else 0.5 for i in range(n)]
    one = WorstWordings(
        Arm(choice="adversarial", search_every=10, search_candidates=16, search_worst=2),
        [CandidateWording(Prompt(f"c{i}", "{{ text }}")) for i in range(n)],
    )
    order = ExampleOrder(0, 100, n, Draw(every=1), Optimization(steps=steps, batch_size=size), one.arm)
    seen, first_found = np.zeros(n, int), -1
    for step in range(steps):
        if step % one.arm.search_every == 0:
            asked = one.to_score(random.Random(step))
            one.found({i: loss(begin[i], int(seen[i])) for i in asked})
            if first_found < 0 and one.worst[0] == bad:
                first_found = step
        for pick in order.batch(step, one):
            seen[pick.candidate if pick.candidate >= 0 else pick.prompt] += 1
    uniform = np.zeros(n, int)
    plain = ExampleOrder(0, 100, n, Draw(every=1), Optimization(steps=steps, batch_size=size), Arm())
    for step in range(steps):
        for pick in plain.batch(step):
            uniform[pick.prompt] += 1
    assert 0 <= first_found <= 60, "16 of 40 candidates are looked at in each search"
    assert loss(3.0, int(seen[bad])) < 0.5 * loss(3.0, int(uniform[bad]))
    worst = [max(loss(begin[i], int(k[i])) for i in range(n)) for k in (seen, uniform)]
    assert worst[0] < worst[1]


def test_searches_are_paid_for_with_steps() -> None:
    arm = Arm(choice="adversarial", search_every=25, search_candidates=24, search_rows=4)
    for asked in (20, 25, 26, 29, 30, 58, 200, 1000):
        steps = arm.matched_steps(asked, 8)
        costs = [8 * n + math.ceil(n / 25) * 24 * 4 / 3 for n in (steps, steps + 1)]
        assert costs[0] <= 8 * asked < costs[1], asked
    assert arm.matched_steps(1000, 8) == 860
    assert arm.matched_steps(3, 8) == 1, "the first search costs more than three steps"
    assert arm.matched_steps(0, 8) == 0
    assert Arm().matched_steps(1000, 8) == 1000


def test_a_candidate_that_makes_a_row_too_long_is_not_asked(model: Any) -> None:
    import dataclasses

    from trainer.data.render import Renderer
    from trainer.data.tokenizer import load_tokenizer
    from trainer.train.resident import Resident

    tokenizer = load_tokenizer(model)
    pool = (Prompt("short", "{{ text }}"),)
    assets = dataclasses.replace(ASSETS, train_pools={"many": pool})
    one = trial(arm=Arm(choice="adversarial", search_rewrites=0, search_every=2))
    renderer = Renderer(tokenizer, one.template, one.task)
    exact = max(len(e.ids) for e in renderer.examples([(pool[0], row) for row in assets.rows["train"]]))
    one = dataclasses.replace(one, task=dataclasses.replace(one.task, max_length=exact))
    r = Resident(one, assets, Renderer(tokenizer, one.template, one.task), 0, 0, 6)
    r.candidates = [*r.candidates, CandidateWording(Prompt("long", "good good good good good good {{ text }}"))]
    r.memory = WorstWordings(one.arm, r.candidates)
    asked = r.to_search()
    assert (len(asked[0]), asked[1]) == (12, []), "two candidates get the rows of 24, as far as there are rows"
    r.take_search({0: 0.5, 1: math.nan}, 40, 0.1)
    assert r.to_search() == {}, "once before a step"
    assert isinstance(r.memory, WorstWordings)
    assert r.memory.worst == [0]
    assert all(len(s.ids) <= exact for s in r.samples())
