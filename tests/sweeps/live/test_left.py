"""What is left of a sweep, and how long it takes: counts by hand, rates by hand, then recorded and simulated runs."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sweeps.live.left import Part, Told, parts_left, seconds_left, seconds_of_cell, tick_seconds, trials_to_come
from sweeps.live.overview import Overview, overview
from sweeps.live.rows import TrialRow
from sweeps.trials.study_work import StudyWork
from trainer.work import TrialGrid, WorkDone

WORK = StudyWork(quotas=(4, 2, 1), dev_cells=(10, 10, 40), test_cells=100, tested=4, slots=2)
RUNGS = (5, 10, 20)


def row(name: str, rung: int = 0, state: str = "waiting", **more: Any) -> TrialRow:
    step = RUNGS[rung - 1] if rung else 0
    return TrialRow(name, {}, 3, RUNGS, state, rung, step, 0.5 if rung else None, **more)


def test_at_the_start_everything_is_left() -> None:
    rows = [row(n) for n in "abcd"]
    assert parts_left(WORK, rows, WorkDone()) == [
        Part(4, 20.0, 40.0),
        Part(2, 10.0, 20.0),
        Part(1, 10.0, 40.0, 100.0),
        Part(3, test=300.0),
    ]


def test_what_hosts_have_done_since_the_last_reports_is_not_left() -> None:
    rows = [row("a", 1, "running"), row("b", 0, "running"), row("c", 0, "running"), row("d")]
    scored = {TrialGrid("b", 5, "dev"): 4.0, TrialGrid("a", 5, "dev"): 10.0}
    left = parts_left(WORK, rows, WorkDone(step_of={"a": 8, "b": 5, "c": 2}, scored=scored))
    assert left[0] == Part(3, 15.0 - 5 - 2, 30.0 - 4)
    assert left[1] == Part(2, 10.0 - 3, 20.0)


def test_trials_that_early_stopping_cuts_are_scored_on_the_test_pool_only() -> None:
    rows = [row("a", 2, "running"), row("b", 2, "stopped"), row("c", 1, "stopped"), row("d", 1, "stopped")]
    scored = {TrialGrid("a", 20, "dev"): 40.0, TrialGrid("a", 20, "test"): 30.0}
    left = parts_left(WORK, rows, WorkDone(step_of={"a": 20}, scored=scored))
    assert left == [Part(), Part(), Part(1, 0.0, 0.0, 70.0), Part(3, test=300.0)]


def test_the_test_pool_after_the_sweep() -> None:
    rows = [
        row("a", 3, "finished", test=(0.5, 0.1)),
        row("b", 2, "testing"),
        row("c", 1, "stopped", test=(0.4, 0.1)),
        row("d", 1, "failed"),
    ]
    done = WorkDone(step_of={"b": 10}, scored={TrialGrid("b", 10, "test"): 25.0})
    assert parts_left(WORK, rows, done) == [Part(), Part(), Part(), Part(1, test=75.0)]
    found = overview(WORK, rows, Told(done))
    assert found.test_cells == (100 + 100 + 25, 300)
    assert found.now == {"b": "test 25 of 100"}


@pytest.mark.parametrize("tested", [1, 0])
def test_with_finalists_only_or_no_test_pool_no_other_trial_is_tested(tested: int) -> None:
    work = StudyWork((4, 2, 1), (10, 10, 40), 100, tested, 2)
    left = parts_left(work, [row(n) for n in "abcd"], WorkDone())
    assert (left[2].test, left[3]) == (100.0 * tested, Part())


def test_failed_and_nan_trials_are_not_waited_for() -> None:
    nan = row("b", 1, "stopped")
    nan.objective = math.nan
    rows = [row("a", 0, "failed"), nan, row("c", 0, "failed"), row("d", 0, "running")]
    assert trials_to_come(WORK, rows) == [1, 1, 1]
    assert parts_left(WORK, rows, WorkDone())[3] == Part()


def test_trials_that_a_search_has_yet_to_choose_count_like_those_there_are() -> None:
    assert parts_left(WORK, [row("a")], WorkDone())[0] == Part(4, 20.0, 40.0)


# rates --------------------------------------------------------------------------------------------------------


def test_a_step_of_a_number_of_trials_that_was_not_measured_lies_on_a_line() -> None:
    measured = {8: (10, 10.0), 4: (10, 6.0), 1: (2, 99.0)}  # the first ticks are slow, and too few
    assert tick_seconds(measured, 8, False) == 1.0
    assert tick_seconds(measured, 2, False) == pytest.approx(0.4)
    assert tick_seconds({8: (10, 10.0)}, 4, gpus=False) == 0.5
    assert tick_seconds({8: (10, 10.0)}, 4, gpus=True) == 0.75
    assert tick_seconds({1: (2, 2.0)}, 1, False) == 1.0
    assert tick_seconds({}, 1, False) is None
    # noise: neither cheaper for more trials nor less than nothing for none
    assert tick_seconds({8: (10, 5.0), 4: (10, 6.0)}, 1, False) == pytest.approx(0.55)
    assert tick_seconds({8: (10, 10.0), 4: (10, 1.0)}, 1, False) == pytest.approx(0.55 / 6)


def test_a_cell_of_the_test_pool_takes_as_long_as_one_of_dev_until_some_were_scored() -> None:
    done = WorkDone(cells={"dev": 10.0}, cell_seconds={"dev": 5.0})
    assert (seconds_of_cell(done, "test"), seconds_of_cell(WorkDone(), "test")) == (0.5, None)
    done = WorkDone(cells={"dev": 10.0, "test": 4.0}, cell_seconds={"dev": 5.0, "test": 8.0})
    assert (seconds_of_cell(done, "dev"), seconds_of_cell(done, "test")) == (0.5, 2.0)


DONE = WorkDone(ticks={2: (10, 20.0), 1: (10, 10.0)}, cells={"dev": 10.0}, cell_seconds={"dev": 5.0})


def test_time_is_that_of_the_host_with_most_to_do() -> None:
    parts = [Part(4, 20.0, 40.0), Part(3, test=300.0)]
    one = seconds_left(WORK, parts, Told(DONE, hosts=1))
    assert one == 20 * 1.0 + 40 * 0.5 + 300 * 0.5
    two = seconds_left(WORK, parts, Told(DONE, hosts=2))
    assert two == pytest.approx((20 + 20) / 2 + 150 * 2 / 3)  # of three trials, one host scores two
    assert seconds_left(WORK, parts, Told(DONE, hosts=9)) == pytest.approx((20 + 20) / 4 + 150 / 3)


def test_a_grid_that_all_hosts_score_together_is_no_work_of_one() -> None:
    large = StudyWork((4,), (20_000,), 20_000, 4, 2)
    assert seconds_left(large, [Part(1, dev=20_000.0)], Told(DONE, hosts=4)) == pytest.approx(20_000 * 0.5 / 4)


def test_nothing_is_said_before_it_was_measured() -> None:
    trained = WorkDone(ticks={1: (10, 10.0)})
    assert seconds_left(WORK, [Part(1, 5.0, 10.0)], Told(trained)) is None
    assert seconds_left(WORK, [Part(1, 0.0, 10.0)], Told(WorkDone(cells={"dev": 1.0}, cell_seconds={"dev": 2.0}))) == 20
    assert seconds_left(WORK, [Part(), Part()], Told()) == 0.0


def test_the_words_of_the_header() -> None:
    rows = [row("a", 0, "running"), *(row(n) for n in "bcd")]
    words = overview(WORK, rows, Told(doing="1 host loading the base model")).words(False)
    assert words == [
        "1 host loading the base model",
        "dev cells 0 of 100",
        "test cells 0 of 400",
        "time left: known once cells are scored",
    ]
    scoring = WorkDone({1: (5, 5.0)}, {"dev": 5.0}, {"dev": 5.0}, {"a": 5}, {}, {TrialGrid("a", 5, "dev"): 5.0})
    found = overview(WORK, rows, Told(scoring, cells_per_s=1.0, steps_per_s=0.0))
    assert found.now == {"a": "dev 5 of 10"}
    assert found.words(False)[:3] == ["dev cells 5 of 100", "test cells 0 of 400", "1 cells/s"]
    assert found.left == 15 + 10 + 10 + 95 + 400
    assert found.words(False)[3] == "left about 8:50"
    assert Overview().words(False) == []
