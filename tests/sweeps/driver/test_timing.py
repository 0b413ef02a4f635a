"""``steadytune time`` on a run folder: every trial alone, in the file and in the tables of a study of arms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tiny_run import LABELLED, PLAIN, make_run

from sweeps.cli import main
from sweeps.run_folder.timing import TIMING_FILE
from trainer.trial import Trial

SECTIONS: dict[str, Any] = {
    "templates": PLAIN,
    "pools": {
        "train": {"many": "train.yaml", "one": {"file": "train.yaml", "only": ["t1"]}},
        "dev": "dev.yaml",
        "test": "test.yaml",
    },
    "arms": {"base": {"pool": "one", "steps": 0}, "user": {"pool": "one"}, "paft": {"pool": "many"}},
    "axes": {"template": "plain", "lora": {"r": 2}, "lr": 1e-2, "epochs": 1},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Trial]]:
    uri, trials = make_run(tmp_path_factory.mktemp("timed"), LABELLED, **SECTIONS)
    return Path(uri), {t.arm.name: t for t in trials}


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["time", *words])
    return int(ended.value.code or 0)


def test_the_tables_have_what_was_measured_and_call_shares_shares(
    run: tuple[Path, dict[str, Trial]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, trials = run
    inference = pq.read_table(folder / "tables" / "paft_inference.parquet").to_pylist()
    assert {r["label_ms"] for r in inference} == {None}
    assert all(r["joint_ms"] > 0 for r in inference)
    page = (folder / "tables" / "paft_main.md").read_text()
    assert "What an arm costs by itself was not measured" in page
    assert "no measurement of the arm" in page

    assert command(str(folder), "--answers", "12", "--batch", "4", "--new-tokens", "3", "--steps", "2") == 0
    said = capsys.readouterr().out
    assert f"{trials['paft'].id}, arm paft: " in said
    assert "ms in generation" in said
    found = json.loads((folder / TIMING_FILE).read_text())
    assert (found["batch"], found["answers"], found["max_new_tokens"]) == (4, 12, 3)
    assert set(found["trials"]) == {t.id for t in trials.values()}
    assert "train_ms_per_step" not in found["trials"][trials["base"].id]

    inference = {r["arm"]: r for r in pq.read_table(folder / "tables" / "paft_inference.parquet").to_pylist()}
    for name, trial in trials.items():
        of = found["trials"][trial.id]
        for column in ("label_ms", "generate_ms", "new_tokens", "unread"):
            assert inference[name][column] == of[column]
        assert 0 < of["new_tokens"] <= 3
    training = {r["arm"]: r for r in pq.read_table(folder / "tables" / "paft_training.parquet").to_pylist()}
    paft = trials["paft"]
    wanted = paft.optimization.steps * found["trials"][paft.id]["train_ms_per_step"] / 3.6e6
    assert training["paft"]["hours"] == pytest.approx(wanted)
    assert min(r["to_fastest"] for r in training.values()) == 1.0
    assert "12 answers in batches of 4, at most 3 new tokens" in (folder / "tables" / "paft_main.md").read_text()


def test_a_damaged_file_is_named(run: tuple[Path, dict[str, Trial]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = run
    kept = (folder / TIMING_FILE).read_bytes() if (folder / TIMING_FILE).exists() else None
    (folder / TIMING_FILE).write_text("{")
    try:
        with pytest.raises(SystemExit) as ended:
            main(["report", str(folder)])
        assert ended.value.code == 2
        assert "timing.json: is damaged" in capsys.readouterr().err
    finally:
        (folder / TIMING_FILE).unlink()
        if kept is not None:
            (folder / TIMING_FILE).write_bytes(kept)
