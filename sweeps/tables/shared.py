"""Which test prompts and rows two runs share, and in which data they differ.

A prompt is shared where both runs have it by the same id and with the same text, a row where both have it by the same
id and with the same content. The run folder keeps the texts of prompts. Of rows it keeps a fingerprint of all: where
that differs, the rows are read again from the files that the studies name, if these still hold what was scored.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sweeps.display.text import counted
from sweeps.run_folder.prompts import kept_prompts
from sweeps.run_folder.reading import RunFolder
from sweeps.trials.assets import source_of
from trainer.data.rows import fingerprint_rows, read_rows
from trainer.errors import UserError
from trainer.measure.grid import Grid, part_of

_MOST_NAMED = 5  # ids in a sentence


@dataclass(frozen=True)
class Shared:
    """The part of the test grid that both runs have."""

    prompts: frozenset[str]
    rows: frozenset[str] | None  # None: all, since both runs have the same rows
    said: tuple[str, ...]  # sentences: what of the test data is shared
    other_data: tuple[str, ...]  # what else the two have read that differs, such as "the train rows"

    def part(self, grid: Grid | None) -> Grid | None:
        """The scores of a trial of either run on this part; None where it has none there."""
        return None if grid is None else part_of(grid, self.prompts, self.rows)

    def __bool__(self) -> bool:
        return bool(self.prompts) and (self.rows is None or bool(self.rows))


@dataclass(frozen=True)
class _Read:
    """What the trials of a run read, from their score files: fingerprints."""

    data: Mapping[str, str]  # of the fields of ``trainer.trial.Data``; train_prompts by pool
    model: str
    grid: Grid | None  # of a trial's test scores


def shared_data(here: RunFolder, there: RunFolder) -> Shared:
    """Reads one score file a train pool. Both runs have test scores."""
    ours, theirs = _read(here), _read(there)
    prompts, of_prompts = _shared_prompts(here, there, ours, theirs)
    rows, of_rows = _shared_rows(here, there, ours, theirs)
    return Shared(prompts, rows, (of_prompts, of_rows), tuple(_other_data(ours, theirs)))


def _read(run: RunFolder) -> _Read:
    found: dict[str, str] = {}
    model, grid = "", None
    for trial_id, row in run.trials_by_id.items():
        pool = f"train prompts of {row['pool']}"
        if pool in found and grid is not None:
            continue
        last = run.last_rung(trial_id, "test") or run.last_rung(trial_id, "dev")
        if last is None:
            continue
        trial: Mapping[str, Any] = last.record.get("trial") or {}
        data, model = dict(trial.get("data") or {}), (trial.get("model") or {}).get("fingerprint") or model
        found |= {pool: data.pop("train_prompts", ""), **data}
        grid = grid or run.last_grid(trial_id, "test")
    return _Read(found, model, grid)


def _other_data(ours: _Read, theirs: _Read) -> Iterator[str]:
    if ours.model != theirs.model:
        yield "the base model (its weights, configuration or tokenizer)"
    for name in ours.data:
        if not name.startswith("test_") and name in theirs.data and ours.data[name] != theirs.data[name]:
            yield f"the {name.replace('_', ' ')}"


def _shared_prompts(here: RunFolder, there: RunFolder, ours: _Read, theirs: _Read) -> tuple[frozenset[str], str]:
    """The ids of the shared prompts, and a sentence."""
    scored = [set(one.grid.prompts) if one.grid else set() for one in (ours, theirs)]
    both, names = scored[0] & scored[1], [one.data.get("test_prompts", "") for one in (ours, theirs)]
    if names[0] == names[1] != "":
        return frozenset(both), f"Test prompts: the same {len(both)}."
    sizes = f"{len(scored[0])} here and {len(scored[1])} there"
    kept, others = (
        kept_prompts(run.store, name) if name else None for run, name in zip((here, there), names, strict=True)
    )
    if kept is None or others is None:
        which = (here if kept is None else there).store.uri
        return (
            frozenset(),
            f"Test prompts: {sizes}, with other texts; {which} does not hold them, so none can be paired.",
        )
    texts = [{p.id: p.text for p in pool} for pool in (kept, others)]
    same = frozenset(i for i in both if texts[0].get(i) == texts[1].get(i))
    return same, f"Test prompts: {_counts(len(same), sizes)}{_of_another(both - same, 'another text')}."


def _shared_rows(here: RunFolder, there: RunFolder, ours: _Read, theirs: _Read) -> tuple[frozenset[str] | None, str]:
    """The ids of the shared rows, None for all, and a sentence."""
    counts = [one.grid.n_rows if one.grid else 0 for one in (ours, theirs)]
    names = [one.data.get("test_rows", "") for one in (ours, theirs)]
    if names[0] == names[1] != "":
        return None, f"Test rows: the same {counts[0]}."
    sizes = f"{counts[0]} here and {counts[1]} there"
    kept, others = (_row_contents(run, name) for run, name in zip((here, there), names, strict=True))
    if kept is None or others is None:
        which = (here if kept is None else there).store.uri
        return frozenset(), (
            f"Test rows: {sizes}, which are not the same. Whether some are cannot be said: the rows of {which} are "
            "not, or no longer, in the file that its study.yaml names."
        )
    both = kept.keys() & others.keys()
    same = frozenset(i for i in both if kept[i] == others[i])
    return same, f"Test rows: {_counts(len(same), sizes)}{_of_another(both - same, 'other content')}."


def _row_contents(run: RunFolder, fingerprint: str) -> dict[str, str] | None:
    """Row id -> fingerprint of its content; None where the study's file is not here or holds other rows by now."""
    source = source_of(run.study.task, "test")
    if not (os.path.isfile(source.path) or os.path.isdir(source.path)):
        return None
    try:
        rows = read_rows(source, "test").rows
    except (UserError, OSError):
        return None
    return {row.id: fingerprint_rows([row]) for row in rows} if fingerprint_rows(rows) == fingerprint else None


def _counts(n: int, sizes: str) -> str:
    return f"{n} of {sizes} {'is' if n == 1 else 'are'} the same" if n else f"of {sizes}, none is the same"


def _of_another(ids: Collection[str], what: str) -> str:
    """The ids that both have, with another text or other content."""
    if not ids:
        return ""
    few = sorted(ids)[:_MOST_NAMED]
    more = f" and {len(ids) - len(few)} more" if len(ids) > len(few) else ""
    return f"; {counted(len(ids), 'id')} with {what}: {', '.join(few)}{more}"
