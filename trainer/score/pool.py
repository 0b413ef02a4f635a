"""Score a pool: every prompt x every row for all trials that are resident together, as score rows.

Before a trial's last rung it may be a sample of the dev pool's cells (``trainer.measure.design``), the same for every
trial. Requests are rendered once per template and kept, since every trial with that template is asked the same. Label
comparison, classification heads and generation give the same table. The decision rule ``batch`` centres a prompt's
labels on the rows that were scored: in a sample, on the rows of the sample (each label in its share of the rows).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from trainer.data.assets import Assets
from trainer.data.render import Renderer, Request
from trainer.data.rows import Row
from trainer.data.wording import Prompt
from trainer.errors import UserError
from trainer.measure import design
from trainer.model.slots import SlotModel
from trainer.score.calibration import Baseline, baseline_for
from trainer.score.decide import decide
from trainer.score.generation import generate_answers
from trainer.score.logprobs import TOKEN_BUDGET, label_logprobs, logit_lines, sharing_is_exact
from trainer.score.prefill import lines_of, padded_tokens
from trainer.score.thoughts import with_thoughts
from trainer.store import SCORES
from trainer.trial import Task, Template, Trial
from trainer.work import Block, Span

WEIGHED = 2000  # cells of a pool, about, of which the tokens are counted


@dataclass(frozen=True)
class Member:
    """A trial that is scored together with others: its slot, how its rows are rendered, and its rung."""

    slot: int
    trial: Trial
    renderer: Renderer
    rung: int


@dataclass(frozen=True)
class Answers:
    """One trial's answers to n requests: the option taken (-1: none), label log-probabilities, tokens generated."""

    taken: np.ndarray  # int64 [n]
    logprobs: list[np.ndarray] | list[np.ndarray | None] | None = None  # float64 [k_i] each; of texts, [1] where NaN
    new_tokens: list[int] | None = None  # [n]


@dataclass(frozen=True)
class PoolRequests:
    """One template's requests over a pool, prompt by prompt, and what its decision rule compares them with."""

    pairs: list[tuple[Prompt, Row]]
    requests: list[Request]
    baseline: Baseline | None

    @property
    def count(self) -> int:
        """All requests, with those of the baseline."""
        return len(self.requests) + (len(self.baseline.requests) if self.baseline else 0)


class Tally:
    """Counts the cells that are done while several trials are scored together. A cell for which the model thinks is
    done when its thought is written, since that takes nearly all of its time."""

    def __init__(self, asked: Sequence[PoolRequests], tell: Callable[[float], None] | None):
        self.tell = tell
        self.cells, self.requests = sum(len(a.requests) for a in asked), sum(a.count for a in asked)
        self.begun = 0  # requests of the parts so far

    def part(self, requests: int) -> Callable[[float], None]:
        """To be called with the share that is done of the next part of the work, which is so many requests."""
        before = self.begun
        self.begun += requests

        def told(share: float) -> None:
            if self.tell is not None and requests:
                self.tell(self.cells * (before + min(share, 1.0) * requests) / self.requests)

        return told


