"""The runner alone, without Ray: what it leaves in the run folder, and what befalls one trial or the whole process."""

# ruff: noqa: F811  (fixtures of another file are taken by their names)
from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import resource
import subprocess
import sys
import weakref
from collections.abc import Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from checkout import ROOT
from runner_trials import ASSETS, RUNGS, THREE, Start, finish, model, scores, start, trial  # noqa: F401  (two fixtures)
from safetensors.torch import load

import trainer.runner as runner_module
import trainer.train.engine as engine_module
from trainer import trial as t
from trainer.data.assets import Assets
from trainer.errors import UserError
from trainer.measure.grid import ScoreError
from trainer.measure.rung import RungReport
from trainer.runner import Runner
from trainer.score.decide import decide
from trainer.setup import Setup
from trainer.store import SCORES, Store, checkpoint_name, scores_name
from trainer.trial import Trial
from trainer.work import Block, ScoreBlock, TrainAndScore, TrainOnly, TrialGrid, WorkDone


def all_rows(folder: Path, trials: Sequence[Trial]) -> dict[tuple[str, int, str], pa.Table]:
    pools = [(rung, "dev") for rung in RUNGS] + [(RUNGS[-1], "test")]
    return {(x.id, rung, pool): scores(folder, x, rung, pool)[0] for x in trials for rung, pool in pools}


def adapter(folder: Path, trial: Trial) -> dict[str, torch.Tensor]:
    return load(Store.open(folder).read(f"adapters/{trial.id}/adapter_model.safetensors"))


def assert_alike(a: pa.Table, b: pa.Table, tolerance: float = 1e-4) -> None:
    """The same rows and answers, and log-probabilities to ``tolerance``."""
    for name in SCORES.names:
        if name != "label_logprobs":
            assert a.column(name).equals(b.column(name)), name
    np.testing.assert_allclose(
        a.column("label_logprobs").to_pylist(), b.column("label_logprobs").to_pylist(), rtol=0, atol=tolerance
    )


