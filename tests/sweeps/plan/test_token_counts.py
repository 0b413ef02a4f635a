"""What the plan counts against what a run records (CASES V17)."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from tiny_run import made

from sweeps.cli.exit_codes import main
from sweeps.plan.cost import HOST_BYTES, PROCESS_BYTES, plan
from sweeps.plan.page import render
from sweeps.plan.sizes import DataSizes, ModelSize
from sweeps.run_folder.reading import RunFolder
from trainer.store import Store
from trainer.trial import rung_steps

SIZES = DataSizes(
    train_rows=400, dev_rows=10, test_rows=20, dev_prompts=3, test_prompts=5,
    prompt_tokens=30.0, answer_tokens=2.0, answers=2.0, longest=40.0,
)  # fmt: skip
MODEL = ModelSize(1000, 800, 2, 8, 25, (("a.q_proj", 16), ("a.v_proj", 16)))


@pytest.mark.parametrize("name", ["labels", "options", "classifier"])
def test_the_plans_tokens_are_near_those_that_are_trained(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    """Under a chat wrapper, in plain text, and for a class that is read off the end of the prompt."""
    run, trials = made(name, tmp_path_factory)
    found = plan(RunFolder(Store.open(run)).study)
    rungs = [RunFolder(Store.open(run)).last_rung(t.id, "dev") for t in trials]
    trained = [rung.record["tokens"] for rung in rungs if rung is not None]
    assert found.sizes.source == "counted with the tokenizer on a sample"
    assert found.cost.tokens == pytest.approx(sum(trained), rel=0.05)


@pytest.mark.parametrize("overrides", [("scheduler.rungs=[0.34,1]", "axes.steps=24"), ("axes.steps=[10,24]",)])
def test_rungs_of_the_plan_are_those_of_the_run(study: Any, overrides: tuple[str, ...]) -> None:
    loaded = study(*overrides)
    found = plan(loaded, SIZES, MODEL)
    of_trials = [rung_steps(loaded.scheduler.shares, steps) for steps in loaded.axes.steps]
    assert [r.steps for r in found.rungs] == [sum(r) / len(r) for r in zip(*of_trials, strict=True)]


def test_the_third_of_24_steps_is_step_9(study: Any) -> None:
    found = plan(study("scheduler.rungs=[0.34,1]", "axes.steps=24"), SIZES, MODEL)
    assert [r.steps for r in found.rungs] == [9, 24]


def test_each_running_trial_is_a_process_in_main_memory(study: Any) -> None:
    one, eight = (plan(study(f"resources.slots={n}"), SIZES, MODEL).memory for n in (1, 8))
    assert (one.processes, eight.processes) == (HOST_BYTES + PROCESS_BYTES, HOST_BYTES + 8 * PROCESS_BYTES)
    assert eight.total == eight.base + eight.adapters + eight.activations + eight.processes
    single = study("axes={lora: {r: 4}, lr: 1e-3, steps: 8, template: plain, pool: one}")
    assert plan(single, SIZES, MODEL).memory.processes == one.processes, "one trial takes one of eight slots"
    on_gpu = plan(study("resources.gpus=1"), SIZES, MODEL)
    assert on_gpu.memory.total == on_gpu.memory.base + on_gpu.memory.adapters + on_gpu.memory.activations
    console = Console(file=io.StringIO(), width=300)
    console.print(render(on_gpu))
    assert "main memory: 1.48 GiB for the processes of host and trials" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("speed", ["nan", "inf"])
def test_a_speed_that_is_no_number_is_refused(speed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["plan", "quickstart", "--tflops", speed])
    assert left.value.code == 2
    assert "--tflops" in capsys.readouterr().err
