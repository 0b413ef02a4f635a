"""The metrics that a study can name, by scikit-learn's names: what each says, what it needs, and how it is written.

A metric is computed for each prompt over its rows. Every value is scikit-learn's, told all labels of the task and
``zero_division=0``, where an answer that could not be read is an answer that no label is. So a label that no row has
counts as 0 in ``f1_macro`` and in its own ``f1[label]``, weighs nothing in ``f1_weighted`` and is left out of
``balanced_accuracy``; where all rows have one label, ``matthews_corrcoef`` is 0, and ``roc_auc`` does not exist:
reading it is an error.

The formulas are in ``confusion.py`` and ``placements.py``. Standard library only: the study's schema reads this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainer.errors import nearest


@dataclass(frozen=True)
class MetricKind:
    """A metric without the label that it may be of. The highest value of each is 1."""

    says: str
    absent: str  # how it counts a label that no row has, in the words of a warning
    lowest: float = 0.0
    two_labels: bool = False  # it is the same for every trial where all rows have one label
    least_cells: int = 4  # of a label, for each prompt: in a sample with fewer, intervals cover too seldom (simulated)
    ranks: bool = False  # it reads the log-probabilities of two labels, of all rows of a prompt, instead of answers


ACCURACY, F1, ROC_AUC = "accuracy", "f1", "roc_auc"
METRICS = {
    ACCURACY: MetricKind("share of right answers", "it is not measured there", least_cells=0),
    "balanced_accuracy": MetricKind(
        "share of right answers among a label's rows, averaged over labels",
        "balanced_accuracy leaves it out there",
    ),
    "f1_macro": MetricKind("F1, averaged over labels", "f1_macro counts it as 0 there"),
    "f1_weighted": MetricKind(
        "F1, averaged over labels by their numbers of rows", "f1_weighted gives it no weight there", least_cells=0
    ),
    F1: MetricKind("F1 of one label", "it counts only where it is wrongly answered there"),
    "matthews_corrcoef": MetricKind(
        "Matthews correlation coefficient, from -1 to 1",
        "it counts only where it is wrongly answered there",
        lowest=-1.0,
        two_labels=True,
    ),
    ROC_AUC: MetricKind(
        "area under the ROC curve, of two labels", "roc_auc has no value there", two_labels=True, ranks=True
    ),
}
OF_WHOLE_TASK = tuple(name for name in METRICS if name != F1)
MOST_F1_COLUMNS = 10  # of a table: a task with more labels is read by its averages


def f1_of(label: str) -> str:
    """``f1[yes]``, the metric F1 of one label."""
    return f"{F1}[{label}]"


def label_of(metric: str) -> str | None:
    """The label of ``f1[label]``; None for other names."""
    return metric[len(F1) + 1 : -1] if metric.startswith(f"{F1}[") and metric.endswith("]") else None


def kind_of(metric: str) -> MetricKind:
    """KeyError for a name that ``misfit`` does not know."""
    return METRICS[metric if label_of(metric) is None else F1]


def misfit(metric: str, labels: Sequence[str]) -> str:
    """What is wrong with the name ``metric`` for a task with these ``labels`` (none: each row has its own options), as
    the end of a sentence; empty where nothing is."""
    label = label_of(metric)
    if metric == F1:
        return f"is of one label, which stands in brackets: {' or '.join(map(f1_of, labels[:2])) or f1_of('label')}"
    if label is None and metric not in METRICS:
        return f"is not known.{nearest(metric, [*OF_WHOLE_TASK, *map(f1_of, labels[:MOST_F1_COLUMNS])])}"
    if not labels and metric != ACCURACY:
        return "needs task.labels: options are not classes. Use accuracy"
    if label is not None and label not in labels:
        return f"is of no label of the task.{nearest(metric, map(f1_of, labels))}"
    if metric == ROC_AUC and len(labels) != 2:
        return f"tells two labels apart, and the task has {len(labels)}. Use balanced_accuracy or f1_macro"
    return ""


def task_metrics(labels: Sequence[str]) -> Iterator[str]:
    """Every metric that the tables show for a task with these ``labels``."""
    for metric in (*OF_WHOLE_TASK, *map(f1_of, labels if len(labels) <= MOST_F1_COLUMNS else ())):
        if not misfit(metric, labels):
            yield metric
