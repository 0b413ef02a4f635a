"""Which adapter slot each row of a batch belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Batch:
    """Model input for B rows of L positions. Right-padded; padding has ``mask`` 0.

    ``mask`` is [B, L] (1 = token), or [B, 1, L, L] bool (True = may attend) where options share a prefix.
    ``blocks`` ((slot, rows), …) may be given where rows are sorted by slot and nothing precedes or joins them: plain
    sequences from position 0.
    ``rows``/``cols`` [N] name the positions whose next-token logits are wanted. Where ``rows`` ascend, ``most_in_row``
    may say how many one row has at most, and ``wanted_blocks`` ((slot, positions), …) divide them as ``blocks`` do the
    rows: the last layer is then computed there alone. ``dropout_keys`` [B] (int64) seeds each row's dropout mask; None
    outside training.
    """

    input_ids: Tensor
    mask: Tensor
    position_ids: Tensor
    slots: Tensor  # [B]
    rows: Tensor  # [N]
    cols: Tensor  # [N]
    dropout_keys: Tensor | None = None
    only: int | None = None  # the slot, where all rows share it
    blocks: tuple[tuple[int, int], ...] | None = None
    most_in_row: int | None = None
    wanted_blocks: tuple[tuple[int, int], ...] | None = None

    def to(self, device: torch.device) -> Batch:
        moved: dict[str, Any] = {
            k: (v.to(device, non_blocking=True) if isinstance(v, Tensor) else v) for k, v in self.__dict__.items()
        }
        return Batch(**moved)


@dataclass
class Routing:
    """What the layers need to know of the batch in flight; set by ``SlotModel.forward``."""

    slots: Tensor | None = None
    only: int | None = None  # the slot, when all rows share it
    length: int = 0  # positions of each row
    rows: Tensor | None = None
    cols: Tensor | None = None
    dropout_keys: Tensor | None = None
    blocks: tuple[tuple[int, int], ...] | None = None
    most_in_row: int | None = None
    wanted_blocks: tuple[tuple[int, int], ...] | None = None
    dropout: list[float] = field(default_factory=list)  # per slot
    may_pick: bool = True  # False where several workers must do the same operations in the same order
    columns: Tensor | None = None  # [rows of the layer's input], where they are single positions of longer sequences
    wanted_only: bool = False  # the last layer has left the other positions out

    def take(self, batch: Batch, n_slots: int) -> None:
        """Begin a pass over ``batch``."""
        for name in ("slots", "rows", "cols", "blocks", "most_in_row", "wanted_blocks"):
            setattr(self, name, getattr(batch, name))
        self.only, self.length = 0 if n_slots == 1 else batch.only, batch.input_ids.shape[1]
        dropping = batch.dropout_keys is not None and any(self.dropout)
        self.dropout_keys = batch.dropout_keys if dropping else None
        self.wanted_only = False

    def wanted(self, hidden: Tensor) -> Tensor:
        """[N, H] the last hidden states at the wanted positions."""
        return hidden[:, 0] if self.wanted_only else hidden[self.rows, self.cols]

    @contextmanager
    def at_wanted(self) -> Iterator[None]:
        """While the wanted positions, and not the batch's rows, are what layers see: [N, 1, features]."""
        assert self.slots is not None
        assert self.rows is not None
        before = (self.slots, self.length, self.blocks, self.dropout_keys, self.columns)
        self.slots, self.length, self.columns = self.slots[self.rows], 1, self.cols
        self.blocks = self.wanted_blocks if self.blocks is not None else None
        self.dropout_keys = None if self.dropout_keys is None else self.dropout_keys[self.rows]
        try:
            yield
        finally:
            self.slots, self.length, self.blocks, self.dropout_keys, self.columns = before
        self.wanted_only = True
