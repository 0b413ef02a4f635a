"""The report's map of configurations x prompts, and the rows whose answers flip between wordings, as data of the page.

The page's script makes a table of it: a cell can be reached by keyboard and by touch and holds its number, so that
colour is not all that tells. A picture of the whole map would be smaller and show none of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sweeps.report.evidence import Entry, Evidence
from sweeps.report.results_table import FIRST
from trainer.measure.grid import NO_ANSWER, Grid

MOST_CELLS = 200_000  # of the map: about 1 MB of the page
MOST_FLIPS = 20  # rows of each configuration
UNREAD = "(unread)"

Prompts = Mapping[str, Mapping[str, float]]  # entry -> prompt id -> metric


def heat_map(evidence: Evidence, prompts: Prompts) -> dict[str, Any] | None:
    """The map's data, configurations best first; None without scores. Values are in tenths of a percent, null where a
    configuration was not asked under a prompt."""
    names = sorted({name for values in prompts.values() for name in values})
    shown = [entry for entry in evidence.entries if prompts.get(entry.id)]
    if not shown:
        return None
    mapped = shown[: max(MOST_CELLS // len(names), FIRST)]
    lines: list[tuple[Entry, Mapping[str, float]]] = [
        (_fresh(evidence, row), values)
        for row in evidence.confirmed
        if (values := evidence.fresh_prompts(row["configuration"]))
    ]
    lines += [(entry, prompts[entry.id]) for entry in mapped]
    answers = _Answers()
    return {
        "first": FIRST,
        "fresh": bool(evidence.confirmed),
        "of_first_seed": any(len(entry.trials) > 1 for entry, _ in lines),
        "prompts": [{"id": name, "text": evidence.wordings.get(name, "")} for name in names],
        "configurations": [
            {
                "id": entry.id,
                "label": entry.label,
                "values": [_tenths(values.get(name)) for name in names],
                **(_flips(evidence, entry, names, answers) if place < FIRST else {}),
            }
            for place, (entry, values) in enumerate(lines)
        ],
        "answers": answers.names,
        "left_out": len(shown) - len(mapped),
    }


def _fresh(evidence: Evidence, row: Mapping[str, Any]) -> Entry:
    """A confirmed configuration as a line of its own: its fresh seeds that report, under the name of the search."""
    trials = evidence.reporting(row["configuration"])
    own = next((e for e in evidence.entries if row["search_trial_id"] in e.trials), None)
    if own is None:
        own = replace(evidence.entries[0], id=row["configuration"], label=row["configuration"][:8])
    return replace(own, label=f"{own.label}, fresh seeds", trials=trials)


class _Answers:
    """Texts of answers, each once; ``code`` gives its place."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._places: dict[str, int] = {}

    def code(self, text: str) -> int:
        if text not in self._places:
            self._places[text] = len(self.names)
            self.names.append(text)
        return self._places[text]


def _tenths(value: float | None) -> int | None:
    return None if value is None else round(1000 * value)


def _flips(evidence: Evidence, entry: Entry, names: list[str], answers: _Answers) -> dict[str, Any]:
    """Rows that the first fine-tune of ``entry`` answers rightly under some prompts and wrongly under others, those
    that are nearest to half and half first: id, right answer, and the answer under each prompt (null: not asked)."""
    grid = evidence.run.last_grid(entry.trials[0], evidence.pool)
    if grid is None:
        return {}
    seen = np.ones(grid.correct.shape, bool) if grid.seen is None else grid.seen
    right = (grid.correct & seen).sum(axis=0)
    flips = np.minimum(right, seen.sum(axis=0) - right)
    rows = [int(j) for j in np.argsort(-flips, kind="stable") if flips[j] > 0]
    place = {name: i for i, name in enumerate(grid.prompts)}
    given = [
        {
            "row": grid.rows[j],
            "right": answers.code(grid.labels[grid.label[j]]),
            "given": [
                answers.code(_answer(grid, place[name], j)) if name in place and seen[place[name], j] else None
                for name in names
            ],
        }
        for j in rows[:MOST_FLIPS]
    ]
    return {"flips": given, "n_flips": len(rows), "n_rows": len(grid.rows)}


def _answer(grid: Grid, prompt: int, row: int) -> str:
    code = int(grid.predicted[prompt, row])
    return UNREAD if code == NO_ANSWER else grid.labels[code]
