"""The run command end to end, on a real local Ray with the embedded model: tables, resume, kills, interrupts."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from checkout import EMBEDDED, ROOT
from score_rows import can_mount
from secrets_left import MARK, PLANTED, files_with_secrets
from small_study import finish, score_files, start, wait_for, write_study
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer.store import Store


def standing(out: Path) -> list[dict[str, Any]]:
    """The rows of trials.parquet; seconds are sums, whose last digits depend on their order."""
    return [{**t, "seconds": round(t["seconds"], 6)} for t in pq.read_table(out / "trials.parquet").to_pylist()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    folder = tmp_path_factory.mktemp("run")
    dev = dict(list(yaml.safe_load((EMBEDDED / "data" / "pools" / "dev.yaml").read_text()).items())[:3])
    (folder / "dev.yaml").write_text(yaml.safe_dump(dev | {"again": dev["d03"].upper().replace("TEXT", "text")}))
    study = write_study(folder, pools={"dev": str(folder / "dev.yaml")})
    # Ray's folder stays with STEADYTUNE_DEBUG; its path must be short
    with tempfile.TemporaryDirectory(prefix="st-", dir="/tmp") as ray:
        environment = PLANTED | {"RAY_TMPDIR": ray, "STEADYTUNE_DEBUG": "1", "HTTPS_PROXY": ""}
        text = finish(start(study, folder / "out", **environment))
        shutil.copytree(ray, folder / "ray", ignore=shutil.ignore_patterns("sockets"), symlinks=True)
    return study, folder / "out", text


def test_the_run_folder_holds_what_the_contract_says(finished: tuple[Path, Path, str]) -> None:
    _, out, text = finished
    trials = pq.read_table(out / "trials.parquet").to_pylist()
    assert sorted(t["status"] for t in trials) == ["finished", "finished", "stopped", "stopped"]
    assert all("objective" in t["reason"] for t in trials if t["status"] == "stopped")
    for t in trials:
        rungs = [6, 12] if t["status"] == "finished" else [6]
        assert [int(n[:6]) for n in Store.open(out).names(f"scores/{t['trial_id']}") if "-dev" in n] == rungs
        test = pq.read_table(out / "scores" / t["trial_id"] / f"{rungs[-1]:06d}-test.parquet")
        assert test.num_rows == 5 * 30
        assert len(set(zip(test["prompt_id"].to_pylist(), test["row_id"].to_pylist(), strict=True))) == 5 * 30
        assert (out / "adapters" / t["trial_id"] / "adapter_model.safetensors").is_file()
        assert t["seconds"] > 0
        assert t["tokens"] > 0
    table = pq.read_table(out / "tables" / "robustness.parquet")
    assert table.schema.names[:7] == ["trial_id", "n_prompts", "n_rows", "mean", "std", "min", "top"]
    assert "robustness over prompts" in text
    assert re.fullmatch(r"next: (the winner is|steadytune export|train longer) .+", text.splitlines()[-1])
    assert f"run folder: {out} (new: nothing of the study small is there, so all is trained)" in text  # CASES F7
    assert "Token authentication is enabled" not in text  # Ray says so where it was not given a token of its own
    assert (out / "report.html").stat().st_size > 5000
    assert yaml.safe_load((out / "study.yaml").read_text())["name"] == "small"


def test_a_run_prints_what_the_check_warns_of(finished: tuple[Path, Path, str]) -> None:
    _, _, text = finished
    assert "warning: pools.dev: prompts again, d03 differ only in case" in text


def test_a_run_leaves_no_secret_behind(finished: tuple[Path, Path, str]) -> None:
    """Neither in its folder nor in Ray's, to which Tune would write the credentials for S3 (CASES E8)."""
    _, out, text = finished
    ray = out.parent / "ray"
    assert list(ray.rglob("runtime_env*.log")), "Ray's folder was kept"
    assert not files_with_secrets(ray)
    assert not files_with_secrets(out)
    assert MARK.decode() not in text


def test_tensorboard_shows_scalars_and_hparams(finished: tuple[Path, Path, str]) -> None:
    _, out, _ = finished
    for trial in pq.read_table(out / "trials.parquet").to_pylist():
        name = f"plw={trial['plw']:g},pool={trial['pool']},seed=0,{trial['trial_id']}"
        events = EventAccumulator(str(out / "tensorboard" / name))
        events.Reload()
        tags = set(events.Tags()["scalars"])
        assert {"dev/objective", "dev/mean", "dev/std", "train/lr", "train/tokens_per_s"} <= tags
        assert ("train/prompt_loss" in tags) == (trial["plw"] > 0)
        assert {"test/mean", "test/std"} <= tags
        assert "hparams" in {p for tag in events.summary_metadata.values() for p in [tag.plugin_data.plugin_name]}


