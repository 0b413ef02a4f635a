"""Pools of the PAFT paper's size for a study that prefers them: 400 wordings to train on, and 50 to test.

The paper (arXiv 2502.12859) has ten models write 20 wordings each under two strategies, few-shot and zero-shot, and
tests on 50 of which some were written by people. Here the models that are given write as many in all; the test pool
has the study's own test prompts, written by people, and generated ones up to 50. A random division keeps near
duplicates together, and nothing is a near duplicate of the study's own prompts.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

from sweeps.prompts.files import pool_text, write_file
from sweeps.prompts.journal import AnswerJournal
from sweeps.run_folder.prompts import usage_file
from trainer.data.pools import load_pool, split_pool
from trainer.data.wording import Prompt
from trainer.errors import UserError

TRAIN, TEST = 400, 50
MADE = "made.yaml"  # beside the pools: all that the models wrote, with journal and usage


@dataclass(frozen=True)
class PaperPools:
    """Where a study reads pools of the paper's size from, and the test prompts that people wrote."""

    train: str
    test: str
    human: tuple[Prompt, ...]

    @property
    def made(self) -> str:
        return os.path.join(os.path.dirname(self.train), MADE)

    @property
    def generated(self) -> int:
        """Wordings that models are to write."""
        return TRAIN + max(0, TEST - len(self.human))

    def each(self, models: int, strategies: int) -> int:
        """Wordings of each model under each strategy."""
        return -(-self.generated // (models * strategies))


def paper_pools(path: str) -> PaperPools:
    """Raises UserError for a study that prefers no other pools to its own."""
    from sweeps.study.load import load_study

    own = load_study(path, without_made(path), files=False)
    study = load_study(path, files=False)
    train = next((n for n, p in study.pools.train.items() if p.prefer and p.limit is None and not p.only), None)
    test, human = study.pools.test, own.pools.test
    if train is None or test is None or test.prefer is None or human is None or human.file is None:
        raise UserError(
            f"{path}: --paper writes the pools that a study reads instead of its own, and this one names none. Add "
            "pools.train.<name>.prefer and pools.test.prefer, or give --out FILE"
        )
    return PaperPools(str(study.pools.train[train].prefer), test.prefer, tuple(load_pool(human.file, human.only)))


def without_made(path: str) -> list[str]:
    """What to lay over the study at ``path`` so that it reads its own pools."""
    from sweeps.study.load import load_study

    pools = load_study(path, files=False).pools
    given = {**{f"train.{name}": pool for name, pool in pools.train.items()}, "dev": pools.dev, "test": pools.test}
    return [f"pools.{at}.prefer=null" for at, pool in given.items() if pool is not None and pool.prefer is not None]


def divide(pools: PaperPools, seed: int, journal: AnswerJournal) -> list[str]:
    """Divide what the models wrote into the two files; lines that say what was written. Fewer wordings than were asked
    for are divided in the same shares. The journal remembers the files, so that an edited one is known as such.

    The models wrote one after the other, and a study's smaller pools are the first prompts of the train pool: in that
    order they would be of one model and strategy. So the train pool is shuffled."""
    wrote = load_pool(pools.made)
    shares = {"train": TRAIN / pools.generated, "test": 1 - TRAIN / pools.generated}
    dealt = split_pool(wrote, shares, seed)
    random.Random(seed).shuffle(dealt["train"])
    parts = {pools.train: dealt["train"][:TRAIN], pools.test: [*pools.human, *dealt["test"]][:TEST]}
    texts = {}
    for file, prompts in parts.items():
        name = os.path.splitext(os.path.basename(file))[0]
        header = [
            f"{name}: {len(prompts)} prompts. Made by `steadytune prompts generate --paper`, seed {seed}.",
            "No person has read the generated ones yet: read them before you train on them.",
        ]
        texts[file] = pool_text(header, {"": prompts})
    for file, text in texts.items():
        journal.add_written(text.encode())
        write_file(file, text)
    write_file(usage_file(pools.train), Path(usage_file(pools.made)).read_text())
    return [f"{file}: {len(prompts)} prompts" for file, prompts in parts.items()]
