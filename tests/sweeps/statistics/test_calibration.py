"""The bins of chances by hand, and that the calibration error is the mean over them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.statistics.binary import BINS, calibration_errors
from sweeps.statistics.calibration import reliability

P = np.array([0.05, 0.15, 0.15, 0.95, 1.0])
POSITIVE = np.array([False, True, False, True, True])


def test_a_bin_has_its_cells_and_the_sums_of_their_chances_and_of_what_came_true() -> None:
    found = reliability(np.stack([POSITIVE, ~POSITIVE]), np.stack([P, P]))  # two prompts
    assert found.cells.tolist() == [2, 4, *[0] * (BINS - 3), 4]
    assert found.chances == pytest.approx([0.1, 0.6, *[0] * (BINS - 3), 3.9])
    assert found.happened.tolist() == [1, 2, *[0] * (BINS - 3), 2]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_the_calibration_error_is_the_mean_over_the_bins(rows: list[tuple[float, bool]]) -> None:
    p, positive = np.array([x for x, _ in rows]), np.array([y for _, y in rows])
    found = reliability(positive, p)
    error = np.abs(found.chances - found.happened).sum() / found.cells.sum()
    assert calibration_errors(positive, p[None])[0] == pytest.approx(error, abs=1e-12)