def test_a_finished_study_runs_again_without_training(finished: tuple[Path, Path, str]) -> None:
    study, out, _ = finished
    before = {
        p: p.stat().st_mtime_ns
        for p in [*out.glob("scores/*/*"), *out.glob("checkpoints/*/*"), *out.glob("adapters/*/*")]
    }
    table = (out / "tables" / "robustness.csv").read_bytes()
    trials = standing(out)
    text = finish(start(study, out))
    assert "nothing to train" in text
    assert f"run folder: {out} (continued: 4 trials with scores in it)" in text
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert (out / "tables" / "robustness.csv").read_bytes() == table
    assert standing(out) == trials
    assert sorted(t["state"] for t in trials) == ["finished", "finished", "stopped", "stopped"]


@pytest.mark.cluster
def test_a_wider_study_reuses_the_finished_trials(finished: tuple[Path, Path, str]) -> None:
    study, out, _ = finished
    before = {p: p.stat().st_mtime_ns for p in out.glob("scores/*/*-dev.parquet")}
    for board in (out / "tensorboard").glob("*,*"):
        board.rename(board.with_name(board.name.rsplit(",", 1)[1]))  # as versions of before named it
    finish(start(study, out, "axes.plw=[0, 0.1, 0.5]", "axes.pool=[many]"))
    assert {p: p.stat().st_mtime_ns for p in before} == before
    trials = pq.read_table(out / "trials.parquet").to_pylist()
    assert len(trials) == 3
    boards = {board.name for board in (out / "tensorboard").iterdir() if board.is_dir()}
    now = {trial["trial_id"]: f"plw={trial['plw']:g},seed=0,{trial['trial_id']}" for trial in trials}
    others = {path.parent.name for path in before} - now.keys()
    assert boards == {*now.values(), *others}, "one run for each trial"
    for trial in trials:
        events = EventAccumulator(str(out / "tensorboard" / now[trial["trial_id"]])).Reload()
        rungs = Store.open(out).rungs(trial["trial_id"], "dev")
        assert [event.step for event in events.Scalars("dev/mean")] == rungs
        assert [event.step for event in events.Scalars("train/lr")] == list(range(1, rungs[-1] + 1))


def test_a_local_run_that_asks_for_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    process = start(write_study(tmp_path), tmp_path / "out", "resources.gpus=1", CUDA_VISIBLE_DEVICES="")
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert text.splitlines()[-1] == (
        "error: resources.gpus = 1, but this machine has no GPU. Set resources.gpus=0, or name a cluster that has GPUs "
        "in RAY_ADDRESS"
    )
    assert not (tmp_path / "out" / "study.yaml").exists()


@pytest.mark.parametrize("files", [[1], [1, 2, 3]], ids=["once", "thrice"])
@pytest.mark.long  # test_runner.py kills a runner in the same way, without Ray
def test_kill_9_at_random_moments_loses_and_changes_nothing(files: list[int], tmp_path: Path) -> None:
    """ASHA off, one slot: after the kills the rows equal those of an undisturbed run, bit for bit."""
    axes = {"plw": [0.1], **({"pool": ["many"]} if len(files) == 1 else {})}
    study = write_study(tmp_path, scheduler={"name": "none"}, axes=axes, resources={"slots": 1})
    finish(start(study, tmp_path / "whole"))
    kill_at_random_moments(study, tmp_path / "torn", files)
    finish(start(study, tmp_path / "torn"))
    whole, torn = score_files(tmp_path / "whole"), score_files(tmp_path / "torn")
    assert whole.keys() == torn.keys()
    assert all(whole[name].equals(torn[name]) for name in whole)