@pytest.fixture(scope="module")
def undisturbed(model: t.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of THREE, one after the other in one slot, which none leaves before its end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    runner = Runner(model, Setup(slots=1, max_r=4, threads=1), ASSETS, Store.open(folder))
    for x in THREE:
        finish(runner, [x], test=True)
    runner.close()
    return folder


# what it leaves ----------------------------------------------------------------------------------------------------


def test_trials_share_slots_and_leave_whole_tables(start: Start, tmp_path: Path, undisturbed: Path) -> None:
    """Five trials in two slots: each is evicted and restored between its rungs."""
    trials = [*THREE, trial(3, 1e-3), trial(4, 1e-3)]
    runner = start(tmp_path, slots=2)
    finish(runner, trials, test=True)
    assert runner.steps == 5 * RUNGS[-1]
    for (trial_id, rung, pool), table in all_rows(tmp_path, trials).items():
        prompts, split = ASSETS.pools[pool], ASSETS.rows[pool]
        asked = {(p.id, r.id) for p in prompts for r in split}
        seen = list(zip(table.column("prompt_id").to_pylist(), table.column("row_id").to_pylist(), strict=True))
        assert set(seen) == asked
        assert len(seen) == len(asked)
        assert set(table.column("trial_id").to_pylist()) == {trial_id}
        assert set(table.column("rung").to_pylist()) == {rung}
        assert set(table.column("pool").to_pylist()) == {pool}
        right = {r.id: r.label for r in split}
        for row in table.to_pylist():
            assert row["label"] == right[row["row_id"]]
            assert row["predicted"] == ("no", "yes")[int(np.argmax(row["label_logprobs"]))]
            assert row["correct"] == (row["predicted"] == row["label"])
            assert row["new_tokens"] is None
    for one, table in all_rows(undisturbed, THREE).items():
        assert_alike(table, all_rows(tmp_path, trials)[one])


def test_a_part_of_the_rows_is_met_again_after_a_restart(start: Start, tmp_path: Path) -> None:
    """Half of the rows until the first rung: evicted there, or never, the trial learns the same, and not what it learns
    from all rows."""
    whole = trial(5)
    part = dataclasses.replace(whole, optimization=dataclasses.replace(whole.optimization, row_shares=((4, 0.5),)))
    for x in (part, whole):
        finish(start(tmp_path / "straight"), [x])
    finish(start(tmp_path / "evicted"), [part, trial(6), trial(7)])
    straight, evicted = (adapter(tmp_path / name, part) for name in ("straight", "evicted"))
    other = adapter(tmp_path / "straight", whole)
    for name, tensor in straight.items():
        torch.testing.assert_close(evicted[name], tensor, rtol=0, atol=1e-6)
    assert any((other[name] - tensor).abs().max() > 1e-4 for name, tensor in straight.items())


def test_the_blocks_of_a_grid_that_two_runners_score_are_the_grid(
    start: Start, tmp_path: Path, undisturbed: Path
) -> None:
    """One trains, and says what its training was; both score, the other from the checkpoint. Neither writes rows."""
    x = THREE[1]
    first, second = start(tmp_path), start(tmp_path)
    record = first.submit(TrainOnly(x, 6, "test")).result(timeout=120)
    assert record["curve"]["step"] == [1, 2, 3, 4, 5, 6]
    assert record["seconds"] == record["train_seconds"] > 0
    parts = [r.submit(ScoreBlock(x, 6, "test", Block(k, 2))).result(timeout=120) for k, r in enumerate((first, second))]
    assert (first.steps, second.steps) == (6, 0)
    assert all(seconds > 0 for _, seconds in parts)
    assert_alike(pa.concat_tables([rows for rows, _ in parts]), scores(undisturbed, x, 6, "test")[0])
    assert not Store.open(tmp_path).rungs(x.id, "test")


def test_a_runner_tells_what_it_has_done_and_how_far_its_trials_are(start: Start, tmp_path: Path) -> None:
    """Three trials in two slots; asked whenever some of a grid is scored, and at the end."""
    runner = start(tmp_path, slots=2)
    seen: list[WorkDone] = []
    score = runner._scorer.score

    def watched(model: Any, pool: str, members: Any, block: Any, tell: Any, span: Any) -> list[pa.Table]:
        parts = [3.0 * len(members)]  # a longer grid tells of parts, too

        def told(cells: float) -> None:
            for done in [*(parts.pop() for _ in parts[:] if cells), cells]:
                tell(done)
                seen.append(runner.work_done())

        return score(model, pool, members, block, told, span)

    runner._scorer.score = watched  # type: ignore[method-assign]
    finish(runner, THREE, test=True)
    done = runner.work_done()
    assert done.steps == 3 * RUNGS[-1] == runner.steps
    assert sum(ticks for ticks, _ in done.ticks.values()) < done.steps, "some ticks moved two trials"
    assert (done.cells, set(done.cell_seconds)) == ({"dev": 3 * 3 * 12, "test": 3 * 12}, {"dev", "test"})
    assert done.scored == {
        TrialGrid(x.id, r, p): 12 for x in THREE for r, p in [*((r, "dev") for r in RUNGS), (6, "test")]
    }
    assert (done.step_of, done.seconds_of) == ({}, {})
    first = next(work for work in seen if work.cells["dev"] > 0)
    (trial_id, *_), step = [*first.step_of], RUNGS[0]
    assert first.step_of[trial_id] == step
    assert first.scored[TrialGrid(trial_id, step, "dev")] == 3
    assert first.seconds_of[trial_id] > 0
    for pool in ("dev", "test"):
        for numbers in ([w.cells.get(pool, 0.0) for w in seen], [w.cell_seconds.get(pool, 0.0) for w in seen]):
            assert numbers == sorted(numbers)


def test_a_runner_tells_how_many_tokens_a_cell_of_each_pool_takes(start: Start, tmp_path: Path) -> None:
    """As soon as one pool is scored, so that the seconds of a cell of the other are known as well."""
    wide = dataclasses.replace(ASSETS.pools["test"][0], id="e4", text="it is it is it is it is it is it is {{ text }}")
    assets = dataclasses.replace(ASSETS, pools={**ASSETS.pools, "test": (*ASSETS.pools["test"], wide)})
    found = {}
    for name, some in (("short", ASSETS), ("wide", assets)):
        runner = start(tmp_path / name, assets=some)
        assert runner.work_done().cell_tokens == {}
        runner.submit(TrainAndScore(THREE[0], 2)).result(timeout=60)
        found[name] = runner.work_done().cell_tokens
    assert found["short"]["dev"] == found["wide"]["dev"] > 0
    assert found["wide"]["test"] > found["short"]["test"] > 0


def test_the_blocks_of_a_grid_add_up_in_what_a_runner_tells(start: Start, tmp_path: Path) -> None:
    x, runner = THREE[1], start(tmp_path)
    runner.submit(TrainOnly(x, 6, "test")).result(timeout=120)
    for k in range(2):
        runner.submit(ScoreBlock(x, 6, "test", Block(k, 2))).result(timeout=120)
        assert runner.work_done().scored[TrialGrid(x.id, 6, "test")] == (4, 12)[k]  # of 3 prompts, 1 and 2


def test_what_a_runner_keeps_of_ended_scorings_is_bounded(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "KEPT", 2)
    runner = start(tmp_path)
    finish(runner, THREE[:1], test=True)
    assert list(runner.work_done().scored) == [TrialGrid(THREE[0].id, 6, "dev"), TrialGrid(THREE[0].id, 6, "test")]


def test_the_record_tells_what_the_rung_did(undisturbed: Path) -> None:
    store = Store.open(undisturbed)
    for x in THREE:
        assert store.rungs(x.id, "dev") == list(RUNGS)
        for before, rung in zip((0, *RUNGS), RUNGS, strict=False):
            _, record = scores(undisturbed, x, rung)
            assert Trial.from_json(record["trial"]) == x
            assert record["rung"] == rung
            assert record["curve"]["step"] == list(range(before + 1, rung + 1))
            assert all(math.isfinite(v) for v in record["curve"]["completion_loss"] + record["curve"]["prompt_loss"])
            assert record["tokens"] > 0
            assert record["seconds"] == pytest.approx(record["train_seconds"] + record["score_seconds"])
        assert scores(undisturbed, x, RUNGS[-1], "test")[1]["tokens"] == 0


def test_training_changes_the_answers_and_the_adapter_is_that_of_the_last_rung(undisturbed: Path) -> None:
    for x in THREE:
        first, last = (scores(undisturbed, x, rung)[0].column("label_logprobs") for rung in (RUNGS[0], RUNGS[-1]))
        assert not first.equals(last)
        checkpoint = load(Store.open(undisturbed).read(checkpoint_name(x.id, RUNGS[-1])))
        found = adapter(undisturbed, x)
        assert found
        for name, value in found.items():
            assert torch.equal(value, checkpoint[name.removeprefix("base_model.model.").removesuffix(".weight")])


def test_work_is_done_once_however_often_it_is_asked_for(start: Start, tmp_path: Path) -> None:
    x = THREE[0]
    runner = start(tmp_path)
    first, again = runner.submit(TrainAndScore(x, 2)), runner.submit(TrainAndScore(x, 2))
    assert first is again
    first.result(timeout=60)
    _, record = scores(tmp_path, x, 2)
    runner.submit(TrainAndScore(x, 2)).result(timeout=60)  # whoever asks after it was done
    assert runner.steps == 2
    assert scores(tmp_path, x, 2)[1] == record
    other = start(tmp_path)
    other.submit(TrainAndScore(x, 2)).result(timeout=60)
    assert other.steps == 0
    assert scores(tmp_path, x, 2)[1] == record


def test_a_classification_head_is_trained_and_scored(start: Start, tmp_path: Path) -> None:
    """Asked on what it was trained on, the head has learnt it."""
    plan = t.Optimization(steps=40, lr=1e-2, batch_size=12)
    x = trial(0, model=t.Model("model", "fingerprint", head="classifier"), optimization=plan)
    same = Assets(
        {**ASSETS.rows, "dev": ASSETS.rows["train"]},
        ASSETS.train_pools,
        {**ASSETS.pools, "dev": ASSETS.train_pools["many"]},
    )
    finish(start(tmp_path, assets=same, n_labels=2), [x], rungs=(1, 40), test=True)
    for rung, pool in ((1, "dev"), (40, "dev"), (40, "test")):
        probabilities = np.exp(scores(tmp_path, x, rung, pool)[0].column("label_logprobs").to_pylist())
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    correct = [np.mean(scores(tmp_path, x, rung)[0].column("correct").to_pylist()) for rung in (1, 40)]
    assert correct[1] > max(0.9, correct[0])
    assert scores(tmp_path, x, 40)[1]["curve"]["completion_loss"][-1] < 0.3
    assert "base_model.model.score.weight" in adapter(tmp_path, x)


def test_generation_leaves_the_tokens_it_took_and_no_answer_where_none_was_given(start: Start, tmp_path: Path) -> None:
    """Untrained, the model babbles; trained hard on one word, it says the word and stops."""
    babbling = trial(0, 1e-9, scoring=t.Scoring("generate", max_new_tokens=5))
    one_label = dataclasses.replace(
        ASSETS, rows={**ASSETS.rows, "train": tuple(r for r in ASSETS.rows["train"] if r.label == "no")}
    )
    plan = t.Optimization(steps=60, lr=3e-2, batch_size=4, clip=0)
    trained = trial(0, scoring=t.Scoring("generate", max_new_tokens=5), optimization=plan)
    runner = start(tmp_path, slots=2, assets=one_label)
    for future in [runner.submit(TrainAndScore(babbling, 2)), runner.submit(TrainAndScore(trained, 60))]:
        future.result(timeout=120)
    table, _ = scores(tmp_path, babbling, 2)
    assert table.column("label_logprobs").null_count == table.num_rows == 12
    assert set(table.column("new_tokens").to_pylist()) <= {1, 2, 3, 4, 5}
    assert table.column("predicted").null_count > 0
    assert not any(row["correct"] for row in table.to_pylist() if row["predicted"] is None)
    table, _ = scores(tmp_path, trained, 60)
    assert set(table.column("predicted").to_pylist()) == {"no"}
    assert set(table.column("new_tokens").to_pylist()) == {2}
    assert table.column("correct").to_pylist() == [label == "no" for label in table.column("label").to_pylist()]


def test_decision_rules_decide_otherwise_over_the_same_logprobs(
    start: Start, tmp_path: Path, undisturbed: Path
) -> None:
    rules = ("pmi", "contextual", "batch", "per_token", "per_byte")
    trials = [trial(0, scoring=t.Scoring(decision=rule)) for rule in rules]  # type: ignore[arg-type]
    runner = start(tmp_path, slots=3)
    finish(runner, trials, rungs=(2,))
    raw, _ = scores(undisturbed, THREE[0], 2)
    logprobs = [np.array(v) for v in raw.column("label_logprobs").to_pylist()]
    for rule, x in zip(rules, trials, strict=True):
        table, _ = scores(tmp_path, x, 2)
        assert table.column("row_id").equals(raw.column("row_id"))
        np.testing.assert_allclose(table.column("label_logprobs").to_pylist(), logprobs, atol=1e-4)
        assert set(table.column("predicted").to_pylist()) <= {"no", "yes"}
        if rule == "batch":
            expected = decide("batch", logprobs, prompts=raw.column("prompt_id").to_pylist(), prior=[3, 3])
            assert table.column("predicted").to_pylist() == [("no", "yes")[i] for i in expected]


def cells(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table.column("prompt_id").to_pylist(), table.column("row_id").to_pylist(), strict=True))


