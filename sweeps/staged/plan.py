"""The cost of a staged study before it runs: trials, tokens, passes and time of each stage.

Later stages depend on the choices of earlier ones. The plan assumes that every stage chooses its first candidate and
that as many templates are kept as the study allows. The shorter training that stage 4 may add is not counted. All
trials of a stage are counted with the cost of the longest and largest of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sweeps.display.text import amount, duration
from sweeps.plan.cost import Plan, plan
from sweeps.plan.sizes import DataSizes, ModelSize, model_size, planned_sizes
from sweeps.staged import points
from sweeps.study.stages import doubtful_templates
from sweeps.study.study import Study

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class StagePlan:
    stage: int
    title: str
    trials: int
    new: int  # trials that no earlier stage has trained
    plan: Plan | None  # of the new ones; None where there are none


@dataclass(frozen=True)
class StagesPlan:
    name: str
    stages: tuple[StagePlan, ...]
    joint: Plan  # all axes as one grid
    notes: tuple[str, ...]

    @property
    def trials(self) -> int:
        return sum(s.new for s in self.stages)

    @property
    def seconds(self) -> float:
        return sum(s.plan.seconds for s in self.stages if s.plan)


def plan_stages(
    study: Study, sizes: DataSizes | None = None, model: ModelSize | None = None, rate: float | None = None
) -> StagesPlan:
    """The cost of a study with stages. ``sizes`` and ``model`` are read from the study's files where not given."""
    if sizes is None:
        sizes = planned_sizes(study)
    model, seen = model or model_size(study), set[str]()
    made = []
    for stage, title, heads, found, measured in _asked(study):
        new = [h + repr(sorted(p.items())) for h, p in zip(heads, found, strict=True)]
        fresh = [p for key, p in zip(new, found, strict=True) if key not in seen]
        seen.update(new)
        cost = _cost(study, heads[0], fresh, measured, sizes, model, rate) if fresh else None
        made.append(StagePlan(stage, title, len(found), len(fresh), cost))
    joint = plan(study.model_copy(update={"stages": None}), sizes, model, rate)
    return StagesPlan(study.name, tuple(made), joint, tuple(_notes(study)))


def _asked(study: Study) -> Iterator[tuple[int, str, list[str], list[points.Point], bool]]:
    """(stage, title, head of each point, points, whether they are scored on the test pool), if every stage takes its
    first candidate and as many templates are kept as ``stages.keep`` allows."""
    assert study.stages is not None
    current = points.baseline(study)
    stages = [(2, "head", points.head_candidates(study, current), True)]
    stages += [(3, "templates", points.template_candidates(study, current), False)]
    kept = replace(current, templates=study.axes.template[: study.stages.keep])
    tried: list[dict[str, Any]] = [dict(current.settings)]
    for group in study.stages.order:
        candidates = points.lora_candidates(study, kept, group)
        if candidates:
            stages.append((4, ", ".join(candidates[0].value), candidates, False))
            tried += [{**current.settings, **c.value} for c in candidates]
    for stage, title, candidates, measured in stages:
        pairs = [(c.head, p) for c in candidates for p in c.points]
        yield stage, title, [h for h, _ in pairs], [p for _, p in pairs], measured
    distinct = [s for i, s in enumerate(tried) if s not in tried[:i]][: study.stages.cross]
    grid = points.crossing_points(study, current.head, study.axes.template[: study.stages.cross], distinct)
    yield 5, "interaction", [current.head] * len(grid), [p for p, _ in grid], True


def _cost(
    study: Study,
    head: str,
    fresh: list[points.Point],
    measured: bool,
    sizes: DataSizes,
    model: ModelSize,
    rate: float | None,
) -> Plan:
    """The cost of these trials, planned as a study with one seed per trial."""
    part = points.part_study(study, head, len(fresh) > 0)
    lengths: dict[str, Any] = {k: (max(p[k] for p in fresh),) for k in ("steps", "epochs") if k in fresh[0]}
    lora = study.axes.lora.model_copy(
        update={k: (fresh[0][k],) for k in ("alpha", "dropout", "target_modules", "rslora")}
        | {"r": (max(p["r"] for p in fresh),)}
    )
    axes = study.axes.model_copy(
        update={
            "template": study.axes.template[:1],
            "lora": lora,
            "lr": study.axes.lr[:1] if isinstance(study.axes.lr, tuple) else study.axes.lr,
            "plw": (max(p["plw"] for p in fresh),),
            "pool": study.axes.pool[:1],
            "seed": tuple(range(len(fresh))),
            **lengths,
        }
    )
    shown = sizes if measured else replace(sizes, test_prompts=0)
    return plan(part.model_copy(update={"axes": axes, "stages": None}), shown, model, rate)


def _notes(study: Study) -> Iterator[str]:
    if (doubt := doubtful_templates(len(study.axes.template))) is not None:
        yield doubt
    seeds = study.axes.seed
    if isinstance(seeds, tuple) and len(seeds) < 3:
        yield (
            "Stage 5 has two seeds: it finds only interactions much larger than the variation between seeds. With "
            "three seeds it also finds one of about that size"
        )


def render(found: StagesPlan) -> RenderableType:
    """A table with a row per stage, their sum, and the cost of the whole grid for comparison."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table("stage", title=f"{found.name}: about {found.trials} trials in five stages", title_justify="left")
    for heading in ("trials", "new", "tokens", "passes", "time"):
        table.add_column(heading, justify="right")
    table.add_row("1 format", "", "", "", "", "")
    for s in found.stages:
        cost = ("0", "0", "") if s.plan is None else _columns(s.plan)
        table.add_row(f"{s.stage} {s.title}", str(s.trials), str(s.new), *cost)
    plans = [s.plan for s in found.stages if s.plan]
    tokens, passes = sum(p.cost.tokens for p in plans), sum(p.cost.passes for p in plans)
    table.add_section()
    table.add_row("all stages", "", str(found.trials), amount(tokens), amount(passes), duration(found.seconds))
    table.add_row("jointly: the whole grid", str(found.joint.trials), "", *_columns(found.joint))
    lines = [
        "time is for one host; every stage is assumed to take its first candidate",
        f"rate      {found.joint.rate_source}",
        f"lengths   {found.joint.sizes.prompt_tokens:.0f} tokens a prompt ({found.joint.sizes.source})",
        *(f"note      {note}" for note in found.notes),
    ]
    return Group(table, *(Text(text) for text in lines))


def _columns(p: Plan) -> tuple[str, str, str]:
    return amount(p.cost.tokens), amount(p.cost.passes), duration(p.seconds)
