"""``tables/ensembles`` from score files: numbers by hand, the base model, and what has no label log-probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import yaml

from sweeps.report.ensembles import part_of_run
from sweeps.run_folder.reading import RunFolder
from sweeps.study.load import resolved
from sweeps.study.study import Study
from sweeps.tables import ensembles
from sweeps.tables.columns import Settings
from sweeps.tables.robustness import write_tables
from trainer.measure.design import balanced, sample_size
from trainer.store import SCORES, Store

P, R, DEV_YES = 10, 40, 6
TRUTH = np.random.default_rng(0).integers(0, 2, R)
PROMPTS, ROWS = [f"x{i}" for i in range(P)], [f"r{i:02d}" for i in range(R)]
LABELLED = {"label": "label", "labels": ["no", "yes"]}


def study(task: dict[str, Any], **more: Any) -> Study:
    rows = {use: {"path": f"{use}.jsonl"} for use in ("train", "dev", "test")}
    arms = {"base": {"pool": "many", "steps": 0}, "paft": {"pool": "many"}}
    pools = {"train": {"many": "train.yaml"}, "dev": "dev.yaml", "test": "test.yaml"}
    task = {"rows": rows, "fields": ["text"], **task}
    made = {"name": "asked", "model": {"path": "m"}, "task": task, "pools": pools, "arms": arms, "axes": {"steps": 40}}
    return Study.model_validate({**made, "scheduler": {"name": "none"}, **more})


def logprobs(seed: int, clear: float, k: int = 2, n: int = R, truth: Any = TRUTH) -> Any:
    """[P, n, k]: every prompt leans to some label."""
    rng = np.random.default_rng(seed)
    right = np.arange(k) == truth[:n, None]
    return -3 + clear * right + 0.8 * rng.standard_normal((P, 1, k)) + rng.standard_normal((P, n, k))


def score_rows(values: Any, names: list[str], pool: str, keep: Any = None, texts: bool = False) -> pa.Table:
    found = []
    for j, prompt in enumerate(PROMPTS[: len(values)]):
        for i in range(values.shape[1]):
            if keep is not None and not keep[j, i]:
                continue
            label, given = names[TRUTH[i] % len(names)], names[int(values[j, i].argmax())]
            found.append(
                {
                    "trial_id": "", "rung": 0, "pool": pool, "prompt_id": prompt, "row_id": ROWS[i], "label": label,
                    "predicted": given, "correct": label == given, "new_tokens": 1 if texts else None,
                    "label_logprobs": None if texts else values[j, i].tolist(),
                }
            )  # fmt: skip
    return pa.Table.from_pylist(found, schema=SCORES)


def run_folder(path: Path, made: Study, trials: dict[str, tuple[int, Any]], names: list[str], **how: Any) -> RunFolder:
    """``trials``: id -> steps, and log-probabilities on the test rows."""
    store = Store.open(path)
    store.write("study.yaml", yaml.safe_dump(resolved(made)).encode())
    lines = []
    record: dict[str, Any] = {"trial": {"task": {"labels": list(made.task.names)}}}
    for trial_id, (steps, values) in trials.items():
        dev = score_rows(values[:2], names, "dev", texts=how.get("texts", False))
        sample = {"sample": {"cells": int(how["keep"].sum()), "prompts": P, "rows": R}} if "keep" in how else {}
        for pool, table, more in (("dev", dev, {}), ("test", score_rows(values, names, "test", **how), sample)):
            table = table.set_column(0, "trial_id", pa.array([trial_id] * len(table), pa.string()))
            table = table.set_column(1, "rung", pa.array([steps] * len(table), pa.int32()))
            store.write_scores(trial_id, steps, pool, table, {**record, **more})
        axes = {"template": "plain", "r": 8, "alpha": 16.0, "dropout": 0.0, "target_modules": "all-linear"}
        axes |= {"rslora": False, "lr": 1e-3, "steps": steps, "plw": 0.0, "pool": "many", "seed": 0}
        axes["arm"] = "paft" if steps else "base"
        lines.append({"trial_id": trial_id, **axes, "status": "finished", "rung": steps, "reason": ""})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(lines), sink)
    store.write("trials.parquet", sink.getvalue().to_pybytes())
    write_tables(RunFolder(store), Settings.of(made))
    return RunFolder(store)


TUNED, BASE = logprobs(1, 2.5), logprobs(2, 1.0)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    made = study({**LABELLED, "metric": "f1_macro"})
    return run_folder(tmp_path / "run", made, {"aa": (40, TUNED), "bb": (0, BASE)}, ["no", "yes"])


def rows_of(table: pa.Table, **wanted: Any) -> list[dict[str, Any]]:
    return [r for r in table.to_pylist() if all(r[k] == v for k, v in wanted.items())]


def test_numbers_are_those_of_the_log_probabilities(run: RunFolder) -> None:
    table = ensembles.ensembles(run)
    for trial_id, values in (("aa", TUNED), ("bb", BASE)):
        of = {"trial_id": trial_id, "metric": "accuracy"}
        found = rows_of(table, method="probabilities", **of)
        assert [r["wordings"] for r in found] == [1, 2, 4, 8, P]
        assert [r["draws"] for r in found] == [P, 45, 200, 45, 1]
        shares = np.exp(values) / np.exp(values).sum(axis=2, keepdims=True)
        assert found[-1]["value"] == pytest.approx((shares.mean(axis=0).argmax(axis=1) == TRUTH).mean())
        pairs = [(i, j) for i in range(P) for j in range(i)]
        each = [((shares[i] + shares[j]).argmax(axis=1) == TRUTH).mean() for i, j in pairs]
        assert found[1]["value"] == pytest.approx(np.mean(each))
        shift = values - values.mean(axis=1, keepdims=True) + np.log(np.bincount(TRUTH) / R)  # dev has the same rows
        shares = np.exp(shift) / np.exp(shift).sum(axis=2, keepdims=True)
        calibrated = rows_of(table, method="calibrated", **of)
        assert calibrated[-1]["value"] == pytest.approx((shares.mean(axis=0).argmax(axis=1) == TRUTH).mean())
        assert all(r["value_low"] <= r["value"] <= r["value_high"] for r in found)
        assert found[-1]["value"] > found[0]["value"]


def test_one_wording_is_the_tables_line_and_the_studys_metric_is_there(run: RunFolder) -> None:
    table, rows = ensembles.ensembles(run), {r["trial_id"]: r for r in run.robustness()}
    for trial_id in ("aa", "bb"):
        [one] = rows_of(table, trial_id=trial_id, method="vote", metric="f1_macro", wordings=1)
        for ours, theirs in (("value", "mean"), ("value_low", "mean_low"), ("value_high", "mean_high")):
            assert one[ours] == pytest.approx(rows[trial_id][theirs])


def test_a_metric_that_ranks_rows_has_no_vote(tmp_path: Path) -> None:
    made = study({**LABELLED, "metric": "roc_auc"})
    folder = run_folder(tmp_path / "run", made, {"aa": (40, TUNED), "bb": (0, BASE)}, ["no", "yes"])
    table, rows = ensembles.ensembles(folder), {r["trial_id"]: r for r in folder.robustness()}
    assert rows_of(table, method="vote", metric="roc_auc") == []
    assert len(rows_of(table, method="vote", metric="accuracy")) == 2 * 5
    [one] = rows_of(table, trial_id="aa", method="probabilities", metric="roc_auc", wordings=1)
    for ours, theirs in (("value", "mean"), ("value_low", "mean_low"), ("value_high", "mean_high")):
        assert one[ours] == pytest.approx(rows["aa"][theirs])
    assert "roc_auc, percent over wordings asked" in ensembles.figure(table, made)


def test_the_base_model_is_told_and_asked_for(run: RunFolder, tmp_path: Path) -> None:
    assert {r["trial_id"] for r in rows_of(ensembles.ensembles(run), base=True)} == {"bb"}
    page = ensembles.page(ensembles.ensembles(run), run.study)
    assert "| bb, base model | probabilities |" in page
    assert "steps: 0" not in page
    alone = run_folder(tmp_path / "alone", study(LABELLED), {"aa": (40, TUNED)}, ["no", "yes"])
    assert "an arm with `steps: 0` adds it" in ensembles.page(ensembles.ensembles(alone), alone.study)


def test_all_forms_agree_and_the_report_draws_the_curves(run: RunFolder) -> None:
    source = str(part_of_run(run))
    folder = Path(run.store.uri) / "tables"
    table = pq.read_table(folder / "ensembles.parquet")
    assert table.schema.remove_metadata() == ensembles.SCHEMA
    assert table.num_rows == 2 * 3 * 2 * 5
    assert pacsv.read_csv(folder / "ensembles.csv").column_names == table.column_names
    assert (folder / "ensembles.md").read_text().count("\n| ") == 2 + 2 * 3 * 2
    assert "Asking in several wordings" in source
    assert "f1_macro, percent over wordings asked" in source
    assert "bb, base model" in source


def test_generated_answers_have_a_vote_only(tmp_path: Path) -> None:
    made = study(LABELLED, scoring={"scorer": "generate"})
    found = run_folder(tmp_path / "run", made, {"aa": (40, TUNED)}, ["no", "yes"], texts=True)
    table = ensembles.ensembles(found)
    assert {r["method"] for r in table.to_pylist()} == {"vote"}
    assert {r["note"] for r in table.to_pylist()} == {ensembles.GENERATED}
    assert "no label log-probabilities" in ensembles.page(table, made)
    assert ensembles.figure(table, made)


def test_of_a_sample_nothing_is_claimed(tmp_path: Path) -> None:
    size = sample_size(0.5, P, R)
    keep = balanced(PROMPTS, ROWS, [("no", "yes")[t] for t in TRUTH], size.cells)
    found = run_folder(tmp_path / "run", study(LABELLED), {"aa": (40, TUNED)}, ["no", "yes"], keep=keep)
    [row] = ensembles.ensembles(found).to_pylist()
    assert (row["value"], row["note"]) == (None, ensembles.SAMPLED)
    assert "not available from a sample" in ensembles.page(ensembles.ensembles(found), found.study)
    assert ensembles.figure(ensembles.ensembles(found), found.study) == ""


def test_options_are_the_numbers_of_the_log_probabilities(tmp_path: Path) -> None:
    """Twelve options of which most are never right and never given: texts of numbers sort otherwise than numbers."""
    values = logprobs(3, 1.0, 12)
    made = study({"label": "right", "options": "choices"})
    names = [str(i) for i in range(12)]
    found = run_folder(tmp_path / "run", made, {"aa": (40, values)}, names)
    rows = rows_of(ensembles.ensembles(found), method="probabilities")
    shares = np.exp(values) / np.exp(values).sum(axis=2, keepdims=True)
    assert rows[0]["value"] == pytest.approx((values.argmax(axis=2) == TRUTH % 12).mean())
    assert rows[-1]["value"] == pytest.approx((shares.mean(axis=0).argmax(axis=1) == TRUTH % 12).mean())
