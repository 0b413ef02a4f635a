"""``prompts show``: near duplicates, flaws, and accuracies that are those of the run folder's score rows."""

from __future__ import annotations

import csv
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from checkout import ROOT
from prompt_tasks import steadytune
from scipy.stats import binomtest
from tiny_run import PROMPTS, made, without_checksum

from sweeps.prompts.accuracy import Accuracy, as_lines, in_one_line, list_prompts, pool_accuracies
from sweeps.run_folder.reading import RunFolder
from trainer.data.wording import Prompt
from trainer.errors import UserError
from trainer.store import Store


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return made("labels", tmp_path_factory)[0]


def shares(run: str, trial: str, pool: str) -> dict[str, float]:
    """Prompt id -> share of right answers, counted from the file."""
    file = sorted(Path(run).glob(f"scores/{trial}/*-{pool}.parquet"))[-1]
    found: dict[str, list[bool]] = {}
    for row in pq.read_table(file).to_pylist():
        found.setdefault(row["prompt_id"], []).append(row["correct"])
    return {i: sum(c) / len(c) for i, c in found.items()}


@pytest.mark.parametrize("pool", ["test", "dev"])
def test_accuracies_are_those_of_the_score_rows(run: str, pool: str) -> None:
    scored = pool_accuracies(RunFolder(Store.open(run)), pool)
    trials = sorted(p.name for p in Path(run).glob("scores/*"))
    by_trial = {t: shares(run, t, pool) for t in trials}
    [winner] = [r["trial_id"] for r in pq.read_table(f"{run}/tables/robustness.parquet").to_pylist() if r["winner"]]
    assert scored.trial == winner
    assert {p.id: p.text for p in scored.prompts} == PROMPTS[pool]
    for prompt_id in PROMPTS[pool]:
        found, all_shares = scored.by_id[prompt_id], [by_trial[t][prompt_id] for t in trials]
        assert found.chosen == by_trial[winner][prompt_id]
        assert found.mean == pytest.approx(sum(all_shares) / len(all_shares))
        assert (found.lowest, found.trials, found.rows) == (min(all_shares), len(trials), 16)


def test_a_trial_by_the_start_of_its_id(run: str) -> None:
    store = Store.open(run)
    for trial in store.folders("scores"):
        scored = pool_accuracies(RunFolder(store), "test", trial[:8])
        assert scored.trial == trial
        assert {i: a.chosen for i, a in scored.by_id.items()} == shares(run, trial, "test")
    with pytest.raises(UserError, match=r'--trial = "zzz" has no scores on the test pool.*Known: '):
        pool_accuracies(RunFolder(store), "test", "zzz")
    with pytest.raises(UserError, match="is the start of several ids"):
        pool_accuracies(RunFolder(store), "test", "")
    with pytest.raises(UserError, match=r'--pool = "tset": .* has no scores on it. Did you mean "test"\?'):
        pool_accuracies(RunFolder(store), "tset")


def test_wordings_are_matched_by_text_and_listed_from_worst_to_best(run: str) -> None:
    scored = pool_accuracies(RunFolder(Store.open(run)), "test")
    renamed = [Prompt(f"other-{i}", text) for i, text in PROMPTS["test"].items()]
    changed = Prompt("x1", "Not what x1 was: {{ text }}")
    shown = list_prompts([changed, *renamed], scored)
    assert shown[-1].prompt == changed
    assert shown[-1].accuracy is None
    known = [s.accuracy.chosen for s in shown[:-1] if s.accuracy]
    assert known == sorted(known)
    assert len(known) == 2
    assert "not scored" in as_lines(shown, scored)[-1]


def test_trials_of_another_pool_of_that_name_are_left_out(run: str, tmp_path: Path) -> None:
    import json

    copy = Path(shutil.copytree(run, tmp_path / "run"))
    store, trials = Store.open(str(copy)), sorted(p.name for p in copy.glob("scores/*"))
    winner = pool_accuracies(RunFolder(store)).trial
    odd = next(t for t in trials if t != winner)
    [file] = (copy / "scores" / odd).glob("*-test.parquet")
    table = pq.read_table(file)
    record = json.loads(table.schema.metadata[b"steadytune"])
    record["trial"]["data"]["test_prompts"] = "0" * 64
    store.write_scores(odd, record["rung"], "test", table, record)
    scored = pool_accuracies(RunFolder(store))
    assert scored.other_pools == 1
    assert {a.trials for a in scored.by_id.values()} == {len(trials) - 1}
    shutil.rmtree(copy / "prompts")
    with pytest.raises(UserError, match="does not hold the wordings"):
        pool_accuracies(RunFolder(store))


