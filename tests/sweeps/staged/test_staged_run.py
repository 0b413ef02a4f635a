"""The staged command end to end, on a real local Ray with the embedded model: five stages and an answer, twice."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from small_study import finish, score_files, start, write_study

STAGED = {
    "templates": {"plain": {}, "ask": {"marker": "\nUnhappy:"}},
    "axes": {"lora": {"r": 4, "alpha": 8}, "lr": [3e-3, 6e-3], "steps": 4, "seed": [0, 1], "pool": "many"},
    "scheduler": {"name": "none"},
    "stages": {
        "heads": ["labels", "classifier"],
        "cross": 2,
    },
}


def write_staged(folder: Path) -> Path:
    """9 trials of 4 steps, 3 dev and 3 test prompts."""
    path = write_study(folder)
    study = {**yaml.safe_load(path.read_text()), **STAGED}
    study["task"]["meaning"] = {"about": "Is the writer unhappy?", "other": {"sarcasm": ["sarcas"]}}
    for pool in ("dev", "test"):
        study["pools"][pool]["limit"] = 3
    for split, limit in (("train", 60), ("dev", 12), ("test", 12)):
        study["task"]["rows"][split]["limit"] = limit
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


@pytest.mark.long  # test_staged.py runs the same stages in this process
def test_one_command_runs_five_stages_and_a_second_replays_them(tmp_path: Path) -> None:
    path, out = write_staged(tmp_path), tmp_path / "run"
    said = finish(start(path, out))
    content = json.loads((out / "stages.json").read_text())
    assert [s["stage"] for s in content["stages"]] == [1, 2, 3, 4, 5]
    assert f"answer: {content['answer']['sentence']}" in said
    crossed = content["stages"][-1]["rows"]
    assert len(crossed) == 8
    ids = {i for s in content["stages"] for c in s.get("candidates", ()) for i in c["trials"]}
    ids |= {r["trial"] for r in crossed}
    trials = pq.read_table(out / "trials.parquet").to_pylist()
    assert {t["trial_id"] for t in trials} == ids
    assert len(trials) == len(ids) < 3 + 2 + 4 + 8, "stages share trials"
    assert {t["status"] for t in trials} == {"finished"}
    assert all(t["test_mean"] is not None for t in trials if t["trial_id"] in {r["trial"] for r in crossed})
    assert "Stage by stage" in (out / "report.html").read_text()
    files, record = score_files(out), (out / "stages.json").read_bytes()

    again = finish(start(path, out))
    assert "nothing to train" in again
    assert f"answer: {content['answer']['sentence']}" in again
    assert score_files(out) == files
    assert (out / "stages.json").read_bytes() == record
