"""The live table and ``watch`` as terminals of 80 and 120 columns show them: every number whole, no line too wide."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweeps.display.terminal_table import fitted
from sweeps.display.text import short_ids
from sweeps.driver.progress import Progress
from sweeps.live.left import Told
from sweeps.live.overview import Overview, overview
from sweeps.live.rows import TrialRow
from sweeps.live.table import LiveTable
from sweeps.live.watch import look, watch
from sweeps.run_folder.trials_file import write_trials
from sweeps.study.load import resolved
from sweeps.study.overlay import dump_yaml
from sweeps.trials.study_work import StudyWork
from trainer.measure.rung import RungReport
from trainer.store import Store
from trainer.work import TrialGrid, WorkDone

BUSY = Overview(
    left=4210.0,
    steps=(123_456, 1_234_567),
    dev_cells=(4_328, 60_000),
    test_cells=(0, 1_400_000),
    steps_per_s=12.345,
    cells_per_s=1234.5,
)


def add(table: LiveTable, trial_id: str, axes: Mapping[str, Any], number: int, *of: str) -> None:
    """A trial that runs, was stopped, or was stopped and scored on the test prompts, by its number."""
    table.trial_added(trial_id, axes, 3, (500, 1000, 2000), *of)
    table.started(trial_id)
    table.report(RungReport(trial_id, 0, 500, 0.5 + number / 1000, 0.012, number == 2, 4000.0 + number, std=0.04))
    if number % 3:
        table.decided(trial_id, "stopped", "")
    if number % 3 == 2:
        table.tested(trial_id, 0.81 + number / 1000, 0.024)


def several_axes(table: LiveTable) -> None:
    for i in range(12):
        axes = {
            "template": ("plain", "a long name of a template")[i % 2], "r": (4, 128)[i // 2 % 2], "alpha": 16,
            "lr": (1e-3, 3.1623e-05)[i // 4 % 2], "plw": (0.0, 0.015)[i // 8], "pool": ("many", "one")[i % 2],
        }  # fmt: skip
        add(table, f"{i:x}5e0{i:08x}", axes, i)


def several_seeds(table: LiveTable) -> None:
    for i in range(12):
        axes = {"template": ("plain", "chat")[i // 6], "lr": (1e-3, 3e-3)[i // 3 % 2], "seed": i % 3}
        add(table, f"aaaa{i:08x}", axes, i // 3, f"bbbbb{i // 3}000000")


def confirmation(table: LiveTable) -> None:
    for i in range(12):
        role = ("choose", "report")[i // 2 % 2]
        add(table, f"aaaa{i:08x}", {"lr": 1e-3 * (i // 4 + 1), "seed": i}, i // 4, f"{i // 4}dddd0000000", role)


def stage(table: LiveTable) -> None:
    table.title = "small, stage 4 of 5: r, alpha, target_modules"
    for i in range(8):
        axes = {"r": (8, 16)[i // 2 % 2], "alpha": (16, 32)[i // 4], "steps": 2000, "seed": i % 2}
        add(table, f"{i:x}5e0{i:08x}", axes, i // 2, f"{i // 2}dddd0000000")


STUDIES: dict[str, Callable[[LiveTable], None]] = {
    "several axes": several_axes, "several seeds": several_seeds, "confirmation": confirmation, "a stage": stage,
}  # fmt: skip


def captured(table: LiveTable, width: int, height: int | None = None) -> list[str]:
    file = io.StringIO()
    console = Console(width=width, file=file, force_terminal=True, color_system=None, legacy_windows=False, _environ={})
    console.print(table._picture(width, height))
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", STUDIES)
def test_every_number_is_whole_and_no_line_too_wide(name: str, width: int) -> None:
    table = LiveTable("small", io.StringIO(), terminal=True)
    STUDIES[name](table)
    table.pulse(BUSY)
    lines, frame = captured(table, width), table.frame()
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    assert set(fitted(frame.columns, frame.rows, width).lines) <= set(lines), "the terminal broke none"
    ids = {row.configuration or row.id for row in table.rows().values()}
    names = [column.name for column in frame.columns]
    assert {row[0] for row in frame.rows} == set(short_ids(ids).values())
    shown = [line.split() for line in lines]
    for row in frame.rows:
        cells = dict(zip(names, row, strict=True))
        numbers = [n for n in ("objective", "test", "state", "rung") if n in cells]
        start = " ".join([row[0], *(cells[n] for n in numbers)]).split()
        assert start in [words[: len(start)] for words in shown]
    assert "alpha" not in names or name == "a stage"
    text = " ".join(lines)
    for axis in ("lr", "plw", "r"):
        for value in {dict(zip(names, row, strict=True)).get(axis, "") for row in frame.rows}:
            assert re.search(rf"(^|[ =]){re.escape(value)}( |$)", text)


@pytest.mark.parametrize("width", [80, 120])
def test_bars_say_how_much_is_trained_and_scored(width: int) -> None:
    table = LiveTable("small", io.StringIO(), terminal=True)
    several_axes(table)
    table.pulse(BUSY)
    lines = captured(table, width)
    bars = [line for line in lines if line.startswith(("training ", "scoring ", "test pool "))]
    assert [line.split("  ")[-1].strip() for line in bars] == [
        "123,456 of 1,234,567 steps",
        "4,328 of 60,000 dev cells",
        "0 of 1,400,000 test cells",
    ]
    done = [len(re.findall("[━╸]", line)) for line in bars]
    assert 3 <= done[0] <= 6
    assert 2 <= done[1] <= 5
    assert done[2] == 0
    assert "cells 4,328" not in lines[0]
    for trial in table.rows():
        table.decided(trial, "stopped", "")
    assert not [line for line in captured(table, width) if line.startswith("training ")]


def test_without_a_terminal_there_are_no_bars_and_the_header_counts_cells() -> None:
    out = io.StringIO()
    with LiveTable("small", out, terminal=False) as table:
        several_axes(table)
        table.pulse(BUSY)
        assert "dev cells 4,328 of 60,000" in table.frame().header
    assert "━" not in out.getvalue()
    assert "15e000000001" in out.getvalue(), "a log has whole ids"


def test_rows_of_several_lines_are_counted_by_their_lines() -> None:
    table = LiveTable("small", io.StringIO(), terminal=True)
    several_axes(table)
    table.pulse(BUSY)
    lines = captured(table, 80, height=20)
    assert len(lines) <= 20
    found = re.fullmatch(r"and (\d+) more", lines[-1])
    assert found
    ids = {row[0] for row in table.frame().rows}
    assert sum(line.split()[0] in ids for line in lines) + int(found[1]) == 12


def test_the_bar_of_training_counts_the_steps_of_all_trials() -> None:
    work = StudyWork(quotas=(4, 2, 1), dev_cells=(10, 10, 40), test_cells=100, tested=4, slots=2)
    rungs = (5, 10, 20)
    rows = [TrialRow(name, {}, 3, rungs, "waiting") for name in "abcd"]
    assert overview(work, rows, Told()).steps == (0, 4 * 5 + 2 * 5 + 1 * 10)
    rows[0].state = rows[1].state = rows[2].state = "running"
    rows[0].rung, rows[0].step, rows[0].objective = 1, 5, 0.5
    done = WorkDone(step_of={"a": 7, "b": 3, "c": 5}, scored={TrialGrid("c", 5, "dev"): 2.0})
    assert overview(work, rows, Told(done)).steps == (7 + 3 + 5, 40)
    for row in rows[1:]:
        row.rung, row.step, row.state = 1, 5, "stopped"
    rows[0].rung, rows[0].step, rows[0].state = 3, 20, "finished"
    assert overview(work, rows, Told()).steps[0] == 20 + 3 * 5


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [80, 120])
def test_watch_on_a_terminal_fits_it(width: int, study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("COLUMNS", str(width)), ("LINES", "40"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    store = Store.open(tmp_path / "run")
    store.write("study.yaml", dump_yaml(resolved(study())).encode())
    rows = []
    for i in range(6):
        axes = {
            "template": ("plain", "chat")[i % 2], "r": 4 * (i + 1), "alpha": 16.0, "dropout": 0.0, "seed": 0,
            "target_modules": "all-linear", "rslora": False, "lr": 3.1623e-05 * (i + 1), "steps": 2000,
            "plw": 0.015 * i, "pool": ("many", "one")[i % 2],
        }  # fmt: skip
        scores = {"objective": 0.51, "stderr": 0.012, "dev_std": 0.04, "test_mean": 0.83, "test_std": 0.024}
        rows.append(
            {"trial_id": f"{i}5e000000000", **axes, **scores, "status": "finished", "state": "finished", "rung": 2000}
        )
    write_trials(store, rows, {"began": 1.0, "written": 5000.0, "over": True})
    out = Terminal()
    assert watch(store.uri, 1.0, True, out) == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("x: 6 of 6 trials done, 6 finished, elapsed")
    numbers = [re.match(r"(\d5e0)  0\.510 ± 0\.012  0\.830 std 0\.024  finished +3/3\b", line) for line in lines]
    assert {found[1] for found in numbers if found} == {f"{i}5e0" for i in range(6)}
    assert re.search(r"[ =]0\.000189738( |\n)", text)


def test_a_look_at_a_run_that_goes_on_has_its_bars(study: Any, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "run")
    store.write("study.yaml", dump_yaml(resolved(study())).encode())
    row = {"trial_id": "05e000000000", "lr": 1e-3, "steps": 20, "status": "running", "state": "running"}
    now = time.time()
    write_trials(store, [row], {"began": now, "written": now, "over": False, "steps": (10, 20)})
    for stream, has_bars in ((Terminal(), True), (io.StringIO(), False)):
        watch(store.uri, 1.0, True, stream)
        assert ("10 of 20 steps" in stream.getvalue()) == has_bars


def test_the_driver_writes_the_steps_for_those_who_watch(study: Any, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "run")
    store.write("study.yaml", dump_yaml(resolved(study())).encode())
    table = LiveTable("small", io.StringIO(), terminal=False)
    table.pulse(BUSY)
    Progress(study(), store, table).write(even_if_unchanged=True)
    found = look(store)
    assert found is not None
    assert found.overview.steps == (123_456, 1_234_567)
