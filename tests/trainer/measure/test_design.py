"""The sample's cells: balanced in prompts, rows and labels, and the same whatever the order."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from trainer.measure import design


def names(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{i:03d}" for i in range(n)]


def uneven(counts: np.ndarray) -> int:
    return int(counts.max() - counts.min())


@settings(max_examples=150, deadline=None)
@given(
    p=some.integers(1, 30),
    r=some.integers(1, 60),
    share=some.floats(0.001, 1.0),
    kinds=some.integers(1, 6),
    draw=some.integers(0, 10**6),
)
def test_prompts_rows_and_labels_are_balanced(p: int, r: int, share: float, kinds: int, draw: int) -> None:
    labels = [f"l{k}" for k in np.random.default_rng(draw).integers(0, kinds, r)]
    size = design.sample_size(share, p, r)
    kept = design.choose_rows(names("r", r), labels, size.rows)
    used, of = [names("r", r)[j] for j in kept], [labels[j] for j in kept]
    seen = design.balanced(names("p", p), used, of, size.cells)
    assert seen.shape == (p, size.rows)
    assert seen.sum() == size.cells
    assert uneven(seen.sum(axis=1)) <= 1
    assert uneven(seen.sum(axis=0)) <= 1
    assert seen.any(axis=0).all()
    for label in set(of):
        columns = np.array([x == label for x in of])
        assert uneven(seen[:, columns].sum(axis=1)) <= 1
        assert abs(seen[:, columns].sum() - size.cells * columns.mean()) < 1
    for label in set(labels):
        assert abs(of.count(label) - size.rows * labels.count(label) / r) < 1


@settings(max_examples=40, deadline=None)
@given(
    p=some.integers(2, 60),
    r=some.integers(5, 900),
    share=some.floats(0.0, 1.0),
    kinds=some.integers(1, 5),
    draw=some.integers(0, 10**6),
)
def test_the_second_stage_holds_the_first_and_is_as_balanced(
    p: int, r: int, share: float, kinds: int, draw: int
) -> None:
    labels = [f"l{k}" for k in np.random.default_rng(draw).integers(0, kinds, r)]
    ids = names("p", p), names("r", r)
    first = design.staged(*ids, labels, 0)
    pilot = design.pilot_cells(p, r)
    assert first.sum() == pilot == min(p * r, max(1000, 12 * p))
    cells = pilot + round(share * (p * r - pilot))
    seen = design.staged(*ids, labels, cells)
    assert seen.sum() == cells
    assert not (first & ~seen).any()
    assert uneven(seen.sum(axis=1)) <= 2
    for label in set(labels):
        columns = np.array([x == label for x in labels])
        assert uneven(seen[:, columns].sum(axis=1)) <= 1
        assert abs(seen[:, columns].sum() - cells * columns.mean()) <= 2
    met = seen.sum(axis=0)
    if cells - pilot >= r - np.count_nonzero(first.any(axis=0)) + p + kinds:
        assert met.min() >= 1  # rows that no prompt has met come first
    beyond = first.any(axis=0)
    if (~beyond).any() and beyond.any() and cells < p * r:
        assert met[~beyond].max() <= met[beyond].max()  # nor is a new row met more often than those of the pilot


def test_the_cells_do_not_depend_on_the_order_of_prompts_and_rows() -> None:
    prompts, rows = names("p", 9), names("r", 40)
    labels = ["yes" if j % 3 else "no" for j in range(40)]
    seen = design.balanced(prompts, rows, labels, 90)
    rng = np.random.default_rng(0)
    a, b = rng.permutation(9), rng.permutation(40)
    other = design.balanced([prompts[i] for i in a], [rows[j] for j in b], [labels[j] for j in b], 90)
    assert np.array_equal(other, seen[np.ix_(a, b)])
    kept = design.choose_rows(rows, labels, 13)
    again = design.choose_rows([rows[j] for j in b], [labels[j] for j in b], 13)
    assert {rows[b[j]] for j in again} == {rows[j] for j in kept}


def test_two_stages_do_not_depend_on_the_order_of_prompts_and_rows() -> None:
    prompts, rows = names("p", 9), names("r", 400)
    labels = ["yes" if j % 3 else "no" for j in range(400)]
    seen = design.staged(prompts, rows, labels, 1500)
    rng = np.random.default_rng(0)
    a, b = rng.permutation(9), rng.permutation(400)
    other = design.staged([prompts[i] for i in a], [rows[j] for j in b], [labels[j] for j in b], 1500)
    assert np.array_equal(other, seen[np.ix_(a, b)])


def test_the_cells_of_two_stages_are_pinned() -> None:
    """A run that goes on after an update must ask the cells that it has asked before."""
    seen = design.staged(names("p", 5), names("r", 300), ["a", "b", "b"] * 100, 1200)
    assert hashlib.sha256(np.packbits(seen).tobytes()).hexdigest()[:16] == STAGED


def test_the_cells_are_pinned() -> None:
    """Score files of every version hold these cells: another draw would make them unreadable."""
    seen = design.balanced(names("p", 4), names("r", 6), ["a", "b"] * 3, 10)
    assert ["".join("x" if c else "." for c in row) for row in seen] == PINNED


PINNED = ["x..xx.", ".xx..x", "xx....", "....xx"]


def test_other_ids_give_other_cells() -> None:
    labels = ["a"] * 30
    one = design.balanced(names("p", 8), names("r", 30), labels, 60)
    assert not np.array_equal(one, design.balanced(names("q", 8), names("r", 30), labels, 60))


@pytest.mark.parametrize(
    ("share", "p", "r", "expected"),
    [
        (0.1, 50, 200, (1000, 200)),
        (1.0, 50, 200, (10_000, 200)),
        (0.02, 50, 200, (200, 100)),  # four cells a prompt, and two prompts for every row that is used
        (0.0001, 50, 200, (200, 100)),
        (0.101, 10, 15, (40, 15)),
        (0.25, 1, 100, (25, 25)),
        (0.5, 3, 2, (6, 2)),
    ],
)
def test_a_budget_has_a_floor_and_gives_up_rows_before_crossing(
    share: float, p: int, r: int, expected: tuple[int, int]
) -> None:
    found = design.sample_size(share, p, r)
    assert (found.cells, found.rows) == expected


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="must differ"):
        design.balanced(["p", "p"], ["r"], ["a"], 2)
    with pytest.raises(ValueError, match="13 cells do not fit 3 prompts x 4 rows"):
        design.balanced(["p", "q", "s"], names("r", 4), ["a"] * 4, 13)


STAGED = "db350b87e53670a5"
