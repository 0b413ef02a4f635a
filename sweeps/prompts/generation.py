"""Asks models for wordings until each has given its number under each strategy, and counts what that took.

Endpoints are asked side by side, in rounds: one request for each model and strategy that lacks wordings; then the
answers are sifted in the order in which the models were named. Local models follow one after the other. So a pool is a
function of the answers alone, whichever of them came first and whether they came today or from the journal. What a
request says never depends on other models' answers, so that adding a model or raising the number wastes nothing.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sweeps.prompts.brief import Brief, messages
from sweeps.prompts.endpoints import Endpoint, Written
from sweeps.prompts.journal import Answer, Journal
from sweeps.prompts.local_writer import LocalModel
from sweeps.prompts.validation import ACCEPTED, Sieve, wordings
from trainer.errors import UserError
from trainer.trial import digest

Model = Endpoint | LocalModel
NUMBER = 20  # wordings per model and strategy (PAFT)
AT_ONCE = 10  # wordings asked for in a request
SPARE = 3  # times as many requests are made, at most, as would do if every wording were taken


class GenerationError(UserError):
    """A model failed; the message says what is kept."""


@dataclass(frozen=True)
class Order:
    """What is asked of every model. ``most``: requests per model and strategy."""

    strategies: tuple[str, ...]
    number: int = NUMBER
    at_once: int = AT_ONCE
    seed: int = 0

    @property
    def most(self) -> int:
        return SPARE * -(-self.number // self.at_once)


@dataclass
class Source:
    """One model under one strategy, and what came of it."""

    model: Model
    strategy: str
    taken: list[str] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)  # accepted, or why not -> wordings
    answers: list[Answer] = field(default_factory=list)
    replayed: int = 0  # answers that the journal had

    @property
    def name(self) -> str:
        return f"{self.model.name}, {self.strategy}"

    @property
    def read(self) -> int:
        """Wordings read from the answers."""
        return sum(self.verdicts.values())

    @property
    def prompt_tokens(self) -> int:
        return sum(a.prompt_tokens or 0 for a in self.answers)

    @property
    def completion_tokens(self) -> int:
        return sum(a.completion_tokens or 0 for a in self.answers)

    @property
    def uncounted(self) -> int:
        """Answers whose tokens the server did not count."""
        return sum(a.prompt_tokens is None or a.completion_tokens is None for a in self.answers)


Tell = Callable[[str], None]


def generate(brief: Brief, models: Sequence[Model], order: Order, journal: Journal, tell: Tell) -> list[Source]:
    """The sources in the order of the models, each with the wordings taken from it. ``tell`` gets a line for each
    answer. Raises UserError; every answer until then is in the journal."""
    sieve = Sieve(brief, order.number)
    sources = [Source(model, strategy) for model in models for strategy in order.strategies]
    remote = [s for s in sources if isinstance(s.model, Endpoint)]
    _by_rounds(remote, brief, order, journal, sieve, tell)
    for model in models:
        if isinstance(model, LocalModel):
            _by_rounds([s for s in sources if s.model is model], brief, order, journal, sieve, tell)
            model.close()
    return sources


def request_key(source: Source, brief: Brief, order: Order, request: int, identity: str) -> str:
    """Stands for everything that an answer depends on."""
    asked = messages(brief, source.strategy, request, order.at_once, order.seed)
    model = source.model
    return digest([identity, asked, source.strategy, request, model.max_tokens, float(model.temperature), order.seed])


def _by_rounds(
    sources: Sequence[Source], brief: Brief, order: Order, journal: Journal, sieve: Sieve, tell: Tell
) -> None:
    identities = {id(s.model): _identity(s.model) for s in sources}
    for request in range(order.most):
        lacking = [s for s in sources if len(s.taken) < order.number]
        if not lacking:
            return
        keys = {s.name: request_key(s, brief, order, request, identities[id(s.model)]) for s in lacking}
        missing = [s for s in lacking if keys[s.name] not in journal.answers]
        fresh = {s.name for s in missing}
        _fetch(missing, brief, order, request, keys, journal)
        for source in lacking:
            answer = journal.answers[keys[source.name]]
            source.replayed += source.name not in fresh
            tell(_sift(source, answer, brief, sieve, order, source.name not in fresh))


def _identity(model: Model) -> str:
    return model.fingerprint() if isinstance(model, LocalModel) else model.name


def _sift(source: Source, answer: Answer, brief: Brief, sieve: Sieve, order: Order, replayed: bool) -> str:
    """Take what the answer brings; a line that says what it was."""
    source.answers.append(answer)
    found = wordings(answer.text, brief.fields)
    counts = Counter[str]()
    for text in found:
        verdict = sieve.verdict(text, source.name)
        counts[verdict] += 1
        if verdict == ACCEPTED:
            source.taken.append(text)
    source.verdicts += counts
    why = ", ".join(f"{n} {reason}" for reason, n in counts.most_common() if reason != ACCEPTED)
    line = f"{source.name}: {counts[ACCEPTED]} of {len(found)} taken{f' ({why})' if why else ''}"
    line += f", {len(source.taken)} of {order.number} so far"
    line += "; the answer was cut at the token limit" if answer.cut else ""
    return line + ("; kept from before" if replayed else "")


# asking ---------------------------------------------------------------------------------------------------------


def _fetch(
    sources: Sequence[Source], brief: Brief, order: Order, request: int, keys: dict[str, str], journal: Journal
) -> None:
    """Put an answer for each source into the journal: one thread for each endpoint, its strategies in turn.
    Where one fails, the others' answers are waited for before it is told."""
    if not sources:
        return
    failed: list[tuple[int, BaseException]] = []

    def ask(place: int, lane: Sequence[Source]) -> None:
        for source in lane:
            try:
                journal.add(_answer(source, brief, order, request, keys[source.name]))
            except BaseException as error:  # told by the main thread
                failed.append((place, error))
                return

    lanes = list(_lanes(sources))
    if len(lanes) == 1:
        ask(0, lanes[0])
    else:
        _side_by_side([lambda i=i, lane=lane: ask(i, lane) for i, lane in enumerate(lanes)], lanes)  # type: ignore[misc]
    if failed:
        _tell_failure([error for _, error in sorted(failed, key=lambda f: f[0])], journal)


