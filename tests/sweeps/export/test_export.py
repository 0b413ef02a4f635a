"""An export is whole: peft alone gives from it what the trial gave, and its papers say what the run folder says."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_run
import torch
import yaml
from plain_answers import brute_force, classified, plain_scores, requests, stored

from sweeps.export.card import Measurements, card
from sweeps.export.export import export
from sweeps.export.exported import ExportedTrial, read_exported
from sweeps.report.write import write_report
from sweeps.run_folder.reading import RunFolder
from sweeps.study.load import load_study
from sweeps.tables import robustness as tables
from sweeps.tables.columns import Settings
from sweeps.tables.terminal import show_table
from trainer.errors import UserError
from trainer.measure.metrics import Objective
from trainer.store import Store
from trainer.trial import Template, Trial

Run = tuple[str, list[Trial]]


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_run.made("labels", tmp_path_factory)


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Run:
    """A run folder that a test may change."""
    return str(shutil.copytree(run[0], tmp_path / "copy")), run[1]


def peft_model(run: str, folder: str, kind: str, **more: Any) -> Any:
    import transformers
    from peft import PeftModel

    base = getattr(transformers, kind).from_pretrained(tiny_run.data(run, "model"), dtype=torch.float32, **more)
    return PeftModel.from_pretrained(base, folder).eval()


@pytest.mark.parametrize("which", range(4))
def test_peft_alone_gives_what_the_trial_gave(run: Run, tmp_path: Path, which: int) -> None:
    """Some layers and all linear ones, plain and rsLoRA scale, trained with dropout: the log-probabilities that the
    run folder holds, to 1e-5."""
    uri, trials = run
    trial = trials[which]
    model = peft_model(uri, export(uri, trial.id, str(tmp_path / "out")), "AutoModelForCausalLM")
    trained = [n for n, p in model.named_parameters() if "lora_B" in n and p.abs().max() > 0]
    assert len(trained) == (14 if trial.lora.target_modules == ("all-linear",) else 4)
    asked = requests(uri, trial, "x1")
    expected = stored(uri, trial, "x1")
    assert np.abs(plain_scores(model, asked[:4]) - expected[:4]).max() < 1e-5
    with model.disable_adapter():
        assert abs(brute_force(model, asked[0].context, asked[0].options[0]) - expected[0][0]) > 1e-3


def test_peft_alone_gives_the_slots_logits(run: Run, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from trainer.model.routing import Batch
    from trainer.predictor import Predictor

    uri, trials = run
    for trial in trials:
        folder = export(uri, trial.id, str(tmp_path / trial.id))
        ids = torch.randint(3, 20, (2, 12), generator=torch.Generator().manual_seed(0))
        slot = Predictor(trial, load_file(f"{folder}/adapter_model.safetensors")).model
        place = torch.arange(12).expand(2, -1)
        batch = Batch(
            ids, torch.ones_like(ids), place, torch.zeros(2, dtype=torch.long),
            torch.arange(2).repeat_interleave(12), torch.arange(12).repeat(2),
        )  # fmt: skip
        with torch.no_grad():
            ours = slot(batch).view(2, 12, -1)
            theirs = peft_model(uri, folder, "AutoModelForCausalLM")(input_ids=ids).logits
        assert float((ours - theirs).abs().max()) < 1e-5


def test_peft_alone_gives_the_classifiers_logits(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    uri, (trial,) = tiny_run.made("classifier", tmp_path_factory)
    folder = export(uri, trial.id, str(tmp_path / "out"))
    model = peft_model(uri, folder, "AutoModelForSequenceClassification", num_labels=2)
    assert np.abs(classified(model, requests(uri, trial, "x1")) - stored(uri, trial, "x1")).max() < 1e-5
    card = (tmp_path / "out" / "README.md").read_text()
    assert "AutoModelForSequenceClassification.from_pretrained(" in card
    assert "num_labels=2)" in card


def test_without_an_id_the_winner_is_exported(run: Run, tmp_path: Path) -> None:
    uri, _ = run
    rows = pq.read_table(f"{uri}/tables/robustness.parquet").to_pylist()
    winner = next(r["trial_id"] for r in rows if r["winner"])
    assert export(uri, None, str(tmp_path / "out")) == str(tmp_path / "out")
    assert read_exported(Store.open(str(tmp_path / "out"))).trial.id == winner


def test_of_several_seeds_the_first_is_exported_with_the_figures_of_both(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    uri, trials = tiny_run.made("seeds", tmp_path_factory)
    export(uri, trials[0].id, str(tmp_path / "out"))
    row = next(
        r
        for r in pq.read_table(f"{uri}/tables/robustness.parquet").to_pylist()
        if r["configuration"] == trials[0].configuration
    )
    assert (row["trial_id"], row["seeds"]) == (trials[0].id, "0, 1")
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"Its setting was trained with 2 seeds: mean {100 * row['mean']:.1f} (" in text
    assert f"between seeds {100 * row['seed_std']:.1f};" in text
    assert "This seed was not chosen by its result: it is the first of them." in text
    second = next(t for t in trials[1:] if t.configuration == trials[0].configuration)
    export(uri, second.id, str(tmp_path / "second"))
    text = (tmp_path / "second" / "README.md").read_text()
    assert "This seed is one of them, and not the first, which is exported by default. It was named by --trial" in text


def test_the_template_file_holds_all_that_predict_needs(run: Run, tmp_path: Path) -> None:
    uri, trials = run
    export(uri, trials[0].id[:6], str(tmp_path / "out"))  # the beginning of an id names it
    found = read_exported(Store.open(str(tmp_path / "out")))
    assert found.trial == trials[0]
    assert (found.fields, found.options, found.id) == (("text",), None, "id")
    assert dict(found.train_prompts) == tiny_run.PROMPTS["train"]
    assert found.label_counts == {"no": 8, "yes": 8}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "template.json", "reference.json", "README.md",
        "SHA256SUMS",
    }  # fmt: skip


def test_the_default_prompt_is_the_best_of_the_dev_prompts(run: Run, tmp_path: Path) -> None:
    uri, trials = run
    for trial in trials:
        export(uri, trial.id, str(tmp_path / trial.id))
        rows = Store.open(uri).read_scores(trial.id, 30, "dev")[0].to_pylist()  # type: ignore[index]
        right = {p: sum(r["correct"] for r in rows if r["prompt_id"] == p) for p in ("d1", "d2", "d3")}
        prompt = read_exported(Store.open(str(tmp_path / trial.id))).prompt
        assert prompt is not None
        assert right[prompt.id] == max(right.values())
        assert prompt.text == tiny_run.PROMPTS["dev"][prompt.id]


def test_the_card_says_what_the_table_says(run: Run, tmp_path: Path) -> None:
    uri, _ = run
    export(uri, None, str(tmp_path / "out"))
    text = (tmp_path / "out" / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    row = next(r for r in pq.read_table(f"{uri}/tables/robustness.parquet").to_pylist() if r["winner"])
    assert "base_model" not in header  # the hub takes no path
    assert header["library_name"] == "peft"
    [results] = header["model-index"][0]["results"]
    assert {m["name"]: m["value"] for m in results["metrics"]} == {
        "accuracy, mean over 2 test prompts": round(row["mean"], 4),
        "accuracy, worst test prompt": round(row["min"], 4),
        "standard deviation of accuracy over test prompts": round(row["std"], 4),
    }
    assert "license" not in header
    interval = f"{100 * row['mean']:.1f} ({100 * row['mean_low']:.1f} to {100 * row['mean_high']:.1f})"
    assert f"| {interval} | {100 * row['std']:.1f} |" in text
    assert "These are figures of this fine-tune, trained with one seed." in text
    assert f"| target_modules | {row['target_modules']} |" in text
    assert "t1, t2" in text
    assert "Degenerate" not in text
    assert "the end token, which was trained behind them, does not count" in text


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (Template("chat", chat=True), "the filled prompt as the user's turn, the assistant's turn opened."),
        (Template("chat", chat=True, marker=""), "the filled prompt as the user's turn, the assistant's turn opened."),
        (Template("chat", chat=True, marker="So:"), "the assistant's turn opened, then `So:`."),
        (Template("plain", marker=""), "Plain text: the filled prompt."),
        (Template("plain", marker="So:"), "Plain text: the filled prompt, then `So:`."),
    ],
)
def test_the_card_says_what_stands_before_the_answer(run: Run, template: Template, said: str) -> None:
    uri, trials = run
    found = ExportedTrial(replace(trials[0], template=template), "s", ("text",), None, None, None, {}, {})
    measured = Measurements(1, "finished", {}, 1, Objective(0.5, 0.1, 0.6, 0.1, 0.4, 1, 1, False, 0.5, 0.0), {})
    assert said in card(found, load_study(Path(uri).parent / "tiny.yaml"), measured)


def test_a_degenerate_trial_is_exported_only_by_its_id_and_is_marked(run: Run, tmp_path: Path) -> None:
    uri, _ = run
    rows = pq.read_table(f"{uri}/tables/robustness.parquet").to_pylist()
    degenerate = next(r["trial_id"] for r in rows if r["degenerate"])
    export(uri, degenerate, str(tmp_path / "out"))
    assert "**Degenerate: one answer takes more than 95 %" in (tmp_path / "out" / "README.md").read_text()


def test_a_run_on_another_filesystem_is_read_through_it(run: Run, tmp_path: Path) -> None:
    uri, trials = run
    export(f"file://{uri}", trials[0].id, f"file://{tmp_path}/out")
    assert read_exported(Store.open(str(tmp_path / "out"))).trial == trials[0]


def test_tables_older_than_the_trials_are_not_believed(copy: Run, tmp_path: Path) -> None:
    """The table of an earlier, smaller sweep names its own winner."""
    uri, trials = copy
    whole = tables.make_tables(RunFolder(Store.open(uri)), Settings.of(load_study(f"{uri}/study.yaml"))).robustness
    loser = next(t.id for t in trials if t.id != next(r["trial_id"] for r in whole.to_pylist() if r["winner"]))
    old = [{**r, "winner": True} for r in whole.to_pylist() if r["trial_id"] == loser]
    pq.write_table(pa.Table.from_pylist(old, schema=whole.schema), f"{uri}/tables/robustness.parquet")
    export(uri, None, str(tmp_path / "out"))
    assert read_exported(Store.open(str(tmp_path / "out"))).trial.id != loser


def test_the_prompts_are_in_the_run_folder_wherever_the_studys_files_are(copy: Run, tmp_path: Path) -> None:
    """As after a job, whose study names files in a folder that Ray has deleted."""
    uri, trials = copy
    study = yaml.safe_load(Path(uri, "study.yaml").read_text())
    for pool in ("dev", "test"):
        study["pools"][pool]["file"] = str(tmp_path / "gone.yaml")
    study["pools"]["train"]["many"]["file"] = str(tmp_path / "gone.yaml")
    Path(uri, "study.yaml").write_text(yaml.safe_dump(study))
    export(uri, trials[0].id, str(tmp_path / "out"))
    found = read_exported(Store.open(str(tmp_path / "out")))
    assert dict(found.train_prompts) == tiny_run.PROMPTS["train"]
    assert found.prompt is not None
    assert found.prompt.text == tiny_run.PROMPTS["dev"][found.prompt.id]


def test_kept_prompts_that_were_changed_are_not_used(
    copy: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri, trials = copy
    for file in Path(uri, "prompts").iterdir():
        file.write_text(file.read_text().replace("good", "bad"))
    export(uri, trials[0].id, str(tmp_path / "out"))
    assert "is not what its name says" in caplog.text
    assert dict(read_exported(Store.open(str(tmp_path / "out"))).train_prompts) == tiny_run.PROMPTS["train"]


def test_prompts_that_changed_since_are_left_out_and_said_so(
    copy: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a folder of before they were kept there."""
    uri, trials = copy
    shutil.rmtree(Path(uri, "prompts"))
    study = yaml.safe_load(Path(uri, "study.yaml").read_text())
    (tmp_path / "other.yaml").write_text("d1: 'Is {{ text }}?'\n")
    study["pools"]["dev"]["file"] = str(tmp_path / "other.yaml")
    Path(uri, "study.yaml").write_text(yaml.safe_dump(study))
    export(uri, trials[0].id, str(tmp_path / "out"))
    found = read_exported(Store.open(str(tmp_path / "out")))
    assert found.prompt is None
    assert dict(found.train_prompts) == tiny_run.PROMPTS["train"]
    assert "the dev pool's files have changed since the run" in caplog.text
    study["pools"]["dev"]["file"] = str(tmp_path / "gone.yaml")
    Path(uri, "study.yaml").write_text(yaml.safe_dump(study))
    export(uri, trials[0].id, str(tmp_path / "out2"))
    assert "No default prompt is stored" in (tmp_path / "out2" / "README.md").read_text()


