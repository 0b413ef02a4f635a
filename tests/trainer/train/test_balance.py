"""Trials that draw each label equally often: packed with others, and after a stop, they are the same trials."""

# ruff: noqa: F811  (fixtures of another file are taken by their names)
from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from runner_trials import ASSETS, RUNGS, Start, finish, model, rows, scores, start, trial  # noqa: F401  (two fixtures)

from trainer import trial as t
from trainer.data.assets import Assets
from trainer.data.rows import read_rows
from trainer.data.sources import RowSource
from trainer.data.wording import Prompt
from trainer.measure.metrics import objective
from trainer.runner import Runner
from trainer.setup import Setup
from trainer.store import Store
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


def short_posts(shared: Path) -> Assets:
    """Posts of EDOS with less than 100 characters: is one sexist? A fifth of them are."""
    found = {}
    for split, limit in (("train", 2000), ("dev", 200)):
        source = RowSource(
            path=str(shared / "data" / "edos.parquet"), fields=("text",), label="label_sexist",
            labels={"not sexist": "no", "sexist": "yes"}, id="rewire_id", where={"split": split}, limit=limit,
        )  # fmt: skip
        posts = read_rows(source, split, f"task.rows.{split}").rows
        found[split] = tuple(r for r in posts if len(r.fields["text"]) < 100)
    train = (Prompt("t1", "{{ text }}\nSexist?"), Prompt("t2", "Is this sexist?\n{{ text }}"))
    dev = (Prompt("d1", "Read: {{ text }}\nIs it sexist?"), Prompt("d2", "{{ text }}\nIs that sexist?"))
    return Assets({**found, "test": found["dev"]}, {"many": train}, {"dev": dev, "test": dev})


@pytest.mark.long  # half a minute on a free core
def test_on_edos_fewer_short_fine_tunes_give_one_label_nearly_always(shared: Path, tmp_path: Path) -> None:
    for needed in ("data/edos.parquet", "models/stories260K/config.json"):
        if not (shared / needed).exists():
            pytest.skip(f"../shared/{needed} is not beside this checkout")
    assets = short_posts(shared)
    base = t.Model(str(shared / "models" / "stories260K"), "fingerprint")
    task, lora = t.Task(("no", "yes"), max_length=256), t.Lora(16, 16.0)

    def short(seed: int, balanced: bool) -> t.Trial:
        plan = t.Optimization(steps=40, lr=5e-3, batch_size=16, balance="labels" if balanced else "none")
        return trial(seed, model=base, task=task, lora=lora, optimization=plan, loss=t.Loss())

    trials = {kind: [short(seed, kind) for seed in range(4)] for kind in (False, True)}
    runner = Runner(base, Setup(slots=8, max_r=16, threads=1), assets, Store.open(tmp_path))
    try:
        finish(runner, [*trials[False], *trials[True]], [40])
    finally:
        runner.close()
    one_label, sexist = {}, {}
    for kind, some in trials.items():
        found = [objective(scores(tmp_path, x, 40)[0], "f1[yes]", 0.0, ("no", "yes")) for x in some]
        one_label[kind], sexist[kind] = sum(o.degenerate for o in found), np.mean([o.mean for o in found])
    assert one_label[False] >= 3, "40 steps on the posts as they are teach to say no"
    assert one_label[True] <= 1
    assert sexist[True] > sexist[False] + 0.1
