"""The sweep against the plain stack on SmolLM2 and SST-2: ``sweep_makespan.py --model smollm2``.

8 trials (template x rank x training wordings) under ASHA, then the best two again with two fresh seeds, one of which
chooses and one reports, on both sides; 60 steps of 8 rows, 10 dev wordings x 50 rows at every rung, 20 test wordings x
``TEST_ROWS`` rows for every trial that comes to its end. Ours scores the test grid to a half-width of one point of the
mean, and whole for what is reported of the best two; the plain stack scores it whole. Rows, wordings, trials and
numbers of seeds are fixed here, before any sweep was timed. What a larger test grid would cost is extrapolated from
the seconds per cell that each side took here, and marked so.

What both decide is compared over other draws of wordings, by simulation: all 8 trials are trained to their end once,
and scored at every rung under all 30 dev and test wordings (``record``). A draw deals these anew into 10 and 20, cuts
by each side's own rule at the recorded scores, and says what the winner of the search lacks to the best of the 8 on
the test wordings. All draws share the 8 fine-tunes: the interval is for other wordings, not for other fine-tunes.

Parts that are done are kept in the folder. After ``--minutes`` no further rung is begun.
"""

# ruff: noqa: E402  (threads and offline mode are set before torch and transformers are imported)
from __future__ import annotations

import json
import multiprocessing
import os
import platform
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import pyarrow.parquet as pq
import yaml
from ray.tune.schedulers.async_hyperband import _Bracket
from real_tasks import present, review_pools, write_sst2_study
from scipy import stats

from sweeps.schedule.configurations import promotion
from sweeps.study.load import load_study
from sweeps.trials.from_points import make_trials, points_of
from sweeps.trials.load_content import content_of
from trainer.data.assets import Assets
from trainer.runner import Runner
from trainer.setup import Setup
from trainer.store import Store
from trainer.trial import Trial, rung_steps
from trainer.work import TrainAndScore

TRAIN_ROWS, DEV_ROWS, TEST_ROWS = 1000, 50, 300
RECORDED_ROWS = 100  # test rows of the recorded scores
STEPS, SHARES = 60, (0.25, 0.5, 1.0)
DRAWS = 2000
LARGER = (50, 2000)  # wordings x rows, extrapolated
Point = tuple[Any, ...]  # template, rank, PLW, pool


def write_files(folder: Path, model: Path) -> None:
    """The study, its rows and pools, which both sides read."""
    rows = pq.read_table(present("sst2_sentences.parquet")).to_pylist()
    for split, count in (("train", TRAIN_ROWS), ("dev", DEV_ROWS), ("test", TEST_ROWS)):
        drawn = [r for r in rows if r["split"] == split]
        random.Random(0).shuffle(drawn)
        lines = [{"id": f"{split}-{i}", "text": r["text"], "label": r["label"]} for i, r in enumerate(drawn[:count])]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    counts = {"train": TRAIN_ROWS, "dev": DEV_ROWS, "test": TEST_ROWS}
    study = write_sst2_study(folder, model, counts)
    # files of both sides' own, since the plain stack knows no `where` and `limit`
    study["task"] |= {"rows": {split: str(folder.resolve() / f"{split}.jsonl") for split in counts}, "id": "id"}
    first = next(iter(review_pools()["train"]))
    study["pools"]["train"]["one"] = {"file": "train.yaml", "only": [first]}
    study |= {
        "axes": {
            "template": ["plain", "chat"],
            "lora": {"r": [8, 16], "alpha": 16},
            "lr": 1.0e-3,
            "steps": STEPS,
            "plw": [0.0],
            "pool": ["one", "many"],
        },
        "training": {"batch_size": 8},
        "scheduler": {"eta": 2, "rungs": list(SHARES)},
        "objective": {"std_weight": 1},
        "confirm": {"top": 2, "seeds": 2},
        "tables": {"test": "finalists", "precision": {"mean": 0.01}},
        "resources": {"slots": 4, "cpus": 1},  # two hosts
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))


# what both decide, over draws of wordings -----------------------------------------------------------------------------


def recorded_task(folder: Path) -> tuple[list[Trial], Assets]:
    """The study's 8 trials, and assets in which dev and test rows are asked all 30 wordings."""
    study = load_study(folder / "study.yaml")
    content = content_of(study)
    points = points_of(study)
    assert points is not None
    trials = make_trials(study, points, content)
    assets = content.assets
    wordings = (*assets.pools["dev"], *assets.pools["test"])
    rows = {**assets.rows, "test": assets.rows["test"][:RECORDED_ROWS]}
    return trials, Assets(rows, assets.train_pools, {"dev": wordings, "test": wordings})


