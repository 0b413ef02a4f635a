"""One sweep of 16 trials from start to table, against the plain stack: the same rows, prompts and trials.

    python benchmarks/sweep_makespan.py [--size large|small|quick] [--std-weight 0|1] [--draws N] [--json FILE]
    python benchmarks/sweep_makespan.py --model smollm2 [--only sweeps|record] [--minutes M] [--json FILE]

With ``--model smollm2`` it is a sweep of a real chat model, which ``real_makespan.py`` describes. Otherwise:

Template x LoRA rank x PLW x pool under ASHA; 20 dev prompts at each rung, 50 test prompts for the trials that reach
the end. Ours is ``steadytune run`` on a study whose rungs before the last score a sample of the dev grid. The peer is
what its users write today (``plain_stack.py``). Both cut at the same steps, our defaults, and both are started as fresh
processes; what is timed is the whole of each.

Both look for the highest mean - std over the prompts, our default objective, or with ``--std-weight 0`` for the highest
mean.

Afterwards, untimed, every trial is trained to its end and scored on all wordings. A winner's regret is what it lacks
there to the best trial in what was sought, over the test prompts; the plain stack's winner is judged by our training of
the same configuration. With 20 dev prompts of 70 one regret is luck, so our sweep is run again with other wordings as
dev and test prompts (``draws``), and beside each stands the regret of ``exhaustive``, the trial that is best at its end
over the dev prompts and the first 500 dev rows (a sweep that cuts nothing; what it lacks is that dev prompts are others
than test prompts), and of ``blind``, one of the 16 taken without looking.

The model is the embedded one after a course in 40 wordings of the question (``instructed``): as it is it answers by
chance, afterwards it follows the question in most wordings that it has not seen. ``wordings.yaml`` holds the 40; pool
``many`` are all of them, ``one`` the first. Dev and test prompts are of the quickstart's 78 wordings. Rows are the
quickstart's; dev rows beyond its 300 come from the grammar that made these. ``large`` has a dev set of 5,000 rows (PIQA
has 1,838, HellaSwag 10,042), ``small`` one of 300 and is a sweep of a minute, much of which is the start of processes.
``--json`` keeps what it finds there of other sizes and the other objective.
"""

from __future__ import annotations

import argparse
import compileall
import dataclasses
import itertools
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml

from sweeps.embedded.make_data import distinct, jsonl

ROOT = Path(__file__).resolve().parents[1]
EMBEDDED = ROOT / "sweeps" / "embedded"
Point = tuple[Any, ...]  # a value of each axis


@dataclass(frozen=True)
class Size:
    dev: int  # rows
    test: int
    steps: int  # of 8 examples
    sample: float  # of the dev grid's cells at rungs before the last; the plain stack scores them all
    draws: int  # of dev and test prompts; the first is timed
    prompts: tuple[int, int] = (20, 50)


