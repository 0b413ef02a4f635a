"""Checks of the rows' labels: that each occurs, that the metric tells trials apart, that none drowns the others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sweeps.checks.findings import Finding
from sweeps.display.text import percent
from sweeps.study.precision import usual_cells
from sweeps.study.study import Study
from sweeps.trials.load_content import Content
from trainer.data.rows import Row
from trainer.measure.registry import kind_of, label_of
from trainer.trial import Task

MOST = 0.7  # share of the train rows beyond which one label is a constant answer that training finds first


@dataclass(frozen=True)
class LabelUse:
    """What of a study bears on how often a label is met."""

    balance: str = "none"  # training.balance
    sample: float = 1.0  # scoring.sample
    precise: tuple[tuple[str, float], ...] = ()  # shares of the dev and test grids that tables.precision asks for

    @classmethod
    def of(cls, study: Study, content: Content) -> LabelUse:
        """Of the test grid as much as where rows and cells vary as usual: how much it will be is not known yet."""
        sizes = {pool: (len(content.assets.pools[pool]), len(content.assets.rows[pool])) for pool in ("dev", "test")}
        precise = tuple((pool, usual_cells(study, pool, *size) / math.prod(size)) for pool, size in sizes.items())
        return cls(study.training.balance, study.scoring.sample, precise)


PLAIN_USE = LabelUse()


def label_findings(task: Task, rows: Mapping[str, Sequence[Row]]) -> Iterator[Finding]:
    """Labels that do not occur: an error if no split has them, or if the metric is then the same for every trial; else
    a warning if a split lacks them."""
    found = {split: {row.label for row in some} for split, some in rows.items()}
    for label in task.labels:
        without = [split for split in rows if label not in found[split]]
        if len(without) == len(rows):
            yield Finding(
                "error",
                "task.labels",
                f'label "{label}" occurs in no row (found: {", ".join(sorted(set().union(*found.values())))})',
                "Take it out of `labels`, or check `where`, `limit` and the data",
            )
            continue
        for split in without:
            if split != "train" and label_of(task.metric) == label:
                yield Finding(
                    "error",
                    f"task.rows.{split}",
                    f'label "{label}" never occurs among {len(rows[split])} rows, so {task.metric} is always 0',
                    "Give more rows (`limit`, `where` or the data)",
                )
                continue
            measured = kind_of(task.metric).absent
            yield Finding(
                "warning",
                f"task.rows.{split}",
                f'label "{label}" never occurs among {len(rows[split])} rows: '
                + ("no trial learns it" if split == "train" else measured),
                "Give more rows (`limit`, `where` or the data)",
            )
    for split in ("dev", "test"):
        if task.labels and kind_of(task.metric).two_labels and len(found.get(split, (0, 0))) < 2:
            yield Finding(
                "error",
                f"task.rows.{split}",
                f"all {len(rows[split])} rows have one label, so {task.metric} is the same for every trial",
                "Give rows of two labels or more, or use task.metric=accuracy",
            )


def label_share_findings(task: Task, rows: Mapping[str, Sequence[Row]], use: LabelUse) -> Iterator[Finding]:
    """A label that most train rows have, and labels that are too rare for the metric in a sample of the dev grid."""
    if not task.labels:
        return
    [(label, count)] = Counter(row.label for row in rows["train"]).most_common(1)
    if use.balance == "none" and count > MOST * len(rows["train"]):
        yield Finding(
            "warning",
            "task.rows.train",
            f'{percent(count / len(rows["train"]))} % of {len(rows["train"])} rows have the label "{label}": trials '
            "may learn to answer nothing else",
            "Set training.balance=labels, so that each label is drawn equally often",
        )
    yield from _rare_label_findings(task, rows["dev"], "dev", "scoring.sample", use.sample)
    for pool, share in use.precise:
        yield from _rare_label_findings(task, rows[pool], pool, "tables.precision", share)


def _rare_label_findings(task: Task, rows: Sequence[Row], pool: str, key: str, share: float) -> Iterator[Finding]:
    """A label of which a prompt has too few cells for the metric, where ``share`` of the pool's grid is scored, as
    ``key`` says."""
    need = kind_of(task.metric).least_cells
    counts = Counter(row.label for row in rows)
    own = label_of(task.metric)
    rarest = min(counts, key=lambda x: counts[x]) if own is None else own
    if share < 1 and 0 < share * counts[rarest] < need:
        least = min(math.ceil(100 * need / counts[rarest]) / 100, 1.0)
        value = f"{least:g}" if key == "scoring.sample" else "whole"
        yield Finding(
            "error",
            key,
            f'label "{rarest}" has {counts[rarest]} {pool} rows, of which a sample of {share:.2g} asks a prompt about '
            f"{share * counts[rarest]:.1f}, and {task.metric} is estimated well from {need}",
            f"Set {key}={value}, or use task.metric=accuracy",
        )
