"""Answers by greedy decoding: the label is read off the generated text.

This is slower than comparing label log-probabilities (``trainer.score.logprobs``), and it also measures how well the
model keeps to the format, which is why a study would choose it. Results of the two are never put into one column.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import DynamicCache

from trainer.data.render import Request
from trainer.model.device import out_of_memory
from trainer.model.routing import Batch
from trainer.model.slots import SlotModel
from trainer.score.logprobs import TOKEN_BUDGET

log = logging.getLogger("steadytune")

NAN = -1  # in place of a token, where the model's logits were NaN


@dataclass(frozen=True)
class GeneratedAnswer:
    """``index`` is the option that ``text`` gives, None where it gives none; ``new_tokens`` counts the stop token.
    ``nan``: the model gave NaN instead of a token, so that the text ends there and stands for nothing."""

    text: str
    index: int | None
    new_tokens: int
    nan: bool = False


def generate_answers(
    model: SlotModel,
    requests: Sequence[Request],
    slots: Sequence[int],
    words: Sequence[Sequence[str]],
    decode: Callable[[list[int]], str],
    stop_ids: Sequence[int],
    max_new_tokens: int,
    token_budget: int = TOKEN_BUDGET,
    tell: Callable[[float], None] | None = None,
) -> list[GeneratedAnswer]:
    """Greedy answers in request order. ``words[i]`` are the texts of request i's options; ``decode`` turns token
    ids, without the stop token, into text. ``tell`` is called with the share that is done."""
    found = []
    for ids, options in zip(
        generate(model, requests, slots, stop_ids, max_new_tokens, token_budget, tell), words, strict=True
    ):
        text = decode([i for i in ids.tolist() if i not in (*stop_ids, NAN)])
        nan = NAN in ids
        found.append(GeneratedAnswer(text, None if nan else parse(text, options), len(ids), nan))
    return found


def parse(text: str, words: Sequence[str]) -> int | None:
    """The option whose word ``text`` begins with, as a whole word, whatever the case and the spaces, quotes and
    punctuation before it; the longest such word ("not sexist" before "not"). None where there is none."""
    said = _bare(text)
    for index in sorted(range(len(words)), key=lambda i: -len(_bare(words[i]))):
        word = _bare(words[index])
        rest = said[len(word) : len(word) + 1]
        if word and said.startswith(word) and not (_joins(word[-1]) and _joins(rest)):
            return index
    return None


def _bare(text: str) -> str:
    """Lower case, spaces collapsed, from the first to the last letter, digit or sign that belongs to a number."""
    text = " ".join(text.casefold().split())
    kept = [
        i for i, c in enumerate(text) if c.isalnum() or (c in "+-<>=$%" and text[i + 1 : i + 2].isalnum()) or c == "%"
    ]
    # a text of punctuation alone ("?", "!!") is kept whole
    return text[kept[0] : kept[-1] + 1] if kept else text


def _joins(character: str) -> bool:
    """Whether the character could continue a word. In scripts without spaces (CJK and beyond) nothing says so."""
    return (character.isalnum() or character == "_") and ord(character) < 0x2E80


def generate(
    model: SlotModel,
    requests: Sequence[Request],
    slots: Sequence[int],
    stop_ids: Sequence[int],
    max_new_tokens: int,
    token_budget: int = TOKEN_BUDGET,
    tell: Callable[[float], None] | None = None,
) -> list[np.ndarray]:
    """The tokens that greedy decoding adds to each context, int64 [up to max_new_tokens], the stop token included
    where one came; ``NAN`` ends them where the model gave NaN. ``model`` is in eval mode; ``token_budget`` bounds a
    batch with its padding and new tokens, and is halved when memory does not suffice. Raises ValueError for a model
    with a classification head."""
    if model.n_labels:
        raise ValueError(
            'scoring.scorer = "generate" needs the language-model head. Use model.head = "lm", or scorer = "labels"'
        )
    found: dict[int, np.ndarray] = {}
    if tell is not None:
        tell(0.0)
    while len(found) < len(requests):
        left = [i for i in range(len(requests)) if i not in found]
        size = 0
        try:
            for members in slot_batches(left, requests, slots, max_new_tokens, token_budget):
                size = len(members)
                contexts = [requests[i].context for i in members]
                for i, ids in zip(
                    members, _decode(model, contexts, slots[members[0]], stop_ids, max_new_tokens), strict=True
                ):
                    found[i] = ids
                if tell is not None:
                    tell(len(found) / len(requests))
        except RuntimeError as error:
            if not out_of_memory(error) or size <= 1:
                raise
        else:
            break
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        token_budget //= 2
        log.warning("generation ran out of memory; going on with %d tokens per batch", token_budget)
    return [found[i] for i in range(len(requests))]


def slot_batches(
    left: Sequence[int], requests: Sequence[Request], slots: Sequence[int], new: int, token_budget: int
) -> Iterator[list[int]]:
    """Batches of one slot and of similar length, longest first."""
    batch: list[int] = []
    for i in sorted(left, key=lambda i: (slots[i], -len(requests[i].context))):
        if batch and (
            slots[i] != slots[batch[0]] or (len(batch) + 1) * (len(requests[batch[0]].context) + new) > token_budget
        ):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


@torch.inference_mode()
def _decode(
    model: SlotModel, contexts: Sequence[np.ndarray], slot: int, stop_ids: Sequence[int], max_new_tokens: int
) -> list[np.ndarray]:
    """Left-padded, so that every row's next token stands in the same column of the cache."""
    device = next(model.parameters()).device
    n, width = len(contexts), max(len(c) for c in contexts)
    ids, mask = np.zeros((n, width), dtype=np.int64), np.zeros((n, width), dtype=np.int64)
    for row, seen, context in zip(ids, mask, contexts, strict=True):
        row[width - len(context) :], seen[width - len(context) :] = context, 1
    cache = DynamicCache(config=model.base.config)
    tokens, attended = torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
    positions = (attended.cumsum(1) - 1).clamp(min=0)
    rows, route = torch.arange(n, device=device), torch.full((n,), slot, device=device)
    stops = torch.tensor(list(stop_ids), dtype=torch.long, device=device)
    finished = torch.zeros(n, dtype=torch.bool, device=device)
    lengths = torch.full((n,), max_new_tokens, device=device)
    new: list[torch.Tensor] = []
    for step in range(max_new_tokens):
        batch = Batch(tokens, attended, positions, route, rows, torch.full_like(rows, tokens.shape[1] - 1), only=slot)
        logits = model(batch, cache)
        broken = logits.isnan().any(dim=-1)
        chosen = logits.argmax(dim=-1)
        new.append(chosen.masked_fill(broken, NAN))
        stopping = (torch.isin(chosen, stops) | broken) & ~finished
        lengths[stopping] = step + 1
        finished |= stopping
        if bool(finished.all()):
            break
        tokens, positions = chosen[:, None], positions[:, -1:] + 1
        attended = torch.cat([attended, attended.new_ones(n, 1)], dim=1)
    made = torch.stack(new, dim=1).cpu().numpy() if new else np.zeros((n, 0), dtype=np.int64)
    return [row[:length] for row, length in zip(made, lengths.tolist(), strict=True)]
