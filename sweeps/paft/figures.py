"""The figures of a study of training arms: the findings, the metric under each prompt, and those of the PAFT paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import gaussian_kde

from sweeps.display.parts import Figure
from sweeps.display.text import counted, metric_unit
from sweeps.display.vega import DrawnValues, distribution
from sweeps.display.vega_estimates import Density, Estimates, NamedInterval, densities, estimates, intervals
from sweeps.paft.arm_results import Result
from sweeps.study.study import Study
from trainer.measure.grid import Floats

DENSITIES = (  # the paper's two figures: title, arms
    ("Before training, after training on one prompt, and PAFT", ("base", "user", "paft")),
    ("PAFT and training on one prompt that was chosen", ("user", "top_accuracy", "batprompt", "zopo", "paft")),
)
DENSITY_POINTS = 80
Rows = Sequence[Mapping[str, Any]]


def figures(found: Sequence[Result], study: Study, claims: Rows, by_prompts: Rows) -> list[Figure]:
    """Those that have something to show. ``claims`` and ``by_prompts``: the rows of the tables of these names."""
    drawn = [_findings(claims), _distribution(found, study), *_densities(found, study), *_scaling(by_prompts, study)]
    return [figure for figure in drawn if figure.spec]


def _findings(claims: Rows) -> Figure:
    rows = [
        NamedInterval(f"{r['claim']}: {r['verdict']}", *(100.0 * r[n] for n in ("difference", "low", "high")))
        for r in claims
    ]
    return Figure(
        "arm-findings",
        "",
        "What the paper finds, and whether it is so here",
        "A point is the difference of two arms on the same test prompts and rows; its line is the 95 % interval.",
        intervals(rows, "difference, points", f"{counted(len(rows), 'finding')} of the paper, as differences", True),
    )


def _distribution(found: Sequence[Result], study: Study) -> Figure:
    """A line for each arm with its metric under every test prompt, averaged over seeds."""
    metric = study.task.metric
    samples = [
        DrawnValues(
            r.name, tuple(100.0 * v for v in r.per_prompt.tolist()), r.prompts, (r.trial.id,) * len(r.prompts), r.paft
        )
        for r in found
    ]
    thresholds = [100.0 * t for t in study.tables.thresholds]
    dashed = f"; dashed: the threshold {' and '.join(f'{t:g} %' for t in thresholds)}" if thresholds else ""
    return Figure(
        "arm-distribution",
        "",
        f"{metric.capitalize()} under each test prompt, by arm",
        "A tick is one wording that no trial has seen; point at it for its id. Box: the middle half; line in it: the "
        f"median; thick line: the mean{dashed}. PAFT arms, trained on many wordings, are highlighted.",
        distribution(
            samples,
            f"{metric} under one prompt, {metric_unit(metric)}",
            f"{metric} of {counted(len(found), 'arm')} under each test prompt, one line each",
            thresholds,
        ),
    )


def _densities(found: Sequence[Result], study: Study) -> list[Figure]:
    """The densities of the metric over the test prompts, averaged over seeds, as the paper draws them; a figure has the
    arms of it that there are, two at least, and others than the figure before. An arm whose prompts are all alike has
    none."""
    metric, drawn = study.task.metric, []
    before: list[str] = []
    for i, (title, arms) in enumerate(DENSITIES, 1):
        shown = [r for name in arms for r in found if r.arm == name and float(np.ptp(r.per_prompt)) > 0]
        names = [r.name for r in shown]
        if len(shown) < 2 or names == before:
            continue
        before = names
        spec = densities(
            [density(r.name, 100.0 * r.per_prompt, r.prompts) for r in shown],
            f"{metric} under one prompt, {metric_unit(metric)}",
            f"Density of the {metric} over the test prompts, {counted(len(shown), 'arm')}",
        )
        caption = (
            f"Density of the {metric} over the test prompts (Gaussian kernels, Scott's bandwidth); the dots beneath "
            "are the prompts themselves."
        )
        drawn.append(Figure(f"arm-density-{i}", "", title, caption, spec))
    return drawn


def density(name: str, values: Floats, prompts: Sequence[str]) -> Density:
    """A Gaussian kernel density with Scott's bandwidth, up to three bandwidths beyond the values."""
    kernel = gaussian_kde(values)
    reach = 3.0 * float(np.sqrt(kernel.covariance[0, 0]))
    x = np.linspace(values.min() - reach, values.max() + reach, DENSITY_POINTS)
    return Density(name, tuple(x.tolist()), tuple(kernel(x).tolist()), tuple(values.tolist()), tuple(prompts))


def _scaling(rows: Rows, study: Study) -> list[Figure]:
    """Mean and std against the logarithm of the number of training prompts; pools of one size are averaged."""
    counts = sorted({r["train_prompts"] for r in rows})
    if len(counts) < 2:
        return []
    metric, x = study.task.metric, tuple(math.log10(n) for n in counts)
    names = {at: str(n) for at, n in zip(x, counts, strict=True)}

    def drawn(name: str, what: str) -> Figure:
        of = [[r[name] for r in rows if r["train_prompts"] == n] for n in counts]
        series = Estimates(what, x, tuple(100.0 * sum(v) / len(v) for v in of))
        return Figure(
            f"arm-prompts-{name}",
            "",
            f"Number of training prompts, {name}",
            f"{what} over the test prompts against the number of training prompts.",
            estimates(
                [series],
                "training prompts (logarithmic)",
                f"{name} over test prompts, {metric_unit(metric)}",
                f"{what} over the test prompts, for {len(counts)} numbers of training prompts",
                names,
            ),
        )

    return [drawn("mean", f"Mean {metric}"), drawn("std", f"Standard deviation of the {metric}")]