def record(folder: Path, minutes: float) -> bool:
    """Train all trials to their end and score every rung, in two processes of one core; False where time is over."""
    end = time.time() + 60 * minutes
    context = multiprocessing.get_context("spawn")
    halves = [context.Process(target=_record_half, args=(folder, half, end)) for half in (0, 1)]
    for process in halves:
        process.start()
    for process in halves:
        process.join()
    if any(process.exitcode for process in halves):
        sys.exit("recording failed; see above")
    trials, _ = recorded_task(folder)
    store = Store.open(str(folder / "recorded"))
    return all(store.read_scores(t.id, STEPS, "test") is not None for t in trials)


def _record_half(folder: Path, half: int, end: float) -> None:
    """Every other trial, in four slots: together to a rung, then their scores one after another. What is in the store
    is not made again."""
    trials, assets = recorded_task(folder)
    store = Store.open(str(folder / "recorded"))
    mine = trials[half::2]
    runner = Runner(mine[0].model, Setup(slots=len(mine), max_r=16, threads=1), assets, store)
    try:
        for rung, pool in [*((r, "dev") for r in rung_steps(SHARES, STEPS)), (STEPS, "test")]:
            if time.time() > end:
                return
            for future in [runner.submit(TrainAndScore(trial, rung, pool)) for trial in mine]:
                future.result()
            print(f"  recorded: {len(mine)} trials at step {rung}, {pool} rows", flush=True)
    finally:
        runner.close()


@dataclass(frozen=True)
class Recorded:
    """Of one trial: accuracy by wording at every rung on the dev rows, and at its end on the test rows."""

    trial: Trial
    dev: tuple[Mapping[str, float], ...]
    test: Mapping[str, float]


def read_recorded(folder: Path) -> list[Recorded]:
    trials, _ = recorded_task(folder)
    store = Store.open(str(folder / "recorded"))
    steps = rung_steps(SHARES, STEPS)
    return [
        Recorded(t, tuple(_by_wording(store, t, s, "dev") for s in steps), _by_wording(store, t, STEPS, "test"))
        for t in trials
    ]


def _by_wording(store: Store, trial: Trial, step: int, pool: str) -> dict[str, float]:
    found = store.read_scores(trial.id, step, pool)
    assert found is not None
    right: dict[str, list[bool]] = {}
    for wording, correct in zip(*(found[0].column(n).to_pylist() for n in ("prompt_id", "correct")), strict=True):
        right.setdefault(wording, []).append(correct)
    return {wording: sum(of) / len(of) for wording, of in right.items()}


def objective(of: Mapping[str, float], wordings: Sequence[str]) -> float:
    values = np.array([of[w] for w in wordings])
    return float(values.mean() - values.std(ddof=1))


def our_choice(trials: Sequence[Recorded], dev: Sequence[str]) -> Recorded:
    """By the rule of ``sweeps.schedule``."""
    rungs = promotion([r.trial for r in trials], 2, 3, 1.0)
    going = list(trials)
    for rung in range(3):
        for one in going:
            rungs.report(one.trial.id, rung, objective(one.dev[rung], dev))
        if rung < 2:
            going = [one for one in going if rungs.decide(one.trial.id).action == "continue"]
    return max(going, key=lambda one: objective(one.dev[-1], dev))


def plain_choice(trials: Sequence[Recorded], dev: Sequence[str]) -> Recorded:
    """By Ray's own ASHAScheduler, told of two trials at a time, in the grid's order, each as fast as the other."""
    steps = rung_steps(SHARES, STEPS)
    bracket = _Bracket(steps[0], STEPS, 2, 0)
    ended: list[Recorded] = []
    waiting = list(trials)
    running: list[tuple[int, Recorded, int]] = []  # time of its next report, in steps; trial; rung
    now = 0
    while waiting or running:
        while waiting and len(running) < 2:
            running.append((now + steps[0], waiting.pop(0), 0))
        running.sort(key=lambda item: item[0])  # stable: at the same time the older first
        now, one, rung = running.pop(0)
        if rung == len(steps) - 1:
            ended.append(one)
            continue
        told: Any = SimpleNamespace(trial_id=one.trial.id)  # all that the bracket reads of Ray's own trial
        if bracket.on_result(told, steps[rung], objective(one.dev[rung], dev)) == "CONTINUE":
            running.append((now + steps[rung + 1] - steps[rung], one, rung + 1))
    return max(ended, key=lambda one: objective(one.dev[-1], dev))


