"""Which example is trained when, under which prompt, and how sequences become padded micro-batches.

Order and prompt are pure functions of (seed, position): the same for any number of workers or slots, and after
any restart. Nothing here keeps state: what an arm learns from losses is in ``trainer.train.arms.PromptMemory``.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.data.kinds import COMPLETION
from trainer.model.routing import Batch
from trainer.train.adversary import WorstWordings
from trainer.train.arms import PromptMemory, distinct, open_prompts
from trainer.train.loss import Weights
from trainer.train.row_order import AllRows, BalancedRows, RowOrder
from trainer.train.row_subsets import RowStage, all_rows
from trainer.trial import Arm, Draw, Optimization

Ids = NDArray[np.int32]
PLAIN_ARM = Arm()  # uniform draws, and nothing else


def stable_hash(*parts: object) -> int:
    """A 63-bit hash of the parts, the same in every process (Python's own hash is salted)."""
    data = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Pick:
    """One example of an effective batch: indices of its row and prompt, and of the format in the arm's list; or of one
    of the worst wordings instead of the prompt.

    Examples of equal ``family`` (the row's position in the stream) are views: one row under several wordings."""

    row: int
    prompt: int
    format: int = 0
    family: int = -1
    candidate: int = -1  # its place among the arm's candidates, which have formats of their own


class ExampleOrder:
    """The stream of examples of one trial: rows reshuffled every epoch, prompts redrawn as ``draw`` and ``arm`` say.

    ``by_difficulty``: places of the prompts, easiest first, for a curriculum. ``labels``: the rows', which are drawn
    equally often if ``plan`` balances them; an epoch is then as many draws as there are rows to draw from. With V views
    each row comes V times in succession: a step has as many sequences as without views, and 1 / V of the rows.
    ``stages``: which rows are drawn from when; without them all rows, always."""

    def __init__(
        self,
        seed: int,
        n_rows: int,
        n_prompts: int,
        draw: Draw,
        plan: Optimization,
        arm: Arm = PLAIN_ARM,
        by_difficulty: Sequence[int] = (),
        labels: Sequence[str] = (),
        stages: Sequence[RowStage] = (),
    ):
        self.seed, self.n_rows, self.n_prompts, self.draw, self.arm = seed, n_rows, n_prompts, draw, arm
        self.size = plan.batch_size * plan.accumulation
        if self.size % arm.views:
            raise ValueError(f"views = {arm.views} does not divide the {self.size} sequences of a step")
        self.rows_per_step = self.size // arm.views
        self.block = draw.every * (self.rows_per_step if draw.unit == "steps" else 1)
        self._rows_in_all = max(1, plan.steps * self.rows_per_step)
        self._easiest = tuple(by_difficulty) or tuple(range(n_prompts))
        balanced = plan.balance == "labels"
        if balanced and len(labels) != n_rows:
            raise ValueError(f"balance needs the labels of all {n_rows} rows, and got {len(labels)}")
        self._stages = tuple(stages) or (all_rows(n_rows),)
        self._rows: list[RowOrder] = [
            BalancedRows(seed, labels, stage) if balanced else AllRows(seed, stage) for stage in self._stages
        ]

    def batch(self, step: int, memory: PromptMemory | None = None) -> list[Pick]:
        """The effective batch of optimizer step ``step`` (0-based)."""
        return [self.pick(step * self.size + i, memory) for i in range(self.size)]

    def pick(self, position: int, memory: PromptMemory | None = None) -> Pick:
        at, view = divmod(position, self.arm.views)
        k = max(i for i, stage in enumerate(self._stages) if stage.first <= at)
        stage = self._stages[k]
        epoch, place = divmod(at - stage.first, len(stage.places))
        epoch += stage.first_epoch
        row = self._rows[k].row(at)
        n_formats = len(self.arm.formats)
        form = stable_hash("format", self.seed, at) % n_formats if n_formats > 1 else 0
        family = at if self.arm.views > 1 else -1
        prompt = self.prompt(epoch, at - place, place, row, view, memory)
        if isinstance(memory, WorstWordings):
            u, v = (stable_hash("worst", self.seed, position, i) / 2**63 for i in (0, 1))
            if (worst := memory.draw(u, v)) is not None:
                return Pick(row, prompt, form, family, worst)
        return Pick(row, prompt, form, family)

    def prompt(
        self, epoch: int, begin: int, place: int, row: int, view: int = 0, memory: PromptMemory | None = None
    ) -> int:
        """Algorithm 1 of PAFT: one uniform draw per ``block`` consecutive rows of an epoch; ``load``: one per
        row for the whole training, as the paper's released code does it. The views of a row are drawn without
        repeats. An ``importance`` draw turns the block's number into a prompt by the probabilities of the moment, so a
        block that spans steps may move on to another prompt between them. ``begin``: number of the epoch's first row in
        the stream."""
        if self.n_prompts == 1:
            return 0
        if self.draw.mode == "load":
            key: tuple[object, ...] = ("load", self.seed, row)
            n = self.n_prompts
        else:
            block = place // self.block
            key = ("dynamic", self.seed, epoch, block)
            n = self._open(begin + block * self.block)
        if self.arm.choice == "importance":
            if memory is None:
                raise ValueError("a draw by importance needs what was learnt of the prompts")
            return memory.choose(stable_hash(*key) / 2**63)
        numbers = [stable_hash(*key), *(stable_hash(*key, v) for v in range(1, view + 1))]
        place_in_open = distinct(n, numbers)[view]
        return self._easiest[place_in_open] if self.arm.choice == "curriculum" else place_in_open

    def _open(self, at: int) -> int:
        """How many prompts may be drawn for row number ``at`` of the stream."""
        if self.arm.choice != "curriculum":
            return self.n_prompts
        return open_prompts(self.n_prompts, at / self._rows_in_all)


@dataclass(frozen=True)
class Sample:
    """One tokenised example on its way through the model. ``weights`` [L] belong to tokens as targets."""

    slot: int
    ids: Ids
    weights: Weights
    kinds: NDArray[np.int8]
    normalizer: float  # W of the effective batch it belongs to
    dropout_key: int = 0
    label: int = -1  # class index for the classification head; -1: predict the next tokens
    prompt: int = -1  # its place in the pool, where the trial learns from the loss under each; else -1
    family: int = -1  # equal for the views of one row, where their answers are to agree; else -1
    consistency: float = 0.0  # weight of its family's divergence in the loss of the step


def families(samples: Sequence[Sample]) -> list[list[Sample]]:
    """``samples`` in their order, the views of a row together: they must meet in one pass."""
    found: dict[tuple[int, int], list[Sample]] = {}
    for i, s in enumerate(samples):
        found.setdefault((s.slot, s.family) if s.family >= 0 else (-1, i), []).append(s)
    return list(found.values())


def micro_batches(sequences: Sequence[Sample], token_budget: int) -> Iterator[list[Sample]]:
    """Sequences sorted by length into groups whose padded size stays within ``token_budget`` (at least one each, or one
    row's views)."""
    group: list[Sample] = []
    longest = 0  # of the group: its first family holds it
    for part in sorted(families(sequences), key=lambda p: (-max(len(s.ids) for s in p), p[0].slot)):
        if group and longest * (len(group) + len(part)) > token_budget:
            yield group
            group = []
        if not group:
            longest = max(len(s.ids) for s in part)
        group += part
    if group:
        yield group


@dataclass
class Collated:
    """A micro-batch as tensors: model input, and for each of its N wanted positions what it should predict."""

    batch: Batch
    targets: torch.Tensor  # [N] next token, or class index
    weights: torch.Tensor  # [N]
    normalizers: torch.Tensor  # [N]
    completion: torch.Tensor  # [N] bool: the target is a completion token
    prompts: list[tuple[int, int]]  # (slot, place of the prompt or -1) of each sequence
    families: list[tuple[float, torch.Tensor]]  # weight, and places [V, T] in N of the answer's tokens under each view


def collate(group: Sequence[Sample], pad_id: int) -> Collated:
    group = sorted(group, key=lambda s: s.slot)
    lengths = np.array([len(s.ids) for s in group])
    L = int(lengths.max())
    ids = np.full((len(group), L), pad_id, dtype=np.int64)
    rows, cols, targets, weights, normalizers, completion = [], [], [], [], [], []
    for b, s in enumerate(group):
        ids[b, : len(s.ids)] = s.ids
        if s.label >= 0:
            at, goal = np.array([len(s.ids) - 1]), np.array([s.label])
            weight, done = s.weights[-1:], np.ones(1, bool)
        else:
            at = np.flatnonzero(s.weights[1:])  # the output layer runs only where the weight is not zero
            goal, weight, done = s.ids[at + 1], s.weights[at + 1], s.kinds[at + 1] == COMPLETION
        rows.append(np.full(len(at), b))
        cols.append(at)
        targets.append(goal)
        weights.append(weight)
        normalizers.append(np.full(len(at), s.normalizer, np.float32))
        completion.append(done)

    def tensor(parts: list[NDArray], dtype: torch.dtype) -> torch.Tensor:
        return torch.as_tensor(np.concatenate(parts), dtype=dtype)

    batch = Batch(
        input_ids=torch.from_numpy(ids),
        mask=torch.from_numpy((np.arange(L)[None] < lengths[:, None]).astype(np.int64)),
        position_ids=torch.arange(L)[None].expand(len(group), L),
        slots=torch.tensor([s.slot for s in group]),
        blocks=tuple((slot, len(list(rows))) for slot, rows in itertools.groupby(s.slot for s in group)),
        most_in_row=max(map(len, cols)),
        wanted_blocks=_positions_of(group, cols),
        rows=tensor(rows, torch.long),
        cols=tensor(cols, torch.long),
        dropout_keys=torch.tensor([s.dropout_key for s in group]),
    )
    return Collated(
        batch,
        tensor(targets, torch.long),
        tensor(weights, torch.float32),
        tensor(normalizers, torch.float32),
        tensor(completion, torch.bool),
        [(s.slot, s.prompt) for s in group],
        _views(group, targets, completion),
    )


def _views(
    group: Sequence[Sample], targets: Sequence[NDArray], completion: Sequence[NDArray]
) -> list[tuple[float, torch.Tensor]]:
    """Of each family in the group: its weight, and the places of the answer's tokens among the wanted positions. The
    first T tokens are compared, up to and including the first at which the views' answers differ: after it the views
    go on from different texts."""
    starts = np.cumsum([0, *map(len, targets)])
    members: dict[tuple[int, int], list[int]] = {}
    for b, s in enumerate(group):
        if s.family >= 0 and s.consistency > 0:
            members.setdefault((s.slot, s.family), []).append(b)
    found = []
    for rows in members.values():
        own = [np.flatnonzero(completion[b]) for b in rows]
        T = min(map(len, own))
        answers = np.stack([targets[b][o[:T]] for b, o in zip(rows, own, strict=True)])
        differs = np.flatnonzero((answers != answers[:1]).any(axis=0))
        T = int(differs[0]) + 1 if len(differs) else T
        places = np.stack([starts[b] + o[:T] for b, o in zip(rows, own, strict=True)])
        if len(rows) > 1 and T:
            found.append((group[rows[0]].consistency, torch.from_numpy(places)))
    return found


def _positions_of(group: Sequence[Sample], cols: Sequence[NDArray]) -> tuple[tuple[int, int], ...]:
    """((slot, wanted positions), …) of a group that is sorted by slot."""
    counts: dict[int, int] = {}
    for s, at in zip(group, cols, strict=True):
        counts[s.slot] = counts.get(s.slot, 0) + len(at)
    return tuple((slot, n) for slot, n in counts.items() if n)
