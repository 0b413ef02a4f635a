"""The one reader of a run folder: the last rung of a trial, a NaN, a lost or foreign score file."""

from __future__ import annotations

import io
import logging
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny_run import LABELLED, make_run

from sweeps.export.export import export
from sweeps.export.exported import read_exported
from sweeps.live.watch import watch
from sweeps.plw.scores import scores_of
from sweeps.report.write import write_report
from sweeps.run_folder import reading
from sweeps.run_folder.reading import RunFolder
from sweeps.run_folder.trials_file import write_trials
from sweeps.staged.compare import dev_scores
from sweeps.study.load import load_study, resolved
from sweeps.study.overlay import dump_yaml
from sweeps.study.shipped import study_path
from trainer.errors import UserError
from trainer.store import SCORES, Store, scores_name
from trainer.trial import Trial

Run = tuple[str, list[Trial]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("reading"), LABELLED, axes={"lr": [1e-2, 2e-2, 3e-2], "steps": 30})


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Run:
    """Of ``trials.parquet`` with the objectives that a sweep records."""
    uri = shutil.copytree(run[0], tmp_path / "run")
    folder = RunFolder(Store.open(uri))
    by_id = {row["trial_id"]: row for row in folder.robustness()}
    rows = [
        {
            **row,
            "objective": by_id[row["trial_id"]]["dev_objective"],
            "degenerate": by_id[row["trial_id"]]["degenerate"],
        }
        for row in folder.trials
    ]
    write_trials(folder.store, rows, {})
    return str(uri), run[1]


def winner(uri: str) -> str:
    write_report(uri)
    [found] = [row["trial_id"] for row in RunFolder(Store.open(uri)).robustness() if row["winner"]]
    return str(found)


def last_dev_file(uri: str, trial_id: str) -> Path:
    return Path(uri, scores_name(trial_id, 30, "dev"))


def write_earlier_rung(store: Store, trial_id: str, source: str) -> None:
    """Dev scores of the trial at step 10, with the answers that ``source`` gave at step 30."""
    table, _ = store.read_scores(source, 30, "dev") or (None, {})
    assert table is not None
    for name, value in (
        ("rung", pa.array([10] * table.num_rows, pa.int32())),
        ("trial_id", [trial_id] * table.num_rows),
    ):
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, pa.array(value))
    _, own = store.read_scores(trial_id, 30, "dev") or (None, {})
    store.write_scores(trial_id, 10, "dev", table, {**own, "rung": 10})


def test_the_last_rung_counts_and_earlier_ones_do_not(copy: Run) -> None:
    uri, [trial, *_] = copy
    store = Store.open(uri)
    write_earlier_rung(store, trial.id, trial.id)
    last = RunFolder(store).last_rung(trial.id, "dev")
    assert last is not None
    assert last.step == 30
    assert [rung.step for rung in RunFolder(store).rungs(trial.id, "dev")] == [10, 30]
    assert RunFolder(store).pools(trial.id) == ["dev", "test"]
    assert RunFolder(store).last_grid(trial.id, "nothing") is None


