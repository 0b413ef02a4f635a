"""Which row is drawn when: every row in every epoch, or every label equally often; without any state."""

from __future__ import annotations

from collections import Counter

import pytest

from trainer.train.batches import ExampleOrder
from trainer.train.row_order import AllRows, BalancedRows
from trainer.trial import Arm, Draw, Optimization

LABELS = ["no", "no", "maybe", "no", "yes", "no", "no", "no", "maybe", "no"] * 4  # 28, 8 and 4 rows
SIZES = Counter(LABELS)


def plan(**options: int) -> Optimization:
    return Optimization(batch_size=6, balance="labels", **options)


def balanced(seed: int = 0) -> ExampleOrder:
    return ExampleOrder(seed, 40, 5, Draw(), plan(), labels=LABELS)


def test_rows_as_they_are_come_once_an_epoch() -> None:
    order = AllRows(3, 40)
    epochs = [[order.row(at) for at in range(40 * e, 40 * e + 40)] for e in range(3)]
    assert all(sorted(e) == list(range(40)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3


def test_every_batch_has_each_label_equally_often() -> None:
    order = balanced()
    for step in range(200):
        assert Counter(LABELS[p.row] for p in order.batch(step)) == dict.fromkeys(SIZES, 2)


def test_a_label_goes_through_all_its_rows_before_one_comes_again() -> None:
    order = BalancedRows(0, LABELS)
    stream = [order.row(at) for at in range(3 * 28 * 5)]
    for label, size in SIZES.items():
        own = [row for row in stream if LABELS[row] == label]
        passes = [tuple(own[i : i + size]) for i in range(0, len(own) - size + 1, size)]
        assert all(sorted(p) == sorted(i for i, x in enumerate(LABELS) if x == label) for p in passes)
        assert len(set(passes)) > 1, "in a new order"


def test_the_order_of_labels_changes() -> None:
    order = BalancedRows(0, LABELS)
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
    one = BalancedRows(0, ["no"] * 7)
    assert sorted(one.row(at) for at in range(7)) == list(range(7))
    with pytest.raises(ValueError, match="labels of all 40 rows"):
        ExampleOrder(0, 40, 5, Draw(), plan())
