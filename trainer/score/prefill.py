"""How scoring requests become model input: what shares a prefill, what shares a batch. numpy only.

A request's options share their context: context and option tokens form one *line*, in which every option is a
branch that sees the context and itself. Requests of one slot that begin alike (the prompts of one row, the rows
of one prompt, few-shot examples) share a *head*, which is prefilled once and whose keys and values their lines
continue. Lines are then gathered in *waves* (the heads that are in memory together) and, within a wave, in
batches of similar length filled by a token budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from trainer.data.render import Request

# A head pays when it is this long: below, gathering its keys and values and the dense mask cost more than the
# tokens it saves (measured on one core with a model of 0.3M parameters; the optimum is flat around it).
SHORTEST_HEAD = 16


@dataclass(frozen=True, eq=False)
class Head:
    """Tokens that several lines of one slot begin with."""

    ids: np.ndarray  # int32 [H]


@dataclass(frozen=True, eq=False)
class Line:
    """One row of a scoring batch: the context after its head, then the options without their last tokens."""

    slot: int
    head: Head | None
    ids: np.ndarray  # int32 [T]
    context: int  # the first ``context`` of T are context
    branches: tuple[int, ...]  # lengths of what follows, one per option that has more than one token
    # One entry per option token: which wanted position predicts it, which token it is, which option's sum it joins.
    places: np.ndarray
    tokens: np.ndarray
    options: np.ndarray  # index into the flat list of all requests' options

    @property
    def head_length(self) -> int:
        return 0 if self.head is None else len(self.head.ids)

    @property
    def wanted(self) -> int:
        """Positions that reach the output layer: the context's last and all that follow it."""
        return len(self.ids) - self.context + 1


@dataclass(frozen=True)
class Wave:
    """Heads of one slot that are prefilled together, and the batches of lines that continue them."""

    slot: int
    heads: tuple[Head, ...]
    batches: tuple[tuple[Line, ...], ...]


def option_starts(requests: Sequence[Request]) -> np.ndarray:
    """[n + 1] where each request's options begin in the flat list of all options."""
    return np.concatenate([[0], np.cumsum([len(r.options) for r in requests], dtype=np.int64)])


def lines_of(requests: Sequence[Request], slots: Sequence[int], share: bool = True) -> list[Line]:
    """The lines that answer ``requests``. Without ``share`` there are no heads, and every option of several tokens is a
    line of its own: for models whose attention takes no mask of ours. Raises ValueError on an empty context, option or
    list of options."""
    shared = heads_of(requests, slots) if share else {}
    starts = option_starts(requests)
    suffixes: dict[tuple[bytes, ...], _Suffix] = {}
    lines: list[Line] = []
    for i, (request, slot) in enumerate(zip(requests, slots, strict=True)):
        if not len(request.context) or not request.options or not all(len(o) for o in request.options):
            raise ValueError(
                f"row {request.row_id}, prompt {request.prompt_id}: context and options need at least one token each"
            )
        head = shared.get(i)
        context = request.context if head is None else request.context[len(head.ids) :]
        together = share or all(len(o) == 1 for o in request.options)
        for first, options in (
            [(0, request.options)] if together else [(j, (o,)) for j, o in enumerate(request.options)]
        ):
            key = tuple(o.tobytes() for o in options)
            suffix = suffixes.get(key)
            if suffix is None:
                suffix = suffixes[key] = _suffix(options)
            ids = np.concatenate([context, suffix.ids]) if len(suffix.ids) else context
            flat = suffix.options + (starts[i] + first)
            lines.append(Line(slot, head, ids, len(context), suffix.branches, suffix.places, suffix.tokens, flat))
    return lines


def tokens_of(lines: Sequence[Line]) -> int:
    """Tokens of ``lines``: a head that several share counts once."""
    heads = {id(line.head): line.head_length for line in lines}
    return sum(heads.values()) + sum(len(line.ids) for line in lines)


def padded_tokens(lines: Sequence[Line], token_budget: int, line_budget: int) -> int:
    """Tokens that go through the model for ``lines``, with the padding of their batches."""
    found = 0
    for wave in waves(lines, token_budget, line_budget):
        found += len(wave.heads) * max((len(head.ids) for head in wave.heads), default=0)
        found += sum(len(batch) * max(len(line.ids) for line in batch) for batch in wave.batches)
    return found


@dataclass(frozen=True)
class _Suffix:
    """The part of a line that follows its context."""

    ids: np.ndarray
    branches: tuple[int, ...]
    places: np.ndarray
    tokens: np.ndarray
    options: np.ndarray


def _suffix(options: Sequence[np.ndarray]) -> _Suffix:
    places: list[int] = []
    end = 1
    for option in options:
        places += [0, *range(end, end + len(option) - 1)]
        end += len(option) - 1
    return _Suffix(
        ids=np.concatenate([o[:-1] for o in options]).astype(np.int32),
        branches=tuple(len(o) - 1 for o in options if len(o) > 1),
        places=np.array(places, dtype=np.int64),
        tokens=np.concatenate(options).astype(np.int64),
        options=np.repeat(np.arange(len(options)), [len(o) for o in options]),
    )


