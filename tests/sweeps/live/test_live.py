"""The sweep's display: what the lines say exactly, what the table holds, and that showing never ends a sweep."""

from __future__ import annotations

import io
import math
import os
import pty
import re
import subprocess
import sys
import threading
from itertools import pairwise

import pytest
from checkout import ROOT

from sweeps.live.left import Told
from sweeps.live.rows import TrialRow
from sweeps.live.table import LiveTable
from trainer.measure.rung import RungReport
from trainer.work import WorkDone


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def plain(every: float = 1e9) -> tuple[LiveTable, io.StringIO, Clock]:
    out, clock = io.StringIO(), Clock()
    return LiveTable("demo", out, clock=clock, every=every, std_weight=1.5), out, clock


def test_plain_lines_say_every_event_once() -> None:
    table, out, clock = plain()
    with table:
        table.trial_added("aa11", {"lr": 1e-3, "pool": "many"}, 2)
        table.trial_added("bb22", {"lr": 3e-3, "pool": "many"}, 2)
        table.trial_added("cc33", {"lr": 1e-2, "pool": "many"}, 2)
        table.started("aa11")
        table.started("bb22")
        clock.now = 65
        table.report(RungReport("aa11", 0, 50, 0.612, 0.031, False, 64.6))
        table.report(RungReport("bb22", 0, 50, 0.5, math.nan, True, 64.6))
        table.decided("bb22", "stopped", "rung 1: 0.500 is 2nd of 2, 1 goes on")
        clock.now = 130
        table.report(RungReport("aa11", 1, 100, 0.7, 0.02, False, 60))
        table.decided("aa11", "finished", "")
        table.testing("aa11")
        clock.now = 140
        table.tested("aa11", 0.71, 0.04, 10.0)
        table.failed("cc33", "no such\nfile \x1b[31m")
        table.note("report at runs/demo/report.html")
    assert out.getvalue().splitlines() == [
        "[0:00] 3 trials added, which differ in lr",
        "[0:00] aa11 started (lr=0.001)",
        "[0:00] bb22 started (lr=0.003)",
        "[1:05] aa11 rung 1/2 at step 50: objective 0.612 ± 0.031, 1:04",
        "[1:05] bb22 rung 1/2 at step 50: objective 0.500, 1:04, one label",
        "[1:05] bb22 stopped: rung 1: 0.500 is 2nd of 2, 1 goes on",
        "[2:10] aa11 rung 2/2 at step 100: objective 0.700 ± 0.020, 1:00",
        "[2:10] aa11 finished",
        "[2:10] aa11 scoring the test prompts",
        "[2:20] aa11 test prompts: mean 0.710, std 0.040",
        "[2:20] cc33 failed: no such file  [31m",
        "[2:20] report at runs/demo/report.html",
        "demo: 3 of 3 trials done, 1 finished, 1 stopped, 1 failed, elapsed 2:20",
        "trial  objective      test             state     rung  lr     note       time",
        "aa11   0.700 ± 0.020  0.710 std 0.040  finished   2/2  0.001             2:14",
        "bb22   0.500                           stopped    1/2  0.003  one label  1:04",
        "cc33                                   failed     0/2  0.01              0:00",
    ]


def test_progress_lines_are_rate_limited() -> None:
    table, out, clock = plain(every=30)
    with table:
        table.trial_added("aa11", {}, 3)
        for second in range(100):
            clock.now = float(second)
            table.note("tick")
    progress = [line for line in out.getvalue().splitlines() if "trials done" in line]
    assert [line.split("]")[0] for line in progress[:-1]] == ["[0:30", "[1:00", "[1:30"]


def test_running_trials_come_first_by_objective_then_waiting_then_stopped() -> None:
    table, _, _ = plain()
    trials = [("s", 0.9, "stopped"), ("lo", 0.2, "running"), ("hi", 0.4, "running"), ("w", 0.8, "waiting")]
    for name, objective, state in trials:
        table.trial_added(name, {}, 2)
        table.started(name)
        table.report(RungReport(name, 0, 5, objective, 0.1, False, 1.0))
        table.decided(name, state, "")
    table.trial_added("new", {}, 2)
    table.started("nan")
    table.report(RungReport("nan", 0, 5, math.nan, math.nan, False, 1.0))
    assert [row[0] for row in table.frame().rows] == ["hi", "lo", "nan", "w", "new", "s"]
    short = table.frame(2)
    assert [row[0] for row in short.rows] == ["hi", "lo"]
    assert short.more == 4