def test_rungs_before_the_last_score_the_same_sample_for_every_trial(
    start: Start, tmp_path: Path, undisturbed: Path
) -> None:
    """The cells in the sample are answered as they are in the whole grid; the last rung and the test pool are whole;
    a runner that is stopped between two rungs goes on with the same cells."""
    trials = [dataclasses.replace(x, scoring=t.Scoring(sample=0.1)) for x in THREE]
    first = start(tmp_path, slots=3)
    finish(first, trials, [2])
    first.close()
    finish(start(tmp_path), trials, test=True)
    for rung in (2, 4):
        for x, whole in zip(trials, THREE, strict=True):
            table, record = scores(tmp_path, x, rung)
            assert record["sample"] == {"prompts": 2, "rows": 6, "cells": 8}
            assert cells(table) == cells(scores(tmp_path, trials[0], 2)[0])
            assert len(set(cells(table))) == 8
            expected = scores(undisturbed, whole, rung)[0]
            at = [cells(expected).index(cell) for cell in cells(table)]
            assert table.column("predicted").equals(expected.column("predicted").take(at))
            found = RungReport.of(x, 0, table, record, 1.0)
            assert math.isfinite(found.objective)
            with pytest.raises(ScoreError, match="missing"):
                RungReport.of(x, 0, table.slice(1), record, 1.0)
    for x, whole in zip(trials, THREE, strict=True):
        for pool in ("dev", "test"):
            table, record = scores(tmp_path, x, 6, pool)
            assert "sample" not in record
            expected = scores(undisturbed, whole, 6, pool)[0]
            assert cells(table) == cells(expected)
            assert table.column("predicted").equals(expected.column("predicted"))


