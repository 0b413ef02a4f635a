"""Which trials go on where a study has several seeds: configurations are promoted, each with all of its seeds.

A configuration (a trial without its seed) reports its objective over seeds and prompts at a rung when the last of its
seeds has reported there, and the rule of ``sweeps.schedule.asha`` compares configurations. Averaging only the seeds
that survive a rung would favour configurations whose results vary most: by its best of three seeds, one that varies
three times as much as seven equally good ones would win 57 % of the time.

* A seed that ends in NaN, or fails, ends its configuration: a setting that does not train under one of three seeds is
  not one to be chosen. The other seeds are stopped where they report next.
* At the last rung nothing is left to decide, so a trial finishes there whatever the other seeds do.
* A configuration with a degenerate seed is degenerate, since a constant answer may well raise its mean.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from sweeps.schedule.asha import Decision, Rungs, rung_quotas
from sweeps.schedule.asynchronous import AsynchronousRungs, Promotion, usual_entrants
from trainer.measure.replicates import error_of_seeds, objective_of_seeds
from trainer.measure.rung import RungReport
from trainer.trial import Trial

Rule = Literal["certain", "asynchronous"]
RULES: dict[Rule, type[Rungs]] = {"certain": Rungs, "asynchronous": AsynchronousRungs}


def promotion(
    trials: Sequence[Trial], eta: float, count: int, std_weight: float, rule: Rule = "certain"
) -> Rungs | ConfigurationRungs:
    """The rule for these trials, at ``count`` rungs. ``std_weight``: of the study's objective."""
    members: dict[str, list[str]] = {}
    for trial in trials:
        members.setdefault(trial.configuration, []).append(trial.id)
    if len(members) == len(trials):
        return RULES[rule](len(trials), eta, count)
    return ConfigurationRungs(members, eta, count, std_weight, rule)


def give(rungs: Rungs | ConfigurationRungs, report: RungReport, trial: str | None = None) -> Decision:
    """Tell the rungs of a report, of ``trial`` if that has another name there. What the trial does now."""
    return rungs.report(
        report.trial_id if trial is None else trial,
        report.rung_index,
        report.objective,
        step=report.step,
        stderr=report.stderr,
        degenerate=report.degenerate,
        why_degenerate=report.note,
        std=report.std,
    )


@functools.cache
def entrants(configurations: int, eta: float, count: int, rule: Rule = "certain") -> tuple[int, ...]:
    """How many configurations enter each rung; by the rule ``asynchronous`` about."""
    if rule == "asynchronous":
        return usual_entrants(configurations, eta, count)
    return rung_quotas(configurations, eta, count)


@dataclass(frozen=True)
class _SeedReport:
    objective: float
    std: float
    stderr: float | None
    step: int | None
    degenerate: bool
    why_degenerate: str


@dataclass
class _Replicate:
    """One trial of a configuration."""

    configuration: str
    reports: list[_SeedReport] = field(default_factory=list)
    waiting: bool = False  # it was told to wait at its last rung, and has not been told to go on
    failure: str = ""


