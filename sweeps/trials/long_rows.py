"""Rows that are too long for the study, which ``drop: [too_long]`` leaves out.

A row is too long if its sequence exceeds ``task.max_length``, or what the model can read, with any prompt of its pools
under any template of the study. This is decided once, where the study is loaded: hosts get the rows that are left, and
only these are in the fingerprint and so in trials' ids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sweeps.trials.assets import SPLITS
from trainer.data.assets import Assets
from trainer.data.rows import DroppedRows, Row, none_left
from trainer.data.wording import OPTIONS, Prompt, placeholder_uses
from trainer.errors import UserError
from trainer.trial import Model, Task, Template

if TYPE_CHECKING:
    from sweeps.study.study import Study
    from trainer.data.render import Renderer


def splits_without_long_rows(study: Study) -> list[str]:
    """The splits of which the study drops too long rows."""
    return [split for split in SPLITS if "too_long" in getattr(study.task.rows, split).drop]


def without_long_rows(
    assets: Assets, splits: Sequence[str], model: Model, task: Task, templates: Sequence[Template]
) -> tuple[Assets, list[DroppedRows]]:
    """``assets`` without the too long rows of these ``splits``, and what was dropped. A prompt or template that cannot
    be rendered drops nothing: the checks report it. Raises ``UserError`` if a split has no rows left."""
    from trainer.data.render import Renderer  # numpy and, through the tokenizer, transformers
    from trainer.data.tokenizer import load_tokenizer
    from trainer.model.architecture import check_architecture, positions

    check_architecture(model)
    tokenizer = load_tokenizer(model)
    limit = min(task.max_length, tokenizer.model_max_length, positions(model) or task.max_length)
    unlimited = dataclasses.replace(task, max_length=10**9)
    rows: dict[str, tuple[Row, ...]] = dict(assets.rows)
    dropped = []
    for split in splits:
        pools = assets.train_pools if split == "train" else {split: assets.pools[split]}
        long: set[int] = set()
        for template in templates:
            try:
                long |= long_rows(Renderer(tokenizer, template, unlimited), pools, rows[split], limit)
            except UserError:
                continue
        if long:
            before = rows[split]
            rows[split] = tuple(row for i, row in enumerate(before) if i not in long)
            dropped.append(DroppedRows(split, "too_long", tuple(before[i].id for i in sorted(long)), len(before)))
        if not rows[split]:
            raise UserError(f"task.rows.{split}: {none_left(dropped[-1:])}")
    return Assets(rows, assets.train_pools, assets.pools), dropped


def long_rows(renderer: Renderer, pools: Mapping[str, Sequence[Prompt]], rows: Sequence[Row], limit: int) -> set[int]:
    """Positions of the rows that give more than ``limit`` tokens with any prompt of ``pools``. Only pairs that come
    near the limit are rendered; the others are estimated as in ``whole_row_lengths``."""
    prompts = [p for pool in pools.values() for p in pool]
    size = whole_row_lengths(renderer, rows)
    order = sorted(range(len(rows)), key=lambda i: -size[i])
    middle = order[len(order) // 2]
    own = renderer.lengths([(p, rows[middle]) for p in prompts])
    long: set[int] = set()
    for p in sorted(range(len(prompts)), key=lambda p: -own[p]):
        uses = most_uses(prompts[p])
        near = [r for r in order if own[p] + uses * (size[r] - size[middle]) > near_limit(limit) and r not in long]
        found = renderer.lengths([(prompts[p], rows[r]) for r in near])
        long |= {r for r, n in zip(near, found, strict=True) if n > limit}
    return long


def whole_row_lengths(renderer: Renderer, rows: Sequence[Row]) -> list[int]:
    """Tokens of each row in a prompt that holds all its fields once.

    With another prompt's length for one row they estimate its length for every row: it differs by the difference of
    the two rows' tokens, as often as the prompt uses a field."""
    shown = [f"{{{{ {name} }}}}" for name in rows[0].fields if name != OPTIONS]
    text = "\n".join([*shown, *(["{{ options|join(' ') }}"] if rows[0].options else [])])
    return renderer.lengths([(Prompt("all fields", text), row) for row in rows])


def most_uses(prompt: Prompt) -> int:
    """How often the prompt reads the placeholder that it reads most."""
    return max([0, *placeholder_uses(prompt).values()])


def near_limit(limit: int) -> int:
    """Tokens above which an estimate is not trusted, and the sequence is rendered."""
    return limit - 8 - limit // 20
