"""LoRA first or prompt first, on a real chat model: the second study of docs/results.md.

    python benchmarks/real_staged.py [--parts N]

Four parts: the five stages of benchmarks/results/staged/edos.yaml; the same axes as one joint search under ASHA, with
as many trials as cost the same training; and the two winners, each with three fresh seeds, on all 4,000 test posts
under two wordings. What a part gives is kept in benchmarks/results/staged/ before the next begins; run again, it goes
on from there. Three and a half hours on two cores. Needs shared/ beside the checkout.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kept_run import keep, restored, trials_of
from pyarrow import csv as pacsv
from real_model import OUT, make_model
from real_paft import own_pools
from study_command import ROOT, steadytune

from sweeps.run_folder import stages
from sweeps.run_folder.reading import RunFolder
from trainer.store import Store

RESULTS = ROOT / "benchmarks" / "results" / "staged"
STUDY = RESULTS / "edos.yaml"
SEEDS = "axes.seed=[100,101,102]"  # of the last part: no search has seen them
HEADS = {"labels": [], "classifier": ["model.head=classifier"], "generate": ["scoring.scorer=generate"]}
LAST = ("task.rows.test.limit=4000", "pools.test.limit=2", "scheduler.name=none", "tables.precision=whole")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=4, help="end after so many parts")
    left = parser.parse_args().parts
    make_model()
    for name in ("staged", "joint", "final-staged", "final-joint"):
        if left and not trials_of(RESULTS, name):
            run_part(name, words(name))
            left -= 1


def words(name: str) -> list[str]:
    """What the study of this part has instead of what stands in its file."""
    if name == "staged":
        return []
    if name == "joint":
        return ["stages=null", "axes.seed=0", "search.method=random", f"search.trials={trials_for(trained_steps())}"]
    return ["stages=null", *settings_of(winner(RESULTS, name.removeprefix("final-"))), SEEDS, *LAST]


def run_part(name: str, changes: list[str]) -> None:
    run = OUT / "staged" / name
    restored(RESULTS, name, run)
    steadytune("run", str(STUDY), *changes, "--out", str(run))
    keep(run, RESULTS, name, own_pools("edos").values())


def trained_steps() -> int:
    """Optimizer steps of all trials of the stages."""
    return sum(int(row["rung"] or 0) for row in kept(RESULTS, "staged").trials)


def trials_for(steps: int) -> int:
    """How many trials of the study's length ASHA trains with so many steps: of three, two end halfway."""
    length = max(int(row["steps"]) for row in kept(RESULTS, "staged").trials)
    return round(steps / (length * (2 * 0.5 + 1.0) / 3))


def winner(results: Path, name: str) -> dict[str, Any]:
    """The row of trials.parquet whose settings won, and its head: what the stages chose in the end, or the best of the
    joint search."""
    run = kept(results, name)
    record = stages.read(run.store)
    if record is None:
        best = pacsv.read_csv(results / name / "tables" / "robustness.csv").to_pylist()
        won = next(row["trial_id"] for row in best if row["winner"])
        return {**run.trials_by_id[won], "head": "labels"}
    choice = record["answer"]["choice"]
    crossed = next(stage for stage in record["stages"] if stage["name"] == "interaction")
    chosen = [
        run.trials_by_id[row["trial"]]
        for row in crossed["rows"]
        if row["template"] == choice["template"] and crossed["settings"][row["lora"]] == choice["lora"]
    ]
    return {**min(chosen, key=lambda row: row["seed"]), "head": choice["head"]}


def kept(results: Path, name: str) -> RunFolder:
    return RunFolder(Store.open(str(results / name)))


def settings_of(row: dict[str, Any]) -> list[str]:
    """The axes of a configuration, as the command line takes them."""
    lora = {name: row[name] for name in ("r", "alpha", "dropout")}
    return [
        *HEADS[row["head"]],
        f"axes.template={row['template']}",
        *(f"axes.lora.{name}={value}" for name, value in lora.items()),
        f"axes.lora.target_modules=[[{row['target_modules']}]]",
        f"axes.lr={row['lr']}",
        f"axes.steps={row['steps']}",
    ]


if __name__ == "__main__":
    main()
