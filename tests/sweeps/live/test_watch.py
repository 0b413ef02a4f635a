"""``steadytune watch``: the table from a run folder alone, while another process writes it."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkout import ROOT
from tiny_run import LABELLED, make_run
from typer.testing import CliRunner

from sweeps.cli.app import app
from sweeps.driver.progress import Progress
from sweeps.live.table import LiveTable
from sweeps.live.watch import look, watch
from sweeps.run_folder.columns import TRIALS
from sweeps.run_folder.find import find_run
from sweeps.schedule.asha import Decision
from sweeps.study.load import load_study
from sweeps.study.study import Study
from trainer.errors import UserError
from trainer.measure.metrics import Objective
from trainer.measure.rung import RungReport
from trainer.store import Store
from trainer.trial import Trial


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, list[Trial]]:
    """A study of two trials of 4 steps with a rung at 2, and the trials."""
    folder = tmp_path_factory.mktemp("watch")
    axes = {"lr": [1e-2, 3e-2], "steps": 4}
    _, trials = make_run(folder, LABELLED, axes=axes)
    return load_study(folder / "tiny.yaml", ["scheduler.name=asha", "scheduler.rungs=[0.5, 1.0]"]), trials


@pytest.fixture
def driver(tiny: tuple[Study, list[Trial]], tmp_path: Path) -> Progress:
    """What writes a run folder; with a clock for its own table."""
    store = Store.open(tmp_path / "run")
    store.write("study.yaml", json.dumps({"name": "tiny", "scheduler": {"name": "asha", "rungs": [0.5, 1.0]}}).encode())
    progress = Progress(tiny[0], store, LiveTable(stream=io.StringIO(), terminal=False))
    for trial in tiny[1]:
        progress.add(trial)
    progress.write()
    return progress


def at_rung(trial: Trial, rung_index: int, objective: float) -> RungReport:
    return RungReport(trial.id, rung_index, 2 * (rung_index + 1), objective, 0.01, seconds=10.0, tokens=100)


def on_test(mean: float, std: float) -> Objective:
    return Objective(mean, 0.01, mean, std, mean, 2, 16, False, 0.5, 0.0)


def script(progress: Progress, a: Trial, b: Trial) -> Iterator[Callable[[], None]]:
    """A sweep in eight acts, each ending with the file written."""

    def first() -> None:
        progress.live.started(a.id)
        progress.live.started(b.id)

    def rung() -> None:
        progress.report(at_rung(a, 0, 0.8))
        progress.report(at_rung(b, 0, 0.5))
        progress.decide({a.id: Decision("continue", "goes on", 0, 2, 0.8), b.id: Decision("pause", "waits", 0, 2, 0.5)})

    def cut() -> None:
        progress.decide({b.id: Decision("stop", "below the best of 2", 0, 2, 0.5)})

    def last() -> None:
        progress.report(at_rung(a, 1, 0.9))
        progress.decide({a.id: Decision("finish", "at the last rung", 1, 4, 0.9)})

    def test() -> None:
        progress.live.testing(a.id)

    def result() -> None:
        progress.tests[a.id] = on_test(0.85, 0.04)
        progress.live.tested(a.id, 0.85, 0.04, 5.0)

    for act in (first, rung, cut, last, test, result):
        yield lambda act=act: (act(), progress.write())  # type: ignore[misc,return-value]
    yield lambda: progress.write(finished=True)


def follow(progress: Progress, trials: list[Trial]) -> str:
    """What a log says of the whole script, one look after each act."""
    acts, out = script(progress, *trials), io.StringIO()
    assert watch(progress.store.uri, 1.0, False, out, lambda _: next(acts)()) == 0
    return out.getvalue()


def test_a_log_says_what_happened_between_two_looks(driver: Progress, tiny: tuple[Study, list[Trial]]) -> None:
    a, b = tiny[1]
    lines = [re.sub(r"^\[\d+:\d\d\] ", "", line) for line in follow(driver, [a, b]).splitlines()]
    start = [line.split() for line in lines[:4]]
    assert start[1] == ["trial", "objective", "state", "rung", "lr", "time", "now"]
    assert {(s[0], s[1], s[2]) for s in start[2:]} == {(a.id, "waiting", "0/2"), (b.id, "waiting", "0/2")}
    assert lines[4:-5] == [
        f"{a.id} started (lr=0.01)",
        f"{b.id} started (lr=0.03)",
        f"{a.id} rung 1/2 at step 2: objective 0.800 ± 0.010, 0:10",
        f"{b.id} rung 1/2 at step 2: objective 0.500 ± 0.010, 0:10",
        f"{b.id} waiting: waits",
        f"{b.id} stopped: below the best of 2",
        f"{a.id} rung 2/2 at step 4: objective 0.900 ± 0.010, 0:10",
        f"{a.id} finished: at the last rung",
        f"{a.id} scoring the test prompts",
        f"{a.id} test prompts: mean 0.850, std 0.040",
    ]
    assert re.sub(r"elapsed \d+:\d\d", "", lines[-5]) == "tiny: 2 of 2 trials done, 1 finished, 1 stopped, "
    assert lines[-3].split() == [
        a.id,
        "0.900",
        "±",
        "0.010",
        "0.850",
        "std",
        "0.040",
        "finished",
        "2/2",
        "0.01",
        "0:20",
    ]
    assert lines[-1] == f"over; its report: {driver.store.uri}/report.html"


def test_the_table_is_the_drivers_own(driver: Progress, tiny: tuple[Study, list[Trial]]) -> None:
    """Every cell that both show, after every act; time runs on in the driver's."""
    for act in script(driver, *tiny[1]):
        act()
        out = io.StringIO()
        assert watch(driver.store.uri, 1.0, True, out) == 0
        found = look(driver.store)
        assert found is not None
        rows = {i: (r.state, r.rung, r.step, r.objective, r.test, r.axes, r.rungs) for i, r in found.rows.items()}
        own = {
            i: (r.state, r.rung, r.step, r.objective, r.test, r.axes, r.rungs) for i, r in driver.live.rows().items()
        }
        assert rows == own
        assert out.getvalue().splitlines()[1].split()[:2] == ["trial", "objective"]
        assert len(out.getvalue().splitlines()) == 4


