"""What a trial costs beside its training and scoring: 64 trials of one step each, on a host that is warm.

    python benchmarks/trial_overhead.py [--json FILE] [--quick]

Two figures, from the second wave of trials on (the first one starts the trial processes and loads the model): how long
it takes from the moment Tune starts a trial until its first training step is done and checkpointed, by the checkpoint's
own time, and the seconds per trial of the whole wave that were neither training nor scoring. The peer is Ray Tune with
the same number of trials, one process and core each, that load the same model with transformers and peft and take the
same step; its processes are reused where Ray allows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = str(ROOT)
EMBEDDED = ROOT / "sweeps" / "embedded"
SLOTS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the claims here")
    parser.add_argument("--quick", action="store_true", help="fewer trials: does it run, not how fast")
    args = parser.parse_args()
    n = 24 if args.quick else 64
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        starts, beside = ours(n, Path(folder))
        theirs = peer(n, Path(folder))
    start = statistics.median(starts)
    print(f"{n} trials of one step, {SLOTS} slots, from the second wave on")
    print(f"  from Tune's start of a trial to the checkpoint of its first step: {start:.3f} s (median),")
    print(f"  {max(starts):.3f} s (slowest)")
    print(f"  beside training and scoring: {beside:.3f} s per trial; Ray Tune and peft: {theirs:.3f} s")
    if args.json:
        machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
        versions = {name: version(name) for name in ("torch", "transformers", "peft", "ray")}
        claims = [
            {"claim": f"{name}, {n} trials of one step", "ours": mine, "peer": other, "ratio": ratio, "unit": "s"}
            | {"machine": machine, "versions": versions | {"python": platform.python_version()}}
            for name, mine, other, ratio in (
                ("start of a trial to the checkpoint of its first step, warm host", round(start, 3), None, None),
                ("per trial beside its step", round(beside, 3), round(theirs, 3), round(theirs / beside, 1)),
            )
        ]
        args.json.write_text(json.dumps(claims, indent=1) + "\n")


def ours(n: int, folder: Path) -> tuple[list[float], float]:
    """(each trial's seconds from start to its first step's checkpoint, seconds per trial beside training and
    scoring)."""
    from sweeps.live import table as live
    from sweeps.run import run
    from sweeps.study.load import load_study
    from trainer.measure.rung import RungReport
    from trainer.store import Store, checkpoint_name

    started: dict[str, float] = {}
    done: dict[str, float] = {}
    was_started, was_report = live.LiveTable.started, live.LiveTable.report

    def on_start(self: Any, trial_id: str, *args: Any) -> None:
        started.setdefault(trial_id, time.time())
        was_started(self, trial_id, *args)

    def on_report(self: Any, report: RungReport) -> None:
        done[report.trial_id] = time.time()
        was_report(self, report)

    live.LiveTable.started, live.LiveTable.report = on_start, on_report  # type: ignore[method-assign]
    data = EMBEDDED / "data"
    (folder / "study.yaml").write_text(
        json.dumps(
            {
                "model": {"path": str(EMBEDDED / "model")},
                "task": {
                    "rows": {k: {"path": str(data / f"{k}.jsonl"), "limit": 8} for k in ("train", "dev", "test")},
                    "fields": ["text"],
                    "label": "label",
                    "labels": {"0": "no", "1": "yes"},
                    "id": "id",
                    "max_length": 160,
                },
                "pools": {k: {"file": str(data / "pools" / f"{k}.yaml"), "limit": 2} for k in ("train", "dev", "test")},
                "axes": {"steps": 1, "lora": {"r": 4}, "seed": list(range(n))},
                "training": {"batch_size": 4},
                "scheduler": {"name": "none"},
                "tables": {"test": "finalists"},
                "resources": {"slots": SLOTS, "cpus": 2},
            }
        )
    )
    console, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115
    try:
        run(load_study(str(folder / "study.yaml")), str(folder / "run"))
    finally:
        sys.stdout = console
    later = sorted(started, key=lambda t: started[t])[SLOTS:]
    store = Store.open(str(folder / "run"))
    first = {t: Path(store.path(checkpoint_name(t, 1))).stat().st_mtime for t in later}
    spent = sum(store.read_scores(t, 1, pool)[1]["seconds"] for t in later for pool in ("dev", "test"))  # type: ignore[index]
    span = max(done.values()) - started[later[0]]
    return [first[t] - started[t] for t in later], (span - spent) / len(later)


def peer(n: int, folder: Path) -> float:
    """Seconds per trial of the plain stack beside the step itself, from the second wave on."""
    import ray
    from ray import tune

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(address="local", include_dashboard=False, num_cpus=2, log_to_driver=False)
    results = tune.Tuner(
        tune.with_resources(one_step, {"cpu": 1}),
        param_space={"seed": tune.grid_search(list(range(n)))},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(folder), name="peer", verbose=0),
    ).fit()
    ray.shutdown()
    last = [results[i].metrics or {} for i in range(len(results))]
    ends = sorted((m["ended"], m["seconds"]) for m in last)
    later = ends[2:]  # two at a time
    return float((later[-1][0] - ends[1][0]) / len(later) * 1.0 - statistics.mean(s for _, s in later) / 2)


def one_step(config: dict[str, Any]) -> None:
    import peft
    import torch
    from ray import tune
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(str(EMBEDDED / "model"))
    base = AutoModelForCausalLM.from_pretrained(str(EMBEDDED / "model"))
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    lines = (EMBEDDED / "data" / "train.jsonl").read_text().splitlines()[:4]
    batch = [tokenizer(json.loads(x)["text"])["input_ids"][:32] for x in lines]
    start = time.monotonic()
    for ids in batch:
        model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss.backward()
    optimizer.step()
    tune.report({"loss": 0.0, "seconds": time.monotonic() - start, "ended": time.time()})


if __name__ == "__main__":
    main()
