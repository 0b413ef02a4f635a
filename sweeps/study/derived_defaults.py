"""The defaults of a study that depend on its other keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sweeps.study.data_schema import PoolSection, as_pool, as_source, as_train_pools
from sweeps.study.values import (
    as_name,
)


def as_mappings(layer: Mapping[str, Any]) -> dict[str, Any]:
    """``layer`` with every file that is given as a text turned into a mapping, so that the command line can add keys:
    ``pools.dev=x.yaml`` and then ``pools.dev.limit=4``."""
    full = dict(layer)
    if isinstance(pools := full.get("pools"), Mapping):
        full["pools"] = {k: as_pool(v) for k, v in pools.items()}
        train = full["pools"].get("train")
        if isinstance(train, Mapping) and not set(train) <= set(PoolSection.model_fields):
            full["pools"]["train"] = {k: as_pool(v) for k, v in train.items()}
    if isinstance(task := full.get("task"), Mapping) and isinstance(rows := task.get("rows"), Mapping):
        full["task"] = {**task, "rows": {k: as_source(v) for k, v in rows.items()}}
    return full


def completed(layer: Mapping[str, Any]) -> dict[str, Any]:
    """``layer`` with the defaults that follow from other keys. Values of the wrong type stay, for the schema."""
    full = {k: {} if v is None and k in _ALL_DEFAULT else v for k, v in layer.items()}
    task, pools, resources = (_mapping(full.get(k)) for k in ("task", "pools", "resources"))
    templates = full.get("templates") or {"plain": {}}
    if isinstance(templates, dict):
        templates = full["templates"] = {
            k: _completed_template(v, _label_names(task.get("labels"))) for k, v in templates.items()
        }
    if pools.get("split") is not None and not pools.get("train"):
        pools = full["pools"] = {**pools, "train": {"train": {}}}
    arms = full["arms"] = _completed_arms(full.get("arms", {}), pools)
    if isinstance(full.get("axes", {}), dict):
        axes = full["axes"] = dict(full.get("axes", {}))
        if _mapping(arms):
            axes.setdefault("arm", list(arms))
            if used := arm_pools(arms, axes["arm"]):
                axes.setdefault("pool", used)
        elif not axes.get("arm"):
            axes.pop("arm", None)  # as the resolved study of a run without arms has it
        for key, named in (("template", templates), ("pool", as_train_pools(pools.get("train")))):
            if key not in axes and _mapping(named):
                axes[key] = list(named)
        if axes.get("steps") is None and axes.get("epochs") is None:
            axes["epochs"] = [3.0]
    alone = resources.get("workers") not in (None, 1) or resources.get("zero") not in (None, 0)
    if alone and "slots" not in resources:
        full["resources"] = {**resources, "slots": 1}
    return full


def with_preferred_pools(layer: Mapping[str, Any]) -> dict[str, Any]:
    """``layer`` with the file that each pool reads: ``prefer`` where it exists. It stays beside ``file``, so that a
    check can say which was read."""

    def read(pool: dict[str, Any]) -> dict[str, Any]:
        prefer = pool.get("prefer")
        return {**pool, "file": prefer} if isinstance(prefer, str) and os.path.isfile(prefer) else pool

    return _each_pool(layer, read)


def without_preferred(layer: Mapping[str, Any]) -> dict[str, Any]:
    return _each_pool(layer, lambda pool: {**pool, "prefer": None})


def _each_pool(layer: Mapping[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    full, pools = dict(layer), _mapping(layer.get("pools"))
    if not pools:
        return full
    train = as_train_pools(pools.get("train"))
    full["pools"] = {k: change(v) if k in ("dev", "test") and isinstance(v, dict) else v for k, v in pools.items()}
    if isinstance(train, dict):
        full["pools"]["train"] = {k: change(v) if isinstance(v, dict) else v for k, v in train.items()}
    return full


def _completed_arms(arms: Any, pools: Mapping[str, Any]) -> Any:
    """If there is only one pool, it is the pool of every arm that names none."""
    named = list(_mapping(as_train_pools(pools.get("train"))))
    if not isinstance(arms, dict) or len(named) != 1:
        return arms
    return {k: {"pool": named[0], **(v or {})} if isinstance(v, dict | None) else v for k, v in arms.items()}


def arm_pools(arms: Mapping[str, Any], chosen: Any) -> list[str]:
    """The pools of the arms that are ``chosen`` (a name, or a list), each once. Malformed arms are skipped."""
    names = chosen if isinstance(chosen, list | tuple) else [chosen]
    pools = [_mapping(arms.get(n)).get("pool") for n in names if isinstance(n, str)]
    return list(dict.fromkeys(p for p in pools if isinstance(p, str)))


_ALL_DEFAULT = {
    "arms",
    "templates",
    "axes",
    "training",
    "scoring",
    "search",
    "scheduler",
    "objective",
    "tables",
    "resources",
}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _label_names(labels: Any) -> list[str]:
    names = list(labels.values()) if isinstance(labels, dict) else labels if isinstance(labels, list | tuple) else []
    return list(dict.fromkeys(str(as_name(n)) for n in names if isinstance(n, str | int | float)))


def _completed_template(template: Any, labels: Sequence[str]) -> Any:
    """An empty template is a plain one. The words default to the labels; in plain text each begins with a space, as
    after any word, unless the marker ends with one."""
    if template is None:
        template = {}
    if not isinstance(template, dict):
        return template
    chat = template.get("chat") is True
    marker = template.get("marker", "" if chat else "\nAnswer:")
    space = "" if chat or (isinstance(marker, str) and marker[-1:].isspace()) else " "
    words = template.get("words") or {name: f"{space}{name}" for name in labels}
    return {**template, "marker": marker, "words": words}
