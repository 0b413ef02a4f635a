"""A part of the train rows until a rung: nested, balanced by label, and the same whatever was asked before."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from trainer.train.batches import ExampleOrder
from trainer.train.row_subsets import nested_order, row_stages
from trainer.trial import Arm, Draw, Optimization

IDS = [f"r{i}" for i in range(200)]
LABELS = ["yes" if i % 10 == 0 else "no" for i in range(200)]
PLAN = Optimization(steps=40, batch_size=4, accumulation=2, row_shares=((10, 0.1), (20, 0.5)))


def order(plan: Optimization = PLAN, arm: Arm | None = None) -> ExampleOrder:
    arm = arm or Arm()
    stages = row_stages(plan.row_shares, plan.batch_size * plan.accumulation // arm.views, IDS, LABELS)
    return ExampleOrder(3, len(IDS), 8, Draw(), plan, arm, stages=stages)


def rows_of(found: ExampleOrder, steps: range) -> list[int]:
    return [pick.row for s in steps for pick in found.batch(s)]


def test_until_its_rung_a_trial_sees_its_part_of_the_rows_and_then_more() -> None:
    found = order()
    first, second, last = (rows_of(found, range(*ends)) for ends in ((0, 10), (10, 20), (20, 45)))
    assert (len(set(first)), len(first)) == (20, 80)
    assert set(Counter(first).values()) == {4}  # four passes over the part
    assert set(first) < set(range(200))
    assert len(set(second)) == 80  # of a hundred rows, in one pass that the rung cuts short
    assert sorted(last) == list(range(200))  # and all rows once


def test_parts_are_nested_and_every_label_has_its_share() -> None:
    places = nested_order(IDS, LABELS)
    assert sorted(places) == list(range(200))
    for n in range(10, 201):
        yes = sum(LABELS[p] == "yes" for p in places[:n])
        assert abs(yes - n / 10) <= 1
    small, large = ({*row_stages(((5, share),), 8, IDS, LABELS)[0].places} for share in (0.1, 0.33))
    assert len(small) == 20
    assert len(large) == 66
    assert small < large


def test_the_part_depends_on_ids_alone_and_not_on_their_order() -> None:
    shuffled = np.random.default_rng(0).permutation(200)
    a, b = nested_order(IDS, LABELS), nested_order([IDS[i] for i in shuffled], [LABELS[i] for i in shuffled])
    assert [IDS[p] for p in a] == [IDS[shuffled[p]] for p in b]
    assert list(nested_order(IDS, ["x"] * 200)[:50]) != list(range(50))
    alone = nested_order(IDS, [str(i) for i in range(200)])  # rows whose answers all differ
    assert 60 < np.mean(alone[:100]) < 140


def test_batches_do_not_depend_on_what_was_asked_before() -> None:
    a, b = order(), order()
    forward = [a.batch(s) for s in range(40)]
    backward = [b.batch(s) for s in reversed(range(40))][::-1]
    assert forward == backward


@pytest.mark.parametrize("arm", [Arm(views=2), Arm(choice="curriculum")])
def test_arms_draw_from_the_part_too(arm: Arm) -> None:
    found = order(arm=arm)
    assert len({*rows_of(found, range(10))}) == 20
    assert len({*rows_of(found, range(20, 40))}) > 70


def test_without_parts_the_order_is_what_it_was() -> None:
    plan = dataclasses.replace(PLAN, row_shares=())
    with_stage, without = order(plan), ExampleOrder(3, len(IDS), 8, Draw(), plan)
    assert [with_stage.batch(s) for s in range(60)] == [without.batch(s) for s in range(60)]
    first = np.random.default_rng([3, 0]).permutation(200)  # as before there were parts
    assert rows_of(without, range(25)) == [int(i) for i in first]
