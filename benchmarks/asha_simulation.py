"""When may a trial go on? Our two rules and Ray's own ASHA in simulated sweeps with stragglers and lost nodes.

    python benchmarks/asha_simulation.py [--repeats N] [--json FILE]

64 and 1,000 trials on 8 and 128 slots, three rungs at 1/4, 1/2 and the whole of a training, eta 2. Nothing is trained:
a simulated clock runs trials, and each scheduler's own code decides (``sweeps.schedule`` for ours, the bracket of Ray's
``AsyncHyperBandScheduler``). What is assumed, the same for all three and fixed before any was run:

* A trial's worth is drawn from a normal distribution of SD 1. At the rungs it is seen with noise of SD 0.8, 0.4 and
  0.2: rank correlations with the worth of about .77, .92 and .98.
* A whole training takes 1 on average; trials differ by a lognormal factor of SD 0.2. One part in twenty (from rung to
  rung) takes five times as long: a straggler.
* A node has 8 slots and is lost once in 20 on average. It is back after 0.1; its trials go on from their last rung.
* A free slot takes a trial to be retried, else a promoted one from the highest rung, else a new one. Under Ray's rule a
  trial that is not stopped goes on in its slot.

Reported: the makespan; the share of slot time without a trial until the end; trainings' worth of work; and the regret,
what the worth of the trial with the best last report lacks to the best of all, in SD. Each with 95 % intervals over
repeats; differences to Ray's rule are paired.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers.async_hyperband import _Bracket
from scipy import stats

from sweeps.schedule.asha import Rungs
from sweeps.schedule.configurations import RULES, Rule

SHARES, ETA = (0.25, 0.5, 1.0), 2
NOISE = (0.8, 0.4, 0.2)
STRAGGLERS, SLOWER = 0.05, 5.0
NODE, LIFE, AWAY = 8, 20.0, 0.1  # slots of a node; mean time between losses; time until it is back
SIZES = ((64, 8), (64, 128), (1000, 8), (1000, 128))  # trials, slots
REPEATS = {64: 400, 1000: 60}


@dataclass(frozen=True)
class Drawn:
    """What the trials of one repeat are like, whatever the rule."""

    worth: list[float]
    seen: list[tuple[float, ...]]  # at each rung
    seconds: list[tuple[float, ...]]  # of each part

    @classmethod
    def of(cls, trials: int, seed: int) -> Drawn:
        rng = np.random.default_rng(seed)
        worth = rng.standard_normal(trials)
        seen = worth[:, None] + rng.standard_normal((trials, 3)) * NOISE
        parts = np.diff([0.0, *SHARES]) * np.exp(0.2 * rng.standard_normal(trials))[:, None]
        parts = parts * np.where(rng.random((trials, 3)) < STRAGGLERS, SLOWER, 1.0)
        return cls(worth.tolist(), list(map(tuple, seen.tolist())), list(map(tuple, parts.tolist())))


@dataclass
class Outcome:
    makespan: float
    idle: float  # share of the slots' time
    trained: float  # in trainings of average length
    regret: float  # in SD


Report = Callable[[int, int, float], list[tuple[int, bool]]]  # (trial, rung, value) -> (trial, same slot) that go on


def ours(rule: Rule, trials: int) -> Report:
    rungs: Rungs = RULES[rule](trials, ETA, len(SHARES))
    name, number = [f"{i:06d}" for i in range(trials)], {f"{i:06d}": i for i in range(trials)}

    def report(trial: int, rung: int, value: float) -> list[tuple[int, bool]]:
        own = rungs.report(name[trial], rung, value).action == "continue"
        others = [number[n] for n in rungs.newly_decided() if rungs.decide(n).action == "continue"]
        return [*([(trial, False)] if own else []), *((other, False) for other in others)]

    return report


def rays(trials: int) -> Report:
    bracket = _Bracket(1, 4, ETA, 0)  # rungs at 1 and 2 of 4 parts; at the end nothing is left to decide

    def report(trial: int, rung: int, value: float) -> list[tuple[int, bool]]:
        if rung == len(SHARES) - 1:
            return []
        tune_trial: Any = SimpleNamespace(trial_id=str(trial))
        action = bracket.on_result(tune_trial, (1, 2, 4)[rung], value)
        return [(trial, True)] if action == "CONTINUE" else []

    return report


def play(drawn: Drawn, slots: int, report: Report, seed: int) -> Outcome:
    """One sweep on a simulated clock."""
    draw = random.Random(seed)
    n = len(drawn.worth)
    new, retries = deque(range(n)), deque[tuple[int, int]]()
    promoted: list[deque[int]] = [deque() for _ in SHARES]  # by the rung that they go to
    running: dict[int, tuple[int, int, float, int]] = {}  # slot -> trial, rung, since, ticket
    free, away = list(range(slots)), set[int]()  # away: nodes
    events: list[tuple[float, int, str, int]] = []  # time, ticket, kind, slot or node
    tickets, now, busy = 0, 0.0, 0.0
    reached: dict[int, int] = {}  # trial -> the rung that it last reported
    ended: dict[int, float] = {}  # trial -> its last report

    def later(seconds: float, kind: str, what: int) -> int:
        nonlocal tickets
        tickets += 1
        heapq.heappush(events, (now + seconds, tickets, kind, what))
        return tickets

    def start(slot: int, trial: int, rung: int) -> None:
        ticket = later(drawn.seconds[trial][rung], "report", slot)
        running[slot] = (trial, rung, now, ticket)

    def fill() -> None:
        free.sort(reverse=True)
        waiting = [s for s in free if s // NODE not in away]
        while waiting:
            if retries:
                job = retries.popleft()
            elif (queue := next((q for q in reversed(promoted) if q), None)) is not None:
                trial = queue.popleft()
                job = (trial, reached[trial] + 1)
            elif new:
                job = (new.popleft(), 0)
            else:
                return
            slot = waiting.pop()
            free.remove(slot)
            start(slot, *job)

    for node in range(-(-slots // NODE)):
        later(draw.expovariate(1 / LIFE), "lost", node)
    fill()
    last = 0.0
    while running or retries or any(promoted) or new:
        now, ticket, kind, what = heapq.heappop(events)
        if kind == "lost":
            away.add(what)
            for slot in [s for s in running if s // NODE == what]:
                trial, rung, since, _ = running.pop(slot)
                busy += now - since
                retries.append((trial, rung))
                free.append(slot)
            later(AWAY, "back", what)
        elif kind == "back":
            away.discard(what)
            later(draw.expovariate(1 / LIFE), "lost", what)
        elif what in running and running[what][3] == ticket:
            trial, rung, since, _ = running.pop(what)
            busy += now - since
            last = now
            if rung == len(SHARES) - 1:
                ended[trial] = drawn.seen[trial][rung]
            reached[trial] = rung
            free.append(what)
            for other, same_slot in report(trial, rung, drawn.seen[trial][rung]):
                if same_slot:
                    free.remove(what)
                    start(what, other, rung + 1)
                else:
                    promoted[reached[other] + 1].append(other)
        fill()
    best = max(ended, key=lambda t: ended[t])
    return Outcome(last, 1 - busy / (slots * last), busy, max(drawn.worth) - drawn.worth[best])


# what is printed --------------------------------------------------------------------------------------------------

NAMES = ("makespan", "idle", "trained", "regret")


def measure(trials: int, slots: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Rule -> number -> mean, low and high of each; with the paired difference to Ray's rule beside it."""
    found: dict[str, list[Outcome]] = {"certain": [], "asynchronous": [], "ray": []}
    for seed in range(repeats):
        drawn = Drawn.of(trials, seed)
        for rule in ("certain", "asynchronous"):
            found[rule].append(play(drawn, slots, ours(rule, trials), seed))
        found["ray"].append(play(drawn, slots, rays(trials), seed))
    table: dict[str, dict[str, list[float]]] = {}
    for rule, outcomes in found.items():
        table[rule] = {}
        for name in NAMES:
            values = np.array([getattr(o, name) for o in outcomes])
            table[rule][name] = interval(values)
            if rule != "ray":
                table[rule][f"{name}_minus_ray"] = interval(values - [getattr(o, name) for o in found["ray"]])
    return table


def interval(values: np.ndarray) -> list[float]:
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return [round(float(v), 4) for v in (values.mean(), values.mean() - half, values.mean() + half)]


def text(name: str, value: Sequence[float]) -> str:
    scale, digits = (100, 0) if name.startswith("idle") else (1, 2)
    mean, low, high = (scale * v for v in value)
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, help="of each size (default 400 of 64 trials, 60 of 1,000)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    found = []
    print("trials slots rule          makespan            idle, %         trainings           regret, SD")
    for trials, slots in SIZES:
        repeats = args.repeats or REPEATS[trials]
        table = measure(trials, slots, repeats)
        for rule, numbers in table.items():
            print(f"{trials:6d} {slots:5d} {rule:13s}", *(f"{text(n, numbers[n]):19s}" for n in NAMES), flush=True)
            if rule != "ray":
                print(" " * 13 + "  minus Ray's", *(f"{text(n, numbers[f'{n}_minus_ray']):19s}" for n in NAMES))
        found.append({"trials": trials, "slots": slots, "repeats": repeats, "rules": table})
    if args.json:
        head = {"command": "python benchmarks/asha_simulation.py", "versions": {"ray": version("ray")}}
        args.json.write_text(json.dumps({**head, "sizes": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
