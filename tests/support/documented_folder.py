"""A folder in which the commands of the documents run: the files that they name, with the embedded model, and
finished runs of the small study of ``tiny_run``."""

from __future__ import annotations

import csv
import itertools
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from checkout import EMBEDDED, ROOT
from code_blocks import BLOCKS
from tiny_run import LABELLED, PLAIN, make_run

from sweeps.study.overlay import dump_yaml, parse_yaml

LABELS = ("no", "yes")
CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Norway": "Oslo", "Japan": "Tokyo", "Peru": "Lima"}
WORDINGS = [
    "Is the writer of this message unhappy? {{ text }}",
    "{{ text }} Does that sound like a complaint?",
    "Message: {{ text }} Is this person unhappy, yes or no?",
    "{{ text }} Would you say the writer is upset?",
    "Here is a message. {{ text }} Complaint or not?",
    "Unhappy customer? {{ text }}",
    "Say whether this is a complaint: {{ text }}",
    "Read this: {{ text }} Is somebody annoyed here?",
    "{{ text }} Unhappy (yes/no)?",
    "Tell me if the sender is unhappy. {{ text }}",
]


def study_of_the_readme() -> dict[str, Any]:
    """The study that the README writes, on the embedded model."""
    [block] = [b for b in BLOCKS if b.page == "README.md" and b.kind == "yaml" and "axes:" in b.text]
    study: dict[str, Any] = parse_yaml(block.text, str(block))
    return {**study, "model": {"path": str(EMBEDDED / "model")}}


def make_folder(folder: Path) -> None:
    """Write into ``folder`` all files and runs that commands of the documents read and do not make themselves."""
    rows = [json.loads(line) for line in (EMBEDDED / "data" / "train.jsonl").read_text().splitlines()]
    make_data(folder, rows)
    make_tickets(folder, rows[:320])
    (folder / "mine.txt").write_text("\n".join(WORDINGS))
    (folder / "human.yaml").write_text(yaml.safe_dump(dict(zip("abcdefghij", WORDINGS, strict=True))))
    shutil.copy(folder / "human.yaml", folder / "prompts" / "human.yaml")
    shutil.copytree(ROOT / "ray_configs", folder / "ray_configs")
    make_runs(folder)


def make_data(folder: Path, rows: list[dict[str, Any]]) -> None:
    table(folder / "messages.csv", ("text", "unhappy"), [(r["text"], LABELS[r["label"]]) for r in rows[:600]])
    few = [r for r in rows if not r["label"]][:540] + [r for r in rows if r["label"]][:60]
    table(folder / "complaints.csv", ("text", "complaint"), [(r["text"], LABELS[r["label"]]) for r in few])
    mails = [(f"Mail {i}", r["text"], LABELS[r["label"]]) for i, r in enumerate(rows[:300])]
    table(folder / "mails.csv", ("subject", "body", "urgent"), mails)
    draw = random.Random(0)
    with open(folder / "exam.jsonl", "w") as file:
        for i, (country, city) in zip(range(120), itertools.cycle(CAPITALS.items()), strict=False):
            choices = [city, *draw.sample([c for c in CAPITALS.values() if c != city], 3)]
            draw.shuffle(choices)
            question = f"Question {i}: what is the capital of {country}?"
            record = {"question": question, "choices": choices, "answer": "ABCD"[choices.index(city)]}
            file.write(json.dumps(record) + "\n")


def make_tickets(folder: Path, rows: list[dict[str, Any]]) -> None:
    splits = ["train"] * 200 + ["dev"] * 60 + ["test"] * 60
    lines = [(r["id"], r["text"], r["label"], split) for r, split in zip(rows, splits, strict=True)]
    table(folder / "tickets.csv", ("ticket", "text", "urgent", "split"), lines)
    (folder / "prompts").mkdir()
    for i, (name, letter) in enumerate({"train": "t", "dev": "d", "test": "x"}.items()):
        pool = {f"{letter}{j + 1:02}": text for j, text in enumerate(WORDINGS[3 * i : 3 * i + 3])}
        (folder / "prompts" / f"{name}.yaml").write_text(yaml.safe_dump(pool))
    (folder / "tickets.yaml").write_text(dump_yaml(study_of_the_readme()))


def make_runs(folder: Path) -> None:
    """``runs/tickets``, ``runs/messages`` and ``runs/complaints``, of one small study, and rows to answer."""
    made = folder / "tiny"
    made.mkdir()
    run, _ = make_run(made, LABELLED, sound=True, templates=PLAIN, axes={"lr": 1e-2, "steps": 45})
    for name in ("tickets", "messages", "complaints"):
        shutil.copytree(run, folder / "runs" / name)
    shutil.copy(made / "test.jsonl", folder / "new.jsonl")


def table(path: Path, head: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([head, *lines])
