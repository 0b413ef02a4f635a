# ruff: noqa: E501  (messages are written out as they are shown)
"""From axes to trials: which points there are, that equal points are one id, and what stands for the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_content import made_content

from sweeps.search import points as search
from sweeps.study.overlay import StudyError
from sweeps.study.study import Study
from sweeps.trials.base_model import fingerprint_model, model_of, tensor_shapes
from sweeps.trials.from_points import axes_of, make_trial, make_trials, points_of, rungs_of, steps_of, varied_axes
from sweeps.trials.load_content import Content
from trainer import trial as t
from trainer.errors import UserError

MODEL = t.Model("somewhere", "f")
DATA = {name: t.Data("a", "b", "c", name, "e", "f") for name in ("many", "one")}


def content(study: Study) -> Content:
    return made_content(study, DATA, MODEL, 100)


def test_the_grid_is_every_combination_once_last_axis_fastest(study) -> None:  # type: ignore[no-untyped-def]
    points = points_of(study())
    assert points is not None
    assert len(points) == 2 * 2 * 2 * 2  # template, r, lr, pool
    assert [(p["template"], p["r"], p["lr"], p["pool"]) for p in points[:3]] == [
        ("plain", 4, 1e-3, "many"),
        ("plain", 4, 1e-3, "one"),
        ("plain", 4, 3e-3, "many"),
    ]
    trials = make_trials(study(), points, content(study()))
    assert len({trial.id for trial in trials}) == 16


def test_axes_are_flat_and_ranges_are_the_searchs_own(study) -> None:  # type: ignore[no-untyped-def]
    axes = axes_of(
        study("search={method: tpe, trials: 2}", "axes.lr={loguniform: [1e-4, 1]}", "axes.lora.r={uniform: [2, 8]}")
    )
    assert axes["lr"] == search.Domain("loguniform", 1e-4, 1.0)
    assert axes["r"] == search.Domain("int", 2, 8)
    assert axes["target_modules"] == (("q_proj", "v_proj"),)
    assert "steps" in axes
    assert "epochs" not in axes
    assert "epochs" in axes_of(study("axes.epochs=2"))


def test_the_axes_that_vary_are_those_in_which_trials_may_differ(study) -> None:  # type: ignore[no-untyped-def]
    assert varied_axes(study()) == ("template", "r", "lr", "pool")
    fixed = ("axes.template=[plain]", "axes.lora.r=4", "axes.pool=[many]")
    assert varied_axes(study(*fixed, "axes.lr=1e-3")) == ()
    assert varied_axes(study(*fixed, "axes.lr=1e-3", "axes.epochs=[1, 2]", "axes.seed=[0, 1]")) == ("steps", "seed")
    drawn = ("search={method: tpe, trials: 2}", "axes.lr={loguniform: [1e-4, 1]}")
    assert varied_axes(study(*fixed, *drawn)) == ("lr",)
    assert varied_axes(study(*fixed, "confirm={top: 1, seeds: 2}")) == ("lr", "seed")


def test_random_points_are_as_many_as_asked_and_the_same_for_the_same_seed(study) -> None:  # type: ignore[no-untyped-def]
    drawn = ("search.method=random", "search.trials=5", "axes.lr={loguniform: [1e-4, 1e-2]}")
    points = points_of(study(*drawn))
    assert points is not None
    assert len(points) == 5
    assert all(1e-4 <= p["lr"] <= 1e-2 for p in points)
    assert points == points_of(study(*drawn))
    assert points != points_of(study(*drawn, "search.seed=1"))
    assert points_of(study("search={method: tpe, trials: 5}")) is None
    with pytest.raises(StudyError, match=r"^search.trials = 99 is more than the 16 distinct points"):
        points_of(study("search={method: random, trials: 99}"))


def test_a_trial_holds_what_the_study_says(study) -> None:  # type: ignore[no-untyped-def]
    loaded = study("training.draw={mode: load, every: 2}", "training.clip=0", "axes.plw=0.25", "scoring.decision=pmi")
    point = points_of(loaded)[-1]  # type: ignore[index]
    trial = make_trial(loaded, point, content(loaded))
    assert trial.template == t.Template("chat", True, "You label posts.", "", (("no", "no"), ("yes", "yes")))
    assert trial.lora == t.Lora(16, 32.0, 0.0, ("q_proj", "v_proj"), False)
    assert trial.loss == t.Loss(0.25)
    assert trial.draw == t.Draw("load", 2, "examples")
    assert (trial.optimization.clip, trial.optimization.lr, trial.optimization.steps) == (0.0, 3e-3, 200)
    assert trial.scoring.decision == "pmi"
    assert trial.task == t.Task(("no", "yes"), "accuracy", 512)
    assert (trial.pool, trial.data.train_prompts) == ("one", "one")
    assert t.axis_columns(trial) == {
        "template": "chat", "r": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": "q_proj,v_proj", "rslora": False,
        "lr": 3e-3, "steps": 200, "plw": 0.25, "pool": "one", "seed": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "override",
    [
        "training.batch_size=4", "training.accumulation=2", "training.schedule=linear", "training.warmup=0.2",
        "training.weight_decay=0.1", "training.clip=2", "training.normalization=completion_count",
        "training.template_tokens=plw", "training.balance=labels", "training.draw.mode=load", "training.draw.every=8", "training.draw.unit=steps",
        "scoring.scorer=generate", "scoring.decision=per_byte", "scoring.max_new_tokens=9", "task.metric=f1_macro",
        "task.max_length=64", "axes.seed=1", "axes.lora.alpha=1", "axes.lora.dropout=0.1", "axes.lora.rslora=true",
        "axes.steps=9", "axes.plw=1", "axes.lr=1", "axes.lora.r=3", "axes.lora.target_modules=all-linear",
        'templates.plain.marker=" >"', "templates.plain.system=x", 'templates.plain.words={no: " a", yes: " b"}',
    ],
)  # fmt: skip
def test_every_setting_of_training_and_scoring_changes_the_id(study, override: str) -> None:  # type: ignore[no-untyped-def]
    def first(loaded: Study) -> str:
        return make_trial(loaded, points_of(loaded)[0], content(loaded)).id  # type: ignore[index]

    assert first(study()) != first(study(override))


def test_spelling_does_not_change_the_id(study) -> None:  # type: ignore[no-untyped-def]
    loaded = study()
    point = points_of(loaded)[0]  # type: ignore[index]
    id_ = make_trial(loaded, point, content(loaded)).id
    same = {**point, "r": 4.0, "alpha": 32, "seed": 0.0, "plw": -0.0, "target_modules": ["v_proj", "q_proj", "q_proj"]}
    assert make_trial(loaded, same, content(loaded)).id == id_
    words = study('templates.plain.words={yes: " yes", no: " no"}')
    assert make_trial(words, point, content(words)).id == id_


def test_two_points_that_are_one_trial_are_refused_by_name(study) -> None:  # type: ignore[no-untyped-def]
    loaded = study(
        "templates.again={words: {no: ' no', yes: ' yes'}}",
        "axes.template=[plain, again]",
        "axes.pool=one",
        "axes.lora.r=4",
        "axes.lr=1",
    )
    with pytest.raises(StudyError) as error:
        make_trials(loaded, points_of(loaded) or [], content(loaded))
    assert str(error.value) == (
        "axes: the points template = plain and template = again are one trial: they differ only in name or spelling. Remove one"
    )


@given(rows=st.integers(1, 5000), epochs=st.floats(0.01, 20), batch=st.integers(1, 64))
def test_epochs_end_with_the_step_that_sees_the_last_row(rows: int, epochs: float, batch: int) -> None:
    mapping = {
        "name": "x", "model": {"path": "m"}, "axes": {"epochs": epochs}, "training": {"batch_size": batch},
        "task": {"rows": {"train": "a", "dev": "b", "test": "c"}, "fields": ["t"], "label": "l", "labels": ["a", "b"]},
        "pools": {"split": "p.yaml"},
    }  # fmt: skip
    steps = steps_of(Study.model_validate(mapping), {"epochs": epochs}, rows)
    assert steps >= 1
    assert steps * batch >= epochs * rows - 1e-3
    assert (steps - 1) * batch <= epochs * rows


def test_rungs_end_with_the_trial_and_never_fall_together(study) -> None:  # type: ignore[no-untyped-def]
    assert rungs_of(study(), 200) == (50, 100, 200)
    assert rungs_of(study("scheduler.name=none"), 200) == (200,)
    assert rungs_of(study("scheduler.rungs=[0.3,1]"), 10) == (3, 10)
    with pytest.raises(StudyError) as error:
        rungs_of(study(), 2)
    assert str(error.value) == (
        "scheduler.rungs = [0.25, 0.5, 1.0] has two rungs at the same step of a trial of 2 steps. Give fewer rungs or more steps"
    )


def test_a_part_of_the_rows_until_a_rung_is_part_of_the_trial(study) -> None:  # type: ignore[no-untyped-def]
    """In optimizer steps, since training counts those; rungs with all rows leave the id as it was."""
    point = (points_of(study()) or [])[0]

    def made(*overrides: str) -> t.Trial:
        return make_trial(study(*overrides), point, content(study(*overrides)))

    part = made("scheduler.rungs=[{at: 0.25, rows: 0.2}, {at: 0.5, rows: 0.5}, 1.0]")
    assert part.optimization.row_shares == ((50, 0.2), (100, 0.5))
    assert part.id != made().id
    assert t.Trial.from_json(json.loads(json.dumps(part.to_json()))) == part
    assert made("scheduler.rungs=[{at: 0.25, rows: 1}, 0.5, {at: 1}]").id == made().id
    assert made("scheduler.rungs=[{at: 0.25, rows: 0.2}, {at: 0.5, rows: 0.5}, 1]", "scheduler.name=none").id == part.id


# the model ----------------------------------------------------------------------------------------------------


@pytest.fixture
def model(llama_folder: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama_folder, tmp_path / "llama"))


def test_the_fingerprint_is_of_content_not_of_place(model: Path, tmp_path: Path) -> None:
    first = fingerprint_model(str(model))
    moved = shutil.copytree(model, tmp_path / "elsewhere")
    (moved / "README.md").write_text("not read")
    assert fingerprint_model(str(moved)) == first


@pytest.mark.parametrize("where", ["config", "header", "weights", "tokenizer"])
def test_a_change_of_weights_config_or_tokenizer_changes_the_fingerprint(model: Path, where: str) -> None:
    first = fingerprint_model(str(model))
    weights = model / "model.safetensors"
    if where == "config":
        (model / "config.json").write_text((model / "config.json").read_text().replace("256", "257", 1))
    elif where == "tokenizer":
        (model / "tokenizer.json").write_text("{}")
    else:
        data = bytearray(weights.read_bytes())
        at = data.index(b"embed_tokens") if where == "header" else len(data) - 5
        data[at] ^= 1
        weights.write_bytes(bytes(data))
    assert fingerprint_model(str(model)) != first


def test_a_folder_without_sound_weights_is_refused_with_the_remedy(model: Path) -> None:
    def said() -> str:
        with pytest.raises(UserError) as error:
            fingerprint_model(str(model))
        return str(error.value).replace(str(model), "F")

    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert (
        said() == "F/model.safetensors: is not a safetensors file (cut short, or a Git LFS pointer). Download it again"
    )
    (model / "model.safetensors").write_bytes(weights)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    assert said() == 'model.path = "F" lacks model-2.safetensors, which its index names. Download the rest'
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert said() == (
        'model.path = "F" holds pickled weights (pytorch_model.bin), which can run code when opened. '
        "Save them again with model.save_pretrained(folder), which writes model.safetensors"
    )
    (model / "pytorch_model.bin").unlink()
    assert said() == 'model.path = "F" has no weights: no *.safetensors file is in it'


def test_a_folder_that_is_not_there_brings_the_nearest(model: Path) -> None:
    with pytest.raises(StudyError, match=r'is no folder. Did you mean "llama"\? Known: llama$'):
        fingerprint_model(str(model.parent / "lama"))


def test_a_hub_name_that_cannot_be_had_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(StudyError, match=r"neither reachable nor downloaded.*hf download nobody/nothing$"):
        fingerprint_model("nobody/nothing")


def test_a_downloaded_hub_model_counts_by_its_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, study) -> None:  # type: ignore[no-untyped-def]
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--org--name"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    download = huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: download(*a, cache_dir=tmp_path, **k))
    made = model_of(study("model.path=org/name").model)
    assert made.revision == commit
    assert made.fingerprint == fingerprint_model("org/name", commit) == fingerprint_model("org/name")


def test_shapes_are_read_from_the_headers_alone(llama_folder: str) -> None:
    shapes = tensor_shapes(llama_folder)
    assert shapes["model.layers.1.self_attn.k_proj.weight"] == (32, 64)
    assert shapes["lm_head.weight"] == (256, 64)
