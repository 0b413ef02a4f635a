"""Rows of public data sets, and our own wordings for them, for benchmarks on a real chat model. The rows are those of
../shared/data beside the checkout, which are not ours to ship."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from trainer.data.rows import Row
from trainer.data.wording import Prompt

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
REVIEW_WORDINGS = (
    "Is this review of a film positive?\n{{ text }}",
    "{{ text }}\n\nDid whoever wrote this like the film?",
    "Film review: {{ text }}\nFavourable, yes or no?",
    "Read the sentence and say yes if the critic recommends the film, no if not.\n\n{{ text }}",
    '"{{ text }}" Would you go and see this film after such a line?',
    "{{ text }} - praise?",
)

QUESTIONS = (  # of a sentence from a film review, to be answered with yes or no
    "Is this review of a film positive?", "Did whoever wrote this like the film?", "Is the critic pleased?",
    "Would these words make somebody want to see the film?", "Favourable, yes or no?", "Is that praise?",
    "Does the sentence recommend the film?", "Was the writer glad to have seen it?", "Thumbs up?",
    "Say yes if the tone is warm, no if it is cold.", "Has the reviewer enjoyed the film?", "A good review?",
    "Would the director be happy to read this?", "Is the verdict a kind one?", "Does the critic approve?",
    "Should the cinema print this on its poster? Answer yes or no.", "Is the opinion in this sentence favourable?",
    "yes = positive, no = negative.", "Do these words speak for the film?", "Is the author on the film's side?",
    "Four stars or more?", "Decide whether the sentence is positive (yes) or negative (no).",
    "Did it work for the critic?",
    "Judge the feeling behind the sentence. Is it a good one?", "Would you call this remark a compliment to the film?",
)  # fmt: skip
OPTION_WORDINGS = (
    "{{ question }}", "Question: {{ question }}", "Complete or answer this: {{ question }}",
    "{{ question }} Your answer?", "A pupil asks: {{ question }} What do you say?",
)  # fmt: skip


def review_prompts() -> list[Prompt]:
    """50 wordings: each question once before the sentence, and once after it."""
    texts = [f"{q}\n\n{{{{ text }}}}" for q in QUESTIONS] + [f"{{{{ text }}}}\n\n{q}" for q in QUESTIONS]
    return [Prompt(f"q{i}", text) for i, text in enumerate(texts)]


def review_pools() -> dict[str, dict[str, str]]:
    """The 50 wordings as three pools of 20, 10 and 20, each of its own questions, before the sentence and after it."""
    half = len(QUESTIONS)
    text = {prompt.id: prompt.text for prompt in review_prompts()}
    parts = {"train": range(10), "dev": range(10, 15), "test": range(15, half)}
    return {name: {f"q{k}": text[f"q{k}"] for i in of for k in (i, half + i)} for name, of in parts.items()}


def write_sst2_study(folder: Path, model: Path, rows: dict[str, int]) -> dict[str, Any]:
    """The sections of a study of SST-2 that say what its data are, with so many ``rows`` of each split; the pools are
    written beside it, into ``folder``. Axes and the rest are the caller's."""
    for name, wordings in review_pools().items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(wordings, sort_keys=False))
    data = str(present("sst2_sentences.parquet").resolve())
    splits = {name: {"path": data, "where": {"split": name}, "limit": limit} for name, limit in rows.items()}
    return {
        "model": {"path": str(model.resolve())},
        "task": {
            "rows": splits,
            "fields": ["text"],
            "label": "label",
            "labels": {0: "no", 1: "yes"},
            "max_length": 256,
        },
        "templates": {"chat": {"chat": True}, "plain": {"marker": "\nAnswer:"}},
        "pools": {"train": {"many": "train.yaml"}, "dev": "dev.yaml", "test": "test.yaml"},
    }


def openbookqa(count: int) -> list[Row]:
    """Questions of OpenBookQA with four options each."""
    rows = [r for r in pq.read_table(present("openbookqa.parquet")).to_pylist() if r["split"] == "test"][:count]
    return [Row(r["id"], {"question": r["question"]}, str(r["label"]), tuple(r["choices"])) for r in rows]


def sst2(count: int = 2000) -> list[Row]:
    """Sentences of the Stanford Sentiment Treebank, labelled yes (positive) or no."""
    table = pq.read_table(present("sst2_sentences.parquet")).to_pylist()
    rows = [r for r in table if r["split"] == "train"][:count]
    return [Row(str(i), {"text": r["text"]}, "yes" if r["label"] else "no") for i, r in enumerate(rows)]


def present(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        sys.exit(f"{path} is not there: this benchmark needs the public data set beside the checkout")
    return path
