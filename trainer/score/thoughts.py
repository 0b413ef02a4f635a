"""Thoughts: what a model writes before it answers, where its chat template lets it think.

Each request gets the thought that the trial's own adapter writes, by greedy decoding up to a limit. A thought that is
not closed by then is closed with the template's own ending. The answers are scored behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trainer.data.render import Renderer, Request
from trainer.model.slots import SlotModel
from trainer.score.generation import generate
from trainer.score.logprobs import TOKEN_BUDGET


def with_thoughts(
    model: SlotModel,
    requests: Sequence[Request],
    slots: Sequence[int],
    renderer: Renderer,
    limit: int,
    tell: Callable[[float], None] | None = None,
    token_budget: int = TOKEN_BUDGET,
) -> list[Request]:
    """The requests with the model's thought, of at most ``limit`` tokens and its ending, at the end of their contexts.
    ``model`` is in eval mode. ``tell`` is called with the share that is done."""
    closing = renderer.thought_end
    one = closing[:1] if len(renderer.closing_tag) == 1 else []  # a tag of one token ends the decoding at once
    made = generate(model, requests, slots, (*one, *renderer.stop_ids), limit, token_budget, tell)
    return [
        renderer.behind(request, [*_thought(ids.tolist(), renderer), *closing])
        for request, ids in zip(requests, made, strict=True)
    ]


def _thought(ids: list[int], renderer: Renderer) -> list[int]:
    """The tokens before the closing tag, or before the token that ended the turn."""
    ends = next((i for i, token in enumerate(ids) if token in renderer.stop_ids), len(ids))
    ids = ids[:ends]
    tag = renderer.closing_tag
    at = next((i for i in range(len(ids)) if ids[i : i + len(tag)] == tag), len(ids))
    return ids[:at]
