"""What the report says first: which configuration wins, how clearly, and what a reader must know before that.

The winner is chosen on the dev prompts, as in ``sweeps.tables.robustness``, and measured on the test prompts.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sweeps.display.text import (
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
from sweeps.report.evidence import Entry, Evidence
from sweeps.report.method import level
from sweeps.run_folder.columns import SEARCH
from sweeps.tables.columns import is_sampled, unread_share
from sweeps.tables.confirmation import confirmed_name, shrinkage
from sweeps.tables.winner import no_winner
from trainer.measure.grid import DEGENERATE_SHARE
from trainer.measure.registry import kind_of

ALPHA = 0.05  # a difference is called clear below this corrected p-value
_ENDED = ("finished", "stopped", "failed")
_IN_WORDS = {
    "r": "LoRA rank",
    "alpha": "LoRA alpha",
    "dropout": "LoRA dropout",
    "target_modules": "adapted layers",
    "rslora": "rank-stabilised LoRA",
    "lr": "learning rate",
    "plw": "prompt-loss weight",
    "pool": "train pool",
}  # the other axes are words already


@dataclass(frozen=True)
class Point:
    """A line of the verdict: what it is about, what is said of it, and a wording in full where it names one."""

    title: str
    text: str
    wording: str = ""


@dataclass(frozen=True)
class Bar:
    """A mean with its interval on the scale of the metric, in percent of the bar's width."""

    place: float
    low: float
    high: float
    ends: tuple[str, str]  # of the scale
    mean: str  # with its interval, as text


@dataclass(frozen=True)
class Verdict:
    kind: str  # "Winner", "Leads so far" or "" without either
    title: str  # the configuration in words, or why there is none
    lead: str  # the sentence under it: of which trial it speaks, or what to do
    points: tuple[Point, ...] = ()
    bar: Bar | None = None
    command: str = ""  # that exports the winner
    writes: str = ""  # what that command writes


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


def verdict(evidence: Evidence, prompts: Mapping[str, Mapping[str, float]]) -> Verdict:
    """What the page says first. ``prompts``: entry -> prompt id -> metric."""
    best = evidence.winner or next((e for e in evidence.entries if math.isfinite(e.number("mean"))), None)
    if not evidence.winner and _is_finished(evidence):
        rows = [{**e.row, "status": e.status} for e in evidence.entries]
        why, what_to_do = no_winner(rows, evidence.confirmed)
        return Verdict("", f"No winner: {why}.", f"{what_to_do}.")
    if best is None:
        return Verdict("", "No winner yet", "No trial was scored yet.")
    title = _in_words(best, evidence.differing) or f"{evidence.unit} {best.id[:8]}"
    command = f"steadytune export {shlex.quote(evidence.run.store.uri)} --to adapter" if evidence.winner else ""
    if evidence.winner and evidence.confirmed:
        row, *others = evidence.confirmed
        points = (*_confirmed(evidence, best), *_rank(evidence, best), _cost(evidence, best), *_setting(evidence, best))
        lead, writes = _chosen_by_fresh_seeds(best, row, others), _exported(evidence, row["trial_id"])
        return Verdict("Winner", title, lead, points, _bar(row, evidence), command, writes)
    how = "is the winner, chosen on the dev prompts" if evidence.winner else "leads so far"
    points = (*_measured(evidence, best, prompts.get(best.id, {})), *_rank(evidence, best))
    points = (*points, _cost(evidence, best), *_setting(evidence, best))
    kind = "Winner" if evidence.winner else "Leads so far"
    writes = _exported(evidence, best.trials[0]) if len(best.trials) > 1 else ""
    return Verdict(kind, title, f"{best.label} {how}.", points, _bar(best.row, evidence), command, writes)


def _exported(evidence: Evidence, trial_id: str) -> str:
    """Which of a configuration's fine-tunes the export is, where there are several."""
    row = evidence.run.trials_by_id.get(trial_id)
    if row is None:
        return ""
    of = "the first of the fresh seeds that report" if row["role"] != SEARCH else "the first one"
    return f"It writes the fine-tune with seed {row['seed']}: {of}, fixed before any was trained."


