"""What trials read besides the model: the task's rows and the pools of prompts. Sent to hosts as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.data.rows import Row
from trainer.data.wording import Prompt


@dataclass(frozen=True)
class Assets:
    rows: Mapping[str, tuple[Row, ...]]  # train, dev, test
    train_pools: Mapping[str, tuple[Prompt, ...]]  # by the name that the axis ``pool`` uses
    pools: Mapping[str, tuple[Prompt, ...]]  # dev, test
