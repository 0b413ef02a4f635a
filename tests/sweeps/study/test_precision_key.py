"""``tables.precision``: what it may be, what it means for each grid, and what a mistake is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_study import write_study

from sweeps.checks.labels import LabelUse, label_share_findings
from sweeps.checks.small_samples import sample_findings
from sweeps.study.load import load_study
from sweeps.study.overlay import StudyError, dump_yaml
from sweeps.study.precision import precision_of, usual_cells
from sweeps.trials.from_points import make_trials, points_of
from sweeps.trials.load_content import content_of
from sweeps.trials.study_work import study_work
from trainer.measure.precision import Precision


def study_with(folder: Path, *overrides: str, **changes: Any) -> Any:
    return load_study(write_study(folder, **changes), overrides)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("{mean: 0}", "tables.precision.mean=0 must be more than 0"),
        ("{mean: 1}", "tables.precision.mean=1 must be less than 1"),
        ("{std: -0.01}", "tables.precision.std=-0.01 must be more than 0"),
        ("{mean: .nan}", "tables.precision.mean=nan must be a finite number"),
        ("{mean: true}", "tables.precision.mean=true must be a number"),
        ("{men: 0.01}", 'tables.precision.men is not a known key. Did you mean "tables.precision.mean"?'),
        ("{}", "has no half-width. Give mean, std or both"),
        ("{whole: true, mean: 0.01}", "cannot be combined with half-widths"),
        ("hole", 'tables.precision=hole is not known. Give "whole"'),
        ("0.01", "tables.precision=0.01 must be a mapping of keys"),
    ],
)
def test_a_mistake_is_told_in_a_line(tmp_path: Path, value: str, told: str) -> None:
    with pytest.raises(StudyError) as error:
        study_with(tmp_path, f"tables.precision={value}")
    [line] = str(error.value).splitlines()
    assert told in line


def test_what_is_scored_of_a_grid(tmp_path: Path) -> None:
    default = study_with(tmp_path)
    assert precision_of(default, "test", 20, 500) is None
    assert precision_of(default, "test", 20, 501) == Precision(0.01, None)
    both = study_with(tmp_path, "tables.precision={mean: 0.02, std: 0.01}")
    assert precision_of(both, "test", 20, 100) == Precision(0.02, 0.01)
    assert precision_of(study_with(tmp_path, "tables.precision={std: 0.01}"), "dev", 4, 100) == Precision(None, 0.01)
    whole = study_with(tmp_path, "tables.precision=whole")
    assert precision_of(whole, "test", 100, 100_000) is None
    again = load_study(written(tmp_path, dump_yaml(whole.model_dump(mode="json"))))
    assert precision_of(again, "test", 100, 100_000) is None  # as the run folder's study.yaml says it
    for prompts, rows in ((20, 1821), (50, 10_000), (20, 502)):
        cells = usual_cells(default, "dev", prompts, rows)
        assert cells < prompts * rows
        assert cells % prompts == 0
    assert usual_cells(default, "dev", 20, 500) == 10_000


def written(folder: Path, text: str) -> Path:
    path = folder / "again.yaml"
    path.write_text(text)
    return path


def test_the_std_of_three_prompts_is_refused(tmp_path: Path) -> None:
    study = study_with(tmp_path, "tables.precision={std: 0.01}")
    with pytest.raises(StudyError, match=r"tables.precision.std = 0.01 needs 4 dev prompts or more, and there are 3"):
        precision_of(study, "dev", 3, 100)
    few = study_with(tmp_path, "tables.precision={std: 0.01}", "pools.test.limit=3")
    with pytest.raises(StudyError, match=r"needs 4 test prompts"):
        content_of(few)


def test_stages_and_arms_are_compared_on_whole_grids(tmp_path: Path) -> None:
    arms = "arms={a: {pool: many}, b: {pool: one}}"
    with pytest.raises(StudyError, match="cannot be combined with arms, which are compared on whole grids"):
        study_with(tmp_path, "tables.precision={mean: 0.01}", arms)
    for one in (study_with(tmp_path, arms), study_with(tmp_path, arms, "tables.precision=whole")):
        assert precision_of(one, "test", 50, 10_000) is None


def test_a_metric_that_ranks_rows_is_of_whole_grids(tmp_path: Path) -> None:
    """Also above the size from which grids are sampled."""
    ranked = study_with(tmp_path, "task.metric=roc_auc")
    assert precision_of(ranked, "test", 50, 10_000) is None
    assert usual_cells(ranked, "dev", 50, 10_000) == 500_000
    assert precision_of(study_with(tmp_path, "task.metric=f1_macro"), "test", 50, 10_000) == Precision()
    assert precision_of(study_with(tmp_path, "task.metric=roc_auc", "tables.precision=whole"), "dev", 5, 100) is None
    with pytest.raises(StudyError, match=r"a row's rank needs all rows of its prompt. Set tables.precision=whole, or"):
        study_with(tmp_path, "task.metric=roc_auc", "tables.precision={mean: 0.01}")


def test_a_correlation_takes_more_cells_since_its_values_lie_twice_as_far_apart(tmp_path: Path) -> None:
    plain, wide = (study_with(tmp_path, f"task.metric={m}") for m in ("accuracy", "matthews_corrcoef"))
    twice = study_with(tmp_path, "tables.precision={mean: 0.005}")
    assert usual_cells(wide, "dev", 20, 20_000) == usual_cells(twice, "dev", 20, 20_000)
    assert usual_cells(plain, "dev", 20, 20_000) < usual_cells(wide, "dev", 20, 20_000)


def test_a_label_too_rare_for_the_metric_where_a_grid_is_sampled_is_an_error(tmp_path: Path) -> None:
    changes = ("task.metric=f1_macro", "task.rows.dev.limit=300", "pools.dev.limit=4")
    sizes = {"default": "name=small", "sampled": "tables.precision={mean: 0.3}"}
    found = {}
    for name, override in sizes.items():
        study = study_with(tmp_path, override, *changes)
        content = content_of(study)
        use = LabelUse.of(study, content)
        rows = dict(content.assets.rows)
        names = [r.label for r in rows["dev"]]
        kept = [i for i, x in enumerate(names) if x == names[0]][:4]  # four rows of one label
        rows["dev"] = tuple(r for i, r in enumerate(rows["dev"]) if r.label != names[0] or i in kept)
        found[name] = [str(f) for f in label_share_findings(content.task, rows, use) if f.level == "error"]
    assert found["default"] == []
    [said] = found["sampled"]
    assert "Set tables.precision=whole, or use task.metric=accuracy" in said


def test_the_size_of_the_dev_sample_is_a_trials_own(tmp_path: Path) -> None:
    """With the whole grid a trial has the id that it had before there were samples."""
    ids = {}
    for name, override in (
        ("default", "name=small"),
        ("asked", "tables.precision={mean: 0.3}"),
        ("whole", "tables.precision=whole"),
    ):
        study = study_with(tmp_path, override, "task.rows.dev.limit=400", "pools.dev.limit=5")
        content = content_of(study)
        ids[name] = {t.id: t.scoring.most for t in make_trials(study, points_of(study) or [], content)}
    assert ids["default"] == ids["whole"]
    assert set(ids["default"].values()) == {0}
    assert set(ids["asked"].values()) == {1000}
    assert not set(ids["asked"]) & set(ids["whole"])


def test_work_counts_the_cells_of_samples(tmp_path: Path) -> None:
    study = study_with(tmp_path, "tables.precision={mean: 0.02}", "scheduler={rungs: [0.5, 1.0]}")
    work = study_work(study, 8, (20, 100), (20, 3000))
    assert work.dev_cells == (usual_cells(study, "dev", 20, 100),) * 2
    assert work.dev_cells[0] < 2000
    assert work.test_cells == usual_cells(study, "test", 20, 3000) < 3000
    assert work.all_test_cells(work.tested) == 2 * 60_000 + 6 * work.test_cells
    sampled = study_work(
        study_with(tmp_path, "scoring.sample=0.1", "scheduler={rungs: [0.5, 1.0]}"), 8, (20, 1000), (20, 10)
    )
    assert sampled.dev_cells == (2000, usual_cells(study_with(tmp_path), "dev", 20, 1000))
    assert (sampled.test_cells, sampled.whole_tests) == (200, 0)


def test_check_warns_of_a_small_sample(tmp_path: Path) -> None:
    changes = ("task.rows.dev.limit=300", "pools.dev.limit=4", "scheduler={rungs: [0.5, 1.0]}")
    small = study_with(tmp_path, "scoring.sample=0.5", *changes)
    [finding] = sample_findings(small, content_of(small))
    assert "scores 600 of 1,200 cells of the dev grid" in str(finding)
    enough = study_with(tmp_path, "scoring.sample=0.9", *changes)
    assert sample_findings(enough, content_of(enough)) == []
    tiny = study_with(tmp_path)  # all of 96 cells
    assert sample_findings(tiny, content_of(tiny)) == []