@pytest.mark.parametrize(("rule", "scorer"), [("pmi", "labels"), ("contextual", "labels"), ("raw", "generate")])
def test_a_sample_is_decided_as_the_whole_grid_is(start: Start, tmp_path: Path, rule: str, scorer: str) -> None:
    whole = trial(0, scoring=t.Scoring(scorer, rule))  # type: ignore[arg-type]
    part = dataclasses.replace(whole, scoring=dataclasses.replace(whole.scoring, sample=0.1))
    finish(start(tmp_path, slots=2), [whole, part], rungs=(2,))
    expected, found = scores(tmp_path, whole, 2)[0], scores(tmp_path, part, 2)[0]
    assert (expected.num_rows, found.num_rows) == (12, 8)
    at = [cells(expected).index(cell) for cell in cells(found)]
    assert found.column("predicted").equals(expected.column("predicted").take(at))


# interruptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", RUNGS)
def test_going_on_after_a_stop_gives_exactly_the_same_rows(
    start: Start, tmp_path: Path, undisturbed: Path, stop: int
) -> None:
    first = start(tmp_path)
    finish(first, THREE, [r for r in RUNGS if r <= stop])
    first.close()
    second = start(tmp_path)
    finish(second, THREE, test=True)
    assert (first.steps, second.steps) == (3 * stop, 3 * (RUNGS[-1] - stop))
    expected = all_rows(undisturbed, THREE)
    for key, table in all_rows(tmp_path, THREE).items():
        assert table.equals(expected[key]), key


