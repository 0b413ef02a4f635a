"""Which row is drawn when: every row in every epoch, or every label equally often; without any state."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from trainer.train.batches import ExampleOrder
from trainer.train.row_order import AllRows, BalancedRows
from trainer.train.row_subsets import all_rows, row_stages
from trainer.trial import Arm, Draw, Optimization

LABELS = ["no", "no", "maybe", "no", "yes", "no", "no", "no", "maybe", "no"] * 4  # 28, 8 and 4 rows
SIZES = Counter(LABELS)


def plan(**options: Any) -> Optimization:
    return Optimization(batch_size=6, balance="labels", **options)


def balanced(seed: int = 0) -> ExampleOrder:
    return ExampleOrder(seed, 40, 5, Draw(), plan(), labels=LABELS)


def test_rows_as_they_are_come_once_an_epoch() -> None:
    order = AllRows(3, all_rows(40))
    epochs = [[order.row(at) for at in range(40 * e, 40 * e + 40)] for e in range(3)]
    assert all(sorted(e) == list(range(40)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3


def test_every_batch_has_each_label_equally_often() -> None:
    order = balanced()
    for step in range(200):
        assert Counter(LABELS[p.row] for p in order.batch(step)) == dict.fromkeys(SIZES, 2)


def test_a_label_goes_through_all_its_rows_before_one_comes_again() -> None:
    order = BalancedRows(0, LABELS, all_rows(40))
    stream = [order.row(at) for at in range(3 * 28 * 5)]
    for label, size in SIZES.items():
        own = [row for row in stream if LABELS[row] == label]
        passes = [tuple(own[i : i + size]) for i in range(0, len(own) - size + 1, size)]
        assert all(sorted(p) == sorted(i for i, x in enumerate(LABELS) if x == label) for p in passes)
        assert len(set(passes)) > 1, "in a new order"


def test_a_part_of_the_rows_until_a_rung_is_drawn_balanced_too() -> None:
    shares = ((10, 0.3), (15, 0.7))  # until step 10 of 6 rows each, and until step 15
    ids = [f"r{i}" for i in range(40)]
    stages = row_stages(shares, 6, ids, LABELS)

    def order() -> ExampleOrder:
        return ExampleOrder(0, 40, 5, Draw(), plan(row_shares=shares), labels=LABELS, stages=stages)

    batches = [order().batch(s) for s in range(60)]
    for step, batch in enumerate(batches):
        assert Counter(LABELS[p.row] for p in batch) == dict.fromkeys(SIZES, 2), step
    for stage, steps in zip(stages, (range(10), range(10, 15), range(15, 60)), strict=True):
        drawn = Counter(p.row for s in steps for p in batches[s])
        assert set(drawn) <= set(stage.places.tolist())
        for label in SIZES:
            own = [drawn[row] for row in stage.places.tolist() if LABELS[row] == label]
            assert max(own) - min(own) <= 2, "evenly; passes may begin and end within the stage"
    again = order()
    assert [again.batch(s) for s in reversed(range(60))][::-1] == batches


def test_balanced_rows_of_all_rows_are_what_they_were() -> None:
    """As trials of earlier versions drew them."""
    order, at = BalancedRows(7, LABELS, all_rows(40)), 0
    names, own = ["no", "maybe", "yes"], [[i for i, x in enumerate(LABELS) if x == n] for n in ("no", "maybe", "yes")]
    for turn in range(60):
        for k in np.random.default_rng([7, 1, turn]).permutation(len(names)):
            times, place = divmod(turn, len(own[k]))
            passed = np.random.default_rng([7, 2, k, times]).permutation(len(own[k]))
            assert order.row(at) == own[k][passed[place]]
            at += 1


def test_the_order_of_labels_changes() -> None:
    order = BalancedRows(0, LABELS, all_rows(40))
    rounds = Counter(tuple(LABELS[order.row(3 * r + i)] for i in range(3)) for r in range(300))
    assert len(rounds) == 6
    assert min(rounds.values()) > 25


def test_a_row_depends_on_seed_and_position_alone() -> None:
    forward, backward = balanced(), balanced()
    batches = [forward.batch(s) for s in range(60)]
    assert [backward.batch(s) for s in reversed(range(60))][::-1] == batches
    assert [balanced().batch(s) for s in range(40, 60)] == batches[40:], "as after a restart at step 40"
    assert [balanced(1).batch(s) for s in range(60)] != batches


def test_views_of_a_row_are_one_draw() -> None:
    order = ExampleOrder(0, 40, 5, Draw(), plan(), Arm(views=2), labels=LABELS)
    for step in range(20):
        rows = [p.row for p in order.batch(step)]
        assert rows[::2] == rows[1::2]
        assert Counter(LABELS[row] for row in rows[::2]) == dict.fromkeys(SIZES, 1)


def test_a_label_that_no_row_has_is_not_drawn_and_one_label_is_all_rows() -> None:
    one = BalancedRows(0, ["no"] * 7, all_rows(7))
    assert sorted(one.row(at) for at in range(7)) == list(range(7))
    with pytest.raises(ValueError, match="labels of all 40 rows"):
        ExampleOrder(0, 40, 5, Draw(), plan())
