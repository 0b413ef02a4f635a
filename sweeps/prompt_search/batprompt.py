"""BATprompt (arXiv 2412.18196): rewrite one instruction until it works on perturbed rows, too.

Each iteration attacks a few rows: it searches rewrites of them that stay similar and that the current instruction gets
wrong. The writer sums up how the perturbed rows differ and improves the instruction accordingly. Of the new
instructions the one with the best metric over several sets of rows is kept. ``settings.py`` has the published settings
and ours, which differ:

- The paper is given a first instruction. Ours is the winner of a race between the pool's prompts on part of the
  budget, unless the user names one.
- Ours compares instructions on unperturbed rows beside the perturbed ones, and the current instruction as well, so that
  no iteration makes the result worse.
- With ours the rest of the budget goes to a race between the best instructions so far, on more rows. They are ranked by
  their score minus its standard error, because 20 rows tell little apart.
- Both races use unperturbed and perturbed rows in turn, so that the same measure is used from start to end.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import overload

from sweeps.prompt_search.perturb import PERTURBATIONS, perturb
from sweeps.prompt_search.race import race, spread_rows
from sweeps.prompt_search.result import Evaluation, SearchResult, best_of
from sweeps.prompt_search.scorer import BudgetSpent, Scorer
from sweeps.prompt_search.settings import FAMILIES, BatpromptSettings
from sweeps.prompt_search.similarity import Gate
from sweeps.prompt_search.writers import Writer
from trainer.data.rewrites import asks_the_same
from trainer.data.rows import Row
from trainer.data.wording import Prompt
from trainer.errors import UserError, nearest
from trainer.trial import digest


class BatpromptSearch:
    def __init__(
        self,
        candidates: Sequence[Prompt],
        scorer: Scorer,
        rows: Sequence[Row],
        writer: Writer,
        gate: Gate,
        settings: BatpromptSettings,
        seed: int,
        answers: Sequence[str] = (),
    ):
        self.candidates, self.scorer, self.writer, self.gate = list(candidates), scorer, writer, gate
        self.settings, self.seed, self.answers = settings, seed, answers
        self.rows = spread_rows(rows, seed)
        self.raced = _PairedRows(self.rows, self._other)
        by_length = sorted(range(len(self.rows)), key=lambda i: len(_text(self.rows[i])))  # roughly as in tokens
        raced = bool(settings.start_share or settings.end_share)  # else nobody asks for the perturbed ones
        self.longest = [row for i in by_length[-50:] for row in self.raced[2 * i : 2 * i + 1 + raced]]
        self.rng = random.Random(seed)
        self.history: dict[str, Evaluation] = {}  # wording -> its best evaluation
        self.evaluated: list[Evaluation] = []

    def run(self) -> SearchResult:
        """Raises UserError where the budget does not pay for a start."""
        budget = self.scorer.left
        current = self._start()
        self._remember([Evaluation(current, 0.0, 0, self.scorer.spent.scorings)])
        reserve = 0.0 if budget == float("inf") else budget * self.settings.end_share
        for _ in range(self.settings.iterations):
            try:
                current = self._iteration(current, reserve)
            except BudgetSpent:
                break
        return self._end(current)

    def _start(self) -> Prompt:
        s, by_id = self.settings, {p.id: p for p in self.candidates}
        if s.start is not None:
            if s.start not in by_id:
                raise UserError(f'--start = "{s.start}" is no prompt of the train pool.{nearest(s.start, by_id)}')
            return by_id[s.start]
        if len(self.candidates) == 1 or s.start_share == 0:
            return self.candidates[0]
        share = self.scorer.left * s.start_share
        shuffled = self.rng.sample(self.candidates, len(self.candidates))  # a small budget does not reach all
        ranked = race(shuffled, self.raced, self.scorer, share)
        if not ranked:
            raise UserError(
                f"--budget = {self.scorer.limit}: {s.start_share:.0%} of it do not pay for one of "
                f"{len(self.candidates)} candidates on 4 rows. Raise it, or name the start: "
                f"--start {self.candidates[0].id}"
            )
        self.evaluated += ranked
        self._remember(ranked[: s.kept])
        return ranked[0].prompt

    # one iteration ------------------------------------------------------------------------------------------------

    def _iteration(self, current: Prompt, reserve: float) -> Prompt:
        """The instruction for the next iteration. Raises BudgetSpent where less than ``reserve`` would be left."""
        s = self.settings
        sample = self.rng.sample(self.rows, min(s.sample, len(self.rows)))
        characters, words = FAMILIES[s.family]
        seed = self.rng.randrange(2**31)
        attacked = list(sample)
        pairs: list[tuple[Row, Row]] = []
        for strategy in characters:  # in sequence: each changes the rows of the one before
            attacked = self._attack(current, sample, attacked, strategy, seed, reserve)
        if characters:
            pairs += zip(sample, attacked, strict=True)
        for strategy in words:
            pairs += zip(sample, self._attack(current, sample, sample, strategy, seed, reserve), strict=True)
        changed = [(_text(a), _text(b)) for a, b in pairs if a.fields != b.fields]
        guidance = self.writer.guidance(changed, seed) if changed else ""
        candidates = self._rewrites(current, guidance, seed)
        # Perturbed rows must fit the prompt with the most letters, so that few rewrites are left out for their length.
        longest = max([current, *candidates], key=lambda p: len(p.text))
        compared = self.rng.sample(self.rows, min(s.compared_on, len(self.rows)))
        sets = self._sets([current, longest], compared, characters, words, seed)
        candidates = [p for p in candidates if all(self.scorer.fits([(p, row) for part in sets for row in part]))]
        scored = []
        size = sum(map(len, sets))
        competing = [current, *candidates] if s.keep_current or not candidates else candidates
        affordable = int((self.scorer.left - reserve) // size) if self.scorer.limit is not None else len(competing)
        self.scorer.prepare(competing[:affordable], [row for part in sets for row in part])
        for prompt in competing:
            self._keep(size, reserve)
            mean = sum(self.scorer.score(prompt, part) for part in sets) / len(sets)
            scored.append(Evaluation(prompt, mean, size, self.scorer.spent.scorings))
        self.evaluated += scored
        scored.sort(key=lambda e: -e.score)  # ties keep the order: the current instruction before its rewrites
        self._remember(scored[: s.kept])
        return scored[0].prompt

    def _attack(
        self, prompt: Prompt, originals: Sequence[Row], rows: Sequence[Row], strategy: str, seed: int, reserve: float
    ) -> list[Row]:
        """For each of ``rows`` the rewrite that the prompt answers worst, among those that stay similar to the
        original; the row as it was where there is none, and with ``attack_by`` margin where no rewrite is answered
        worse."""
        current, by_margin = list(rows), self.settings.attack_by == "margin"
        for turn in range(self.settings.rounds):
            options = [
                ([row] if by_margin else [])
                + self._perturbed([prompt], original, row, strategy, self.settings.rewrites, seed + turn)
                for original, row in zip(originals, current, strict=True)
            ]
            flat = [(prompt, row) for group in options for row in group]
            self._keep(len(flat), reserve)
            found = self.scorer.margins(flat)
            values = iter(found if by_margin else found >= 0)
            worst = []
            for row, group in zip(current, options, strict=True):
                of_group = [(next(values), i) for i in range(len(group))]
                worst.append(group[min(of_group)[1]] if group else row)  # ties: the first
            current = worst
        return current

    def _perturbed(
        self, prompts: Sequence[Prompt], original: Row, row: Row, strategy: str, n: int, seed: int
    ) -> list[Row]:
        """Rewrites of ``row``, every field rewritten, that pass the gate and fit the length limit under all
        ``prompts``."""
        fields = {}
        for name, text in row.fields.items():
            characters = strategy in PERTURBATIONS
            if characters and self.settings.characters_by == "rules":
                texts = perturb(text, strategy, n, seed)
            else:
                texts = self.writer.perturb(text, strategy, n, seed)
            passed = (self.gate.by_letters if characters else self.gate.by_meaning)(original.fields[name], texts)
            fields[name] = [t for t, ok in zip(texts, passed, strict=True) if ok]
        count = max(map(len, fields.values()), default=0)
        found = []
        for i in range(count):  # a field without a further rewrite stays as it is
            new = {name: texts[i] if i < len(texts) else row.fields[name] for name, texts in fields.items()}
            found.append(replace(row, fields=new))
        return [r for r in found if all(self.scorer.fits([(p, r) for p in prompts]))]

    def _sets(
        self, prompts: Sequence[Prompt], rows: Sequence[Row], characters: Sequence[str], words: Sequence[str], seed: int
    ) -> list[list[Row]]:
        """The rows as they are, unless the settings leave them out; the rows under all character strategies, one after
        the other; and one set of rows for each word strategy."""
        sets = [list(rows)] if self.settings.clean_rows else []
        if characters:
            part = list(rows)
            for strategy in characters:
                part = [
                    next(iter(self._perturbed(prompts, a, b, strategy, 1, seed)), b)
                    for a, b in zip(rows, part, strict=True)
                ]
            sets.append(part)
        for strategy in words:
            sets.append([next(iter(self._perturbed(prompts, r, r, strategy, 1, seed)), r) for r in rows])
        return sets

    def _other(self, i: int) -> Row:
        """Row ``i`` perturbed by all character strategies, or by the next of the word strategies in turn."""
        characters, words = FAMILIES[self.settings.family]
        kinds: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((), (word,)) for word in words]
        kinds += [(characters, ())] if characters else []
        of_row = kinds[i % len(kinds)]
        longest = sorted(self.candidates, key=lambda p: len(p.text))[-20:]
        return self._sets(longest, [self.rows[i]], of_row[0], of_row[1], self.seed)[-1][0]

    def _rewrites(self, current: Prompt, guidance: str, seed: int) -> list[Prompt]:
        """Improved instructions and one paraphrase of each, without those that lose a placeholder or an answer."""
        texts = self.writer.improve(current.text, guidance, self.settings.improved, seed)
        sound = [t for t in texts if asks_the_same(t, current.text, self.answers)]
        for text in list(sound):
            sound += [t for t in self.writer.paraphrase(text, 1, seed) if asks_the_same(t, current.text, self.answers)]
        fresh = [Prompt(f"b{digest(t)[:8]}", t) for t in dict.fromkeys(sound) if t != current.text]
        return [p for p in fresh if all(self.scorer.fits([(p, row) for row in self.longest]))]

    def _keep(self, cost: int, reserve: float) -> None:
        """Raise BudgetSpent where ``cost`` would leave less than ``reserve``. The true cost may be lower, since cells
        that were asked for before cost nothing."""
        if self.scorer.left - cost < reserve:
            raise BudgetSpent("the rest of the budget is kept for the race at the end")

    # the end ------------------------------------------------------------------------------------------------------

    def _remember(self, scored: Sequence[Evaluation]) -> None:
        for one in scored:
            known = self.history.get(one.prompt.text)
            if known is None or _cautious_score(one) > _cautious_score(known):
                self.history[one.prompt.text] = one

    def _end(self, current: Prompt) -> SearchResult:
        """The winner of a race between the best of the history on the rest of the budget; without a budget, on 100
        rows. Without a race the instruction of the last iteration."""
        if self.settings.end_share == 0:
            return replace(best_of([self.history[current.text]]), evaluated=self.evaluated)
        best = sorted(self.history.values(), key=lambda e: (e.prompt != current, -_cautious_score(e)))[
            : 2 * self.settings.kept
        ]
        left = self.scorer.left if self.scorer.limit is not None else 100.0 * len(best)
        ranked = race([e.prompt for e in best], self.raced, self.scorer, left)
        if not ranked:
            return replace(best_of(best), evaluated=self.evaluated)
        top = ranked[0]
        return SearchResult(top.prompt, top.score, top.rows, self.evaluated + ranked)


def batprompt(
    candidates: Sequence[Prompt],
    scorer: Scorer,
    rows: Sequence[Row],
    writer: Writer,
    gate: Gate | None = None,
    settings: BatpromptSettings | None = None,
    seed: int = 0,
    answers: Sequence[str] = (),
) -> SearchResult:
    """The best instruction: one of ``candidates`` or a rewrite, which keeps the labels' words ``answers``. Raises
    UserError where the budget is too small."""
    return BatpromptSearch(
        candidates, scorer, rows, writer, gate or Gate(), settings or BatpromptSettings(), seed, answers
    ).run()


class _PairedRows(Sequence[Row]):
    """Every row as it is, followed by the same row perturbed. A row is perturbed only when it is read: a race may need
    few of many rows, and a rewrite by a language model costs time and money."""

    def __init__(self, rows: Sequence[Row], other: Callable[[int], Row]):
        self._rows, self._other, self._made = rows, other, dict[int, Row]()

    def __len__(self) -> int:
        return 2 * len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        places = range(len(self))[index]
        return self._row(places) if isinstance(places, int) else [self._row(i) for i in places]

    def _row(self, place: int) -> Row:
        i, perturbed = divmod(place, 2)
        if not perturbed:
            return self._rows[i]
        if i not in self._made:
            self._made[i] = self._other(i)
        return self._made[i]


def _cautious_score(one: Evaluation) -> float:
    """The score minus its standard error, that of ``rows`` Bernoulli trials plus one success and one failure."""
    share = (one.score * one.rows + 1) / (one.rows + 2)
    return one.score - math.sqrt(share * (1 - share) / max(one.rows, 1))


def _text(row: Row) -> str:
    return "\n".join(row.fields.values())
