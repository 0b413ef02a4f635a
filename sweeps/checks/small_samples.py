"""Warns of samples of the dev grid that are too small to compare trials by."""

from __future__ import annotations

from sweeps.checks.findings import Finding
from sweeps.study.study import Study
from sweeps.trials.load_content import Content
from trainer.measure import design

FEW_CELLS = 1000  # a standard error of 1.4 points where 75 % of them are right


def sample_findings(study: Study, content: Content) -> list[Finding]:
    prompts, rows = len(content.assets.pools["dev"]), len(content.assets.rows["dev"])
    cells = design.sample_size(study.scoring.sample, prompts, rows, content.most_dev_cells).cells
    if cells >= min(FEW_CELLS, prompts * rows):
        return []
    return [
        Finding(
            "warning",
            f"scoring.sample = {study.scoring.sample:g}",
            f"scores {cells:,} of {prompts * rows:,} cells of the dev grid: with fewer than {FEW_CELLS:,} the "
            "objective may be several points off, and the wrong trials may be cut",
            "Raise it, or give more dev rows or prompts",
        )
    ]
