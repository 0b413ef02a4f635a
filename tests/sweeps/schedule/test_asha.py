"""The promotion rule alone: the outcome is a function of the values, not of the order of arrival."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pytest
from checkout import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.schedule.asha import Rungs, rank_key, rung_quotas

EIGHT = {f"t{i}": v for i, v in enumerate([0.61, 0.70, 0.55, 0.66, 0.66, 0.40, 0.81, 0.52])}  # t3 and t4 tie


def promoted(rungs: Rungs, rung: int) -> set[str]:
    """The trials that were promoted from ``rung``."""
    ended = rungs.decisions().items()
    return {
        t for t, d in ended if d.rung is not None and (d.rung > rung or (d.rung == rung and d.action == "continue"))
    }


def test_quotas_never_fall_below_one() -> None:
    assert rung_quotas(8, 2, 3) == (8, 4, 2)
    assert rung_quotas(8, 3, 3) == (8, 2, 1)
    assert rung_quotas(3, 4, 4) == (3, 1, 1, 1)
    assert rung_quotas(9, 1.8, 2) == (9, 5)


@pytest.mark.parametrize(("settings", "word"), [((0, 2, 2), "trials"), ((4, 0.5, 2), "eta"), ((4, 2, 0), "count")])
def test_impossible_settings_are_named(settings: tuple[int, int, int], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Rungs(*settings)


def test_every_arrival_order_of_eight_promotes_the_same_four() -> None:
    """All 40,320 orders, a tie at the cut-off included: t3 and t4 have 0.66, so both are in with 0.81 and 0.70."""
    for order in itertools.permutations(EIGHT):
        rungs = Rungs(8, 2, 2)
        for trial in order:
            rungs.report(trial, 0, EIGHT[trial])
        assert promoted(rungs, 0) == {"t6", "t1", "t3", "t4"}, order


def test_every_arrival_order_of_six_decides_as_soon_as_certain_and_gives_the_same_words() -> None:
    """720 orders of six with a NaN, a degenerate and a failed trial, checked after every event by brute force."""
    events = {"a": 0.5, "b": 0.9, "c": math.nan, "d": 0.7, "e": 0.7, "f": None}  # b degenerate, f fails
    words = set()
    for order in itertools.permutations(events):
        rungs = Rungs(6, 2, 2)
        for seen in range(1, 7):
            trial = order[seen - 1]
            _send(rungs, trial, 0, events[trial], degenerate=trial == "b")
            valid = sorted(rank_key(t, v, t == "b") for t in order[:seen] if (v := events[t]) is not None and v == v)
            for place, (_, _, name) in enumerate(valid):
                to_come = 6 - seen
                expected = "continue" if place + to_come < 3 else "stop" if place >= 3 else "pause"
                assert rungs.decide(name).action == expected, (order[:seen], name)
        assert promoted(rungs, 0) == {"a", "d", "e"}
        words.add(tuple(sorted((t, d.reason) for t, d in rungs.decisions().items())))
    assert len(words) == 1


def test_the_reasons_in_words() -> None:
    rungs = Rungs(8, 2, 3)
    for trial, value in EIGHT.items():
        rungs.report(trial, 0, value, step=60, stderr=0.012)
    reasons = {trial: rungs.decide(trial).reason for trial in EIGHT}
    assert reasons["t0"] == (
        "stopped at rung 1 of 3 (step 60): objective 0.61 ± 0.012 is below the 4 best of 8 (cut-off 0.66)"
    )
    assert reasons["t6"] == "promoted from rung 1 of 3 (step 60): objective 0.81 ± 0.012 is among the 4 best of 8"
    rungs.report("t6", 1, 0.8, step=120)
    assert rungs.decide("t6").reason == (
        "waits at rung 2 of 3 (step 120): objective 0.8 is number 1 of 1, 3 to come, 2 to go on"
    )
    decision = rungs.decide("t0")
    assert (decision.status, decision.rung, decision.step, decision.objective) == ("stopped", 0, 60, 0.61)


def test_a_tie_at_the_cutoff_goes_to_the_lower_id_and_says_so() -> None:
    for order in itertools.permutations("abcd"):
        rungs = Rungs(4, 2, 2)
        for trial in order:
            rungs.report(trial, 0, 0.5)
        assert promoted(rungs, 0) == {"a", "b"}
        assert rungs.decide("c").reason == (
            "stopped at rung 1 of 2: objective 0.5 equals the cut-off of the 2 best of 4, whose ids come first"
        )


def test_values_that_look_equal_are_shown_in_full() -> None:
    rungs = Rungs(2, 2, 2)
    rungs.report("a", 0, 0.12345678)
    assert "0.12345677 is below the best of 2 (cut-off 0.12345678)" in rungs.report("b", 0, 0.12345677).reason


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_stopped_at_once_and_make_room_for_nobody(bad: float) -> None:
    rungs = Rungs(4, 2, 2)
    decision = rungs.report("a", 0, bad, step=5)
    assert (decision.action, decision.reason) == ("stop", f"stopped at rung 1 of 2 (step 5): objective is {bad}")
    for trial, value in (("b", 0.1), ("c", 0.2), ("d", 0.3)):
        rungs.report(trial, 0, value)
    assert promoted(rungs, 0) == {"c", "d"}


def test_nan_at_the_last_rung_is_not_a_finished_trial() -> None:
    assert Rungs(1, 2, 1).report("a", 0, math.nan).status == "stopped"


def test_failures_count_as_arrived_and_only_valid_trials_go_on() -> None:
    rungs = Rungs(4, 2, 3)
    assert rungs.report("a", 0, 0.1).action == "pause"
    rungs.fail("b", "CUDA out of memory")
    rungs.report("c", 0, math.nan)
    assert rungs.decide("a").action == "continue"  # one still to come, two places
    rungs.fail("d")
    assert promoted(rungs, 0) == {"a"}
    assert rungs.report("a", 1, 0.1).action == "continue"  # nobody else can arrive at rung 2
    assert rungs.report("a", 2, 0.1).status == "finished"
    assert rungs.decide("b").reason == "failed before rung 1 of 3: CUDA out of memory"
    assert rungs.decide("b").status == "failed"


def test_a_failure_after_promotion_does_not_block_the_next_rung() -> None:
    rungs = Rungs(4, 2, 3)
    for trial, value in (("a", 0.4), ("b", 0.3), ("c", 0.2), ("d", 0.1)):
        rungs.report(trial, 0, value)
    assert rungs.report("b", 1, 0.3).action == "pause"
    rungs.fail("a", "killed")
    assert rungs.decide("b").action == "continue"
    assert rungs.decide("a").reason == "failed after rung 1 of 3: killed"
    assert rungs.decide("c").action == "stop"  # a failure higher up does not reopen a rung


def test_a_trial_that_fails_while_it_waits_keeps_its_place() -> None:
    """Others may have been cut because of its value, so taking it back would make the order count."""
    outcomes = set()
    for order in (["a", "fail", "b", "c", "d"], ["d", "c", "b", "a", "fail"], ["a", "b", "fail", "c", "d"]):
        rungs = Rungs(4, 2, 2)
        for event in order:
            name, value = ("a", None) if event == "fail" else (event, {"a": 4, "b": 3, "c": 2, "d": 1}[event])
            _send(rungs, name, 0, value)
        rungs.report("b", 1, 3.0)
        outcomes.add(tuple((t, rungs.decide(t).status) for t in "abcd"))
    assert outcomes == {(("a", "failed"), ("b", "finished"), ("c", "stopped"), ("d", "stopped"))}


def test_one_slow_trial_delays_only_what_depends_on_it() -> None:
    rungs = Rungs(8, 2, 2)
    for trial in (t for t in EIGHT if t != "t7"):
        rungs.report(trial, 0, EIGHT[trial])
    waiting = {t for t in EIGHT if rungs.decide(t).action == "pause"}
    assert waiting == {"t4"}  # fourth of seven: t7 may still push it out
    rungs.report("t7", 0, EIGHT["t7"])
    assert rungs.decide("t4").action == "continue"


def test_a_degenerate_trial_ranks_below_every_other_one() -> None:
    rungs = Rungs(4, 2, 2)
    rungs.report("a", 0, 0.99, degenerate=True)
    rungs.report("b", 0, 0.2)
    rungs.report("c", 0, 0.1)
    assert rungs.decide("a").reason == (
        "stopped at rung 1 of 2: objective 0.99 (degenerate: one answer nearly always) "
        "ranks below the 2 best of 4 (cut-off 0.1)"
    )
    rungs.report("d", 0, math.nan)
    assert promoted(rungs, 0) == {"b", "c"}
    alone = Rungs(2, 2, 2)
    alone.report("a", 0, 0.99, degenerate=True)
    alone.fail("b")
    assert promoted(alone, 0) == {"a"}  # but above none


def test_one_rung_is_no_scheduler() -> None:
    rungs = Rungs(3, 2, 1)
    decisions = [rungs.report(t, 0, v, step=9) for t, v in (("a", 0.1), ("b", 0.9), ("c", 0.5))]
    assert {d.status for d in decisions} == {"finished"}
    assert decisions[0].reason == "finished at rung 1 of 1 (step 9): objective 0.1"


def test_replaying_finished_rungs_changes_nothing() -> None:
    rungs = Rungs(4, 2, 2)
    for trial, value in (("a", 0.4), ("b", 0.3), ("c", 0.2), ("d", 0.1)):
        rungs.report(trial, 0, value)
    before = rungs.decisions()
    assert [rungs.report(t, 0, 0.0).action for t in "abcd"] == ["continue", "continue", "stop", "stop"]
    assert rungs.decisions() == before


def test_reports_that_cannot_be_are_refused() -> None:
    rungs = Rungs(2, 2, 3)
    with pytest.raises(ValueError, match="rung 2 of 3 came, rung 1 was due"):
        rungs.report("a", 1, 0.5)
    rungs.report("a", 0, 0.5)
    with pytest.raises(ValueError, match="trial a"):
        rungs.report("a", 1, 0.5)  # it waits
    rungs.report("b", 0, 0.1)
    with pytest.raises(ValueError, match="one more than the 2 trials"):
        rungs.report("c", 0, 0.5)


def test_fewer_trials_than_announced_end_as_if_their_number_had_been_known() -> None:
    early, late = Rungs(5, 2, 2), Rungs(8, 2, 2)
    values = {t: EIGHT[t] for t in ("t0", "t1", "t2", "t3", "t4")}
    for trial, value in values.items():
        early.report(trial, 0, value)
        late.report(trial, 0, value)
    assert late.decide("t1").action == "continue"
    assert late.decide("t3").action == "pause"
    late.no_more_trials(5)
    assert promoted(late, 0) == promoted(early, 0) == {"t1", "t3"}
    assert late.decisions() == early.decisions()
    with pytest.raises(ValueError, match="more than the 5"):
        late.no_more_trials(6)
    with pytest.raises(ValueError, match="less than the 5"):
        late.no_more_trials(4)


@dataclass(frozen=True)
class Case:
    """A table of fates: ``fates[trial][rung]`` is (objective or None for a failure, degenerate)."""

    trials: int  # that exist
    announced: int
    eta: float
    fates: tuple[tuple[tuple[float | None, bool], ...], ...]

    @property
    def count(self) -> int:
        return len(self.fates[0])


_value = st.one_of(st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, math.nan]), st.none(), st.floats(-1, 1))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    trials, count = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    fate = st.tuples(*[st.tuples(_value, st.booleans())] * count)
    fates = draw(st.lists(fate, min_size=trials, max_size=trials))
    return Case(trials, trials + draw(st.integers(0, 6)), draw(st.sampled_from([1.5, 2, 3, 4])), tuple(fates))


@settings(max_examples=400, deadline=None)
@given(cases(), st.randoms(use_true_random=False), st.randoms(use_true_random=False))
def test_any_interleaving_gives_the_outcome_of_plain_successive_halving(
    case: Case, one: random.Random, two: random.Random
) -> None:
    first, second = _run(case, one), _run(case, two)
    assert first == second
    assert {trial: status for trial, (status, _) in first.items()} == _halving(case)


@settings(max_examples=150, deadline=None)
@given(cases(), st.randoms(use_true_random=False), st.data())
def test_failures_at_any_moment_never_block_and_never_unsettle_a_decision(
    case: Case, rng: random.Random, data: st.DataObject
) -> None:
    """Trials may also die while they wait. Every trial ends, and a decision once taken is never taken back."""
    doomed = data.draw(st.sets(st.sampled_from(range(case.trials)), max_size=case.trials))
    outcome = _run(case, rng, doomed)
    assert all(status != "running" for status, _ in outcome.values())


def _run(case: Case, rng: random.Random, doomed: Iterable[int] = ()) -> dict[str, tuple[str, str]]:
    """Plays the case in a random order: any running trial may report next. Returns status and reason by trial."""
    rungs = Rungs(case.announced, case.eta, case.count)
    names = [f"t{i:02d}" for i in range(case.trials)]
    doomed = set(doomed)
    shrink = case.announced - case.trials
    final: dict[str, str] = {}
    while True:
        running = [i for i, name in enumerate(names) if rungs.decide(name).action == "continue"]
        waiting = [i for i in doomed if rungs.decide(names[i]).action == "pause"]
        events = [("report", i) for i in running] + [("die", i) for i in waiting] + ([("shrink", 0)] if shrink else [])
        if not events:
            break
        kind, index = rng.choice(events)
        if kind == "shrink":
            shrink -= 1
            rungs.no_more_trials(case.trials + shrink)
        elif kind == "die":
            doomed.discard(index)
            rungs.fail(names[index], "killed")
        else:
            rung = rungs.decide(names[index]).rung
            rung = 0 if rung is None else rung + 1
            value, degenerate = case.fates[index][rung]
            _send(rungs, names[index], rung, value, degenerate)
        for name in names:
            now = rungs.decide(name)
            assert final.get(name, now.status) == now.status, "a trial that had ended changed its fate"
            if now.status != "running":
                final[name] = now.status
    return {name: (rungs.decide(name).status, rungs.decide(name).reason) for name in names}


def _halving(case: Case) -> dict[str, str]:
    """The reference: all entrants of a rung are known, sort, cut, next rung."""
    fates = {f"t{i:02d}": "" for i in range(case.trials)}
    entrants = sorted(fates)
    for rung, quota in enumerate([*rung_quotas(case.trials, case.eta, case.count)[1:], case.trials]):
        keys = []
        for name in entrants:
            value, degenerate = case.fates[int(name[1:])][rung]
            if value is None:
                fates[name] = "failed"
            elif not math.isfinite(value):
                fates[name] = "stopped"
            else:
                keys.append(rank_key(name, value, degenerate))
        ranked = [key[2] for key in sorted(keys)]
        fates.update(dict.fromkeys(ranked[quota:], "stopped"))
        entrants = ranked[:quota]
    return fates | dict.fromkeys(entrants, "finished")


def _send(rungs: Rungs, trial: str, rung: int, value: float | None, degenerate: bool = False) -> None:
    if value is None:
        rungs.fail(trial)
    else:
        rungs.report(trial, rung, value, degenerate=degenerate)


def test_two_thousand_trials_are_cut_to_the_last_quota() -> None:
    rng = random.Random(0)
    rungs, values = Rungs(2000, 3, 4), [rng.random() for _ in range(2000)]
    _finish(rungs, [f"t{i:04d}" for i in range(2000)], values)
    statuses = [d.status for d in rungs.decisions().values()]
    assert rungs.quotas == (2000, 666, 222, 74)
    assert (statuses.count("finished"), statuses.count("stopped")) == (74, 1926)
    best = set(sorted(range(2000), key=lambda i: -values[i])[:74])
    assert {int(t[1:]) for t, d in rungs.decisions().items() if d.status == "finished"} == best


def _finish(rungs: Rungs, names: Sequence[str], values: Sequence[float]) -> None:
    for rung in range(rungs.count):
        for name, value in zip(names, values, strict=True):
            if rungs.decide(name).action == "continue":
                rungs.report(name, rung, value)


def test_importing_the_rule_and_the_search_does_not_import_ray() -> None:
    code = "import sys, sweeps.schedule.asha, sweeps.search.points\n"
    code += "print([m for m in ('ray', 'torch', 'optuna') if m in sys.modules])"
    root = ROOT
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
