"""The tables of a study of training arms, named after those of the PAFT paper (arXiv 2502.12859).

``paft_main``      accuracy over unseen prompts (mean, std, worst, share above the threshold), and the arm's cost
``paft_best``      the best arm against the second best, paired
``paft_training``  steps and tokens of training, and its hours
``paft_inference`` what an answer costs: milliseconds, new tokens, unreadable answers
``paft_k_t``       mean ± std by K (examples per prompt) and T (epochs)
``paft_prompts``   mean and std by the number of training prompts
``paft_usage``     tokens that the prompts of the largest pool cost, by model and strategy
``paft_claims``    what the paper finds, and whether these data show it
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from sweeps.display.table_files import markdown_rows, markdown_text, tex, write_table
from sweeps.display.text import HEAVY_TAILS, metric_unit, unseen
from sweeps.paft.arm_results import Result, distinct, is_base, largest_pool, reference_arm
from sweeps.paft.changes import Change, changes, comparable, seed_luck
from sweeps.paft.claims import ALPHA, claims
from sweeps.run_folder.prompts import kept_usage
from sweeps.run_folder.timing import Timing
from sweeps.statistics.intervals import holm
from sweeps.statistics.tails import heavy_tails
from sweeps.study.study import Study
from trainer.store import Store
from trainer.trial import SAME

TITLES = {
    "paft_main": "Accuracy over unseen prompts",
    "paft_best": "The best arm and the second best",
    "paft_training": "Training",
    "paft_inference": "Inference",
    "paft_k_t": "K (examples per prompt) and T (epochs)",
    "paft_prompts": "Number of training prompts",
    "paft_usage": "Tokens spent on the prompts",
    "paft_claims": "What the paper finds",
}
Rows = list[dict[str, Any]]


def tables(found: Sequence[Result], study: Study, store: Store, timing: Timing) -> dict[str, Rows]:
    """Name -> rows, without empty tables. Shares are fractions of 1."""
    made = {
        "paft_main": main_table(found, study),
        "paft_best": best(found),
        "paft_training": training(found, timing),
        "paft_inference": inference(found, timing),
        "paft_k_t": k_t(found),
        "paft_prompts": by_prompts(found),
        "paft_usage": usage(found, store),
        "paft_claims": claims(found),
    }
    return {name: rows for name, rows in made.items() if rows}


def main_table(found: Sequence[Result], study: Study) -> Rows:
    """A row for each arm. Arms that are one trial share its comparison, which is one in the correction."""
    reference, luck = reference_arm([r for r in found if r.paft]), seed_luck(found)
    compared: dict[str, dict[str, Any]] = {}  # by trial
    family: list[tuple[dict[str, Any], str, Change]] = []
    for r in distinct(found):
        if reference is not None and r.trial.id != reference.trial.id and comparable(r, reference):
            gap = changes(r, reference, luck)["mean"]
            told = {f"minus_{reference.arm}": gap.value, "low": gap.low, "high": gap.high, "p": gap.p, "p_holm": None}
            compared[r.trial.id] = told
            family.append((told, "p_holm", gap))
    _correct(family)
    rows: Rows = []
    for r in found:
        row: dict[str, Any] = {"arm": r.name, "train_prompts": 0 if is_base(r) else r.train_prompts}
        row |= {n: r.stats.get(n) for n in ("mean", "std", "std_corrected", "min", "top")}
        row |= {"threshold": study.tables.thresholds[0], **compared.get(r.trial.id, {})}
        row |= {"tokens": r.tokens, "seconds": r.train_seconds, "trials": r.trials}
        rows.append(row)
    return _even(rows)


def _correct(family: Sequence[tuple[dict[str, Any], str, Change]]) -> None:
    """Write the p-values after Holm's correction over ``family`` into its rows; none where heavy tails, of which no
    p-value holds, leave a comparison undecided, or where there is none."""
    known = [(row, name, gap) for row, name, gap in family if math.isfinite(gap.p)]
    for (row, name, gap), p in zip(known, holm([gap.p for _, _, gap in known]), strict=True):
        row[name] = None if gap.heavy_tails else p


def best(found: Sequence[Result]) -> Rows:
    """The two best arms by their means on the test prompts, as in the paper. So the best is chosen on the same prompts
    that it is measured on."""
    ranked = sorted(distinct(found), key=lambda r: -r.stats.get("mean", -math.inf))
    if len(ranked) < 2 or not comparable(*ranked[:2]):
        return []
    first, second = ranked[:2]
    gap = changes(first, second, seed_luck(found))
    rows = [{"arm": r.name, **_numbers(r)} for r in (first, second)]
    top = first.stats.get("top", 0.0) - second.stats.get("top", 0.0)
    better = {"arm": "improvement", **{n: gap[n].value for n in ("mean", "std", "min")}, "top": top}
    spread = {f"{n}_{side}": getattr(gap[n], side) for n in ("mean", "std", "min") for side in ("low", "high")}
    better |= {**spread, "p_mean": gap["mean"].p}
    _correct([(better, f"p_{n}_holm", gap[n]) for n in ("mean", "std", "min")])
    return _even([*rows, better])


def training(found: Sequence[Result], timing: Timing) -> Rows:
    """``hours`` are those of the arm alone, as ``steadytune time`` measured a step; ``joint_hours`` its share of the
    time in which the sweep trained several trials together."""
    trained = [r for r in distinct(found) if not is_base(r)]
    rows: Rows = []
    for r in trained:
        steps, alone = r.trial.optimization.steps, timing.of(r.trial.id).get("train_ms_per_step")
        hours = None if alone is None else steps * alone / 3.6e6
        rows.append(
            {"arm": r.name, "steps": steps, "tokens": r.tokens, "hours": hours, "joint_hours": r.train_seconds / 3600}
        )
    least = min((row["hours"] for row in rows if row["hours"]), default=None)
    return [{**row, "to_fastest": row["hours"] / least if row["hours"] and least else None} for row in rows]


def inference(found: Sequence[Result], timing: Timing) -> Rows:
    """``label_ms`` and ``generate_ms``: of one answer of the arm alone, as ``steadytune time`` measured it.
    ``joint_ms``: the arm's share of the time in which the sweep scored several trials together, which is no
    measurement of the arm."""
    rows: Rows = []
    for r in distinct(found):
        alone, answers = timing.of(r.trial.id), r.cells.size
        row = {"arm": r.name, **{n: alone.get(n) for n in ("label_ms", "generate_ms", "new_tokens", "unread")}}
        row |= {"answers": answers, "joint_ms": 1000.0 * r.test_seconds / answers}
        rows.append(row | {"mean_new_tokens": r.new_tokens, "parse_failures": r.parse_failures})
    return rows


def k_t(found: Sequence[Result]) -> Rows:
    """One row per K and T of the PAFT arms on the largest pool; empty where there is only one such row."""
    pools = distinct(largest_pool(found))
    able = [r for r in pools if r.trial.draw.unit == "examples" and math.isfinite(r.epochs)]
    rows = [{"K": r.trial.draw.every, "T": r.epochs, **_numbers(r)} for r in able]
    return sorted(rows, key=lambda x: (x["K"], x["T"])) if len({(x["K"], x["T"]) for x in rows}) > 1 else []


def by_prompts(found: Sequence[Result]) -> Rows:
    """The arms that differ in the number of training prompts alone: they draw prompts and train as long as the arm on
    the largest pool."""
    pools = largest_pool(found)
    if not pools:
        return []
    fullest = reference_arm(pools)
    assert fullest is not None
    same = [
        r
        for r in found
        if r.plain and not is_base(r) and r.train_prompts
        and (r.trial.draw == fullest.trial.draw or r.train_prompts == 1)
        and r.trial.optimization.steps == fullest.trial.optimization.steps
    ]  # fmt: skip
    rows = [{"train_prompts": r.train_prompts, "arm": r.name, **_numbers(r)} for r in distinct(same)]
    return sorted(rows, key=lambda x: x["train_prompts"]) if len({x["train_prompts"] for x in rows}) > 1 else []


def usage(found: Sequence[Result], store: Store) -> Rows:
    """Tokens spent on the largest pool by model and strategy, with sum and mean over models; empty where no model wrote
    it."""
    pools = largest_pool(found)
    spent = kept_usage(store, pools[0].trial.data.train_prompts) if pools else []
    models: dict[str, dict[str, int]] = {}
    for row in spent:
        of = models.setdefault(row.get("model") or "", {})
        if (tokens := row.get("total_tokens") or "").isascii() and tokens.isdigit() and len(tokens) < 19:
            of[row.get("strategy") or ""] = of.get(row.get("strategy") or "", 0) + int(tokens)
    strategies = list(dict.fromkeys(row.get("strategy") or "" for row in spent))
    rows = [
        {"model": m, **{f"{s}_tokens": of.get(s) for s in strategies}, "total_tokens": sum(of.values())}
        for m, of in models.items()
    ]
    if len(rows) > 1:  # over the models whose tokens were counted, as in the table of `prompts generate`
        known = {n: [r[n] for r in rows if r[n] is not None] for n in rows[0] if n != "model"}
        rows.append({"model": "sum", **{n: sum(v) for n, v in known.items()}})  # type: ignore[arg-type]
        rows.append({"model": "mean", **{n: round(sum(v) / len(v)) for n, v in known.items() if v}})  # type: ignore[arg-type]
    return rows


def _numbers(result: Result) -> dict[str, Any]:
    return {n: result.stats.get(n) for n in ("mean", "std", "min", "top")}


def _even(rows: Rows) -> Rows:
    """The rows with the same columns in each, in the order in which the columns first occur."""
    names = list(dict.fromkeys(n for row in rows for n in row))
    return [{n: row.get(n) for n in names} for row in rows]


# forms ------------------------------------------------------------------------------------------------------------

_PERCENT = {
    "mean", "std", "std_corrected", "min", "top", "threshold", "low", "high", "difference", "parse_failures", "unread",
}  # fmt: skip


def cell(name: str, value: Any) -> str:
    """A value as text: shares in percent, p-values with three decimals, other numbers with four digits."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if name == "p" or name.startswith("p_"):
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    if name in _PERCENT or name.startswith("minus_") or name.endswith(("_low", "_high")):
        return f"{100.0 * value:.2f}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def notes(found: Sequence[Result], study: Study, timing: Timing) -> list[str]:
    size = " x ".join(map(str, found[0].cells.shape))
    seeds = sorted({r.trials for r in found})
    speaks = (
        "intervals and p-values of differences are for other seeds, too, so verdicts speak of the arms"
        if seed_luck(found).known
        else "intervals and p-values do not include the variation between seeds, so verdicts speak of these fine-tunes"
    )
    said = [
        f"Test grid: {size} (prompts x rows), {study.task.metric}. {metric_unit(study.task.metric).capitalize()} here, "
        "fractions of 1 in csv and parquet.",
        "std: over test prompts, ddof 1; noise removed (std_corrected): without the noise of finite rows. The share of "
        f"prompts (top) counts those above {100 * study.tables.thresholds[0]:g} %.",
        "Intervals (low and high): 95 %, for new prompts and rows, paired. All arms were trained on the same number of "
        "sequences per step; tokens and seconds are the cost of each.",
        f"Trials per arm: {', '.join(map(str, seeds))}; those that differ in their seed are averaged; {speaks}.",
        "Corrected p-values (p_holm): after Holm's correction over all comparisons of a table. A finding holds or does "
        f"not hold where it is below {ALPHA:g} and the interval lies on one side; otherwise it is undecided.",
        unseen(found[0].cells.shape[0]),
    ]
    twins = {r.name: [x.name for x in found if x is not r and x.trial.id == r.trial.id] for r in distinct(found)}
    if alike := [SAME.join([name, *others]) for name, others in twins.items() if others]:
        said.append(f"Arms that are one trial: {'; '.join(alike)}. They are compared once, under the first name.")
    heavy = [r.name for r in found if heavy_tails(r.per_prompt)]
    if heavy:
        said.append(f"{HEAVY_TAILS} Arms: {', '.join(heavy)}. Comparisons that this concerns are undecided.")
    if timing.trials:
        said.append(
            "Hours of training alone, milliseconds of an answer, new tokens and unread answers (hours, label_ms, "
            f"generate_ms, new_tokens, unread) were measured for each arm alone: {timing.answers} "
            f"answers in batches of {timing.batch}, at most {timing.max_new_tokens} new tokens, on {timing.device}, "
            f"{timing.threads} thread{'s' * (timing.threads != 1)}."
        )
    else:
        said.append("What an arm costs by itself was not measured: `steadytune time RUN` does.")
    said.append(
        "Hours, milliseconds and seconds of the sweep (joint_hours, joint_ms, seconds) are an arm's share of the time "
        "in which the sweep trained or scored several trials together: no measurement of the arm."
    )
    if study.scoring.scorer == "labels":
        said.append(
            "Answers were chosen by label probability, so there are no new tokens and no unreadable answers. The paper "
            "generates text: scoring.scorer=generate."
        )
    return said


def write(store: Store, made: dict[str, Rows], said: Sequence[str]) -> list[str]:
    """Write every table as md, csv, tex and parquet into ``tables/``; the names written."""
    written: list[str] = []
    for name, rows in made.items():
        table = pa.Table.from_pylist(rows)
        head, body = list(rows[0]), [[cell(n, v) for n, v in row.items()] for row in rows]
        page = _markdown(TITLES[name], head, body, said if name == "paft_main" else [])
        written += write_table(store, name, table, page, _latex(TITLES[name], head, body))
    return written


def _markdown(title: str, head: Sequence[str], body: Sequence[Sequence[str]], said: Sequence[str]) -> str:
    lines = [f"# {title}", "", *markdown_rows(head, body)]
    return "\n".join([*lines, *([""] if said else []), *(f"- {markdown_text(s)}" for s in said)]) + "\n"


def _latex(title: str, head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [f"% {title}", rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule"]
    rows = [" & ".join(map(tex, r)) + r" \\" for r in (head, *body)]
    return "\n".join([*lines, rows[0], r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"
