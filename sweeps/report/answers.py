"""The report's figures of answers: wins under the same prompt, confusions of labels, and how far chances hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sweeps.display.parts import Figure
from sweeps.display.text import counted
from sweeps.display.vega_comparisons import (
    Calibration,
    Confusion,
    calibration_curves,
    confusion_matrices,
    matrix_of_wins,
)
from sweeps.report.evidence import Entry, Evidence
from sweeps.report.heat_map import UNREAD, Prompts
from sweeps.report.sections import ANSWERS, WINS
from sweeps.statistics.binary import BINS, calibration_errors, chances
from sweeps.statistics.calibration import Reliability, reliability
from sweeps.statistics.wins import wins
from trainer.measure.confusion import answer_counts
from trainer.measure.grid import Floats, Grid, Ints

BEST = 25  # configurations that are compared
CONFUSED = 3  # configurations with a confusion matrix
MOST_LABELS = 12  # of a confusion matrix
ECE = "ECE"
OTHERS = "(others)"  # the answers that have no column of their own


def answer_figures(evidence: Evidence, prompts: Prompts) -> Iterator[Figure]:
    """``prompts``: entry -> prompt id -> metric."""
    best = [entry for entry in evidence.entries if prompts[entry.id]][:BEST]
    yield _wins(evidence, best, prompts)
    confused, calibrated = list[tuple[Entry, list[Grid]]](), list[Calibration]()
    for place, entry in enumerate(best):
        found = (evidence.run.last_grid(trial_id, evidence.pool) for trial_id in entry.trials)
        grids = [grid for grid in found if grid is not None]
        if place < CONFUSED:
            confused.append((entry, grids))
        if (one := _calibration(entry, grids, _has_two_labels(evidence))) is not None:
            calibrated.append(one)
    yield _confusion(evidence, confused)
    yield _calibration_figure(evidence, calibrated, len(best))


# wins under the same prompt ---------------------------------------------------------------------------------------


def _wins(evidence: Evidence, best: Sequence[Entry], prompts: Prompts) -> Figure:
    names = sorted({name for entry in best for name in prompts[entry.id]})
    values = np.array([[prompts[e.id].get(name, np.nan) for name in names] for e in best], float).reshape(
        len(best), len(names)
    )
    share, common = wins(values)
    pool, unit, metric = evidence.pool, evidence.unit, evidence.study.task.metric
    asked = counted(len(names), f"{pool} prompt")
    spec = matrix_of_wins(
        [e.id for e in best],
        [e.label for e in best],
        share,
        common,
        f"Of each pair of {counted(len(best), unit)}, the percentage of {asked} under which one beats the other",
    )
    caption = (
        f"How many percent of the {asked} the {unit} of a line wins: its {metric} is higher there than that of the "
        f"{unit} of the column. A tie counts half. The best is first, and columns are numbered as lines are. Point at "
        f"a cell for both names and the number of prompts. How sure a difference of two {unit}s is, the table says."
    )
    return Figure("wins", WINS, "", f"{caption}{_only(evidence, len(best), prompts)}", spec)


def _only(evidence: Evidence, n: int, prompts: Prompts) -> str:
    scored = sum(bool(prompts[e.id]) for e in evidence.entries)
    return f" Only the best {n} of {scored} scored {evidence.unit}s are shown." if scored > n else ""


# confusions -------------------------------------------------------------------------------------------------------


def _confusion(evidence: Evidence, found: Sequence[tuple[Entry, Sequence[Grid]]]) -> Figure:
    labels = tuple(dict.fromkeys(name for _, grids in found for grid in grids for name in grid.labels))
    counts = [
        sum((_placed(grid, labels) for grid in grids), np.zeros((len(labels), len(labels) + 1), int))
        for _, grids in found
    ]
    kept = _most_confused(np.sum(counts, axis=0)) if counts else []
    unread = any(each[:, -1].any() for each in counts)
    answers = [
        *(labels[k] for k in kept),
        *([OTHERS] if len(kept) < len(labels) else []),
        *([UNREAD] if unread else []),
    ]
    matrices = [
        Confusion(entry.id, entry.label, tuple(labels[k] for k in kept), tuple(answers), _columns(each, kept, unread))
        for (entry, _), each in zip(found, counts, strict=True)
    ]
    which = f"the best {counted(len(found), evidence.unit)}" if len(found) > 1 else f"the best {evidence.unit}"
    cut = (
        f" Of {len(labels)} labels it has the {MOST_LABELS} that are confused most often; {OTHERS} are answers with "
        "another label."
        if len(kept) < len(labels)
        else ""
    )
    no_answer = f" {UNREAD}: the generated text begins with no label." if unread else ""
    return Figure(
        "confusion",
        ANSWERS,
        "Which answer is given to which label",
        f"A line is a right label, a column an answer; cells are percentages of the line, over all {evidence.pool} "
        f"prompts and rows{_and_seeds(found)}, for {which}.{cut}{no_answer}",
        confusion_matrices(matrices, f"Right labels against answers, in percent of the right label, for {which}"),
    )


def _and_seeds(found: Sequence[tuple[Entry, Sequence[Grid]]]) -> str:
    return " and the seeds" if any(len(grids) > 1 for _, grids in found) else ""


def _placed(grid: Grid, labels: tuple[str, ...]) -> Ints:
    """``answer_counts`` with a line and a column for each of ``labels``, and the column of no answer last."""
    at = [labels.index(name) for name in grid.labels]
    counts = np.zeros((len(labels), len(labels) + 1), int)
    counts[np.ix_(at, [*at, len(labels)])] = answer_counts(grid)
    return counts


def _most_confused(counts: Ints) -> list[int]:
    """The labels of ``counts`` [K, K + 1] with the most wrong answers, given to their rows or giving them; in order."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    of_label = wrong.sum(axis=1) + wrong[:, :-1].sum(axis=0)
    return sorted(int(k) for k in np.argsort(-of_label, kind="stable")[:MOST_LABELS])


