"""Rewrites of a wording ask the same question with the same answers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml

from sweeps.prompt_search.candidates import grown
from trainer.data.rewrites import RuleWriter, asks_the_same, drop_words, reorder, synonyms
from trainer.data.wording import EXPRESSION, Prompt
from trainer.train.adversary import candidates_of
from trainer.trial import Arm

POOLS = sorted(Path(__file__).parents[3].glob("sweeps/studies/prompts/paft_*_train.yaml"))
LETTERS = [
    "Option A: {{ one }}\nOption B: {{ two }}\nReply A or B:",
    "{{ goal }}\nWhich of them would do, A or B?",
]


def named(text: str, letter: str) -> int:
    """How often the wording names the letter."""
    return sum(word.strip(".,:;?!\"'()[]<>-") == letter for word in EXPRESSION.sub(" ", text).split())


@pytest.mark.parametrize("path", POOLS, ids=lambda p: p.stem)
def test_the_shipped_pools_keep_their_option_letters(path: Path) -> None:
    """19 rewrites of PIQA's pool asked "Option :", ", or B?" or "reply or b"."""
    prompts = [Prompt(i, text.strip()) for i, text in yaml.safe_load(path.read_text()).items()]
    by_id = {p.id: p for p in prompts}
    found = [c.prompt for c in candidates_of(Arm(choice="adversarial", search_rewrites=4), prompts)]
    assert len(found) > 4 * len(prompts)
    for rewrite in [*found, *grown(prompts, 200, [])]:
        source = by_id[rewrite.id.split("~")[0].split("-")[0]]
        for letter in "ABCD":
            assert named(rewrite.text, letter) >= named(source.text, letter), (source.text, rewrite.text)


@pytest.mark.parametrize("wording", LETTERS)
def test_rules_find_as_many_rewrites_of_a_wording_with_letters(wording: str) -> None:
    writer = RuleWriter()
    texts = [*writer.paraphrase(wording, 12, 0), *writer.improve(wording, "letters tail", 12, 0)]
    assert len(texts) == 24
    assert all(named(text, letter) >= 1 for text in texts for letter in "AB")


def test_words_of_labels_are_kept_whatever_the_rules_would_make_of_them() -> None:
    wording = "Is this true or False? Say True or false.\n{{ text }}"
    for text in RuleWriter(["true", "false"]).paraphrase(wording, 30, 0):
        assert text.count("True") + text.count("true") >= 2
        assert (text.count("False"), text.count("false")) >= (1, 1)
    assert any("correct" in text.lower() for text in RuleWriter(["yes", "no"]).paraphrase(wording, 30, 0))


def test_what_asks_the_same() -> None:
    source = "A or B? {{ text }}"
    assert asks_the_same("Please say: B or A? {{ text }}", source)
    assert not asks_the_same("a or B? {{ text }}", source)
    assert not asks_the_same(" or B? {{ text }}", source)
    assert not asks_the_same("A or B?", source)
    assert not asks_the_same("A or B? {{ text }} {{", source)
    assert asks_the_same("{{ text }} Yes or no?", "no or yes: {{ text }}", ["yes", "no"])
    assert not asks_the_same("{{ text }} Yes or not?", "no or yes: {{ text }}", ["yes", "no"])


def test_options_keep_their_letters_where_sentences_change_places() -> None:
    for seed in range(20):
        text = reorder("Which works? Think. A. {{ one }} B. {{ two }}", random.Random(seed))
        assert "A. {{ one }} B. {{ two }}" in text


def test_the_one_that_works_stays_the_one_that_works() -> None:
    text = "Pick the one that works."
    for seed in range(50):
        assert " one that works." in drop_words(text, random.Random(seed))
        assert " one that works." in synonyms(text, random.Random(seed))
