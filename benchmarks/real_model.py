"""SmolLM2-135M-Instruct for the studies of docs/results.md, and the wordings of others that they score."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import yaml
from real_tasks import present
from smollm2 import smollm2
from study_command import ROOT

OUT = ROOT / "runs" / "real"
MODEL = OUT / "smollm2"
_LITERAL = re.compile(r"\{\{\s*\"([^\"]*)\"\s*\}\}")  # PromptSource writes {{"yes"}} for a word that is an answer


def make_model() -> None:
    """Write the model into ``MODEL``, which the studies name; what is there stays."""
    smollm2(MODEL)


def write_test_pool(to: Path, own: Path, others: dict[str, str]) -> None:
    """The pool ``to``: our wordings in ``own``, then those of others. It is not ours to publish."""
    wordings = {**yaml.safe_load(own.read_text()), **others}
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(yaml.safe_dump(wordings, sort_keys=False, allow_unicode=True, width=10_000))


def review_wordings() -> dict[str, str]:
    """PromptSource's for SST-2 and Rotten Tomatoes, and FLAN's for SST-2, that ask for negative or positive."""
    found = {}
    for row in _templates("promptsource.parquet"):
        if row["task"] in ("glue/sst2", "rotten_tomatoes") and _answers(row) == ["negative", "positive"]:
            found[_id("ps", row)] = _ours(row["template"], "sentence", "text")
    for row in _templates("flan.parquet"):
        if row["task"] == "sst2" and row["split"] == "v1" and row["target"] == "{answer}":
            text = row["template"].replace("{options_}", "OPTIONS:\n- negative\n- positive")
            found[_id("flan", row)] = text.replace("{sentence}", "{{ text }}").strip()
    return found


def post_wordings() -> dict[str, str]:
    """PromptSource's for hateful and offensive tweets that ask for yes or no, with sexist in place of these words: it
    has none for sexism. Of two that come to the same the first is taken."""
    found: dict[str, str] = {}
    for row in _templates("promptsource.parquet"):
        if row["task"] in ("tweet_eval/hate", "tweet_eval/offensive") and _answers(row) == ["no", "yes"]:
            text = _ours(row["template"], "text")
            for word, instead in _SEXIST.items():
                text = re.sub(rf"\b{word}\b", instead, text)
            if " ".join(text.split()) not in {" ".join(other.split()) for other in found.values()}:
                found[_id("ps", row)] = text
    return found


_SEXIST = {"an offensive": "a sexist", "offensive": "sexist", "hateful": "sexist", "hatred": "sexism", "hate": "sexism"}


def _templates(name: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = pq.read_table(present(name)).to_pylist()
    return rows


def _answers(row: dict[str, str]) -> list[str]:
    return [word.strip() for word in (row["answer_choices"] or "").split("|||")]


def _id(source: str, row: dict[str, str]) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{source} {row['task']} {row['name']}".lower()).strip("-")


def _ours(template: str, *fields: str) -> str:
    """The question of a PromptSource template, with our placeholder."""
    asked = _LITERAL.sub(r"\1", template.split("|||")[0])
    return re.sub(r"\{\{\s*(" + "|".join(fields) + r")\s*\}\}", "{{ text }}", asked).strip()
