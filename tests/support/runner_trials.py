"""Trials, rows and prompts for a runner without Ray; its fixtures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from small_tokenizers import WORDS, word_level
from tiny_llama import make_llama

from trainer import trial as t
from trainer.data.assets import Assets
from trainer.data.rows import Row
from trainer.data.wording import Prompt
from trainer.runner import Runner
from trainer.setup import Setup
from trainer.store import Store
from trainer.trial import Trial
from trainer.work import TrainAndScore

RUNGS = (2, 4, 6)
TEXTS = ("good", "bad", "good it", "bad it", "A good", "B bad", "C", "it C")


def rows(split: str, n: int) -> tuple[Row, ...]:
    return tuple(Row(f"{split}-{i}", {"text": TEXTS[i % len(TEXTS)]}, ("yes", "no")[i % 2]) for i in range(n))


ASSETS = Assets(
    rows={"train": rows("train", 12), "dev": rows("dev", 6), "test": rows("test", 4)},
    train_pools={
        "many": (Prompt("t1", "Is it good? {{ text }}"), Prompt("t2", "A: {{ text }}"), Prompt("t3", "{{ text }}?"))
    },
    pools={
        "dev": (Prompt("d1", "Is {{ text }} bad?"), Prompt("d2", "B: {{ text }}")),
        "test": (Prompt("e1", "it: {{ text }}"), Prompt("e2", "C {{ text }}"), Prompt("e3", "{{ text }} it?")),
    },
)


WORDS_OF = (("no", " no"), ("yes", " yes"))
PLAIN = t.Template("plain", words=WORDS_OF)


def trial(seed: int = 0, lr: float = 1e-2, **changes: Any) -> Trial:
    made = Trial(
        model=t.Model("model", "fingerprint"),
        task=t.Task(("no", "yes"), max_length=40),
        template=PLAIN,
        lora=t.Lora(4, 8.0, 0.1 if seed % 2 else 0.0),
        loss=t.Loss(0.1),
        optimization=t.Optimization(steps=RUNGS[-1], lr=lr, batch_size=4),
        draw=t.Draw(every=2),
        scoring=t.Scoring(),
        data=t.Data("a", "b", "c", "d", "e", "f"),
        pool="many",
        seed=seed,
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> t.Model:
    folder = tmp_path_factory.mktemp("model")
    make_llama(hidden=32, vocab=len(WORDS)).save_pretrained(folder)
    word_level().save_pretrained(folder)
    return t.Model(str(folder), "fingerprint")


Start = Callable[..., Runner]


@pytest.fixture
def start(model: t.Model) -> Iterator[Start]:
    """Starts runners on a folder and closes them at the end."""
    threads = torch.get_num_threads()
    begun: list[Runner] = []

    def of(folder: Path, slots: int = 1, assets: Assets = ASSETS, **setup: Any) -> Runner:
        runner = Runner(
            dataclasses.replace(model, head="classifier" if setup.get("n_labels") else "lm"),
            Setup(slots=slots, max_r=4, threads=1, **setup),
            assets,
            Store.open(folder),
        )
        begun.append(runner)
        return runner

    yield of
    for runner in begun:
        runner.close()
    torch.set_num_threads(threads)


def finish(runner: Runner, trials: Sequence[Trial], rungs: Sequence[int] = RUNGS, test: bool = False) -> None:
    """Bring all trials to each of ``rungs`` in turn, as a scheduler without cuts does, then score the test pool."""
    work = [[TrainAndScore(trial, rung) for trial in trials] for rung in rungs]
    for wave in [*work, *([[TrainAndScore(trial, rungs[-1], "test") for trial in trials]] if test else [])]:
        for future in [runner.submit(each) for each in wave]:
            future.result(timeout=120)


def scores(folder: Path, trial: Trial, rung: int, pool: str = "dev") -> tuple[pa.Table, dict[str, Any]]:
    found = Store.open(folder).read_scores(trial.id, rung, pool)
    assert found is not None, f"no rows of {trial.id} at {rung}"
    return found


THREE = tuple(trial(seed, lr) for seed, lr in ((0, 1e-2), (1, 2e-2), (2, 5e-3)))
