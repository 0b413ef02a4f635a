"""ZOPO and BATprompt, as published and ours, against random search at the same budget of scorings: how good the chosen
prompts are on rows that no search has read.

    python benchmarks/prompt_search.py [--case NAME] [--of METHOD] [--repeats N] [--writer FOLDER] [--json FILE]
        [--keep DIR]

Of each method and model there are four rows: the published settings, ours, random search, and random search with the
race between the best at its end that our settings have. All four get the budget that the published settings need:
8,250 scorings for ZOPO (165 evaluations on 50 rows), 2,500 for BATprompt. Random search scores a candidate on 50 rows.

ZOPO is measured by accuracy on rows as they are. Embedding the candidates costs ZOPO a pass for each, so random search
gets so many scorings more. BATprompt searches a prompt that also works on perturbed rows: it is measured by the mean
accuracy on rows as they are and on perturbed ones, and random search scores such rows in turn. BATprompt as published
has a language model write; here it is ``--writer``, SmolLM2-135M-Instruct where none is given, which is no capable
writer, and character-level changes are made by rules (``--set characters_by=rules``), as they need no model.

Models. ``embedded``: the embedded model with ten hand-written prompts, first trained for 120 LoRA steps on one other
prompt, because without training it is near chance under every prompt. ``tiny1m``: 0.9 M parameters, trained on
children's stories only, with ten prompts that ask whether a text message is spam. ``smollm2``: SmolLM2-135M-Instruct
with 20 prompts for SST-2. Both labels are equally frequent. Candidates are the hand-written prompts and rule-based
rewrites of them, 300 in all (smollm2: 200), the same for ZOPO and random search; BATprompt starts from the hand-written
ones.

Each repeat has its own seed for rows, order, perturbations and rewrites. Intervals are of 95 % over repeats (t); those
of differences are paired. ``--keep`` stores scored cells and a writer's replies, so that another run goes on where it
was; ``--json`` keeps what it finds there of other models and methods.
"""

# ruff: noqa: E402  (threads and offline mode are set before torch and transformers are imported)
from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
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
from real_tasks import review_prompts, sst2

from sweeps.prompt_search.batprompt import BatpromptSearch
from sweeps.prompt_search.candidates import grown
from sweeps.prompt_search.embed import at_answer, of_base
from sweeps.prompt_search.journal import FolderJournal, SearchJournal
from sweeps.prompt_search.label_engine import LabelEngine
from sweeps.prompt_search.perturb import PERTURBATIONS, perturb
from sweeps.prompt_search.race import spread_rows
from sweeps.prompt_search.random_search import random_search
from sweeps.prompt_search.result import SearchResult
from sweeps.prompt_search.scorer import Scorer
from sweeps.prompt_search.settings import (
    OURS,
    PUBLISHED,
    BatpromptSettings,
    RandomSettings,
    ZopoSettings,
    published_scorings,
    settings_of,
)
from sweeps.prompt_search.similarity import Gate
from sweeps.prompt_search.writers import ChatGenerator, ModelWriter
from sweeps.prompt_search.zopo import zopo
from sweeps.prompts.local_writer import LocalModel
from sweeps.trials.base_model import fingerprint_model
from trainer.data.pools import load_pool
from trainer.data.rewrites import RuleWriter
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


CASES = ("embedded", "tiny1m", "smollm2")
ROWS = ("published", "ours", "random", "random with a race")


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
    rows: int = 600  # rows that the searches use
    held_out: int = 400
    scored_on: int = 50  # rows for each candidate
    repeats: int = 100  # of ZOPO
    bat_repeats: int = 20  # of BATprompt, whose writer is slow


