"""Hosts: one actor per accelerator holds the base model, and the trials on that accelerator share it.

A trial asks Ray for a fraction of an accelerator, and Ray places it like any other task. There it asks the registry
for the host of that place. On a machine without GPUs, ``resources.cpus`` CPUs count as one accelerator, so the machine
has several hosts if it has several times as many. A host reserves no resources of its own, since its trials have
reserved the accelerator. The registry owns the hosts, and the driver owns the registry: when the driver dies, all of
them end. The registry runs on the driver's node, so that it survives the loss of any other node. If only the registry
is killed, Ray starts it again, and it starts the hosts again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Collection, Mapping
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
from trainer.errors import BaseModelError, UserError
from trainer.measure.design import sample_record, sample_size
from trainer.setup import Setup
from trainer.store import Store
from trainer.trial import Model, Trial
from trainer.work import (
    BLOCK,
    Block,
    ScoreBlock,
    TrainAndScore,
    TrainOnly,
    Work,
    WorkDone,
    extended,
    is_scored,
    span_of,
)

log = logging.getLogger("steadytune")

RETRIES = 3  # new hosts that a trial gets, one after another, when its host dies
UNFIT = f"{BaseModelError.__module__}.{BaseModelError.__name__}: "  # how a traceback names it
IDLE = 60.0  # seconds without a trial after which a host ends


@dataclass(frozen=True)
class Place:
    """One accelerator of the cluster: a node and a GPU there, or, with ``gpu`` "", a part of the node's CPUs."""

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
            os.environ["CUDA_VISIBLE_DEVICES"] = place.gpu  # Ray hides all GPUs from an actor that reserves none
        from trainer.runner import Runner

        self._busy, self._since = 0, time.monotonic()
        self.store, self.setup = Store.open(store_uri), setup
        self.runner = Runner(model, setup, assets, self.store)
        publish_host(self.runner, place.device)

    async def advance(self, trial: Trial, rung: int, pool: str, cells: int = 0) -> None:
        """Bring ``trial`` to ``rung`` and score it on ``pool``. When this returns, the score rows are in the run
        folder, and for the dev pool also the TensorBoard file."""
        await self._do(TrainAndScore(trial, rung, pool, cells))
        await self.chart(trial, rung, pool)

    async def train(self, trial: Trial, rung: int, pool: str, cells: int = 0) -> Any:
        """Train up to ``rung`` and write its checkpoint, so that several hosts can score ``pool`` in blocks. The record
        of training; None if the score rows are in the run folder already."""
        return await self._do(TrainOnly(trial, rung, pool, cells))

    async def score(self, trial: Trial, rung: int, pool: str, block: Block, cells: int = 0) -> Any:
        """The score rows of one block, and the seconds it took."""
        return await self._do(ScoreBlock(trial, rung, pool, block, cells))

    async def chart(self, trial: Trial, rung: int, pool: str) -> None:
        if pool == "dev":
            await asyncio.to_thread(chart, self.store, trial, rung, self.setup.std_weight, self.setup.varied_axes)

    async def _do(self, work: Work) -> Any:
        from trainer.model.device import device_lost

        self._busy += 1
        try:
            return await asyncio.wrap_future(self.runner.submit(work))
        except Exception as error:
            if device_lost(error):  # every later job would fail as well; a new process can use the device again
                log.error("this host ends, and another takes its place: %s", error)
                os._exit(1)
            raise
        finally:
            self._busy, self._since = self._busy - 1, time.monotonic()

    async def idle(self) -> float:
        """Seconds since the last trial left; 0 while there is one."""
        return 0.0 if self._busy else time.monotonic() - self._since

    async def work_done(self) -> WorkDone:
        """What this host has done since it started, and how far its trials are."""
        return self.runner.work_done()


