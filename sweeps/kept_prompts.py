"""The prompts' texts in the run folder, ``prompts/<fingerprint>.json``: a file per pool, named by what it holds.

A study names files that may be gone when its results are used: edited since, on another machine, or in the temporary
folder of a Ray job. A trial knows its pools by fingerprint, and finds their texts here.
"""

from __future__ import annotations

import json
import logging

from trainer.assets import Assets
from trainer.prompts import Prompt, fingerprint_prompts
from trainer.store import Store

log = logging.getLogger("steadytune")


def keep_prompts(store: Store, assets: Assets) -> None:
    """Write every pool that is not there yet."""
    kept = set(store.names("prompts"))
    for pool in (*assets.train_pools.values(), *assets.pools.values()):
        name = f"{fingerprint_prompts(pool)}.json"
        if name not in kept:
            texts = [{"id": p.id, "text": p.text} for p in pool]
            store.write(f"prompts/{name}", (json.dumps(texts, indent=1, ensure_ascii=False) + "\n").encode())


def kept_prompts(store: Store, fingerprint: str) -> list[Prompt] | None:
    """The pool with this fingerprint; None where the folder does not hold it (whole and unchanged)."""
    name = f"prompts/{fingerprint}.json"
    if not store.exists(name):
        return None
    try:
        found = [Prompt(str(p["id"]), str(p["text"])) for p in json.loads(store.read(name))]
    except (ValueError, KeyError, TypeError):
        found = []
    if fingerprint_prompts(found) != fingerprint:
        log.warning("%s/%s: is not what its name says, and is not used", store.uri, name)
        return None
    return found
