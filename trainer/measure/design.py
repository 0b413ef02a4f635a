"""Which cells of a prompts x rows grid are scored where a sample is enough: a balanced design.

The design is a function of the ids, the rows' labels and the budget alone, so every trial of a study is asked the
same cells and differences between trials are paired. It is balanced in both directions (Polo et al. 2024, PromptEval,
arXiv 2405.17202): prompts differ by at most one cell, rows too, and within every label as well. The last is ours: a
prompt that leans towards one answer is right on one label and wrong on the other, so an even share of labels takes
most of the noise out of its accuracy (measured: half of the error of the std on real grids). numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.trial import digest

LEAST = 4  # cells of a prompt: fewer say nothing of its noise
CROSSED = 2  # prompts that a row meets at least: with one, a hard row and a bad prompt cannot be told apart
PILOT = 1000  # cells of a pilot: its variance is then known to a few per cent
PILOT_EACH = 12  # and of one prompt at least: with fewer, the std of many prompts is hardly known


@dataclass(frozen=True)
class SampleSize:
    """How many of the grid's cells are scored, and on how many of its rows; every prompt takes part."""

    cells: int
    rows: int


def sample_size(share: float, n_prompts: int, n_rows: int, most: int = 0) -> SampleSize:
    """``share`` of the cells, rounded up, not more than ``most`` unless that is 0, and at least ``LEAST`` a prompt.
    Where that is less than ``CROSSED`` a row, part of the rows is left out."""
    cells = math.ceil(share * n_prompts * n_rows - 1e-9)
    cells = max(min(cells, most) if most else cells, n_prompts * min(LEAST, n_rows))
    return SampleSize(cells, rows_used(cells, n_prompts, n_rows))


