"""``steadytune track RUN --to mlflow``, against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests.sessions
from mlflow_server import Server, mlflow_server
from tracked_run import GrowingRun, completion_loss, finished

from sweeps.cli.app import app
from sweeps.cli.exit_codes import guarded
from sweeps.run_folder.reading import RunFolder
from sweeps.track.mirror import track
from trainer.store import Store


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> GrowingRun:
    return finished(tmp_path_factory.mktemp("tracked") / "run")


def runs_of(server: Server, project: str) -> dict[str, Any]:
    """Steadytune's key -> run."""
    from mlflow import MlflowClient

    client = MlflowClient(server.url)
    experiment = client.get_experiment_by_name(project)
    assert experiment is not None
    found = list(client.search_runs([experiment.experiment_id]))
    keyed = {run.data.tags["steadytune.key"]: run for run in found}
    assert len(keyed) == len(found)
    return keyed


def shown(server: Server, project: str) -> dict[str, Any]:
    """All that a reader sees of the runs of ``project``, without the names that MLflow gives."""
    from mlflow import MlflowClient

    client, seen = MlflowClient(server.url), {}
    for key, run in runs_of(server, project).items():
        history = {
            name: sorted((m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, name))
            for name in run.data.metrics
        }
        tags = {n: v for n, v in run.data.tags.items() if n != "mlflow.parentRunId"}
        seen[key] = (run.info.run_name, run.info.status, run.data.params, tags, history)
    return seen


def test_trials_are_runs_below_that_of_the_study(server: Server, done: GrowingRun) -> None:
    track(done.uri, "mlflow", url=server.url)
    runs = runs_of(server, "complaints")
    assert len(runs) == 4
    study = next(run for key, run in runs.items() if key.startswith("study-"))
    best, cut, failed = (next(r for k, r in runs.items() if k.startswith(t.id)) for t in done.trials)
    assert [r.info.status for r in (study, best, cut, failed)] == ["FAILED", "FINISHED", "KILLED", "FAILED"]
    assert {r.data.tags["mlflow.parentRunId"] for r in (best, cut, failed)} == {study.info.run_id}
    assert best.data.params["lr"] == "0.001"
    assert cut.data.params["lr"] == "0.003"
    assert cut.data.tags["steadytune.reason"] == "rung 1: 0.450 is 2nd of 2"
    assert best.data.tags["steadytune.winner"] == "true"
    assert study.data.tags["steadytune.winner"] == done.trials[0].id
    assert "steadytune.winner" not in cut.data.tags
    assert best.info.run_name == f"lr=0.001, seed=0, {done.trials[0].id}"


def test_values_are_those_of_the_run_folder(server: Server, done: GrowingRun) -> None:
    from mlflow import MlflowClient

    track(done.uri, "mlflow", url=server.url)
    client, best = MlflowClient(server.url), done.trials[0]
    run_id = next(r.info.run_id for k, r in runs_of(server, "complaints").items() if k.startswith(best.id))

    def history(name: str) -> list[tuple[int, float]]:
        return sorted((m.step, m.value) for m in client.get_metric_history(run_id, name))

    folder = RunFolder(Store.open(done.uri))
    losses = history("train/completion_loss")
    assert [step for step, _ in losses] == list(range(1, 41))
    assert losses[30][1] == pytest.approx(completion_loss(31))
    means = [rung.grid.correct.mean() for rung in folder.rungs(best.id, "dev") if rung.grid is not None]
    assert history("dev/mean") == [(20, pytest.approx(means[0])), (40, pytest.approx(means[1]))]
    row = next(r for r in folder.trial_scores() if r["trial_id"] == best.id)
    for name, column in {"test/mean": "mean", "test/std": "std", "under_worst_prompt/test": "min"}.items():
        assert history(name) == [(40, pytest.approx(row[column]))]


