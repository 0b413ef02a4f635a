"""``steadytune time``: what each trial's answers and training steps cost by itself, into ``timing.json`` of the run.

Answers are timed by ``trainer.stopwatch``, in label scoring and in generation. Steps are those of a trial that has the
accelerator for itself: short trials are trained in a folder that is removed. A short trial is timed as a whole, so that
rendering and searches for the worst wordings count as often as in a long one.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.ray_private import cpu_count
from sweeps.run_folder.columns import SEARCH
from sweeps.run_folder.reading import RunFolder
from sweeps.run_folder.timing import TIMING_FILE
from sweeps.trials.load_content import Content, content_of
from trainer.errors import UserError
from trainer.store import Store
from trainer.trial import Trial

WARM = 2  # steps of each trial that are not timed, before all others


@dataclass(frozen=True)
class TimingSettings:
    answers: int = 96  # of each trial
    batch: int = 8  # requests that are answered together
    max_new_tokens: int | None = None  # None: the study's
    steps: int = 10  # of training, at least


def time_trials(run_uri: str, settings: TimingSettings, say: Callable[[str], None]) -> Iterator[str]:
    """Time every finished trial of the run, and write what was found; yields a line for each trial. Raises UserError
    where none is finished, or the study's rows, prompts or model are not at hand."""
    run = RunFolder(Store.open(run_uri))
    trials = _finished(run)
    if not trials:
        raise UserError(f"{run_uri}: no trial is finished, so there is nothing to time. {run.how_to_continue}")
    content = content_of(run.study, say)
    new_tokens = settings.max_new_tokens or run.study.scoring.max_new_tokens
    found: dict[str, dict[str, Any]] = {}
    for group in _groups(trials):
        say(f"timing the answers of {len(group)} trials")
        found |= _answers(run.store, group, content, settings, new_tokens)
    for group in _groups([t for t in trials if t.optimization.steps]):
        say(f"timing the training of {len(group)} trials")
        for trial_id, ms in _train_ms(group, content, settings.steps).items():
            found[trial_id]["train_ms_per_step"] = ms
    about = {
        "format": 1,
        "batch": settings.batch,
        "answers": settings.answers,
        "max_new_tokens": new_tokens,
        **_machine(),
    }
    run.store.write(TIMING_FILE, (json.dumps({**about, "trials": found}, indent=1) + "\n").encode())
    yield from (_line(trial, found[trial.id]) for trial in trials)


def _finished(run: RunFolder) -> list[Trial]:
    """The finished trials of the search, as their last rung recorded them."""
    found = []
    for row in run.trials:
        last = run.last_rung(row["trial_id"], "dev")
        if row["status"] == "finished" and (row.get("role") or SEARCH) == SEARCH and last is not None:
            found.append(Trial.from_json(last.record["trial"]))
    return found


def _groups(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Trials that fit into one slot of one model."""
    groups: dict[tuple[Any, ...], list[Trial]] = {}
    for t in trials:
        groups.setdefault((t.model, t.lora.r, t.lora.target_modules, len(t.task.labels)), []).append(t)
    return list(groups.values())


def _answers(
    store: Store, trials: Sequence[Trial], content: Content, settings: TimingSettings, new_tokens: int
) -> dict[str, dict[str, Any]]:
    from safetensors.torch import load

    from trainer.stopwatch import Stopwatch

    tensors = {}
    for trial in trials:
        file = f"adapters/{trial.id}/adapter_model.safetensors"
        if trial.optimization.steps and not store.exists(file):
            raise UserError(f"{store.uri}: trial {trial.id} has no adapter. Run the study again")
        tensors[trial.id] = load(store.read(file)) if store.exists(file) else None
    watch = Stopwatch(trials, tensors, settings.batch, new_tokens)
    times = watch.run(content.assets.pools["test"], content.assets.rows["test"], settings.answers)
    return {
        i: {
            "label_ms": t.label_ms,
            "generate_ms": t.generate_ms,
            "new_tokens": t.new_tokens / t.generated if t.generated else None,
            "unread": t.unread / t.generated if t.generated else None,
        }
        for i, t in times.items()
    }


def _train_ms(trials: Sequence[Trial], content: Content, steps: int) -> dict[str, float]:
    """Milliseconds of one optimizer step of each trial alone. The trials take turns in rounds, as in
    ``trainer.stopwatch``; the round before warms up."""
    from trainer.runner import Runner
    from trainer.setup import Setup
    from trainer.stopwatch import ROUNDS
    from trainer.work import TrainOnly

    first = trials[0]
    n_labels = len(first.task.labels) if first.model.head == "classifier" else 0
    setup = Setup(1, first.lora.r, first.lora.target_modules, n_labels)
    seconds = dict.fromkeys((t.id for t in trials), 0.0)
    made = dict.fromkeys(seconds, 0)
    with tempfile.TemporaryDirectory(prefix="steadytune-time-") as folder:
        runner = Runner(first.model, setup, content.assets, Store.open(folder))
        try:
            for number in range(-1, ROUNDS):
                for trial in trials:
                    n = WARM if number < 0 else _steps_of_round(trial, -(-steps // ROUNDS))
                    # with a seed for each round, none goes on from a checkpoint of another
                    seed = trial.seed * (ROUNDS + 1) + number + 1
                    short = replace(trial, seed=seed, optimization=replace(trial.optimization, steps=n))
                    record = runner.submit(TrainOnly(short, n, "dev")).result()
                    assert record is not None  # the folder is new, so nothing is scored there
                    if number >= 0:
                        seconds[trial.id] += float(record["train_seconds"])
                        made[trial.id] += n
        finally:
            runner.close()
    return {i: 1000.0 * seconds[i] / made[i] for i in seconds}


def _steps_of_round(trial: Trial, least: int) -> int:
    """At least so many steps, where the trial has them; whole stretches between its arm's searches, which take much
    longer than a step."""
    if trial.arm.choice == "adversarial":
        least = trial.arm.search_every * -(-least // trial.arm.search_every)
    return min(least, trial.optimization.steps)


def _machine() -> dict[str, Any]:
    import torch

    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
    return {"device": device, "threads": torch.get_num_threads(), "cores": cpu_count(), "torch": torch.__version__}


def _line(trial: Trial, found: dict[str, Any]) -> str:
    name = f"{trial.id}, arm {trial.arm.name}" if trial.arm.name else trial.id
    parts = [f"{found['label_ms']:.1f} ms an answer by label scoring"]
    if found["generate_ms"] is not None:
        parts.append(f"{found['generate_ms']:.1f} ms in generation ({found['new_tokens']:.1f} new tokens)")
    if found.get("train_ms_per_step") is not None:
        parts.append(f"{found['train_ms_per_step']:.0f} ms a training step")
    return f"{name}: {', '.join(parts)}"
