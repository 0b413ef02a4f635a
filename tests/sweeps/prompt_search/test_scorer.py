"""The scorer of all prompt searches: its metric, its budget, and that nothing is paid for twice."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from prompt_landscape import LABELS, Landscape, prompts, rows
from sklearn.metrics import f1_score, matthews_corrcoef

from sweeps.prompt_search import scorer as scorer_module
from sweeps.prompt_search.journal import FolderJournal, ScoredCell, SearchJournal, WriterReply
from sweeps.prompt_search.race import race, spread_rows
from sweeps.prompt_search.random_search import random_search
from sweeps.prompt_search.result import best_of
from sweeps.prompt_search.scorer import BudgetSpent, Scorer
from sweeps.prompt_search.settings import RandomSettings
from sweeps.prompt_search.top_accuracy import top_accuracy
from trainer.data.rows import Row
from trainer.data.wording import Prompt
from trainer.errors import UserError
from trainer.store import Store


class Fixed:
    """Gives the values of a table by (prompt id, row id)."""

    context = "fixed"

    def __init__(self, values: dict[tuple[str, str], tuple[float, ...]]):
        self.values = values

    def load(self) -> None:
        pass

    def __call__(self, pairs: list[tuple[Prompt, Row]]) -> list[tuple[tuple[float, ...], int]]:
        return [(self.values[p.id, r.id], 7) for p, r in pairs]


def make(engine: object, limit: int | None = None, **options: object) -> Scorer:
    return Scorer(engine, SearchJournal(), LABELS, limit=limit, **options)  # type: ignore[arg-type]


def test_metrics_are_those_of_the_answers() -> None:
    rng = np.random.default_rng(0)
    some, [prompt] = rows(40), prompts(1)
    values = {(prompt.id, r.id): tuple(rng.normal(size=2).tolist()) for r in some}
    predicted = [int(np.argmax(values[prompt.id, r.id])) for r in some]
    truth = [LABELS.index(r.label) for r in some]
    assert make(Fixed(values)).score(prompt, some) == pytest.approx(np.mean(np.equal(predicted, truth)))
    f1 = make(Fixed(values), metric="f1_macro").score(prompt, some)
    assert f1 == pytest.approx(f1_score(truth, predicted, average="macro"))
    correlation = make(Fixed(values), metric="matthews_corrcoef").score(prompt, some)
    assert correlation == pytest.approx(matthews_corrcoef(truth, predicted))


def test_batch_calibration_takes_off_the_mean_of_the_prompts_rows() -> None:
    some, [prompt] = rows(2), prompts(1)
    values = {(prompt.id, "r0"): (1.0, 3.0), (prompt.id, "r1"): (0.0, 9.0)}  # always yes, but less so for r0
    assert make(Fixed(values)).score(prompt, some) == 0.5
    calibrated = make(Fixed(values), decision="batch")
    assert calibrated.score(prompt, some) == 1.0
    assert calibrated.margins([(prompt, some[0])])[0] > 0


def test_nan_is_wrong_is_counted_and_is_refused_where_it_is_everything() -> None:
    some, [prompt] = rows(2), prompts(1)
    half = make(Fixed({(prompt.id, "r0"): (math.nan, 1.0), (prompt.id, "r1"): (0.0, 1.0)}))
    assert half.score(prompt, some) == 0.5
    assert half.spent.nan == 1
    assert half.margins([(prompt, some[0])])[0] == -math.inf
    half.refuse_all_nan()
    nothing = make(Fixed({(prompt.id, "r0"): (math.nan, 1.0)}))
    nothing.score(prompt, some[:1])
    with pytest.raises(UserError, match=r"NaN in all of 1 scorings.*model\.dtype=float32"):
        nothing.refuse_all_nan()


def test_a_scoring_is_counted_once_and_the_budget_is_kept_to_the_last() -> None:
    engine = Landscape({})
    scorer, some, [a, b] = make(engine, limit=25), rows(10), prompts(2)
    scorer.score(a, some)
    scorer.score(a, some[:5])
    assert (scorer.spent.scorings, scorer.left, scorer.spent.tokens) == (10, 15, 100)
    scorer.score(b, some)
    with pytest.raises(BudgetSpent):
        scorer.score(Prompt("c", "{{ text }}"), some)
    assert scorer.spent.scorings == len(engine.calls) == 20
    scorer.score(Prompt("c", "{{ text }}"), some[:5])
    assert scorer.left == 0


def test_preparing_pays_but_does_not_count_nor_reach_beyond_the_budget() -> None:
    engine = Landscape({})
    scorer, some = make(engine, limit=25), rows(10)
    scorer.prepare(prompts(4), some)
    assert (len(engine.calls), scorer.spent.scorings) == (20, 0)
    scorer.score(prompts(1)[0], some)
    assert (len(engine.calls), scorer.spent.scorings, scorer.spent.reused) == (20, 10, 0)


def test_the_journal_keeps_cells_and_texts_and_passes_over_what_is_damaged(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    journal = FolderJournal(store)
    journal.add_cells({"a": ScoredCell((0.5, math.nan), 3, 0.25)})
    journal.add_cells({"b": ScoredCell((1.0,), 4, 0.5)})
    journal.add_written("key", WriterReply(("été", "two"), 12, 1.5))
    [first] = [p for p in (tmp_path / "journal").glob("cells-*") if '"a"' in p.read_text()]
    again = FolderJournal(store)
    assert again.cells["b"] == ScoredCell((1.0,), 4, 0.5)
    assert math.isnan(again.cells["a"].values[1])
    assert again.written["key"] == WriterReply(("été", "two"), 12, 1.5)
    first.write_text('{"a": [[0.5')
    (tmp_path / "journal" / "cells-x.json").write_text(json.dumps(["no", "cells"]))
    assert set(FolderJournal(store).cells) == {"b"}


@pytest.mark.parametrize("method", ["top", "random"])
def test_a_search_that_was_killed_goes_on_to_the_same_result_and_pays_nothing_twice(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer_module, "BATCH", 32)
    pool, some = prompts(12), rows(30)
    shares = {p.text: 0.3 + 0.05 * i for i, p in enumerate(pool)}

    def run(engine: Landscape, folder: Path) -> tuple[object, Scorer]:
        scorer = Scorer(engine, FolderJournal(Store.open(folder)), LABELS, limit=240)
        found = (
            top_accuracy(pool, scorer, some)
            if method == "top"
            else random_search(pool, scorer, some, RandomSettings(20))
        )
        return found, scorer

    whole, by_whole = run(Landscape(shares), tmp_path / "whole")
    killed = Landscape(shares, dies_after=3)
    with pytest.raises(KeyboardInterrupt):
        run(killed, tmp_path / "killed")
    resumed = Landscape(shares)
    found, scorer = run(resumed, tmp_path / "killed")
    assert found == whole
    paid = killed.calls + resumed.calls
    assert len(paid) == len(set(paid)) == scorer.spent.scorings == by_whole.spent.scorings == 240
    assert scorer.spent.reused == len(killed.calls) == 96
    replay = Landscape(shares, dies_after=0)
    again, free = run(replay, tmp_path / "killed")
    assert (again, replay.calls, free.spent.reused) == (whole, [], 240)


def test_top_accuracy_without_a_budget_is_the_argmax_over_all_rows() -> None:
    pool, some = prompts(6), rows(50)
    engine = Landscape({p.text: 0.4 + 0.08 * (i % 5) for i, p in enumerate(pool)})
    found = top_accuracy(pool, make(engine), some)
    each = {p.id: make(engine).score(p, some) for p in pool}
    assert found.score == max(each.values())
    assert found.prompt.id == next(i for i, score in each.items() if score == found.score)
    assert (found.rows, len(found.evaluated)) == (50, 6)


def test_ties_go_to_the_first_candidate() -> None:
    pool = prompts(4)
    assert top_accuracy(pool, make(Landscape({}, rest=1.0)), rows(8)).prompt == pool[0]


def test_a_budget_below_one_row_each_is_refused_with_what_is_needed() -> None:
    with pytest.raises(UserError, match=r"--budget = 3 is less than one scoring for each of 4.*Give 4"):
        top_accuracy(prompts(4), make(Landscape({}), limit=3), rows(8))
    with pytest.raises(UserError, match="--budget = 3 does not pay for one prompt on 8 rows"):
        random_search(prompts(4), make(Landscape({}), limit=3), rows(8))


def test_random_search_spends_its_budget_on_different_candidates_and_depends_on_the_seed() -> None:
    pool, some = prompts(30), rows(10)
    scorer = make(Landscape({}), limit=105)
    found = random_search(pool, scorer, some, RandomSettings(10), seed=1)
    assert len({e.prompt.id for e in found.evaluated}) == 10
    assert scorer.spent.scorings == 100
    other = random_search(pool, make(Landscape({}), limit=105), some, RandomSettings(10), seed=2)
    assert [e.prompt.id for e in other.evaluated] != [e.prompt.id for e in found.evaluated]


def test_every_prefix_of_spread_rows_holds_the_labels_in_the_shares_of_the_whole() -> None:
    some = [Row(f"r{i}", {"text": str(i)}, "yes" if i < 20 else "no") for i in range(100)]
    order = spread_rows(some, seed=3)
    assert sorted(r.id for r in order) == sorted(r.id for r in some)
    for n in range(1, 101):
        assert abs(sum(r.label == "yes" for r in order[:n]) - 0.2 * n) <= 1.5
    assert order == spread_rows(some, seed=3) != spread_rows(some, seed=4)


def test_a_race_keeps_to_its_budget_and_ranks_the_best_first() -> None:
    pool, some = prompts(16), rows(400)
    engine = Landscape({pool[11].text: 0.95})
    scorer = make(engine, limit=2000)
    ranked = race(pool, some, scorer, 1000)
    assert ranked[0].prompt == pool[11]
    assert 700 <= scorer.spent.scorings <= 1000
    assert ranked[0].rows > ranked[-1].rows
    assert best_of(ranked).prompt in {e.prompt for e in ranked}
