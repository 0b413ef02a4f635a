"""What a study names, loaded: the rows of each split, the prompts of each pool, its task and templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from trainer.data.assets import Assets
from trainer.data.pools import fingerprint_prompts, load_pool, split_pool
from trainer.data.rows import fingerprint_rows, load_rows
from trainer.data.sources import RowSource
from trainer.data.wording import Prompt
from trainer.errors import UserError
from trainer.trial import Data, Task, Template

if TYPE_CHECKING:
    from sweeps.study.schema import Study
    from sweeps.study.sections import PoolSection, PoolsSection, TaskSection, TemplateSection

SPLITS = ("train", "dev", "test")
T = TypeVar("T")


def load_assets(study: Study) -> Assets:
    """Rows per split and prompts per pool; of the train pools, those that the axes use. Raises one ``UserError`` with a
    line for each thing that is wrong."""
    wrong: list[str] = []
    rows = {}
    for split in SPLITS:
        rows[split] = tuple(_try(wrong, lambda s=split: load_rows(source_of(study.task, s), s, f"task.rows.{s}")) or ())  # type: ignore[misc]
    pools = _try(wrong, lambda: load_pools(study.pools, study.axes.pool))
    if wrong or pools is None:
        raise UserError("\n".join(wrong))
    train, scored = pools
    return Assets(rows, {n: tuple(p) for n, p in train.items()}, {n: tuple(p) for n, p in scored.items()})


def fingerprints_of(assets: Assets) -> dict[str, Data]:
    """By train pool: fingerprints of all that a trial that trains on it reads."""
    rows = {f"{split}_rows": fingerprint_rows(assets.rows[split]) for split in SPLITS}
    scored = {f"{pool}_prompts": fingerprint_prompts(assets.pools[pool]) for pool in ("dev", "test")}
    return {n: Data(**rows, train_prompts=fingerprint_prompts(p), **scored) for n, p in assets.train_pools.items()}


def source_of(task: TaskSection, split: str) -> RowSource:
    """Where the rows of one split are, as the trainer reads them."""
    rows = getattr(task.rows, split)
    return RowSource(
        path=rows.path, fields=tuple(task.fields), label=task.label, labels=dict(task.labels), options=task.options,
        id=task.id, name=rows.name, split=rows.split, where=dict(rows.where), limit=rows.limit, revision=rows.revision,
    )  # fmt: skip


def task_of(task: TaskSection) -> Task:
    return Task(labels=task.names, metric=task.metric, max_length=task.max_length)


def template_of(name: str, section: TemplateSection, labels: Sequence[str]) -> Template:
    words = tuple((label, section.words[label]) for label in labels)
    return Template(name=name, chat=section.chat, system=section.system, marker=section.marker, words=words)


def templates_of(study: Study) -> dict[str, Template]:
    """Every template under which some trial is trained or scored, by name."""
    formats = [name for arm in study.axes.arm for name in study.arms[arm].formats]
    names = dict.fromkeys([*study.axes.template, *formats])
    return {name: template_of(name, study.templates[name], study.task.names) for name in names}


def load_pools(section: PoolsSection, names: Sequence[str]) -> tuple[dict[str, list[Prompt]], dict[str, list[Prompt]]]:
    """(train pools of these ``names``; dev and test). Raises ``UserError``."""
    used = {name: section.train[name] for name in names}
    if section.split is not None:
        cut = section.split
        dealt = split_pool(load_pool(cut.file), {"train": cut.train, "dev": cut.dev, "test": cut.test}, cut.seed)
        train = {n: _part(dealt["train"], p, f"pools.train.{n}") for n, p in used.items()}
        return train, {"dev": dealt["dev"], "test": dealt["test"]}
    assert section.dev is not None  # the study's own rule
    assert section.test is not None
    wrong: list[str] = []
    places = {f"train.{n}": p for n, p in used.items()} | {"dev": section.dev, "test": section.test}
    read = {}
    for place, pool in places.items():
        read[place] = _try(wrong, lambda place=place, pool=pool: _read(pool, f"pools.{place}")) or []  # type: ignore[misc]
    if wrong:
        raise UserError("\n".join(wrong))
    return {n: read[f"train.{n}"] for n in used}, {n: read[n] for n in ("dev", "test")}


def _read(pool: PoolSection, place: str) -> list[Prompt]:
    assert pool.file is not None  # the study's own rule
    try:
        prompts = load_pool(pool.file, pool.only)
    except UserError as error:
        raise UserError("\n".join(f"{place}: {line}" for line in str(error).splitlines())) from error
    return prompts[: pool.limit]


def _part(prompts: list[Prompt], pool: PoolSection, place: str) -> list[Prompt]:
    """A train pool that is part of the split's train share."""
    by_id = {p.id: p for p in prompts}
    for wanted in pool.only:
        if wanted not in by_id:
            raise UserError(
                f'{place}: only = "{wanted}" is not in the train share of pools.split. It holds: '
                f"{', '.join(list(by_id)[:20])}"
            )
    return ([by_id[i] for i in pool.only] if pool.only else prompts)[: pool.limit]


def _try(wrong: list[str], read: Callable[[], T]) -> T | None:
    try:
        return read()
    except UserError as error:
        wrong.append(str(error))
        return None
