"""What `make dist` built: installed as docs/install.md says, in a new environment outside the checkout, it runs the
quickstart. Without a build in ``dist/`` the tests say to run `make dist`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from checkout import ROOT

pytestmark = pytest.mark.dist
PACKAGES = ("steadytune", "sweeps", "cluster", "trainer", "ray_configs")


def built(pattern: str) -> Path:
    found = list((ROOT / "dist").glob(pattern))
    if len(found) != 1:
        pytest.fail(f"dist/ holds {len(found)} files {pattern} instead of one: run `make dist`")
    return found[0]


def of_checkout() -> set[str]:
    """The tracked files of the packages."""
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.split())


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else() -> None:
    names = {n for n in zipfile.ZipFile(built("*.whl")).namelist() if ".dist-info/" not in n}
    assert names == of_checkout()


def test_the_sdist_holds_what_a_build_and_the_tests_need() -> None:
    with tarfile.open(built("*.tar.gz")) as packed:
        names = {n.partition("/")[2] for n in packed.getnames()}
    assert of_checkout() <= names
    assert {"pyproject.toml", "constraints.txt", "LICENSE", "README.md", "Makefile", "tests/conftest.py"} <= names


def installed(tool: str, folder: Path) -> Path:
    """The environment that the commands of docs/install.md for ``tool`` make in ``folder``."""
    text = (ROOT / "docs" / "install.md").read_text()
    [block] = re.findall(rf"## With {tool}\n.*?```sh\n(.*?)```", text, re.S)
    script = block.replace("steadytune-*.whl", str(built("*.whl"))).replace("python3 ", f"{sys.executable} ")
    (folder / "constraints.txt").write_bytes((ROOT / "constraints.txt").read_bytes())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where uv is
    subprocess.run(["sh", "-e", "-c", script], cwd=folder, env=outside() | {"PATH": path}, check=True)
    return folder / "steadytune-env" / "bin"


def outside() -> dict[str, str]:
    """The environment variables without what leads Python to the checkout."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST")}


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_the_quickstart_runs_from_the_wheel_in_an_empty_folder(tool: str, tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    binaries = installed(tool, home)
    said = subprocess.run(
        [binaries / "steadytune", "run", "quickstart"], cwd=work, env=outside(), capture_output=True, text=True
    )
    assert said.returncode == 0, said.stdout[-2000:] + said.stderr[-2000:]
    rows = pq.read_table(work / "runs" / "quickstart" / "tables" / "robustness.parquet").to_pylist()
    assert len(rows) == 16
    assert [r["pool"] for r in rows if r["winner"]] == ["many"]
    if tool == "pip":  # once is enough: Ray's workers would load a module of our names in this folder
        (work / "trainer.py").write_text("raise RuntimeError('a module of the project, not of Steadytune')\n")
        again = subprocess.run(
            [binaries / "steadytune", "run", "quickstart"], cwd=work, env=outside(), capture_output=True, text=True
        )
        assert again.returncode == 2
        assert again.stderr.startswith(f'error: the Python package "trainer" is found at {work / "trainer.py"}')
