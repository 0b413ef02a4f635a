"""``steadytune monitor``: figures by hand, and an exported trial whose rows stay as they were or change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run

from sweeps.cli.app import app
from sweeps.cli.exit_codes import guarded
from sweeps.export.export import export
from sweeps.export.exported import REFERENCE, read_exported
from sweeps.export.monitor import Monitored, monitor
from sweeps.export.predict import predict
from sweeps.export.reference import AnsweredRows, asked, read_reference
from sweeps.run_folder.reading import RunFolder
from sweeps.statistics.drift import DIFFERS, UNDECIDED
from trainer.errors import UserError
from trainer.measure.grid import NO_ANSWER, Grid
from trainer.store import Store


def by_hand(predicted: list[list[int]], label: list[int]) -> Grid:
    given, right = np.array(predicted), np.array(label)
    p, r = given.shape
    prompts, rows = tuple(f"p{i}" for i in range(p)), tuple(f"r{i}" for i in range(r))
    return Grid(prompts, rows, ("no", "yes"), right, given, given == right, None, False)


def counted(about: AnsweredRows, name: str) -> dict[float, float]:
    sample = about.figures[name]
    return dict(zip(sample.values.tolist(), sample.counts.tolist(), strict=True))


def test_figures_by_hand() -> None:
    grid = by_hand([[0, 1, 1, 0], [0, 1, 0, NO_ANSWER], [0, 1, 1, 1]], [0, 1, 0, 1])
    confidence = np.array([[0.9, 0.6, 0.7, 0.5], [0.9, 0.9, 0.6, 0.5], [0.9, 0.9, 0.5, 0.5]])
    about = asked(grid, {"p0": "a", "p1": "b", "p2": "c"}, confidence, "accuracy")
    assert counted(about, "share of no") == {0.0: 1, 0.3333: 2, 1.0: 1}
    assert counted(about, "share of yes") == {0.0: 1, 0.3333: 1, 0.6667: 1, 1.0: 1}
    assert counted(about, "no readable answer") == {0.0: 3, 0.3333: 1}
    assert counted(about, "agreement between wordings") == {0.0: 1, 0.3333: 1, 1.0: 2}
    assert counted(about, "confidence") == {0.5: 1, 0.6: 1, 0.8: 1, 0.9: 1}
    assert counted(about, "accuracy") == {0.3333: 2, 1.0: 2}
    assert about.metric is None
    again = AnsweredRows.from_json(json.loads(json.dumps(about.to_json())))
    assert counted(again, "confidence") == counted(about, "confidence")


def test_another_metric_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 60)
    predicted = np.where(rng.random((3, 60)) < 0.8, label, 1 - label)
    about = asked(by_hand(predicted.tolist(), label.tolist()), {}, None, "f1_macro")
    assert about.metric is not None
    assert about.metric.value == pytest.approx(np.mean([f1_score(label, p, average="macro") for p in predicted]))
    draws = [rng.integers(0, 60, 60) for _ in range(200)]
    spread = np.std([np.mean([f1_score(label[d], p[d], average="macro") for p in predicted]) for d in draws])
    assert about.metric.error == pytest.approx(spread, rel=0.2)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A run folder, and an export of the trial that tells the labels apart."""
    uri, trials = tiny_run.made("labels", tmp_path_factory)
    best = max(trials, key=lambda trial: RunFolder(Store.open(uri)).last_grid(trial.id, "test").correct.mean())  # type: ignore[union-attr]
    return uri, export(uri, best.id, str(tmp_path_factory.mktemp("export") / "out"))


def test_the_reference_is_made_of_the_stored_scores(exported: tuple[str, str]) -> None:
    uri, folder = exported
    reference = read_reference(Store.open(folder))
    assert reference.test is not None
    assert reference.dev is not None
    trial = read_exported(Store.open(folder)).trial
    grid = RunFolder(Store.open(uri)).last_grid(trial.id, "test")
    assert grid is not None
    assert dict(reference.test.wordings) == tiny_run.PROMPTS["test"]
    assert reference.test.figures["share of yes"].mean == pytest.approx((grid.predicted == 1).mean())
    assert reference.test.figures["accuracy"].mean == pytest.approx(grid.correct.mean())
    text = Path(folder, REFERENCE).read_text()
    rows = [json.loads(line)["text"] for line in Path(tiny_run.data(uri, "test.jsonl")).read_text().splitlines()]
    assert not any(row in text.replace("Is it good", "") for row in rows)  # no row's text


