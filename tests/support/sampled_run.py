"""A run folder whose dev and test grids come from a simulated model, scored in stages as a sweep scores them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from runner_trials import trial

from sweeps.driver.test_stages import GridJob, GridStages
from sweeps.schedule.asha import Decision
from trainer.data.assets import Assets
from trainer.data.rows import Row
from trainer.data.wording import Prompt
from trainer.measure import design
from trainer.measure.grid import Floats
from trainer.measure.precision import Precision
from trainer.store import SCORES, Store
from trainer.trial import Trial
from trainer.work import extended, is_scored, span_of

LABELS = ("no", "yes")
STEP = 6
TRIALS = tuple(trial(0, lr=0.01 / k) for k in range(1, 6))
CONSTANT = TRIALS[4]  # answers no, whatever is asked
SEEDED = tuple(trial(seed, lr=0.01 / k) for k in (1, 2, 3, 4) for seed in (0, 2))  # two of each configuration


def place(of: Trial) -> int:
    """0 for the best configuration, 1 for the next."""
    return round(0.01 / of.optimization.lr) - 1


def assets(prompts: int, rows: int) -> Assets:
    def of(split: str, n: int) -> tuple[Row, ...]:
        return tuple(Row(f"{split}-{j:04d}", {"text": "it"}, LABELS[j % 2]) for j in range(n))

    def wordings(n: int, prefix: str) -> tuple[Prompt, ...]:
        return tuple(Prompt(f"{prefix}{i:02d}", "{{ text }}") for i in range(n))

    return Assets(
        {"train": of("train", 4), "dev": of("dev", 400), "test": of("test", rows)},
        {"many": wordings(2, "t")},
        {"dev": wordings(4, "d"), "test": wordings(prompts, "e")},
    )


@dataclasses.dataclass
class Simulated:
    """Answers of every trial to every cell, which are written to the store as they are asked for."""

    store: Store
    assets: Assets
    scored: int = 0  # cells

    def answers(self, of: Trial, pool: str) -> Floats:
        """[P, R] whether the trial is right."""
        p, r = len(self.assets.pools[pool]), len(self.assets.rows[pool])
        shared = np.random.default_rng([p, r])
        own = np.random.default_rng([p, r, place(of), of.seed])
        latent = shared.standard_normal((1, r)) + 0.3 * shared.standard_normal((p, 1))
        luck = 0.1 * own.standard_normal() + 0.1 * own.standard_normal((p, 1))
        right = 1.3 - 0.2 * place(of) + luck + latent + own.standard_normal((p, r)) > 0
        constant = np.array([row.label == "no" for row in self.assets.rows[pool]])
        found: Floats = np.broadcast_to(constant, (p, r)) if of == CONSTANT else right
        return found

    def table(self, of: Trial, pool: str, seen: Any) -> pa.Table:
        right = self.answers(of, pool)
        lines = []
        for i, j in zip(*np.nonzero(seen), strict=True):
            row = self.assets.rows[pool][j]
            answer = row.label if right[i, j] else LABELS[1 - LABELS.index(row.label)]
            lines.append(
                {
                    "trial_id": of.id, "rung": STEP, "pool": pool, "prompt_id": self.assets.pools[pool][i].id,
                    "row_id": row.id, "label": row.label, "predicted": answer, "correct": bool(right[i, j]),
                    "label_logprobs": [-1.0, -0.5] if answer == "yes" else [-0.5, -1.0], "new_tokens": None,
                }
            )  # fmt: skip
        return pa.Table.from_pylist(lines, schema=SCORES)

    def record(self, of: Trial) -> dict[str, Any]:
        seconds = {"seconds": 1.0, "train_seconds": 0.0, "score_seconds": 1.0, "tokens": 0}
        return {"trial": of.to_json(), "rung": STEP, **seconds, "curve": {}}

    def on_dev(self, trials: Sequence[Trial]) -> None:
        whole = np.ones((len(self.assets.pools["dev"]), len(self.assets.rows["dev"])), bool)
        for each in trials:
            self.store.write_scores(each.id, STEP, "dev", self.table(each, "dev", whole), self.record(each))

    def work(self, job: GridJob) -> None:
        """What a host does with a job."""
        prompts, rows = self.assets.pools["test"], self.assets.rows["test"]
        grid, ids = (len(prompts), len(rows)), ([p.id for p in prompts], [r.id for r in rows])
        found = self.store.read_scores(job.trial.id, STEP, "test")
        assert found is None or not is_scored(found[1], job.cells)
        span = span_of(job.trial, found[1] if found else None, job.cells, grid)
        labels = [r.label for r in rows]
        seen = np.ones(grid, bool) if span is None else design.staged(*ids, labels, span.cells)
        if span is not None and span.begun:
            seen &= ~design.staged(*ids, labels, span.begun)
        self.scored += int(seen.sum())
        table, record = self.table(job.trial, "test", seen), self.record(job.trial)
        if span is not None and span.begun:
            table, record = extended(found, table, record)
        record |= design.sample_record(grid, table.num_rows, span is not None)
        self.store.write_scores(job.trial.id, STEP, "test", table, record)


def decisions_of(trials: Sequence[Trial]) -> dict[str, Decision]:
    """All finished, the first the best."""
    return {t.id: Decision("finish", "", 0, STEP, 0.9 - 0.1 * place(t) - 0.02 * t.seed) for t in trials}


def score_in_stages(
    simulated: Simulated, wanted: Precision | None, decisions: Mapping[str, Decision], trials: Sequence[Trial] = TRIALS
) -> list[list[GridJob]]:
    """The jobs of each stage, done."""
    tested, done = [(t, STEP) for t in trials], []
    while jobs := GridStages(simulated.store, simulated.assets, wanted).next(tested, decisions):
        done.append(jobs)
        for job in jobs:
            simulated.work(job)
    return done
