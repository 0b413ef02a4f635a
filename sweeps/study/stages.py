"""The ``stages`` section of a study: it turns the axes from one grid into five stages, each building on the last.

The axes keep their meaning as the space to search. In a staged study the first value of each is the baseline, from
which one thing after the other is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sweeps.study.problems import Problem, raise_any
from sweeps.study.values import Count, Section, Whole, distinct

Head = Literal["labels", "classifier", "generate"]
Tuned = Literal["lr", "steps", "epochs", "target_modules", "r", "alpha", "rslora", "dropout"]
USUAL_TEMPLATES = (5, 15)  # fewer say little about wording; the best of many more is often the luckiest, not the best


def _list(value: Any) -> Any:
    return value if isinstance(value, list | tuple | dict) or value is None else [value]


def _groups(value: Any) -> Any:
    """``[[lr, steps], r]``: a group of one may stand without brackets."""
    return [_list(group) for group in _list(value)] if isinstance(_list(value), list | tuple) else value


class Stages(Section):
    # compared in stage 2, the preferred one first: of tied heads the first is chosen
    heads: Annotated[tuple[Head, ...], Field(min_length=1), AfterValidator(distinct), BeforeValidator(_list)] = (
        "labels",
        "classifier",
        "generate",
    )
    keep: Annotated[Whole, Field(ge=1, le=2)] = (
        2  # how many templates LoRA is tuned under; a second one only if it is tied with the best
    )
    # axes to tune in stage 4, one group after the other, the most important for LoRA first (Learning Rate Matters)
    order: Annotated[tuple[tuple[Tuned, ...], ...], BeforeValidator(_groups)] = (
        ("lr", "steps", "epochs"),
        ("target_modules",),
        ("r",),
        ("alpha",),
        ("dropout",),
    )
    seeds: Count = 1  # how many of axes.seed stages 2 to 4 use; with one, only stage 5 measures the chance of training
    cross: Annotated[Whole, Field(ge=2, le=3)] = 3  # templates, and LoRA settings, that stage 5 crosses

    @model_validator(mode="after")
    def _each_axis_in_one_group(self) -> Stages:
        seen: set[str] = set()
        found = []
        for i, group in enumerate(self.order):
            for j, axis in enumerate(group):
                if axis in seen:
                    found.append(Problem(("order", i, j), "is tuned twice. Keep one"))
                seen.add(axis)
        raise_any(found)
        return self


def doubtful_templates(n: int) -> str | None:
    """What is doubtful of a sweep of ``n`` templates in stage 3."""
    few, many = USUAL_TEMPLATES
    if few <= n <= many:
        return None
    lucky = "the best of so many is often the luckiest, not the best"
    why = "a few templates say little about wording" if n < few else lucky
    return f"stage 3 compares {n} templates: {why}. {few} to {many} are usual"


def disagreements(s: Mapping[str, Any]) -> Iterator[Problem]:
    """Where ``stages`` contradicts other sections of the study."""
    stages = s["stages"]
    if stages is None:
        return
    if "search" in s and s["search"].method != "grid":
        yield Problem(
            ("search", "method"),
            "cannot be combined with stages, which choose the points themselves. For one joint search, set stages=null",
        )
    if "model" in s and s["model"].head != "lm":
        yield Problem(
            ("model", "head"), "is chosen by stages.heads in a staged study. Remove it, or give heads: [classifier]"
        )
    if "scoring" in s and s["scoring"].scorer != "labels":
        yield Problem(
            ("scoring", "scorer"), "is chosen by stages.heads in a staged study. Remove it, or give heads: [generate]"
        )
    if s.get("arms"):
        yield Problem(
            ("stages",),
            "cannot be combined with arms: stage 5 crosses pools. Run the arms as another study",
            True,
        )
    meaning = s["task"].meaning if "task" in s else None
    if "task" in s and meaning is None:
        yield Problem(
            ("task", "meaning"),
            "is missing: stage 1 of a staged study looks whether every wording asks the same. Give about, and terms or "
            "other: the words that a prompt must, or must not, contain",
            bare=True,
        )
    elif meaning is not None and not (meaning.terms or meaning.other):
        yield Problem(
            ("task", "meaning", "terms"),
            "is missing, and so is `other`: give words that prompts must, or must not, contain",
            bare=True,
        )
    yield from _heads(s)
    axes = s.get("axes")
    if axes is None:
        return
    if isinstance(axes.seed, tuple) and len(axes.seed) < 2:
        yield Problem(
            ("axes", "seed"),
            "is a single seed, and stage 5 must tell effects from chance. Give two or more, such as [0, 1, 2]",
        )
    elif isinstance(axes.seed, tuple) and stages.seeds > len(axes.seed):
        yield Problem(("stages", "seeds"), f"is more than the {len(axes.seed)} of axes.seed")
    if len(axes.template) < 2:
        yield Problem(
            ("axes", "template"), "must hold two templates or more in a staged study: stage 3 compares them", bare=True
        )
    varied = [n for n in _LORA if isinstance(v := getattr(axes.lora, n), tuple) and len(v) > 1]
    varied += [n for n in ("lr", "steps", "epochs") if isinstance(v := getattr(axes, n), tuple) and len(v) > 1]
    for name in varied:
        if not any(name in group for group in stages.order):
            yield Problem(
                ("stages", "order"),
                f"leaves out axes.{_key_of(name)}, which has several values. Add it, or give it one",
                bare=True,
            )
    if not varied:
        yield Problem(
            ("axes", "lora"), "and the learning rate have one value each: stage 4 has nothing to tune", bare=True
        )


_LORA = ("r", "alpha", "dropout", "target_modules", "rslora")


def _key_of(axis: str) -> str:
    return f"lora.{axis}" if axis in _LORA else axis


def _heads(s: Mapping[str, Any]) -> Iterator[Problem]:
    heads = s["stages"].heads
    if "classifier" in heads and "task" in s and s["task"].options is not None:
        at = ("stages", "heads", heads.index("classifier"))
        yield Problem(at, "needs task.labels: a row's own options have no fixed classes. Remove it")
    decision = s["scoring"].decision if "scoring" in s else "raw"
    if decision != "raw" and set(heads) - {"labels"}:
        yield Problem(
            ("scoring", "decision"),
            "corrects for the wording of labels, and only one of the heads compares them. Use raw, or heads: [labels]",
        )
