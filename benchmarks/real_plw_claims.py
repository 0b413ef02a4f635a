"""The rows of docs/results.md on the prompt loss weight, from the scores that are kept: neither model
nor torch is needed.

    python benchmarks/real_plw_claims.py [--out DIR]

Writes ``claims.csv`` into benchmarks/results/plw/, and prints it as the table of docs/results.md. The analysis is that
of the page, which was committed before the study ran.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from claim_table import FALLS, RISES, Claim, corrected, write
from kept_run import restored, trials_of
from real_plw import RESULTS, SEEDS, WEIGHTS
from scipy import stats

from sweeps.paft.changes import Change
from sweeps.plw.analysis import analyse_plw, turning_weight
from sweeps.plw.models import SQUARE, RegressionFit
from sweeps.plw.scores import scores_of
from sweeps.run_folder.reading import RunFolder
from sweeps.statistics import intervals as st
from sweeps.statistics import seeds as sd
from sweeps.tables.configurations import Measured, configurations, heavy_difference, measured
from sweeps.tables.estimates import seed_of
from trainer.store import Store

SHORT = "AlpacaData, short"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the table goes")
    write(list(claims(RESULTS)), parser.parse_args().out / "claims.csv")


def claims(kept: Path) -> Iterator[list[str]]:
    """The rows of what is ``kept``."""
    for name, rows in (("short", short), ("sst2", classification)):
        if trials_of(kept, name) >= WEIGHTS * len(SEEDS[name]):
            with tempfile.TemporaryDirectory(prefix="kept-") as folder:
                yield from rows(RunFolder(Store.open(str(restored(kept, name, Path(folder, "run"))))))


def short(run: RunFolder) -> Iterator[list[str]]:
    """Of the short completions: the curve over the weights, where it turns, and the weights in pairs."""
    found = analyse_plw(scores_of([run]))
    (data,) = found.data_sets
    assert data.mixed is not None  # there are several seeds
    fit, square = data.mixed.fit, found.test("mixed", data.name, SQUARE)
    half = square.stderr * _quantile(fit)
    change = Change(square.estimate, square.estimate - half, square.estimate + half, square.p, False)
    claim = "the scores depend on the weight, with a turning point"
    yield Claim(claim, SHORT, "quadratic term", "below 0, p .002", change, FALLS, square.p_holm).cells
    turn = turning_weight(found, "mixed", fit)
    bounds = [f"{x:.2g}" for x in (turn.fieller.low, turn.fieller.high)] if turn.turning.bounded else ["", ""]
    where = "outside" if math.isnan(turn.weight) else f"{turn.weight:.2g}"
    yield ["where they turn", SHORT, turn.turning.kind, ".24", where, *bounds, "", "", "reported"]
    none, small, full = found.rank.forward(np.array(found.weights))
    pairs = (
        ("a small weight is better than none", "0.1 - 0", _change(fit, none, small), RISES),
        ("a full weight is not better than a small one", "1 - 0.1", _change(fit, small, full), FALLS),
    )
    made = [Claim(claim, SHORT, pair, "", change, says) for claim, pair, change, says in pairs]
    yield from (one.cells for one in corrected(made))


def _quantile(fit: RegressionFit) -> float:
    return float(stats.t.ppf((1.0 + st.LEVEL) / 2.0, fit.df))


def _change(fit: RegressionFit, start: float, end: float) -> Change:
    """The mixed model's difference between two places on its scale of weights."""
    gap = fit.change(start, end)
    error = (gap.high - gap.low) / 2.0 / _quantile(fit)
    return Change(gap.value, gap.low, gap.high, float(2.0 * stats.t.sf(abs(gap.value) / error, fit.df)), False)


def classification(run: RunFolder) -> Iterator[list[str]]:
    """Each weight less none."""
    claim = "in a classification a small weight is better than none"
    found = dict[float, Measured]()
    for one in configurations(run.trials):
        scores = measured(one, lambda trial: run.last_grid(trial, "test"), run.study.task.metric)
        assert scores is not None  # the part is kept when its trials are scored
        found[one.rows[0]["plw"]] = scores
    none = found.pop(0.0)
    made = []
    for weight, other in sorted(found.items()):
        parts, grid = [other.scores.cells, none.scores.cells], none.scores.grid
        gap, p = sd.mean_test(parts, sd.NO_SEEDS, seed_of(grid), none.scores.limits)  # three seeds speak for themselves
        change = Change(gap.value, gap.low, gap.high, p, bool(heavy_difference(other, none)))
        made.append(Claim(claim, "sst2", f"{weight:g} - 0", "", change, RISES))
    yield from (one.cells for one in corrected(made))


if __name__ == "__main__":
    main()
