"""The part of the report on a staged study, from a record of its stages."""

from __future__ import annotations

from typing import Any

from sweeps.staged import report, tables

CANDIDATE = {
    "candidate": "chat", "objective": 0.8, "mean": 0.85, "std": 0.05, "min": 0.7, "gap": None, "gap_low": None,
    "gap_high": None, "p": None, "p_holm": None, "heavy_tails": False, "leader": True, "tied": False, "taken": True,
    "degenerate": False, "whole": True, "trials": ["a1"],
}  # fmt: skip
BEHIND = {
    **CANDIDATE, "candidate": "plain", "gap": 0.02, "gap_low": -0.01, "gap_high": 0.05, "p": 0.2, "p_holm": 0.4,
    "leader": False, "tied": True, "taken": False, "trials": ["b2"],
}  # fmt: skip
STAGES = [
    {"stage": 1, "name": "format", "title": "format", "reason": "It is sound.", "warnings": ["The stop token is new."]},
    {"stage": 3, "name": "templates", "title": "templates", "taken": "chat", "reason": "“chat” leads.",
     "candidates": [CANDIDATE, BEHIND]},
]  # fmt: skip
CROSSED = {
    "stage": 5, "name": "interaction", "title": "interaction", "reason": "16 trials.", "settings": {"L1": "r=8"},
    "shares": {"template": [0.6, 0.4, 0.8], "seed": [0.1, None, None]},
    "tests": [{"factors": ["template", "lora"], "f": 1.5, "df": 1, "df_residual": 8, "p": 0.2, "p_permutation": 0.3,
               "p_holm": 0.2}],
    "cells": [{"template": "chat", "lora": "L1", "objective": 0.8}],
}  # fmt: skip
ANSWER = {
    "kind": "staged", "sentence": "Staged was enough: no dependence is shown.", "lucky": ["Stage 3, templates: luck."],
    "choice": {"head": "lm", "template": "chat", "lora": "r=8"},
}  # fmt: skip


def part_of(record: dict[str, Any]) -> Any:
    return report.part(record, tables.tables(record), "accuracy")


def test_the_answer_comes_first_and_what_may_be_chance_is_a_warning() -> None:
    part = part_of({"stages": [*STAGES, CROSSED], "answer": ANSWER})
    assert part.answer == (ANSWER["sentence"], "Chosen stage by stage: head lm, template chat, r=8.")
    assert "these earlier leads may be chance. Stage 3, templates: luck." in part.warnings[0]
    assert "L1: r=8." in part.notes
    [figure] = part.drawn
    rows = [row for rows in figure.spec["datasets"].values() for row in rows]
    assert {"line": "template", "name": "template", "value": 60.0, "low": 40.0, "high": 80.0} in rows
    assert {"line": "seed", "name": "seed", "value": 10.0} in rows


def test_tables_are_in_words_with_the_interval_beside_the_lead() -> None:
    found = {table.title: table for table in part_of({"stages": [*STAGES, CROSSED], "answer": ANSWER}).tables}
    compared = found[tables.TITLES["staged_candidates"]]
    assert compared.long
    lead = compared.head.index("leader's lead, points (95 % interval)")
    assert [row[lead] for row in compared.rows] == ["-", "+2.0 (-1.0 to +5.0)"]
    assert "objective, %" in compared.head
    assert not any("_" in head for table in found.values() for head in table.head)
    assert "a1" not in [cell for row in compared.rows for cell in row]
    shares = found[tables.TITLES["staged_variance"]]
    assert shares.head == ("source of variance", "share of the variance, % (95 % interval)")
    assert shares.rows == (("template", "60.0 (40.0 to 80.0)"), ("seed", "10.0"))
    assert found["Warnings of stage 1"].rows == (("The stop token is new.",),)


def test_unfinished_stages_say_so_and_have_no_figure() -> None:
    part = part_of({"stages": STAGES})
    assert part.answer == ()
    assert part.warnings == (report.UNFINISHED,)
    assert part.drawn == ()
