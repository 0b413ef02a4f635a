"""The test grid scored in stages: the cells of the design, answered as in the whole grid, once each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from runner_trials import ASSETS, Start, model, rows, scores, start, trial  # noqa: F401 (fixtures)

from trainer import trial as t
from trainer.measure import design
from trainer.measure.grid import ScoreError, read_grid
from trainer.trial import Trial
from trainer.work import Block, ScoreBlock, TrainAndScore, TrainOnly, extended, is_scored, span_of

WIDE = dataclasses.replace(ASSETS, rows={**ASSETS.rows, "test": rows("test", 500)})
GRID = (3, 500)
LABELS = ("no", "yes")


def cells(table: pa.Table) -> set[tuple[str, str]]:
    return set(zip(table.column("prompt_id").to_pylist(), table.column("row_id").to_pylist(), strict=True))


def designed(n: int) -> set[tuple[str, str]]:
    prompts, of_rows = [p.id for p in WIDE.pools["test"]], WIDE.rows["test"]
    seen = design.staged(prompts, [r.id for r in of_rows], [r.label for r in of_rows], n)
    return {(prompts[i], of_rows[j].id) for i, j in zip(*np.nonzero(seen), strict=True)}


def answers(table: pa.Table) -> dict[tuple[str, str], str]:
    names = zip(table.column("prompt_id").to_pylist(), table.column("row_id").to_pylist(), strict=True)
    return dict(zip(names, table.column("predicted").to_pylist(), strict=True))


@pytest.fixture(scope="module")
def whole(model: t.Model, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:  # noqa: F811
    from trainer.runner import Runner
    from trainer.setup import Setup
    from trainer.store import Store

    folder = tmp_path_factory.mktemp("whole")
    runner = Runner(model, Setup(slots=1, max_r=4, threads=1), WIDE, Store.open(folder))
    runner.submit(TrainAndScore(trial(), 2, "test")).result(timeout=120)
    runner.close()
    return answers(scores(folder, trial(), 2, "test")[0])


def test_each_stage_adds_the_cells_that_are_missing(
    start: Start,  # noqa: F811
    tmp_path: Path,
    whole: dict[tuple[str, str], str],
) -> None:
    runner, seconds = start(tmp_path, assets=WIDE), 0.0
    for asked, new in ((1000, 1000), (1200, 200), (1100, 0), (1500, 300)):
        before = runner.counters.rows
        runner.submit(TrainAndScore(trial(), 2, "test", asked)).result(timeout=120)
        assert runner.counters.rows - before == new
        table, record = scores(tmp_path, trial(), 2, "test")
        if asked != 1100:
            assert cells(table) == designed(asked)
            assert table.num_rows == asked
        assert record["score_seconds"] >= seconds
        seconds = record["score_seconds"]
        assert answers(table) == {cell: whole[cell] for cell in cells(table)}
        assert is_scored(record, asked)
        assert is_scored(record, 0) == (asked == 1500)
        if asked < 1500:
            assert record["sample"]["pilot"] == 1000
            assert not is_scored(record, table.num_rows + 1)
            grid = read_grid(table, LABELS, "file", record["sample"])
            assert (grid.n_cells, grid.n_rows) == (table.num_rows, 500)
            with pytest.raises(ScoreError, match="cells of 3 prompts"):
                read_grid(table.slice(1), LABELS, "file", record["sample"])
    assert "sample" not in record


def test_a_larger_sample_than_one_that_is_no_pilot_is_scored_anew(start: Start, tmp_path: Path) -> None:  # noqa: F811
    """Only the pilot is part of every larger sample."""
    runner = start(tmp_path, assets=WIDE)
    for asked, new in ((1200, 1200), (1350, 1350), (0, 150)):
        before = runner.counters.rows
        runner.submit(TrainAndScore(trial(), 2, "test", asked)).result(timeout=120)
        assert runner.counters.rows - before == new
        assert cells(scores(tmp_path, trial(), 2, "test")[0]) == designed(asked or 1500)


def test_under_the_rule_batch_no_answer_rests_on_fewer_rows(start: Start, tmp_path: Path) -> None:  # noqa: F811
    """The rule compares a row with all rows that were scored, so the smaller sample's answers cannot be kept."""
    batch = trial(scoring=t.Scoring(decision="batch"))
    runner = start(tmp_path / "stages", assets=WIDE)
    for asked in (1000, 1500):
        runner.submit(TrainAndScore(batch, 2, "test", asked)).result(timeout=120)
    once = start(tmp_path / "once", assets=WIDE)
    once.submit(TrainAndScore(batch, 2, "test")).result(timeout=120)
    found, expected = (scores(tmp_path / name, batch, 2, "test")[0] for name in ("stages", "once"))
    assert answers(found) == answers(expected)


def test_blocks_of_a_stage_together_are_the_stage(
    start: Start,  # noqa: F811
    tmp_path: Path,
    whole: dict[tuple[str, str], str],
) -> None:
    runner, one = start(tmp_path, assets=WIDE), trial()
    runner.submit(TrainAndScore(one, 2, "test", 1000)).result(timeout=120)
    before = scores(tmp_path, one, 2, "test")
    record = runner.submit(TrainOnly(one, 2, "test", 1200)).result(timeout=120)
    assert record is not None
    found = [runner.submit(ScoreBlock(one, 2, "test", Block(k, 2), 1200)).result(timeout=120) for k in range(2)]
    rows_found = pa.concat_tables([part[0] for part in found if part is not None])
    table, joined = extended(before, rows_found, {**record, "score_seconds": 1.0})
    assert cells(table) == designed(1200)
    assert table.num_rows == 1200
    assert answers(table) == {cell: whole[cell] for cell in cells(table)}
    assert joined["score_seconds"] == pytest.approx(before[1]["score_seconds"] + 1.0)


def test_what_is_left_of_a_grid() -> None:
    pilot = {"sample": {"prompts": 3, "rows": 500, "cells": 1000, "pilot": 1000}}
    larger = {"sample": {"prompts": 3, "rows": 500, "cells": 1200, "pilot": 1000}}
    cases: list[tuple[dict[str, dict[str, int]] | None, int, tuple[int, int] | None]] = [
        (None, 0, None), (None, 1000, (0, 1000)), (pilot, 1200, (1000, 1200)), (pilot, 1500, (1000, 1500)),
        (pilot, 0, (1000, 1500)), (larger, 1300, (0, 1300)), (larger, 1500, (1200, 1500)),
    ]  # fmt: skip
    for record, asked, expected in cases:
        assert span_of(trial(), record, asked, GRID) == expected
    batch: Trial = trial(scoring=t.Scoring(decision="batch"))
    assert span_of(batch, pilot, 1200, GRID) == (0, 1200)
    assert span_of(batch, pilot, 0, GRID) is None
