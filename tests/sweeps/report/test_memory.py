"""Memory that is kept while a report is made, and given back afterwards."""

from __future__ import annotations

import platform
import resource

import numpy as np
import pytest

from sweeps.report.memory import freed_memory_kept


def faults() -> int:
    """Pages that the system hands out while the same arrays are made again and again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        arrays = [np.ones(200_000) for _ in range(8)]
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep freed memory")
def test_freed_memory_is_used_again_and_given_back_at_the_end() -> None:
    usual = faults()
    with freed_memory_kept():
        faults()
        kept = faults()
    afterwards = faults()
    assert kept < usual / 10
    assert kept < afterwards / 10
