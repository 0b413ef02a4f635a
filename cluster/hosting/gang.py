"""A gang: the workers that train one trial together, for a model that is too large for one accelerator.

Tune reserves all workers at once, in the trial's own placement group. So no gang waits with only some of its workers,
and no placement group outlives its trial. (A Ray Train job nested in a Tune trial takes 20 to 30 s to start and can
leave its group behind.) Every worker runs the same engine code with one slot; rank 0 writes. If a worker dies, the gang
ends the others, which would wait for it in a collective, and the trial fails at once.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.hosting.prometheus import publish_host
from cluster.hosting.tensorboard import chart
from trainer.errors import UserError
from trainer.store import Store
from trainer.trial import Trial
from trainer.work import TrainAndScore, WorkDone


class PlaceLostError(UserError):
    """The place where a trial ran is lost. The trial is tried again elsewhere; this is not counted as its failure."""


class GangError(PlaceLostError):
    """A worker of a gang was lost."""


class Worker:
    """One rank of a gang, an actor."""

    def address(self) -> tuple[str, int]:
        """This worker's address, and a port that is free there."""
        with socket.socket() as s:
            s.bind(("", 0))
            return ray.util.get_node_ip_address(), s.getsockname()[1]

    def join(self, rank: int, world: int, address: tuple[str, int], arguments: tuple[Any, ...]) -> None:
        """Connect to the other ranks and load the base model. Each worker sees one device, so its local rank is 0."""
        os.environ.update(
            RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE=str(world), MASTER_ADDR=address[0], MASTER_PORT=str(address[1])
        )
        from trainer.runner import Runner

        model, setup, assets, store_uri = arguments
        self.store, self.setup = Store.open(store_uri), setup
        self.runner = Runner(model, setup, ray.get(assets[0]), self.store)
        if rank == 0:  # its counts are those of all ranks together
            publish_host(self.runner, "gang")

    def work_done(self) -> WorkDone:
        """What this worker has done since it started: that of all ranks, since they do the same. Called while another
        thread is in ``advance``."""
        return self.runner.work_done()

    def advance(self, trial: Trial, rung: int, pool: str, cells: int = 0) -> None:
        self.runner.submit(TrainAndScore(trial, rung, pool, cells)).result()
        if pool == "dev" and self.runner.rank == 0:
            chart(self.store, trial, rung, self.setup.std_weight, self.setup.varied_axes)


class Gang:
    """The workers in the placement group of this process. The process keeps them for its next trial."""

    def __init__(self, workers: int, cpus: float, gpus: int, arguments: tuple[Any, ...], registry: Any = None):
        """``registry`` is told of the first worker, which tells the driver how far the gang is."""
        group = ray.util.get_current_placement_group()
        if group is None:
            raise GangError(f"resources.workers = {workers} needs a placement group, and this trial has none")
        strategy = PlacementGroupSchedulingStrategy(group)
        options = {"num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": strategy, "max_concurrency": 2}
        self.ended = False
        self.workers: list[Any] = [ray.remote(Worker).options(**options).remote() for _ in range(workers)]
        if registry is not None:
            registry.joined.remote(self.workers[0])
        address = self._all([self.workers[0].address.remote()])[0]
        self._all([w.join.remote(rank, workers, address, arguments) for rank, w in enumerate(self.workers)])

    def advance(self, trial: Trial, rung: int, pool: str, cells: int = 0) -> None:
        self._all([w.advance.remote(trial, rung, pool, cells) for w in self.workers])

    def _all(self, references: list[Any]) -> list[Any]:
        """All results. At the first failure the gang ends, and the failure is raised."""
        waiting = list(references)
        try:
            while waiting:
                done, waiting = ray.wait(waiting, num_returns=1)
                ray.get(done)
        except ray.exceptions.RayActorError as error:
            self.end()
            raise GangError(f"a worker of this trial's gang was lost ({error})") from error
        except ray.exceptions.RayTaskError as error:
            self.end()
            raise (error.cause if isinstance(error.cause, UserError) else error) from None
        found: list[Any] = ray.get(references)
        return found

    def end(self) -> None:
        self.ended = True
        for worker in self.workers:
            ray.kill(worker)
