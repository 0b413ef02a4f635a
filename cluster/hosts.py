"""Hosts: one actor per accelerator holds the base model; trials that land on that accelerator share it.

A trial asks Ray for a fraction of an accelerator and is placed like anything else. Where it lands, it asks the
registry for that place's host. Hosts take no resources of their own (their trials' fractions pay for them) and
belong to the registry, which belongs to the driver: when the driver dies, all of them do. The registry stands on the
driver's node, so that no other node's death takes it along; killed alone, it starts again, and so do the hosts.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, ActorUnschedulableError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.gang import Gang, PlaceLostError
from cluster.metrics import publish_host
from cluster.resources import Resources
from trainer.assets import Assets
from trainer.errors import UserError
from trainer.setup import Setup
from trainer.store import Store
from trainer.trial import Model, Trial

RETRIES = 3  # a trial goes to a new host this often when its host dies under it
IDLE = 60.0  # seconds without a trial after which a host ends


@dataclass(frozen=True)
class Place:
    """One accelerator of the cluster: a node, and a GPU there ("" on a machine without)."""

    node: str
    gpu: str


class Host:
    """The base model of one accelerator, and the thread that trains and scores the trials resident on it."""

    def __init__(self, model: Model, setup: Any, assets: Any, store_uri: str, gpu: str):
        if gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # Ray hides the GPUs from an actor that asked for none
        from trainer.runner import Runner

        self._busy, self._since = 0, time.monotonic()
        self.runner = Runner(model, setup, assets, Store.open(store_uri))
        publish_host(self.runner, f"gpu{gpu}" if gpu else "cpu")

    async def advance(self, trial: Trial, rung: int, pool: str) -> None:
        """Returns when the score rows of ``trial`` at ``rung`` under ``pool`` are in the run folder."""
        from trainer.runner import Job

        self._busy += 1
        try:
            await asyncio.wrap_future(self.runner.submit(Job(trial, rung, pool)))
        finally:
            self._busy, self._since = self._busy - 1, time.monotonic()

    async def idle(self) -> float:
        """Seconds since it had a trial."""
        return 0.0 if self._busy else time.monotonic() - self._since

    async def steps(self) -> int:
        """Optimizer steps taken since this host started, over all trials."""
        return self.runner.steps

    async def process(self) -> int:
        return os.getpid()


class Registry:
    """Which host serves which place; starts them on demand and anew after a death. Started again after its own death
    it knows no host, and there is none: they die with it."""

    def __init__(self, idle: float) -> None:
        self._hosts: dict[Place, Any] = {}
        threading.Thread(target=self._retire, args=(idle,), daemon=True).start()

    def host(self, place: Place, dead: Any, arguments: tuple[Any, ...]) -> Any:
        """The host at ``place``, made with the fleet's ``arguments``. ``dead``: the actor id of a host that the caller
        saw die, so that two callers who saw the same death get the same new host."""
        known = self._hosts.get(place)
        if known is None or (dead is not None and known._actor_id.hex() == dead):
            strategy = NodeAffinitySchedulingStrategy(place.node, soft=False)
            options = {"num_cpus": 0, "scheduling_strategy": strategy, "max_concurrency": 1000}
            model, setup, assets, store_uri = arguments
            known = ray.remote(Host).options(**options).remote(model, setup, assets[0], store_uri, place.gpu)
            self._hosts[place] = known
        return known

    def hosts(self) -> list[Any]:
        return list(self._hosts.values())

    def _retire(self, idle: float) -> None:
        """Ends hosts that have had no trial for ``idle`` seconds: to Ray's autoscaler a node with an actor on it is in
        use, though the actor asks for nothing. A trial that comes at that very moment sees a death like any other."""
        while True:
            time.sleep(idle / 4)
            for place, host in list(self._hosts.items()):
                try:
                    if ray.get(host.idle.remote(), timeout=idle / 4) < idle:
                        continue
                except ray.exceptions.RayError:  # it loads its model, or is dead: then a trial will say so
                    continue
                if self._hosts.get(place) is host:
                    del self._hosts[place]
                ray.kill(host)


@dataclass(frozen=True)
class Fleet:
    """What a trial needs to get its work done, wherever it is placed. Travels to every trial process."""

    registry: Any
    store_uri: str
    resources: Resources
    arguments: tuple[Any, ...]

    @classmethod
    def start(cls, model: Model, setup: Setup, assets: Assets, store: Store, resources: Resources) -> Fleet:
        """``assets`` goes to the object store once; hosts fetch it from there, not from the driver's disk."""
        arguments = (model, setup, [ray.put(assets)], store.uri)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}
        registry = ray.remote(Registry).options(**options).remote(IDLE)
        return cls(registry, store.uri, resources, arguments)

    def ensure(self, trial: Trial, rung: int, pool: str) -> tuple[Any, dict[str, Any]]:
        """The score rows and record of ``trial`` at ``rung``: from the run folder when they are there, else made
        now by this place's host. Raises what the trial failed with."""
        store = Store.open(self.store_uri)
        found = store.read_scores(trial.id, rung, pool)
        if found is not None:
            return found
        if self.resources.workers > 1:
            self._gang().advance(trial, rung, pool)
        else:
            self._advance(trial, rung, pool)
        found = store.read_scores(trial.id, rung, pool)
        if found is None:
            raise HostError(
                f"trial {trial.id}: its host reported rung {rung} done, but {self.store_uri} has no rows of it. "
                "Is the run folder on storage that all nodes share?"
            )
        return found

    def leave(self) -> None:
        """Give this process's gang back; for whoever does a single trial's work and will not be asked again."""
        if _gang is not None:
            _gang.end()

    def _advance(self, trial: Trial, rung: int, pool: str) -> None:
        place, dead = here(), None
        for attempt in range(RETRIES + 1):
            host = ray.get(self.registry.host.remote(place, dead, self.arguments))
            try:
                ray.get(host.advance.remote(trial, rung, pool))
                return
            except ActorUnschedulableError as error:
                raise PlaceLostError(f"trial {trial.id}: {place} takes no host any more ({error})") from error
            except RayActorError as error:
                if attempt == RETRIES:
                    raise HostError(
                        f"trial {trial.id}: the host on {place} died {RETRIES + 1} times ({error})"
                    ) from error
                # A host that cannot be reached may yet live: a second one would take the accelerator's memory twice.
                dead = None if isinstance(error, ActorUnavailableError) else host._actor_id.hex()
                time.sleep(0.2 * 2**attempt)
            except ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, UserError) else error) from None

    def _gang(self) -> Gang:
        global _gang
        if _gang is None or _gang.ended:
            r = self.resources
            _gang = Gang(r.workers, r.cpus, r.gpus, self.arguments)
        return _gang


_gang: Gang | None = None  # this process's workers, warm for its next trial


class HostError(UserError):
    """A host could not do its work."""


def here() -> Place:
    """The accelerator that Ray gave this process."""
    context = ray.get_runtime_context()
    gpus = context.get_accelerator_ids().get("GPU") or [""]
    return Place(context.get_node_id(), str(gpus[0]))
