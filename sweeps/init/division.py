"""Train, dev and test rows without leakage: examples that ask the same are in one split, and labels in equal shares."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sweeps.display.text import counted
from sweeps.init.examples import DataError, DataRow
from sweeps.trials.assets import SPLITS

SHARES = {"train": 0.7, "dev": 0.15, "test": 0.15}
SEED = 0
FEWEST_ROWS = 20  # of all splits together: with fewer, dev and test have two or three rows
_NAMES = {
    "train": "train", "training": "train",
    "dev": "dev", "valid": "dev", "val": "dev", "validation": "dev", "development": "dev", "eval": "dev",
    "test": "test", "testing": "test", "heldout": "test", "held_out": "test",
}  # fmt: skip


def split_named(name: str) -> str | None:
    """Which of ours a data set's split is; None for one that is none of them."""
    return _NAMES.get(name.strip().lower())


def divided(splits: dict[str, list[DataRow]], notes: list[str]) -> dict[str, list[DataRow]]:
    """The examples as train, dev and test. A split that the data have stays, but for rows of a later split; one that
    they lack is taken from train. ``notes`` gets a line for what is left out. Raises ``DataError``."""
    given: dict[str, list[DataRow]] = {}
    for name, some in splits.items():
        split = split_named(name) if name else "train"
        if split is None and len(splits) > 1:
            notes.append(
                f'{counted(len(some), "row")} of the split "{name}" left out: it is neither train, dev nor test'
            )
            continue
        given.setdefault(split or "train", []).extend(some)
    if "train" not in given:
        raise DataError(f"the data have the splits {', '.join(sorted(given))} and none to train on. Give all in one")
    missing = [split for split in ("dev", "test") if split not in given]
    train = given["train"]
    if len(train) < FEWEST_ROWS:
        raise DataError(
            f"{len(train)} rows are left to train on and to take {' and '.join(missing) or 'nothing'} from; give "
            f"{FEWEST_ROWS} or more"
        )
    whole = SHARES["train"] + sum(SHARES[split] for split in missing)
    parts = _in_shares(train, {split: SHARES[split] / whole for split in ("train", *missing)})
    parts |= {split: given[split] for split in ("dev", "test") if split in given}
    return _without_leaks(parts, notes)


def _in_shares(examples: Sequence[DataRow], shares: dict[str, float]) -> dict[str, list[DataRow]]:
    """Every label's examples in these shares, those that ask the same together, in the order of the data."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, example in enumerate(examples):
        groups.setdefault(example.key, []).append(i)
    by_label: dict[str, list[list[int]]] = {}
    for group in groups.values():
        by_label.setdefault(examples[group[0]].answer, []).append(group)
    chosen: dict[str, list[int]] = {split: [] for split in shares}
    generator = random.Random(SEED)
    for label in sorted(by_label):
        mine = by_label[label]
        generator.shuffle(mine)
        counts = dict.fromkeys(shares, 0)
        total = sum(map(len, mine))
        for group in mine:
            # to the split that is furthest from its share; of ties, the last, so that test lacks no label
            split = max(reversed(shares), key=lambda s: (shares[s] * total - counts[s]) / shares[s])
            chosen[split].extend(group)
            counts[split] += len(group)
    return {split: [examples[i] for i in sorted(some)] for split, some in chosen.items()}


def _without_leaks(parts: dict[str, list[DataRow]], notes: list[str]) -> dict[str, list[DataRow]]:
    """Each split without the examples that a later one has."""
    kept: dict[str, list[DataRow]] = {}
    later: set[tuple[str, ...]] = set()
    for split in reversed(SPLITS):
        kept[split] = [example for example in parts[split] if example.key not in later]
        if left_out := len(parts[split]) - len(kept[split]):
            notes.append(f"{counted(left_out, f'{split} row')} left out: they are in a later split as well")
        later |= {example.key for example in kept[split]}
        if not kept[split]:
            raise DataError(f"no {split} rows are left: the data's {split} rows are all in a later split as well")
    return {split: kept[split] for split in SPLITS}
