"""Score rows as one trial's prompts x rows matrices: the whole grid, or the sample of it that the record declares.

A score table holds one row per (prompt, row) cell. A doubled, missing or contradictory cell is refused: of a whole
grid every cell must be there, of a sample exactly those of its design. Only numpy and pyarrow.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainer.errors import UserError, nearest
from trainer.measure import design

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DEGENERATE_SHARE = 0.95  # one answer on more than this share of the cells: the trial answers without reading
COLUMNS = ("prompt_id", "row_id", "label", "predicted", "correct", "label_logprobs")  # that ``read_grid`` reads
NO_ANSWER = -1  # code of a null ``predicted``: the generated text could not be parsed


class ScoreError(UserError):
    """Score rows that cannot be summarised; the message names the place, the prompt and the row."""


@dataclass(frozen=True)
class Grid:
    """One trial's scores on prompts x rows. ``P`` prompts, ``R`` rows, ids sorted; labels index ``labels``.

    Of a sample, ``R`` are the rows that it touches, and cells outside ``seen`` hold NO_ANSWER, False and NaN."""

    prompts: tuple[str, ...]
    rows: tuple[str, ...]
    labels: tuple[str, ...]
    label: Ints  # [R] the right label
    predicted: Ints  # [P, R]; NO_ANSWER where nothing could be parsed
    correct: NDArray[np.bool_]  # [P, R]
    label_logprobs: Floats | None  # [P, R, K] in nats; None where text was generated or rows differ in options
    nan: bool  # some label log-probability is NaN, or what the decision rule compares it with
    seen: NDArray[np.bool_] | None = None  # [P, R] the cells that were scored; None: all of them
    pool_rows: int = 0  # rows of the whole grid; 0: R

    @property
    def n_rows(self) -> int:
        return self.pool_rows or len(self.rows)

    @property
    def n_cells(self) -> int:
        return self.predicted.size if self.seen is None else int(self.seen.sum())

    @property
    def top_label_share(self) -> float:
        """Share of the cells that the most frequent answer takes; an answer that cannot be parsed is one too."""
        return float(self._answer_counts().max() / self.n_cells)

    @property
    def parse_fail_rate(self) -> float:
        return float(self._answer_counts()[0] / self.n_cells)

    @property
    def unread(self) -> bool:
        """More than ``DEGENERATE_SHARE`` of the answers could not be read: nothing is known of the labels."""
        return self.parse_fail_rate > DEGENERATE_SHARE

    @property
    def degenerate(self) -> bool:
        """Nothing to rank: ``unread``, or one answer takes more than ``DEGENERATE_SHARE`` of the cells. Where the rows
        themselves carry that label almost always (share t > 0.9) the limit is half way from t to 1, so that a trial
        that is right is not called degenerate."""
        counts = self._answer_counts()
        top = int(counts.argmax()) - 1
        truth = float((self.label == top).mean())
        return bool(counts[top + 1] / self.n_cells > max(DEGENERATE_SHARE, (1.0 + truth) / 2.0))

    def _answer_counts(self) -> Ints:
        given = self.predicted.ravel() if self.seen is None else self.predicted[self.seen]
        return np.bincount(given + 1, minlength=len(self.labels) + 1)


def read_grid(
    table: pa.Table,
    labels: Sequence[str] = (),
    where: str = "score rows",
    sample: Mapping[str, int] | None = None,
) -> Grid:
    """The prompts x rows grid of one trial at one rung under one pool (columns of ``store.SCORES``).

    ``labels`` are the task's labels in the order of ``label_logprobs``; without them, every label and answer that
    occurs, sorted. ``where`` names the file in messages. ``sample`` is the record's, where only a sample of the grid
    was scored: ``cells`` of ``prompts`` x ``rows``, with ``pilot`` in two stages. Raises ``ScoreError`` for an empty
    table, a cell that occurs twice, one that is not there or was not asked for, a row with two right labels, an unknown
    label, or ``correct`` against ``predicted``."""
    if table.num_rows == 0:
        raise ScoreError(f"{where}: no score rows. The file was cut short: remove it and run again")
    prompts, p = _codes(table["prompt_id"], where, "prompt_id")
    rows, r = _codes(table["row_id"], where, "row_id")
    shape = (len(prompts), len(rows))
    place = p * shape[1] + r
    counts = np.bincount(place, minlength=shape[0] * shape[1])
    _refuse_doubled(table, prompts, rows, place, counts, where)
    names = tuple(labels) or _occurring(table)
    truth = _placed(_label_codes(table["label"], names, where, "label"), place, shape, NO_ANSWER)
    predicted = _placed(_label_codes(table["predicted"], names, where, "predicted"), place, shape, NO_ANSWER)
    right = np.asarray(table["correct"].to_numpy(zero_copy_only=False), dtype=bool)
    correct = _placed(right, place, shape, False)
    found = (counts > 0).reshape(shape)
    label = truth.max(axis=0)
    _refuse_contradiction(found & (truth != label), prompts, rows, where, "its label differs between prompts")
    _refuse_contradiction(found & (truth == NO_ANSWER), prompts, rows, where, "has no right label")
    against = found & (correct != (predicted == truth))
    _refuse_contradiction(against, prompts, rows, where, "`correct` contradicts `predicted` and `label`")
    whole = sample is None or sample["cells"] == sample["prompts"] * sample["rows"]
    if sample is None or whole:
        wanted = np.ones(shape, bool)
    elif "pilot" in sample:
        _refuse_unbalanced(found, prompts, sample, where)
        wanted = found
    else:
        wanted = _designed(prompts, rows, [names[k] for k in label], sample, where)
    _refuse_other_cells(found, wanted, prompts, rows, where, whole)
    logprobs, nan = _logprobs(table["label_logprobs"], place, shape)
    compared = table["label_logprobs"].is_valid().to_numpy()
    undecided = table["predicted"].is_null().to_numpy()
    nan = nan or bool((compared & undecided).any())  # NaN in what the decision rule compares with
    scores = Grid(prompts, rows, names, label, predicted, correct, logprobs, nan)
    return scores if sample is None or whole else replace(scores, seen=found, pool_rows=sample["rows"])


def only(scores: Grid, seen: NDArray[np.bool_]) -> Grid:
    """``scores`` without the cells outside ``seen`` [P, R], and without rows of which none is left."""
    kept = np.flatnonzero(seen.any(axis=0))
    seen = seen[:, kept]
    logprobs = scores.label_logprobs
    return replace(
        scores,
        rows=tuple(scores.rows[j] for j in kept),
        label=scores.label[kept],
        predicted=np.where(seen, scores.predicted[:, kept], NO_ANSWER),
        correct=scores.correct[:, kept] & seen,
        label_logprobs=None if logprobs is None else np.where(seen[:, :, None], logprobs[:, kept], np.nan),
        seen=seen,
        pool_rows=scores.n_rows,
    )


def part_of(scores: Grid, prompts: Container[str], rows: Collection[str] | None = None) -> Grid | None:
    """``scores`` under ``prompts`` alone, and on ``rows`` of the pool alone (None: on all); None where no cell is
    left."""
    p = [i for i, prompt in enumerate(scores.prompts) if prompt in prompts]
    r = [j for j, row in enumerate(scores.rows) if rows is None or row in rows]
    cells = np.ix_(p, r)
    seen = None if scores.seen is None else scores.seen[cells]
    if not p or not r or (seen is not None and not seen.any(axis=1).all()):
        return None
    found = replace(
        scores,
        prompts=tuple(scores.prompts[i] for i in p),
        rows=tuple(scores.rows[j] for j in r),
        label=scores.label[r],
        predicted=scores.predicted[cells],
        correct=scores.correct[cells],
        label_logprobs=None if scores.label_logprobs is None else scores.label_logprobs[cells],
        seen=seen,
        pool_rows=0 if seen is None else scores.n_rows if rows is None else len(rows),
    )
    return found if seen is None else only(found, seen)


@dataclass(frozen=True)
class SharedCells:
    """The cells that two grids of the same prompts and pool have both. ``rows`` are places in the first one's rows, and
    ``others`` those of the same rows in the other's."""

    rows: Ints
    others: Ints
    seen: NDArray[np.bool_] | None  # [P, rows]; None: all, of whole grids


