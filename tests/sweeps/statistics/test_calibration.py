"""The bins of chances and the calibration error, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sweeps.statistics.calibration import BINS, reliability

P = np.array([0.05, 0.15, 0.15, 0.95, 1.0])
POSITIVE = np.array([False, True, False, True, True])


def test_calibration_error_by_hand() -> None:
    # bins: 0.05 against 0; 0.15 against 0.5 (two rows); 0.975 against 1 (two rows)
    assert reliability(POSITIVE, P).error == pytest.approx((0.05 + 2 * 0.35 + 2 * 0.025) / 5)


def test_a_bin_has_its_cells_and_the_sums_of_their_chances_and_of_what_came_true() -> None:
    found = reliability(np.stack([POSITIVE, ~POSITIVE]), np.stack([P, P]))  # two prompts
    assert found.cells.tolist() == [2, 4, *[0] * (BINS - 3), 4]
    assert found.chances == pytest.approx([0.1, 0.6, *[0] * (BINS - 3), 3.9])
    assert found.happened.tolist() == [1, 2, *[0] * (BINS - 3), 2]
