"""The rows of docs/results.md on PAFT, from the scores that are kept: neither model nor torch is needed.

    python benchmarks/real_paft_claims.py [--out DIR]

Writes ``claims.csv`` into benchmarks/results/paft/, and prints it as the table of docs/results.md. The analysis is the
one of that page, which was committed before the study ran.
"""

from __future__ import annotations

import argparse
import csv
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kept_run import restored, trials_of
from study_command import ROOT

from sweeps.display.table_files import markdown_rows
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
ALPHA, MARGIN = 0.05, 0.03
FASTER = 1.1  # a ratio from which on an arm is called faster
# of the paper, points, averaged over its five tasks: K = 4, T = 3 less the arm
PAPER_MEAN = {"user": "+5.6", "top_accuracy": "+7.2", "batprompt": "+5.9", "zopo": "+4.1"}
PAPER_STD = {"user": "-3.4", "top_accuracy": "-2.3", "batprompt": "-2.2", "zopo": "-2.3"}
PAPER_FASTER = {"base": 3.25, "user": 4.66}
HEAD = ("claim", "data", "comparison", "paper", "ours", "low", "high", "p", "p_holm", "verdict")


@dataclass
class Claim:
    claim: str
    data: str
    comparison: str
    paper: str
    change: Change
    sign: int  # of the difference that the claim names; 0: it hardly matters
    p_holm: float = math.nan

    @property
    def verdict(self) -> str:
        low, high = self.change.low, self.change.high
        if self.change.heavy_tails or not self.p_holm < ALPHA:
            return "undecided"
        if not self.sign:
            return "confirmed" if max(high, -low) < MARGIN else "refuted" if min(high, -low) < -MARGIN else "undecided"
        return "confirmed" if (low if self.sign > 0 else -high) > 0 else "refuted"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the tables go")
    lines = claims(RESULTS)
    with (parser.parse_args().out / "claims.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEAD, *lines])
    print("\n".join(markdown_rows(list(HEAD), lines)))


def claims(kept: Path) -> list[list[str]]:
    """The rows of what is ``kept``."""
    primary, lines = list[Claim](), list[list[str]]()
    secondary: dict[str, list[Claim]] = {}
    for data in DATA:
        if trials_of(kept / data, "primary"):
            arms, luck = _arms(kept / data, "primary")
            change = changes(arms["paft"], arms["user"], luck)
            primary.append(Claim("the mean rises", data, "paft - user", PAPER_MEAN["user"], change["mean"], 1))
            secondary[data] = list(_secondary(kept, data, change))
    for family in (primary, *secondary.values()):
        _correct(family)
    for one in (*primary, *(c for found in secondary.values() for c in found)):
        lines.append(_line(one))
    for data in DATA:
        if trials_of(kept / data, "cost"):
            lines += _speed(kept, data)
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
    yield Claim("the std falls", data, "paft - user", PAPER_STD["user"], of_user["std"], -1)
    yield Claim("the worst wording rises", data, "paft - user", "", of_user["min"], 1)
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
        yield Claim("the mean rises", data, pair, PAPER_MEAN[name], change["mean"], 1)
        yield Claim("the std falls", data, pair, PAPER_STD[name], change["std"], -1)
        yield Claim("the worst wording rises", data, pair, "", change["min"], 1)
    yield Claim("K hardly matters", data, "k1 - paft", "-0.4", _hardly(arms["k1"], paft, luck), 0)
    for few, many in (("user", "n8"), ("n8", "paft")):
        gap = changes(arms[many], arms[few], luck)["mean"]
        yield Claim("more prompts help", data, f"{many} - {few}", "", gap, 1)
    bend = _bend(arms["user"], arms["n8"], paft)
    yield Claim("with diminishing returns", data, "(n8 - user) - (paft - n8)", "", bend, 1)


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


def _correct(family: list[Claim]) -> None:
    known = [one for one in family if math.isfinite(one.change.p)]
    for one, p in zip(known, st.holm([one.change.p for one in known]), strict=True):
        one.p_holm = p


def _line(one: Claim) -> list[str]:
    change = one.change
    numbers = [f"{100.0 * x:+.1f}" for x in (change.value, change.low, change.high)]
    chances = ["" if math.isnan(p) else f"{p:.3g}" for p in (change.p, one.p_holm)]
    return [one.claim, one.data, one.comparison, one.paper, *numbers, *chances, one.verdict]


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


if __name__ == "__main__":
    main()