def test_a_log_says_within_seconds_what_hosts_do_and_then_ever_less_often() -> None:
    table, out, clock = plain()
    with table:
        table.trial_added("aa11", {}, 2, (50, 100))
        table.started("aa11")
        for second in range(0, 200, 10):
            clock.now = float(second)
            table.pulse(Told(doing="1 host loading the base model") if second < 100 else Told(steps_per_s=12.345))
    lines = out.getvalue().splitlines()[2:-3]
    assert lines[0] == "[0:10] demo: 0 of 1 trials done, 1 running, elapsed 0:10, 1 host loading the base model"
    assert lines[-1] == "[3:00] demo: 0 of 1 trials done, 1 running, elapsed 3:00, 12.3 steps/s"
    at = [int(line[1]) * 60 + int(line[3:5]) for line in lines]
    gaps = [b - a for a, b in pairwise(at)]
    assert gaps == sorted(gaps)
    assert (gaps[0], gaps[-1]) == (10, 30)  # the hosts were asked every 10 s


def test_a_log_that_goes_on_for_long_gets_a_line_a_minute() -> None:
    table, out, clock = plain()
    with table:
        for second in range(0, 3600, 5):
            clock.now = float(second)
            table.pulse(Told())
    assert 59 < out.getvalue().count("elapsed") < 75


def test_the_header_says_what_trials_wait_for_that_no_node_has() -> None:
    table, _, _ = plain()
    table.trial_added("aa", {}, 1)
    table.pulse(Told(), "no node has 1 GPU (cluster: 0 GPU)")
    assert "1 waiting: no node has 1 GPU (cluster: 0 GPU), elapsed" in table.frame().header
    table.pulse(Told())
    assert "1 waiting, elapsed" in table.frame().header


def test_the_time_of_a_trial_never_goes_back_and_counts_nothing_twice() -> None:
    table, _, _ = plain()
    table.trial_added("aa", {}, 2, (5, 10))
    table.started("aa")

    def time_after(step: int, seconds: float) -> str:
        table.pulse(Told(WorkDone(step_of={"aa": step}, seconds_of={"aa": seconds})))
        return table.frame().rows[0][-2]

    assert time_after(3, 20.0) == "0:20"
    assert time_after(1, 5.0) == "0:20"  # its host died, and another does the work again
    table.report(RungReport("aa", 0, 5, 0.5, 0.1, False, 30.0))
    assert time_after(5, 29.0) == "0:30"  # an answer from before the report
    assert time_after(7, 12.0) == "0:42"
    table.report(RungReport("aa", 1, 10, 0.5, 0.1, False, 31.0))
    table.decided("aa", "stopped", "")
    table.testing("aa")
    assert time_after(10, 7.0) == "1:08"
    table.tested("aa", 0.5, 0.1, 9.0)
    assert table.frame().rows[0][-1] == "1:10"


def test_trials_are_taken_over_without_a_line() -> None:
    table, out, clock = plain()
    clock.now = 5.0
    with table:
        table.restore([TrialRow("aa11", {"lr": "0.1"}, 2, (5, 10), "stopped", 1, 5, 0.5, 0.1, seconds=7.0)], 100.0)
    header, _, row = out.getvalue().splitlines()
    assert header == "demo: 1 of 1 trials done, 1 stopped, elapsed 1:40"
    assert row.split() == ["aa11", "0.500", "±", "0.100", "stopped", "1/2", "0:07"]


def test_an_interrupt_is_said_and_passed_on() -> None:
    table, out, _ = plain()

    def interrupted() -> None:
        with table:
            table.trial_added("aa11", {}, 1)
            table.started("aa11")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "demo (interrupted): 0 of 1 trials done, 1 running" in out.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_narrow_encoding_is_lived_with(encoding: str) -> None:
    raw = io.BytesIO()
    with LiveTable("demo 示", io.TextIOWrapper(raw, encoding), clock=Clock()) as table:
        table.trial_added("aa11", {"template": "例"}, 1)
        table.report(RungReport("aa11", 0, 5, 0.5, 0.1, False, 1.0))
    assert b"objective 0.500" in raw.getvalue()


