"""What is left of a sweep, and how long it takes: counts by hand, rates by hand, then recorded and simulated runs."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sweeps.live.left import (
    Part,
    Told,
    Work,
    longest,
    parts_left,
    seconds_left,
    seconds_of_cell,
    tick_seconds,
    trials_to_come,
)
from sweeps.live.overview import Overview, overview
from sweeps.live.rows import TrialRow
from sweeps.trials.study_work import StudyWork
from trainer.work import TrialGrid, WorkDone

WORK = StudyWork(quotas=(4, 2, 1), dev_cells=(10, 10, 40), test_cells=100, tested=4, slots=2)
RUNGS = (5, 10, 20)


def row(name: str, rung: int = 0, state: str = "waiting", **more: Any) -> TrialRow:
    step = RUNGS[rung - 1] if rung else 0
    return TrialRow(name, {}, 3, RUNGS, state, rung, step, 0.5 if rung else None, **more)


def whole(trials: int, steps: float, dev: float, test: float = 0) -> Part:
    """Trials that are to come, each with the same to do."""
    return Part((), (Work(steps, dev, test),) * trials)


def test_at_the_start_everything_is_left() -> None:
    rows = [row(n) for n in "abcd"]
    assert parts_left(WORK, rows, WorkDone()) == [
        whole(4, 5, 10),
        whole(2, 5, 10),
        whole(1, 10, 40, 100),
        whole(3, 0, 0, 100),
    ]


def test_what_hosts_have_done_since_the_last_reports_is_not_left() -> None:
    rows = [row("a", 1, "running"), row("b", 0, "running"), row("c", 0, "running"), row("d")]
    scored = {TrialGrid("b", 5, "dev"): 4.0, TrialGrid("a", 5, "dev"): 10.0}
    left = parts_left(WORK, rows, WorkDone(step_of={"a": 8, "b": 5, "c": 2}, scored=scored))
    assert left[0] == Part((Work(0, 6), Work(3, 10)), (Work(5, 10),))
    assert left[1] == Part((Work(2, 10),), (Work(5, 10),))


def test_a_trial_that_waits_for_its_host_between_dev_and_test_keeps_what_is_done() -> None:
    rows = [row("a", 2, "running"), row("b", 2, "stopped"), row("c", 1, "stopped"), row("d", 1, "stopped")]
    done = WorkDone(scored={TrialGrid("a", 20, "dev"): 40.0})  # it is in no slot now
    assert parts_left(WORK, rows, done)[2] == Part((Work(0, 0, 100),))


def test_trials_that_early_stopping_cuts_are_scored_on_the_test_pool_only() -> None:
    rows = [row("a", 2, "running"), row("b", 2, "stopped"), row("c", 1, "stopped"), row("d", 1, "stopped")]
    scored = {TrialGrid("a", 20, "dev"): 40.0, TrialGrid("a", 20, "test"): 30.0}
    left = parts_left(WORK, rows, WorkDone(step_of={"a": 20}, scored=scored))
    assert left == [Part(), Part(), Part((Work(0, 0, 70),)), whole(3, 0, 0, 100)]


def test_the_test_pool_after_the_sweep() -> None:
    rows = [
        row("a", 3, "finished", test=(0.5, 0.1)),
        row("b", 2, "testing"),
        row("c", 1, "stopped", test=(0.4, 0.1)),
        row("d", 1, "failed"),
    ]
    done = WorkDone(step_of={"b": 10}, scored={TrialGrid("b", 10, "test"): 25.0})
    assert parts_left(WORK, rows, done) == [Part(), Part(), Part(), Part((Work(test=75),))]
    found = overview(WORK, rows, Told(done))
    assert found.test_cells == (100 + 100 + 25, 300)
    assert found.now == {"b": "test 25 of 100"}


@pytest.mark.parametrize("tested", [1, 0])
def test_with_finalists_only_or_no_test_pool_no_other_trial_is_tested(tested: int) -> None:
    work = StudyWork((4, 2, 1), (10, 10, 40), 100, tested, 2)
    left = parts_left(work, [row(n) for n in "abcd"], WorkDone())
    assert left[2:] == [whole(1, 10, 40, 100 * tested), Part()]


def test_failed_and_nan_trials_are_not_waited_for() -> None:
    nan = row("b", 1, "stopped")
    nan.objective = math.nan
    rows = [row("a", 0, "failed"), nan, row("c", 0, "failed"), row("d", 0, "running")]
    assert trials_to_come(WORK, rows) == [1, 1, 1]
    assert parts_left(WORK, rows, WorkDone())[3] == Part()


def test_trials_that_a_search_has_yet_to_choose_count_like_those_there_are() -> None:
    assert parts_left(WORK, [row("a")], WorkDone())[0] == whole(4, 5, 10)


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
    done = WorkDone(cells={"dev": 10.0}, cell_seconds={"dev": 5.0}, cell_tokens={"dev": 40.0, "test": 20.0})
    assert (seconds_of_cell(done, "dev"), seconds_of_cell(done, "test")) == (0.5, 0.25)
    done = WorkDone(cells={"dev": 10.0, "test": 4.0}, cell_seconds={"dev": 5.0, "test": 8.0})
    assert (seconds_of_cell(done, "dev"), seconds_of_cell(done, "test")) == (0.5, 2.0)


DONE = WorkDone(ticks={2: (10, 20.0), 1: (10, 10.0)}, cells={"dev": 10.0}, cell_seconds={"dev": 5.0})


def test_time_is_that_of_the_host_with_most_to_do() -> None:
    parts = [whole(4, 5, 10), whole(3, 0, 0, 100)]
    assert seconds_left(WORK, parts, Told(DONE, hosts=1)) == 20 * 1.0 + 40 * 0.5 + 300 * 0.5
    assert seconds_left(WORK, parts, Told(DONE, hosts=2)) == (20 + 20) / 2 + 100  # one host tests two of three trials
    assert seconds_left(WORK, parts, Told(DONE, hosts=9)) == (20 + 20) / 4 + 50


def test_trials_are_dealt_out_to_slots_and_then_as_many_again() -> None:
    assert longest([], [1.0] * 12, 4, 4, 2) == 4  # eight at once, then two hosts with two more each
    assert longest([9.0, 1.0, 8.0, 1.0], [], 2, 4, 2) == 17  # equally far: on one host
    assert longest([3.0, 3.0], [1.0] * 4, 1, 2, 2) == 6  # the other host takes all four
    assert longest([], [], 0, 3, 2) == 0


def test_a_grid_that_all_hosts_score_together_is_no_work_of_one() -> None:
    large = StudyWork((4,), (20_000,), 20_000, 4, 2)
    assert seconds_left(large, [whole(1, 0, 20_000)], Told(DONE, hosts=4)) == 20_000 * 0.5 / 4


def test_nothing_is_said_before_it_was_measured() -> None:
    trained = WorkDone(ticks={1: (10, 10.0)})
    assert seconds_left(WORK, [whole(1, 5, 10)], Told(trained)) is None
    scored = WorkDone(cells={"dev": 1.0}, cell_seconds={"dev": 2.0})
    assert seconds_left(WORK, [whole(1, 0, 10)], Told(scored)) == 20
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
    scoring = WorkDone({1: (5, 5.0)}, {"dev": 5.0}, {"dev": 5.0}, {}, {"a": 5}, {}, {TrialGrid("a", 5, "dev"): 5.0})
    found = overview(WORK, rows, Told(scoring, cells_per_s=1.0, steps_per_s=0.0))
    assert found.now == {"a": "dev 5 of 10"}
    assert found.words(False)[:3] == ["dev cells 5 of 100", "test cells 0 of 400", "1 cells/s"]
    assert found.left == 15 + 10 + 10 + 95 + 400
    assert found.words(False)[3] == "left about 8:50"
    assert Overview().words(False) == []


# a test grid that is sampled --------------------------------------------------------------------------------------

SAMPLED = StudyWork(
    quotas=(4, 2, 1), dev_cells=(10, 10, 40), test_cells=100, tested=4, slots=2, whole_tests=1000, best=2
)


def test_samples_are_scored_when_the_sweep_is_over_and_the_best_two_whole() -> None:
    assert SAMPLED.all_test_cells(4) == 2 * 1000 + 2 * 100
    assert SAMPLED.all_test_cells(1) == 1000
    parts = parts_left(SAMPLED, [row(n) for n in "abcd"], WorkDone())
    assert parts[2] == whole(1, 10, 40)  # no test cells at the last rung
    assert parts[3] == Part((), (*[Work(test=1000)] * 2, *[Work(test=100)] * 2))
    assert overview(SAMPLED, [row(n) for n in "abcd"], Told()).test_cells == (0, 2200)


def test_what_a_stage_has_scored_counts_for_all_stages() -> None:
    """A pilot of 60 cells; then 120 in all for each trial, and 1,000 for a and b."""
    rows = [
        row("a", 3, "finished"),
        row("b", 2, "testing", asked_cells=60),
        row("c", 1, "stopped"),
        row("d", 1, "failed"),
    ]
    tests = {"a": 1000, "b": 1000, "c": 120}
    rows[0].test, rows[0].test_cells = (0.5, 0.1), 60
    done = WorkDone(step_of={"b": 10}, scored={TrialGrid("b", 10, "test", 60): 24.0})
    left = parts_left(SAMPLED, rows, done, tests)[3]
    assert left == Part((Work(test=976),), (Work(test=940), Work(test=120)))
    assert overview(SAMPLED, rows, Told(done), tests).test_cells == (84, 2120)
    assert overview(SAMPLED, rows, Told(done), tests).now["b"] == "test 24 of 60"
    rows[1] = row("b", 2, "testing", asked_cells=1000, test=(0.5, 0.1), test_cells=60)  # its last stage; nothing yet
    left = parts_left(SAMPLED, rows, done, tests)[3]
    assert left.begun == (Work(test=940),)
