"""The sentences of the report: which configuration wins, how clearly, and how it was measured.

The winner is chosen on the dev prompts, as in ``sweeps.tables.robustness``, and measured on the test prompts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

from sweeps.display.text import (
    HEAVY_TAILS,
    column_with_interval,
    counted,
    duration,
    interval,
    metric_sign,
    metric_text,
    percent,
    unseen,
    with_interval,
)
from sweeps.report.evidence import DRAWN, Entry, Evidence
from sweeps.statistics.intervals import LEVEL
from sweeps.study.precision import may_sample
from sweeps.study.study import Study
from sweeps.tables.columns import is_sampled, unread_share
from sweeps.tables.configurations import seed_note
from sweeps.tables.confirmation import confirmed_name, shrinkage
from sweeps.tables.winner import why_no_winner
from trainer.measure.estimate import Z
from trainer.measure.grid import DEGENERATE_SHARE

ALPHA = 0.05  # a difference is called clear below this corrected p-value
_ENDED = ("finished", "stopped", "failed")


def question(evidence: Evidence) -> str:
    varied = [f"{axis} ({len({e.axes.get(axis) for e in evidence.entries})})" for axis in evidence.differing]
    over = f" Varied here: {', '.join(varied)}." if varied else ""
    return f"Which fine-tune keeps working when the prompt is worded differently?{over}"


def notices(evidence: Evidence) -> list[str]:
    """What a reader must know before the numbers."""
    sentences = []
    if not _is_finished(evidence):
        ended = sum(e.status in _ENDED for e in evidence.entries)
        known = (
            f"{ended} of {len(evidence.entries)} {evidence.unit}s known so far are done"
            if evidence.entries
            else "no trial has a score"
        )
        sentences.append(
            f"This run is not finished: {known}. "
            "Run the same command again to continue; finished rungs are not repeated."
        )
    if evidence.pool == "dev" and evidence.entries:
        sentences.append(
            "There are no test scores yet. The numbers below are of the dev prompts, by which early stopping chooses, "
            "so the best trials look better than they are."
        )
    failed = sum(e.status == "failed" for e in evidence.entries)
    sentences += evidence.run.notes
    if failed:
        sentences.append(f"{counted(failed, evidence.unit)} failed; the reasons are listed below.")
    return sentences


def _is_finished(evidence: Evidence) -> bool:
    """Whether every trial of the study is done."""
    return evidence.has_trials and bool(evidence.entries) and all(e.status in _ENDED for e in evidence.entries)


def summary(evidence: Evidence, prompts: Mapping[str, Mapping[str, float]]) -> str:
    """One paragraph. ``prompts``: entry -> prompt id -> metric."""
    best = evidence.winner or next((e for e in evidence.entries if math.isfinite(e.number("mean"))), None)
    if not evidence.winner and _is_finished(evidence):
        rows = [{**e.row, "status": e.status} for e in evidence.entries]
        return f"No winner: {why_no_winner(rows, evidence.confirmed)}."
    if best is None:
        return "No trial was scored yet."
    if evidence.winner and evidence.confirmed:
        return " ".join(_confirmed(evidence, best))
    sentences = [f"{best.label} {'is the winner, chosen on the dev prompts' if evidence.winner else 'leads so far'}."]
    if math.isnan(best.number("mean")):
        return f"{sentences[0]} It has no {evidence.pool} scores yet."
    own = metric(evidence.study)
    sentences.append(
        f"Over {counted(best.number('n_prompts'), f'{evidence.pool} prompt')} its mean {own} is "
        f"{_mean(best, own)}, with a standard deviation of {metric_text(best.number('std'), own)} between "
        f"prompts{_without_noise(best, own)}.{_seeds(best, own)}"
    )
    worst = min(prompts.get(best.id, {}).items(), key=lambda item: item[1], default=None)
    if worst is not None:
        over = ", averaged over its seeds" if best.number("n_seeds") > 1 else ""
        sentences.append(f"Its worst prompt is {worst[0]}, at {metric_text(worst[1], own)}{over}.")
    if is_sampled(best.row):
        of = best.number("n_prompts") * best.number("n_rows")
        sentences.append(f"These are estimates from {best.number('n_cells'):,.0f} of {of:,.0f} cells.")
    if unread_share(best.row) > DEGENERATE_SHARE:
        sentences.append("Beware: nearly none of its generated answers could be read.")
    elif best.row.get("degenerate"):
        sentences.append("Beware: it gives one label nearly always, so a small standard deviation means nothing.")
    return " ".join([*sentences, *_compared(evidence, best)])


def _confirmed(evidence: Evidence, best: Entry) -> Iterator[str]:
    """The winner by the fresh seeds that report, what is left of its lead, and how it compares."""
    row, *others = evidence.confirmed
    chosen = f"chosen by {counted(row['n_choose'], 'fresh seed')} among the {len(others) + 1} best of the search"
    yield f"{best.label} is the winner, {chosen if others else 'the best of the search, confirmed with fresh seeds'}."
    if row["mean"] is None:
        yield "Its fresh seeds have no test scores yet."
        return
    own = metric(evidence.study)
    sign, spread = metric_sign(own), with_interval(row["std_corrected"], row["std_low"], row["std_high"])
    yield (
        f"Over {counted(row['n_prompts'], 'test prompt')}, the {counted(row['n_report'], 'fresh seed')} that did not "
        f"choose have a mean {own} of {column_with_interval(row, 'mean')}{sign}, a standard deviation between prompts "
        f"of {spread}{sign} without noise, and a worst prompt at {column_with_interval(row, 'min')}{sign}."
    )
    yield from shrinkage(evidence.confirmed)
    for other in others:
        p = other["p_best_holm"]
        if other["diff_best"] is None or p is None:
            continue
        gap, low, high = (-other[name] for name in ("diff_best", "diff_best_high", "diff_best_low"))
        yield (
            f"Its mean is {percent(abs(gap))} points {'higher' if gap >= 0 else 'lower'} than that of "
            f"{confirmed_name(other)} ({level()} interval {interval(low, high, signed=True)}; corrected p "
            f"{'< 0.001' if p < 0.001 else f'= {p:.3f}'}): {_verdict(bool(other['heavy_best']), p < ALPHA)}."
        )


def _seeds(best: Entry, metric: str) -> str:
    """How many seeds its figures are of, and how much they differ."""
    spread = best.number("seed_std")
    if math.isnan(spread):
        return ""
    return (
        f" These are averages of {counted(best.number('n_seeds'), 'seed')}, whose means have a standard deviation of "
        f"{metric_text(spread, metric)}."
    )


def _compared(evidence: Evidence, best: Entry) -> list[str]:
    """How the winner compares with the second, and from how many others it cannot be told apart."""
    others = [e for e in evidence.entries if e is not best and math.isfinite(e.number("mean"))]
    if evidence.winner:
        others = [e for e in others if e.status == "finished" and not e.row.get("degenerate")]
    second = max(others, key=_dev_objective, default=None)
    if second is None:
        return [f"No other {evidence.unit} finished and was scored, so there is nothing to compare it with."]
    mean, std = (metric_text(second.number(name), metric(evidence.study)) for name in ("mean", "std"))
    sentences = [f"Second on the dev prompts is {second.label}: mean {mean}, standard deviation {std}."]
    gap, low, high = (-second.number(name) for name in ("diff_best", "diff_best_high", "diff_best_low"))
    if math.isnan(gap):
        return sentences
    p = second.number("p_best_holm")
    corrected = "" if math.isnan(p) else f"; corrected p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
    found = _verdict(bool(second.row.get("heavy_best")), _clear(second))
    sentences.append(
        f"The winner's mean is {percent(abs(gap))} points {'higher' if gap >= 0 else 'lower'} ({level()} interval "
        f"{interval(low, high, signed=True)}{corrected}): {found}."
    )
    compared = _compared_with_best(evidence)
    if len(compared) > 1:
        undecided = sum(bool(e.row.get("heavy_best")) for e in compared)
        unclear = sum(not _clear(e) for e in compared) - undecided
        rest = f", and {undecided} are undecided, since a few prompts decide" if undecided else ""
        sentences.append(
            f"Of all {len(compared)} other tested {evidence.unit}s, {unclear} cannot be told apart from it by the mean"
            f"{rest}."
            if unclear or undecided
            else f"All {len(compared)} other tested {evidence.unit}s differ clearly from it by the mean."
        )
    return sentences


def unclear_differences(evidence: Evidence) -> tuple[int, int]:
    """From how many the winner cannot be told apart by the mean, and of how many others. Where fresh seeds confirmed
    the best, of these."""
    if evidence.confirmed:
        others = [row for row in evidence.confirmed[1:] if row["p_best_holm"] is not None]
        clear = [not row["heavy_best"] and row["p_best_holm"] < ALPHA for row in others]
        return len(others) - sum(clear), len(others)
    compared = _compared_with_best(evidence)
    return sum(not _clear(e) for e in compared), len(compared)


def _compared_with_best(evidence: Evidence) -> list[Entry]:
    return [e for e in evidence.entries if math.isfinite(e.number("diff_best"))]


def _verdict(heavy: bool, clear: bool) -> str:
    """Of a difference. ``heavy``: a few prompts decide."""
    if heavy:
        return "undecided, since it lies in a few prompts, and for heavy tails neither interval nor p-value holds"
    return f"{'' if clear else 'not '}a clear difference"


def _clear(entry: Entry) -> bool:
    """Whether the paired difference to the winner is unlikely to be chance; never where a few prompts decide."""
    if entry.row.get("heavy_best"):
        return False
    p, low, high = (entry.number(name) for name in ("p_best_holm", "diff_best_low", "diff_best_high"))
    return low > 0 or high < 0 if math.isnan(p) else p < ALPHA


def _dev_objective(entry: Entry) -> float:
    value = entry.number("dev_objective")
    return -math.inf if math.isnan(value) else value


def _without_noise(entry: Entry, metric: str) -> str:
    """The corrected standard deviation with its interval."""
    value, low, high = (entry.number(name) for name in ("std_corrected", "std_low", "std_high"))
    if math.isnan(value):
        return ""
    bounds = interval(low, high)
    known = f", {level()} interval {bounds}" if bounds else ""
    return f" ({metric_text(value, metric)} without the noise of finite rows{known})"


def _mean(entry: Entry, metric: str) -> str:
    """The mean with its interval."""
    bounds = interval(entry.number("mean_low"), entry.number("mean_high"))
    return metric_text(entry.number("mean"), metric) + (f" ({level()} interval {bounds})" if bounds else "")


# how it was measured ---------------------------------------------------------------------------------------------


def facts(evidence: Evidence) -> list[str]:
    study = evidence.study
    return [
        f"Metric: {metric(study)}, for each prompt over all rows; then mean and standard deviation over prompts.",
        "Three pools of prompts without common prompts: one for training, one for early stopping (dev), and one only "
        "for measuring (test).",
        *_grid(evidence),
        *_cells(evidence),
        *_intervals(evidence),
        _share(study),
        f"Early stopping: {_stopping(study)}",
        *_sampling(evidence),
        _answering(study),
        f"Model: {study.model.path}, {study.model.dtype}{_quantized(study)}; prompt and answer together take at most "
        f"{study.task.max_length} tokens.",
        f"Cost: {duration(sum(e.seconds for e in evidence.entries))} of training and scoring, summed over trials; "
        f"{sum(e.tokens for e in evidence.entries):,} tokens trained on.",
    ]


def _grid(evidence: Evidence) -> list[str]:
    sizes = {(e.number("n_prompts"), e.number("n_rows")) for e in evidence.entries if math.isfinite(e.number("n_rows"))}
    grids = [f"{counted(p, f'{evidence.pool} prompt')} on {counted(r, 'row')}" for p, r in sorted(sizes)]
    return [f"Measured on {' or '.join(grids)}."] if grids else []


def _cells(evidence: Evidence) -> list[str]:
    """On how many cells the numbers rest, where not all were scored."""
    part = [e for e in evidence.entries if is_sampled(e.row)]
    if not part or evidence.pool != "test":
        return []
    sizes = sorted({(e.number("n_cells"), e.number("n_prompts") * e.number("n_rows")) for e in part})
    cells = " or ".join(f"{n:,.0f} of {of:,.0f} cells" for n, of in sizes)
    half = percent(Z * max(e.number("mean_sampling") for e in part))
    whole = len(evidence.entries) - len(part) - sum(math.isnan(e.number("mean")) for e in evidence.entries)
    every = f" {whole} of the table {'was' if whole == 1 else 'were'} scored on every cell." if whole else ""
    return [
        f"{len(part)} of the table {'was' if len(part) == 1 else 'were'} scored on {cells} of the test grid, the "
        f"same cells for each, after a pilot that said how many are needed; the means are those of the whole grid to "
        f"{half} points or less ({level()}).{every}"
    ]


def _intervals(evidence: Evidence) -> list[str]:
    if evidence.pool != "test":
        return []
    return [
        f"{level()} intervals are for new prompts and new rows: both count as drawn at random. The interval of the "
        "corrected standard deviation is for the differences between prompts, without the noise of finite rows.",
        f"Differences are to the best {evidence.unit} by the dev objective, paired on the same prompts and rows. Their "
        "p-values are corrected for the number of comparisons with the best and the second best (Holm).",
        *filter(None, [seed_note([e.row for e in evidence.entries if "n_seeds" in e.row])]),
        *[unseen(int(min(found))) for found in [_prompts(evidence)] if found],
        *([HEAVY_TAILS] if any(e.row.get("heavy_tails") for e in evidence.entries) else []),
    ]


def _prompts(evidence: Evidence) -> list[float]:
    return [n for e in evidence.entries if math.isfinite(n := e.number("n_prompts"))]


def _quantized(study: Study) -> str:
    kind = study.model.quantization
    return "" if kind == "none" else f", linear layers in {kind}"


def _share(study: Study) -> str:
    limits = " and ".join(f"{100 * t:g} %" for t in study.tables.thresholds)
    rule = "strictly above" if study.tables.strict else "at or above"
    return f"The share of prompts counts those {rule} {limits}."


def _stopping(study: Study) -> str:
    if study.scheduler.name == "none":
        return "none, every trial is trained to its end."
    rungs = ", ".join(f"{share:g}" for share in study.scheduler.shares)
    return (
        f"ASHA at {rungs} of a trial's steps; the best 1/{study.scheduler.eta} go on, by mean - "
        f"{study.objective.std_weight:g} x standard deviation over the dev prompts."
    )


def _sampling(evidence: Evidence) -> list[str]:
    """What of the dev grid is scored at the rungs."""
    study, found = evidence.study, []
    if study.scoring.sample < 1:
        found.append(
            f"Rungs before the last score {100 * study.scoring.sample:g} % of the dev prompts x rows, the same cells "
            "for every trial; the values there are estimates of what the whole grid would give."
        )
    last = [list(evidence.objectives(e).values())[-1:] for e in evidence.drawn]
    part = {(o.n_cells, o.n_prompts * o.n_rows) for o in itertools.chain(*last) if o.n_cells < o.n_prompts * o.n_rows}
    if part and may_sample(study):
        cells = " or ".join(f"{n:,} of {of:,}" for n, of in sorted(part))
        found.append(
            f"Trials ended on {cells} cells of the dev grid, the same for every trial: as many as tables.precision "
            "needs where rows and cells vary as they usually do."
        )
    return found


def _answering(study: Study) -> str:
    if study.scoring.scorer == "generate":
        return f"Answers: generated, at most {study.scoring.max_new_tokens} tokens, and parsed."
    return f"Answers: the label with the highest log-probability (decision {study.scoring.decision})."


def drawn(evidence: Evidence) -> str:
    """Which trials the figures leave out."""
    rest = evidence.entries[DRAWN:]
    if not rest:
        return ""
    means = [e.number("mean") for e in rest if math.isfinite(e.number("mean"))]
    ends = [metric_text(end(means), metric(evidence.study)) for end in (min, max)] if means else []
    span = f", with means from {' to '.join(ends)}" if means else ""
    return (
        f"Only the best {DRAWN} of {len(evidence.entries)} {evidence.unit}s are drawn; "
        f"the other {len(rest)}{span}, are in the table only."
    )


def metric(study: Study) -> str:
    return study.task.metric


def level() -> str:
    return f"{100 * LEVEL:g} %"