class Registry:
    """Knows the host of each place, starts hosts on demand, and starts a new one when one has died. After its own death
    it starts empty: its hosts have ended with it."""

    def __init__(self, idle: float) -> None:
        self._hosts: dict[Place, Any] = {}
        self._seats: dict[str, Place] = {}  # where each trial that is being worked on is
        self._served: set[str] = set()  # ids of hosts that a trial has left, which shows that they have started
        self._gangs: list[Any] = []  # the first worker of each
        self._unfit = ""  # why no host can start, where that is the base model's fault
        threading.Thread(target=self._retire, args=(idle,), daemon=True).start()

    def host(self, place: Place, parts: int, trial: str, dead: Any, arguments: tuple[Any, ...]) -> Any:
        """The host for ``trial`` at ``place``: of the place's ``parts``, the one with the fewest trials. The trial is
        counted there until it calls ``leave``. ``dead``: the actor id of a host that the caller saw die, so that two
        callers that saw the same death get the same new host. ``arguments``: the fleet's, to start a host with. Text
        instead of a host: why none can start here or elsewhere."""
        if self._unfit:
            return self._unfit
        self.forget(dead)
        self._seats.pop(trial, None)
        busy = Counter(self._seats.values())
        seat = min((replace(place, part=i) for i in range(parts)), key=lambda p: (busy[p], p.part))
        self._seats[trial] = seat
        return self._at(seat, arguments)

    def forget(self, dead: Any) -> None:
        """Let the next trial at the place of the host with the actor id ``dead`` get a new host."""
        for known, host in list(self._hosts.items()):
            if actor_id(host) == dead:
                self._hosts.pop(known, None)  # unless the thread of `_retire` was faster

    def refuse(self, why: str) -> None:
        """Start no more hosts: the base model is not one that can be trained on."""
        self._unfit = self._unfit or why

    def unfit(self) -> str:
        return self._unfit

    def leave(self, trial: str) -> None:
        place = self._seats.pop(trial, None)
        if place in self._hosts:
            self._served.add(actor_id(self._hosts[place]))

    def idle(self) -> list[Any]:
        """The hosts that have started and have no trial."""
        busy = set(self._seats.values())
        return [h for place, h in list(self._hosts.items()) if place not in busy and actor_id(h) in self._served]

    def warm(self, place: Place, parts: int, arguments: tuple[Any, ...]) -> None:
        """Start the hosts that trials will soon ask for."""
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

    def joined(self, worker: Any) -> None:
        """Remember the first worker of a gang."""
        self._gangs.append(worker)

    def at_work(self, ended: Collection[str] = ()) -> list[Any]:
        """What can tell how far trials are: all hosts, and the first worker of each gang. ``ended``: the ids of those
        of which the caller knows that they have ended."""
        self._gangs = [gang for gang in self._gangs if actor_id(gang) not in ended]
        return [*self._hosts.values(), *self._gangs]

    def _retire(self, idle: float) -> None:
        """End hosts that have had no trial for ``idle`` seconds, since Ray's autoscaler counts a node with an actor as
        in use, even if the actor reserves nothing. A trial that asks for the host at that moment sees it die, and gets
        a new one like after any other death."""
        while True:
            time.sleep(idle / 4)
            for place, host in list(self._hosts.items()):
                try:
                    if ray.get(host.idle.remote(), timeout=idle / 4) < idle:
                        continue
                except ray.exceptions.RayError:  # it is loading its model, or it is dead, which its next trial reports
                    continue
                if self._hosts.get(place) is host:
                    self._hosts.pop(place, None)
                ray.kill(host)


