"""``steadytune track``: what every tracker is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from tracked_run import GrowingRun

from sweeps.cli.app import app
from sweeps.cli.exit_codes import guarded


def asked(*arguments: str) -> int:
    return guarded(lambda: app(args=["track", *arguments], prog_name="steadytune", standalone_mode=False))


@pytest.mark.parametrize(("kind", "package"), [("mlflow", "mlflow-skinny"), ("wandb", "wandb"), ("trackio", "trackio")])
def test_a_tracker_that_is_not_installed(
    kind: str, package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = GrowingRun(tmp_path / "run")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert asked(run.uri, "--to", kind) == 2
    error = capsys.readouterr().err
    assert error.endswith(f" is not installed. Install it with: pip install {package}\n")
    assert error.startswith(f"error: --to {kind}: ")
    assert error.count("\n") == 1


def test_a_folder_that_is_no_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(str(tmp_path), "--to", "mlflow", "--url", "http://127.0.0.1:9") == 2
    error = capsys.readouterr().err
    assert f"{tmp_path} is no run folder: it holds no study.yaml" in error
    assert error.count("\n") == 1


def test_a_tracker_that_is_not_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(str(tmp_path), "--to", "wandbb") == 2
    assert "'wandbb' is not one of 'mlflow', 'wandb', 'trackio'" in capsys.readouterr().err