SIZES = {
    "large": Size(5000, 500, 180, 0.01, draws=20),
    "small": Size(300, 200, 180, 0.1, draws=20),
    "quick": Size(20, 20, 20, 0.1, draws=2, prompts=(4, 5)),  # does it run, not how fast
}
SPARE = 2  # of the 78 wordings: the other pool of the study in which all others are scored
KNOWN = 500  # dev rows there, at most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the claim here")
    parser.add_argument("--size", choices=SIZES, default="large")
    parser.add_argument("--std-weight", type=int, choices=(0, 1), default=1, help="of the objective (default 1)")
    parser.add_argument("--draws", type=int, help="how many of dev and test prompts (default 20; quick: 2)")
    parser.add_argument("--keep", type=Path, help="work in this folder and leave it; what it holds is not made again")
    parser.add_argument("--model", help="smollm2, or a chat model's folder")
    parser.add_argument(
        "--only", choices=("sweeps", "record"), help="of --model: the timed sweeps, or what is simulated"
    )
    parser.add_argument("--minutes", type=float, default=1e6, help="of --model: after which no scoring is begun")
    args = parser.parse_args()
    if args.model:
        real(args.keep or ROOT / "runs" / "makespan", args.model, args.only, args.minutes, args.json)
        return
    folder = args.keep or Path(tempfile.mkdtemp(prefix="makespan-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        size = SIZES[args.size]
        size = dataclasses.replace(size, draws=size.draws if args.draws is None else max(1, args.draws))
        compare(folder, args.size, size, args.std_weight, args.json)
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)


def compare(folder: Path, name: str, size: Size, std_weight: int, out: Path | None) -> None:
    # As installed packages are, the peer's among them: without this every process compiles ours anew where Python is
    # told to write no bytecode.
    for package in ("sweeps", "trainer", "cluster"):
        compileall.compile_dir(ROOT / package, quiet=2)
    if (folder / "seconds.json").exists():
        check_kept(folder, size, std_weight)
    else:
        write_study(folder, size, std_weight)
    ours, theirs = both_timed(folder)
    write_others(folder, size)
    if not (folder / "truth" / "report.html").exists():
        sweep(folder, "truth", "truth")
    scored = Scored(folder / "truth")
    regrets = regrets_of(folder, size, scored, std_weight)
    if out:
        names = ("torch", "transformers", "peft", "ray", "deepspeed")
        claim = {
            "claim": f"makespan of a 16-trial ASHA sweep, {name}, against Ray Tune and a process per trial",
            "sought": sought(std_weight),
            "size": dataclasses.asdict(size),
            "ours": round(ours, 1),
            "peer": round(theirs, 1),
            "ratio": round(theirs / ours, 2),
            "unit": "s",
            "regret_points": regrets,
            "same_winner": our_winner(folder / "ours") == peer_winner(folder),
            "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            "versions": {n: version(n) for n in names} | {"python": platform.python_version()},
        }
        others = json.loads(out.read_text()) if out.exists() else []
        key = itemgetter("claim", "sought")
        claims = [c for c in others if key(c) != key(claim)] + [claim]
        out.write_text(json.dumps(claims, indent=1) + "\n")


def both_timed(folder: Path) -> tuple[float, float]:
    """Seconds of our sweep and of the plain stack's, one after the other, as far as ``folder`` does not have them."""
    file = folder / "seconds.json"
    seconds = json.loads(file.read_text()) if file.exists() else {}
    if "ours" not in seconds:
        seconds["ours"] = sweep(folder, "study", "ours")
        file.write_text(json.dumps(seconds))
    if "peer" not in seconds:
        seconds["peer"] = timed([sys.executable, str(ROOT / "benchmarks" / "plain_stack.py")], folder)
        file.write_text(json.dumps(seconds))
    ours, theirs = seconds["ours"], seconds["peer"]
    print(f"ours {ours:.0f} s, plain stack {theirs:.0f} s: {theirs / ours:.1f}x (2 cores)", flush=True)
    return ours, theirs


def real(folder: Path, model: str, only: str | None, minutes: float, out: Path | None) -> None:
    """The sweep of a real chat model: see ``real_makespan.py``."""
    import real_makespan as made
    from smollm2 import smollm2

    folder = folder.resolve()
    if not (folder / "study.yaml").exists():
        folder.mkdir(parents=True, exist_ok=True)
        made.write_files(folder, smollm2() if model == "smollm2" else Path(model))
    claim = made.about()
    if only != "record":
        claim |= {"makespan": made.makespan_of(folder, *both_timed(folder))}
        print(json.dumps(claim, indent=1))
    if only != "sweeps":
        if not made.record(folder, minutes):
            print("time is over; start again to go on")
            return
        claim["regret_points"] = made.regrets(made.read_recorded(folder))
        print(json.dumps(claim["regret_points"], indent=1))
    if out:
        kept = json.loads(out.read_text())[0] if out.exists() else {}
        out.write_text(json.dumps([kept | claim], indent=1) + "\n")


def check_kept(folder: Path, size: Size, std_weight: int) -> None:
    """Ends where the kept sweeps are others than those asked for: their figures would go under a wrong name."""
    study = yaml.safe_load((folder / "study.yaml").read_text())
    kept = (study["task"]["rows"]["dev"]["limit"], study["objective"]["std_weight"])
    if kept != (size.dev, std_weight):
        sys.exit(
            f"--keep {folder}: it holds sweeps of {kept[0]} dev rows that sought the {sought(kept[1])}; asked for are "
            f"{size.dev} and the {sought(std_weight)}. Give the --size and --std-weight of before, or another folder"
        )


def sought(std_weight: int) -> str:
    return "mean - std" if std_weight else "mean"


def regrets_of(folder: Path, size: Size, scored: Scored, std_weight: int) -> list[dict[str, float]]:
    """What each one's winner lacks, by draw: points of mean - ``std_weight`` std over the test prompts."""
    found: list[dict[str, float]] = []
    for draw in range(size.draws):
        run = folder / (f"ours-{draw}" if draw else "ours")
        write_pools(folder, size, draw)
        if not (run / "report.html").exists():  # written last
            sweep(folder, "study", run.name)
        dev, test = (list(yaml.safe_load((folder / f"{pool}.yaml").read_text())) for pool in ("dev", "test"))
        regret = scored.regrets(test, std_weight)
        winners = {"ours": our_winner(run), "exhaustive": scored.best(dev, std_weight)}
        if not draw:
            winners["peer"] = peer_winner(folder)
        blind = {"blind": round(statistics.mean(regret.values()), 2)}
        found.append({who: round(regret[winner], 2) for who, winner in winners.items()} | blind)
        print(f"  draw {draw}: regret in points of {sought(std_weight)} over the test prompts: {found[-1]}", flush=True)
    for who in ("ours", "exhaustive", "blind"):
        values = [r[who] for r in found]
        middle, mean, near = statistics.median(values), statistics.mean(values), sum(v <= 1 for v in values)
        print(
            f"  {who}: median {middle:.2f}, mean {mean:.2f}, worst {max(values):.2f}; {near} of {len(values)} within 1"
        )
    return found


def sweep(folder: Path, study: str, run: str) -> float:
    return timed([sys.executable, "-m", "sweeps", "run", f"{study}.yaml", "--out", run], folder)


def timed(command: list[str], folder: Path) -> float:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return time.perf_counter() - start


def write_study(folder: Path, size: Size, std_weight: int) -> None:
    """The study, with its model, prompts and dev rows beside it."""
    from instructed import instruct  # torch, which the peer's driver has no need of

    train = yaml.safe_load((ROOT / "benchmarks" / "wordings.yaml").read_text())
    (folder / "train.yaml").write_text(yaml.safe_dump(train, sort_keys=False))
    write_pools(folder, size, 0)
    known, texts = quickstart_rows()
    instruct(
        EMBEDDED / "model",
        folder / "model",
        list(train.values()),
        list(itertools.islice(distinct(random.Random(2), texts), 1500)),
    )
    more = itertools.islice(distinct(random.Random(1), texts), max(0, size.dev - known["dev"].count("\n")))
    (folder / "dev.jsonl").write_text(known["dev"] + jsonl("more", list(more)))
    study = {
        "model": {"path": str(folder.resolve() / "model")},
        "task": {
            "rows": {
                "train": str(EMBEDDED / "data" / "train.jsonl"),
                "dev": {"path": str(folder.resolve() / "dev.jsonl"), "limit": size.dev},
                "test": {"path": str(EMBEDDED / "data" / "test.jsonl"), "limit": size.test},
            },
            "fields": ["text"],
            "label": "label",
            "labels": {0: "no", 1: "yes"},
            "id": "id",
            "max_length": 160,
        },
        "templates": {"plain": {"marker": "\nAnswer:"}, "chat": {"chat": True}},
        "pools": {
            "train": {"many": "train.yaml", "one": {"file": "train.yaml", "only": [next(iter(train))]}},
            "dev": "dev.yaml",
            "test": "test.yaml",
        },
        "axes": {
            "template": ["plain", "chat"],
            "lora": {"r": [8, 16], "alpha": 16},
            "lr": 1.0e-3,
            "steps": size.steps,
            "plw": [0.0, 0.1],
            "pool": ["one", "many"],
        },
        "training": {"batch_size": 8, "template_tokens": "plw"},
        "scheduler": {"eta": 2, "rungs": [0.25, 0.5, 1.0]},  # the defaults, said for the peer
        "objective": {"std_weight": std_weight},
        "tables": {"test": "finalists", "precision": "whole"},  # the regret is that of whole grids
        "scoring": {"sample": size.sample},
        "resources": {"slots": 2, "cpus": 1},  # two hosts
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))


