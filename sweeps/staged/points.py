"""The points of the axes that each stage tries, given what the stages before have chosen.

The first value of every axis is the baseline. ``CurrentChoice`` holds what the stages so far have chosen. A
``Candidate`` is one value of an axis, or values of several axes together, that a stage compares; its points are those
that its result is averaged over, one for each template and seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sweeps.search.points import Point
from sweeps.study.study import Study
from sweeps.trials.from_points import axes_of
from trainer.trial import modules_text

LORA = ("lr", "steps", "epochs", "target_modules", "r", "alpha", "rslora", "dropout")
FEW = 4  # a group of up to so many candidates is trained to the end, since a cut trial cannot be compared


@dataclass(frozen=True)
class CurrentChoice:
    """What the stages so far have chosen."""

    head: str
    templates: tuple[str, ...]  # the chosen one, then those that are tied with it
    settings: Mapping[str, Any]  # LORA axis -> value

    def with_settings(self, **changed: Any) -> CurrentChoice:
        return replace(self, settings={**self.settings, **changed})


@dataclass(frozen=True)
class Candidate:
    name: str
    head: str
    points: tuple[Point, ...]  # in the same order of templates and seeds for all candidates of a stage
    cost: tuple[tuple[str, float], ...] = ()  # (what, how much), the most important first
    value: Mapping[str, Any] = field(default_factory=dict)  # axis -> value, if it is chosen


def axis_values(study: Study) -> dict[str, tuple[Any, ...]]:
    """Axis -> its values. A rule of the study schema allows no ranges in a staged study."""
    return {name: tuple(values) for name, values in axes_of(study).items() if isinstance(values, Sequence)}


def baseline(study: Study) -> CurrentChoice:
    values = axis_values(study)
    assert study.stages is not None
    settings = {name: values[name][0] for name in LORA if name in values}
    return CurrentChoice(study.stages.heads[0], (values["template"][0],), settings)


def plw_values(study: Study, head: str) -> tuple[float, ...]:
    """The prompt loss weights of stage 5; a classifier has no loss on the prompt."""
    return (0.0,) if head == "classifier" else axis_values(study)["plw"]


def _points(
    study: Study, head: str, templates: Sequence[str], settings: Mapping[str, Any], seeds: int
) -> tuple[Point, ...]:
    values = axis_values(study)
    first = {name: known[0] for name, known in values.items() if known}
    common = {**first, **settings, "plw": plw_values(study, head)[0]}
    return tuple({**common, "template": t, "seed": seed} for t in templates for seed in values["seed"][:seeds])


def head_candidates(study: Study, current: CurrentChoice) -> list[Candidate]:
    assert study.stages is not None
    found = []
    for place, head in enumerate(study.stages.heads):
        points = _points(study, head, current.templates[:1], current.settings, study.stages.seeds)
        found.append(Candidate(head, head, points, (("place in stages.heads", place + 1),), {"head": head}))
    return found


def template_candidates(study: Study, current: CurrentChoice) -> list[Candidate]:
    assert study.stages is not None
    found = []
    for name in study.axes.template:
        template = study.templates[name]
        length = float(len(template.system) + len(template.marker))
        points = _points(study, current.head, [name], current.settings, study.stages.seeds)
        found.append(
            Candidate(name, current.head, points, (("characters around the prompt", length),), {"template": name})
        )
    return found


def lora_candidates(study: Study, current: CurrentChoice, group: Sequence[str]) -> list[Candidate]:
    """Every combination of the values of the group's axes, all else as chosen so far; the current choice is among them.
    Empty where no axis of the group has several values."""
    values = axis_values(study)
    varied = {name: values[name] for name in group if len(values.get(name, ())) > 1}
    if not varied:
        return []
    choices = [dict(zip(varied, chosen, strict=True)) for chosen in itertools.product(*varied.values())]
    return [setting_candidate(study, current, chosen) for chosen in choices]


def setting_candidate(study: Study, current: CurrentChoice, changed: Mapping[str, Any]) -> Candidate:
    """The current choice with some LoRA axes changed."""
    assert study.stages is not None
    settings = {**current.settings, **changed}
    points = _points(study, current.head, current.templates, settings, study.stages.seeds)
    return Candidate(settings_text(changed), current.head, points, _cost(settings), dict(changed))


def _cost(settings: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    """The cost of a setting: its training length, then the adapter's size. Of tied settings that with less dropout is
    preferred, so dropout counts as a cost, too."""
    length = float(settings["steps"] if "steps" in settings else settings["epochs"])
    modules = settings["target_modules"]
    wide = float("inf") if "all-linear" in modules else float(len(modules))
    return (
        ("training", length),
        ("kinds of layers", wide),
        ("rank", float(settings["r"])),
        ("dropout", float(settings["dropout"])),
    )


def crossing_points(
    study: Study, head: str, templates: Sequence[str], settings: Sequence[Mapping[str, Any]]
) -> list[tuple[Point, int]]:
    """(point, index of its LoRA setting) of stage 5: templates x LoRA settings x PLW x pools x seeds."""
    values = axis_values(study)
    first = {name: known[0] for name, known in values.items() if known}
    grid = itertools.product(templates, range(len(settings)), plw_values(study, head), values["pool"], values["seed"])
    return [
        ({**first, **settings[i], "template": t, "plw": plw, "pool": pool, "seed": seed}, i)
        for t, i, plw, pool, seed in grid
    ]


def settings_text(settings: Mapping[str, Any]) -> str:
    """``lr = 0.001, r = 16``."""
    return ", ".join(f"{k} = {value_text(v)}" for k, v in settings.items())


def varied_text(study: Study, settings: Mapping[str, Any]) -> str:
    """Those of ``settings`` that the study varies, or that differ from the study's only value."""
    values = axis_values(study)
    return settings_text({k: v for k, v in settings.items() if values.get(k, ()) != (v,)})


def value_text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return modules_text(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def part_study(study: Study, head: str, to_the_end: bool) -> Study:
    """The study as one stage runs it, with the stage's head. With ``to_the_end`` early stopping lets all trials go on.
    The rungs do not change, so every stage can use a trial's scores at them."""
    changed: dict[str, Any] = {
        "model": study.model.model_copy(update={"head": "classifier" if head == "classifier" else "lm"}),
        "scoring": study.scoring.model_copy(update={"scorer": "generate" if head == "generate" else "labels"}),
    }
    if to_the_end and study.scheduler.name == "asha":
        changed["scheduler"] = study.scheduler.model_copy(update={"eta": 1})  # all 1/1 go on
    return study.model_copy(update=changed)
