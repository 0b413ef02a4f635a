"""Continuous batching of trials on one engine: trials join and leave between steps, as requests do in a server.

``submit`` asks for a trial at a rung (train up to it, checkpoint it, score it) and returns a future. A large grid is
asked for in blocks, which other runners may take as well: from the checkpoint, and so after the training. One thread
turns the crank: put waiting trials into free slots, give every resident one optimizer step, score together the
ones that reached their rung. A trial that was paused stays in its slot until the slot is needed, so its return
costs nothing. Everything a trial leaves goes through the store, so a runner may die at any moment.
"""

from __future__ import annotations

import gc
import json
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from trainer.data.assets import Assets
from trainer.data.render import Renderer, load_tokenizer
from trainer.model.adapters import write_adapter
from trainer.model.architecture import check_architecture
from trainer.model.base import load_base
from trainer.model.device import device_lost, out_of_memory, pick_device
from trainer.score.pool import WHOLE, Block, Grids
from trainer.setup import Setup
from trainer.store import SCORES, Store, StoreError, checkpoint_name
from trainer.train.arms import MEMORY_TENSOR, PromptMemory
from trainer.train.batches import stable_hash
from trainer.train.engine import Engine
from trainer.train.resident import Resident
from trainer.trial import Model, Template, Trial

log = logging.getLogger("steadytune")

NOTHING: Block = (0, 0)


@dataclass(frozen=True)
class Job:
    """Train ``trial`` to ``rung`` optimizer steps and score it there on ``pool``; the score rows are in the store then.
    Of a ``block`` of that grid the rows are the answer instead, with the seconds they took; of ``NOTHING``, which is
    to train and no more, it is training's record."""

    trial: Trial
    rung: int
    pool: str = "dev"
    block: Block = WHOLE


@dataclass
class Counters:
    """What a runner has done since it started, over all trials: numbers that only grow. Its own thread writes them,
    any thread may read them."""

    steps: int = 0  # optimizer steps
    tokens: int = 0  # through the model in training
    rows: int = 0  # score rows: a prompt and a row each
    train_seconds: float = 0.0  # of the accelerator
    score_seconds: float = 0.0