class ConfigurationRungs:
    """``Rungs`` of configurations, asked about trials. ``members``: configuration -> its trials. ``std_weight``: of the
    study's objective."""

    def __init__(
        self,
        members: Mapping[str, Sequence[str]],
        eta: float,
        count: int,
        std_weight: float = 1.0,
        rule: Rule = "certain",
    ) -> None:
        self.std_weight = std_weight
        self.members = {name: tuple(trials) for name, trials in members.items()}
        self.rungs = RULES[rule](len(members), eta, count)
        self.count = count
        self._replicates = {trial: _Replicate(name) for name, trials in self.members.items() for trial in trials}
        self._newly_decided: list[str] = []

    @property
    def trials(self) -> int:
        return len(self._replicates)

    def report(
        self,
        trial: str,
        rung: int,
        objective: float,
        *,
        step: int | None = None,
        stderr: float | None = None,
        degenerate: bool = False,
        why_degenerate: str = "degenerate: one answer nearly always",
        std: float = 0.0,
    ) -> Decision:
        """Record the objective of ``trial`` at ``rung`` (from 0), with its ``std`` over the prompts, and return what
        the trial does now."""
        own = self._of(trial)
        due = len(own.reports)
        if rung < due or self.decide(trial).action in ("stop", "finish", "fail"):
            return self.decide(trial)
        if rung > due or own.waiting or rung >= self.count:
            raise ValueError(f"trial {trial}: a report of rung {rung + 1} of {self.count} came, rung {due + 1} was due")
        own.reports.append(_SeedReport(float(objective), float(std), stderr, step, bool(degenerate), why_degenerate))
        self._settle(own.configuration, rung)
        self._tell(trial)
        return self.decide(trial)

    def fail(self, trial: str, why: str = "the trial failed") -> Decision:
        """Record that the trial ends without another report. No effect if it is stopped or finished already."""
        own = self._of(trial)
        if self.decide(trial).action in ("continue", "pause"):
            own.failure = own.failure or why
            self.rungs.fail(own.configuration, f"its trial {trial} failed: {why}")
            self._newly_decided += self._decided_of([own.configuration])
            self._tell(trial)
        return self.decide(trial)

    def no_more_trials(self, trials: int) -> None:
        """The search has ended. All trials are known from the start, so there can be no fewer."""
        if trials != self.trials:
            raise ValueError(f"trials = {trials}, and {self.trials} were announced.")

    def promote_last(self, configuration: str, rung: int) -> None:
        """As of ``AsynchronousRungs``."""
        if isinstance(self.rungs, AsynchronousRungs):
            self.rungs.promote_last(configuration, rung)
            self._newly_decided += self._decided_of(self.rungs.newly_decided())

    @property
    def promotions(self) -> Sequence[Promotion]:
        """Of configurations, by the rule ``asynchronous``."""
        return self.rungs.promotions if isinstance(self.rungs, AsynchronousRungs) else ()

    def newly_decided(self) -> list[str]:
        """Trials that waited and have been promoted or stopped since the last call, in order of decision."""
        decided, self._newly_decided = self._newly_decided, []
        return decided

    def decisions(self) -> dict[str, Decision]:
        return {trial: self.decide(trial) for trial, one in self._replicates.items() if one.reports or one.failure}

    def decide(self, trial: str) -> Decision:
        """What ``trial`` does now."""
        own = self._of(trial)
        whole, seeds = self.rungs.decide(own.configuration), self.members[own.configuration]
        done, last = len(own.reports), own.reports[-1] if own.reports else None
        together = 0 if whole.rung is None else whole.rung + 1  # rungs that the whole configuration has reported
        found = Decision("continue", "", *((done - 1, last.step, last.objective) if last else (None, None, None)))
        if own.failure:
            return replace(found, action="fail", reason=own.failure)
        if last is not None and not math.isfinite(last.objective):
            return replace(found, action="stop", reason=f"stopped at rung {done} of {self.count}: objective is NaN")
        if done == self.count:
            step = "" if last is None or last.step is None else f" (step {last.step})"
            why = f"finished at rung {done} of {self.count}{step}: objective {last.objective if last else 0.0:.6g}"
            return replace(found, action="finish", reason=why)
        broken = whole.action == "fail" or (whole.objective is not None and not math.isfinite(whole.objective))
        under_way = whole.action == "continue" or (whole.action == "fail" and not own.waiting)
        if done < together or (done == together and under_way):
            return replace(found, reason=f"on its way to rung {done + 1} of {self.count}")
        if broken:
            why = f"stopped at rung {done} of {self.count}: another seed of its configuration ended in NaN or failed"
            return replace(found, action="stop", reason=why)
        if whole.action == "continue":
            there = sum(len(self._replicates[other].reports) >= done for other in seeds)
            why = f"waits at rung {done} of {self.count}: {there} of {len(seeds)} seeds have reported"
            return replace(found, action="pause", reason=why)
        mean_of = f", over {len(seeds)} seeds" if len(seeds) > 1 else ""
        return replace(found, action=whole.action, reason=f"{whole.reason}{mean_of}")

    def _settle(self, configuration: str, rung: int) -> None:
        """Report the configuration's rung if all seeds are there, or if one has ended it."""
        if self.rungs.decide(configuration).action != "continue":
            return
        seeds = [self._replicates[trial] for trial in self.members[configuration]]
        there = [seed.reports[rung] for seed in seeds if len(seed.reports) > rung]
        value = objective_of_seeds([r.objective for r in there], [r.std for r in there], self.std_weight)
        error = error_of_seeds([r.objective for r in there], [r.stderr for r in there])
        if len(there) < len(seeds) and math.isfinite(value):
            return
        alike = [r for r in there if r.degenerate]
        few = f"{len(alike)} of {len(seeds)} seeds " if len(seeds) > 1 else ""
        note = f"{few}{alike[0].why_degenerate}" if alike else ""
        self.rungs.report(
            configuration,
            rung,
            value,
            step=there[0].step,
            stderr=error,
            degenerate=bool(alike),
            why_degenerate=note,
        )
        self._newly_decided += self._decided_of([configuration])

    def _tell(self, trial: str) -> None:
        """Note which waiting trials have been decided. The caller gets ``trial`` as the answer."""
        self._newly_decided += self._decided_of(self.rungs.newly_decided())
        self._newly_decided = [name for name in dict.fromkeys(self._newly_decided) if name != trial]
        self._of(trial).waiting = self.decide(trial).action == "pause"

    def _decided_of(self, configurations: Sequence[str]) -> list[str]:
        """The trials of these configurations that waited and no longer do."""
        found = []
        for name in configurations:
            for trial in self.members[name]:
                action = self.decide(trial).action
                if self._replicates[trial].waiting and action != "pause":
                    found.append(trial)
                    self._replicates[trial].waiting = action != "continue"
        return found

    def _of(self, trial: str) -> _Replicate:
        if trial not in self._replicates:
            raise ValueError(f"trial {trial} is none of the {self.trials} trials that were announced.")
        return self._replicates[trial]