def shown(found: Monitored) -> dict[str, Any]:
    return {figure.name: figure for figure in found.figures}


def test_the_studys_own_test_rows_are_like_themselves(exported: tuple[str, str]) -> None:
    """Predicted anew, they give the stored figures exactly."""
    uri, folder = exported
    found = monitor(folder, tiny_run.data(uri, "test.jsonl"), labels=True)
    assert list(shown(found)) == ["share of yes", "confidence", "agreement between wordings", "accuracy"]
    for figure in found.figures:
        assert figure.difference.value == pytest.approx(0.0, abs=1e-9)
        assert figure.verdict == UNDECIDED  # sixteen rows
        assert figure.p_holm == 1.0
    assert "undecided for want of rows: share of yes" in found.verdict
    assert not found.differs


def new_rows(path: Path, texts: list[str], labels: list[int] | None = None) -> str:
    rows = [{"id": f"n{i}", "text": text} for i, text in enumerate(texts)]
    for row, label in zip(rows, labels or [], strict=bool(labels)):
        row["label"] = label  # type: ignore[assignment]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_of_one_answer_differ(exported: tuple[str, str], tmp_path: Path) -> None:
    _, folder = exported
    rows = new_rows(tmp_path / "new.jsonl", ["good it", "it good it"] * 60)
    found = monitor(folder, rows)
    share = shown(found)["share of yes"]
    assert share.verdict == DIFFERS
    assert share.new.value > 0.9
    assert found.verdict.startswith("not like the study's rows: share of yes")
    wrong = new_rows(tmp_path / "wrong.jsonl", ["good it", "bad it"] * 60, [0, 1] * 60)
    labelled = shown(monitor(folder, wrong, labels=True))
    assert labelled["accuracy"].verdict == DIFFERS
    assert labelled["accuracy"].new.value < 0.5
    assert labelled["share of yes"].verdict != DIFFERS


def test_answers_that_predict_wrote(exported: tuple[str, str], tmp_path: Path) -> None:
    """In each of its formats; of the dev rows they give the stored figures."""
    uri, folder = exported
    dev = tiny_run.data(uri, "dev.jsonl")
    for ending in ("jsonl", "csv", "parquet"):
        out = str(tmp_path / f"answers.{ending}")
        predict(folder, dev, out)
        found = monitor(folder, None, answers=out)
        assert list(shown(found)) == ["share of yes", "confidence"]
        assert [f.difference.value for f in found.figures] == [pytest.approx(0.0, abs=1e-9)] * 2
        labelled = monitor(folder, dev, answers=out, labels=True)
        assert shown(labelled)["accuracy"].difference.value == pytest.approx(0.0, abs=1e-9)


def test_a_threshold_of_predict_changes_nothing(exported: tuple[str, str], tmp_path: Path) -> None:
    uri, folder = exported
    out = str(tmp_path / "answers.jsonl")
    predict(folder, tiny_run.data(uri, "dev.jsonl"), out, threshold="0.999999")
    assert {json.loads(line)["label"] for line in Path(out).read_text().splitlines()} == {"no"}
    assert shown(monitor(folder, None, answers=out))["share of yes"].difference.value == pytest.approx(0.0)


