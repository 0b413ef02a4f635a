"""The asynchronous rule: Algorithm 2 of Li et al. in every order of reports, what ends a sweep, and the record."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runner_trials import trial
from score_rows import RECORD, rows

from sweeps.driver.decisions import DecisionRecord
from sweeps.schedule.asynchronous import AsynchronousRungs, usual_entrants
from sweeps.schedule.configurations import ConfigurationRungs, give, promotion
from trainer.errors import UserError
from trainer.measure.rung import RungReport
from trainer.store import Store

SEVEN = "abcdefg"
VALUES = {  # by rung; the order changes between rungs
    name: (v, w, x)
    for name, v, w, x in zip(
        SEVEN, (0.5, 0.7, 0.6, 0.9, 0.2, 0.8, 0.3), (0.6, 0.4, 0.9, 0.5, 0.7, 0.3, 0.8), range(7), strict=True
    )
}


class Algorithm2:
    """As printed in the paper, with eta, r = 1, s = 0 and R = eta ** (count - 1)."""

    def __init__(self, eta: int, count: int) -> None:
        self.eta, self.rungs = eta, [dict[str, float]() for _ in range(count)]
        self.promoted = [set[str]() for _ in range(count)]

    def get_job(self) -> tuple[str, int] | None:
        for k in reversed(range(len(self.rungs) - 1)):
            best_first = sorted(self.rungs[k], key=lambda t: -self.rungs[k][t])
            candidates = best_first[: len(self.rungs[k]) // self.eta]
            promotable = [t for t in candidates if t not in self.promoted[k]]
            if promotable:
                self.promoted[k].add(promotable[0])
                return promotable[0], k + 1
        return None  # draw a new configuration


def jobs(order: Sequence[str], at_once: bool, newest: bool) -> list[Any]:
    """All seven run at once and report in ``order``. A promoted trial reports before any further one of ``order``, or
    after all of them, the newest first or last. The job after each report."""
    rungs, reference = AsynchronousRungs(7, 2, 3), Algorithm2(2, 3)
    first, promoted, found = list(order), list[tuple[str, int]](), list[Any]()
    while first or promoted:
        if promoted and (not first or at_once):
            name, rung = promoted.pop(-1 if newest else 0)
        else:
            name, rung = first.pop(0), 0
        before = len(rungs.promotions)
        rungs.report(name, rung, VALUES[name][rung])
        reference.rungs[rung][name] = VALUES[name][rung]
        wanted = reference.get_job()
        assert reference.get_job() is None, "a report makes at most one trial promotable"
        new = [(p.trial, p.rung + 1) for p in rungs.promotions[before:]]
        assert new == ([] if wanted is None else [wanted]), (order, found)
        assert not any(p.last_left for p in rungs.promotions)
        found.append(wanted)
        promoted += new
    return found


@pytest.mark.parametrize(("at_once", "newest"), [(True, False), (False, False), (False, True)])
def test_every_order_of_seven_is_decided_as_by_algorithm_2(at_once: bool, newest: bool) -> None:
    """All 5,040 orders; a promoted trial reports at once, or when all have reported, the first or the last first."""
    numbers = {sum(job is not None for job in jobs(order, at_once, newest)) for order in itertools.permutations(SEVEN)}
    assert len(numbers) > 1, "how many go on depends on the order"


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_few_workers_get_the_jobs_of_algorithm_2(workers: int) -> None:
    for seed in range(30):
        draw = random.Random(seed)
        values = {f"t{i:02d}": [draw.random() for _ in range(3)] for i in range(20)}
        rungs, reference = AsynchronousRungs(20, 3, 3), Algorithm2(3, 3)
        new = list(values)
        running = [(new.pop(0), 0) for _ in range(workers)]
        waiting: list[tuple[str, int]] = []  # promoted here, not running yet
        while running:
            name, rung = running.pop(draw.randrange(len(running)))
            before = len(rungs.promotions)
            rungs.report(name, rung, values[name][rung])
            reference.rungs[rung][name] = values[name][rung]
            waiting += [(p.trial, p.rung + 1) for p in rungs.promotions[before:] if not p.last_left]
            waiting.sort(key=lambda job: -job[1])
            ours = waiting.pop(0) if waiting else (new.pop(0), 0) if new else None
            wanted = reference.get_job()
            if wanted is not None:
                assert ours == wanted
            else:
                assert ours is None or ours[1] == 0
            if ours is not None:
                running.append(ours)


def test_the_first_of_two_goes_on_before_the_others_report() -> None:
    rungs = AsynchronousRungs(8, 2, 2)
    assert rungs.report("a", 0, 0.3, step=60).action == "pause"
    assert rungs.decide("a").reason == (
        "waits at rung 1 of 2 (step 60): objective 0.3 is number 1 of 1 so far, of which the best 0 go on"
    )
    rungs.report("b", 0, 0.2)
    assert rungs.newly_decided() == ["a"]
    assert rungs.decide("a").reason == ("promoted from rung 1 of 2 (step 60): objective 0.3 was the best of 2 so far")
    assert rungs.report("c", 0, 0.9).action == "continue", "it is the best of three, and takes no place from a"
    assert rungs.decide("a").action == "continue"
    assert rungs.report("a", 1, 0.3).status == "finished"


def test_who_cannot_go_on_any_more_is_stopped() -> None:
    rungs = AsynchronousRungs(4, 2, 2)
    for name, value in (("a", 0.4), ("b", 0.3), ("c", 0.2)):
        rungs.report(name, 0, value)
    assert [rungs.decide(n).action for n in "abc"] == ["continue", "pause", "stop"]
    assert rungs.decide("c").reason == ("stopped at rung 1 of 2: objective 0.2 is below the best of 3 (cut-off 0.4)")
    rungs.report("d", 0, 0.5)
    assert rungs.decide("b").action == "stop"
    assert rungs.decide("d").action == "continue"


def test_one_trial_finishes_where_too_few_report_for_eta() -> None:
    rungs = AsynchronousRungs(3, 4, 3)
    for name, value in (("a", 0.4), ("b", 0.6), ("c", 0.2)):
        rungs.report(name, 0, value)
    assert [rungs.decide(n).action for n in "abc"] == ["stop", "continue", "stop"]
    assert rungs.report("b", 1, 0.6).action == "continue"
    assert rungs.report("b", 2, 0.6).status == "finished"
    assert [p.last_left for p in rungs.promotions] == [True, True]


def test_nan_counts_as_the_worst_report_and_a_failure_as_none() -> None:
    rungs = AsynchronousRungs(6, 2, 2)
    assert rungs.report("a", 0, 0.1).action == "pause"
    rungs.fail("f", "lost")
    assert rungs.decide("a").action == "pause"
    assert rungs.report("n", 0, math.nan).action == "stop"
    assert rungs.decide("a").action == "continue", "it is the best of two that reported"


def test_the_last_that_waits_and_fails_ends_the_sweep() -> None:
    rungs = AsynchronousRungs(2, 3, 2)
    rungs.report("a", 0, 0.3)
    rungs.fail("a", "removed")
    rungs.fail("b", "lost")
    assert {rungs.decide(n).action for n in "ab"} == {"fail"}


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 9), st.sampled_from([2, 3, 4]), st.integers(1, 3), st.randoms(use_true_random=False))
def test_every_sweep_ends_with_a_trial_that_finished(n: int, eta: int, count: int, draw: random.Random) -> None:
    """Whatever reports NaN or fails on the way, unless nothing else is left."""
    rungs = AsynchronousRungs(n, eta, count)
    running = [(f"t{i}", 0) for i in range(n)]
    troubles = 0
    while running:
        name, rung = running.pop(draw.randrange(len(running)))
        kind = draw.choice(["fine"] * 6 + ["nan", "fail"])
        troubles += kind != "fine"
        if kind == "fail":
            rungs.fail(name)
            found = []
        else:
            action = rungs.report(name, rung, math.nan if kind == "nan" else draw.random()).action
            found = [name] if action == "continue" else []
        for other in [*found, *rungs.newly_decided()]:
            decision = rungs.decide(other)
            if decision.action == "continue":
                assert decision.rung is not None
                running.append((other, decision.rung + 1))
    ends = [rungs.decide(f"t{i}").status for i in range(n)]
    assert "running" not in ends
    assert troubles or "finished" in ends


def test_more_go_on_than_by_the_certain_rule() -> None:
    assert usual_entrants(8, 2, 1) == (8,)
    eight, thousand = usual_entrants(8, 2, 3), usual_entrants(1000, 2, 3)
    assert eight[0] == 8
    assert 4 <= eight[1] < 7
    assert thousand[0] == 1000
    assert 500 < thousand[1] < 600
    assert usual_entrants(100_000, 2, 2)[1] > 50_000


# the record -------------------------------------------------------------------------------------------------------


def study_of(rule: str = "asynchronous") -> Any:
    from sweeps.study.load import load_study
    from sweeps.study.shipped import study_path

    return load_study(study_path("quickstart"), [f"scheduler.rule={rule}"], files=False)


TRIALS = [trial(lr=0.1 * i) for i in range(1, 8)]
REPLICATES = [replace(trial(lr=0.1 * i), seed=s) for i in range(1, 5) for s in (0, 1)]


def report(name: str, rung: int, value: float) -> RungReport:
    return RungReport(name, rung, 25 * (rung + 1), value, 0.01, std=0.02)


def play(rungs: Any, record: DecisionRecord, trials: Sequence[Any], seed: int, stop_after: int = 10**6) -> list[Any]:
    """Reports in a random order, from where the rungs are; the decisions after each."""
    draw, values = random.Random(seed), random.Random("values")
    of = {t.id: [values.random() for _ in range(3)] for t in trials}
    found = []
    for _ in range(stop_after):
        able = [t.id for t in trials if rungs.decide(t.id).action == "continue"]
        if not able:
            break
        name = draw.choice(able)
        rung = 0 if (last := rungs.decide(name).rung) is None else last + 1
        one = report(name, rung, of[name][rung])
        give(rungs, one)
        record.add(one)
        record.note()
        found.append((name, rung, {t.id: rungs.decide(t.id) for t in trials}))
    return found


@pytest.mark.parametrize("trials", [TRIALS, REPLICATES])
def test_a_second_start_decides_as_the_first_did(tmp_path: Path, trials: Sequence[Any]) -> None:
    store, study = Store.open(tmp_path), study_of()

    def start() -> tuple[Any, DecisionRecord]:
        rungs = promotion(trials, 2, 3, 1.0, "asynchronous")
        record = DecisionRecord.of(store, study, trials, rungs)
        assert record is not None
        return rungs, record

    rungs, record = start()
    assert isinstance(rungs, AsynchronousRungs | ConfigurationRungs)
    assert record.replay() == []
    first = play(rungs, record, trials, seed=1, stop_after=5)
    again, record = start()
    assert [(r.trial_id, r.rung_index) for r in record.replay()] == [(name, rung) for name, rung, _ in first]
    assert {t.id: again.decide(t.id) for t in trials} == first[-1][2]
    assert again.newly_decided() == []
    second = play(again, record, trials, seed=2)
    last, record = start()
    assert len(record.replay()) == len(first) + len(second)
    assert {t.id: last.decide(t.id) for t in trials} == second[-1][2]
    assert all(last.decide(t.id).status != "running" for t in trials)


def test_many_reports_take_several_files(tmp_path: Path) -> None:
    trials = [trial(lr=1e-4 * i) for i in range(1, 101)]
    store, study = Store.open(tmp_path), study_of()
    rungs = promotion(trials, 2, 3, 1.0, "asynchronous")
    record = DecisionRecord.of(store, study, trials, rungs)
    assert record is not None
    made = play(rungs, record, trials, seed=3)
    assert len(made) > 150
    again = promotion(trials, 2, 3, 1.0, "asynchronous")
    record = DecisionRecord.of(store, study, trials, again)
    assert record is not None
    assert len(record.replay()) == len(made)
    assert {t.id: again.decide(t.id) for t in trials} == made[-1][2]
    assert len(store.names(record.folder)) == -(-len(made) // 64)


def test_the_best_that_was_left_goes_on_again_although_another_is_tried_again(tmp_path: Path) -> None:
    """b failed, so a went on as the last; a second start tries b again, and a has gone on."""
    store, study, trials = Store.open(tmp_path), study_of(), TRIALS[:3]
    a, b, c = (t.id for t in trials)

    def start() -> tuple[Any, DecisionRecord]:
        rungs = promotion(trials, 4, 2, 1.0, "asynchronous")
        record = DecisionRecord.of(store, study, trials, rungs)
        assert record is not None
        return rungs, record

    rungs, record = start()
    for name, value in ((a, 0.4), (c, 0.3)):
        give(rungs, report(name, 0, value))
        record.add(report(name, 0, value))
    rungs.fail(b, "lost")
    record.note()
    assert rungs.decide(a).action == "continue"
    again, record = start()
    record.replay()
    assert again.decide(a).action == "continue"
    assert again.decide(b).action == "continue", "it has not reported"
    give(again, report(b, 0, 0.9))
    assert again.decide(b).action == "stop", "a went on in its place"


def test_a_failure_after_a_report_counts_again_at_the_next_start(tmp_path: Path) -> None:
    """Of the first configuration one seed reports and fails, then the other reports; it must not be promoted."""
    store, study = Store.open(tmp_path), study_of()
    rungs = promotion(REPLICATES, 2, 3, 1.0, "asynchronous")
    record = DecisionRecord.of(store, study, REPLICATES, rungs)
    assert record is not None
    first, second, *others = REPLICATES

    def reports(name: str, value: float) -> None:
        one = report(name, 0, value)
        give(rungs, one)
        record.add(one)

    reports(first.id, 0.9)
    record.fail(first.id, "out of memory")
    rungs.fail(first.id, "out of memory")
    record.fail(second.id, "lost")  # it has not reported, and will be tried again
    reports(second.id, 0.9)
    for other in others:
        reports(other.id, 0.1)
    again = promotion(REPLICATES, 2, 3, 1.0, "asynchronous")
    record = DecisionRecord.of(store, study, REPLICATES, again)
    assert record is not None
    record.replay()
    assert record.lost == [t.id for t in REPLICATES], "no scores are stored here"
    assert {t.id: again.decide(t.id) for t in REPLICATES} == {t.id: rungs.decide(t.id) for t in REPLICATES}
    assert again.decide(first.id).status == "failed"
    assert again.decide(second.id).status == "stopped"


def recorded(tmp_path: Path) -> tuple[Store, Path]:
    store = Store.open(tmp_path)
    rungs = promotion(TRIALS, 2, 3, 1.0, "asynchronous")
    record = DecisionRecord.of(store, study_of(), TRIALS, rungs)
    assert record is not None
    play(rungs, record, TRIALS, seed=4)
    return store, tmp_path / record.folder / "000000.jsonl"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            '"promoted": []',
            '"promoted": [["x", 0]]',
            'line 1: says that [["x", 0]] (trial, rung) went on here',
        ),
        ('{"report"', "{report", "line 1: is damaged"),
        (TRIALS[0].id, "0" * 16, "which is none of this sweep"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    store, file = recorded(tmp_path)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    rungs = promotion(TRIALS, 2, 3, 1.0, "asynchronous")
    record = DecisionRecord.of(store, study_of(), TRIALS, rungs)
    assert record is not None
    with pytest.raises(UserError, match="Remove the folder decisions") as error:
        record.replay()
    assert words in str(error.value)


def test_scores_that_are_not_as_recorded_are_refused(tmp_path: Path) -> None:
    store, file = recorded(tmp_path)
    first = next(t for t in TRIALS if t.id in file.read_text().splitlines()[0])
    store.write_scores(first.id, 25, "dev", rows(40, first.id, 25), {**RECORD, "rung": 25, "tokens": 10})
    record = DecisionRecord.of(store, study_of(), TRIALS, promotion(TRIALS, 2, 3, 1.0, "asynchronous"))
    assert record is not None
    with pytest.raises(UserError, match=rf"line 1: says that trial {first.id} had the objective .* its scores give"):
        record.replay()


def test_the_certain_rule_keeps_no_record(tmp_path: Path) -> None:
    rungs = promotion(TRIALS, 2, 3, 1.0)
    assert DecisionRecord.of(Store.open(tmp_path), study_of("certain"), TRIALS, rungs) is None
