"""A list of prompts with their near duplicates, flaws, and the accuracy of a run's trials under each.

The accuracies are computed from the score rows of each trial's last rung; neither torch nor ray is needed. Prompts are
matched by their text, because the pool's file may have given an id to another wording since the run.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sweeps.display.text import percent, spreadsheet_cell
from sweeps.run_folder.prompts import kept_prompts
from sweeps.run_folder.reading import RunFolder
from trainer.data.likeness import clusters
from trainer.data.pools import flaws
from trainer.data.wording import Prompt
from trainer.errors import UserError, nearest

_Z = 1.959963984540054  # of a 95 % interval


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers under one prompt."""

    chosen: float  # of the chosen trial, on ``rows`` rows
    rows: int
    mean: float  # over all trials that were scored on this pool
    lowest: float
    trials: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of ``chosen`` for new rows."""
        p, n = self.chosen, self.rows
        middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class ListedPrompt:
    """One prompt of the list."""

    prompt: Prompt
    like: tuple[str, ...]  # ids of its near duplicates
    flaw: str  # what seems wrong with it, or ""
    accuracy: Accuracy | None


@dataclass(frozen=True)
class PoolAccuracies:
    """How the trials of a run folder did on a pool."""

    trial: str  # the chosen one
    pool: str
    prompts: tuple[Prompt, ...]
    by_id: Mapping[str, Accuracy]
    other_pools: int  # trials left out because they were scored on another pool of that name


def list_prompts(prompts: Sequence[Prompt], scored: PoolAccuracies | None = None) -> list[ListedPrompt]:
    """The prompts in the pool's order. With ``scored`` they are sorted by accuracy, the worst first, those without an
    accuracy last."""
    like: dict[str, tuple[str, ...]] = {}
    for group in clusters([p.text for p in prompts]):
        ids = [prompts[i].id for i in group]
        like |= {i: tuple(o for o in ids if o != i) for i in ids}
    ids_of = {p.text: p.id for p in scored.prompts} if scored else {}
    found = []
    for prompt in prompts:
        accuracy = scored.by_id.get(ids_of.get(prompt.text, "")) if scored else None
        what = next((what for _, what, _ in flaws(prompt)), "")
        found.append(ListedPrompt(prompt, like[prompt.id], what, accuracy))
    if scored is not None:
        found.sort(key=lambda s: math.inf if s.accuracy is None else s.accuracy.chosen)
    return found


def pool_accuracies(run: RunFolder, pool: str = "test", trial: str | None = None) -> PoolAccuracies:
    """Accuracies under a pool of the run folder, of ``trial`` (the start of an id; default: the winner). Raises
    UserError."""
    store = run.store
    tables = {name: found for name in store.folders("scores") if (found := _last(run, name, pool)) is not None}
    if not tables and pool not in ("test", "dev"):
        raise UserError(f'--pool = "{pool}": {store.uri} has no scores on it.{nearest(pool, ("test", "dev"))}')
    if not tables:
        raise UserError(
            f"{store.uri}: no trial has scores on the {pool} pool. The {pool} rows come at a trial's last rung; "
            "--pool dev has those of earlier rungs"
        )
    chosen = _chosen(run, tables, trial, pool)
    fingerprint = tables[chosen][0]
    same = {name: counts for name, (mark, counts) in tables.items() if mark == fingerprint}
    by_id = {}
    for prompt_id, (right, rows) in same[chosen].items():
        shares = [c[prompt_id][0] / c[prompt_id][1] for c in same.values() if prompt_id in c]
        by_id[prompt_id] = Accuracy(right / rows, rows, sum(shares) / len(shares), min(shares), len(shares))
    prompts = kept_prompts(store, fingerprint)
    if prompts is None:
        raise UserError(
            f"{store.uri}: does not hold the wordings of its {pool} pool (it was made by an older version). Name the "
            "pool's file as well"
        )
    return PoolAccuracies(chosen, pool, tuple(prompts), by_id, len(tables) - len(same))


Counts = dict[str, tuple[int, int]]  # prompt id -> right answers, rows


def _last(run: RunFolder, trial: str, pool: str) -> tuple[str, Counts] | None:
    """(fingerprint of the pool, counts) of the trial's last rung under the pool."""
    last = run.last_rung(trial, pool)
    if last is None or last.grid is None:
        return None
    data = (last.record.get("trial") or {}).get("data") or {}
    seen = np.ones_like(last.grid.correct) if last.grid.seen is None else last.grid.seen
    right, rows = (last.grid.correct & seen).sum(axis=1).tolist(), seen.sum(axis=1).tolist()
    return str(data.get(f"{pool}_prompts", "")), dict(
        zip(last.grid.prompts, zip(right, rows, strict=True), strict=True)
    )


