"""Tampered run folders through the commands, in one process: each answers or says in a line why not, and none names
another winner (CASES V3, B2, B4, B6; the issue's fuzz over run folders)."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import example, given, seed, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from tampering import TEXTS, tamper
from tiny_run import LABELLED, make_run

from sweeps.cli.exit_codes import main
from sweeps.report.write import write_report
from sweeps.run_folder.reading import RunFolder
from sweeps.run_folder.trials_file import study_checksum, write_trials
from trainer.store import Store

CPU_SECONDS = 20.0  # of one command, at most
STEPS = 45  # after which all trials tell the labels apart, so that each of them could win
SEEDS = st.integers(0, 2**32 - 1)


class Whole(NamedTuple):
    """An undamaged run folder, its winner, and what is exported of it."""

    folder: Path
    winner: str
    exported: dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    place = tmp_path_factory.mktemp("whole")
    uri, _ = make_run(place, LABELLED, sound=True, axes={"lr": [5e-3, 7e-3, 1e-2], "steps": STEPS})
    record_everything(uri)
    write_report(uri)
    [winner] = [r["trial_id"] for r in RunFolder(Store.open(uri)).robustness() if r["winner"]]
    assert command("report", uri)[0] == 0
    assert command("export", uri, "--to", str(place / "out"))[0] == 0
    return Whole(Path(uri), winner, exported(place / "out"))


def record_everything(uri: str) -> None:
    """``trials.parquet`` as the driver of a sweep writes it."""
    store = Store.open(uri)
    run = RunFolder(store)
    found = {row["trial_id"]: row for row in run.robustness()}
    rows = []
    for row in run.trials:
        of = found[row["trial_id"]]
        scores = {"objective": of["dev_objective"], "stderr": of["dev_stderr"], "degenerate": of["degenerate"]}
        test = {"test_mean": of["mean"], "test_std": of["std"], "test_degenerate": of["degenerate"]}
        rows.append({**row, **scores, **test, "state": "finished"})
    state = {"began": 1.0, "written": 2.0, "steps_per_s": None, "over": True}
    write_trials(store, rows, {**state, "study": study_checksum(store.read("study.yaml"))})


def command(*arguments: str) -> tuple[int, str]:
    """The command's exit code and all that it says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0), said.getvalue()


def answered(what: str, *arguments: str, codes: tuple[int, ...] = (0, 2)) -> tuple[int, str]:
    """As ``command``, which has to end well or with a line."""
    start = time.process_time()
    code, said = command(*arguments)
    assert time.process_time() - start < CPU_SECONDS, what
    assert code in codes, f"{what}\n{said}"
    assert "unexpected" not in said, f"{what}\n{said}"
    assert "Traceback" not in said, f"{what}\n{said}"
    assert (code == 2) == any(line.startswith("error: ") for line in said.splitlines()), f"{what}\n{said}"
    return code, said


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def exported(folder: Path) -> dict[str, Any]:
    template = json.loads((folder / "template.json").read_text())
    weights = load((folder / "adapter_model.safetensors").read_bytes())
    config = json.loads((folder / "adapter_config.json").read_text())
    return {
        "trial": template["trial"], "id": template["trial_id"], "counts": template["label_counts"],
        "r": config["r"], "alpha": config["lora_alpha"], "modules": config["target_modules"],
        "weights": {name: value.tobytes() for name, value in weights.items()},
    }  # fmt: skip


