"""Trials that draw each label equally often: packed with others, and after a stop, they are the same trials."""

# ruff: noqa: F811  (fixtures of another file are taken by their names)
from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from runner_trials import ASSETS, RUNGS, Start, finish, model, rows, scores, start, trial  # noqa: F401  (two fixtures)

from trainer import trial as t
from trainer.train.resident import Resident

COMMON = tuple(dataclasses.replace(r, label="no") if i > 2 else r for i, r in enumerate(rows("train", 12)))
RARE = dataclasses.replace(ASSETS, rows={**ASSETS.rows, "train": COMMON})  # 2 of 12 rows have the label yes


def balanced(seed: int) -> t.Trial:
    plain = trial(seed)
    return dataclasses.replace(plain, optimization=dataclasses.replace(plain.optimization, balance="labels"))


def logprobs(folder: Path, x: t.Trial, rung: int) -> np.ndarray:
    table = scores(folder, x, rung)[0].sort_by([("prompt_id", "ascending"), ("row_id", "ascending")])
    return np.array(table["label_logprobs"].to_pylist())


def test_packed_with_others_or_stopped_at_every_rung_a_balanced_trial_is_the_same(start: Start, tmp_path: Path) -> None:
    x = balanced(1)
    finish(start(tmp_path / "alone", assets=RARE), [x])
    finish(start(tmp_path / "packed", slots=3, assets=RARE), [balanced(0), x, trial(2)])
    for rung in RUNGS:  # a new process at each rung: it begins from the checkpoint
        finish(start(tmp_path / "stopped", assets=RARE), [x], [rung])
    for rung in RUNGS:
        alone = logprobs(tmp_path / "alone", x, rung)
        np.testing.assert_allclose(logprobs(tmp_path / "packed", x, rung), alone, atol=1e-4)
        np.testing.assert_array_equal(logprobs(tmp_path / "stopped", x, rung), alone)


def test_it_is_another_training(start: Start, tmp_path: Path) -> None:
    finish(start(tmp_path, slots=2, assets=RARE), [trial(0), balanced(0)])
    gap = logprobs(tmp_path, balanced(0), RUNGS[-1]) - logprobs(tmp_path, trial(0), RUNGS[-1])
    assert np.abs(gap).max() > 0.01


def test_a_resident_draws_by_the_labels_of_its_train_rows() -> None:
    for x, share in ((trial(0), 2 / 12), (balanced(0), 1 / 2)):
        order = Resident(x, RARE, renderer=None, slot=0, step=0, target=6)._order  # type: ignore[arg-type]
        drawn = [COMMON[pick.row].label == "yes" for step in range(60) for pick in order.batch(step)]
        assert np.mean(drawn) == share
