"""Checks of the rows' labels: that each occurs, that the metric tells trials apart, that none drowns the others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sweeps.checks.findings import Finding
from sweeps.display.text import percent
from sweeps.study.study import Study
from trainer.data.rows import Row
from trainer.measure.registry import kind_of, label_of
from trainer.trial import Task

MOST = 0.7  # share of the train rows beyond which one label is a constant answer that training finds first


@dataclass(frozen=True)
class LabelUse:
    """What of a study bears on how often a label is met."""

    balance: str = "none"  # training.balance
    sample: float = 1.0  # scoring.sample

    @classmethod
    def of(cls, study: Study) -> LabelUse:
        return cls(study.training.balance, study.scoring.sample)


PLAIN_USE = LabelUse()


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
    need = kind_of(task.metric).least_cells
    counts = Counter(row.label for row in rows["dev"])
    own = label_of(task.metric)
    rarest = min(counts, key=lambda x: counts[x]) if own is None else own
    if use.sample < 1 and 0 < use.sample * counts[rarest] < need:
        share = math.ceil(100 * need / counts[rarest]) / 100
        yield Finding(
            "error",
            "scoring.sample",
            f'label "{rarest}" has {counts[rarest]} dev rows, of which a sample of {use.sample:g} asks a prompt about '
            f"{use.sample * counts[rarest]:.1f}, and {task.metric} is estimated well from {need}",
            f"Set scoring.sample={min(share, 1.0):g}, or use task.metric=accuracy",
        )
