"""The plan: its counts are those of the run, its sizes those of the model that peft would make."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from study_text import BASE

from sweeps.display.text import amount, duration, size
from sweeps.plan.cost import plan
from sweeps.plan.page import render
from sweeps.plan.sizes import DataSizes, ModelSize, data_sizes, model_size
from sweeps.study.load import load_study
from sweeps.study.overlay import StudyError

SIZES = DataSizes(
    train_rows=400, dev_rows=10, test_rows=20, dev_prompts=3, test_prompts=5,
    prompt_tokens=30.0, answer_tokens=2.0, answers=2.0, longest=40.0,
)  # fmt: skip
MODEL = ModelSize(1000, 800, 2, 8, 25, (("a.q_proj", 16), ("a.v_proj", 16), ("a.up_proj", 24)))


def test_trials_halve_at_each_rung_and_only_survivors_are_trained_on(study) -> None:  # type: ignore[no-untyped-def]
    made = plan(study(), SIZES, MODEL)
    assert [(r.steps, r.trials, r.passes) for r in made.rungs] == [(50, 16, 480), (100, 8, 240), (200, 4, 120)]
    per_step = 8 * 32
    assert [r.tokens for r in made.rungs] == [16 * 50 * per_step, 8 * 50 * per_step, 4 * 100 * per_step]
    assert made.cost.tokens == 1600 * per_step
    assert made.full.tokens == 16 * 200 * per_step
    assert (made.cost.dev_passes, made.cost.test_passes, made.cost.passes) == (840, 1600, 2440)
    assert (made.full.dev_passes, made.full.test_passes) == (480, 1600)
    assert made.cost.operations < made.full.operations


def test_sampled_rungs_score_less_and_the_plan_says_what_they_save(study) -> None:  # type: ignore[no-untyped-def]
    sizes = dataclasses.replace(SIZES, dev_prompts=50, dev_rows=200)
    whole, made = plan(study(), sizes, MODEL), plan(study("scoring.sample=0.1"), sizes, MODEL)
    assert [(r.trials, r.cells, r.passes) for r in made.rungs] == [
        (16, 1000, 16000),
        (8, 1000, 8000),
        (4, 10000, 40000),
    ]
    assert made.unsampled == whole.cost.dev_passes == 280_000
    assert made.cost.operations < whole.cost.operations
    console = Console(file=io.StringIO(), width=200)
    console.print(render(made))
    said = "1,000 of 10,000 cells of the dev grid at rungs before the last: 216,000 of 280,000 passes"
    assert said in console.file.getvalue()  # type: ignore[attr-defined]
    console.print(render(whole))
    assert console.file.getvalue().count("cells of the dev grid") == 1  # type: ignore[attr-defined]


def test_a_sample_below_its_floor_is_noted(study) -> None:  # type: ignore[no-untyped-def]
    made = plan(study("scoring.sample=0.1"), SIZES, MODEL)
    assert [r.cells for r in made.rungs] == [12, 12, 30]
    assert any("scoring.sample = 0.1 is raised to 12 cells: at least 4 a prompt" in note for note in made.notes)


def test_finalists_alone_are_tested_when_asked(study) -> None:  # type: ignore[no-untyped-def]
    assert plan(study("tables.test=finalists"), SIZES, MODEL).cost.test_passes == 4 * 100


def test_fresh_seeds_are_a_row_of_the_plan_and_belong_to_its_totals(study) -> None:  # type: ignore[no-untyped-def]
    plain, made = plan(study(), SIZES, MODEL), plan(study("confirm={top: 2, seeds: 4}"), SIZES, MODEL)
    per_trial = 200 * 8 * 32
    assert made.confirming is not None
    assert (made.confirming.trials, made.confirming.tokens, made.confirming.passes) == (8, 8 * per_trial, 8 * 30)
    assert made.cost.tokens == plain.cost.tokens + 8 * per_trial
    assert made.full.tokens == plain.full.tokens + 8 * per_trial
    rows = {line.split()[1]: line.split() for line in shown(made).splitlines() if "confirm" in line or " all " in line}
    assert rows["confirm"][3:9:2] == ["200", "8", amount(8 * per_trial).split()[0]]
    assert rows["all"][2:5] == ["│", "│", "24"]
    assert (plain.full_trials, made.full_trials) == (16, 24)


def test_without_a_scheduler_nothing_is_saved(study) -> None:  # type: ignore[no-untyped-def]
    made = plan(study("scheduler.name=none"), SIZES, MODEL)
    assert [(r.share, r.trials) for r in made.rungs] == [(1.0, 16)]
    assert made.cost == made.full


def test_epochs_and_drawn_trials_are_counted(study) -> None:  # type: ignore[no-untyped-def]
    made = plan(study("axes.epochs=2", "search={method: tpe, trials: 7}", "axes.lr={uniform: [0.1, 1]}"), SIZES, MODEL)
    assert made.trials == 7
    assert [r.trials for r in made.rungs] == [7, 3, 1]
    assert made.rungs[-1].steps == 2 * 400 / 8


def test_operations_are_two_a_parameter_forward_and_twice_that_in_training(study) -> None:  # type: ignore[no-untyped-def]
    made = plan(study("scheduler.name=none", "axes.plw=0"), SIZES, MODEL)
    forward = 2 * 800 + 4 * 2 * 8 * 30
    output = 2 * 25 * 8
    trained = 2 * made.cost.tokens * (forward + output * 2 / 32)
    scored = made.cost.passes * ((30 + 4) * forward + 4 * output)
    assert made.cost.operations == pytest.approx(trained + scored)
    assert plan(study("axes.plw=1"), SIZES, MODEL).cost.operations > plan(study(), SIZES, MODEL).cost.operations
    assert plan(study(), SIZES, MODEL, rate=made.rate * 2).seconds == pytest.approx(
        plan(study(), SIZES, MODEL).seconds / 2
    )


def test_searches_of_the_adversarial_arm_are_in_the_plan(study) -> None:  # type: ignore[no-untyped-def]
    """Its fewer steps and its searches cost what the steps of other arms cost."""
    searching = "arms={plain: {pool: many}, adversarial: {pool: many, choice: adversarial}}"
    made = [
        plan(study("scheduler.name=none", searching, f"axes.arm={arm}"), SIZES, MODEL)
        for arm in ("[plain]", "[adversarial]")
    ]
    steps = [one.rungs[-1].steps for one in made]
    assert steps == [200, 172]
    searches = 7  # before steps 0, 25 … 150
    n = made[1].trials
    assert made[1].cost.tokens == pytest.approx(n * (172 * 8 * 32 + searches * 24 * 4 * 34 / 3))
    assert made[1].cost.tokens == pytest.approx(made[0].cost.tokens, rel=0.02)
    assert made[1].full.tokens == made[1].rungs[-1].tokens == made[1].cost.tokens


def test_memory_is_the_base_once_and_an_adapter_a_slot(study) -> None:  # type: ignore[no-untyped-def]
    one = plan(study("resources.slots=1"), SIZES, MODEL).memory
    eight = plan(study("resources.slots=8"), SIZES, MODEL).memory
    assert one.base == eight.base == 4000
    assert one.adapters == 16 * (16 + 16) * 16  # the largest rank, q and v, 16 bytes
    assert (eight.adapters, eight.activations) == (8 * one.adapters, 8 * one.activations)
    assert plan(study("axes.lora.target_modules=all-linear"), SIZES, MODEL).memory.adapters == 8 * 16 * 56 * 16
    assert plan(study("model.dtype=bfloat16"), SIZES, MODEL).memory.base == 2000


def test_a_quantised_base_takes_what_its_linear_layers_and_the_rest_take(study) -> None:  # type: ignore[no-untyped-def]
    """nf4: half a byte, a byte for 64 weights and 4 bytes for 256 of those; int8: a byte. The rest stays in its dtype.
    A checkpoint that is quantised already counts as one that is quantised as it is loaded."""
    model = dataclasses.replace(MODEL, quantizable=640)
    whole = plan(study(), SIZES, model)
    assert (whole.memory.base, whole.notes) == (4000, ())
    assert plan(study("model.quantization=int8"), SIZES, model).memory.base == 360 * 4 + 640
    made = plan(study("model.quantization=nf4"), SIZES, model)
    assert made.memory.base == 360 * 4 + 640 * (0.5 + 1 / 64 + 4 / 16384)
    assert made.notes == ("Linear layers are kept in nf4, 0.52 bytes a weight: whole, the base would take 3.91 KiB",)
    assert plan(study("model.quantization=nf4", "model.dtype=bfloat16"), SIZES, model).memory.base < 360 * 2 + 640
    stored = dataclasses.replace(model, stored="nf4")
    assert plan(study(), SIZES, stored).memory == made.memory


def test_the_size_of_a_quantised_checkpoint_is_that_of_the_model_it_was_made_from(  # type: ignore[no-untyped-def]
    study, llama_folder: str, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    whole = model_size(study(f"model.path={llama_folder}"))
    assert whole.quantizable == whole.parameters - 2 * 256 * 64 - 5 * 64  # all but embeddings and norms
    for bits, kind in ((4, "nf4"), (8, "int8")):
        AutoModelForCausalLM.from_pretrained(
            llama_folder, quantization_config=BitsAndBytesConfig(**{f"load_in_{bits}bit": True}), dtype=torch.float32
        ).save_pretrained(tmp_path / kind)
        packed = model_size(study(f"model.path={tmp_path / kind}"))
        assert packed == dataclasses.replace(whole, stored=kind, linear=packed.linear)
        assert sorted(packed.linear) == sorted(whole.linear)


def test_the_models_size_is_that_of_the_model_itself(study, llama_folder: str) -> None:  # type: ignore[no-untyped-def]
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    made = model_size(study(f"model.path={llama_folder}"))
    linear = {n: m.in_features + m.out_features for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    del linear["lm_head"]
    assert dict(made.linear) == linear
    assert made.parameters == sum(p.numel() for p in model.parameters())
    assert made.body == made.parameters - 2 * 256 * 64
    assert (made.layers, made.hidden, made.vocabulary) == (2, 64, 256)


def test_lengths_are_characters_over_four_when_none_are_given(tmp_path: Path, llama_folder: str) -> None:
    from sweeps.trials.assets import load_assets

    (tmp_path / "data").mkdir()
    (tmp_path / "prompts").mkdir()
    for use, n in (("train", 40), ("dev", 8), ("test", 12)):
        rows = [{"text": "x" * 70, "label": i % 2} for i in range(n)]
        (tmp_path / f"data/{use}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (tmp_path / f"prompts/{use}.yaml").write_text(
            f'p1: "{{{{ text }}}} {use} one"\np2: "{{{{ text }}}} {use} two"\n'
        )
    (tmp_path / "x.yaml").write_text(BASE)
    study = load_study(tmp_path / "x.yaml", [f"model.path={llama_folder}", "axes.template=plain"])
    sizes = data_sizes(study, load_assets(study))
    assert (sizes.train_rows, sizes.dev_rows, sizes.test_rows, sizes.dev_prompts, sizes.test_prompts) == (
        40,
        8,
        12,
        2,
        2,
    )
    assert sizes.prompt_tokens == (70 + len(" dev one") + len("\nAnswer:")) / 4
    assert sizes.source == "estimated as characters / 4: no tokenizer can be loaded"
    text = shown(plan(study))
    assert "8 trials" in text
    assert "characters / 4" in text


def shown(made: object) -> str:
    out = io.StringIO()
    Console(file=out, width=100).print(render(made))  # type: ignore[arg-type]
    return out.getvalue()


def test_the_plan_reads_as_a_table_with_its_assumptions(study) -> None:  # type: ignore[no-untyped-def]
    text = shown(plan(study("scheduler.rungs=[0.1,1]"), SIZES, MODEL))
    for part in ("x: 16 trials", "without stopping", "assumed: 20 GFLOP/s", "counted with the tokenizer", "test pool"):
        assert part in text
    assert "The first rung (0.1) lies within the warm-up (0.1)" in text
    assert "given: 2 TFLOP/s" in shown(plan(study(), SIZES, MODEL, rate=2e12))
    larger = dataclasses.replace(MODEL, hidden=576)
    assert "assumed: 60 GFLOP/s of a host with 1 CPU cores" in shown(plan(study(), SIZES, larger))


def test_rungs_that_fall_together_are_told_before_anything_runs(study) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(StudyError, match="has two rungs at the same step of a trial of 2 steps"):
        plan(study("axes.steps=2"), SIZES, MODEL)


def test_numbers_are_written_for_people() -> None:
    assert [amount(n) for n in (999, 12345, 1.234e6, 5e9)] == ["999", "12,345", "1.23 million", "5 billion"]
    assert [duration(s) for s in (0.1, 90, 150, 7200, 200000)] == [
        "1 second",
        "90 seconds",
        "2.5 minutes",
        "2 hours",
        "2.31 days",
    ]
    assert [size(n) for n in (10, 2048, 3 * 2**20, 2**30)] == ["10 B", "2 KiB", "3 MiB", "1 GiB"]
