"""Train one sweep after the other on Ray: all share one connection, and the same hosts while the base model's head does
not change."""

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
    """Call it with the progress of a sweep and its trials. Ray starts when the first trial has something to train."""

    def __init__(self, study: Study, store: Store, content: Content, opening: Opening | None = None) -> None:
        self.study, self.store, self.content = study, store, content
        self.opening = opening or Opening()
        self._open = ExitStack()
        self._fleets: dict[str, Any] = {}
        self._connected = False

    def __enter__(self) -> OnRay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._fleets.clear()  # before Ray goes
        self._open.close()

    def __call__(self, progress: Progress, trials: Sequence[Trial] | None) -> None:
        """``trials`` is None if Optuna chooses them."""
        content = replace(self.content, model=trials[0].model) if trials else self.content
        count = self.study.search.trials or 0 if trials is None else len(trials)
        sweep(progress, content, trials, self._fleet(progress.study, content, count), self.opening)

    def connect(self) -> None:
        """Connect to Ray, if that has not been done. Raises ``UserError``."""
        if not self._connected:
            self.opening.say(what_begins())
            self._open.enter_context(on_ray(self.study, self.store))
            self._connected = True

    def _fleet(self, study: Study, content: Content, count: int) -> Any:
        self.connect()
        head = content.model.head
        if head not in self._fleets:
            self.opening.say("starting hosts, and importing Ray Tune")
            self._fleets[head] = start_fleet(study, content, self.store, 0 if self.study.stages else count)
        return self._fleets[head]
