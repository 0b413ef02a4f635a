"""Ray Tune's own controller over places that are simulated: for tests of what the scheduler does with many nodes.

Real are Tune's controller, its trials and the trainable, whose methods are called in this process. Simulated is the
layer below, Tune's actor manager: how many actors there is room for, how long one takes to start and a task to run.
Time is simulated too, so nothing waits.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.train._internal import storage
from ray.tune.execution import tune_controller
from ray.tune.experiment import Experiment
from ray.tune.search import BasicVariantGenerator


class Places:
    """Tune's actor manager, as far as its controller uses it."""

    def __init__(self, places: int, start: float, task: float) -> None:
        self.places, self.start, self.task = places, start, task  # room for actors; seconds
        self._free_at = 0.0  # when the processors have started all actors that begin by now
        self.clock = 0.0
        self.made = 0  # actors that began to start
        self.busy: list[int] = []  # actors with a trial, at each report
        self._pending_actors_to_attrs: dict[TrackedActor, dict[str, Any]] = {}
        self._live_actors_to_ray_actors_resources: dict[TrackedActor, tuple[Any, None]] = {}
        self._ready: set[TrackedActor] = set()
        self._doomed: set[TrackedActor] = set()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._trainables: dict[TrackedActor, Any] = {}

    # -- what the controller asks for

    def add_actor(self, cls: Any, kwargs: dict[str, Any], resource_request: Any, **callbacks: Any) -> TrackedActor:
        actor = TrackedActor(next(self._count), **callbacks)
        self._pending_actors_to_attrs[actor] = {"cls": cls, "kwargs": kwargs}
        return actor

    def remove_actor(self, tracked_actor: TrackedActor, kill: bool = False, stop_future: Any = None) -> bool:
        if tracked_actor in self._pending_actors_to_attrs:
            del self._pending_actors_to_attrs[tracked_actor]
            return False
        if tracked_actor not in self._live_actors_to_ray_actors_resources:
            return False
        if tracked_actor in self._ready:
            self._at(self.task, lambda: self._end(tracked_actor))
        else:  # it starts, and ends when that is done: Tune does not hear of it again
            tracked_actor.set_on_start(None)
            tracked_actor.set_on_stop(None)
            self._doomed.add(tracked_actor)
        return True

    def schedule_actor_task(
        self,
        tracked_actor: TrackedActor,
        method_name: str,
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        on_result: Callable[..., None] | None = None,
        on_error: Callable[..., None] | None = None,
        _return_future: bool = False,
    ) -> None:
        def run() -> None:
            if tracked_actor not in self._trainables:
                return
            if method_name == "train":
                self.busy.append(len(self._ready))
            result = getattr(self._trainables[tracked_actor], method_name)(*(args or ()), **(kwargs or {}))
            if on_result:
                on_result(tracked_actor, result)

        if method_name != "stop":
            self._at(self.task, run)

    def next(self, timeout: float | None = None) -> bool:
        while self._pending_actors_to_attrs and len(self._live_actors_to_ray_actors_resources) < self.places:
            self._begin(next(iter(self._pending_actors_to_attrs)))
        if not self._events:
            return False
        self.clock, _, act = heapq.heappop(self._events)
        act()
        return True

    def is_actor_started(self, tracked_actor: TrackedActor) -> bool:
        return tracked_actor in self._live_actors_to_ray_actors_resources

    def is_actor_failed(self, tracked_actor: TrackedActor) -> bool:
        return False

    def get_live_actors_resources(self) -> dict[str, float]:
        return {"CPU": float(len(self._live_actors_to_ray_actors_resources))}

    def clear_actor_task_futures(self, tracked_actor: TrackedActor) -> None:
        pass

    def cleanup(self) -> None:
        pass

    @property
    def num_live_actors(self) -> int:
        return len(self._live_actors_to_ray_actors_resources)

    @property
    def num_pending_actors(self) -> int:
        return len(self._pending_actors_to_attrs)

    @property
    def num_total_actors(self) -> int:
        return self.num_live_actors + self.num_pending_actors

    @property
    def num_actor_tasks(self) -> int:
        return len(self._events)

    # -- the work

    def _at(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.clock + seconds, next(self._count), act))

    def _begin(self, actor: TrackedActor) -> None:
        made = self._pending_actors_to_attrs.pop(actor)
        metrics = SimpleNamespace(remote=lambda **_: {})
        self._live_actors_to_ray_actors_resources[actor] = (SimpleNamespace(get_auto_filled_metrics=metrics), None)
        self.made += 1

        def started() -> None:
            if actor in self._doomed:
                self._end(actor)
                return
            self._trainables[actor] = made["cls"](**made["kwargs"])
            self._ready.add(actor)
            if actor._on_start:
                actor._on_start(actor)

        self._free_at = max(self._free_at, self.clock) + self.start  # imports fill the processors: one after another
        self._at(self._free_at - self.clock, started)

    def _end(self, actor: TrackedActor) -> None:
        self._live_actors_to_ray_actors_resources.pop(actor, None)
        self._trainables.pop(actor, None)
        self._ready.discard(actor)
        if actor._on_stop:
            actor._on_stop(actor)


class _Classes:
    """In place of Tune's cache of remote classes: the class itself."""

    def get(self, trainable: Any) -> Any:
        return trainable


class _Enough:
    """In place of Tune's warning of resources that the cluster lacks."""

    def __init__(self, **_: Any) -> None:
        pass

    def on_no_available_trials(self, trials: Any) -> None:
        pass


@contextlib.contextmanager
def simulated(places: Places, folder: Path, monkeypatch: Any) -> Iterator[None]:
    monkeypatch.setattr(storage, "_get_ray_train_session_dir", lambda: str(folder / "session"))
    monkeypatch.setenv("TUNE_MAX_PENDING_TRIALS_PG", "200")
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    monkeypatch.setattr(tune_controller, "RayActorManager", lambda **_: places)
    monkeypatch.setattr(tune_controller, "_ActorClassCache", _Classes)
    monkeypatch.setattr(tune_controller, "_InsufficientResourcesManager", _Enough)
    yield


def run(
    trainable: Any, space: dict[str, Any], scheduler: Any, places: Places, folder: Path, monkeypatch: Any
) -> tune_controller.TuneController:
    """A sweep to its end. Raises ``RuntimeError`` where it stands still."""
    search = BasicVariantGenerator()
    with simulated(places, folder, monkeypatch):
        experiment = Experiment("simulated", trainable, config=space, storage_path=str(folder))
        controller = tune_controller.TuneController(
            search_alg=search,
            scheduler=scheduler,
            storage=experiment.storage,
            reuse_actors=True,
            checkpoint_period=1e9,
        )
        search.add_configurations([experiment])
        still = 0
        while not controller.is_finished():
            before = places.clock
            controller.step()
            still = still + 1 if places.clock == before and not places.num_actor_tasks else 0
            if still > 1000:
                raise RuntimeError("nothing happens any more")
    return controller
