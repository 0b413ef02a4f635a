"""BATprompt's parts (character changes, similarity gates, writers) and the search as a whole."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prompt_landscape import LABELS, Landscape, prompts, rows
from rapidfuzz.distance import Levenshtein

from sweeps.prompt_search import perturb
from sweeps.prompt_search import scorer as scorer_module
from sweeps.prompt_search.batprompt import BatpromptSearch, _cautious_score, batprompt
from sweeps.prompt_search.candidates import grown
from sweeps.prompt_search.journal import FolderJournal, SearchJournal
from sweeps.prompt_search.result import Evaluation, SearchResult
from sweeps.prompt_search.scorer import Pair, Scorer, Spent
from sweeps.prompt_search.settings import AS_PUBLISHED, BatpromptSettings, published_scorings
from sweeps.prompt_search.similarity import Gate, cosine
from sweeps.prompt_search.writers import ModelWriter, texts_of
from trainer.data import rewrite_tables
from trainer.data.rewrites import RuleWriter
from trainer.data.rows import Row
from trainer.data.typos import beside
from trainer.data.wording import Prompt, placeholders
from trainer.errors import UserError
from trainer.store import Store

TEXT = "Dear team, the boiler is loud again and nobody has answered me."


# characters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", list(perturb.PERTURBATIONS))
def test_character_changes_are_seeded_and_stay_similar(strategy: str) -> None:
    texts = perturb.perturb(TEXT, strategy, 20, seed=4)
    assert texts == perturb.perturb(TEXT, strategy, 20, seed=4)
    assert texts != perturb.perturb(TEXT, strategy, 20, seed=5)
    assert len(set(texts)) > 5
    assert TEXT not in texts
    assert all(Levenshtein.normalized_similarity(TEXT, t) > 0.6 for t in texts)


def test_each_strategy_changes_what_its_name_says() -> None:
    for text in perturb.perturb(TEXT, "C1", 30, 0):
        assert abs(len(text) - len(TEXT)) <= 3
        assert text.split()[0] == "Dear" or Levenshtein.distance(text, TEXT) <= 6
    for text in perturb.perturb(TEXT, "C2", 30, 0):
        changed = [(a, b) for a, b in zip(TEXT, text, strict=True) if a != b]
        assert 1 <= len(changed) <= 2  # a fifth of ten words of three letters
        assert all(a.isalpha() and b.isalpha() and a.isupper() == b.isupper() for a, b in changed)
    for text in perturb.perturb(TEXT, "C3", 30, 0):
        assert text.startswith(TEXT)
        assert 1 <= len(text) - len(TEXT) <= 5
    for text in perturb.perturb(TEXT, "S1", 30, 0):
        head, _, name = text.rpartition(" @")
        assert (head, len(name), name.isalnum()) == (TEXT, 6, True)


def test_a_key_beside_is_beside_it() -> None:
    assert set(beside("s")) == set("adqwezxc")
    assert all(a in beside(b) for a in string.ascii_lowercase for b in beside(a))


def test_a_text_without_words_keeps_its_letters() -> None:
    assert perturb.perturb("12 !?", "C1", 3, 0) == ["12 !?"] * 3
    assert perturb.perturb("", "C2", 1, 0) == [""]


# gates --------------------------------------------------------------------------------------------------------


def test_the_gate_of_letters_is_at_06_and_that_of_meaning_at_08() -> None:
    vectors = {"a": [1.0, 0.0], "near": [1.0, 0.7], "far": [1.0, 0.8], "none": [0.0, 0.0]}
    gate = Gate(embed=lambda texts: np.array([vectors[t] for t in texts]))
    assert gate.by_meaning("a", ["near", "far", "none"]) == [True, False, False]
    assert gate.by_letters("abcdefghij", ["abcdefgxxx", "abcdefxxxx", "abcdexxxxx"]) == [True, False, False]
    assert gate.by_meaning("a", []) == []
    assert Gate().by_meaning("abcd", ["abcx", "wxyz"]) == [True, False]


def test_cosine_of_what_is_zero_or_nan_is_zero() -> None:
    found = cosine(np.array([[1.0, 1.0], [0.0, 0.0], [np.nan, 1.0]]), np.array([2.0, 2.0]))
    assert found == pytest.approx([1.0, 0.0, 0.0])


# the rule-based writer ----------------------------------------------------------------------------------------

WORDINGS = [
    "{{ text }}\nIs the writer unhappy?",
    "Please decide if the message below is a complaint. Say yes or no.\n\n{{ text }}",
    "{% if text %}{{ text[:200] }}{% endif %} Is this good?",
    'Read "{{ text }}" and {{ title }}. Do they agree?',
]


@pytest.mark.parametrize("wording", WORDINGS)
def test_rewrites_differ_and_keep_every_placeholder(wording: str) -> None:
    writer = RuleWriter(["no", "yes"])
    texts = [*writer.paraphrase(wording, 12, 0), *writer.improve(wording, "letters tail", 12, 0)]
    assert len(set(texts)) >= 12
    assert wording not in texts
    assert writer.paraphrase(wording, 12, 0) == texts[:12]
    for text in texts:
        assert placeholders(Prompt("new", text)) == placeholders(Prompt("old", wording)), text
        assert text.count("{{") == wording.count("{{")


def test_improving_adds_hints_about_the_differences_that_were_seen() -> None:
    writer = RuleWriter()
    pairs = [(TEXT, TEXT + " @q7RtZ0"), (TEXT, TEXT.replace("boiler", "bioler")), (TEXT, TEXT.replace("loud", "noisy"))]
    assert writer.guidance(pairs, 0).split()[0] in rewrite_tables.ROBUST
    assert set(writer.guidance(pairs, 0).split()) == {"tail", "letters", "words"}
    assert writer.guidance([(TEXT, TEXT)], 0) == ""
    texts = writer.improve(WORDINGS[0], "letters", 6, 0)
    assert any(hint in text for hint in rewrite_tables.ROBUST["letters"] for text in texts)


@pytest.mark.parametrize("strategy", ["W1", "W2", "W3", "S2", "S3"])
def test_word_changes_of_rows_differ_and_are_seeded(strategy: str) -> None:
    text = "Please send the message now, because the boiler is very loud. I cannot read it."
    found = RuleWriter().perturb(text, strategy, 3, 7)
    assert found
    assert text not in found
    assert found == RuleWriter().perturb(text, strategy, 3, 7)
    if strategy == "W3":
        assert all(1 <= len(t.split()) - len(text.split()) <= 4 for t in found)
    if strategy == "W2":
        assert all(len(t.split()) < len(text.split()) for t in found)


def test_a_pool_grows_by_rewrites_that_keep_placeholders() -> None:
    pool = [Prompt(f"w{i}", w) for i, w in enumerate(WORDINGS[:2])]
    more = grown(pool, 30, ["no", "yes"])
    assert more[:2] == pool
    assert len({p.id for p in more}) == len({p.text for p in more}) == 30
    assert grown(pool, 1, ["no", "yes"]) == pool


# a model as writer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        ('Sure! ["One {{ text }}", "Two\\nlines"] Done.', ["One {{ text }}", "Two\nlines"]),
        ("1. first\n2) second\n- third\n\n* first", ["first", "second", "third"]),
        ('"quoted"\n[not json', ["quoted", "[not json"]),
        ("", []),
    ],
)
def test_texts_are_read_from_json_and_from_lines(answer: str, texts: list[str]) -> None:
    assert texts_of(answer) == texts


class Model:
    """A generator of two texts that counts tokens and calls."""

    def __init__(self) -> None:
        self.tokens, self.requests = 0, list[str]()

    def __call__(self, request: str) -> list[str]:
        self.requests.append(request)
        self.tokens += 11
        return [f'["{{{{ text }}}} first {len(request)}?", "second {len(request)}? {{{{ text }}}}"]']


def test_a_models_answers_are_kept_counted_and_not_asked_for_again(tmp_path: Path) -> None:
    model, spent = Model(), Spent()
    writer = ModelWriter(model, "m", FolderJournal(Store.open(tmp_path)), spent)
    texts = writer.improve("{{ text }} good?", "typos", 5, 0)
    assert len(texts) == 2
    assert "exactly as it is" in model.requests[0]
    assert writer.improve("{{ text }} good?", "typos", 5, 0) == texts
    assert (len(model.requests), spent.requests, spent.written_tokens) == (1, 2, 22)
    again = ModelWriter(model, "m", FolderJournal(Store.open(tmp_path)), Spent())
    assert again.improve("{{ text }} good?", "typos", 5, 0) == texts
    assert len(model.requests) == 1
    again.improve("{{ text }} good?", "typos", 5, 1)  # another seed is another request
    assert len(model.requests) == 2


# the search ---------------------------------------------------------------------------------------------------


class Wordy(Landscape):
    """A prompt is the better the more of three words it holds, and worse where the row ends in a handle."""

    def _values(self, prompt: Prompt, row: Row) -> tuple[float, ...]:
        share = 0.5 + 0.15 * sum(w in prompt.text.lower() for w in ("typos", "message", "one word"))
        share -= 0.3 if " @" in row.fields["text"] and "typos" not in prompt.text else 0.0
        self.shares = {prompt.text: share}  # type: ignore[assignment]
        return super()._values(prompt, row)


class Improver(RuleWriter):
    """Adds one of the words at a time."""

    name = "improver"

    def improve(self, prompt: str, guidance: str, n: int, seed: int) -> list[str]:
        return [f"{prompt} {w}." for w in ("Mind typos", "It is a message", "Answer in one word", "Yes")] + ["no field"]


def search(
    engine: Landscape, writer: RuleWriter, limit: int | None, folder: Path | None = None, **options: object
) -> tuple[SearchResult, Scorer]:
    journal = SearchJournal() if folder is None else FolderJournal(Store.open(folder))
    scorer = Scorer(engine, journal, LABELS, limit=limit)
    settings = BatpromptSettings(start="p00", **options)  # type: ignore[arg-type]
    return batprompt(prompts(3), scorer, rows(60), writer, settings=settings, seed=2), scorer


def test_the_search_takes_up_what_makes_an_instruction_better() -> None:
    found, scorer = search(Wordy({}), Improver(), 6000)
    assert scorer.spent.scorings <= 6000
    assert sum(w in found.prompt.text for w in ("typos", "message", "one word")) >= 2
    assert "{{ text }}" in found.prompt.text
    assert all("no field" not in e.prompt.text for e in found.evaluated)


def test_attacks_only_make_rows_harder_and_keep_them_similar() -> None:
    scorer = Scorer(Wordy({}), SearchJournal(), LABELS)
    pool, some = prompts(2), rows(12)
    run = BatpromptSearch(pool, scorer, some, RuleWriter(), Gate(), BatpromptSettings(), seed=0)
    attacked = run._attack(pool[0], some, some, "S1", 5, 0.0)
    before = scorer.margins([(pool[0], r) for r in some])
    after = scorer.margins([(pool[0], r) for r in attacked])
    assert (after <= before).all()
    assert (after < before).any()
    for old, new in zip(some, attacked, strict=True):
        assert Levenshtein.normalized_similarity(old.fields["text"], new.fields["text"]) > 0.6
        assert (old.id, old.label) == (new.id, new.label)


@pytest.mark.parametrize("family", ["mix", "combine", "both"])
def test_every_family_keeps_to_the_budget_and_is_deterministic(family: str) -> None:
    one, scorer = search(Wordy({}), RuleWriter(["no", "yes"]), 1500, family=family)
    assert scorer.spent.scorings <= 1500
    assert search(Wordy({}), RuleWriter(["no", "yes"]), 1500, family=family)[0] == one


def test_without_a_start_the_pools_best_is_raced_for() -> None:
    pool = prompts(20)
    scorer = Scorer(Landscape({pool[13].text: 0.98}, rest=0.4), SearchJournal(), LABELS, limit=3000)
    found = batprompt(pool, scorer, rows(200), RuleWriter(), seed=1)
    assert found.prompt == pool[13]
    assert scorer.spent.scorings <= 3000


class Reworder(RuleWriter):
    """Rules, and a word more under every strategy, so that each row changes."""

    def perturb(self, text: str, strategy: str, n: int, seed: int) -> list[str]:
        return [f"{text} {strategy}{i}" for i in range(n)]


class Fragile(Landscape):
    """The first prompt answers every row as it is and no perturbed one; the second three of four of either."""

    def _values(self, prompt: Prompt, row: Row) -> tuple[float, ...]:
        if prompt.text == prompts(1)[0].text:
            right = row.fields["text"] in {r.fields["text"] for r in rows(200)}
            return (-1.0, 1.0) if (row.label == "yes") == right else (1.0, -1.0)
        return super()._values(prompt, row)


@pytest.mark.parametrize("family", ["mix", "combine", "both"])
def test_a_prompt_that_only_holds_on_rows_as_they_are_does_not_win(family: str) -> None:
    pool = prompts(2)
    scorer = Scorer(Fragile({pool[1].text: 0.75}), SearchJournal(), LABELS, limit=2000)
    found = batprompt(pool, scorer, rows(200), Reworder(), settings=BatpromptSettings(family=family), seed=0)
    assert found.prompt.text != pool[0].text


@pytest.mark.parametrize("family", ["mix", "combine", "both"])
def test_both_races_are_on_rows_as_they_are_and_perturbed_by_turns(family: str) -> None:
    scorer = Scorer(Landscape({}), SearchJournal(), LABELS)
    run = BatpromptSearch(prompts(2), scorer, rows(40), Reworder(), Gate(), BatpromptSettings(family=family), seed=3)
    assert run.raced[::2] == run.rows
    assert [r.id for r in run.raced[1::2]] == [r.id for r in run.rows]
    assert all(a.fields != b.fields for a, b in zip(run.raced[::2], run.raced[1::2], strict=True))
    again = BatpromptSearch(prompts(2), scorer, rows(40), Reworder(), Gate(), BatpromptSettings(family=family), seed=3)
    assert list(again.raced) == list(run.raced)


def test_rows_are_perturbed_only_as_far_as_a_race_needs_them() -> None:
    class Counting(Reworder):
        asked = 0

        def perturb(self, text: str, strategy: str, n: int, seed: int) -> list[str]:
            Counting.asked += 1
            return super().perturb(text, strategy, n, seed)

    scorer = Scorer(Landscape({}), SearchJournal(), LABELS, limit=400)
    BatpromptSearch(
        prompts(2), scorer, rows(3000), Counting(), Gate(), BatpromptSettings(family="combine"), seed=3
    ).run()
    assert 50 <= Counting.asked <= 500


def test_the_history_is_ranked_by_what_is_sure() -> None:
    lucky, measured = (
        Evaluation(p, score, n, 0) for p, score, n in zip(prompts(2), (0.85, 0.80), (20, 400), strict=True)
    )
    assert _cautious_score(measured) > _cautious_score(lucky) > _cautious_score(Evaluation(prompts(1)[0], 0.4, 400, 0))


def test_a_writer_that_finds_nothing_leaves_the_start() -> None:
    class Silent(RuleWriter):
        def improve(self, prompt: str, guidance: str, n: int, seed: int) -> list[str]:
            return []

    found, _ = search(Landscape({}), Silent(), 2000)
    assert found.prompt.id == "p00"


@pytest.mark.parametrize(("size", "most"), [(len, 70), (lambda text: len(text.split()), 15)], ids=["letters", "words"])
def test_rewrites_and_rows_beyond_the_length_limit_are_left_out(size: Callable[[str], int], most: int) -> None:
    """Also where the longest prompt in letters is not the longest as the model counts."""

    class Short(Wordy):
        def fits(self, pairs: Sequence[Pair]) -> list[bool]:
            return [size(p.text) + size(r.fields["text"]) <= most for p, r in pairs]

    engine = Short({})
    for seed in range(4):
        scorer = Scorer(engine, SearchJournal(), LABELS, limit=1500)
        batprompt(prompts(3), scorer, rows(60), RuleWriter(["no", "yes"]), seed=seed)
    assert engine.calls
    assert max(size(p) + size(t) for p, t in engine.calls) <= most


def test_mistakes_are_told_with_the_nearest_name() -> None:
    scorer = Scorer(Landscape({}), SearchJournal(), LABELS, limit=5)
    with pytest.raises(UserError, match=r"--budget = 5: 15% of it do not pay"):
        batprompt(prompts(5), scorer, rows(20), RuleWriter())


def test_a_killed_search_goes_on_to_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer_module, "BATCH", 16)
    whole, by_whole = search(Wordy({}), Improver(), 1200, tmp_path / "whole")
    killed, resumed = Wordy({}, dies_after=31), Wordy({})
    with pytest.raises(KeyboardInterrupt):
        search(killed, Improver(), 1200, tmp_path / "killed")
    found, scorer = search(resumed, Improver(), 1200, tmp_path / "killed")
    assert found == whole
    paid = killed.calls + resumed.calls
    assert len(paid) == len(set(paid)) >= scorer.spent.scorings == by_whole.spent.scorings
    assert scorer.spent.reused > 100


def published(**changed: object) -> BatpromptSettings:
    found = AS_PUBLISHED["batprompt"]
    assert isinstance(found, BatpromptSettings)
    return replace(found, **{"characters_by": "rules", **changed})  # type: ignore[arg-type]


def test_as_published_the_last_iterations_best_is_the_result_and_no_race_is_held() -> None:
    """The current instruction does not compete, and only perturbed rows are compared on."""
    scorer = Scorer(Wordy({}), SearchJournal(), LABELS)
    found = batprompt(prompts(3), scorer, rows(60), Improver(), settings=published(), seed=2)
    rounds = [e for e in found.evaluated if e.rows == 20]
    assert len(rounds) == len(found.evaluated), "every evaluation is on one set of 20 rows"
    assert prompts(1)[0].text not in {e.prompt.text for e in found.evaluated}
    last = found.evaluated[-max(1, len(found.evaluated) // 5) :]
    assert found.prompt.text in {e.prompt.text for e in last}
    assert scorer.spent.scorings <= published_scorings(published(), 3)[0] == 2500


def test_the_races_are_part_of_what_published_settings_need() -> None:
    raced = published(start_share=0.25, end_share=0.25)
    assert published_scorings(raced, 3)[0] == 2 * 2500
    assert published_scorings(raced, 1)[0] == -(-2500 * 4 // 3), "one candidate needs no race at the start"
    assert published_scorings(replace(raced, start="p1"), 3)[0] == -(-2500 * 4 // 3)
    for share in np.linspace(0, 0.99, 100):
        need, _ = published_scorings(published(end_share=share), 3)
        assert need - need * share >= 2500 > (need - 1) * (1 - share) - 1e-6


def test_as_published_an_attack_takes_the_worst_rewrite_and_never_the_row_as_it_was() -> None:
    scorer = Scorer(Wordy({}), SearchJournal(), LABELS)
    pool, some = prompts(2), rows(12)
    run = BatpromptSearch(pool, scorer, some, RuleWriter(), Gate(), published(rounds=1), seed=0)
    attacked = run._attack(pool[0], some, some, "S1", 5, 0.0)
    assert all(a.fields != b.fields for a, b in zip(some, attacked, strict=True))
    wrong = scorer.margins([(pool[0], r) for r in attacked]) < 0
    for old, new, bad in zip(some, attacked, wrong, strict=True):
        options = run._perturbed([pool[0]], old, old, "S1", 5, 5)
        right = scorer.margins([(pool[0], r) for r in options]) >= 0
        assert bad == (not right.all()), "a rewrite that is answered wrong is taken where there is one"
        assert new in options


def test_character_changes_may_be_the_writers_too() -> None:
    class Marked(RuleWriter):
        def perturb(self, text: str, strategy: str, n: int, seed: int) -> list[str]:
            return [f"{text} {strategy}{i}" for i in range(n)]

    run = BatpromptSearch(
        prompts(2), Scorer(Wordy({}), SearchJournal(), LABELS), rows(12), Marked(), Gate(),
        published(characters_by="writer"), seed=0,
    )  # fmt: skip
    [original] = rows(1)
    assert [r.fields["text"] for r in run._perturbed(prompts(1), original, original, "C1", 2, 0)] == [
        f"{original.fields['text']} C10",
        f"{original.fields['text']} C11",
    ]
