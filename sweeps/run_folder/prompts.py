"""The prompts' texts in the run folder, ``prompts/<fingerprint>.json``: a file per pool, named by its content.

When results are used, the files that the study names may have been edited, or be on another machine or in the temporary
folder of a Ray job. A trial holds the fingerprints of its pools, and their texts are here. For a generated pool,
``prompts/<fingerprint>.usage.csv`` holds the tokens that it cost.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Mapping

from trainer.data.assets import Assets
from trainer.data.pools import fingerprint_prompts
from trainer.data.wording import Prompt
from trainer.store import Store

log = logging.getLogger("steadytune")


def usage_file(pool_file: str) -> str:
    """The file in which ``prompts generate`` and ``prompts split`` write the tokens spent on the prompts of
    ``pool_file``."""
    return os.path.splitext(pool_file)[0] + ".usage.csv"


def keep_prompts(store: Store, assets: Assets, files: Mapping[str, str | None] | None = None) -> None:
    """Write every pool that is not there yet, or is damaged. ``files``: train pool -> its file, for the usage file next
    to it."""
    kept = set(store.names("prompts"))
    for pool in (*assets.train_pools.values(), *assets.pools.values()):
        fingerprint = fingerprint_prompts(pool)
        name = f"{fingerprint}.json"
        if name not in kept or kept_prompts(store, fingerprint) is None:
            texts = [{"id": p.id, "text": p.text} for p in pool]
            store.write(f"prompts/{name}", (json.dumps(texts, indent=1, ensure_ascii=False) + "\n").encode())

    for train_pool, file in (files or {}).items():
        if file and train_pool in assets.train_pools and os.path.isfile(usage_file(file)):
            with open(usage_file(file), "rb") as spent:
                fingerprint = fingerprint_prompts(assets.train_pools[train_pool])
                store.write(f"prompts/{fingerprint}.usage.csv", spent.read())


def kept_usage(store: Store, fingerprint: str) -> list[dict[str, str]]:
    """The rows of the pool's usage file: tokens by model and strategy; [] if there is none."""
    name = f"prompts/{fingerprint}.usage.csv"
    if not store.exists(name):
        return []
    return list(csv.DictReader(io.StringIO(store.read(name).decode("utf-8", "replace"))))


def kept_prompts(store: Store, fingerprint: str) -> list[Prompt] | None:
    """The pool with this fingerprint; None if the folder does not hold it whole and unchanged."""
    name = f"prompts/{fingerprint}.json"
    if not store.exists(name):
        return None
    try:
        found = [Prompt(str(p["id"]), str(p["text"])) for p in json.loads(store.read(name))]
        sound = fingerprint_prompts(found) == fingerprint
    except (ValueError, KeyError, TypeError, RecursionError):
        found, sound = [], False
    if not sound:
        log.warning("%s/%s: is not what its name says, and is not used", store.uri, name)
        return None
    return found
