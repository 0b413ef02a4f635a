"""A sweep in simulated time, as the hosts and the scheduler play it: one thread a host, its slots stepped together,
scored together, promoted by ASHA, and at the end the test pool for trials that were stopped."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from sweeps.driver.heartbeat import together
from sweeps.live.left import Told
from sweeps.live.table import LiveTable
from sweeps.schedule.asha import Rungs
from sweeps.trials.study_work import StudyWork
from trainer.measure.rung import RungReport
from trainer.work import TrialGrid, WorkDone

EVERY = 3.0  # seconds between two pulses
CHUNKS = 8  # in which a grid is scored


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Pace:
    tick: Callable[[int], float]  # seconds of a step of so many trials together
    dev_cell: float  # seconds
    test_cell: float
    noise: float = 0.2  # by which each duration may be shorter or longer


@dataclass
class Job:
    """A trial on its way to a rung; ``rung`` None: to its scores on the test pool."""

    trial: str
    rung: int | None
    step: int
    target: int


@dataclass
class SimulatedHost:
    jobs: list[Job] = field(default_factory=list)
    ticks: dict[int, tuple[int, float]] = field(default_factory=dict)
    cells: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    scored: dict[TrialGrid, float] = field(default_factory=dict)
    busy: bool = False

    def work_done(self) -> WorkDone:
        steps = {job.trial: job.step for job in self.jobs}
        return WorkDone(dict(self.ticks), dict(self.cells), dict(self.seconds), {}, steps, {}, dict(self.scored))


class SimulatedSweep:
    """``play`` gives (time, seconds left as the table says, None before) at each pulse, and the time of the end."""

    def __init__(self, work: StudyWork, steps: dict[str, tuple[int, ...]], hosts: int, pace: Pace, seed: int = 0):
        self.work, self.steps, self.pace = work, steps, pace
        self.hosts = [SimulatedHost() for _ in range(hosts)]
        self.random = random.Random(seed)
        self.clock = Clock()
        self.table = LiveTable("simulated", terminal=False, clock=self.clock)
        self.table._out.write = lambda text: len(text)  # type: ignore[method-assign]
        self.rungs = Rungs(len(steps), 2.0 if len(work.quotas) > 1 else 1.0, len(work.quotas))
        self.rungs.quotas = work.quotas
        self.queue: deque[Job] = deque(Job(trial, 0, 0, rungs[0]) for trial, rungs in steps.items())
        self.events: list[tuple[float, int, int, Callable[[], None]]] = []
        self.number = 0
        self.sent = dict.fromkeys(steps, 0)  # trial -> the rung that it is on its way to, or waits at
        self.first_report: float | None = None

    def play(self) -> tuple[list[tuple[float, float | None]], float]:
        self.table.expect(self.work)
        for trial, rungs in self.steps.items():
            self.table.trial_added(trial, {}, len(rungs), rungs)
        said: list[tuple[float, float | None]] = []
        pulse = 0.0
        self._start_hosts()
        testing = False
        while self.events or not testing:
            if not self.events:  # the sweep is over: the test pool
                testing = True
                self._queue_tests()
                self._start_hosts()
                continue
            at, _, number, done = heapq.heappop(self.events)
            while pulse < at:
                self.clock.now = pulse
                self._pulse()
                said.append((pulse, self.table.overview().left))
                pulse += EVERY
            self.clock.now = at
            self.hosts[number].busy = False
            done()
            self._start_hosts()
        return said, self.clock.now

    def _pulse(self) -> None:
        told = [host.work_done() for host in self.hosts]
        busy = sum(bool(host.jobs) for host in self.hosts)
        self.table.pulse(Told(together(told, told), hosts=len(self.hosts), busy=busy))

    def _later(self, number: int, seconds: float, done: Callable[[], None]) -> None:
        self.number += 1
        seconds *= 1 + self.random.uniform(-self.pace.noise, self.pace.noise)
        host = self.hosts[number]
        host.busy = True
        heapq.heappush(self.events, (self.clock.now + seconds, self.number, number, lambda: done()))

    def _start_hosts(self) -> None:
        order = sorted(range(len(self.hosts)), key=lambda n: len(self.hosts[n].jobs))
        while self.queue and any(len(host.jobs) < self.work.slots for host in self.hosts):
            number = min(order, key=lambda n: len(self.hosts[n].jobs))
            job = self.queue.popleft()
            self.hosts[number].jobs.append(job)
            if job.rung is not None:
                self.table.started(job.trial)
        for number, host in enumerate(self.hosts):
            if not host.busy and host.jobs:
                self._turn(number, host)

    def _turn(self, number: int, host: SimulatedHost) -> None:
        training = [job for job in host.jobs if job.step < job.target]
        ready = [job for job in host.jobs if job.step >= job.target]
        if ready:
            pool = "test" if ready[0].rung is None else "dev"
            self._score(number, host, [job for job in ready if (job.rung is None) == (pool == "test")], pool, 0)
            return
        seconds = self.pace.tick(len(training))

        def ticked() -> None:
            n, spent = host.ticks.get(len(training), (0, 0.0))
            host.ticks[len(training)] = (n + 1, spent + seconds)
            for job in training:
                job.step += 1

        self._later(number, seconds, ticked)

    def _score(self, number: int, host: SimulatedHost, jobs: list[Job], pool: str, chunk: int) -> None:
        cell = self.pace.test_cell if pool == "test" else self.pace.dev_cell
        each = self.work.test_cells if pool == "test" else self.work.dev_cells[jobs[0].rung or 0]
        seconds = len(jobs) * each * cell / CHUNKS

        def scored() -> None:
            host.cells[pool] = host.cells.get(pool, 0.0) + len(jobs) * each / CHUNKS
            host.seconds[pool] = host.seconds.get(pool, 0.0) + seconds
            for job in jobs:
                host.scored[TrialGrid(job.trial, job.target, pool)] = each * (chunk + 1) / CHUNKS
            if chunk + 1 < CHUNKS:
                self._score(number, host, jobs, pool, chunk + 1)
            elif pool == "dev" and jobs[0].rung == len(self.work.quotas) - 1 and self.work.tested:
                self._score(number, host, jobs, "test", 0)
            else:
                self._ended(host, jobs)

        self._later(number, seconds, scored)

    def _ended(self, host: SimulatedHost, jobs: list[Job]) -> None:
        for job in jobs:
            host.jobs.remove(job)
            if job.rung is None:
                self.table.tested(job.trial, 0.5, 0.1)
                continue
            if self.first_report is None:
                self.first_report = self.clock.now
            objective = self.random.random()
            self.table.report(RungReport(job.trial, job.rung, job.target, objective, 0.01))
            self.rungs.report(job.trial, job.rung, objective, step=job.target)
        if jobs[0].rung is None:
            return
        for trial, decision in self.rungs.decisions().items():
            reached = -1 if decision.rung is None else decision.rung
            if decision.action == "continue" and self.sent[trial] == reached:
                self.sent[trial] = reached + 1
                steps = self.steps[trial]
                self.queue.appendleft(Job(trial, reached + 1, steps[reached], steps[reached + 1]))
                self.table.decided(trial, "running", "")
            elif decision.action == "pause":
                self.table.decided(trial, "waiting", "")
            elif decision.status in ("stopped", "finished"):
                self.table.decided(trial, decision.status, "")

    def _queue_tests(self) -> None:
        if self.work.tested <= self.work.quotas[-1]:
            return
        for trial, row in self.table.rows().items():
            if row.state == "stopped":
                self.table.testing(trial)
                self.queue.append(Job(trial, None, row.step, row.step))
