"""Stage 5 in words: whether tuning one thing after the other was enough, from the crossing's scores alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.run_folder import stages as record
from sweeps.search.points import combinations
from sweeps.staged.points import Standing, axis_values, value_text, varied_text
from sweeps.statistics import interaction as ia
from sweeps.statistics.intervals import LEVEL, Estimate
from sweeps.study.schema import Study
from sweeps.trials.make import axes_of

FACTORS = ("template", "lora", "plw", "pool")
MOST_POINTS = 64  # of a full factorial that is still proposed
NEW = 32  # points that a search draws beyond those of the stages
_LUCK = math.sqrt(2.0) * 1.96  # between two single trials, in standard deviations over seeds


def stage(rows: Sequence[Mapping[str, Any]], settings: Mapping[str, str], key: str) -> record.Stage:
    """The record of stage 5. ``rows``: one per trial; ``settings``: L1, L2 … -> the LoRA setting in words."""
    made: record.Stage = {
        "stage": 5, "name": "interaction", "title": "interaction", "key": key, "settings": dict(settings),
        "rows": [dict(r) for r in rows], "tests": [], "shares": {}, "cells": [], "seed_std": None, "left_out": [],
    }  # fmt: skip
    try:
        layout, left_out = ia.crossing(rows, FACTORS, "objective")
        found = ia.analyse_interactions(layout)
    except ValueError as error:
        made["reason"] = f"No test: {error}."
        return made
    made["left_out"] = list(left_out)
    made["seed_std"] = found.seed_std
    made["tests"] = [
        {"factors": list(t.factors), "f": _known(t.f), "df": t.df, "df_residual": t.df_residual, "p": t.p,
         "p_permutation": t.p_permutation, "p_holm": t.p_holm}
        for t in found.tests
    ]  # fmt: skip
    made["shares"] = {n: [_known(e.value), _known(e.low), _known(e.high)] for n, e in found.shares.items()}
    if {"template", "lora"} <= set(layout.factors):
        means = found.means("template", "lora")
        templates, loras = (layout.levels[layout.factors.index(f)] for f in ("template", "lora"))
        made["cells"] = [
            {"template": t, "lora": lora, "objective": float(means[i, j])}
            for i, t in enumerate(templates)
            for j, lora in enumerate(loras)
        ]
        made["flips"] = found.flips("template", "lora")
    made["reason"] = _reason(made, len(rows), layout.values.shape[-1])
    return made


def _reason(made: record.Stage, trials: int, seeds: int) -> str:
    parts = ", ".join(f"{name} {share_text(values)}" for name, values in made["shares"].items())
    without = (
        f" Left out, for want of a result in every combination: seed {', '.join(made['left_out'])}."
        if made["left_out"]
        else ""
    )
    alike = sum(r["degenerate"] for r in made["rows"])
    warned = (
        f" {alike} of {trials} trials answer with one label nearly always, which makes the split doubtful."
        if alike
        else ""
    )
    return f"{trials} trials, {seeds} seeds. Shares of the variance of the objective: {parts}.{without}{warned}"


def answer(made: record.Stage, stages: Sequence[record.Stage], at: Standing, study: Study, uri: str) -> dict[str, Any]:
    """Kind (``staged``, ``joint``, ``unknown``), the sentence, what to run next, and earlier choices within luck."""
    test = next((t for t in made["tests"] if set(t["factors"]) == {"template", "lora"}), None)
    lucky = within_luck(stages, made["seed_std"])
    found: dict[str, Any] = {
        "choice": {"head": at.head, "template": at.templates[0], "lora": varied_text(study, at.settings)},
        "lucky": lucky,
    }
    why = _untested(made, test)
    if test is None or why:
        sentence = f"It cannot be said whether staged was enough: {why}"
        return {**found, "kind": "unknown", "command": None, "sentence": sentence}
    alike = sum(r["degenerate"] for r in made["rows"])
    doubt = f" {alike} of {len(made['rows'])} trials answer with one label nearly always: doubt it." if alike else ""
    if test["p"] < ia.ALPHA and made["flips"]:
        trained = {i for s in stages for c in s.get("candidates", ()) for i in c["trials"]}
        command = continuation(study, at, uri, len(trained | {r["trial"] for r in made["rows"]}))
        sentence = _joint(made, test, at.templates[0], command)
        return {**found, "kind": "joint", "command": command, "sentence": sentence + doubt}
    return {**found, "kind": "staged", "command": None, "sentence": _enough(made, test) + doubt}


def _untested(made: record.Stage, test: Mapping[str, Any] | None) -> str:
    """Why stage 5 says nothing of template and LoRA; "" where it does."""
    if not made["tests"]:
        return str(made["reason"])
    if test is None:
        return "stage 5 had one template or one LoRA setting."
    return "" if len({r["objective"] for r in made["rows"]}) > 1 else "all trials of stage 5 reached the same."


def _joint(made: record.Stage, test: Mapping[str, Any], template: str, command: str) -> str:
    best = max(made["cells"], key=lambda c: c["objective"])
    ours = next(c for c in made["cells"] if c["template"] == template and c["lora"] == "L1")
    ahead = best["objective"] - ours["objective"]
    return (
        f"Search jointly: which LoRA setting is best depends on the template ({_shown(test)}). Stage by stage came to "
        f"{ours['template']} with {ours['lora']}; the best of the crossing is {best['template']} with "
        f"{best['lora']}, {100 * ahead:+.1f} points. Go on from the same trials: {command}"
    )


def _enough(made: record.Stage, test: Mapping[str, Any]) -> str:
    if test["p"] < ia.ALPHA:
        return (
            f"Staged was enough: template and LoRA setting do act on each other ({_shown(test)}), but the best of each "
            "stays the best whatever the other is."
        )
    share, seed = Estimate(*_numbers(made["shares"]["interaction"])), made["shares"][ia.SEED][0] or 0.0
    said = (
        f"Staged was enough: no dependence of the LoRA setting on the template is shown ({_shown(test)}); all "
        f"interactions together make {share_text([share.value, share.low, share.high])} of the variance, seeds "
        f"{100 * seed:.0f} %."
    )
    if math.isfinite(share.high) and share.high > max(seed, 0.1):
        said += f" One of up to {100 * share.high:.0f} % is not ruled out by so few trials: add seeds to be surer."
    return said


def _shown(test: Mapping[str, Any]) -> str:
    return (
        f"template x LoRA: F({test['df']}, {test['df_residual']}) = {_number(test['f'])}, p {_p(test['p'])}, "
        f"permutation p {_p(test['p_permutation'])}"
    )


def continuation(study: Study, at: Standing, uri: str, done: int) -> str:
    """The command that searches the same axes jointly in the same folder: the full factorial under ASHA, or, where that
    is large, TPE, which begins with the ``done`` trials of the stages. What is trained is not trained again."""
    changed = {
        "classifier": ["model.head=classifier", "axes.plw=0"],
        "generate": ["scoring.scorer=generate"],
    }.get(at.head, [])
    grown = 1.0
    for name, values in axis_values(study).items():
        if name in ("steps", "epochs") and at.settings.get(name, values[0]) not in values:  # stage 4 found it
            changed.append(f"axes.{name}=[{','.join(map(value_text, (*values, at.settings[name])))}]")
            grown = (len(values) + 1) / len(values)
    total = combinations(axes_of(study))
    small = total is not None and total * grown <= MOST_POINTS
    how = [] if small else ["search.method=tpe", f"search.trials={done + NEW}"]
    own = "STUDY" if "://" in uri else f"{uri}/study.yaml"  # a study is read from a disk
    return " ".join(["steadytune run", own, "stages=null", *changed, *how, "--out", uri])


def within_luck(stages: Sequence[record.Stage], seed_std: float | None) -> list[str]:
    """Earlier choices whose lead is smaller than what two trials differ by from the seed alone, 19 times in 20."""
    if seed_std is None:
        return []
    said = []
    for made in stages:
        rows = {r["candidate"]: r for r in made.get("candidates", [])}
        gaps = [r["gap"] for r in rows.values() if r["gap"] is not None]
        limit = _LUCK * seed_std / math.sqrt(made.get("seeds", 1))
        if gaps and min(gaps) < limit:
            said.append(
                f"Stage {made['stage']}, {made['title']}: the lead of {100 * min(gaps):.1f} points is within the luck "
                f"of the seed, {100 * limit:.1f} points."
            )
    return said


def share_text(values: Sequence[float | None]) -> str:
    """``12 % [3, 40]``."""
    value, low, high = _numbers(values)
    if math.isnan(value):
        return "-"
    bounds = "" if math.isnan(low) or math.isnan(high) else f" [{100 * low:.0f}, {100 * high:.0f}]"
    return f"{100 * value:.0f} %{bounds}"


def level() -> str:
    return f"{100 * LEVEL:g} %"


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if v is None else v for v in values]


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _number(value: float | None) -> str:
    return "inf" if value is None else f"{value:.2f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
