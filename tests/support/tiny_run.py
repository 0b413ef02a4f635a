"""A run folder made by the real runner, without Ray: a small Llama, a word tokenizer, a task that can be learnt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from small_tokenizers import word_level
from tiny_llama import make_llama

from sweeps.report.write import write_report
from sweeps.run_folder import trials_file
from sweeps.run_folder.prompts import keep_prompts
from sweeps.study.load import load_study, resolved
from sweeps.study.overlay import dump_yaml
from sweeps.trials.from_points import make_trials, points_of
from sweeps.trials.load_content import content_of
from trainer.files import checksum
from trainer.runner import Runner
from trainer.setup import Setup
from trainer.store import Store
from trainer.trial import Trial, axis_columns
from trainer.work import TrainAndScore

PROMPTS = {
    "train": {"t1": "Is it good?\n{{ text }}", "t2": "{{ text }}\ngood?"},
    "dev": {"d1": "{{ text }}\nIs it good?", "d2": "good? {{ text }}", "d3": "it: {{ text }}"},
    "test": {"x1": "Is {{ text }} good?", "x2": "{{ text }}: good?"},
}
# "x2" of the test prompts above is "t2" of the train prompts but for its punctuation, which ``check`` refuses
SOUND_PROMPTS = {**PROMPTS, "test": {**PROMPTS["test"], "x2": "{{ text }}: it good?"}}
LABELLED = {"label": "label", "labels": {"0": "no", "1": "yes"}}
OPTIONS = {"label": "right", "options": "choices"}


def make_model(folder: Path, hidden: int = 64, seed: int = 0) -> str:
    make_llama(hidden=hidden, seed=seed).save_pretrained(folder)
    word_level().save_pretrained(folder)
    return str(folder)


def rows(n: int, start: int = 0) -> list[dict[str, Any]]:
    """Every other text says good; the answer is yes where it does, or the option "B"."""
    found = []
    for i in range(start, start + n):
        text = f"it {'good' if i % 2 else 'bad'} it" if i % 4 < 2 else f"{'good' if i % 2 else 'bad'} it"
        found.append({"id": f"r{i}", "text": text, "label": i % 2, "choices": ["A", "B"], "right": i % 2})
    return found


BEFORE, AFTER = ("it", "", "Is", "A", "C"), ("it", "Is", "A", "C", "Answer")


def unlike_rows(n: int, start: int = 0) -> list[dict[str, Any]]:
    """As ``rows``, with a text of its own for each of the first 50."""
    found = []
    for i, row in enumerate(rows(n, start), start):
        block, at = divmod(i // 2, len(BEFORE))
        words = (BEFORE[at], "good" if i % 2 else "bad", AFTER[(block + at) % len(AFTER)])
        found.append({**row, "text": " ".join(filter(None, words))})
    return found


def write_rows(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return str(path)


def make_run(
    folder: Path, task: dict[str, Any], n_labels: int = 0, sound: bool = False, **sections: Any
) -> tuple[str, list[Trial]]:
    """The run folder ``folder/run`` with all trials of the study finished, and the trials. ``sound``: with rows and
    prompts in which ``check`` finds no fault, so that the study can be run again."""
    model = make_model(folder / "model")
    for i, (name, prompts) in enumerate(SOUND_PROMPTS.items() if sound else PROMPTS.items()):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(prompts))
        write_rows(folder / f"{name}.jsonl", (unlike_rows if sound else rows)(16, 16 * i))
    study = {
        "name": "tiny",
        "task": {
            "rows": {name: f"{name}.jsonl" for name in PROMPTS},
            "fields": ["text"],
            "id": "id",
            "max_length": 40,
            **task,
        },
        "pools": {"train": {"many": "train.yaml"}, "dev": "dev.yaml", "test": "test.yaml"},
        "scheduler": {"name": "none"},
        "training": {"batch_size": 8},
        **sections,
        "model": {"path": model, **sections.get("model", {})},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(study))
    loaded = load_study(folder / "tiny.yaml")
    store = Store.open(str(folder / "run"))
    store.write("study.yaml", dump_yaml(resolved(loaded)).encode())
    content = content_of(loaded)
    keep_prompts(store, content.assets, {name: pool.file for name, pool in loaded.pools.train.items()})
    points = points_of(loaded)
    assert points is not None
    trials = make_trials(loaded, points, content)
    ranks = max(t.lora.r for t in trials)
    modules = tuple(sorted({m for t in trials for m in t.lora.target_modules}))
    runner = Runner(content.model, Setup(len(trials), ranks, modules, n_labels, threads=1), content.assets, store)
    try:
        for pool in ("dev", "test"):
            for done in [runner.submit(TrainAndScore(t, t.optimization.steps, pool)) for t in trials]:
                done.result(timeout=300)
    finally:
        runner.close()
    write_trials(store, trials)
    write_report(store.uri)
    return store.uri, trials


def write_trials(store: Store, trials: Sequence[Trial], **status: str) -> None:
    """``trials.parquet``: all finished but for ``status`` by trial id (with a leading underscore)."""
    lines = [
        {
            "trial_id": t.id,
            **axis_columns(t),
            "status": status.get(f"_{t.id}", "finished"),
            "rung": t.optimization.steps,
            "reason": "",
            "seconds": 1.0,
            "tokens": 1,
            "configuration": t.configuration,
            "role": "search",
        }
        for t in trials
    ]
    trials_file.write_trials(store, lines, {})


WORDS = {"no": " no", "yes": " yes"}
PLAIN = {"plain": {"words": WORDS}}
RUNS: dict[str, dict[str, Any]] = {
    "labels": {  # trained until one trial tells the labels apart
        "task": LABELLED,
        "templates": PLAIN,
        "axes": {
            "lora": {
                "r": 4,
                "dropout": 0.1,
                "target_modules": [["q_proj", "v_proj"], ["all-linear"]],
                "rslora": [False, True],
            },
            "lr": 1e-2,
            "steps": 30,
        },
    },
    "seeds": {
        "task": LABELLED,
        "templates": PLAIN,
        "axes": {"lora": {"r": 4}, "lr": [1e-2, 3e-3], "steps": 12, "seed": [0, 1]},
    },
    "classifier": {
        "task": LABELLED,
        "n_labels": 2,
        "model": {"head": "classifier"},
        "axes": {"lora": {"r": 2}, "lr": 1e-2, "steps": 4},
    },
    "options": {
        "task": OPTIONS,
        "templates": {"chat": {"chat": True, "system": "Is it good?"}},
        "axes": {"lora": {"r": 2}, "lr": 1e-2, "steps": 2},
    },
    "batch": {
        "task": LABELLED,
        "templates": PLAIN,
        "scoring": {"decision": "batch"},
        "axes": {"lora": {"r": 2}, "lr": 1e-2, "steps": 2},
    },
    "generate": {
        "task": LABELLED,
        "templates": PLAIN,
        "scoring": {"scorer": "generate", "max_new_tokens": 2},
        "axes": {"lora": {"r": 2}, "lr": 1e-2, "steps": 2},
    },
    "served": {  # trained until it tells the labels apart
        "task": LABELLED,
        "templates": {"chat": {"chat": True, "system": "Is it good?", "words": {"no": "no", "yes": "yes"}}},
        "scoring": {"scorer": "generate", "max_new_tokens": 4},
        "axes": {"lora": {"r": 8, "rslora": True}, "lr": 3e-3, "steps": 80},
        "sound": True,
    },
}
_MADE: dict[str, tuple[str, list[Trial]]] = {}


def made(name: str, factory: pytest.TempPathFactory) -> tuple[str, list[Trial]]:
    """The run of ``RUNS[name]``, made once for all tests. They may read it only."""
    if name not in _MADE:
        _MADE[name] = make_run(factory.mktemp(name), **RUNS[name])
    return _MADE[name]


def data(run: str, name: str) -> str:
    """A file beside the run folder: ``test.jsonl``, ``model``."""
    return str(Path(run).parent / name)


def without_checksum(table: pa.Table) -> pa.Table:
    """``table`` as a version without checksums would write it: a test that changes a file of a run folder needs it."""
    kept = {k: v for k, v in (table.schema.metadata or {}).items() if k.decode() not in checksum.METADATA}
    return table.replace_schema_metadata(kept)
