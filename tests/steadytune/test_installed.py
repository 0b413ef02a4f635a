"""Another package in place of ours is refused with its place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

COMMAND = "from steadytune.command import main; main()"


def started(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    return subprocess.run(
        [sys.executable, "-P", "-c", code, "--version"], env=environment, cwd="/", capture_output=True, text=True
    )


def test_our_own_packages_start() -> None:
    ended = started(COMMAND, ROOT)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()


@pytest.mark.parametrize("name", ["trainer", "cluster", "sweeps", "ray_configs"])
def test_a_module_of_the_same_name_before_ours_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("raise RuntimeError\n")
    ended = started(COMMAND, tmp_path, ROOT)
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert f'the Python package "{name}" is found at {tmp_path / name}.py' in line
    assert str(ROOT / name) in line


def test_a_distribution_installed_over_ours_is_refused(tmp_path: Path) -> None:
    for name in ("steadytune", "cluster", "sweeps", "ray_configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "__init__.py").touch()
    ended = started(COMMAND, tmp_path)
    assert ended.returncode == 2
    assert "it has no trial.py" in ended.stderr


def test_in_python_it_is_an_import_error_that_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text("raise RuntimeError\n")
    code = "import steadytune\ntry:\n    steadytune.study\nexcept ImportError as error:\n    print(error)"
    ended = started(code, tmp_path, ROOT)
    assert ended.returncode == 0, ended.stderr
    assert "is found at" in ended.stdout