def test_a_closed_pipe_does_not_end_the_sweep() -> None:
    code = (
        "from sweeps.live.table import LiveTable\nimport sys\nwith LiveTable('demo') as t:\n"
        " for i in range(20000):\n  t.note('x' * 50)\nsys.stderr.write('sweep done')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read().decode()
    process.stderr.close()
    assert (process.wait(), said) == (0, "sweep done")


def test_events_from_many_threads_are_all_there() -> None:
    table, out, _ = plain()

    def one(k: int) -> None:
        for i in range(50):
            table.trial_added(f"{k}-{i}", {"lr": i}, 1)
            table.started(f"{k}-{i}")
            table.report(RungReport(f"{k}-{i}", 0, 5, 0.5, 0.1, False, 1.0))
            table.decided(f"{k}-{i}", "finished", "")

    with table:
        threads = [threading.Thread(target=one, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert out.getvalue().count(" finished\n") == 200
    assert "200 of 200 trials done, 200 finished" in out.getvalue()


TERMINAL = """
import sys, time
from sweeps.live.table import LiveTable
from trainer.measure.rung import RungReport
with LiveTable("demo") as table:
    for i in range(50):
        table.trial_added(f"t{i:02d}", {"lr": i / 1000, "template": "[bold]plain"}, 2)
    for i in range(50):
        table.started(f"t{i:02d}")
        table.report(RungReport(f"t{i:02d}", 0, 5, 0.5 + i / 1000, 0.01, i == 49, 3.0))
    table.failed("t00", "out of memory")
    table.note("[red]a note")
"""


def test_a_terminal_shows_one_table_that_fits_the_screen() -> None:
    master, slave = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 100, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm-256color"}
    process = subprocess.Popen([sys.executable, "-c", TERMINAL], stdout=slave, stderr=slave, cwd=ROOT, env=env)
    os.close(slave)
    chunks = []
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        chunks.append(data)
    assert process.wait() == 0
    os.close(master)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(chunks).decode()).split("demo: ")[-1]
    lines = [line.rstrip() for line in last.splitlines() if line.strip()]
    assert lines[0].startswith("0 of 50 trials done") or lines[0].startswith("1 of 50 trials done")
    assert lines[1].split() == ["id", "objective", "state", "rung", "lr", "note", "time", "now"]
    assert lines[2].split() == ["t49", "0.549", "±", "0.010", "running", "1/2", "0.049", "one", "label", "0:03"]
    assert re.fullmatch(r"and \d+ more", next(line for line in lines if line.startswith("and")))
    assert lines[-1] == "[red]a note"
    assert lines[-2] == "t00 failed: out of memory"
    assert len(lines) <= 20


def test_with_several_seeds_the_table_has_a_row_per_configuration() -> None:
    table, _, _ = plain()
    with table:
        for name, lr in (("aa", 1e-3), ("bb", 3e-3)):
            for seed in (0, 1):
                table.trial_added(f"{name}{seed}", {"lr": lr, "seed": seed}, 2, (5, 10), name)
        for name, value in (("aa0", 0.7), ("aa1", 0.8), ("bb0", 0.5)):
            table.report(RungReport(name, 0, 5, value - 1.5 * 0.05, 0.01, False, 1.0, std=0.05))
        frame = table.frame()
    names = [column.name for column in frame.columns]
    assert names == ["configuration", "objective", "state", "rung", "lr", "seeds", "time", "now"]
    rows = {row[0]: row for row in frame.rows}
    assert rows["aa"][4:6] == ("0.001", "2")
    mean, std = 0.75, math.sqrt(0.05**2 + 0.1**2 / 2)  # of both: over the prompts, and between the seeds
    assert f"{mean - 1.5 * std:.3f} ± {math.sqrt(0.01**2 + 0.1**2 / 2 / 2):.3f}" in rows["aa"]
    assert rows["bb"][1:4:2] == ("", "0/2")


def test_fresh_seeds_have_rows_of_their_own() -> None:
    table, _, _ = plain()
    with table:
        for name, role, rungs in (("s", "", (5, 10)), ("c", "choose", (10,)), ("r", "report", (10,))):
            for seed in (0, 1):
                table.trial_added(f"{name}{seed}", {"lr": 1e-3, "seed": seed}, len(rungs), rungs, "aa", role)
                for rung, step in enumerate(rungs):
                    table.report(RungReport(f"{name}{seed}", rung, step, 0.5 + 0.1 * len(role), std=0.0))
        rows = {row[4]: row for row in table.frame().rows}
    assert rows.keys() == {"2", "2 choose", "2 report"}
    assert {row[0] for row in rows.values()} == {"aa"}
    assert rows["2"][1:4:2] == ("0.500", "2/2")
    assert rows["2 choose"][1:4:2] == ("1.100", "1/1")
