"""``steadytune.study`` reads, checks, plans and runs a study as the commands do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from staged_study import write_study
from tiny_run import LABELLED, make_run

import steadytune as st
from sweeps.cli import main
from sweeps.study.load import load_study
from sweeps.study.shipped import study_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study tiny.yaml and its finished run. Tests may only read it."""
    folder = tmp_path_factory.mktemp("finished")
    make_run(folder, LABELLED, sound=True, axes={"lr": [5e-3, 1e-2], "steps": 45})  # after which they tell labels apart
    return folder


def test_a_study_is_found_by_path_and_by_name_and_overrides_are_laid_over_it(finished: Path) -> None:
    path = finished / "tiny.yaml"
    assert st.study(path).settings == load_study(path)
    assert st.study(str(path), "axes.lr=[1e-3, 2e-3]", "axes.steps=5").settings.axes.lr == (1e-3, 2e-3)
    assert st.study("quickstart", "axes.plw=0").settings == load_study(study_path("quickstart"), ["axes.plw=0"])


def test_a_dict_is_the_file_of_the_same_content(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths, numbers of numpy, tuples and keys that are numbers count as what YAML would make of them."""
    path = finished / "tiny.yaml"
    layer: dict[str, Any] = yaml.safe_load(path.read_text())
    monkeypatch.chdir(finished)
    assert st.study(layer).settings == load_study(path)
    layer["pools"]["dev"] = Path("dev.yaml")
    layer["axes"] = {"lr": tuple(np.array([5e-3, 1e-2])), "steps": np.int64(45)}
    layer["task"]["labels"] = {0: "no", 1: "yes"}
    assert st.study(layer).settings == load_study(path)
    assert st.study(layer, "axes.steps=5").settings.axes.steps == (5,)


@pytest.mark.parametrize(
    ("change", "overrides", "words"),
    [
        ({"axes": {"lrr": 1e-3}}, (), 'study: axes.lrr is not a known key. Did you mean "axes.lr"?'),
        ({"name": None}, (), "study: name = null must be text"),
        (
            {"axes": {"lr": {1e-3}}},
            (),
            "study: axes.lr = {0.001} is of the type set, which no study holds.",
        ),
        ({}, ("axes.lrr=1e-3",), 'override: axes.lrr=1e-3 is not a known key. Did you mean "axes.lr"?'),
        ({}, ("axes.lr",), 'override: "axes.lr" has no value. Write axes.lr=value'),
    ],
    ids=range(5),
)
def test_mistakes_are_said_with_their_place(
    finished: Path, change: dict[str, Any], overrides: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    layer = {**yaml.safe_load(Path("tiny.yaml").read_text()), **change}
    with pytest.raises(st.UserError) as caught:
        st.study(layer, *overrides)
    assert words in str(caught.value)


def test_a_study_in_a_dict_needs_a_name(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    layer = yaml.safe_load(Path("tiny.yaml").read_text())
    del layer["name"]
    with pytest.raises(st.UserError, match="study: name is missing"):
        st.study(layer)
    with pytest.raises(st.UserError, match="study: is empty"):
        st.study({})
    with pytest.raises(st.UserError, match=r'study "quickstrat" is neither a file nor a shipped study\. Did you mean'):
        st.study("quickstrat")


def test_a_sound_study_has_no_errors(finished: Path) -> None:
    found = st.study(finished / "tiny.yaml").check()
    assert found.errors == []
    assert {n.pool for n in found.lengths} == {"train.many", "dev", "test"}
    assert str(found).splitlines()[-1].startswith("0 errors, ")


def test_the_findings_are_those_of_the_command(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = [str(finished / "tiny.yaml"), "pools.test=" + str(finished / "dev.yaml")]
    found = st.study(*study).check()
    assert found.errors
    assert all(f.where and f.what and f.fix for f in found.errors)
    with pytest.raises(SystemExit) as ended:
        main(["check", *study])
    said = capsys.readouterr().out
    assert ended.value.code == 1
    for line in str(found).splitlines():
        assert line in said


def test_rows_that_cannot_be_read_are_a_mistake(finished: Path) -> None:
    with pytest.raises(st.UserError, match=r'"txt" is no column of .*train\.jsonl\. Did you mean "text"'):
        st.study(finished / "tiny.yaml", "task.fields=[txt]").check()


def test_the_plan_is_that_of_the_command(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(finished / "tiny.yaml")
    plan = st.study(path).plan(tflops=0.5)
    assert plan.cost.trials == 2
    assert plan.cost.seconds == pytest.approx(plan.cost.cost.operations / 5e11)
    assert plan.differences is not None
    with pytest.raises(SystemExit):
        main(["plan", path, "--tflops", "0.5"])
    said = " ".join(capsys.readouterr().out.split())
    for line in str(plan).splitlines():
        assert " ".join(line.split()) in said
    assert "rate given: 0.5 TFLOP/s of a host" in said


def test_the_text_of_a_plan_has_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the terminal asks for them, as Jupyter does."""
    plan = st.study("quickstart").plan()
    plain = str(plan)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert str(plan) == plain
    assert "\x1b" not in plain


def test_a_plan_with_a_finished_run_says_how_its_scores_vary(finished: Path) -> None:
    study = st.study(finished / "tiny.yaml")
    before, after = study.plan().differences, study.plan(source=finished / "run").differences
    assert before is not None
    assert after is not None
    assert before.recorded.source != after.recorded.source


def test_the_plan_of_a_study_in_stages_has_its_stages(tmp_path: Path) -> None:
    study = st.study(write_study(tmp_path))
    plan = study.plan()
    assert {s.stage for s in plan.cost.stages} == {2, 3, 4, 5}
    assert plan.differences is None
    assert "jointly: the whole grid" in str(plan)
    with pytest.raises(st.UserError, match="--from run: is for a study without `stages`"):
        study.plan(source="run")


@pytest.mark.parametrize("tflops", [0, -1.0, float("inf"), float("nan")])
def test_a_rate_is_a_finite_number_above_0(tflops: float) -> None:
    with pytest.raises(st.UserError, match=r"must be a finite number above 0: operations of a host in 10\^12 a second"):
        st.study("quickstart").plan(tflops)


def test_a_run_is_opened_where_it_was_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All is trained, so that Ray is not started; that it is started otherwise, the notebook shows."""
    out = finished / "run"
    scores = {p: p.stat().st_mtime_ns for p in out.glob("scores/*/*")}
    assert scores
    run = st.study(finished / "tiny.yaml").run(out)
    assert run.address == str(out)
    assert "nothing to train" in capsys.readouterr().out
    pd.testing.assert_frame_equal(run.table(), pd.read_parquet(out / "tables" / "robustness.parquet"))
    assert {p: p.stat().st_mtime_ns for p in scores} == scores


def test_without_a_folder_a_run_is_in_runs(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").symlink_to(finished / "run")
    monkeypatch.chdir(tmp_path)
    run = st.study(finished / "tiny.yaml").run()
    assert run.address == os.path.join(os.getcwd(), "runs", "tiny")
