"""``Content``: what a study reads, in the trainer's own types, made once and handed on.

``check``, ``run`` and the stages all start from it, so what was checked is what is trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from sweeps.study.precision import precision_of, usual_cells
from sweeps.study.study import Study
from sweeps.trials.assets import fingerprints_of, load_and_drop, task_of, templates_of
from sweeps.trials.base_model import model_of
from sweeps.trials.long_rows import splits_without_long_rows, without_long_rows
from trainer.data.assets import Assets
from trainer.data.rows import DroppedRows
from trainer.data.wording import Prompt
from trainer.trial import Data, Model, Task, Template


@dataclass(frozen=True)
class Content:
    assets: Assets  # rows by split, prompts by pool
    task: Task
    templates: Mapping[str, Template]  # all under which some trial is trained or scored, by name
    model: Model
    fingerprints: Mapping[str, Data]  # train pool -> what a trial that trains on it reads
    n_train_rows: int
    most_dev_cells: int = 0  # of the dev grid that a rung scores; 0: all
    dropped: tuple[DroppedRows, ...] = ()  # rows that the study's `drop` has left out; they are in no fingerprint

    @property
    def dropped_lines(self) -> list[str]:
        """What ``drop`` has left out, a line for each split and reason."""
        return [str(d) for d in self.dropped]

    @property
    def pools(self) -> dict[str, tuple[Prompt, ...]]:
        """Every pool under its place in the study: train.<name>, dev, test."""
        train = {f"train.{name}": prompts for name, prompts in self.assets.train_pools.items()}
        return {**train, **self.assets.pools}

    def light(self) -> Content:
        """Without rows and prompts: enough to make trials, and small enough to send to each of them."""
        return replace(self, assets=Assets({}, {}, {}))


def content_of(study: Study, say: Callable[[str], None] = lambda _: None) -> Content:
    """Load what the study reads; ``say`` is told what is read. Raises ``UserError`` with a line for each thing that is
    wrong with rows and prompts, or for what is wrong with the model."""
    say("reading rows and prompts")
    assets, dropped = load_and_drop(study)
    say(f"reading the files of the base model {study.model.path}")
    task, templates, model = task_of(study.task), templates_of(study), model_of(study.model)
    if splits := splits_without_long_rows(study):
        say("looking for too long rows")
        assets, long = without_long_rows(assets, splits, model, task, list(templates.values()))
        dropped += long
    dev = len(assets.pools["dev"]), len(assets.rows["dev"])
    precision_of(study, "test", len(assets.pools["test"]), len(assets.rows["test"]))  # for its errors, told early
    most = usual_cells(study, "dev", *dev)
    return Content(
        assets=assets,
        task=task,
        templates=templates,
        model=model,
        fingerprints=fingerprints_of(assets),
        n_train_rows=len(assets.rows["train"]),
        most_dev_cells=0 if most == dev[0] * dev[1] else most,
        dropped=tuple(dropped),
    )
