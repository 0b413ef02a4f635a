"""Label log-probabilities: fast, and equal to what one full forward per option gives.

``option_logprobs(model, requests, slots)`` sums the log-probability of every option's tokens after its context. Trials
that are resident together are scored together: the same requests may appear once per slot. What makes it fast is in
``trainer.score.prefill``: options share their context, contexts share their head, batches are filled by tokens; and
only the positions that predict an option's token reach the output layer. What keeps it exact is here: sharing
is used only where the model's attention takes our mask and its cache keeps every token, and is tried against the
plain way on the first requests a model meets.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from trainer.data.render import Request
from trainer.model.device import out_of_memory
from trainer.model.routing import Batch
from trainer.model.slots import SlotModel
from trainer.score.prefill import Line, Wave, lines_of, option_starts, tokens_of, waves

log = logging.getLogger("steadytune")

TOKEN_BUDGET = 4096  # measured: one core is fastest from 2k to 8k
LOGIT_BUDGET = 2**27  # logits of one batch: 0.5 GiB in float32
CHUNK = 2**24  # logits that are float32 at a time while they are normalised
AGREEMENT = 1e-3  # nats per token by which float32 rounding may move a score at most
ROUGH_AGREEMENT = 0.1  # and that of other dtypes on average, or, where logits are large,
ROUGH_SHARE = 0.03  # this share of the scores' standard deviation (measured: rounding 0.02, a wrong mask from 0.07)


def option_logprobs(
    model: SlotModel,
    requests: Sequence[Request],
    slots: Sequence[int],
    token_budget: int = TOKEN_BUDGET,
    share: bool | None = None,
    tell: Callable[[float], None] | None = None,
) -> list[np.ndarray]:
    """Summed log-probability in nats of each option of ``requests[i]`` under the adapter in ``slots[i]``: float64 [k_i]
    for its k_i options, in request order.

    ``model`` is in eval mode. ``token_budget`` bounds a batch with its padding, and is halved where memory
    runs out. ``share`` None finds out whether this model may share prefills; False never does. ``tell`` is called with
    the share of the tokens that is done.
    Raises ValueError on an empty context or option, torch's error when a single line does not fit in memory.
    """
    if share is None:
        share = sharing_is_exact(model, requests, slots)
    starts = option_starts(requests)
    sums = np.full(int(starts[-1]), np.nan)

    def keep(lines: Sequence[Line], logprobs: np.ndarray) -> None:
        options = np.concatenate([line.options for line in lines])
        present, place = np.unique(options, return_inverse=True)
        sums[present] = np.bincount(place, weights=logprobs)

    _run(model, lines_of(requests, slots, share), token_budget, _read_options, keep, tell)
    return [sums[a:b] for a, b in pairwise(starts)]


def class_logprobs(
    model: SlotModel,
    requests: Sequence[Request],
    slots: Sequence[int],
    token_budget: int = TOKEN_BUDGET,
    share: bool | None = None,
    tell: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Log-softmax of the slots' classification heads at each context's last position, float64 [n, labels]."""
    if share is None:
        share = sharing_is_exact(model, requests, slots)
    contexts = [replace(r, options=_ONE_TOKEN, option_bytes=(1,)) for r in requests]
    found = np.full((len(requests), model.n_labels), np.nan)

    def keep(lines: Sequence[Line], logprobs: np.ndarray) -> None:
        found[np.concatenate([line.options for line in lines])] = logprobs

    _run(model, lines_of(contexts, slots, share), token_budget, _read_classes, keep, tell)
    return found


def label_logprobs(
    model: SlotModel,
    requests: Sequence[Request],
    slots: Sequence[int],
    token_budget: int = TOKEN_BUDGET,
    tell: Callable[[float], None] | None = None,
) -> list[np.ndarray]:
    """Log-probability of each label or option of ``requests``, float64 [k_i]: from the classification head where the
    model has one. ``token_budget`` as of ``option_logprobs``; ``tell`` is called with the share that is done."""
    if model.n_labels:
        return list(class_logprobs(model, requests, slots, token_budget, tell=tell))
    return option_logprobs(model, requests, slots, token_budget, tell=tell)


_ONE_TOKEN = (np.zeros(1, dtype=np.int32),)  # stands for the options where only the context's last position is wanted


# Whether sharing is exact ----------------------------------------------------------------------------------------


def sharing_is_exact(model: SlotModel, requests: Sequence[Request], slots: Sequence[int]) -> bool:
    """Whether options may share their context, and contexts a head, in this model.

    Needs attention that takes a [B, 1, L, L] mask and keeps every token (no sliding window, no recurrent state);
    then a few requests are scored both ways, which finds what no list of architectures could (position
    biases that are made from the mask, position ids that are ignored). The answer is kept with the model.
    """
    if model in _SHARING or not requests:
        return _SHARING.get(model, False)
    config: Any = model.base.config
    plain_cache = all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)
    apart, exact = math.inf, False
    if plain_cache and config._attn_implementation in ("sdpa", "eager"):
        sample, places = _sample(requests, slots)
        alone = _per_token(model, sample, places, share=False)
        if np.isnan(alone).any():
            return True  # the weights give NaN either way, which says nothing of sharing
        try:
            gaps = np.abs(_per_token(model, sample, places, share=True) - alone)
            apart = float(gaps.max())
            if model.base.dtype == torch.float32:
                exact = apart <= AGREEMENT
            else:
                exact = bool(gaps.mean() <= max(ROUGH_AGREEMENT, ROUGH_SHARE * alone.std()))
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            if out_of_memory(error):
                raise
            log.warning("this model takes no shared prefill (%s: %s)", type(error).__name__, error)
    _SHARING[model] = exact
    if not exact:
        log.warning(
            "options are scored one by one: a shared prefill moves this model's log-probabilities by %.3g", apart
        )
    return exact


