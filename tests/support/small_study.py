"""A small real study on the embedded model, and the command that runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from checkout import EMBEDDED, ROOT


def prepared(tmp_path: Path, steps: int) -> tuple[Any, Any, list[Any]]:
    """Assets, model and two trials of the small study."""
    from sweeps.study.load import load_study
    from sweeps.trials.from_points import make_trials, points_of
    from sweeps.trials.load_content import content_of

    study = load_study(write_study(tmp_path, axes={"pool": ["many"], "steps": steps}))
    content = content_of(study)
    return content.assets, content.model, make_trials(study, points_of(study) or [], content)


def wait_until(condition: Any) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def write_study(folder: Path, **changes: Any) -> Path:
    """A small real study: 4 trials on the embedded model, 4 dev and 5 test prompts."""
    data = EMBEDDED / "data"
    study: dict[str, Any] = {
        "name": "small",
        "model": {"path": str(EMBEDDED / "model")},
        "task": {
            "rows": {
                s: {"path": str(data / f"{s}.jsonl"), "limit": n}
                for s, n in (("train", 200), ("dev", 24), ("test", 30))
            },
            "fields": ["text"],
            "label": "label",
            "labels": {0: "no", 1: "yes"},
            "id": "id",
            "max_length": 160,
        },
        "pools": {
            "train": {
                "many": str(data / "pools/train.yaml"),
                "one": {"file": str(data / "pools/train.yaml"), "limit": 1},
            },
            "dev": {"file": str(data / "pools/dev.yaml"), "limit": 4},
            "test": {"file": str(data / "pools/test.yaml"), "limit": 5},
        },
        "axes": {
            "lora": {"r": 4, "alpha": 8, "dropout": 0.1},
            "lr": 3e-3,
            "steps": 12,
            "plw": [0, 0.1],
            "pool": ["many", "one"],
        },
        "training": {"batch_size": 4},
        "scheduler": {"name": "asha", "eta": 2, "rungs": [0.5, 1.0]},
        "resources": {"slots": 2, "cpus": 2},
    }
    for key, value in changes.items():
        study[key] = {**study.get(key, {}), **value}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def start(study: Path, out: Path, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}  # as a user has it: token authentication
    env |= environment
    command = [sys.executable, "-m", "sweeps", "run", str(study), *overrides, "--out", str(out)]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    text, _ = process.communicate(timeout=900)
    assert process.returncode == 0, text[-4000:]
    return text


def score_files(out: Path) -> dict[str, Any]:
    return {
        str(p.relative_to(out)): pq.read_table(p).replace_schema_metadata(None)
        for p in sorted(out.glob("scores/*/*.parquet"))
    }


def wait_for(condition: Any, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
