"""Grids in less memory: what comes back is what was put in."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from trainer.measure.grid import NO_ANSWER, Grid
from trainer.measure.packed import Packed


def grid(logprobs: bool = True, sampled: bool = False) -> Grid:
    rng = np.random.default_rng(0)
    p, r, k = 5, 40, 3
    label, predicted = rng.integers(0, k, r), rng.integers(NO_ANSWER, k, (p, r))
    stored = rng.normal(-3, 1, (p, r, k)).astype(np.float32)
    stored[0, 0] = np.nan, -np.inf, 0.0
    seen = rng.random((p, r)) < 0.5 if sampled else None
    names = (tuple(f"{name}{i}" for i in range(n)) for name, n in (("p", p), ("r", r), ("l", k)))
    scores = stored.astype(np.float64) if logprobs else None
    return Grid(*names, label, predicted, predicted == label, scores, logprobs, seen, 100 if sampled else 0)


@pytest.mark.parametrize("how", [{}, {"logprobs": False}, {"sampled": True}])
def test_a_grid_comes_back_whole_in_arrays_of_its_own(how: dict[str, Any]) -> None:
    given = grid(**how)
    packed = Packed.of(given)
    for _ in range(2):
        found = packed.whole()
        for field in fields(Grid):
            one, other = getattr(given, field.name), getattr(found, field.name)
            if isinstance(one, np.ndarray):
                assert one.dtype == other.dtype
                assert np.array_equal(one, other, equal_nan=one.dtype == np.float64)
            else:
                assert one == other
        found.predicted[:] = 0
        found.correct[:] = True


def test_it_takes_about_half_of_the_memory() -> None:
    given = grid()
    assert given.label_logprobs is not None
    arrays = (given.label, given.predicted, given.correct, given.label_logprobs)
    assert Packed.of(given).size - 64 * (5 + 40) <= 0.55 * sum(array.nbytes for array in arrays)