_SHARING: weakref.WeakKeyDictionary[SlotModel, bool] = weakref.WeakKeyDictionary()


def _sample(requests: Sequence[Request], slots: Sequence[int]) -> tuple[list[Request], list[int]]:
    """Requests that make use of everything that may be shared: the two longest of one slot, with an option of several
    tokens added, and copies of them that begin alike. None is longer than the longest of these requests, which the
    model is known to take."""
    members = [i for i, s in enumerate(slots) if s == slots[0]]
    longest = sorted(members, key=lambda i: -len(requests[i].context))[:2]
    sample = []
    fits = max(len(requests[i].context) + max(map(len, requests[i].options)) for i in members)
    for request in (requests[i] for i in longest):
        room = fits - len(request.context)
        options = (*request.options, np.concatenate(request.options)[:room], request.context[: min(3, room)])
        request = replace(request, options=options, option_bytes=(1,) * len(options))
        sample += [request, replace(request, context=request.context[: max(1, len(request.context) - 2)])]
    return sample, [slots[0]] * len(sample)


def _per_token(model: SlotModel, requests: Sequence[Request], slots: Sequence[int], share: bool) -> np.ndarray:
    if model.n_labels:
        return class_logprobs(model, requests, slots, share=share)
    logprobs = option_logprobs(model, requests, slots, share=share)
    return np.concatenate(logprobs) / [len(o) for r in requests for o in r.options]


# Running -------------------------------------------------------------------------------------------------------


def _run(
    model: SlotModel,
    lines: Sequence[Line],
    token_budget: int,
    read: Any,
    keep: Any,
    tell: Callable[[float], None] | None = None,
) -> None:
    """Score all ``lines`` wave by wave; on exhausted memory go on with the rest under half the budget."""
    pending = list(lines)
    all_tokens = tokens_of(lines)
    through = 0  # tokens, of which those of a wave that ran out of memory count again

    def count(tokens: int) -> None:
        nonlocal through
        through += tokens
        if tell is not None:
            tell(through / all_tokens)

    count(0)  # what comes before is done once for a model and its requests
    while pending:
        done: set[int] = set()
        smallest = False
        try:
            for wave in waves(pending, token_budget, logit_lines(model)):
                smallest = len(wave.heads) <= 1 and all(len(batch) == 1 for batch in wave.batches)
                members = [line for batch in wave.batches for line in batch]
                keep(members, _run_wave(model, wave, read, count))
                done.update(id(line) for line in members)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not out_of_memory(error) or smallest:
                raise
        else:
            return
        # Outside the handler, where the failed batch's tensors are no longer held by the traceback.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        token_budget //= 2
        log.warning("scoring ran out of memory; going on with %d tokens per batch", token_budget)
        pending = [line for line in pending if id(line) not in done]


