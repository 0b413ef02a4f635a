"""Tampered run folders through the commands, in one process: each answers or says in a line why not, and none names
another winner (CASES V3, B2, B4, B6; the issue's fuzz over run folders)."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from safetensors.numpy import load
from tampering import tamper
from tiny_run import LABELLED, make_run

from sweeps.cli.exit_codes import main
from sweeps.report.write import write_report
from sweeps.run_folder.reading import RunFolder
from sweeps.run_folder.trials_file import study_checksum, write_trials
from trainer.store import Store

CPU_SECONDS = 20.0  # of one command, at most
SEEDS = st.integers(0, 2**32 - 1)


class Whole(NamedTuple):
    """An undamaged run folder, its winner, and what is exported of it."""

    folder: Path
    winner: str
    exported: dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    place = tmp_path_factory.mktemp("whole")
    uri, _ = make_run(place, LABELLED, axes={"lr": [1e-2, 2e-2, 3e-2], "steps": 30})
    record_everything(uri)
    write_report(uri)
    [winner] = [r["trial_id"] for r in RunFolder(Store.open(uri)).robustness() if r["winner"]]
    assert command("report", uri)[0] == 0
    assert command("export", uri, "--to", str(place / "out"))[0] == 0
    return Whole(Path(uri), winner, exported(place / "out"))


def record_everything(uri: str) -> None:
    """``trials.parquet`` as the driver of a sweep writes it."""
    store = Store.open(uri)
    run = RunFolder(store)
    found = {row["trial_id"]: row for row in run.robustness()}
    rows = []
    for row in run.trials:
        of = found[row["trial_id"]]
        scores = {"objective": of["dev_objective"], "stderr": of["dev_stderr"], "degenerate": of["degenerate"]}
        test = {"test_mean": of["mean"], "test_std": of["std"], "test_degenerate": of["degenerate"]}
        rows.append({**row, **scores, **test, "state": "finished"})
    state = {"began": 1.0, "written": 2.0, "steps_per_s": None, "over": True}
    write_trials(store, rows, {**state, "study": study_checksum(store.read("study.yaml"))})


def command(*arguments: str) -> tuple[int, str]:
    """The command's exit code and all that it says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0), said.getvalue()


def answered(what: str, *arguments: str) -> tuple[int, str]:
    """As ``command``, which has to end well or with a line."""
    start = time.process_time()
    code, said = command(*arguments)
    assert time.process_time() - start < CPU_SECONDS, what
    assert code in (0, 2), f"{what}\n{said}"
    assert "unexpected" not in said, f"{what}\n{said}"
    assert "Traceback" not in said, f"{what}\n{said}"
    assert (code == 2) == any(line.startswith("error: ") for line in said.splitlines()), f"{what}\n{said}"
    return code, said


def exported(folder: Path) -> dict[str, Any]:
    template = json.loads((folder / "template.json").read_text())
    weights = load((folder / "adapter_model.safetensors").read_bytes())
    config = json.loads((folder / "adapter_config.json").read_text())
    return {
        "trial": template["trial"], "id": template["trial_id"], "counts": template["label_counts"],
        "r": config["r"], "alpha": config["lora_alpha"], "modules": config["target_modules"],
        "weights": {name: value.tobytes() for name, value in weights.items()},
    }  # fmt: skip


def check(whole: Whole, place: Path, number: int) -> None:
    """One tampered copy of the folder through ``report``, ``watch`` and ``export``."""
    shutil.rmtree(place, ignore_errors=True)
    run, outside, out = place / "run", place / "outside", place / "out"
    shutil.copytree(whole.folder, run)
    outside.mkdir()
    (outside / "mine.txt").write_text("mine")
    what = f"seed {number}: {tamper(run, outside, number)}"
    answered(what, "watch", str(run), "--once")
    code, said = answered(what, "export", str(run), "--to", str(out))
    if code == 0:
        assert exported(out) == whole.exported, f"{what}\n{said}"
    shutil.rmtree(run / "tables", ignore_errors=True) if not (run / "tables").is_symlink() else None
    code, said = answered(what, "report", str(run))
    table = run / "tables" / "robustness.parquet"
    if table.is_file():
        winners = [r["trial_id"] for r in RunFolder(Store.open(run)).robustness() if r["winner"]]
        assert winners in ([], [whole.winner]) or (code == 2 and "trials.parquet" in said), f"{what}\n{said}"
    assert [p.name for p in outside.iterdir()] == ["mine.txt"], what
    assert (outside / "mine.txt").read_text() == "mine", what


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tampered") / "one"


@settings(max_examples=30, derandomize=True, deadline=None, database=None)
@given(number=SEEDS)
def test_a_tampered_run_folder_never_names_another_winner(whole: Whole, place: Path, number: int) -> None:
    check(whole, place, number)


@pytest.mark.long
@seed(19)
@settings(max_examples=1000, deadline=None, database=None)
@given(number=SEEDS)
def test_a_thousand_tampered_run_folders(whole: Whole, place: Path, number: int) -> None:
    check(whole, place, number)