def quickstart_rows() -> tuple[dict[str, str], set[str]]:
    """The splits' files, and their texts in small letters."""
    known = {name: (EMBEDDED / "data" / f"{name}.jsonl").read_text() for name in ("train", "dev", "test")}
    return known, {json.loads(line)["text"].lower() for text in known.values() for line in text.splitlines()}


def wordings() -> list[tuple[str, str]]:
    pools = (yaml.safe_load((EMBEDDED / "data" / "pools" / f"{n}.yaml").read_text()) for n in ("train", "dev", "test"))
    return sorted(item for pool in pools for item in pool.items())


def write_pools(folder: Path, size: Size, draw: int) -> None:
    drawn = wordings()[SPARE:]
    random.Random(draw).shuffle(drawn)
    dev, test = drawn[: size.prompts[0]], drawn[size.prompts[0] : sum(size.prompts)]
    for name, prompts in (("dev", dev), ("test", test)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(dict(prompts), sort_keys=False))


def write_others(folder: Path, size: Size) -> None:
    """The study without cuts, whose dev grid is all wordings x dev and test rows."""
    study = yaml.safe_load((folder / "study.yaml").read_text())
    known, texts = quickstart_rows()
    dev = (folder / "dev.jsonl").read_text()
    both = dev.splitlines()[: min(size.dev, KNOWN)] + known["test"].splitlines()[: size.test]
    texts |= {json.loads(line)["text"].lower() for line in dev.splitlines()}
    (folder / "all.jsonl").write_text("\n".join(both) + "\n")
    (folder / "spare.jsonl").write_text(jsonl("spare", list(itertools.islice(distinct(random.Random(3), texts), 20))))
    for name, prompts in (("all", wordings()[SPARE:]), ("spare", wordings()[:SPARE])):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(dict(prompts), sort_keys=False))
    study["task"]["rows"] |= {"dev": str(folder.resolve() / "all.jsonl"), "test": str(folder.resolve() / "spare.jsonl")}
    study["pools"] |= {"dev": "all.yaml", "test": "spare.yaml"}
    study["scheduler"] = {"name": "none"}
    study["scoring"] = {"sample": 1.0}
    (folder / "truth.yaml").write_text(yaml.safe_dump(study, sort_keys=False))


