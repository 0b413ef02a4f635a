"""``steadytune time`` on a run folder: every trial alone, in the file and in the tables of a study of arms."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from tiny_run import LABELLED, PLAIN, make_run

import trainer.runner
from sweeps.cli import main
from sweeps.driver.timing import TimingSettings, time_trials
from sweeps.run_folder.timing import TIMING_FILE
from trainer.train.engine import Engine
from trainer.trial import Trial

EVERY = 3  # steps between searches of the adversarial arm
SECTIONS: dict[str, Any] = {
    "templates": PLAIN,
    "pools": {
        "train": {"many": "train.yaml", "one": {"file": "train.yaml", "only": ["t1"]}},
        "dev": "dev.yaml",
        "test": "test.yaml",
    },
    "arms": {
        "base": {"pool": "one", "steps": 0},
        "user": {"pool": "one"},
        "paft": {"pool": "many"},
        "adversarial": {"pool": "many", "choice": "adversarial", "search_every": EVERY, "search_rows": 2},
    },
    "axes": {"template": "plain", "lora": {"r": 2}, "lr": 1e-2, "steps": 20},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Trial]]:
    uri, trials = make_run(tmp_path_factory.mktemp("timed"), LABELLED, **SECTIONS)
    return Path(uri), {t.arm.name: t for t in trials}


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["time", *words])
    return int(ended.value.code or 0)


def test_the_tables_have_what_was_measured_and_call_shares_shares(
    run: tuple[Path, dict[str, Trial]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, trials = run
    inference = pq.read_table(folder / "tables" / "paft_inference.parquet").to_pylist()
    assert {r["label_ms"] for r in inference} == {None}
    assert all(r["joint_ms"] > 0 for r in inference)
    page = (folder / "tables" / "paft_main.md").read_text()
    assert "What an arm costs by itself was not measured" in page
    assert "no measurement of the arm" in page

    assert command(str(folder), "--answers", "12", "--batch", "4", "--new-tokens", "3", "--steps", "2") == 0
    said = capsys.readouterr().out
    assert f"{trials['paft'].id}, arm paft: " in said
    assert "ms in generation" in said
    found = json.loads((folder / TIMING_FILE).read_text())
    assert (found["batch"], found["answers"], found["max_new_tokens"]) == (4, 12, 3)
    assert set(found["trials"]) == {t.id for t in trials.values()}
    assert "train_ms_per_step" not in found["trials"][trials["base"].id]

    inference = {r["arm"]: r for r in pq.read_table(folder / "tables" / "paft_inference.parquet").to_pylist()}
    for name, trial in trials.items():
        of = found["trials"][trial.id]
        for column in ("label_ms", "generate_ms", "new_tokens", "unread"):
            assert inference[name][column] == of[column]
        assert 0 < of["new_tokens"] <= 3
    training = {r["arm"]: r for r in pq.read_table(folder / "tables" / "paft_training.parquet").to_pylist()}
    paft = trials["paft"]
    wanted = paft.optimization.steps * found["trials"][paft.id]["train_ms_per_step"] / 3.6e6
    assert training["paft"]["hours"] == pytest.approx(wanted)
    assert min(r["to_fastest"] for r in training.values()) == 1.0
    assert "12 answers in batches of 4, at most 3 new tokens" in (folder / "tables" / "paft_main.md").read_text()


class StatedTimes:
    """A clock on which a step takes ``step`` seconds, ``first`` more as the first of an engine, and ``slower`` more for
    each step before it; a search takes ``search`` seconds."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, step: float, search: float = 0.0, first: float = 0.0, slower: float = 0.0
    ) -> None:
        self.now, self.steps = 0.0, 0
        tick, scored = Engine.tick, trainer.runner.label_logprobs

        def stepped(engine: Engine, samples: Any) -> Any:
            self.steps += 1
            self.now += step + slower * self.steps + (first if engine is not self.engine else 0.0)
            self.engine = engine
            return tick(engine, samples)

        def searched(*given: Any) -> Any:
            self.now += search
            return scored(*given)

        self.engine: Engine | None = None
        monkeypatch.setattr(Engine, "tick", stepped)
        monkeypatch.setattr(trainer.runner, "label_logprobs", searched)
        clock = SimpleNamespace(perf_counter=lambda: self.now, monotonic=lambda: self.now)
        monkeypatch.setattr(trainer.runner, "time", clock)


def step_times(run: tuple[Path, dict[str, Trial]], steps: int) -> dict[str, float]:
    """Milliseconds of a step of each arm."""
    folder, trials = run
    list(time_trials(str(folder), TimingSettings(answers=3, batch=3, max_new_tokens=1, steps=steps), lambda _: None))
    found = json.loads((folder / TIMING_FILE).read_text())["trials"]
    return {name: found[t.id]["train_ms_per_step"] for name, t in trials.items() if t.optimization.steps}


def test_a_step_costs_what_it_takes_without_warm_up_and_with_its_share_of_searches(
    run: tuple[Path, dict[str, Trial]], monkeypatch: pytest.MonkeyPatch
) -> None:
    StatedTimes(monkeypatch, step=2.0, search=6.0, first=100.0)
    found = step_times(run, 10)
    assert found == pytest.approx({"user": 2000.0, "paft": 2000.0, "adversarial": 2000.0 + 6000.0 / EVERY})


def test_a_machine_that_gets_slower_slows_all_arms(
    run: tuple[Path, dict[str, Trial]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step to step by a tenth of the first: one arm after the other would be far apart."""
    StatedTimes(monkeypatch, step=1.0, slower=0.1)
    found = step_times(run, 12)
    assert max(found.values()) < 1.4 * min(found.values())


def test_a_damaged_file_is_named(run: tuple[Path, dict[str, Trial]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = run
    kept = (folder / TIMING_FILE).read_bytes() if (folder / TIMING_FILE).exists() else None
    (folder / TIMING_FILE).write_text("{")
    try:
        with pytest.raises(SystemExit) as ended:
            main(["report", str(folder)])
        assert ended.value.code == 2
        assert "timing.json: is damaged" in capsys.readouterr().err
    finally:
        (folder / TIMING_FILE).unlink()
        if kept is not None:
            (folder / TIMING_FILE).write_bytes(kept)
