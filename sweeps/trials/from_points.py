"""From a study's axes to its trials: each point of the axes made a ``Trial`` with its id.

A point is a plain mapping of flat axis names to values, ``{"template": "plain", "r": 16, "lr": 1e-3, ...}``; it is
what searches pass around. Two points that make the same trial are refused, since they would share one id and one
result. The one exception: arms whose pools hold the same prompts share a trial, which then carries the names of all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sweeps.search.points import Domain, Point, Values, decode, grid_points, random_points
from sweeps.study.overlay import StudyError
from sweeps.study.problems import yaml_text
from sweeps.study.schema import MOST_STEPS, TOO_MANY_STEPS, ArmSection
from sweeps.study.study import Study
from sweeps.study.values import Range
from sweeps.trials.load_content import Content
from trainer import trial as t
from trainer.trial import SAME


def target_modules(study: Study) -> tuple[str, ...]:
    """The layers to which any of the study's trials may add an adapter."""
    return tuple(sorted({name for group in study.axes.lora.target_modules for name in group}))


def axes_of(study: Study) -> dict[str, Values]:
    """Flat axis name -> its values; ``steps`` or ``epochs``, whichever the study gives. A value of
    ``target_modules`` is a tuple of module names."""
    axes, lora = study.axes, study.axes.lora
    length: dict[str, Any] = {"steps": axes.steps} if axes.steps is not None else {"epochs": axes.epochs}
    flat = {
        "template": axes.template,
        "r": lora.r,
        "alpha": lora.alpha,
        "dropout": lora.dropout,
        "target_modules": lora.target_modules,
        "rslora": lora.rslora,
        "lr": axes.lr,
        **length,
        "plw": axes.plw,
        **({"arm": axes.arm} if axes.arm else {"pool": axes.pool}),
        "seed": axes.seed,
    }
    return {name: _searched(values) for name, values in flat.items()}


def varied_axes(study: Study) -> tuple[str, ...]:
    """Names of the columns of ``AXES`` in which the study's trials may differ. Fresh seeds and stages bring seeds of
    their own, and a stage may train for fewer steps."""
    varied = {n for n, values in axes_of(study).items() if isinstance(values, Domain) or len(set(values)) > 1}
    varied |= {"steps"} if "epochs" in varied or study.stages is not None else set()
    varied |= {"seed"} if study.confirm is not None or study.stages is not None else set()
    return tuple(name for name in t.AXES if name in varied)


def _searched(values: tuple[Any, ...] | Range[Any]) -> Values:
    if not isinstance(values, Range):
        return values
    return Domain("int" if isinstance(values.low, int) else values.kind, values.low, values.high)