def test_tracking_twice_changes_no_row(server: Server, done: GrowingRun) -> None:
    said: list[str] = []
    track(done.uri, "mlflow", url=server.url, say=said.append)
    before = server.rows()
    assert len(before["metrics"]) > 100
    track(done.uri, "mlflow", url=server.url, say=said.append)
    assert server.rows() == before
    assert said[-1].startswith("complaints: nothing to add; http://127.0.0.1:")


def test_report_and_tables_open_from_there(server: Server, done: GrowingRun) -> None:
    track(done.uri, "mlflow", url=server.url)
    study = next(run for key, run in runs_of(server, "complaints").items() if key.startswith("study-"))
    for name in ("report.html", "study.yaml", "tables/robustness.csv", "tables/trials.parquet"):
        fetched = server.fetch(study.info.experiment_id, study.info.run_id, name)
        assert fetched == Path(done.uri, name).read_bytes()


def test_while_the_run_goes_on_only_what_is_new_is_added(server: Server, tmp_path: Path) -> None:
    run, said = GrowingRun(tmp_path / "run"), list[str]()
    acts = iter((run.first_rung, run.second_rung, run.end))
    track(
        run.uri, "mlflow", "growing", server.url, follow=True, every=1.0, say=said.append, pause=lambda _: next(acts)()
    )
    assert [line.split(";")[0] for line in said[:3]] == [
        "complaints: 0 values and 1 file added",
        "complaints: 90 values and 0 files added",  # of two trials: 20 steps of two curves, five of the objective
        "complaints: 45 values and 0 files added",
    ]
    track(run.uri, "mlflow", "at-once", server.url)
    assert shown(server, "growing") == shown(server, "at-once")


@pytest.mark.parametrize("answers", [1, 9, 30])
def test_a_mirror_that_was_killed_goes_on(
    server: Server, done: GrowingRun, answers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = f"killed-after-{answers}"
    left, ask = answers, requests.sessions.Session.request

    def until_killed(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return ask(*arguments, **named)

    monkeypatch.setattr(requests.sessions.Session, "request", until_killed)
    with pytest.raises(KeyboardInterrupt):
        track(done.uri, "mlflow", whole, server.url)
    monkeypatch.undo()
    track(done.uri, "mlflow", whole, server.url)
    track(done.uri, "mlflow", "never-killed", server.url)
    assert shown(server, whole) == shown(server, "never-killed")


def test_a_study_that_goes_on_has_no_winner_any_more(server: Server, tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    track(run.uri, "mlflow", "changed", server.url)
    again = GrowingRun(tmp_path / "run")  # the study goes on: nothing is decided yet
    again.list_trials(("running", 40), ("stopped", 20), ("failed", 0))
    track(run.uri, "mlflow", "changed", server.url)
    best = next(r for k, r in runs_of(server, "changed").items() if k.startswith(run.trials[0].id))
    assert best.info.status == "RUNNING"
    assert "steadytune.winner" not in best.data.tags


def asked(*arguments: str) -> int:
    return guarded(lambda: app(args=["track", *arguments], prog_name="steadytune", standalone_mode=False))


def test_a_server_that_does_not_answer(done: GrowingRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(done.uri, "--to", "mlflow", "--url", "http://127.0.0.1:9") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: MLflow at http://127.0.0.1:9: cannot be reached. Check --url, and that the server")
    assert error.count("\n") == 1


def test_no_server_is_named(
    done: GrowingRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert asked(done.uri, "--to", "mlflow") == 2
    assert capsys.readouterr().err.startswith("error: --to mlflow: which server? Give --url http://HOST:PORT, or set")


def test_an_experiment_that_was_deleted(server: Server, done: GrowingRun, capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(server.url)
    client.delete_experiment(client.create_experiment("gone"))
    assert asked(done.uri, "--to", "mlflow", "--url", server.url, "--project", "gone") == 2
    error = capsys.readouterr().err
    assert 'its experiment "gone" is deleted. Restore it there' in error
    assert error.count("\n") == 1