# its configuration, rank and cost -----------------------------------------------------------------------------


def _in_words(entry: Entry, axes: tuple[str, ...]) -> str:
    return ", ".join(f"{_IN_WORDS.get(axis, axis)} {entry.axes[axis]}" for axis in axes if axis in entry.axes)


def _setting(evidence: Evidence, best: Entry) -> Iterator[Point]:
    """What is the same in all configurations."""
    shared = tuple(
        axis for axis in best.axes if axis not in evidence.differing and (axis != "seed" or len(best.trials) == 1)
    )
    if shared and evidence.differing:
        yield Point("Same in all", f"{_in_words(best, shared)}.")


def _rank(evidence: Evidence, best: Entry) -> Iterator[Point]:
    rank = best.number("rank")
    ranked = sum(math.isfinite(e.number("rank")) for e in evidence.entries)
    if math.isfinite(rank):
        yield Point(
            "Rank on test",
            f"{rank:.0f} of {ranked} by the objective on the test prompts. This is for reading only: "
            "the winner is chosen on the dev prompts.",
        )


def _cost(evidence: Evidence, best: Entry) -> Point:
    seconds, _ = evidence.spent
    fresh = len(evidence.fresh)
    more = f" and {counted(fresh, 'trial')} with fresh seeds" if fresh else ""
    return Point(
        "Cost",
        f"{duration(best.seconds)} of training and scoring{' in the search' if fresh else ''}, {best.tokens:,} tokens "
        f"trained on; all {counted(len(evidence.entries), evidence.unit)}{more} together {duration(seconds)}.",
    )


def _bar(row: Mapping[str, Any], evidence: Evidence) -> Bar | None:
    mean, low, high = (row.get(name) for name in ("mean", "mean_low", "mean_high"))
    if mean is None or low is None or high is None:
        return None
    least = kind_of(evidence.study.task.metric).lowest
    place, left, right = (round(100 * (min(max(v, least), 1) - least) / (1 - least), 2) for v in (mean, low, high))
    return Bar(place, left, right, (percent(least, digits=0), "100"), _headline(row, evidence.study.task.metric))


def _headline(row: Mapping[str, Any], metric: str) -> str:
    return f"mean {metric} {column_with_interval(row, 'mean')}{metric_sign(metric)}"


# measured on the test prompts ---------------------------------------------------------------------------------


def _measured(evidence: Evidence, best: Entry, prompts: Mapping[str, float]) -> Iterator[Point]:
    if math.isnan(best.number("mean")):
        yield Point("Mean", f"It has no {evidence.pool} scores yet.")
        return
    own = evidence.study.task.metric
    sentences = [
        f"Over {counted(best.number('n_prompts'), f'{evidence.pool} prompt')} its mean {own} is "
        f"{_mean(best, own)}, with a standard deviation of {metric_text(best.number('std'), own)} between "
        f"prompts{_without_noise(best, own)}.{_seeds(best, own)}"
    ]
    if is_sampled(best.row):
        of = best.number("n_prompts") * best.number("n_rows")
        sentences.append(f"These are estimates from {best.number('n_cells'):,.0f} of {of:,.0f} cells.")
    if unread_share(best.row) > DEGENERATE_SHARE:
        sentences.append("Beware: nearly none of its generated answers could be read.")
    elif best.row.get("degenerate"):
        sentences.append("Beware: it gives one label nearly always, so a small standard deviation means nothing.")
    yield Point("Mean", " ".join(sentences))
    if evidence.pool == "test":
        yield from _untried(best.number("n_prompts"))
    yield from _worst(evidence, prompts, ", averaged over its seeds" if best.number("n_seeds") > 1 else "")
    yield Point("Runner-up", " ".join(_compared(evidence, best)))


def _worst(evidence: Evidence, prompts: Mapping[str, float], over: str) -> Iterator[Point]:
    worst = min(prompts.items(), key=lambda item: item[1], default=None)
    if worst is not None:
        accuracy = metric_text(worst[1], evidence.study.task.metric)
        text = f"Its worst prompt is {worst[0]}, at {accuracy}{over}."
        yield Point("Worst wording", text, evidence.wordings.get(worst[0], ""))


