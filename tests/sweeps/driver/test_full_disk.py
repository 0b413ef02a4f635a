"""A run folder that takes no files ends the sweep: every trial would fail on it (CASES E5, E6)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from checkout import ROOT
from runner_trials import trial
from score_rows import can_mount
from small_study import write_study

from cluster.hosting.trainable import UNWRITABLE, SlotTrainable, Sweep
from sweeps.driver.watcher import Watcher
from trainer.store import UnwritableError


class FullFleet:
    """Hosts whose every write fails."""

    def __init__(self) -> None:
        self.asked = 0

    def ensure(self, *_: Any) -> Any:
        self.asked += 1
        raise UnwritableError("run/x: cannot be written (No space left on device)")


def test_a_trial_does_not_try_again_and_says_why() -> None:
    fleet = FullFleet()
    at = SlotTrainable.__new__(SlotTrainable)
    at.sweep = Sweep(fleet, lambda _: trial(), (0.5, 1.0), 0.0, failures=2)  # type: ignore[arg-type]
    at.trial, at.rung = trial(), 0
    result = at.step()
    assert fleet.asked == 1
    assert (result["done"], result[UNWRITABLE]) == (True, "run/x: cannot be written (No space left on device)")


@pytest.mark.parametrize("by", ["a trial", "the driver"])
def test_the_driver_ends_the_sweep(by: str) -> None:
    watcher = Watcher.__new__(Watcher)
    watcher._unwritable = ""
    if by == "a trial":
        watcher.on_trial_complete(0, [], SimpleNamespace(last_result={UNWRITABLE: "no space"}))
    else:
        watcher._safely("trials.parquet", FullFleet().ensure)
    with pytest.raises(UnwritableError, match=r"no space|No space"):
        watcher.on_step_end(0, [])


def test_a_read_only_folder_is_told_at_once(tmp_path: Path) -> None:
    """CASES E6: the command waited for 121 seconds."""
    out = tmp_path / "out"
    out.mkdir()
    if not can_mount(out):
        pytest.skip("this machine lets no test mount a disk")
    run = [sys.executable, "-m", "sweeps", "run", str(write_study(tmp_path)), "--out", str(out)]
    mount = 'mount -t tmpfs -o ro tmpfs "$0" && exec "$@"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, str(out), *run], cwd=ROOT, env=dict(os.environ), capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: {out}/lease.json: cannot be written ([Errno 30] Read-only file system")
    assert "trying again" not in done.stderr
    assert line.endswith("name another folder, and run the same command again")