def test_going_on_with_neighbours_gives_the_same_answers(start: Start, tmp_path: Path, undisturbed: Path) -> None:
    first = start(tmp_path, slots=3)
    finish(first, THREE, [2])
    first.close()
    finish(start(tmp_path, slots=3), THREE, test=True)
    expected = all_rows(undisturbed, THREE)
    for key, table in all_rows(tmp_path, THREE).items():
        assert_alike(table, expected[key])


KILLED = """
import os, random, signal, sys, time
sys.path[:0] = [{root!r}, {tests!r}]
import deepspeed, transformers.models.llama.modeling_llama  # slow: once, before the forks
from runner_trials import ASSETS, THREE, finish
import trainer.train.engine as engine_module
import trainer.runner as runner_module
from trainer import trial as t
from trainer.runner import Runner
from trainer.setup import Setup
from trainer.store import Store

class SlowStore(Store):  # so slow that on no machine a run ends between the count of its files and the kill
    def write(self, name, data):
        super().write(name, data)
        time.sleep(0.03)

def work():
    model, setup = t.Model({model!r}, "fingerprint"), Setup(slots=1, max_r=4, threads=1)
    runner = Runner(model, setup, ASSETS, SlowStore.open({folder!r}))
    finish(runner, THREE, test=True)
    os._exit(0)

def files():
    return sum(len(names) for _, _, names in os.walk({folder!r}))

rng, killed = random.Random(0), 0
while True:  # three times: let it write some more files, then a moment, then kill -9
    child = os.fork()
    if child == 0:
        work()
    start, wanted, moment = files(), rng.randrange(2, 9), rng.uniform(0, 0.05)
    ended = 0
    while not ended and (killed == 3 or files() < start + wanted):
        time.sleep(0.002)
        ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        sys.exit(0 if status == 0 and killed == 3 else f"status {{status}} after {{killed}} kills")
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it ended before it was killed"
    killed += 1
"""


def test_killed_at_three_moments_and_run_again_gives_exactly_the_same_rows(
    model: t.Model, tmp_path: Path, undisturbed: Path
) -> None:
    code = KILLED.format(root=str(ROOT), tests=str(ROOT / "tests" / "support"), model=model.path, folder=str(tmp_path))
    ours = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # this process's own group
    env = {k: v for k, v in os.environ.items() if k not in ours}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    expected = all_rows(undisturbed, THREE)
    for key, table in all_rows(tmp_path, THREE).items():
        assert table.equals(expected[key]), key
    for x in THREE:
        found, wanted = adapter(tmp_path, x), adapter(undisturbed, x)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[k], wanted[k]) for k in found)


class Dying(Store):
    """Lives to see so many writes."""

    left: int
    written: list[str]

    def write(self, name: str, data: bytes) -> None:
        if len(self.written) == self.left:
            raise MemoryError("the process ends here")
        super().write(name, data)
        self.written.append(name.rsplit("/", 1)[-1])


def dying(runner: Runner, left: int) -> list[str]:
    """Gives ``runner`` such a store; the list of what it writes."""
    store = Dying(runner.store.uri, runner.store.fs, runner.store.root)
    object.__setattr__(store, "left", left)
    object.__setattr__(store, "written", [])
    runner.store = store
    return store.written


