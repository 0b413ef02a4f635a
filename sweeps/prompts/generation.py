"""Ask models for wordings until each has given its number under each strategy, and count what that took.

Endpoints are asked in parallel, in rounds. A round sends one request for each model and strategy that still lacks
wordings; then the answers are checked in the order in which the user named the models. Local models are asked one after
the other. So the pool depends on the answers alone: not on which of them came first, nor on whether they came now or
from the journal. A request never depends on other models' answers, so adding a model or raising the number later keeps
all answers in use.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sweeps.prompts.brief import Brief, messages
from sweeps.prompts.endpoints import Endpoint
from sweeps.prompts.journal import AnswerJournal, StoredAnswer
from sweeps.prompts.local_writer import LocalModel
from sweeps.prompts.validation import ACCEPTED, WordingFilter, wordings
from trainer.errors import UserError
from trainer.trial import digest

PromptWriter = Endpoint | LocalModel
Announce = Callable[[str], None]  # shows the user one line of progress
SPARE = 3  # a source gets at most this many times the requests that would do if every wording were taken


class GenerationError(UserError):
    """A model failed; the message says which answers are kept."""


@dataclass(frozen=True)
class GenerationSettings:
    """What is asked of every model."""

    strategies: tuple[str, ...]
    number: int  # wordings of each model under each strategy
    at_once: int  # wordings asked for in one request
    seed: int = 0

    @property
    def most_requests(self) -> int:
        """The largest number of requests for one model and strategy."""
        return SPARE * -(-self.number // self.at_once)


@dataclass
class WordingSource:
    """One model under one strategy: its answers, and the wordings taken from them."""

    model: PromptWriter
    strategy: str
    taken: list[str] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)  # accepted, or the reason against -> number of wordings
    answers: list[StoredAnswer] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.model.name}, {self.strategy}"

    @property
    def read(self) -> int:
        """The number of wordings in the answers."""
        return sum(self.verdicts.values())

    @property
    def prompt_tokens(self) -> int:
        return sum(a.prompt_tokens or 0 for a in self.answers)

    @property
    def completion_tokens(self) -> int:
        return sum(a.completion_tokens or 0 for a in self.answers)

    @property
    def uncounted(self) -> int:
        """The number of answers whose tokens the server did not count."""
        return sum(a.prompt_tokens is None or a.completion_tokens is None for a in self.answers)


def generate_wordings(
    brief: Brief,
    models: Sequence[PromptWriter],
    settings: GenerationSettings,
    journal: AnswerJournal,
    announce: Announce,
) -> list[WordingSource]:
    """Every model under every strategy, in the order of the models, each with the wordings taken from it. ``announce``
    is called with a line for each answer. Raises UserError; all answers received until then are in the journal."""
    generation = _Generation(brief, settings, journal, WordingFilter(brief, settings.number), announce)
    sources = [WordingSource(model, strategy) for model in models for strategy in settings.strategies]
    generation.run_rounds([s for s in sources if isinstance(s.model, Endpoint)])
    for model in models:
        if isinstance(model, LocalModel):
            generation.run_rounds([s for s in sources if s.model is model])
            model.close()
    return sources


@dataclass(frozen=True)
class _Generation:
    brief: Brief
    settings: GenerationSettings
    journal: AnswerJournal
    wording_filter: WordingFilter
    announce: Announce

    def run_rounds(self, sources: Sequence[WordingSource]) -> None:
        """Ask until no source lacks wordings, or all its requests are used up."""
        identities = {id(s.model): _identity(s.model) for s in sources}
        for request in range(self.settings.most_requests):
            lacking = [s for s in sources if len(s.taken) < self.settings.number]
            if not lacking:
                return
            keys = {s.name: self._key(s, request, identities[id(s.model)]) for s in lacking}
            missing = [s for s in lacking if keys[s.name] not in self.journal.answers]
            fresh = {s.name for s in missing}
            self._fetch(missing, request, keys)
            for source in lacking:
                self._take(source, self.journal.answers[keys[source.name]], replayed=source.name not in fresh)

    def _key(self, source: WordingSource, request: int, identity: str) -> str:
        """A digest of everything that an answer depends on."""
        asked, model, seed = self._messages(source, request), source.model, self.settings.seed
        return digest([identity, asked, source.strategy, request, model.max_tokens, float(model.temperature), seed])

    def _messages(self, source: WordingSource, request: int) -> list[dict[str, str]]:
        return messages(self.brief, source.strategy, request, self.settings.at_once, self.settings.seed)

    def _take(self, source: WordingSource, answer: StoredAnswer, replayed: bool) -> None:
        """Take the good wordings of an answer, and announce how many there were."""
        source.answers.append(answer)
        found = wordings(answer.text, self.brief.fields)
        counts = Counter[str]()
        for text in found:
            verdict = self.wording_filter.verdict(text, source.name)
            counts[verdict] += 1
            if verdict == ACCEPTED:
                source.taken.append(text)
        source.verdicts += counts
        why = ", ".join(f"{n} {reason}" for reason, n in counts.most_common() if reason != ACCEPTED)
        line = f"{source.name}: {counts[ACCEPTED]} of {len(found)} taken{f' ({why})' if why else ''}"
        line += f", {len(source.taken)} of {self.settings.number} so far"
        line += "; the answer was cut at the token limit" if answer.cut else ""
        self.announce(line + ("; kept from before" if replayed else ""))

    # asking -----------------------------------------------------------------------------------------------------

    def _fetch(self, sources: Sequence[WordingSource], request: int, keys: dict[str, str]) -> None:
        """Put an answer for each source into the journal. Each model has a thread, in which its strategies are asked
        one after the other. Where a model fails, the others' answers are waited for before the error is raised."""
        failed: list[tuple[int, BaseException]] = []

        def ask(place: int, of_model: Sequence[WordingSource]) -> None:
            for source in of_model:
                try:
                    self.journal.add(self._ask(source, request, keys[source.name]))
                except BaseException as error:  # the main thread raises it
                    failed.append((place, error))
                    return

        by_model: dict[int, list[WordingSource]] = {}
        for source in sources:
            by_model.setdefault(id(source.model), []).append(source)
        groups = list(by_model.values())
        if len(groups) == 1:
            ask(0, groups[0])
        else:
            threads = [threading.Thread(target=ask, args=group, daemon=True) for group in enumerate(groups)]
            _run_threads(threads, sources)
        if failed:
            self._raise([error for _, error in sorted(failed, key=lambda f: f[0])])

    def _ask(self, source: WordingSource, request: int, key: str) -> StoredAnswer:
        start = time.monotonic()
        got = source.model.write(self._messages(source, request), int(key[:8], 16) >> 1)
        seconds = round(time.monotonic() - start, 3)
        return StoredAnswer(
            key, source.model.name, source.strategy, request, got.text, got.prompt_tokens, got.completion_tokens,
            got.failed, got.cut, seconds,
        )  # fmt: skip

    def _raise(self, errors: Sequence[BaseException]) -> None:
        for error in errors:
            if not isinstance(error, UserError):
                raise error
        n = len(self.journal.answers)
        kept = f"{n} answer{'s' * (n != 1)} {'are' if n != 1 else 'is'} kept in {self.journal.path}"
        again = "run the same command again to ask for the rest, or leave the failing --model out"
        raise GenerationError("\n".join([*map(str, errors), f"{kept}: {again}"]))


def _identity(model: PromptWriter) -> str:
    return model.fingerprint() if isinstance(model, LocalModel) else model.name


def _run_threads(threads: Sequence[threading.Thread], sources: Sequence[WordingSource]) -> None:
    """Start daemon threads and wait for them. An interruption stops the endpoints' pauses and does not wait for a slow
    server."""
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
    except BaseException:
        for source in sources:
            if isinstance(source.model, Endpoint):
                source.model.stopped.set()
        raise