def shared_cells(one: Grid, other: Grid) -> SharedCells | None:
    """None where prompts or pools differ, or where some prompt has no cell in both."""
    if one.prompts != other.prompts or one.n_rows != other.n_rows:
        return None
    every = np.arange(len(one.rows))
    if one.seen is None and other.seen is None:
        return SharedCells(every, every, None) if one.rows == other.rows else None
    place = {row: j for j, row in enumerate(other.rows)}
    rows = np.array([j for j in every if one.rows[j] in place], np.int64)
    others = np.array([place[one.rows[j]] for j in rows], np.int64)
    parts = [
        np.ones((len(one.prompts), len(at)), bool) if grid.seen is None else grid.seen[:, at]
        for grid, at in ((one, rows), (other, others))
    ]
    seen = parts[0] & parts[1]
    met = seen.any(axis=0)
    if not seen.any(axis=1).all():
        return None
    return SharedCells(rows[met], others[met], seen[:, met])


def _refuse_unbalanced(found: NDArray[np.bool_], prompts: Sequence[str], sample: Mapping[str, int], where: str) -> None:
    """Of a sample in two stages, which rows it has left out is not known here, so that only its size and its balance
    can be checked."""
    of_prompt = found.sum(axis=1)
    if len(prompts) == sample["prompts"] and found.sum() == sample["cells"] and np.ptp(of_prompt) <= 2:
        return
    raise ScoreError(
        f"{where}: {int(found.sum())} cells of {len(prompts)} prompts, {int(of_prompt.min())} to "
        f"{int(of_prompt.max())} of each, but the sample has {sample['cells']} of {sample['prompts']}, as many of "
        "each. Remove the file and run again"
    )