def _chosen(run: RunFolder, tables: Mapping[str, object], trial: str | None, pool: str) -> str:
    if trial is not None:
        found = [name for name in tables if name.startswith(trial)]
        if len(found) != 1:
            what = "is the start of several ids." if found else f"has no scores on the {pool} pool."
            raise UserError(f'--trial = "{trial}" {what}{nearest(trial, found or tables)}')
        return found[0]
    for row in run.robustness():
        if row.get("winner") is True and row["trial_id"] in tables:
            return str(row["trial_id"])
    raise UserError(
        f"{run.store.uri}: no winner with scores on the {pool} pool is known. Name a trial with --trial: "
        f"{', '.join(sorted(tables)[:20])}"
    )


# as text --------------------------------------------------------------------------------------------------------


def as_lines(shown: Sequence[ListedPrompt], scored: PoolAccuracies | None, width: int = 0) -> list[str]:
    """One line for each prompt, cut to ``width`` characters (0: not cut)."""
    size = max((len(s.prompt.id) for s in shown), default=0)
    lines = []
    for s in shown:
        cells = [f"{s.prompt.id:<{size}}"]
        if scored is not None:
            cells.append(_percents(s.accuracy))
        notes = [f"[near {', '.join(s.like[:3])}]"] if s.like else []
        notes += [f"[{s.flaw}]"] if s.flaw else []
        line = "  ".join([*cells, *notes, in_one_line(s.prompt.text)])
        lines.append(line if not width or len(line) <= width else line[: max(width - 1, 1)] + "…")
    return lines


def _percents(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return f"{'not scored':<34}"
    low, high = accuracy.interval
    shown = f"{percent(accuracy.chosen):>5} ({percent(low):>4} to {percent(high):>5})"
    return f"{shown}  {percent(accuracy.mean):>5}  {percent(accuracy.lowest):>5}"


def heading(scored: PoolAccuracies) -> list[str]:
    n = max((a.trials for a in scored.by_id.values()), default=0)
    lines = [
        f"{scored.pool} pool, accuracy in percent, worst first: trial {scored.trial} (95 % interval for new rows),",
        f"then mean and lowest of the {n} trial{'s' * (n != 1)} that were scored on these prompts.",
    ]
    if scored.other_pools:
        lines.append(f"{scored.other_pools} trials were scored on another {scored.pool} pool and are left out.")
    return lines


def in_one_line(text: str) -> str:
    """The text in one line, line breaks as ⏎. Control characters are left out: a wording from elsewhere could send
    commands to the terminal."""
    text = text.replace("\r\n", "\n").replace("\n", " ⏎ ")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def as_csv(shown: Sequence[ListedPrompt]) -> str:
    """The whole list as CSV, accuracies as fractions of 1."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = "prompt_id accuracy low high rows mean lowest trials near_duplicates flaw text"
    writer.writerow(columns.split())
    for s in shown:
        a = s.accuracy
        numbers: list[object] = [""] * 7 if a is None else [a.chosen, *a.interval, a.rows, a.mean, a.lowest, a.trials]
        writer.writerow(map(spreadsheet_cell, [s.prompt.id, *numbers, " ".join(s.like), s.flaw, s.prompt.text]))
    return out.getvalue()
