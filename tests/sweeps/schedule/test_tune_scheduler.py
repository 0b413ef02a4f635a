"""The promotion rule inside Ray Tune: real trials, paused, promoted, cut, retried."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from trainer.measure.rung import RungReport

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # read at ray's import (a token of another cluster is refused)
ray = pytest.importorskip("ray")
tune = pytest.importorskip("ray.tune")

from cluster.hosting.trainable import RUNGS_DONE  # noqa: E402
from sweeps.schedule.asha import Rungs  # noqa: E402
from sweeps.schedule.tune_scheduler import LEAST_REQUESTED, PromotionScheduler  # noqa: E402
from sweeps.search.points import Domain  # noqa: E402
from sweeps.search.tpe import RungSearch  # noqa: E402

STEPS = (10, 20, 40)


class Scripted(tune.Trainable):  # type: ignore[misc, name-defined]
    """Each trial's objectives are known; what really ran is written to ``log``, one line per rung."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.script, self.rung = new_config, new_config.get(RUNGS_DONE, 0)
        return True

    def step(self) -> dict[str, Any]:
        name, value = self.script.get("name", ""), self.value()
        started = Path(self.script["log"]).with_suffix(".slow")
        if name == "slow":
            started.touch()
            while not Path(self.script["log"]).exists():  # until "second", whose process may start slowly, is through
                time.sleep(0.05)
            time.sleep(2)  # and its report has come
        while name == "second" and not started.exists():
            time.sleep(0.05)
        with Path(self.script["log"]).open("a") as log:
            log.write(json.dumps([name, self.rung, os.getpid()]) + "\n")
        if value == "raise":
            raise RuntimeError("out of memory, says the script")
        if value == "once" and sum(json.loads(x)[:2] == [name, self.rung] for x in self.log_lines()) == 1:
            raise RuntimeError("a lost node, says the script")
        objective = 0.9 if value == "once" else value
        report = RungReport(name, self.rung, STEPS[self.rung], objective, 0.01, degenerate=name == "constant")
        self.rung += 1
        return report.encode()

    def value(self) -> Any:
        if "values" in self.script:
            return json.loads(self.script["values"])[self.rung]
        return -abs(math.log10(self.script["lr"]) + 3) + 0.01 * self.rung

    def log_lines(self) -> list[str]:
        return Path(self.script["log"]).read_text().splitlines()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not find tests/
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def run(scheduler: Any, folder: Path, *, space: Any, trials: int, search: Any = None, retries: int = 0) -> Any:
    tuner = tune.Tuner(
        tune.with_resources(Scripted, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(scheduler=scheduler, search_alg=search, num_samples=trials, reuse_actors=True),
        run_config=tune.RunConfig(
            name="asha",
            storage_path=str(folder),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    return tuner.fit()


def test_a_trial_that_nobody_waits_for_keeps_its_process(cluster: None, tmp_path: Path) -> None:
    """A new process would cost it seconds. First in this file: its trials wait for each other, so it needs both places,
    and Ray can lose one for good where a placement group is taken back while its node prepares it
    (ray-project/ray#64693), which the end of a sweep can do."""
    values = {"slow": [0.1, 0.1], "second": [0.9, 0.9]}
    scheduler = PromotionScheduler(Rungs(2, 2, 2), identify=lambda config: str(config["name"]))
    space = {
        "name": tune.grid_search([*values]),
        "log": str(tmp_path / "log"),
        "values": tune.sample_from(lambda spec: json.dumps(values[spec.config.name])),
    }
    run(scheduler, tmp_path, space=space, trials=1)
    assert {n: d.status for n, d in scheduler.decisions().items()} == {"second": "finished", "slow": "stopped"}
    ran = {(name, rung): pid for name, rung, pid in map(json.loads, (tmp_path / "log").read_text().splitlines())}
    assert [*ran] == [("second", 0), ("slow", 0), ("second", 1)]
    assert ran["second", 0] == ran["second", 1] != ran["slow", 0]


TABLE: dict[str, list[Any]] = {
    "best": [0.80, 0.81, 0.82],
    "constant": [0.99, 0.99, 0.99],  # degenerate
    "good": [0.70, 0.75, 0.78],
    "lost": ["raise", 0, 0],
    "nan": [math.nan, 0, 0],
    "once": ["once", 0.60, 0],  # fails at rung 1, comes back with 0.9
    "poor": [0.30, 0.9, 0.9],
    "weak": [0.40, 0.50, 0.9],
}


def test_eight_trials_on_two_places(cluster: None, tmp_path: Path) -> None:
    log = tmp_path / "log"
    scheduler = PromotionScheduler(Rungs(8, 2, 3), identify=lambda config: str(config["name"]))
    names = [*TABLE]
    space = {
        "name": tune.grid_search(names),
        "log": str(log),
        "values": tune.sample_from(lambda spec: json.dumps(TABLE[spec.config.name])),
    }
    results = run(scheduler, tmp_path, space=space, trials=1, retries=1)

    decisions = scheduler.decisions()
    assert {name: d.status for name, d in decisions.items()} == {
        "best": "finished", "good": "finished", "once": "stopped", "weak": "stopped",
        "constant": "stopped", "poor": "stopped", "nan": "stopped", "lost": "failed",
    }  # fmt: skip
    assert {name for name, d in decisions.items() if (d.rung or 0) >= 1} == {"best", "good", "once", "weak"}
    assert {name for name, d in decisions.items() if (d.rung or 0) >= 2} == {"best", "good"}
    assert decisions["poor"].reason == (
        "stopped at rung 1 of 3 (step 10): objective 0.3 ± 0.01 is below the 4 best of 8 (cut-off 0.4)"
    )
    assert decisions["once"].reason == (
        "stopped at rung 2 of 3 (step 20): objective 0.6 ± 0.01 is below the 2 best of 4 (cut-off 0.75)"
    )
    assert decisions["nan"].reason == "stopped at rung 1 of 3 (step 10): objective is nan"
    assert "degenerate" in decisions["constant"].reason
    assert decisions["lost"].reason.startswith("failed before rung 1 of 3: ")
    assert "out of memory, says the script" in decisions["lost"].reason

    # What ran: each rung once, no rung after the cut; a failing rung once more per retry.
    ran = Counter(tuple(json.loads(line)[:2]) for line in log.read_text().splitlines())
    expected = Counter({(name, 0): 1 for name in names})
    expected.update({(name, 1): 1 for name in ("best", "good", "once", "weak")})
    expected.update({(name, 2): 1 for name in ("best", "good")})
    expected.update({("lost", 0): 1, ("once", 0): 1})
    assert ran == expected

    # Tune agrees: everything has ended, only the failed trial with an error, and cut trials kept their last result.
    assert len(results) == 8
    assert [r.config["name"] for r in results if r.error] == ["lost"]
    reached = {r.config["name"]: RungReport.decode(r.metrics or {}) for r in results if not r.error}
    assert {name: report.rung_index for name, report in reached.items() if report} == {
        "best": 2,
        "good": 2,
        "once": 1,
        "weak": 1,
        "constant": 0,
        "poor": 0,
        "nan": 0,
    }


def test_tpe_makes_trials_over_time_and_may_end_early(cluster: None, tmp_path: Path) -> None:
    """The second sweep is announced with more trials than the axes hold: it must not wait for the rest."""
    axes = {"lr": Domain("loguniform", 1e-5, 1e-1), "seed": [0]}
    search = RungSearch(axes, 1, 2)
    scheduler = PromotionScheduler(Rungs(6, 3, 2))
    run(scheduler, tmp_path, space={"log": str(tmp_path / "log")}, trials=6, search=search)
    decisions = scheduler.decisions()
    assert Counter(d.status for d in decisions.values()) == {"finished": 2, "stopped": 4}
    lowest = min(d.objective - 0.01 for d in decisions.values() if d.status == "finished" and d.objective is not None)
    assert all(d.objective <= lowest for d in decisions.values() if d.status == "stopped" and d.objective is not None)
    states = Counter(t.state.name for t in search.observations.values())  # type: ignore[union-attr]
    assert states == {"COMPLETE": 2, "PRUNED": 4}

    small = {"lr": [1e-2, 1e-3, 1e-4, 1e-5]}
    search = RungSearch(small, 1, 2)
    scheduler = PromotionScheduler(Rungs(8, 2, 2))
    run(scheduler, tmp_path / "early", space={"log": str(tmp_path / "log")}, trials=8, search=search)
    assert Counter(d.status for d in scheduler.decisions().values()) == {"finished": 2, "stopped": 2}
    assert scheduler.rungs.quotas == (4, 2)


def test_a_limit_of_concurrent_trials_is_refused_instead_of_waiting_for_ever() -> None:
    from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, SearchGenerator

    tpe = RungSearch({"lr": Domain("uniform", 0, 1)}, 0)
    for search in (BasicVariantGenerator(max_concurrent=2), SearchGenerator(ConcurrencyLimiter(tpe, 2))):
        controller = type("Controller", (), {"search_alg": search})()
        with pytest.raises(ValueError, match="max_concurrent_trials = 2 counts paused trials"):
            PromotionScheduler(Rungs(8, 2, 2)).on_trial_add(controller, tune.experiment.Trial("t", stub=True))


def test_rays_own_asha_depends_on_the_order_and_ours_does_not() -> None:
    """Reports .5, .6, .4, .7 with eta 4 let three of four go on in Ray; here exactly the best goes on."""
    from ray.tune.schedulers.async_hyperband import _Bracket

    values = {"a": 0.5, "b": 0.6, "c": 0.4, "d": 0.7}
    kept: dict[str, str] = {}
    for order in ("abcd", "dcba"):
        bracket, ours = _Bracket(1, 100, 4, 0), Rungs(4, 4, 2)
        stopped = {t for t in order if bracket.on_result(type("T", (), {"trial_id": t})(), 1, values[t]) == "STOP"}
        kept[order] = "".join(t for t in order if t not in stopped)
        for trial in order:
            ours.report(trial, 0, values[trial])
        assert {t for t, d in ours.decisions().items() if d.action == "continue"} == {"d"}
    assert kept == {"abcd": "abd", "dcba": "d"}


def test_promoted_trials_start_before_new_ones_and_the_highest_rung_first() -> None:
    """Also: whoever reported keeps its place until another trial was asked for, and goes on there at once where that is
    certain by then; its rungs are in its config."""
    from ray.tune.experiment import Trial
    from ray.tune.search import BasicVariantGenerator

    class Controller:
        search_alg = BasicVariantGenerator()
        _trial_to_actor: ClassVar[dict[Trial, Any]] = {}
        _staged_trials: ClassVar[set[Trial]] = set()
        _actor_cache = SimpleNamespace(num_cached_objects=1)
        _actor_manager = SimpleNamespace(num_pending_actors=0, _live_actors_to_ray_actors_resources={})

        def stop_trial(self, trial: Trial) -> None:
            trial.set_status(Trial.TERMINATED)

        def pause_trial(self, trial: Trial, should_checkpoint: bool) -> None:
            assert not should_checkpoint
            trial.set_status(Trial.PAUSED)

        def _schedule_trial_train(self, trial: Trial) -> None:
            went_on.append(trial)

    went_on: list[Trial] = []
    controller = Controller()
    scheduler = PromotionScheduler(Rungs(8, 2, 3), identify=lambda config: str(config["name"]))
    trials = {name: Trial("stub", config={"name": name}, stub=True) for name in "abcdefgh"}
    for trial in trials.values():
        scheduler.on_trial_add(controller, trial)
    assert scheduler.choose_trial_to_run(controller) is trials["a"]

    def report(name: str, rung: int, objective: float) -> str:
        trials[name].set_status(Trial.RUNNING)
        return scheduler.on_trial_result(controller, trials[name], RungReport(name, rung, 1, objective).encode())

    answers = [report(name, 0, value) for name, value in zip("abcdef", (9.0, 8.0, 7.0, 1.0, 0.5, 0.4), strict=True)]
    assert answers == ["NOOP"] * 6  # two to come: the fifth and sixth are out, a and b are in
    assert report("a", 1, 9.0) == report("b", 1, 8.0) == "NOOP"
    assert [trials[name].config.get(RUNGS_DONE) for name in "abcdh"] == [2, 2, 1, 1, None]
    assert report("g", 0, 6.0) == "NOOP"  # makes c certain, and cuts d; both have their places still
    assert scheduler.choose_trial_to_run(controller) is trials["h"]
    assert went_on == [trials["c"]]
    assert trials["c"].status == trials["d"].status == trials["g"].status == Trial.RUNNING
    controller._staged_trials.update(trials.values())
    assert scheduler.choose_trial_to_run(controller) is trials["h"]  # nothing else waits: the first of those asked for
    assert trials["d"].status == trials["e"].status == trials["f"].status == Trial.TERMINATED
    assert trials["a"].status == trials["b"].status == trials["g"].status == Trial.PAUSED
    assert trials["c"].status == Trial.RUNNING
    assert report("c", 1, 1.0) == report("h", 0, 0.0) == "NOOP"  # c behind a and b: a is certain; h makes g certain
    controller._staged_trials.clear()
    assert scheduler.choose_trial_to_run(controller) is trials["a"]  # rung 2 before g
    assert trials["c"].status == trials["h"].status == Trial.RUNNING  # until a was asked for: one of them has a's place
    controller._staged_trials.add(trials["a"])
    controller._actor_cache.num_cached_objects, controller._actor_manager.num_pending_actors = 0, LEAST_REQUESTED
    assert scheduler.choose_trial_to_run(controller) is None  # enough are asked for
    controller._actor_manager.num_pending_actors -= 1
    assert scheduler.choose_trial_to_run(controller) is trials["g"]
    assert went_on == [trials["c"]]