SIZES = {"embedded": Size(), "tiny1m": Size(), "smollm2": Size(200, 100, 200, 50, 20, 10)}
QUICK = Size(candidates=24, rows=40, held_out=40, scored_on=5, repeats=2, bat_repeats=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="2 repeats of a tiny form, to see that it runs")
    parser.add_argument("--keep", type=Path, help="a folder for scored cells and replies")
    parser.add_argument("--case", choices=CASES, help="run only this model")
    parser.add_argument("--of", choices=("zopo", "batprompt"), help="run only this method")
    parser.add_argument("--repeats", type=int, help="so many repeats, the first ones, instead of this script's number")
    parser.add_argument("--writer", type=Path, help="an instruct model's folder, for BATprompt as published")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="tuned-") as folder:
        writer = args.writer
        if writer is None and args.of != "zopo":
            writer = Path(folder, "writer")
            make_smollm2(writer)
        for name in [args.case] if args.case else CASES:
            size = QUICK if args.quick else SIZES[name]
            if args.repeats is not None:
                size = replace(size, repeats=args.repeats, bat_repeats=args.repeats)
            case = case_of(name, size, Path(folder, name))
            if case is None:
                continue
            journal = SearchJournal() if args.keep is None else FolderJournal(Store.open(args.keep / name))
            for method in [args.of] if args.of else ("zopo", "batprompt"):
                found = compare(case, size, journal, method, writer)
                if args.json:
                    others = json.loads(args.json.read_text()) if args.json.exists() else []
                    kept = [o for o in others if (o["model"], o["method"]) != (name, method)]
                    args.json.write_text(json.dumps([*kept, found], indent=1) + "\n")


def make_smollm2(folder: Path) -> None:
    """Write SmolLM2-135M-Instruct into ``folder``."""
    script = ROOT.parent / "shared" / "models" / "smollm2.py"
    if not script.is_file():
        sys.exit(f"{script} is not there: give an instruct model's folder with --writer, or --of zopo")
    subprocess.run([sys.executable, str(script), str(folder)], check=True, stdout=subprocess.DEVNULL)


def case_of(name: str, size: Size, folder: Path) -> Case | None:
    """None, with a line that says so, where its model or rows are not there."""
    if name == "embedded":
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
        return Case(name, folder, "raw", pool, rows, balanced(test, size.held_out))
    shared = ROOT.parent / "shared"
    if not shared.is_dir():
        print(f"the folder with shared models and data is not beside this checkout: {name} is left out")
        return None
    if name == "smollm2":
        make_smollm2(folder)
        reviews = balanced(sst2(20_000), size.rows + size.held_out)
        random.Random(0).shuffle(reviews)
        return Case(name, folder, "raw", review_prompts()[:20], reviews[: size.rows], reviews[size.rows :])
    spam = [Prompt(f"s{i:02}", text) for i, text in enumerate(SPAM)]
    messages = sms(shared / "data" / "sms_spam.parquet", size.rows + size.held_out)
    return Case(name, shared / "models" / "tiny1m", "batch", spam, messages[: size.rows], messages[size.rows :])


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


def compare(case: Case, size: Size, journal: SearchJournal, method: str, writer: Path | None) -> dict[str, Any]:
    """The four rows of one method and model."""
    words = tuple((name, f" {name}") for name in LABELS)
    model = Model(str(case.model), fingerprint_model(str(case.model)))
    engine = LabelEngine(model, Template("plain", words=words), Task(LABELS, max_length=512), case.decision)

    def scorer(limit: int | None) -> Scorer:
        return Scorer(engine, journal, LABELS, case.decision, "accuracy", limit)

    noisy = [perturbed(row, number) for number, row in enumerate(case.held_out)]
    if method == "zopo":
        budget, searches = zopo_searches(case, size, engine, scorer)
        repeats, parts, unit = size.repeats, [case.held_out], "accuracy on held-out rows"
    else:
        budget, searches = batprompt_searches(case, size, engine, scorer, journal, writer)
        repeats, parts = size.bat_repeats, [case.held_out, noisy]
        unit = "mean accuracy on held-out rows as they are and perturbed"
    judge = scorer(None)
    values: dict[str, np.ndarray] = {}
    for name in ROWS:
        found = []
        for seed in range(repeats):
            prompt = searches[name](seed).prompt
            found.append(float(np.mean([judge.score(prompt, part) for part in parts])))
        values[name] = np.array(found)
        print(f"  {case.name}, {method}, {name}: {shown(interval(values[name]))}", flush=True)
    hand = np.mean([judge.scores(case.prompts, part) for part in parts], axis=0)
    print(f"  hand-written prompts: mean {hand.mean():.3f}, best of {len(hand)} {hand.max():.3f}")
    rows = {}
    for name in ROWS:
        of = {"accuracy": interval(values[name]), "each": [round(float(v), 4) for v in values[name]]}
        for other in ROWS[2:]:
            if other != name:
                of[f"minus {other}"] = interval(values[name] - values[other])
        rows[name] = of
    for name, other in (("published", ROWS[2]), ("published", ROWS[3]), ("ours", ROWS[2]), ("ours", ROWS[3])):
        apart = interval(values[name] - values[other])
        verdict = "better" if apart[1] > 0 else "worse" if apart[2] < 0 else "undecided"
        ratio = values[name].mean() / values[other].mean()
        print(f"  {name} against {other}: ratio {ratio:.3f}, difference {shown(apart)}: {verdict}", flush=True)
    return {
        "model": case.name,
        "method": method,
        "budget": budget,
        "repeats": repeats,
        "unit": unit,
        "hand_written": {"mean": round(float(hand.mean()), 4), "best": round(float(hand.max()), 4)},
        "rows": rows,
        "machine": f"{platform.processor() or platform.machine()}, 1 of {os.cpu_count()} cores",
        "versions": {n: version(n) for n in ("torch", "transformers")} | {"python": platform.python_version()},
    }


