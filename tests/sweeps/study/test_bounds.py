# ruff: noqa: E501  (messages are written out as they are shown)
"""Upper bounds of a study's numbers, each with its reason, and what names may be (CASES B3, B4, B9)."""

from __future__ import annotations

from typing import Any

import pytest

from sweeps.study.overlay import StudyError
from sweeps.study.problems import yaml_text

DRAWN = ("search.method=random", "search.trials=3")


def said(study: Any, *overrides: str) -> str:
    with pytest.raises(StudyError) as error:
        study(*overrides)
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("axes.steps=3e9", "axes.steps=3e9 must be at most 10,000,000: at a hundred steps a second they take a day; pre-training takes about a million"),
        ("axes.lora.r=1e9", "axes.lora.r=1e9 must be at most 65,536: a rank above a layer's width adds nothing, and no open model is so wide"),
        ("resources.slots=1e12", "resources.slots=1e12 must be at most 1,024: each holds an adapter and a process, on one accelerator"),
        ("training.batch_size=1e18", "training.batch_size=1e18 must be at most 65,536: the gradient of so many rows is no better, and their order takes memory"),
        ("training.accumulation=65537", "training.accumulation=65537 must be at most 65,536: the gradient of so many rows is no better, and their order takes memory"),
        ("axes.seed=18446744073709551616", "axes.seed=18446744073709551616 must be at most 4,294,967,295: the random generators that it starts take 32 bits"),
        ("search={method: random, trials: 100001}", "search.trials=100001 must be at most 100,000: each is a task for Ray's scheduler, which decides some hundred a second"),
        ("axes.epochs=1e6", "axes.epochs=1e6 must be at most 100,000: a fine-tune sees its rows a few times"),
        ("axes.lr=1e39", "axes.lr=1e39 must be at most 3.4e+38: it must fit a float32, in which adapters are trained"),
        ("axes.lr=1e400", "axes.lr=1e400 must be a finite number"),
        ("axes.lr=" + "9" * 400, "must be a finite number"),
        ("axes.lr=.nan", "axes.lr=.nan must be a finite number"),
        ("axes.lr=-.inf", "axes.lr=-.inf must be a finite number"),
        ("axes.lr=-0", "axes.lr=-0 must be more than 0"),
        ("axes.steps=true", "axes.steps=true must be a whole number"),
        ("axes.steps=2.5", "axes.steps=2.5 must be a whole number"),
        ("tables.strict=1", "tables.strict=1 must be true or false"),
        ("scoring.max_new_tokens=40000", "scoring.max_new_tokens=40000 must be at most 32,768: each is a pass through the model for every row"),
        ("task.max_length=2e6", "task.max_length=2e6 must be at most 1,048,576: no open model reads longer sequences"),
        ("resources.cpus=1e5", "resources.cpus=1e5 must be at most 4,096: no machine has so many cores"),
        ("resources={workers: 5000, slots: 1}", "resources.workers=5000 must be at most 4,096: each needs an accelerator of its own"),
        ("scheduler.eta=1001", "scheduler.eta=1001 must be at most 1,000: a rung would keep less than one of a thousand trials"),
        ("task.rows.dev.limit=1e10", "task.rows.dev.limit=1e10 must be at most 1,000,000,000: no study has so many"),
        ("axes.plw={power: [1e300]}", "must give power as numbers of 0 to 1,000,000, such as {power: [0, 0.25, 0.5]}"),
        ("axes.plw={share: [0.5], ratio: 1e300}", "needs the completion/prompt ratio"),
        ("axes.seed=[" + "1," * 10_001 + "]", "has 10,001 values; at most 10,000 are allowed"),
        ("axes.pool=[[one]]", 'axes.pool[0]=["one"] must be text'),
        ("axes.pool=[{one: 1}]", "axes.pool[0]={one: 1} must be text"),
        ("name=../x", 'name=../x may hold letters, digits, ".", "_" and "-", and begins with a letter or a digit: it names a folder'),
        ("name=" + "x" * 101, "has 101 characters; at most 100 are allowed"),
        ("templates={' a': {}}", "is a name with spaces around it, a line break or a control character. Leave them out"),
        ("pools.train={'': p.yaml}", "is an empty name. Give it a letter or more"),
        ('arms={"a\\nb": {pool: one}}', "is a name with spaces around it, a line break or a control character"),
        (f"arms={{{'x' * 101}: {{pool: one}}}}", "has 101 characters; a name has at most 100, because tables show it"),
        ("task.labels={0: '', 1: b}", "task.labels.0= is empty. Give the label a name"),
        ("model.path=" + "x" * 256, "is no path: a file's name has at most 255 bytes, a path with its folders 4,095"),
        ("pools.dev=" + "x/" * 50_000, "is no path: a file's name has at most 255 bytes, a path with its folders 4,095"),
        ("task.labels=[a, a]", 'task.labels[1]="a" is listed twice. Keep one'),
    ],
)  # fmt: skip
def test_a_value_out_of_bounds_is_told_with_bound_and_reason(study: Any, override: str, message: str) -> None:
    text = said(study, override)
    assert message in text.replace('=""', "=")
    assert all(len(line) < 600 for line in text.splitlines())