def check(whole: Whole, place: Path, number: int) -> None:
    """One tampered copy of the folder through ``report``, ``watch`` and ``export``."""
    shutil.rmtree(place, ignore_errors=True)
    run, outside, out = place / "run", place / "outside", place / "out"
    shutil.copytree(whole.folder, run)
    outside.mkdir()
    (outside / "mine.txt").write_text("mine")
    what = f"seed {number}: {tamper(run, outside, number)}"
    beside = files_in(outside)  # tampering may have written through a link that it made before
    answered(what, "watch", str(run), "--once")
    code, said = answered(what, "export", str(run), "--to", str(out))
    if code == 0:
        assert exported(out) == whole.exported, f"{what}\n{said}"
    shutil.rmtree(run / "tables", ignore_errors=True) if not (run / "tables").is_symlink() else None
    code, said = answered(what, "report", str(run))
    table = run / "tables" / "robustness.parquet"
    if table.is_file():
        winners = [r["trial_id"] for r in RunFolder(Store.open(run)).robustness() if r["winner"]]
        assert winners in ([], [whole.winner]) or (code == 2 and "trials.parquet" in said), f"{what}\n{said}"
    assert files_in(outside) == beside, what


@pytest.fixture
def copy(whole: Whole, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole.folder, tmp_path / "run"))


def winners(run: Path) -> list[str]:
    return [r["trial_id"] for r in RunFolder(Store.open(run)).robustness() if r["winner"]]


def test_a_folder_of_before_is_read_and_marked_as_not_checked(whole: Whole, copy: Path, tmp_path: Path) -> None:
    """Without checksums, as earlier versions wrote it."""
    for path in [*copy.glob("scores/*/*.parquet"), copy / "trials.parquet"]:
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({b"steadytune": table.schema.metadata[b"steadytune"]}), path)
    for path in [*copy.glob("adapters/*/*.safetensors"), *copy.glob("checkpoints/*/*.safetensors")]:
        path.write_bytes(save(load(path.read_bytes()), {"trial_id": path.parent.name, "step": "45"}))
    code, said = command("report", str(copy))
    assert code == 0, said
    assert "Not checked: 7 of the files read have no checksum" in said
    assert "- Not checked: " in (copy / "tables" / "robustness.md").read_text()
    assert "Not checked: 7 of" in (copy / "report.html").read_text()
    assert winners(copy) == [whole.winner]
    assert command("export", str(copy), "--to", str(tmp_path / "out"))[0] == 0
    assert exported(tmp_path / "out") == whole.exported


def test_lost_test_scores_of_the_best_trial_crown_no_other(whole: Whole, copy: Path) -> None:
    """CASES V3: they say whether it gives one label nearly always. Where that is recorded, it stays the winner."""
    (copy / "scores" / whole.winner / "000045-test.parquet").unlink()
    code, said = command("report", str(copy))
    assert (code, winners(copy)) == (2, [whole.winner])
    assert f"error: {copy}/scores/{whole.winner}/000045-test.parquet: is missing. Run the study again" in said
    run = RunFolder(Store.open(copy))
    rows = [{**row, "test_degenerate": None} for row in run.trials]
    write_trials(run.store, rows, {"study": run.driver_state.study})
    code, said = command("report", str(copy))
    assert (code, winners(copy)) == (2, [])
    page = (copy / "tables" / "robustness.md").read_text()
    assert f"No winner: the test scores of trial {whole.winner}, the best on the dev prompts, are missing" in page
    code, said = command("export", str(copy), "--to", str(copy.parent / "out"))
    assert code == 2
    assert "there is no winner: the test scores of trial" in said


def test_a_missing_earlier_rung_is_told(whole: Whole, copy: Path) -> None:
    """Its points would be missing in the learning curve without a word."""
    study = yaml.safe_load((copy / "study.yaml").read_text())
    study["scheduler"] |= {"name": "asha", "rungs": [0.5, 1.0]}
    (copy / "study.yaml").write_text(yaml.safe_dump(study))
    run = RunFolder(Store.open(copy))
    write_trials(run.store, run.trials, {"study": study_checksum((copy / "study.yaml").read_bytes())})
    code, said = command("report", str(copy))
    assert code == 2
    assert said.count("000023-dev.parquet: is missing") >= 3


