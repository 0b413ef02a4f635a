"""A small staged study on a real model, and a way to train its trials in this process, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from tiny_run import PROMPTS, make_model, rows, write_rows

from sweeps.driver.progress import Progress
from sweeps.driver.replay import replayed
from sweeps.driver.session import setup_of
from sweeps.staged.protocol import Staged
from sweeps.study.load import load_study
from sweeps.study.study import Study
from sweeps.trials.load_content import content_of
from trainer.data.assets import Assets
from trainer.runner import Runner
from trainer.store import Store
from trainer.trial import Trial, rung_steps
from trainer.work import TrainAndScore

MEANING = {"about": "Is it good?", "terms": ["good"], "other": {"taste": ["tasty"]}}
STUDY: dict[str, Any] = {
    "name": "steps",
    "task": {
        "rows": {name: f"{name}.jsonl" for name in PROMPTS},
        "fields": ["text"],
        "id": "id",
        "label": "label",
        "labels": {"0": "no", "1": "yes"},
        "meaning": MEANING,
        "max_length": 40,
    },
    "templates": {
        "plain": {"words": {"no": " no", "yes": " yes"}},
        "long": {"marker": "\nIs it good or not?\nAnswer:", "words": {"no": " no", "yes": " yes"}},
        "bare": {"marker": " :", "words": {"no": " no", "yes": " yes"}},
    },
    "pools": {"train": {"many": "train.yaml"}, "dev": "dev.yaml", "test": "test.yaml"},
    "axes": {"lora": {"r": [2, 4], "alpha": 8}, "lr": [1e-2, 3e-2], "steps": 8, "seed": [0, 1]},
    "training": {"batch_size": 8},
    "scheduler": {"name": "asha", "rungs": [0.5, 1.0]},
    "stages": {"cross": 2},
}
DEV = {**PROMPTS["dev"], "d3": "good: {{ text }}"}
TEST = {"x1": "Is {{ text }} good?", "x2": "So is this one good: {{ text }}"}


def write_study(folder: Path, **sections: Any) -> Path:
    """The study's file in ``folder``, with model, rows and prompts beside it."""
    model = make_model(folder / "model")
    for i, (name, prompts) in enumerate({"train": PROMPTS["train"], "dev": DEV, "test": TEST}.items()):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(prompts))
        write_rows(folder / f"{name}.jsonl", rows(16, 16 * i))
    path = folder / "steps.yaml"
    path.write_text(yaml.safe_dump({**STUDY, "model": {"path": model}, **sections}, sort_keys=False))
    return path


def in_process(study: Study, store: Store, assets: Assets, trained: list[str]) -> Callable[..., None]:
    """Trains trials with the real runner; ``trained`` gets the ids of those that were not in the run folder."""

    def execute(progress: Progress, trials: Sequence[Trial]) -> None:
        trained.extend(t.id for t in trials if not store.rungs(t.id, "dev"))
        runner = Runner(trials[0].model, setup_of(progress.study), assets, store)
        try:
            for trial in trials:
                rungs = rung_steps(progress.study.scheduler.shares, trial.optimization.steps)
                wanted = [TrainAndScore(trial, rung, "dev") for rung in rungs]
                wanted += [TrainAndScore(trial, rungs[-1], "test")] if progress.scores_test_pool else []
                for work in wanted:
                    runner.submit(work).result(timeout=300)
        finally:
            runner.close()
        tell = replayed(progress, trials, assets)
        assert tell is not None
        tell()

    return execute


def run_in_process(path: Path, out: Path, *overrides: str) -> tuple[Staged, list[str]]:
    """All stages of the study at ``path`` into ``out``, and the ids of the trials that were trained."""
    study = load_study(path, overrides)
    store, content, trained = Store.open(str(out)), content_of(study), list[str]()
    staged = Staged(study, store, content, in_process(study, store, content.assets, trained))
    staged.run()
    return staged, trained
