"""BATprompt and ZOPO against random search at the same budget of scorings: what the found prompt is worth on rows that
no search has read.

    python benchmarks/prompt_search.py [--json FILE] [--quick] [--keep DIR]

Two tasks: the embedded model with its own task, and a model of 0.9 M parameters that has read children's stories only,
asked whether a text message is spam; both labels alike often. Candidates are the hand-written prompts and rule-based
rewrites of them, 300 in all, the same for ZOPO and random search; BATprompt starts from the hand-written ones and
rewrites by the same rules. ``random with a race`` keeps a quarter of its budget for the race that ends ZOPO and
BATprompt here, and so tells the strategy's share of a gain from the race's. Ten repeats, each with its own seed for
rows, order and rewrites. The interval is that of the paired differences to random search over the repeats (t, 95 %).
``--keep`` stores the scored cells, so that another run is cheap.
"""

# ruff: noqa: E402  (threads and offline mode are set before torch and transformers are imported)
from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import pyarrow.parquet as pq
import scipy.stats
import torch

from sweeps.base_model import fingerprint_model
from sweeps.prompt_search import batprompt as bat
from sweeps.prompt_search import zopo as zo
from sweeps.prompt_search.candidates import grown
from sweeps.prompt_search.embed import of_base
from sweeps.prompt_search.found import Found, final_race, spread_rows
from sweeps.prompt_search.journal import FolderJournal, Journal, MemoryJournal
from sweeps.prompt_search.label_engine import LabelEngine
from sweeps.prompt_search.random_search import random_search
from sweeps.prompt_search.rule_writer import RuleWriter
from sweeps.prompt_search.scorer import Scorer
from sweeps.prompt_search.similarity import Gate
from trainer.prompts import Prompt, load_pool
from trainer.rows import Row
from trainer.store import Store
from trainer.trial import Model, Task, Template

LABELS = ("no", "yes")
SPAM = (  # after promptsource's and everyday wordings of the task
    "What is the spam label for the following sms message? {{ text }}",
    "Is this sms message considered spam?\n{{ text }}",
    "{{ text }}\nIs it spam?",
    "Message: {{ text }}\nSpam:",
    "{{ text }}\nDid a stranger send this to sell something?",
    "Should the following sms message be marked as spam? {{ text }}",
    "Somebody got this on the phone. {{ text }} Is it an advertisement?",
    "Say yes to junk and no to a note from a friend.\n{{ text }}",
    '"{{ text }}"\nWould you delete this as junk?',
    "Inbox: {{ text }}\nUnwanted:",
)


@dataclass(frozen=True)
class Case:
    name: str
    model: Path
    decision: str
    prompts: list[Prompt]
    rows: list[Row]
    held_out: list[Row]


@dataclass(frozen=True)
class Size:
    candidates: int = 300
    rows: int = 200  # that searches may read
    held_out: int = 400
    n_rows: int = 50  # of them, a candidate is scored on
    budget: int = 6000
    repeats: int = 10