def test_without_a_winner_a_trial_must_be_named(run: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    table = pq.read_table(copy / "tables" / "robustness.parquet")
    lost = table.set_column(table.schema.get_field_index("winner"), "winner", [[False] * table.num_rows])
    pq.write_table(without_checksum(lost), copy / "tables" / "robustness.parquet")
    store, trials = Store.open(str(copy)), sorted(p.name for p in copy.glob("scores/*"))
    with pytest.raises(UserError, match=f"no winner with scores on the test pool is known.*--trial: {trials[0]}, "):
        pool_accuracies(RunFolder(store))
    assert pool_accuracies(RunFolder(store), trial=trials[1]).trial == trials[1]


@pytest.mark.parametrize(("right", "rows"), [(0, 5), (5, 5), (3, 7), (180, 200)])
def test_the_interval_is_wilsons(right: int, rows: int) -> None:
    ours = Accuracy(right / rows, rows, 0.5, 0.5, 1).interval
    theirs = binomtest(right, rows).proportion_ci(0.95, "wilson")
    assert ours == pytest.approx((theirs.low, theirs.high))


def test_near_duplicates_and_flaws_are_shown() -> None:
    prompts = [
        Prompt("a", "Is the writer of it unhappy? {{ text }}"),
        Prompt("b", "Other [describe the text] here {{ text }}"),
        Prompt("c", "Is the author of it unhappy? {{ text }}"),
    ]
    shown = list_prompts(prompts)
    assert [s.like for s in shown] == [("c",), (), ("a",)]
    lines = as_lines(shown, None)
    assert lines[0] == "a  [near c]  Is the writer of it unhappy? {{ text }}"
    assert "unfilled gap" in lines[1]
    assert all(len(line) <= 20 for line in as_lines(shown, None, 20))
    assert in_one_line("a\r\n\x1b[31mb\n c\u2028d") == "a \u23ce [31mb \u23ce c d"


def test_the_command(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert steadytune("prompts", "show", "--run", run) == 0
    out = capsys.readouterr().out
    scored = pool_accuracies(RunFolder(Store.open(run)))
    assert f"trial {scored.trial} (95 % interval" in out
    for prompt_id, accuracy in scored.by_id.items():
        low, high = accuracy.interval
        assert f"{prompt_id}  {100 * accuracy.chosen:5.1f} ({100 * low:4.1f} to {100 * high:5.1f})" in out
    target = str(tmp_path / "prompts.csv")
    assert steadytune("prompts", "show", "--run", run, "--pool", "dev", "--out", target) == 0
    rows = {r["prompt_id"]: r for r in csv.DictReader(Path(target).read_text().splitlines(keepends=True))}
    assert {i: r["text"] for i, r in rows.items()} == PROMPTS["dev"]
    for prompt_id, accuracy in pool_accuracies(RunFolder(Store.open(run)), "dev").by_id.items():
        assert math.isclose(float(rows[prompt_id]["accuracy"]), accuracy.chosen)
    capsys.readouterr()
    (tmp_path / "p.txt").write_text("One {{ text }}\n")
    assert steadytune("prompts", "show", str(tmp_path / "p.txt")) == 0
    assert capsys.readouterr().out.endswith("One {{ text }}\n")
    assert steadytune("prompts", "show") == 2
    assert "needs a file of prompts, or --run RUN" in capsys.readouterr().err
    assert steadytune("prompts", "show", "--run", run, "--out", "x.txt") == 2
    assert steadytune("prompts", "show", "--run", str(tmp_path / "no-run")) == 2


def test_reading_costs_neither_torch_nor_ray() -> None:
    modules = "sweeps.prompts.accuracy, sweeps.cli.prompts, sweeps.prompts.files, sweeps.prompts.generation"
    code = f"import {modules}, sys; print({{'torch', 'transformers', 'ray', 'datasets'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