def test_scores_that_differ_from_what_was_recorded_do_not_decide(whole: Whole, copy: Path) -> None:
    run = RunFolder(Store.open(copy))
    found = run.store.read_scores(whole.winner, STEPS, "dev")
    assert found is not None
    rows, record = found
    wrong = [{"no": "yes", "yes": "no"}[label] for label in rows["label"].to_pylist()]
    rows = rows.set_column(6, "predicted", pa.array(wrong)).set_column(7, "correct", pa.array([False] * len(wrong)))
    run.store.write_scores(whole.winner, STEPS, "dev", rows, record)
    code, said = command("report", str(copy))
    assert (code, winners(copy)) == (2, [whole.winner])
    assert f"{whole.winner}/000045-dev.parquet: gives an objective of 0, and trials.parquet says " in said


def test_an_edited_study_is_refused(copy: Path) -> None:
    """By other settings another trial could win."""
    text = (copy / "study.yaml").read_text()
    (copy / "study.yaml").write_text(text.replace("std_weight", "# std_weight", 1) + "\n")
    code, said = command("report", str(copy))
    assert code == 2
    assert "study.yaml: was changed after trials.parquet was written" in said


@pytest.mark.parametrize("what", ["adapter", "config", "older"])
def test_a_damaged_adapter_is_taken_from_the_checkpoint(whole: Whole, copy: Path, tmp_path: Path, what: str) -> None:
    """CASES V3, of what is exported: the flipped byte of a weight was silent."""
    folder = copy / "adapters" / whole.winner
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    if what == "adapter":
        data = weights.read_bytes()
        weights.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    elif what == "older":  # of a process that died before it wrote the checkpoint of a later rung
        weights.write_bytes(save(load(weights.read_bytes()), {"step": "15"}))
    else:
        config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 7}))
    code, said = command("export", str(copy), "--to", str(tmp_path / "out"))
    assert code == 0, said
    assert exported(tmp_path / "out") == whole.exported


@pytest.mark.parametrize("name", ["study.yaml", "trials.parquet"])
def test_a_file_of_another_kind_is_a_line(copy: Path, name: str) -> None:
    """CASES B2 (aliases nested nine deep in study.yaml) and B4 (empty study.yaml in watch; cut trials.parquet)."""
    for i, text in enumerate(TEXTS):
        (copy / name).write_bytes(text)
        for arguments in (["watch", str(copy), "--once"], *([["report", str(copy)]] if i % 4 == 0 else [])):
            code, said = answered(f"{name}: {text[:20]!r}", *arguments)
            assert code == 2
            assert f"{copy}/{name}: " in said
            assert len(said.splitlines()) == 1


@pytest.mark.parametrize("name", ["tables", "report.html"])
def test_a_report_is_not_written_through_a_link(copy: Path, tmp_path: Path, name: str) -> None:
    """CASES B6."""
    (tmp_path / "mine").mkdir()
    for theirs in ("robustness.md", "report.html"):
        (tmp_path / "mine" / theirs).write_text("mine")
    shutil.rmtree(copy / name) if name == "tables" else (copy / name).unlink()
    (copy / name).symlink_to(tmp_path / "mine" / ("" if name == "tables" else name))
    code, said = command("report", str(copy))
    assert code == 2
    assert f"{copy}/{name} is a link that leads out of the run folder" in said
    assert {p.read_text() for p in (tmp_path / "mine").iterdir()} == {"mine"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tampered") / "one"


@settings(max_examples=20, derandomize=True, deadline=None, database=None)
@given(number=SEEDS)
def test_a_tampered_run_folder_never_names_another_winner(whole: Whole, place: Path, number: int) -> None:
    check(whole, place, number)


def in_the_way(whole: Whole, run: Path) -> list[Path]:
    """What ``run`` does not mend, since it would have to remove what it has not written: a link in the place of a file
    or folder, a folder in the place of a file, and a file in the place of a folder."""
    places = (run / path.relative_to(whole.folder) for path in whole.folder.rglob("*"))
    return [p for p in places if p.is_symlink() or (p.exists() and p.is_dir() != is_folder(whole, run, p))]


def is_folder(whole: Whole, run: Path, place: Path) -> bool:
    return (whole.folder / place.relative_to(run)).is_dir()


def values(run: Path) -> list[dict[str, Any]]:
    """What the table says of each trial, but for how long it took."""
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in RunFolder(Store.open(run)).robustness()]