def heads_of(requests: Sequence[Request], slots: Sequence[int]) -> dict[int, Head]:
    """The head of each request that has one: the division of every slot's requests into groups with a common
    beginning that leaves the fewest tokens to prefill. A head ends before the context's last token, whose
    prediction is wanted."""
    found: dict[int, Head] = {}
    for slot in sorted(set(slots)):
        members = [i for i, s in enumerate(slots) if s == slot]
        # Big-endian bytes sort as the token sequences do, which puts common beginnings side by side.
        members.sort(key=lambda i: (requests[i].context.astype(">i4").tobytes(), i))
        lengths = _common_lengths([requests[i].context for i in members])
        for items, length in best_groups([n if n >= SHORTEST_HEAD else 0 for n in lengths]):
            head = Head(requests[members[items[0]]].context[:length])
            found.update((members[i], head) for i in items)
    return found


def _common_lengths(contexts: Sequence[np.ndarray]) -> list[int]:
    """[n] with entry i the number of tokens that i and i - 1 begin with in common, at most one less than either has."""
    lengths = [0] * len(contexts)
    for i in range(1, len(contexts)):
        a, b = contexts[i - 1], contexts[i]
        n = min(len(a), len(b)) - 1
        differ = a[:n] != b[:n]
        first = int(differ.argmax()) if n > 0 else 0
        lengths[i] = first if n > 0 and differ[first] else n
    return lengths


_Group = tuple[list[int], int]  # items, and how many tokens they have in common


@dataclass
class _Interval:
    """Consecutive items with ``length`` tokens in common, divided: ``groups``, and ``loose`` items in none."""

    length: int
    groups: list[_Group] = field(default_factory=list)
    loose: list[int] = field(default_factory=list)


def best_groups(lengths: Sequence[int]) -> list[tuple[list[int], int]]:
    """(items, common length) of groups that save most: a group of n items saves (n - 1) x length tokens.

    ``lengths[i]`` is what items i - 1 and i of a sorted list have in common. What items have in common nests as the
    intervals of the longest-common-prefix array do; from the inside out, every interval keeps the groups inside it
    or takes their items into a group of its own, whichever saves more.
    """
    stack = [_Interval(0)]
    for i in range(len(lengths)):
        following = lengths[i + 1] if i + 1 < len(lengths) else 0
        if following > stack[-1].length:
            stack.append(_Interval(following))
        stack[-1].loose.append(i)
        while stack[-1].length > following:
            closed = _divide(stack.pop())
            if stack[-1].length < following:
                stack.append(_Interval(following))
            stack[-1].groups += closed.groups
            stack[-1].loose += closed.loose
    return sorted(stack[0].groups)


def _divide(interval: _Interval) -> _Interval:
    """The better of keeping all groups, and keeping those that save more than their items would in one group here."""
    length = interval.length
    candidates = []
    for price in (0, length):
        kept = [(items, n) for items, n in interval.groups if (len(items) - 1) * n > price * len(items)]
        inside = {i for items, _ in kept for i in items}
        members = sorted({*interval.loose, *(i for items, _ in interval.groups for i in items)} - inside)
        whole = [(members, length)] if len(members) > 1 else []
        candidates.append(_Interval(length, kept + whole, [] if whole else members))
    return max(candidates, key=lambda d: sum((len(items) - 1) * n for items, n in d.groups))


def waves(lines: Sequence[Line], token_budget: int, most_wanted: int) -> Iterator[Wave]:
    """All ``lines``, slot by slot, in an order that depends on them alone. A wave's heads, and every batch with its
    padding and its lines' heads, hold at most ``token_budget`` tokens, and a batch at most ``most_wanted``
    positions for the output layer; a single line may exceed both."""
    for slot in sorted({line.slot for line in lines}):
        yield from _slot_waves([line for line in lines if line.slot == slot], slot, token_budget, most_wanted)


def _slot_waves(lines: Sequence[Line], slot: int, token_budget: int, most_wanted: int) -> Iterator[Wave]:
    alone = [line for line in lines if line.head is None]
    if alone:
        yield Wave(slot, (), tuple(_batches(alone, 0, token_budget, most_wanted)))
    followers: dict[int, list[Line]] = {}
    for line in lines:
        if line.head is not None:
            followers.setdefault(id(line.head), []).append(line)
    heads = sorted((group[0].head for group in followers.values() if group[0].head), key=lambda h: -len(h.ids))
    start = 0
    while start < len(heads):
        longest = len(heads[start].ids)
        here = tuple(heads[start : start + max(1, token_budget // longest)])
        start += len(here)
        members = [line for head in here for line in followers[id(head)]]
        yield Wave(slot, here, tuple(_batches(members, longest, token_budget, most_wanted)))


def _batches(lines: Sequence[Line], head: int, token_budget: int, most_wanted: int) -> Iterator[tuple[Line, ...]]:
    """Longest first, so that memory that does not suffice is found out at once."""
    batch: list[Line] = []
    width = wanted = 0
    for line in sorted(lines, key=lambda x: -len(x.ids)):
        if batch and ((len(batch) + 1) * width > token_budget or wanted + line.wanted > most_wanted):
            yield tuple(batch)
            batch, wanted = [], 0
        if not batch:
            width = head + len(line.ids)
        batch.append(line)
        wanted += line.wanted
    if batch:
        yield tuple(batch)
