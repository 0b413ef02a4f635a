"""An export is read back by peft before it is written, and what ``predict`` is given is what was written (CASES V8, B4,
B7)."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from safetensors.torch import load_file, save_file
from tampered_exports import bounded, sign, tamper

from sweeps.cli import main
from sweeps.export.export import export
from sweeps.export.predict import predict
from trainer.errors import UserError
from trainer.store import Store
from trainer.trial import Trial

Run = tuple[str, list[Trial]]


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_run.made("labels", tmp_path_factory)


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Run:
    """A run folder that a test may change."""
    return str(shutil.copytree(run[0], tmp_path / "copy")), run[1]


@pytest.fixture
def folder(run: Run, tmp_path: Path) -> Path:
    """An export that a test may change."""
    return Path(export(run[0], run[1][-1].id, str(tmp_path / "out")))


@pytest.fixture
def as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run folder's adapter is taken as it is, not mended from the checkpoint."""
    monkeypatch.setattr("sweeps.export.export.sound_adapter", lambda run, trial, step, files: files)


def refused(uri: str, trial: Trial, to: Path) -> str:
    with pytest.raises(UserError) as error:
        export(uri, trial.id, str(to))
    assert not to.exists() or not list(to.iterdir()), "nothing is written"
    return str(error.value)


def config_of(uri: str, trial: Trial) -> tuple[Path, dict[str, Any]]:
    at = Path(uri, "adapters", trial.id, "adapter_config.json")
    return at, json.loads(at.read_text())


@pytest.mark.usefixtures("as_it_is")
def test_an_adapter_that_peft_reads_otherwise_is_not_exported(copy: Run, tmp_path: Path) -> None:
    """CASES V8: layers that peft leaves out or adds, and another scale."""
    uri, trials = copy
    trial = next(t for t in trials if t.lora.target_modules == ("all-linear",))
    at, config = config_of(uri, trial)
    left = [n for n in config["target_modules"] if n != "v_proj"]
    at.write_text(json.dumps({**config, "target_modules": left}))
    output = refused(uri, trial, tmp_path / "out")
    assert (
        "was not exported: peft does not read 4 tensors of the adapter as they are, such as base_model.model.mo"
        in output
    )
    at.write_text(json.dumps({**config, "lora_alpha": config["lora_alpha"] * 2}))
    assert "was not exported, as peft gives other outputs with it than steadytune" in refused(
        uri, trial, tmp_path / "out"
    )
    at.write_text(json.dumps({**config, "target_modules": ["nonesuch"]}))
    assert "was not exported, as peft cannot read it (NoMatchingPeftModuleError: " in refused(
        uri, trial, tmp_path / "out"
    )
    narrow = next(t for t in trials if t.lora.target_modules != ("all-linear",))
    at, config = config_of(uri, narrow)
    at.write_text(json.dumps({**config, "target_modules": [*config["target_modules"], "o_proj"]}))
    assert "peft does not read 4 tensors of the adapter" in refused(uri, narrow, tmp_path / "out")


@pytest.mark.usefixtures("as_it_is")
def test_a_damaged_adapter_is_not_exported(copy: Run, tmp_path: Path) -> None:
    uri, trials = copy
    at = Path(uri, "adapters", trials[0].id, "adapter_model.safetensors")
    at.write_bytes(at.read_bytes()[:-3])
    assert "its adapter is damaged" in refused(uri, trials[0], tmp_path / "out")


