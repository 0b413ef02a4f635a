"""The PAFT paper's findings, and whether the arms of a study confirm them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweeps.paft.arm_results import Change, Result, changes, comparable, is_base, largest_pool, reference_arm

MARGIN = 0.02  # a difference of the mean within two points counts as "hardly matters"


def claims(found: Sequence[Result]) -> list[dict[str, Any]]:
    """A row for each finding: the difference with its interval, and confirmed, not confirmed or undecided."""
    pools = largest_pool(found)
    pool = reference_arm(pools)
    rows: list[dict[str, Any]] = []
    singles = [r for r in found if r.plain and r.train_prompts == 1 and not is_base(r)]
    for one in singles:
        if pool is None or not comparable(pool, one):
            continue
        gap, _ = changes(pool, one)
        for name, says, sign in (
            ("mean", "raises the mean", 1), ("std", "lowers the std", -1), ("min", "raises the worst prompt", 1),
        ):  # fmt: skip
            claim = f"{pool.name} {says} against {one.name}"
            rows.append({"claim": claim, **_interval(gap[name]), "verdict": _verdict(gap[name], sign)})
    if pool is not None:
        longest = [r for r in pools if r.epochs == pool.epochs and comparable(r, pool)]
        if len({r.trial.draw.every for r in longest}) > 1:
            ranked = sorted(longest, key=lambda r: -r.stats["mean"])
            gap, _ = changes(ranked[0], ranked[-1])
            inside, beyond = gap["mean"].high < MARGIN, gap["mean"].low > MARGIN
            verdict = "confirmed" if inside else "not confirmed" if beyond else "undecided"
            claim = f"K hardly matters (within {100 * MARGIN:g} points): {ranked[0].name} against {ranked[-1].name}"
            rows.append({"claim": claim, **_interval(gap["mean"]), "verdict": verdict})
    return rows


def _interval(change: Change) -> dict[str, float]:
    return {"difference": change.value, "low": change.low, "high": change.high}


def _verdict(change: Change, sign: int) -> str:
    """Whether a difference of this sign is shown, one of the opposite sign, or neither."""
    low, high = (change.low, change.high) if sign > 0 else (-change.high, -change.low)
    return "confirmed" if low > 0 else "not confirmed" if high < 0 else "undecided"