def _chosen_by_fresh_seeds(best: Entry, row: Mapping[str, Any], others: list[Mapping[str, Any]]) -> str:
    if not others:
        return f"{best.label} is the winner, the best of the search, confirmed with fresh seeds."
    return (
        f"{best.label} is the winner: the {len(others) + 1} best of the search were trained again with fresh seeds, of "
        f"which {row['n_choose']} chose it. The figures here are those of {row['n_report']} others, which report."
    )


def _confirmed(evidence: Evidence, best: Entry) -> Iterator[Point]:
    """The winner by the fresh seeds that report, what is left of its lead, and how it compares."""
    row, *others = evidence.confirmed
    if row["mean"] is None:
        yield Point("Mean", "Its fresh seeds have no test scores yet.")
        return
    own, named = evidence.study.task.metric, _named(evidence)
    sign, spread = metric_sign(own), with_interval(row["std_corrected"], row["std_low"], row["std_high"])
    yield Point(
        "Mean",
        f"Over {counted(row['n_prompts'], 'test prompt')}, the {counted(row['n_report'], 'fresh seed')} that report "
        f"have a mean {own} of {column_with_interval(row, 'mean')}{sign}, with a standard deviation between prompts of "
        f"{spread}{sign} without noise.{_in_search(best, own)}",
    )
    yield from _untried(row["n_prompts"])
    yield from _worst(evidence, evidence.fresh_prompts(row["configuration"]), ", averaged over these seeds")
    weight = evidence.study.objective.std_weight
    defined = f" The objective is the mean less {weight:g} x the standard deviation between prompts."
    yield from (Point("Lead", sentence + defined) for sentence in shrinkage(evidence.confirmed, named))
    sentences = []
    for other in others:
        p = other["p_best_holm"]
        if other["diff_best"] is None or p is None:
            continue
        gap, low, high = (-other[name] for name in ("diff_best", "diff_best_high", "diff_best_low"))
        sentences.append(
            f"Its mean is {percent(abs(gap))} points {'higher' if gap >= 0 else 'lower'} than that of "
            f"{named(other)}, which has {percent(other['mean'])} with a standard deviation of "
            f"{percent(other['std_corrected'])} ({level()} interval {interval(low, high, signed=True)}; corrected p "
            f"{'< 0.001' if p < 0.001 else f'= {p:.3f}'}): {_of_difference(bool(other['heavy_best']), p < ALPHA)}."
        )
    if sentences:
        yield Point("Runner-up" if len(sentences) == 1 else "Rivals", " ".join(sentences))


def _in_search(best: Entry, metric: str) -> str:
    """What the fine-tune of the search had, whose figures the tables and the map show."""
    mean = best.number("mean")
    if math.isnan(mean):
        return ""
    return f" Its {'seeds' if len(best.trials) > 1 else 'seed'} of the search had {metric_text(mean, metric)}."


def _untried(n_prompts: float) -> Iterator[Point]:
    if math.isfinite(n_prompts):
        yield Point("Other wordings", unseen(int(n_prompts)))


def _named(evidence: Evidence) -> Callable[[Mapping[str, Any]], str]:
    """What a confirmed configuration is called: as in the table of the search, where it is there."""
    labels = {trial: entry.label for entry in evidence.entries for trial in entry.trials}
    return lambda row: labels.get(row["search_trial_id"]) or confirmed_name(row)


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
    mean, std = (metric_text(second.number(name), evidence.study.task.metric) for name in ("mean", "std"))
    sentences = [f"Second on the dev prompts is {second.label}: mean {mean}, standard deviation {std}."]
    gap, low, high = (-second.number(name) for name in ("diff_best", "diff_best_high", "diff_best_low"))
    if math.isnan(gap):
        return sentences
    p = second.number("p_best_holm")
    corrected = "" if math.isnan(p) else f"; corrected p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
    found = _of_difference(bool(second.row.get("heavy_best")), _clear(second))
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


def _of_difference(heavy: bool, clear: bool) -> str:
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
