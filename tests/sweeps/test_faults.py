"""What breaks under Tune and Ray on one machine: places that are lost, errors that stay, clocks that jump."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from checkout import FILES, ROOT

from trainer.measure.rung import RungReport

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
ray = pytest.importorskip("ray")
tune = pytest.importorskip("ray.tune")

from sweeps.schedule.asha import Rungs  # noqa: E402
from sweeps.schedule.tune_scheduler import PromotionScheduler  # noqa: E402


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not find tests/
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    env = {"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=env)
    yield
    ray.shutdown()


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


class Dying(tune.Trainable):  # type: ignore[misc, name-defined]
    """One rung. A process that is given a second trial dies, once."""

    def setup(self, config: dict[str, Any]) -> None:
        self.given = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.given = new_config
        died = Path(new_config["folder"], "died")
        if not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    def step(self) -> dict[str, Any]:
        with Path(self.given["folder"], self.given["name"]).open("a") as f:
            f.write("x")
        return {**RungReport("", 0, 1, 0.5).encode(), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        pass


class Errors(tune.Callback):  # type: ignore[misc, name-defined]
    """As the run's own watcher does."""

    def __init__(self, scheduler: Any):
        self.scheduler = scheduler

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.scheduler.requeue()

    def __reduce__(self) -> tuple[Any, ...]:
        return (tune.Callback, ())


def test_a_trial_whose_process_dies_while_it_takes_it_over_is_started_elsewhere(cluster: None, tmp_path: Path) -> None:
    scheduler = PromotionScheduler(Rungs(3, 2, 1), identify=lambda config: str(config["name"]))
    names = ["a", "b", "c"]
    tune.Tuner(
        tune.with_resources(Dying, {"cpu": 2}),
        param_space={"name": tune.grid_search(names), "folder": str(tmp_path)},
        tune_config=tune.TuneConfig(scheduler=scheduler, reuse_actors=True),
        run_config=tune.RunConfig(
            name="idle",
            storage_path=str(tmp_path / "tune"),
            verbose=0,
            callbacks=[Errors(scheduler)],
            failure_config=tune.FailureConfig(max_failures=8),
        ),
    ).fit()
    assert (tmp_path / "died").exists()
    assert {n: d.status for n, d in scheduler.decisions().items()} == dict.fromkeys(names, "finished")
    assert [(tmp_path / n).read_text() for n in names] == ["x", "x", "x"]


