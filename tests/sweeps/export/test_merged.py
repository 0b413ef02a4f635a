"""Merged weights answer as base and adapter do, in transformers alone and in `predict`; all else is the base's."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run
import torch
import transformers
from checkout import EMBEDDED, ROOT
from plain_answers import classified, plain_scores, requests, stored
from safetensors.torch import load_file, save_file
from score_rows import can_mount

from sweeps.cli import main
from sweeps.export.export import export
from sweeps.export.exported import merged_trial, read_exported
from sweeps.export.merged import plan_merge
from sweeps.export.predict import open_exports, predict
from trainer.errors import UserError
from trainer.model.merge import load_merged
from trainer.model.weights import tensor_heads
from trainer.store import Store
from trainer.trial import Trial

FINE = 1e-5
X1 = tiny_run.PROMPTS["test"]["x1"]
AXES = {"lora": {"r": 2}, "lr": 1e-2, "steps": 2}
Run = tuple[str, list[Trial]]


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_run.made("labels", tmp_path_factory)


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A run of which nothing may be changed, and its last trial merged in bfloat16."""
    uri, trials = tiny_run.made("labels", tmp_path_factory)
    return uri, export(uri, trials[-1].id, str(tmp_path_factory.mktemp("m") / "out"), merge=True, dtype="bfloat16")


def answers(folder: str, rows: str, out: Path, **more: Any) -> list[dict[str, Any]]:
    assert predict(folder, rows, str(out), **more) == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def alone(folder: str, kind: str = "AutoModelForCausalLM") -> Any:
    """What transformers makes of a folder, without steadytune and peft."""
    return getattr(transformers, kind).from_pretrained(folder, dtype="auto").eval()


def card_of(folder: str) -> str:
    return Path(folder, "README.md").read_text()


def largest(page: str) -> list[float]:
    """The card's two largest differences in nats: rounding in float32, and of the weights as they are written."""
    return [float(x) for x in re.findall(r"differs by at most ([\d.e-]+) nats", page)]


# the same answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", range(4))
def test_transformers_alone_gives_what_the_trial_gave(run: Run, tmp_path: Path, which: int) -> None:
    """Some layers and all linear ones, plain and rsLoRA scale: the log-probabilities that the run folder holds."""
    uri, trials = run
    folder = export(uri, trials[which].id, str(tmp_path / "out"), merge=True)
    model = alone(folder)
    assert model.dtype == torch.float32
    found = plain_scores(model, requests(uri, trials[which], "x1")[:6])
    assert np.abs(found - stored(uri, trials[which], "x1")[:6]).max() < FINE
    base = plain_scores(alone(tiny_run.data(uri, "model")), requests(uri, trials[which], "x1")[:1])
    assert np.abs(base - stored(uri, trials[which], "x1")[:1]).max() > 1e-3
    rounding, written = largest(card_of(folder))
    assert max(rounding, written) < FINE


@pytest.mark.parametrize("name", ["labels", "classifier", "options", "batch", "generate"])
def test_predict_answers_from_merged_weights_as_from_the_adapter(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, name: str
) -> None:
    uri, trials = tiny_run.made(name, tmp_path_factory)
    adapter = export(uri, trials[-1].id, str(tmp_path / "adapter"))
    whole = export(uri, trials[-1].id, str(tmp_path / "merged"), merge=True)
    rows = tiny_run.data(uri, "test.jsonl")
    shutil.move(tiny_run.data(uri, "model"), tmp_path / "elsewhere")  # merged weights need no base
    try:
        got = answers(whole, rows, tmp_path / "got.jsonl", prompt=X1)
    finally:
        shutil.move(tmp_path / "elsewhere", tiny_run.data(uri, "model"))
    expected = answers(adapter, rows, tmp_path / "expected.jsonl", prompt=X1)
    assert [(r["id"], r["label"], r.get("text")) for r in got] == [
        (r["id"], r["label"], r.get("text")) for r in expected
    ]
    for mine, theirs in zip(got, expected, strict=True):
        p, q = (r.get("probabilities", []) for r in (mine, theirs))
        p, q = (list(x.values()) if isinstance(x, dict) else x for x in (p, q))
        assert np.allclose(p, q, atol=FINE, rtol=0)
    for threshold in ("tuned", ".3") if name in ("labels", "classifier") else ():
        both = (answers(f, rows, tmp_path / "t.jsonl", prompt=X1, threshold=threshold) for f in (whole, adapter))
        a, b = ([r["label"] for r in records] for records in both)
        assert a == b


