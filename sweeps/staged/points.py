"""The points of the axes that each stage tries, from where the stages before have got to.

The first value of every axis is the baseline. ``Standing`` holds what is chosen so far; a ``Candidate`` is one value
(or a few together) under trial, with the points that measure it: one for each template and seed it is averaged over.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sweeps.search.points import Point
from sweeps.study.schema import Study
from sweeps.trials.make import axes_of
from trainer.trial import modules_text

LORA = ("lr", "steps", "epochs", "target_modules", "r", "alpha", "rslora", "dropout")
FEW = 4  # candidates up to which a group is trained to the end: a cut trial cannot be compared


@dataclass(frozen=True)
class Standing:
    """What the stages so far have settled on. ``templates``: the chosen one first."""

    head: str
    templates: tuple[str, ...]
    settings: Mapping[str, Any]  # LORA axis -> value

    def with_settings(self, **changed: Any) -> Standing:
        return replace(self, settings={**self.settings, **changed})


@dataclass(frozen=True)
class Candidate:
    name: str
    head: str
    points: tuple[Point, ...]  # in the same order of templates and seeds for all candidates of a stage
    cost: tuple[tuple[str, float], ...] = ()  # (what, how much), the most important first: for a choice among the tied
    value: Mapping[str, Any] = field(default_factory=dict)  # what choosing it settles


def axis_values(study: Study) -> dict[str, tuple[Any, ...]]:
    """Axis -> its values; a staged study has no ranges (a rule of the study)."""
    return {name: tuple(values) for name, values in axes_of(study).items() if isinstance(values, Sequence)}


def baseline(study: Study) -> Standing:
    values = axis_values(study)
    assert study.stages is not None
    settings = {name: values[name][0] for name in LORA if name in values}
    return Standing(study.stages.heads[0], (values["template"][0],), settings)


def weights(study: Study, head: str) -> tuple[float, ...]:
    """The prompt loss weights of stage 5; a classifier has no loss on the prompt."""
    return (0.0,) if head == "classifier" else axis_values(study)["plw"]


def _points(
    study: Study, head: str, templates: Sequence[str], settings: Mapping[str, Any], seeds: int
) -> tuple[Point, ...]:
    values = axis_values(study)
    first = {name: known[0] for name, known in values.items() if known}
    common = {**first, **settings, "plw": weights(study, head)[0]}
    return tuple({**common, "template": t, "seed": seed} for t in templates for seed in values["seed"][:seeds])


def head_candidates(study: Study, at: Standing) -> list[Candidate]:
    assert study.stages is not None
    found = []
    for place, head in enumerate(study.stages.heads):
        points = _points(study, head, at.templates[:1], at.settings, study.stages.seeds)
        found.append(Candidate(head, head, points, (("place in stages.heads", place + 1),), {"head": head}))
    return found


def template_candidates(study: Study, at: Standing) -> list[Candidate]:
    assert study.stages is not None
    found = []
    for name in study.axes.template:
        template = study.templates[name]
        length = float(len(template.system) + len(template.marker))
        points = _points(study, at.head, [name], at.settings, study.stages.seeds)
        found.append(Candidate(name, at.head, points, (("characters around the prompt", length),), {"template": name}))
    return found


def lora_candidates(study: Study, at: Standing, group: Sequence[str]) -> list[Candidate]:
    """Every combination of the group's axes, everything else as it stands; none where nothing of it varies. What stands
    is among them."""
    values = axis_values(study)
    varied = {name: values[name] for name in group if len(values.get(name, ())) > 1}
    if not varied:
        return []
    choices = [dict(zip(varied, chosen, strict=True)) for chosen in itertools.product(*varied.values())]
    return [setting_candidate(study, at, chosen) for chosen in choices]


def setting_candidate(study: Study, at: Standing, changed: Mapping[str, Any]) -> Candidate:
    """What stands with some LoRA axes changed."""
    assert study.stages is not None
    settings = {**at.settings, **changed}
    points = _points(study, at.head, at.templates, settings, study.stages.seeds)
    return Candidate(settings_text(changed), at.head, points, _cost(settings), dict(changed))


def _cost(settings: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    """What a setting costs to train and to keep: length, then the adapter's size; dropout needs a reason as well."""
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
    """(point, place of its LoRA setting) of stage 5: templates x LoRA settings x PLW x pools x seeds."""
    values = axis_values(study)
    first = {name: known[0] for name, known in values.items() if known}
    grid = itertools.product(templates, range(len(settings)), weights(study, head), values["pool"], values["seed"])
    return [
        ({**first, **settings[i], "template": t, "plw": plw, "pool": pool, "seed": seed}, i)
        for t, i, plw, pool, seed in grid
    ]


def settings_text(settings: Mapping[str, Any]) -> str:
    """``lr = 0.001, r = 16``."""
    return ", ".join(f"{k} = {value_text(v)}" for k, v in settings.items())


def varied_text(study: Study, settings: Mapping[str, Any]) -> str:
    """Of ``settings`` what the study varies, or what has left the baseline."""
    values = axis_values(study)
    return settings_text({k: v for k, v in settings.items() if values.get(k, ()) != (v,)})


def value_text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return modules_text(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def part_study(study: Study, head: str, to_the_end: bool) -> Study:
    """The study as one stage runs it: the head, and early stopping that stops no one where all are to be compared.
    Rungs stay, so that a trial's scores at them serve every stage."""
    changed: dict[str, Any] = {
        "model": study.model.model_copy(update={"head": "classifier" if head == "classifier" else "lm"}),
        "scoring": study.scoring.model_copy(update={"scorer": "generate" if head == "generate" else "labels"}),
    }
    if to_the_end and study.scheduler.name == "asha":
        changed["scheduler"] = study.scheduler.model_copy(update={"eta": 1})  # all 1/1 go on
    return study.model_copy(update=changed)