def test_a_driver_that_is_silent_is_told(driver: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    watch(driver.store.uri, 1.0, True, out)
    assert out.getvalue().startswith("tiny: 0 of 2 trials done")
    later = time.time() + 400
    monkeypatch.setattr(time, "time", lambda: later)
    out = io.StringIO()
    watch(driver.store.uri, 1.0, True, out)
    assert re.match(r"tiny \(its driver has said nothing for 4\d\d s\): 0 of 2 trials done", out.getvalue())


def test_a_run_folder_out_of_reach_for_a_moment_is_lived_with(driver: Progress) -> None:
    path = Path(driver.store.uri) / "trials.parquet"
    whole = path.read_bytes()
    acts = iter(
        [lambda: path.write_bytes(b"PAR1"), lambda: path.write_bytes(whole), lambda: driver.write(finished=True)]
    )
    out = io.StringIO()
    assert watch(driver.store.uri, 1.0, False, out, lambda _: next(acts)()) == 0
    assert out.getvalue().splitlines()[-1].startswith("over")


def test_a_folder_that_is_not_there_is_an_error_and_one_without_a_study_is_waited_for(
    driver: Progress, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r'missing" does not exist\. `steadytune run STUDY --out .*missing` makes it'):
        watch(str(tmp_path / "missing"), 1.0, True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no study has started here yet"):
        watch(str(tmp_path / "empty"), 1.0, True)
    empty, whole = Store.open(tmp_path / "empty"), driver.store
    out = io.StringIO()
    with pytest.raises(StopIteration):
        watch(str(tmp_path / "empty"), 1.0, False, out, lambda _: next(iter(())))
    assert out.getvalue() == f"{tmp_path}/empty: no study has started here yet; waiting for it\n"
    empty.write("lease.json", b"{}")  # its run holds the folder from the first seconds on
    driver.write(finished=True)
    acts = iter(
        [
            lambda: None,
            lambda: empty.write("study.yaml", whole.read("study.yaml")),
            lambda: empty.write("trials.parquet", whole.read("trials.parquet")),
        ]
    )
    out = io.StringIO()
    assert watch(str(tmp_path / "empty"), 1.0, False, out, lambda _: next(acts)()) == 0
    lines = out.getvalue().splitlines()
    assert lines[0] == f"{tmp_path}/empty: a run has begun here and has no trials yet; waiting for it"
    assert sum("waiting for it" in line for line in lines) == 1
    assert "0 of 2 trials done" in lines[1]


def test_trials_parquet_is_written_when_it_has_news(driver: Progress, tiny: tuple[Study, list[Trial]]) -> None:
    path = Path(driver.store.uri) / "trials.parquet"

    def written(*args: bool) -> bool:
        before = path.stat().st_mtime_ns, path.read_bytes()
        driver.write(*args)
        return (path.stat().st_mtime_ns, path.read_bytes()) != before

    assert not written()
    driver.report(at_rung(tiny[1][0], 0, math.nan))
    assert written()
    assert not written(), "a NaN is no news the second time"
    assert written(True), "whoever watches hears that the driver lives"


def test_the_older_columns_stand_as_they_did(driver: Progress) -> None:
    """Readers of trials.parquet select by name; the first seventeen columns are those of the first version."""
    assert TRIALS.names[:17] == [
        "trial_id", "template", "r", "alpha", "dropout", "target_modules", "rslora", "lr", "steps", "plw", "pool",
        "seed", "status", "rung", "reason", "seconds", "tokens",
    ]  # fmt: skip
    table = pq.read_table(Path(driver.store.uri) / "trials.parquet")
    assert table["status"].to_pylist() == ["running", "running"]
    assert table["state"].to_pylist() == ["waiting", "waiting"]


def test_the_command_from_another_process_ends_with_the_study(
    driver: Progress, tiny: tuple[Study, list[Trial]], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "sweeps", "watch", driver.store.uri, "--every", "0.2"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == f"[0:00] reading the run folder {driver.store.uri}\n"
    assert process.stdout.readline().startswith("tiny: 0 of 2 trials done")

    def play() -> None:
        for act in script(driver, *tiny[1]):
            act()
            time.sleep(0.3)

    thread = threading.Thread(target=play)
    thread.start()
    text = process.stdout.read()
    thread.join()
    assert process.wait(timeout=60) == 0
    assert "test prompts: mean 0.850, std 0.040" in text
    assert "2 of 2 trials done, 1 finished, 1 stopped" in text


def test_the_command_refuses_what_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tickets").mkdir(parents=True)
    found = CliRunner().invoke(app, ["watch", "tickest"])
    assert 'run folder "tickest" does not exist. Did you mean "tickets"?' in str(found.exception)
    assert find_run("tickets") == "runs/tickets"


def test_a_run_on_s3_is_watched_like_one_on_a_disk(
    driver: Progress, tiny: tuple[Study, list[Trial]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        end = f"?scheme=http&endpoint_override={host}%3A{port}&region=us-east-1"
        import boto3

        boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1").create_bucket(Bucket="runs")
        with pytest.raises(UserError, match="does not exist"):
            watch(f"s3://runs/tiny{end}", 1.0, True)
        store = Store.open(f"s3://runs/tiny{end}")
        store.write("study.yaml", driver.store.read("study.yaml"))
        with pytest.raises(UserError, match="no study has started here yet"):
            watch(store.uri, 1.0, True)
        far = Progress(driver.study, store, driver.live, driver.trials)
        far.write()
        lines = follow(far, tiny[1])
        assert f"{tiny[1][1].id} stopped: below the best of 2" in lines
        assert "over; its report" in lines
    finally:
        server.stop()


def test_a_file_of_the_first_version_is_shown_as_over(tmp_path: Path) -> None:
    """It has no state, no objective and no word of the driver."""
    store = Store.open(tmp_path)
    store.write("study.yaml", b"name: old\nscheduler: {name: none}\n")
    line = {"trial_id": "aa", "status": "finished", "rung": 4, "steps": 4, "lr": 0.1, "seconds": 5.0, "reason": ""}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([line]), sink)
    store.write("trials.parquet", sink.getvalue().to_pybytes())
    out = io.StringIO()
    assert watch(store.uri, 1.0, False, out) == 0
    assert re.search(r"^aa +finished +1/1 +0:05$", out.getvalue(), re.MULTILINE)