QUICK = Size(candidates=24, rows=40, held_out=40, n_rows=10, budget=160, repeats=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the claims here")
    parser.add_argument("--quick", action="store_true", help="3 repeats of a tiny form: does it run")
    parser.add_argument("--keep", type=Path, help="a folder for scored cells")
    args = parser.parse_args()
    torch.set_num_threads(1)
    size = QUICK if args.quick else Size()
    claims = []
    for case in cases(size):
        journal = MemoryJournal() if args.keep is None else FolderJournal(Store.open(args.keep / case.name.split()[0]))
        claims += measure(case, size, journal)
    if args.json:
        args.json.write_text(json.dumps(claims, indent=1) + "\n")


def cases(size: Size) -> list[Case]:
    data = ROOT / "sweeps" / "embedded" / "data"
    pool = load_pool(str(data / "pools" / "train.yaml"))
    parts = [
        [Row(r["id"], {"text": r["text"]}, LABELS[r["label"]]) for r in map(json.loads, path.read_text().splitlines())]
        for path in (data / "train.jsonl", data / "test.jsonl")
    ]
    found = [
        Case(
            f"embedded {decision}", ROOT / "sweeps" / "embedded" / "model", decision, pool,
            balanced(parts[0], size.rows), balanced(parts[1], size.held_out),
        )
        for decision in ("raw", "batch")
    ]  # fmt: skip
    shared = ROOT.parent / "shared"
    if not shared.is_dir():
        print("the folder with shared models and data is not beside this checkout: the second task is left out")
        return found
    spam = [Prompt(f"s{i:02}", text) for i, text in enumerate(SPAM)]
    messages = sms(shared / "data" / "sms_spam.parquet", size.rows + size.held_out)
    model = shared / "models" / "tiny1m"
    return [*found, Case("tiny1m batch", model, "batch", spam, messages[: size.rows], messages[size.rows :])]


def balanced(rows: list[Row], n: int) -> list[Row]:
    """The first ``n`` that hold the labels alike often: else a constant answer beats chance, by the rows' luck."""
    return [row for label in LABELS for row in [r for r in rows if r.label == label][: n // 2]]


def sms(path: Path, n: int) -> list[Row]:
    """``n`` messages of up to 160 characters, half of them spam."""
    table = [r for r in pq.read_table(path).to_pylist() if len(r["text"]) <= 160]
    rng = random.Random(0)
    parts = [rng.sample([r for r in table if r["label"] == label], n // 2) for label in ("ham", "spam")]
    rows = [{"text": r["text"], "label": r["label"]} for pair in zip(*parts, strict=True) for r in pair]
    return [Row(f"m{i}", {"text": r["text"]}, {"ham": "no", "spam": "yes"}[r["label"]]) for i, r in enumerate(rows)]


def measure(case: Case, size: Size, journal: Journal) -> list[dict[str, Any]]:
    words = tuple((name, f" {name}") for name in LABELS)
    model = Model(str(case.model), fingerprint_model(str(case.model)))
    engine = LabelEngine(model, Template("plain", words=words), Task(LABELS, max_length=256), case.decision)
    candidates = grown(case.prompts, size.candidates, LABELS)
    candidates = [c for c in candidates if all(engine.fits([(c, r) for r in (*case.rows, *case.held_out)]))]
    embed = of_base(engine)
    vectors = embed([c.text for c in candidates])

    def scorer(limit: int | None) -> Scorer:
        return Scorer(engine, journal, LABELS, case.decision, "accuracy", limit)

    def by_random(seed: int) -> Found:
        return random_search(candidates, scorer(size.budget), case.rows, size.n_rows, seed)

    def by_random_with_race(seed: int) -> Found:
        """The same end as ZOPO has here: what of its gain is the search, and what the race?"""
        own, share = scorer(int(size.budget * 0.75)), size.budget - int(size.budget * 0.75)
        found = random_search(candidates, own, case.rows, size.n_rows, seed)
        own.limit = size.budget
        return final_race(found.evaluated, spread_rows(case.rows, seed), own, share)

    def by_zopo(seed: int) -> Found:
        return zo.zopo(candidates, vectors, scorer(size.budget), case.rows, zo.Settings(rows=size.n_rows), seed)

    def by_bat(seed: int) -> Found:
        writer = RuleWriter(LABELS)
        return bat.batprompt(case.prompts, scorer(size.budget), case.rows, writer, Gate(embed=embed), seed=seed)

    judge = scorer(None)
    judge.cells([(c, r) for c in candidates for r in case.rows])  # once, in large batches; the searches replay it
    methods: dict[str, Callable[[int], Found]] = {
        "random": by_random,
        "random with a race": by_random_with_race,
        "ZOPO": by_zopo,
        "BATprompt": by_bat,
    }
    found = {name: [method(seed) for seed in range(size.repeats)] for name, method in methods.items()}
    true = {n: np.array([judge.score(f.prompt, case.held_out) for f in fs]) for n, fs in found.items()}
    pool = np.array(judge.scores(case.prompts, case.held_out))
    print(f"{case.name}: {len(candidates)} candidates, {size.budget} scorings, {size.repeats} repeats")
    print(f"  hand-written prompts on held-out rows: mean {pool.mean():.3f}, best of {len(pool)} {pool.max():.3f}")
    return [claim(case, size, name, true, found) for name in methods if name != "random"]


def claim(
    case: Case, size: Size, name: str, true: dict[str, np.ndarray], found: dict[str, list[Found]]
) -> dict[str, Any]:
    ours, peer = true[name], true["random"]
    apart = ours - peer
    error = float(apart.std(ddof=1) / np.sqrt(len(apart)))
    half = float(scipy.stats.t.ppf(0.975, len(apart) - 1)) * error
    low, high = float(apart.mean()) - half, float(apart.mean()) + half
    verdict = "better" if low > 0 else "worse" if high < 0 else "undecided"
    print(
        f"  {name}: ours {ours.mean():.3f}, random {peer.mean():.3f}, ratio {ours.mean() / peer.mean():.3f}, "
        f"difference {apart.mean():+.3f} [{low:+.3f}, {high:+.3f}]: {verdict}"
    )
    return {
        "claim": f"{name} against random search, {case.name}, {size.budget} scorings, {size.repeats} repeats",
        "ours": round(float(ours.mean()), 4),
        "peer": round(float(peer.mean()), 4),
        "ratio": round(float(ours.mean() / peer.mean()), 4),
        "difference": round(float(apart.mean()), 4),
        "difference_low": round(low, 4),
        "difference_high": round(high, 4),
        "verdict": verdict,
        "each": [[round(float(a), 4), round(float(b), 4)] for a, b in zip(ours, peer, strict=True)],
        "measured_by_search": round(float(np.mean([f.score for f in found[name]])), 4),
        "unit": "accuracy on held-out rows",
        "machine": f"{platform.processor() or platform.machine()}, 1 of {os.cpu_count()} cores",
        "versions": {n: version(n) for n in ("torch", "transformers")} | {"python": platform.python_version()},
    }


if __name__ == "__main__":
    main()