@pytest.mark.long
def test_kill_9_under_asha_contradicts_nothing(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    out = tmp_path / "out"
    kill_at_random_moments(study, out, [1, 3, 5])
    before = score_files(out)
    finish(start(study, out))
    after = score_files(out)
    assert all(after[name].equals(before[name]) for name in before)
    trials = pq.read_table(out / "trials.parquet").to_pylist()
    assert sorted(t["status"] for t in trials) == ["finished", "finished", "stopped", "stopped"]
    assert len([n for n in after if n.endswith("-dev.parquet")]) == 6


@pytest.mark.long
def test_kill_9_under_the_asynchronous_rule_keeps_every_decision(tmp_path: Path) -> None:
    """What was recorded before a kill is the beginning of what is recorded at the end, and a start with nothing left to
    train decides by it."""
    axes = {"lr": [1e-3, 3e-3], "steps": 16}
    study = write_study(tmp_path, axes=axes, scheduler={"rule": "asynchronous", "rungs": [0.25, 0.5, 1.0]})
    out = tmp_path / "out"

    def recorded() -> list[str]:
        return [line for file in sorted(out.glob("decisions/*/*.jsonl")) for line in file.read_text().splitlines()]

    before: list[str] = []
    for n in (3, 7, 11):
        kill_at_random_moments(study, out, [n])
        assert recorded()[: len(before)] == before
        before = recorded()
    assert before
    finish(start(study, out))
    made = recorded()
    assert made[: len(before)] == before
    trials = standing(out)
    assert {t["status"] for t in trials} == {"finished", "stopped"}
    ways = ("finished at", "below", "equals the cut-off", "is number", "so far")
    assert [t["reason"] for t in trials if not any(way in t["reason"] for way in ways)] == []
    assert "nothing to train" in finish(start(study, out))
    assert (recorded(), standing(out)) == (made, trials)
    spoilt = next(iter(out.glob("decisions/*/*.jsonl")))
    spoilt.write_text(spoilt.read_text().replace('"objective": 0.', '"objective": 0.9', 1))
    text, _ = (process := start(study, out)).communicate(timeout=200)
    assert process.returncode == 2
    assert "line 1: says that trial" in text.splitlines()[-1]
    assert "Traceback" not in text


@pytest.mark.long
def test_a_study_with_seeds_and_confirm_that_is_killed_gives_the_same_configurations(tmp_path: Path) -> None:
    """One slot and ASHA on: promoted are configurations, whose seeds stay together, and the table is equal."""
    axes = {"plw": [0, 0.1], "pool": ["many"], "seed": [0, 1, 2], "steps": 60, "lr": 4e-3}  # enough to learn the task
    study = write_study(tmp_path, axes=axes, resources={"slots": 1}, confirm={"top": 1, "seeds": 2})
    finish(start(study, tmp_path / "whole"))
    kill_at_random_moments(study, tmp_path / "torn", [2, 7, 14])
    finish(start(study, tmp_path / "torn"))
    for name in ("robustness", "confirmation"):
        whole, torn = (pq.read_table(tmp_path / out / f"tables/{name}.parquet") for out in ("whole", "torn"))
        if "seconds" in whole.column_names:
            whole, torn = whole.drop_columns(["seconds"]), torn.drop_columns(["seconds"])
        assert whole.equals(torn)
    rows = pq.read_table(tmp_path / "whole" / "tables/robustness.parquet").to_pylist()
    assert [row["n_seeds"] for row in rows] == [3, 3]
    assert sorted(row["status"] for row in rows) == ["finished", "stopped"]
    trials = pq.read_table(tmp_path / "whole" / "trials.parquet").to_pylist()
    boards = {p.name for p in (tmp_path / "whole" / "tensorboard").iterdir()}
    ended = [row for row in rows if row["status"] == "finished"]
    assert {f"plw={row['plw']:g},seed=all,{row['configuration']}" for row in ended} <= boards
    assert sorted(row["role"] for row in trials) == ["report"] * 2 + ["search"] * 6
    assert {row["seed"] for row in trials if row["role"] == "report"} == {3, 4}


def kill_at_random_moments(study: Path, out: Path, files: Sequence[int]) -> None:
    """Start, let so many score files appear and a little more time pass, kill -9 the driver; once per entry."""
    rng = random.Random(0)
    for n in files:
        process = start(study, out)
        wait_for(
            lambda n=n, process=process: len(list(out.glob("scores/*/*.parquet"))) >= n or process.poll() is not None
        )  # type: ignore[misc]
        time.sleep(rng.random() / 2)
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("sent", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.long), (signal.SIGTERM, 143)]
)
def test_an_interrupt_ends_the_run_with_a_word_and_the_next_goes_on(sent: int, code: int, tmp_path: Path) -> None:
    study = write_study(tmp_path, axes={"plw": [0], "pool": ["many"], "steps": 4000}, resources={"slots": 1})
    process = start(study, tmp_path / "out")
    wait_for(lambda: "started" in (process.stdout.readline() if process.stdout else ""))
    time.sleep(1)
    process.send_signal(sent)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == code, text[-2000:]
    assert "run the same command again to continue" in text
    assert "small (interrupted): 0 of 1 trials done" in text
    assert "ended by an error" not in text
    assert "Traceback" not in text


FULL = """
mount -t tmpfs -o size=400k tmpfs "$0" && "$@"; echo "code $?"
ls "$0"/scores/*/* | wc -l
mount -o remount,size=64m "$0" && "$@"; echo "code $?"
mkdir "$0-kept" && cp -r "$0/scores" "$0-kept"
"""


@pytest.mark.long
def test_a_full_disk_ends_the_run_with_a_line_and_the_next_goes_on(tmp_path: Path) -> None:
    """CASES E5: it had not ended after 330 seconds. What was done before is kept, and the rest follows once there is
    space; the rows equal those of an undisturbed run, bit for bit."""
    out = tmp_path / "out"
    out.mkdir()
    if not can_mount(out):
        pytest.skip("this machine lets no test mount a small disk")
    axes = {"seed": [0, 1, 2], "pool": ["many"]}
    study = write_study(tmp_path, axes=axes, scheduler={"name": "none"}, resources={"slots": 1})
    run = [sys.executable, "-m", "sweeps", "run", str(study), "--out", str(out)]
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    command = ["unshare", "-rm", "sh", "-c", FULL, str(out), *run]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=500,
    )
    codes = [line for line in done.stdout.splitlines() if line.startswith("code ")]
    assert codes == ["code 2", "code 0"], (done.stdout + done.stderr)[-3000:]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "No space left on device" in errors[0]
    assert "free space" in errors[0]
    assert "Traceback" not in done.stderr
    assert "(continued: " in done.stdout
    finish(start(study, tmp_path / "whole"))
    kept, whole = score_files(Path(f"{out}-kept")), score_files(tmp_path / "whole")
    assert kept.keys() == whole.keys()
    assert all(kept[name].equals(whole[name]) for name in whole)