def test_the_ends_of_a_range_are_bounded_too(study: Any) -> None:
    text = said(study, "axes.lora.r={uniform: [1, 1e9]}", *DRAWN)
    assert text.startswith("command line: axes.lora.r={uniform: [1, 1e9]} (upper end) must be at most 65,536: ")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["confirm={seeds: 100001}"], "confirm.seeds=100001 must be at most 100,000: each is a task for Ray's scheduler, which decides some hundred a second"),
        (["confirm={seeds: two}"], 'confirm.seeds="two" must be a whole number'),
        (["confirm={seeds: [7, -1]}"], "confirm.seeds[1]=-1 must be at least 0"),
        (["confirm={seeds: []}"], "confirm.seeds=[] is empty"),
        (["confirm={seeds: 1}"], "confirm.seeds=1 is one seed, and with confirm.top above 1 some seeds choose and others report. Give 2 or more"),
        (["confirm={seeds: [7, 7]}"], "confirm.seeds[1]=7 is listed twice. Keep one"),
        (["confirm={seeds: [7, 3]}", "axes.seed=[2, 3]"], "confirm.seeds[1]=3 is one of axes.seed, by which the configuration was chosen. Give seeds that are not, or how many"),
        (["confirm={seeds: [7, 3]}", "axes.seed={uniform: [2, 5]}", *DRAWN], "confirm.seeds[1]=3 is one of axes.seed"),
        (["confirm={seeds: 4}", "axes.seed=4294967293"], "confirm.seeds=4 counts on from the largest of axes.seed, and seeds end at 4294967295. Give the seeds themselves"),
        (["confirm={top: 17}"], "confirm.top=17 is more than the 16 configurations of the study. Give 16"),
        (["axes.seed=[0, 1]", "search={method: random, trials: 5}"], "search.trials=5 is no multiple of the 2 seeds of axes.seed, and every configuration that is drawn gets all of them. Give 4 or 6"),
        (["axes.seed=[0, 1]", "search={method: tpe, trials: 4}"], "axes.seed=[0, 1] has 2 values, and search.method = tpe chooses one trial at a time. Give one seed; `confirm` trains the best configurations with more"),
    ],
)  # fmt: skip
def test_seeds_that_cannot_confirm_or_be_drawn_are_refused(study: Any, overrides: list[str], message: str) -> None:
    assert message in said(study, *overrides)


def test_fresh_seeds_follow_those_of_the_axis(study: Any) -> None:
    of = study("confirm={seeds: 2}", "axes.seed=[4294967293, 0]")
    assert list(of.confirm.fresh_seeds(of.axes.seed)) == [4294967294, 4294967295]
    ranged = study("confirm={seeds: 2}", "axes.seed={uniform: [2, 5]}", *DRAWN)
    assert list(ranged.confirm.fresh_seeds(ranged.axes.seed)) == [6, 7]
    given = study("confirm={seeds: [9, 3]}")
    assert given.confirm.fresh_seeds(given.axes.seed) == (9, 3)


def test_a_grid_is_counted_and_not_built(study: Any) -> None:
    """96 million points."""
    lists = {name: ",".join(str(i) for i in range(1, n + 1)) for name, n in (("lr", 4000), ("seed", 3000))}
    text = said(study, *(f"axes.{name}=[{values}]" for name, values in lists.items()))
    assert "axes make a grid of 96,000,000 trials (2 of axes.lora.r x 2 of axes.template x 4,000 of axes.lr x " in text
    assert "at most 100,000 are allowed" in text
    assert study("axes.seed=[" + ",".join(map(str, range(1000))) + "]").axes.seed[-1] == 999


def test_each_grid_of_a_staged_study_is_counted(study: Any) -> None:
    numbers = ",".join(str(i) for i in range(1, 1001))
    stages = (
        "stages={heads: [labels], order: [[lr, r], steps]}",
        "task.meaning={about: x, other: {spam: [spam]}}",
        "axes.plw=0",
    )
    text = said(study, *stages, f"axes.lr=[{numbers}]", f"axes.lora.r=[{numbers}]", "axes.seed=[0,1]")
    assert "axes make a grid of 2,000,000 trials (1,000 of axes.lora.r x 1,000 of axes.lr x 2 of axes.seed)" in text
    fine = (*stages, f"axes.lr=[{numbers}]", f"axes.steps=[{numbers}]", "axes.seed=[0,1]")
    assert study(*fine).axes.lr[-1] == 1000.0, "each group is a grid of its own"


def test_epochs_of_many_rows_are_bounded_as_steps_are(study: Any) -> None:
    from sweeps.trials.from_points import steps_of

    with pytest.raises(
        StudyError, match=r"epochs = 100000 of 1,000,000 rows are 12,500,000,000 steps; at most 10,000,000"
    ):
        steps_of(study("axes.epochs=1e5"), {"epochs": 1e5}, 1_000_000)


def test_long_and_strange_values_are_shown_short_and_clean(study: Any) -> None:
    assert len(yaml_text("x" * 100_000)) <= 80
    assert len(yaml_text(["x" * 100_000] * 100)) <= 80
    assert yaml_text("a\x1b\u202e\n") == '"a\\x1b\\u202e\\n"'
    for text in (
        said(study, "a" * 100_000 + "=1"),
        said(study, "a." * 50_000 + "a=1"),
        said(study, "=" + "x" * 100_000),
        said(study, "x" * 100_000),
        said(study, "axes.template=" + "x" * 100_000),
        said(study, "a\ud800=1"),
        said(study, 'name="\\ud800"'),
        said(study, "name=\x1b[31m"),
    ):
        assert len(text) < 1000
        assert text.isprintable()


def test_a_study_that_cannot_be_opened_is_told(tmp_path: Any) -> None:
    from sweeps.study.load import load_study

    for path in (f"{tmp_path}/{'x' * 100_000}.yaml", f"{tmp_path}/a\0b.yaml", "/dev/null"):
        with pytest.raises(StudyError) as error:
            load_study(path)
        assert len(str(error.value)) < 1000