@dataclass(frozen=True)
class Fleet:
    """What a trial needs to reach its host, wherever it is placed. Ray sends it to every trial process."""

    registry: Any
    store_uri: str
    resources: Resources
    arguments: tuple[Any, ...]
    grids: Mapping[str, tuple[int, int]]  # prompts and rows of each pool

    @classmethod
    def start(cls, model: Model, setup: Setup, assets: Assets, store: Store, resources: Resources) -> Fleet:
        """``assets`` is put into Ray's object store once, and hosts fetch it from there, not from the driver's disk."""
        arguments = (model, setup, [ray.put(assets)], store.uri)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}
        registry = ray.remote(Registry).options(**options).remote(IDLE)
        grids = {pool: (len(prompts), len(assets.rows[pool])) for pool, prompts in assets.pools.items()}
        return cls(registry, store.uri, resources, arguments, grids)

    def warm(self, trials: int) -> None:
        """Start hosts, which load the base model, while the processes of the first of ``trials`` start. This happens
        only on a single machine without GPUs, where it is known which places the trials will get. Returns once Ray has
        the request, since hosts take longer to start than trial processes and should come first."""
        if self.resources.workers == 1 and not self.resources.gpus and len(ray.nodes()) == 1:
            place = here()
            parts = min(self._room(place), math.ceil(trials / self.resources.slots))
            ray.get(self.registry.warm.remote(place, parts, self.arguments))

    def ensure(self, trial: Trial, rung: int, pool: str, cells: int = 0) -> tuple[Any, dict[str, Any]]:
        """The score rows and the record of ``trial`` at ``rung``: read from the run folder if they are there (the
        record then says ``replayed``), else made now by this place's host. ``cells``: of a sample in two stages; 0:
        what the trial says of the pool's grid. Raises what the trial failed with."""
        store = Store.open(self.store_uri)
        found = store.read_scores(trial.id, rung, pool)
        if found is not None and is_scored(found[1], cells):
            return found[0], {**found[1], "replayed": True}
        if self.resources.workers > 1:
            self._gang().advance(trial, rung, pool, cells)
        else:
            self._advance(trial, rung, pool, cells)
        found = store.read_scores(trial.id, rung, pool)
        if found is None or not is_scored(found[1], cells):
            raise HostError(
                f"trial {trial.id}: its host reported rung {rung} done, but {self.store_uri} has no rows of it. "
                "Is the run folder on storage that all nodes share?"
            )
        return found

    def unfit(self) -> str:
        """Why the base model cannot be trained on, if a host found that out; else empty."""
        found: str = ray.get(self.registry.unfit.remote())
        return found

    def leave(self) -> None:
        """End this process's gang, if it has one; for a task that works on a single trial."""
        if _gang is not None:
            _gang.end()

    def _advance(self, trial: Trial, rung: int, pool: str, cells: int) -> None:
        """Let this place's host do it. If the host dies, try again with the next one."""
        prompts, rows = self.grids[pool]
        share, most = trial.sample_at(rung, pool)
        blocks = min(prompts, (cells or sample_size(share, prompts, rows, most).cells) // BLOCK)
        place, dead = here(), None
        parts = self._parts(place)
        for attempt in range(RETRIES + 1):
            host = ray.get(self.registry.host.remote(place, parts, trial.id, dead, self.arguments))
            if isinstance(host, str):
                raise BaseModelError(host)
            try:
                if blocks > 1:
                    self._together(host, trial, rung, pool, blocks, cells)
                else:
                    ray.get(host.advance.remote(trial, rung, pool, cells))
                return
            except ActorUnschedulableError as error:
                raise PlaceLostError(f"trial {trial.id}: {place} takes no host any more ({error})") from error
            except RayActorError as error:
                where = f"trial {trial.id}: its host on {place.device} of node {place.node[:8]}"
                if error.actor_init_failed:  # a new host would most likely fail, too: the trial's own retries decide
                    ray.get(self.registry.forget.remote(actor_id(host)))
                    told = str(error).strip().splitlines()[-1].removeprefix("trainer.errors.UserError: ")
                    if told.startswith(UNFIT):
                        ray.get(self.registry.refuse.remote(told.removeprefix(UNFIT)))  # no retry can help
                        raise BaseModelError(told.removeprefix(UNFIT)) from error
                    raise HostError(f"{where} cannot start: {told}") from error
                if attempt == RETRIES:
                    raise HostError(f"{where} died {RETRIES + 1} times ({error})") from error
                # A host that cannot be reached may still run, and a second one beside it would need the memory twice.
                dead = None if isinstance(error, ActorUnavailableError) else actor_id(host)
                time.sleep(0.2 * 2**attempt)
            except RayTaskError as error:
                raise (error.cause if isinstance(error.cause, UserError) else error) from None
            finally:
                self.registry.leave.remote(trial.id)

    def _together(self, host: Any, trial: Trial, rung: int, pool: str, blocks: int, cells: int) -> None:
        """Train on ``host``, then score the grid block by block, there and on all hosts without a trial. The blocks do
        not depend on how many hosts take part, so the rows do not either. If a helping host dies, or takes much longer
        than the others, ``host`` scores its block."""
        record = ray.get(host.train.remote(trial, rung, pool, cells))
        store = Store.open(self.store_uri)
        before = store.read_scores(trial.id, rung, pool)
        if before is not None and is_scored(before[1], cells):
            return  # training ended in NaN, or another process was faster
        span = span_of(trial, before[1] if before else None, cells, self.grids[pool]) if pool == "test" else None
        done: dict[int, tuple[pa.Table, float]] = {}
        todo = deque(range(blocks))
        under_way: dict[Any, tuple[Any, int]] = {}
        free = [host, *(h for h in ray.get(self.registry.idle.remote()) if actor_id(h) != actor_id(host))]
        while len(done) < blocks:
            while free and todo:
                helper, block = free.pop(0), todo.popleft()
                under_way[helper.score.remote(trial, rung, pool, Block(block, blocks), cells)] = (helper, block)
            patience = 2 * max((spent for _, spent in done.values()), default=0.0) + 1 if host in free else None
            ready, _ = ray.wait([*under_way], num_returns=1, timeout=patience)
            if not ready:
                todo.extend(k for _, k in under_way.values())
                continue
            helper, block = under_way.pop(ready[0])
            try:
                answer = ray.get(ready[0])
                if answer is None:
                    return  # another process has written the rows in the meantime
                done[block] = answer
                free.append(helper)
            except (RayActorError, RayTaskError):
                if helper is host:
                    raise
                todo.append(block)
            todo = deque(k for k in todo if k not in done)
        seconds = sum(spent for _, spent in done.values())
        record |= {"seconds": record["seconds"] + seconds, "score_seconds": record["score_seconds"] + seconds}
        scored = pa.concat_tables([done[k][0] for k in range(blocks)])
        if span is not None and span.begun:
            scored, record = extended(before, scored, record)
        record |= sample_record(self.grids[pool], scored.num_rows, span is not None)
        store.write_scores(trial.id, rung, pool, scored, record)
        ray.get(host.chart.remote(trial, rung, pool))

    def _parts(self, place: Place) -> int:
        """How many hosts share the machine of ``place``; at least one, since a trial is there."""
        return 1 if place.gpu else max(1, self._room(place))

    def _room(self, place: Place) -> int:
        """How many hosts the CPUs of the node of ``place`` are enough for; Ray may give a cluster's head none."""
        cpus = next((n["Resources"].get("CPU", 0) for n in ray.nodes() if n["NodeID"] == place.node), 0)
        return int(cpus // self.resources.cpus)

    def _gang(self) -> Gang:
        global _gang
        if _gang is None or _gang.ended:
            r = self.resources
            _gang = Gang(r.workers, r.cpus, r.gpus, self.arguments, self.registry)
        return _gang


_gang: Gang | None = None  # the gang that this process keeps for its next trial


class HostError(UserError):
    """A host could not start, kept dying, or left no score rows."""


def here() -> Place:
    """The accelerator that Ray has given this process."""
    context = ray.get_runtime_context()
    gpus = context.get_accelerator_ids().get("GPU") or [""]
    return Place(context.get_node_id(), str(gpus[0]))
