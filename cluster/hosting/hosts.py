"""Hosts: one actor per accelerator holds the base model; trials that land on that accelerator share it.

A trial asks Ray for a fraction of an accelerator and is placed like anything else. Where it lands, it asks the
registry for that place's host. On a machine without GPUs an accelerator is ``resources.cpus`` of its CPUs, so it has as
many hosts as that goes into them. Hosts take no resources of their own (their trials' fractions pay for them) and
belong to the registry, which belongs to the driver: when the driver dies, all of them do. The registry stands on the
driver's node, so that no other node's death takes it along; killed alone, it starts again, and so do the hosts.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import ActorUnavailableError, ActorUnschedulableError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.hosting.gang import Gang, PlaceLostError
from cluster.hosting.prometheus import publish_host
from cluster.hosting.tensorboard import chart
from cluster.ray_private import actor_id
from cluster.resources import Resources
from trainer.data.assets import Assets
from trainer.errors import UserError
from trainer.setup import Setup
from trainer.store import Store
from trainer.trial import Model, Trial
from trainer.work import Block, ScoreBlock, TrainAndScore, TrainOnly, Work

log = logging.getLogger("steadytune")

RETRIES = 3  # a trial goes to a new host this often when its host dies under it
BLOCK = 5000  # cells of a whole grid that one host scores at a time, so that others may help
IDLE = 60.0  # seconds without a trial after which a host ends


@dataclass(frozen=True)
class Place:
    """One accelerator of the cluster: a node, and a GPU there, or where there is none ("") a part of its CPUs."""

    node: str
    gpu: str
    part: int = 0

    @property
    def device(self) -> str:
        return f"gpu{self.gpu}" if self.gpu else f"cpu{self.part or ''}"


class Host:
    """The base model of one accelerator, and the thread that trains and scores the trials resident on it."""

    def __init__(self, model: Model, setup: Any, assets: Any, store_uri: str, place: Place):
        if place.gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = place.gpu  # Ray hides the GPUs from an actor that asked for none
        from trainer.runner import Runner

        self._busy, self._since = 0, time.monotonic()
        self.store, self.std_weight = Store.open(store_uri), setup.std_weight
        self.runner = Runner(model, setup, assets, self.store)
        publish_host(self.runner, place.device)

    async def advance(self, trial: Trial, rung: int, pool: str) -> None:
        """Returns when the score rows of ``trial`` at ``rung`` under ``pool`` are in the run folder, and those of the
        dev pool in TensorBoard."""
        await self._do(TrainAndScore(trial, rung, pool))
        await self.chart(trial, rung, pool)

    async def train(self, trial: Trial, rung: int, pool: str) -> Any:
        """Train up to ``rung`` and checkpoint there, for hosts that score ``pool`` in blocks. Training's record; None
        where its rows are in the run folder after all."""
        return await self._do(TrainOnly(trial, rung, pool))

    async def score(self, trial: Trial, rung: int, pool: str, block: Block) -> Any:
        """The score rows of a block, and its seconds."""
        return await self._do(ScoreBlock(trial, rung, pool, block))

    async def chart(self, trial: Trial, rung: int, pool: str) -> None:
        if pool == "dev":
            await asyncio.to_thread(chart, self.store, trial, rung, self.std_weight)

    async def _do(self, work: Work) -> Any:
        from trainer.model.device import device_lost

        self._busy += 1
        try:
            return await asyncio.wrap_future(self.runner.submit(work))
        except Exception as error:
            if device_lost(error):  # and with it all that comes here; a new process can use it again
                log.error("this host ends, and another takes its place: %s", error)
                os._exit(1)
            raise
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
        self._seats: dict[str, Place] = {}  # where each trial under way is
        self._served: set[str] = set()  # ids of hosts that a trial has left: they are up
        threading.Thread(target=self._retire, args=(idle,), daemon=True).start()

    def host(self, place: Place, parts: int, trial: str, dead: Any, arguments: tuple[Any, ...]) -> Any:
        """A host at ``place``, made with the fleet's ``arguments``: of its ``parts`` the one with the fewest trials.
        ``trial`` counts there until it leaves. ``dead``: the actor id of a host that the caller saw die, so that two
        callers who saw the same death get the same new host."""
        self.forget(dead)
        self._seats.pop(trial, None)
        busy = Counter(self._seats.values())
        seat = min((replace(place, part=i) for i in range(parts)), key=lambda p: (busy[p], p.part))
        self._seats[trial] = seat
        return self._at(seat, arguments)

    def forget(self, dead: Any) -> None:
        """The next trial at the place of the host with the actor id ``dead`` gets a new one."""
        for known, host in list(self._hosts.items()):
            if actor_id(host) == dead:
                self._hosts.pop(known, None)  # unless `_retire`, on its thread, came first

    def leave(self, trial: str) -> None:
        place = self._seats.pop(trial, None)
        if place in self._hosts:
            self._served.add(actor_id(self._hosts[place]))

    def idle(self) -> list[Any]:
        """Hosts that are up and have no trial."""
        busy = set(self._seats.values())
        return [h for place, h in list(self._hosts.items()) if place not in busy and actor_id(h) in self._served]

    def warm(self, place: Place, parts: int, arguments: tuple[Any, ...]) -> None:
        """Start hosts that trials will ask for soon."""
        for part in range(parts):
            self._at(replace(place, part=part), arguments)

    def _at(self, place: Place, arguments: tuple[Any, ...]) -> Any:
        if place not in self._hosts:
            strategy = NodeAffinitySchedulingStrategy(place.node, soft=False)
            options = {"num_cpus": 0, "scheduling_strategy": strategy, "max_concurrency": 1000}
            model, setup, assets, store_uri = arguments
            host = ray.remote(Host).options(**options).remote(model, setup, assets[0], store_uri, place)
            self._hosts[place] = host
        return self._hosts[place]

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
                    self._hosts.pop(place, None)
                ray.kill(host)


@dataclass(frozen=True)
class Fleet:
    """What a trial needs to get its work done, wherever it is placed. Travels to every trial process."""

    registry: Any
    store_uri: str
    resources: Resources
    arguments: tuple[Any, ...]
    grids: Mapping[str, tuple[int, int]]  # prompts and rows of each pool

    @classmethod
    def start(cls, model: Model, setup: Setup, assets: Assets, store: Store, resources: Resources) -> Fleet:
        """``assets`` goes to the object store once; hosts fetch it from there, not from the driver's disk."""
        arguments = (model, setup, [ray.put(assets)], store.uri)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}
        registry = ray.remote(Registry).options(**options).remote(IDLE)
        grids = {pool: (len(prompts), len(assets.rows[pool])) for pool, prompts in assets.pools.items()}
        return cls(registry, store.uri, resources, arguments, grids)

    def warm(self, trials: int) -> None:
        """Load the base model while the processes of the first of ``trials`` start. Only where it is known which
        accelerators they will get: on one machine without GPUs. Returns when Ray has been asked for the hosts, which
        take longer to start than those processes and so go before them."""
        if self.resources.workers == 1 and not self.resources.gpus and len(ray.nodes()) == 1:
            place = here()
            parts = min(self._room(place), math.ceil(trials / self.resources.slots))
            ray.get(self.registry.warm.remote(place, parts, self.arguments))

    def ensure(self, trial: Trial, rung: int, pool: str) -> tuple[Any, dict[str, Any]]:
        """The score rows and record of ``trial`` at ``rung``: from the run folder when they are there, else made
        now by this place's host; ``replayed`` in the record tells which. Raises what the trial failed with."""
        store = Store.open(self.store_uri)
        found = store.read_scores(trial.id, rung, pool)
        if found is not None:
            return found[0], {**found[1], "replayed": True}
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
        """With this place's host, and again with the next one where it dies under the trial."""
        prompts, rows = self.grids[pool]
        blocks = min(prompts, prompts * rows // BLOCK) if trial.share_at(rung, pool) == 1 else 1
        place, dead = here(), None
        parts = self._parts(place)
        for attempt in range(RETRIES + 1):
            host = ray.get(self.registry.host.remote(place, parts, trial.id, dead, self.arguments))
            try:
                if blocks > 1:
                    self._together(host, trial, rung, pool, blocks)
                else:
                    ray.get(host.advance.remote(trial, rung, pool))
                return
            except ActorUnschedulableError as error:
                raise PlaceLostError(f"trial {trial.id}: {place} takes no host any more ({error})") from error
            except RayActorError as error:
                where = f"trial {trial.id}: its host on {place.device} of node {place.node[:8]}"
                if error.actor_init_failed:  # most likely it would again, so whoever tries the trial again decides
                    ray.get(self.registry.forget.remote(actor_id(host)))
                    told = str(error).strip().splitlines()[-1].removeprefix("trainer.errors.UserError: ")
                    raise HostError(f"{where} cannot start: {told}") from error
                if attempt == RETRIES:
                    raise HostError(f"{where} died {RETRIES + 1} times ({error})") from error
                # A host that cannot be reached may yet live: a second one would take the accelerator's memory twice.
                dead = None if isinstance(error, ActorUnavailableError) else actor_id(host)
                time.sleep(0.2 * 2**attempt)
            except RayTaskError as error:
                raise (error.cause if isinstance(error.cause, UserError) else error) from None
            finally:
                self.registry.leave.remote(trial.id)

    def _together(self, host: Any, trial: Trial, rung: int, pool: str, blocks: int) -> None:
        """Train on ``host``; then score the grid there and on all hosts that have nothing to do, block by block. The
        blocks are the same however many take part, so the rows are. Helpers only help: the block of one that dies, or
        that takes much longer than others, is done by ``host``."""
        record = ray.get(host.train.remote(trial, rung, pool))
        store = Store.open(self.store_uri)
        if store.read_scores(trial.id, rung, pool) is not None:
            return  # training broke off, or another process was here first
        done: dict[int, tuple[pa.Table, float]] = {}
        todo = deque(range(blocks))
        under_way: dict[Any, tuple[Any, int]] = {}
        free = [host, *(h for h in ray.get(self.registry.idle.remote()) if actor_id(h) != actor_id(host))]
        while len(done) < blocks:
            while free and todo:
                helper, block = free.pop(0), todo.popleft()
                under_way[helper.score.remote(trial, rung, pool, Block(block, blocks))] = (helper, block)
            patience = 2 * max((spent for _, spent in done.values()), default=0.0) + 1 if host in free else None
            ready, _ = ray.wait([*under_way], num_returns=1, timeout=patience)
            if not ready:
                todo.extend(k for _, k in under_way.values())
                continue
            helper, block = under_way.pop(ready[0])
            try:
                answer = ray.get(ready[0])
                if answer is None:
                    return  # another process has written the rows meanwhile
                done[block] = answer
                free.append(helper)
            except (RayActorError, RayTaskError):
                if helper is host:
                    raise
                todo.append(block)
            todo = deque(k for k in todo if k not in done)
        seconds = sum(spent for _, spent in done.values())
        record |= {"seconds": record["seconds"] + seconds, "score_seconds": record["score_seconds"] + seconds}
        store.write_scores(trial.id, rung, pool, pa.concat_tables([done[k][0] for k in range(blocks)]), record)
        ray.get(host.chart.remote(trial, rung, pool))

    def _parts(self, place: Place) -> int:
        """How many hosts share the machine of ``place``, on which a trial is."""
        return 1 if place.gpu else max(1, self._room(place))

    def _room(self, place: Place) -> int:
        """Hosts that go into the CPUs which Ray has at ``place``; a cluster's head may have none."""
        cpus = next((n["Resources"].get("CPU", 0) for n in ray.nodes() if n["NodeID"] == place.node), 0)
        return int(cpus // self.resources.cpus)

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