def _columns(counts: Ints, kept: Sequence[int], unread: bool) -> Ints:
    """[kept, answers] the lines and columns of the labels that are kept, the others' answers together, and those that
    could not be read."""
    lines = counts[list(kept)]
    parts = [lines[:, list(kept)]]
    if len(kept) < len(counts):
        parts.append((lines[:, :-1].sum(axis=1) - parts[0].sum(axis=1))[:, None])
    return np.hstack([*parts, *([lines[:, -1:]] if unread else [])])


# calibration ------------------------------------------------------------------------------------------------------


def _has_two_labels(evidence: Evidence) -> bool:
    return len(evidence.study.task.names) == 2


def claims(grid: Grid, two_labels: bool) -> tuple[Floats, np.ndarray] | None:
    """[P, R] chances, and whether they came true: of the second of two labels, as in tables/binary; of more labels,
    of the given answer. None without log-probabilities."""
    if grid.label_logprobs is None or grid.nan:
        return None
    if two_labels:
        return chances(grid), np.broadcast_to(grid.label == 1, grid.correct.shape)
    raised = np.exp(grid.label_logprobs - grid.label_logprobs.max(axis=2, keepdims=True))
    shares = raised / raised.sum(axis=2, keepdims=True)
    given = np.maximum(grid.predicted, 0)[:, :, None]
    return np.take_along_axis(shares, given, axis=2)[:, :, 0], grid.correct


def _calibration(entry: Entry, grids: Sequence[Grid], two_labels: bool) -> Calibration | None:
    """The bins of all cells of ``entry``; None where a grid of it has no chances. The calibration error is that of
    tables/binary: of each prompt, then averaged; of a sample of the grid it has none."""
    sums, errors = np.zeros((3, BINS)), list[float]()
    for grid in grids:
        found = claims(grid, two_labels)
        if found is None:
            return None
        p, happened = found
        seen = np.ones(p.shape, bool) if grid.seen is None else grid.seen
        of_all = reliability(happened[seen], p[seen])
        sums += (of_all.cells, of_all.chances, of_all.happened)
        if grid.seen is None:
            errors.append(float(calibration_errors(happened, p).mean()))
    total = Reliability(*sums)
    some = total.cells > 0
    error = f"{ECE} {np.mean(errors):.3f}, " if len(errors) == len(grids) else ""
    return Calibration(
        entry.id,
        f"{error}{entry.label}",
        tuple((total.chances[some] / total.cells[some]).tolist()),
        tuple((total.happened[some] / total.cells[some]).tolist()),
        tuple(int(n) for n in total.cells[some]),
    )


def _calibration_figure(evidence: Evidence, found: Sequence[Calibration], of: int) -> Figure:
    study, pool = evidence.study, evidence.pool
    if _has_two_labels(evidence):
        positive = study.task.names[1]
        what = (
            f"the probability of {positive}, as in the table of two labels, against the share of rows that are "
            f"{positive}"
        )
        axes = (f"probability of {positive}", f"share that is {positive}")
    else:
        what = "the probability of the given answer against the share of answers that are right"
        axes = ("probability of the given answer", "share that is right")
    plain = (
        f" The study decides by {study.scoring.decision}; these are the plain probabilities."
        if study.scoring.decision != "raw"
        else ""
    )
    if not all(one.label.startswith(ECE) for one in found):
        plain = f" Those without an ECE were scored on a sample of the grid.{plain}"
    which = f"the best {counted(of, evidence.unit)}" if of > 1 else f"the best {evidence.unit}"
    if len(found) < of:
        which = f"{len(found)} of {which}: those that have probabilities"
    return Figure(
        "calibration",
        ANSWERS,
        "How far probabilities hold",
        f"Over all {pool} prompts and rows, {what}, in {BINS} bins of equal width, for {which}. On the dotted line "
        "probabilities are as high as they say; below it they are too high. ECE: the expected calibration error of "
        "each prompt by itself, averaged over the prompts. A curve takes all prompts together, so what cancels between "
        f"them shows in the ECE alone.{plain}",
        calibration_curves(found, axes, f"Calibration of {which}: {axes[1]} against {axes[0]}"),
    )
