"""What benchmarks/results keeps of the studies of docs/results.md: their tables and figures come out of it again, the
same but for rounding, where torch is not installed; it is small, and has no text of others."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkout import ROOT, SHARED

RESULTS = ROOT / "benchmarks" / "results"
KEPT = sorted(file.parent for file in RESULTS.glob("*/**/trials.parquet"))
CLAIMS = sorted(RESULTS.glob("*/claims.csv"))
MOST = 8_000_000  # bytes of score rows
WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch())
"""


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    """Variables under which Python does not find torch."""
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(WITHOUT_TORCH)
    paths = [str(tmp_path / "python"), str(ROOT / "benchmarks"), str(ROOT)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", "import torch"], env=env, capture_output=True, check=False)
    assert b"No module named 'torch'" in found.stderr
    return env


NUMBER = re.compile(r"-?\d+(?:\.(\d+))?(?:e[-+]?\d+)?")


def assert_same(again: str, kept: str, name: str) -> None:
    """Two texts whose numbers may differ in their last digit, or by what sums in another order change: processors
    have different kernels for matrix products."""
    assert NUMBER.sub("#", again) == NUMBER.sub("#", kept), name
    for one, other in zip(NUMBER.finditer(again), NUMBER.finditer(kept), strict=True):
        if one[0] == other[0]:  # as in an id, of which a part can look like a number
            continue
        a, b = float(one[0]), float(other[0])
        last = 1.01 * 10.0 ** -len(other[1]) if other[1] else 0.0  # counts are the same
        assert abs(a - b) <= 1e-5 * abs(b) + last, f"{name}: {one[0]}, not {other[0]}"


def test_other_numbers_are_seen() -> None:
    assert_same("a 0.12346 b 1e-9", "a 0.12345 b 1e-9", "")
    for again in ("a 0.12348 b 1e-9", "a 0.12345 c 1e-9", "a -0.12345 b 1e-9", "a 1 b 1e-9"):
        with pytest.raises(AssertionError):
            assert_same(again, "a 0.12345 b 1e-9", "")


@pytest.mark.parametrize("study", KEPT, ids=lambda path: str(path.relative_to(RESULTS)))
def test_tables_and_figures_are_made_again(study: Path, without_torch: dict[str, str], tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    words = f"kept_run.remake(Path({str(study.parent)!r}), {study.name!r}, Path({str(again)!r}))"
    code = f"from pathlib import Path; import kept_run; {words}"
    subprocess.run([sys.executable, "-c", code], env=without_torch, check=True, cwd=tmp_path)
    for part in ("tables", "figures"):
        names = sorted(file.name for file in (study / part).iterdir())
        assert names
        assert sorted(file.name for file in (again / part).iterdir()) == names
        for name in names:
            assert_same((again / part / name).read_text(), (study / part / name).read_text(), name)


@pytest.mark.parametrize("table", CLAIMS, ids=lambda path: path.parent.name)
def test_claims_are_decided_again(table: Path, without_torch: dict[str, str], tmp_path: Path) -> None:
    command = ROOT / "benchmarks" / f"real_{table.parent.name}_claims.py"
    subprocess.run([sys.executable, str(command), "--out", str(tmp_path)], env=without_torch, check=True)
    assert_same((tmp_path / "claims.csv").read_text(), table.read_text(), str(table))
    page = (ROOT / "docs" / "results.md").read_text()
    for cells in list(csv.reader(table.open()))[1:]:
        assert f"| {' | '.join(cells)} |" in page, cells


def test_score_rows_are_small() -> None:
    assert sum(file.stat().st_size for file in RESULTS.rglob("scores/**/*") if file.is_file()) <= MOST


def texts_of_others() -> set[str]:
    """Wordings that the studies score, and the rows that they train on and score first."""
    data = SHARED / "data"
    wordings = [row["template"] for name in ("promptsource", "flan") for row in read_rows(data / f"{name}.parquet")]
    rows = [row["text"] for name in ("sst2_sentences", "edos") for row in read_rows(data / f"{name}.parquet")]
    taught = [row[key] for row in read_rows(data / "alpaca_data.parquet") for key in ("instruction", "output")]
    asked = [row["question"] for row in read_rows(data / "piqa.parquet")]
    return {text.strip() for some in (wordings, rows, taught, asked) for text in some[:3000] if len(text) > 40}


def read_rows(file: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = pq.read_table(file).to_pylist()
    return rows


def test_no_text_of_others_is_kept() -> None:
    if not SHARED.is_dir():
        pytest.skip("needs ../shared, whose texts are looked for")
    said = []
    for folder in {study.parent for study in KEPT}:
        for file in folder.rglob("*"):
            if file.suffix == ".parquet":
                table = pq.read_table(file)
                columns = [
                    table[name]
                    for name, kind in zip(table.column_names, table.schema.types, strict=True)
                    if pa.types.is_string(kind)
                ]
                said += [value for column in columns for value in column.unique().to_pylist() if value]
            elif file.is_file():
                said.append(file.read_text())
    everything = "\n".join(said)
    assert not [text for text in texts_of_others() if text in everything]
