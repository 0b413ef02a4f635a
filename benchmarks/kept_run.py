"""What of a run is committed: enough to make its tables and figures again without the model, the rows or training.

A folder of results holds ``scores/`` and ``prompts/`` of all trials, once, and for each study of them a folder with
``study.yaml``, ``trials.parquet`` and what else the run says of itself, beside the tables and figures that were made
from it. Texts of other people are not in it: rows are named by ids, and pools with wordings of others are left out.
Paths of the machine are replaced by paths from the checkout.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

import pyarrow.parquet as pq
from study_command import ROOT

from sweeps.run_folder.reading import RunFolder
from sweeps.run_folder.trials_file import TRIALS_FILE, driver_state, study_checksum, trial_rows, write_trials
from trainer.data.pools import load_pool
from trainer.store import Store

OF_A_RUN = ("timing.json", "stages.json")  # beside study and trials, where a run has them
FORMS = (".md", ".csv")  # of a table; parquet and LaTeX say the same
FIGURES = ("arm-", "stage", "plw-", "wordings")  # what the names begin with of those that docs/results.md speaks of


def keep(run: Path, results: Path, name: str, ours: Collection[Path]) -> None:
    """Copy the finished ``run`` into ``results`` as the study ``name``, and make its tables and figures. ``ours``: pool
    files whose wordings may be published; a pool with any other is left out."""
    to = results / name
    to.mkdir(parents=True, exist_ok=True)
    source, target = Store.open(str(run)), Store.open(str(results))
    study = _from_checkout(source.read("study.yaml").decode()).encode()
    (to / "study.yaml").write_bytes(study)
    table, _ = source.read_table(TRIALS_FILE)
    state = {"study": study_checksum(study), "began": driver_state(table).began, "written": driver_state(table).written}
    rows = trial_rows(table)
    write_trials(Store.open(str(to)), rows, state)
    for file in OF_A_RUN:
        if source.exists(file):
            (to / file).write_text(_from_checkout(source.read(file).decode()))
    reader = RunFolder(source)
    for trial in [row["trial_id"] for row in rows]:
        for pool in reader.pools(trial):
            for rung in source.rungs(trial, pool):
                found = source.load_scores(trial, rung, pool)
                if found is not None and target.load_scores(trial, rung, pool) is None:
                    record = json.loads(_from_checkout(json.dumps(found[1])))
                    target.write_scores(trial, rung, pool, found[0], record)
    published = {prompt.text for file in ours for prompt in load_pool(str(file))}
    for pool in source.names("prompts"):
        if pool.endswith(".json") and {p["text"] for p in json.loads(source.read(f"prompts/{pool}"))} <= published:
            target.write(f"prompts/{pool}", source.read(f"prompts/{pool}"))
    remake(results, name, to)


def remake(results: Path, name: str, to: Path) -> None:
    """Make the tables and figures of the study ``name`` from what ``results`` holds, into ``to``/tables and
    ``to``/figures. Needs no torch."""
    with tempfile.TemporaryDirectory(prefix="kept-") as folder:
        run = restored(results, name, Path(folder, "run"))
        figures = Path(folder, "figures")
        words = ["report", str(run), "--figures", str(figures)]
        subprocess.run([sys.executable, "-m", "sweeps", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        made = {
            "tables": [file for file in (run / "tables").iterdir() if file.suffix in FORMS],
            "figures": [file for file in figures.glob("*.svg") if file.name.startswith(FIGURES)],
        }
        for part, files in made.items():
            shutil.rmtree(to / part, ignore_errors=True)
            (to / part).mkdir(parents=True)
            for file in files:
                shutil.copy(file, to / part / file.name)


def restored(results: Path, name: str, run: Path) -> Path:
    """The run folder of the study ``name`` as ``results`` holds it: ``run``, which ``steadytune`` reads and goes on
    from. What is there stays."""
    for part in ("scores", "prompts"):
        if (results / part).is_dir():
            shutil.copytree(results / part, run / part, dirs_exist_ok=True)
    for file in ("study.yaml", TRIALS_FILE, *OF_A_RUN):
        if (results / name / file).exists() and not (run / file).exists():
            shutil.copy(results / name / file, run / file)
    return run


def trials_of(results: Path, name: str) -> int:
    """How many trials of the study ``name`` are kept."""
    file = results / name / TRIALS_FILE
    return pq.read_metadata(file).num_rows if file.exists() else 0


def _from_checkout(text: str) -> str:
    """``text`` with paths of this machine as paths from the checkout."""
    return text.replace(f"{ROOT}/", "").replace(f"{ROOT.parent}/", "../")
