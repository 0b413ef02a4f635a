"""A row of docs/results.md: a claim, what was measured, and the verdict by the rule that the page states."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeps.display.table_files import markdown_rows
from sweeps.paft.changes import Change
from sweeps.statistics import intervals as st

ALPHA = 0.05
MARGIN = 0.03  # a difference of accuracies or macro-F1 below this hardly matters
RISES, FALLS = (0.0, math.inf), (-math.inf, 0.0)
HARDLY, NO_WORSE = (-MARGIN, MARGIN), (-MARGIN, math.inf)
HEAD = ("claim", "data", "comparison", "paper", "ours", "low", "high", "p", "p_holm", "verdict")


@dataclass
class Claim:
    """``change`` is of fractions, and its p-value is that of the nearer end of ``says``."""

    claim: str
    data: str
    comparison: str
    paper: str  # its figure, "" where it gives none
    change: Change
    says: tuple[float, float]  # between which the claim says that the difference lies
    p_holm: float = math.nan

    @property
    def verdict(self) -> str:
        least, most = self.says
        if self.change.heavy_tails or not self.p_holm < ALPHA:
            return "undecided"
        if least < self.change.low and self.change.high < most:
            return "confirmed"
        return "refuted" if self.change.high < least or self.change.low > most else "undecided"

    @property
    def cells(self) -> list[str]:
        """In the order of ``HEAD``; differences in points."""
        said = [self.claim, self.data, self.comparison, self.paper, *points(self.change)]
        return [*said, *chances(self.change.p, self.p_holm), self.verdict]


def points(found: Change | st.Estimate) -> list[str]:
    """Value, low and high of a difference of fractions."""
    return [f"{100.0 * x:+.1f}" for x in (found.value, found.low, found.high)]


def chances(*p_values: float | None) -> list[str]:
    return ["" if p is None or math.isnan(p) else f"{p:.3g}" for p in p_values]


def corrected(family: Sequence[Claim]) -> Sequence[Claim]:
    """``family``, with its p-values corrected together."""
    known = [one for one in family if math.isfinite(one.change.p)]
    for one, p in zip(known, st.holm([one.change.p for one in known]), strict=True):
        one.p_holm = p
    return family


def write(lines: Sequence[Sequence[str]], to: Path) -> None:
    """Write the rows as csv, and print them as the table of docs/results.md."""
    with to.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEAD, *lines])
    print("\n".join(markdown_rows(list(HEAD), [list(line) for line in lines])))
