"""A run folder as a reader sees it in the end: a search over thirty configurations with two seeds each, some stopped
and one failed, and the best two confirmed with fresh seeds. Answers flip between wordings."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
from reported_run import add_trial, keep_wordings, make_run, make_study, make_trial

from sweeps.run_folder import trials_file
from trainer import trial as t
from trainer.store import Store

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
RANKS, WEIGHTS, SEEDS = (4, 8, 16), (0.0, 0.1), (0, 1)
FRESH = (7, 8, 9, 10)  # seeds of the confirmation; the first two choose
BEGINNINGS = (
    "Is the writer of this message unhappy? Answer with yes or no.",
    "You read the mail of a shop that sells furniture online and delivers it to the door.\nSomebody writes:",
    "Complaint?",
    "Decide whether a colleague should call back the person who wrote the following lines, as they sound upset.",
)


def confirmed_run(folder: Path) -> Store:
    axes = {
        "lr": list(RATES), "steps": 40, "lora": {"r": list(RANKS)}, "plw": list(WEIGHTS), "seed": list(SEEDS),
    }  # fmt: skip
    study = make_study(
        axes=axes, scheduler={"rungs": [0.5, 1.0]}, confirm={"top": 2, "seeds": 4}, tables={"thresholds": [0.75, 0.85]}
    )
    store = make_run(folder, study)
    texts = {f"wording-{i:02d}": f"{BEGINNINGS[i % len(BEGINNINGS)]}\n{{{{ text }}}}\n(wording {i})" for i in range(24)}
    pool = keep_wordings(store, texts)
    rows, roles = [], dict[str, str]()
    for place, (lr, r, plw) in enumerate(itertools.product(RATES, RANKS, WEIGHTS)):
        quality = 0.88 - 0.06 * abs(np.log10(lr) + 2.5) - 0.004 * place % 7 - 0.02 * plw
        confirmed = place in (20, 21)
        seeds = SEEDS + (FRESH if confirmed else ())
        for seed in seeds:
            trial = dataclasses.replace(make_trial(lr, seed, test_prompts=pool), lora=t.Lora(r=r), loss=t.Loss(plw=plw))
            if place == 29 and seed == 1:
                rows.append((trial, "failed", 0, "loss became NaN between steps 3 and 4"))
                continue
            stopped = place % 4 == 3
            luck = 0.01 * np.sin(7 * place + 3 * seed)
            better = 0.04 * confirmed
            add_trial(store, trial, quality + better + luck - 0.1 * stopped, 1 if stopped else 2, prompts=list(texts))
            why = "rung 1: 0.650 is 9th of 12, the best 6 go on"
            rows.append((trial, "stopped", 20, why) if stopped else (trial, "finished", 40, ""))
            if seed in FRESH:
                roles[trial.id] = "choose" if seed in FRESH[:2] else "report"
    listed = [
        {
            "trial_id": trial.id, "configuration": trial.configuration, **t.axis_columns(trial),
            "role": roles.get(trial.id, "search"), "status": status, "rung": rung, "reason": reason,
            "seconds": 24.0, "tokens": 10_000,
        }
        for trial, status, rung, reason in rows
    ]  # fmt: skip
    trials_file.write_trials(store, listed, {})
    return store
