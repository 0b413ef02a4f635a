"""Wins under the same prompt, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sweeps.statistics.wins import wins


def test_wins_by_hand() -> None:
    values = np.array([[0.9, 0.8, 0.7, 0.6], [0.8, 0.8, 0.8, 0.5], [np.nan, 0.9, np.nan, np.nan]])
    share, prompts = wins(values)
    # first against second: won under 2, tied under 1, lost under 1; the third was asked under one prompt alone
    assert share[0, 1] == pytest.approx(2.5 / 4)
    assert share[2, 0] == share[2, 1] == 1
    assert share[0, 2] == share[1, 2] == 0
    assert prompts.tolist() == [[4, 4, 1], [4, 4, 1], [1, 1, 1]]
    assert np.isnan(np.diag(share)).all()
    off = ~np.eye(3, dtype=bool)
    assert (share + share.T)[off] == pytest.approx(1)


def test_averages_of_seeds_that_differ_by_rounding_alone_tie() -> None:
    share, _ = wins(np.array([[0.1 + 0.2], [0.3]]))
    assert share[0, 1] == share[1, 0] == 0.5


def test_without_a_common_prompt_nothing_is_won() -> None:
    share, prompts = wins(np.array([[0.5, np.nan], [np.nan, 0.5]]))
    assert np.isnan(share).all()
    assert prompts[0, 1] == 0
