"""The PAFT paper's findings, and whether they hold for the arms of a study.

All findings of the table are one family: a reader looks at all of them, so Holm's correction runs over all of their
p-values. Of 12 findings about equal arms some finding is decided in 3 to 5 % of studies; without the correction one has
a p-value below 0.05 in 34 to 41 %. A finding holds, or does not hold, where its corrected p-value is below 0.05 and the
interval lies on that side. Otherwise it is undecided, as it is where a few prompts lie far from the rest, for which no
interval here holds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.paft.arm_results import Result, distinct, is_base, largest_pool, reference_arm
from sweeps.paft.changes import Change, SeedLuck, changes, comparable, mean_change, seed_luck
from sweeps.statistics import intervals as st
from sweeps.statistics.tails import heavy_tails

ALPHA = 0.05
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
MARGIN = 0.02  # a difference of the mean within two points counts as "hardly matters"
_SAYS = (("mean", "raises the mean", 1), ("std", "lowers the std", -1), ("min", "raises the worst prompt", 1))


@dataclass(frozen=True)
class PaperFinding:
    """A finding with the difference that it is about. ``p`` of the change is that of the finding: two-sided, that the
    difference is 0 or, for one that should be small, ``MARGIN``."""

    claim: str
    change: Change
    supports: bool  # interval and value lie on the side of the finding
    opposes: bool  # they lie on the other side

    def verdict(self, p_holm: float) -> str:
        if self.change.heavy_tails or not p_holm < ALPHA:  # a NaN is undecided, too
            return UNDECIDED
        return HOLDS if self.supports else FAILS if self.opposes else UNDECIDED


def claims(found: Sequence[Result]) -> list[dict[str, Any]]:
    """A row for each finding: the difference with its interval, its p-value by itself and after Holm, the verdict. Arms
    that are one trial are one: against itself, or counted twice, it would make the correction stricter for nothing."""
    found = distinct(found)
    pools = largest_pool(found)
    pool = reference_arm(pools)
    if pool is None:
        return []
    singles = [r for r in found if r.plain and r.train_prompts == 1 and not is_base(r) and comparable(pool, r)]
    luck = seed_luck(found)
    family = [f for one in singles for f in _against(pool, one, luck)] + _draws_hardly_matter(pools, pool, luck)
    known = [f for f in family if math.isfinite(f.change.p)]
    corrected = iter(st.holm([f.change.p for f in known]))
    return [_row(f, next(corrected) if math.isfinite(f.change.p) else math.nan) for f in family]


def _against(pool: Result, one: Result, luck: SeedLuck) -> list[PaperFinding]:
    """What training on a pool does against training on one prompt."""
    gap, found = changes(pool, one, luck), []
    for name, says, sign in _SAYS:
        low, high = gap[name].low, gap[name].high
        above, below = low > 0, high < 0
        supports, opposes = (above, below) if sign > 0 else (below, above)
        found.append(PaperFinding(f"{pool.name} {says} against {one.name}", gap[name], supports, opposes))
    return found


def _draws_hardly_matter(pools: Sequence[Result], pool: Result, luck: SeedLuck) -> list[PaperFinding]:
    """Whether K changes the mean by less than ``MARGIN``. Best and worst are chosen by the same scores, so the finding
    holds where it does for every pair, and fails where it does for one after correction for all pairs."""
    longest = [r for r in pools if r.epochs == pool.epochs and comparable(r, pool)]
    if len({r.trial.draw.every for r in longest}) < 2:
        return []
    ranked = sorted(longest, key=lambda r: -r.stats["mean"])
    first, last = ranked[0], ranked[-1]
    pairs = list(itertools.combinations(ranked, 2))
    tests = [mean_change(a, b, luck, less=MARGIN) for a, b in pairs]
    wide = [i for i, (gap, _) in enumerate(tests) if gap.value > 0]
    decides = min(wide, key=lambda i: tests[i][1]) if wide else max(range(len(pairs)), key=lambda i: tests[i][1])
    p = min(1.0, tests[decides][1] * (len(pairs) if wide else 1))
    tails = heavy_tails(pairs[decides][0].per_prompt - pairs[decides][1].per_prompt)
    found, _ = mean_change(first, last, luck)
    change = Change(found.value, found.low, found.high, p, tails)
    claim = f"K hardly matters (within {100 * MARGIN:g} points): {first.name} against {last.name}"
    return [PaperFinding(claim, change, supports=found.high < MARGIN, opposes=found.low > MARGIN)]


def _row(finding: PaperFinding, p_holm: float) -> dict[str, Any]:
    change = finding.change
    return {
        "claim": finding.claim,
        "difference": change.value,
        "low": change.low,
        "high": change.high,
        "p": change.p if math.isfinite(change.p) else None,
        "p_holm": p_holm if math.isfinite(p_holm) else None,
        "heavy_tails": change.heavy_tails,
        "verdict": finding.verdict(p_holm),
    }
