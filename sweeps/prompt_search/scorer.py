"""The scorer that all prompt searches use: a prompt's metric on given rows, and what that has cost.

A *scoring* is one prompt on one row. The budget counts each scoring that a search asks for, once. Scorings that the
journal has from an earlier run count against the budget too, although they are not computed again. So a search that is
continued takes the same decisions as one that was never interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from sweeps.prompt_search.journal import ScoredCell, SearchJournal, WriterReply
from trainer.data.rows import Row
from trainer.data.wording import Prompt
from trainer.errors import UserError
from trainer.measure.confusion import counted_answers, formula_of
from trainer.measure.registry import ACCURACY
from trainer.score.decide import decide
from trainer.trial import digest

BATCH = 512  # cells that are computed and written to the journal together
Pair = tuple[Prompt, Row]


class BudgetSpent(Exception):
    """The request would cost more scorings than are left. None of them was computed."""


class ScoringEngine(Protocol):
    """Scores pairs of a prompt and a row. ``context`` is a digest of everything else that the values depend on: model,
    template, task, decision rule."""

    context: str

    def load(self) -> None:
        """Load the model before the first pairs, so that the loading time is not counted as scoring."""
        ...

    def __call__(self, pairs: Sequence[Pair]) -> list[tuple[tuple[float, ...], int]]:
        """(values, tokens) of each pair, as in ``journal.ScoredCell``."""
        ...


@dataclass
class Spent:
    """What one search has used. ``seconds`` are those of the run that computed the cells."""

    scorings: int = 0
    reused: int = 0  # scorings of these that the journal had
    tokens: int = 0
    seconds: float = 0.0
    nan: int = 0  # scorings where the model gave NaN; they count as wrong answers
    requests: int = 0  # to the writer of new wordings
    written: int = 0  # texts in its replies
    written_tokens: int | None = None  # None where the writer counts none

    def add_cell(self, cell: ScoredCell, reused: bool) -> None:
        self.scorings += 1
        self.reused += reused
        self.tokens += cell.tokens
        self.seconds += cell.seconds
        self.nan += any(np.isnan(cell.values))

    def add_embedded(self, tokens: int, seconds: float) -> None:
        """Add prompts that went through the model to be embedded: they cost tokens and time, but are no scorings."""
        self.tokens += tokens
        self.seconds += seconds

    def add_written(self, answer: WriterReply) -> None:
        self.requests += 1
        self.written += len(answer.texts)
        self.seconds += answer.seconds
        if answer.tokens is not None:
            self.written_tokens = (self.written_tokens or 0) + answer.tokens


@dataclass
class Scorer:
    """``labels`` are the task's, empty where rows bring options; ``limit`` is the budget in scorings, None for none."""

    engine: ScoringEngine
    journal: SearchJournal
    labels: tuple[str, ...] = ()
    decision: str = "raw"
    metric: str = "accuracy"
    limit: int | None = None
    spent: Spent = field(default_factory=Spent)
    _asked: dict[str, ScoredCell] = field(default_factory=dict)
    _computed: set[str] = field(default_factory=set)  # keys of the cells that this process computed
    _of_prompt: dict[str, list[ScoredCell]] = field(
        default_factory=dict
    )  # by wording, in the order they were asked for

    @property
    def left(self) -> float:
        """Scorings that may still be asked for; infinite without a budget."""
        return float("inf") if self.limit is None else self.limit - self.spent.scorings

    def score(self, prompt: Prompt, rows: Sequence[Row]) -> float:
        """The metric on ``rows``. Raises BudgetSpent."""
        return self.scores([prompt], rows)[0]

    def scores(self, prompts: Sequence[Prompt], rows: Sequence[Row]) -> list[float]:
        """The metric of each prompt on ``rows``. Raises BudgetSpent, before anything is computed."""
        found = self.cells([(p, r) for p in prompts for r in rows])
        right = np.array([self.right(r) for r in rows])
        n = len(rows)
        return [self._metric(self._answers(found[i * n : (i + 1) * n]), right) for i in range(len(prompts))]

    def margins(self, pairs: Sequence[Pair]) -> np.ndarray:
        """By how much the value of each pair's right answer exceeds that of the best wrong one; below 0 the answer is
        wrong. With rule ``batch`` the mean over all of the prompt's cells so far is subtracted first."""
        found = self.cells(pairs)
        shifts = {p.text: self._shift(p.text) for p, _ in pairs} if self.decision == "batch" else {}
        gaps = []
        for (prompt, row), cell in zip(pairs, found, strict=True):
            values = np.array(cell.values) - shifts.get(prompt.text, 0.0)
            right = self.right(row)
            gaps.append(values[right] - np.delete(values, right).max())
        return np.nan_to_num(np.array(gaps), nan=-np.inf)

    def cells(self, pairs: Sequence[Pair]) -> list[ScoredCell]:
        """One cell per pair; new ones are computed. Raises BudgetSpent before any is computed."""
        keys = [self._key(p, r) for p, r in pairs]
        new = {k: pair for k, pair in zip(keys, pairs, strict=True) if k not in self._asked}
        if len(new) > self.left:
            raise BudgetSpent(f"{len(new)} scorings asked for, {self.left:.0f} left")
        self._compute(new)
        for key, (prompt, _) in new.items():
            cell = self.journal.cells[key]
            self._asked[key] = cell
            self._of_prompt.setdefault(prompt.text, []).append(cell)
            self.spent.add_cell(cell, key not in self._computed)
        return [self._asked[k] for k in keys]

    def prepare(self, prompts: Sequence[Prompt], rows: Sequence[Row]) -> None:
        """Compute in large batches the cells that will be asked for prompt by prompt. They count against the budget
        only when they are asked for. Prompts that the budget does not reach are left out."""
        fitting = prompts if self.limit is None else prompts[: int(self.left // max(1, len(rows)))]
        self._compute({self._key(p, r): (p, r) for p in fitting for r in rows})

    def fits(self, pairs: Sequence[Pair]) -> list[bool]:
        """Whether each pair is within the task's length, as far as the engine knows; costs no scoring."""
        measure = getattr(self.engine, "fits", None)
        return [True] * len(pairs) if measure is None else list(measure(pairs))

    def right(self, row: Row) -> int:
        """The position of the row's right answer among the labels or options."""
        return self.labels.index(row.label) if self.labels else int(row.label)

    def _compute(self, wanted: Mapping[str, Pair]) -> None:
        """Compute the cells that the journal lacks, batch by batch, and write each batch to the journal.
        Batches start at the first missing cell, so a search that is continued computes the same batches."""
        missing = [(key, pair) for key, pair in wanted.items() if key not in self.journal.cells]
        if missing:
            self.engine.load()
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            began = time.perf_counter()
            values = self.engine([pair for _, pair in part])
            share = (time.perf_counter() - began) / len(part)
            self.journal.add_cells(
                {key: ScoredCell(v, tokens, share) for (key, _), (v, tokens) in zip(part, values, strict=True)}
            )
            self._computed.update(key for key, _ in part)

    def _key(self, prompt: Prompt, row: Row) -> str:
        return digest([self.engine.context, prompt.text, sorted(row.fields.items()), list(row.options)])[:32]

    def _answers(self, cells: Sequence[ScoredCell]) -> np.ndarray:
        rule = "batch" if self.decision == "batch" else "raw"  # the engine has applied the other rules to the values
        return decide(rule, [np.array(c.values) for c in cells])

    def _shift(self, text: str) -> np.ndarray:
        table = np.array([c.values for c in self._of_prompt[text]])
        whole = ~np.isnan(table).any(axis=1)
        return table[whole].mean(axis=0) if whole.any() else np.zeros(table.shape[1])

    def _metric(self, answers: np.ndarray, right: np.ndarray) -> float:
        if self.metric == ACCURACY:
            return float((answers == right).mean())
        counts = counted_answers(answers[None], right, len(self.labels))
        return float(formula_of(self.metric, self.labels)(counts)[0][0])

    def refuse_all_nan(self) -> None:
        """Raise UserError where the model has given nothing but NaN, so that prompts cannot be compared."""
        if self.spent.scorings and self.spent.nan == self.spent.scorings:
            raise UserError(
                f"the base model gave NaN in all of {self.spent.scorings} scorings, so no prompt is better than "
                "another. Its weights are damaged, or model.dtype is too small for it: try model.dtype=float32"
            )
