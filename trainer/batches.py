"""Which example is trained when, under which prompt, and how sequences become padded micro-batches.

Order and prompt are pure functions of (seed, position): the same for any number of workers or slots, and after
any restart. Nothing here keeps state.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.loss import COMPLETION, Weights
from trainer.slots import Batch
from trainer.trial import Draw, Optimization

Ids = NDArray[np.int32]


def stable_hash(*parts: object) -> int:
    """A 63-bit hash of the parts, the same in every process (Python's own hash is salted)."""
    data = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Pick:
    """One example of an effective batch: indices of its row and prompt."""

    row: int
    prompt: int


class Order:
    """The stream of examples of one trial: rows reshuffled every epoch, prompts redrawn as ``draw`` says."""

    def __init__(self, seed: int, n_rows: int, n_prompts: int, draw: Draw, plan: Optimization):
        self.seed, self.n_rows, self.n_prompts, self.draw = seed, n_rows, n_prompts, draw
        self.size = plan.batch_size * plan.accumulation
        self.block = draw.every * (self.size if draw.unit == "steps" else 1)
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def batch(self, step: int) -> list[Pick]:
        """The effective batch of optimizer step ``step`` (0-based)."""
        return [self.pick(step * self.size + i) for i in range(self.size)]

    def pick(self, position: int) -> Pick:
        epoch, place = divmod(position, self.n_rows)
        if epoch != self._epoch:
            self._permutation = np.random.default_rng([self.seed, epoch]).permutation(self.n_rows)
            self._epoch = epoch
        row = int(self._permutation[place])
        return Pick(row, self.prompt(epoch, place, row))

    def prompt(self, epoch: int, place: int, row: int) -> int:
        """Algorithm 1 of PAFT: one uniform draw per ``block`` consecutive examples of an epoch; ``load``: one per
        row for the whole training, as the paper's released code does it."""
        if self.n_prompts == 1:
            return 0
        if self.draw.mode == "load":
            return stable_hash("load", self.seed, row) % self.n_prompts
        return stable_hash("dynamic", self.seed, epoch, place // self.block) % self.n_prompts


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


def micro_batches(sequences: Sequence[Sample], token_budget: int) -> Iterator[list[Sample]]:
    """Sequences sorted by length into groups whose padded size stays within ``token_budget`` (at least one each)."""
    group: list[Sample] = []
    for s in sorted(sequences, key=lambda s: (-len(s.ids), s.slot)):
        longest = len(group[0].ids) if group else len(s.ids)
        if group and longest * (len(group) + 1) > token_budget:
            yield group
            group = []
        group.append(s)
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
            weight, done = np.ones(1, np.float32), np.ones(1, bool)
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
    )


def _positions_of(group: Sequence[Sample], cols: Sequence[NDArray]) -> tuple[tuple[int, int], ...]:
    """((slot, wanted positions), …) of a group that is sorted by slot."""
    counts: dict[int, int] = {}
    for s, at in zip(group, cols, strict=True):
        counts[s.slot] = counts.get(s.slot, 0) + len(at)
    return tuple((slot, n) for slot, n in counts.items() if n)
