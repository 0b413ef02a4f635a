"""The rows of docs/results.md on tuning LoRA or the prompt first, from the scores that are kept: neither model
nor torch is needed.

    python benchmarks/real_staged_claims.py [--out DIR]

Writes ``claims.csv`` into benchmarks/results/staged/, and prints it as the table of docs/results.md. The analysis is
that of the page, which was committed before the study ran.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from claim_table import MARGIN, NO_WORSE, Claim, chances, corrected, points, write
from kept_run import restored, trials_of
from real_staged import RESULTS, winner
from scipy import special

from sweeps.paft.changes import Change
from sweeps.run_folder import stages
from sweeps.run_folder.reading import RunFolder
from sweeps.statistics import intervals as st
from sweeps.statistics import seeds as sd
from sweeps.tables.configurations import Measured, configurations, heavy_difference, measured
from sweeps.tables.estimates import seed_of
from trainer.store import Store

DATA = "edos"
ALWAYS_NO, BEST_TEAM = 0.431, 0.8746  # macro-F1 on the test posts
JOINT, STAGED = "joint", "staged"  # kinds of the stages' answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the table goes")
    write(list(claims(RESULTS)), parser.parse_args().out / "claims.csv")


def claims(kept: Path) -> Iterator[list[str]]:
    """The rows of what is ``kept``."""
    if all(trials_of(kept, f"final-{name}") for name in (STAGED, JOINT)):
        with tempfile.TemporaryDirectory(prefix="kept-") as folder:
            ends = {name: _final(kept, name, Path(folder, name)) for name in (STAGED, JOINT)}
        yield from (one.cells for one in corrected([_primary(ends[STAGED][1], ends[JOINT][1])]))
        for name, (run, found) in ends.items():
            yield from _of_winner(kept, name, run, found)
    record = stages.read(Store.open(str(kept / STAGED)))
    if record is not None:
        yield from _of_stages(record)


def _final(kept: Path, name: str, folder: Path) -> tuple[RunFolder, Measured]:
    """The part in which the winner of the search ``name`` was trained with fresh seeds, and its test scores."""
    run = RunFolder(Store.open(str(restored(kept, f"final-{name}", folder))))
    (one,) = configurations(run.trials)
    found = measured(one, lambda trial: run.last_grid(trial, "test"), run.study.task.metric)
    assert found is not None  # the part is kept when its trials are scored
    return run, found


def _primary(staged: Measured, joint: Measured) -> Claim:
    parts, limits, seed = [staged.scores.cells, joint.scores.cells], staged.scores.limits, seed_of(staged.scores.grid)
    found, _ = sd.mean_test(parts, sd.NO_SEEDS, seed, limits)  # three seeds each speak for themselves
    _, p = sd.mean_test([parts[0] + MARGIN, parts[1]], sd.NO_SEEDS, seed, limits)
    change = Change(found.value, found.low, found.high, p, bool(heavy_difference(staged, joint)))
    return Claim("tuning one after the other is enough", DATA, "staged - joint", "", change, NO_WORSE)


def _of_winner(kept: Path, name: str, run: RunFolder, found: Measured) -> Iterator[list[str]]:
    """Macro-F1 beside the task's own marks, and how much the dev objective promised that fresh seeds do not keep."""
    own, _ = sd.mean_test([found.scores.cells], sd.NO_SEEDS, seed_of(found.scores.grid), found.scores.limits)
    marks = f"{ALWAYS_NO} always no, {BEST_TEAM} best team"
    numbers = [f"{x:.3f}" for x in (own.value, own.low, own.high)]
    yield ["macro-F1 on 4,000 posts", DATA, name, marks, *numbers, "", "", "reported"]
    fresh = [float(row["objective"]) for row in run.trials]
    variance = sd.Component(float(np.var(fresh, ddof=1)), len(fresh) - 1.0)
    lost = float(winner(kept, name)["objective"]) - float(np.mean(fresh))
    half = float(special.stdtrit(variance.df, (1.0 + st.LEVEL) / 2.0)) * math.sqrt(variance.value / len(fresh))
    shrinkage = st.Estimate(lost, lost - half, lost + half)
    claim = "the best dev score of many is too good"
    yield [claim, DATA, f"{name}: when chosen - fresh seeds", "", *points(shrinkage), "", "", "reported"]


def _of_stages(record: Mapping[str, Any]) -> Iterator[list[str]]:
    """The interaction, and the heads against the one that leads."""
    crossed = next(stage for stage in record["stages"] if stage["name"] == "interaction")
    test: Mapping[str, Any] = next((t for t in crossed["tests"] if set(t["factors"]) == {"template", "lora"}), {})
    share = ["" if x is None else f"{100.0 * x:.0f} %" for x in crossed["shares"].get("interaction", [None] * 3)]
    verdict = {STAGED: "confirmed", JOINT: "refuted"}.get(record["answer"]["kind"], "undecided")
    said = ["template and LoRA can be chosen apart", DATA, "share of all interactions in the variance", ""]
    yield [*said, *share, *chances(test.get("p"), test.get("p_holm")), verdict]
    heads = next(stage for stage in record["stages"] if stage["name"] == "head")["candidates"]
    leader = next(one["candidate"] for one in heads if one["leader"])
    for one in heads:
        if one["leader"] or one["gap"] is None:
            continue
        said = ["one head is better", DATA, f"{leader} - {one['candidate']}", ""]
        gap = st.Estimate(*(one[key] for key in ("gap", "gap_low", "gap_high")))
        verdict = "undecided" if one["tied"] else "confirmed"
        yield [*said, *points(gap), *chances(one["p"], one["p_holm"]), verdict]


if __name__ == "__main__":
    main()