@pytest.mark.parametrize("name", ["options", "generate", "batch"])
def test_other_tasks(name: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    uri, trials = tiny_run.made(name, tmp_path_factory)
    folder = export(uri, trials[-1].id, str(tmp_path / "out"))
    found = monitor(folder, tiny_run.data(uri, "test.jsonl"), labels=True)
    figures = shown(found)
    assert ("confidence" in figures) == (name == "options")
    assert ("confidence: not known" in " ".join(found.notes)) == (name != "options")
    for figure in figures.values():
        assert figure.difference.value == pytest.approx(0.0, abs=1e-9)


def asked_for(*arguments: str) -> int:
    return guarded(lambda: app(args=["monitor", *arguments], prog_name="steadytune", standalone_mode=False))


def test_the_command_and_its_exit_code(
    exported: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, folder = exported
    assert asked_for(folder, "--rows", tiny_run.data(uri, "test.jsonl")) == 0
    out = capsys.readouterr().out
    assert "16 rows of " in out
    assert "against the 16 test rows of the study tiny" in out
    assert "no difference found; undecided for want of rows" in out
    rows = new_rows(tmp_path / "new.jsonl", ["good it"] * 100)
    assert asked_for(folder, "--rows", rows) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("not like the study's rows: share of yes")


def test_bad_input(exported: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri, folder = exported
    rows = tiny_run.data(uri, "test.jsonl")
    plain = new_rows(tmp_path / "plain.jsonl", ["good it"])
    several = str(tmp_path / "several.jsonl")
    Path(several).write_text(
        '{"export": "one", "id": "row-0", "label": "yes", "probabilities": {"no": 0.1, "yes": 0.9}}\n'
    )
    damaged, before = tmp_path / "damaged", tmp_path / "before"
    for copy in (damaged, before):
        shutil.copytree(folder, copy)
    (damaged / REFERENCE).write_text("{}")
    (before / REFERENCE).unlink()
    (before / "SHA256SUMS").unlink()
    for arguments, said in (
        ((folder,), "give --rows FILE, or --answers FILE that `steadytune predict` wrote"),
        ((folder, "--answers", rows, "--labels"), "--labels needs --rows"),
        ((folder, "--rows", f"{rows}x"), 'jsonlx" does not exist. Did you mean "test.jsonl"?'),
        ((folder, "--answers", several), "holds the answers of several exports (column export)"),
        ((folder, "--answers", plain), "has no column label, so `steadytune predict` did not write it"),
        ((folder, "--rows", plain, "--labels"), 'label = "label" is no column of'),
        ((str(damaged), "--rows", rows), "reference.json: is not what export writes ('format')"),
        ((str(before), "--rows", rows), "no such file, as an earlier version exported the trial. Export it again"),
    ):
        assert asked_for(*arguments) == 2, arguments
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_a_changed_reference_is_found(exported: tuple[str, str], tmp_path: Path) -> None:
    uri, folder = exported
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    text = (copy / REFERENCE).read_text()
    (copy / REFERENCE).write_text(text.replace('"n_rows": 16', '"n_rows": 17', 1))
    with pytest.raises(UserError, match="is not the file that was exported, by its checksum"):
        monitor(str(copy), tiny_run.data(uri, "test.jsonl"))


def test_a_metric_that_is_no_mean_over_rows(tmp_path: Path) -> None:
    """And with few rows of a label, of which its error is not known."""
    axes = {"lora": {"r": 2}, "lr": 1e-2, "steps": 2}
    task = {**tiny_run.LABELLED, "metric": "f1_macro"}
    uri, trials = tiny_run.make_run(tmp_path, task, templates=tiny_run.PLAIN, axes=axes)
    folder = export(uri, trials[0].id, str(tmp_path / "out"))
    found = monitor(folder, tiny_run.data(uri, "test.jsonl"), labels=True)
    f1 = shown(found)["f1_macro"]
    row = next(r for r in RunFolder(Store.open(uri)).trial_scores() if r["trial_id"] == trials[0].id)
    assert f1.test.value == pytest.approx(row["mean"])
    assert f1.difference.value == pytest.approx(0.0, abs=1e-9)
    assert f1.verdict == UNDECIDED
    assert "f1_macro: only 8 rows of a label, so its error is not known" in found.notes
    alike = new_rows(tmp_path / "good.jsonl", ["good it"] * 12, [1] * 12)
    assert "only 12 rows" not in " ".join(monitor(folder, alike, labels=True).notes)
