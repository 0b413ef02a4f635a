"""The report's figures of what the run's stages took: time, scored cells and tokens, from the records of the rungs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from sweeps.display.parts import Figure
from sweeps.display.text import amount, counted, duration, percent
from sweeps.display.vega_overviews import Stage, waterfall
from sweeps.report.evidence import Evidence
from sweeps.report.sections import COST
from sweeps.run_folder.columns import FRESH
from sweeps.run_folder.reading import RunFolder

TRAINING = "training"
POOLS = ("dev", "test")
THREADS = 8  # that read score files from an object store, which gives each one late; a disk does not
NOT_DIVIDED = "In no score file"
LEAST = 0.005  # of the whole; a smaller part without a record is rounding
UNITS = ((7200.0, 3600.0, "hours"), (120.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))  # from so many seconds on
Amounts = dict[tuple[bool, str], float]  # of the fresh seeds or the search, of training or a pool


def cost_figures(evidence: Evidence) -> Iterator[Figure]:
    if not evidence.has_trials:
        return
    run, taken = evidence.run, _taken(evidence.run)
    confirms = any(row["role"] in FRESH for row in run.trials)
    total = sum(row.get("seconds") or 0.0 for row in run.trials)
    yield _time(evidence, taken["seconds"], total, confirms)
    trials = counted(len(run.trials), "trial")
    for name, title, what, caption in (
        ("cells", "Scored cells", "cells", "A cell is one prompt with one row."),
        ("tokens", "Tokens trained on", "tokens", "Tokens that are read to score are not recorded."),
    ):
        whole = sum(taken[name].values())
        stages = [_stage(key, n, amount(n), whole, confirms) for key, n in _in_order(taken[name])]
        yield Figure(
            name,
            COST,
            title,
            f"{caption} Sums over {trials}, from the records of their score files; each bar begins where the one "
            "before ends.",
            waterfall(stages, Stage("All", whole, amount(whole)), what, _described(title, stages)),
        )


def _time(evidence: Evidence, seconds: Amounts, total: float, confirms: bool) -> Figure:
    recorded = sum(seconds.values())
    whole = max(total, recorded)
    unit, name = next((unit, name) for least, unit, name in UNITS if whole >= least)
    stages = [_stage(key, s / unit, duration(s), whole / unit, confirms) for key, s in _in_order(seconds)]
    left = whole - recorded
    lost = ""
    if left > LEAST * whole:
        stages.append(Stage(NOT_DIVIDED, left / unit, _with_share(duration(left), left / whole)))
        lost = f" {NOT_DIVIDED}: in the trials' seconds, and in no record that divides them."
    return Figure(
        "time",
        COST,
        "Where the time went",
        "Each trial's share of its hosts' time, summed over "
        f"{counted(len(evidence.run.trials), 'trial')}; each bar begins where the one before ends.{lost} Not in it, "
        "since no host records it: starting, loading the base model, waiting for decisions, standing idle, and work "
        f"that was lost and done again.{_wall_clock(evidence.run)}",
        waterfall(stages, Stage("All", whole / unit, duration(whole)), name, _described("Time", stages)),
    )


def _wall_clock(run: RunFolder) -> str:
    """How long the driver ran, which the bars can be compared with."""
    state = run.driver_state
    if not state.began or state.written <= state.began:
        return ""
    ended = "its end" if state.over else "its last sign of life"
    return (
        f" By the wall clock the driver's last start was {duration(state.written - state.began)} before {ended}; hosts "
        "work beside each other, so the sum of their time can be longer."
    )


def _taken(run: RunFolder) -> dict[str, Amounts]:
    """Seconds, cells and tokens of all trials."""
    taken: dict[str, Amounts] = {name: defaultdict(float) for name in ("seconds", "cells", "tokens")}
    of_pools = [(row["trial_id"], row["role"] in FRESH, pool) for row in run.trials for pool in POOLS]
    with ThreadPoolExecutor(1 if run.store.is_local else THREADS) as threads:
        found = threads.map(lambda one: list(run.records(one[0], one[2])), of_pools)
        for (_, fresh, pool), records in zip(of_pools, found, strict=True):
            for cells, record in records:
                taken["seconds"][fresh, TRAINING] += record.get("train_seconds") or 0.0
                taken["seconds"][fresh, pool] += record.get("score_seconds") or 0.0
                taken["cells"][fresh, pool] += cells
                taken["tokens"][fresh, TRAINING] += record.get("tokens") or 0
    return taken


def _in_order(taken: Amounts) -> Iterator[tuple[tuple[bool, str], float]]:
    """What took something, the search before the fresh seeds, and training before scoring."""
    for fresh in (False, True):
        for part in (TRAINING, *POOLS):
            if (found := taken.get((fresh, part), 0.0)) > 0:
                yield (fresh, part), found


def _stage(key: tuple[bool, str], value: float, text: str, whole: float, confirms: bool) -> Stage:
    fresh, part = key
    what = TRAINING if part == TRAINING else f"{part} scoring"
    name = f"{'Confirmation' if fresh else 'Search'}, {what}" if confirms else what.capitalize()
    return Stage(name, value, _with_share(text, value / whole))


def _with_share(text: str, share: float) -> str:
    return f"{text} ({percent(share, digits=0)} %)"


def _described(title: str, stages: list[Stage]) -> str:
    return f"{title} by stage: {'; '.join(f'{stage.name} {stage.text}' for stage in stages)}"