class Scored:
    """Every trial at its end on every wording: accuracy on the dev rows and on the test rows."""

    def __init__(self, run: Path) -> None:
        import pyarrow.parquet as pq

        self._accuracy: dict[bool, dict[Point, dict[str, float]]] = {True: {}, False: {}}  # test rows?
        for trial in pq.read_table(run / "trials.parquet").to_pylist():
            (scores,) = (run / "scores" / trial["trial_id"]).glob("*-dev.parquet")
            right: dict[bool, dict[str, list[bool]]] = {True: {}, False: {}}
            table = pq.read_table(scores, columns=["prompt_id", "row_id", "correct"])
            for prompt, row, correct in zip(*(c.to_pylist() for c in table.columns), strict=True):
                right[row.startswith("test")].setdefault(prompt, []).append(correct)
            for test, prompts in right.items():
                self._accuracy[test][point(trial)] = {name: sum(found) / len(found) for name, found in prompts.items()}

    def best(self, dev: list[str], std_weight: int) -> Point:
        found = self._objectives(dev, std_weight, test=False)
        return max(found, key=found.__getitem__)

    def regrets(self, test: list[str], std_weight: int) -> dict[Point, float]:
        found = self._objectives(test, std_weight, test=True)
        return {point: 100 * (max(found.values()) - value) for point, value in found.items()}

    def _objectives(self, prompts: list[str], std_weight: int, test: bool) -> dict[Point, float]:
        each = {point: [of[name] for name in prompts] for point, of in self._accuracy[test].items()}
        return {point: statistics.mean(of) - std_weight * statistics.stdev(of) for point, of in each.items()}


def our_winner(run: Path) -> Point:
    import pyarrow.parquet as pq

    rows = pq.read_table(run / "tables" / "robustness.parquet").to_pylist()
    return point(next(r for r in rows if r["winner"]))


def peer_winner(folder: Path) -> Point:
    return tuple(json.loads((folder / "peer.json").read_text())["winner"])


def point(row: dict[str, Any]) -> Point:
    return (row["template"], row["r"], float(row["plw"]), row["pool"])


if __name__ == "__main__":
    main()
