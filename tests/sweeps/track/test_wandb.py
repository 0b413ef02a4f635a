"""``steadytune track RUN --to wandb``, with W&B in offline mode: what its files hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tracked_run import GrowingRun, completion_loss, finished

from sweeps.cli.app import app
from sweeps.cli.exit_codes import guarded
from sweeps.run_folder.reading import RunFolder
from sweeps.track.mirror import track
from sweeps.track.wandb_files import _records, read_offline_runs
from trainer.store import Store


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> GrowingRun:
    return finished(tmp_path_factory.mktemp("tracked") / "run")


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """W&B's folder, in offline mode."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    wandb.teardown()  # it keeps the settings of the first use in a process
    yield tmp_path / "wandb"
    wandb.teardown()


def logged(folder: Path) -> dict[str, Counter[tuple[int, str, Any]]]:
    """Run id -> step, name and value of every value in the history, and how often it is there."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # waits until all is written
    found: dict[str, Counter[tuple[int, str, Any]]] = {}
    for file in folder.glob("offline-run-*/run-*.wandb"):
        values = found.setdefault(file.stem.removeprefix("run-"), Counter())
        for record in map(Record.FromString, _records(file.read_bytes())):
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                if not name.startswith("_") and "artifact_path" not in name:  # W&B's own, and by chance
                    value = json.loads(item.value_json)
                    values[record.history.step.num, name, value if isinstance(value, float | int | str) else ""] += 1
    return found


def of_trial(values: dict[str, Counter[tuple[int, str, Any]]], trial_id: str) -> Counter[tuple[int, str, Any]]:
    return next(found for key, found in values.items() if key.startswith(trial_id))


def test_values_are_those_of_the_run_folder(done: GrowingRun, offline: Path) -> None:
    track(done.uri, "wandb")
    best = of_trial(logged(offline), done.trials[0].id)
    losses = {step: value for step, name, value in best if name == "train/completion_loss"}
    assert sorted(losses) == list(range(1, 41))
    assert losses[31] == pytest.approx(completion_loss(31))
    grids = [rung.grid for rung in RunFolder(Store.open(done.uri)).rungs(done.trials[0].id, "dev")]
    means = [(20, pytest.approx(grids[0].correct.mean())), (40, pytest.approx(grids[1].correct.mean()))]
    assert sorted((step, value) for step, name, value in best if name == "dev/mean") == means
    runs = read_offline_runs(offline, "complaints")
    row = next(r for r in RunFolder(Store.open(done.uri)).trial_scores() if r["trial_id"] == done.trials[0].id)
    summary = next(run.summary for key, run in runs.items() if key.startswith(done.trials[0].id))
    assert summary["test/mean"] == pytest.approx(row["mean"])
    assert summary["under_worst_prompt/test"] == pytest.approx(row["min"])


def test_tracking_twice_writes_nothing_new(done: GrowingRun, offline: Path) -> None:
    said: list[str] = []
    track(done.uri, "wandb", say=said.append)
    assert len(logged(offline)) == 4
    before = {p: p.read_bytes() for p in offline.rglob("*.wandb")}
    track(done.uri, "wandb", say=said.append)
    assert len(logged(offline)) == 4
    assert {p: p.read_bytes() for p in offline.rglob("*.wandb")} == before
    assert said[1].startswith("complaints: nothing to add; ")


def test_the_report_opens_from_there(done: GrowingRun, offline: Path) -> None:
    track(done.uri, "wandb")
    assert len(logged(offline)) == 4
    (page,) = offline.glob("offline-run-*/files/media/html/report_*.html")
    assert page.read_bytes() == Path(done.uri, "report.html").read_bytes()


def test_while_the_run_goes_on_only_what_is_new_is_added(done: GrowingRun, offline: Path, tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "run")
    acts = iter((run.first_rung, run.second_rung, run.end))
    track(run.uri, "wandb", "growing", follow=True, every=1.0, pause=lambda _: next(acts)())
    grown = logged(offline)
    whole = done.trials[0].id
    assert max(of_trial(grown, whole).values()) == 1
    assert len(of_trial(grown, whole)) == 40 * 2 + 2 * 5  # two curves, and the objective at two rungs
    assert len(of_trial(grown, done.trials[1].id)) == 20 * 2 + 5


@pytest.mark.parametrize("share", [0.05, 0.4, 0.6, 0.9, 0.97])
def test_a_mirror_that_was_killed_goes_on(done: GrowingRun, offline: Path, share: float) -> None:
    track(done.uri, "wandb")
    whole = logged(offline)
    for file in offline.glob("offline-run-*/run-*.wandb"):  # as far as a process that was killed came
        data = file.read_bytes()
        file.write_bytes(data[: round(share * len(data))])
    track(done.uri, "wandb")
    for key, values in logged(offline).items():
        assert values == whole[key]


def test_logs_of_more_than_a_block_are_read(offline: Path) -> None:
    import wandb

    with wandb.init(project="long", id="one", settings=wandb.Settings(console="off")) as run:
        for step in range(300):
            run.log({"x": "a" * 400, "y": step}, step=step)
        run.log({"z": "b" * 100_000}, step=300)
    assert [step for step, name, _ in sorted(logged(offline)["one"]) if name == "y"] == list(range(300))
    found = read_offline_runs(offline, "long")["one"]
    assert (found.last_step, len(found.summary["z"])) == (300, 100_000)
    assert read_offline_runs(offline, "another") == {}


def asked(*arguments: str) -> int:
    return guarded(lambda: app(args=["track", *arguments], prog_name="steadytune", standalone_mode=False))


def test_a_server_that_does_not_answer(
    done: GrowingRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert asked(done.uri, "--to", "wandb", "--url", "http://127.0.0.1:9") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: W&B: ")
    assert error.endswith("WANDB_MODE=offline needs no server\n")
    assert error.count("\n") == 1


def test_nobody_is_logged_in(
    done: GrowingRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert asked(done.uri, "--to", "wandb", "--url", "http://127.0.0.1:9") == 2
    assert "error: --to wandb: not logged in. Run `wandb login`" in capsys.readouterr().err