def answers(run: Path) -> dict[str, list[Any]]:
    """The score rows of every trial, by trial and pool, but for the log-probabilities."""
    store, found = Store.open(run), {}
    for trial in store.folders("scores"):
        for pool in ("dev", "test"):
            scores = store.load_scores(trial, STEPS, pool)
            assert scores is not None, (trial, pool)
            found[f"{trial} {pool}"] = scores[0].drop_columns(["label_logprobs"]).to_pylist()
    return found


def check_run(whole: Whole, undisturbed: Path, place: Path, number: int) -> str:
    """One tampered copy of the folder through ``run``: it ends as the undisturbed one. What was done and came of it."""
    shutil.rmtree(place, ignore_errors=True)
    run, outside = place / "run", place / "outside"
    shutil.copytree(whole.folder, run)
    outside.mkdir()
    (outside / "mine.txt").write_text("mine")
    what = f"seed {number}: {tamper(run, outside, number)}"
    hindrances, beside = in_the_way(whole, run), files_in(outside)
    code, said = answered(what, "run", str(whole.folder.parent / "tiny.yaml"), "--out", str(run), codes=(0, 1, 2))
    assert files_in(outside) == beside, what
    if code == 1:  # found when a trial's test scores were to be written: that trial fails, the others are ranked
        failed = next(line for line in said.splitlines() if " failed: " in line)
        assert any(str(p) in failed for p in hindrances), f"{what}\n{said}"
        kept = {row["trial_id"]: row for row in values(run) if row["trial_id"] not in failed}
        expected = {row["trial_id"]: row for row in values(undisturbed) if row["trial_id"] in kept}
        same = ("mean", "std", "dev_objective")
        assert kept
        for trial, row in kept.items():
            assert [row[k] for k in same] == [expected[trial][k] for k in same], f"{what}\n{said}"
        return f"{what}: {failed}"
    if code == 2:
        assert any(str(p) in said.splitlines()[-1] for p in hindrances), f"{what}\n{said}"
        return f"{what}: {said.splitlines()[-1]}"
    assert winners(run) == [whole.winner], f"{what}\n{said}"
    assert values(run) == values(undisturbed), f"{what}\n{said}"
    assert answers(run) == answers(undisturbed), f"{what}\n{said}"
    code, said = answered(what, "report", str(run))
    assert (code, winners(run)) == (0, [whole.winner]), f"{what}\n{said}"
    return what


@pytest.mark.long
@seed(19)
@settings(max_examples=50, deadline=None, database=None)
@given(number=SEEDS)
@example(number=20094)  # a folder in the place of a trial's test scores
def test_fifty_tampered_run_folders_are_run_again(
    whole: Whole, undisturbed: Path, place: Path, on_ray: None, number: int
) -> None:
    """``run`` makes anew what is damaged, with the undamaged run's winner and values. Where something else stands in
    the place of a file, it says so."""
    check_run(whole, undisturbed, place, number)


@pytest.fixture(scope="module")
def undisturbed(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undamaged folder after another ``run``, which has nothing to train in it."""
    run = Path(shutil.copytree(whole.folder, tmp_path_factory.mktemp("undisturbed") / "run"))
    assert command("run", str(whole.folder.parent / "tiny.yaml"), "--out", str(run))[0] == 0
    return run


@pytest.fixture(scope="module")
def on_ray() -> Iterator[None]:
    """One local Ray for all runs."""
    import ray

    from cluster.connect import connected

    with connected(1.0):
        yield
    ray.shutdown()


@pytest.mark.long
@seed(19)
@settings(max_examples=1000, deadline=None, database=None)
@given(number=SEEDS)
@example(number=1778)  # a file written through a link that leads out
def test_a_thousand_tampered_run_folders(whole: Whole, place: Path, number: int) -> None:
    check(whole, place, number)
