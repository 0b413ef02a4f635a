"""BATprompt and ZOPO against random search at the same budget of scorings: how good the chosen prompts are on rows that
no search has read.

    python benchmarks/prompt_search.py [--json FILE] [--quick] [--keep DIR] [--case NAME]

There are two cases. ``embedded``: the embedded model with ten hand-written prompts. The script first trains it for 120
LoRA steps on one other prompt, because without training it is near chance under every prompt. ``tiny1m``: a model of
0.9 M parameters that was trained on children's stories only, with ten prompts that ask whether a text message is spam.
Both labels are equally frequent. Candidates are the hand-written prompts and rule-based rewrites of them, 300 in all,
the same for ZOPO and random search; BATprompt starts from the hand-written ones and rewrites by the same rules.

ZOPO is measured by accuracy on rows as they are. Its budget is 300 scorings smaller, since the embedding of a candidate
is a pass through the model, too. Random search scores a candidate on 100 rows, and in a second form on 50 rows, as ZOPO
does. ``random with a race`` is random search with ZOPO's end: 50 rows, and a quarter of the budget for a race between
the best. BATprompt searches a prompt that also works on perturbed rows; it is measured by the mean accuracy on rows as
they are and on perturbed ones. It is compared with plain random search and with one that scores the same mixture of
rows, which separates the effect of the rows from that of the search. Each repeat has its own seed for rows, order,
perturbations and rewrites. There are 100 repeats, and 200 for BATprompt against plain random search on tiny1m, where
the results differ more. The interval is that of the paired differences (t, 95 %). ``--keep`` stores the scored cells,
so that another run is cheap.
"""

# ruff: noqa: E402  (threads and offline mode are set before torch and transformers are imported)
from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
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

from sweeps.prompt_search import batprompt as bat
from sweeps.prompt_search import zopo as zo
from sweeps.prompt_search.candidates import grown
from sweeps.prompt_search.embed import at_answer, of_base
from sweeps.prompt_search.journal import FolderJournal, SearchJournal
from sweeps.prompt_search.label_engine import LabelEngine
from sweeps.prompt_search.perturb import PERTURBATIONS, perturb
from sweeps.prompt_search.race import final_race, spread_rows
from sweeps.prompt_search.random_search import random_search
from sweeps.prompt_search.result import SearchResult
from sweeps.prompt_search.rule_writer import RuleWriter
from sweeps.prompt_search.scorer import Scorer
from sweeps.prompt_search.similarity import Gate
from sweeps.trials.base_model import fingerprint_model
from trainer.data.pools import load_pool
from trainer.data.rows import Row
from trainer.data.wording import Prompt
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


EMBEDDED = ROOT / "sweeps" / "embedded"


@dataclass(frozen=True)
class Case:
    name: str
    model: Path
    decision: str
    prompts: list[Prompt]
    rows: list[Row]
    held_out: list[Row]
    more: int = 1  # factor for the repeats of BATprompt against random search


@dataclass(frozen=True)
class Size:
    candidates: int = 300
    rows: int = 600  # rows that the searches use
    held_out: int = 400
    n_rows: int = 100  # rows of these that random search scores a candidate on
    zopo_rows: int = 50
    budget: int = 6000
    repeats: int = 100


