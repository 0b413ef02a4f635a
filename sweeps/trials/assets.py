"""What a study reads: rows of each split, pools of prompts, templates and task in the trainer's own types.

``load_assets(study)`` is the one place that turns the study's paths into content; ``check`` and the run both use it,
so what was checked is what is trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from trainer import trial
from trainer.data.assets import Assets
from trainer.data.pools import fingerprint_prompts, load_pool, split_pool
from trainer.data.rows import fingerprint_rows, load_rows
from trainer.data.sources import RowSource
from trainer.data.wording import Prompt
from trainer.errors import UserError

if TYPE_CHECKING:
    from sweeps.study.schema import Study
    from sweeps.study.sections import Pool, Source

__all__ = [
    "Assets",
    "data_of",
    "load_assets",
    "load_pools",
    "pools_by_place",
    "source",
    "task",
    "template",
    "templates_read",
]

SPLITS = ("train", "dev", "test")
T = TypeVar("T")


def load_assets(study: Study) -> Assets:
    """Rows per split and prompts per pool; of the train pools, those that the axes use. Raises one ``UserError`` that
    lists all that is wrong, a line each."""
    wrong: list[str] = []
    rows = {}
    for split in SPLITS:
        rows[split] = tuple(_try(wrong, lambda s=split: load_rows(source(study, s), s, f"task.rows.{s}")) or ())  # type: ignore[misc]
    pools = _try(wrong, lambda: load_pools(study))
    if wrong or pools is None:
        raise UserError("\n".join(wrong))
    train, scored = pools
    return Assets(rows, {n: tuple(p) for n, p in train.items()}, {n: tuple(p) for n, p in scored.items()})


def data_of(assets: Assets) -> dict[str, trial.Data]:
    """By train pool: fingerprints of all that a trial that trains on it reads."""
    rows = {f"{split}_rows": fingerprint_rows(assets.rows[split]) for split in SPLITS}
    scored = {f"{pool}_prompts": fingerprint_prompts(assets.pools[pool]) for pool in ("dev", "test")}
    return {
        n: trial.Data(**rows, train_prompts=fingerprint_prompts(p), **scored) for n, p in assets.train_pools.items()
    }


def pools_by_place(assets: Assets) -> dict[str, tuple[Prompt, ...]]:
    """Every pool under its place in the study: train.<name>, dev, test."""
    return {**{f"train.{name}": p for name, p in assets.train_pools.items()}, **assets.pools}


def source(study: Study, split: str) -> RowSource:
    """The trainer's source of one split's rows."""
    of: Source = getattr(study.task.rows, split)
    t = study.task
    return RowSource(
        path=of.path, fields=tuple(t.fields), label=t.label, labels=dict(t.labels), options=t.options, id=t.id,
        name=of.name, split=of.split, where=dict(of.where), limit=of.limit, revision=of.revision,
    )  # fmt: skip


def task(study: Study) -> trial.Task:
    return trial.Task(labels=study.task.names, metric=study.task.metric, max_length=study.task.max_length)


def template(study: Study, name: str) -> trial.Template:
    given = study.templates[name]
    words = tuple((label, given.words[label]) for label in study.task.names)
    return trial.Template(name=name, chat=given.chat, system=given.system, marker=given.marker, words=words)


def templates_read(study: Study) -> list[trial.Template]:
    """Every template that some trial is scored or trained under."""
    formats = [name for arm in study.axes.arm for name in study.arms[arm].formats]
    return [template(study, name) for name in dict.fromkeys([*study.axes.template, *formats])]


def load_pools(study: Study) -> tuple[dict[str, list[Prompt]], dict[str, list[Prompt]]]:
    """(train pools by name, those that the axes use; dev and test). Raises ``UserError``."""
    given = study.pools
    used = {name: given.train[name] for name in study.axes.pool}
    if given.split is not None:
        cut = given.split
        dealt = split_pool(load_pool(cut.file), {"train": cut.train, "dev": cut.dev, "test": cut.test}, cut.seed)
        train = {n: _part(dealt["train"], p, f"pools.train.{n}") for n, p in used.items()}
        return train, {"dev": dealt["dev"], "test": dealt["test"]}
    assert given.dev is not None  # the study's own rule
    assert given.test is not None
    wrong: list[str] = []
    places = {f"train.{n}": p for n, p in used.items()} | {"dev": given.dev, "test": given.test}
    read = {at: _try(wrong, lambda at=at, p=p: _read(p, f"pools.{at}")) or [] for at, p in places.items()}  # type: ignore[misc]
    if wrong:
        raise UserError("\n".join(wrong))
    return {n: read[f"train.{n}"] for n in used}, {n: read[n] for n in ("dev", "test")}


def _read(pool: Pool, at: str) -> list[Prompt]:
    assert pool.file is not None  # the study's own rule
    try:
        prompts = load_pool(pool.file, pool.only)
    except UserError as error:
        raise UserError("\n".join(f"{at}: {line}" for line in str(error).splitlines())) from error
    return prompts[: pool.limit]


def _part(prompts: list[Prompt], pool: Pool, at: str) -> list[Prompt]:
    """A train pool that is part of the split's train share."""
    by_id = {p.id: p for p in prompts}
    for wanted in pool.only:
        if wanted not in by_id:
            raise UserError(
                f'{at}: only = "{wanted}" is not in the train share of pools.split. It holds: '
                f"{', '.join(list(by_id)[:20])}"
            )
    return ([by_id[i] for i in pool.only] if pool.only else prompts)[: pool.limit]


def _try(wrong: list[str], read: Callable[[], T]) -> T | None:
    try:
        return read()
    except UserError as error:
        wrong.append(str(error))
        return None