def _side_by_side(works: Sequence[Callable[[], None]], lanes: Sequence[Sequence[Source]]) -> None:
    """Threads that do not keep the process alive: an interruption need not wait for a slow server."""
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
    except BaseException:
        for source in (s for lane in lanes for s in lane):
            if isinstance(source.model, Endpoint):
                source.model.stopped.set()
        raise


def _lanes(sources: Sequence[Source]) -> Iterator[list[Source]]:
    for model in {id(s.model): s.model for s in sources}.values():
        yield [s for s in sources if s.model is model]


def _answer(source: Source, brief: Brief, order: Order, request: int, key: str) -> Answer:
    asked = messages(brief, source.strategy, request, order.at_once, order.seed)
    start = time.monotonic()
    got: Written = source.model.write(asked, int(key[:8], 16) >> 1)
    seconds = round(time.monotonic() - start, 3)
    return Answer(
        key, source.model.name, source.strategy, request, got.text, got.prompt_tokens, got.completion_tokens,
        got.failed, got.cut, seconds,
    )  # fmt: skip


def _tell_failure(errors: Sequence[BaseException], journal: Journal) -> None:
    for error in errors:
        if not isinstance(error, UserError):
            raise error
    n = len(journal.answers)
    kept = f"{n} answer{'s' * (n != 1)} {'are' if n != 1 else 'is'} kept in {journal.path}"
    again = "run the same command again to ask for the rest, or leave the failing --model out"
    raise GenerationError("\n".join([*map(str, errors), f"{kept}: {again}"]))
