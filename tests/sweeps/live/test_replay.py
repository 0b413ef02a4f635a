"""After its first rung, the time left that a sweep tells is within a factor of 1.5 of the truth: in a recorded run, and
in simulated ones of other kinds."""

from __future__ import annotations

import math
import re

import pytest
from recorded_sweep import end, new_table, replay
from simulated_sweep import Clock, Pace, SimulatedSweep

from sweeps.schedule.asha import rung_quotas
from sweeps.trials.study_work import StudyWork

FACTOR = 1.5
NEAR_THE_END = 0.05  # of the whole time: what is left then is not judged


def ratios(said: list[tuple[float, float | None]], first: float, end: float) -> list[tuple[float, float]]:
    """(time, told / true) at each pulse after the first report."""
    judged = [(at, left) for at, left in said if at > first and end - at > NEAR_THE_END * end]
    assert judged
    return [(at, (left if left is not None else float("nan")) / (end - at)) for at, left in judged]


def assert_true(found: list[tuple[float, float]]) -> None:
    wrong = [f"at {at:.0f} s: {ratio:.2f} of the truth" for at, ratio in found if not 1 / FACTOR < ratio < FACTOR]
    assert wrong == []


def cores(k: int) -> float:
    return 2.6 * k  # a core is busy with one trial already


def gpu(k: int) -> float:
    return 0.18 + 0.01 * k  # most of a small model's step on a GPU is waiting


def test_a_recorded_run() -> None:
    clock, said, first = Clock(), list[tuple[float, float | None]](), math.inf
    table = new_table(clock)
    for at, name in replay(table, clock):
        first = min(first, at) if name == "report" else first
        said.append((at, table.overview().left))
    assert_true(ratios(said, first, end()))


def test_what_a_recorded_run_shows() -> None:
    """While something is scored, there are cells done and a rate; nothing is a question mark, and no time goes back."""
    clock = Clock()
    table = new_table(clock)
    spent: dict[str, float] = {}
    scoring, shown, headers = 0, set[str](), list[str]()
    for _, name in replay(table, clock):
        frame = table.frame()
        headers.append(frame.header)
        assert "?" not in frame.header
        assert " 0 steps/s" not in frame.header
        for trial, row in table.rows().items():
            assert row.spent >= spent.get(trial, 0.0)
            spent[trial] = row.spent
        if name != "pulse" or frame.columns[-1].name != "now":
            continue
        now = [cells[-1] for cells in frame.rows if cells[-1]]
        shown |= {text.split()[0] for text in now}
        scored = [text for text in now if text.startswith(("dev", "test"))]
        scoring += bool(scored)
        assert all(" of " in text for text in now)
    assert shown == {"step", "dev", "test"}
    assert scoring > 10
    assert min(spent.values()) > 0
    dev = [int(found[1].replace(",", "")) for h in headers if (found := re.search(r"dev cells ([\d,]+) of", h))]
    assert dev == sorted(dev)
    assert dev[-1] > 0


REGIMES = {
    # trials, eta, rungs' steps, dev cells of each, test cells, all tested, slots, GPUs, hosts, pace
    "as recorded": (4, 2, (4, 8), (80, 80), 300, True, 2, False, 1, Pace(cores, 0.15, 0.15)),
    "slow scoring": (4, 2, (4, 8), (80, 80), 300, True, 2, False, 1, Pace(cores, 1.5, 1.5)),
    "test cells take longer": (4, 2, (4, 8), (80, 80), 300, True, 2, False, 1, Pace(cores, 0.15, 0.2)),
    "training takes nearly all": (6, 2, (50, 100), (40, 40), 40, True, 2, False, 1, Pace(cores, 0.05, 0.05)),
    "many rungs": (16, 2, (10, 20, 40), (40, 40, 80), 200, True, 4, False, 1, Pace(cores, 0.15, 0.15)),
    "no early stopping": (6, 1, (20,), (80,), 300, True, 2, False, 1, Pace(cores, 0.15, 0.15)),
    "finalists only": (16, 2, (10, 20, 40), (40, 40, 80), 200, False, 4, False, 1, Pace(cores, 0.15, 0.15)),
    "three hosts": (9, 2, (10, 20), (80, 80), 300, True, 1, False, 3, Pace(cores, 0.15, 0.15)),
    "more hosts than last trials": (16, 4, (10, 20), (80, 80), 300, True, 2, False, 4, Pace(cores, 0.15, 0.15)),
    "a GPU": (27, 3, (50, 100, 200), (400, 400, 800), 2000, True, 8, True, 1, Pace(gpu, 0.002, 0.002)),
    "two GPUs": (27, 3, (50, 100, 200), (400, 400, 800), 2000, True, 8, True, 2, Pace(gpu, 0.002, 0.002)),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", REGIMES)
def test_simulated_runs(name: str, seed: int) -> None:
    trials, eta, rungs, dev, test, all_tested, slots, gpus, hosts, pace = REGIMES[name]
    quotas = rung_quotas(trials, eta, len(rungs))
    work = StudyWork(quotas, dev, test, trials if all_tested else quotas[-1], slots, gpus)
    sweep = SimulatedSweep(work, {f"t{i:02d}": rungs for i in range(trials)}, hosts, pace, seed)
    said, end = sweep.play()
    assert {row.state for row in sweep.table.rows().values()} <= {"finished", "stopped"}
    assert sweep.table.overview().left == 0
    assert sweep.first_report is not None
    assert_true(ratios(said, sweep.first_report, end))
