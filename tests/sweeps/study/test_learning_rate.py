"""The usual learning rate of a base model, and what the study, the plan and the check make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from study_text import BASE

from sweeps.checks.settings import settings_findings
from sweeps.study.learning_rate import rate_prior
from sweeps.study.load import load_study, resolved
from sweeps.study.overlay import StudyError, dump_yaml


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study beside a model of SmolLM2-135M's width, of which only the config is there."""
    (tmp_path / "model").mkdir()
    write_config(tmp_path, model_type="llama", hidden_size=576)
    (tmp_path / "x.yaml").write_text(BASE)
    return tmp_path


def write_config(folder: Path, **config: Any) -> None:
    (folder / "model" / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("config", "rate", "text"),
    [
        ({"model_type": "llama", "hidden_size": 576}, 1.3e-3, "0.0013 (Llama family, hidden size 576)"),
        ({"model_type": "llama", "hidden_size": 2000}, 5e-4, "0.0005 (Llama family, hidden size 2000)"),
        ({"model_type": "llama", "hidden_size": 4096}, 2.9e-4, "0.00029 (Llama family, hidden size 4096)"),
        ({"model_type": "qwen3_moe", "hidden_size": 4096}, 4.7e-4, "0.00047 (Qwen family, hidden size 4096)"),
        (
            {"model_type": "gemma3", "text_config": {"hidden_size": 1152, "model_type": "gemma3_text"}},
            7.7e-4,
            "0.00077 (hidden size 1152; not calibrated for the family gemma3_text: Llama's exponent)",
        ),
    ],
)
def test_the_prior_falls_with_the_models_width(config: dict[str, Any], rate: float, text: str) -> None:
    found = rate_prior(config)
    assert found is not None
    assert found.rate == pytest.approx(rate, rel=0.05)
    assert found.text == text


def test_auto_is_three_rates_and_the_run_folders_study_holds_numbers(folder: Path) -> None:
    study = load_study(folder / "x.yaml", ["axes.lr=auto"], files=False)
    assert study.axes.lr == (1.3e-3, 4.4e-4, 4.0e-3)
    (folder / "resolved.yaml").write_text(dump_yaml(resolved(study)))
    write_config(folder, model_type="llama", hidden_size=4096)
    assert load_study(folder / "resolved.yaml", files=False).axes.lr == study.axes.lr


@pytest.mark.parametrize("value", ["[auto, 1e-3]", "{choice: [1e-3, auto]}"])
def test_auto_stands_alone(folder: Path, value: str) -> None:
    with pytest.raises(StudyError, match="cannot stand in a list: auto is three rates of its own"):
        load_study(folder / "x.yaml", [f"axes.lr={value}"], files=False)


def test_auto_without_a_config_or_a_width_says_what_to_do(folder: Path) -> None:
    write_config(folder, model_type="llama")
    with pytest.raises(StudyError, match=r"needs the hidden size, and the config of model\.path = .* has none"):
        load_study(folder / "x.yaml", ["axes.lr=auto"], files=False)
    (folder / "model" / "config.json").unlink()
    with pytest.raises(StudyError, match=r"has no config\.json.*Or write the rates"):
        load_study(folder / "x.yaml", ["axes.lr=auto"], files=False)
    with pytest.raises(StudyError, match=r"model\.path is missing") as error:
        load_study(folder / "x.yaml", ["axes.lr=auto", "model={dtype: float32}"], files=False)
    assert "axes.lr" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], []),
        (["axes.lr=[1e-5, 1.2e-4]"], ["axes.lr = [1e-05, 0.00012]: every rate is more than 10 times away"]),
        (["axes.lr=[1e-5, 1.4e-4]"], []),  # one is near enough
        (["axes.lr=[1e-5, 0.1]"], ["axes.lr = [1e-05, 0.1]: every rate"]),
        (["axes.lr={loguniform: [1e-6, 1e-4]}", "search={method: random, trials: 4}"], ["axes.lr = {loguniform: "]),
        (["axes.lr={loguniform: [1e-6, 1e-1]}", "search={method: random, trials: 4}"], []),
        (["axes.lr=1e-3"], ["axes.lora.r = [4, 16]: with one alpha and one learning rate the scale alpha / r falls"]),
        (["axes.lr=1e-3", "axes.lora.r=[8, 16]"], []),
        (["axes.lr=1e-3", "axes.lora.rslora=true"], []),
        (["axes.lr=1e-3", "axes.lora.alpha=[8, 32]"], []),
        (["scheduler.rungs=[0.1, 1]"], ["scheduler.rungs[0] = 0.1: lies within the warm-up (training.warmup = 0.1)"]),
        (["scheduler.rungs=[0.1, 1]", "training.warmup=0.05"], []),
        (["scheduler.rungs=[0.1, 1]", "scheduler.name=none"], []),
        (
            ["scheduler.rungs=[{at: 0.25, rows: 0.02}, 1]"],
            ["scheduler.rungs[0].rows = 0.02: is 6 rows of 300, fewer than the 8 of a step"],
        ),
        (["scheduler.rungs=[{at: 0.25, rows: 0.03}, 1]"], []),
    ],
)
def test_doubtful_settings_are_warned_of(folder: Path, overrides: list[str], said: list[str]) -> None:
    found = [str(f) for f in settings_findings(load_study(folder / "x.yaml", overrides, files=False), 300)]
    assert len(found) == len(said), found
    assert all(text.startswith(start) for text, start in zip(found, said, strict=True)), found
