"""Broken Slurm scripts, DeepSpeed files and Dockerfiles."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from cluster_files import findings

from cluster.files.capacity import Need
from cluster.files.render import CONFIGS

SLURM = [
    ("--ntasks-per-node=1", "--ntasks-per-node=4", "error", r"must be 1"),
    ("#SBATCH --requeue\n", "", "warning", r"--requeue is missing"),
    ("#SBATCH --exclusive\n", "", "warning", r"--exclusive is missing"),
    (
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --gpus-per-nod=1",
        "error",
        r'gpus-per-nod is not known. Did you mean "gpus-per-node"',
    ),
    ("export RAY_AUTH_MODE=token\n", "", "warning", r"RAY_AUTH_MODE is not token"),
    ("export RAY_AUTH_TOKEN_PATH=", "export RAY_AUTH_TOKEN=0123456789abcdef #", "warning", r"plain text"),
    ('env RAY_ADDRESS="$HEAD" steadytune', "steadytune", "error", r"without RAY_ADDRESS"),
    (" -- \\\n  env", " \\\n  env", "error", r"no ` -- `"),
    ('--min-nodes "$SLURM_JOB_NUM_NODES" ', "", "warning", r"--min-nodes is missing"),
    ('--address "$HEAD"', '--address "$HEAD" --head', "error", r"--head is refused"),
    (
        "--kill-on-bad-exit=1 \\\n  ray symmetric-run",
        "--kill-on-bad-exit=1 true\nray symmetric-run",
        "error",
        r"first node only",
    ),
    ("--num-cpus=", "--dashboard-host=0.0.0.0 --num-cpus=", "warning", r"opens the dashboard"),
    ("RUN_FOLDER=/shared/steadytune/runs/study", "RUN_FOLDER=/tmp/run", "warning", r"own disk"),
    ("set -euo pipefail\n", "set -euo pipefail\n#SBATCH --mem=4G\n", "error", r"after the first command"),
    ("trap 'rm", "if trap 'rm", "error", r"bash cannot read it"),
    ("ray symmetric-run", "ray symetric-run", "error", r"ray symmetric-run is missing"),
]


@pytest.mark.parametrize(("old", "new", "level", "words"), SLURM, ids=[c[3] for c in SLURM])
def test_broken_slurm_scripts(old: str, new: str, level: str, words: str) -> None:
    text = (CONFIGS / "slurm.sh").read_text()
    assert old in text
    found = findings(text.replace(old, new), "job.sh")
    assert any(f.level == level and re.search(words, str(f)) for f in found), [str(f) for f in found]


ZERO: list[tuple[dict[str, Any], str, str]] = [
    ({"zero_optimization": {"stage": 4}}, "error", r"stage = 4 must be 0, 1, 2 or 3"),
    ({"zero_optimization": {"stag": 2}}, "error", r'stag is not a known key. Did you mean "stage"'),
    ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}, "error", r"offload_param needs stage 3"),
    ({"zero_optimization": {"stage": 0, "offload_optimizer": {"device": "cpu"}}}, "error", r"needs stage 1"),
    ({"zero_optimization": {"stage": 3, "offload_param": {"device": "gpu"}}}, "error", r'"gpu" is not known'),
    ({"zero_optimization": {"stage": 2}, "optimizer": {}}, "warning", r"optimizer has no effect.*axes.lr"),
    ({"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}, "warning", r"model.dtype"),
    ({"zero_optimization": {"stage": 2}, "gradient_accumulation_steps": 4}, "warning", r"training.accumulation"),
    ({"zero_optimization": {"stage": 2}, "gradient_cliping": 1}, "warning", r'Did you mean "gradient_clipping"'),
]


@pytest.mark.parametrize(("config", "level", "words"), ZERO, ids=[c[2] for c in ZERO])
def test_broken_deepspeed_files(config: dict[str, Any], level: str, words: str) -> None:
    found = findings(json.dumps(config), "ds.json")
    assert any(f.level == level and re.search(words, str(f)) for f in found), [str(f) for f in found]


def test_a_deepspeed_file_that_the_study_does_not_ask_for() -> None:
    need = Need("s", 4, 1, 1, 1, workers=2, zero=2)
    assert findings((CONFIGS / "deepspeed/zero2.json").read_text(), "zero2.json", need) == []
    [found] = findings((CONFIGS / "deepspeed/zero3_offload.json").read_text(), "zero3.json", need)
    assert "study s says resources.zero = 2" in str(found)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("USER ray\n", "", "USER is root"),
        ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "turns token authentication off"),
        ("WORKDIR", "EXPOSE 8265\nWORKDIR", "is not needed"),
        ("WORKDIR", "ENV RAY_AUTH_TOKEN=0123456789abcdef\nWORKDIR", "puts the token into the image"),
        ("-c src/constraints.txt", "", "pinned environment"),
        ("python:3.11-slim-bookworm", "rayproject/ray:2.9.3", "another Ray"),
    ],
)
def test_broken_dockerfiles(old: str, new: str, words: str) -> None:
    text = (CONFIGS / "Dockerfile").read_text()
    assert old in text
    found = findings(text.replace(old, new), "Dockerfile")
    assert any(words in str(f) for f in found), [str(f) for f in found]
    assert not any("0123456789abcdef" in str(f) for f in found)