Searches = dict[str, Callable[[int], SearchResult]]


def zopo_searches(case: Case, size: Size, engine: LabelEngine, scorer: Any) -> tuple[int, Searches]:
    """(budget in scorings, the search of each row by name, asked with a seed)."""
    candidates = grown(case.prompts, size.candidates, LABELS)
    published = settings_of("zopo", PUBLISHED, rows=size.scored_on)
    assert isinstance(published, ZopoSettings)
    budget, _ = published_scorings(published, len(candidates))
    more = len(candidates)  # passes that embed the candidates

    def climb(settings: ZopoSettings, seed: int) -> SearchResult:
        if settings.embedding == "mean":
            vectors = of_base(engine)([p.text for p in candidates])
        else:
            vectors, _ = at_answer(engine, candidates, spread_rows(case.rows, seed)[0])
        return zopo(candidates, vectors, scorer(budget), case.rows, settings, seed)

    def by_random(seed: int, end_share: float = 0.0) -> SearchResult:
        return random_search(
            candidates, scorer(budget + more), case.rows, RandomSettings(size.scored_on, end_share), seed
        )

    ours = ZopoSettings(rows=size.scored_on)
    return budget, {
        "published": lambda seed: climb(published, seed),
        "ours": lambda seed: climb(ours, seed),
        "random": by_random,
        "random with a race": lambda seed: by_random(seed, ours.end_share),
    }


def batprompt_searches(
    case: Case, size: Size, engine: LabelEngine, scorer: Any, journal: SearchJournal, writer: Path | None
) -> tuple[int, Searches]:
    """(budget in scorings, the search of each row by name, asked with a seed)."""
    candidates = grown(case.prompts, size.candidates, LABELS)
    published = settings_of("batprompt", PUBLISHED, ["characters_by=rules"])
    ours = settings_of("batprompt", OURS, ["iterations=40"])  # the budget ends it earlier
    assert isinstance(published, BatpromptSettings)
    assert isinstance(ours, BatpromptSettings)
    budget, _ = published_scorings(published, len(candidates))
    model = LocalModel(str(writer), 512, published.temperature, top_p=published.top_p)
    gate = Gate(embed=of_base(engine))

    def search(settings: BatpromptSettings, seed: int) -> BatpromptSearch:
        own = scorer(budget)
        by_model = ModelWriter(ChatGenerator(model, seed), model.fingerprint(), journal, own.spent)
        of = by_model if settings is published else RuleWriter(LABELS)
        return BatpromptSearch(case.prompts, own, case.rows, of, gate, settings, seed)

    def by_random(seed: int, end_share: float = 0.0) -> SearchResult:
        rows = search(ours, seed).raced  # as they are and perturbed, in turn
        return random_search(candidates, scorer(budget), rows, RandomSettings(size.scored_on, end_share), seed)

    return budget, {
        "published": lambda seed: search(published, seed).run(),
        "ours": lambda seed: search(ours, seed).run(),
        "random": by_random,
        "random with a race": lambda seed: by_random(seed, ours.end_share),
    }


def interval(values: np.ndarray) -> list[float]:
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return [round(float(v), 4) for v in (values.mean(), values.mean() - half, values.mean() + half)]


def shown(value: list[float]) -> str:
    return f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})"


if __name__ == "__main__":
    main()