QUICK = Size(candidates=24, rows=40, held_out=40, n_rows=10, zopo_rows=5, budget=320, repeats=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the claims here")
    parser.add_argument("--quick", action="store_true", help="3 repeats of a tiny form, to see that it runs")
    parser.add_argument("--keep", type=Path, help="a folder for scored cells")
    parser.add_argument("--case", choices=("embedded", "tiny1m"), help="run only this case")
    parser.add_argument("--of", choices=("zopo", "batprompt"), help="run only the comparisons of this method")
    args = parser.parse_args()
    torch.set_num_threads(1)
    size = QUICK if args.quick else Size()
    claims = []
    with tempfile.TemporaryDirectory(prefix="tuned-") as folder:
        for case in cases(size, Path(folder), args.case):
            journal = SearchJournal() if args.keep is None else FolderJournal(Store.open(args.keep / case.name))
            claims += compare(case, size, journal, args.of)
    if args.json:
        args.json.write_text(json.dumps(claims, indent=1) + "\n")


def cases(size: Size, folder: Path, only: str | None) -> list[Case]:
    found = []
    if only in (None, "embedded"):
        train, test = (
            [
                Row(r["id"], {"text": r["text"]}, LABELS[r["label"]])
                for r in map(json.loads, path.read_text().splitlines())
            ]
            for path in (EMBEDDED / "data" / "train.jsonl", EMBEDDED / "data" / "test.jsonl")
        )
        tune_on_one_prompt(train[800:], folder)
        pool = load_pool(str(EMBEDDED / "data" / "pools" / "dev.yaml"))
        rows = balanced(train[:800], size.rows)
        found.append(Case("embedded", folder, "raw", pool, rows, balanced(test, size.held_out)))
    shared = ROOT.parent / "shared"
    if only in (None, "tiny1m") and not shared.is_dir():
        print("the folder with shared models and data is not beside this checkout: the second task is left out")
    elif only in (None, "tiny1m"):
        spam = [Prompt(f"s{i:02}", text) for i, text in enumerate(SPAM)]
        messages = sms(shared / "data" / "sms_spam.parquet", size.rows + size.held_out)
        model = shared / "models" / "tiny1m"
        found.append(Case("tiny1m", model, "batch", spam, messages[: size.rows], messages[size.rows :], more=2))
    return found


def tune_on_one_prompt(rows: list[Row], folder: Path, steps: int = 120) -> None:
    """Train the embedded model for ``steps`` LoRA steps of 8 rows under the first train prompt, merge the adapter, and
    save the model in ``folder``."""
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    rng = random.Random(0)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "model")
    lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(EMBEDDED / "model"), lora)
    prompt = load_pool(str(EMBEDDED / "data" / "pools" / "train.yaml"))[0]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=4e-3)
    for _ in range(steps):
        sequences = []
        for row in rng.sample(rows, 8):
            asked = tokenizer(prompt.text.replace("{{ text }}", row.fields["text"]))["input_ids"]
            sequences.append((asked, tokenizer(f" {row.label}", add_special_tokens=False)["input_ids"]))
        longest = max(len(a) + len(b) for a, b in sequences)
        pads = [longest - len(a) - len(b) for a, b in sequences]
        ids = torch.tensor([a + b + [0] * n for (a, b), n in zip(sequences, pads, strict=True)])
        mask = torch.tensor([[1] * (longest - n) + [0] * n for n in pads])
        labels = torch.tensor([[-100] * len(a) + b + [-100] * n for (a, b), n in zip(sequences, pads, strict=True)])
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.merge_and_unload().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def perturbed(row: Row, seed: int) -> Row:
    """``row`` under all character changes, one after the other."""
    texts = dict(row.fields)
    for strategy in PERTURBATIONS:
        texts = {name: next(iter(perturb(text, strategy, 1, seed)), text) for name, text in texts.items()}
    return replace(row, fields=texts)