def test_what_could_not_be_compared_says_so(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The base model is away, or its files have changed."""
    uri, trials = run
    assert "Not compared" not in Path(export(uri, trials[0].id, str(tmp_path / "a")), "README.md").read_text()
    assert not caplog.text
    import sweeps.export.merged as module

    monkeypatch.setattr(module, "fingerprint_model", lambda *_: "another")
    card = Path(export(uri, trials[0].id, str(tmp_path / "b")), "README.md").read_text()
    said = f'the files of its base model "{trials[0].model.path}" are not those of the training'
    assert f"Not compared: whether peft reads this adapter as it was trained was not tried, since {said}." in card
    assert caplog.messages == [f"the export was not read back by peft: {said}"]
    model = Path(trials[0].model.path)
    away = model.rename(model.with_name("away"))
    try:
        card = Path(export(uri, trials[0].id, str(tmp_path / "c")), "README.md").read_text()
    finally:
        away.rename(model)
    assert f'was not tried, since its base model "{model}" is not at hand.' in card


def test_a_flipped_byte_of_an_export_is_told(run: Run, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = tiny_run.data(run[0], "test.jsonl")
    for name in ("adapter_model.safetensors", "adapter_config.json", "template.json"):
        at = folder / name
        whole = at.read_bytes()
        at.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        with pytest.raises(UserError, match=r"is not the file that was exported|is not what export writes"):
            predict(str(folder), rows, None)
        at.write_bytes(whole)
    predict(str(folder), rows, None)
    assert not caplog.text
    (folder / "SHA256SUMS").unlink()
    predict(str(folder), rows, None)
    assert [m for m in caplog.messages if "unchecked, as it has no SHA256SUMS" in m] == caplog.messages
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("name", ["labels", "generate", "classifier", "options"])
@pytest.mark.parametrize(("value", "message"), [
    (float("nan"), "holds NaN or infinite weights (base_model.model."),
    (3e38, 'rows: "r32", "r33", "r34", "r35", "r36" and 11 more: the model gives NaN or infinite log-probabilities'),
])  # fmt: skip
def test_weights_that_give_nan_are_an_error_that_names_rows(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, name: str, value: float, message: str
) -> None:
    """CASES B7: nothing is written."""
    uri, trials = tiny_run.made(name, tmp_path_factory)
    folder = Path(export(uri, trials[-1].id, str(tmp_path / "out")))
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({k: torch.full_like(v, value) for k, v in tensors.items()}, folder / "adapter_model.safetensors")
    sign(folder)
    with pytest.raises(UserError) as error:
        predict(str(folder), tiny_run.data(uri, "test.jsonl"), str(tmp_path / "answers.jsonl"))
    assert message in str(error.value)
    assert not (tmp_path / "answers.jsonl").exists()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("trial", "lora", "r"), "8", "trial.lora.r: Input should be a valid integer"),
        (("trial", "lora", "r"), True, "trial.lora.r: Input should be a valid integer"),
        (("trial", "lora", "r"), 10**9, "template.json says rank 1000000000, and base_model.model."),
        (("trial", "lora", "alpha"), float("nan"), "trial.lora.alpha is no number"),
        (("trial", "task", "labels"), "no", "trial.task.labels: Input should be a valid"),
        (("trial", "task", "labels"), ["no", "no"], "trial.task.labels names a label twice"),
        (("trial", "task", "metric"), "luck", "trial.task.metric is not known. Known: accuracy, balanced_accuracy"),
        (("trial", "template", "words"), [["no"]], "trial.template.words.0"),
        (("trial", "template", "marker"), "\ud800", "UnicodeEncodeError"),
        (("trial", "scoring", "max_new_tokens"), 10**9, "trial.scoring.max_new_tokens is out of range"),
        (("trial", "model", "dtype"), "int8", "trial.model.dtype: Input should be 'float32', 'bfloat16' or 'float16'"),
        (("fields",), [], "fields is empty"),
        (("fields",), [1], "fields.0: Input should be a valid string"),
        (("prompt", "text"), 7, "prompt.text: Input should be a valid string"),
        (("label_counts",), {"no": "8"}, "label_counts.no: Input should be a valid integer"),
        (("label_counts",), {"no": -8}, "label_counts has a number below 0"),
        (("format",), [1], "format = [1] is not known"),
    ],
)
def test_wrong_types_in_the_template_file(
    run: Run, folder: Path, place: tuple[str, ...], value: Any, message: str
) -> None:
    """CASES B4."""
    at = folder / "template.json"
    about = json.loads(at.read_text())
    part = about
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    at.write_text(json.dumps(about))
    sign(folder)
    with pytest.raises(UserError) as error:
        predict(str(folder), tiny_run.data(run[0], "test.jsonl"), None)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def predicted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[int], str]:
    """Seed -> what went wrong with ``predict`` on an export that was tampered with; nothing: empty."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("STEADYTUNE_DEBUG", raising=False)
    uri, trials = run
    sound = Path(export(uri, trials[-1].id, str(tmp_path / "sound")))
    other = Path(export(uri, trials[0].id, str(tmp_path / "other")))
    rows = tiny_run.write_rows(tmp_path / "rows.jsonl", tiny_run.rows(3))

    def try_seed(seed: int) -> str:
        folder = tmp_path / "tampered"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(sound, folder)
        how = tamper(folder, random.Random(seed), other)
        answers = tmp_path / "answers.jsonl"
        answers.unlink(missing_ok=True)
        with bounded(), pytest.raises(SystemExit) as end:
            main(["predict", str(folder), "--rows", rows, "--out", str(answers)])
        said = capsys.readouterr().err
        if end.value.code == 0:
            found = [json.loads(line) for line in answers.read_text().splitlines()]
            return "" if len(found) == 3 else f"{seed} ({how}): {found}"
        fine = (
            end.value.code == 2 and said.startswith("error: ") and "unexpected" not in said and "Traceback" not in said
        )
        return "" if fine and not answers.exists() else f"{seed} ({how}): {end.value.code} {said[-600:]}"

    return try_seed


def test_tampered_exports_are_answered_or_refused_in_a_line(predicted: Callable[[int], str]) -> None:
    """CASES B4: 40 of the seeds that the long test tries."""
    assert [wrong for seed in range(40) if (wrong := predicted(seed))] == []


@pytest.mark.long
def test_many_tampered_exports(predicted: Callable[[int], str]) -> None:
    assert [wrong for seed in range(500) if (wrong := predicted(seed))] == []


def test_the_exports_store_is_read_as_it_is(run: Run, folder: Path) -> None:
    """The checksums are those that ``sha256sum -c`` takes."""
    from hashlib import sha256

    lines = Store.open(str(folder)).read("SHA256SUMS").decode().splitlines()
    for line in lines:
        digest, name = line.split("  ")
        assert digest == sha256((folder / name).read_bytes()).hexdigest()
    assert [line.split("  ")[1] for line in lines] == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "reference.json",
        "template.json",
    ]
