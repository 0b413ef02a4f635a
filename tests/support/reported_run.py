"""Run folders for reports, with scores drawn around given accuracies instead of training, and the page read back."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from sweeps.report.write import write_report
from sweeps.study.load import resolved
from sweeps.study.study import Study
from trainer import trial as t
from trainer.data.pools import fingerprint_prompts
from trainer.data.wording import Prompt
from trainer.store import Store

EVIL = "<script>alert(1)</script>"


def make_study(**more: Any) -> Study:
    rows = {use: {"path": f"{use}.jsonl"} for use in ("train", "dev", "test")}
    return Study.model_validate(
        {
            "name": "complaints",
            "model": {"path": "model"},
            "task": {"rows": rows, "fields": ["text"], "label": "label", "labels": ["no", "yes"]},
            "pools": {"train": {"many": "train.yaml"}, "dev": "dev.yaml", "test": "test.yaml"},
            "axes": {"lr": [1e-3, 3e-3], "steps": 40},
            **more,
        }
    )


def make_trial(
    lr: float, seed: int = 0, pool: str = "many", template: str = "plain", test_prompts: str = "f"
) -> t.Trial:
    return t.Trial(
        model=t.Model("model", "f0"),
        task=t.Task(("no", "yes")),
        template=t.Template(template),
        lora=t.Lora(),
        loss=t.Loss(),
        optimization=t.Optimization(steps=40, lr=lr),
        draw=t.Draw(),
        scoring=t.Scoring(),
        data=t.Data("a", "b", "c", "d", "e", test_prompts),
        pool=pool,
        seed=seed,
    )


def score_rows(trial_id: str, rung: int, pool: str, right: np.ndarray, prompts: list[str]) -> pa.Table:
    """``right``: probability of a right answer per prompt; 60 rows of two labels."""
    rng = np.random.default_rng(int(trial_id, 16) + rung)
    n = 60
    truth = np.arange(n) % 2
    easy = np.random.default_rng(0).normal(0, 0.1, n)  # the same rows are easy for every trial
    rows = []
    for prompt, p in zip(prompts, right, strict=True):
        correct = rng.random(n) < np.clip(p + easy, 0, 1)
        answer = np.where(correct, truth, 1 - truth)
        for i in range(n):
            logprobs = [-2.0, -2.0]
            logprobs[answer[i]] = -0.2
            rows.append(
                {
                    "trial_id": trial_id,
                    "rung": rung,
                    "pool": pool,
                    "prompt_id": prompt,
                    "row_id": f"row-{i:02d}",
                    "label": ("no", "yes")[truth[i]],
                    "predicted": ("no", "yes")[answer[i]],
                    "correct": bool(correct[i]),
                    "label_logprobs": logprobs,
                    "new_tokens": None,
                }
            )
    return pa.Table.from_pylist(rows)


def record(trial: t.Trial, rung: int, level: float, trained: float = 8.0) -> dict[str, Any]:
    steps = list(range(rung - 19, rung + 1))
    loss = [2.5 * level * np.exp(-s / 25) + 0.3 + 0.05 * np.sin(s * 3) for s in steps]
    curve = {"step": steps, "completion_loss": loss, "prompt_loss": [None] * 20, "lr": [1e-3] * 20}
    seconds = {"seconds": trained + 4.0, "train_seconds": trained, "score_seconds": 4.0}
    return {"trial": trial.to_json(), "rung": rung, **seconds, "tokens": round(625 * trained), "curve": curve}


def add_trial(
    store: Store, trial: t.Trial, quality: float, rungs: int = 2, test: bool = True, prompts: list[str] | None = None
) -> None:
    """Scores of a trial with per-prompt accuracies around ``quality``."""
    names = prompts or [f"p{i:02d}" for i in range(12)]
    wave, dev_wave = (0.06 * np.sin(np.arange(n)) for n in (len(names), 6))
    for k in range(rungs):
        rung = 20 * (k + 1)
        dev = score_rows(trial.id, rung, "dev", quality - 0.1 * (rungs - 1 - k) + dev_wave, [f"d{i}" for i in range(6)])
        store.write_scores(trial.id, rung, "dev", dev, record(trial, rung, 1.4 - quality))
    if test:
        rows = score_rows(trial.id, 20 * rungs, "test", quality + wave, names)
        store.write_scores(trial.id, 20 * rungs, "test", rows, record(trial, 20 * rungs, quality, trained=0.0))


def keep_wordings(store: Store, texts: dict[str, str]) -> str:
    """Write a pool into the run folder and return its fingerprint."""
    name = fingerprint_prompts([Prompt(i, text) for i, text in texts.items()])
    store.write(f"prompts/{name}.json", json.dumps([{"id": i, "text": text} for i, text in texts.items()]).encode())
    return name


def add_list(store: Store, rows: list[tuple[t.Trial, str, int, str]], roles: dict[str, str] | None = None) -> None:
    facts = [
        {"trial_id": x.id, **t.axis_columns(x), "status": s, "rung": r, "reason": why, "seconds": 24.0, "tokens": 10000}
        for x, s, r, why in rows
    ]
    if roles is not None:
        for fact, (trial, *_) in zip(facts, rows, strict=True):
            fact |= {"configuration": trial.configuration, "role": roles.get(trial.id, "search")}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(facts), sink)
    store.write("trials.parquet", sink.getvalue().to_pybytes())


def make_run(folder: Path, study: Study | None = None) -> Store:
    store = Store.open(folder)
    store.write("study.yaml", yaml.safe_dump(resolved(study or make_study())).encode())
    return store


def finished_run(folder: Path) -> tuple[Store, list[t.Trial]]:
    """A winner, a close second, a poor one that ended, one that was cut and one that failed."""
    store = make_run(folder)
    trials = [make_trial(lr, seed) for lr in (1e-3, 3e-3) for seed in (0, 1)] + [make_trial(1e-2)]
    for trial, quality in zip(trials, (0.86, 0.85, 0.6), strict=False):
        add_trial(store, trial, quality)
    add_trial(store, trials[3], 0.55, rungs=1, test=False)
    why = "rung 1: 0.450 is 4th of 4, the best 2 go on"
    ends = [(x, "finished", 40, "") for x in trials[:3]] + [(trials[3], "stopped", 20, why)]
    add_list(store, [*ends, (trials[4], "failed", 0, "loss became NaN between steps 3 and 4")])
    return store, trials


class Page(HTMLParser):
    """Text, tags and attributes of a page; refuses tags that are closed in another order than opened."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


SCRIPTS = [
    "map-data",
    "charts",
    "themes",
    "vega",
    None,
]  # ids of the page's scripts; its own has none


def scripts_of(page: Page) -> list[str | None]:
    return [attrs.get("id") for tag, attrs in page.tags if tag == "script"]


def page_of(folder: Path) -> tuple[str, Page]:
    where = write_report(str(folder))
    assert where == f"{folder}/report.html"
    source = Path(where).read_text(encoding="utf-8")
    return source, Page(source)


def charts_of(source: str) -> dict[str, Any]:
    """Name -> Vega-Lite of the page's figures."""
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', source, re.DOTALL)
    specs: dict[str, Any] = json.loads(found[1]) if found else {}
    return specs


def data_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of all of a chart's data."""
    return [row for rows in spec["datasets"].values() for row in rows]
