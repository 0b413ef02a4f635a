"""The cores that a host gets."""

from __future__ import annotations

import pytest

from sweeps.driver.session import host_cores
from sweeps.study.schema import ResourcesSection


@pytest.mark.parametrize(
    ("given", "trials", "machines", "cores"),
    [
        ({"slots": 1}, 1, [2.0], 2.0),  # CASES F11: the second core stood idle
        ({}, 1, [8.0, 0.0, 4.0], 4.0),  # the head gives none, and a host must fit every other machine
        ({}, 3, [8.0], 2.0),
        ({}, 16, [2.0], 1.0),
        ({}, 0, [8.0], 1.0),  # how many trials there will be is not known
        ({}, 1, [], 1.0),
        ({"cpus": 1.0}, 1, [8.0], 1.0),
        ({"cpus": 3}, 1, [8.0], 3.0),
        ({"gpus": 1}, 1, [8.0], 1.0),
        ({"workers": 2, "slots": 1}, 1, [8.0], 1.0),
    ],
)
def test_cores_that_no_trial_would_use_are_shared_out(
    given: dict[str, float], trials: int, machines: list[float], cores: float
) -> None:
    assert host_cores(ResourcesSection.model_validate(given), trials, machines) == cores
