"""Continuous batching of trials on one engine: trials join and leave between steps, as requests do in a server.

``submit`` asks for work on a trial (``trainer.work``) and returns a future. A large grid is asked for in blocks, which
other runners may take as well: they start from the checkpoint, and so after the training. One thread runs a loop: put
waiting trials into free slots, give every resident one optimizer step, score together those that reached their rung.
A trial that was paused stays in its slot until the slot is needed, so its return costs nothing. Everything a trial
leaves goes through the store, so a runner may die at any moment.
"""

from __future__ import annotations

import gc
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any, overload

import pyarrow as pa
import torch

from trainer.data.assets import Assets
from trainer.data.render import Renderer
from trainer.data.tokenizer import load_tokenizer
from trainer.measure.design import sample_record
from trainer.model.architecture import check_architecture
from trainer.model.base import load_base
from trainer.model.device import device_lost, keep_memory, out_of_memory, pick_device
from trainer.score.logprobs import label_logprobs
from trainer.score.pool import Member, PoolScorer
from trainer.setup import Setup
from trainer.store import SCORES, Store, StoreError, checkpoint_name
from trainer.train.batches import Sample, stable_hash
from trainer.train.checkpoints import checkpoint_steps, load_checkpoint, load_log, save_checkpoint
from trainer.train.engine import Engine
from trainer.train.resident import Resident
from trainer.train.step_log import StepLog
from trainer.trial import Model, Task, Template, Trial
from trainer.work import (
    Block,
    ScoreBlock,
    Span,
    TrainAndScore,
    TrainOnly,
    TrialGrid,
    Work,
    WorkDone,
    extended,
    is_scored,
    span_of,
)

log = logging.getLogger("steadytune")

Record = dict[str, Any]  # of a rung: see ``Resident.end_rung``
KEPT = 256  # scorings of which a runner still tells how far they are


@dataclass
class Counters:
    """What a runner has done since it started, over all trials: numbers that only grow. Its own thread writes them,
    any thread may read them."""

    steps: int = 0  # optimizer steps
    tokens: int = 0  # through the model in training
    rows: int = 0  # score rows: a prompt and a row each
    train_seconds: float = 0.0  # of the accelerator
    score_seconds: float = 0.0
    # By pool, and growing while it is scored: score rows, and seconds without what is done once for many scorings
    cells: dict[str, float] = field(default_factory=dict)
    cell_seconds: dict[str, float] = field(default_factory=dict)
    ticks: dict[int, tuple[int, float]] = field(default_factory=dict)  # trials stepped together -> ticks, seconds


@dataclass(frozen=True, eq=False)
class _Pending:
    work: Work
    future: Future[Any]  # its type is that of ``Runner.submit``