@pytest.mark.parametrize("room", [reading.KEPT, 0])
def test_grids_that_were_read_are_kept_while_there_is_room(
    room: int, copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, [trial, *_] = copy
    monkeypatch.setattr(reading, "KEPT", room)
    folder = RunFolder(Store.open(uri))
    first = folder.last_grid(trial.id, "dev")
    last_dev_file(uri, trial.id).unlink()
    again = folder.last_grid(trial.id, "dev")
    assert first is not None
    assert (again is not None) is (room > 0)
    if again is not None:
        assert again.prompts == first.prompts
        assert np.array_equal(again.predicted, first.predicted)
        assert np.array_equal(again.label_logprobs, first.label_logprobs)


def test_rungs_to_which_another_study_trained_a_trial_do_not_count(copy: Run, tmp_path: Path) -> None:
    """This study stopped it at step 10, and its adapter is that of step 30."""
    uri, [trial, *others] = copy
    store = Store.open(uri)
    write_earlier_rung(store, trial.id, others[0].id)
    rows = [{**r, "status": "stopped", "rung": 10} if r["trial_id"] == trial.id else r for r in RunFolder(store).trials]
    write_trials(store, [{**r, "objective": None} if r["trial_id"] == trial.id else r for r in rows], {})
    last = RunFolder(store).last_rung(trial.id, "dev")
    assert last is not None
    assert last.step == 10
    assert RunFolder(store).last_grid(trial.id, "test") is None
    write_report(uri)
    row = next(r for r in RunFolder(Store.open(uri)).robustness() if r["trial_id"] == trial.id)
    assert (row["status"], row["mean"]) == ("stopped", None)
    export(uri, trial.id, str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "This trial is of an earlier study in its run folder: it was trained for 30 of its 30 steps" in card


def test_a_rung_that_ended_in_nan_has_no_grid_and_costs_the_others_nothing(copy: Run, tmp_path: Path) -> None:
    """Case V1: one NaN trial cost the whole study its tables."""
    uri, trials = copy
    best = winner(uri)
    nan = next(t.id for t in trials if t.id != best)
    store = Store.open(uri)
    _, record = store.read_scores(nan, 30, "dev") or (None, {})
    store.write_scores(nan, 30, "dev", SCORES.empty_table(), {**record, "nan": "the loss is NaN at step 3"})
    rows = [
        {**row, "status": "stopped", "objective": math.nan, "reason": "the loss is NaN at step 3"}
        if row["trial_id"] == nan
        else row
        for row in RunFolder(store).trials
    ]
    write_trials(store, rows, {})
    Path(uri, scores_name(nan, 30, "test")).unlink()
    assert RunFolder(store).last_grid(nan, "dev") is None
    assert winner(uri) == best
    page = Path(uri, "tables", "robustness.md").read_text()
    assert "the loss is NaN at step 3" in page
    assert "the loss is NaN at step 3" in Path(uri, "report.html").read_text()
    with pytest.raises(UserError, match=f"trial {nan} ended in NaN at step 30. Name another trial"):
        export(uri, nan, str(tmp_path / "out"))
    export(uri, None, str(tmp_path / "out"))
    assert read_exported(Store.open(str(tmp_path / "out"))).trial.id == best
    out = io.StringIO()
    assert watch(uri, 1.0, True, out) == 0
    assert re.search(rf"^{nan} .*NaN", out.getvalue(), re.MULTILINE)
    assert RunFolder(store).damage == []
    scores = scores_of([RunFolder(store)])  # of the prompt loss weight
    assert (scores.table.num_rows, scores.cut) == (len(trials) - 1, 1)
    staged = {t.id: dev_scores(store, t, 30, 1.0) for t in trials}
    assert [i for i, found in staged.items() if found is None] == [nan]


@pytest.mark.parametrize("what", ["missing", "half", "flipped", "another trial's"])
def test_a_lost_score_file_crowns_no_other_trial(
    copy: Run, what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Case V3: the winner's last dev scores are lost, and an earlier rung of it with other answers is still there."""
    uri, trials = copy
    best = winner(uri)
    recorded = RunFolder(Store.open(uri)).trials_by_id[best]["objective"]
    write_earlier_rung(Store.open(uri), best, next(t.id for t in trials if t.id != best))
    path = last_dev_file(uri, best)
    if what == "missing":
        path.unlink()
    elif what == "another trial's":
        path.write_bytes(last_dev_file(uri, next(t.id for t in trials if t.id != best)).read_bytes())
    else:
        data = path.read_bytes()
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]
        path.write_bytes(data[:middle] if what == "half" else flipped)
    with caplog.at_level(logging.WARNING, "steadytune"):
        assert winner(uri) == best
    run = RunFolder(Store.open(uri))
    assert run.last_rung(best, "dev") is None
    assert next(r for r in run.robustness() if r["trial_id"] == best)["dev_objective"] == pytest.approx(recorded)
    named = f"{scores_name(best, 30, 'dev')}: is "
    assert (
        named + ("missing. Run the study again, which makes it anew: " if what == "missing" else "damaged (")
        in caplog.text
    )
    assert not list(Path(uri).rglob("*.corrupt")), "a reader moves nothing"
    page, html = (Path(uri, name).read_text() for name in ("tables/robustness.md", "report.html"))
    for text in (page, html):
        assert "Files that are missing or damaged: " + scores_name(best, 30, "dev") in text
    with pytest.raises(UserError, match=f"trial {best} has no dev scores"):
        export(uri, None, str(tmp_path / "out"))


def test_a_damaged_table_names_the_file_and_the_command(copy: Run) -> None:
    uri, _ = copy
    Path(uri, "trials.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        UserError, match=r"trials.parquet: is damaged \(.*\)\. Run the study again, which makes it anew: "
    ):
        _ = RunFolder(Store.open(uri)).trials


def test_a_staged_study_of_before_task_meaning_is_read(tmp_path: Path) -> None:
    """Then only studies in stages had a meaning, in ``stages.meaning``."""
    study = load_study(study_path("staged-small"), files=False)
    old = resolved(study)
    old["stages"]["meaning"] = old["task"].pop("meaning")
    (tmp_path / "study.yaml").write_text(dump_yaml(old))
    run = RunFolder(Store.open(tmp_path))
    assert study.task.meaning is not None
    assert resolved(run.study) == resolved(study)
    assert run.outline.name == study.name


@pytest.mark.parametrize("text", ["", "- a list\n", "name: [\n", "name: x\n"])
def test_a_file_that_is_no_study_is_an_error_of_one_line(copy: Run, text: str) -> None:
    uri, _ = copy
    Path(uri, "study.yaml").write_text(text)
    for read in (lambda run: run.study, lambda run: run.outline):
        with pytest.raises(
            UserError, match=r"study.yaml: is not a resolved study \(.*\)\. Run the study again"
        ) as error:
            read(RunFolder(Store.open(uri)))
        assert len(str(error.value).splitlines()) == 1
