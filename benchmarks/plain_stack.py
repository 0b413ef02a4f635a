"""A sweep as its users write it today: Ray Tune with ASHAScheduler, one process and one core per trial, two at a time;
transformers, peft and torch in a training loop; evaluation prompt by prompt in batches, answers read from the logits of
the two label words. The peer of ``sweep_makespan.py``, whose study it reads in the current folder.

    python benchmarks/plain_stack.py

Where the study has ``confirm``, the best trials are trained again with fresh seeds, without cuts; half of the seeds
choose. Writes peer.json: the winner's template, rank, PLW and pool, how many trials came to their end, and the cells
and seconds of their test scores.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

AXES = ("template", "r", "plw", "pool")


def main() -> None:
    import ray
    from ray.tune.schedulers import ASHAScheduler

    folder = Path.cwd()
    study = yaml.safe_load((folder / "study.yaml").read_text())
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(address="local", include_dashboard=False, num_cpus=2, log_to_driver=False)
    axes, plan = study["axes"], study["scheduler"]
    values = {"template": axes["template"], "r": axes["lora"]["r"], "plw": axes["plw"], "pool": axes["pool"]}
    scheduler = ASHAScheduler(
        time_attr="step",
        max_t=axes["steps"],
        grace_period=max(1, round(plan["rungs"][0] * axes["steps"])),
        reduction_factor=plan["eta"],
    )
    ended = [r for r in tuned(study, folder, "peer", values, scheduler) if r.get("test_mean") is not None]
    best = sorted(ended, key=lambda r: -r["objective"])
    found = {"winner": point(best[0]), "ended": len(ended)}
    if confirm := study.get("confirm"):
        seeds = range(1, 1 + confirm["seeds"])
        again = [{**dict(zip(AXES, point(r), strict=True)), "seed": s} for r in best[: confirm["top"]] for s in seeds]
        fresh = tuned(study, folder, "confirm", {"config": again}, None)
        choose = {s for s in seeds if s <= confirm["seeds"] // 2}
        chosen = max(map(point, best[: confirm["top"]]), key=lambda p: mean(fresh, p, choose, "objective"))
        report = set(seeds) - choose
        found |= {"confirmed": chosen} | {n: mean(fresh, chosen, report, n) for n in ("test_mean", "test_std")}
        ended += fresh
    tests = {"tested": len(ended)} | {n: sum(r[n] for r in ended) for n in ("test_seconds", "test_cells")}
    (folder / "peer.json").write_text(json.dumps(found | tests))
    ray.shutdown()


def tuned(study: Any, folder: Path, name: str, values: dict[str, Any], scheduler: Any) -> list[dict[str, Any]]:
    """The last metrics of every trial of the grid of ``values``, with its config."""
    from ray import tune

    trainable = tune.with_resources(tune.with_parameters(train, study=study, folder=str(folder)), {"cpu": 1})
    tuner = tune.Tuner(
        trainable,
        param_space={axis: tune.grid_search(of) for axis, of in values.items()},
        tune_config=tune.TuneConfig(metric="objective", mode="max", scheduler=scheduler),
        run_config=tune.RunConfig(storage_path=str(folder / "ray_results"), name=name, verbose=0),
    )
    results = tuner.fit()
    if results.num_errors:
        sys.exit(str(results.errors[0]))
    return [dict(results[i].metrics or {}) for i in range(len(results))]


def point(metrics: dict[str, Any]) -> tuple[Any, ...]:
    config = metrics["config"].get("config", metrics["config"])
    return tuple(config[axis] for axis in AXES)


def mean(of: Sequence[dict[str, Any]], at: tuple[Any, ...], seeds: set[int], metric: str) -> float:
    return statistics.mean(r[metric] for r in of if point(r) == at and r["config"]["config"]["seed"] in seeds)


def train(config: dict[str, Any], study: dict[str, Any], folder: str) -> None:
    """One trial: load, train, evaluate on the dev prompts at each rung, on the test prompts at the end."""
    import peft
    import torch
    from ray import tune
    from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

    config = config.get("config", config)
    seed = config.get("seed", 0)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = AutoTokenizer.from_pretrained(study["model"]["path"])
    base = AutoModelForCausalLM.from_pretrained(study["model"]["path"])
    lora = peft.LoraConfig(r=config["r"], lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, lora)
    axes, task = study["axes"], study["task"]
    read = lambda name: yaml.safe_load((Path(folder) / f"{name}.yaml").read_text())  # noqa: E731
    pools = {name: read(name) for name in ("train", "dev", "test")}
    if config["pool"] == "one":
        only = study["pools"]["train"]["one"]["only"]
        pools["train"] = {name: pools["train"][name] for name in only}
    rows = {}
    for name in ("train", "dev", "test"):
        source = task["rows"][name]
        path, limit = (source, None) if isinstance(source, str) else (source["path"], source["limit"])
        rows[name] = [json.loads(line) for line in Path(path).read_text().splitlines()][:limit]
    words = [" no", " yes"] if config["template"] == "plain" else ["no", "yes"]

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def encoded(prompt: str, row: dict[str, Any]) -> list[int]:
        text = prompt.replace("{{ text }}", row["text"])
        if config["template"] == "plain":
            return list(tokenizer(text + "\nAnswer:")["input_ids"])
        user = [{"role": "user", "content": text}]
        return encode(str(tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True)))

    answers = [encode(w)[0] for w in words]

    def accuracy(prompt: str, examples: list[dict[str, Any]]) -> float:
        right = 0
        examples = sorted(examples, key=lambda r: len(r["text"]))  # little padding
        for i in range(0, len(examples), 32):
            batch = examples[i : i + 32]
            inputs = [encoded(prompt, r) for r in batch]
            longest = max(map(len, inputs))
            ids = torch.tensor([x + [0] * (longest - len(x)) for x in inputs])
            mask = torch.tensor([[1] * len(x) + [0] * (longest - len(x)) for x in inputs])
            with torch.no_grad():
                logits = model(input_ids=ids, attention_mask=mask).logits
            last = logits[torch.arange(len(batch)), mask.sum(1) - 1]
            predicted = last[:, answers].argmax(1).tolist()
            right += sum(p == r["label"] for p, r in zip(predicted, batch, strict=True))
        return right / len(examples)

    def evaluate(name: str) -> tuple[float, float]:
        model.eval()
        each = torch.tensor([accuracy(prompt, rows[name]) for prompt in pools[name].values()])
        model.train()
        return float(each.mean()), float(each.std())

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=axes["lr"], weight_decay=0)
    steps = axes["steps"]
    schedule = get_cosine_schedule_with_warmup(optimizer, round(0.1 * steps), steps)
    rungs = {round(share * steps) for share in study["scheduler"]["rungs"]}
    order: list[dict[str, Any]] = []
    prompts = list(pools["train"].values())
    model.train()
    for step in range(1, steps + 1):
        sequences, weights = [], []
        for _ in range(study["training"]["batch_size"]):
            if not order:
                order = rng.sample(rows["train"], len(rows["train"]))
            row = order.pop()
            prompt = encoded(rng.choice(prompts), row)
            answer = [*encode(words[row["label"]]), tokenizer.eos_token_id]
            sequences.append(prompt + answer)
            weights.append([config["plw"]] * len(prompt) + [1.0] * len(answer))
        longest = max(map(len, sequences))
        ids = torch.tensor([x + [0] * (longest - len(x)) for x in sequences])
        mask = torch.tensor([[1] * len(x) + [0] * (longest - len(x)) for x in sequences])
        w = torch.tensor([x + [0.0] * (longest - len(x)) for x in weights])[:, 1:]
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        loss = (losses * w).sum() / w.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step in rungs:
            mean, std = evaluate("dev")
            objective = mean - study["objective"]["std_weight"] * std
            told = {"step": step, "objective": objective, "mean": mean, "std": std, "loss": loss.item()}
            if step == steps:
                start = time.perf_counter()
                told["test_mean"], told["test_std"] = evaluate("test")
                told["test_seconds"] = time.perf_counter() - start
                told["test_cells"] = len(pools["test"]) * len(rows["test"])
            tune.report(told)


if __name__ == "__main__":
    main()