def _designed(
    prompts: Sequence[str], rows: Sequence[str], labels: Sequence[str], sample: Mapping[str, int], where: str
) -> NDArray[np.bool_]:
    """[P, R] the cells that the sample must hold."""
    used = design.rows_used(sample["cells"], sample["prompts"], sample["rows"])
    if (len(prompts), len(rows)) != (sample["prompts"], used):
        raise ScoreError(
            f"{where}: {len(prompts)} prompts and {len(rows)} rows, but the sample has {sample['prompts']} and {used}. "
            "Remove the file and run again"
        )
    return design.balanced(prompts, rows, labels, sample["cells"])


def _refuse_other_cells(
    found: NDArray[np.bool_],
    wanted: NDArray[np.bool_],
    prompts: tuple[str, ...],
    rows: tuple[str, ...],
    where: str,
    whole: bool,
) -> None:
    missing = wanted & ~found
    if missing.any():
        i, j = divmod(int(missing.argmax()), len(rows))
        rule = "Every prompt must be scored on the same rows" if whole else "The sample's design asks for it"
        raise ScoreError(
            f'{where}: no score for prompt "{prompts[i]}" on row "{rows[j]}" ({int(missing.sum())} of '
            f"{int(wanted.sum())} cells missing). {rule}: remove the file and run again"
        )
    _refuse_contradiction(found & ~wanted, prompts, rows, where, "is not in the sample. Remove the file and run again")


def _placed(values: NDArray[Any], place: Ints, shape: tuple[int, int], empty: Any) -> NDArray[Any]:
    """[P, R] each value in its cell, ``empty`` in the others."""
    out = np.full(shape[0] * shape[1], empty, values.dtype)
    out[place] = values
    return out.reshape(shape)


