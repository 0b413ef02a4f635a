"""Order of examples and choice of prompts: stateless, and as Algorithm 1 of PAFT says."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.train.batches import ExampleOrder, Sample, collate, micro_batches
from trainer.trial import Draw, Optimization

PLAN = Optimization(batch_size=4, accumulation=2)


def order(draw: Draw, seed: int = 0, n_rows: int = 40, n_prompts: int = 10) -> ExampleOrder:
    return ExampleOrder(seed, n_rows, n_prompts, draw, PLAN)


def test_every_epoch_sees_every_row_once_in_a_new_order() -> None:
    o = order(Draw())
    epochs = [[p.row for s in range(5 * e, 5 * e + 5) for p in o.batch(s)] for e in range(3)]
    assert all(sorted(e) == list(range(40)) for e in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_batches_do_not_depend_on_what_was_asked_before() -> None:
    a, b = order(Draw()), order(Draw())
    forward = [a.batch(s) for s in range(12)]
    backward = [b.batch(s) for s in reversed(range(12))][::-1]
    assert forward == backward


def test_dynamic_redraws_every_k_examples_and_between_epochs() -> None:
    o = order(Draw(every=4))
    picks = [o.pick(i) for i in range(80)]
    for k in range(0, 80, 4):
        assert len({p.prompt for p in picks[k : k + 4]}) == 1
    by_row = {e: {p.row: p.prompt for p in picks[40 * e : 40 * e + 40]} for e in (0, 1)}
    assert any(by_row[0][r] != by_row[1][r] for r in range(40))


def test_load_keeps_the_prompt_of_a_row_in_every_epoch() -> None:
    o = order(Draw(mode="load"))
    by_row = [{p.row: p.prompt for p in (o.pick(i) for i in range(40 * e, 40 * e + 40))} for e in (0, 1)]
    assert by_row[0] == by_row[1]
    assert len(set(by_row[0].values())) > 3


def test_unit_steps_counts_optimizer_steps() -> None:
    o = order(Draw(every=2, unit="steps"))
    first = [[p.prompt for p in o.batch(s)] for s in range(4)]
    assert len({*first[0], *first[1]}) == 1
    assert len({*first[2], *first[3]}) == 1


def test_draws_are_uniform() -> None:
    o = ExampleOrder(3, 10**6, 8, Draw(every=1), PLAN)
    counts = np.bincount([o.prompt(0, 0, i, i) for i in range(16000)], minlength=8)
    assert abs(counts - 2000).max() < 5 * np.sqrt(2000)


def sample(length: int, slot: int = 0) -> Sample:
    weights = np.zeros(length, np.float32)
    weights[-2:] = 1.0
    return Sample(slot, np.arange(3, 3 + length, dtype=np.int32), weights, np.full(length, 2, np.int8), 1.0)


def test_micro_batches_keep_to_the_budget_and_lose_nothing() -> None:
    rng = np.random.default_rng(0)
    samples = [sample(int(n)) for n in rng.integers(5, 60, 100)]
    groups = list(micro_batches(samples, 256))
    assert sorted(id(s) for g in groups for s in g) == sorted(map(id, samples))
    assert all(len(g) * max(len(s.ids) for s in g) <= 256 for g in groups)
    used = sum(len(s.ids) for s in samples) / sum(len(g) * max(len(s.ids) for s in g) for g in groups)
    assert used > 0.85  # sorted by length: little padding


def test_a_sequence_beyond_the_budget_goes_alone() -> None:
    assert [len(g) for g in micro_batches([sample(50), sample(10)], 20)] == [1, 1]


def test_collate_asks_for_logits_only_where_there_is_weight() -> None:
    work = collate([sample(6), sample(4, slot=1)], pad_id=0)
    assert work.batch.rows.tolist() == [0, 0, 1, 1]
    assert work.batch.cols.tolist() == [3, 4, 1, 2]  # predict the last two tokens of each
    assert work.targets.tolist() == [7, 8, 5, 6]
    assert work.batch.mask.sum(1).tolist() == [6, 4]
    assert work.batch.slots.tolist() == [0, 1]


@pytest.mark.parametrize("label", [0, 3])
def test_collate_for_a_classifier_takes_the_last_position(label: int) -> None:
    s = Sample(0, np.arange(5, dtype=np.int32), np.ones(5, np.float32), np.zeros(5, np.int8), 2.0, label=label)
    work = collate([s], pad_id=0)
    assert (work.batch.cols.tolist(), work.targets.tolist(), work.weights.tolist()) == ([4], [label], [1.0])