def prompts_of(block: Block, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
    k, n = block
    return prompts[k * len(prompts) // n : (k + 1) * len(prompts) // n]


def _sampled(prompts: Sequence[Prompt], rows: Sequence[Row], share: float, most: int) -> np.ndarray:
    """[P, R] the cells of a sample that is taken at once."""
    size = design.sample_size(share, len(prompts), len(rows), most)
    if size.cells >= len(prompts) * len(rows):
        return np.ones((len(prompts), len(rows)), bool)
    ids, labels = [r.id for r in rows], [r.label for r in rows]
    kept = design.choose_rows(ids, labels, size.rows)
    seen = np.zeros((len(prompts), len(rows)), bool)
    of_kept = design.balanced([p.id for p in prompts], [ids[j] for j in kept], [labels[j] for j in kept], size.cells)
    seen[:, kept] = of_kept
    return seen


def _staged(prompts: Sequence[Prompt], rows: Sequence[Row], span: Span) -> np.ndarray:
    """[P, R] the cells of ``span``."""
    ids = [p.id for p in prompts], [r.id for r in rows], [r.label for r in rows]
    seen = design.staged(*ids, span.cells)
    return seen & ~design.staged(*ids, span.begun) if span.begun else seen


class PoolScorer:
    """Scores trials on the dev and test pools of one study's assets."""

    def __init__(self, assets: Assets):
        self.assets = assets
        self._asked: dict[tuple[Template, Task, str, str, Span | tuple[float, int], Block | None], PoolRequests] = {}
        self._pairs: dict[tuple[str, Span | tuple[float, int]], list[tuple[Prompt, Row]]] = {}
        self.cell_tokens: dict[str, float] = {}  # of each pool: tokens through the model for a cell

    def score(
        self,
        model: SlotModel,
        pool: str,
        members: Sequence[Member],
        block: Block | None = None,
        tell: Callable[[float], None] | None = None,
        span: Span | None = None,
    ) -> list[pa.Table]:
        """Score rows of every member, in their order: those of ``block``, or of the whole grid; with ``span``, of those
        cells. Members that compare labels share their batches. The tables of all blocks, one after the other, are the
        table of the grid. ``tell`` is called now and then with the number of cells that are done, of all members
        together."""
        asked = [self._requests_for(m, pool, block, span) for m in members]
        tally = Tally(asked, tell)
        found: dict[int, Answers] = {}
        together = [i for i, m in enumerate(members) if m.trial.scoring.scorer == "labels"]
        compared = self._compare(model, [members[i] for i in together], [asked[i] for i in together], tally)
        found.update(zip(together, compared, strict=True))
        for i, member in enumerate(members):
            if i not in found:
                found[i] = self._generate(model, member, asked[i], tally)
        self._count_tokens(model, members[0])
        return [self._table(m, pool, asked[i], found[i]) for i, m in enumerate(members)]

    def _count_tokens(self, model: SlotModel, member: Member) -> None:
        """Count the tokens of a cell of each pool, once. From the seconds of a cell of one pool follow those of others:
        prompts may have beginnings in common, which are computed once, and large grids need less padding."""
        for pool, prompts in self.assets.pools.items():
            rows = self.assets.rows[pool]
            some = rows[:: -(-len(rows) * len(prompts) // WEIGHED)]
            if pool in self.cell_tokens or not some:
                continue
            self.cell_tokens[pool] = 0.0
            try:
                requests = member.renderer.requests([(prompt, row) for prompt in prompts for row in some])
            except UserError:
                continue  # told when the row is scored
            slots = [member.slot] * len(requests)
            shared = member.trial.scoring.scorer == "labels" and sharing_is_exact(model, requests, slots)
            lines = lines_of(requests, slots, shared)
            self.cell_tokens[pool] = padded_tokens(lines, TOKEN_BUDGET, logit_lines(model)) / len(requests)

    def grid(self, pool: str) -> tuple[int, int]:
        """Prompts and rows of ``pool``."""
        return len(self.assets.pools[pool]), len(self.assets.rows[pool])

    def cells(self, pool: str, which: Span | tuple[float, int]) -> list[tuple[Prompt, Row]]:
        """The prompts and rows that are scored, prompt by prompt: those of the span, or a share of the cells and at
        most so many."""
        if (pool, which) not in self._pairs:
            prompts, rows = self.assets.pools[pool], self.assets.rows[pool]
            seen = _staged(prompts, rows, which) if isinstance(which, Span) else _sampled(prompts, rows, *which)
            self._pairs[pool, which] = [(prompts[i], rows[j]) for i, j in zip(*np.nonzero(seen), strict=True)]
        return self._pairs[pool, which]

    def _requests_for(self, member: Member, pool: str, block: Block | None, span: Span | None) -> PoolRequests:
        trial, renderer = member.trial, member.renderer
        rule = trial.scoring.decision if trial.scoring.scorer == "labels" else "raw"
        which = span or trial.sample_at(member.rung, pool)
        key = (trial.template, trial.task, rule, pool, which, block)
        if key not in self._asked:
            pairs = self.cells(pool, which)
            if block is not None:
                ids = {p.id for p in prompts_of(block, self.assets.pools[pool])}
                pairs = [(prompt, row) for prompt, row in pairs if prompt.id in ids]
            self._asked[key] = PoolRequests(pairs, renderer.requests(pairs), baseline_for(rule, renderer, pairs))
        return self._asked[key]

    def _compare(
        self, model: SlotModel, members: Sequence[Member], asked: Sequence[PoolRequests], tally: Tally
    ) -> list[Answers]:
        requests: list[Request] = []
        slots: list[int] = []
        for m, a in zip(members, asked, strict=True):
            asks = _thought_of(model, m, [*a.requests, *(a.baseline.requests if a.baseline else [])], tally)
            requests += asks
            slots += [m.slot] * len(asks)
        if not requests:
            return []
        unthought = sum(a.count for m, a in zip(members, asked, strict=True) if not m.renderer.thought_end)
        logprobs = label_logprobs(model, requests, slots, tell=tally.part(unthought))
        found, at = [], 0
        for m, a in zip(members, asked, strict=True):
            answered = requests[at : at + len(a.requests)]
            own = logprobs[at : at + len(a.requests)]
            at += len(a.requests)
            baseline = None
            if a.baseline is not None:
                baseline = a.baseline.expand(logprobs[at : at + len(a.baseline.requests)])
                at += len(a.baseline.requests)
            found.append(Answers(self._decide(m.trial, answered, own, baseline), own))
        return found

    def _decide(
        self, trial: Trial, requests: Sequence[Request], logprobs: list[np.ndarray], baseline: list[np.ndarray] | None
    ) -> np.ndarray:
        labels = trial.task.labels
        prior = None
        if labels:  # of the dev rows for every pool: the test rows' shares must not be used
            prior = [sum(r.label == x for r in self.assets.rows["dev"]) for x in labels]
        return decide(
            trial.scoring.decision,
            logprobs,
            [np.array([len(o) for o in r.options]) for r in requests],
            [r.option_bytes for r in requests],
            baseline=baseline,
            prompts=[r.prompt_id for r in requests],
            prior=prior,
        )

    def _generate(self, model: SlotModel, member: Member, asked: PoolRequests, tally: Tally) -> Answers:
        slot, trial, renderer = member.slot, member.trial, member.renderer
        words = [renderer.texts.words(row) for _, row in asked.pairs]
        new = trial.scoring.max_new_tokens
        decode, stops = renderer.tokenizer.decode, renderer.stop_ids
        requests = _thought_of(model, member, asked.requests, tally)
        told = tally.part(0 if renderer.thought_end else asked.count)
        made = generate_answers(model, requests, [slot] * len(words), words, decode, stops, new, tell=told)
        taken = np.array([-1 if a.index is None else a.index for a in made])
        # A list of one NaN tells a NaN from a text that could not be read: the rung's objective becomes NaN
        nan = [np.array([np.nan]) if a.nan else None for a in made]
        return Answers(taken, nan if any(a.nan for a in made) else None, [a.new_tokens for a in made])

    def _table(self, member: Member, pool: str, asked: PoolRequests, answers: Answers) -> pa.Table:
        trial = member.trial
        labels = trial.task.labels
        n = len(asked.requests)
        names = [labels[i] if labels else str(i) for i in range(len(labels) or int(answers.taken.max(initial=0)) + 1)]
        predicted = [names[i] if i >= 0 else None for i in answers.taken.tolist()]
        right = [r.label for r in asked.requests]
        nothing: list[Any] = [None] * n
        columns = {
            "trial_id": pa.array([trial.id] * n, pa.string()),
            "rung": pa.array(np.full(n, member.rung, np.int32)),
            "pool": pa.array([pool] * n, pa.string()),
            "prompt_id": pa.array([r.prompt_id for r in asked.requests], pa.string()),
            "row_id": pa.array([r.row_id for r in asked.requests], pa.string()),
            "label": pa.array(right, pa.string()),
            "predicted": pa.array(predicted, pa.string()),
            "correct": pa.array([p == r for p, r in zip(predicted, right, strict=True)], pa.bool_()),
            "label_logprobs": pa.array(answers.logprobs or nothing, pa.list_(pa.float32())),
            "new_tokens": pa.array(answers.new_tokens or nothing, pa.int16()),
        }
        return pa.table(columns, schema=SCORES)


def _thought_of(model: SlotModel, member: Member, requests: list[Request], tally: Tally) -> list[Request]:
    """The requests, each with the thought of ``member`` where its template lets the model think."""
    if not member.renderer.thought_end:
        return requests
    limit = member.trial.scoring.max_thought_tokens
    told = tally.part(len(requests))
    return with_thoughts(model, requests, [member.slot] * len(requests), member.renderer, limit, told)
