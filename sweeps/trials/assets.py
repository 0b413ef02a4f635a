"""What a study names, loaded: the rows of each split, the prompts of each pool, its task and templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from trainer.data.assets import Assets
from trainer.data.pools import fingerprint_prompts, keep_only, load_pool, split_pool
from trainer.data.rows import DroppedRows, fingerprint_rows, read_rows
from trainer.data.sources import RowSource
from trainer.data.wording import Prompt
from trainer.errors import UserError
from trainer.trial import Data, Task, Template

if TYPE_CHECKING:
    from sweeps.study.data_schema import PoolSection, PoolsSection, SplitSection, TaskSection, TemplateSection
    from sweeps.study.study import Study

SPLITS = ("train", "dev", "test")
T = TypeVar("T")


def load_assets(study: Study) -> Assets:
    """Rows per split and prompts per pool; of the train pools, those that the axes use. Too long rows are still among
    them, also where the study drops them. Raises one ``UserError`` with a line for each thing that is wrong."""
    return load_and_drop(study)[0]


def load_and_drop(study: Study) -> tuple[Assets, list[DroppedRows]]:
    """``load_assets``, and the rows that the study drops as empty or as duplicates."""
    wrong: list[str] = []
    read = {}
    for split in SPLITS:
        read[split] = _try(wrong, lambda s=split: read_rows(source_of(study.task, s), s, f"task.rows.{s}"))  # type: ignore[misc]
    pools = _try(wrong, lambda: load_pools(study.pools, study.axes.pool))
    if wrong or pools is None:
        raise UserError("\n".join(wrong))
    train, scored = pools
    rows = {split: loaded.rows for split, loaded in read.items() if loaded is not None}
    dropped = [d for loaded in read.values() if loaded is not None for d in loaded.dropped]
    return Assets(rows, {n: tuple(p) for n, p in train.items()}, {n: tuple(p) for n, p in scored.items()}), dropped


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
        drop=rows.drop,
    )  # fmt: skip


def task_of(task: TaskSection) -> Task:
    return Task(labels=task.names, metric=task.metric, max_length=task.max_length)


def template_of(name: str, section: TemplateSection, labels: Sequence[str]) -> Template:
    words = tuple((label, section.words[label]) for label in labels)
    return Template(
        name=name,
        chat=section.chat,
        system=section.system,
        system_role=section.system_role,
        options=tuple(sorted(section.options.items())),
        marker=section.marker,
        words=words,
        date=section.date,
    )


def templates_of(study: Study) -> dict[str, Template]:
    """Every template under which some trial is trained or scored, by name."""
    formats = [name for arm in study.axes.arm for name in study.arms[arm].formats]
    names = dict.fromkeys([*study.axes.template, *formats])
    return {name: template_of(name, study.templates[name], study.task.names) for name in names}


def load_pools(section: PoolsSection, names: Sequence[str]) -> tuple[dict[str, list[Prompt]], dict[str, list[Prompt]]]:
    """(train pools of these ``names``; dev and test). Raises ``UserError``."""
    if section.split is not None:
        dealt = _dealt(section.split)
        return _parts(section, names, dealt["train"]), {"dev": dealt["dev"], "test": dealt["test"]}
    assert section.dev is not None  # the study's own rule
    assert section.test is not None
    read = _read_all({**{f"train.{n}": section.train[n] for n in names}, "dev": section.dev, "test": section.test})
    return {n: read[f"train.{n}"] for n in names}, {n: read[n] for n in ("dev", "test")}


def pool_choices(section: PoolsSection, names: Sequence[str]) -> list[str]:
    """Which file was read for each pool that prefers another one to its own."""
    given = {**{f"train.{n}": section.train[n] for n in names}, "dev": section.dev, "test": section.test}
    found: dict[str, list[str]] = {}
    for name, pool in given.items():
        if pool is not None and pool.prefer is not None:
            there = pool.file == pool.prefer
            said = f"read from {pool.file}" if there else f"read from {pool.file}, as {pool.prefer} does not exist"
            found.setdefault(said, []).append(f"pools.{name}")
    return [f"{', '.join(pools)}: {said}" for said, pools in found.items()]


def load_train_pools(section: PoolsSection, names: Sequence[str]) -> dict[str, list[Prompt]]:
    """The train pools of these ``names`` alone: dev and test files are not opened. Raises ``UserError``."""
    if section.split is not None:
        return _parts(section, names, _dealt(section.split)["train"])
    read = _read_all({f"train.{n}": section.train[n] for n in names})
    return {n: read[f"train.{n}"] for n in names}


def _dealt(cut: SplitSection) -> dict[str, list[Prompt]]:
    return split_pool(load_pool(cut.file), {"train": cut.train, "dev": cut.dev, "test": cut.test}, cut.seed)


def _parts(section: PoolsSection, names: Sequence[str], prompts: list[Prompt]) -> dict[str, list[Prompt]]:
    """Train pools that are parts of the split's train share."""
    missing = "is not in the train share of pools.split"
    return {
        n: keep_only(prompts, section.train[n].only, f"pools.train.{n}", missing)[: section.train[n].limit]
        for n in names
    }


def _read_all(places: Mapping[str, PoolSection]) -> dict[str, list[Prompt]]:
    wrong: list[str] = []
    read = {at: _try(wrong, lambda at=at, p=p: _read(p, f"pools.{at}")) or [] for at, p in places.items()}  # type: ignore[misc]
    if wrong:
        raise UserError("\n".join(wrong))
    return read


def _read(pool: PoolSection, place: str) -> list[Prompt]:
    assert pool.file is not None  # the study's own rule
    try:
        prompts = load_pool(pool.file, pool.only)
    except UserError as error:
        raise UserError("\n".join(f"{place}: {line}" for line in str(error).splitlines())) from error
    return prompts[: pool.limit]


def _try(wrong: list[str], read: Callable[[], T]) -> T | None:
    try:
        return read()
    except UserError as error:
        wrong.append(str(error))
        return None