def rows_used(cells: int, n_prompts: int, n_rows: int) -> int:
    """How many rows a design of ``cells`` cells is spread over."""
    return min(n_rows, max(cells // min(CROSSED, n_prompts), -(-cells // n_prompts)))


def choose_rows(rows: Sequence[str], labels: Sequence[str], count: int) -> list[int]:
    """Places of ``count`` of ``rows``, each label in proportion, in the given order."""
    groups = _groups(rows, labels)
    key = dict(zip(sorted(rows), _bits(["rows", sorted(rows)], len(rows)).tolist(), strict=True))
    found: list[int] = []
    for group, n in zip(groups, _dealt(count, [len(g) for g in groups]), strict=True):
        found += sorted(group, key=lambda j: (key[rows[j]], rows[j]))[:n]
    return sorted(found)


def pilot_cells(n_prompts: int, n_rows: int) -> int:
    """The size of a pilot; that of the whole grid where it has no more cells."""
    return min(n_prompts * n_rows, max(PILOT, PILOT_EACH * n_prompts))


def staged(prompts: Sequence[str], rows: Sequence[str], labels: Sequence[str], cells: int) -> NDArray[np.bool_]:
    """[P, R] the cells of a sample in two steps: the pilot, or ``cells`` cells that hold it; arguments as for
    ``balanced``. Every row of the pilot meets ``CROSSED`` prompts at least. Fewer cells than the pilot's are the
    pilot."""
    p, r = len(prompts), len(rows)
    first = pilot_cells(p, r)
    kept = choose_rows(rows, labels, rows_used(first, p, r))
    pilot = np.zeros((p, r), bool)
    pilot[:, kept] = balanced(prompts, [rows[j] for j in kept], [labels[j] for j in kept], first)
    return pilot if cells <= first else balanced(prompts, rows, labels, cells, pilot)


def sample_record(grid: tuple[int, int], cells: int, staged: bool) -> dict[str, dict[str, int]]:
    """What the record of a rung says of its ``cells`` cells of a ``grid`` of so many prompts and rows; nothing where
    they are all. ``pilot`` stands for two stages."""
    prompts, rows = grid
    if cells == prompts * rows:
        return {}
    pilot = {"pilot": pilot_cells(prompts, rows)} if staged else {}
    return {"sample": {"prompts": prompts, "rows": rows, "cells": cells, **pilot}}


def balanced(
    prompts: Sequence[str],
    rows: Sequence[str],
    labels: Sequence[str],
    cells: int,
    begun: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """[P, R] which of ``cells`` cells are scored, in the given order of prompts and rows; ``labels`` [R] are the
    rows' right answers. Does not depend on that order. Holds the cells of ``begun`` [P, R], a balanced sample of part
    of the rows. ValueError where ids repeat or the cells do not fit."""
    p, r = len(prompts), len(rows)
    if len(set(prompts)) < p or len(set(rows)) < r:
        raise ValueError("ids of prompts and rows must differ")
    if not p <= cells <= p * r:
        raise ValueError(f"{cells} cells do not fit {p} prompts x {r} rows with one a prompt at least")
    by_prompt, by_row = np.argsort(np.array(prompts)), np.argsort(np.array(rows))
    names = [sorted(prompts), sorted(rows)]
    keys = _bits(["cells", names], p * r).reshape(p, r)
    turns = _bits(["turns", names], p)
    seen = np.zeros((p, r), bool)  # in the order of ids
    if begun is not None:
        seen |= begun[np.ix_(by_prompt, by_row)]
    total = np.zeros(p, np.int64)
    sorted_labels = [labels[j] for j in by_row]
    groups = _groups(names[1], sorted_labels)
    had = [int(seen[:, g].sum()) for g in groups]
    share = [max(cells * len(g) / r - n, 0.0) for g, n in zip(groups, had, strict=True)]
    more = _dealt(cells - sum(had), share) if cells > sum(had) else [0] * len(groups)
    sizes = [a + b for a, b in zip(had, more, strict=True)]
    fixed = [seen[:, g].sum(axis=1) > n // p for g, n in zip(groups, sizes, strict=True)]  # have one more already
    total += sum(fixed, np.zeros(p, np.int64))
    for group, n, first in zip(groups, sizes, fixed, strict=True):
        here = np.array(group)
        own = seen[:, here].sum(axis=1)
        quota = n // p + first
        # one more for those that have least so far
        chosen = [i for i in np.lexsort((turns, total)) if not first[i]][: n % p - int(first.sum())]
        quota[chosen] += 1
        total[chosen] += 1
        met = seen[:, here].sum(axis=0)
        for i in np.argsort(turns, kind="stable"):  # each takes the rows that were met least
            free = np.flatnonzero(~seen[i, here])
            taken = free[np.lexsort((keys[i, here[free]], met[free]))[: quota[i] - own[i]]]
            seen[i, here[taken]] = True
            met[taken] += 1
    back = np.empty_like(seen)
    back[np.ix_(by_prompt, by_row)] = seen
    return back


def _groups(rows: Sequence[str], labels: Sequence[str]) -> list[list[int]]:
    """Places of the rows of each label, the labels in alphabetical order."""
    found: dict[str, list[int]] = {}
    for j, (_, label) in enumerate(zip(rows, labels, strict=True)):
        found.setdefault(label, []).append(j)
    return [found[label] for label in sorted(found)]


def _dealt(total: int, sizes: Sequence[float]) -> list[int]:
    """``total`` in proportion to ``sizes``, by largest remainder, the first of equal ones first."""
    exact = [total * s / sum(sizes) for s in sizes]
    whole = [math.floor(x + 1e-9) for x in exact]
    order = sorted(range(len(sizes)), key=lambda k: (whole[k] - exact[k], k))
    for k in order[: total - sum(whole)]:
        whole[k] += 1
    return whole


def _bits(of: object, n: int) -> NDArray[np.uint64]:
    """``n`` numbers from a stream that numpy keeps the same in all versions and on all machines."""
    return np.random.PCG64(int(digest(of)[:16], 16)).random_raw(n)