def test_an_end_between_any_two_writes_of_a_rung_loses_nothing(start: Start, tmp_path: Path, undisturbed: Path) -> None:
    """Above all not the adapter: once the checkpoint is there, nobody would write it again. The record of training is
    that of an undisturbed run (CASES V16)."""
    x = THREE[0]
    finish(start(tmp_path), [x], [2, 4])
    order = ["adapter_model.safetensors", "adapter_config.json", "000006.safetensors"]
    for left in range(4):
        runner = start(tmp_path)
        written = dying(runner, left)
        with pytest.raises(MemoryError):
            runner.submit(TrainAndScore(x, 6)).result(timeout=60)
        assert written == order[:left]
    last = start(tmp_path)
    finish(last, [x], [6], test=True)
    assert last.steps == 0
    theirs = adapter(undisturbed, x)
    assert all(torch.equal(value, theirs[name]) for name, value in adapter(tmp_path, x).items())
    for rung, pool in ((2, "dev"), (4, "dev"), (6, "dev"), (6, "test")):
        (table, record), (wanted, recorded) = scores(tmp_path, x, rung, pool), scores(undisturbed, x, rung, pool)
        assert table.equals(wanted)
        assert trained(record) == trained(recorded)
        assert (record["train_seconds"] > 0) == (recorded["train_seconds"] > 0)