def points_of(study: Study) -> list[Point] | None:
    """The study's points; None for ``tpe``, which chooses each point from the results of the trials before it. A point
    that is drawn comes with every seed of the study, one after the other."""
    search, axes = study.search, axes_of(study)
    if search.method == "tpe":
        return None
    if search.trials is None:
        return grid_points(axes)
    seeds = axes["seed"]
    try:
        if isinstance(seeds, Domain) or len(seeds) == 1:
            return random_points(axes, search.trials, search.seed)
        drawn = random_points({**axes, "seed": (seeds[0],)}, search.trials // len(seeds), search.seed)
        return [{**point, "seed": seed} for point in drawn for seed in seeds]
    except ValueError as error:
        raise StudyError(str(error)) from None


def make_trial(study: Study, point: Mapping[str, Any], content: Content) -> t.Trial:
    """The trial at ``point``. Numbers are brought to one type each (16 and 16.0, modules in any order), so that equal
    points have equal ids."""
    training, scoring = study.training, study.scoring
    draw = (arm_of(study, point) or ArmSection()).draw or training.draw
    steps = steps_of(study, point, content.n_train_rows)
    made = t.Trial(
        model=content.model,
        task=content.task,
        template=content.templates[point["template"]],
        lora=t.Lora(
            r=int(point["r"]),
            alpha=_number(point["alpha"]),
            dropout=_number(point["dropout"]),
            target_modules=tuple(sorted(set(point["target_modules"]))),
            rslora=bool(point["rslora"]),
        ),
        loss=t.Loss(_number(point["plw"]), training.normalization, training.template_tokens),
        optimization=t.Optimization(
            steps=steps,
            lr=_number(point["lr"]),
            batch_size=training.batch_size,
            accumulation=training.accumulation,
            schedule=training.schedule,
            warmup=_number(training.warmup),
            weight_decay=_number(training.weight_decay),
            clip=_number(training.clip),
            balance=training.balance,
            row_shares=row_shares_of(study, steps),
        ),
        draw=t.Draw(draw.mode, draw.every, draw.unit),
        scoring=t.Scoring(
            scoring.scorer,
            scoring.decision,
            scoring.max_new_tokens,
            _number(scoring.sample),
            scoring.max_thought_tokens,
            content.most_dev_cells,
        ),
        data=content.fingerprints[pool_of(study, point)],
        pool=pool_of(study, point),
        seed=int(point["seed"]),
        arm=_arm(study, point, content),
    )
    rungs_of(study, steps)
    return made


def arm_of(study: Study, point: Mapping[str, Any]) -> ArmSection | None:
    """The study's arm at ``point``; None where it sweeps none."""
    return study.arms[point["arm"]] if "arm" in point else None


def pool_of(study: Study, point: Mapping[str, Any]) -> str:
    """The train pool at ``point``: the axis, or what the arm names."""
    arm = arm_of(study, point)
    if arm is None:
        return str(point["pool"])
    assert arm.pool is not None  # the study's own rule
    return arm.pool


def _arm(study: Study, point: Mapping[str, Any], content: Content) -> t.Arm:
    arm = arm_of(study, point)
    if arm is None:
        return t.Arm()
    return t.Arm(
        name=point["arm"],
        choice=arm.choice,
        temperature=_number(arm.temperature),
        step_size=_number(arm.step_size),
        typos=_number(arm.typos),
        formats=tuple(content.templates[name] for name in arm.formats),
        views=arm.views,
        consistency=_number(arm.consistency),
        search_every=arm.search_every,
        search_candidates=arm.search_candidates,
        search_rows=arm.search_rows,
        search_worst=arm.search_worst,
        search_share=_number(arm.search_share),
        search_rewrites=arm.search_rewrites,
    )


def _number(value: Any) -> float:
    return float(value) + 0.0  # -0.0 becomes 0.0


def steps_of(study: Study, point: Mapping[str, Any], n_train_rows: int) -> int:
    """Optimizer steps of a point; epochs end with the step that sees the last row. An arm may have its own length. An
    epoch is always as many sequences as there are rows, so an arm with several views of each row is not longer; an arm
    that searches for the worst wordings makes fewer steps, so that it costs as much."""
    steps = _steps_without_search(study, point, n_train_rows)
    return searches_of(study, point).matched_steps(steps, study.training.batch_size * study.training.accumulation)


def searches_of(study: Study, point: Mapping[str, Any]) -> t.Arm:
    """What the arm at ``point`` says of its searches, without what needs templates."""
    arm = arm_of(study, point)
    if arm is None:
        return t.Arm()
    return t.Arm(
        choice=arm.choice,
        search_every=arm.search_every,
        search_candidates=arm.search_candidates,
        search_rows=arm.search_rows,
    )


def _steps_without_search(study: Study, point: Mapping[str, Any], n_train_rows: int) -> int:
    arm = arm_of(study, point)
    if arm is not None and (arm.steps is not None or arm.epochs is not None):
        point = {"steps": arm.steps} if arm.steps is not None else {"epochs": arm.epochs}
    if "steps" in point:
        return int(point["steps"])
    per_step = study.training.batch_size * study.training.accumulation
    least = 1 if point["epochs"] else 0
    steps = max(least, math.ceil(float(point["epochs"]) * n_train_rows / per_step - 1e-9))
    if steps > MOST_STEPS:
        raise StudyError(
            f"epochs = {point['epochs']:g} of {n_train_rows:,} rows are {steps:,} steps; at most {MOST_STEPS:,} are "
            f"allowed: {TOO_MANY_STEPS}. Give fewer epochs or a larger batch"
        )
    return steps


def rungs_of(study: Study, steps: int) -> tuple[int, ...]:
    """The optimizer steps at which a trial of ``steps`` is scored. StudyError if two rungs have the same step."""
    rungs = t.rung_steps(study.scheduler.shares, steps)
    if len(set(rungs)) < len(rungs):
        raise StudyError(
            f"scheduler.rungs = {yaml_text(list(study.scheduler.shares))} has two rungs at the same step of a trial of "
            f"{steps} steps. Give fewer rungs or more steps"
        )
    return rungs


def row_shares_of(study: Study, steps: int) -> tuple[tuple[int, float], ...]:
    """(step, share of the train rows from which training draws until it), for rungs with less than all rows."""
    shares, rows = zip(*study.scheduler.row_shares, strict=True)
    rungs = zip(t.rung_steps(shares, steps), rows, strict=True)
    return tuple((step, part) for step, part in rungs if part < 1.0 and step < steps)


def make_trials(study: Study, points: Sequence[Mapping[str, Any]], content: Content) -> list[t.Trial]:
    """The trials at ``points``. Two arms whose pools hold the same prompts (two searches may find the same prompt)
    share one trial, whose arm has both names. StudyError if two points are the same trial for any other reason."""
    trials: dict[str, t.Trial] = {}
    first: dict[str, Mapping[str, Any]] = {}
    twins: list[str] = []
    for point in points:
        made = make_trial(study, point, content)
        if made.id in first and _only_pools_differ(study, first[made.id], point):
            known = trials[made.id]
            trials[made.id] = replace(known, arm=replace(known.arm, name=known.arm.name + SAME + made.arm.name))
            continue
        if made.id in first:
            twins.append(
                f"axes: the points {describe(first[made.id], point)} and {describe(point, first[made.id])} "
                "are one trial: they differ only in name or spelling. Remove one"
            )
        first.setdefault(made.id, point)
        trials.setdefault(made.id, made)
    if twins:
        raise StudyError("\n".join(twins))
    return list(trials.values())


def _only_pools_differ(study: Study, first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    same = {**first, "arm": None} == {**second, "arm": None}
    return same and "arm" in first and pool_of(study, first) != pool_of(study, second)


def describe(point: Mapping[str, Any], other: Mapping[str, Any] | None = None) -> str:
    """``template = plain, lr = 0.001``; with ``other``, only what differs from it."""
    named = {k: v for k, v in point.items() if other is None or other.get(k) != v}
    return ", ".join(f"{k} = {t.modules_text(v) if k == 'target_modules' else v}" for k, v in (named or point).items())


def make_trial_at(config: Mapping[str, Any], study: Study, content: Content) -> t.Trial:
    """The trial at the point that Optuna suggested, from Tune's parameters."""
    return make_trial(study, decode(config, axes_of(study)), content)
