"""Train the trials of a stage on Ray. All stages share one connection, and the same hosts while the base model's head
does not change."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sweeps.driver.progress import Progress
from sweeps.driver.session import on_ray, start_fleet
from sweeps.driver.sweep import sweep
from trainer.data.assets import Assets
from trainer.store import Store
from trainer.trial import Model, Trial

if TYPE_CHECKING:
    from sweeps.study.schema import Study


class OnRay:
    """Call it with the progress of a stage and its trials. Ray starts when the first trial has something to train."""

    def __init__(self, study: Study, store: Store, assets: Assets) -> None:
        self.study, self.store, self.assets = study, store, assets
        self._open = ExitStack()
        self._fleets: dict[str, Any] = {}

    def __enter__(self) -> OnRay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._fleets.clear()  # before Ray goes
        self._open.close()

    def __call__(self, progress: Progress, trials: Sequence[Trial]) -> None:
        model = trials[0].model
        sweep(progress, model, self.assets, trials, None, self._fleet(progress.study, model))

    def _fleet(self, study: Study, model: Model) -> Any:
        if not self._fleets:
            self._open.enter_context(on_ray(self.study))
        if model.head not in self._fleets:
            self._fleets[model.head] = start_fleet(study, model, self.assets, self.store)
        return self._fleets[model.head]