def logit_lines(model: SlotModel) -> int:
    """Positions of which the logits of one batch may be."""
    return max(1, LOGIT_BUDGET // (model.n_labels or int(model.base.config.get_text_config().vocab_size)))


@torch.inference_mode()
def _run_wave(model: SlotModel, wave: Wave, read: Any, count: Callable[[int], None]) -> np.ndarray:
    """What ``read`` takes from each batch, in the order of the wave's lines. Copied to the CPU once. ``count`` is
    called with the number of tokens that went through the model."""
    device = next(model.parameters()).device
    heads = _prefill(model, wave, device) if wave.heads else None
    count(sum(len(head.ids) for head in wave.heads))
    number = {id(head): i for i, head in enumerate(wave.heads)}
    found = []
    for lines in wave.batches:
        batch = _collate(lines, model, wave, device)
        cache = _HeadCache(heads, [number[id(line.head)] for line in lines]) if heads is not None else None
        found.append(read(model(batch, cache) if cache is not None else model(batch), lines))
        count(sum(len(line.ids) for line in lines))
    return torch.cat(found).double().cpu().numpy()


def _prefill(model: SlotModel, wave: Wave, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Keys and values [heads, kv heads, longest, d] of every layer. Padding follows the tokens, so that causal order
    keeps it from them; lines mask it out."""
    heads = wave.heads
    ids = _padded([h.ids for h in heads])
    batch = Batch(
        input_ids=torch.from_numpy(ids),
        mask=torch.ones(ids.shape, dtype=torch.long),
        position_ids=torch.arange(ids.shape[1]).expand(len(heads), -1),
        slots=torch.full((len(heads),), wave.slot),
        only=wave.slot,
        rows=torch.zeros(0, dtype=torch.long),
        cols=torch.zeros(0, dtype=torch.long),
        most_in_row=0,
    )
    cache = DynamicCache(config=model.base.config)
    model(batch.to(device), cache)
    return [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[union-attr,misc]


class _HeadLayer(DynamicLayer):
    """The heads of a batch's rows in front of the rows' own keys and values, put together for one layer at a time."""

    def __init__(self, keys: Tensor, values: Tensor, index: Tensor):
        super().__init__()
        self.keys, self.values, self.index = keys, values, index
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self._after(self.keys, key_states), self._after(self.values, value_states)

    def _after(self, head: Tensor, own: Tensor) -> Tensor:
        rows = head.expand(len(self.index), -1, -1, -1) if len(head) == 1 else head[self.index]
        return torch.cat([rows, own], dim=-2)


class _HeadCache(Cache):
    def __init__(self, heads: list[tuple[Tensor, Tensor]], index: Sequence[int]):
        where = torch.tensor(index, device=heads[0][0].device)
        super().__init__(layers=[_HeadLayer(keys, values, where) for keys, values in heads])


def _padded(sequences: Sequence[np.ndarray]) -> np.ndarray:
    """int64 [n, longest], right-padded with 0."""
    ids = np.zeros((len(sequences), max(len(s) for s in sequences)), dtype=np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return ids


def _collate(lines: Sequence[Line], model: SlotModel, wave: Wave, device: torch.device) -> Batch:
    ids = _padded([line.ids for line in lines])
    counts = [line.wanted for line in lines]
    starts = np.repeat([line.context - 1 for line in lines], counts)
    within = np.arange(sum(counts)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = ids.shape[1]
    positions = np.tile(np.arange(width), (len(lines), 1))  # those of padding must be the model's, too
    if not wave.heads and all(len(line.branches) < 2 for line in lines):
        # One option simply goes on, and padding follows the tokens: causal order is mask enough, and attention
        # takes its fast path.
        mask = torch.ones(ids.shape, dtype=torch.long)
    else:
        branch = np.zeros(ids.shape, dtype=np.int16)  # 0 context, 1… the options
        positions[:] = 0
        for i, line in enumerate(lines):
            at = line.context
            positions[i, :at] = np.arange(at)
            for number, length in enumerate(line.branches, start=1):
                branch[i, at : at + length] = number
                positions[i, at : at + length] = np.arange(line.context, line.context + length)
                at += length
            positions[i, :at] += line.head_length
        mask = _tree_mask(torch.from_numpy(branch).to(device), [line.head_length for line in lines], wave)
        # Eager attention adds the mask; and on a CPU the other kind would turn it into numbers in every layer.
        if model.base.config._attn_implementation == "eager" or device.type == "cpu":
            dtype: torch.dtype = model.base.dtype
            mask = torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill_(~mask, torch.finfo(dtype).min)
    batch = Batch(
        input_ids=torch.from_numpy(ids),
        mask=mask,
        position_ids=torch.from_numpy(positions),
        slots=torch.full((len(lines),), wave.slot),
        only=wave.slot,
        rows=torch.from_numpy(np.repeat(np.arange(len(lines)), counts)),
        cols=torch.from_numpy(starts + within),
        most_in_row=max(counts),
    )
    return batch.to(device)


def _tree_mask(branch: Tensor, head_lengths: Sequence[int], wave: Wave) -> Tensor:
    """[B, 1, T, H + T] bool: a position sees its row's head, the context before it and its own option so far.
    Padding counts as context, which comes too late for any token to see and leaves no row of the mask empty."""
    width = branch.shape[1]
    order = torch.ones(width, width, dtype=torch.bool, device=branch.device).tril()
    own = order & ((branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None]))
    if not wave.heads:
        return own[:, None]
    longest = max(len(h.ids) for h in wave.heads)
    lengths = torch.tensor(head_lengths, device=branch.device)
    head = torch.arange(longest, device=branch.device) < lengths[:, None]
    return torch.cat([head[:, None, :].expand(-1, width, -1), own], dim=-1)[:, None]


def _read_options(logits: Tensor, lines: Sequence[Line]) -> Tensor:
    """float32 [tokens of all options], from the logits [N, V] of the lines' wanted positions."""
    offsets = np.cumsum([0, *(line.wanted for line in lines[:-1])])
    places = np.concatenate([line.places + offset for line, offset in zip(lines, offsets, strict=True)])
    where = torch.from_numpy(places).to(logits.device)
    tokens = torch.from_numpy(np.concatenate([line.tokens for line in lines])).to(logits.device)
    step = max(1, CHUNK // logits.shape[1])
    total = torch.cat([torch.logsumexp(part.float(), dim=-1) for part in logits.split(step)])
    return logits[where, tokens].float() - total[where]


def _read_classes(logits: Tensor, lines: Sequence[Line]) -> Tensor:
    return torch.log_softmax(logits.float(), dim=-1)
