"""``steadytune run`` of a study with ``stages``: format, head, templates, LoRA, interaction, and an answer.

Each stage is a small sweep into the same run folder. Trials that an earlier stage has trained are found there by their
ids and cost nothing. Each stage's choice is written to ``stages.json``. A second start runs the same stages again;
those that are finished are read from the folder, trials and choice both, without starting Ray.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sweeps.checks.labels import LabelUse
from sweeps.checks.preflight import preflight
from sweeps.checks.settings import settings_findings
from sweeps.checks.small_samples import sample_findings
from sweeps.driver.progress import Progress
from sweeps.driver.replay import replayed
from sweeps.live.table import LiveTable
from sweeps.run_folder import stages as record
from sweeps.run_folder.prompts import keep_prompts
from sweeps.staged import answer, compare, points
from sweeps.staged.points import Candidate
from sweeps.study.load import resolved
from sweeps.study.overlay import StudyError, dump_yaml
from sweeps.study.study import Study
from sweeps.trials.from_points import make_trial, rungs_of
from sweeps.trials.load_content import Content
from trainer.store import Store
from trainer.trial import Trial, digest

if TYPE_CHECKING:
    from sweeps.search.points import Point

STAGES = ("format", "head", "templates", "lora", "interaction")
Execute = Callable[[Progress, Sequence[Trial]], None]


@dataclass(frozen=True)
class _Tried:
    """A LoRA setting that stage 4 measured, with its average objective."""

    settings: Mapping[str, Any]
    objective: float


class Staged:
    """The stages of one study. ``execute`` trains the trials that are not in the run folder."""

    def __init__(
        self,
        study: Study,
        store: Store,
        content: Content,
        execute: Execute,
        say: Callable[[str], None] = lambda _: None,
        since: float | None = None,
    ):
        """``say`` is told what is checked; times in the log count from ``since``."""
        assert study.stages is not None
        self.study, self.stages, self.store, self.content = study, study.stages, store, content
        self.execute, self.say, self.since = execute, say, since
        self.current = points.baseline(study)
        self.records = record.StageRecords(store)
        self.rows: list[dict[str, Any]] = []  # of trials.parquet, all stages so far
        self.began = time.time()
        self.ranked: tuple[str, ...] = ()  # templates, the best first
        self.tried: list[_Tried] = []

    def run(self) -> None:
        self.check_format()
        self.store.write("study.yaml", dump_yaml(resolved(self.study)).encode())
        keep_prompts(self.store, self.content.assets)
        self.choose_head()
        self.choose_templates()
        self.tune_lora()
        self.check_interaction()

    # the stages -----------------------------------------------------------------------------------------------

    def check_format(self) -> None:
        """Stage 1: every template x pool of the study is sound, and every wording asks what the task asks."""
        meaning, content, pools = self.study.task.meaning, self.content, self.content.pools
        assert meaning is not None  # a rule of the schema
        templates = list(content.templates.values())
        read = {n: [[p.id, p.text] for p in prompts] for n, prompts in pools.items()}
        data = digest({n: str(d) for n, d in content.fingerprints.items()})
        use = LabelUse.of(self.study, content)
        n_train = len(content.assets.rows["train"])
        doubts = [*settings_findings(self.study, n_train), *sample_findings(self.study, content)]
        asked = record.key(
            "format", [], model=content.model.fingerprint, data=data, pools=read,
            templates=[str(t) for t in templates], meaning=meaning.model_dump(), task=str(content.task),
            labels=str(use), settings=[str(d) for d in doubts],  # else kept warnings would be of other settings
        )  # fmt: skip
        known = self.records.earlier(asked)
        if known is None:
            warnings = preflight(self.study, content, self.say).warnings_or_raise()
            wordings, plural = sum(len(p) for p in pools.values()), "s" * (len(warnings) != 1)
            known = {
                "stage": 1, "name": "format", "title": "format", "key": asked, "warnings": warnings,
                "reason": f"{len(templates)} templates and {wordings} prompts passed: formats are right, and all ask "
                f"what the task asks. {len(warnings)} warning{plural}.",
            }  # fmt: skip
        self.records.add(known)

    def choose_head(self) -> None:
        """Stage 2: compare label scoring, a classifier and generated text on the same rows and prompts."""
        candidates = points.head_candidates(self.study, self.current)
        stage = self._compare("head", candidates, 2, "head", measured=True)
        self.current = replace(self.current, head=stage["taken"])

    def choose_templates(self) -> None:
        """Stage 3: compare all templates under the baseline's LoRA setting."""
        candidates = points.template_candidates(self.study, self.current)
        stage = self._compare("templates", candidates, 3, "templates")
        best = _by_objective(stage)
        near = [n for n in best if n != stage["taken"] and _is(stage, n, "tied", "leader")]
        self.current = replace(self.current, templates=(stage["taken"], *near[: self.stages.keep - 1]))
        sound = [n for n in best if not _is(stage, n, "degenerate") and _is(stage, n, "whole")]
        ranked = tuple(dict.fromkeys([*self.current.templates, *sound]))
        self.ranked = ranked if len(ranked) > 1 else tuple(dict.fromkeys([*ranked, *best]))[:2]

    def tune_lora(self) -> None:
        """Stage 4: tune one group of axes after the other, under the templates that stage 3 kept."""
        for group in self.stages.order:
            candidates = points.lora_candidates(self.study, self.current, group)
            if candidates:
                few = len(candidates) <= points.FEW
                self._tune(", ".join(candidates[0].value), candidates, few)
                if {"steps", "epochs"} & set(group) or len(self.records.stages) == 4:
                    self._stop_sooner()

    def _tune(self, title: str, candidates: Sequence[Candidate], to_the_end: bool, why: str = "") -> None:
        stage = self._compare(f"lora {title}", candidates, 4, title, to_the_end=to_the_end, why=why)
        by_name = {c.name: c for c in candidates}
        for row in stage["candidates"]:
            sound = row["objective"] is not None and not row["degenerate"]
            settings = {**self.current.settings, **by_name[row["candidate"]].value}
            self.tried.append(_Tried(settings, row["objective"] if sound else -math.inf))
        self.current = self.current.with_settings(**by_name[stage["taken"]].value)

    def _stop_sooner(self) -> None:
        """Compare a shorter training, where the objective had stopped rising at an earlier rung."""
        trials = self._trials_of(points.setting_candidate(self.study, self.current, {}))
        steps = trials[0].optimization.steps
        weight = self.study.objective.std_weight
        at_end = [compare.dev_scores(self.store, t, steps, weight) for t in trials]
        for rung in self._shares(steps)[:-1]:
            before = [compare.dev_scores(self.store, t, rung, weight) for t in trials]
            ours, theirs = [s for s in at_end if s], [s for s in before if s]
            if len(ours) < len(trials) or len(theirs) < len(trials):
                continue
            gained = compare.gap(ours, theirs, self.stages.seeds)
            if gained.low <= 0 and self._fits(rung):
                sooner = self._length(rung)
                pair = [
                    points.setting_candidate(self.study, self.current, {n: self.current.settings[n]}) for n in sooner
                ]
                pair += [points.setting_candidate(self.study, self.current, sooner)]
                why = f"The steps after {rung} of {steps} changed the objective by {compare.points(gained)} points."
                self._tune("stopping", pair, True, f"{why} ")
                return

    def check_interaction(self) -> None:
        """Stage 5: train the best templates x the best LoRA settings x weights x pools x seeds, all to the end, and
        test whether the choices depend on each other."""
        n = self.stages.cross
        templates = self.ranked[:n]
        settings = self._best_settings()[:n]
        grid = points.crossing_points(self.study, self.current.head, templates, settings)
        trials = [self._trial(point, self.current.head) for point, _ in grid]
        asked = record.key("interaction", [[t.id for t in trials]], weight=self.study.objective.std_weight)
        self._train("interaction", 5, trials, to_the_end=True, measured=True)
        known = self.records.earlier(asked)
        if known is None:
            names = {i: f"L{i + 1}" for i in range(len(settings))}
            rows = []
            for (point, i), trial in zip(grid, trials, strict=True):
                found = compare.dev_scores(self.store, trial, trial.optimization.steps, self.study.objective.std_weight)
                value = None if found is None else found.objective
                factors = {"template": point["template"], "lora": names[i], "plw": f"{point['plw']:g}"}
                rows.append(
                    {
                        **factors,
                        "pool": point["pool"],
                        "seed": str(point["seed"]),
                        "trial": trial.id,
                        "objective": value.value if value else None,
                        "mean": value.mean if value else None,
                        "degenerate": bool(value and value.degenerate),
                    }
                )
            texts = {names[i]: points.varied_text(self.study, s) for i, s in enumerate(settings)}
            known = answer.interaction_record(rows, texts, asked)
        self.records.add(known)
        self.records.answer = answer.final_answer(known, self.records.stages, self.current, self.study, self.store.uri)
        self.records.write()

    def _best_settings(self) -> list[Mapping[str, Any]]:
        """LoRA settings: the one that stage 4 chose, then the others that it tried, the best first. Settings whose
        trials were cut or answer with one label are used only where there would be a single setting otherwise."""
        found: list[Mapping[str, Any]] = [self.current.settings]
        for tried in sorted(self.tried, key=lambda t: -t.objective):
            if tried.settings not in found and (math.isfinite(tried.objective) or len(found) < 2):
                found.append(tried.settings)
        return found

    # one comparison -------------------------------------------------------------------------------------------

    def _compare(
        self,
        name: str,
        candidates: Sequence[Candidate],
        stage: int,
        title: str,
        to_the_end: bool = True,
        measured: bool = False,
        why: str = "",
    ) -> record.Stage:
        """Train the candidates' trials and choose one, or read an earlier run's choice. The reason begins with
        ``why``."""
        trials = {c.name: self._trials_of(c) for c in candidates}
        ids = [[t.id for t in trials[c.name]] for c in candidates]
        costs = [[[what, str(amount)] for what, amount in c.cost] for c in candidates]
        weight, seeds, names = self.study.objective.std_weight, self.stages.seeds, [c.name for c in candidates]
        asked = record.key(name, ids, names=names, costs=costs, seeds=seeds, weight=weight)
        for head in ("lm", "classifier"):
            members = [t for found in trials.values() for t in found if t.model.head == head]
            if members:
                self._train(title, stage, members, to_the_end, measured)
        known = self.records.earlier(asked)
        if known is None:
            rated = compare.rate(self.store, candidates, lambda c: trials[c.name], weight)
            choice = compare.choose_candidate(rated, seeds)
            known = {
                "stage": stage,
                "name": name,
                "title": title,
                "key": asked,
                "seeds": seeds,
                "candidates": [compare.as_row(r, choice) for r in rated],
                "taken": choice.taken,
                "leader": choice.leader,
                "reason": why + choice.reason,
            }
        return self.records.add(known)

    def _train(self, title: str, stage: int, trials: Sequence[Trial], to_the_end: bool, measured: bool) -> None:
        """Train and score the trials that are not in the run folder yet, and add all of them to ``rows``."""
        wanted = list({t.id: t for t in trials}.values())
        head = "classifier" if wanted[0].model.head == "classifier" else self.current.head
        part = points.part_study(self.study, head, to_the_end)
        name, weight = f"{self.study.name}, stage {stage} of {len(STAGES)}: {title}", self.study.objective.std_weight
        live = LiveTable(name, std_weight=weight, since=self.since)
        progress = Progress(part, self.store, live, earlier_rows=self.rows, scores_test_pool=measured, began=self.began)
        done = replayed(progress, wanted, self.content.assets)
        with progress.live:
            for trial in wanted:
                progress.add(trial)
            progress.write()
            if done is not None:
                done()
            else:
                self.execute(progress, wanted)
            progress.write(finished=stage == len(STAGES))
        self.rows = progress.rows()

    # trials ---------------------------------------------------------------------------------------------------

    def _trials_of(self, candidate: Candidate) -> list[Trial]:
        return [self._trial(point, candidate.head) for point in candidate.points]

    def _trial(self, point: Point, head: str) -> Trial:
        study = points.part_study(self.study, head, True)
        model = replace(self.content.model, head=study.model.head)
        return make_trial(study, point, replace(self.content, model=model))

    def _shares(self, steps: int) -> tuple[int, ...]:
        return rungs_of(self.study, steps)

    def _fits(self, steps: int) -> bool:
        """Whether a training of so few steps still has distinct rungs."""
        try:
            return bool(self._shares(steps))
        except StudyError:
            return False

    def _length(self, steps: int) -> dict[str, Any]:
        if "steps" in self.current.settings:
            return {"steps": steps}
        per_epoch = self.content.n_train_rows / (self.study.training.batch_size * self.study.training.accumulation)
        return {"epochs": steps / per_epoch}


def _by_objective(stage: record.Stage) -> list[str]:
    """Names of the candidates: those that can be compared by their objective, then the others in the study's order."""
    rows = stage["candidates"]

    def place(row: Mapping[str, Any]) -> tuple[bool, float]:
        sound = row["objective"] is not None and not row["degenerate"]
        return (not sound, -row["objective"] if sound else 0.0)

    return [row["candidate"] for row in sorted(rows, key=place)]


def _is(stage: record.Stage, name: str, *marks: str) -> bool:
    rows = [row for row in stage["candidates"] if row["candidate"] == name]
    return any(row[mark] for row in rows for mark in marks)
