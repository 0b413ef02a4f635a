"""PAFT on a real chat model: the first of the three studies of docs/results.md.

    python benchmarks/real_paft.py [--data sst2|edos] [--parts N] [--pilot]

The study of benchmarks/results/paft/ in parts: base model, one prompt and PAFT with one seed, timed; these two arms
with five seeds; three searches on the training pool, and all arms with three seeds. Each part is a complete run, and
what docs/results.md needs of it is kept in benchmarks/results/paft/ before the next begins. Run again, it goes on from
what is kept there; ``--parts`` ends it after so many parts. About three hours for each data set on two cores. Needs
shared/ beside the checkout. ``--pilot`` trains one prompt and PAFT with two other seeds, from which ``steadytune plan
--from`` tells how many are needed, and keeps nothing.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from kept_run import keep, restored, trials_of
from real_model import OUT, make_model, post_wordings, review_wordings, write_test_pool
from study_command import ROOT, steadytune

RESULTS = ROOT / "benchmarks" / "results" / "paft"
POSTS = ROOT / "sweeps" / "studies" / "prompts"
METHODS = ("top-accuracy", "batprompt", "zopo")
BUDGET = 2000  # scorings of a search
PRIMARY = ("user", "paft")
ALL = (*PRIMARY, "top_accuracy", "batprompt", "zopo", "k1", "n8", "n40")
DATA = ("sst2", "edos")


@dataclass(frozen=True)
class Part:
    """A run of some arms with the first seeds, kept as the study ``name``."""

    name: str
    arms: tuple[str, ...]
    seeds: int

    @property
    def axes(self) -> list[str]:
        return [f"axes.arm=[{','.join(self.arms)}]", f"axes.seed={list(range(self.seeds))}".replace(" ", "")]

    @property
    def trials(self) -> int:
        return len(self.arms) * self.seeds


PARTS = (
    Part("cost", ("base", *PRIMARY), 1),
    *(Part("primary", PRIMARY, seeds) for seeds in (2, 3, 4, 5)),
    *(Part("arms", ALL, seeds) for seeds in (1, 2, 3)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA, help="only this data set")
    parser.add_argument("--parts", type=int, default=len(PARTS) * len(DATA), help="end after so many parts")
    parser.add_argument("--pilot", action="store_true", help="two other seeds, to plan with")
    args = parser.parse_args()
    make_model()
    left = args.parts
    for data in [args.data] if args.data else DATA:
        others = review_wordings() if data == "sst2" else post_wordings()
        write_test_pool(OUT / "paft" / f"{data}_test.yaml", own_pools(data)["test"], others)
        study = str(RESULTS / f"{data}.yaml")
        if args.pilot:
            steadytune("run", study, "axes.seed=[100,101]", "--out", str(OUT / "paft" / f"{data}-pilot"))
            continue
        for part in PARTS:
            if left and trials_of(RESULTS / data, part.name) < part.trials:
                run_part(data, study, part)
                left -= 1


def own_pools(data: str) -> dict[str, Path]:
    """The pools of our own wordings."""
    if data == "sst2":
        return {name: RESULTS / "pools" / f"sst2_{name}.yaml" for name in ("train", "dev", "test")}
    return {
        "train": RESULTS / "pools" / "edos_train.yaml",
        **{name: POSTS / f"tweets_{name}.yaml" for name in ("dev", "test")},
    }


def search(data: str, study: str) -> None:
    """Write the prompt that each search finds; those that are there stay."""
    to = RESULTS / "search" / data
    for method in METHODS:
        if not (to / method / "prompt.yaml").exists():
            found = OUT / "paft" / f"{data}-search"
            words = ["--method", method, "--pool", "all", "--budget", str(BUDGET), "--out", str(found)]
            steadytune("prompts", "search", study, "axes.arm=paft", *words)
            (to / method).mkdir(parents=True, exist_ok=True)
            (to / method / "prompt.yaml").write_bytes((found / method / "prompt.yaml").read_bytes())


def run_part(data: str, study: str, part: Part) -> None:
    run = OUT / "paft" / data
    results = RESULTS / data
    if part.name == "arms":
        search(data, study)
    restored(results, part.name, run)
    steadytune("run", study, *part.axes, "--out", str(run))
    if part.name == "cost":
        steadytune("time", str(run), "--answers", "96", "--batch", "8", "--new-tokens", "32")
    found = (RESULTS / "search" / data).glob("*/prompt.yaml")
    keep(run, results, part.name, [*own_pools(data).values(), *found])


if __name__ == "__main__":
    main()