def balanced(rows: list[Row], n: int) -> list[Row]:
    """The first ``n`` rows with equally many of each label; otherwise a constant answer could be better than chance."""
    return [row for label in LABELS for row in [r for r in rows if r.label == label][: n // 2]]


def sms(path: Path, n: int) -> list[Row]:
    """``n`` messages of up to 160 characters, half of them spam."""
    table = [r for r in pq.read_table(path).to_pylist() if len(r["text"]) <= 160]
    rng = random.Random(0)
    parts = [rng.sample([r for r in table if r["label"] == label], n // 2) for label in ("ham", "spam")]
    rows = [{"text": r["text"], "label": r["label"]} for pair in zip(*parts, strict=True) for r in pair]
    return [Row(f"m{i}", {"text": r["text"]}, {"ham": "no", "spam": "yes"}[r["label"]]) for i, r in enumerate(rows)]


def compare(case: Case, size: Size, journal: SearchJournal, of: str | None) -> list[dict[str, Any]]:
    words = tuple((name, f" {name}") for name in LABELS)
    model = Model(str(case.model), fingerprint_model(str(case.model)))
    engine = LabelEngine(model, Template("plain", words=words), Task(LABELS, max_length=512), case.decision)
    candidates = grown(case.prompts, size.candidates, LABELS)
    embed = of_base(engine)

    def scorer(limit: int | None = size.budget) -> Scorer:
        return Scorer(engine, journal, LABELS, case.decision, "accuracy", limit)

    def search_bat(seed: int) -> bat.BatpromptSearch:
        own = (
            RuleWriter(LABELS),
            Gate(embed=embed),
            bat.BatpromptSettings(iterations=40),
        )  # the budget ends it earlier
        return bat.BatpromptSearch(case.prompts, scorer(), case.rows, *own, seed)

    def by_random(seed: int, n_rows: int = size.n_rows) -> SearchResult:
        return random_search(candidates, scorer(), case.rows, n_rows, seed)

    def by_random_with_race(seed: int) -> SearchResult:
        """Random search with the same race at the end as ZOPO, to separate the effects of the search and the race."""
        share = size.budget // 4
        own = scorer(size.budget - share)
        found = random_search(candidates, own, case.rows, size.zopo_rows, seed)
        own.limit = size.budget
        return final_race(found.evaluated, spread_rows(case.rows, seed), own, share)

    def by_random_on_both(seed: int) -> SearchResult:
        return random_search(candidates, scorer(), search_bat(seed).raced, size.n_rows, seed)

    def by_zopo(seed: int) -> SearchResult:
        vectors, _ = at_answer(engine, candidates, spread_rows(case.rows, seed)[0])
        own = scorer(size.budget - len(candidates))  # embedding a candidate is a pass through the model, too
        return zo.zopo(candidates, vectors, own, case.rows, zo.ZopoSettings(rows=size.zopo_rows), seed)

    judge = scorer(None)
    judge.cells([(c, r) for c in candidates for r in case.rows])  # once, in large batches, into the journal
    noisy = [perturbed(row, number) for number, row in enumerate(case.held_out)]

    def accuracy(method: Callable[[int], SearchResult], repeats: int, *parts: list[Row]) -> np.ndarray:
        """The mean accuracy on ``parts`` of the prompts that the method chooses."""
        found = [method(seed).prompt for seed in range(repeats)]
        return np.array([np.mean([judge.score(p, part) for part in parts]) for p in found])

    print(f"{case.name}: {len(candidates)} candidates, {size.budget} scorings")
    for what, part in (("rows as they are", case.held_out), ("perturbed rows", noisy)):
        pool = np.array(judge.scores(case.prompts, part))
        print(
            f"  hand-written prompts on held-out {what}: mean {pool.mean():.3f}, best of {len(pool)} {pool.max():.3f}"
        )
    claims = []
    if of in (None, "zopo"):
        fewer, unit = f"random on {size.zopo_rows} rows", "accuracy on held-out rows"
        methods: dict[str, Callable[[int], SearchResult]] = {
            "random": by_random,
            fewer: lambda seed: by_random(seed, size.zopo_rows),
            "random with a race": by_random_with_race,
            "ZOPO": by_zopo,
        }
        values = {name: accuracy(method, size.repeats, case.held_out) for name, method in methods.items()}
        for pair in (
            ("ZOPO", "random"),
            ("ZOPO", fewer),
            ("ZOPO", "random with a race"),
            ("random with a race", "random"),
        ):
            claims.append(claim(case, size, unit, values, *pair))
    if of in (None, "batprompt"):
        same, unit = "random on such rows", "mean accuracy on held-out rows as they are and perturbed"
        values = {
            "random": accuracy(by_random, case.more * size.repeats, case.held_out, noisy),
            "BATprompt": accuracy(lambda seed: search_bat(seed).run(), case.more * size.repeats, case.held_out, noisy),
            same: accuracy(by_random_on_both, size.repeats, case.held_out, noisy),
        }
        for pair in (("BATprompt", "random"), ("BATprompt", same), (same, "random")):
            claims.append(claim(case, size, unit, values, *pair))
    return claims


def claim(case: Case, size: Size, unit: str, values: dict[str, np.ndarray], name: str, other: str) -> dict[str, Any]:
    repeats = min(len(values[name]), len(values[other]))  # the first of them have the same seeds
    ours, peer = values[name][:repeats], values[other][:repeats]
    apart = ours - peer
    error = float(apart.std(ddof=1) / np.sqrt(len(apart)))
    half = float(scipy.stats.t.ppf(0.975, len(apart) - 1)) * error
    low, high = float(apart.mean()) - half, float(apart.mean()) + half
    verdict = "better" if low > 0 else "worse" if high < 0 else "undecided"
    print(
        f"  {name} against {other}, {unit}, {len(apart)} repeats: {ours.mean():.3f} and {peer.mean():.3f}, "
        f"ratio {ours.mean() / peer.mean():.3f}, difference {apart.mean():+.3f} [{low:+.3f}, {high:+.3f}]: {verdict}",
        flush=True,
    )
    return {
        "claim": f"{name} against {other}, {case.name}, {size.budget} scorings, {len(apart)} repeats",
        "ours": round(float(ours.mean()), 4),
        "peer": round(float(peer.mean()), 4),
        "ratio": round(float(ours.mean() / peer.mean()), 4),
        "difference": round(float(apart.mean()), 4),
        "difference_low": round(low, 4),
        "difference_high": round(high, 4),
        "verdict": verdict,
        "each": [[round(float(a), 4), round(float(b), 4)] for a, b in zip(ours, peer, strict=True)],
        "unit": unit,
        "machine": f"{platform.processor() or platform.machine()}, 1 of {os.cpu_count()} cores",
        "versions": {n: version(n) for n in ("torch", "transformers")} | {"python": platform.python_version()},
    }


if __name__ == "__main__":
    main()
