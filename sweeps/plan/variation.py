"""How much scores vary, on which the differences that a study can tell apart depend: assumed, or from a finished run.

A run gives the variances from pairs of its trials on the same test prompts and rows: pairs of configurations, and pairs
of seeds of one configuration, which differ by nothing but the seed. What pairs of configurations have more is theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweeps.display.text import counted, percent
from sweeps.run_folder.columns import FRESH, SEARCH
from sweeps.run_folder.reading import RunFolder
from sweeps.statistics.power import DifferenceVariances, Variation
from sweeps.study.problems import yaml_text
from sweeps.study.study import Study
from sweeps.tables.configurations import Configuration, configurations
from trainer.errors import UserError
from trainer.measure import metrics
from trainer.measure.grid import Floats

MOST_CONFIGURATIONS = 16  # of a run, the best by dev objective: more take memory and tell little more


@dataclass(frozen=True)
class Recorded:
    """``found``, and where it comes from. ``seeds``: whether the part of the seed is known."""

    found: Variation
    source: str
    seeds: bool = True


# Where no run is given. Recorded grids of models of .5 to 135 million parameters have residual variances of .02 to .09
# a cell. The other parts of a difference have the proportions of a run of the quickstart with four seeds, which
# docs/power.md shows: 1.8 times the residual, a row part of the seed, and .7 of the variance over prompts that two
# unrelated fine-tunes would have, half of it from the seed.
_OVER_PROMPTS, _RESIDUAL, _OF_SEEDS = 0.02**2, 0.05, 0.009**2
ASSUMED = Recorded(
    Variation(
        DifferenceVariances(
            seed=2 * _OF_SEEDS,
            prompt=0.7 * _OVER_PROMPTS,
            row=0.0,
            seed_prompt=0.7 * _OVER_PROMPTS,
            seed_row=0.7 * _RESIDUAL,
            prompt_row=0.2 * _RESIDUAL,
            residual=1.6 * _RESIDUAL,
        ),
        prompt=_OVER_PROMPTS,
        residual=_RESIDUAL,
    ),
    "assumed: a std of 0.9 points between seeds and of 2 over prompts, a residual variance of 0.05 a cell; the rest in "
    "the proportions of a recorded run. With --from RUN all come from a finished run",
)


def variation_of(run: RunFolder, study: Study) -> Recorded:
    """From the test scores of the run's finished trials, of which at least two configurations are needed. Raises
    ``UserError`` where the run is of another task than ``study``, or has too few."""
    _refuse_other_task(run, study)
    grids = _grids(run, study.task.metric)
    if len(grids) < 2:
        raise UserError(
            f"--from {run.store.uri}: has {counted(len(grids), 'configuration')} with whole test scores of a trial "
            "that finished and gives more than one label; variances of differences need two. Give another run, or "
            "leave --from out"
        )
    seeded = [g for g in grids if len(g) > 1]
    seeds = f"{len(seeded)} of them with several seeds" if seeded else "one seed each"
    p, r = grids[0][0].shape
    found = variation_of_grids(grids)
    one = f"std over prompts {percent(math.sqrt(found.prompt))}, residual variance {found.residual:.3f} a cell"
    luck = f", std between seeds {percent(math.sqrt(found.difference.seed / 2))}" if seeded else ""
    configurations = f"{counted(len(grids), 'configuration')}, {seeds}"
    return Recorded(found, f"{run.store.uri}: {configurations}, {p} test prompts x {r} rows: {one}{luck}", bool(seeded))


def variation_of_grids(grids: Sequence[Sequence[Floats]]) -> Variation:
    """``grids``: for each configuration the cells [P, R] of its seeds. Without two seeds of one configuration, what
    seeds do to prompts and cells is in the parts of the configurations, and the seed's own is 0."""
    every = [g for seeds in grids for g in seeds]
    within, pairs_within = np.zeros(4), 0
    for seeds in grids:
        within += _sum_over_pairs(seeds)
        pairs_within += math.comb(len(seeds), 2)
    pairs = math.comb(len(every), 2) - pairs_within
    prompt, row, cell, _ = np.maximum((_sum_over_pairs(every) - within) / pairs, 0.0)
    seed_prompt, seed_row, residual, seed = np.maximum(within / max(pairs_within, 1), 0.0)
    p, r = every[0].shape
    own_prompt, _, own_cell, _ = np.mean([_components(g) for g in every], axis=0)
    return Variation(
        DifferenceVariances(
            seed=max(float(seed - seed_prompt / p - seed_row / r - residual / (p * r)), 0.0),
            prompt=max(float(prompt - seed_prompt), 0.0),
            row=max(float(row - seed_row), 0.0),
            seed_prompt=float(seed_prompt),
            seed_row=float(seed_row),
            prompt_row=max(float(cell - residual), 0.0),
            residual=float(residual),
        ),
        prompt=max(float(own_prompt), 0.0),
        residual=float(own_cell),
    )


def _sum_over_pairs(grids: Sequence[Floats]) -> Floats:
    """``_components`` of the difference of each pair, summed: quadratic forms, whose sum over pairs is that over
    distances from the mean, times their number."""
    if len(grids) < 2:
        return np.zeros(4)
    mean = np.mean(grids, axis=0)
    total: Floats = len(grids) * np.sum([_components(g - mean) for g in grids], axis=0)
    return total


def _components(cells: Floats) -> Floats:
    """Variances between prompts, between rows and of the residual, without bias and so perhaps below 0; and the
    squared mean."""
    fit = metrics.two_way(cells)
    p, r, rest = fit.n_prompts, fit.n_rows, fit.ms_residual
    return np.array([(fit.ms_prompts - rest) / r, (fit.ms_rows - rest) / p, rest, fit.mean**2])


def _refuse_other_task(run: RunFolder, study: Study) -> None:
    mine, theirs = study.task, run.study.task
    for name, of in (
        ("labels", lambda task: sorted(task.names) or None),
        ("metric", lambda task: task.metric),
        ("fields", lambda task: sorted(task.fields)),
    ):
        here, there = of(mine), of(theirs)
        if here != there:
            raise UserError(
                f"--from {run.store.uri}: is a run of another task: task.{name} is {yaml_text(there)} there and "
                f"{yaml_text(here)} in this study. Give a run of this task, or leave --from out"
            )


def _grids(run: RunFolder, metric: str) -> list[list[Floats]]:
    """By configuration, the best first: the test cells of its finished trials, also those of `confirm`, that were
    scored whole and give more than one label, all on the same prompts and rows."""
    found: list[list[Floats]] = []
    ids: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    finished = [row for row in run.trials if row["status"] == "finished"]
    for one in sorted(configurations(finished, (SEARCH, *FRESH)), key=lambda one: (-_objective(one), one.id)):
        cells = []
        for row in one.rows:
            grid = run.last_grid(row["trial_id"], "test")
            if grid is None or grid.seen is not None or grid.degenerate:
                continue
            ids = ids or (grid.prompts, grid.rows)
            if ids == (grid.prompts, grid.rows):
                cells.append(metrics.cells(grid, metric))
        found += [cells] if cells else []
        if len(found) == MOST_CONFIGURATIONS:
            break
    return found


def _objective(one: Configuration) -> float:
    """The mean of its seeds' dev objectives; below all others where one is NaN."""
    values = [row.get("objective") for row in one.rows]
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if len(known) == len(values) else -math.inf