def trained(record: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """What a record says of training, without times: tokens, and the curve."""
    return record["tokens"], {n: v for n, v in record["curve"].items() if n != "tokens_per_s"}


def test_a_process_that_dies_between_blocks_leaves_the_record_of_training_to_the_next(
    start: Start, tmp_path: Path, undisturbed: Path
) -> None:
    """CASES V16, where hosts score in blocks: whoever asks again gets the same record, and only from who trains."""
    x, runner = THREE[0], start(tmp_path)
    first = runner.submit(TrainOnly(x, 2, "dev")).result(timeout=60)
    assert runner.submit(TrainOnly(x, 2, "dev")).result(timeout=60) == first
    other = start(tmp_path)
    table, _ = other.submit(ScoreBlock(x, 2, "dev", Block(0, 1))).result(timeout=60)
    Store.open(tmp_path).write_scores(x.id, 2, "dev", table, first)
    finish(other, [x], [4])  # it holds the trial at step 2, whose record is another's
    assert trained(scores(tmp_path, x, 4)[1]) == trained(scores(undisturbed, x, 4)[1])
    assert trained(first) == trained(scores(undisturbed, x, 2)[1])


@pytest.mark.parametrize(
    "damage",
    ["half", "empty", "text", "a tensor missing", "of another shape", "gone", "a flipped bit", "another step's"],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    start: Start, tmp_path: Path, undisturbed: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The scores of its rung are damaged too: the rung is made again from the checkpoint before, exactly. A number that
    a flipped bit changed, and a checkpoint of the same shape in another's place, were used before (CASES V3)."""
    from safetensors.torch import save

    x = THREE[1]
    finish(start(tmp_path), [x], [2, 4])
    path = tmp_path / checkpoint_name(x.id, 4)
    tensors = load(path.read_bytes())
    first = next(iter(tensors))
    if damage == "half":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage in ("empty", "text"):
        path.write_bytes(b"" if damage == "empty" else b"version https://git-lfs.github.com/spec/v1")
    elif damage == "a tensor missing":
        path.write_bytes(save({k: v for k, v in tensors.items() if k != first}))
    elif damage == "of another shape":
        path.write_bytes(save({**tensors, first: tensors[first][:, :3].contiguous()}))
    elif damage == "a flipped bit":
        data = path.read_bytes()
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    elif damage == "another step's":
        path.write_bytes((tmp_path / checkpoint_name(x.id, 2)).read_bytes())
    else:
        path.unlink()
    (tmp_path / scores_name(x.id, 4, "dev")).write_bytes(b"PAR1")
    runner = start(tmp_path)
    with caplog.at_level(logging.WARNING, "steadytune"):
        finish(runner, [x], [4, 6], test=True)
    assert runner.steps == 4
    if damage != "gone":
        assert f"{tmp_path}/{checkpoint_name(x.id, 4)}: not readable (" in caplog.text
        assert "going on from the checkpoint before it" in caplog.text
    expected = all_rows(undisturbed, [x])
    for key, table in all_rows(tmp_path, [x]).items():
        assert table.equals(expected[key]), key


def test_a_damaged_earlier_rung_is_made_again_and_the_adapter_stays_the_last(
    start: Start, tmp_path: Path, undisturbed: Path
) -> None:
    x = THREE[0]
    finish(start(tmp_path), [x])
    (tmp_path / scores_name(x.id, 2, "dev")).write_bytes(b"")
    (tmp_path / checkpoint_name(x.id, 2)).write_bytes(b"")
    runner = start(tmp_path)
    finish(runner, [x])
    assert runner.steps == 2
    assert scores(tmp_path, x, 2)[0].equals(scores(undisturbed, x, 2)[0])
    theirs = adapter(undisturbed, x)
    assert all(torch.equal(value, theirs[name]) for name, value in adapter(tmp_path, x).items())


@pytest.mark.parametrize("slots", [1, 2])
def test_a_trial_that_was_elsewhere_meanwhile_goes_on_from_its_newest_checkpoint(
    start: Start, tmp_path: Path, undisturbed: Path, slots: int
) -> None:
    x, first = THREE[1], start(tmp_path, slots=slots)
    finish(first, [x], [2])
    finish(start(tmp_path, slots=slots), [x], [4])
    finish(first, [x], [6])
    assert first.steps == 4
    table, record = scores(tmp_path, x, 6)
    assert record["curve"]["step"] == [5, 6]
    assert_alike(table, scores(undisturbed, x, 6)[0], tolerance=0.0 if slots == 1 else 1e-4)


@pytest.mark.parametrize("zero", [1, 3])
def test_under_zero_a_base_is_let_go_before_the_next_is_loaded(
    start: Start, tmp_path: Path, zero: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[int] = []
    bases: list[weakref.ref[Any]] = []
    load_base = runner_module.load_base

    def counted(*args: Any) -> Any:
        alive.append(sum(base() is not None for base in bases))
        base = load_base(*args)
        bases.append(weakref.ref(base))
        return base

    monkeypatch.setattr(runner_module, "load_base", counted)
    finish(start(tmp_path, zero=zero), THREE, [2])
    assert alive == [0, 0, 0]


@pytest.mark.parametrize("zero", [0, 1, 3])
def test_a_checkpoint_that_finds_no_memory_is_not_taken_for_damaged_and_costs_no_other_trial(
    start: Start, tmp_path: Path, zero: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    x, other = THREE[:2]
    finish(start(tmp_path, zero=zero), [x], [2])
    runner = start(tmp_path, zero=zero)
    fill, full = engine_module._fill, ["once"]

    def none_left(*args: Any) -> None:
        if full:
            raise torch.OutOfMemoryError(f"CUDA out of memory {full.pop()}")
        fill(*args)

    monkeypatch.setattr(engine_module, "_fill", none_left)
    with pytest.raises(torch.OutOfMemoryError), caplog.at_level(logging.WARNING, "steadytune"):
        runner.submit(TrainAndScore(x, 4)).result(timeout=60)
    assert "not readable" not in caplog.text
    finish(runner, [other], [2])
    finish(runner, [x], [4])
    assert scores(tmp_path, x, 4)[1]["curve"]["step"] == [3, 4]


# one trial's trouble ----------------------------------------------------------------------------------------------


def test_a_row_that_cannot_be_rendered_fails_its_trial_alone(start: Start, tmp_path: Path, undisturbed: Path) -> None:
    """One trial breaks on a train row, one only when the dev rows are rendered, beside two that are sound."""
    long = tuple(dataclasses.replace(r, fields={"text": " ".join([r.fields["text"]] * 3)}) for r in ASSETS.rows["dev"])
    words = t.Template("other", words=(("no", " no"), ("yes", "")))
    broken = trial(5, template=words)
    assets = dataclasses.replace(ASSETS, rows={**ASSETS.rows, "test": long})
    short = trial(6, task=t.Task(("no", "yes"), max_length=16))
    runner = start(tmp_path, slots=4, assets=assets)
    sound = THREE[:2]
    futures = {x.id: runner.submit(TrainAndScore(x, 2)) for x in (sound[0], broken, short, sound[1])}
    with pytest.raises(UserError, match=r'template "other", prompt "t\d", row "train-\d+".* gives no tokens'):
        futures[broken.id].result(timeout=60)
    for x in (*sound, short):
        futures[x.id].result(timeout=60)
    tests = {x.id: runner.submit(TrainAndScore(x, 2, "test")) for x in (*sound, short)}
    with pytest.raises(UserError, match=r"6 of 18 sequences are longer|sequences are longer than task.max_length = 16"):
        tests[short.id].result(timeout=60)
    for x in sound:
        tests[x.id].result(timeout=60)
        assert_alike(scores(tmp_path, x, 2)[0], scores(undisturbed, x, 2)[0])
    assert Store.open(tmp_path).rungs(broken.id, "dev") == []
    assert Store.open(tmp_path).rungs(short.id, "test") == []
    finish(runner, sound, [4])  # the runner goes on
    assert_alike(scores(tmp_path, sound[1], 4)[0], scores(undisturbed, sound[1], 4)[0])


def test_nan_ends_its_trial_with_the_steps_between_which_it_came(
    start: Start, tmp_path: Path, undisturbed: Path
) -> None:
    wild = trial(7, 1e30)
    runner = start(tmp_path, slots=3)
    group = (THREE[0], wild, THREE[1])
    for future in [runner.submit(TrainAndScore(x, 6)) for x in group]:
        future.result(timeout=60)
    table, record = scores(tmp_path, wild, 6)
    assert table.num_rows == 0
    after = record["rung"]
    assert 1 <= after < 6
    assert record["nan"] == f"loss or gradient became NaN between steps {after - 1} and {after}"
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    for x in (THREE[0], THREE[1]):
        ours, theirs = adapter(tmp_path, x), adapter(undisturbed, x)
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6)
        assert_alike(scores(tmp_path, x, 6)[0], scores(undisturbed, x, 6)[0])
    finish(runner, [THREE[2]])  # the slot serves the next trial
    assert_alike(scores(tmp_path, THREE[2], 6)[0], scores(undisturbed, THREE[2], 6)[0])
    steps = runner.steps
    runner.submit(TrainAndScore(wild, 6)).result(timeout=60)  # its end is known
    assert runner.steps == steps


@pytest.mark.parametrize("slots", [1, 3])
def test_memory_that_does_not_suffice_halves_the_batches_and_changes_no_answer(
    start: Start, tmp_path: Path, undisturbed: Path, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stands for an accelerator that holds no more than 60 tokens at once."""
    runner = start(tmp_path, slots=slots)
    base = runner.engine.slot_model.base.base_model  # training asks it for hidden states, scoring for logits
    forward, refused = base.forward, []

    def limited(*args: Any, **kwargs: Any) -> Any:
        found = forward(*args, **kwargs)
        if kwargs["input_ids"].numel() > 60:
            refused.append(kwargs["input_ids"].shape)
            raise RuntimeError("CUDA out of memory")
        return found

    monkeypatch.setattr(base, "forward", limited)
    before = runner.engine.token_budget
    finish(runner, THREE, test=True)
    assert len(refused) > 2
    assert runner.engine.token_budget <= min(60, before // 2)
    expected = all_rows(undisturbed, THREE)
    for key, table in all_rows(tmp_path, THREE).items():
        assert_alike(table, expected[key])


def test_memory_that_does_not_suffice_for_one_row_fails_that_trial(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = start(tmp_path)

    def none_left(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("CUDA out of memory")

    with monkeypatch.context() as m:
        m.setattr(runner.engine.slot_model.base.base_model, "forward", none_left)
        with pytest.raises(RuntimeError, match="out of memory"):
            runner.submit(TrainAndScore(THREE[0], 2)).result(timeout=60)
    finish(runner, [THREE[0]], [2])


def test_a_full_disk_fails_the_trial_and_the_next_try_goes_on(start: Start, tmp_path: Path, undisturbed: Path) -> None:
    x = THREE[0]
    runner = start(tmp_path)
    finish(runner, [x], [2, 4])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot be written .*free space"):
            runner.submit(TrainAndScore(x, 6)).result(timeout=60)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Store.open(tmp_path).rungs(x.id, "dev") == [2, 4]
    finish(runner, [x], test=True)
    expected = all_rows(undisturbed, [x])
    assert all(table.equals(expected[key]) for key, table in all_rows(tmp_path, [x]).items())


def test_an_error_nobody_thought_of_reaches_whoever_waits(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = start(tmp_path)

    def broken(*args: Any) -> None:
        raise ZeroDivisionError("odd")

    with monkeypatch.context() as m:
        m.setattr(runner, "_finish", broken)
        with pytest.raises(ZeroDivisionError):
            runner.submit(TrainAndScore(THREE[0], 2)).result(timeout=60)
    finish(runner, [THREE[0]], [2])


def test_what_is_left_over_at_the_end_is_cancelled_and_waits_for_nobody(start: Start, tmp_path: Path) -> None:
    endless = t.Optimization(steps=10**6, batch_size=4)
    first, second, third = (trial(seed, optimization=endless) for seed in range(3))
    runner = start(tmp_path)
    held = [runner.submit(TrainAndScore(x, 10**6)) for x in (first, second, third)]
    assert held[2].cancel()  # who asked has gone: it is never begun
    runner.close()
    for future in held[:2]:
        with pytest.raises(CancelledError):
            future.result(timeout=60)
    with pytest.raises(RuntimeError, match="closed"):
        runner.submit(TrainAndScore(first, 2))