class Runner:
    def __init__(self, model: Model, setup: Setup, assets: Assets, store: Store):
        self.assets, self.store, self.setup, self.model = assets, store, setup, model
        check_architecture(model)
        self.tokenizer = load_tokenizer(model)
        pad = self.tokenizer.pad_token_id
        self._pad_id = 0 if pad is None else pad
        self._engine: Engine | None = None
        self._grids = Grids(assets)
        self._renderers: dict[Any, Renderer] = {}
        self._waiting: deque[tuple[Job, Future[Any]]] = deque()
        self._residents: dict[int, Resident] = {}  # by slot; idle ones too
        self._jobs: dict[int, tuple[Job, Future[Any]]] = {}  # by slot; what each busy resident is working for
        self._last_used = [0.0] * setup.slots
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self.counters = Counters()
        self.rank = self.engine.rank  # of this process among a trial's workers; the first writes

    @property
    def engine(self) -> Engine:
        """With a base in it: loaded where the last one was let go."""
        if self._engine is None:
            base = load_base(self.model, pick_device(), self.setup.zero)
            self._engine = Engine(base, self.setup, self._pad_id)
        return self._engine

    # asked from any thread -----------------------------------------------------------------------------------

    def submit(self, job: Job) -> Future[Any]:
        """The job's answer; where it is a whole grid, done when its score rows are in the store. It raises what went
        wrong. A job that is under way, or whose rows are in the store, is not done a second time."""
        with self._wake:
            if self._closing:
                raise RuntimeError("this runner is closed")
            for known, future in [*self._waiting, *self._jobs.values()]:
                if known == job and not future.done():
                    return future
            future = Future()
            self._waiting.append((job, future))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._turn_forever, name="runner", daemon=True)
                self._thread.start()
            self._wake.notify()
        return future

    @property
    def steps(self) -> int:
        """Optimizer steps since the start, over all trials."""
        return self.counters.steps

    @property
    def busy(self) -> int:
        """Slots whose trial is being trained or scored now."""
        return len(self._jobs)

    def close(self) -> None:
        """End after the step in flight; what is not done by then is cancelled."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
        for _, future in self._waiting:
            future.cancel()
        for slot in list(self._jobs):
            self._leave(slot).set_exception(CancelledError())
        if self._engine is not None:
            self._engine.close()

    # the crank -------------------------------------------------------------------------------------------------

    def _turn_forever(self) -> None:
        if self.setup.threads:
            torch.set_num_threads(self.setup.threads)
        while True:
            with self._wake:
                while not (self._waiting or self._jobs or self._closing):
                    self._wake.wait()
                if self._closing:
                    return
            try:
                self.turn()
            except Exception as error:  # without an answer, whoever asked would wait for ever
                log.exception("a step of all trials on this host failed")
                for slot in list(self._jobs):
                    self._fail(slot, error)

    def turn(self) -> None:
        """Admit, step once, and finish what reached its rung."""
        self._admit()
        busy = [self._residents[s] for s in sorted(self._jobs)]
        training = [r for r in busy if r.step < r.target]
        if training:
            self._step(training)
        self._finish([r for r in busy if r.slot in self._jobs and (r.step >= r.target or r.broken)])

    def _admit(self) -> None:
        while True:
            with self._wake:
                slot = self._slot_for(self._waiting[0][0]) if self._waiting else None
                if slot is None:
                    return
                job, future = self._waiting.popleft()
                if not future.set_running_or_notify_cancel():
                    continue  # who asked for it has gone
                self._jobs[slot] = (job, future)
            try:
                if self.store.read_scores(job.trial.id, job.rung, job.pool) is not None:
                    self._leave(slot).set_result(None)
                else:
                    self._take(slot, job)
            except Exception as error:  # whatever a single trial breaks on is that trial's failure, not its host's
                self._fail(slot, error)

    def _slot_for(self, job: Job) -> int | None:
        """The slot that holds the trial already, or else a free one, or else the one idle for longest."""
        for slot, resident in self._residents.items():
            if resident.trial.id == job.trial.id and slot not in self._jobs:
                return slot
        if any(j.trial.id == job.trial.id for j, _ in self._jobs.values()):
            return None  # its previous job is still ending
        idle = [s for s in range(self.setup.slots) if s not in self._jobs]
        return min(idle, key=lambda s: (s in self._residents, self._last_used[s]), default=None)

    def _take(self, slot: int, job: Job) -> None:
        trial, resident = job.trial, self._residents.get(slot)
        if resident is not None and resident.trial.id == trial.id and self._newest(resident, job.rung):
            resident.target = job.rung
            return
        if resident is not None:
            self._residents.pop(slot)
            self._vacate(slot)
        formats = [self._renderer_for(f, trial) for f in trial.arm.formats]
        resident = Resident(
            trial, self.assets, self._renderer_for(trial.template, trial), slot, 0, job.rung, formats=formats
        )
        resident.step = self._restore(slot, trial, job.rung, resident.memory)
        self._residents[slot] = resident

    def _newest(self, resident: Resident, rung: int) -> bool:
        """Whether nothing is nearer to ``rung`` than what is in the slot: the trial may have been elsewhere since."""
        if resident.step >= rung:
            return resident.step == rung
        return not any(resident.step < step <= rung for step in self._checkpoints(resident.trial))

    def _step(self, training: Sequence[Resident]) -> None:
        start = time.perf_counter()
        samples, sound = [], []
        for r in training:
            try:
                samples += r.samples()
                sound.append(r)
            except Exception as error:  # a row that cannot be rendered fails its own trial only
                self._fail(r.slot, error)
        if not samples:
            return
        try:
            logs = self.engine.tick(samples)
        except Exception as error:
            if len(sound) == 1:
                self._fail(sound[0].slot, error)
                return
            log.warning("a step of %d trials failed (%s): each is tried on its own", len(sound), error)
            for r in sound:
                self._step_alone(r, [s for s in samples if s.slot == r.slot])
            return
        elapsed, total = time.perf_counter() - start, sum(x.tokens for x in logs.values())
        self._count_training(len(logs), total, elapsed)
        for r in sound:
            r.record(logs[r.slot], elapsed * logs[r.slot].tokens / max(1, total))

    def _step_alone(self, resident: Resident, samples: list[Any]) -> None:
        start = time.perf_counter()
        try:
            logged = self.engine.tick(samples)[resident.slot]
            elapsed = time.perf_counter() - start
            self._count_training(1, logged.tokens, elapsed)
            resident.record(logged, elapsed)
        except Exception as error:
            self._fail(resident.slot, error)

    def _count_training(self, steps: int, tokens: int, seconds: float) -> None:
        self.counters.steps += steps
        self.counters.tokens += tokens
        self.counters.train_seconds += seconds

    def _finish(self, done: Sequence[Resident]) -> None:
        """Checkpoint and score together what reached its rung; the score file, written last, completes the rung."""
        together: dict[tuple[str, Block], list[Resident]] = {}
        for r in done:
            job, _ = self._jobs[r.slot]
            if why := r.broken:
                self._residents.pop(r.slot)
                self._vacate(r.slot)
                self._write(r, job, SCORES.empty_table(), {**r.summary(0.0), "nan": why})
                continue
            try:
                if r.log:
                    self._save(r)
            except Exception as error:
                self._fail(r.slot, error)
                continue
            if job.block == NOTHING:
                self._leave(r.slot).set_result(r.summary(0.0))
            else:
                together.setdefault((job.pool, job.block), []).append(r)
        for (pool, block), residents in together.items():
            self._score(pool, block, residents)

    def _score(self, pool: str, block: Block, residents: Sequence[Resident]) -> None:
        start = time.perf_counter()
        try:
            members = [(r.slot, r.trial, r.renderer, self._jobs[r.slot][0].rung) for r in residents]
            tables = self._grids.score(self.engine.slot_model, pool, members, block)
        except Exception as error:  # a row that cannot be rendered, or memory: each is tried on its own
            if len(residents) > 1:
                for r in residents:
                    self._score(pool, block, [r])
                return
            self._fail(residents[0].slot, error)
            return
        elapsed = time.perf_counter() - start
        self.counters.rows += sum(t.num_rows for t in tables)
        self.counters.score_seconds += elapsed
        share = elapsed / len(residents)
        for r, table in zip(residents, tables, strict=True):
            job = self._jobs[r.slot][0]
            if block != WHOLE:
                self._leave(r.slot).set_result((at_rung(table, job.rung), share))
                continue
            self._write(r, job, table, r.summary(share) | self._grids.sampled(r.trial, job.rung, pool, table.num_rows))

    def _write(self, r: Resident, job: Job, table: Any, record: dict[str, Any]) -> None:
        try:
            if self.rank == 0:
                self.store.write_scores(r.trial.id, job.rung, job.pool, at_rung(table, job.rung), record)
        except Exception as error:
            self._fail(r.slot, error)
            return
        self._leave(r.slot).set_result(record if job.block == NOTHING else None)

    def _fail(self, slot: int, error: BaseException) -> None:
        """End the job with ``error``; the slot's state is not to be trusted any more."""
        try:
            self._residents.pop(slot, None)
            self._vacate(slot)
        finally:
            self._leave(slot).set_exception(error)

    def _leave(self, slot: int) -> Future[Any]:
        with self._wake:
            self._last_used[slot] = time.monotonic()
            _, future = self._jobs.pop(slot, (None, Future()))
            return future

    def _vacate(self, slot: int) -> None:
        """Free ``slot``. The shards of ZeRO 1 to 3 cannot be handed on: the next trial gets a fresh base, for which
        this one makes room first."""
        if not self.setup.zero:
            self.engine.release(slot)
        elif self._engine is not None:
            self._engine.close()
            self._engine = None
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    # state on disk ------------------------------------------------------------------------------------------------

    def _save(self, r: Resident) -> None:
        """The adapter is written before the checkpoint: whoever finds the checkpoint does not write it again."""
        from safetensors.torch import save

        tensors = self.engine.snapshot(r.slot, r.trial.lora)
        if self.rank == 0:
            if not any(step > r.step for step in self._checkpoints(r.trial)):  # an earlier rung that is made again
                write_adapter(self.store, r.trial, peft_names(tensors))
            if r.memory.remembers:
                tensors[MEMORY_TENSOR] = torch.from_numpy(r.memory.values.copy())
            meta = {"trial_id": r.trial.id, "step": str(r.step), "trial": json.dumps(r.trial.to_json())}
            self.store.write(checkpoint_name(r.trial.id, r.step), save(tensors, metadata=meta))

    def _checkpoints(self, trial: Trial) -> list[int]:
        """Steps of which there are checkpoints, ascending."""
        found = (re.fullmatch(r"(\d+)\.safetensors", n) for n in self.store.names(f"checkpoints/{trial.id}"))
        return sorted(int(m[1]) for m in found if m)

    def _restore(self, slot: int, trial: Trial, rung: int, memory: PromptMemory) -> int:
        """Put the trial's last sound checkpoint at or before ``rung`` into ``slot``, a fresh adapter where there is
        none, and what its arm remembers into ``memory``; its step. A checkpoint that is not sound is passed over with
        a warning, and the work since the one before it is done again."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        for step in reversed([s for s in self._checkpoints(trial) if s <= rung]):
            name = checkpoint_name(trial.id, step)
            try:
                tensors = load(self.store.read(name))
                if memory.remembers:
                    memory.restore(tensors[MEMORY_TENSOR].numpy())
                self.engine.restore(slot, trial.lora, trial.optimization, step, tensors)
                return step
            except (SafetensorError, StoreError, ValueError, KeyError, RuntimeError) as error:
                if out_of_memory(error) or device_lost(error):  # which say nothing of the checkpoint
                    raise
                self._vacate(slot)
                log.warning(
                    "%s/%s: not readable (%s); going on from the checkpoint before it", self.store.uri, name, error
                )
        memory.reset()
        self.engine.place(slot, trial.lora, trial.optimization, stable_hash("init", trial.seed))
        return 0

    def _renderer_for(self, template: Template, trial: Trial) -> Renderer:
        key = (template, trial.task)
        if key not in self._renderers:
            self._renderers[key] = Renderer(self.tokenizer, template, trial.task)
        return self._renderers[key]


def at_rung(table: pa.Table, rung: int) -> pa.Table:
    return table.set_column(1, SCORES.field("rung"), pa.array(np.full(table.num_rows, rung, np.int32)))


def peft_names(snapshot: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The adapter in a snapshot under the names that peft gives its tensors."""
    return {f"base_model.model.{k}.weight": v for k, v in snapshot.items() if not k.startswith(("m.", "v."))}