def test_a_classifiers_head_and_threshold_travel_and_the_card_applies_them(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    uri, (trial,) = tiny_run.made("classifier", tmp_path_factory)
    folder = export(uri, trial.id, str(tmp_path / "out"), merge=True)
    model = alone(folder, "AutoModelForSequenceClassification")
    asked = requests(uri, trial, "x1")
    assert np.abs(classified(model, asked) - stored(uri, trial, "x1")).max() < FINE
    assert model.config.id2label == {0: "no", 1: "yes"}
    batch = torch.from_numpy(np.stack([asked[0].context, asked[1].context])[:, -4:].astype(np.int64))
    assert model(input_ids=batch).logits.shape == (2, 2), "its padding token is known"
    code = re.search(r"```python\n(.*?)```", card_of(folder), re.DOTALL)
    assert code is not None
    for tuned in (False, True):
        text = code[1].replace("FOLDER", folder)
        names: dict[str, Any] = {}
        exec(text.replace("# return", "return") if tuned else text, names)
        got = answers(
            folder, tiny_run.data(uri, "test.jsonl"), tmp_path / "a.jsonl", prompt=X1,
            threshold="tuned" if tuned else None,
        )  # fmt: skip
        assert [names["answer"](r.context.astype(np.int64)) for r in asked] == [r["label"] for r in got]


def test_the_card_says_how_far_bfloat16_is_from_the_trial(merged: tuple[str, str], tmp_path: Path) -> None:
    """Held against `predict` on the same dev rows, in the same wording, with the adapter and with merged weights."""
    uri, folder = merged
    about, page = json.loads(Path(folder, "template.json").read_text()), card_of(folder)
    adapter = export(uri, about["trial_id"], str(tmp_path / "adapter"))
    rows = tiny_run.data(uri, "dev.jsonl")
    trained, written = (answers(f, rows, tmp_path / "x.jsonl") for f in (adapter, folder))
    changed = sum(a["label"] != b["label"] for a, b in zip(trained, written, strict=True))
    wording = about["prompt"]["id"]
    assert f"Compared on 16 of the 16 dev rows (the first that fit), asked in the wording `{wording}`:" in page
    assert f"and {changed} of 16 answers are others" in page
    rounding, difference = largest(page)
    assert rounding < FINE < difference < 0.1
    gaps = [abs(np.log(a["probabilities"]["yes"]) - np.log(b["probabilities"]["yes"]))
            for a, b in zip(trained, written, strict=True)]  # fmt: skip
    assert 0 < max(gaps) <= 2 * difference  # of two log-probabilities, each moves a share
    assert about["merged"] == "bfloat16"
    assert len({p.stat().st_mode for p in Path(folder).iterdir()}) == 1, "whoever reads the config reads the weights"
    assert "library_name: transformers" in page
    assert "They are written in bfloat16." in page


def test_merged_weights_are_not_held_against_the_base_of_the_training(
    merged: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    exports = open_exports([merged[1]])
    exports.check_options(None, "tuned")
    with pytest.raises(UserError, match="neither a number nor tuned"):
        exports.check_options(None, "tune")
    assert not caplog.text


def test_predict_can_compute_merged_weights_in_float32(merged: tuple[str, str], tmp_path: Path) -> None:
    uri, folder = merged
    rows = tiny_run.data(uri, "test.jsonl")
    written, wide = (answers(folder, rows, tmp_path / "a.jsonl", dtype=dtype) for dtype in (None, "float32"))
    gaps = [abs(a["probabilities"]["yes"] - b["probabilities"]["yes"]) for a, b in zip(written, wide, strict=True)]
    assert 0 < max(gaps) < 0.05


def test_weights_that_transformers_reads_otherwise_are_not_handed_out(merged: tuple[str, str]) -> None:
    exported = read_exported(Store.open(merged[1]))
    here = merged_trial(exported.trial, merged[1], "bfloat16")
    whole = {name: t.float() for name, t in alone(merged[1]).state_dict().items()}
    load_merged(here, whole)
    name = "model.layers.1.mlp.up_proj.weight"
    for other in (whole[name] + 1e-3, whole[name][:5], None):
        expected = {n: t for n, t in {**whole, name: other}.items() if t is not None}
        with pytest.raises(
            UserError, match=f"reads other weights than were written, such as {name}. Leave out --merge"
        ):
            load_merged(here, expected)


# the base's in all else -----------------------------------------------------------------------------------------------


def test_tied_embeddings_tokenizer_and_templates_are_the_bases(tmp_path: Path) -> None:
    base = EMBEDDED / "model"
    uri, (trial,) = tiny_run.make_run(
        tmp_path, tiny_run.LABELLED, templates={"chat": {"chat": True}}, axes=AXES, model={"path": str(base)}
    )
    folder = Path(export(uri, trial.id, str(tmp_path / "out"), merge=True))
    assert tensor_heads(folder, "") == tensor_heads(base, ""), "names, shapes and types; no output layer of its own"
    same = [p.name for p in base.iterdir() if p.suffix == ".json" and p.name != "config.json"]
    assert {"tokenizer.json", "tokenizer_config.json", "generation_config.json"} <= set(same)
    for name in same:
        assert (folder / name).read_bytes() == (base / name).read_bytes()
    config = json.loads((base / "config.json").read_text())
    config.pop("_name_or_path", None)
    assert json.loads((folder / "config.json").read_text()) == config
    assert alone(str(folder)).config.tie_word_embeddings
    asked = requests(uri, trial, "x1")[:2]
    assert np.abs(plain_scores(alone(str(folder)), asked) - stored(uri, trial, "x1")[:2]).max() < FINE
    header = card_of(str(folder)).split("---")[1]
    assert "license: mit" in header, "the base model's README says so"


def test_the_dtype_is_that_of_the_bases_files_and_what_it_keeps_whole_stays_so(tmp_path: Path) -> None:
    """A base in bfloat16 but for one norm, trained in float32."""
    tiny_run.make_model(tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    kept = "model.norm.weight"
    mixed = {name: t if name == kept else t.bfloat16() for name, t in weights.items()}
    save_file(mixed, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    uri, (trial,) = tiny_run.make_run(
        tmp_path, tiny_run.LABELLED, templates=tiny_run.PLAIN, axes=AXES, model={"path": str(tmp_path / "base")}
    )
    folder = export(uri, trial.id, str(tmp_path / "out"), merge=True)
    written = load_file(f"{folder}/model.safetensors")
    assert {name: t.dtype for name, t in written.items()} == {name: t.dtype for name, t in mixed.items()}
    moved = {name for name, t in written.items() if not torch.equal(t, mixed[name])}
    assert moved
    assert all("_proj" in name for name in moved), "nothing but the adapted layers"
    config = json.loads(Path(folder, "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert len(largest(card_of(folder))) == 2


def test_a_published_base_in_float16_gives_float16(shared: Path, tmp_path: Path) -> None:
    base = shared / "models" / "tiny1m"
    uri, (trial,) = tiny_run.make_run(
        tmp_path, tiny_run.LABELLED, templates=tiny_run.PLAIN, axes=AXES, model={"path": str(base)}
    )
    folder = export(uri, trial.id, str(tmp_path / "out"), merge=True)
    assert tensor_heads(Path(folder), "") == tensor_heads(base, "")
    assert alone(folder).dtype == torch.float16
    page = card_of(folder)
    assert largest(page)[0] < 1e-4
    assert "They are written in float16." in page


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    tiny_run.make_model(tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["model.norm.weight"][3] = 1e5
    save_file(weights, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    uri, (trial,) = tiny_run.make_run(
        tmp_path, tiny_run.LABELLED, templates=tiny_run.PLAIN, axes=AXES, model={"path": str(tmp_path / "base")}
    )
    said = refusal(uri, trial.id, tmp_path / "out", merge=True, dtype="float16")
    assert said == (
        '--dtype = "float16": model.norm.weight has weights beyond its largest number, 65504. Give --dtype bfloat16 or '
        "float32"
    )
    assert sorted(p.name for p in tmp_path.glob("out*")) == []


def test_without_dev_rows_a_few_tokens_are_compared_and_the_card_says_so(tmp_path: Path) -> None:
    uri, (trial,) = tiny_run.make_run(tmp_path, tiny_run.LABELLED, templates=tiny_run.PLAIN, axes=AXES)
    (tmp_path / "dev.jsonl").unlink()
    said: list[str] = []
    folder = export(uri, trial.id, str(tmp_path / "out"), merge=True, say=said.append)
    assert said[-1].startswith("merged in float32; not compared on dev rows, since the dev rows cannot be read (")
    assert "How far answers differ was not measured, since the dev rows cannot be read" in card_of(folder)
    assert (
        np.abs(plain_scores(alone(folder), requests(uri, trial, "x1")[:2]) - stored(uri, trial, "x1")[:2]).max() < FINE
    )


# refused --------------------------------------------------------------------------------------------------------------


def refusal(run: str, trial: str | None, to: Path | str, **how: Any) -> str:
    with pytest.raises(UserError) as error:
        export(run, trial, str(to), **how)
    return str(error.value)


def test_options_that_need_another_one_are_refused(run: Run, tmp_path: Path) -> None:
    said = refusal(run[0], None, tmp_path / "out", dtype="bfloat16")
    assert said == '--dtype = "bfloat16" is of merged weights. Add --merge, or leave --dtype out'
    said = refusal(run[0], None, tmp_path / "out", public=True)
    assert said == "--public is of a repository on the hub. Add --push OWNER/NAME, or leave --public out"
    said = refusal(run[0], None, "mock:///out", merge=True)
    assert said == '--to = "mock:///out" is not on this machine, as merged and pushed files are. Give a path'
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_is_gone_or_another_is_refused_and_can_be_named(run: Run, tmp_path: Path) -> None:
    uri = str(shutil.copytree(run[0], tmp_path / "run"))
    trial, base, out = run[1][0], tiny_run.data(run[0], "model"), tmp_path / "out"
    moved = shutil.copytree(base, tmp_path / "moved")
    shutil.move(base, tmp_path / "away")
    try:
        said = refusal(uri, trial.id, out, merge=True)
        assert said == (
            f'--merge: its base model "{base}" is not at hand. Give the folder of the model that was trained on: '
            "--base DIR"
        )
        said = refusal(uri, trial.id, out, merge=True, base=f"{moved}x")
        assert said.startswith(f'--base = "{moved}x" is no folder.')
        assert export(uri, trial.id, str(out), merge=True, base=str(moved)) == str(out)
    finally:
        shutil.move(tmp_path / "away", base)
    assert json.loads((out / "template.json").read_text())["trial"]["model"]["path"] == base
    other = tiny_run.make_model(tmp_path / "other", seed=1)
    said = refusal(uri, trial.id, tmp_path / "two", merge=True, base=other)
    assert said.startswith(f'--merge: the files of its base model "{other}" are not those of the training. Give the')
    assert not (tmp_path / "two").exists()


def test_a_base_with_code_of_its_own_or_without_whole_weights_is_refused(run: Run, tmp_path: Path) -> None:
    trial = run[1][0]
    own = replace(trial, model=replace(trial.model, trust_remote_code=True))
    with pytest.raises(UserError, match=r"brings code of its own, .* merge with peft's merge_and_unload$"):
        plan_merge(own, tmp_path / "out", None)
    stored_small = Path(tiny_run.make_model(tmp_path / "small"))
    config = json.loads((stored_small / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (stored_small / "config.json").write_text(json.dumps(config))
    from sweeps.trials.base_model import fingerprint_model

    model = replace(trial.model, path=str(stored_small), fingerprint=fingerprint_model(str(stored_small)))
    with pytest.raises(UserError, match=r"is stored in 4 bits, and there are no whole weights to merge into"):
        plan_merge(replace(trial, model=model), tmp_path / "out", None)


def test_a_disk_that_is_too_small_is_told_before_the_work(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    if not can_mount(place):
        pytest.skip("this machine lets no test mount a disk")
    command = [sys.executable, "-m", "sweeps", "export", run[0], "--trial", run[1][0].id, "--to", f"{place}/out"]
    mount = 'mount -t tmpfs -o size=8m tmpfs "$0" && exec "$@"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, str(place), *command, "--merge"], cwd=ROOT, env=dict(os.environ),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == (
        f'error: --to = "{place}/out": merged weights in float32 take 64.4 MiB, and {place} has 8 MiB free. '
        "Free space, give a folder on another disk, or a smaller --dtype"
    )


def test_what_is_there_is_not_overwritten_and_an_interruption_leaves_nothing(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()

    def interrupt(text: str) -> None:
        if text.startswith("merging"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(run[0], run[1][0].id, str(out), merge=True, say=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    export(run[0], run[1][0].id, str(out), merge=True)  # an empty folder is taken
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert refusal(run[0], run[1][0].id, out, merge=True).endswith(
        "exists and is not empty. Give a new folder, or remove this one"
    )


def test_predict_refuses_merged_weights_that_were_changed(merged: tuple[str, str], tmp_path: Path) -> None:
    uri, folder = merged
    rows = tiny_run.data(uri, "test.jsonl")

    def said(**more: Any) -> str:
        with pytest.raises(UserError) as error:
            predict(str(copy), rows, str(tmp_path / "x.jsonl"), **more)
        return str(error.value)

    copy = shutil.copytree(folder, tmp_path / "copy")
    assert said(base=tiny_run.data(uri, "model")) == (
        f'--base = "{tiny_run.data(uri, "model")}": {copy} holds merged weights and needs no base. Leave --base out'
    )
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 64
    (copy / "model.safetensors").write_bytes(weights)
    assert said().startswith(f"{copy}/model.safetensors: is not the file that was exported, by its checksum")
    shutil.copy(Path(folder, "model.safetensors"), copy)
    (copy / "added_tokens.json").write_text("{}")
    assert said() == f"{copy}/SHA256SUMS: does not name added_tokens.json. Export the trial again"
    (copy / "added_tokens.json").unlink()
    (copy / "config.json").unlink()
    assert said() == f"{copy}/config.json: no such file. Export the trial again"
    about = json.loads((copy / "template.json").read_text())
    (copy / "template.json").write_text(json.dumps({**about, "merged": "int3"}))
    assert "is not what export writes (ValueError: merged: Input should be 'float32'" in said()


def test_the_command_says_what_it_does_and_measured(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(
            ["export", run[0], "--trial", run[1][0].id, "--to", str(tmp_path / "out"), "--merge", "--dtype", "float16"]
        )
    assert ended.value.code == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'out'}\n"
    lines = said.err.splitlines()
    assert "merging, and answering dev rows with the merged weights" in lines
    assert re.fullmatch(
        r"merged in float16; beside the trial as it was trained, a label's log-probability differs by at most "
        r"[\d.e-]+ nats, and \d+ of 16 answers are others \([\d.]+ %\)",
        lines[-1],
    )
    assert Store.open(str(tmp_path / "out")).exists("model.safetensors")