class Unlucky(tune.Trainable):  # type: ignore[misc, name-defined]
    """Three rungs; its process dies twice before each. What is done stands in a folder, as in a run's."""

    def step(self) -> dict[str, Any]:
        folder = Path(self.config["folder"])
        rung = len(list(folder.glob("rung*")))
        deaths = len(list(folder.glob(f"died{rung}*")))
        if deaths < 2:
            (folder / f"died{rung}-{deaths}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / f"rung{rung}").touch()
        return {**RungReport("", rung, rung + 1, 0.5).encode(), "done": rung == 2}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        pass


@pytest.mark.parametrize(("losses", "status"), [(2, "finished"), (1, "failed")])
def test_lost_places_are_counted_from_rung_to_rung(cluster: None, tmp_path: Path, losses: int, status: str) -> None:
    """Six in all, two before each rung: a limit of two lets the trial through, a limit of one does not."""
    folder = tmp_path / "run"
    folder.mkdir()
    scheduler = PromotionScheduler(Rungs(1, 2, 3), identify=lambda config: "only")
    tune.Tuner(
        tune.with_resources(Unlucky, {"cpu": 1}),
        param_space={"folder": str(folder)},
        tune_config=tune.TuneConfig(scheduler=scheduler, reuse_actors=True),
        run_config=tune.RunConfig(
            name="unlucky", storage_path=str(tmp_path / "tune"), verbose=0, callbacks=[Errors(scheduler)],
            failure_config=tune.FailureConfig(max_failures=losses),
        ),
    ).fit()  # fmt: skip
    assert scheduler.decisions()["only"].status == status
    assert len(list(folder.glob("rung*"))) == (3 if status == "finished" else 0)


# hosts and their registry -------------------------------------------------------------------------------------------


def test_a_place_that_is_gone_loses_the_trial_its_place_and_does_not_fail_it(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that died, or takes nothing new because it will be taken away, gets no host."""
    from small_study import prepared

    from cluster.hosting import hosts
    from cluster.hosting.gang import PlaceLostError
    from cluster.resources import Resources
    from trainer.setup import Setup
    from trainer.store import Store

    assets, model, trials = prepared(tmp_path, steps=2)
    fleet = hosts.Fleet.start(model, Setup(1, 4), assets, Store.open(tmp_path / "run"), Resources())
    monkeypatch.setattr(hosts, "here", lambda: hosts.Place("ab" * 28, ""))
    with pytest.raises(PlaceLostError, match="takes no host any more"):
        fleet.ensure(trials[0], 2, "dev")


def test_a_registry_that_is_killed_starts_again_and_so_do_the_hosts(cluster: None, tmp_path: Path) -> None:
    from small_study import prepared, wait_until

    from cluster.hosting.hosts import Fleet
    from cluster.resources import Resources
    from trainer.setup import Setup
    from trainer.store import Store

    def ensure(fleet: Any, trial: Any) -> int:
        return int(fleet.ensure(trial, 60, "dev")[0].num_rows)

    assets, model, trials = prepared(tmp_path, steps=60)
    fleet = Fleet.start(model, Setup(1, 4, threads=1), assets, Store.open(tmp_path / "run"), Resources())
    task = ray.remote(ensure).options(num_cpus=1)
    running = task.remote(fleet, trials[0])
    wait_until(lambda: len(ray.get(fleet.registry.hosts.remote())) == 1)
    host = ray.get(fleet.registry.hosts.remote())[0]
    wait_until(lambda: ray.get(host.work_done.remote()).steps > 3)
    ray.kill(fleet.registry, no_restart=False)
    assert ray.get(running, timeout=120) == 96
    assert ray.get(task.remote(fleet, trials[1]), timeout=120) == 96


# errors that stay ------------------------------------------------------------------------------------------------


def test_a_trial_that_breaks_on_itself_is_tried_twice_more_and_fails_with_its_reason(
    cluster: None, tmp_path: Path
) -> None:
    from small_study import prepared

    from cluster.hosting.trainable import SlotTrainable, Sweep
    from cluster.resources import Resources

    @dataclass(frozen=True)
    class Broken:
        """A fleet on which every trial runs out of memory."""

        log: str

        def ensure(self, trial: Any, rung: int, pool: str) -> Any:
            with open(self.log, "a") as f:
                f.write("x")
            raise MemoryError("not enough for a single row")

    trials = prepared(tmp_path, steps=2)[2]
    known = {t.id: t for t in trials}
    sweep = Sweep(Broken(str(tmp_path / "log")), lambda config: known[config["id"]], (1.0,), 1.0, failures=2)
    scheduler = PromotionScheduler(Rungs(1, 2, 1), identify=lambda config: str(config["id"]))
    tune.Tuner(
        tune.with_resources(tune.with_parameters(SlotTrainable, sweep=sweep), Resources().share()),
        param_space={"id": tune.grid_search([trials[0].id])},
        tune_config=tune.TuneConfig(scheduler=scheduler, reuse_actors=True),
        run_config=tune.RunConfig(
            name="broken", storage_path=str(tmp_path / "tune"), verbose=0,
            failure_config=tune.FailureConfig(max_failures=8),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()  # fmt: skip
    decision = scheduler.decisions()[trials[0].id]
    assert decision.status == "failed"
    assert decision.reason.endswith(": not enough for a single row")
    assert (tmp_path / "log").read_text() == "xxx"


# clocks -----------------------------------------------------------------------------------------------------------

JUMPING = """
import random, time
_true, _rng = time.time, random.Random(0)
time.time = lambda: _true() + _rng.choice([-86400, -3600, -5, 0, 5, 3600, 86400])
"""


@pytest.mark.long
def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    """In every Python process of a run each look at the clock gives another day."""
    from small_study import finish, score_files, start, write_study

    study = write_study(tmp_path, resources={"slots": 1})
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(JUMPING)
    finish(start(study, tmp_path / "still"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(ROOT)]))
        finish(start(study, tmp_path / "jumping"))
    still, jumping = score_files(tmp_path / "still"), score_files(tmp_path / "jumping")
    assert still.keys() == jumping.keys()
    assert all(still[name].equals(jumping[name]) for name in still)


def test_no_wait_and_no_duration_is_taken_from_the_wall_clock() -> None:
    """It may stand only where a time is shown to people, where a server names a date to come back at, and where the
    clock itself is looked at."""
    import ast

    files = (
        "driver/progress",
        "live/watch",
        "run_folder/lease",
        "cli/jobs",
        "prompts/endpoints",
        "staged/protocol",
        "doctor/outside",
    )
    shown = {"cluster/hosting/tensorboard.py", *(f"sweeps/{name}.py" for name in files)}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in ("time.time", "datetime.now", "datetime.datetime.now")
    ]
    assert [f for f in found if f.split(":")[0] not in shown] == []


def test_every_fault_in_the_documents_names_tests_that_exist() -> None:
    import re

    tests = {path.stem: path for path in (ROOT / "tests").rglob("test_*.py")}
    section = (ROOT / "docs" / "cluster.md").read_text().split("\n## Faults\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 9
    for row in rows:
        named = re.findall(r"`(test_\w+)::(test_\w+)`", row)
        assert named or row.endswith("| the same |"), row
        for file, test in named:
            assert f"\ndef {test}(" in tests[file].read_text(), test
