"""The longest sequence of a pool and a split, without rendering every pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeps.checks.findings import Finding, Length, split_of
from sweeps.trials.long_rows import most_uses, near_limit, whole_row_lengths
from trainer.data.rows import Row, first_few
from trainer.data.wording import Prompt
from trainer.trial import Task

if TYPE_CHECKING:
    from trainer.data.render import Renderer

RowLengths = dict[tuple[str, str], list[int]]  # (template, split) -> tokens of each row in a prompt of all fields
TOP_ROWS = 8  # longest rows, with which every prompt is rendered
MOST_EXACT = 20_000  # pairs that are rendered because their estimate is near the limit


def longest(
    renderer: Renderer,
    prompts: Sequence[Prompt],
    rows: Sequence[Row],
    limit: int,
    template: str,
    pool: str,
    sizes: RowLengths | None = None,
) -> Length:
    """The longest sequence of ``prompts`` x ``rows``.

    Every prompt is rendered with a row of median length and with the ``TOP_ROWS`` longest rows, every row with a prompt
    that holds all fields. The length of any other pair is estimated from these: the prompt's length with the median
    row, plus the row's excess over the median row, as often as the prompt uses a field. Pairs whose estimate is near
    the limit are rendered, too. ``sizes`` keeps the rows' lengths for other pools that are used with the same rows.
    """
    sizes = {} if sizes is None else sizes
    key = (template, split_of(pool))
    if key not in sizes:
        sizes[key] = whole_row_lengths(renderer, rows)
    size = sizes[key]
    order = sorted(range(len(rows)), key=lambda i: -size[i])
    middle = order[len(order) // 2]
    own = renderer.lengths([(p, rows[middle]) for p in prompts])
    uses = [most_uses(p) for p in prompts]
    pairs = {(p, r) for p in range(len(prompts)) for r in order[:TOP_ROWS]}
    near = near_limit(limit)
    for p in sorted(range(len(prompts)), key=lambda p: -own[p]):
        for r in order:
            if own[p] + uses[p] * (size[r] - size[middle]) <= near or len(pairs) >= MOST_EXACT:
                break  # rows come longest first
            pairs.add((p, r))
    listed = sorted(pairs)
    exact = renderer.lengths([(prompts[p], rows[r]) for p, r in listed])
    best = max(range(len(exact)), key=lambda i: exact[i])
    long = {r for (_, r), n in zip(listed, exact, strict=True) if n > limit}
    return Length(
        template,
        pool,
        exact[best],
        prompts[listed[best][0]].id,
        rows[listed[best][1]].id,
        tuple(rows[r].id for r in sorted(long)),
        len(rows),
        len(pairs) < MOST_EXACT,
    )


@dataclass(frozen=True)
class WritingLimits:
    """How many tokens the model may write: of a generated answer, None where labels are compared; of a thought before
    it."""

    answer: int | None = None
    thought: int = 0


NO_WRITING = WritingLimits()


def length_findings(length: Length, task: Task, tokenizer: Any) -> Iterator[Finding]:
    where = f"templates.{length.template}, pools.{length.pool}"
    pair = f'prompt "{length.prompt_id}", row "{length.row_id}"'
    context = getattr(tokenizer, "model_max_length", None) or 10**9
    if length.longest <= min(task.max_length, context):
        return
    split = split_of(length.pool)
    n = f"{'' if length.all_counted else 'at least '}{len(length.long)} of {length.n_rows} {split} rows"
    leave = f"or leave such rows out: task.rows.{split}.drop=[too_long]"
    if length.longest <= context:
        yield Finding(
            "error",
            where,
            f"the longest sequence has {length.longest} tokens ({pair}), task.max_length is {task.max_length}; "
            f"{n} are too long ({first_few(length.long)})",
            f"Set task.max_length={length.longest}, shorten the field in the prompts: {{{{ text[:500] }}}}, {leave}",
        )
    else:
        yield Finding(
            "error",
            where,
            f"the longest sequence has {length.longest} tokens ({pair}), the model takes {context}; "
            f"{n} are too long ({first_few(length.long)})",
            f"Shorten the field in the prompts: {{{{ text[:500] }}}}, {leave}",
        )


def thought_findings(renderer: Renderer, length: Length, limit: int) -> Iterator[Finding]:
    """A template that lets the model think needs a limit, for which the model has room."""
    if not renderer.thought_end:
        return
    where, room = f"templates.{renderer.template.name}", getattr(renderer.tokenizer, "model_max_length", None)
    if limit == 0:
        yield Finding(
            "error",
            "scoring.max_thought_tokens",
            f"is 0, but under {where} the model thinks before it answers",
            "Say how many tokens it may think, or turn thinking off with the template's options if it has one",
        )
    elif room is not None and length.longest + limit > room:
        yield Finding(
            "error",
            "scoring.max_thought_tokens",
            f"is {limit}, and the longest question has {length.longest} tokens ({where}); the model takes {room}",
            f"Set scoring.max_thought_tokens={max(room - length.longest, 1)}, or shorten the prompts",
        )


def answer_findings(renderer: Renderer, prompt: Prompt, rows: Sequence[Row], limit: int) -> Iterator[Finding]:
    """An answer that a model could not write within ``limit`` new tokens, its stop token included, would never be read.
    ``prompt``: any; the answer's tokens do not depend on it. If the task has labels, one row shows them all."""
    asked = renderer.requests([(prompt, row) for row in (rows[:1] if renderer.task.labels else rows)])
    sizes = [(len(tokens) + 1, i, k) for i, request in enumerate(asked) for k, tokens in enumerate(request.options)]
    size, at, k = max(sizes)
    if size > limit:
        yield Finding(
            "error",
            "scoring.max_new_tokens",
            f"is {limit}, but the longest answer has {size} tokens with its stop token "
            f'(templates.{renderer.template.name}, row "{rows[at].id}": {renderer.texts.words(rows[at])[k]!r:.60})',
            f"Set scoring.max_new_tokens={size}: an answer that is cut off cannot be read",
        )