def _encoded(column: pa.ChunkedArray) -> tuple[list[str], Ints]:
    """The texts that occur and, for every row, the place of its own among them; -1 for a null."""
    one = column.unify_dictionaries().combine_chunks()
    if isinstance(one, pa.ChunkedArray):  # of no chunk, or of more text than one array holds
        one = pa.concat_arrays(one.chunks) if one.num_chunks else pa.array([], column.type)
    if not pa.types.is_dictionary(one.type):
        one = one.dictionary_encode()
    places = one.indices.fill_null(-1) if one.indices.null_count else one.indices  # checking first is cheaper
    return one.dictionary.to_pylist(), places.to_numpy().astype(np.int64)


def _codes(column: pa.ChunkedArray, where: str, name: str) -> tuple[tuple[str, ...], Ints]:
    if column.null_count:
        raise ScoreError(f"{where}: {column.null_count} score rows have no {name}")
    found, at = _encoded(column)
    used = np.bincount(at, minlength=len(found)) > 0
    ids = sorted({text for text, occurs in zip(found, used, strict=True) if occurs})
    place = {text: i for i, text in enumerate(ids)}
    return tuple(ids), np.array([place.get(text, -1) for text in found], np.int64)[at]


def _occurring(table: pa.Table) -> tuple[str, ...]:
    found = {*pc.unique(table["label"]).to_pylist(), *pc.unique(table["predicted"]).to_pylist()}
    return tuple(sorted(v for v in found if v is not None))


def _label_codes(column: pa.ChunkedArray, labels: tuple[str, ...], where: str, name: str) -> Ints:
    found, at = _encoded(column)
    place = {text: i for i, text in enumerate(labels)}
    codes = np.array([*(place.get(text, NO_ANSWER) for text in found), NO_ANSWER], np.int64)[at]  # the last: nulls
    unknown = (codes == NO_ANSWER) & (at >= 0)
    if unknown.any():
        value = found[int(at[unknown.argmax()])]
        raise ScoreError(f'{where}: {name} = "{value}" is not a label of the task.{nearest(value, labels)}')
    return codes


def _refuse_doubled(
    table: pa.Table, prompts: tuple[str, ...], rows: tuple[str, ...], place: Ints, counts: Ints, where: str
) -> None:
    if not (counts > 1).any():
        return
    cell = int((counts > 1).argmax())
    i, j = divmod(cell, len(rows))
    twins = table.take(pa.array(np.flatnonzero(place == cell))).select(["label", "predicted", "correct"]).to_pylist()
    kind = "the same answer" if all(t == twins[0] for t in twins) else "contradictory answers"
    raise ScoreError(
        f'{where}: prompt "{prompts[i]}" on row "{rows[j]}" is scored {counts[cell]} times with {kind} '
        f"({int((counts > 1).sum())} such cells). One score per cell: remove the file and run again"
    )


def _refuse_contradiction(
    bad: NDArray[np.bool_], prompts: tuple[str, ...], rows: tuple[str, ...], where: str, what: str
) -> None:
    if bad.any():
        i, j = np.unravel_index(int(bad.argmax()), bad.shape)
        raise ScoreError(f'{where}: prompt "{prompts[i]}", row "{rows[j]}": {what}')


def _logprobs(column: pa.ChunkedArray, place: Ints, shape: tuple[int, int]) -> tuple[Floats | None, bool]:
    flat = pc.list_flatten(column).to_numpy(zero_copy_only=False).astype(np.float64)
    nan = bool(np.isnan(flat).any())
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    if lengths[0] == 0 or (lengths != lengths[0]).any():
        return None, nan
    out = np.full((shape[0] * shape[1], int(lengths[0])), np.nan)
    out[place] = flat.reshape(len(place), -1)
    return out.reshape(*shape, -1), nan
