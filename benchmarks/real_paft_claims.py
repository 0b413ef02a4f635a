"""The rows of docs/results.md on PAFT, from the scores that are kept: neither model nor torch is needed.

    python benchmarks/real_paft_claims.py [--out DIR]

Writes ``claims.csv`` into benchmarks/results/paft/, and prints it as the table of docs/results.md. The analysis is the
one of that page, which was committed before the study ran.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from claim_table import FALLS, HARDLY, MARGIN, RISES, Claim, chances, corrected, points, write
from kept_run import restored, trials_of
from scipy import stats
from study_command import ROOT

from sweeps.paft.arm_results import Result, results
from sweeps.paft.changes import Change, SeedLuck, changes, mean_change, pair_seed, seed_luck
from sweeps.run_folder.reading import RunFolder
from sweeps.run_folder.timing import Timing, read_timing
from sweeps.statistics import intervals as st
from sweeps.statistics import seeds as sd
from sweeps.statistics.tails import heavy_tails
from sweeps.tables.columns import Settings
from sweeps.tables.robustness import write_tables
from trainer.store import Store

RESULTS = ROOT / "benchmarks" / "results" / "paft"
DATA = ("sst2", "edos")
SINGLE = ("user", "top_accuracy", "batprompt", "zopo")  # arms on one prompt
FASTER = 1.1  # a ratio from which on an arm is called faster
# of the paper, points, averaged over its five tasks: K = 4, T = 3 less the arm
PAPER_MEAN = {"user": "+5.6", "top_accuracy": "+7.2", "batprompt": "+5.9", "zopo": "+4.1"}
PAPER_STD = {"user": "-3.4", "top_accuracy": "-2.3", "batprompt": "-2.2", "zopo": "-2.3"}
PAPER_FASTER = {"base": 3.25, "user": 4.66}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the tables go")
    write(claims(RESULTS), parser.parse_args().out / "claims.csv")


def claims(kept: Path) -> list[list[str]]:
    """The rows of what is ``kept``."""
    primary, lines = list[Claim](), list[list[str]]()
    secondary: dict[str, list[Claim]] = {}
    for data in DATA:
        if trials_of(kept / data, "primary"):
            arms, luck = _arms(kept / data, "primary")
            change = changes(arms["paft"], arms["user"], luck)
            primary.append(Claim("the mean rises", data, "paft - user", PAPER_MEAN["user"], change["mean"], RISES))
            secondary[data] = list(_secondary(kept, data, change))
    for family in (primary, *secondary.values()):
        lines += [one.cells for one in corrected(family)]
    for data in DATA:
        if trials_of(kept / data, "cost"):
            lines += _speed(kept, data)
    for data in secondary:
        lines += _afterwards(kept, data)
    return lines


def _arms(results_folder: Path, name: str) -> tuple[dict[str, Result], SeedLuck]:
    with tempfile.TemporaryDirectory(prefix="kept-") as folder:
        store = Store.open(str(restored(results_folder, name, Path(folder, "run"))))
        run = RunFolder(store)
        write_tables(run, Settings.of(run.study))
        found = results(RunFolder(store))
    return {r.arm: r for r in found}, seed_luck(found)


def _secondary(kept: Path, data: str, of_user: dict[str, Change]) -> Iterator[Claim]:
    """``of_user``: what distinguishes paft from user, with five seeds."""
    yield Claim("the std falls", data, "paft - user", PAPER_STD["user"], of_user["std"], FALLS)
    yield Claim("the worst wording rises", data, "paft - user", "", of_user["min"], RISES)
    if not trials_of(kept / data, "arms"):
        return
    arms, luck = _arms(kept / data, "arms")
    paft = arms["paft"]
    seen = {arms["user"].trial.id: "user"}
    for name in SINGLE[1:]:
        same = seen.setdefault(arms[name].trial.id, name)
        if same != name:  # two searches found one prompt, or the user's: compared already
            continue
        change = changes(paft, arms[name], luck)
        pair = f"paft - {name}"
        yield Claim("the mean rises", data, pair, PAPER_MEAN[name], change["mean"], RISES)
        yield Claim("the std falls", data, pair, PAPER_STD[name], change["std"], FALLS)
        yield Claim("the worst wording rises", data, pair, "", change["min"], RISES)
    yield Claim("K hardly matters", data, "k1 - paft", "-0.4", _hardly(arms["k1"], paft, luck), HARDLY)
    for few, many in (("user", "n8"), ("n8", "paft")):
        gap = changes(arms[many], arms[few], luck)["mean"]
        yield Claim("more prompts help", data, f"{many} - {few}", "", gap, RISES)
    bend = _bend(arms["user"], arms["n8"], paft)
    yield Claim("with diminishing returns", data, "(n8 - user) - (paft - n8)", "", bend, RISES)


def _hardly(a: Result, b: Result, luck: SeedLuck) -> Change:
    """The difference in the mean; its p-value is that it is as large as ``MARGIN``."""
    found, _ = mean_change(a, b, luck)
    above, below = (mean_change(*pair, luck, less=MARGIN)[1] for pair in ((a, b), (b, a)))
    tails = heavy_tails(a.per_prompt - b.per_prompt)
    return Change(found.value, found.low, found.high, max(above, below), tails)


def _bend(few: Result, some: Result, many: Result) -> Change:
    """The step of the mean from ``few`` to ``some`` prompts less that from ``some`` to ``many``. Seeds are paired in
    name alone, so those of two arms can be added one by one."""
    parts = [2.0 * some.by_seed, few.by_seed + many.by_seed]
    found, p = sd.mean_test(parts, sd.NO_SEEDS, pair_seed(some), st.Limits(0.0, 2.0))
    tails = heavy_tails(2.0 * some.per_prompt - few.per_prompt - many.per_prompt)
    return Change(found.value, found.low, found.high, p, tails)


def _speed(kept: Path, data: str) -> list[list[str]]:
    """How many times longer a generated answer of the base model, and of ``user``, takes than one of ``paft``."""
    arms, _ = _arms(kept / data, "cost")
    timing: Timing = read_timing(Store.open(str(kept / data / "cost")))
    took = {name: timing.of(r.trial.id).get("generate_ms") for name, r in arms.items()}
    lines, own = [], took.get("paft")
    for name, paper in PAPER_FASTER.items():
        other = took.get(name)
        if own and other:
            ratio = other / own
            verdict = "confirmed" if ratio >= FASTER else "refuted" if ratio <= 1.0 / FASTER else "undecided"
            row = ["inference is faster", data, f"{name} / paft", f"{paper:g} times", f"{ratio:.2f} times"]
            lines.append([*row, "", "", "", "", verdict])
    return lines


def _afterwards(kept: Path, data: str) -> Iterator[list[str]]:
    """What the page did not foresee: paft less user without the wording under which the two differ most, and under how
    many wordings paft is better. P-values are not corrected."""
    arms, _ = _arms(kept / data, "primary")
    gap = arms["paft"].per_prompt - arms["user"].per_prompt
    farthest = int(np.abs(gap).argmax())
    paft, user = (_without(arms[name], farthest) for name in ("paft", "user"))
    found = changes(paft, user, seed_luck([paft, user]))
    where = f"paft - user without {arms['paft'].prompts[farthest]}"
    for name in ("mean", "std", "min"):
        change = found[name]
        tails = "heavy tails" if change.heavy_tails else "no heavy tails"
        yield [f"found afterwards: {name}", data, where, "", *points(change), *chances(change.p), "", tails]
    chance = float(stats.wilcoxon(gap).pvalue)
    better = f"{int((gap > 0).sum())} of {gap.size}"
    claim = "found afterwards: wordings under which paft is better"
    yield [claim, data, "Wilcoxon's signed ranks", "", better, "", "", *chances(chance), "", ""]


def _without(arm: Result, place: int) -> Result:
    prompts = arm.prompts[:place] + arm.prompts[place + 1 :]
    return replace(arm, prompts=prompts, by_seed=np.delete(arm.by_seed, place, axis=1))


if __name__ == "__main__":
    main()