# mistakes -------------------------------------------------------------------------------------------------------


def refusal(run: str, trial: str | None, to: Path) -> str:
    with pytest.raises(UserError) as error:
        export(run, trial, str(to))
    return str(error.value)


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    assert f"{tmp_path} is no run folder: it holds no study.yaml." in refusal(str(tmp_path), None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_trial_names_the_nearest(run: Run, tmp_path: Path) -> None:
    uri, trials = run
    wanted = trials[2].id[:-1] + ("0" if trials[2].id[-1] != "0" else "1")
    output = refusal(uri, wanted, tmp_path / "out")
    assert output.startswith(f'--trial = "{wanted}" is no trial of {uri}. Did you mean "{trials[2].id}"? Known: ')


@pytest.mark.parametrize("kind", ["full", "file"])
def test_what_is_there_is_not_overwritten(run: Run, tmp_path: Path, kind: str) -> None:
    if kind == "full":
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("mine")
        assert refusal(run[0], None, tmp_path / "out").endswith(
            "exists and is not empty. Give a new folder, or remove this one"
        )
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]
    else:
        (tmp_path / "out").write_text("mine")
        assert refusal(run[0], None, tmp_path / "out").endswith("is a file. Give a new folder")


def test_an_empty_folder_is_taken(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(run[0], None, str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_a_trial_without_an_adapter_says_how_it_ended(copy: Run, tmp_path: Path) -> None:
    uri, trials = copy
    shutil.rmtree(f"{uri}/adapters/{trials[0].id}")
    tiny_run.write_trials(Store.open(uri), trials, **{f"_{trials[0].id}": "failed"})
    output = refusal(uri, trials[0].id, tmp_path / "out")
    assert f"trial {trials[0].id} has no adapter: it is failed. Trials that have one: " in output
    assert trials[1].id in output


def test_the_winner_of_an_unfinished_run_is_not_guessed(copy: Run, tmp_path: Path) -> None:
    uri, trials = copy
    store = Store.open(uri)
    tiny_run.write_trials(store, trials, **{f"_{trials[0].id}": "running"})
    output = refusal(uri, None, tmp_path / "out")
    assert "the run is not finished (1 of 4 trials are not done)" in output
    assert f"Continue it with: steadytune run {uri}/study.yaml --out {uri}, or name a trial with --trial" in output
    Path(uri, "trials.parquet").unlink()
    assert "the run is not finished (no trial is done)" in refusal(uri, None, tmp_path / "out")
    export(uri, trials[1].id, str(tmp_path / "out"))
    assert "**This trial is running" in (tmp_path / "out" / "README.md").read_text()


def test_a_trial_of_an_earlier_study_in_the_folder_brings_its_own_numbers(copy: Run, tmp_path: Path) -> None:
    uri, trials = copy
    rows = pq.read_table(f"{uri}/tables/robustness.parquet").to_pylist()
    old = next(r for r in rows if r["degenerate"])
    tiny_run.write_trials(Store.open(uri), [t for t in trials if t.id != old["trial_id"]])
    write_report(uri)
    export(uri, old["trial_id"], str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**Degenerate: one answer takes more than" in card
    assert "**This trial is of an earlier study in its run folder: it was trained for 30 of its 30 steps.**" in card
    assert f"accuracy on {old['n_prompts']} test prompts x {old['n_rows']} test rows" in card
    assert f"| {100 * old['mean']:.1f} ({100 * old['mean_low']:.1f} to {100 * old['mean_high']:.1f}) |" in card


def test_a_run_of_constant_answers_has_no_winner(copy: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri, trials = copy
    rows = pq.read_table(f"{uri}/tables/robustness.parquet").to_pylist()
    constant = next(r["trial_id"] for r in rows if r["degenerate"])
    tiny_run.write_trials(Store.open(uri), [t for t in trials if t.id == constant])
    output = refusal(uri, None, tmp_path / "out")
    assert "there is no winner: the one trial that finished gives one label nearly always. Train longer" in output
    assert f"Name one with --trial: {constant} (finished, degenerate)" in output
    write_report(uri)
    show_table(RunFolder(Store.open(uri)), "report.html")
    assert "no winner: the one trial that finished gives one label nearly always." in capsys.readouterr().out


def test_an_adapter_that_is_newer_than_its_scores_is_refused(copy: Run, tmp_path: Path) -> None:
    """The run ended between the checkpoint and the scores of a rung: the numbers would be another adapter's."""
    uri, trials = copy
    Path(uri, "checkpoints", trials[0].id, "000031.safetensors").write_bytes(b"")
    output = refusal(uri, trials[0].id, tmp_path / "out")
    assert f"trial {trials[0].id} was trained to step 31 and scored at step 30 only. Continue it with: " in output


def test_a_damaged_trials_file_is_named(copy: Run, tmp_path: Path) -> None:
    uri, _ = copy
    Path(uri, "trials.parquet").write_bytes(b"PAR1 no")
    assert f"{uri}/trials.parquet: is damaged" in refusal(uri, None, tmp_path / "out")
