"""Stage 5 in words: whether the choices depend on each other, and so whether tuning stage by stage was enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.display.text import interval, percent
from sweeps.run_folder import stages as record
from sweeps.search.points import combinations
from sweeps.staged.points import CurrentChoice, axis_values, value_text, varied_text
from sweeps.statistics import interaction as ia
from sweeps.statistics.intervals import Estimate
from sweeps.study.study import Study
from sweeps.trials.from_points import axes_of

FACTORS = ("template", "lora", "plw", "pool")
MOST_POINTS = 64  # of a full factorial that is still proposed
NEW = 32  # points that a joint search draws in addition to those of the stages
_LUCK = math.sqrt(2.0) * 1.96  # 95 % limit of the difference of two trials, in standard deviations over seeds


def interaction_record(rows: Sequence[Mapping[str, Any]], settings: Mapping[str, str], key: str) -> record.Stage:
    """The record of stage 5. ``rows`` has one row per trial; ``settings`` maps L1, L2 … to LoRA settings in words."""
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
        f" Left out, because a combination has no result under it: seed {', '.join(made['left_out'])}."
        if made["left_out"]
        else ""
    )
    alike = sum(r["degenerate"] for r in made["rows"])
    warned = (
        f" {alike} of {trials} trials answer with one label nearly always, which makes these shares doubtful."
        if alike
        else ""
    )
    return f"{trials} trials, {seeds} seeds. Shares of the variance of the objective: {parts}.{without}{warned}"


def final_answer(
    made: record.Stage, stages: Sequence[record.Stage], current: CurrentChoice, study: Study, uri: str
) -> dict[str, Any]:
    """The answer's kind (``staged``, ``joint`` or ``unknown``), its sentence, the command to run next, and the earlier
    choices whose lead may be chance."""
    test = next((t for t in made["tests"] if set(t["factors"]) == {"template", "lora"}), None)
    lucky = within_luck(stages, made["seed_std"])
    found: dict[str, Any] = {
        "choice": {
            "head": current.head,
            "template": current.templates[0],
            "lora": varied_text(study, current.settings),
        },
        "lucky": lucky,
    }
    why = _untested(made, test)
    if test is None or why:
        sentence = f"It cannot be said whether staged was enough: {why}"
        return {**found, "kind": "unknown", "command": None, "sentence": sentence}
    alike = sum(r["degenerate"] for r in made["rows"])
    doubt = f" {alike} of {len(made['rows'])} trials answer with one label nearly always: do not rely on it."
    doubt = doubt if alike else ""
    if test["p"] < ia.ALPHA and made["flips"]:
        trained = {i for s in stages for c in s.get("candidates", ()) for i in c["trials"]}
        command = continuation(study, current, uri, len(trained | {r["trial"] for r in made["rows"]}))
        sentence = _joint(made, test, current.templates[0], command)
        return {**found, "kind": "joint", "command": command, "sentence": sentence + doubt}
    return {**found, "kind": "staged", "command": None, "sentence": _enough(made, test) + doubt}


def _untested(made: record.Stage, test: Mapping[str, Any] | None) -> str:
    """Why stage 5 has no test of template and LoRA; "" where it has one."""
    if not made["tests"]:
        return str(made["reason"])
    if test is None:
        return "stage 5 had one template or one LoRA setting."
    return "" if len({r["objective"] for r in made["rows"]}) > 1 else "all trials of stage 5 have the same objective."


def _joint(made: record.Stage, test: Mapping[str, Any], template: str, command: str) -> str:
    best = max(made["cells"], key=lambda c: c["objective"])
    ours = next(c for c in made["cells"] if c["template"] == template and c["lora"] == "L1")
    ahead = best["objective"] - ours["objective"]
    return (
        f"Search jointly: which LoRA setting is best depends on the template ({_shown(test)}). The stages chose "
        f"{ours['template']} with {ours['lora']}; the best combination in stage 5 is {best['template']} with "
        f"{best['lora']}, {percent(ahead, signed=True)} points. Go on from the same trials: {command}"
    )


def _enough(made: record.Stage, test: Mapping[str, Any]) -> str:
    if test["p"] < ia.ALPHA:
        return (
            f"Staged was enough: template and LoRA setting do interact ({_shown(test)}), but the best value of each "
            "does not change with the other."
        )
    share, seed = Estimate(*_numbers(made["shares"]["interaction"])), made["shares"][ia.SEED][0] or 0.0
    said = (
        f"Staged was enough: no dependence of the LoRA setting on the template is shown ({_shown(test)}); all "
        f"interactions together make {share_text([share.value, share.low, share.high])} of the variance, seeds "
        f"{percent(seed, digits=0)} %."
    )
    if math.isfinite(share.high) and share.high > max(seed, 0.1):
        said += (
            f" An interaction of up to {percent(share.high, digits=0)} % is not excluded: add seeds to be more certain."
        )
    return said


def _shown(test: Mapping[str, Any]) -> str:
    return (
        f"template x LoRA: F({test['df']}, {test['df_residual']}) = {_number(test['f'])}, p {_p(test['p'])}, "
        f"permutation p {_p(test['p_permutation'])}"
    )


def continuation(study: Study, current: CurrentChoice, uri: str, done: int) -> str:
    """The command that searches the same axes jointly in the same folder: the full factorial under ASHA, or, where that
    is large, TPE, which begins with the ``done`` trials of the stages. Trained trials are not trained again."""
    changed = {
        "classifier": ["model.head=classifier", "axes.plw=0"],
        "generate": ["scoring.scorer=generate"],
    }.get(current.head, [])
    grown = 1.0
    for name, values in axis_values(study).items():
        if name in ("steps", "epochs") and current.settings.get(name, values[0]) not in values:  # stage 4 found it
            changed.append(f"axes.{name}=[{','.join(map(value_text, (*values, current.settings[name])))}]")
            grown = (len(values) + 1) / len(values)
    total = combinations(axes_of(study))
    small = total is not None and total * grown <= MOST_POINTS
    how = [] if small else ["search.method=tpe", f"search.trials={done + NEW}", f"axes.seed={_first_seed(study)}"]
    own = "STUDY" if "://" in uri else f"{uri}/study.yaml"  # a study file is read from a local disk only
    return " ".join(["steadytune run", own, "stages=null", *changed, *how, "--out", uri])


def _first_seed(study: Study) -> int:
    """TPE chooses one trial at a time, and so has one seed."""
    return int(axis_values(study)["seed"][0])


def within_luck(stages: Sequence[record.Stage], seed_std: float | None) -> list[str]:
    """Sentences on the earlier choices whose lead is within the 95 % range of the difference that the seed alone
    makes."""
    if seed_std is None:
        return []
    said = []
    for made in stages:
        rows = {r["candidate"]: r for r in made.get("candidates", [])}
        gaps = [r["gap"] for r in rows.values() if r["gap"] is not None]
        limit = _LUCK * seed_std / math.sqrt(made.get("seeds", 1))
        if gaps and min(gaps) < limit:
            said.append(
                f"Stage {made['stage']}, {made['title']}: the lead of {percent(min(gaps))} points is smaller than the "
                f"difference that seeds alone can make, {percent(limit)} points."
            )
    return said


def share_text(values: Sequence[float | None]) -> str:
    """``12 % (3 to 40)``."""
    value, low, high = _numbers(values)
    bounds = interval(low, high, digits=0)
    return "-" if math.isnan(value) else f"{percent(value, digits=0)} %" + (f" ({bounds})" if bounds else "")


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if v is None else v for v in values]


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _number(value: float | None) -> str:
    return "inf" if value is None else f"{value:.2f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