class Runner:
    def __init__(self, model: Model, setup: Setup, assets: Assets, store: Store):
        self.assets, self.store, self.setup, self.model = assets, store, setup, model
        check_architecture(model)
        self.tokenizer = load_tokenizer(model)
        self._scorer = PoolScorer(assets)
        self._renderers: dict[tuple[Template, Task], Renderer] = {}
        self._waiting: deque[_Pending] = deque()
        self._residents: dict[int, Resident] = {}  # by slot; idle ones too
        self._under_way: dict[int, _Pending] = {}  # by slot; what each busy resident is working for
        self._last_used = [0.0] * setup.slots
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self.counters = Counters()
        self._scored: dict[TrialGrid, float] = {}  # cells of the last scorings, the newest last
        self._score_share: dict[str, float] = {}  # trial -> seconds of the scoring under way
        self.engine: Engine | None = self._load_engine()
        self.rank = self.engine.rank  # of this process among a trial's workers; the first writes

    def _load_engine(self) -> Engine:
        pad = self.tokenizer.pad_token_id
        return Engine(load_base(self.model, pick_device(), self.setup.zero), self.setup, 0 if pad is None else pad)

    def _ready_engine(self) -> Engine:
        """The engine; a new one with a fresh base where ``_free_slot`` gave the last one up."""
        if self.engine is None:
            self.engine = self._load_engine()
        return self.engine

    # called from any thread ----------------------------------------------------------------------------------

    @overload
    def submit(self, work: TrainAndScore) -> Future[None]: ...
    @overload
    def submit(self, work: TrainOnly) -> Future[Record | None]: ...
    @overload
    def submit(self, work: ScoreBlock) -> Future[tuple[pa.Table, float] | None]: ...
    def submit(self, work: Work) -> Future[Any]:
        """A future of what ``work`` gives, or of the error that it failed with. Work that is under way, or whose score
        rows are in the store, is not done a second time."""
        with self._wake:
            if self._closing:
                raise RuntimeError("this runner is closed")
            for known in [*self._waiting, *self._under_way.values()]:
                if known.work == work and not known.future.done():
                    return known.future
            pending = _Pending(work, Future())
            self._waiting.append(pending)
            if self._thread is None or not self._thread.is_alive():
                keep_memory()
                self._thread = threading.Thread(target=self._run, name="runner", daemon=True)
                self._thread.start()
            self._wake.notify()
        return pending.future

    @property
    def steps(self) -> int:
        """Optimizer steps since the start, over all trials."""
        return self.counters.steps

    def work_done(self) -> WorkDone:
        at_work = [r for r in list(self._residents.values()) if r.slot in self._under_way]
        return WorkDone(
            ticks=dict(self.counters.ticks),
            cells=dict(self.counters.cells),
            cell_seconds=dict(self.counters.cell_seconds),
            cell_tokens=dict(self._scorer.cell_tokens),
            step_of={r.trial.id: r.step for r in at_work},
            seconds_of={r.trial.id: r.seconds + self._score_share.get(r.trial.id, 0.0) for r in at_work},
            scored=dict(self._scored),
        )

    @property
    def busy(self) -> int:
        """Slots whose trial is being trained or scored now."""
        return len(self._under_way)

    def close(self) -> None:
        """End after the step in flight; work that is not done by then is cancelled."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
        for pending in self._waiting:
            pending.future.cancel()
        for slot in list(self._under_way):
            self._end_work(slot).set_exception(CancelledError())
        if self.engine is not None:
            self.engine.close()

    # the loop ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        if self.setup.threads:
            torch.set_num_threads(self.setup.threads)
        while True:
            with self._wake:
                while not (self._waiting or self._under_way or self._closing):
                    self._wake.wait()
                if self._closing:
                    return
            try:
                self._admit()
                busy = [self._residents[s] for s in sorted(self._under_way)]
                training = [r for r in busy if r.step < r.target]
                if training:
                    self._step(training)
                self._finish([r for r in busy if r.slot in self._under_way and (r.step >= r.target or r.broken)])
            except Exception as error:  # without an answer, whoever submitted work would wait for ever
                log.exception("a step of all trials on this host failed")
                for slot in list(self._under_way):
                    self._fail(slot, error)

    def _admit(self) -> None:
        """Put waiting trials into slots while there are slots for them."""
        while True:
            with self._wake:
                slot = self._slot_for(self._waiting[0].work.trial) if self._waiting else None
                if slot is None:
                    return
                pending = self._waiting.popleft()
                if not pending.future.set_running_or_notify_cancel():
                    continue  # it was cancelled
                self._under_way[slot] = pending
            work = pending.work
            try:
                found = self.store.read_scores(work.trial.id, work.rung, work.pool)
                if found is not None and is_scored(found[1], work.cells):
                    self._end_work(slot).set_result(None)
                else:
                    self._seat(slot, work)
            except Exception as error:  # whatever a single trial breaks on is that trial's failure, not its host's
                self._fail(slot, error)

    def _slot_for(self, trial: Trial) -> int | None:
        """The slot that holds the trial already, or else a free one, or else the one idle for longest."""
        for slot, resident in self._residents.items():
            if resident.trial.id == trial.id and slot not in self._under_way:
                return slot
        if any(p.work.trial.id == trial.id for p in self._under_way.values()):
            return None  # its previous work is still ending
        idle = [s for s in range(self.setup.slots) if s not in self._under_way]
        return min(idle, key=lambda s: (s in self._residents, self._last_used[s]), default=None)

    def _seat(self, slot: int, work: Work) -> None:
        """Make ``slot`` hold the trial, to be trained up to the rung."""
        trial, rung = work.trial, work.rung
        resident = self._residents.get(slot)
        if resident is not None and resident.trial.id == trial.id and self._is_newest(resident, rung):
            resident.target = rung
        else:
            if resident is not None:
                self._residents.pop(slot)
                self._free_slot(slot)
            formats = [self._renderer_for(f, trial.task) for f in trial.arm.formats]
            renderer = self._renderer_for(trial.template, trial.task)
            resident = Resident(trial, self.assets, renderer, slot, 0, rung, formats=formats)
            resident.step = resident.saved = self._restore(slot, resident, rung)
            self._residents[slot] = resident
        self._take_over_log(resident, work)

    def _take_over_log(self, resident: Resident, work: Work) -> None:
        """Where the trial was checkpointed and its rung has no scores, whoever trained it has died in between. The
        record of its steps is in the checkpoint. A block's record is made by the runner that trained."""
        at, trial = resident.saved, resident.trial
        if isinstance(work, ScoreBlock) or resident.log or at != resident.step or not at:
            return
        if at not in self.store.rungs(trial.id, "dev"):
            resident.log, resident.seconds, resident.search_tokens = load_log(self.store, trial, at)

    def _is_newest(self, resident: Resident, rung: int) -> bool:
        """Whether no checkpoint is nearer to ``rung`` than the slot is: the trial may have been elsewhere since."""
        if resident.step >= rung:
            return resident.step == rung
        return not any(resident.step < step <= rung for step in checkpoint_steps(self.store, resident.trial))

    def _step(self, training: Sequence[Resident]) -> None:
        """One optimizer step of all of ``training`` together; where that fails, of each by itself."""
        searched = [r for r in training if self._tried(r, self._search)]
        start = time.perf_counter()
        samples: list[Sample] = []
        stepping = [r for r in searched if self._tried(r, lambda r: samples.extend(r.samples()))]
        if not samples:
            return
        try:
            logs = self._ready_engine().tick(samples)
        except Exception as error:
            if len(stepping) == 1:
                self._fail(stepping[0].slot, error)
                return
            log.warning("a step of %d trials failed (%s): each is tried on its own", len(stepping), error)
            for r in stepping:
                self._step_alone(r, [s for s in samples if s.slot == r.slot])
            return
        self._record(stepping, logs, start)

    def _tried(self, resident: Resident, act: Callable[[Resident], None]) -> bool:
        """Whether it worked; a row that cannot be rendered fails its own trial only."""
        try:
            act(resident)
        except Exception as error:
            self._fail(resident.slot, error)
            return False
        return True

    def _search(self, resident: Resident) -> None:
        """Tell the resident its loss under candidates, where its arm looks for the worst wordings before this step."""
        asked = resident.to_search()
        if not asked:
            return
        start = time.perf_counter()
        requests = [request for of in asked.values() for request in of]
        model = self._ready_engine().slot_model.eval()
        values = iter(label_logprobs(model, requests, [resident.slot] * len(requests)) if requests else [])
        labels, classes = resident.trial.task.labels, resident.trial.model.head == "classifier"
        losses, tokens = {}, 0
        for candidate, of in asked.items():
            nats = []
            for request in of:
                right = labels.index(request.label) if labels else int(request.label)
                length = 1 if classes else len(request.options[right])
                nats.append(-float(next(values)[right]) / length)
                tokens += len(request.context) + sum(map(len, request.options))
            losses[candidate] = sum(nats) / len(nats) if nats else math.nan
        resident.take_search(losses, tokens, time.perf_counter() - start)

    def _step_alone(self, resident: Resident, samples: Sequence[Sample]) -> None:
        start = time.perf_counter()
        try:
            self._record([resident], self._ready_engine().tick(samples), start)
        except Exception as error:
            self._fail(resident.slot, error)

    def _record(self, residents: Sequence[Resident], logs: Mapping[int, StepLog], start: float) -> None:
        """Each resident's share of the seconds since ``start`` is its share of the tokens."""
        elapsed, total = time.perf_counter() - start, sum(x.tokens for x in logs.values())
        self.counters.steps += len(logs)
        self.counters.tokens += total
        self.counters.train_seconds += elapsed
        ticks, seconds = self.counters.ticks.get(len(logs), (0, 0.0))
        self.counters.ticks[len(logs)] = (ticks + 1, seconds + elapsed)
        for r in residents:
            r.record(logs[r.slot], elapsed * logs[r.slot].tokens / max(1, total))

    def _finish(self, done: Sequence[Resident]) -> None:
        """Checkpoint and score together what reached its rung; the score file, written last, completes the rung."""
        together: dict[tuple[str, Block | None, Span | None], list[Resident]] = {}
        for r in done:
            work = self._under_way[r.slot].work
            if why := r.broken:
                self._residents.pop(r.slot)
                self._free_slot(r.slot)
                self._write(r, work, SCORES.empty_table(), {**r.end_rung(0.0), "nan": why})
                continue
            try:
                if r.log and r.step != r.saved:
                    save_checkpoint(self.store, self._ready_engine(), r)
                    r.saved = r.step
            except Exception as error:
                self._fail(r.slot, error)
                continue
            if isinstance(work, TrainOnly):
                self._end_work(r.slot).set_result(r.end_rung(0.0))
            else:
                block = work.block if isinstance(work, ScoreBlock) else None
                together.setdefault((work.pool, block, self._span(work)), []).append(r)
        for (pool, block, span), residents in together.items():
            self._score(pool, block, span, residents)

    def _span(self, work: Work) -> Span | None:
        """What is left to score of a sample in two stages."""
        found = self.store.read_scores(work.trial.id, work.rung, work.pool) if work.pool == "test" else None
        return span_of(work.trial, found[1] if found else None, work.cells, self._scorer.grid(work.pool))

    def _score(self, pool: str, block: Block | None, span: Span | None, residents: Sequence[Resident]) -> None:
        """Score ``block`` of the residents' grids, or all of them; with ``span``, of those cells."""
        start = time.perf_counter()
        try:
            members = [Member(r.slot, r.trial, r.renderer, self._under_way[r.slot].work.rung) for r in residents]
            tell = self._teller(pool, block, residents, start)
            tables = self._scorer.score(self._ready_engine().slot_model, pool, members, block, tell, span)
        except Exception as error:  # a row that cannot be rendered, or memory: each is tried on its own
            self._score_share = {}
            if len(residents) > 1:
                for r in residents:
                    self._score(pool, block, span, [r])
                return
            self._fail(residents[0].slot, error)
            return
        elapsed = time.perf_counter() - start
        tell(sum(t.num_rows for t in tables))
        self._score_share = {}
        self.counters.rows += sum(t.num_rows for t in tables)
        self.counters.score_seconds += elapsed
        share = elapsed / len(residents)
        for r, table in zip(residents, tables, strict=True):
            work = self._under_way[r.slot].work
            if block is not None:
                self._end_work(r.slot).set_result((table, share))
                continue
            self._write(r, work, *self._joined(r, work, span, table, r.end_rung(share)))

    def _joined(
        self, r: Resident, work: Work, span: Span | None, table: pa.Table, record: Record
    ) -> tuple[pa.Table, Record]:
        """Rows and record of the rung: what was scored now, and what it adds to."""
        if span is not None and span.begun:
            found = self.store.read_scores(r.trial.id, work.rung, work.pool)
            table, record = extended(found, table, record)
        return table, record | sample_record(self._scorer.grid(work.pool), table.num_rows, span is not None)

    def _teller(
        self, pool: str, block: Block | None, residents: Sequence[Resident], start: float
    ) -> Callable[[float], None]:
        """A function that is told how many cells this scoring, which began at ``start``, has been through."""
        counters, n = self.counters, len(residents)
        cells, seconds = counters.cells.get(pool, 0.0), counters.cell_seconds.get(pool, 0.0)
        ready = start  # when requests were rendered and the model was tried
        works = [self._under_way[r.slot].work for r in residents]
        keys = [TrialGrid(work.trial.id, work.rung, pool, work.cells) for work in works]
        before = [self._scored.pop(key, 0.0) for key in keys]
        if block is None:  # what was counted before is of a scoring that failed
            before = [0.0] * n

        def tell(done: float) -> None:
            nonlocal ready
            now = time.perf_counter()
            elapsed, ready = now - start, ready if done else now
            counters.cells[pool], counters.cell_seconds[pool] = cells + done, seconds + now - ready
            for key, earlier in zip(keys, before, strict=True):
                self._scored[key] = earlier + done / n
            self._score_share = {key.trial: elapsed / n for key in keys}

        tell(0.0)
        while len(self._scored) > KEPT:
            del self._scored[next(iter(self._scored))]
        return tell

    def _write(self, r: Resident, work: Work, table: pa.Table, record: Record) -> None:
        """Store the rung's score rows, which ends the work."""
        try:
            if self.rank == 0:
                self.store.write_scores(r.trial.id, work.rung, work.pool, table, record)
        except Exception as error:
            self._fail(r.slot, error)
            return
        self._end_work(r.slot).set_result(record if isinstance(work, TrainOnly) else None)

    def _fail(self, slot: int, error: BaseException) -> None:
        """End the work of ``slot`` with ``error``; the slot's state is not to be trusted any more."""
        try:
            self._residents.pop(slot, None)
            self._free_slot(slot)
        finally:
            self._end_work(slot).set_exception(error)

    def _end_work(self, slot: int) -> Future[Any]:
        """The future of the work that ``slot`` was busy with, for the caller to set; the slot is idle from now on."""
        with self._wake:
            self._last_used[slot] = time.monotonic()
            pending = self._under_way.pop(slot, None)
            return pending.future if pending is not None else Future()

    # slots and state ------------------------------------------------------------------------------------------

    def _free_slot(self, slot: int) -> None:
        """Take the trial out of ``slot``. The shards of ZeRO 1 to 3 cannot be handed on: the next trial gets a fresh
        base, and this one is given up first, to make room for it."""
        if self.engine is None:
            return
        if not self.setup.zero:
            self.engine.release(slot)
            return
        self.engine.close()
        self.engine = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _restore(self, slot: int, resident: Resident, rung: int) -> int:
        """Put the trial's last sound checkpoint at or before ``rung`` into ``slot`` and ``resident``, or a fresh
        adapter where there is none. Returns the checkpoint's step. A checkpoint that is not sound is passed over with a
        warning, and the work since the one before it is done again."""
        from safetensors import SafetensorError

        trial = resident.trial
        for step in reversed([s for s in checkpoint_steps(self.store, trial) if s <= rung]):
            try:
                load_checkpoint(self.store, self._ready_engine(), slot, trial, step, resident.memory)
                return step
            except (SafetensorError, StoreError, ValueError, KeyError, RuntimeError) as error:
                if out_of_memory(error) or device_lost(error):  # which say nothing of the checkpoint
                    raise
                self._free_slot(slot)
                name = checkpoint_name(trial.id, step)
                log.warning(
                    "%s/%s: not readable (%s); going on from the checkpoint before it", self.store.uri, name, error
                )
        resident.memory.reset()
        self._ready_engine().place(slot, trial.lora, trial.optimization, stable_hash("init", trial.seed))
        return 0

    def _renderer_for(self, template: Template, task: Task) -> Renderer:
        key = (template, task)
        if key not in self._renderers:
            self._renderers[key] = Renderer(self.tokenizer, template, task)
        return self._renderers[key]