def regrets(trials: Sequence[Recorded]) -> dict[str, Any]:
    """Points of mean - std that a choice lacks to the best on the test wordings, on average over ``DRAWS`` deals of the
    wordings; and what ours lacks less what the plain stack's lacks, with an interval of 95 % for other wordings, by the
    jackknife that leaves out one wording after another."""
    wordings = sorted(trials[0].test)
    found: dict[str, Any] = _lacking(trials, wordings, DRAWS)
    without = [_lacking(trials, [w for w in wordings if w != out], DRAWS // 4) for out in wordings]
    gaps = np.array([each["ours"] - each["plain stack"] for each in without])
    n, gap = len(gaps), found["ours"] - found["plain stack"]
    half = float(stats.t.ppf(0.975, n - 1)) * float(np.sqrt((n - 1) / n * ((gaps - gaps.mean()) ** 2).sum()))
    rounded = {who: round(value, 2) for who, value in found.items()}
    return rounded | {"ours - plain stack": [round(x, 2) for x in (gap, gap - half, gap + half)], "draws": DRAWS}


def _lacking(trials: Sequence[Recorded], wordings: Sequence[str], draws: int) -> dict[str, float]:
    rng, dealt = random.Random(0), list(wordings)
    lacks: dict[str, list[float]] = {"ours": [], "plain stack": [], "no cuts": [], "blind": []}
    for _ in range(draws):
        rng.shuffle(dealt)
        dev, test = dealt[:10], dealt[10:]
        truth = {one.trial.id: objective(one.test, test) for one in trials}
        best = max(truth.values())
        chosen = {
            "ours": our_choice(trials, dev),
            "plain stack": plain_choice(trials, dev),
            "no cuts": max(trials, key=lambda one: objective(one.dev[-1], dev)),
        }
        for who, one in chosen.items():
            lacks[who].append(100 * (best - truth[one.trial.id]))
        lacks["blind"].append(100 * (best - float(np.mean(list(truth.values())))))
    return {who: float(np.mean(of)) for who, of in lacks.items()}


# the claim ------------------------------------------------------------------------------------------------------------


def extrapolated(folder: Path, ours: float, theirs: float) -> dict[str, Any]:
    """Seconds of both where the test grid has ``LARGER`` cells, from the seconds that a cell took in these runs."""
    from sweeps.study.precision import usual_cells

    study = load_study(folder / "study.yaml")
    plain = json.loads((folder / "peer.json").read_text())
    cells = LARGER[0] * LARGER[1]
    per_cell = plain["test_seconds"] / plain["test_cells"] / 2  # two at a time
    at_scale = theirs + per_cell * (plain["tested"] * cells - plain["test_cells"])
    scored = our_test_cells(folder / "ours")
    rate = scored["seconds"] / scored["cells"] / 2
    sampled = usual_cells(study, "test", *LARGER)
    now = scored["whole"] * cells + (scored["trials"] - scored["whole"]) * sampled
    ours_at_scale = ours + rate * (now - scored["cells"])
    return {
        "test_grid": list(LARGER),
        "ours": round(ours_at_scale),
        "peer": round(at_scale),
        "ratio": round(at_scale / ours_at_scale, 2),
        "extrapolated": True,
    }


def our_test_cells(run: Path) -> dict[str, float]:
    """Of the run's test scores: cells, trials, trials scored whole, and seconds of scoring."""
    store = Store.open(str(run))
    found = {"cells": 0.0, "trials": 0.0, "whole": 0.0, "seconds": 0.0}
    for row in pq.read_table(run / "trials.parquet").to_pylist():
        for step in store.rungs(row["trial_id"], "test"):
            scored = store.read_scores(row["trial_id"], step, "test")
            assert scored is not None
            table, about = scored
            found["cells"] += table.num_rows
            found["trials"] += 1
            found["whole"] += table.num_rows == 20 * TEST_ROWS
            found["seconds"] += about["score_seconds"]
    return found


def winners(folder: Path) -> dict[str, Any]:
    """What both sides chose, in the search and after it, with the figures of the seed that reports."""
    tables = folder / "ours" / "tables"
    searched = next(r for r in pq.read_table(tables / "robustness.parquet").to_pylist() if r["winner"])
    confirmed = next(r for r in pq.read_table(tables / "confirmation.parquet").to_pylist() if r["winner"])
    ours = {
        "search": [searched[a] for a in ("template", "r", "pool")],
        "confirmed": [confirmed["template"], int(confirmed["r"]), confirmed["pool"]],
        "test_mean": round(confirmed["mean"], 4),
        "test_std": round(confirmed["std"], 4),
    }
    return {"ours": ours, "peer": json.loads((folder / "peer.json").read_text())}


def about() -> dict[str, Any]:
    """What was compared, and where."""
    names = ("torch", "transformers", "peft", "ray")
    return {
        "claim": "8 trials and a confirmation, SmolLM2-135M-Instruct (4-bit weights made dense) on SST-2, against Ray "
        "Tune and a process per trial",
        "size": {"steps": STEPS, "dev": [10, DEV_ROWS], "test": [20, TEST_ROWS]},
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {n: version(n) for n in names} | {"python": platform.python_version()},
    }


def makespan_of(folder: Path, ours: float, theirs: float) -> dict[str, Any]:
    return {
        "ours": round(ours, 1),
        "peer": round(theirs, 1),
        "ratio": round(theirs / ours, 2),
        "unit": "s",
        "extrapolated": extrapolated(folder, ours, theirs),
        "decided": winners(folder),
    }
