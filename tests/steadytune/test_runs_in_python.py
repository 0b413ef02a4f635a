"""``steadytune.open`` gives what the run folder holds, without torch and Ray."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import tiny_run
from checkout import ROOT

import steadytune as st
from sweeps.display.colours import LIGHT
from sweeps.display.vega import PAPER_WIDTH
from sweeps.report.figures import figures_of_run
from sweeps.run_folder.reading import RunFolder
from trainer.store import SCORES, Store
from trainer.trial import Trial

SLOW = {"torch", "ray", "transformers", "peft", "deepspeed"}


@pytest.fixture
def seeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Trial]]:
    """Two configurations of two seeds. It may only be read."""
    return tiny_run.made("seeds", tmp_path_factory)


@pytest.fixture
def copied(seeds: tuple[str, list[Trial]], tmp_path: Path) -> tuple[Path, list[Trial]]:
    """The run of ``seeds``, to be changed."""
    return Path(shutil.copytree(seeds[0], tmp_path / "run")), seeds[1]


def loaded_by(code: str) -> set[str]:
    """The slow packages in memory after a fresh process ran ``code``."""
    code += f"\nimport sys\nprint(*({SLOW} & set(sys.modules)))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_importing_loads_nothing_slow() -> None:
    code = "import steadytune\nimport sys\nassert not {'pyarrow', 'pandas', 'pydantic', 'numpy'} & set(sys.modules)"
    assert loaded_by(code) == set()


def test_reading_a_run_loads_neither_torch_nor_ray(copied: tuple[Path, list[Trial]]) -> None:
    """Neither where tables/ is read, nor where the tables are made again."""
    read = "r.table(), r.scores(), r.winner, r.configurations, r.notes, r.figure('map')"
    code = f"import steadytune as st\nr = st.open({str(copied[0])!r})\nassert len(({read})[0]) == 2"
    assert loaded_by(code) == set()
    shutil.rmtree(copied[0] / "tables")
    assert loaded_by(code) == set()
    assert loaded_by(f"{code}\nimport torch") == {"torch"}, "what is loaded is seen"


@pytest.mark.parametrize("name", ["robustness", "trials", "groups", "binary"])
def test_a_table_is_the_file_of_that_name(seeds: tuple[str, list[Trial]], name: str) -> None:
    found = st.open(seeds[0]).table(name)
    pd.testing.assert_frame_equal(found, pd.read_parquet(Path(seeds[0], "tables", f"{name}.parquet")))
    assert len(found) > 0


def test_the_table_that_is_meant_without_a_name_is_robustness(seeds: tuple[str, list[Trial]]) -> None:
    run = st.open(seeds[0])
    pd.testing.assert_frame_equal(run.table(), run.table("robustness"))


def test_tables_that_are_older_than_the_trials_are_made_again_and_not_written(
    copied: tuple[Path, list[Trial]],
) -> None:
    folder, trials = copied
    whole = st.open(folder).table()
    tiny_run.write_trials(Store.open(str(folder)), trials, **{f"_{trials[0].id}": "stopped"})
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    run = st.open(folder)
    statuses = run.table().set_index("configuration")["status"].to_dict()
    assert statuses[trials[0].configuration] == "stopped"
    assert set(whole["status"]) == {"finished"}
    with pytest.raises(st.UserError, match=r"binary\.parquet: was not made of the run as it is now\."):
        run.table("binary")
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_configurations_and_winner_are_those_of_the_table(tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("labels", "seeds"):
        uri, trials = tiny_run.made(name, tmp_path_factory)
        run = st.open(uri)
        rows = pq.read_table(Path(uri, "tables", "robustness.parquet")).to_pylist()
        assert run.configurations == [row["configuration"] for row in rows]
        assert set(run.configurations) == {t.configuration for t in trials}
        winners = [row["configuration"] for row in rows if row["winner"]]
        assert len(winners) == (name == "labels"), "in the run of seeds all give one label"
        assert run.winner == (winners[0] if winners else None)


def test_while_a_run_goes_on_it_has_no_winner(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    uri, trials = tiny_run.made("labels", tmp_path_factory)
    folder = shutil.copytree(uri, tmp_path / "run")
    assert st.open(folder).winner is not None
    tiny_run.write_trials(Store.open(str(folder)), trials, **{f"_{trials[-1].id}": "running"})
    assert st.open(folder).winner is None


def stored(run: str, trial: Trial, pool: str) -> Any:
    """The whole score file of a trial."""
    [file] = Path(run, "scores", trial.id).glob(f"*-{pool}.parquet")
    return pq.read_table(file).replace_schema_metadata(None)


@pytest.mark.parametrize("pool", ["dev", "test"])
def test_the_scores_of_a_trial_are_its_file(seeds: tuple[str, list[Trial]], pool: str) -> None:
    run, trials = seeds
    found = st.open(run).scores(trials[0].id, pool)
    assert found.schema == SCORES
    assert found.combine_chunks().equals(stored(run, trials[0], pool).combine_chunks())


def test_the_scores_of_a_configuration_are_those_of_its_trials_and_without_a_name_all(
    seeds: tuple[str, list[Trial]],
) -> None:
    run, trials = seeds
    opened = st.open(run)
    n = stored(run, trials[0], "test").num_rows
    own = [t for t in trials if t.configuration == trials[0].configuration]
    assert len(own) == 2
    found = opened.scores(trials[0].configuration)
    assert set(found["trial_id"].to_pylist()) == {t.id for t in own}
    assert found.num_rows == 2 * n
    assert opened.scores().num_rows == len(trials) * n
    assert set(opened.scores()["pool"].to_pylist()) == {"test"}


def test_a_trial_of_an_earlier_study_in_the_folder_has_scores(copied: tuple[Path, list[Trial]]) -> None:
    folder, trials = copied
    tiny_run.write_trials(Store.open(str(folder)), trials[1:])
    opened = st.open(folder)
    assert opened.scores(trials[0].id).num_rows == stored(str(folder), trials[0], "test").num_rows
    assert trials[0].id not in opened.scores()["trial_id"].to_pylist()


def test_a_damaged_file_is_noted_and_its_rows_are_left_out(copied: tuple[Path, list[Trial]]) -> None:
    folder, trials = copied
    [file] = Path(folder, "scores", trials[0].id).glob("*-test.parquet")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    opened = st.open(folder)
    assert opened.notes == []
    assert trials[0].id not in opened.scores()["trial_id"].to_pylist()
    assert file.name in opened.notes[0]


Act = Callable[[st.OpenedRun], Any]


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (
            lambda r: r.table("robustnes"),
            'there is no table "robustnes". Did you mean "robustness"? Known: ',
        ),
        (lambda r: r.table("confirmation"), 'there is no table "confirmation".'),
        (
            lambda r: r.scores(pool="tset"),
            'no trial has scores under the pool "tset". Did you mean "test"? Known: ',
        ),
        (lambda r: r.scores("0123456789ab"), '"0123456789ab" is neither a trial nor a configuration.'),
        (lambda r: r.scores(r.configurations[0], "gsm"), ' has no scores under the pool "gsm". Known: dev, test'),
        (lambda r: r.export(r.address), " exists and is not empty. Give a new folder"),
        (lambda r: r.export("new", "zz"), '--trial = "zz" is no trial of '),
    ],
    ids=range(7),
)
def test_a_wrong_name_is_answered_with_the_right_ones(seeds: tuple[str, list[Trial]], act: Act, words: str) -> None:
    with pytest.raises(st.UserError) as caught:
        act(st.open(seeds[0]))
    assert words in str(caught.value)


def test_a_run_is_found_by_path_name_and_address(
    seeds: tuple[str, list[Trial]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").symlink_to(seeds[0])
    monkeypatch.chdir(tmp_path)
    whole = st.open(seeds[0]).table()
    for name in (Path(seeds[0]), "tiny", f"file://{seeds[0]}"):
        pd.testing.assert_frame_equal(st.open(name).table(), whole)
    with pytest.raises(st.UserError, match=r'run folder "tny" does not exist\. Did you mean "tiny"\?'):
        st.open("tny")
    with pytest.raises(st.UserError, match=r"is no run folder: it holds no study\.yaml"):
        st.open(tmp_path)


def test_the_winner_is_what_export_takes(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    uri, _ = tiny_run.made("labels", tmp_path_factory)
    run = st.open(uri)
    assert run.export(tmp_path / "adapter") == str(tmp_path / "adapter")
    trial_id = json.loads((tmp_path / "adapter" / "template.json").read_text())["trial_id"]
    assert RunFolder(Store.open(uri)).trials_by_id[trial_id]["configuration"] == run.winner


def test_a_notebook_shows_the_message_of_a_mistake_and_no_traceback() -> None:
    with pytest.raises(st.UserError) as caught:
        st.open("not there")
    [shown] = caught.value._render_traceback_()
    assert shown == f"StudyError: {caught.value}"


def test_a_figure_is_a_chart_with_the_numbers_of_the_report(copied: tuple[Path, list[Trial]]) -> None:
    folder = copied[0]
    run = st.open(folder)
    assert {"map", "distribution", "cumulative", "loss", "objective"} <= set(run.figures)
    found = {figure.name: figure for figure in figures_of_run(RunFolder(Store.open(folder)))}
    assert run.figures == list(found)
    for name in run.figures:
        spec = run.figure(name).to_dict()
        for key, value in found[name].spec.items():
            assert spec[key] == (PAPER_WIDTH if key == "width" else value), (name, key)
        assert spec["config"]["background"] == LIGHT["paper"]
    run.figure("distribution").save(folder / "figure.svg")
    assert (folder / "figure.svg").read_text().startswith("<svg")
    with pytest.raises(st.UserError, match=re.escape('there is no figure "distrbution". Did you mean "distribution"?')):
        run.figure("distrbution")


def test_figures_are_those_of_the_run_as_it_is_now_and_nothing_is_written(copied: tuple[Path, list[Trial]]) -> None:
    """Where tables/ is not there yet, or older than the run."""
    folder = copied[0]
    expected = st.open(folder).figure("distribution").to_dict()
    shutil.rmtree(folder / "tables")
    before = sorted(folder.rglob("*"))
    assert st.open(folder).figure("distribution").to_dict() == expected
    assert sorted(folder.rglob("*")) == before
    (folder / "trials.parquet").unlink()
    begun = st.open(folder)
    assert "loss" in begun.figures
    assert "dev prompt" in begun.figure("distribution").to_dict()["description"]
