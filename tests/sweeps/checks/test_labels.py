"""What a check says of the rows' labels: one that rules the train rows, and metrics that they cannot tell apart."""

from __future__ import annotations

import pytest

from sweeps.checks.labels import LabelUse, label_findings, label_share_findings
from trainer.data.rows import Row
from trainer.trial import Task


def rows(no: int, yes: int) -> tuple[Row, ...]:
    return tuple(Row(f"r{i}", {"text": "x"}, "no" if i < no else "yes") for i in range(no + yes))


EVEN = {split: rows(20, 20) for split in ("train", "dev", "test")}


def task(metric: str = "accuracy") -> Task:
    return Task(("no", "yes"), metric)


def shares(train: tuple[Row, ...], metric: str = "accuracy", use: LabelUse = LabelUse(), dev: int = 20) -> list[str]:  # noqa: B008
    given = {**EVEN, "train": train, "dev": rows(100 - dev, dev)}
    return [f"{f.level} {f}" for f in label_share_findings(task(metric), given, use)]


def test_a_label_of_most_train_rows_is_warned_of_where_nothing_is_balanced() -> None:
    assert shares(rows(71, 29)) == [
        'warning task.rows.train: 71.0 % of 100 rows have the label "no": trials may learn to answer nothing else. Set '
        "training.balance=labels, so that each label is drawn equally often"
    ]
    assert shares(rows(29, 71))[0].count('"yes"') == 1
    assert shares(rows(70, 30)) == []
    assert shares(rows(71, 29), use=LabelUse(balance="labels")) == []


@pytest.mark.parametrize("metric", ["f1_macro", "f1[yes]", "balanced_accuracy", "matthews_corrcoef"])
def test_a_label_too_rare_for_the_metric_in_a_sample_is_an_error(metric: str) -> None:
    """Four cells of each label for every prompt."""
    [said] = shares(rows(20, 20), metric, LabelUse(sample=0.1), dev=30)
    assert said == (
        'error scoring.sample: label "yes" has 30 dev rows, of which a sample of 0.1 asks a prompt about 3.0, and '
        f"{metric} is estimated well from 4. Set scoring.sample=0.14, or use task.metric=accuracy"
    )
    assert shares(rows(20, 20), metric, LabelUse(sample=0.14), dev=30) == []
    assert shares(rows(20, 20), metric, LabelUse(), dev=3) == []
    assert shares(rows(20, 20), "f1[no]", LabelUse(sample=0.1), dev=30) == [], "its own label is met seven times"
    assert shares(rows(20, 20), "accuracy", LabelUse(sample=0.1), dev=30) == []


def test_a_label_too_rare_where_the_precision_asks_for_a_sample_is_an_error() -> None:
    """Of the dev and of the test grid; a share of 1 is a whole grid."""
    use = LabelUse(precise=(("dev", 0.1), ("test", 0.15)))
    assert shares(rows(20, 20), "f1_macro", use, dev=30) == [
        'error tables.precision: label "yes" has 30 dev rows, of which a sample of 0.1 asks a prompt about 3.0, and '
        "f1_macro is estimated well from 4. Set tables.precision=whole, or use task.metric=accuracy",
        'error tables.precision: label "no" has 20 test rows, of which a sample of 0.15 asks a prompt about 3.0, and '
        "f1_macro is estimated well from 4. Set tables.precision=whole, or use task.metric=accuracy",
    ]
    assert shares(rows(20, 20), "f1_macro", LabelUse(precise=(("dev", 1.0), ("test", 1.0))), dev=3) == []
    assert shares(rows(20, 20), "accuracy", use, dev=3) == []


def found(metric: str, **few: tuple[Row, ...]) -> list[str]:
    return [f"{f.level} {f.where}: {f.what}" for f in label_findings(task(metric), {**EVEN, **few})]


def test_a_metric_that_is_the_same_for_every_trial_is_an_error() -> None:
    alone = rows(12, 0)
    assert found("f1[yes]", dev=alone) == [
        'error task.rows.dev: label "yes" never occurs among 12 rows, so f1[yes] is always 0'
    ]
    assert found("f1[no]", dev=alone) == [
        'warning task.rows.dev: label "yes" never occurs among 12 rows: it counts only where it is wrongly answered '
        "there"
    ]
    for metric in ("roc_auc", "matthews_corrcoef"):
        errors = [said for said in found(metric, test=alone) if said.startswith("error")]
        assert errors == [f"error task.rows.test: all 12 rows have one label, so {metric} is the same for every trial"]
    assert found("roc_auc", train=alone) == [
        'warning task.rows.train: label "yes" never occurs among 12 rows: no trial learns it'
    ]
    assert found("balanced_accuracy") == []
