"""Train the trials of a stage on Ray. All stages share one connection, and the same hosts while the base model's head
does not change."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sweeps.driver.progress import Progress
from sweeps.driver.session import on_ray, start_fleet, what_begins
from sweeps.driver.sweep import sweep
from sweeps.live.opening import Opening
from sweeps.trials.load_content import Content
from trainer.store import Store
from trainer.trial import Trial

if TYPE_CHECKING:
    from sweeps.study.study import Study


class OnRay:
    """Call it with the progress of a stage and its trials. Ray starts when the first trial has something to train."""

    def __init__(self, study: Study, store: Store, content: Content, opening: Opening | None = None) -> None:
        self.study, self.store, self.content = study, store, content
        self.opening = opening or Opening()
        self._open = ExitStack()
        self._fleets: dict[str, Any] = {}

    def __enter__(self) -> OnRay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._fleets.clear()  # before Ray goes
        self._open.close()

    def __call__(self, progress: Progress, trials: Sequence[Trial]) -> None:
        content = replace(self.content, model=trials[0].model)
        sweep(progress, content, trials, self._fleet(progress.study, content), self.opening)

    def _fleet(self, study: Study, content: Content) -> Any:
        if not self._fleets:
            self.opening.say(what_begins())
            self._open.enter_context(on_ray(self.study, self.store))
        head = content.model.head
        if head not in self._fleets:
            self._fleets[head] = start_fleet(study, content, self.store)
        return self._fleets[head]
